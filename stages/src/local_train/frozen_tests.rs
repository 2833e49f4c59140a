//! Parts of an adapter that stay as they are: FFA-LoRA's A, the factor that rests in a round, a frozen classifier.

use super::fixture::{adapter, examples, objectives, refusal, run, slope, whole_batch};
use super::*;
use crate::model::Targets;
use crate::model::recorded::apart;
use crate::model::tiny::{BLOOM, LLAMA};

fn lora(rank: usize) -> LoraConfig {
    let targets = Some(Targets::Pattern("all-linear".to_owned()));
    LoraConfig { targets, ..LoraConfig::of_rank(rank) }
}

#[test]
fn frozen_parts_come_out_bit_for_bit_and_the_others_learn() {
    let lora = LoraConfig { dropout: 0.1, ..lora(4) };
    let data = examples(12, 1);
    // Weight decay, clipping and the proximal term would each change what is frozen, if it took part in them.
    let numbers = LocalNumbers {
        clip: Some(0.5),
        prox: 0.5,
        epochs: Some(2),
        ..LocalNumbers::new(4, Optimizer::adamw(1e-2))
    };
    for base in [LLAMA.base(), BLOOM.base()] {
        let start = adapter(&base, &lora, 2);
        for frozen in
            [Parts::A, Parts::B, Parts::A | Parts::HEAD, Parts::B | Parts::HEAD, Parts::FACTORS]
        {
            let job = ClientJob { frozen, ..ClientJob::new(&start, &lora, &data, 2) };
            let trained = run(&base, &[job], &numbers).remove(0);
            assert!(trained.adapter.same_shapes(&start));
            for (name, _, before) in start.iter() {
                let (_, after) = trained.adapter.get(name).unwrap();
                if frozen.has(Parts::of(name)) {
                    let bits =
                        |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(after), bits(before), "{frozen}: {name}");
                } else {
                    assert!(apart(after, before) > 1e-3, "{frozen}: {name} is not trained");
                }
            }
        }
    }
}

#[test]
fn what_is_left_has_the_gradient_that_it_has_in_the_whole() {
    for base in [LLAMA.base(), BLOOM.base()] {
        let lora = lora(4);
        let mut cases = vec![(adapter(&base, &lora, 2), examples(6, 1))];
        for objective in objectives(&examples(6, 1)) {
            let data = examples(6, 1).with_objective(objective).unwrap();
            cases.push((adapter(&base, &lora, 0), data));
        }
        for (start, data) in cases {
            let numbers = LocalNumbers::new(8, Optimizer::Sgd { lr: 0.1 });
            let batch = whole_batch(&base, &data);
            let client = Client::new(&start, &lora, 1, 1, data.objective());
            let (whole, loss) = slope(&base, client, &numbers, &batch);
            for frozen in [Parts::A, Parts::B] {
                let client = Client { frozen, ..client };
                let (some, again) = slope(&base, client, &numbers, &batch);
                assert!((loss - again).abs() < 1e-6);
                let expected = whole.only(!frozen);
                assert!(some.same_shapes(&expected), "nothing frozen is in the flat vector");
                let far = apart(&some.flatten(), &expected.flatten());
                let most =
                    expected.flatten().into_iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                assert!(far < 1e-5 * most && most > 1e-3, "{frozen}: {far} of {most}");
            }
        }
    }
}

#[test]
fn only_what_is_trained_is_measured_when_gradients_are_clipped() {
    let base = LLAMA.base();
    let (lora, data) = (lora(4), examples(8, 1));
    let start = adapter(&base, &lora, 2);
    let numbers =
        LocalNumbers { clip: Some(1e-3), ..LocalNumbers::new(8, Optimizer::Sgd { lr: 1.0 }) };
    for frozen in [Parts::NONE, Parts::A, Parts::B | Parts::HEAD] {
        let job = ClientJob { frozen, ..ClientJob::new(&start, &lora, &data, 2) };
        let moved = run(&base, &[job], &numbers).remove(0).adapter.flatten();
        let squares = moved.iter().zip(start.flatten()).map(|(a, b)| f64::from(a - b).powi(2));
        let length = squares.sum::<f64>().sqrt();
        assert!((length / 1e-3 - 1.0).abs() < 1e-2, "{frozen}: {length}");
    }
}

#[test]
fn a_cohort_with_frozen_parts_trains_each_client_as_if_it_were_alone() {
    let base = BLOOM.base();
    let owned = [(4, 9), (2, 14), (8, 5)].map(|(rank, count)| {
        let lora = LoraConfig { dropout: 0.1, ..lora(rank) };
        (adapter(&base, &lora, 2), lora, examples(count, rank as u64))
    });
    let numbers = LocalNumbers { prox: 0.1, ..LocalNumbers::new(4, Optimizer::adamw(1e-3)) };
    for frozen in [Parts::A, Parts::B | Parts::HEAD] {
        let jobs = owned.each_ref().map(|(adapter, lora, data)| ClientJob {
            frozen,
            ..ClientJob::new(adapter, lora, data, 7)
        });
        let together = run(&base, &jobs, &numbers);
        for (job, one) in jobs.iter().zip(&together) {
            let alone = run(&base, &[*job], &numbers).remove(0);
            let far = apart(&one.adapter.flatten(), &alone.adapter.flatten());
            assert!(far < 2e-5, "{frozen}: {far}");
            assert_eq!(one.adapter.only(frozen), job.adapter.only(frozen));
        }
    }
}

#[test]
fn nothing_to_train_and_unlike_cohorts_are_refused() {
    let base = LLAMA.base();
    let (lora, data) = (lora(2), examples(4, 1));
    let (start, numbers) = (adapter(&base, &lora, 2), LocalNumbers::new(4, Optimizer::adamw(1e-3)));
    let job = ClientJob::new(&start, &lora, &data, 1);
    let all = ClientJob { frozen: Parts::ALL, ..job };
    let error = refusal(&base, &[all], &numbers);
    assert_eq!(error, "nothing of the adapter is trained: all of its parts are frozen");
    let other = ClientJob { frozen: Parts::A, ..job };
    let error = refusal(&base, &[job, other], &numbers);
    assert_eq!(error, "client 1 adapts other modules, blocks, parts or classes than client 0");
}
