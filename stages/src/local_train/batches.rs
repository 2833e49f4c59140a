//! The order in which a client meets its examples.

use std::collections::VecDeque;

use crate::seed::Draws;
use crate::token_set::TokenSet;

/// So many batches are sorted by length together: enough for little padding, few enough to stay random.
const WINDOW: usize = 8;

/// The batches of one client, pass after pass without end.
///
/// Each pass is a shuffle named by its number. Within windows of a few batches, examples of like length are put
/// together, and then the batches of the window are put into a random order. The last batch of a pass may be
/// smaller; no example is left out.
pub struct Batches<'a> {
    data: &'a TokenSet,
    size: usize,
    seed: u64,
    pass: u64,
    ready: VecDeque<Vec<usize>>,
}

impl<'a> Batches<'a> {
    /// Batches of `size` examples of `data`.
    pub fn new(data: &'a TokenSet, size: usize, seed: u64) -> Self {
        Self { data, size: size.max(1), seed, pass: 0, ready: VecDeque::new() }
    }

    /// The number of batches in one pass.
    pub fn per_epoch(&self) -> u64 {
        self.data.len().div_ceil(self.size) as u64
    }

    /// The examples of the next batch; none where there are no examples at all.
    pub fn draw(&mut self) -> Vec<usize> {
        if self.ready.is_empty() {
            self.begin_pass();
        }
        self.ready.pop_front().unwrap_or_default()
    }

    fn begin_pass(&mut self) {
        let mut draws = Draws::named(self.seed, "batches", &[&self.pass.to_string()]);
        self.pass += 1;
        let mut order: Vec<usize> = (0..self.data.len()).collect();
        draws.shuffle(&mut order);
        for window in order.chunks_mut(self.size * WINDOW) {
            window.sort_by_key(|&index| self.data.tokens(index).len());
            let mut batches: Vec<&[usize]> = window.chunks(self.size).collect();
            draws.shuffle(&mut batches);
            self.ready.extend(batches.into_iter().map(<[usize]>::to_vec));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_meets_every_example_once_with_like_lengths_together() {
        let tokens = [1_u32; 40];
        let examples = (0..101).map(|i| (&tokens[..=(i * 7) % 40], 0));
        let data = TokenSet::from_examples(examples).unwrap();
        let mut batches = Batches::new(&data, 4, 5);
        assert_eq!(batches.per_epoch(), 26);
        let pass = |batches: &mut Batches<'_>| (0..26).map(|_| batches.draw()).collect::<Vec<_>>();
        let (first, second) = (pass(&mut batches), pass(&mut batches));
        assert_ne!(first, second);
        for one in [&first, &second] {
            let mut met = one.concat();
            met.sort_unstable();
            assert!(met.into_iter().eq(0..101));
        }
        let waste = |batch: &Vec<usize>| {
            let lengths = batch.iter().map(|&i| data.tokens(i).len());
            lengths.clone().max().unwrap() * batch.len() - lengths.sum::<usize>()
        };
        let wasted: usize = first.iter().map(waste).sum();
        assert!(wasted * 5 < data.total_tokens(), "{wasted} of {}", data.total_tokens());
        assert_eq!(first, pass(&mut Batches::new(&data, 4, 5)));
    }
}
