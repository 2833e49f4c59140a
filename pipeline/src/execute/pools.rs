//! Named pools of workers: they bound how many steps run at once, by what the steps need.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
};

use stages::stage::Needs;

/// How many steps may run at once, by what they need.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Downloads.
    pub net: usize,
    /// Steps on a processor core.
    pub cpu: usize,
    /// Steps on the training devices: one on each GPU, one a core on the CPU. Those of a cohort count as one.
    pub device: usize,
}

impl Sizes {
    /// Every pool with its size.
    pub fn all(self) -> [(Needs, usize); 3] {
        [Needs::Net, Needs::Cpu, Needs::Device].map(|needs| (needs, self.of(needs)))
    }

    /// The size of one pool.
    pub fn of(self, needs: Needs) -> usize {
        match needs {
            Needs::Net => self.net,
            Needs::Cpu => self.cpu,
            Needs::Device => self.device,
        }
    }
}

/// A queue that workers wait on. Closed, it gives out nothing more.
pub(super) struct Queue<T> {
    state: Mutex<(VecDeque<T>, bool)>,
    changed: Condvar,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { state: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Puts all of them at the end, so that no worker sees some of them without the others.
    pub(super) fn push(&self, items: impl IntoIterator<Item = T>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.extend(items);
        self.changed.notify_all();
    }

    /// Takes out everything that nobody has begun.
    pub(super) fn drain(&self) -> Vec<T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.drain(..).collect()
    }

    /// Sends the workers home once the queue is empty.
    pub(super) fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// The next one with those that `goes_with` it, at most `most` in all and no more than one worker's share of
    /// them among `workers`; nothing when the queue is closed and empty.
    pub(super) fn pop(
        &self,
        most: usize,
        workers: usize,
        goes_with: impl Fn(&T, &T) -> bool,
    ) -> Option<Vec<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(first) = state.0.pop_front() {
                let fitting = state.0.iter().filter(|item| goes_with(&first, item)).count();
                let share = (fitting + 1).div_ceil(workers.max(1)).min(most.max(1));
                let mut taken = vec![first];
                let mut at = 0;
                while taken.len() < share && at < state.0.len() {
                    if goes_with(&taken[0], &state.0[at]) {
                        taken.extend(state.0.remove(at));
                    } else {
                        at += 1;
                    }
                }
                return Some(taken);
            }
            if state.1 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;

    fn one(queue: &Queue<u32>) -> Option<Vec<u32>> {
        queue.pop(1, 1, |_, _| false)
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_holds_and_then_ends() {
        let queue = Queue::default();
        queue.push([1, 2]);
        queue.close();
        assert_eq!(one(&queue), Some(vec![1]));
        assert_eq!(queue.drain(), [2]);
        assert_eq!(one(&queue), None);
    }

    #[test]
    fn what_goes_together_is_taken_together_and_shared_among_workers() {
        let queue = Queue::default();
        let even = |a: &u32, b: &u32| a.is_multiple_of(2) && b.is_multiple_of(2);
        queue.push([2, 3, 4, 5, 6, 8]);
        assert_eq!(queue.pop(3, 1, even), Some(vec![2, 4, 6]));
        assert_eq!(queue.pop(3, 1, even), Some(vec![3]));
        queue.push([10, 12]);
        assert_eq!(queue.drain(), [5, 8, 10, 12]);
        queue.push([2, 4, 6, 8, 10]);
        assert_eq!(queue.pop(32, 2, even), Some(vec![2, 4, 6]), "two workers share five");
        assert_eq!(queue.pop(32, 2, even), Some(vec![8]));
    }
}
