//! One client's local training in one round.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::Result,
    kinds::{Adapter, ModelFiles, Trained},
    local_train::{self, ClientJob, LocalNumbers, Optimizer},
    peft::SCORE,
    stage::{Context, Needs, Stage},
    steps::model::load_base,
    token_set::TokenSet,
};

/// How the learning rate changes over the rounds, given in absolute rounds: a schedule over the
/// total would change every key with the number of rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Schedule {
    /// The same in every round.
    #[default]
    Constant,
    /// A straight line from the optimiser's rate at the start of round 1 to `to` times that rate at
    /// the end of round `over_rounds`, and level after it.
    Linear {
        /// The factor at the end.
        #[serde(default)]
        to: f64,
        /// Where the end is.
        over_rounds: u32,
    },
}

impl Schedule {
    /// The factors on the learning rate at the start and at the end of a round, counted from 1.
    fn factors(self, round: u32) -> (f64, f64) {
        match self {
            Self::Constant => (1.0, 1.0),
            Self::Linear { to, over_rounds } => {
                let at = |done: u32| {
                    1.0 + (to - 1.0) * f64::from(done.min(over_rounds))
                        / f64::from(over_rounds.max(1))
                };
                (at(round - 1), at(round))
            }
        }
    }
}

/// Local training as a graph writes it; [`Local::numbers`] resolves it for a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// Passes over the shard; 1 unless `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Optimiser steps, instead of `epochs`; the shard is gone through again as often as needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Examples in a batch.
    pub batch: usize,
    /// Batches whose gradients make one optimiser step.
    pub accumulate: usize,
    /// The optimiser, fresh in every round.
    pub optimizer: Optimizer,
    /// How the learning rate changes over the rounds.
    pub schedule: Schedule,
    /// Steps of linear warm-up at the start of round 1.
    pub warmup_steps: u32,
    /// Bound on the global norm of the gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// FedProx's μ; 0 is none (Li et al. 2018, arXiv:1812.06127).
    pub prox: f64,
}

impl Default for Local {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch: 16,
            accumulate: 1,
            optimizer: Optimizer::adamw(5e-4),
            schedule: Schedule::Constant,
            warmup_steps: 0,
            clip: None,
            prox: 0.0,
        }
    }
}

impl Local {
    /// The numbers of one round, counted from 1.
    pub fn numbers(&self, round: u32) -> LocalNumbers {
        let (lr_from, lr_to) = self.schedule.factors(round);
        LocalNumbers {
            epochs: if self.steps.is_some() { None } else { Some(self.epochs.unwrap_or(1)) },
            steps: self.steps,
            batch: self.batch,
            accumulate: self.accumulate,
            optimizer: self.optimizer,
            lr_from,
            lr_to,
            warmup_steps: if round == 1 { self.warmup_steps } else { 0 },
            clip: self.clip,
            prox: self.prox,
        }
    }

    /// Says what is wrong with the numbers.
    pub fn check(&self, path: &str, check: &mut Check<'_>) {
        let at = |field: &str| format!("{path}.{field}");
        if self.epochs.is_some() && self.steps.is_some() {
            check.complain(at("steps"), "give `epochs` or `steps`, not both", None);
        }
        check.require(
            self.epochs != Some(0),
            at("epochs"),
            "a client must train for at least one epoch",
        );
        check.require(
            self.steps != Some(0),
            at("steps"),
            "a client must train for at least one step",
        );
        check.require(self.batch > 0, at("batch"), "a batch must hold at least one example");
        check.require(self.accumulate > 0, at("accumulate"), "at least one batch makes a step");
        let clip = self.clip.is_none_or(|c| c > 0.0 && c.is_finite());
        check.require(clip, at("clip"), "the bound on the gradient's norm must be above 0");
        check.require(
            self.prox >= 0.0 && self.prox.is_finite(),
            at("prox"),
            "`prox` cannot be below 0",
        );
        if let Err(wrong) = self.optimizer.check() {
            check.complain(at("optimizer"), wrong.to_string(), None);
        }
        if let Schedule::Linear { to, over_rounds } = self.schedule {
            let path = at("schedule.over_rounds");
            check.require(over_rounds > 0, path, "a schedule must go over at least one round");
            let fine = to.is_finite() && to >= 0.0;
            check.require(
                fine,
                at("schedule.to"),
                "the last factor on the learning rate cannot be below 0",
            );
        }
    }
}

/// Trains one client's copy of the adapter on its shard: a function of the base, the adapter, the
/// shard, the numbers and the seed, so that no client can touch another.
#[derive(Debug, Serialize)]
pub struct LocalTraining {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The client's examples.
    pub shard: In<TokenSet>,
    /// The adapter that it starts from.
    pub from: In<Adapter>,
    /// The client's own last adapter, where it keeps its classifier to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<In<Adapter>>,
    /// The numbers, resolved for the round.
    pub local: LocalNumbers,
    /// Seed of the shuffles and of dropout.
    pub seed: u64,
    /// Whether the classifier stays as it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub frozen_head: bool,
}

impl Stage for LocalTraining {
    const NAME: &'static str = "train";
    const VERSION: u32 = 2;
    type Output = Adapter;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let data = cx.open(&self.shard)?;
        let base = load_base(cx, &self.base, data.objective().is_causal())?;
        let mut start = cx.open(&self.from)?;
        if let Some(own) = &self.own {
            let own = cx.open(own)?;
            if let Some((shape, values)) = own.tensors.get(SCORE) {
                start.tensors = start.tensors.with(SCORE, shape, values.to_vec());
            }
        }
        let job = ClientJob {
            adapter: &start.tensors,
            lora: &start.config.lora,
            data: &data,
            seed: self.seed,
            frozen_head: self.frozen_head,
        };
        let mut trained = local_train::train(&base, &[job], &self.local, &mut |at| {
            cx.progress(at.step, at.steps, "steps");
            cx.go_on()
        })?;
        let trained = trained.remove(0);
        let counts = Trained {
            examples: trained.examples,
            steps: trained.steps,
            tokens: trained.tokens,
            mean_loss: trained.mean_loss,
            last_loss: trained.last_loss,
        };
        cx.metric("train_loss", counts.mean_loss);
        cx.out().bytes(Adapter::TENSORS, &trained.adapter.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &start.config)?;
        cx.write_json(Adapter::TRAINED, &counts)
    }
}
