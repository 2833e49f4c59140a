//! Equal parts at random.

use rand_chacha::ChaCha8Rng;

use super::cut::even_parts;
use super::{Examples, Outcome, Partition, Rule};
use crate::{Result, shuffle};

/// Shuffles the examples and cuts them into parts whose sizes differ by at most one.
#[derive(Clone, Copy, Debug)]
pub struct Iid;

impl Rule for Iid {
    fn check(&self, _clients: usize) -> Result<()> {
        Ok(())
    }

    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        let mut order: Vec<usize> = (0..of.labels.len()).collect();
        shuffle::shuffle(rng, &mut order);
        let shards = even_parts(&order, clients).into_iter().map(<[usize]>::to_vec).collect();
        Ok(Partition { shards, outcome: Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{By, Examples};

    #[test]
    fn sizes_differ_by_at_most_one() {
        let partition = By::Iid.split(&Examples::labelled(&[0; 23]), 5, 1).unwrap();
        let sizes: Vec<usize> = partition.shards.iter().map(Vec::len).collect();
        assert_eq!(sizes, [5, 5, 5, 4, 4]);
    }
}
