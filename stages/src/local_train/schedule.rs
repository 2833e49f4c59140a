//! The learning rate of each step.

use super::numbers::LocalNumbers;

/// The learning rate at `step` (from 0) of `steps`.
pub(super) fn learning_rate(numbers: &LocalNumbers, step: u64, steps: u64) -> f64 {
    let share = step as f64 / steps.max(1) as f64;
    let slope = numbers.lr_from + (numbers.lr_to - numbers.lr_from) * share;
    let warmup = match numbers.warmup_steps {
        0 => 1.0,
        warmup => ((step + 1) as f64 / f64::from(warmup)).min(1.0),
    };
    numbers.optimizer.lr() * slope * warmup
}

/// The sum of the learning rates of all `steps`.
pub(super) fn sum(numbers: &LocalNumbers, steps: u64) -> f64 {
    (0..steps).map(|step| learning_rate(numbers, step, steps)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_train::numbers::Optimizer;

    #[test]
    fn it_warms_up_and_then_falls_to_where_the_next_round_begins() {
        let numbers = LocalNumbers {
            lr_from: 0.5,
            lr_to: 0.25,
            warmup_steps: 2,
            ..LocalNumbers::new(1, Optimizer::Sgd { lr: 8.0 })
        };
        let rates: Vec<f64> = (0..4).map(|step| learning_rate(&numbers, step, 4)).collect();
        assert_eq!(rates, [2.0, 3.5, 3.0, 2.5]);
        assert!((sum(&numbers, 4) - 11.0).abs() < 1e-12);
    }
}
