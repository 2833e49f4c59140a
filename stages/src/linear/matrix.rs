//! A matrix, and what is done with whole matrices.

use rayon::prelude::*;

/// So many rows of a product are made together, so that the right matrix is read that much more seldom.
const BLOCK: usize = 8;

/// A dense matrix of f64, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// Takes values over, row by row.
    ///
    /// # Panics
    /// Where the shape does not count the values.
    pub fn new(rows: usize, columns: usize, values: Vec<f64>) -> Self {
        assert_eq!(rows * columns, values.len(), "the shape counts the values");
        Self { rows, columns, values }
    }

    /// Zeros, `[rows, columns]`.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self::new(rows, columns, vec![0.0; rows * columns])
    }

    /// The identity, `[size, size]`.
    pub fn identity(size: usize) -> Self {
        Self::from_fn(size, size, |row, column| f64::from(u8::from(row == column)))
    }

    /// The matrix of these values by row and column.
    pub fn from_fn(rows: usize, columns: usize, value: impl Fn(usize, usize) -> f64) -> Self {
        let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Self::new(rows, columns, places.map(|(row, column)| value(row, column)).collect())
    }

    /// A tensor of f32, `shape` being rows and columns.
    ///
    /// # Panics
    /// Where the shape does not count the values.
    pub fn from_f32(shape: [usize; 2], values: &[f32]) -> Self {
        Self::new(shape[0], shape[1], values.iter().copied().map(f64::from).collect())
    }

    /// The values in f32, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let narrow = |&value: &f64| value as f32;
        self.values.iter().map(narrow).collect()
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// One value.
    ///
    /// # Panics
    /// Where there is no such place.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        self.row(row)[column]
    }

    /// One row.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row(&self, row: usize) -> &[f64] {
        assert!(row < self.rows, "there is a row {row}");
        &self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// One row, to be changed.
    ///
    /// # Panics
    /// Where there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        assert!(row < self.rows, "there is a row {row}");
        &mut self.values[row * self.columns..(row + 1) * self.columns]
    }

    /// The first `count` rows, or all where there are fewer.
    #[must_use]
    pub fn first_rows(&self, count: usize) -> Self {
        let rows = count.min(self.rows);
        Self::new(rows, self.columns, self.values[..rows * self.columns].to_vec())
    }

    /// The first `count` columns, or all where there are fewer.
    #[must_use]
    pub fn first_columns(&self, count: usize) -> Self {
        Self::from_fn(self.rows, count.min(self.columns), |row, column| self.at(row, column))
    }

    /// Rows as columns.
    #[must_use]
    pub fn transposed(&self) -> Self {
        Self::from_fn(self.columns, self.rows, |row, column| self.at(column, row))
    }

    /// Each value times `factor`.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for value in &mut self.values {
            *value *= factor;
        }
        self
    }

    /// The sum.
    ///
    /// # Panics
    /// Where the shapes differ.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        assert_eq!(self.shape(), other.shape(), "a sum is of matrices of one shape");
        add_scaled(&mut self.values, 1.0, &other.values);
        self
    }

    /// The difference.
    ///
    /// # Panics
    /// Where the shapes differ.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        assert_eq!(self.shape(), other.shape(), "a difference is of matrices of one shape");
        let mut difference = self.clone();
        add_scaled(&mut difference.values, -1.0, &other.values);
        difference
    }

    /// The product `self·other`, each number a sum in the order of the inner index.
    ///
    /// # Panics
    /// Where the inner sizes differ.
    #[must_use]
    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.columns, other.rows, "a product has one inner size");
        let mut product = Self::zeros(self.rows, other.columns);
        let width = other.columns.max(1);
        product.values.par_chunks_mut(BLOCK * width).enumerate().for_each(|(block, rows)| {
            for inner in 0..self.columns {
                for (row, sums) in rows.chunks_exact_mut(width).enumerate() {
                    add_scaled(sums, self.at(block * BLOCK + row, inner), other.row(inner));
                }
            }
        });
        product
    }

    /// The product `self·otherᵀ`.
    ///
    /// # Panics
    /// Where the inner sizes differ.
    #[must_use]
    pub fn times_transposed(&self, other: &Self) -> Self {
        self.times(&other.transposed())
    }

    /// The product `selfᵀ·other`.
    ///
    /// # Panics
    /// Where the inner sizes differ.
    #[must_use]
    pub fn transposed_times(&self, other: &Self) -> Self {
        self.transposed().times(other)
    }

    /// The matrices side by side, `[M₁ M₂ …]`.
    ///
    /// # Panics
    /// Where there is none, or the numbers of rows differ.
    pub fn beside(parts: &[Self]) -> Self {
        let rows = parts.first().expect("there is a matrix").rows;
        assert!(parts.iter().all(|part| part.rows == rows), "matrices side by side are as high");
        let columns = parts.iter().map(|part| part.columns).sum();
        let values = (0..rows).flat_map(|row| parts.iter().flat_map(move |part| part.row(row)));
        Self::new(rows, columns, values.copied().collect())
    }

    /// The matrices one below the other, `[M₁; M₂; …]`.
    ///
    /// # Panics
    /// Where there is none, or the numbers of columns differ.
    pub fn below(parts: &[Self]) -> Self {
        let columns = parts.first().expect("there is a matrix").columns;
        assert!(parts.iter().all(|part| part.columns == columns), "stacked matrices are as wide");
        let rows = parts.iter().map(|part| part.rows).sum();
        Self::new(rows, columns, parts.iter().flat_map(|part| &part.values).copied().collect())
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

/// `to += factor·from`.
pub(super) fn add_scaled(to: &mut [f64], factor: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += factor * from;
    }
}

/// The inner product, as eight sums side by side: one sum alone waits for each addition before the next.
pub(super) fn dot(left: &[f64], right: &[f64]) -> f64 {
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (left, right) in left.iter().zip(right) {
        for (sum, (x, y)) in sums.iter_mut().zip(left.iter().zip(right)) {
            *sum += x * y;
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_stacks_are_what_they_are_by_hand() {
        let a = Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = Matrix::new(3, 2, vec![1.0, 0.0, -1.0, 2.0, 0.5, 1.0]);
        assert_eq!(a.times(&b).values(), [0.5, 7.0, 2.0, 16.0]);
        assert_eq!(a.times_transposed(&a).values(), [14.0, 32.0, 32.0, 77.0]);
        assert_eq!(a.transposed_times(&a).row(0), [17.0, 22.0, 27.0]);
        let beside = Matrix::beside(&[a.clone(), Matrix::identity(2)]);
        assert_eq!(beside.row(1), [4.0, 5.0, 6.0, 0.0, 1.0]);
        let below = Matrix::below(&[a.clone(), a.clone().scaled(2.0)]);
        assert_eq!((below.shape(), below.row(2)), ([4, 3], [2.0, 4.0, 6.0].as_slice()));
        assert_eq!(below.first_rows(2), a);
        assert_eq!(beside.first_columns(3), a);
        assert_eq!(a.clone().plus(&a).minus(&a), a);
        assert!((a.norm() - 91.0_f64.sqrt()).abs() < 1e-15);
        assert_eq!(Matrix::zeros(2, 0).times(&Matrix::zeros(0, 3)), Matrix::zeros(2, 3));
    }

    #[test]
    fn long_products_are_those_of_the_definition() {
        let (a, b) =
            (super::super::tests::random(21, 33, 1), super::super::tests::random(33, 19, 2));
        let product = a.times(&b);
        for row in 0..21 {
            for column in 0..19 {
                let sum: f64 = (0..33).map(|k| a.at(row, k) * b.at(k, column)).sum();
                assert!((product.at(row, column) - sum).abs() < 1e-13);
            }
        }
        let whole: f64 = a.values().iter().map(|x| x * x).sum();
        assert!((a.norm() - whole.sqrt()).abs() < 1e-13);
    }
}
