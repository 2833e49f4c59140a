//! Equal parts at random.

use rand_chacha::ChaCha8Rng;

use super::{Outcome, Partition, Rule};
use crate::{Result, shuffle};

/// Shuffles the examples and cuts them into parts whose sizes differ by at most one.
#[derive(Clone, Copy, Debug)]
pub struct Iid;

impl Rule for Iid {
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn split(&self, labels: &[i32], clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        let mut order: Vec<usize> = (0..labels.len()).collect();
        shuffle::shuffle(rng, &mut order);
        let (size, larger) = (labels.len() / clients, labels.len() % clients);
        let mut rest = order.as_slice();
        let mut shards = Vec::with_capacity(clients);
        for client in 0..clients {
            let (part, after) = rest.split_at(size + usize::from(client < larger));
            shards.push(part.to_vec());
            rest = after;
        }
        Ok(Partition {
            shards,
            outcome: Outcome {
                attempts: 1,
                moved: 0,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::By;

    #[test]
    fn sizes_differ_by_at_most_one() {
        let partition = By::Iid.split(&[0; 23], 5, 1).unwrap();
        let sizes: Vec<usize> = partition.shards.iter().map(Vec::len).collect();
        assert_eq!(sizes, [5, 5, 5, 4, 4]);
    }
}
