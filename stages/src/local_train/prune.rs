//! Self-pruning: a client whose last ranks carry little gives them up (`HetLoRA`, Cho et al. 2024, 2401.06432).
//!
//! With `k = ⌊γ·r⌋`, the loss gets `λ·‖B[:, k:]‖·‖A[k:, :]‖` of each module, by Frobenius' norm. If the sum of these
//! products is smaller after training than before it, the client's rank becomes k.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::numbers::NumbersError;
use crate::model::{Layout, Part};
use crate::parts::Parts;
use crate::peft::AdapterTensors;

/// How a client prunes its rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prune {
    /// γ, the share of the rank that is kept when it is pruned; above 0 and below 1.
    pub gamma: f64,
    /// λ, the weight of the penalty in the loss; 0 prunes without one.
    pub lambda: f64,
}

impl Default for Prune {
    /// The paper's γ; it gives no λ that is for all tasks.
    fn default() -> Self {
        Self { gamma: 0.99, lambda: 1e-3 }
    }
}

/// Why a client's rank cannot be pruned.
#[derive(Debug, Error, PartialEq)]
pub enum PruneError {
    /// A number lies outside its range.
    #[error(transparent)]
    Numbers(#[from] NumbersError),
    /// The modules have several ranks.
    #[error(
        "a client that prunes its rank has one rank for all modules, but `{path}` has {rank}, not {first}"
    )]
    Ranks {
        /// A module's path.
        path: String,
        /// Its rank.
        rank: usize,
        /// The rank of the first module.
        first: usize,
    },
    /// A factor is not trained.
    #[error(
        "a client that prunes its rank trains both factors of its modules; A or B is fixed here"
    )]
    Fixed,
}

impl Prune {
    /// Whether both numbers lie in their ranges.
    ///
    /// # Errors
    /// γ is not between 0 and 1, or λ is negative.
    pub fn check(&self) -> Result<(), NumbersError> {
        let Self { gamma, lambda } = *self;
        if !(gamma > 0.0 && gamma < 1.0) {
            let expected = "it is above 0 and below 1";
            return Err(NumbersError { field: "gamma", value: gamma, expected });
        }
        if !(lambda.is_finite() && lambda >= 0.0) {
            let expected = "it is not negative";
            return Err(NumbersError { field: "lambda", value: lambda, expected });
        }
        Ok(())
    }

    /// ⌊γ·rank⌋, at least 1: the rank after pruning. What lies behind it is the tail.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "γ lies between 0 and 1, and ranks are small"
    )]
    pub fn kept(&self, rank: usize) -> usize {
        // 0.29·100 is 28.999…96 in f64, but 29 is meant.
        ((self.gamma * rank as f64 + 1e-9).floor() as usize).max(1)
    }
}

/// The rank that all modules of a client have that may prune it, with an adapter of layout `own` of which the parts
/// `trained` are trained.
pub(super) fn check(prune: Prune, own: &Layout, trained: Parts) -> Result<usize, PruneError> {
    prune.check()?;
    if !trained.has(Parts::FACTORS) {
        return Err(PruneError::Fixed);
    }
    let ranks = || own.modules().iter().map(|module| (module.rank, &module.path));
    let first = ranks().next().map_or(1, |(rank, _)| rank);
    match ranks().find(|(rank, _)| *rank != first) {
        Some((rank, path)) => Err(PruneError::Ranks { path: path.clone(), rank, first }),
        None => Ok(first),
    }
}

/// The smaller rank of a client that came from `before` to `after`, and its adapter of that rank, where the tail shrank.
///
/// A fresh adapter has B = 0, and nothing that could shrink.
pub(super) fn pruned(
    prune: Prune,
    before: &AdapterTensors,
    after: &AdapterTensors,
) -> Option<(usize, AdapterTensors)> {
    let (_, [rank, _], _) = after.iter().find(|(name, ..)| Parts::of(name) == Parts::A)?;
    let kept = prune.kept(rank);
    (tail(after, kept) < tail(before, kept)).then(|| (kept, truncated(after, kept)))
}

/// The sum over the modules of `‖B[:, kept:]‖·‖A[kept:, :]‖`.
pub(super) fn tail(adapter: &AdapterTensors, kept: usize) -> f64 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let products = adapter.iter().filter_map(|(name, [_, inputs], a)| {
        let ([_, rank], b) = adapter.get(&name_of_b(name)?)?;
        let a: f64 = a[kept * inputs..].iter().map(square).sum();
        let b: f64 = b.chunks_exact(rank).flat_map(|row| &row[kept..]).map(square).sum();
        Some(a.sqrt() * b.sqrt())
    });
    products.sum()
}

/// The adapter without what lies behind its first `kept` ranks.
pub(super) fn truncated(adapter: &AdapterTensors, kept: usize) -> AdapterTensors {
    AdapterTensors::new(adapter.iter().map(|(name, [rows, columns], values)| {
        let shape = match Parts::of(name) {
            Parts::A => [kept, columns],
            Parts::B => [rows, kept],
            _ => [rows, columns],
        };
        let rows = values.chunks_exact(columns).take(shape[0]);
        let values = rows.flat_map(|row| &row[..shape[1]]).copied().collect();
        (name.to_owned(), shape, values)
    }))
}

/// The name of the factor B beside the factor A of this name.
fn name_of_b(name: &str) -> Option<String> {
    name.strip_suffix("lora_A.weight").map(|path| format!("{path}lora_B.weight"))
}

/// The penalty on the tails of a cohort's adapters.
pub(super) struct Penalty {
    /// The entries of A and B of each module.
    pairs: Vec<[usize; 2]>,
    /// 1 for the ranks behind those that each client keeps, `[K, widest rank, 1]`; clients that prune nothing have
    /// none.
    behind: Tensor<3>,
    /// λ of each client, `[K, 1, 1]`.
    lambda: Tensor<3>,
}

impl Penalty {
    /// The penalty for clients with these λ, each with the ranks that it keeps, over what `layout` lays out; `None`
    /// where no client has any.
    pub(super) fn new(
        clients: &[Option<(f64, usize)>],
        layout: &Layout,
        device: &Device,
    ) -> Option<Self> {
        if clients.iter().all(|client| client.is_none_or(|(lambda, _)| lambda <= 0.0)) {
            return None;
        }
        let entries = || layout.entries().iter().enumerate();
        let pairs: Vec<[usize; 2]> = entries()
            .filter_map(|(a, entry)| {
                let Part::A { layer, slot } = entry.part else { return None };
                let (b, _) = entries().find(|(_, e)| e.part == Part::B { layer, slot })?;
                Some([a, b])
            })
            .collect();
        let widest = pairs.iter().map(|[a, _]| layout.entries()[*a].shape[0]).max().unwrap_or(0);
        let behind = clients.iter().flat_map(|client| {
            let kept = client.map_or(widest, |(_, kept)| kept);
            (0..widest).map(move |rank| if rank < kept { 0.0 } else { 1.0 })
        });
        let behind = TensorData::new(behind.collect::<Vec<f32>>(), [clients.len(), widest, 1]);
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let lambda = clients.iter().map(|client| client.map_or(0.0, |(lambda, _)| lambda as f32));
        let lambda = TensorData::new(lambda.collect::<Vec<f32>>(), [clients.len(), 1, 1]);
        let (behind, lambda) =
            (Tensor::from_data(behind, device), Tensor::from_data(lambda, device));
        Some(Self { pairs, behind, lambda })
    }

    /// The gradient `[K, P]` of each client's penalty at `values`, `[K, P]`, which `layout` lays out.
    ///
    /// That of `‖B'‖·‖A'‖` is `A'·‖B'‖/‖A'‖` by A and the like by B; where a norm is 0, 0 is taken.
    pub(super) fn gradient(&self, layout: &Layout, values: &Tensor<2>) -> Tensor<2> {
        let values = layout.split(values);
        let mut gradients: Vec<Tensor<3>> = values.iter().map(Tensor::zeros_like).collect();
        for &[a, b] in &self.pairs {
            let behind = self.behind.clone().narrow(1, 0, values[a].dims()[1]);
            let tail_a = values[a].clone() * behind.clone();
            let tail_b = values[b].clone() * behind.swap_dims(1, 2);
            let [norm_a, norm_b] = [&tail_a, &tail_b].map(norm);
            let share = |other: &Tensor<3>, own: &Tensor<3>| {
                other.clone() / own.clone().clamp_min(TINY) * self.lambda.clone()
            };
            gradients[a] = tail_a * share(&norm_b, &norm_a);
            gradients[b] = tail_b * share(&norm_a, &norm_b);
        }
        let flat = gradients.into_iter().map(|gradient| {
            let [clients, rows, columns] = gradient.dims();
            gradient.reshape([clients, rows * columns])
        });
        Tensor::cat(flat.collect(), 1)
    }

    /// The penalty after only the clients at `indices` are left.
    pub(super) fn take(&mut self, indices: &Tensor<1, Int>) {
        self.behind = self.behind.clone().select(0, indices.clone());
        self.lambda = self.lambda.clone().select(0, indices.clone());
    }
}

/// Norms that are smaller are taken for this: their squares vanish in f32, at the latest.
const TINY: f32 = 1e-18;

/// Frobenius' norm of each client's matrix, `[K, 1, 1]`.
fn norm(matrix: &Tensor<3>) -> Tensor<3> {
    matrix.clone().square().sum_dim(2).sum_dim(1).sqrt()
}
