//! What a rule may look at.

use crate::corpus::UNLABELLED;
use crate::rows::Cell;
use crate::{Error, Result};

/// The examples that are shared out.
#[derive(Clone, Copy, Debug)]
pub struct Examples<'a> {
    /// The class of each, or [`UNLABELLED`].
    pub labels: &'a [i32],
    /// The name of each class.
    pub names: &'a [String],
    /// Their rows in the corpus, for a rule that reads a column.
    pub table: Option<Table<'a>>,
}

/// Rows of a corpus, one an example, in the same order.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The names of the columns.
    pub columns: &'a [String],
    /// One cell a column.
    pub cells: &'a [Vec<Cell>],
}

impl<'a> Examples<'a> {
    /// Examples of which nothing but the classes is known.
    pub fn labelled(labels: &'a [i32]) -> Self {
        Self { labels, names: &[], table: None }
    }

    /// Refuses examples without classes.
    pub(super) fn require_labels(&self) -> Result<()> {
        if self.labels.contains(&UNLABELLED) {
            return Err(Error::input("a split without labels cannot be shared out by label")
                .with_hint("use Iid, or a split that has labels"));
        }
        Ok(())
    }
}
