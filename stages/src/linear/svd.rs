//! The singular value decomposition by Jacobi's one-sided rotations.
//!
//! A pair of rows is turned until its two rows are orthogonal, again and again for all pairs (Hestenes 1958; Demmel and
//! Veselić 1992 on its accuracy). The pairs come in the order of a round-robin tournament, so that all pairs of one
//! turn are disjoint and can be turned at once.

use rayon::prelude::*;

use super::matrix::{add_scaled, dot};
use super::{Matrix, Qr, qr};

/// Passes over all pairs, at most; ten are many.
const PASSES: usize = 60;

/// `A = U·diag(σ)·Vᵀ` with k, the smaller side of A `[m, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// `[m, k]`, the left singular vectors as orthonormal columns. The entry of the largest magnitude of each column
    /// is positive, the first of them on ties.
    pub u: Matrix,
    /// The k singular values, falling.
    pub values: Vec<f64>,
    /// `[k, n]`, the right singular vectors as orthonormal rows.
    pub vt: Matrix,
}

impl Svd {
    /// The sum of the first `rank` parts: the matrix of that rank that is nearest (Eckart and Young 1936).
    pub fn truncated(&self, rank: usize) -> Matrix {
        let mut right = self.vt.first_rows(rank);
        for (row, sigma) in self.values.iter().take(rank).enumerate() {
            for value in right.row_mut(row) {
                *value *= sigma;
            }
        }
        self.u.first_columns(rank).times(&right)
    }

    /// The number of singular values above the rounding of the largest: those of a product of low rank that are
    /// not zero.
    pub fn rank(&self) -> usize {
        let side = self.u.rows().max(self.vt.columns()) as f64;
        let least = self.values.first().map_or(0.0, |first| first * side * f64::EPSILON);
        self.values.iter().take_while(|value| **value > least).count()
    }

    /// The same decomposition with the signs that [`Svd::u`] is said to have.
    #[must_use]
    pub(super) fn with_fixed_signs(mut self) -> Self {
        let mut columns = self.u.transposed();
        for at in 0..self.values.len() {
            let column = columns.row_mut(at);
            let largest =
                column.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
            if largest < 0.0 {
                for value in column.iter_mut().chain(self.vt.row_mut(at)) {
                    *value = -*value;
                }
            }
        }
        self.u = columns.transposed();
        self
    }
}

/// The thin singular value decomposition of `a`, of any shape and rank.
pub fn svd(a: &Matrix) -> Svd {
    if a.rows() >= a.columns() {
        return tall(a).with_fixed_signs();
    }
    let Svd { u, values, vt } = tall(&a.transposed());
    Svd { u: vt.transposed(), values, vt: u.transposed() }.with_fixed_signs()
}

fn tall(a: &Matrix) -> Svd {
    let Qr { q, r } = qr(a);
    let inner = square(&r);
    Svd { u: q.times(&inner.u), ..inner }
}

/// A row of `Wᵀ·A`, with the row of Wᵀ that made it.
struct Row {
    values: Vec<f64>,
    turns: Vec<f64>,
}

impl Row {
    fn norm(&self) -> f64 {
        dot(&self.values, &self.values).sqrt()
    }
}

/// What is small enough.
struct Bounds {
    /// The cosine between rows that are orthogonal.
    tolerance: f64,
    /// The norm of a row that is none.
    least: f64,
}

/// The decomposition of a square matrix: `Wᵀ·A = diag(σ)·Vᵀ` once the rows are orthogonal.
fn square(a: &Matrix) -> Svd {
    let size = a.rows();
    let identity = Matrix::identity(size);
    let mut rows: Vec<Row> = (0..size)
        .map(|row| Row { values: a.row(row).to_vec(), turns: identity.row(row).to_vec() })
        .collect();
    if size % 2 == 1 {
        // Whoever meets this one sits out.
        rows.push(Row { values: Vec::new(), turns: Vec::new() });
    }
    let bounds = Bounds {
        tolerance: 4.0 * (size as f64).sqrt() * f64::EPSILON,
        // Below it a row is the rounding of the others. Turning such rows never ends where they have no room to be
        // orthogonal in.
        least: a.norm() * f64::EPSILON,
    };
    for _ in 0..PASSES {
        let mut turned = false;
        for _ in 1..rows.len() {
            turned |= rows
                .par_chunks_exact_mut(2)
                .map(|pair| turn(pair, &bounds))
                .reduce(|| false, |one, other| one | other);
            rotate_tournament(&mut rows);
        }
        if !turned {
            break;
        }
    }
    rows.retain(|row| !row.turns.is_empty());
    let norm = |row: &Row| Some(row.norm()).filter(|norm| *norm > bounds.least).unwrap_or(0.0);
    let mut sorted: Vec<(f64, Row)> = rows.into_iter().map(|row| (norm(&row), row)).collect();
    sorted.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut vt: Vec<Vec<f64>> = Vec::with_capacity(size);
    for (norm, row) in &sorted {
        let vector = match *norm {
            0.0 => missing(&vt, size),
            norm => row.values.iter().map(|value| value / norm).collect(),
        };
        vt.push(vector);
    }
    let turns: Vec<f64> = sorted.iter().flat_map(|(_, row)| &row.turns).copied().collect();
    Svd {
        u: Matrix::new(size, size, turns).transposed(),
        values: sorted.iter().map(|(norm, _)| *norm).collect(),
        vt: Matrix::new(size, size, vt.concat()),
    }
}

/// Makes the two rows of `pair` orthogonal; whether they were not.
fn turn(pair: &mut [Row], bounds: &Bounds) -> bool {
    let [one, other] = pair else { return false };
    let along = dot(&one.values, &other.values);
    let (left, right) = (one.norm(), other.norm());
    if left.min(right) <= bounds.least || along.abs() <= bounds.tolerance * left * right {
        return false;
    }
    // The smaller root of t² + 2ζt − 1: the smaller of the two angles.
    let zeta = (right - left) * (right + left) / (2.0 * along);
    let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
    let cosine = (1.0 + tangent * tangent).sqrt().recip();
    let sine = cosine * tangent;
    let rotate = |one: &mut [f64], other: &mut [f64]| {
        for (x, y) in one.iter_mut().zip(other) {
            (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
        }
    };
    rotate(&mut one.values, &mut other.values);
    rotate(&mut one.turns, &mut other.turns);
    true
}

/// The next pairs of the tournament, two neighbours each: the first stays, all others go on by one seat around the
/// table of two rows. After one turn less than there are players everyone has met everyone, and sits as at first.
fn rotate_tournament<T>(players: &mut [T]) {
    let count = players.len();
    if count < 4 {
        return;
    }
    // The seats 1, 3, 5, …, then back along the other row: …, 6, 4, 2.
    let around: Vec<usize> = (1..count)
        .step_by(2)
        .chain((2..count).step_by(2).collect::<Vec<_>>().into_iter().rev())
        .collect();
    for neighbours in around.windows(2) {
        players.swap(neighbours[0], neighbours[1]);
    }
}

/// A unit vector that is orthogonal to `rows`, which are fewer than `size` and orthonormal.
fn missing(rows: &[Vec<f64>], size: usize) -> Vec<f64> {
    // The axis of which the rows have the least.
    let shares = (0..size).map(|axis| rows.iter().map(|row| row[axis] * row[axis]).sum::<f64>());
    let (axis, _) = shares.enumerate().fold((0, f64::INFINITY), |best, (axis, share)| {
        if share < best.1 { (axis, share) } else { best }
    });
    let mut vector = vec![0.0; size];
    vector[axis] = 1.0;
    // Once takes away what is along the rows; twice what rounding put back.
    for row in rows.iter().chain(rows) {
        let along = dot(row, &vector);
        add_scaled(&mut vector, -along, row);
    }
    let norm = dot(&vector, &vector).sqrt();
    vector.iter().map(|value| value / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apart, random, skewness};
    use super::*;

    fn check(a: &Matrix) -> Svd {
        let svd = svd(a);
        let size = a.rows().min(a.columns());
        let norm = a.norm().max(1.0);
        assert!(svd.truncated(size).minus(a).norm() < 1e-12 * norm);
        assert!(skewness(&svd.u) < 1e-12, "{}", skewness(&svd.u));
        assert!(skewness(&svd.vt.transposed()) < 1e-12, "{}", skewness(&svd.vt.transposed()));
        assert!(svd.values.is_sorted_by(|one, other| one >= other));
        let columns = svd.u.transposed();
        for column in 0..size {
            let column = columns.row(column);
            let largest = column.iter().map(|x| x.abs()).fold(0.0, f64::max);
            let first = column.iter().find(|x| x.abs() >= largest).unwrap();
            assert!(*first > 0.0);
        }
        svd
    }

    #[test]
    fn a_small_one_by_hand() {
        // AᵀA = [25 20; 20 25] with the eigenvalues 45 and 5.
        let svd = check(&Matrix::new(2, 2, vec![3.0, 0.0, 4.0, 5.0]));
        assert!((svd.values[0] - 45.0_f64.sqrt()).abs() < 1e-14);
        assert!((svd.values[1] - 5.0_f64.sqrt()).abs() < 1e-14);
        let half = 0.5_f64.sqrt();
        assert!(apart(&svd.vt, &Matrix::new(2, 2, vec![half, half, half, -half])) < 1e-14);
        let tenth = 10.0_f64.sqrt();
        let left = vec![1.0 / tenth, 3.0 / tenth, 3.0 / tenth, -1.0 / tenth];
        assert!(apart(&svd.u, &Matrix::new(2, 2, left)) < 1e-14);
        assert_eq!(check(&Matrix::new(1, 1, vec![-2.0])).vt.values(), [-1.0]);
    }

    #[test]
    fn any_shape_and_rank_is_taken_apart_and_put_together_again() {
        for (rows, columns) in [(1, 6), (6, 1), (30, 8), (8, 30), (17, 17), (64, 64)] {
            check(&random(rows, columns, 6));
        }
        let low = random(30, 4, 7).times(&random(4, 25, 8));
        let svd = check(&low);
        assert_eq!(svd.rank(), 4);
        assert!(apart(&svd.truncated(4), &low) < 1e-12);
        let zeros = check(&Matrix::zeros(5, 3));
        assert_eq!((zeros.values.as_slice(), zeros.rank()), ([0.0; 3].as_slice(), 0));
        let ones = check(&Matrix::identity(5));
        assert!(ones.values.iter().all(|value| (value - 1.0).abs() < 1e-14));
        let mut holes = random(9, 7, 9);
        (0..9).for_each(|row| holes.row_mut(row)[2..5].fill(0.0));
        assert_eq!(check(&holes).rank(), 4);
    }

    #[test]
    fn values_of_very_different_size_are_found() {
        let left = qr(&random(12, 6, 10)).q;
        let right = qr(&random(9, 6, 11)).q;
        let values = [0, 2, 4, 6, 8, 10].map(|at| 10.0_f64.powi(-at));
        let scaled = Matrix::from_fn(12, 6, |row, at| left.at(row, at) * values[at]);
        let found = check(&scaled.times_transposed(&right)).values;
        for (found, wanted) in found.iter().zip(&values) {
            assert!((found - wanted).abs() < 1e-14, "{found} {wanted}");
        }
    }

    #[test]
    fn everyone_meets_everyone_once() {
        let mut players: Vec<usize> = (0..8).collect();
        let mut met = std::collections::BTreeSet::new();
        for _ in 1..8 {
            for pair in players.chunks(2) {
                assert!(met.insert((pair[0].min(pair[1]), pair[0].max(pair[1]))));
            }
            rotate_tournament(&mut players);
        }
        assert_eq!(met.len(), 28);
        assert_eq!(players, (0..8).collect::<Vec<_>>());
    }
}
