//! How the adapters of a round's clients become one.
//!
//! A rule is one file with a `Method`, a variant of [`Rule`] and a line in `Rule::method`. What it is given is a
//! [`Round`], what it gives an [`Outcome`]. All sums are in f64 and in the order of the clients, and are narrowed to
//! f32 once, at the end; so the same round gives the same bytes on every machine and for any number of threads.
//!
//! `p_k` is a client's share of the examples, `s_k` the scale of its adapter, and `ΔW* = Σ p_k·s_k·B_k·A_k` what the
//! clients have learnt together: an *exact* rule gives just that, and the error of the others is told by module
//! ([`Outcome::errors`]).

mod adaptive;
mod bulyan;
mod checked;
mod distance;
mod error;
mod errors;
mod fed_sb;
mod fedadagrad;
mod fedadam;
mod fedavg;
mod fedavgm;
mod fedex_lora;
mod fedsa_lora;
mod fedyogi;
mod ffa_lora;
mod flex_lora;
mod flora;
mod het_lora;
mod krum;
mod local;
mod lora_fair;
mod median;
mod method;
mod modules;
mod multi_krum;
mod q_fedavg;
mod rank;
mod ro_lora;
mod round;
mod scaffold;
mod state;
#[cfg(test)]
mod tests;
mod trimmed_mean;

use serde::{Deserialize, Serialize};

pub use crate::ledger::Broadcast;
pub use adaptive::Convention;
pub use bulyan::Bulyan;
pub use distance::Distance;
pub use error::{AggregateError, RuleError};
pub use errors::Errors;
pub use fedadagrad::FedAdagrad;
pub use fedadam::FedAdam;
pub use fedavgm::FedAvgM;
pub use fedyogi::FedYogi;
pub use het_lora::{HetLoRA, Weights};
pub use krum::Krum;
pub use lora_fair::LoRAFairLS;
pub use multi_krum::MultiKrum;
pub use q_fedavg::QFedAvg;
pub use rank::for_rank;
pub use round::{Outcome, Round, Update};
pub use scaffold::{Scaffold, server_control};
pub use trimmed_mean::TrimmedMean;

use checked::Checked;
use method::Method;

use crate::local_train::Prune;
use crate::parts::Parts;
use crate::peft::{AdapterTensors, Delta};

/// An aggregation rule, with its settings where it has any: `FedAvg`, `FedAdam(lr: 0.1)`, `FedAdam()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Rule {
    /// The mean of each tensor, weighted by the number of examples (`FedIT` on LoRA; 1602.05629, 2305.05644).
    #[default]
    FedAvg,
    /// `FedAvg` with momentum on the server (1909.06335).
    FedAvgM(FedAvgM),
    /// `FedAvg` with Adam on the server (2003.00295).
    FedAdam(FedAdam),
    /// `FedAvg` with Yogi on the server (2003.00295).
    FedYogi(FedYogi),
    /// `FedAvg` with Adagrad on the server (2003.00295).
    FedAdagrad(FedAdagrad),
    /// The coordinate-wise median, unweighted (1803.01498).
    Median,
    /// The coordinate-wise mean without the extremes, unweighted (1803.01498).
    TrimmedMean(TrimmedMean),
    /// The update that is nearest to its neighbours (1703.02757).
    Krum(Krum),
    /// The mean of the updates that are nearest to their neighbours (1703.02757).
    MultiKrum(MultiKrum),
    /// Krum's choice, then the coordinate-wise mean of the values around the median (1802.07927).
    Bulyan(Bulyan),
    /// A mean that follows the clients with the larger losses (1905.10497).
    QFedAvg(QFedAvg),
    /// A is fixed, B is trained and averaged: exact (2403.12313).
    FFALoRA,
    /// B is trained and averaged in odd rounds, A in even ones: exact (2409.02346).
    RoLoRA,
    /// A is averaged, B stays with its client (2410.01463).
    FedSALoRA,
    /// The clients' factors are stacked and go into the base: exact for any ranks (2409.05976).
    FLoRA,
    /// The best approximation of ΔW* at the adapter's rank (2402.11505).
    FlexLoRA,
    /// Factors of different ranks are padded and averaged (2401.06432).
    HetLoRA(HetLoRA),
    /// `FedAvg`, and what it misses of ΔW* goes into the base: exact (2410.09432).
    FedExLoRA,
    /// `FedAvg` with B corrected by least squares; after LoRA-FAIR (2411.14961).
    LoRAFairLS(LoRAFairLS),
    /// A and B are fixed, the small core between them is trained and averaged: exact (2502.15436).
    FedSB,
    /// `FedAvg` with the drift of the clients corrected by control variates (1910.06378).
    Scaffold(Scaffold),
    /// Every client trains for itself alone: what a federation is compared with.
    Local,
}

impl Rule {
    fn method(&self) -> &dyn Method {
        match self {
            Self::FedAvg => &fedavg::FedAvg,
            Self::FedAvgM(rule) => rule,
            Self::FedAdam(rule) => rule,
            Self::FedYogi(rule) => rule,
            Self::FedAdagrad(rule) => rule,
            Self::Median => &median::Median,
            Self::TrimmedMean(rule) => rule,
            Self::Krum(rule) => rule,
            Self::MultiKrum(rule) => rule,
            Self::Bulyan(rule) => rule,
            Self::QFedAvg(rule) => rule,
            Self::FFALoRA => &ffa_lora::FFALoRA,
            Self::RoLoRA => &ro_lora::RoLoRA,
            Self::FedSALoRA => &fedsa_lora::FedSALoRA,
            Self::FLoRA => &flora::FLoRA,
            Self::FlexLoRA => &flex_lora::FlexLoRA,
            Self::HetLoRA(rule) => rule,
            Self::FedExLoRA => &fedex_lora::FedExLoRA,
            Self::LoRAFairLS(rule) => rule,
            Self::FedSB => &fed_sb::FedSB,
            Self::Scaffold(rule) => rule,
            Self::Local => &local::Local,
        }
    }

    /// The name, as a graph has it.
    pub fn name(&self) -> &'static str {
        self.method().name()
    }

    /// Whether its settings lie in their ranges.
    ///
    /// # Errors
    /// The first that does not, by its field.
    pub fn check(&self) -> Result<(), RuleError> {
        self.method().check()
    }

    /// The parts of the adapter that clients train in `round`, which counts from 1; the classifier is always among
    /// them.
    pub fn trains(&self, round: u32) -> Parts {
        self.method().trains(round)
    }

    /// The parts that a client keeps to itself for ever.
    pub fn personal(&self) -> Parts {
        self.method().personal()
    }

    /// What the server sends beyond the adapter.
    pub fn broadcast(&self) -> Broadcast {
        self.method().broadcast()
    }

    /// How many vectors as long as the trained tensors each message has: 2 where control variates come with the
    /// adapter, else 1.
    pub fn copies(&self) -> u32 {
        self.method().copies()
    }

    /// Whether what it gives is ΔW* up to rounding, in every round.
    pub fn is_exact(&self) -> bool {
        self.method().is_exact()
    }

    /// Whether clients may have different ranks.
    pub fn takes_ranks(&self) -> bool {
        self.method().takes_ranks()
    }

    /// The least number of clients of a round.
    pub fn least_clients(&self) -> usize {
        self.method().least_clients()
    }

    /// Whether it is a mean of the updates, perhaps with a step of the server after it, so that noise on the mean
    /// has a meaning.
    pub fn is_mean(&self) -> bool {
        self.method().is_mean()
    }

    /// Whether the numbers of examples enter.
    pub fn weighs(&self) -> bool {
        self.method().weighs()
    }

    /// Whether it must know the loss of the adapter that each client received.
    pub fn needs_loss(&self) -> bool {
        matches!(self, Self::QFedAvg(_))
    }

    /// Whether clients train with control variates.
    pub fn controls(&self) -> bool {
        matches!(self, Self::Scaffold(_))
    }

    /// Whether and how clients prune their ranks.
    pub fn prune(&self) -> Option<Prune> {
        match self {
            Self::HetLoRA(rule) => rule.prune,
            _ => None,
        }
    }

    /// Whether it is a step of the server that takes the change of a mean for a gradient.
    pub fn is_server_optimizer(&self) -> bool {
        use Rule::{FedAdagrad, FedAdam, FedAvgM, FedYogi};
        matches!(self, FedAvgM(_) | FedAdam(_) | FedYogi(_) | FedAdagrad(_))
    }

    /// `e_agg` by module and over all, as [`Outcome`] has them, of an adapter and what was added to the base with it,
    /// against what the clients of `round` have learnt.
    ///
    /// # Errors
    /// The updates do not fit together, or are too few.
    pub fn errors(
        &self,
        round: &Round<'_>,
        adapter: &AdapterTensors,
        delta: Option<&Delta>,
    ) -> Result<Errors, AggregateError> {
        Ok(errors::errors(&Checked::new(round, self.method())?, adapter, delta))
    }

    /// What becomes of the adapter in `round`.
    ///
    /// Tensors that are not in the updates, or not trained in this round, are those of [`Round::from`] bit for bit.
    /// Where the classifier is in the updates, rules for flat vectors take it for a part of the vector, and those
    /// made for LoRA average it by `p_k`. A client without an example has no influence on a rule that weighs. If
    /// there is no client, nothing changes.
    ///
    /// # Errors
    /// The updates do not fit together, are too few, or lack something that the rule needs.
    pub fn aggregate(&self, round: &Round<'_>) -> Result<Outcome, AggregateError> {
        if round.clients.is_empty() {
            let state = round.state.cloned();
            return Ok(Outcome { state, ..Outcome::of(round.from.clone(), round.lora.clone()) });
        }
        let method = self.method();
        method.aggregate(&Checked::new(round, method)?)
    }
}
