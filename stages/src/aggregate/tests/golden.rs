//! The rules in f64 against `tests/data/aggregation`; see the README there.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

use super::super::fedavg::mean;
use super::super::flex_lora::best;
use super::super::het_lora::padded_mean;
use super::super::median::{by_coordinate, middle};
use super::super::modules::{Product, stacked};
use super::super::{
    Convention, FedAdagrad, FedAdam, FedAvgM, FedYogi, HetLoRA, LoRAFairLS, QFedAvg, TrimmedMean,
    adaptive, distance, fedex_lora, krum, lora_fair, q_fedavg,
};
use crate::linear::{Matrix, norm_of_product, svd_of_product};

/// The examples of the three clients.
pub(super) const SIZES: [f64; 3] = [100.0, 300.0, 600.0];
/// The parts of the file that are of rules.
const PARTS: [&str; 9] =
    ["homog", "hetero", "flexlora", "hetlora", "ffa", "fedsa", "fedex", "fair", "server"];

/// The recorded values, and which of them were looked at.
pub(super) struct Golden {
    values: Value,
    met: RefCell<BTreeSet<String>>,
}

impl Golden {
    pub(super) fn read() -> Self {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/aggregation/aggregation.json");
        let values = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        Self { values, met: RefCell::default() }
    }

    fn value(&self, part: &str, name: &str) -> &Value {
        self.met.borrow_mut().insert(format!("{part}.{name}"));
        &self.values[part][name]
    }

    pub(super) fn number(&self, part: &str, name: &str) -> f64 {
        self.value(part, name).as_f64().unwrap_or_else(|| panic!("{part}.{name}"))
    }

    pub(super) fn vector(&self, part: &str, name: &str) -> Vec<f64> {
        vector(self.value(part, name))
    }

    pub(super) fn rows(&self, part: &str, name: &str) -> Vec<Vec<f64>> {
        self.value(part, name).as_array().unwrap().iter().map(vector).collect()
    }

    pub(super) fn matrix(&self, part: &str, name: &str) -> Matrix {
        let rows = self.rows(part, name);
        Matrix::new(rows.len(), rows[0].len(), rows.concat())
    }

    /// Fails unless every value of the rules was looked at.
    pub(super) fn assert_all_met(&self) {
        let met = self.met.borrow();
        for part in PARTS.iter().chain(&["robust"]) {
            for name in self.values[part].as_object().unwrap().keys() {
                assert!(met.contains(&format!("{part}.{name}")), "{part}.{name} was not tested");
            }
        }
    }
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The script's `A_k`, `[rank, 5]`.
pub(super) fn a(client: usize, rank: usize) -> Matrix {
    Matrix::from_fn(rank, 5, |i, j| eighth((7 * i + 3 * j + 5 * client + i * j) % 11, 5))
}

/// The script's `B_k`, `[6, rank]`.
pub(super) fn b(client: usize, rank: usize) -> Matrix {
    Matrix::from_fn(6, rank, |i, j| {
        eighth((5 * i + 9 * j + 2 * client + i * i + j * client) % 13, 6)
    })
}

fn eighth(number: usize, less: usize) -> f64 {
    (number as f64 - less as f64) / 8.0
}

pub(super) fn shares() -> Vec<f64> {
    SIZES.iter().map(|size| size / 1000.0).collect()
}

/// The clients of these ranks with alpha 8.
fn clients(ranks: [usize; 3]) -> Vec<Product> {
    let of = |(client, rank): (usize, usize)| Product {
        scale: 8.0 / rank as f64,
        b: b(client, rank),
        a: a(client, rank),
    };
    ranks.into_iter().enumerate().map(of).collect()
}

/// Fails where a value is further than `bound` from what was recorded, relative to the largest of all.
#[track_caller]
pub(super) fn near(found: &[f64], wanted: &[f64], bound: f64) {
    assert_eq!(found.len(), wanted.len());
    let largest = wanted.iter().fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
    for (found, wanted) in found.iter().zip(wanted) {
        let far = (found - wanted).abs() / largest;
        assert!(far <= bound, "{found} for {wanted}: {far:e} apart");
    }
}

/// The bound for f64.
const EXACT: f64 = 1e-9;

#[track_caller]
fn same(found: &Matrix, wanted: &Matrix) {
    assert_eq!(found.shape(), wanted.shape());
    near(found.values(), wanted.values(), EXACT);
}

#[test]
fn every_recorded_value_is_met_in_f64() {
    let golden = Golden::read();
    near(&shares(), &golden.vector("homog", "p"), EXACT);
    let numbers = ["m", "n", "r", "alpha"].map(|name| golden.number("homog", name));
    near(&numbers, &[6.0, 5.0, 2.0, 8.0], 0.0);
    factors_of_one_rank(&golden);
    residual_and_correction(&golden);
    stacks_of_different_ranks(&golden);
    best_of_a_rank(&golden);
    padded_factors(&golden);
    servers(&golden);
    neighbours(&golden);
    golden.assert_all_met();
}

fn factors_of_one_rank(golden: &Golden) {
    let own = clients([2; 3]);
    let [b_stack, a_stack] = stacked(&shares(), clients([2; 3]));
    let exact = b_stack.times(&a_stack);
    same(&exact, &golden.matrix("homog", "exact_dW"));
    let values = |factor: fn(&Product) -> &Matrix| -> Vec<Vec<f64>> {
        own.iter().map(|client| factor(client).values().to_vec()).collect()
    };
    let mean_a = Matrix::new(2, 5, mean(&shares(), &values(|client| &client.a)));
    let mean_b = Matrix::new(6, 2, mean(&shares(), &values(|client| &client.b)));
    same(&mean_a, &golden.matrix("homog", "fedit_A"));
    same(&mean_b, &golden.matrix("homog", "fedit_B"));
    same(&mean_b.times(&mean_a).scaled(4.0), &golden.matrix("homog", "fedit_dW"));
    let both = [
        Matrix::beside(&[b_stack.clone(), mean_b.clone()]),
        Matrix::below(&[a_stack.clone(), mean_a.clone().scaled(-4.0)]),
    ];
    let error = norm_of_product(&both[0], &both[1]) / norm_of_product(&b_stack, &a_stack);
    near(&[error], &[golden.number("homog", "e_agg")], EXACT);

    same(&mean_a, &golden.matrix("fedsa", "A"));
    for (client, wanted) in
        golden.value("fedsa", "personal_dW").as_array().unwrap().iter().enumerate()
    {
        let rows: Vec<Vec<f64>> = wanted.as_array().unwrap().iter().map(vector).collect();
        let personal = own[client].b.times(&mean_a).scaled(4.0);
        near(personal.values(), &rows.concat(), EXACT);
    }
    same(&a(9, 2), &golden.matrix("ffa", "A0"));
    same(&mean_b, &golden.matrix("ffa", "B"));
    same(&mean_b.times(&a(9, 2)).scaled(4.0), &golden.matrix("ffa", "dW"));
}

fn residual_and_correction(golden: &Golden) {
    let own = clients([2; 3]);
    let stack = stacked(&shares(), clients([2; 3]));
    let exact = stack[0].times(&stack[1]);
    let mean = lora_fair::mean(&shares(), &own, 4.0);
    let off = |b: &Matrix| b.times(&mean.a).scaled(4.0).minus(&exact).norm() / exact.norm();
    let rule = LoRAFairLS { lambda: golden.number("fair", "lam") };
    assert_eq!(rule, LoRAFairLS::default());
    let correction = rule.correction(&shares(), &own, &mean).unwrap();
    same(&correction, &golden.matrix("fair", "dB"));
    let corrected = mean.b.clone().plus(&correction);
    same(&corrected.times(&mean.a).scaled(4.0), &golden.matrix("fair", "dW"));
    near(&[off(&mean.b)], &[golden.number("fair", "err_before")], EXACT);
    near(&[off(&corrected)], &[golden.number("fair", "err_after")], EXACT);

    let [b, a] = fedex_lora::residual(stack, mean);
    assert_eq!((b.columns(), a.rows()), (8, 8), "(K + 1)·r");
    same(&b.times(&a), &golden.matrix("fedex", "residual"));
    near(&[svd_of_product(&b, &a).rank() as f64], &[golden.number("fedex", "rank")], 0.0);
}

fn stacks_of_different_ranks(golden: &Golden) {
    let [b, a] = stacked(&shares(), clients([1, 2, 3]));
    near(&[1.0, 2.0, 3.0], &golden.vector("hetero", "ranks"), 0.0);
    near(&[8.0; 3], &golden.vector("hetero", "alphas"), 0.0);
    let scales: Vec<f64> = clients([1, 2, 3]).iter().map(|client| client.scale).collect();
    near(&scales, &golden.vector("hetero", "scalings"), EXACT);
    same(&a, &golden.matrix("hetero", "flora_A"));
    same(&b, &golden.matrix("hetero", "flora_B"));
    same(&b.times(&a), &golden.matrix("hetero", "exact_dW"));
    let export = golden.value("hetero", "export");
    assert_eq!((&export["r"], &export["lora_alpha"]), (&a.rows().into(), &a.rows().into()));
}

fn best_of_a_rank(golden: &Golden) {
    let [b, a] = stacked(&shares(), clients([1, 2, 3]));
    let svd = svd_of_product(&b, &a);
    near(&svd.values, &golden.vector("flexlora", "singular_values"), EXACT);
    let missed = golden.vector("flexlora", "trunc_err");
    let exact = b.times(&a);
    for rank in 1..=3 {
        let scale = 8.0 / rank as f64;
        let [a, b] = best(&svd, scale, Matrix::zeros(rank, 5), Matrix::zeros(6, rank));
        let product = b.times(&a).scaled(scale);
        same(&product, &golden.matrix("flexlora", &format!("best_rank{rank}_dW")));
        let off = product.minus(&exact).norm() / exact.norm();
        near(&[off], &missed[rank - 1..rank], EXACT);
        // √Σ on both sides: the factors of a part are as long as each other.
        for at in 0..rank {
            let column: f64 = (0..6).map(|row| b.at(row, at).powi(2)).sum();
            let row: f64 = a.row(at).iter().map(|x| x * x).sum();
            near(&[column], &[row], EXACT);
        }
    }
}

fn padded_factors(golden: &Golden) {
    let own = clients([1, 2, 3]);
    let norms: Vec<f64> = own.iter().map(|client| norm_of_product(&client.b, &client.a)).collect();
    near(&norms, &golden.vector("hetlora", "fro"), EXACT);
    let weights = HetLoRA::default().weights(&shares(), &own);
    near(&weights, &golden.vector("hetlora", "weights"), EXACT);
    let of_a: Vec<Matrix> = own.iter().map(|client| client.a.clone()).collect();
    let of_b: Vec<Matrix> = own.iter().map(|client| client.b.transposed()).collect();
    for (weights, name_a, name_b) in [(weights, "A", "B"), (shares(), "A_by_n", "B_by_n")] {
        let a = padded_mean(&weights, &of_a, &Matrix::zeros(3, 5), false);
        same(&a, &golden.matrix("hetlora", name_a));
        let b = padded_mean(&weights, &of_b, &Matrix::zeros(3, 6), false);
        same(&b.transposed(), &golden.matrix("hetlora", name_b));
    }
}

/// `step` over the three recorded rounds: the next x and what is kept, of x, the mean and what was kept.
fn follow<const N: usize>(
    golden: &Golden,
    name: &str,
    start: [f64; N],
    step: impl Fn(u32, &[f64], &[f64], &[Vec<f64>; N]) -> (Vec<f64>, [Vec<f64>; N]),
) {
    let mut x = golden.vector("server", "x0");
    let mut kept = start.map(|value| vec![value; x.len()]);
    let trace = golden.rows("server", name);
    for (round, delta) in (1_u32..).zip(golden.rows("server", "deltas")) {
        let mean: Vec<f64> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
        (x, kept) = step(round, &x, &mean, &kept);
        near(&x, &trace[round as usize - 1], EXACT);
    }
}

fn servers(golden: &Golden) {
    follow(golden, "fedavgm_lr1_mom0.9", [0.0], |_, x, mean, [momentum]| {
        let [x, momentum] = FedAvgM::default().step(x, mean, momentum);
        (x, [momentum])
    });
    let (reddi, flower) = (Convention::Reddi, Convention::Flower);
    for (convention, name) in [(reddi, "fedadam_reddi_v0=tau2"), (flower, "fedadam_flower")] {
        let rule = FedAdam { convention, ..FedAdam::default() };
        adaptive_steps(golden, name, |round| rule.optimizer(round));
    }
    // The traces of Yogi were recorded with a larger step than its default.
    for (convention, name) in [(reddi, "fedyogi_reddi_v0=tau2"), (flower, "fedyogi_flower")] {
        let rule = FedYogi { convention, lr: 0.1, ..FedYogi::default() };
        adaptive_steps(golden, name, |_| rule.optimizer());
    }
    for (convention, name) in [(reddi, "fedadagrad_reddi_v0=tau2"), (flower, "fedadagrad_flower")] {
        let rule = FedAdagrad { convention, ..FedAdagrad::default() };
        adaptive_steps(golden, name, |_| rule.optimizer());
    }
    let x = golden.vector("server", "x0");
    let deltas = golden.rows("server", "deltas");
    let moved = |delta: &Vec<f64>| x.iter().zip(delta).map(|(x, delta)| x + delta).collect();
    let clients: Vec<Vec<f64>> = deltas.iter().map(moved).collect();
    let squares: Vec<f64> = clients.iter().map(|client| distance::flat(&x, client)).collect();
    let steps = QFedAvg { q: 0.2, lr: 0.1 }.steps(&[0.5, 1.0, 2.0], &squares);
    let found = q_fedavg::moved(&x, &clients, &steps);
    near(&found, &golden.vector("server", "qfedavg"), EXACT);
}

fn adaptive_steps<F: Fn(f64, f64) -> f64 + Sync>(
    golden: &Golden,
    name: &str,
    optimizer: impl Fn(u32) -> adaptive::Adaptive<F>,
) {
    follow(golden, name, [0.0, optimizer(1).start], |round, x, mean, [first, second]| {
        let [x, first, second] = optimizer(round).step(x, mean, [first, second]);
        (x, [first, second])
    });
}

fn neighbours(golden: &Golden) {
    let vectors = golden.rows("robust", "X");
    let squares = distance::pairs(&vectors, |left, right| distance::flat(left, right));
    let all = [0, 1, 2, 3, 4];
    near(&krum::scores(&squares, &all, 1), &golden.vector("robust", "krum_scores"), EXACT);
    let pick = krum::ranked(&squares, &all, 1)[0];
    near(&[pick as f64], &[golden.number("robust", "krum_pick")], 0.0);
    near(&by_coordinate(&vectors, middle), &golden.vector("robust", "median"), EXACT);
    near(&TrimmedMean::default().of(&vectors), &golden.vector("robust", "trim_0_2"), EXACT);
}
