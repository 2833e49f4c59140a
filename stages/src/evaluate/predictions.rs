//! What a model said of every example, kept beside the scores so that others can count again.

use safetensors::tensor::{Dtype, TensorView};

/// The logits of the classes, or the scores of the labels, of every example.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLogits {
    /// The number of classes.
    pub classes: usize,
    /// `[examples, classes]`, row after row.
    pub values: Vec<f32>,
}

impl ClassLogits {
    /// A safetensors file of `logits`, F32 `[examples, classes]`.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let shape = vec![self.values.len() / self.classes.max(1), self.classes];
        file(&[("logits", Dtype::F32, shape, floats(&self.values))])
    }
}

/// What the causal head made of every token of the completions.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogProbs {
    /// `ln p` of each token, example after example.
    pub log_probs: Vec<f32>,
    /// Whether it is the likeliest.
    pub right: Vec<bool>,
    /// Where each example begins, and the end.
    pub offsets: Vec<u64>,
}

impl TokenLogProbs {
    pub(super) fn of(rows: &[Vec<(f32, bool)>]) -> Self {
        let mut offsets = vec![0];
        for row in rows {
            offsets.push(offsets[offsets.len() - 1] + row.len() as u64);
        }
        let (log_probs, right) = rows.iter().flatten().copied().unzip();
        Self { log_probs, right, offsets }
    }

    /// A safetensors file of `log_probs`, F32 `[tokens]`, and `offsets`, I64 `[examples + 1]`.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let offsets = self.offsets.iter().flat_map(|at| at.to_le_bytes()).collect();
        file(&[
            ("log_probs", Dtype::F32, vec![self.log_probs.len()], floats(&self.log_probs)),
            ("offsets", Dtype::I64, vec![self.offsets.len()], offsets),
        ])
    }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn file(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (*name, view.expect("the shape counts the values"))
    });
    safetensors::serialize(views, None).expect("two short names make a valid header")
}
