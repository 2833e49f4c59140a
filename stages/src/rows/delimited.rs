//! CSV and TSV.
//!
//! Cells have no type there, so each column gets the narrowest type that all its values fit:
//! whole numbers, then numbers, then text. `007` is text, or its zeros would be lost.

use std::path::Path;

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::{Cell, Rows};
use crate::{Error, Result};

/// How values are kept apart.
#[derive(Clone, Copy)]
pub(super) enum Dialect {
    /// Commas, with double quotes around what holds one.
    Csv,
    /// Tabs. A quotation mark stands for itself: sentences begin with one often enough.
    Tsv,
}

pub(super) fn read(path: &Path, dialect: Dialect) -> Result<Rows> {
    let mut builder = ReaderBuilder::new();
    if let Dialect::Tsv = dialect {
        builder.delimiter(b'\t').quoting(false);
    }
    let mut reader = builder
        .from_path(path)
        .map_err(|error| failure(path, error))?;
    let header = reader.headers().map_err(|error| failure(path, error))?;
    let columns: Vec<String> = header.iter().map(str::to_owned).collect();
    check_header(path, &columns)?;
    let records = reader
        .records()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failure(path, error))?;
    let kinds: Vec<Kind> = (0..columns.len())
        .map(|column| kind(&records, column))
        .collect();
    let cells = records
        .iter()
        .map(|record| record.iter().zip(&kinds).map(|(v, k)| k.cell(v)).collect())
        .collect();
    Ok(Rows {
        columns,
        cells,
        ..Rows::default()
    })
}

fn check_header(path: &Path, columns: &[String]) -> Result<()> {
    for (i, name) in columns.iter().enumerate() {
        if columns[..i].contains(name) {
            return Err(Error::input(format!(
                "`{}` has two columns `{name}`",
                path.display()
            )));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Int,
    Float,
    Str,
}

impl Kind {
    fn cell(self, value: &str) -> Cell {
        match self {
            Self::Str => Cell::Str(value.to_owned()),
            Self::Int => int(value).map_or(Cell::Null, Cell::Int),
            Self::Float => float(value).map_or(Cell::Null, Cell::Float),
        }
    }
}

// An empty value is a null in a column of numbers, and empty text in a column of text.
fn kind(records: &[StringRecord], column: usize) -> Kind {
    let values = || {
        records
            .iter()
            .filter_map(|record| record.get(column))
            .filter(|value| !value.is_empty())
    };
    if values().next().is_none() {
        Kind::Str
    } else if values().all(|value| int(value).is_some()) {
        Kind::Int
    } else if values().all(|value| float(value).is_some()) {
        Kind::Float
    } else {
        Kind::Str
    }
}

fn int(value: &str) -> Option<i64> {
    let number: i64 = value.parse().ok()?;
    (number.to_string() == value).then_some(number)
}

fn float(value: &str) -> Option<f64> {
    // Neither `nan` nor `007` nor a number of twenty digits is one that a float could give back.
    let digits = value.trim_start_matches('-');
    let is_plain = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let is_padded =
        digits.starts_with('0') && digits[1..].starts_with(|c: char| c.is_ascii_digit());
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_plain || is_padded || (is_whole && int(value).is_none()) {
        return None;
    }
    value.parse().ok().filter(|number: &f64| number.is_finite())
}

fn failure(path: &Path, error: csv::Error) -> Error {
    let shown = path.display();
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        ErrorKind::Io(source) => super::missing(path, source),
        ErrorKind::Utf8 { .. } => Error::input(format!("`{shown}`, line {line}: not UTF-8 text"))
            .with_hint("save the file as UTF-8"),
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            let values = if len == 1 { "value" } else { "values" };
            Error::input(format!(
                "`{shown}`, line {line}: {len} {values} where the header has {expected_len}"
            ))
        }
        other => Error::input(format!("`{shown}`: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;

    #[test]
    fn a_column_has_one_type() {
        let folder = tempfile::tempdir().unwrap();
        let text = "\u{feff}zip,share,n,note,void\n007,0.5,1,12,\n010,,2,x,\n";
        let rows = read(&file(folder.path(), "a.csv", text), Dialect::Csv).unwrap();
        assert_eq!(
            rows.columns[0], "zip",
            "the byte order mark is no part of a name"
        );
        let str = |text: &str| Cell::Str(text.into());
        assert_eq!(
            rows.cells,
            [
                [
                    str("007"),
                    Cell::Float(0.5),
                    Cell::Int(1),
                    str("12"),
                    str("")
                ],
                [str("010"), Cell::Null, Cell::Int(2), str("x"), str("")],
            ]
        );
    }

    #[test]
    fn a_quotation_mark_in_tsv_stands_for_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(
            folder.path(),
            "a.tsv",
            "text\tlabel\n\"one\t1\n\"two\"\t0\n",
        );
        let rows = read(&path, Dialect::Tsv).unwrap();
        assert_eq!(rows.cells[0][0], Cell::Str("\"one".into()));
        assert_eq!(rows.cells[1][0], Cell::Str("\"two\"".into()));
    }
}
