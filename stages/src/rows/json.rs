//! JSON lines, read and written, and arrays of objects.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use indexmap::{IndexMap, IndexSet};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::{Cell, Rows};
use crate::{Error, Result};

type Object = IndexMap<String, Value>;

pub(super) fn read(path: &Path) -> Result<Rows> {
    let bytes = fs::read(path).map_err(|source| super::missing(path, source))?;
    let name = path.display().to_string();
    parse(&name, &bytes)
}

/// Reads JSON lines, or one array of objects; `name` stands for them in errors.
///
/// Columns are in the order in which they first appear. An object without one of them has a null
/// there.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Rows> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        Error::input(format!("`{name}`, line {line}: not UTF-8 text"))
            .with_hint("save the file as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let objects = match serde_json::from_str::<Vec<Object>>(text) {
        Ok(objects) => objects,
        // Anything but one array of objects is read line by line, which also places the error.
        Err(_) => lines(name, text)?,
    };
    Ok(table(objects))
}

fn lines(name: &str, text: &str) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let object = serde_json::from_str(line).map_err(|error| {
            let line = i + 1;
            if error.is_data() {
                Error::input(format!("`{name}`, line {line}: not a JSON object"))
                    .with_hint("each line is one object, such as {\"text\": \"…\", \"label\": 1}")
            } else {
                Error::input(format!("`{name}`, line {line}: broken JSON: {error}"))
            }
        })?;
        objects.push(object);
    }
    Ok(objects)
}

fn table(objects: Vec<Object>) -> Rows {
    let mut columns: IndexSet<String> = IndexSet::new();
    let mut nested: BTreeSet<String> = BTreeSet::new();
    for object in &objects {
        for (key, value) in object {
            if !columns.contains(key) {
                columns.insert(key.clone());
            }
            if (value.is_array() || value.is_object()) && !nested.contains(key) {
                nested.insert(key.clone());
            }
        }
    }
    columns.retain(|name| !nested.contains(name));
    let cells = objects
        .into_iter()
        .map(|mut object| {
            columns
                .iter()
                .map(|name| {
                    let value = object.get_mut(name).map(Value::take);
                    value.and_then(Cell::from_json).unwrap_or(Cell::Null)
                })
                .collect()
        })
        .collect();
    Rows {
        columns: columns.into_iter().collect(),
        cells,
        nested: nested.into_iter().collect(),
        class_names: Vec::new(),
    }
}

/// The rows as JSON lines: one object a row, its keys in the order of `columns`.
///
/// The same rows always give the same bytes.
pub fn to_json_lines(columns: &[String], rows: &[Vec<Cell>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        write_object(&mut bytes, columns, row).expect("text keys and plain cells always serialise");
        bytes.push(b'\n');
    }
    bytes
}

fn write_object(
    bytes: &mut Vec<u8>,
    columns: &[String],
    row: &[Cell],
) -> Result<(), serde_json::Error> {
    let mut serializer = serde_json::Serializer::new(bytes);
    let mut map = (&mut serializer).serialize_map(Some(columns.len()))?;
    for (name, cell) in columns.iter().zip(row) {
        map.serialize_entry(name, cell)?;
    }
    map.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_gaps_are_null() {
        let text =
            "{\"z\":1,\"a\":\"x\",\"deep\":1}\n{\"a\":\"\u{1F600}\\n\",\"b\":2.0,\"deep\":[1]}\n";
        let rows = parse("x", text.as_bytes()).unwrap();
        assert_eq!(rows.columns, ["z", "a", "b"]);
        assert_eq!(rows.nested, ["deep"]);
        assert_eq!(
            rows.cells[1],
            [
                Cell::Null,
                Cell::Str("\u{1F600}\n".into()),
                Cell::Float(2.0)
            ]
        );
        let written = to_json_lines(&rows.columns, &rows.cells);
        let text = String::from_utf8(written.clone()).unwrap();
        assert!(
            text.starts_with("{\"z\":1,\"a\":\"x\",\"b\":null}\n"),
            "{text}"
        );
        let back = parse("x", &written).unwrap();
        assert_eq!(back.cells, rows.cells);
    }
}
