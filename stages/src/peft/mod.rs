//! Adapters as PEFT knows them: names, layout, first values and files.

mod card;
mod core;
mod delta;
mod export;
#[cfg(test)]
mod export_tests;
mod folded;
mod folder;
mod init;
mod merge;
mod one_lora;
mod sum;
mod tensors;

pub use card::{Card, Figures};
pub use core::{CoreError, init_core};
pub use delta::{Change, Delta, Matrix};
pub use export::{BaseName, write_adapter};
pub use folder::{CONFIG_FILE, TENSORS_FILE, read_settings, tensors_path};
pub(crate) use init::first_a;
pub use init::init_adapter;
pub use merge::write_merged;
pub use one_lora::one_lora;
pub use tensors::{AdapterError, AdapterTensors};

/// The classifier's name, `[classes, hidden]`.
pub const SCORE: &str = "base_model.model.score.weight";

/// The names of the factors A and B of the module at `path` in the base.
pub fn factor_names(path: &str) -> [String; 2] {
    ["A", "B"].map(|half| format!("base_model.model.{path}.lora_{half}.weight"))
}

/// The name of the core R, `[rank, rank]`, between the factors of the module at `path` (Fed-SB). PEFT does not know it.
pub fn core_name(path: &str) -> String {
    format!("base_model.model.{path}.lora_R.weight")
}

/// The path of the module whose factor A has this name.
pub(crate) fn path_of_a(name: &str) -> Option<&str> {
    name.strip_prefix("base_model.model.")?.strip_suffix(".lora_A.weight")
}
