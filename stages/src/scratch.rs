//! A store that lives as long as a test, with artifacts in it.

use artifacts::{BlobRef, Lease, Store};

use crate::kinds::{Adapter, AdapterConfig};
use crate::model::SINGLE_FILE;
use crate::model::tiny::Tiny;
use crate::peft::{AdapterTensors, Delta};

/// A store in a folder of its own.
pub(crate) struct Scratch {
    pub(crate) store: Store,
    pub(crate) lease: Lease,
    pub(crate) folder: tempfile::TempDir,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        Self { store, lease, folder }
    }

    /// A tree of these entries.
    pub(crate) fn tree(&self, entries: &[(&str, Vec<u8>)]) -> BlobRef {
        let mut draft = self.store.draft(&self.lease).unwrap();
        for (name, bytes) in entries {
            draft.bytes(name, bytes).unwrap();
        }
        draft.finish().unwrap().blob
    }

    pub(crate) fn base(&self, model: Tiny) -> BlobRef {
        let names = ["config.json", SINGLE_FILE];
        self.tree(&names.map(|name| (name, model.bytes(name))))
    }

    pub(crate) fn adapter(
        &self,
        config: &AdapterConfig,
        tensors: &AdapterTensors,
        delta: Option<&Delta>,
        stand_in: Option<&AdapterTensors>,
    ) -> BlobRef {
        let mut entries = vec![
            (Adapter::CONFIG, serde_json::to_vec(config).unwrap()),
            (Adapter::TENSORS, tensors.to_safetensors()),
        ];
        entries.extend(delta.map(|delta| (Adapter::DELTA, delta.to_safetensors())));
        entries.extend(stand_in.map(|tensors| (Adapter::STAND_IN, tensors.to_safetensors())));
        self.tree(&entries)
    }
}
