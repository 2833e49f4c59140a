//! The server's part of a round.

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    aggregate::{Outcome, Round, Rule, Update},
    check::Check,
    codec::Codec,
    edge::In,
    error::Result,
    federate::{Clock, OwnLora},
    kinds::{Adapter, AdapterConfig, Head, ShardScore},
    model::LoraConfig,
    node::GraphStage,
    parts::Parts,
    peft::{AdapterTensors, SCORE},
    privacy::Guard,
    stage::{Context, Stage},
    steps::exchange::Received,
    unroll::Unroll,
};

/// What a client counts for in a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Weights {
    /// The number of its training examples.
    #[default]
    Examples,
    /// As much as any other.
    Uniform,
}

impl Weights {
    /// Whether this is the default, which is not written.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub fn is_examples(&self) -> bool {
        *self == Self::Examples
    }
}

/// Makes one adapter of the clients' adapters, by a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The adapter that the clients started from.
    pub from: In<Adapter>,
    /// The clients' adapters, in the order of their numbers. Each carries its example count.
    pub clients: Vec<In<Adapter>>,
    /// How.
    #[serde(default)]
    pub rule: Rule,
    /// What becomes of the classifier: unless it is shared, that of `from` stays as it is.
    #[serde(default, skip_serializing_if = "Head::is_shared")]
    pub head: Head,
    /// What a client counts for in a mean.
    #[serde(default, skip_serializing_if = "Weights::is_examples")]
    pub weights: Weights,
    /// A server optimiser that takes what the rule comes to for its pseudo-gradient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Rule>,
    /// The round of a federation that this is the end of.
    #[serde(default, skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
}

/// A client of a round, and what it was sent at its start. Written as its number, with the parts behind it where they
/// are not the whole adapter.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its number.
    pub client: u32,
    /// The parts of the adapter that it did not have yet.
    pub down: Parts,
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.down == Parts::FACTORS | Parts::HEAD {
            return to.serialize_u32(self.client);
        }
        to.collect_str(&format_args!("{} {}", self.client, self.down))
    }
}

/// A client that was sent the adapter and never came back.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lost {
    /// Who it is.
    pub member: Member,
    /// Its own rank and alpha, where they are not those of the global adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<OwnLora>,
}

/// What the server knows of a round beside the adapters.
#[derive(Clone, Debug, Serialize)]
pub struct Session {
    /// Its number, from 1.
    pub round: u32,
    /// The number of all clients.
    pub population: u32,
    /// Those that train, in the order of the adapters.
    pub members: Vec<Member>,
    /// Those that were sent the adapter and never came back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// The loss of the adapter that each client received, where the rule needs it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<In<ShardScore>>,
    /// How what clients send is encoded.
    #[serde(skip_serializing_if = "Codec::is_f32")]
    pub codec: Codec,
    /// The virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Clock>,
    /// Clipping and noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Seed of what the server draws: fresh factors.
    pub seed: u64,
}

impl Session {
    /// That of clients that are just there, in no federation.
    fn alone(clients: usize) -> Self {
        let numbers = (0..).take(clients);
        Self {
            round: 1,
            population: u32::try_from(clients).unwrap_or(u32::MAX),
            members: numbers
                .map(|client| Member { client, down: Parts::FACTORS | Parts::HEAD })
                .collect(),
            lost: Vec::new(),
            losses: Vec::new(),
            codec: Codec::F32,
            clock: None,
            guard: None,
            seed: 0,
        }
    }
}

impl GraphStage for Aggregate {
    type Makes = Adapter;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let path = format!("{name}.clients");
        check.require(!self.clients.is_empty(), path, "there is nothing to aggregate");
        let path = format!("{name}.rule");
        if let Err(wrong) = self.rule.check() {
            check.complain(path.clone(), wrong.to_string(), None);
        }
        let (rule, least) = (self.rule.name(), self.rule.least_clients());
        let message = format!("`{rule}` needs at least {least} clients");
        check.require(self.clients.len() >= least, path.clone(), message);
        let message = format!(
            "`{rule}` needs a `Federate`: it goes by what clients send or keep beside their adapters, or by cores that \
             only a federation begins with"
        );
        let alone = !self.rule.needs_loss()
            && !self.rule.controls()
            && !self.rule.trains(1).has(Parts::CORE)
            && self.rule.personal() != Parts::ALL;
        check.require(alone, path, message);
        check_server(&self.rule, self.server.as_ref(), &format!("{name}.server"), check);
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        to.add(name, self.clone());
        Ok(())
    }
}

impl Stage for Aggregate {
    const NAME: &'static str = "aggregate";
    const VERSION: u32 = 2;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let session = match &self.session {
            Some(session) => session.clone(),
            None => Session::alone(self.clients.len()),
        };
        let tree = cx.tree(&self.from)?;
        let state = tree.blob_if_there(Adapter::STATE)?;
        let state = state.map(|state| AdapterTensors::from_safetensors(&state)).transpose()?;
        let mut start = cx.open(&self.from)?;
        let labels = std::mem::take(&mut start.config.labels);
        let clients = self.receive(cx, &session, &start)?;
        let mut back: Vec<&Received> = clients.iter().filter(|client| !client.is_late).collect();
        let least = self.rule.least_clients();
        if back.len() < least.max(1) {
            cx.note(&match back.len() {
                0 => "no client came back in time: the adapter stays as it was".to_owned(),
                few => format!(
                    "only {few} came back in time, and `{}` needs {least}: the adapter stays as it was",
                    self.rule.name()
                ),
            });
            back.clear();
        }
        let global = Global { tensors: self.shared(&start.tensors), lora: &start.config.lora };
        let outcome = self.combine(&session, &global, state.as_ref(), &back)?;
        self.tell(cx, &session, &global, &outcome, &clients, &back)?;

        let Outcome { adapter, lora, state, delta, stand_in, .. } = outcome;
        let mut tensors = adapter;
        if let Some((shape, values)) = start.tensors.get(SCORE).filter(|_| !self.head.is_shared()) {
            tensors = tensors.with(SCORE, shape, values.to_vec());
        }
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        let mut all = start.delta.unwrap_or_default();
        all.append(delta.unwrap_or_default());
        if !all.is_empty() {
            cx.out().bytes(Adapter::DELTA, &all.to_safetensors())?;
        }
        if let Some(state) = state {
            cx.out().bytes(Adapter::STATE, &state.to_safetensors())?;
        }
        let stand_in = match stand_in {
            // What a step of the server has made of the shared part is in it, too.
            Some(stand_in) => Some(stand_in.overlaid(&tensors.only(self.sent(session.round)))),
            // After a round without anybody the one before still stands.
            None if back.is_empty() => Adapter::stand_in(&tree)?,
            None => None,
        };
        if let Some(stand_in) = stand_in {
            cx.out().bytes(Adapter::STAND_IN, &stand_in.to_safetensors())?;
        }
        cx.write_json(Adapter::CONFIG, &AdapterConfig { lora, labels })
    }
}

/// Says why a server optimiser cannot stand behind a rule. It takes the change from one global adapter to the next for
/// a gradient, so the next must be of the same factors.
pub(super) fn check_server(rule: &Rule, server: Option<&Rule>, path: &str, check: &mut Check<'_>) {
    let Some(server) = server else { return };
    if let Err(wrong) = server.check() {
        check.complain(path.to_owned(), wrong.to_string(), None);
    }
    let (name, behind) = (rule.name(), server.name());
    let message = match rule {
        _ if !server.is_server_optimizer() => format!(
            "`{behind}` is no server optimiser; FedAvgM, FedAdam, FedYogi and FedAdagrad are"
        ),
        Rule::FLoRA | Rule::FedExLoRA | Rule::FlexLoRA => format!(
            "`{name}` makes new factors in every round, so momentum over the old ones has no meaning: a server \
             optimiser needs a rule that keeps them"
        ),
        Rule::Local => "`Local` averages nothing, so there is no step for a server".to_owned(),
        Rule::Scaffold(_) | Rule::QFedAvg(_) => {
            format!("`{name}` has a server step of its own: set its `lr`")
        }
        rule if rule.is_server_optimizer() => format!(
            "there are two server optimisers, `{name}` and `{behind}`: give `aggregate` a rule that averages"
        ),
        _ => return,
    };
    check.complain(path.to_owned(), message, None);
}

/// The global adapter of a round, as far as the rule has to do with it.
pub(super) struct Global<'a> {
    pub(super) tensors: AdapterTensors,
    pub(super) lora: &'a LoraConfig,
}

impl Global<'_> {
    /// What a rule is told of a round.
    fn round<'a>(
        &'a self,
        session: &Session,
        clients: &'a [Update<'a>],
        state: Option<&'a AdapterTensors>,
    ) -> Round<'a> {
        Round {
            number: session.round,
            population: session.population as usize,
            from: &self.tensors,
            lora: self.lora,
            state,
            clients,
            seed: session.seed,
        }
    }
}

impl Aggregate {
    /// The tensors that the rule has to do with.
    pub(super) fn shared(&self, tensors: &AdapterTensors) -> AdapterTensors {
        if self.head.is_shared() { tensors.clone() } else { tensors.without(SCORE) }
    }

    /// What clients send in a round.
    pub(super) fn sent(&self, round: u32) -> Parts {
        let head = if self.head.is_shared() { Parts::NONE } else { Parts::HEAD };
        self.rule.trains(round) & !self.rule.personal() & !head
    }

    /// What the server makes of what came back.
    fn combine(
        &self,
        session: &Session,
        global: &Global<'_>,
        state: Option<&AdapterTensors>,
        back: &[&Received],
    ) -> Result<Outcome> {
        let weight = |client: &Received| match self.weights {
            Weights::Examples => client.trained.examples as f64,
            Weights::Uniform => 1.0,
        };
        let updates: Vec<Update<'_>> = back
            .iter()
            .map(|client| Update {
                weight: weight(client),
                adapter: &client.adapter,
                lora: &client.lora,
                loss: client.loss,
                control: client.control.as_ref(),
            })
            .collect();
        let acts = session.guard.as_ref().filter(|guard| guard.acts_on_mean(back.len()));
        if back.is_empty() && acts.is_none() {
            return Ok(self.rule.aggregate(&global.round(session, &[], state))?);
        }
        // Noise goes on the mean itself, before any step of the server.
        let (rule, server) = match (acts, self.server.as_ref()) {
            (Some(_), None) if self.rule.is_server_optimizer() => (&Rule::FedAvg, Some(&self.rule)),
            (_, server) => (&self.rule, server),
        };
        let own_state = state.filter(|_| server.is_none());
        let mut outcome = rule.aggregate(&global.round(session, &updates, own_state))?;
        let parts = self.sent(session.round);
        if let Some(guard) = acts {
            let (mean, before) = (outcome.adapter.only(parts), global.tensors.only(parts));
            let (flat, received) = (mean.flatten(), before.flatten());
            // The mean over nobody is what there was.
            let released = guard.release(&flat, &received, back.len(), session.round);
            outcome.adapter = outcome.adapter.overlaid(&mean.with_values(&released));
            outcome.stand_in = None;
        }
        if let Some(server) = server {
            let (mean, before) = (outcome.adapter.only(parts), global.tensors.only(parts));
            let mean = [Update {
                weight: 1.0,
                adapter: &mean,
                lora: global.lora,
                loss: None,
                control: None,
            }];
            let step = server
                .aggregate(&Round { from: &before, ..global.round(session, &mean, state) })?;
            outcome.adapter = outcome.adapter.overlaid(&step.adapter);
            outcome.state = step.state;
        }
        if acts.is_some() || server.is_some() {
            // Told of what goes on, and not of what it was made from.
            let shown = outcome.stand_in.as_ref().unwrap_or(&outcome.adapter);
            let is_whole = self.rule.personal().is_none() || outcome.stand_in.is_some();
            let shown = is_whole.then(|| shown.clone().overlaid(&outcome.adapter.only(parts)));
            (outcome.errors, outcome.error) = match shown {
                Some(shown) if !back.is_empty() => self.rule.errors(
                    &global.round(session, &updates, None),
                    &shown,
                    outcome.delta.as_ref(),
                )?,
                _ => (Vec::new(), None),
            };
        }
        Ok(outcome)
    }
}
