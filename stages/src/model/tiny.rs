//! The tiny models of the tests and what was recorded of them.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Base, Checkpoint, Config, INDEX_FILE, NamedFile};
use crate::precision::Precision;

/// A folder of the tests' data with a model in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiny(pub(crate) &'static str);

pub(crate) const LLAMA: Tiny = Tiny("llama-tiny-mha");
pub(crate) const BLOOM: Tiny = Tiny("bloom-tiny");

impl Tiny {
    /// Where a file lies.
    pub(crate) fn path(self, name: &str) -> PathBuf {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data");
        PathBuf::from(folder).join(self.0).join(name)
    }

    /// The content of a file.
    pub(crate) fn bytes(self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn config(self) -> Config {
        Config::parse(&self.bytes("config.json")).unwrap()
    }

    /// The files of the checkpoint, by name.
    pub(crate) fn weights(self) -> Vec<(String, Vec<u8>)> {
        std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("model") || name == INDEX_FILE)
            .map(|name| (name.clone(), self.bytes(&name)))
            .collect()
    }

    /// The base on the CPU, with its causal head where the checkpoint has one.
    pub(crate) fn base(self) -> Base {
        self.base_in(Precision::F32)
    }

    /// The base by Burn's operations, and by the CPU's own kernels.
    pub(crate) fn by_each_kernel(self) -> [Base; 2] {
        [self.base(), self.base().fused(threads(2))]
    }

    /// The same, with linear modules that multiply in `precision`.
    pub(crate) fn base_in(self, precision: Precision) -> Base {
        self.base_on(&Device::flex(), precision)
    }

    /// The same on `device`.
    pub(crate) fn base_on(self, device: &Device, precision: Precision) -> Base {
        let files = self.weights();
        let files: Vec<NamedFile<'_>> =
            files.iter().map(|(name, bytes)| NamedFile { name, bytes }).collect();
        let open = || Checkpoint::open(&files).unwrap();
        let base = Base::load_in(self.config(), open(), precision, device).unwrap();
        if !base.has_causal_head() && !base.config().is_classifier() {
            base.load_causal_head(&open()).unwrap();
        }
        base
    }
}

/// A pool for the CPU's own kernels.
pub(crate) fn threads(count: usize) -> Arc<ThreadPool> {
    Arc::new(ThreadPoolBuilder::new().num_threads(count).build().unwrap())
}

pub(crate) fn bytes(name: &str) -> Vec<u8> {
    LLAMA.bytes(name)
}

pub(crate) fn config() -> Config {
    LLAMA.config()
}

pub(crate) fn base() -> Base {
    LLAMA.base()
}
