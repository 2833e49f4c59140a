//! What a rule is given, and what it gives.

use crate::model::LoraConfig;
use crate::peft::{AdapterTensors, Delta};

/// The server's side of one round.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// N, the number of clients that there are, sampled or not.
    pub population: usize,
    /// The global adapter that the clients started from.
    pub from: &'a AdapterTensors,
    /// Its settings.
    pub lora: &'a LoraConfig,
    /// What the rule left in [`Outcome::state`] in the round before.
    pub state: Option<&'a AdapterTensors>,
    /// The clients that came back, in the order of their numbers.
    pub clients: &'a [Update<'a>],
    /// The seed of factors that are drawn anew.
    pub seed: u64,
}

/// One client's part in a round.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// `n_k`, the number of examples that it was trained on; 1 for all where they shall count alike.
    pub weight: f64,
    /// Its adapter as the server has it: what was sent, laid over what the client had received. Names that all
    /// clients lack (the classifier, where it is not shared) stay as they are in [`Round::from`].
    pub adapter: &'a AdapterTensors,
    /// The settings of its adapter: its own ranks and alphas.
    pub lora: &'a LoraConfig,
    /// The loss of the adapter that it received on its own examples, for the rules that ask for it.
    pub loss: Option<f64>,
    /// What its control variate has changed by, `c_i⁺ − c_i`, by the names of the trained tensors (SCAFFOLD).
    pub control: Option<&'a AdapterTensors>,
}

/// What a round has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The global adapter.
    pub adapter: AdapterTensors,
    /// Its settings.
    pub lora: LoraConfig,
    /// What the server keeps for the next round: tensors named `momentum/…`, `second/…` or `control/…` after those
    /// of the adapter, in f32 as all artifacts are.
    pub state: Option<AdapterTensors>,
    /// What was added to the base in this round alone.
    pub delta: Option<Delta>,
    /// An approximation of the adapter, for export, where there is no global one (FedSA-LoRA).
    pub stand_in: Option<AdapterTensors>,
    /// `e_agg = ‖ΔW* − ΔW‖ / ‖ΔW*‖` (Frobenius) by the module's path, with the rule's own shares in ΔW*: those of
    /// the examples where it weighs, equal ones where it does not. ΔW is what the base and the adapter have gained:
    /// the delta and `s·B·A`. A module whose ΔW* is zero is left out, unless ΔW is zero as well.
    pub errors: Vec<(String, f64)>,
    /// The same over all modules, `√(Σ‖ΔW* − ΔW‖² / Σ‖ΔW*‖²)`; none where no module was aggregated.
    pub error: Option<f64>,
    /// The clients that a rule of the Krum family chose, by their places in [`Round::clients`].
    pub picked: Option<Vec<usize>>,
}

impl Outcome {
    /// An outcome that is an adapter and no more.
    pub(super) fn of(adapter: AdapterTensors, lora: LoraConfig) -> Self {
        Self {
            adapter,
            lora,
            state: None,
            delta: None,
            stand_in: None,
            errors: Vec::new(),
            error: None,
            picked: None,
        }
    }
}
