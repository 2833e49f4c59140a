//! Attention with linear biases: each head looks back with a slope of its own (Press et al. 2021, 2108.12409).

/// The slope of each head, as BLOOM computes them: a geometric series for a power of two, and between its terms
/// every other term of the next power's series for the heads beyond it.
pub(super) fn slopes(heads: usize) -> Vec<f64> {
    let below = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let start = |power: usize| (-8.0 / power as f64).exp2();
    let series = (1..=below).map(|i| start(below).powf(i as f64));
    let between = (0..heads - below).map(|i| start(2 * below).powf((2 * i + 1) as f64));
    series.chain(between).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_powers_of_two_and_of_others() {
        let near = |found: Vec<f64>, wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            found.iter().zip(wanted).for_each(|(f, w)| assert!((f - w).abs() < 1e-12, "{found:?}"));
        };
        near(slopes(1), &[1.0 / 256.0]);
        near(slopes(4), &[0.25, 0.0625, 0.015_625, 0.003_906_25]);
        // Four heads' own, then the first and third of eight heads'.
        near(slopes(6), &[0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
        near(slopes(3), &[0.0625, 0.003_906_25, 0.25]);
    }
}
