//! Training for each thing that examples may be read for, and heads that stay as they are.

use std::ops::ControlFlow;

use super::fixture::{adapter, examples, narrow, objectives};
use super::*;
use crate::evaluate::{self, Adapted};
use crate::model::recorded::apart;
use crate::model::tiny::{BLOOM, LLAMA};
use crate::model::{LoraConfig, Targets};
use crate::peft::{SCORE, init_adapter};

fn numbers() -> LocalNumbers {
    LocalNumbers { epochs: Some(2), ..LocalNumbers::new(4, Optimizer::adamw(1e-3)) }
}

#[test]
fn gradients_are_the_slopes_of_the_losses() {
    for base in [LLAMA.base(), BLOOM.base()] {
        let targets = Some(Targets::Pattern("all-linear".to_owned()));
        let lora = LoraConfig { targets, ..LoraConfig::of_rank(4) };
        let start = adapter(&base, &lora, 0);
        for objective in objectives(&examples(6, 1)) {
            let data = examples(6, 1).with_objective(objective).unwrap();
            let all: Vec<usize> = (0..data.len()).collect();
            let batch = objective::batch(&[(&data, &all)], base.config().pad, base.device());
            let numbers = numbers();
            let at = |adapter: &AdapterTensors| {
                let client = Client::new(adapter, &lora, 0, 1, data.objective());
                let trainer = Trainer::new(&base, &[client], &numbers).unwrap();
                let (gradient, loss) = trainer.gradient(std::slice::from_ref(&batch)).unwrap();
                let loss: f32 = loss.into_scalar();
                (f64::from(loss), gradient.try_into_vec_as::<f32>().unwrap())
            };
            let (loss, gradient) = at(&start);
            assert!(loss > 0.1, "{loss}");
            let square: f64 = gradient.iter().map(|g| f64::from(*g) * f64::from(*g)).sum();
            let step = 2e-2 / square.sqrt();
            let moved = |by: f64| {
                let flat = start.flatten();
                let flat = flat.iter().zip(&gradient).map(|(x, g)| x + narrow(by * f64::from(*g)));
                at(&start.with_values(&flat.collect::<Vec<_>>())).0
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let far = (slope / square - 1.0).abs();
            assert!(far < 1e-2, "{:?}: {slope} along a gradient of {square}", data.objective());
        }
    }
}

#[test]
fn a_cohort_trains_each_client_as_if_it_were_alone() {
    let base = LLAMA.base();
    for objective in 0..3 {
        let owned: Vec<(LoraConfig, AdapterTensors, TokenSet)> = [(4, 9), (2, 14), (3, 5)]
            .into_iter()
            .map(|(rank, count)| {
                let lora = LoraConfig { dropout: 0.1, ..LoraConfig::of_rank(rank) };
                let data = examples(count, rank as u64);
                let objective = objectives(&data).remove(objective);
                (lora.clone(), adapter(&base, &lora, 0), data.with_objective(objective).unwrap())
            })
            .collect();
        let jobs: Vec<ClientJob<'_>> = owned
            .iter()
            .map(|(lora, adapter, data)| ClientJob::new(adapter, lora, data, 7))
            .collect();
        let run = |jobs: &[ClientJob<'_>]| {
            train(&base, jobs, &numbers(), &mut |_| ControlFlow::Continue(())).unwrap()
        };
        let together = run(&jobs);
        for (job, one) in jobs.iter().zip(&together) {
            let alone = run(&[*job]).remove(0);
            let (one, alone_flat) = (one.adapter.flatten(), alone.adapter.flatten());
            let far = apart(&one, &alone_flat);
            assert!(far < 2e-5, "{objective}: {far}");
            assert!(apart(&alone_flat, &job.adapter.flatten()) > 1e-3, "it is trained");
        }
    }
}

#[test]
fn each_objective_is_learned() {
    let base = LLAMA.base();
    let lora = LoraConfig {
        targets: Some(Targets::Pattern("all-linear".to_owned())),
        ..LoraConfig::of_rank(8)
    };
    let start = init_adapter(base.config(), &lora, 0, 3).unwrap();
    for objective in objectives(&examples(8, 1)) {
        let data = examples(8, 1).with_objective(objective).unwrap();
        let job = ClientJob::new(&start, &lora, &data, 1);
        let numbers =
            LocalNumbers { epochs: Some(60), ..LocalNumbers::new(8, Optimizer::adamw(3e-2)) };
        let go_on = &mut |_| ControlFlow::Continue(());
        let trained = train(&base, &[job], &numbers, go_on).unwrap().remove(0);
        let adapted = Some(Adapted { adapter: &trained.adapter, lora: &lora });
        let go_on = &mut |_| ControlFlow::Continue(());
        if matches!(data.objective(), Objective::Complete(_)) {
            let found = evaluate::tokens(&base, adapted, &data, 3, go_on).unwrap();
            let scores = evaluate::TokenScores::of(&found);
            assert!(scores.token_accuracy > 0.9, "{scores:?}");
            assert!((scores.perplexity.ln() - scores.loss).abs() < 1e-9);
            let reads: usize =
                (0..8).map(|i| data.tokens(i).len() - data.start_of_completion(i)).sum();
            assert_eq!(scores.tokens, reads as u64);
        } else {
            let found = evaluate::classes(&base, adapted, &[], &data, 3, go_on).unwrap();
            let scores = evaluate::Scores::of(&found[0], data.labels());
            assert!(scores.accuracy > 0.9, "{scores:?}");
        }
    }
}

#[test]
fn a_frozen_classifier_stays_and_the_factors_learn() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(4);
    let (first, second) = (adapter(&base, &lora, 2), adapter(&base, &lora, 2));
    let (score_shape, _) = first.get(SCORE).unwrap();
    let values = (0..score_shape[0] * score_shape[1]).map(|i| (i as f32).sin()).collect();
    let second = second.with(SCORE, score_shape, values);
    let data = [examples(12, 1), examples(6, 2)];
    let job = |adapter, data| {
        let frozen = Parts::HEAD;
        ClientJob { frozen, ..ClientJob::new(adapter, &lora, data, 2) }
    };
    let jobs = [job(&first, &data[0]), job(&second, &data[1])];
    let run = |jobs: &[ClientJob<'_>]| {
        train(&base, jobs, &numbers(), &mut |_| ControlFlow::Continue(())).unwrap()
    };
    for (job, trained) in jobs.iter().zip(run(&jobs)) {
        assert_eq!(trained.adapter.get(SCORE), job.adapter.get(SCORE));
        assert!(trained.adapter.same_shapes(job.adapter));
        assert!(apart(&trained.adapter.flatten(), &job.adapter.flatten()) > 1e-3);
        let alone = run(&[*job]).remove(0);
        assert!(apart(&trained.adapter.flatten(), &alone.adapter.flatten()) < 2e-5);
    }
}

#[test]
fn a_head_that_does_not_fit_the_task_is_refused() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(2);
    let refuse = |classes: usize, data: &TokenSet| {
        let adapter = init_adapter(base.config(), &lora, classes, 3).unwrap();
        let job = ClientJob::new(&adapter, &lora, data, 1);
        train(&base, &[job], &numbers(), &mut |_| ControlFlow::Continue(()))
            .unwrap_err()
            .to_string()
    };
    let words = Objective::Verbalize(vec![vec![11], vec![12]]);
    let error = refuse(2, &examples(4, 1).with_objective(words).unwrap());
    assert!(error.contains("read by the causal head"), "{error}");
    let error = refuse(0, &examples(4, 1));
    assert!(error.contains("has no classifier"), "{error}");
}
