//! Training over a base whose frozen weights are kept in another precision.

use std::sync::Arc;

use super::fixture::*;
use super::*;
use crate::model::tiny::{BLOOM, LLAMA};
use crate::precision::Precision;

fn numbers(precision: Precision) -> LocalNumbers {
    LocalNumbers { epochs: Some(2), precision, ..LocalNumbers::new(4, Optimizer::adamw(2e-3)) }
}

/// The distance of `found` from `wanted`, as a share of how far `wanted` has gone from `start`.
fn share(found: &AdapterTensors, wanted: &AdapterTensors, start: &AdapterTensors) -> f64 {
    let apart = |a: &AdapterTensors, b: &AdapterTensors| {
        let pairs = a.flatten().into_iter().zip(b.flatten());
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    apart(found, wanted) / apart(wanted, start)
}

#[test]
fn bf16_stays_near_f32_and_is_not_f32() {
    for model in [LLAMA, BLOOM] {
        let lora = LoraConfig::of_rank(4);
        let data = examples(24, 7);
        let trained = |precision: Precision| {
            let base = model.base_in(precision);
            let start = adapter(&base, &lora, 2);
            let job = ClientJob::new(&start, &lora, &data, 5);
            (run(&base, &[job], &numbers(precision)).remove(0), start)
        };
        let ((wanted, start), (found, _)) = (trained(Precision::F32), trained(Precision::Bf16));
        let loss = (found.mean_loss - wanted.mean_loss).abs() / wanted.mean_loss;
        let moved = share(&found.adapter, &wanted.adapter, &start);
        assert!(loss > 1e-7 && loss < 1e-2, "{model:?}: {loss}");
        assert!(moved > 1e-4 && moved < 0.1, "{model:?}: {moved}");
    }
}

#[test]
fn gradients_of_bf16_point_where_those_of_f32_do() {
    for model in [LLAMA, BLOOM] {
        let lora = LoraConfig::of_rank(4);
        let data = examples(8, 3);
        let slope_in = |precision: Precision| {
            let base = model.base_in(precision);
            let start = adapter(&base, &lora, 2);
            let client = Client::new(&start, &lora, 1, 1, data.objective());
            let batch = whole_batch(&base, &data);
            slope(&base, client, &numbers(precision), &batch).0.flatten()
        };
        let (wanted, found) = (slope_in(Precision::F32), slope_in(Precision::Bf16));
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let cosine = dot(&wanted, &found) / (dot(&wanted, &wanted) * dot(&found, &found)).sqrt();
        assert!(1.0 - cosine > 1e-9 && 1.0 - cosine < 1e-3, "{model:?}: {cosine}");
    }
}

/// The losses before each of `count` steps over the same examples.
fn losses(base: &Base, count: usize) -> Vec<f64> {
    let lora = LoraConfig::of_rank(4);
    let data = examples(12, 3);
    let start = adapter(base, &lora, 2);
    let client = Client::new(&start, &lora, 1, 10, data.objective());
    let numbers = numbers(base.precision());
    let mut trainer = Trainer::new(base, &[client], &numbers).unwrap();
    let batch = whole_batch(base, &data);
    let mut step = || {
        let loss: f32 = trainer.step(std::slice::from_ref(&batch)).unwrap().into_scalar();
        f64::from(loss)
    };
    (0..count).map(|_| step()).collect()
}

#[test]
fn the_kernels_for_bf16_train_as_the_stock_operations_do() {
    for model in [LLAMA, BLOOM] {
        let of = |precision: Precision, fused: bool| {
            let base = model.base_in(precision);
            if !fused {
                return losses(&base, 10);
            }
            let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
            losses(&base.fused(Arc::new(threads)), 10)
        };
        let apart = |found: &[f64], wanted: &[f64]| {
            let pairs = found.iter().zip(wanted);
            pairs.map(|(found, wanted)| (found - wanted).abs() / wanted).fold(0.0, f64::max)
        };
        let wanted = of(Precision::Bf16, false);
        let (found, plain) = (of(Precision::Bf16, true), of(Precision::F32, true));
        assert!(wanted[9] < wanted[0], "{model:?}: {wanted:?}");
        // A sum in another order now and then rounds an activation to its other neighbour.
        let (near, far) = (apart(&found, &wanted), apart(&plain, &wanted));
        assert!(near < 1e-3 && far > 2.0 * near, "{model:?}: {near}, f32 {far}");
    }
}
