//! The composite stage: rounds of local training and aggregation.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{Broadcast, Rule},
    check::Check,
    codec::Codec,
    edge::In,
    error::{Error, Result},
    federate::{Clients, Clock, Own, Roll, Tier},
    kinds::{Adapter, Head, ModelFiles, Shards},
    local_train::LocalNumbers,
    memory::{Need, Scene},
    model::LoraConfig,
    node::{GraphStage, Node},
    parts::Parts,
    prefix::{Below, Prefix, Reuse},
    privacy::Privacy,
    seed,
    steps::{
        Aggregate, Local, LocalTraining,
        aggregate::{Lost, Member, Session, Weights},
        demand, partition,
        prefix::PrefixStates,
        shard_loss::ShardLoss,
        start::{From, Start},
        tokenize::{labels_of, task_of},
    },
    stop::{Stop, StopRule},
    tokenize::Task,
    unroll::{RoundOf, Unroll},
};

/// Seeds set by hand; each is derived by name from the graph's seed unless given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seeds {
    /// Of the first adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<u64>,
    /// Of the choice of clients, their tiers and their luck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<u64>,
    /// Of shuffles and dropout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<u64>,
    /// Of the noise of differential privacy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<u64>,
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
    /// Rank, alpha, targets and the rest of a new adapter; where clients have ranks of their own, this is the largest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// An adapter to go on with, instead of a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// What becomes of the classifier, whatever the rule is.
    #[serde(default, skip_serializing_if = "Head::is_shared")]
    pub head: Head,
    /// Local training.
    #[serde(default)]
    pub local: Local,
    /// Who takes part in a round, and by what means.
    #[serde(default)]
    pub clients: Clients,
    /// Number of rounds.
    pub rounds: u32,
    /// The server's rule.
    #[serde(default)]
    pub aggregate: Rule,
    /// What a client counts for in a mean.
    #[serde(default, skip_serializing_if = "Weights::is_examples")]
    pub weights: Weights,
    /// A server optimiser that takes what the rule comes to for its pseudo-gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Rule>,
    /// Clipping and noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Privacy>,
    /// How what clients send is encoded.
    #[serde(default, skip_serializing_if = "Codec::is_f32")]
    pub codec: Codec,
    /// When to end before the last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopRule>,
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
        let all = self.population(check.nodes);
        self.clients.check(&format!("{name}.clients"), all, self.local.optimizer, check);
        self.check_combination(name, all, check);
        if let Some(stop) = &self.stop {
            stop.check(name, check);
        }
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        self.start(name).check_data(self.tokens(check.nodes), check);
    }

    fn memory(&self, name: &str, check: &mut Check<'_>, scene: &Scene<'_>) -> Need {
        let Ok(lora) = self.start(name).lora_config(check.sources) else { return Need::Nothing };
        let Some(all) = self.population(check.nodes) else { return Need::Nothing };
        let sampling = check.seed("sampling", self.seeds.sampling);
        let settings = self.clients.settings(all, sampling).into_iter().map(|tier| {
            let lora = tier.own_lora(&lora).map_or_else(|| lora.clone(), |own| own.of(&lora));
            (lora, tier.numbers(self.local.numbers(1)))
        });
        let mut settings: Vec<(LoraConfig, LocalNumbers)> = settings.collect();
        settings.dedup();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most all")]
        let most = self.clients.expected(all).ceil() as usize;
        let tokens = self.tokens(check.nodes).map(str::to_owned);
        demand::of_training(&self.base, tokens.as_deref(), &settings, most, check, scene)
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let Some(Node::Partition(partition)) = to.nodes().get(self.shards.name()) else {
            return Err(Error::input(format!("`{}` is not a partition", self.shards.name())));
        };
        let (all, labels) = (partition.clients, labels_of(to.nodes(), &partition.of));
        let sampling = to.seed("sampling", self.seeds.sampling);
        let init = to.seed("init", self.seeds.init);
        let lora = self.start(name).lora_config(to.sources())?;
        let below = Below::of(&lora).filter(|_| self.keeps_prefix());
        if let Some(below) = below {
            to.keep_prefix(name, below);
        }
        let mut rounds = Rounds {
            federate: self,
            name,
            lora,
            below,
            prefixes: BTreeMap::new(),
            tiers: self.clients.settings(all, sampling),
            all,
            sampling,
            local: to.seed("local", self.seeds.local),
            server: seed::derive(init, &["server"]),
            noise: to.seed("noise", self.seeds.noise),
            own: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let is_core = self.aggregate.trains(1).has(Parts::CORE);
        let mut global = self.start(name).unroll(labels, init, is_core, to)?;
        to.skew(name, &self.shards);
        to.round(name, RoundOf::plain(0, &global));
        for round in 1..=self.rounds {
            let roll = self.clients.roll(all, round, sampling);
            global = rounds.round(round, &global, &roll, to);
            let own = if self.keeps().is_none() { Vec::new() } else { rounds.own() };
            let keeps = self.keeps();
            to.round(name, RoundOf { round, adapter: global.clone(), own, keeps });
        }
        to.alias(name, &global);
        if let Some(rule) = &self.stop {
            to.stop(Stop { of: name.to_owned(), rule: rule.clone() });
        }
        Ok(())
    }
}

impl Federate {
    pub(super) fn start<'a>(&'a self, name: &'a str) -> Start<'a> {
        Start { name, base: &self.base, lora: self.lora.as_ref(), from: self.from.as_ref() }
    }

    /// The name of the tokens that its shards were cut from.
    pub(crate) fn tokens<'a>(&self, nodes: &'a IndexMap<String, Node>) -> Option<&'a str> {
        match nodes.get(self.shards.name()) {
            Some(Node::Partition(partition)) => Some(partition.of.name()),
            _ => None,
        }
    }

    /// The number of all clients.
    fn population(&self, nodes: &IndexMap<String, Node>) -> Option<u32> {
        match nodes.get(self.shards.name()) {
            Some(Node::Partition(partition)) => Some(partition.clients),
            _ => None,
        }
    }

    /// Whether hidden states below the adapted blocks are kept: not where the rule adds to the base's own weights.
    fn keeps_prefix(&self) -> bool {
        self.local.prefix == Reuse::Keep && self.aggregate.broadcast() == Broadcast::None
    }

    /// What clients keep to themselves.
    fn keeps(&self) -> Parts {
        let head = if self.head == Head::Local { Parts::HEAD } else { Parts::NONE };
        self.aggregate.personal() | head
    }
}

/// What is known from round to round while a federation unrolls.
struct Rounds<'a> {
    federate: &'a Federate,
    name: &'a str,
    lora: LoraConfig,
    tiers: Vec<Tier>,
    all: u32,
    sampling: u64,
    local: u64,
    server: u64,
    noise: u64,
    /// Where the hidden states end that are kept, if they are.
    below: Option<Below>,
    /// Those of the clients that have taken part.
    prefixes: BTreeMap<u32, In<Prefix>>,
    /// The last adapters of those clients that have trained.
    own: BTreeMap<u32, In<Adapter>>,
    /// The last round at whose start each client received the adapter.
    held: BTreeMap<u32, u32>,
}

impl Rounds<'_> {
    fn own(&self) -> Vec<Own> {
        let own =
            |(&client, adapter): (&u32, &In<Adapter>)| Own { client, adapter: adapter.clone() };
        self.own.iter().map(own).collect()
    }

    /// Adds the steps of one round.
    fn round(
        &mut self,
        round: u32,
        global: &In<Adapter>,
        roll: &Roll,
        to: &mut Unroll<'_>,
    ) -> In<Adapter> {
        let (federate, step) = (self.federate, format!("{}/round-{round:03}", self.name));
        let (mut trained, mut losses) = (Vec::new(), Vec::new());
        self.add_prefixes(round, roll, to);
        for &client in &roll.present {
            let name = format!("{step}/{}", partition::client(client));
            let training = self.training(round, client, global);
            if federate.aggregate.needs_loss() {
                let loss = ShardLoss {
                    base: training.base.clone(),
                    shard: training.shard.clone(),
                    adapter: global.clone(),
                    own: training.own.clone(),
                    keeps: training.keeps,
                    precision: training.local.precision,
                    prefix: training.prefix.clone(),
                };
                losses.push(to.add_for(format!("{name}/loss"), loss, Some(round), Some(client)));
            }
            trained.push(to.add_for(name, training, Some(round), Some(client)));
        }
        let mut member = |&client: &u32| Member { client, down: self.down(round, client) };
        let members = roll.present.iter().map(&mut member).collect();
        let lost: Vec<Member> = roll.lost.iter().map(&mut member).collect();
        let lost = lost.into_iter().map(|member| {
            let tier = &self.tiers[member.client as usize];
            Lost { member, lora: tier.own_lora(&self.lora) }
        });
        let lost = lost.collect();
        let pace = |&client: &u32| {
            let slowdown = federate.clients.slowdown(round, client, self.sampling);
            self.tiers[client as usize].pace(slowdown)
        };
        let clock = Clock {
            paces: roll.present.iter().map(pace).collect(),
            deadline: federate.clients.deadline,
        };
        let is_timed = self.tiers.iter().any(|tier| tier.pace(1.0).is_timed());
        let session = Session {
            round,
            population: self.all,
            members,
            lost,
            losses,
            codec: federate.codec,
            clock: is_timed.then_some(clock),
            seed: self.server,
            guard: federate.privacy.map(|privacy| {
                privacy.guard(
                    federate.clients.rate(self.all),
                    federate.clients.expected(self.all),
                    federate.clients.poisson.is_some(),
                    self.noise,
                )
            }),
        };
        for (client, adapter) in roll.present.iter().zip(&trained) {
            self.own.insert(*client, adapter.clone());
        }
        let server = Aggregate {
            from: global.clone(),
            clients: trained,
            rule: federate.aggregate,
            head: federate.head,
            weights: federate.weights,
            server: federate.server,
            session: Some(session),
        };
        to.add_for(step, server, Some(round), None)
    }

    fn training(&self, round: u32, client: u32, global: &In<Adapter>) -> LocalTraining {
        let (federate, tier) = (self.federate, &self.tiers[client as usize]);
        let rule = &federate.aggregate;
        let (control, prune) = (rule.controls(), rule.prune());
        let keeps = federate.keeps();
        // In the first round there is nothing of its own yet, and the step is the same for every rule that starts
        // alike.
        let has_own = !keeps.is_none() || control || prune.is_some();
        let own = self.own.get(&client).filter(|_| has_own).cloned();
        let trains = rule.trains(round);
        let factors = if trains.has(Parts::CORE) { Parts::NONE } else { Parts::FACTORS & !trains };
        let head = if federate.head == Head::Frozen { Parts::HEAD } else { Parts::NONE };
        LocalTraining {
            base: federate.base.clone(),
            shard: federate.shards.part(&partition::client(client)),
            from: global.clone(),
            keeps: if own.is_some() { keeps } else { Parts::NONE },
            own,
            lora: tier.own_lora(&self.lora),
            local: tier.numbers(federate.local.numbers(round)),
            seed: local_seed(self.local, round, client),
            frozen: factors | head,
            control,
            prune,
            prefix: self.prefixes.get(&client).cloned(),
        }
    }

    /// Adds the steps that keep the hidden states of those clients that take part for the first time.
    fn add_prefixes(&mut self, round: u32, roll: &Roll, to: &mut Unroll<'_>) {
        let Some(below) = self.below else { return };
        for &client in &roll.present {
            if self.prefixes.contains_key(&client) {
                continue;
            }
            let part = partition::client(client);
            let states = PrefixStates {
                base: self.federate.base.clone(),
                tokens: self.federate.shards.part(&part),
                below,
                precision: self.federate.local.precision,
            };
            let step = format!("{}/prefix/{part}", self.name);
            self.prefixes.insert(client, to.add_for(step, states, Some(round), Some(client)));
        }
    }

    /// What a client is sent at the start of a round: all that has changed since it was last sent something, but for
    /// what it keeps to itself, what it is sent by a broadcast, and what it can make itself of a seed or of the base.
    fn down(&mut self, round: u32, client: u32) -> Parts {
        let federate = self.federate;
        let rule = &federate.aggregate;
        let all = if rule.broadcast() != Broadcast::None {
            Parts::HEAD
        } else if rule.trains(round).has(Parts::CORE) {
            Parts::CORE | Parts::HEAD
        } else {
            Parts::FACTORS | Parts::HEAD
        };
        let sent = all & !federate.keeps();
        match self.held.insert(client, round) {
            // An adapter that was trained before comes from no seed.
            None if federate.from.is_some() => Parts::FACTORS | Parts::HEAD,
            None => sent,
            Some(last) => {
                let frozen = if federate.head == Head::Frozen { Parts::HEAD } else { Parts::NONE };
                let changed = (last..round).fold(Parts::NONE, |all, at| all | rule.trains(at));
                sent & changed & !frozen
            }
        }
    }
}

/// The seed of one client's local training in one round.
pub(crate) fn local_seed(local: u64, round: u32, client: u32) -> u64 {
    seed::derive(local, &["round", &round.to_string(), "client", &client.to_string()])
}
