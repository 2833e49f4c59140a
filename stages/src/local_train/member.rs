//! One client of a cohort, as the optimizer sees it.

use super::control::Control;
use super::prune::Prune;
use super::{TrainError, prune};
use crate::model::{Base, Layout, LoraConfig};
use crate::objective::Objective;
use crate::parts::Parts;
use crate::peft::AdapterTensors;

/// A client as the optimizer sees it.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The adapter that training starts from.
    pub adapter: &'a AdapterTensors,
    /// Its LoRA settings.
    pub lora: &'a LoraConfig,
    /// What its dropout masks are drawn from.
    pub seed: u64,
    /// The number of steps that it will be trained for, which its learning rates depend on.
    pub steps: u64,
    /// What its examples are read for.
    pub objective: &'a Objective,
    /// The parts of its adapter that stay as they are.
    pub frozen: Parts,
    /// SCAFFOLD's control variates.
    pub control: Option<Control<'a>>,
    /// Whether and how it prunes its own rank.
    pub prune: Option<Prune>,
}

impl<'a> Client<'a> {
    /// A client that trains its whole adapter by the gradient of its loss alone.
    pub fn new(
        adapter: &'a AdapterTensors,
        lora: &'a LoraConfig,
        seed: u64,
        steps: u64,
        objective: &'a Objective,
    ) -> Self {
        let (frozen, control, prune) = (Parts::NONE, None, None);
        Self { adapter, lora, seed, steps, objective, frozen, control, prune }
    }
}

/// The parts of `adapter` that local training changes where `frozen` stay as they are.
///
/// The factors beside a core are constants (Fed-SB): only cores and the classifier are trained then.
pub fn trained_parts(adapter: &AdapterTensors, frozen: Parts) -> Parts {
    let inner = if adapter.has_cores() { Parts::CORE } else { Parts::FACTORS };
    (inner | Parts::HEAD) & !frozen
}

/// What stays the same for a client from step to step.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// The layout of its whole adapter.
    pub(super) own: Layout,
    /// The layout of what is trained of it.
    pub(super) trained: Layout,
    /// The layout of the rest.
    pub(super) still: Layout,
    /// The rest itself.
    constants: AdapterTensors,
    /// The weight of its penalty, and the rank that it may be pruned to.
    pub(super) prune: Option<(f64, usize)>,
    pub(super) dropout: f64,
    pub(super) seed: u64,
    pub(super) steps: u64,
}

impl Member {
    pub(super) fn new(base: &Base, client: &Client<'_>) -> Result<Self, TrainError> {
        match (client.objective.is_causal(), client.adapter.classes()) {
            (false, 0) => return Err(TrainError::NoClassifier),
            (true, 1..) => return Err(TrainError::Classifier),
            _ => {}
        }
        let own = Layout::of(base.config(), client.lora, client.adapter)?;
        let parts = trained_parts(client.adapter, client.frozen);
        let trained = own.only(parts);
        if trained.entries().is_empty() {
            return Err(TrainError::NothingTrained);
        }
        let prune = client.prune.map(|prune| {
            let rank = prune::check(prune, &own, parts)?;
            Ok::<_, TrainError>((prune.lambda, prune.kept(rank)))
        });
        Ok(Self {
            still: own.only(!parts),
            own,
            trained,
            constants: client.adapter.only(!parts),
            prune: prune.transpose()?,
            dropout: client.lora.dropout,
            seed: client.seed,
            steps: client.steps,
        })
    }

    /// The whole adapter of which `trained` is what was trained.
    pub(super) fn adapter(&self, trained: &AdapterTensors) -> AdapterTensors {
        self.constants.clone().overlaid(trained)
    }
}
