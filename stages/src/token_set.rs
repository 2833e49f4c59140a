//! Tokenized examples of varying length, as one flat array and offsets into it, with what they are to be read for.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use crate::objective::Objective;

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
    objective: Objective,
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
        Ok(Self { ids, offsets, labels, objective: Objective::Classify })
    }

    /// The same examples, read for `objective`.
    ///
    /// # Errors
    /// A label has no tokens, or a completion does not begin inside its example.
    pub fn with_objective(self, objective: Objective) -> Result<Self, TokenSetError> {
        let wrong = |what: String| Err(TokenSetError::Inconsistent(what));
        match &objective {
            Objective::Classify => {}
            Objective::Verbalize(labels) => {
                if labels.len() < 2 || labels.iter().any(Vec::is_empty) {
                    return wrong("a verbalizer has at least two labels of tokens".to_owned());
                }
            }
            Objective::Complete(starts) => {
                if starts.len() != self.len() {
                    return wrong(format!("{} starts for {} examples", starts.len(), self.len()));
                }
                let outside =
                    |&i: &usize| !(1..self.tokens(i).len()).contains(&(starts[i] as usize));
                if let Some(i) = (0..self.len()).find(outside) {
                    return wrong(format!("the completion of example {i} is not inside it"));
                }
            }
        }
        Ok(Self { objective, ..self })
    }

    /// What the examples are read for.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Builds a set from examples, each its tokens and its label.
    pub fn from_examples<'a>(
        examples: impl IntoIterator<Item = (&'a [u32], i32)>,
    ) -> Result<Self, TokenSetError> {
        let (ids, offsets, labels) = Self::collect(examples);
        Self::new(ids, offsets, labels)
    }

    fn collect<'a>(
        examples: impl IntoIterator<Item = (&'a [u32], i32)>,
    ) -> (Vec<u32>, Vec<u64>, Vec<i32>) {
        let (mut ids, mut offsets, mut labels) = (Vec::new(), vec![0], Vec::new());
        for (tokens, label) in examples {
            ids.extend_from_slice(tokens);
            offsets.push(ids.len() as u64);
            labels.push(label);
        }
        (ids, offsets, labels)
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

    /// The place of the first token of example `index` that is to be completed; 0 where nothing is.
    pub fn start_of_completion(&self, index: usize) -> usize {
        match &self.objective {
            Objective::Complete(starts) => starts[index] as usize,
            Objective::Classify | Objective::Verbalize(_) => 0,
        }
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
        let (ids, offsets, labels) =
            Self::collect(indices.iter().map(|&i| (self.tokens(i), self.labels[i])));
        let objective = match &self.objective {
            Objective::Complete(starts) => {
                Objective::Complete(indices.iter().map(|&i| starts[i]).collect())
            }
            other => other.clone(),
        };
        Self { ids, offsets, labels, objective }
    }

    /// A safetensors file of `ids` (U32), `offsets` (I64) and `labels` (I32); with `starts` (U32) where examples are
    /// completions, and `label_ids` (U32) and `label_offsets` (I64) where labels are words. Equal sets give equal
    /// bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut tensors = vec![
            ("ids", Dtype::U32, self.ids.len(), bytes_of(&self.ids, u32::to_le_bytes)),
            ("labels", Dtype::I32, self.len(), bytes_of(&self.labels, i32::to_le_bytes)),
            ("offsets", Dtype::I64, self.offsets.len(), bytes_of(&self.offsets, u64::to_le_bytes)),
        ];
        match &self.objective {
            Objective::Classify => {}
            Objective::Complete(starts) => {
                let bytes = bytes_of(starts, u32::to_le_bytes);
                tensors.push((STARTS, Dtype::U32, starts.len(), bytes));
            }
            Objective::Verbalize(words) => {
                let ids = words.concat();
                let mut offsets = vec![0_u64];
                for word in words {
                    offsets.push(offsets[offsets.len() - 1] + word.len() as u64);
                }
                let bytes = bytes_of(&ids, u32::to_le_bytes);
                tensors.push((LABEL_IDS, Dtype::U32, ids.len(), bytes));
                let bytes = bytes_of(&offsets, u64::to_le_bytes);
                tensors.push((LABEL_OFFSETS, Dtype::I64, offsets.len(), bytes));
            }
        }
        file(&tensors)
    }

    /// Reads what [`TokenSet::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenSetError> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| TokenSetError::Format(error.to_string()))?;
        let ids = elements(&file, "ids", Dtype::U32, "U32")?;
        let offsets = elements(&file, "offsets", Dtype::I64, "I64")?;
        let labels = elements(&file, "labels", Dtype::I32, "I32")?;
        let set = Self::new(
            ids.map(u32::from_le_bytes).collect(),
            offsets.map(u64::from_le_bytes).collect(),
            labels.map(i32::from_le_bytes).collect(),
        )?;
        let has = |name: &str| file.tensor(name).is_ok();
        if has(STARTS) {
            let starts = elements(&file, STARTS, Dtype::U32, "U32")?.map(u32::from_le_bytes);
            return set.with_objective(Objective::Complete(starts.collect()));
        }
        if has(LABEL_IDS) {
            let ids: Vec<u32> =
                elements(&file, LABEL_IDS, Dtype::U32, "U32")?.map(u32::from_le_bytes).collect();
            let offsets: Vec<usize> = elements(&file, LABEL_OFFSETS, Dtype::I64, "I64")?
                .map(|at| usize::try_from(u64::from_le_bytes(at)).unwrap_or(usize::MAX))
                .collect();
            let words = offsets.windows(2).map(|pair| {
                let word = ids.get(pair[0]..pair[1]).map(<[u32]>::to_vec);
                word.ok_or_else(|| TokenSetError::Inconsistent("a label has no tokens".to_owned()))
            });
            let words = words.collect::<Result<_, _>>()?;
            return set.with_objective(Objective::Verbalize(words));
        }
        Ok(set)
    }

    fn start(&self, index: usize) -> usize {
        usize::try_from(self.offsets[index]).expect("an offset is at most the length of `ids`")
    }
}

const STARTS: &str = "starts";
const LABEL_IDS: &str = "label_ids";
const LABEL_OFFSETS: &str = "label_offsets";

fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

/// A safetensors file of one-dimensional tensors: name, type, length, bytes.
fn file(tensors: &[(&str, Dtype, usize, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, length, bytes)| {
        let view = TensorView::new(*dtype, vec![*length], bytes);
        (*name, view.expect("the length counts the elements"))
    });
    safetensors::serialize(views, None).expect("a few short names make a valid header")
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
    fn what_the_examples_are_read_for_is_kept() {
        let words = Objective::Verbalize(vec![vec![7], vec![8, 9]]);
        let set = small().with_objective(words.clone()).unwrap();
        assert_eq!(TokenSet::from_bytes(&set.to_bytes()).unwrap(), set);
        assert_eq!(set.subset(&[1]).objective(), &words);
        let set = small().subset(&[0, 2]);
        let set = set.with_objective(Objective::Complete(vec![2, 1])).unwrap();
        assert_eq!(TokenSet::from_bytes(&set.to_bytes()).unwrap(), set);
        assert_eq!(set.subset(&[1]).objective(), &Objective::Complete(vec![1]));
        assert!(small().with_objective(Objective::Complete(vec![1, 1, 1])).is_err());
        assert!(small().with_objective(Objective::Complete(vec![1])).is_err());
        assert!(small().with_objective(Objective::Verbalize(vec![vec![1]])).is_err());
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
