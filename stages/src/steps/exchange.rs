//! What goes between a server and its clients in a round, and what there is to tell of it.

use super::{
    aggregate::{Aggregate, Global, Lost, Session},
    shard_loss::{Loss, ShardLoss},
};
use crate::{
    aggregate::{Broadcast, Outcome, for_rank},
    codec::Codec,
    error::{Error, Result},
    kinds::{Adapter, Trained},
    ledger::{self, Ledger, Shapes},
    model::LoraConfig,
    parts::Parts,
    peft::AdapterTensors,
    privacy::Statement,
    stage::Context,
};

/// What the server has of one client.
pub(super) struct Received {
    pub(super) trained: Trained,
    /// Its settings.
    pub(super) lora: LoraConfig,
    /// What it had received, with what it sent in its place.
    pub(super) adapter: AdapterTensors,
    pub(super) control: Option<AdapterTensors>,
    pub(super) loss: Option<f64>,
    /// Its number.
    pub(super) number: u32,
    /// Bytes that it sent.
    pub(super) up: u64,
    /// Bytes that it was sent.
    pub(super) down: u64,
    /// On the virtual clock.
    pub(super) seconds: f64,
    pub(super) is_late: bool,
}

impl Aggregate {
    /// Takes in what each client sends: clipped and noised as it asks for, encoded, and decoded again.
    pub(super) fn receive(
        &self,
        cx: &Context<'_>,
        session: &Session,
        start: &Adapter,
    ) -> Result<Vec<Received>> {
        let mut all = Vec::with_capacity(self.clients.len());
        let shared = Global { tensors: self.shared(&start.tensors), lora: &start.config.lora };
        let whole = Global { tensors: start.tensors.clone(), lora: &start.config.lora };
        for (at, edge) in self.clients.iter().enumerate() {
            let client = cx.open(edge)?;
            let trained = client.trained.as_ref().ok_or_else(|| {
                Error::input(format!(
                    "`{}` was not locally trained, so it has no weight",
                    edge.name()
                ))
            })?;
            let member = session.members[at];
            let lora = client.config.lora;
            let had = for_rank(&shared.tensors, shared.lora, &lora)?;
            let own = self.shared(&client.tensors);
            let parts = self.sent(session.round);
            let (sent, before) = (own.only(parts), had.only(parts));
            if !sent.same_shapes(&before) {
                return Err(Error::input(format!(
                    "the adapter of `{}` has other tensors or shapes than the one it started from",
                    edge.name()
                )));
            }
            let before = before.flatten();
            let mut values = sent.flatten();
            let (mut up, mut control) = (0, None);
            if !values.is_empty() {
                if let Some(guard) = &session.guard {
                    values = guard.protect(values, &before, session.round, member.client);
                }
                let message = session.codec.encode(&values, &before);
                up = message.len() as u64;
                values = session.codec.decode(&message, &before)?;
                if let Some(guard) = session.guard.as_ref().filter(|_| !session.codec.is_f32()) {
                    // What was lost on the way may have made the update longer than its bound.
                    values = guard.bounded(values, &before);
                }
            }
            if self.rule.controls() {
                // In f32 whatever the codec is: the client goes on with the very change that the server adds.
                let change = cx.tree(edge)?.blob(Adapter::CONTROL_CHANGE)?;
                let change = AdapterTensors::from_safetensors(&change)?.only(parts);
                let flat = change.flatten();
                up += Codec::F32.encode(&flat, &flat).len() as u64;
                control = Some(change);
            }
            let started = trained.pruned_from.map(|rank| lora.of_other_rank(rank));
            let down = self.down_bytes(&whole, started.as_ref().unwrap_or(&lora), member.down)?;
            let loss = match session.losses.get(at) {
                Some(loss) => Some(cx.tree(loss)?.json::<Loss>(ShardLoss::LOSS)?.loss),
                None => None,
            };
            let clock = session.clock.as_ref();
            let seconds =
                clock.map_or(0.0, |clock| clock.paces[at].seconds(down, trained.tokens, up));
            all.push(Received {
                trained: trained.clone(),
                // What a client keeps to itself never reaches a real server; here it serves to say how far the
                // rule is from the mean of all.
                adapter: had
                    .overlaid(&own.only(self.rule.personal()))
                    .overlaid(&sent.with_values(&values)),
                lora,
                control,
                loss,
                number: member.client,
                up,
                down,
                seconds,
                is_late: clock.is_some_and(|clock| clock.is_late(seconds)),
            });
        }
        Ok(all)
    }

    /// Tells the figures of a round. They are kept with the record and not in the adapter's tree, so that a clock or a
    /// δ changes no key of what follows.
    pub(super) fn tell(
        &self,
        cx: &mut Context<'_>,
        session: &Session,
        global: &Global<'_>,
        outcome: &Outcome,
        clients: &[Received],
        back: &[&Received],
    ) -> Result<()> {
        let broadcast = self.broadcast_bytes(&outcome.adapter, back)?;
        let mut ledger = Ledger::new(session.population, broadcast);
        for client in clients {
            ledger.add(client.number, client.up, client.down);
        }
        for Lost { member, lora } in &session.lost {
            let own = lora.map(|own| own.of(global.lora));
            let lora = own.as_ref().unwrap_or(global.lora);
            ledger.add(member.client, 0, self.down_bytes(global, lora, member.down)?);
        }
        cx.metric("bytes_up", ledger.total().up as f64);
        cx.metric("bytes_down", ledger.total().down as f64);
        for sent in ledger.clients() {
            cx.client_metric(sent.client, "bytes_up", sent.up as f64);
            cx.client_metric(sent.client, "bytes_down", (sent.down + broadcast) as f64);
        }
        let (examples, loss) = back.iter().fold((0, 0.0), |(examples, loss), client| {
            let Trained { examples: own, mean_loss, .. } = &client.trained;
            (examples + own, loss + mean_loss * *own as f64)
        });
        if examples > 0 {
            cx.metric("train_loss", loss / examples as f64);
        }
        cx.metric("clients", back.len() as f64);
        if let Some(error) = outcome.error {
            cx.metric("e_agg", error);
        }
        for (path, error) in &outcome.errors {
            cx.metric(&format!("e_agg/{path}"), *error);
        }
        for &at in outcome.picked.iter().flatten() {
            cx.client_metric(back[at].number, "picked", 1.0);
        }
        if let Some(clock) = &session.clock {
            let seconds: Vec<f64> = clients.iter().map(|client| client.seconds).collect();
            let round = clock.round(&seconds, !session.lost.is_empty());
            cx.metric("simulated_seconds", round + clock.broadcast(broadcast));
        }
        if let Some(guard) = session.guard.filter(|_| !self.sent(session.round).is_none()) {
            let Statement { epsilon, assumes, .. } = guard.spent(session.round);
            if let Some(epsilon) = epsilon {
                cx.metric("epsilon", epsilon);
                if session.round == 1 {
                    cx.note(&format!(
                        "{assumes}; losses and `e_agg` are of the simulation, and not covered"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The bytes of what a client of these settings is sent at the start of a round.
    fn down_bytes(&self, global: &Global<'_>, lora: &LoraConfig, parts: Parts) -> Result<u64> {
        let values = for_rank(&global.tensors, global.lora, lora)?.only(parts).flatten();
        let bytes = Codec::F32.encode(&values, &values).len() as u64;
        Ok(bytes * u64::from(self.rule.copies()))
    }

    /// The bytes that every client of the population is sent at the end of the round.
    fn broadcast_bytes(&self, adapter: &AdapterTensors, back: &[&Received]) -> Result<u64> {
        let adapter = match self.rule.broadcast() {
            _ if back.is_empty() => return Ok(0),
            Broadcast::None => return Ok(0),
            Broadcast::Stack => 0,
            Broadcast::Residual => Shapes::of(adapter)?.bytes(Parts::FACTORS, Codec::F32),
        };
        let shapes = back.iter().map(|client| Shapes::of(&client.adapter));
        let shapes = shapes.collect::<Result<Vec<_>, _>>()?;
        Ok(adapter + 4 * ledger::merged(&shapes) as u64)
    }
}
