//! The tensors of one adapter, on the host.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use thiserror::Error;

use super::Matrix;
use crate::model::widen;
use crate::parts::Parts;

/// Why an adapter cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AdapterError {
    /// The bytes are not a safetensors file of float matrices.
    #[error("the adapter cannot be read: {0}")]
    Format(String),
    /// Names or shapes differ from what the base and the LoRA settings ask for.
    #[error("the adapter does not fit the base and its LoRA settings: {0}")]
    Mismatch(String),
}

/// Matrices by PEFT's names, row by row, in f32.
///
/// The order of the names is the order of everything: of the file, of sums and of the flat vector.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterTensors {
    tensors: BTreeMap<String, Matrix>,
}

impl AdapterTensors {
    /// Takes matrices over, each with its name, its shape and its values row by row.
    ///
    /// # Panics
    /// Where a shape does not count the values.
    pub fn new(tensors: impl IntoIterator<Item = (String, [usize; 2], Vec<f32>)>) -> Self {
        let keep = |(name, shape, values): (String, [usize; 2], Vec<f32>)| {
            assert_eq!(
                shape[0] * shape[1],
                values.len(),
                "the shape of `{name}` counts its values"
            );
            (name, (shape, values))
        };
        Self { tensors: tensors.into_iter().map(keep).collect() }
    }

    /// The shape and the values of a matrix.
    pub fn get(&self, name: &str) -> Option<([usize; 2], &[f32])> {
        self.tensors.get(name).map(|(shape, values)| (*shape, values.as_slice()))
    }

    /// All matrices in the order of their names: name, shape, values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, [usize; 2], &[f32])> {
        self.tensors
            .iter()
            .map(|(name, (shape, values))| (name.as_str(), *shape, values.as_slice()))
    }

    /// All matrices by name.
    pub(super) fn into_matrices(self) -> BTreeMap<String, Matrix> {
        self.tensors
    }

    /// The number of values of all matrices.
    pub fn length(&self) -> usize {
        self.tensors.values().map(|(_, values)| values.len()).sum()
    }

    /// The number of classes of the classifier; 0 where there is none.
    pub fn classes(&self) -> usize {
        self.get(super::SCORE).map_or(0, |(shape, _)| shape[0])
    }

    /// Whether there are cores between the factors: then the product of a module is `s·B·R·A`.
    pub fn has_cores(&self) -> bool {
        self.tensors.keys().any(|name| Parts::of(name) == Parts::CORE)
    }

    /// The same adapter with one more matrix, or another in its place.
    ///
    /// # Panics
    /// Where the shape does not count the values.
    #[must_use]
    pub fn with(mut self, name: &str, shape: [usize; 2], values: Vec<f32>) -> Self {
        assert_eq!(shape[0] * shape[1], values.len(), "the shape of `{name}` counts its values");
        self.tensors.insert(name.to_owned(), (shape, values));
        self
    }

    /// The same adapter without one of its matrices.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        let kept = self.tensors.iter().filter(|(known, _)| *known != name);
        Self { tensors: kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect() }
    }

    /// The matrices of some parts alone.
    #[must_use]
    pub fn only(&self, parts: Parts) -> Self {
        let kept = self.tensors.iter().filter(|(name, _)| parts.has(Parts::of(name)));
        Self { tensors: kept.map(|(name, tensor)| (name.clone(), tensor.clone())).collect() }
    }

    /// The same adapter with all matrices of `other`, in place of those of the same names.
    #[must_use]
    pub fn overlaid(mut self, other: &Self) -> Self {
        let others = other.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone()));
        self.tensors.extend(others);
        self
    }

    /// Whether both have the same names and shapes.
    pub fn same_shapes(&self, other: &Self) -> bool {
        self.iter().map(|(name, shape, _)| (name, shape)).eq(other.iter().map(|(n, s, _)| (n, s)))
    }

    /// All values, in the order of the names.
    pub fn flatten(&self) -> Vec<f32> {
        self.tensors.values().flat_map(|(_, values)| values).copied().collect()
    }

    /// The adapter of the same names and shapes whose values are `flat`, in the order of the names.
    ///
    /// # Panics
    /// Where `flat` has another length than [`AdapterTensors::length`].
    #[must_use]
    pub fn with_values(&self, flat: &[f32]) -> Self {
        assert_eq!(flat.len(), self.length(), "there is one value for each place");
        let mut rest = flat;
        let tensors = self.tensors.iter().map(|(name, (shape, values))| {
            let (own, after) = rest.split_at(values.len());
            rest = after;
            (name.clone(), (*shape, own.to_vec()))
        });
        Self { tensors: tensors.collect() }
    }

    /// Checks that the names and shapes are exactly `expected`; all that differs goes into one error.
    pub fn check(&self, expected: &[(&str, [usize; 2])]) -> Result<(), AdapterError> {
        let mut wrong = Vec::new();
        for (name, shape) in expected {
            match self.get(name) {
                None => wrong.push(format!("`{name}` is missing")),
                Some((found, _)) if found != *shape => {
                    wrong.push(format!("`{name}` is {found:?}, not {shape:?}"));
                }
                Some(_) => {}
            }
        }
        let unexpected = |name: &&String| !expected.iter().any(|(known, _)| known == name);
        // Looking for strangers is only worth its time where there must be one.
        if self.tensors.len() + wrong.len() > expected.len() {
            let strangers = self.tensors.keys().filter(unexpected);
            wrong.extend(strangers.map(|name| format!("`{name}` is not expected")));
        }
        match wrong.as_slice() {
            [] => Ok(()),
            [first] => Err(AdapterError::Mismatch(first.clone())),
            [first, rest @ ..] => {
                Err(AdapterError::Mismatch(format!("{first}, and {} more like it", rest.len())))
            }
        }
    }

    /// A safetensors file as PEFT writes it; equal adapters give equal bytes.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let tensors = self.iter().map(|(name, shape, values)| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name, shape, bytes)
        });
        file(&tensors.collect::<Vec<_>>())
    }

    /// Reads a safetensors file of matrices (F32, F16 or BF16).
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, AdapterError> {
        let file =
            SafeTensors::deserialize(bytes).map_err(|e| AdapterError::Format(e.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let matrix = <[usize; 2]>::try_from(view.shape()).ok();
            let values = widen(view.dtype(), view.data());
            let Some(tensor) = matrix.zip(values) else {
                let (dtype, shape) = (view.dtype(), view.shape());
                let what = format!("`{name}` is {dtype:?} {shape:?}, not a float matrix");
                return Err(AdapterError::Format(what));
            };
            tensors.insert(name, tensor);
        }
        Ok(Self { tensors })
    }
}

/// A safetensors file of f32 matrices: name, shape, bytes.
fn file(tensors: &[(&str, [usize; 2], Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        (*name, view.expect("the shape counts the values"))
    });
    // The metadata is a hash map: with a second key the bytes would vary from run to run.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(views, Some(metadata)).expect("an adapter's header is small")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> AdapterTensors {
        AdapterTensors::new([
            ("b".to_owned(), [1, 2], vec![5.0, 6.0]),
            ("a".to_owned(), [2, 2], vec![1.0, 2.0, 3.0, 4.0]),
        ])
    }

    #[test]
    fn bytes_and_flat_vectors_come_back() {
        let adapter = small();
        let bytes = adapter.to_safetensors();
        assert_eq!(AdapterTensors::from_safetensors(&bytes).unwrap(), adapter);
        assert_eq!(bytes, small().to_safetensors());
        let header = String::from_utf8_lossy(&bytes[8..]);
        assert!(header.starts_with(r#"{"__metadata__":{"format":"pt"},"#), "{header}");
        assert_eq!(adapter.flatten(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(adapter.with_values(&adapter.flatten()), adapter);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = small().check(&[("a", [2, 2]), ("c", [1, 2])]).unwrap_err().to_string();
        assert!(error.ends_with("`c` is missing, and 1 more like it"), "{error}");
        let error = small().check(&[("a", [2, 2])]).unwrap_err().to_string();
        assert!(error.ends_with("`b` is not expected"), "{error}");
        let error = small().check(&[("a", [2, 3]), ("b", [1, 2])]).unwrap_err().to_string();
        assert!(error.ends_with("`a` is [2, 2], not [2, 3]"), "{error}");
        assert!(AdapterTensors::from_safetensors(b"{}").is_err());
    }
}
