//! The exponential function and sums, in a form that vectorizes.

/// So many sums are kept side by side: a whole vector of the widest kind.
pub(super) const LANES: usize = 16;

/// e to the power of `x`, within two units in the last place for `x` in `[-87, 88]`, and clamped to that range.
///
/// 2ⁿ comes from the exponent's bits, the rest from a polynomial (Cephes' `expf`).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Added and taken away again, it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, of which the first has few bits: n times it is exact.
    let f = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let p = ((((1.987_569_1e-4 * f + 1.398_2e-3) * f + 8.333_452e-3) * f + 4.166_579_6e-2) * f
        + 1.666_666_5e-1)
        * f
        + 0.5;
    let p = p * f * f + f + 1.0;
    // The last bits of the shifted number are n, in [-126, 127].
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    f32::from_bits(exponent) * p
}

/// The sum of `of(i)` for `i` in `0..length`, in a fixed order: sixteen sums side by side, then their sum.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be vectorized with what it sums")]
pub(super) fn sum(length: usize, of: impl Fn(usize) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let whole = length / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += of(start + lane);
        }
    }
    let mut total = sums.iter().sum();
    for i in whole..length {
        total += of(i);
    }
    total
}

/// The largest of `values`; the least number where there is none.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be vectorized with the loop around it")]
pub(super) fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut found = [f32::MIN; LANES];
    for chunk in chunks {
        for (found, &value) in found.iter_mut().zip(chunk) {
            *found = if value > *found { value } else { *found };
        }
    }
    found.iter().chain(rest).copied().fold(f32::MIN, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_two_units_in_the_last_place() {
        let mut worst = 0.0_f64;
        for i in -86_999..88_000_i32 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exp(-1e9) < 2e-38);
    }

    #[test]
    fn sums_and_the_largest_of_any_length() {
        for length in [0, 1, 15, 16, 17, 40] {
            let values: Vec<f32> = (0..length).map(|i| ((i * 7) % 11) as f32 - 20.0).collect();
            // The sum of nothing is -0 to the standard library.
            let plain = values.iter().sum::<f32>() + 0.0;
            assert_eq!(sum(length, |i| values[i]).to_bits(), plain.to_bits());
            let wanted = values.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(largest(&values).to_bits(), wanted.to_bits());
        }
    }
}
