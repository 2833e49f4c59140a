//! The noise that hides one client.

use crate::seed::Draws;

/// Adds a draw from N(0, σ²) to each value, of a stream that `purpose` names under `seed`: the round, and the client where
/// it adds noise of its own. With σ = 0 the values keep their bits.
///
/// The seed is as secret as the update that the noise hides.
pub fn add_noise(values: &mut [f32], sigma: f64, seed: u64, purpose: &[&str]) {
    // Even −0 + 0 would have another bit.
    if sigma == 0.0 {
        return;
    }
    let mut draws = Draws::named(seed, "privacy", purpose);
    for value in values {
        *value = narrow(f64::from(*value) + sigma * draws.normal());
    }
}

/// The deviation of the noise on an unweighted mean over `clients` updates, each of norm at most `bound`: `z·C/K`.
///
/// K is fixed before clients are drawn, so that it tells nothing of who took part; under Poisson sampling it is the
/// expected number.
pub fn central_sigma(multiplier: f64, bound: f64, clients: u32) -> f64 {
    multiplier * bound / f64::from(clients.max(1))
}

#[expect(clippy::cast_possible_truncation, reason = "updates are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noised(sigma: f64, seed: u64, purpose: &[&str]) -> Vec<f32> {
        let mut values = vec![1.0; 40_000];
        add_noise(&mut values, sigma, seed, purpose);
        values
    }

    #[test]
    fn the_noise_has_the_deviation_and_no_memory() {
        let values = noised(0.3, 5, &["round", "1"]);
        let numbers: Vec<f64> = values.iter().map(|&value| f64::from(value) - 1.0).collect();
        let mean = |of: &dyn Fn(usize) -> f64| {
            (0..numbers.len() - 1).map(of).sum::<f64>() / (numbers.len() - 1) as f64
        };
        let variance = mean(&|i| numbers[i].powi(2));
        // Four deviations of each estimate.
        assert!(mean(&|i| numbers[i]).abs() < 0.006);
        assert!((variance.sqrt() - 0.3).abs() < 0.0043, "{variance}");
        assert!(mean(&|i| numbers[i] * numbers[i + 1]).abs() < 0.0018);
        assert!((mean(&|i| numbers[i].powi(4)) / variance.powi(2) - 3.0).abs() < 0.2);
    }

    #[test]
    fn a_stream_belongs_to_its_name() {
        let first = noised(0.3, 5, &["round", "1"]);
        assert_eq!(first, noised(0.3, 5, &["round", "1"]));
        assert_ne!(first, noised(0.3, 5, &["round", "2"]));
        assert_ne!(first, noised(0.3, 6, &["round", "1"]));
    }

    #[test]
    fn no_noise_leaves_the_bytes() {
        let values = [1.5_f32, -0.0, 1e-42];
        let mut same = values;
        add_noise(&mut same, 0.0, 1, &[]);
        assert_eq!(same.map(f32::to_bits), values.map(f32::to_bits));
    }

    #[test]
    fn the_mean_has_the_deviation_of_flower() {
        assert!((central_sigma(1.0, 1.0, 20) - 0.05).abs() < 1e-15);
    }
}
