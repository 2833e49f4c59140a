//! Models and data sets: from the Hub, or from files beside the graph.

pub mod cache;
pub mod dataset;
pub mod hub;
pub mod model;
mod refusal;
#[cfg(test)]
mod server;

pub use dataset::{Located, Source};
pub use hub::{Hub, HubSettings};

use std::ops::ControlFlow;

/// What a repository on the Hub holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

/// Told how far the download of one file is: its name, the bytes here, and the bytes in all.
///
/// Returning `Break` stops the download, which then ends as [`Error::Stopped`](crate::Error::Stopped).
pub type Progress<'a> = dyn FnMut(&str, u64, u64) -> ControlFlow<()> + 'a;

/// The name and the place of one file of a model or a data set.
pub type NamedFile = (String, std::path::PathBuf);
