//! Models and data sets: from the Hub, or from files beside the graph.

pub mod cache;
mod client;
mod content;
pub mod dataset;
pub mod hub;
pub mod model;
mod names;
mod refusal;
mod transfer;

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

impl Kind {
    /// What the Hub's API and its cache call a collection of these.
    fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    /// What stands before the repository in the address of a page.
    fn page(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }
}

/// Told how far the download of one file is: its name, the bytes here, and the bytes in all.
///
/// Returning `Break` stops the download, which then ends as [`Error::Stopped`](crate::Error::Stopped).
pub type Progress<'a> = dyn FnMut(&str, u64, u64) -> ControlFlow<()> + 'a;

/// The name and the place of one file of a model or a data set.
pub type NamedFile = (String, std::path::PathBuf);
