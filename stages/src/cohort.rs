//! How many clients a device takes in one pass.

/// The most clients of a cohort, whatever the memory: by then a GPU is full.
pub const MOST: usize = 32;
/// What is assumed of a device that does not tell its memory (bytes).
const UNKNOWN: u64 = 4 << 30;

/// How many clients that add `client` bytes each go with a base of `base` bytes into a device of `memory`: at least 1, at
/// most [`MOST`]. [`crate::memory`] says what a base and a client take.
pub fn most(memory: Option<u64>, base: u64, client: u64) -> usize {
    // A fifth is left to what is not counted: the driver, kernels, and the gaps of the memory pool.
    let usable = memory.unwrap_or(UNKNOWN) / 5 * 4;
    let clients = usable.saturating_sub(base) / client.max(1);
    usize::try_from(clients).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cohort_fills_what_the_base_leaves() {
        let gib = 1 << 30;
        assert_eq!(most(Some(80 * gib), 28 * gib, 3 * gib), 12);
        assert_eq!(most(Some(8 * gib), 28 * gib, gib), 1, "what cannot fit is tried alone");
        assert_eq!(most(Some(80 * gib), gib, 1), MOST);
        assert!(most(None, 0, gib) == 3);
    }
}
