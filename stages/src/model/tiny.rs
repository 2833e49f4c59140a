//! The tiny model of the tests and what was recorded of it.

use std::path::PathBuf;

use burn::tensor::Device;

use super::{Base, Checkpoint, Config, NamedFile, SINGLE_FILE};

/// Where a file of the tiny model lies.
pub(crate) fn path(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/llama-tiny-mha");
    PathBuf::from(folder).join(name)
}

/// The content of a file of the tiny model.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn config() -> Config {
    Config::parse(&bytes("config.json")).unwrap()
}

pub(crate) fn base() -> Base {
    let bytes = bytes(SINGLE_FILE);
    let checkpoint = Checkpoint::open(&[NamedFile { name: SINGLE_FILE, bytes: &bytes }]).unwrap();
    Base::load(config(), &checkpoint, &Device::flex()).unwrap()
}
