//! Shuffling and drawing without replacement.
//!
//! Written out here, and not taken from `rand`, because what these give is part of what a cached
//! result means: it must stay the same from one release of a crate to the next.

use rand::Rng;

/// A whole number drawn evenly from `0..bound`; `bound` is at least 1.
pub fn below(rng: &mut impl Rng, bound: usize) -> usize {
    debug_assert!(bound > 0, "an empty range has no number to draw");
    let bound = bound as u64;
    // Numbers past the last whole multiple of `bound` would favour the small ones.
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let drawn = rng.next_u64();
        if drawn < limit {
            return usize::try_from(drawn % bound).expect("the remainder is below a usize");
        }
    }
}

/// Puts `items` into random order (Fisher and Yates).
pub fn shuffle<T>(rng: &mut impl Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

/// `count` of the numbers `0..total`, drawn without replacement, in rising order.
///
/// `count` is at most `total`.
pub fn choose(rng: &mut impl Rng, total: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..total).collect();
    for i in 0..count {
        let j = i + below(rng, total - i);
        all.swap(i, j);
    }
    all.truncate(count);
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    #[test]
    fn every_order_of_three_is_equally_likely() {
        let mut rng = seed::rng(1, &["test"]);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..6000 {
            let mut items = [0, 1, 2];
            shuffle(&mut rng, &mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|&n| (880..1120).contains(&n)), "{seen:?}");
    }

    #[test]
    fn a_choice_is_distinct_rising_and_even() {
        let mut rng = seed::rng(2, &["test"]);
        let mut hits = [0; 10];
        for _ in 0..5000 {
            let chosen = choose(&mut rng, 10, 3);
            assert!(chosen.is_sorted_by(|a, b| a < b) && chosen.len() == 3);
            for i in chosen {
                hits[i] += 1;
            }
        }
        assert!(hits.iter().all(|n| (1350..1650).contains(n)), "{hits:?}");
        assert_eq!(choose(&mut rng, 4, 4), [0, 1, 2, 3]);
    }
}
