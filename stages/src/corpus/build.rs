//! From files to a corpus.

use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;

use super::columns::no_column;
use super::labels::{self, Labelled};
use super::layout::LABELS;
use super::{Columns, Corpus, Split};
use crate::download::Located;
use crate::rows::{self, Cell, Rows};
use crate::{Error, Result};

impl Corpus {
    /// Reads the files of a data set, finds the text and the label column, and numbers the classes.
    ///
    /// Whole-number labels run 0, 1, 2 … without a gap; any other labels are text, and are numbered
    /// in sorted order. Names come from `labels.json`, else from the files' own metadata, and labels
    /// outside of them are refused. A split in which every label is -1, null or absent is
    /// unlabelled; in any other each row has a label. All errors name the file and row.
    pub fn read(located: &Located, columns: &Columns) -> Result<Self> {
        let mut parts: IndexMap<&str, Part> = IndexMap::new();
        for (split, paths) in &located.splits {
            parts.insert(split, Part::read(split, paths)?);
        }
        let Some(first) = parts.values().next() else {
            return Err(Error::input("the data set has no files"));
        };
        let text_column = columns.text(&first.name(), &first.rows.columns)?;
        let label_column = label_column(columns, &parts)?;
        if let Some(both) = text_column.as_ref().filter(|text| Some(*text) == label_column.as_ref())
        {
            return Err(Error::input(format!(
                "the text and the label cannot both be column `{both}`"
            )));
        }
        if let Some(text) = &text_column {
            for part in parts.values_mut() {
                part.require_text(text, columns)?;
            }
        }
        let mut classes: Vec<Option<Vec<i32>>> = vec![None; parts.len()];
        let mut label_names = Vec::new();
        if let Some(label) = &label_column {
            let names = class_names(located, &parts, label)?;
            parts.values_mut().for_each(|part| part.add_column(label));
            let labelled: Vec<Labelled<'_>> =
                parts.values().map(|part| part.labelled(label)).collect();
            let (numbers, names) = labels::number(&labelled, names)?;
            classes = numbers.into_iter().map(Some).collect();
            label_names = names;
        }
        let splits = parts.into_iter().zip(classes);
        let splits = splits.map(|((name, part), classes)| {
            let label = label_column.as_deref().zip(classes);
            (name.to_owned(), part.into_split(text_column.as_deref(), label))
        });
        Ok(Self { splits: splits.collect(), label_names, text_column, label_column })
    }
}

impl Split {
    /// A split whose text column holds text and whose label column holds classes.
    pub(super) fn new(rows: Rows, text: Option<usize>, label: Option<usize>) -> Self {
        Self { columns: rows.columns, rows: rows.cells, text, label }
    }
}

/// The rows of one split, and the file that each came from.
pub(super) struct Part {
    rows: Rows,
    /// Each file, and its first row's number among the rows of the split.
    files: Vec<(PathBuf, usize)>,
}

impl Part {
    fn read(split: &str, paths: &[PathBuf]) -> Result<Self> {
        let mut all = Rows::default();
        let mut files: Vec<(PathBuf, usize)> = Vec::new();
        for path in paths {
            let rows = rows::read(path)?;
            if let Some((first, _)) = files.first().filter(|_| rows.columns != all.columns) {
                return Err(Error::input(format!(
                    "`{}` and `{}` are both of split `{split}`, but have different columns",
                    first.display(),
                    path.display()
                )));
            }
            files.push((path.clone(), all.len()));
            if files.len() == 1 {
                all = rows;
            } else {
                all.cells.extend(rows.cells);
            }
        }
        let part = Self { rows: all, files };
        if part.rows.is_empty() {
            return Err(Error::input(format!(
                "the split `{split}` is empty: `{}` has no rows",
                part.name()
            )));
        }
        Ok(part)
    }

    /// The first file, to stand for all of them where they are alike.
    fn name(&self) -> String {
        let first = self.files.first().map(|(path, _)| path.as_path());
        first.unwrap_or(Path::new("")).display().to_string()
    }

    /// Where a row is, for a person: its file and its number there, from 1.
    fn place(&self, row: usize) -> String {
        let after = self.files.partition_point(|(_, first)| *first <= row);
        match after.checked_sub(1).map(|i| &self.files[i]) {
            Some((path, first)) => format!("`{}`, row {}", path.display(), row - first + 1),
            None => format!("row {}", row + 1),
        }
    }

    /// Makes the cells of the text column text; a row without one is refused.
    fn require_text(&mut self, column: &str, columns: &Columns) -> Result<()> {
        let Some(at) = self.rows.column(column) else {
            let named = Columns { text: Some(column.to_owned()), ..columns.clone() };
            return named.text(&self.name(), &self.rows.columns).map(drop);
        };
        for row in 0..self.rows.len() {
            let cell = &mut self.rows.cells[row][at];
            match cell {
                Cell::Str(_) => {}
                Cell::Null => {
                    let place = self.place(row);
                    return Err(Error::input(format!("{place}: no text in column `{column}`")));
                }
                _ => *cell = Cell::Str(cell.to_string()),
            }
        }
        Ok(())
    }

    fn add_column(&mut self, name: &str) {
        if self.rows.column(name).is_none() {
            self.rows.columns.push(name.to_owned());
            for row in &mut self.rows.cells {
                row.push(Cell::Null);
            }
        }
    }

    fn labelled(&self, column: &str) -> Labelled<'_> {
        let at = self.rows.column(column);
        let cells = self.rows.cells.iter();
        Labelled {
            cells: at.map_or_else(Vec::new, |at| cells.map(|row| &row[at]).collect()),
            place: Box::new(|row| self.place(row)),
        }
    }

    fn into_split(mut self, text: Option<&str>, label: Option<(&str, Vec<i32>)>) -> Split {
        let text = text.and_then(|text| self.rows.column(text));
        let Some((label, classes)) = label else {
            return Split::new(self.rows, text, None);
        };
        let label = self.rows.column(label).unwrap_or_default();
        for (row, &class) in self.rows.cells.iter_mut().zip(&classes) {
            row[label] = Cell::Int(i64::from(class));
        }
        Split::new(self.rows, text, Some(label))
    }
}

/// A label column need only be in one split: the others are unlabelled then. In none there need be one: what
/// needs classes says so.
fn label_column(columns: &Columns, parts: &IndexMap<&str, Part>) -> Result<Option<String>> {
    let mut found = Vec::with_capacity(parts.len());
    for (split, part) in parts {
        found.push((*split, columns.label(&part.name(), &part.rows.columns), part));
    }
    let Some(label) = found.iter().find_map(|(_, found, _)| found.as_ref().ok()?.clone()) else {
        return found.into_iter().find_map(|(_, found, _)| found.err()).map_or(Ok(None), Err);
    };
    // A test split is often unlabelled; a training split without labels is of no use.
    match found.into_iter().find(|(split, ..)| *split == "train") {
        Some((_, Err(fault), _)) => Err(fault),
        Some((_, Ok(None), part)) => {
            Err(no_column(&format!("`{}`", part.name()), &label, &part.rows.columns))
        }
        _ => Ok(Some(label)),
    }
}

fn class_names(
    located: &Located,
    parts: &IndexMap<&str, Part>,
    column: &str,
) -> Result<Option<Vec<String>>> {
    if let Some(path) = &located.labels {
        return read_names(path).map(Some);
    }
    let mut known = parts.values().flat_map(|part| &part.rows.class_names);
    Ok(known
        .find(|(name, names)| name == column && names.len() > 1)
        .map(|(_, names)| names.clone()))
}

fn read_names(path: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Names {
        label_names: Vec<String>,
    }
    let bytes = fs::read(path).map_err(|source| rows::missing(path, source))?;
    let names: Vec<String> = serde_json::from_slice::<Names>(&bytes)
        .map(|names| names.label_names)
        .map_err(|error| {
            Error::input(format!("`{}` names no classes: {error}", path.display()))
                .with_hint(format!("{LABELS} is such as {{\"label_names\": [\"bad\", \"good\"]}}"))
        })?;
    let is_twice = (1..names.len()).any(|i| names[..i].contains(&names[i]));
    if names.len() < 2 || is_twice {
        return Err(Error::input(format!(
            "`{}` must name at least two classes, each once",
            path.display()
        )));
    }
    Ok(names)
}
