//! How good an adapter is.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    evaluate,
    kinds::{Adapter, ModelFiles, Scores, Tokens},
    node::GraphStage,
    stage::{Context, Needs, Stage},
    steps::model::load_base,
    token_set::TokenSet,
    unroll::Unroll,
};

/// Accuracy, loss, macro-F1, confusion counts and the figures of each class, on one split. An
/// adapter with rounds is scored after every round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The adapter.
    pub adapter: In<Adapter>,
    /// The tokens.
    pub on: In<Tokens>,
    /// Which split of them.
    #[serde(default = "validation")]
    pub split: String,
    /// Score every n-th round, and always the last.
    #[serde(default = "one", skip_serializing)]
    pub every: u32,
    /// Score the untrained adapter, too, as round 0.
    #[serde(default, skip_serializing)]
    pub untrained: bool,
    /// Examples in a batch. It cannot change a figure by more than rounding, so it is in no key.
    #[serde(default = "sixty_four", skip_serializing)]
    pub batch: usize,
}

fn validation() -> String {
    "validation".to_owned()
}

fn one() -> u32 {
    1
}

fn sixty_four() -> usize {
    64
}

impl GraphStage for Evaluate {
    type Makes = Scores;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        check.require(self.every > 0, format!("{name}.every"), "`every` counts from 1");
        check.require(self.batch > 0, format!("{name}.batch"), "a batch must hold at least one example");
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let rounds = to.rounds_of(self.adapter.name());
        let Some((last, _)) = rounds.last().cloned() else {
            to.add(name, self.clone());
            return Ok(());
        };
        let mut scored = None;
        for (round, adapter) in rounds {
            let due = if round == 0 { self.untrained } else { round % self.every == 0 || round == last };
            if due {
                let step = Self { adapter, ..self.clone() };
                scored = Some(to.add_for(format!("{name}/round-{round:03}"), step, Some(round), None));
            }
        }
        if let Some(scored) = scored {
            to.alias(name, &scored);
        }
        Ok(())
    }
}

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 1;
    type Output = Scores;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tokens = cx.tree(&self.on)?;
        let set = TokenSet::from_bytes(&tokens.blob(&self.split)?)?;
        if set.labels().iter().all(|&label| label < 0) {
            return Err(Error::input(format!("the split `{}` has no labels to score against", self.split)));
        }
        let base = load_base(cx, &self.base)?;
        let adapter = cx.open(&self.adapter)?;
        let scores = evaluate::evaluate(
            &base,
            &adapter.tensors,
            &adapter.config.lora,
            &set,
            self.batch,
            &mut |at| {
                cx.progress(at.step, at.steps, "batches");
                cx.go_on()
            },
        )?;
        cx.metric("accuracy", scores.accuracy);
        cx.metric("loss", scores.loss);
        cx.metric("macro_f1", scores.macro_f1);
        cx.write_json("scores.json", &scores)
    }
}
