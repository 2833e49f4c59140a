//! Tokenized, labelled examples of varying length, as one flat array and offsets into it.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

/// Why a token set cannot be used.
#[derive(Debug, Error)]
pub enum TokenSetError {
    /// The bytes are not a safetensors file.
    #[error("the token set is not a safetensors file: {0}")]
    Format(String),
    /// A tensor is missing or has another type.
    #[error("the token set has no {1} tensor `{0}`")]
    Tensor(&'static str, &'static str),
    /// The arrays do not fit together.
    #[error("the token set is inconsistent: {0}")]
    Inconsistent(String),
}

/// Examples `0..len`, each a row of token ids with a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSet {
    ids: Vec<u32>,
    offsets: Vec<u64>,
    labels: Vec<i32>,
}

impl TokenSet {
    /// Takes the arrays over: example `i` is `ids[offsets[i]..offsets[i + 1]]`, and `offsets` has one entry more
    /// than `labels`.
    pub fn new(ids: Vec<u32>, offsets: Vec<u64>, labels: Vec<i32>) -> Result<Self, TokenSetError> {
        let wrong = |what: String| Err(TokenSetError::Inconsistent(what));
        if offsets.len() != labels.len() + 1 {
            return wrong(format!("{} offsets for {} labels", offsets.len(), labels.len()));
        }
        if offsets[0] != 0 || offsets[labels.len()] != ids.len() as u64 {
            return wrong(format!("the offsets do not span the {} ids", ids.len()));
        }
        if let Some(i) = offsets.windows(2).position(|pair| pair[1] <= pair[0]) {
            return wrong(format!("example {i} has no tokens"));
        }
        Ok(Self { ids, offsets, labels })
    }

    /// Builds a set from examples, each its tokens and its label.
    pub fn from_examples<'a>(
        examples: impl IntoIterator<Item = (&'a [u32], i32)>,
    ) -> Result<Self, TokenSetError> {
        let Self { ids, offsets, labels } = Self::collect(examples);
        Self::new(ids, offsets, labels)
    }

    fn collect<'a>(examples: impl IntoIterator<Item = (&'a [u32], i32)>) -> Self {
        let (mut ids, mut offsets, mut labels) = (Vec::new(), vec![0], Vec::new());
        for (tokens, label) in examples {
            ids.extend_from_slice(tokens);
            offsets.push(ids.len() as u64);
            labels.push(label);
        }
        Self { ids, offsets, labels }
    }

    /// The number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no example.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The token ids of example `index`.
    pub fn tokens(&self, index: usize) -> &[u32] {
        &self.ids[self.start(index)..self.start(index + 1)]
    }

    /// The label of example `index`.
    pub fn label(&self, index: usize) -> i32 {
        self.labels[index]
    }

    /// All labels, in the order of the examples.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// The number of tokens of all examples.
    pub fn total_tokens(&self) -> usize {
        self.ids.len()
    }

    /// The examples at `indices`, in that order.
    #[must_use]
    pub fn subset(&self, indices: &[usize]) -> Self {
        Self::collect(indices.iter().map(|&i| (self.tokens(i), self.labels[i])))
    }

    /// A safetensors file of `ids` (U32), `offsets` (I64) and `labels` (I32); equal sets give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ids: Vec<u8> = self.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let offsets: Vec<u8> = self.offsets.iter().flat_map(|at| at.to_le_bytes()).collect();
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        file([
            ("ids", Dtype::U32, self.ids.len(), &ids),
            ("labels", Dtype::I32, self.labels.len(), &labels),
            ("offsets", Dtype::I64, self.offsets.len(), &offsets),
        ])
    }

    /// Reads what [`TokenSet::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenSetError> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| TokenSetError::Format(error.to_string()))?;
        let ids = elements(&file, "ids", Dtype::U32, "U32")?;
        let offsets = elements(&file, "offsets", Dtype::I64, "I64")?;
        let labels = elements(&file, "labels", Dtype::I32, "I32")?;
        Self::new(
            ids.map(u32::from_le_bytes).collect(),
            offsets.map(u64::from_le_bytes).collect(),
            labels.map(i32::from_le_bytes).collect(),
        )
    }

    fn start(&self, index: usize) -> usize {
        usize::try_from(self.offsets[index]).expect("an offset is at most the length of `ids`")
    }
}

/// A safetensors file of one-dimensional tensors: name, type, length, bytes.
fn file(tensors: [(&str, Dtype, usize, &[u8]); 3]) -> Vec<u8> {
    let views = tensors.map(|(name, dtype, length, bytes)| {
        let view = TensorView::new(dtype, vec![length], bytes);
        (name, view.expect("the length counts the elements"))
    });
    safetensors::serialize(views, None).expect("three short names make a valid header")
}

/// The elements of a one-dimensional tensor, as little-endian bytes.
fn elements<'a, const N: usize>(
    file: &SafeTensors<'a>,
    name: &'static str,
    dtype: Dtype,
    kind: &'static str,
) -> Result<impl Iterator<Item = [u8; N]> + use<'a, N>, TokenSetError> {
    let tensor = file.tensor(name).ok().filter(|t| t.dtype() == dtype && t.shape().len() == 1);
    let data = tensor.ok_or(TokenSetError::Tensor(name, kind))?.data();
    Ok(data.as_chunks::<N>().0.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> TokenSet {
        TokenSet::from_examples([(&[1, 2, 3][..], 1), (&[4][..], 0), (&[5, 6][..], -1)]).unwrap()
    }

    #[test]
    fn bytes_come_back() {
        let set = small();
        assert_eq!(TokenSet::from_bytes(&set.to_bytes()).unwrap(), set);
        assert_eq!(set.to_bytes(), small().to_bytes());
        assert_eq!(set.subset(&[2, 0]).tokens(0), [5, 6]);
        assert_eq!(set.subset(&[2, 0]).labels(), [-1, 1]);
    }

    #[test]
    fn broken_arrays_are_refused() {
        let error = TokenSet::new(vec![1], vec![0, 1, 1], vec![0, 0]).unwrap_err();
        assert_eq!(error.to_string(), "the token set is inconsistent: example 1 has no tokens");
        assert!(TokenSet::new(vec![1], vec![0, 2], vec![0]).is_err());
        assert!(TokenSet::from_bytes(&small().to_bytes()[..40]).is_err());
        let other = safetensors::serialize(Vec::<(String, TensorView<'_>)>::new(), None).unwrap();
        let error = TokenSet::from_bytes(&other).unwrap_err();
        assert_eq!(error.to_string(), "the token set has no U32 tensor `ids`");
    }
}
