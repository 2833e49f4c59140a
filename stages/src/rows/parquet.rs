//! Parquet: its flat columns, read one at a time.

use std::fs::File;
use std::path::Path;

use ::parquet::basic::{ConvertedType, LogicalType};
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType, FixedLenByteArray};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use super::{Cell, Rows};
use crate::{Error, Result};

/// Reads all row groups. Lists and records are left out, and named in [`Rows::nested`].
pub(super) fn read(path: &Path) -> Result<Rows> {
    let file = File::open(path).map_err(|source| super::missing(path, source))?;
    // The decoder may panic on bytes that are damaged in a way it did not foresee.
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| decode(file)));
    let decoded = outcome.unwrap_or_else(|_| Err(ParquetError::General("damaged data".to_owned())));
    decoded.map_err(|error| {
        let reason = match error {
            ParquetError::General(text) | ParquetError::EOF(text) => text,
            other => other.to_string(),
        };
        Error::input(format!(
            "`{}` is no whole parquet file: {reason}",
            path.display()
        ))
        .with_hint("get the file again: it may have been cut short")
    })
}

fn decode(file: File) -> ParquetResult<Rows> {
    let reader = SerializedFileReader::new(file)?;
    let meta = reader.metadata().file_metadata();
    let schema = meta.schema_descr();
    let mut rows = Rows::default();
    let mut flat = Vec::new();
    for (i, column) in schema.columns().iter().enumerate() {
        let top = column.path().parts().first().cloned().unwrap_or_default();
        if column.path().parts().len() == 1 && column.max_rep_level() == 0 {
            rows.columns.push(top);
            flat.push(i);
        } else if !rows.nested.contains(&top) {
            rows.nested.push(top);
        }
    }
    if let Some(entries) = meta.key_value_metadata() {
        let about = entries.iter().find(|entry| entry.key == "huggingface");
        rows.class_names = about
            .and_then(|entry| entry.value.as_deref())
            .map(class_names)
            .unwrap_or_default();
    }
    for group in 0..reader.num_row_groups() {
        append(&mut rows, &flat, &*reader.get_row_group(group)?)?;
    }
    Ok(rows)
}

fn append(rows: &mut Rows, flat: &[usize], group: &dyn RowGroupReader) -> ParquetResult<()> {
    let count = usize::try_from(group.metadata().num_rows())
        .map_err(|_| ParquetError::General("a row group of less than no rows".to_owned()))?;
    let first = rows.cells.len();
    // Not reserved at once: a damaged count must not ask for all the memory there is.
    for &column in flat {
        let descriptor = group.metadata().schema_descr().column(column);
        let cells = column_cells(group.get_column_reader(column)?, &descriptor, count)?;
        if cells.len() != count {
            return Err(ParquetError::General(format!(
                "column `{}` has {} of {count} values",
                descriptor.name(),
                cells.len()
            )));
        }
        if rows.cells.len() == first {
            rows.cells
                .resize_with(first + count, || Vec::with_capacity(flat.len()));
        }
        for (row, cell) in rows.cells[first..].iter_mut().zip(cells) {
            row.push(cell);
        }
    }
    Ok(())
}

fn column_cells(
    reader: ColumnReader,
    column: &ColumnDescriptor,
    count: usize,
) -> ParquetResult<Vec<Cell>> {
    match reader {
        ColumnReader::BoolColumnReader(r) => cells(r, column, count, |v| Ok(Cell::Bool(v))),
        ColumnReader::Int32ColumnReader(r) => {
            cells(r, column, count, |v| Ok(Cell::Int(i64::from(v))))
        }
        ColumnReader::Int64ColumnReader(r) => cells(r, column, count, |v| Ok(Cell::Int(v))),
        ColumnReader::FloatColumnReader(r) => cells(r, column, count, |v| Ok(float(f64::from(v)))),
        ColumnReader::DoubleColumnReader(r) => cells(r, column, count, |v| Ok(float(v))),
        ColumnReader::ByteArrayColumnReader(r) => cells(r, column, count, |v| text(&v, column)),
        ColumnReader::FixedLenByteArrayColumnReader(r) => {
            cells(r, column, count, |v: FixedLenByteArray| text(&v, column))
        }
        // An old form of time stamp, which no later stage reads.
        ColumnReader::Int96ColumnReader(r) => cells(r, column, count, |_| Ok(Cell::Null)),
    }
}

fn cells<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    column: &ColumnDescriptor,
    count: usize,
    cell: impl Fn(T::T) -> ParquetResult<Cell>,
) -> ParquetResult<Vec<Cell>> {
    let mut values = Vec::new();
    let mut levels = Vec::new();
    let (read, ..) = reader.read_records(count, Some(&mut levels), None, &mut values)?;
    if column.max_def_level() == 0 {
        return values.into_iter().map(cell).collect();
    }
    let mut values = values.into_iter();
    levels
        .into_iter()
        .take(read)
        .map(|level| {
            if level < column.max_def_level() {
                return Ok(Cell::Null);
            }
            values.next().map_or(Ok(Cell::Null), &cell)
        })
        .collect()
}

fn float(value: f64) -> Cell {
    if value.is_finite() {
        Cell::Float(value)
    } else {
        Cell::Null
    }
}

fn text(bytes: &ByteArray, column: &ColumnDescriptor) -> ParquetResult<Cell> {
    let is_text = matches!(column.logical_type_ref(), Some(LogicalType::String))
        || matches!(column.converted_type(), ConvertedType::UTF8);
    match std::str::from_utf8(bytes.data()) {
        Ok(text) => Ok(Cell::Str(text.to_owned())),
        // Bytes that never were text (a picture, say) are nothing a later stage reads.
        Err(_) if !is_text => Ok(Cell::Null),
        Err(_) => Err(ParquetError::General(format!(
            "column `{}` holds text that is not UTF-8",
            column.name()
        ))),
    }
}

// The Hub's `datasets` writes its features into the file: {"info": {"features": {COLUMN: {"names": [..]}}}}.
fn class_names(about: &str) -> Vec<(String, Vec<String>)> {
    let Ok(about) = serde_json::from_str::<Value>(about) else {
        return Vec::new();
    };
    let Some(Value::Object(features)) = about.pointer("/info/features") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (column, feature) in features {
        let Some(Value::Array(names)) = feature.get("names") else {
            continue;
        };
        let names: Option<Vec<String>> = names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect();
        found.extend(names.map(|names| (column.clone(), names)));
    }
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ::parquet::data_type::{ByteArrayType, Int64Type};
    use ::parquet::file::metadata::KeyValue;
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use std::fs;
    use std::path::PathBuf;
    use std::sync::Arc;

    const NAMES: &str =
        r#"{"info":{"features":{"label":{"names":["bad","good"],"_type":"ClassLabel"}}}}"#;

    /// Writes `text` (required) and `label` (optional) in row groups of two.
    pub(crate) fn write(folder: &Path, name: &str, rows: &[(&str, Option<i64>)]) -> PathBuf {
        let schema = "message m { REQUIRED BYTE_ARRAY text (UTF8); OPTIONAL INT64 label;
            REQUIRED GROUP deep { REQUIRED INT64 x; } }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let about = KeyValue::new("huggingface".to_owned(), NAMES.to_owned());
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(vec![about]))
            .set_compression(::parquet::basic::Compression::SNAPPY)
            .build();
        let path = folder.join(name);
        let file = File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        for group in rows.chunks(2) {
            let mut out = writer.next_row_group().unwrap();
            let texts: Vec<ByteArray> = group.iter().map(|(text, _)| (*text).into()).collect();
            let labels: Vec<i64> = group.iter().filter_map(|(_, label)| *label).collect();
            let levels: Vec<i16> = group
                .iter()
                .map(|(_, label)| label.is_some().into())
                .collect();
            let mut column = out.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&texts, None, None).unwrap();
            column.close().unwrap();
            let mut column = out.next_column().unwrap().unwrap();
            let typed = column.typed::<Int64Type>();
            typed.write_batch(&labels, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = out.next_column().unwrap().unwrap();
            let deep = vec![0; group.len()];
            column
                .typed::<Int64Type>()
                .write_batch(&deep, None, None)
                .unwrap();
            column.close().unwrap();
            out.close().unwrap();
        }
        writer.close().unwrap();
        path
    }

    #[test]
    fn row_groups_nulls_and_class_names() {
        let folder = tempfile::tempdir().unwrap();
        let given = [("a", Some(1)), ("é", None), ("", Some(0))];
        let rows = read(&write(folder.path(), "a.parquet", &given)).unwrap();
        assert_eq!(rows.columns, ["text", "label"]);
        assert_eq!(rows.nested, ["deep"]);
        let expected: Vec<Vec<Cell>> = given
            .iter()
            .map(|(text, label)| {
                let label = label.map_or(Cell::Null, Cell::Int);
                vec![Cell::Str((*text).to_owned()), label]
            })
            .collect();
        assert_eq!(rows.cells, expected);
        let names = vec!["bad".to_owned(), "good".to_owned()];
        assert_eq!(rows.class_names, [("label".to_owned(), names)]);
    }

    #[test]
    fn a_damaged_file_is_a_sentence_wherever_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(
            folder.path(),
            "a.parquet",
            &[("abc", Some(1)), ("d", Some(0))],
        );
        let whole = fs::read(&path).unwrap();
        for cut in [whole.len() - 1, whole.len() / 2, 4] {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("no whole parquet file"), "{error}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x5a;
            fs::write(&path, &bytes).unwrap();
            // Some bytes can change and leave a readable file: it must only never panic.
            drop(read(&path));
        }
    }
}
