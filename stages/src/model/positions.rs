//! What attention must know of positions `0..width`; made once for a width.

use burn::tensor::{Device, Tensor, TensorData};

use super::config::{Config, Position};
use super::rope::Turns;
use super::{alibi, rope::narrow};

/// What is added where a key lies ahead of the query.
const AHEAD: f32 = -1e9;

/// How the tokens of one width are told apart.
#[derive(Clone, Debug)]
pub(super) struct Positions {
    /// Rotations of queries and keys, where the base rotates them.
    pub(super) turns: Option<Turns>,
    /// Added to scores `[n, kv, group, width, width]`: -1e9 where a key lies ahead, and the heads' slopes. Rows are
    /// padded on the right, so what lies ahead of a real token includes all padding.
    pub(super) bias: Tensor<5>,
}

impl Positions {
    pub(super) fn new(config: &Config, width: usize, device: &Device) -> Self {
        let (turns, slopes) = match &config.position {
            Position::Rotary(rope) => {
                let frequencies = rope.frequencies(config.head_dim);
                (Some(Turns::new(&frequencies, width, device)), vec![0.0])
            }
            Position::Alibi => (None, alibi::slopes(config.heads)),
        };
        let mut bias = Vec::with_capacity(slopes.len() * width * width);
        for &slope in &slopes {
            for query in 0..width {
                let of_key = |key: usize| {
                    // The product is f32, as in transformers; a row's common summand leaves its softmax as it is.
                    if key > query { AHEAD } else { narrow(slope) * narrow(key as f64) }
                };
                bias.extend((0..width).map(of_key));
            }
        }
        let shape = [1, slopes.len(), 1, width, width];
        Self { turns, bias: Tensor::from_data(TensorData::new(bias, shape), device) }
    }
}
