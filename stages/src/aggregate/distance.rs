//! How far apart clients are, for the rules that look for neighbours.

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use crate::linear::{Matrix, norm_of_product};
use crate::parts::Parts;

/// What the distance between two adapters is measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distance {
    /// The flat vector of all trained tensors, as Krum has it.
    #[default]
    Flat,
    /// What the adapters do: `√Σ‖s_i·B_i·A_i − s_j·B_j·A_j‖²` over the modules, and the classifier's distance with
    /// it. Factors that differ by a change of basis alone are not apart.
    Product,
}

impl Distance {
    /// The squared distance of each client from each.
    pub(super) fn squares(self, round: &Checked<'_>) -> Vec<Vec<f64>> {
        let parts = match self {
            Self::Flat => Parts::ALL,
            Self::Product => Parts::HEAD,
        };
        let tensors =
            round.map(parts, |tensor| pairs(&tensor.clients, |left, right| flat(left, right)));
        let mut summed: Vec<Vec<Vec<f64>>> =
            tensors.into_iter().map(|(.., squares)| squares).collect();
        if self == Self::Product {
            let modules = round.by_module(|module| {
                let products = round.products(module);
                pairs(&products, |left, right| {
                    let a = right.a.clone().scaled(-right.scale);
                    let a = Matrix::below(&[left.a.clone().scaled(left.scale), a]);
                    norm_of_product(&Matrix::beside(&[left.b.clone(), right.b.clone()]), &a).powi(2)
                })
            });
            summed.extend(modules);
        }
        let count = round.clients.len();
        let sum = |i: usize, j: usize| summed.iter().map(|squares| squares[i][j]).sum();
        (0..count).map(|i| (0..count).map(|j| sum(i, j)).collect()).collect()
    }
}

/// `‖left − right‖²`.
pub(super) fn flat(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(x, y)| (x - y) * (x - y)).sum()
}

/// `square` of each pair, which is zero of a client with itself and the same both ways.
pub(super) fn pairs<T>(clients: &[T], square: impl Fn(&T, &T) -> f64) -> Vec<Vec<f64>> {
    let mut squares = vec![vec![0.0; clients.len()]; clients.len()];
    for i in 0..clients.len() {
        for j in 0..i {
            let apart = square(&clients[i], &clients[j]);
            (squares[i][j], squares[j][i]) = (apart, apart);
        }
    }
    squares
}
