//! Rotary position embeddings: frequencies, their scaling for long contexts, and the rotations of one width.

use std::f64::consts::TAU;

use burn::tensor::{Device, Tensor, TensorData};

/// How the frequencies are stretched for contexts longer than the base was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    Default,
    /// All frequencies are divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones are kept, those between are blended.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Waves longer than the original context over this are low.
        low: f64,
        /// Waves shorter than the original context over this are high.
        high: f64,
        /// The context before stretching, in tokens.
        original: f64,
    },
}

/// Rotary embeddings of the `rotate_half` form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// How the series is stretched.
    pub scaling: Scaling,
}

impl Rope {
    /// The `head_dim / 2` angular frequencies, in radians per token; rounded to f32 as transformers does.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let exponent = |i: usize| (2 * i) as f64 / head_dim as f64;
        let plain = (0..head_dim / 2).map(|i| self.theta.powf(exponent(i)).recip());
        plain.map(|frequency| narrow(self.scaled(frequency))).collect()
    }

    fn scaled(&self, frequency: f64) -> f64 {
        match self.scaling {
            Scaling::Default => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let waves = original * frequency / TAU;
                if waves < low {
                    frequency / factor
                } else if waves > high {
                    frequency
                } else {
                    let share = (waves - low) / (high - low);
                    (1.0 - share) * frequency / factor + share * frequency
                }
            }
        }
    }
}

/// The rotations of positions `0..width`.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// Cosines for keys, `[1, width, 1, head_dim]`.
    pub(super) cos: Tensor<4>,
    /// Sines for keys, like `cos`.
    pub(super) sin: Tensor<4>,
    /// Cosines for queries, with `1 / sqrt(head_dim)` in them so that the scores need no scaling.
    pub(super) query_cos: Tensor<4>,
    /// Sines for queries, likewise.
    pub(super) query_sin: Tensor<4>,
}

impl Turns {
    pub(super) fn new(frequencies: &[f32], width: usize, device: &Device) -> Self {
        let head_dim = 2 * frequencies.len();
        let angle =
            |at: usize, i: usize| f64::from(narrow(at as f64) * frequencies[i % frequencies.len()]);
        let table = |of: &dyn Fn(f64) -> f64, scale: f64| {
            let values: Vec<f32> = (0..width)
                .flat_map(|at| (0..head_dim).map(move |i| (at, i)))
                .map(|(at, i)| narrow(of(angle(at, i)) * scale))
                .collect();
            Tensor::from_data(TensorData::new(values, [1, width, 1, head_dim]), device)
        };
        let scale = (head_dim as f64).sqrt().recip();
        Self {
            cos: table(&f64::cos, 1.0),
            sin: table(&f64::sin, 1.0),
            query_cos: table(&f64::cos, scale),
            query_sin: table(&f64::sin, scale),
        }
    }
}

/// The matrix `[head_dim, head_dim]` that maps the halves `(a, b)` of a row to `(-b, a)`.
///
/// A product with it is exact, and its backward pass is one more product: slicing would write a tensor of zeros
/// for each half.
pub(super) fn quarter_turn(head_dim: usize, device: &Device) -> Tensor<2> {
    let half = head_dim / 2;
    let mut values = vec![0.0_f32; head_dim * head_dim];
    for i in 0..half {
        values[(i + half) * head_dim + i] = -1.0;
        values[i * head_dim + i + half] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [head_dim, head_dim]), device)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what is wanted")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_keeps_high_and_divides_low_frequencies() {
        let plain = Rope { theta: 500_000.0, scaling: Scaling::Default }.frequencies(128);
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let stretched = Rope { theta: 500_000.0, scaling }.frequencies(128);
        assert_eq!(stretched[0].to_bits(), plain[0].to_bits());
        assert!((stretched[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        let middle = stretched.iter().zip(&plain).filter(|(s, p)| *s < *p && **s > **p / 7.9);
        assert!(middle.count() > 0, "some frequencies are blended");
        assert!(stretched.windows(2).all(|pair| pair[1] < pair[0]));
    }
}
