//! The composite stage: rounds of local training and aggregation.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::Rule,
    check::Check,
    edge::In,
    error::{Error, Result},
    kinds::{Adapter, Head, ModelFiles, Shards},
    model::LoraConfig,
    node::{GraphStage, Node},
    seed,
    steps::{
        Aggregate, Local, LocalTraining, partition,
        start::{From, Start},
        tokenize::{labels_of, task_of},
    },
    tokenize::Task,
    unroll::Unroll,
};

/// Which clients take part in a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// The share of all clients, rounded, at least one; all of them unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// The number of clients, instead of the share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_round: Option<u32>,
}

impl Clients {
    /// How many of `all` clients take part in a round.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a u32 is one"
    )]
    fn number(self, all: u32) -> u32 {
        let wanted = match (self.per_round, self.fraction) {
            (Some(number), _) => number,
            (None, Some(share)) => (share * f64::from(all)).round() as u32,
            (None, None) => all,
        };
        wanted.clamp(1, all.max(1))
    }

    /// The clients of one round, ascending, drawn without replacement by name: round 3 has the same
    /// clients however many rounds there are.
    fn of_round(self, all: u32, round: u32, sampling: u64) -> Vec<u32> {
        let number = self.number(all);
        if number == all {
            return (0..all).collect();
        }
        let mut drawn: Vec<(u64, u32)> = (0..all)
            .map(|k| (seed::derive(sampling, &["sample", &round.to_string(), &k.to_string()]), k))
            .collect();
        drawn.sort_unstable();
        let mut clients: Vec<u32> =
            drawn.into_iter().take(number as usize).map(|(_, k)| k).collect();
        clients.sort_unstable();
        clients
    }
}

/// Seeds set by hand; each is derived by name from the graph's seed unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seeds {
    /// Of the first adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<u64>,
    /// Of the choice of clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<u64>,
    /// Of shuffles and dropout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<u64>,
}

/// Federated training. It is not a step: it unrolls to `init`, and for each round to one local
/// training a client and one aggregation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federate {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// One shard a client.
    pub shards: In<Shards>,
    /// Rank, alpha, targets and the rest of a new adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// An adapter to go on with, instead of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// What becomes of the classifier.
    #[serde(default, skip_serializing_if = "Head::is_shared")]
    pub head: Head,
    /// Local training.
    #[serde(default)]
    pub local: Local,
    /// Which clients take part in a round.
    #[serde(default)]
    pub clients: Clients,
    /// Number of rounds.
    pub rounds: u32,
    /// The server's rule.
    #[serde(default)]
    pub aggregate: Rule,
    /// Seeds set by hand.
    #[serde(default)]
    pub seeds: Seeds,
}

impl GraphStage for Federate {
    type Makes = Adapter;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        self.start(name).check(check);
        let task = self.tokens(check.nodes).and_then(|tokens| task_of(check.nodes, tokens));
        let has_head = task.is_none_or(|task| *task == Task::Classify);
        let message = "there is no classifier to keep apart: the task is one of the causal head";
        check.require(has_head || self.head.is_shared(), format!("{name}.head"), message);
        self.local.check(&format!("{name}.local"), check);
        check.require(
            self.rounds > 0,
            format!("{name}.rounds"),
            "a federation has at least one round",
        );
        self.check_clients(name, check);
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        self.start(name).check_data(self.tokens(check.nodes), check);
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let Some(Node::Partition(partition)) = to.nodes().get(self.shards.name()) else {
            return Err(Error::input(format!("`{}` is not a partition", self.shards.name())));
        };
        let (clients, labels) = (partition.clients, labels_of(to.nodes(), &partition.of));
        let (sampling, local) =
            (to.seed("sampling", self.seeds.sampling), to.seed("local", self.seeds.local));
        let seed = to.seed("init", self.seeds.init);
        let mut global = self.start(name).unroll(labels, seed, to)?;
        to.round(name, 0, &global, &[]);
        // The last adapters of those clients that have taken part.
        let mut own: BTreeMap<u32, In<Adapter>> = BTreeMap::new();
        for round in 1..=self.rounds {
            let step = format!("{name}/round-{round:03}");
            let mut trained = Vec::new();
            for client in self.clients.of_round(clients, round, sampling) {
                let training = LocalTraining {
                    base: self.base.clone(),
                    shard: self.shards.part(&partition::client(client)),
                    from: global.clone(),
                    own: own.get(&client).cloned(),
                    local: self.local.numbers(round),
                    seed: local_seed(local, round, client),
                    frozen_head: self.head == Head::Frozen,
                };
                let name = format!("{step}/{}", partition::client(client));
                let adapter = to.add_for(name, training, Some(round), Some(client));
                if self.head == Head::Local {
                    own.insert(client, adapter.clone());
                }
                trained.push(adapter);
            }
            let (rule, head) = (self.aggregate, self.head);
            let server = Aggregate { from: global, clients: trained, rule, head };
            global = to.add_for(step, server, Some(round), None);
            let own: Vec<In<Adapter>> = own.values().cloned().collect();
            to.round(name, round, &global, &own);
        }
        to.alias(name, &global);
        Ok(())
    }
}

impl Federate {
    fn start<'a>(&'a self, name: &'a str) -> Start<'a> {
        Start { name, base: &self.base, lora: self.lora.as_ref(), from: self.from.as_ref() }
    }

    /// The name of the tokens that its shards were cut from.
    pub(crate) fn tokens<'a>(&self, nodes: &'a IndexMap<String, Node>) -> Option<&'a str> {
        match nodes.get(self.shards.name()) {
            Some(Node::Partition(partition)) => Some(partition.of.name()),
            _ => None,
        }
    }

    fn check_clients(&self, name: &str, check: &mut Check<'_>) {
        let path = format!("{name}.clients");
        if self.clients.fraction.is_some() && self.clients.per_round.is_some() {
            let both = "give `fraction` or `per_round`, not both";
            check.complain(format!("{path}.per_round"), both, None);
        }
        let fraction = self.clients.fraction.is_none_or(|f| f > 0.0 && f <= 1.0);
        check.require(
            fraction,
            format!("{path}.fraction"),
            "the share of clients must be above 0 and at most 1",
        );
        let all = match check.nodes.get(self.shards.name()) {
            Some(Node::Partition(partition)) => partition.clients,
            _ => return,
        };
        let number = self.clients.per_round.is_none_or(|n| n > 0 && n <= all);
        check.require(
            number,
            format!("{path}.per_round"),
            format!("the clients of a round must be between 1 and {all}, the number of shards"),
        );
    }
}

/// The seed of one client's local training in one round.
pub(crate) fn local_seed(local: u64, round: u32, client: u32) -> u64 {
    seed::derive(local, &["round", &round.to_string(), "client", &client.to_string()])
}
