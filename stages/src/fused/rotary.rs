//! Rotary position embeddings, in place.

use super::simd::vectorized;

/// The cosines and sines of positions `0..`, `[positions, head_dim / 2]` each.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl Turns {
    /// The rotations of `count` positions, in f32 angles as transformers has them.
    pub(super) fn new(frequencies: &[f32], count: usize) -> Self {
        let angles = (0..count)
            .flat_map(|at| frequencies.iter().map(move |frequency| at as f32 * frequency));
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let (cos, sin) = angles
            .map(|angle| (f64::from(angle).cos() as f32, f64::from(angle).sin() as f32))
            .unzip();
        Self { cos, sin }
    }

    /// How many positions there are for heads of `head_dim` values.
    pub(super) fn count(&self, head_dim: usize) -> usize {
        self.cos.len() / (head_dim / 2).max(1)
    }

    /// Rotates the first `heads` heads of each row by its position; `rows` is `[tokens, step]`.
    pub(super) fn forward(&self, rows: &mut [f32], shape: Heads, positions: &[usize]) {
        rotate(rows, shape, positions, &self.cos, &self.sin, 1.0);
    }

    /// Rotates gradients back.
    pub(super) fn backward(&self, rows: &mut [f32], shape: Heads, positions: &[usize]) {
        rotate(rows, shape, positions, &self.cos, &self.sin, -1.0);
    }
}

/// The heads that are rotated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) width: usize,
    /// From one row to the next.
    pub(super) step: usize,
}

vectorized! {
    fn rotate(
        rows: &mut [f32],
        shape: Heads,
        positions: &[usize],
        cos: &[f32],
        sin: &[f32],
        sign: f32,
    ) {
        let half = shape.width / 2;
        for (row, &position) in rows.chunks_exact_mut(shape.step).zip(positions) {
            let (cos, sin) = (&cos[position * half..][..half], &sin[position * half..][..half]);
            for head in row[..shape.count * shape.width].chunks_exact_mut(shape.width) {
                let (first, second) = head.split_at_mut(half);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let (x, y, sin) = (*a, *b, sin * sign);
                    *a = x * cos - y * sin;
                    *b = y * cos + x * sin;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_and_its_reverse_cancel() {
        let turns = Turns::new(&[1.0, 0.1, 0.01], 9);
        assert_eq!(turns.count(6), 9);
        let shape = Heads { count: 2, width: 6, step: 13 };
        let before: Vec<f32> = (0..26).map(|i| (i as f32).sin()).collect();
        let mut rows = before.clone();
        turns.forward(&mut rows, shape, &[8, 3]);
        let (a, b) = (f64::from(before[1]), f64::from(before[4]));
        let angle = f64::from(8.0_f32 * 0.1);
        assert!((f64::from(rows[1]) - (a * angle.cos() - b * angle.sin())).abs() < 1e-6);
        assert!((f64::from(rows[4]) - (b * angle.cos() + a * angle.sin())).abs() < 1e-6);
        assert_eq!(rows[12].to_bits(), before[12].to_bits(), "only the heads are rotated");
        turns.backward(&mut rows, shape, &[8, 3]);
        assert!(rows.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
