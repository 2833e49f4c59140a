//! What a rule has added to the weights of the base itself.

use std::collections::BTreeMap;

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
        let change = match self.changes.remove(path) {
            None => Change::Factors { a, b },
            Some(Change::Factors { a: old_a, b: old_b }) => {
                Change::Factors { a: below(old_a, a), b: beside(&old_b, &b) }
            }
            Some(Change::Dense((shape, mut values))) => {
                assert_eq!(shape, [outputs, inputs], "the change of `{path}` keeps its shape");
                add_product(&mut values, &a, &b);
                Change::Dense((shape, values))
            }
        };
        let change = match change {
            Change::Factors { a, b } if a.0[0] * (inputs + outputs) > inputs * outputs => {
                let mut values = vec![0.0; inputs * outputs];
                add_product(&mut values, &a, &b);
                Change::Dense(([outputs, inputs], values))
            }
            other => other,
        };
        self.changes.insert(path.to_owned(), change);
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
        let tensors = AdapterTensors::from_safetensors(bytes)?;
        let mut changes = BTreeMap::new();
        for (name, shape, values) in tensors.iter() {
            let matrix = (shape, values.to_vec());
            if let Some(path) = name.strip_suffix(".delta") {
                changes.insert(path.to_owned(), Change::Dense(matrix));
            } else if let Some(path) = name.strip_suffix(".delta_A") {
                let b = tensors.get(&format!("{path}.delta_B"));
                let (shape, values) =
                    b.ok_or_else(|| AdapterError::Format(format!("`{path}` has no delta_B")))?;
                let b = (shape, values.to_vec());
                changes.insert(path.to_owned(), Change::Factors { a: matrix, b });
            }
        }
        Ok(Self { changes })
    }
}

/// `values += b·a`, summed in f64.
fn add_product(values: &mut [f32], a: &Matrix, b: &Matrix) {
    let [rank, inputs] = a.0;
    for (row, b) in values.chunks_exact_mut(inputs).zip(b.1.chunks_exact(rank)) {
        for (column, value) in row.iter_mut().enumerate() {
            let product: f64 =
                (0..rank).map(|r| f64::from(b[r]) * f64::from(a.1[r * inputs + column])).sum();
            #[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
            let sum = (f64::from(*value) + product) as f32;
            *value = sum;
        }
    }
}

/// The rows of `first`, then those of `second`.
fn below(first: Matrix, second: Matrix) -> Matrix {
    let ([rows, columns], mut values) = first;
    values.extend(second.1);
    ([rows + second.0[0], columns], values)
}

/// The columns of `first`, then those of `second`.
fn beside(first: &Matrix, second: &Matrix) -> Matrix {
    let ([rows, left], [_, right]) = (first.0, second.0);
    let pairs = first.1.chunks_exact(left).zip(second.1.chunks_exact(right));
    let values = pairs.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
    ([rows, left + right], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(change: &Change) -> Vec<f32> {
        match change {
            Change::Dense((_, values)) => values.clone(),
            Change::Factors { a, b } => {
                let mut values = vec![0.0; a.0[1] * b.0[0]];
                add_product(&mut values, a, b);
                values
            }
        }
    }

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
            assert_eq!(product(delta.get("m").unwrap()), wanted);
            let back = Delta::from_safetensors(&delta.to_safetensors()).unwrap();
            assert_eq!(back, delta);
        }
        let (a, b) = ((([1, 4], vec![1.0; 4])), ([4, 1], vec![1.0; 4]));
        delta.add("n", a.clone(), b.clone());
        delta.add("n", a, b);
        assert!(matches!(delta.get("n"), Some(Change::Factors { a: ([2, 4], _), .. })));
        assert_eq!(product(delta.get("n").unwrap()), [2.0; 16]);
    }
}
