//! Memory that is used again: a fresh buffer for every intermediate costs its page faults each time.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// Lengths are rounded up to a multiple of this, so that a buffer serves batches of nearly the same size.
const STEP: usize = 1024;

/// Buffers that nobody uses now. Shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<f32>>>,
}

/// The system has no more memory.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory {
    /// What was asked for.
    pub bytes: usize,
}

impl Buffers {
    /// A buffer of `length` values, which are whatever was left in it.
    ///
    /// # Panics
    /// With [`OutOfMemory`] as the payload where the system has no memory for it. No message is printed: whoever
    /// runs the step turns it into an error.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().enumerate().filter(|(_, values)| values.len() >= length);
        let best = fitting.min_by_key(|(_, values)| values.len()).map(|(at, _)| at);
        let values = if let Some(at) = best {
            free.swap_remove(at)
        } else {
            // What is too short goes, the longest first: else a longer batch would leave ever more behind.
            let longest = (0..free.len()).max_by_key(|&at| free[at].len());
            drop(longest.map(|at| free.swap_remove(at)));
            drop(free);
            allocate(length.next_multiple_of(STEP))
        };
        Buffer { values, length, home: Arc::clone(self) }
    }

    /// A buffer of `length` zeros.
    pub(super) fn zeros(self: &Arc<Self>, length: usize) -> Buffer {
        let mut buffer = self.take(length);
        buffer.fill(0.0);
        buffer
    }

    /// A buffer with the same values as `values`.
    pub(super) fn copy(self: &Arc<Self>, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

fn allocate(length: usize) -> Vec<f32> {
    let mut values = Vec::new();
    if values.try_reserve_exact(length).is_err() {
        std::panic::resume_unwind(Box::new(OutOfMemory { bytes: length * size_of::<f32>() }));
    }
    values.resize(length, 0.0);
    values
}

/// Values that go back to their [`Buffers`] when they are no longer needed.
#[derive(Debug)]
pub(super) struct Buffer {
    values: Vec<f32>,
    length: usize,
    home: Arc<Buffers>,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_do_not_pile_up() {
        let buffers = Arc::new(Buffers::default());
        let kept = |buffers: &Buffers| {
            let mut all: Vec<usize> = buffers.free.lock().unwrap().iter().map(Vec::len).collect();
            all.sort_unstable();
            all
        };
        let first = buffers.take(10);
        let second = buffers.take(2000);
        assert_eq!((first.len(), second.len()), (10, 2000));
        drop((first, second));
        assert_eq!(kept(&buffers), [1024, 2048]);
        drop(buffers.take(1024));
        assert_eq!(kept(&buffers), [1024, 2048], "the one that fits best was taken");
        drop(buffers.take(5000));
        assert_eq!(kept(&buffers), [1024, 5120], "a longer one took the place of the longest");
        assert_eq!(buffers.copy(&[1.0, 2.0])[..], [1.0, 2.0]);
        assert_eq!(buffers.zeros(3)[..], [0.0; 3]);
    }

    #[test]
    fn what_no_machine_has_is_said_with_its_size() {
        let buffers = Arc::new(Buffers::default());
        let asked = std::panic::AssertUnwindSafe(|| drop(buffers.take(1 << 60)));
        let payload = std::panic::catch_unwind(asked).unwrap_err();
        let found = payload.downcast_ref::<OutOfMemory>().unwrap();
        assert_eq!(found.bytes, 1 << 62);
    }
}
