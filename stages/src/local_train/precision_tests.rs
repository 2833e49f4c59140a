//! Training over a base whose frozen weights are kept in another precision.

use super::fixture::*;
use super::*;
use crate::model::tiny::{BLOOM, LLAMA, threads};
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

/// The first gradient, and the losses before each of ten steps over the same examples.
fn ten_steps(base: &Base) -> (Vec<f32>, Vec<f64>) {
    let lora = LoraConfig::of_rank(4);
    let data = examples(12, 3);
    let start = adapter(base, &lora, 2);
    let client = Client::new(&start, &lora, 1, 10, data.objective());
    let numbers = numbers(base.precision());
    let batch = whole_batch(base, &data);
    let gradient = slope(base, client, &numbers, &batch).0.flatten();
    let mut trainer = Trainer::new(base, &[client], &numbers).unwrap();
    let mut step = || {
        let loss: f32 = trainer.step(std::slice::from_ref(&batch)).unwrap().into_scalar();
        f64::from(loss)
    };
    (gradient, (0..10).map(|_| step()).collect())
}

#[test]
fn the_kernels_for_bf16_train_as_the_stock_operations_do() {
    for model in [LLAMA, BLOOM] {
        let low = || model.base_in(Precision::Bf16);
        let (wanted, losses) = ten_steps(&low());
        let (found, found_losses) = ten_steps(&low().fused(threads(2)));
        let (plain, _) = ten_steps(&model.base().fused(threads(2)));
        assert!(losses[9] < losses[0], "{model:?}: {losses:?}");
        for (found, wanted) in found_losses.iter().zip(&losses) {
            assert!((found - wanted).abs() < 1e-3 * wanted, "{model:?}: {found}, {wanted}");
        }
        // A sum in another order now and then rounds an activation to its other neighbour; that is far less than
        // what rounding does itself.
        let norm = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        };
        let apart = |from: &[f32]| {
            norm(&mut from.iter().zip(&wanted).map(|(a, b)| a - b))
                / norm(&mut wanted.iter().copied())
        };
        let (near, far) = (apart(&found), apart(&plain));
        assert!(near < 2e-4 && far > 10.0 * near, "{model:?}: {near}, f32 {far}");
    }
}
