//! One client's local training in one round.

use artifacts::Digest;
use serde::{Deserialize, Serialize};

use crate::{
    aggregate,
    check::Check,
    cohort,
    edge::In,
    error::Result,
    federate::{self, OwnLora},
    kinds::{Adapter, AdapterConfig, ModelFiles, Trained},
    local_train::{
        self, Batches, Checkpoint, ClientJob, Control, LocalNumbers, MOST_BATCH, Optimizer, Prune,
    },
    memory::{self, Pass},
    model::{Config, LoraConfig},
    parts::Parts,
    peft::AdapterTensors,
    precision::Precision,
    prefix::{Prefix, Reuse},
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
    /// In what numbers the frozen base multiplies.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// What of a forward pass is kept for the backward pass. It cannot change a result by more than rounding, so it is in
    /// no key.
    #[serde(skip_serializing_if = "Checkpoint::is_none")]
    pub checkpoint: Checkpoint,
    /// Whether the hidden states below the adapted blocks are kept, where `lora.layers` leaves blocks below.
    #[serde(skip_serializing_if = "Reuse::is_keep")]
    pub prefix: Reuse,
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
            precision: Precision::F32,
            checkpoint: Checkpoint::None,
            prefix: Reuse::Keep,
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
            precision: self.precision,
            checkpoint: self.checkpoint,
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
        for (field, value) in [("batch", self.batch), ("accumulate", self.accumulate)] {
            check.require(value <= MOST_BATCH, at(field), format!("it is at most {MOST_BATCH}"));
        }
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

/// Trains one client's copy of the adapter on its shard: a function of the base, the adapter, the client's own state,
/// the shard, the numbers and the seed, so that no client can touch another.
#[derive(Debug, Serialize)]
pub struct LocalTraining {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The client's examples.
    pub shard: In<TokenSet>,
    /// The global adapter that it starts from.
    pub from: In<Adapter>,
    /// The client's own last adapter, where it keeps something to itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<In<Adapter>>,
    /// What it takes from that instead of the global adapter.
    #[serde(skip_serializing_if = "Parts::is_none")]
    pub keeps: Parts,
    /// Its own rank and alpha, where they are not those of the global adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<OwnLora>,
    /// The numbers, resolved for the round and the client.
    pub local: LocalNumbers,
    /// Seed of the shuffles and of dropout.
    pub seed: u64,
    /// What stays as it is.
    #[serde(skip_serializing_if = "Parts::is_none")]
    pub frozen: Parts,
    /// Whether its steps are corrected by control variates (SCAFFOLD), of which its own is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub control: bool,
    /// Whether and how its rank is pruned (`HetLoRA`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
    /// The hidden states of the examples that go into the lowest adapted block, where they are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<In<Prefix>>,
}

impl Stage for LocalTraining {
    const NAME: &'static str = "train";
    const VERSION: u32 = 3;
    type Output = Adapter;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn precision(&self) -> Precision {
        self.local.precision
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        Self::run_together(&[self], std::slice::from_mut(cx))
    }

    /// Clients that start from one adapter over one base by the same numbers; what is each client's own is left out.
    fn cohort(&self, digest: &dyn Fn(&str) -> Option<Digest>) -> Option<String> {
        let mut shared = serde_json::to_value(self).ok()?;
        let fields = shared.as_object_mut()?;
        for own in ["shard", "own", "lora", "seed", "prefix"] {
            fields.remove(own);
        }
        for (field, edge) in [("base", self.base.name()), ("from", self.from.name())] {
            fields.insert(field.to_owned(), digest(edge)?.to_string().into());
        }
        Some(shared.to_string())
    }

    fn most_together(steps: &[&Self], cxs: &[Context<'_>]) -> Result<usize> {
        let (Some(first), Some(cx)) = (steps.first(), cxs.first()) else { return Ok(1) };
        let config = Config::parse(&cx.tree(&first.base)?.blob("config.json")?)?;
        let (mut most, mut causal) = (0, false);
        for (step, cx) in steps.iter().zip(cxs) {
            let Client { data, lora, start, .. } = step.client(cx)?;
            causal |= data.objective().is_causal();
            let pass = Pass::over(&data, step.local.batch, memory::Path::Gpu);
            let (classes, checkpoint) = (start.classes(), step.local.checkpoint);
            let client = memory::training(&config, &lora, classes, &pass, checkpoint)?;
            most = most.max(client.total());
        }
        let base = memory::base(&config, causal, first.local.precision, memory::Path::Gpu);
        Ok(cohort::most(cx.session().device()?.memory(), base, most))
    }

    fn run_together(steps: &[&Self], cxs: &mut [Context<'_>]) -> Result<()> {
        let (Some(first), Some(cx)) = (steps.first(), cxs.first()) else { return Ok(()) };
        let clients: Vec<Client> =
            steps.iter().zip(&*cxs).map(|(step, cx)| step.client(cx)).collect::<Result<_>>()?;
        let causal = clients[0].data.objective().is_causal();
        let precision = first.local.precision;
        let base = load_base(cx, &first.base, precision, causal, Some(&first.from))?;
        let mut bytes = 0;
        for Client { data, lora, start, .. } in &clients {
            let pass = Pass::over(data, first.local.batch, base.path());
            let checkpoint = first.local.checkpoint;
            let classes = start.classes();
            bytes += memory::training(base.config(), lora, classes, &pass, checkpoint)?.total();
        }
        cx.session().require(bytes, "this training", MEND)?;
        let jobs: Vec<ClientJob<'_>> =
            steps.iter().zip(&clients).map(|(step, client)| step.job(client)).collect();
        let steps_of = |client: &Client| {
            let effective = first.local.batch * first.local.accumulate;
            first.local.steps_for(Batches::new(&client.data, effective, 0).per_epoch())
        };
        let own: Vec<u64> = clients.iter().map(steps_of).collect();
        let trained = local_train::train(&base, &jobs, &first.local, &mut |at| {
            for (cx, &steps) in cxs.iter().zip(&own) {
                if at.step <= steps {
                    cx.progress(at.step, steps, "steps");
                }
            }
            cxs[0].go_on()
        })?;
        for ((client, trained), cx) in clients.into_iter().zip(trained).zip(cxs) {
            client.write(&trained, cx)?;
        }
        Ok(())
    }
}

/// What a client's training works on, beside the base.
struct Client {
    data: TokenSet,
    labels: Vec<String>,
    lora: LoraConfig,
    start: AdapterTensors,
    server: AdapterTensors,
    own_control: Option<AdapterTensors>,
    prefix: Option<Prefix>,
}

impl Client {
    /// Writes what training made of the client's adapter.
    fn write(self, trained: &local_train::Trained, cx: &mut Context<'_>) -> Result<()> {
        let Self { lora, labels, own_control, .. } = self;
        let counts = Trained {
            examples: trained.examples,
            steps: trained.steps,
            tokens: trained.tokens,
            mean_loss: trained.mean_loss,
            last_loss: trained.last_loss,
            pruned_from: trained.rank.map(|_| lora.rank),
        };
        cx.metric("train_loss", counts.mean_loss);
        if let Some(rank) = trained.rank {
            cx.note(&format!("the rank was pruned from {} to {rank}", lora.rank));
        }
        if let Some(control) = &trained.control {
            let before = own_control.as_ref().map(AdapterTensors::flatten);
            let change: Vec<f32> = match before {
                Some(before) => control.flatten().iter().zip(before).map(|(c, b)| c - b).collect(),
                None => control.flatten(),
            };
            let change = control.with_values(&change);
            cx.out().bytes(Adapter::CONTROL, &control.to_safetensors())?;
            cx.out().bytes(Adapter::CONTROL_CHANGE, &change.to_safetensors())?;
        }
        let lora = trained.rank.map_or_else(|| lora.clone(), |rank| lora.of_other_rank(rank));
        let config = AdapterConfig { lora, labels };
        cx.out().bytes(Adapter::TENSORS, &trained.adapter.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &config)?;
        cx.write_json(Adapter::TRAINED, &counts)
    }
}

impl LocalTraining {
    /// What the client's training works on.
    fn client(&self, cx: &Context<'_>) -> Result<Client> {
        let data = cx.open(&self.shard)?;
        let global = cx.open(&self.from)?;
        let own = self.own.as_ref().map(|own| cx.open(own)).transpose()?;
        let lora = self.settings(&global, own.as_ref());
        let start = federate::of_client(&global, own.as_ref(), self.keeps, &lora)?;
        let (server, own_control) = self.controls(cx, &start)?;
        let prefix = self.prefix.as_ref().map(|prefix| cx.open(prefix)).transpose()?;
        let labels = global.config.labels;
        Ok(Client { data, labels, lora, start, server, own_control, prefix })
    }

    fn job<'a>(&self, client: &'a Client) -> ClientJob<'a> {
        let own = client.own_control.as_ref();
        ClientJob {
            adapter: &client.start,
            lora: &client.lora,
            data: &client.data,
            seed: self.seed,
            frozen: self.frozen,
            control: self.control.then_some(Control { server: &client.server, own }),
            prune: self.prune,
            prefix: client.prefix.as_ref(),
        }
    }

    /// The settings of the client's adapter: those of all, its own, or what pruning has left of them.
    fn settings(&self, global: &Adapter, own: Option<&Adapter>) -> LoraConfig {
        let lora = match self.lora {
            Some(own) => own.of(&global.config.lora),
            None => global.config.lora.clone(),
        };
        match own {
            Some(own) if self.prune.is_some() => own.config.lora.clone(),
            _ => lora,
        }
    }

    /// The server's control variate, zeros before there is one, and the client's own.
    fn controls(
        &self,
        cx: &Context<'_>,
        start: &AdapterTensors,
    ) -> Result<(AdapterTensors, Option<AdapterTensors>)> {
        if !self.control {
            return Ok((AdapterTensors::default(), None));
        }
        let state = cx.tree(&self.from)?.blob_if_there(Adapter::STATE)?;
        let state = state.map(|state| AdapterTensors::from_safetensors(&state)).transpose()?;
        let trained = start.only(!self.frozen);
        let zeros = trained.with_values(&vec![0.0; trained.length()]);
        // A classifier that the client keeps to itself is in no variate of the server's.
        let server = match state {
            Some(state) => zeros.clone().overlaid(&aggregate::server_control(&state)),
            None => zeros.clone(),
        };
        let own = match &self.own {
            Some(own) => cx.tree(own)?.blob_if_there(Adapter::CONTROL)?,
            None => None,
        };
        let own = own.map(|own| AdapterTensors::from_safetensors(&own)).transpose()?;
        // What the client keeps to itself drifts from nobody, and is not corrected.
        let own = own.map(|own| zeros.clone().overlaid(&own.only(!self.keeps)));
        Ok((server, own))
    }
}

/// What makes a training smaller.
const MEND: &str = "set a smaller `local.batch` and a larger `local.accumulate`, or `local.checkpoint: Block`, or run \
                    fewer clients side by side with `-j`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reaches_the_work_and_no_key() {
        let kept = Local { checkpoint: Checkpoint::Block, ..Local::default() };
        let (with, without) = (kept.numbers(2), Local::default().numbers(2));
        assert_eq!(with.checkpoint, Checkpoint::Block);
        let json = |numbers: &LocalNumbers| serde_json::to_value(numbers).unwrap();
        assert_eq!(json(&with), json(&without));
        let written = r#"{"checkpoint": "Block", "batch": 4}"#;
        let read: Local = serde_json::from_str(written).unwrap();
        assert_eq!(read, Local { batch: 4, ..kept });
    }
}
