//! Which column holds the text, and which the class.

use crate::{Error, Result};

const TEXT: [&str; 7] = ["sentence", "text", "review", "content", "document", "input", "question"];
const LABEL: [&str; 9] = [
    "label",
    "labels",
    "target",
    "class",
    "sentiment",
    "coarse_label",
    "label-coarse",
    "category",
    "y",
];

/// The columns that the user named; the others are found by their usual names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The column that the texts are in.
    pub text: Option<String>,
    /// The column that the classes are in.
    pub label: Option<String>,
}

impl Columns {
    /// The text column among `columns`, if there is one; `file` stands for them in errors.
    ///
    /// # Errors
    /// The column that the user named is not there.
    pub(super) fn text(&self, file: &str, columns: &[String]) -> Result<Option<String>> {
        find(self.text.as_deref(), &TEXT, file, columns)
    }

    /// The label column, likewise.
    pub(super) fn label(&self, file: &str, columns: &[String]) -> Result<Option<String>> {
        find(self.label.as_deref(), &LABEL, file, columns)
    }
}

fn find(
    named: Option<&str>,
    usual: &[&str],
    file: &str,
    columns: &[String],
) -> Result<Option<String>> {
    if let Some(named) = named {
        if columns.iter().any(|column| column == named) {
            return Ok(Some(named.to_owned()));
        }
        return Err(no_column(&format!("`{file}`"), named, columns));
    }
    let same = |usual: &&str| {
        let column = columns.iter().find(|name| name.eq_ignore_ascii_case(usual));
        column.cloned()
    };
    Ok(usual.iter().find_map(same))
}

/// Says that `what` has no column `named`, and which it has.
pub(crate) fn no_column(what: &str, named: &str, columns: &[String]) -> Error {
    let error = Error::input(format!(
        "{what} has no column `{named}`: its columns are {}",
        listed(columns)
    ));
    match nearest(named, columns) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

/// Says that a data set has no column for `role`.
pub(crate) fn no_role(role: &str, columns: &[String]) -> Error {
    Error::input(format!("the data set has no {role} column: its columns are {}", listed(columns)))
        .with_hint(format!("name it with `{role}:` in the `Dataset`"))
}

fn listed(columns: &[String]) -> String {
    columns.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name that is most like `wanted`, if one is like enough to be meant.
pub(crate) fn nearest<'a>(
    wanted: &str,
    names: impl IntoIterator<Item = &'a String>,
) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&lower, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_and_named_ones() {
        let columns = ["idx", "Text", "sentence", "LABEL"].map(str::to_owned);
        let usual = Columns::default();
        assert_eq!(usual.text("x", &columns).unwrap().unwrap(), "sentence");
        assert_eq!(usual.label("x", &columns).unwrap().unwrap(), "LABEL");
        let named = Columns { text: Some("Text".to_owned()), label: Some("lable".to_owned()) };
        assert_eq!(named.text("x", &columns).unwrap().unwrap(), "Text");
        let Error::Input { message, hint } = named.label("a.csv", &columns).unwrap_err() else {
            panic!("a wrong name is the user's to mend");
        };
        assert!(message.starts_with("`a.csv` has no column `lable`"), "{message}");
        assert_eq!(hint.unwrap(), "did you mean `LABEL`?");
        assert_eq!(usual.label("a.csv", &columns[..3]).unwrap(), None);
        let error = no_role("label", &columns[..3]).to_string();
        assert!(error.ends_with("its columns are `idx`, `Text`, `sentence`"), "{error}");
    }
}
