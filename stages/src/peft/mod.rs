//! Adapters as PEFT knows them: names, layout, first values and files.

mod card;
mod delta;
mod export;
mod folder;
mod init;
mod merge;
mod tensors;

pub use card::{Card, Figures};
pub use delta::{Change, Delta, Matrix};
pub use export::{BaseName, write_adapter};
pub use folder::{CONFIG_FILE, TENSORS_FILE, read_settings, tensors_path};
pub use init::init_adapter;
pub use merge::write_merged;
pub use tensors::{AdapterError, AdapterTensors};

/// The classifier's name, `[classes, hidden]`.
pub const SCORE: &str = "base_model.model.score.weight";

/// The names of the factors A and B of the module at `path` in the base.
pub fn factor_names(path: &str) -> [String; 2] {
    ["A", "B"].map(|half| format!("base_model.model.{path}.lora_{half}.weight"))
}
