//! Adapters and examples for the tests of local training.

use std::ops::ControlFlow;

use super::*;
use crate::peft::init_adapter;
use crate::seed::Draws;

#[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// An adapter none of whose factors is zero, so that all of them have gradients.
pub(super) fn adapter(base: &Base, lora: &LoraConfig, classes: usize) -> AdapterTensors {
    let fresh = init_adapter(base.config(), lora, classes, 3).unwrap();
    let mut draws = Draws::named(5, "test", &["adapter"]);
    let flat: Vec<f32> =
        fresh.flatten().iter().map(|value| value + narrow(0.1 * (draws.unit() - 0.5))).collect();
    fresh.with_values(&flat)
}

pub(super) fn examples(count: usize, seed: u64) -> TokenSet {
    let mut draws = Draws::named(seed, "test", &["examples"]);
    let token = |draws: &mut Draws| u32::try_from(4 + draws.below(600)).unwrap();
    let rows: Vec<(Vec<u32>, i32)> = (0..count)
        .map(|i| {
            let length = 3 + draws.below(12);
            ((0..length).map(|_| token(&mut draws)).collect(), i32::try_from(i % 2).unwrap())
        })
        .collect();
    TokenSet::from_examples(rows.iter().map(|(tokens, label)| (tokens.as_slice(), *label))).unwrap()
}

pub(super) fn objectives(data: &TokenSet) -> Vec<Objective> {
    let starts = (0..data.len()).map(|i| u32::try_from(1 + i % 2).unwrap()).collect();
    vec![
        Objective::Verbalize(vec![vec![11], vec![12]]),
        Objective::Verbalize(vec![vec![11, 30, 7], vec![12, 31]]),
        Objective::Complete(starts),
    ]
}

/// Local training to its end.
pub(super) fn run(base: &Base, jobs: &[ClientJob<'_>], numbers: &LocalNumbers) -> Vec<Trained> {
    train(base, jobs, numbers, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The sentence that local training is refused with.
pub(super) fn refusal(base: &Base, jobs: &[ClientJob<'_>], numbers: &LocalNumbers) -> String {
    train(base, jobs, numbers, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
}

/// The batch of all of `data`, for one client.
pub(super) fn whole_batch(base: &Base, data: &TokenSet) -> Batch {
    let all: Vec<usize> = (0..data.len()).collect();
    objective::batch(&[(data, &all)], base.config().pad, base.device())
}

/// The gradient of a client's first step, and its loss.
pub(super) fn slope(
    base: &Base,
    client: Client<'_>,
    numbers: &LocalNumbers,
    batch: &Batch,
) -> (AdapterTensors, f64) {
    let trainer = Trainer::new(base, &[client], numbers).unwrap();
    let (gradient, loss) = trainer.gradient(std::slice::from_ref(batch)).unwrap();
    let loss: f32 = loss.into_scalar();
    (trainer.named(&gradient).unwrap().remove(0), f64::from(loss))
}
