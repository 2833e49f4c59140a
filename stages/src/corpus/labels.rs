//! From labels as files have them to classes 0, 1, 2 ….

use std::collections::BTreeSet;

use super::UNLABELLED;
use super::columns::nearest;
use crate::rows::Cell;
use crate::{Error, Result};

/// The label cells of one split, and where each row is.
pub(super) struct Labelled<'a> {
    pub(super) cells: Vec<&'a Cell>,
    pub(super) place: Box<dyn Fn(usize) -> String + 'a>,
}

/// A label before it has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label<'a> {
    Absent,
    Whole(i64),
    Text(&'a str),
}

type Numbered = (Vec<Vec<i32>>, Vec<String>);

/// The class of every row of every split, and the name of every class.
pub(super) fn number(splits: &[Labelled<'_>], names: Option<Vec<String>>) -> Result<Numbered> {
    let mut read: Vec<Vec<Label<'_>>> = Vec::new();
    for split in splits {
        let mut labels = Vec::with_capacity(split.cells.len());
        for (row, cell) in split.cells.iter().enumerate() {
            labels.push(label(cell, || (split.place)(row))?);
        }
        let is_unlabelled = labels
            .iter()
            .all(|label| matches!(label, Label::Absent | Label::Whole(-1)));
        read.push(if is_unlabelled { Vec::new() } else { labels });
    }
    let names = check_all(splits, &read, names)?;
    let classes = read.iter().zip(splits).map(|(labels, split)| {
        if labels.is_empty() {
            return vec![UNLABELLED; split.cells.len()];
        }
        let class = |label: &Label<'_>| class_of(*label, &names).unwrap_or(UNLABELLED);
        labels.iter().map(class).collect()
    });
    Ok((classes.collect(), names))
}

fn label<'a>(cell: &'a Cell, place: impl Fn() -> String) -> Result<Label<'a>> {
    match cell {
        Cell::Null => Ok(Label::Absent),
        Cell::Bool(flag) => Ok(Label::Whole(i64::from(*flag))),
        Cell::Int(number) => Ok(Label::Whole(*number)),
        Cell::Str(text) => Ok(Label::Text(text)),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and small, as just checked"
        )]
        Cell::Float(number) if number.fract() == 0.0 && number.abs() < 1e9 => {
            Ok(Label::Whole(*number as i64))
        }
        Cell::Float(number) => Err(Error::input(format!(
            "{}: the label {number} is no whole number",
            place()
        ))
        .with_hint("classes are whole numbers from 0, or text")),
    }
}

/// Gives the names of the classes, after every label was found to be one of them.
fn check_all(
    splits: &[Labelled<'_>],
    read: &[Vec<Label<'_>>],
    names: Option<Vec<String>>,
) -> Result<Vec<String>> {
    let seen: BTreeSet<Label<'_>> = read.iter().flatten().copied().collect();
    if seen.is_empty() {
        return Err(Error::input("no split has labels: all are -1 or missing")
            .with_hint("name the column that has them with `label:`"));
    }
    let named = names.is_some();
    let names = names.unwrap_or_else(|| infer(&seen));
    for (labels, split) in read.iter().zip(splits) {
        let stray = labels
            .iter()
            .position(|label| class_of(*label, &names).is_none());
        if let Some(row) = stray {
            let place = (split.place)(row);
            return Err(fault(labels[row], &place, &names, named));
        }
    }
    if names.len() < 2 {
        return Err(Error::input(format!(
            "all labels are `{}`: there must be at least two classes",
            names.first().map_or("", String::as_str)
        )));
    }
    Ok(names)
}

/// Text is numbered in sorted order; whole numbers are classes as far as they run without a gap.
fn infer(seen: &BTreeSet<Label<'_>>) -> Vec<String> {
    let is_text = |label: &&Label<'_>| matches!(label, Label::Text(_));
    let wholes = (0..).take_while(|i| seen.contains(&Label::Whole(*i)));
    let wholes: Vec<String> = wholes.map(|i| i.to_string()).collect();
    if wholes.is_empty() && seen.iter().any(|label| is_text(&label)) {
        let texts = seen.iter().filter_map(|label| match label {
            Label::Text(text) => Some((*text).to_owned()),
            _ => None,
        });
        return texts.collect();
    }
    wholes
}

fn class_of(label: Label<'_>, names: &[String]) -> Option<i32> {
    let class = match label {
        Label::Absent => None,
        Label::Whole(number) => usize::try_from(number).ok().filter(|i| *i < names.len()),
        Label::Text(text) => names.iter().position(|name| name == text),
    };
    class.and_then(|class| i32::try_from(class).ok())
}

fn fault(label: Label<'_>, place: &str, names: &[String], named: bool) -> Error {
    const ALL_OR_NONE: &str = "-1 or nothing marks an unlabelled split, in all of its rows";
    match label {
        Label::Absent => Error::input(format!("{place}: no label")).with_hint(ALL_OR_NONE),
        Label::Whole(-1) => Error::input(format!("{place}: the label -1 is out of range"))
            .with_hint(ALL_OR_NONE),
        Label::Whole(number) if named => Error::input(format!(
            "{place}: the label {number} is out of range: there are {} classes, from 0",
            names.len()
        )),
        Label::Whole(number) => Error::input(format!(
            "{place}: the label {number} is out of range: no row has the label {}",
            names.len()
        ))
        .with_hint("classes are 0, 1, 2 … without a gap; name them all in labels.json if some have no rows"),
        Label::Text(text) if named => {
            let error = Error::input(format!("{place}: the label `{text}` is no class"));
            match nearest(text, names) {
                Some(near) => error.with_hint(format!("did you mean `{near}`?")),
                None => error.with_hint(format!("the classes are {}", names.join(", "))),
            }
        }
        Label::Text(text) => Error::input(format!(
            "{place}: the label `{text}` is text, where others are whole numbers"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(splits: &[&[Cell]], names: Option<&[&str]>) -> Result<Numbered, String> {
        let splits: Vec<Labelled<'_>> = splits
            .iter()
            .map(|cells| Labelled {
                cells: cells.iter().collect(),
                place: Box::new(|row| format!("`f`, row {}", row + 1)),
            })
            .collect();
        let names = names.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
        number(&splits, names).map_err(|error| error.to_string())
    }

    fn ints(numbers: &[i64]) -> Vec<Cell> {
        numbers.iter().map(|n| Cell::Int(*n)).collect()
    }

    fn strs(texts: &[&str]) -> Vec<Cell> {
        texts.iter().map(|t| Cell::Str((*t).to_owned())).collect()
    }

    #[test]
    fn labels_become_classes() {
        let (classes, names) = run(&[&ints(&[1, 0, 2]), &ints(&[-1, -1])], None).unwrap();
        assert_eq!(classes, [vec![1, 0, 2], vec![-1, -1]]);
        assert_eq!(names, ["0", "1", "2"]);

        let nulls = [Cell::Null, Cell::Null];
        let (classes, names) = run(&[&strs(&["pos", "neg"]), &nulls], None).unwrap();
        assert_eq!(
            (classes[0].as_slice(), classes[1].as_slice()),
            (&[1, 0][..], &[-1, -1][..])
        );
        assert_eq!(names, ["neg", "pos"]);

        let mixed = [Cell::Float(1.0), Cell::Bool(false)];
        assert_eq!(run(&[&mixed], None).unwrap().0, [[1, 0]]);
        let named = run(&[&strs(&["good"]), &ints(&[1])], Some(&["bad", "good"])).unwrap();
        assert_eq!(named.0, [[1], [1]]);
    }

    #[test]
    fn a_stray_label_is_placed() {
        let wrong = |splits: &[&[Cell]], names| run(splits, names).unwrap_err();
        let text = wrong(&[&ints(&[0, 1, -1])], None);
        assert!(
            text.starts_with("`f`, row 3: the label -1 is out of range"),
            "{text}"
        );
        let text = wrong(&[&ints(&[0, 5, 1])], None);
        assert!(
            text.starts_with("`f`, row 2: the label 5 is out of range"),
            "{text}"
        );
        let text = wrong(&[&ints(&[1, 2])], Some(&["a", "b"]));
        assert!(
            text.starts_with("`f`, row 2: the label 2 is out of range"),
            "{text}"
        );
        let text = wrong(&[&ints(&[0, 1]), &strs(&["x"])], None);
        assert!(text.contains("row 1: the label `x` is text"), "{text}");
        let text = wrong(&[&[Cell::Int(0), Cell::Null, Cell::Int(1)]], None);
        assert!(text.contains("row 2: no label"), "{text}");
        let text = wrong(&[&[Cell::Float(0.5)]], None);
        assert!(
            text.contains("row 1: the label 0.5 is no whole number"),
            "{text}"
        );
        assert!(wrong(&[&ints(&[0, 0])], None).contains("at least two classes"));
        assert!(wrong(&[&ints(&[-1])], None).contains("no split has labels"));
        assert!(wrong(&[&ints(&[1, 2])], None).contains("no row has the label 0"));
    }
}
