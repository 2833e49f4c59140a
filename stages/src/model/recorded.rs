//! Recorded tensors, as the parity tests read them.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors};

use super::{Base, Batch, widen};
use crate::objective;
use crate::token_set::TokenSet;

/// The tensors of one recorded file.
pub(crate) struct Recorded(Vec<u8>);

impl Recorded {
    pub(crate) fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// Shape and values of a float tensor.
    pub(crate) fn floats(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), widen(tensor.dtype(), tensor.data()).unwrap())
    }

    /// Shape and values of a tensor of whole numbers.
    pub(crate) fn integers(&self, name: &str) -> (Vec<usize>, Vec<u32>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        let words = tensor.data().as_chunks::<8>().0.iter().copied().map(i64::from_le_bytes);
        (tensor.shape().to_vec(), words.map(|word| u32::try_from(word).unwrap()).collect())
    }

    /// The real tokens of each row of `ids` under `mask`.
    pub(crate) fn rows(&self, ids: &str, mask: &str) -> Vec<Vec<u32>> {
        let (shape, ids) = self.integers(ids);
        let (_, mask) = self.integers(mask);
        let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
        rows.map(|(row, mask)| row[..mask.iter().sum::<u32>() as usize].to_vec()).collect()
    }
}

/// A batch of one client, to be classified.
pub(crate) fn batch(rows: &[Vec<u32>], labels: &[u32], base: &Base) -> Batch {
    let examples = rows.iter().zip(labels);
    let examples = examples.map(|(row, &label)| (row.as_slice(), label.cast_signed()));
    let set = TokenSet::from_examples(examples).unwrap();
    let all: Vec<usize> = (0..set.len()).collect();
    objective::batch(&[(&set, &all)], base.config().pad, base.device())
}

/// The largest absolute difference.
pub(crate) fn apart(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
