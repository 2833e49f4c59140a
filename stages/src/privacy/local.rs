//! Noise that a client adds itself: the classical Gaussian mechanism.
//!
//! Here a neighbour is another update in the same client's place (replace-one): the server sees who sends. Two updates of
//! norm at most C lie at most 2C apart, so that is the sensitivity of one that was clipped to C.
//!
//! The theorem (Dwork and Roth 2014, A.1) is proved for ε < 1; beyond that the formula is only what others report, too. It
//! is for one release: several of one client compose.

use super::{PrivacyError, positive, probability};

/// The deviation of the noise that makes one release (ε, δ)-private: `sensitivity·√(2 ln(1.25/δ))/ε`.
///
/// # Errors
/// A number lies outside its range.
pub fn local_sigma(epsilon: f64, delta: f64, sensitivity: f64) -> Result<f64, PrivacyError> {
    positive("epsilon", epsilon)?;
    Ok(product(delta, sensitivity)? / epsilon)
}

/// The ε of one release with noise of deviation `sigma`: [`local_sigma`] the other way.
///
/// # Errors
/// A number lies outside its range.
pub fn local_epsilon(sigma: f64, delta: f64, sensitivity: f64) -> Result<f64, PrivacyError> {
    positive("sigma", sigma)?;
    Ok(product(delta, sensitivity)? / sigma)
}

/// ε·σ.
fn product(delta: f64, sensitivity: f64) -> Result<f64, PrivacyError> {
    probability("delta", delta)?;
    positive("sensitivity", sensitivity)?;
    Ok(sensitivity * (2.0 * (1.25 / delta).ln()).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_and_epsilon_are_each_other_s_inverse() {
        // √(2 ln 125000) = 4.844805262605389, worked out apart from this code.
        let sigma = local_sigma(1.0, 1e-5, 1.0).unwrap();
        assert!((sigma - 4.844_805_262_605_389).abs() < 1e-12, "{sigma}");
        for (epsilon, delta, bound) in [(0.1, 1e-6, 0.5), (0.9, 1e-3, 4.0)] {
            let sigma = local_sigma(epsilon, delta, 2.0 * bound).unwrap();
            let back = local_epsilon(sigma, delta, 2.0 * bound).unwrap();
            assert!((back / epsilon - 1.0).abs() < 1e-14, "{back}");
        }
    }

    #[test]
    fn twice_the_sensitivity_asks_for_twice_the_noise() {
        let sigma = |sensitivity| local_sigma(0.5, 1e-5, sensitivity).unwrap();
        assert!((sigma(2.0) / sigma(1.0) - 2.0).abs() < 1e-15);
    }

    #[test]
    fn numbers_outside_their_range_are_named() {
        let field = |epsilon, delta, sensitivity| {
            local_sigma(epsilon, delta, sensitivity).unwrap_err().field
        };
        assert_eq!(field(0.0, 1e-5, 1.0), "epsilon");
        assert_eq!(field(1.0, 1.0, 1.0), "delta");
        assert_eq!(field(1.0, f64::NAN, 1.0), "delta");
        assert_eq!(field(1.0, 1e-5, f64::INFINITY), "sensitivity");
        assert!(local_epsilon(0.0, 1e-5, 1.0).is_err());
    }
}
