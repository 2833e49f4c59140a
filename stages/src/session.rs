//! What a process holds beyond a single step: its devices, loaded bases, and the way to the Hub.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use artifacts::Digest;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{
    device::{self, Asked, Found},
    download::HubSettings,
    error::{Error, Result},
    kernels::Kernels,
    model::Base,
    precision::Precision,
};

/// Bases that stay loaded. A sweep over two bases alternates between them.
const BASES_HELD: usize = 2;
/// Changed bases that stay beside them: of one round, and of the round after it.
const CHANGED_HELD: usize = 2;

type Slot = Arc<Mutex<Option<Arc<Base>>>>;

/// The bases that were asked for last, by what they were made from.
struct Held<K> {
    most: usize,
    slots: Mutex<Vec<(K, Slot)>>,
}

/// Shared by all steps of a process that run on one device. Nothing in it can change a result.
pub struct Session {
    hub: HubSettings,
    asked: Asked,
    device: OnceLock<Found>,
    kernels: Kernels,
    threads: usize,
    pool: OnceLock<Arc<ThreadPool>>,
    bases: Held<(Digest, Precision)>,
    changed: Held<([Digest; 2], Precision)>,
    room: Option<Room>,
}

/// Tells the bytes of memory that are free now, where that is known.
pub type Room = fn() -> Option<u64>;

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that trains on the first of the devices that are `asked` for, and downloads by `hub`. Opens neither
    /// yet.
    pub fn new(asked: impl Into<Asked>, hub: HubSettings) -> Self {
        let (bases, changed) = (Held::new(BASES_HELD), Held::new(CHANGED_HELD));
        Self {
            hub,
            asked: asked.into(),
            device: OnceLock::new(),
            kernels: Kernels::Auto,
            threads: 0,
            pool: OnceLock::new(),
            bases,
            changed,
            room: None,
        }
    }

    /// The same, with a way to know how much memory is free.
    #[must_use]
    pub fn with_room(self, room: Room) -> Self {
        Self { room: Some(room), ..self }
    }

    /// Looks whether `what` finds its `bytes` in the memory as it is now. What a GPU has is not known, and nothing is
    /// refused there.
    ///
    /// # Errors
    /// It does not, with `mend` for a hint.
    pub fn require(&self, bytes: u64, what: &str, mend: &str) -> Result<()> {
        let Some(free) = self.room.and_then(|room| room()) else { return Ok(()) };
        if bytes <= free || !self.device()?.is_cpu() {
            return Ok(());
        }
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (wanted, free) = (gib(bytes), gib(free));
        let message =
            format!("{what} takes about {wanted:.2} GiB of memory, and {free:.2} GiB are free");
        Err(Error::failed(message).with_hint(mend))
    }

    /// The same session with these kernels. Where they are fedpipe's own, `threads` threads share the work of all steps;
    /// 0 is one for each core.
    #[must_use]
    pub fn with_kernels(self, kernels: Kernels, threads: usize) -> Self {
        Self { kernels, threads, ..self }
    }

    /// A session for each device that is asked for, in that order. Each holds its own bases, so that what one device
    /// computes with never lies on another.
    ///
    /// # Errors
    /// This build or this machine has no such device.
    pub fn by_device(&self) -> Result<Vec<Self>> {
        let seat = |found: Found| {
            let seat = Self::new(self.asked.clone(), self.hub.clone());
            let seat = seat.with_kernels(self.kernels, self.threads);
            seat.device.get_or_init(|| found);
            Self { room: self.room, ..seat }
        };
        Ok(device::choose_all(&self.asked)?.into_iter().map(seat).collect())
    }

    /// How to reach the Hub.
    pub fn hub(&self) -> &HubSettings {
        &self.hub
    }

    /// The device that trains, opened at the first call.
    ///
    /// # Errors
    /// This build or this machine has no such device.
    pub fn device(&self) -> Result<&Found> {
        if let Some(found) = self.device.get() {
            return Ok(found);
        }
        let found = device::choose_all(&self.asked)?.swap_remove(0);
        Ok(self.device.get_or_init(|| found))
    }

    /// A base that was just loaded, with the kernels that this session computes by.
    ///
    /// # Errors
    /// The device cannot be opened, or the system starts no threads.
    pub(crate) fn prepared(&self, base: Base) -> Result<Base> {
        if self.kernels == Kernels::Stock || !self.device()?.is_cpu() {
            return Ok(base);
        }
        if let Some(pool) = self.pool.get() {
            return Ok(base.fused(Arc::clone(pool)));
        }
        let pool = ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .thread_name(|at| format!("kernels-{at}"))
            .build()
            .map_err(|error| Error::failed(format!("the system starts no threads: {error}")))?;
        Ok(base.fused(Arc::clone(self.pool.get_or_init(|| Arc::new(pool)))))
    }

    /// Runs `work` with one thread for all its tensor operations, so that no sum depends on how many
    /// threads there are.
    ///
    /// # Panics
    /// When the system cannot start a thread.
    pub fn on_one_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        thread_local! {
            static POOL: rayon::ThreadPool = rayon::ThreadPoolBuilder::new()
                .num_threads(1)
                .build()
                .expect("the system starts a thread");
        }
        POOL.with(|pool| pool.install(work))
    }

    /// The base with this digest in this precision, unless it is not held or `lacks` something: then what `load` makes of the one
    /// that is held. Steps that ask for the same base at once wait for one load.
    pub fn base(
        &self,
        digest: Digest,
        precision: Precision,
        lacks: impl FnOnce(&Base) -> bool,
        load: impl FnOnce(Option<Arc<Base>>) -> Result<Arc<Base>>,
    ) -> Result<Arc<Base>> {
        self.bases.get((digest, precision), lacks, load)
    }

    /// The base with the digest `of[0]` after the delta with the digest `of[1]` was added to it; all else is as with
    /// [`Session::base`]. Both can be held at once, and no changed base ever takes the place of a base as it was.
    pub fn changed_base(
        &self,
        of: [Digest; 2],
        precision: Precision,
        lacks: impl FnOnce(&Base) -> bool,
        make: impl FnOnce() -> Result<Arc<Base>>,
    ) -> Result<Arc<Base>> {
        self.changed.get((of, precision), lacks, |_| make())
    }
}

impl<K: PartialEq> Held<K> {
    fn new(most: usize) -> Self {
        Self { most, slots: Mutex::default() }
    }

    fn get(
        &self,
        key: K,
        lacks: impl FnOnce(&Base) -> bool,
        load: impl FnOnce(Option<Arc<Base>>) -> Result<Arc<Base>>,
    ) -> Result<Arc<Base>> {
        let slot = self.slot(key);
        let mut held = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = &*held
            && !lacks(base)
        {
            return Ok(Arc::clone(base));
        }
        let base = load(held.clone())?;
        *held = Some(Arc::clone(&base));
        Ok(base)
    }

    fn slot(&self, key: K) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = slots.iter().position(|(of, _)| *of == key) {
            let used = slots.remove(at);
            slots.push(used);
        } else {
            if slots.len() == self.most {
                slots.remove(0);
            }
            slots.push((key, Slot::default()));
        }
        Arc::clone(&slots[slots.len() - 1].1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::device::DeviceChoice;
    use crate::model::tiny;
    use crate::peft::Delta;

    fn hub() -> HubSettings {
        let cache = std::path::PathBuf::new();
        HubSettings { cache, token: None, endpoint: String::new(), offline: true }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_mend() {
        let session = Session::new(DeviceChoice::Cpu, hub());
        session.require(u64::MAX, "this", "that").unwrap();
        let session = session.with_room(|| Some(1 << 30));
        session.require(1 << 30, "this", "that").unwrap();
        let error = session.require(3 << 29, "this training", "set a smaller `batch`").unwrap_err();
        let text = "this training takes about 1.50 GiB of memory, and 1.00 GiB are free";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.hint(), Some("set a smaller `batch`"));
        assert!(matches!(error, Error::Failed { .. }), "the run ends with exit code 1");
    }

    #[test]
    fn changed_bases_are_made_once_and_the_base_stays() {
        let session = Session::new(DeviceChoice::Cpu, hub());
        let digest = |name: &str| Digest::of(name.as_bytes());
        let (loads, makes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let base = || {
            session.base(
                digest("base"),
                Precision::F32,
                |_| false,
                |_| {
                    loads.fetch_add(1, Ordering::Relaxed);
                    Ok(Arc::new(tiny::base()))
                },
            )
        };
        let changed = |name: &str| {
            let make = || {
                makes.fetch_add(1, Ordering::Relaxed);
                Ok(Arc::new(base()?.with_delta(&Delta::new())?))
            };
            let of = [digest("base"), digest(name)];
            session.changed_base(of, Precision::F32, |_| false, make).unwrap()
        };
        // All clients of a round ask at once.
        let first: Vec<Arc<Base>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| changed("one"))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(first.iter().all(|base| Arc::ptr_eq(base, &first[0])));
        assert_eq!(makes.load(Ordering::Relaxed), 1);
        changed("two");
        assert!(Arc::ptr_eq(&changed("one"), &first[0]), "two are held");
        changed("three");
        assert!(Arc::ptr_eq(&changed("one"), &first[0]), "the one that was used longest ago goes");
        changed("two");
        assert_eq!((loads.load(Ordering::Relaxed), makes.load(Ordering::Relaxed)), (1, 4));
    }
}
