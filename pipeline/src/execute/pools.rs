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
    /// Steps on the training device: one on a GPU, one a core on the CPU.
    pub device: usize,
}

impl Sizes {
    /// Every pool with its size.
    pub fn all(self) -> [(Needs, usize); 3] {
        [(Needs::Net, self.net), (Needs::Cpu, self.cpu), (Needs::Device, self.device)]
    }
}

/// A queue that workers wait on. Closed, it gives out nothing more.
pub struct Queue<T> {
    state: Mutex<(VecDeque<T>, bool)>,
    changed: Condvar,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { state: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() }
    }
}

impl<T> Queue<T> {
    /// Puts one at the end.
    pub fn push(&self, item: T) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.push_back(item);
        self.changed.notify_one();
    }

    /// Takes out everything that nobody has begun.
    pub fn drain(&self) -> Vec<T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.drain(..).collect()
    }

    /// Sends the workers home once the queue is empty.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// The next one, or `None` when the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(item) = state.0.pop_front() {
                return Some(item);
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

    #[test]
    fn a_closed_queue_gives_out_what_it_holds_and_then_ends() {
        let queue = Queue::default();
        queue.push(1);
        queue.push(2);
        queue.close();
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.drain(), [2]);
        assert_eq!(queue.pop(), None);
    }
}
