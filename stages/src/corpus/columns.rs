//! Which column holds the text, and which the class.

use crate::{Error, Result};

const TEXT: [&str; 7] = [
    "sentence", "text", "review", "content", "document", "input", "question",
];
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
    /// The text column among `columns`; `file` stands for them in errors.
    pub(super) fn text(&self, file: &str, columns: &[String]) -> Result<String> {
        find("text", self.text.as_deref(), &TEXT, file, columns)
    }

    /// The label column among `columns`; `file` stands for them in errors.
    pub(super) fn label(&self, file: &str, columns: &[String]) -> Result<String> {
        find("label", self.label.as_deref(), &LABEL, file, columns)
    }
}

fn find(
    role: &str,
    named: Option<&str>,
    usual: &[&str],
    file: &str,
    columns: &[String],
) -> Result<String> {
    let fault = |what: String| {
        let listed: Vec<String> = columns.iter().map(|name| format!("`{name}`")).collect();
        Error::input(format!(
            "`{file}` has no {what}: its columns are {}",
            listed.join(", ")
        ))
    };
    if let Some(named) = named {
        if columns.iter().any(|column| column == named) {
            return Ok(named.to_owned());
        }
        let error = fault(format!("column `{named}`"));
        return Err(match nearest(named, columns) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error,
        });
    }
    let same = |usual: &&str| {
        let column = columns.iter().find(|name| name.eq_ignore_ascii_case(usual));
        column.cloned()
    };
    usual
        .iter()
        .find_map(same)
        .ok_or_else(|| fault(format!("{role} column")).with_hint(format!("name it with `{role}:`")))
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
        assert_eq!(usual.text("x", &columns).unwrap(), "sentence");
        assert_eq!(usual.label("x", &columns).unwrap(), "LABEL");
        let named = Columns {
            text: Some("Text".to_owned()),
            label: Some("lable".to_owned()),
        };
        assert_eq!(named.text("x", &columns).unwrap(), "Text");
        let Error::Input { message, hint } = named.label("a.csv", &columns).unwrap_err() else {
            panic!("a wrong name is the user's to mend");
        };
        assert!(
            message.starts_with("`a.csv` has no column `lable`"),
            "{message}"
        );
        assert_eq!(hint.unwrap(), "did you mean `LABEL`?");
        let error = usual.label("a.csv", &columns[..3]).unwrap_err().to_string();
        assert!(
            error.ends_with("its columns are `idx`, `Text`, `sentence`"),
            "{error}"
        );
    }
}
