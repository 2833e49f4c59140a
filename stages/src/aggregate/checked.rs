//! A round whose updates fit together, and what the rules read of it.

use rayon::prelude::*;

use super::errors::errors;
use super::fedavg::mean;
use super::method::Method;
use super::modules::{Module, modules};
use super::{AggregateError, Outcome, Round, Update};
use crate::linear::Matrix;
use crate::parts::Parts;
use crate::peft::{self, AdapterTensors, Delta};

/// A round that can be aggregated.
pub(super) struct Checked<'a> {
    pub(super) round: &'a Round<'a>,
    /// The clients that count.
    pub(super) clients: Vec<&'a Update<'a>>,
    /// `p_k`; equal ones where the rule does not weigh.
    pub(super) shares: Vec<f64>,
    /// The adapted modules in the order of their tensors.
    pub(super) modules: Vec<Module>,
    /// The names of the tensors that were trained and sent.
    trained: Vec<&'a str>,
}

/// One tensor in f64, of all who have it.
pub(super) struct Wide<'a> {
    pub(super) name: &'a str,
    /// That of the adapter the clients started from.
    pub(super) from: Vec<f64>,
    /// The clients'.
    pub(super) clients: Vec<Vec<f64>>,
}

impl<'a> Checked<'a> {
    /// Checks what `method` is given. There is at least one client.
    pub(super) fn new(round: &'a Round<'a>, method: &dyn Method) -> Result<Self, AggregateError> {
        let first = round.clients[0].adapter;
        let fits = |update: &Update<'_>| {
            update.adapter.iter().map(|(name, ..)| name).eq(first.iter().map(|(name, ..)| name))
                && fits(update.adapter, round.from, method.takes_ranks())
        };
        if let Some(client) = round.clients.iter().position(|update| !fits(update)) {
            return Err(AggregateError::Unlike { client });
        }
        let clients = counting(round.clients, method.weighs())?;
        let needed = method.least_clients();
        if clients.len() < needed {
            let (rule, found) = (method.name(), clients.len());
            return Err(AggregateError::TooFew { rule, needed, found });
        }
        let weight = |update: &&Update<'_>| if method.weighs() { update.weight } else { 1.0 };
        let total: f64 = clients.iter().map(weight).sum();
        let shares = clients.iter().map(|update| weight(update) / total).collect();
        // A server's step is one on whatever it is given, cores included.
        let trains = method.trains(round.number) | Parts::CORE;
        let trained =
            first.iter().map(|(name, ..)| name).filter(|name| trains.has(Parts::of(name)));
        let modules = modules(round, &clients)?;
        Ok(Self { round, trained: trained.collect(), shares, modules, clients })
    }

    /// What `make` makes of each tensor of `parts` that was trained, in the order of their names, with name and
    /// shape. One tensor a thread is held in f64.
    pub(super) fn map<T: Send>(
        &self,
        parts: Parts,
        make: impl Fn(&Wide<'_>) -> T + Sync,
    ) -> Vec<(&'a str, [usize; 2], T)> {
        let names = self.trained.par_iter().filter(|name| parts.has(Parts::of(name)));
        let tensors = names.map(|name| {
            let (shape, from) = self.tensor(self.round.from, name);
            let clients = self.clients.iter().map(|client| self.tensor(client.adapter, name).1);
            let clients = clients.map(widen).collect();
            (*name, shape, make(&Wide { name, from: widen(from), clients }))
        });
        tensors.collect()
    }

    /// The adapter that the clients started from, with other values in some tensors.
    pub(super) fn replaced<'n>(
        &self,
        tensors: impl IntoIterator<Item = (&'n str, [usize; 2], Vec<f64>)>,
    ) -> AdapterTensors {
        let from = self.round.from.clone();
        tensors.into_iter().fold(from, |adapter, (name, shape, values)| {
            adapter.with(name, shape, values.into_iter().map(narrow).collect())
        })
    }

    /// The adapter that the clients started from, with `make`'s values in the trained tensors of `parts`.
    pub(super) fn each(
        &self,
        parts: Parts,
        make: impl Fn(&Wide<'_>) -> Vec<f64> + Sync,
    ) -> AdapterTensors {
        self.replaced(self.map(parts, make))
    }

    /// The same with the mean by `p_k`.
    pub(super) fn averaged(&self, parts: Parts) -> AdapterTensors {
        self.each(parts, |tensor| mean(&self.shares, &tensor.clients))
    }

    /// What `make` makes of each module, in their order.
    pub(super) fn by_module<T: Send>(&self, make: impl Fn(&Module) -> T + Sync) -> Vec<T> {
        self.modules.par_iter().map(&make).collect()
    }

    /// The adapter with these factors A and B of the modules, in their order, and the mean of all that is no factor.
    pub(super) fn with_factors(&self, factors: Vec<[Matrix; 2]>) -> AdapterTensors {
        let mut adapter = self.averaged(Parts::HEAD);
        for (module, factors) in self.modules.iter().zip(factors) {
            for (name, factor) in peft::factor_names(&module.path).iter().zip(factors) {
                adapter = adapter.with(name, factor.shape(), factor.to_f32());
            }
        }
        adapter
    }

    /// The outcome with its errors; the base gains `delta`, and the adapter stands for the rest.
    pub(super) fn outcome(&self, adapter: AdapterTensors, delta: Option<Delta>) -> Outcome {
        let (errors, error) = errors(self, &adapter, delta.as_ref());
        Outcome { delta, errors, error, ..Outcome::of(adapter, self.round.lora.clone()) }
    }

    /// A tensor of `adapter`, or of the adapter that the clients started from where it is not sent.
    pub(super) fn tensor<'t>(
        &self,
        adapter: &'t AdapterTensors,
        name: &str,
    ) -> ([usize; 2], &'t [f32])
    where
        'a: 't,
    {
        let found = adapter.get(name).or_else(|| self.round.from.get(name));
        found.expect("every update was checked to have no other names than the adapter before")
    }
}

/// Whether an update has no names that `from` lacks, and its shapes, but for the ranks where they are free.
fn fits(update: &AdapterTensors, from: &AdapterTensors, takes_ranks: bool) -> bool {
    update.iter().all(|(name, shape, _)| match (from.get(name), Parts::of(name)) {
        (Some((other, _)), Parts::A) if takes_ranks => shape[1] == other[1] && shape[0] > 0,
        (Some((other, _)), Parts::B) if takes_ranks => shape[0] == other[0] && shape[1] > 0,
        (Some((other, _)), _) => shape == other,
        (None, _) => false,
    })
}

/// The clients that have an example, or all where that does not matter.
fn counting<'a>(
    clients: &'a [Update<'a>],
    weighs: bool,
) -> Result<Vec<&'a Update<'a>>, AggregateError> {
    if !weighs {
        return Ok(clients.iter().collect());
    }
    for (client, &Update { weight, .. }) in clients.iter().enumerate() {
        if !weight.is_finite() || weight < 0.0 {
            return Err(AggregateError::Weight { client, weight });
        }
    }
    let counting: Vec<&Update<'_>> = clients.iter().filter(|update| update.weight > 0.0).collect();
    if counting.is_empty() { Err(AggregateError::NoWeight) } else { Ok(counting) }
}

pub(super) fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
