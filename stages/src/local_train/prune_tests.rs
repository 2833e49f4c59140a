//! Self-pruning of ranks: the penalty's gradient, and when a rank is given up.

use super::fixture::{adapter, examples, refusal, run, slope, whole_batch};
use super::prune::tail;
use super::*;
use crate::evaluate::{self, Adapted};
use crate::model::recorded::apart;
use crate::model::tiny::LLAMA;
use crate::peft::init_adapter;

fn sgd(lr: f64) -> LocalNumbers {
    LocalNumbers { steps: Some(3), ..LocalNumbers::new(4, Optimizer::Sgd { lr }) }
}

/// The gradient of the penalty alone: what it adds to that of the loss.
fn penalty(base: &Base, start: &AdapterTensors, lora: &LoraConfig, prune: Prune) -> AdapterTensors {
    let data = examples(4, 1);
    let batch = whole_batch(base, &data);
    let client = Client::new(start, lora, 1, 1, data.objective());
    let (free, _) = slope(base, client, &sgd(0.1), &batch);
    let (held, _) = slope(base, Client { prune: Some(prune), ..client }, &sgd(0.1), &batch);
    let pairs = held.flatten().into_iter().zip(free.flatten());
    held.with_values(&pairs.map(|(held, free)| held - free).collect::<Vec<_>>())
}

#[test]
fn the_penalty_has_the_gradient_of_finite_differences() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(4);
    let start = adapter(&base, &lora, 2);
    let prune = Prune { gamma: 0.6, lambda: 8.0 };
    assert_eq!(prune.kept(4), 2);
    let gradient = penalty(&base, &start, &lora, prune);
    let flat = start.flatten();
    let at = |index: usize, by: f32| {
        let mut moved = flat.clone();
        moved[index] += by;
        let by = f64::from(moved[index]) - f64::from(flat[index]);
        (8.0 * tail(&start.with_values(&moved), 2), by)
    };
    let (mut met, mut zeros) = (0, 0);
    for (index, found) in gradient.flatten().into_iter().enumerate().step_by(7) {
        let ((above, up), (below, down)) = (at(index, 1e-3), at(index, -1e-3));
        let slope = (above - below) / (up - down);
        let far = (f64::from(found) - slope).abs();
        assert!(far < 2e-4, "{index}: {found}, not {slope}");
        if slope.abs() > 0.05 { met += 1 } else { zeros += 1 }
    }
    assert!(met > 20 && zeros > 20, "{met} and {zeros}: both tails and the rest are looked at");
}

#[test]
fn a_norm_of_zero_has_no_slope() {
    let base = LLAMA.base();
    let lora = LoraConfig::of_rank(4);
    let fresh = init_adapter(base.config(), &lora, 2, 1).unwrap();
    let gradient = penalty(&base, &fresh, &lora, Prune { gamma: 0.5, lambda: 8.0 });
    assert!(gradient.flatten().iter().all(|value| *value == 0.0));
}

/// The penalty pulls the last two ranks down; beside it stands a client that prunes nothing.
#[test]
fn a_rank_is_given_up_where_the_tail_shrinks() {
    let base = LLAMA.base();
    let lora = LoraConfig { alpha: 8.0, ..LoraConfig::of_rank(4) };
    let (start, data) = (adapter(&base, &lora, 2), examples(12, 1));
    let job = ClientJob::new(&start, &lora, &data, 3);
    let with = |lambda| ClientJob { prune: Some(Prune { gamma: 0.5, lambda }), ..job };
    // Nothing is pruned by a rate so small that no number changes.
    let idle = run(&base, &[with(0.0)], &sgd(1e-30)).remove(0);
    assert_eq!((idle.rank, &idle.adapter), (None, &start));
    let trained = run(&base, &[with(1.0), job], &sgd(0.05));
    let [pruned, free] = trained.as_slice() else { panic!("two clients") };
    assert_eq!((pruned.rank, free.rank), (Some(2), None));
    let alone = run(&base, &[job], &sgd(0.05)).remove(0);
    assert!(apart(&free.adapter.flatten(), &alone.adapter.flatten()) < 1e-6);
    let small = LoraConfig { alpha: 4.0, ..LoraConfig::of_rank(2) };
    let expected = init_adapter(base.config(), &small, 2, 1).unwrap();
    assert!(pruned.adapter.same_shapes(&expected));
    // The penalty does not reach what is kept, in the first step; later it does, through the loss.
    let one = |job| run(&base, &[job], &LocalNumbers { steps: Some(1), ..sgd(0.05) }).remove(0);
    let (held, free) = (one(with(1.0)), one(job));
    assert_eq!(held.rank, Some(2));
    let kept = prune::truncated(&free.adapter, 2);
    assert!(apart(&held.adapter.flatten(), &kept.flatten()) < 1e-6);
    let (_, [rank, inputs], a) = free.adapter.iter().next().unwrap();
    let (_, [half, same], first) = held.adapter.iter().next().unwrap();
    assert_eq!((rank, half, inputs), (4, 2, same));
    assert!(apart(first, &a[..2 * inputs]) < 1e-6, "the first rows of A are kept");
    let adapted = Some(Adapted { adapter: &pruned.adapter, lora: &small });
    let go_on = &mut |_| ControlFlow::Continue(());
    let logits = evaluate::classes(&base, adapted, &[], &data, 4, go_on).unwrap().remove(0);
    assert!(logits.values.iter().all(|value| value.is_finite()));
}

#[test]
fn a_rank_stays_where_the_tail_grows_or_is_empty() {
    let base = LLAMA.base();
    let data = examples(12, 1);
    let prune = Prune { gamma: 0.99, lambda: 1e-3 };
    for (rank, fresh) in [(4, true), (1, false)] {
        let lora = LoraConfig::of_rank(rank);
        let fresh_adapter = init_adapter(base.config(), &lora, 2, 1).unwrap();
        let start = if fresh { fresh_adapter } else { adapter(&base, &lora, 2) };
        let job = ClientJob { prune: Some(prune), ..ClientJob::new(&start, &lora, &data, 3) };
        let trained = run(&base, &[job], &sgd(0.1)).remove(0);
        assert_eq!(trained.rank, None);
        assert!(trained.adapter.same_shapes(&start));
        let kept = prune.kept(rank);
        assert_eq!(tail(&trained.adapter, kept) > tail(&start, kept), fresh);
    }
    let kept = |gamma, rank| Prune { gamma, lambda: 0.0 }.kept(rank);
    assert_eq!([kept(0.99, 100), kept(0.29, 100), kept(0.99, 8), kept(0.1, 4)], [99, 29, 7, 1]);
}

#[test]
fn what_cannot_be_pruned_is_refused() {
    let base = LLAMA.base();
    let (lora, data) = (LoraConfig::of_rank(4), examples(4, 1));
    let start = adapter(&base, &lora, 2);
    let job = ClientJob::new(&start, &lora, &data, 3);
    let refuse = |job: ClientJob<'_>, gamma, lambda| {
        refusal(&base, &[ClientJob { prune: Some(Prune { gamma, lambda }), ..job }], &sgd(0.1))
    };
    assert_eq!(refuse(job, 1.0, 0.1), "`gamma` is 1; it is above 0 and below 1");
    assert_eq!(refuse(job, 0.5, -1.0), "`lambda` is -1; it is not negative");
    let error = refuse(ClientJob { frozen: Parts::A, ..job }, 0.5, 0.1);
    assert!(error.contains("trains both factors"), "{error}");
    let patterned = LoraConfig { rank_pattern: [("v_proj".to_owned(), 2)].into(), ..lora.clone() };
    let other = adapter(&base, &patterned, 2);
    let error = refuse(ClientJob::new(&other, &patterned, &data, 3), 0.5, 0.1);
    assert!(error.contains("has one rank for all modules"), "{error}");
}
