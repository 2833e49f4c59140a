//! What a rule has added to the weights of the base itself.

use std::collections::BTreeMap;

use super::sum::{self, Product};
use super::{AdapterError, AdapterTensors};

/// A matrix, row by row: rows, columns, values.
pub type Matrix = ([usize; 2], Vec<f32>);

/// What was added to one weight `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// `B·A` with A `[rank, in]` and B `[out, rank]`; there is no other scale.
    Factors {
        /// `[rank, in]`.
        a: Matrix,
        /// `[out, rank]`.
        b: Matrix,
    },
    /// The matrix itself, `[out, in]`, once factors would be larger.
    Dense(Matrix),
}

impl Change {
    /// The shape `[out, in]` of the weight that it is added to.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Factors { a, b } => [b.0[0], a.0[1]],
            Self::Dense((shape, _)) => *shape,
        }
    }

    /// Two factors `[rank, in]` and `[out, rank]` whose product it is to the last bit: those that it has, or the
    /// matrix and an identity, of which the smaller rank is taken.
    pub fn factors(&self) -> (Matrix, Matrix) {
        match self {
            Self::Factors { a, b } => (a.clone(), b.clone()),
            Self::Dense(matrix) => {
                let [outputs, inputs] = matrix.0;
                if outputs <= inputs {
                    (matrix.clone(), identity(outputs))
                } else {
                    (identity(inputs), matrix.clone())
                }
            }
        }
    }

    /// The matrix `[out, in]` itself; a product of factors is summed in f64 and rounded once.
    pub fn dense(&self) -> Matrix {
        match self {
            Self::Dense(matrix) => matrix.clone(),
            Self::Factors { a, b } => {
                let [outputs, inputs] = self.shape();
                let mut values = vec![0.0; outputs * inputs];
                sum::add(&mut values, inputs, &[product(a, b)], None);
                ([outputs, inputs], values)
            }
        }
    }
}

fn identity(size: usize) -> Matrix {
    let mut values = vec![0.0; size * size];
    values.iter_mut().step_by(size + 1).for_each(|value| *value = 1.0);
    ([size, size], values)
}

fn product<'a>(a: &'a Matrix, b: &'a Matrix) -> Product<'a> {
    Product { a: &a.1, b: &b.1, rank: a.0[0], scale: 1.0 }
}

/// The sum of all that was added to a base's weights, by the module's path (`model.layers.3.self_attn.q_proj`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    changes: BTreeMap<String, Change>,
}

impl Delta {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// The change of one module.
    pub fn get(&self, path: &str) -> Option<&Change> {
        self.changes.get(path)
    }

    /// All changes in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.changes.iter().map(|(path, change)| (path.as_str(), change))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds `b·a` to what the module at `path` has: factors are put one beside the other until they would be larger
    /// than the matrix itself.
    ///
    /// # Panics
    /// Where the shapes do not fit together.
    pub fn add(&mut self, path: &str, a: Matrix, b: Matrix) {
        let ([rank, inputs], [outputs, same]) = (a.0, b.0);
        assert_eq!(rank, same, "the factors of `{path}` have one rank");
        if let Some(old) = self.changes.get(path) {
            assert_eq!(old.shape(), [outputs, inputs], "the change of `{path}` keeps its shape");
        }
        let change = match self.changes.remove(path) {
            None => Change::Factors { a, b },
            Some(Change::Factors { a: old_a, b: old_b }) => {
                Change::Factors { a: below(old_a, a), b: beside(&old_b, &b) }
            }
            Some(Change::Dense((shape, mut values))) => {
                sum::add(&mut values, inputs, &[product(&a, &b)], None);
                Change::Dense((shape, values))
            }
        };
        let change = match change {
            Change::Factors { ref a, .. } if a.0[0] * (inputs + outputs) > inputs * outputs => {
                Change::Dense(change.dense())
            }
            other => other,
        };
        self.changes.insert(path.to_owned(), change);
    }

    /// Adds all changes of `other`.
    ///
    /// # Panics
    /// Where the shapes do not fit together.
    pub fn append(&mut self, other: Self) {
        for (path, change) in other.changes {
            match change {
                Change::Factors { a, b } => self.add(&path, a, b),
                Change::Dense(matrix) => self.add_dense(&path, matrix),
            }
        }
    }

    /// Adds a whole matrix to what the module at `path` has.
    fn add_dense(&mut self, path: &str, (shape, mut values): Matrix) {
        match self.changes.remove(path) {
            None => {}
            Some(Change::Factors { a, b }) => {
                sum::add(&mut values, shape[1], &[product(&a, &b)], None);
            }
            Some(Change::Dense((old, before))) => {
                assert_eq!(shape, old, "the change of `{path}` keeps its shape");
                values.iter_mut().zip(before).for_each(|(value, before)| *value += before);
            }
        }
        self.changes.insert(path.to_owned(), Change::Dense((shape, values)));
    }

    /// The bytes of a safetensors file.
    pub fn to_safetensors(&self) -> Vec<u8> {
        let tensors = self.changes.iter().flat_map(|(path, change)| match change {
            Change::Factors { a, b } => {
                vec![(format!("{path}.delta_A"), a.clone()), (format!("{path}.delta_B"), b.clone())]
            }
            Change::Dense(matrix) => vec![(format!("{path}.delta"), matrix.clone())],
        });
        let named = tensors.map(|(name, (shape, values))| (name, shape, values));
        AdapterTensors::new(named).to_safetensors()
    }

    /// Reads what [`Delta::to_safetensors`] wrote.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, AdapterError> {
        let mut tensors = AdapterTensors::from_safetensors(bytes)?.into_matrices();
        let wrong = |what: String| Err(AdapterError::Format(what));
        let mut changes = BTreeMap::new();
        while let Some((name, matrix)) = tensors.pop_first() {
            let (path, change) = if let Some(path) = name.strip_suffix(".delta") {
                (path, Change::Dense(matrix))
            } else if let Some(path) = name.strip_suffix(".delta_A") {
                let Some(b) = tensors.remove(&format!("{path}.delta_B")) else {
                    return wrong(format!("`{path}` has no delta_B"));
                };
                if matrix.0[0] != b.0[1] {
                    return wrong(format!("the factors of `{path}` have different ranks"));
                }
                (path, Change::Factors { a: matrix, b })
            } else {
                return wrong(format!("`{name}` is no change of a base"));
            };
            changes.insert(path.to_owned(), change);
        }
        Ok(Self { changes })
    }
}

/// The rows of `first`, then those of `second`.
pub(super) fn below(first: Matrix, second: Matrix) -> Matrix {
    let ([rows, columns], mut values) = first;
    values.extend(second.1);
    ([rows + second.0[0], columns], values)
}

/// The columns of `first`, then those of `second`.
pub(super) fn beside(first: &Matrix, second: &Matrix) -> Matrix {
    let ([rows, left], [_, right]) = (first.0, second.0);
    let pairs = first.1.chunks_exact(left).zip(second.1.chunks_exact(right));
    let values = pairs.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
    ([rows, left + right], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_stacked_until_the_matrix_is_smaller() {
        let one = || (([1, 3], vec![1.0, 2.0, 3.0]), ([3, 1], vec![1.0, 0.0, -1.0]));
        let mut delta = Delta::new();
        for times in 1..=3 {
            let (a, b) = one();
            delta.add("m", a, b);
            let is_dense = matches!(delta.get("m"), Some(Change::Dense(_)));
            assert_eq!(is_dense, times > 1, "two ranks of 3 + 3 are more than 9");
            let wanted: Vec<f32> =
                [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0].map(|x| x * times as f32).to_vec();
            let change = delta.get("m").unwrap();
            assert_eq!(change.dense(), ([3, 3], wanted));
            let (a, b) = change.factors();
            assert_eq!(Change::Factors { a, b }.dense(), change.dense());
            let back = Delta::from_safetensors(&delta.to_safetensors()).unwrap();
            assert_eq!(back, delta);
        }
        let (a, b) = (([1, 4], vec![1.0; 4]), ([4, 1], vec![1.0; 4]));
        delta.add("n", a.clone(), b.clone());
        delta.add("n", a, b);
        assert!(matches!(delta.get("n"), Some(Change::Factors { a: ([2, 4], _), .. })));
        assert_eq!(delta.get("n").unwrap().dense().1, [2.0; 16]);
    }

    #[test]
    fn a_file_that_is_no_delta_is_refused_by_name() {
        let refused = |tensors: &[(&str, [usize; 2])]| {
            let tensors = tensors
                .iter()
                .map(|(name, shape)| ((*name).to_owned(), *shape, vec![0.0; shape[0] * shape[1]]));
            let bytes = AdapterTensors::new(tensors).to_safetensors();
            Delta::from_safetensors(&bytes).unwrap_err().to_string()
        };
        let text = refused(&[("m.delta_A", [1, 2])]);
        assert!(text.ends_with("`m` has no delta_B"), "{text}");
        let text = refused(&[("m.delta_A", [1, 2]), ("m.delta_B", [2, 2])]);
        assert!(text.ends_with("`m` have different ranks"), "{text}");
        let text = refused(&[("m.delta_B", [2, 2])]);
        assert!(text.ends_with("`m.delta_B` is no change of a base"), "{text}");
    }
}
