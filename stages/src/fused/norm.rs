//! The norms of the residual stream, and their gradients.

use super::math::sum;
use super::simd::vectorized;

/// So many numbers are kept of each row: its mean (0 for a root-mean-square norm), and one over its size.
const KEPT: usize = 2;

/// A norm over rows: by the root mean square, or by mean and variance where there is a shift.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    /// `[hidden]`.
    pub(super) gains: Vec<f32>,
    /// `[hidden]`.
    pub(super) shift: Option<Vec<f32>>,
    pub(super) eps: f32,
}

impl Norm {
    /// The length of what [`Norm::forward`] keeps of `rows` rows.
    pub(super) fn kept(rows: usize) -> usize {
        rows * KEPT
    }

    /// `y` is the norm of `x`, both `[rows, hidden]`; `kept` is what the gradient needs.
    pub(super) fn forward(&self, x: &[f32], y: &mut [f32], kept: &mut [f32]) {
        match &self.shift {
            None => root_mean_square(x, &self.gains, self.eps, y, kept),
            Some(shift) => mean_and_variance(x, &self.gains, shift, self.eps, y, kept),
        }
    }

    /// Adds to `dx` what `dy` is by the input `x`.
    pub(super) fn backward(&self, x: &[f32], kept: &[f32], dy: &[f32], dx: &mut [f32]) {
        match &self.shift {
            None => root_mean_square_backward(x, &self.gains, kept, dy, dx),
            Some(_) => mean_and_variance_backward(x, &self.gains, kept, dy, dx),
        }
    }
}

vectorized! {
    fn root_mean_square(x: &[f32], gains: &[f32], eps: f32, y: &mut [f32], kept: &mut [f32]) {
        let width = gains.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), kept) in rows.zip(kept.chunks_exact_mut(KEPT)) {
            let squares = sum(width, |i| x[i] * x[i]);
            let scale = 1.0 / (squares / width as f32 + eps).sqrt();
            (kept[0], kept[1]) = (0.0, scale);
            for ((y, x), gain) in y.iter_mut().zip(x).zip(gains) {
                *y = x * scale * gain;
            }
        }
    }

    fn root_mean_square_backward(
        x: &[f32],
        gains: &[f32],
        kept: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let width = gains.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        let rows = rows.zip(dx.chunks_exact_mut(width)).zip(kept.chunks_exact(KEPT));
        for (((x, dy), dx), kept) in rows {
            let scale = kept[1];
            let along = sum(width, |i| dy[i] * gains[i] * x[i]);
            let pull = along * scale * scale * scale / width as f32;
            for (((dx, dy), gain), x) in dx.iter_mut().zip(dy).zip(gains).zip(x) {
                *dx += scale * gain * dy - x * pull;
            }
        }
    }

    fn mean_and_variance(
        x: &[f32],
        gains: &[f32],
        shift: &[f32],
        eps: f32,
        y: &mut [f32],
        kept: &mut [f32],
    ) {
        let width = gains.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), kept) in rows.zip(kept.chunks_exact_mut(KEPT)) {
            let mean = sum(width, |i| x[i]) / width as f32;
            let squares = sum(width, |i| (x[i] - mean) * (x[i] - mean));
            let scale = 1.0 / (squares / width as f32 + eps).sqrt();
            (kept[0], kept[1]) = (mean, scale);
            for (((y, x), gain), shift) in y.iter_mut().zip(x).zip(gains).zip(shift) {
                *y = (x - mean) * scale * gain + shift;
            }
        }
    }

    fn mean_and_variance_backward(
        x: &[f32],
        gains: &[f32],
        kept: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let width = gains.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        let rows = rows.zip(dx.chunks_exact_mut(width)).zip(kept.chunks_exact(KEPT));
        for (((x, dy), dx), kept) in rows {
            let (mean, scale) = (kept[0], kept[1]);
            let level = sum(width, |i| dy[i] * gains[i]) / width as f32;
            let along = sum(width, |i| dy[i] * gains[i] * (x[i] - mean));
            let pull = along * scale * scale / width as f32;
            for (((dx, dy), gain), x) in dx.iter_mut().zip(dy).zip(gains).zip(x) {
                *dx += scale * (gain * dy - level - (x - mean) * pull);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slopes::check_gradient;
    use super::*;

    #[test]
    fn gradients_of_both_norms_are_their_slopes() {
        let (rows, width) = (3, 21);
        let x: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.9).sin() + 0.3).collect();
        let weights: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 1.7).cos()).collect();
        let gains: Vec<f32> = (0..width).map(|i| 1.0 + 0.1 * i as f32).collect();
        for shift in [None, Some(vec![0.5; width])] {
            let norm = Norm { gains: gains.clone(), shift, eps: 1e-5 };
            let run = |x: &[f32]| {
                let (mut y, mut kept) = (vec![0.0; x.len()], vec![0.0; Norm::kept(rows)]);
                norm.forward(x, &mut y, &mut kept);
                (y, kept)
            };
            let (_, kept) = run(&x);
            let mut dx = vec![1.0; x.len()];
            norm.backward(&x, &kept, &weights, &mut dx);
            let dx: Vec<f32> = dx.iter().map(|value| value - 1.0).collect();
            check_gradient(&x, &dx, &weights, |x| run(x).0);
        }
    }
}
