//! A corpus as bytes that are the same for the same content, and back.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Corpus, Split};
use crate::rows::json;
use crate::rows::to_json_lines;
use crate::{Error, Result};

const INFO: &str = "info.json";

/// What `info.json` says. It names no source file: the same rows under other names are the same corpus.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    text: Option<String>,
    label: Option<String>,
    label_names: Vec<String>,
    splits: IndexMap<String, SplitInfo>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitInfo {
    rows: usize,
    /// Rows of each class; nothing for an unlabelled split.
    classes: Vec<usize>,
}

impl Corpus {
    /// The corpus as files: `<split>.jsonl` for each split, with all columns, and `info.json`.
    #[expect(clippy::missing_panics_doc, reason = "text and numbers always serialise")]
    pub fn to_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<(String, Vec<u8>)> = self
            .splits
            .iter()
            .map(|(name, split)| (rows_of(name), to_json_lines(&split.columns, &split.rows)))
            .collect();
        let mut info = serde_json::to_vec_pretty(&self.info())
            .expect("text, numbers and lists of them always serialise");
        info.push(b'\n');
        files.push((INFO.to_owned(), info));
        files
    }

    /// The corpus of files that [`Corpus::to_files`] made; `file` gives the bytes of each by name.
    pub fn from_files(mut file: impl FnMut(&str) -> Result<Vec<u8>>) -> Result<Self> {
        let info: Info = serde_json::from_slice(&file(INFO)?)
            .map_err(|error| Error::failed(format!("the corpus has a broken {INFO}: {error}")))?;
        let mut splits = IndexMap::new();
        for (name, about) in info.splits {
            let bytes = file(&rows_of(&name))?;
            let rows = json::parse(&rows_of(&name), &bytes)?;
            let place = |column: &Option<String>| match column {
                Some(column) => {
                    let missing = || format!("the corpus's split `{name}` lacks a column");
                    rows.column(column).map(Some).ok_or_else(|| Error::failed(missing()))
                }
                None => Ok(None),
            };
            let (text, label) = (place(&info.text)?, place(&info.label)?);
            if rows.len() != about.rows {
                return Err(Error::failed(format!("the corpus's split `{name}` lacks rows")));
            }
            splits.insert(name, Split::new(rows, text, label));
        }
        Ok(Self {
            splits,
            label_names: info.label_names,
            text_column: info.text,
            label_column: info.label,
        })
    }

    fn info(&self) -> Info {
        let about = |(name, split): (&String, &Split)| {
            let info = SplitInfo {
                rows: split.len(),
                classes: split.class_counts(self.label_names.len()),
            };
            (name.clone(), info)
        };
        Info {
            text: self.text_column.clone(),
            label: self.label_column.clone(),
            label_names: self.label_names.clone(),
            splits: self.splits.iter().map(about).collect(),
        }
    }
}

impl Split {
    /// How many rows each of `classes` classes has; empty for an unlabelled split.
    pub fn class_counts(&self, classes: usize) -> Vec<usize> {
        if !self.is_labelled() {
            return Vec::new();
        }
        let mut counts = vec![0; classes];
        for class in self.labels() {
            if let Some(count) = usize::try_from(class).ok().and_then(|i| counts.get_mut(i)) {
                *count += 1;
            }
        }
        counts
    }
}

/// The name of the file with the rows of a split.
pub fn rows_of(split: &str) -> String {
    format!("{split}.jsonl")
}

#[cfg(test)]
mod tests {
    use super::super::Columns;
    use super::*;
    use crate::download::dataset::{Source, locate};
    use crate::rows::parquet::tests as parquet;
    use crate::rows::tests::file;
    use std::path::Path;

    fn read(folder: &Path) -> Corpus {
        let located = locate(&Source::Folder(folder.to_owned())).unwrap();
        Corpus::read(&located, &Columns::default()).unwrap()
    }

    #[test]
    fn bytes_are_of_the_content_and_come_back() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let at = |i: usize| folders[i].path();
        file(at(0), "train.csv", "text,label\n\"a, b\",good\n,bad\n");
        file(at(0), "test.csv", "text\n1\n2\n");
        file(at(1), "train.tsv", "text\tlabel\na, b\tgood\n\tbad\n");
        file(at(1), "my_test.tsv", "text\tlabel\n1\t-1\n2\t-1\n");
        parquet::write(at(2), "train-00000-of-00001.parquet", &[("a, b", Some(1)), ("", Some(0))]);
        parquet::write(at(2), "test-00000-of-00001.parquet", &[("1", None), ("2", Some(-1))]);

        let corpus = read(at(0));
        assert_eq!(corpus.label_names, ["bad", "good"]);
        assert_eq!(corpus.splits["train"].labels(), [1, 0]);
        assert_eq!(corpus.splits["test"].texts(), ["1", "2"]);
        assert!(!corpus.splits["test"].is_labelled());
        let files = corpus.to_files();
        assert_eq!(
            String::from_utf8_lossy(&files[0].1),
            "{\"text\":\"a, b\",\"label\":1}\n{\"text\":\"\",\"label\":0}\n"
        );
        for i in [1, 2] {
            assert_eq!(read(at(i)).to_files(), files, "folder {i}");
        }
        let back = Corpus::from_files(|name| {
            let found = files.iter().find(|(file, _)| file == name);
            Ok(found.unwrap().1.clone())
        });
        assert_eq!(back.unwrap(), corpus);
    }

    #[test]
    fn data_without_classes_are_data_too() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), "train.jsonl", "{\"ask\":\"a\",\"answer\":\"b\"}\n");
        let corpus = read(folder.path());
        assert_eq!((&corpus.text_column, &corpus.label_column), (&None, &None));
        assert_eq!((corpus.splits["train"].label(0), corpus.splits["train"].text(0)), (-1, ""));
        let files = corpus.to_files();
        let back = Corpus::from_files(|name| {
            Ok(files.iter().find(|(file, _)| file == name).unwrap().1.clone())
        });
        assert_eq!(back.unwrap(), corpus);
    }

    #[test]
    fn what_is_wrong_is_placed_in_its_file() {
        let fault = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                file(folder.path(), name, text);
            }
            let located = locate(&Source::Folder(folder.path().to_owned())).unwrap();
            let error = Corpus::read(&located, &Columns::default()).unwrap_err();
            assert!(matches!(error, Error::Input { .. }), "{error:?}");
            error.to_string()
        };
        let text = fault(&[("train.csv", "text,label\n")]);
        assert!(text.contains("split `train` is empty") && text.contains("train.csv"), "{text}");
        let text = fault(&[("a.csv", "text,label\nx,0\n"), ("b.csv", "text,label\ny,1\nz,7\n")]);
        assert!(text.contains("b.csv`, row 2: the label 7"), "{text}");
        let text = fault(&[("a.csv", "text,label\nx,0\n"), ("b.csv", "label,text\n1,y\n")]);
        assert!(text.contains("different columns"), "{text}");
        let text = fault(&[("train.jsonl", "{\"text\":\"a\",\"label\":0}\n{\"label\":1}\n")]);
        assert!(text.contains("train.jsonl`, row 2: no text in column `text`"), "{text}");
        let text = fault(&[("train.csv", "text\nx\n"), ("test.csv", "text,label\nx,0\ny,1\n")]);
        assert!(text.contains("train.csv` has no column `label`"), "{text}");
        let text = fault(&[("train.csv", "text,label\nx,0\n"), ("test.csv", "txt,label\nx,1\n")]);
        assert!(text.contains("test.csv` has no column `text`"), "{text}");
        let named = [("train.csv", "text,label\nx,0\n"), ("labels.json", "{\"names\":[]}")];
        assert!(fault(&named).contains("labels.json` names no classes"));
    }
}
