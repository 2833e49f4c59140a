//! The bound on one client's update.

/// Scales `update` by `min(1, bound/‖update‖)`, so that its Euclidean norm is at most `bound`, and gives the norm that it had.
///
/// `update` is the whole of what is trained and sent, one flat vector: clipping tensor by tensor would leave a larger bound
/// on all of them together. An update within the bound keeps its bits, and so does any update where there is no bound.
/// The factor is applied in f64; rounding to f32 can leave the norm above the bound by a share of 2⁻²⁴.
pub fn clip(update: &mut [f32], bound: Option<f64>) -> f64 {
    let squares = update.iter().map(|&value| f64::from(value).powi(2));
    let norm = squares.fold(0.0, |sum, square| sum + square).sqrt();
    if let Some(bound) = bound.filter(|bound| norm > *bound) {
        let factor = bound / norm;
        for value in update {
            *value = narrow(f64::from(*value) * factor);
        }
    }
    norm
}

#[expect(clippy::cast_possible_truncation, reason = "updates are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn a_long_update_keeps_its_direction_and_gets_the_bound_as_its_norm() {
        // The golden value of the rules: (3, 4) clipped to 1.
        let mut update = [3.0_f32, 4.0];
        let norm = clip(&mut update, Some(1.0));
        assert!((norm - 5.0).abs() < 1e-12);
        assert_eq!(bits(&update), bits(&[0.6, 0.8]));
        let mut long: Vec<f32> = (0..10_000).map(|i| (i as f32 * 0.37).sin()).collect();
        clip(&mut long, Some(0.25));
        let norm = clip(&mut long, None);
        assert!((norm / 0.25 - 1.0).abs() < 6e-8, "{norm}");
    }

    #[test]
    fn within_the_bound_nothing_changes() {
        let update = [3.0_f32, -0.0, 1e-40, -4.0];
        for bound in [None, Some(5.0), Some(f64::MAX)] {
            let mut clipped = update;
            clip(&mut clipped, bound);
            assert_eq!(bits(&clipped), bits(&update), "{bound:?}");
        }
        assert_eq!(clip(&mut [], Some(1.0)).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn the_bound_is_on_all_of_the_update_and_not_on_parts_of_it() {
        // Each half has a norm of 3, within the bound of 4; together they have √18.
        let mut update = [3.0_f32, 0.0, 0.0, 3.0];
        clip(&mut update, Some(4.0));
        assert!(update[0] < 3.0 && update[0].to_bits() == update[3].to_bits(), "{update:?}");
    }
}
