//! Tables of typed cells, read from the usual files of data sets.
//!
//! [`read`] takes parquet, JSON lines, CSV and TSV, and gives the same [`Rows`] for the same content
//! whatever the format.

mod cell;
mod delimited;
pub(crate) mod json;
pub(crate) mod parquet;

use std::fs;
use std::path::Path;

pub use cell::Cell;
pub use json::to_json_lines;

use crate::{Error, Result};

/// A table: named columns, and rows of as many cells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Names of the columns, in the order of the file.
    pub columns: Vec<String>,
    /// The rows, in the order of the file; each has one cell a column.
    pub cells: Vec<Vec<Cell>>,
    /// Columns that were left out because they hold lists or records.
    pub nested: Vec<String>,
    /// Class names by column, where the file itself carries them (parquet from the Hub does).
    pub class_names: Vec<(String, Vec<String>)>,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Where the column of this name is.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }
}

/// A kind of file that rows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Apache Parquet.
    Parquet,
    /// One JSON object a line, or one array of objects.
    JsonLines,
    /// Comma-separated, quoted as in RFC 4180, with a header.
    Csv,
    /// Tab-separated, never quoted, with a header.
    Tsv,
}

impl Format {
    /// The format that a file name's extension tells.
    pub fn of(name: impl AsRef<Path>) -> Option<Self> {
        let extension = name.as_ref().extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "parquet" => Some(Self::Parquet),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            _ => None,
        }
    }
}

/// Reads all rows of a file, whose format its extension tells.
///
/// A file without rows gives no rows; a file of no bytes at all is an error, as is every kind of
/// damage, and names the file and, where there is one, the line.
pub fn read(path: &Path) -> Result<Rows> {
    let format = Format::of(path).ok_or_else(|| {
        Error::input(format!("cannot tell the format of `{}`", path.display()))
            .with_hint("data are read from .parquet, .jsonl, .json, .csv and .tsv files")
    })?;
    let size = fs::metadata(path)
        .map_err(|source| missing(path, source))?
        .len();
    if size == 0 {
        return Err(Error::input(format!("`{}` is empty", path.display())));
    }
    match format {
        Format::Parquet => parquet::read(path),
        Format::JsonLines => json::read(path),
        Format::Csv => delimited::read(path, delimited::Dialect::Csv),
        Format::Tsv => delimited::read(path, delimited::Dialect::Tsv),
    }
}

/// The error for a file that cannot be opened; a file that is not there is the user's to mend.
pub(crate) fn missing(path: &Path, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::NotFound {
        Error::input(format!("there is no file `{}`", path.display()))
    } else {
        Error::io("read", path, source)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Writes `bytes` to a file of this name in `folder`.
    pub(crate) fn file(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn every_format_gives_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let csv = file(
            folder,
            "a.csv",
            "idx,text,label\n0,\"a \"\"b\"\", c\",1\n1,d,0\n",
        );
        let tsv = file(
            folder,
            "a.tsv",
            "idx\ttext\tlabel\r\n0\ta \"b\", c\t1\r\n1\td\t0\r\n",
        );
        let lines = "{\"idx\":0,\"text\":\"a \\\"b\\\", c\",\"label\":1}\n\n{\"idx\":1,\"text\":\"d\",\"label\":0}";
        let jsonl = file(folder, "a.jsonl", lines);
        let array = format!(" [{}]", lines.replace("\n\n", ","));
        let json = file(folder, "a.json", array);
        let rows = read(&csv).unwrap();
        assert_eq!(rows.columns, ["idx", "text", "label"]);
        assert_eq!(rows.cells[0][1], Cell::Str("a \"b\", c".into()));
        assert_eq!(rows.cells[1][2], Cell::Int(0));
        for other in [tsv, jsonl, json] {
            assert_eq!(read(&other).unwrap(), rows, "{}", other.display());
        }
    }

    #[test]
    fn what_cannot_be_read_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for (name, bytes, says) in [
            ("empty.jsonl", &b""[..], "is empty"),
            ("a.txt", b"hi", "cannot tell the format"),
            ("ragged.csv", b"a,b\n1,2\n3\n", "line 3: 1 value where"),
            ("bytes.tsv", b"a\tb\nx\xff\t1\n", "line 2: not UTF-8"),
            (
                "broken.jsonl",
                b"{\"a\":1}\n{\"a\":\n",
                "line 2: broken JSON",
            ),
            ("list.jsonl", b"[1]\n", "line 1: not a JSON object"),
            ("bytes.jsonl", b"{\"a\":\"\xff\"}\n", "line 1: not UTF-8"),
            ("cut.parquet", b"PAR1\0\0\0\0", "no whole parquet file"),
            ("twice.csv", b"a,a\n1,2\n", "two columns `a`"),
        ] {
            let path = file(folder, name, bytes);
            let error = read(&path).unwrap_err();
            assert!(matches!(error, Error::Input { .. }));
            let message = error.to_string();
            assert!(message.contains(says), "{message}");
            assert!(message.contains(name), "{message}");
        }
        let error = read(&folder.join("gone.csv")).unwrap_err().to_string();
        assert!(error.contains("there is no file"), "{error}");
    }
}
