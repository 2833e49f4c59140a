//! How well an adapter does on one client's own examples before they train it.

use serde::{Deserialize, Serialize};

use crate::{
    edge::In,
    error::Result,
    evaluate::{self, Adapted, Examples},
    federate,
    kinds::{Adapter, ModelFiles, ShardScore},
    parts::Parts,
    precision::Precision,
    prefix::Prefix,
    stage::{Context, Needs, Stage},
    steps::model::load_base,
    token_set::TokenSet,
};

/// Measures the loss of the adapter that a client received, over its shard: q-FedAvg's `F_k`.
#[derive(Debug, Serialize)]
pub(super) struct ShardLoss {
    /// The frozen base.
    pub(super) base: In<ModelFiles>,
    /// The client's examples.
    pub(super) shard: In<TokenSet>,
    /// The adapter that it received.
    pub(super) adapter: In<Adapter>,
    /// The client's own last adapter, where it keeps something to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) own: Option<In<Adapter>>,
    /// What it takes from that instead of the global adapter.
    #[serde(skip_serializing_if = "Parts::is_none")]
    pub(super) keeps: Parts,
    /// In what numbers the frozen base multiplies: as in local training.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub(super) precision: Precision,
    /// The hidden states of the examples that go into the lowest adapted block, where they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<In<Prefix>>,
}

/// `loss.json`: the mean cross-entropy, in nats.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Loss {
    pub(super) loss: f64,
}

impl ShardLoss {
    /// The entry with the figure.
    pub(super) const LOSS: &'static str = "loss.json";
}

impl Stage for ShardLoss {
    const NAME: &'static str = "shard loss";
    const VERSION: u32 = 1;
    type Output = ShardScore;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let set = cx.open(&self.shard)?;
        let adapter = cx.open(&self.adapter)?;
        let causal = set.objective().is_causal();
        let base = load_base(cx, &self.base, self.precision, causal, Some(&self.adapter))?;
        let own = self.own.as_ref().map(|own| cx.open(own)).transpose()?;
        let lora = &adapter.config.lora;
        let received = federate::of_client(&adapter, own.as_ref(), self.keeps, lora)?;
        let with = Some(Adapted { adapter: &received, lora });
        let prefix = self.prefix.as_ref().map(|prefix| cx.open(prefix)).transpose()?;
        let data = Examples { set: &set, prefix: prefix.as_ref() };
        let loss = evaluate::mean_loss(&base, with, data, BATCH, &mut |at| {
            cx.progress(at.step, at.steps, "batches");
            cx.go_on()
        })?;
        cx.metric("loss", loss);
        cx.write_json(Self::LOSS, &Loss { loss })
    }
}

const BATCH: usize = 64;
