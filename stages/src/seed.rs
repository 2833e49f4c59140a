//! Named randomness: every draw belongs to a purpose, and never depends on what was drawn before it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::shuffle;

/// The context of the key derivation; changing it changes every result.
const CONTEXT: &str = "fedpipe seed v1";

/// The seed of one purpose, such as `&["partition", "shards"]`.
pub fn derive(seed: u64, purpose: &[&str]) -> u64 {
    let key = key(seed, purpose);
    let mut first = [0; 8];
    first.copy_from_slice(&key[..8]);
    u64::from_le_bytes(first)
}

/// The seed of a purpose of a graph: the one that was set by hand, or one derived by name.
pub fn of_purpose(graph: u64, purpose: &str, set: Option<u64>) -> u64 {
    set.unwrap_or_else(|| derive(graph, &[purpose]))
}

/// The generator of one purpose.
pub fn rng(seed: u64, purpose: &[&str]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose))
}

/// Parts are length-prefixed, or `["ab", "c"]` and `["a", "bc"]` would share a stream.
fn key(seed: u64, purpose: &[&str]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&seed.to_le_bytes());
    for part in purpose {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// A stream of random numbers that belongs to one name.
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The stream that `purpose` and `parts` name under `seed`.
    pub fn named(seed: u64, purpose: &str, parts: &[&str]) -> Self {
        let purpose: Vec<&str> = std::iter::once(purpose).chain(parts.iter().copied()).collect();
        Self(rng(seed, &purpose))
    }

    /// Fills `bytes` with random bits.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    /// Goes to the `word`th 32-bit word of the stream.
    pub fn seek(&mut self, word: usize) {
        self.0.set_word_pos(word as u128);
    }

    /// A number in `[0, 1)`, on a grid of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// A whole number in `[0, bound)`, without bias; `bound` is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        shuffle::below(&mut self.0, bound.max(1))
    }

    /// A standard normal number (Box and Muller's cosine branch).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts `items` into a random order (Fisher and Yates, from the back).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        shuffle::shuffle(&mut self.0, items);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let first = derive(1, &["a", "b", "c"]);
        assert_eq!(first, derive(1, &["a", "b", "c"]));
        assert_ne!(first, derive(1, &["a", "bc"]));
        assert_ne!(first, derive(1, &["ab", "c"]));
        assert_ne!(first, derive(2, &["a", "b", "c"]));
    }

    #[test]
    fn the_stream_never_changes() {
        let mut draws = Draws::named(17, "test", &["x"]);
        let numbers: Vec<usize> = (0..8).map(|_| draws.below(100)).collect();
        // Recorded once: a change here changes every result of every user.
        assert_eq!(numbers, [0, 50, 85, 55, 3, 43, 2, 86]);
    }

    #[test]
    fn normal_numbers_have_the_moments() {
        let mut draws = Draws::named(3, "test", &["normal"]);
        let numbers: Vec<f64> = (0..20_000).map(|_| draws.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 20_000.0;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((variance - 1.0).abs() < 0.04, "{variance}");
    }
}
