//! A data set as later stages see it: splits of rows with one text and one class each.

mod build;
mod canonical;
pub(crate) mod columns;
mod labels;
pub mod layout;
mod sample;

use indexmap::IndexMap;

use crate::rows::Cell;

pub use canonical::rows_of;
pub use columns::Columns;

/// The class of a row that has none.
pub const UNLABELLED: i32 = -1;

/// A data set: its splits, and what its columns and classes are called.
#[derive(Clone, Debug, PartialEq)]
pub struct Corpus {
    /// The splits, in the order train, validation, test, others by name.
    pub splits: IndexMap<String, Split>,
    /// The name of each class; class `i` is `label_names[i]`. None where there is no label column.
    pub label_names: Vec<String>,
    /// The column that the texts are in, if there is one: data of prompts and completions may have others.
    pub text_column: Option<String>,
    /// The column that the classes are in, if there is one.
    pub label_column: Option<String>,
}

impl Corpus {
    /// The names of its columns, as the first split has them, for a sentence.
    pub(crate) fn columns(&self) -> Vec<String> {
        self.splits.values().next().map(|split| split.columns.clone()).unwrap_or_default()
    }
}

/// The rows of one split.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Names of the columns, in the order of the files.
    pub columns: Vec<String>,
    /// The rows. In the text column each has a [`Cell::Str`], in the label column a [`Cell::Int`].
    pub rows: Vec<Vec<Cell>>,
    text: Option<usize>,
    label: Option<usize>,
}

impl Split {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text of row `i`; empty where there is no text column.
    pub fn text(&self, i: usize) -> &str {
        match self.text.map(|text| &self.rows[i][text]) {
            Some(Cell::Str(text)) => text,
            _ => "",
        }
    }

    /// The texts, in order.
    pub fn texts(&self) -> Vec<&str> {
        (0..self.len()).map(|i| self.text(i)).collect()
    }

    /// The place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The class of row `i`, [`UNLABELLED`] where it has none.
    pub fn label(&self, i: usize) -> i32 {
        match self.label.map(|label| &self.rows[i][label]) {
            Some(Cell::Int(class)) => i32::try_from(*class).unwrap_or(UNLABELLED),
            _ => UNLABELLED,
        }
    }

    /// The classes, in order.
    pub fn labels(&self) -> Vec<i32> {
        (0..self.len()).map(|i| self.label(i)).collect()
    }

    /// Whether its rows have classes: all do, or none.
    pub fn is_labelled(&self) -> bool {
        !self.is_empty() && self.label(0) != UNLABELLED
    }
}
