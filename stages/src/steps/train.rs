//! The centralised baseline.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::Result,
    kinds::{Adapter, Head, ModelFiles, Tokens},
    memory::{Need, Scene},
    model::LoraConfig,
    node::{GraphStage, Node},
    parts::Parts,
    prefix::{Below, Reuse},
    steps::{
        Local, LocalTraining, Seeds, demand,
        federate::local_seed,
        prefix::PrefixStates,
        start::{From, Start},
        tokenize::{labels_of, task_of},
    },
    tokenize::Task,
    unroll::{RoundOf, Unroll},
};

/// The same local training over all the data, round after round: what a federation is compared
/// with. It unrolls to `init` and one local training a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The tokens whose split `train` is trained on.
    pub on: In<Tokens>,
    /// Rank, alpha, targets and the rest of a new adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// An adapter to go on with, instead of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// What becomes of the classifier: shared or frozen.
    #[serde(default, skip_serializing_if = "Head::is_shared")]
    pub head: Head,
    /// Local training.
    #[serde(default)]
    pub local: Local,
    /// How often `local` is done, each with a fresh optimiser as in a federation.
    #[serde(default = "one")]
    pub rounds: u32,
    /// Seeds set by hand.
    #[serde(default)]
    pub seeds: Seeds,
}

fn one() -> u32 {
    1
}

impl GraphStage for Train {
    type Makes = Adapter;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        self.start(name).check(check);
        let task = task_of(check.nodes, self.on.name());
        let has_head = task.is_none_or(|task| *task == Task::Classify);
        let path = format!("{name}.head");
        let message = "there is no classifier to freeze: the task is one of the causal head";
        check.require(has_head || self.head.is_shared(), path.clone(), message);
        let message = "there are no clients here that could keep a classifier to themselves";
        check.require(self.head != Head::Local, path, message);
        self.local.check(&format!("{name}.local"), check);
        check.require(
            self.rounds > 0,
            format!("{name}.rounds"),
            "training takes at least one round",
        );
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        if let Some(Node::Tokenize(tokens)) = check.nodes.get(self.on.name())
            && let Some(corpus) = check.corpus(tokens.of.name())
        {
            let message = "the data have no split `train` to train on";
            check.require(corpus.splits.contains_key("train"), format!("{name}.on"), message);
        }
        self.start(name).check_data(Some(self.on.name()), check);
    }

    fn memory(&self, name: &str, check: &mut Check<'_>, scene: &Scene<'_>) -> Need {
        let Ok(lora) = self.start(name).lora_config(check.sources) else { return Need::Nothing };
        let settings = [(lora, self.local.numbers(1))];
        demand::of_training(&self.base, Some(self.on.name()), &settings, 1, check, scene)
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let local = to.seed("local", self.seeds.local);
        let labels = labels_of(to.nodes(), &self.on);
        let seed = to.seed("init", self.seeds.init);
        let mut adapter = self.start(name).unroll(labels, seed, false, to)?;
        to.round(name, RoundOf::plain(0, &adapter));
        let lora = self.start(name).lora_config(to.sources())?;
        let below = Below::of(&lora).filter(|_| self.local.prefix == Reuse::Keep);
        let prefix = below.map(|below| {
            to.keep_prefix(name, below);
            let (base, tokens) = (self.base.clone(), self.on.part("train"));
            let precision = self.local.precision;
            to.add_for(
                format!("{name}/prefix"),
                PrefixStates { base, tokens, below, precision },
                None,
                None,
            )
        });
        for round in 1..=self.rounds {
            let training = LocalTraining {
                base: self.base.clone(),
                shard: self.on.part("train"),
                from: adapter,
                own: None,
                keeps: Parts::NONE,
                lora: None,
                local: self.local.numbers(round),
                seed: local_seed(local, round, 0),
                frozen: if self.head == Head::Frozen { Parts::HEAD } else { Parts::NONE },
                control: false,
                prune: None,
                prefix: prefix.clone(),
            };
            adapter = to.add_for(format!("{name}/round-{round:03}"), training, Some(round), None);
            to.round(name, RoundOf::plain(round, &adapter));
        }
        to.alias(name, &adapter);
        Ok(())
    }
}

impl Train {
    fn start<'a>(&'a self, name: &'a str) -> Start<'a> {
        Start { name, base: &self.base, lora: self.lora.as_ref(), from: self.from.as_ref() }
    }
}
