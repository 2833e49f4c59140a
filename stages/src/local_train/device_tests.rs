//! The tiny models on a GPU (or on a software adapter, where there is none) against the same on the CPU.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{ops::ControlFlow, panic::AssertUnwindSafe};

use super::*;
use crate::device::{Found, devices};
use crate::model::recorded::{Recorded, apart};
use crate::model::tiny::{BLOOM, LLAMA, Tiny};
use crate::peft::AdapterTensors;
use crate::precision::Precision;
use crate::seed::Draws;

/// The best device that is not the CPU, and that this build can use.
fn gpu() -> Option<Found> {
    let usable = |found: &Found| found.automatic || !cfg!(feature = "vulkan");
    let found = devices().into_iter().find(|found| !found.is_cpu() && usable(found));
    if found.is_none() {
        eprintln!("skipped: this machine has no device beside the CPU");
    }
    found
}

fn adapter(model: Tiny) -> AdapterTensors {
    let bytes = model.bytes("train_adamw/adapter_after.safetensors");
    AdapterTensors::from_safetensors(&bytes).unwrap()
}

/// Examples of two classes and of lengths up to 24.
fn examples(count: usize, seed: u64) -> TokenSet {
    let mut draws = Draws::named(seed, "test", &["examples"]);
    let mut row = || -> (Vec<u32>, i32) {
        let length = 3 + draws.below(22);
        let tokens = (0..length).map(|_| u32::try_from(3 + draws.below(300)).unwrap()).collect();
        (tokens, i32::try_from(draws.below(2)).unwrap())
    };
    let rows: Vec<_> = (0..count).map(|_| row()).collect();
    TokenSet::from_examples(rows.iter().map(|(tokens, label)| (tokens.as_slice(), *label))).unwrap()
}

/// The distance of two vectors, relative to the length of the second.
fn relative(left: &[f32], right: &[f32]) -> f64 {
    assert_eq!(left.len(), right.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let far: f64 = left.iter().zip(right).map(|(a, b)| square(a - b)).sum();
    (far / right.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

#[test]
fn logits_are_the_recorded_ones() {
    let Some(gpu) = gpu() else { return };
    for model in [LLAMA, BLOOM] {
        let base = model.base_on(&gpu.device, Precision::F32);
        let bytes = model.bytes("lora_seqcls/adapter_model.safetensors");
        let adapter = AdapterTensors::from_safetensors(&bytes).unwrap();
        let rows = Recorded::open(&model.path("causal.safetensors"));
        let rows = rows.rows("input_ids", "attention_mask");
        let data = TokenSet::from_examples(rows.iter().map(|row| (row.as_slice(), 0))).unwrap();
        let lora = LoraConfig::of_rank(8);
        let with = Some(crate::evaluate::Adapted { adapter: &adapter, lora: &lora });
        let go_on = &mut |_| ControlFlow::Continue(());
        let found = crate::evaluate::classes(&base, with, &[], &data, 5, go_on).unwrap().remove(0);
        let recorded = Recorded::open(&model.path("lora_seqcls.safetensors")).floats("logits").1;
        let far = apart(&found.values, &recorded);
        assert!(far < 1e-3, "{model:?} on {gpu}: {far}");
    }
}

#[test]
fn gradients_and_steps_of_a_cohort_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for model in [LLAMA, BLOOM] {
        let adapter = adapter(model);
        let lora = LoraConfig { dropout: 0.1, ..LoraConfig::of_rank(8) };
        let data = [examples(9, 1), examples(22, 2), examples(13, 3)];
        let jobs: Vec<ClientJob<'_>> =
            (0..3).map(|k| ClientJob::new(&adapter, &lora, &data[k], k as u64)).collect();
        let numbers =
            LocalNumbers { clip: Some(1.0), ..LocalNumbers::new(4, Optimizer::adamw(1e-3)) };
        let on = |base: &Base| {
            let clients: Vec<Client<'_>> = jobs
                .iter()
                .map(|job| Client::new(&adapter, &lora, job.seed, 3, job.data.objective()))
                .collect();
            let trainer = Trainer::new(base, &clients, &numbers).unwrap();
            let mut batches: Vec<_> =
                jobs.iter().map(|job| Batches::new(job.data, 4, job.seed)).collect();
            let parts = draw_parts(base, &jobs, &[0, 1, 2], &mut batches, 4);
            let (gradient, _) = trainer.gradient(&parts).unwrap();
            let gradients = trainer.named(&gradient).unwrap();
            let trained = train(base, &jobs, &numbers, &mut |_| ControlFlow::Continue(())).unwrap();
            (gradients, trained)
        };
        let (cpu, found) = (on(&model.base()), on(&model.base_on(&gpu.device, Precision::F32)));
        for (client, (found, wanted)) in found.0.iter().zip(&cpu.0).enumerate() {
            let far = relative(&found.flatten(), &wanted.flatten());
            assert!(far < 1e-4, "{model:?}, client {client}: gradient {far}");
        }
        for (client, (found, wanted)) in found.1.iter().zip(&cpu.1).enumerate() {
            let loss = (found.mean_loss - wanted.mean_loss).abs() / wanted.mean_loss;
            assert!(loss < 1e-3, "{model:?}, client {client}: loss {loss}");
            let far = relative(&found.adapter.flatten(), &wanted.adapter.flatten());
            assert!(far < 1e-3, "{model:?}, client {client}: adapter {far}");
            assert_eq!((found.steps, found.tokens), (wanted.steps, wanted.tokens));
        }
    }
}

/// More than the device has: an error or a panic that is told in words, and the device goes on.
#[test]
fn memory_that_is_not_there_is_a_sentence_and_the_device_goes_on() {
    let Some(gpu) = gpu() else { return };
    let base = LLAMA.base_on(&gpu.device, Precision::F32);
    // Four TiB in one piece: refused at once, so that nothing of it is ever touched.
    let asked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let huge = Tensor::<1>::zeros([1_usize << 40], &gpu.device);
        huge.sum().try_into_vec_as::<f32>().map_err(|error| error.to_string())
    }));
    let told = match asked {
        Ok(Ok(_)) => panic!("{gpu} gave four TiB"),
        Ok(Err(told)) => told,
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    };
    let error = crate::device_failure::explain(&gpu.name, &told);
    assert!(error.is_some(), "not understood: {told}");
    gpu.calm();
    let data = examples(6, 4);
    let (adapter, lora) = (adapter(LLAMA), LoraConfig::of_rank(8));
    let job = ClientJob::new(&adapter, &lora, &data, 1);
    let numbers = LocalNumbers::new(4, Optimizer::adamw(1e-3));
    let trained = train(&base, &[job], &numbers, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(trained[0].mean_loss.is_finite());
}
