//! Which file belongs to which split, told from names as the Hub's `datasets` library tells it.

use indexmap::IndexMap;

use crate::rows::Format;
use crate::{Error, Result};

/// The file in a data set's folder that names the classes: `{"label_names": ["bad", "good"]}`.
pub const LABELS: &str = "labels.json";

const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// JSON files that lie beside data and are none.
const ABOUT: [&str; 7] = [
    LABELS,
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "info.json",
    "config.json",
];

/// The data files of each split, sorted by name; `place` stands for the whole in errors.
///
/// A shard is named `SPLIT-00000-of-00012.parquet`; otherwise a word of the file's name (`train`,
/// `dev`, `my_test_1.csv`) or else of its folder's tells the split. Where no name tells one, all
/// files are `train`; where some do, the others are left out. Of several formats the first of
/// parquet, JSON lines, CSV and TSV is taken.
pub fn splits(place: &str, names: &[String]) -> Result<IndexMap<String, Vec<String>>> {
    let files = data_files(names);
    if files.is_empty() {
        let error = Error::input(format!("`{place}` has no data files"));
        return Err(if names.iter().any(|name| name.ends_with(".py")) {
            error.with_hint("its data come from a Python script; convert them to parquet first")
        } else {
            error.with_hint("data are read from .parquet, .jsonl, .json, .csv and .tsv files")
        });
    }
    let mut splits: IndexMap<String, Vec<String>> = IndexMap::new();
    let mut sharded: Vec<&str> = Vec::new();
    for name in &files {
        if let Some(split) = shard_of(name) {
            sharded.push(folder_of(name));
            splits.entry(split).or_default().push((*name).to_owned());
        }
    }
    sharded.sort_unstable();
    sharded.dedup();
    // `train-00000-of-00001.parquet` in each of several folders: as many data sets.
    if sharded.len() > 1 && sharded.iter().any(|folder| keyword(folder).is_none()) {
        return Err(Error::input(format!(
            "`{place}` holds several data sets: {}",
            sharded.join(", ")
        ))
        .with_hint("get the one that you want, and name its folder with `folder:`"));
    }
    if splits.is_empty() {
        for name in &files {
            if let Some(split) = word_of(name) {
                splits.entry(split).or_default().push((*name).to_owned());
            }
        }
    }
    if splits.is_empty() {
        let all = files.iter().map(|name| (*name).to_owned()).collect();
        splits.insert("train".to_owned(), all);
    }
    for (split, names) in &mut splits {
        check_name(split)?;
        names.sort_unstable();
    }
    sort(&mut splits);
    Ok(splits)
}

/// Puts train, validation and test first, and the others after them by name.
pub fn sort<T>(splits: &mut IndexMap<String, T>) {
    let place = |name: &str| {
        let known = KEYWORDS.iter().position(|(split, _)| *split == name);
        known.unwrap_or(KEYWORDS.len())
    };
    splits.sort_by(|a, _, b, _| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
}

/// A split's name becomes a file name.
pub fn check_name(split: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if split.is_empty() || split.starts_with('.') || !split.chars().all(plain) {
        return Err(Error::input(format!("`{split}` is no name for a split"))
            .with_hint("letters, digits, `.`, `_` and `-`, such as `train`"));
    }
    Ok(())
}

pub(crate) fn unknown_format(file: &str) -> Error {
    Error::input(format!("cannot tell the format of `{file}`"))
        .with_hint("data are read from .parquet, .jsonl, .json, .csv and .tsv files")
}

fn data_files(names: &[String]) -> Vec<&str> {
    let is_hidden = |name: &str| name.split('/').any(|part| part.starts_with(['.', '_']));
    let is_about = |name: &str| ABOUT.contains(&file_of(name));
    let candidates = names
        .iter()
        .map(String::as_str)
        .filter(|name| !is_hidden(name) && !is_about(name));
    let with_format: Vec<(Format, &str)> = candidates
        .filter_map(|name| Some((Format::of(name)?, name)))
        .collect();
    let best = with_format.iter().map(|(format, _)| *format).min();
    with_format
        .into_iter()
        .filter(|(format, _)| Some(*format) == best)
        .map(|(_, name)| name)
        .collect()
}

/// The split of `data/SPLIT-00000-of-00012[-hash].parquet`.
fn shard_of(name: &str) -> Option<String> {
    let file = file_of(name);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let parts: Vec<&str> = stem.split('-').collect();
    let digits = |part: &str| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit());
    let at = (1..parts.len().saturating_sub(2))
        .find(|&i| digits(parts[i]) && parts[i + 1] == "of" && digits(parts[i + 2]))?;
    let split = parts[..at].join("-");
    Some(known(&split).map_or(split, str::to_owned))
}

/// The split that a word of the file's name or, failing that, of its folders tells.
fn word_of(name: &str) -> Option<String> {
    keyword(file_of(name))
        .or_else(|| keyword(folder_of(name)))
        .map(str::to_owned)
}

fn keyword(text: &str) -> Option<&'static str> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .find_map(known)
}

fn known(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    KEYWORDS
        .iter()
        .find(|(_, words)| words.contains(&word.as_str()))
        .map(|(split, _)| *split)
}

fn file_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let splits = splits("x", &names).unwrap();
        let line =
            |(split, names): (&String, &Vec<String>)| format!("{split}: {}", names.join(" "));
        splits.iter().map(line).collect()
    }

    #[test]
    fn usual_layouts() {
        assert_eq!(
            found(&[
                "README.md",
                "data/validation-00000-of-00001.parquet",
                "data/train-00001-of-00002-abc.parquet",
                "data/train-00000-of-00002-abc.parquet",
                "data/unsupervised-00000-of-00001.parquet",
                "data/extra.csv",
            ]),
            [
                "train: data/train-00000-of-00002-abc.parquet data/train-00001-of-00002-abc.parquet",
                "validation: data/validation-00000-of-00001.parquet",
                "unsupervised: data/unsupervised-00000-of-00001.parquet",
            ]
        );
        assert_eq!(
            found(&[
                "test.jsonl",
                "my_dev_set.jsonl",
                "Training-1.jsonl",
                "other.jsonl"
            ]),
            [
                "train: Training-1.jsonl",
                "validation: my_dev_set.jsonl",
                "test: test.jsonl"
            ]
        );
        assert_eq!(
            found(&["val/a.csv", "train/b.csv", "train/a.csv", "contest.csv"]),
            ["train: train/a.csv train/b.csv", "validation: val/a.csv"]
        );
        assert_eq!(
            found(&["b.tsv", "a.tsv", "labels.json", ".cache/x.parquet"]),
            ["train: a.tsv b.tsv"]
        );
    }

    #[test]
    fn what_is_no_one_data_set() {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let several = names(&[
            "cola/train-00000-of-00001.parquet",
            "sst2/test-00000-of-00001.parquet",
        ]);
        let error = splits("glue", &several).unwrap_err().to_string();
        assert!(error.contains("several data sets: cola, sst2"), "{error}");
        let script = names(&["load.py", "labels.json"]);
        let error = splits("x", &script).unwrap_err().to_string();
        assert!(error.contains("no data files"), "{error}");
    }
}
