//! The hidden states below the adapted blocks, once for every example.

use serde::Serialize;

use crate::{
    edge::In,
    error::{Error, Result},
    kinds::ModelFiles,
    memory::{self, Pass},
    precision::Precision,
    prefix::{self, Below, Prefix},
    stage::{Context, Needs, Stage},
    steps::model::load_base,
    token_set::TokenSet,
};

/// Runs the blocks that no adapter changes over each example, and keeps what goes into the next block.
///
/// Neither ranks nor rules, rounds or seeds are in its key: local training and evaluation of all of them begin where it
/// ends.
#[derive(Debug, Serialize)]
pub(super) struct PrefixStates {
    /// The frozen base.
    pub(super) base: In<ModelFiles>,
    /// The examples.
    pub(super) tokens: In<TokenSet>,
    /// The lowest adapted block.
    pub(super) below: Below,
    /// In what numbers the frozen base multiplies.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub(super) precision: Precision,
}

impl Stage for PrefixStates {
    const NAME: &'static str = "prefix";
    const VERSION: u32 = 1;
    type Output = Prefix;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let data = cx.open(&self.tokens)?;
        let base = load_base(cx, &self.base, self.precision, false, None)?;
        let (config, layer) = (base.config(), self.below.layer(base.config()));
        cx.write_json(
            Prefix::OUTLINE,
            &serde_json::json!({ "layer": layer, "hidden": config.hidden }),
        )?;
        if layer == 0 {
            // Every block is adapted, and embeddings are looked up faster than read.
            cx.out().bytes(Prefix::STATES, &[])?;
            cx.out().bytes(Prefix::SPANS, &[])?;
            return Ok(());
        }
        let (wanted, free) = (prefix::bytes(config, &data), cx.free_bytes());
        if let Some(free) = free.filter(|free| *free < wanted) {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let message = format!(
                "the hidden states of these examples take {:.1} GiB, and {:.1} GiB are free where the store is",
                gib(wanted),
                gib(free)
            );
            let mend = "set `local.prefix: Recompute`, which keeps none of them, or make room";
            return Err(Error::failed(message).with_hint(mend));
        }
        let pass = Pass::over(&data, prefix::BATCH, base.path());
        let bytes = memory::evaluation(config, None, &pass)?;
        let mend = "set `local.prefix: Recompute`, or run fewer steps side by side with `-j`";
        cx.session().require(bytes.total(), "this pass over the examples", mend)?;
        let mut file = cx.out().file(Prefix::STATES)?;
        let spans = prefix::compute(&base, &data, layer, &mut file, &mut |at| {
            cx.progress(at.step, at.steps, "batches");
            cx.go_on()
        })?;
        file.finish()?;
        cx.out().bytes(Prefix::SPANS, &spans)?;
        Ok(())
    }
}
