//! Causal attention over ragged rows: each sequence and head alone, in blocks of queries.

use super::buffers::{Buffer, Buffers};
use super::math::{exp, largest, sum};
use super::matmul::{Matrix, MatrixMut, Write, product};
use super::simd::vectorized;
use std::sync::Arc;

/// So many queries are taken at once: a block's keys end with its last query.
const BLOCK: usize = 64;

/// Where queries, keys and values lie in the rows that one module makes.
#[derive(Clone, Debug)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) count: usize,
    /// Key and value heads, each for a group of query heads.
    pub(super) kv: usize,
    pub(super) width: usize,
    /// Whether a row is ordered `[head][query, key, value]` (BLOOM), or all queries, all keys, all values.
    pub(super) interleaved: bool,
    /// What is added to a score for each position of its key, by query head; empty for nothing.
    pub(super) slopes: Vec<f32>,
}

impl Heads {
    /// The width of a row of queries, keys and values.
    pub(super) fn row(&self) -> usize {
        (self.count + 2 * self.kv) * self.width
    }

    /// The width of a row of what is read.
    pub(super) fn read(&self) -> usize {
        self.count * self.width
    }

    fn query(&self, head: usize) -> usize {
        if self.interleaved { 3 * head * self.width } else { head * self.width }
    }

    fn key(&self, kv: usize) -> usize {
        let at = if self.interleaved { 3 * kv + 1 } else { self.count + kv };
        at * self.width
    }

    fn value(&self, kv: usize) -> usize {
        let at = if self.interleaved { 3 * kv + 2 } else { self.count + self.kv + kv };
        at * self.width
    }

    fn slope(&self, head: usize) -> f32 {
        self.slopes.get(head).copied().unwrap_or(0.0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    fn scale(&self) -> f32 {
        (self.width as f64).sqrt().recip() as f32
    }
}

/// One block of queries of one head of one sequence.
#[derive(Clone, Copy)]
struct Block {
    /// The first token of the sequence.
    sequence: usize,
    /// The first query, counted in the sequence.
    first: usize,
    queries: usize,
    head: usize,
}

impl Block {
    /// The keys that any of the queries sees: those up to the last query.
    fn keys(self) -> usize {
        self.first + self.queries
    }
}

/// The blocks of one head.
fn blocks(sequences: &[usize], head: usize) -> impl Iterator<Item = Block> {
    sequences.windows(2).flat_map(move |ends| {
        let (sequence, length) = (ends[0], ends[1] - ends[0]);
        (0..length).step_by(BLOCK).map(move |first| {
            let queries = BLOCK.min(length - first);
            Block { sequence, first, queries, head }
        })
    })
}

/// The length of the longest sequence, whose ends are `sequences`.
fn longest(sequences: &[usize]) -> usize {
    sequences.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0)
}

/// What each head reads: `read`, `[tokens, heads·width]`, from `rows`, `[tokens, row]`. Sequence i is made of the
/// tokens `sequences[i]..sequences[i + 1]`. `kept`, `[tokens, heads]`, takes the logarithm of each softmax's divisor.
pub(super) fn forward(
    heads: &Heads,
    rows: &[f32],
    sequences: &[usize],
    read: &mut [f32],
    kept: &mut [f32],
    buffers: &Arc<Buffers>,
) {
    let mut scores = buffers.take(BLOCK * longest(sequences));
    for head in 0..heads.count {
        let kv = head / (heads.count / heads.kv);
        for block in blocks(sequences, head) {
            let shape = [block.queries, block.keys()];
            multiply_keys(heads, rows, block, &mut scores);
            let at = (block.sequence + block.first) * heads.count + head;
            let slope = heads.slope(head);
            soften(&mut scores, shape[1], block.first, slope, &mut kept[at..], heads.count);
            let start = (block.sequence + block.first) * heads.read() + head * heads.width;
            let out = [block.queries, heads.width];
            let out = MatrixMut::strided(&mut read[start..], out, heads.read());
            let weights = Matrix::new(&scores[..shape[0] * shape[1]], shape);
            let values = of_keys(heads, rows, block, heads.value(kv));
            product(out, Write::Over, weights, values, 1.0);
        }
    }
}

/// The keys (or values), which begin at `column` of each row, of the block.
fn of_keys<'a>(heads: &Heads, rows: &'a [f32], block: Block, column: usize) -> Matrix<'a> {
    let start = block.sequence * heads.row() + column;
    Matrix::strided(&rows[start..], [block.keys(), heads.width], heads.row())
}

/// The queries of the block.
fn queries<'a>(heads: &Heads, rows: &'a [f32], block: Block) -> Matrix<'a> {
    let start = (block.sequence + block.first) * heads.row() + heads.query(block.head);
    Matrix::strided(&rows[start..], [block.queries, heads.width], heads.row())
}

/// The scores `[queries, keys]` of a block, without slopes.
fn multiply_keys(heads: &Heads, rows: &[f32], block: Block, scores: &mut [f32]) {
    let shape = [block.queries, block.keys()];
    let kv = block.head / (heads.count / heads.kv);
    let keys = of_keys(heads, rows, block, heads.key(kv)).t();
    let out = MatrixMut::new(&mut scores[..shape[0] * shape[1]], shape);
    product(out, Write::Over, queries(heads, rows, block), keys, heads.scale());
}

/// `d_rows`, the gradient by `rows`, of `d_read`, that by what [`forward`] read.
pub(super) fn backward(
    heads: &Heads,
    rows: &[f32],
    sequences: &[usize],
    kept: &[f32],
    d_read: &[f32],
    d_rows: &mut [f32],
    buffers: &Arc<Buffers>,
) {
    d_rows.fill(0.0);
    let most = BLOCK * longest(sequences);
    let (mut weights, mut slopes) = (buffers.take(most), buffers.take(most));
    for head in 0..heads.count {
        for block in blocks(sequences, head) {
            block_backward(heads, rows, block, kept, d_read, d_rows, &mut weights, &mut slopes);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the loop around it hands over what it has")]
fn block_backward(
    heads: &Heads,
    rows: &[f32],
    block: Block,
    kept: &[f32],
    d_read: &[f32],
    d_rows: &mut [f32],
    weights: &mut Buffer,
    slopes: &mut Buffer,
) {
    let (head, width, row) = (block.head, heads.width, heads.row());
    let kv = head / (heads.count / heads.kv);
    let shape = [block.queries, block.keys()];
    let size = shape[0] * shape[1];
    let at = (block.sequence + block.first) * heads.count + head;

    // The weights are made again: they would take far more room than what is kept of them.
    multiply_keys(heads, rows, block, weights);
    restore(weights, shape[1], block.first, heads.slope(head), &kept[at..], heads.count);
    let weights = &weights[..size];
    let start = (block.sequence + block.first) * heads.read() + head * width;
    let d_read = Matrix::strided(&d_read[start..], [block.queries, width], heads.read());

    let mut gradient = |column: usize, by: Matrix<'_>, left: Matrix<'_>, first: usize, n: usize| {
        let start = (block.sequence + first) * row + column;
        let out = MatrixMut::strided(&mut d_rows[start..], [n, width], row);
        product(out, Write::Add, left, by, 1.0);
    };
    gradient(heads.value(kv), d_read, Matrix::new(weights, shape).t(), 0, shape[1]);
    let values = of_keys(heads, rows, block, heads.value(kv));
    product(MatrixMut::new(&mut slopes[..size], shape), Write::Over, d_read, values.t(), 1.0);
    soften_backward(weights, shape[1], block.first, heads.scale(), &mut slopes[..size]);
    let slopes = Matrix::new(&slopes[..size], shape);
    let keys = of_keys(heads, rows, block, heads.key(kv));
    gradient(heads.query(head), keys, slopes, block.first, shape[0]);
    gradient(heads.key(kv), queries(heads, rows, block), slopes.t(), 0, shape[1]);
}

vectorized! {
    /// Turns rows of `keys` scores, the first of the query `first`, into weights that sum to 1. What lies ahead of
    /// a query gets 0.
    fn soften(
        scores: &mut [f32],
        keys: usize,
        first: usize,
        slope: f32,
        kept: &mut [f32],
        step: usize,
    ) {
        for (at, row) in scores[..(keys - first) * keys].chunks_exact_mut(keys).enumerate() {
            let (seen, ahead) = row.split_at_mut(first + at + 1);
            if slope != 0.0 {
                for (key, score) in seen.iter_mut().enumerate() {
                    *score += slope * key as f32;
                }
            }
            let most = largest(seen);
            for score in seen.iter_mut() {
                *score = exp(*score - most);
            }
            let total = sum(seen.len(), |key| seen[key]);
            let scale = 1.0 / total;
            for score in seen.iter_mut() {
                *score *= scale;
            }
            ahead.fill(0.0);
            kept[at * step] = most + total.ln();
        }
    }

    /// The same from what was kept.
    fn restore(
        scores: &mut [f32],
        keys: usize,
        first: usize,
        slope: f32,
        kept: &[f32],
        step: usize,
    ) {
        for (at, row) in scores[..(keys - first) * keys].chunks_exact_mut(keys).enumerate() {
            let (seen, ahead) = row.split_at_mut(first + at + 1);
            let divisor = kept[at * step];
            if slope == 0.0 {
                for score in seen.iter_mut() {
                    *score = exp(*score - divisor);
                }
            } else {
                for (key, score) in seen.iter_mut().enumerate() {
                    *score = exp(*score + slope * key as f32 - divisor);
                }
            }
            ahead.fill(0.0);
        }
    }

    /// From the gradient by weights to that by unscaled scores, in place.
    fn soften_backward(weights: &[f32], keys: usize, first: usize, scale: f32, slopes: &mut [f32]) {
        let rows = weights.chunks_exact(keys).zip(slopes.chunks_exact_mut(keys));
        for (at, (weights, slopes)) in rows.enumerate() {
            let count = first + at + 1;
            let level = sum(count, |key| weights[key] * slopes[key]);
            for (slope, weight) in slopes[..count].iter_mut().zip(weights) {
                *slope = weight * (*slope - level) * scale;
            }
            slopes[count..].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slopes::check_gradient;
    use super::*;

    fn of(interleaved: bool, kv: usize) -> Heads {
        let slopes = if interleaved { vec![0.25, 0.0625, 0.1, 0.2] } else { Vec::new() };
        Heads { count: 4, kv, width: 6, interleaved, slopes }
    }

    fn rows(heads: &Heads, tokens: usize) -> Vec<f32> {
        (0..tokens * heads.row()).map(|i| (i as f32 * 0.61).sin() * 1.5).collect()
    }

    fn run(heads: &Heads, rows: &[f32], sequences: &[usize]) -> (Vec<f32>, Vec<f32>) {
        let tokens = sequences[sequences.len() - 1];
        let (mut read, mut kept) =
            (vec![0.0; tokens * heads.read()], vec![0.0; tokens * heads.count]);
        forward(heads, rows, sequences, &mut read, &mut kept, &Arc::default());
        (read, kept)
    }

    /// By the definition, in f64.
    fn plain(heads: &Heads, rows: &[f32], sequences: &[usize]) -> Vec<f64> {
        let mut read = Vec::new();
        for token in 0..sequences[sequences.len() - 1] {
            let start = *sequences.iter().rfind(|start| **start <= token).unwrap();
            let at = |token: usize, column: usize| {
                let row = &rows[token * heads.row() + column..][..heads.width];
                row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()
            };
            for head in 0..heads.count {
                let kv = head / (heads.count / heads.kv);
                let query = at(token, heads.query(head));
                let score = |key: usize| {
                    let dot: f64 =
                        at(key, heads.key(kv)).iter().zip(&query).map(|(a, b)| a * b).sum();
                    let slope = f64::from(heads.slope(head)) * (key - start) as f64;
                    (dot / (heads.width as f64).sqrt() + slope).exp()
                };
                let total: f64 = (start..=token).map(score).sum();
                read.extend((0..heads.width).map(|i| {
                    (start..=token)
                        .map(|key| score(key) / total * at(key, heads.value(kv))[i])
                        .sum::<f64>()
                }));
            }
        }
        read
    }

    #[test]
    fn heads_read_what_the_definition_says() {
        let sequences = [0, 1, 8, 8 + BLOCK + 9];
        for heads in [of(false, 4), of(false, 2), of(true, 4)] {
            let rows = rows(&heads, sequences[3]);
            let (found, _) = run(&heads, &rows, &sequences);
            for (found, wanted) in found.iter().zip(plain(&heads, &rows, &sequences)) {
                assert!((f64::from(*found) - wanted).abs() < 1e-5, "{found} is not {wanted}");
            }
        }
    }

    #[test]
    fn gradients_are_slopes() {
        let sequences = [0, 3, 4, 4 + BLOCK + 2];
        for heads in [of(false, 2), of(true, 4)] {
            let rows = rows(&heads, sequences[3]);
            let (read, kept) = run(&heads, &rows, &sequences);
            let weights: Vec<f32> = (0..read.len()).map(|i| (i as f32 * 0.77).cos()).collect();
            let mut all = vec![7.0; rows.len()];
            backward(&heads, &rows, &sequences, &kept, &weights, &mut all, &Arc::default());
            // A slope for each of the first tokens' numbers and some of the long sequence's is enough.
            let some: Vec<usize> =
                (0..4 * heads.row()).chain((4 * heads.row()..rows.len()).step_by(37)).collect();
            let picked: Vec<f32> = some.iter().map(|&at| rows[at]).collect();
            let gradient: Vec<f32> = some.iter().map(|&at| all[at]).collect();
            check_gradient(&picked, &gradient, &weights, |picked| {
                let mut rows = rows.clone();
                for (&at, &value) in some.iter().zip(picked) {
                    rows[at] = value;
                }
                run(&heads, &rows, &sequences).0
            });
        }
    }
}
