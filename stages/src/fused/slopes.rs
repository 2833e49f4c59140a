//! Gradients against finite differences, for the tests of the kernels.

/// Checks that `gradient` holds the slopes of `Σ weights · of(x)` by each value of `x`.
pub(super) fn check_gradient(
    x: &[f32],
    gradient: &[f32],
    weights: &[f32],
    of: impl Fn(&[f32]) -> Vec<f32>,
) {
    let value = |x: &[f32]| -> f64 {
        let y = of(x);
        assert_eq!(y.len(), weights.len());
        y.iter().zip(weights).map(|(y, w)| f64::from(*y) * f64::from(*w)).sum()
    };
    let size = gradient.iter().fold(0.0_f64, |most, g| most.max(f64::from(g.abs())));
    assert!(size > 0.0 && gradient.len() == x.len());
    for at in 0..x.len() {
        let shifted = |by: f32| {
            let mut x = x.to_vec();
            x[at] += by;
            value(&x)
        };
        let slope = (shifted(2e-3) - shifted(-2e-3)) / 4e-3;
        let apart = (slope - f64::from(gradient[at])).abs();
        assert!(apart < 2e-3 * size.max(0.5), "{at}: slope {slope}, gradient {}", gradient[at]);
    }
}
