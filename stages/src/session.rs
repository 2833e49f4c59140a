//! What a process holds beyond a single step: its device, loaded bases, and the way to the Hub.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use artifacts::Digest;

use crate::{
    device::{self, DeviceChoice, Found},
    download::HubSettings,
    error::Result,
    model::Base,
};

/// Bases that stay loaded. A sweep over two bases alternates between them.
const BASES_HELD: usize = 2;

type Slot = Arc<Mutex<Option<Arc<Base>>>>;

/// Shared by all steps of a process. Nothing in it can change a result.
pub struct Session {
    hub: HubSettings,
    choice: DeviceChoice,
    device: OnceLock<Found>,
    bases: Mutex<Vec<(Digest, Slot)>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("choice", &self.choice).finish_non_exhaustive()
    }
}

impl Session {
    /// A session that trains on `choice` and downloads by `hub`. Opens neither yet.
    pub fn new(choice: DeviceChoice, hub: HubSettings) -> Self {
        Self { hub, choice, device: OnceLock::new(), bases: Mutex::default() }
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
        let found = device::choose(self.choice)?;
        Ok(self.device.get_or_init(|| found))
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

    /// The base with this digest, unless it is not held or `lacks` something: then what `load` makes of the one
    /// that is held. Steps that ask for the same base at once wait for one load.
    pub fn base(
        &self,
        digest: Digest,
        lacks: impl FnOnce(&Base) -> bool,
        load: impl FnOnce(Option<Arc<Base>>) -> Result<Arc<Base>>,
    ) -> Result<Arc<Base>> {
        let slot = self.slot(digest);
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

    fn slot(&self, digest: Digest) -> Slot {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = bases.iter().position(|(of, _)| *of == digest) {
            let used = bases.remove(at);
            bases.push(used);
        } else {
            if bases.len() == BASES_HELD {
                bases.remove(0);
            }
            bases.push((digest, Slot::default()));
        }
        Arc::clone(&bases[bases.len() - 1].1)
    }
}
