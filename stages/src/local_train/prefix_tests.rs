//! Training and evaluation that begin at the lowest adapted block, against those that begin at the embeddings.

use std::ops::ControlFlow;

use super::fixture::{adapter, examples, objectives, refusal, run};
use super::*;
use crate::evaluate::{self, Adapted, Examples};
use crate::model::Layers;
use crate::model::tiny::{BLOOM, LLAMA, threads};
use crate::prefix::Prefix;

fn numbers() -> LocalNumbers {
    LocalNumbers { epochs: Some(2), accumulate: 2, ..LocalNumbers::new(3, Optimizer::adamw(1e-3)) }
}

/// Every objective, over examples of 3 to 14 tokens.
fn all(count: usize, seed: u64) -> Vec<TokenSet> {
    let data = examples(count, seed);
    let others = objectives(&data)
        .into_iter()
        .map(|objective| data.clone().with_objective(objective).unwrap());
    others.chain([data.clone()]).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Rows are short here. With Burn's operations and rows of some dozens of tokens, what a row comes to depends in its last
/// bits on how wide its batch is padded, so that there a prefix gives the same results to within rounding only; the
/// CPU's own kernels pad nothing.
#[test]
fn training_from_a_prefix_gives_the_same_bits() {
    let fused = |base: Base| base.fused(threads(2));
    let stock = [LLAMA.base(), BLOOM.base()];
    for base in stock.into_iter().chain([fused(LLAMA.base()), fused(BLOOM.base())]) {
        for data in all(13, 4) {
            for (layers, layer) in [(Layers::Last(1), 2), (Layers::Only(vec![2, 1]), 1)] {
                let lora = LoraConfig { layers, dropout: 0.2, ..LoraConfig::of_rank(3) };
                let classes = if data.objective().is_causal() { 0 } else { 2 };
                let start = adapter(&base, &lora, classes);
                let prefix = Prefix::of(&base, &data, layer);
                let plain = ClientJob::new(&start, &lora, &data, 9);
                let without = run(&base, &[plain], &numbers()).remove(0);
                let with = ClientJob { prefix: Some(&prefix), ..plain };
                let with = run(&base, &[with], &numbers()).remove(0);
                assert_eq!(bits(&with.adapter.flatten()), bits(&without.adapter.flatten()));
                assert_eq!(with.mean_loss.to_bits(), without.mean_loss.to_bits());
                assert_eq!(with.tokens, without.tokens);
                assert_ne!(bits(&with.adapter.flatten()), bits(&start.flatten()), "it was trained");

                let adapted = Some(Adapted { adapter: &start, lora: &lora });
                let go_on = &mut |_: Progress| ControlFlow::Continue(());
                let mut loss = |prefix| {
                    let data = Examples { set: &data, prefix };
                    evaluate::mean_loss(&base, adapted, data, 5, go_on).unwrap().to_bits()
                };
                assert_eq!(loss(Some(&prefix)), loss(None));
            }
        }
    }
}

/// The clients of a cohort differ in ranks and lengths; one without a prefix makes all begin at the embeddings.
#[test]
fn a_cohort_begins_at_one_block_or_at_the_embeddings() {
    let base = LLAMA.base();
    let owned: Vec<_> = [(4, 9), (2, 14)]
        .into_iter()
        .map(|(rank, count)| {
            let lora = LoraConfig { layers: Layers::Last(1), ..LoraConfig::of_rank(rank) };
            let data = examples(count, 3);
            let prefix = Prefix::of(&base, &data, 2);
            (adapter(&base, &lora, 2), lora, data, prefix)
        })
        .collect();
    let plain: Vec<_> = owned
        .iter()
        .map(|(adapter, lora, data, _)| ClientJob::new(adapter, lora, data, 5))
        .collect();
    let both: Vec<_> = plain
        .iter()
        .zip(&owned)
        .map(|(job, (.., prefix))| ClientJob { prefix: Some(prefix), ..*job })
        .collect();
    let flat = |jobs: &[ClientJob<'_>]| -> Vec<Vec<u32>> {
        run(&base, jobs, &numbers()).iter().map(|t| bits(&t.adapter.flatten())).collect()
    };
    let wanted = flat(&plain);
    assert_eq!(flat(&both), wanted);
    assert_eq!(flat(&[both[0], plain[1]]), wanted);
}

/// States that were changed change the result: they are not passed over.
#[test]
fn the_states_are_what_training_begins_with() {
    let base = LLAMA.base();
    let lora = LoraConfig { layers: Layers::Last(1), ..LoraConfig::of_rank(2) };
    let data = examples(8, 3);
    let start = adapter(&base, &lora, 2);
    let other = Prefix::of(&BLOOM.base(), &data, 2);
    let job = ClientJob::new(&start, &lora, &data, 5);
    let text = refusal(&base, &[ClientJob { prefix: Some(&other), ..job }], &numbers());
    assert!(text.ends_with("they are of a base of other sizes"), "{text}");
    let shuffled: Vec<usize> = (0..8).rev().collect();
    let reversed = Prefix::of(&base, &data.subset(&shuffled), 2);
    let text = refusal(&base, &[ClientJob { prefix: Some(&reversed), ..job }], &numbers());
    assert!(text.contains("has another length"), "{text}");
    let low = LoraConfig { layers: Layers::Last(2), ..lora.clone() };
    let below = Prefix::of(&base, &data, 2);
    let wide = adapter(&base, &low, 2);
    let job = ClientJob { adapter: &wide, lora: &low, prefix: Some(&below), ..job };
    let text = refusal(&base, &[job], &numbers());
    assert!(
        text.contains("changes block 1") && text.contains("`local.prefix: Recompute`"),
        "{text}"
    );

    // One more token at the front of each example: the same lengths, other states.
    let turned = data.subset(&(0..8).collect::<Vec<_>>());
    let rows: Vec<(Vec<u32>, i32)> = (0..8)
        .map(|i| (turned.tokens(i).iter().map(|id| 4 + (id + 1) % 600).collect(), turned.label(i)))
        .collect();
    let turned =
        TokenSet::from_examples(rows.iter().map(|(t, label)| (t.as_slice(), *label))).unwrap();
    let foreign = Prefix::of(&base, &turned, 2);
    let job = ClientJob::new(&start, &lora, &data, 5);
    let plain = run(&base, &[job], &numbers()).remove(0);
    let moved = run(&base, &[ClientJob { prefix: Some(&foreign), ..job }], &numbers()).remove(0);
    assert_ne!(bits(&plain.adapter.flatten()), bits(&moved.adapter.flatten()));
}
