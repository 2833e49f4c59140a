//! Prompts with the names of columns in braces.

use crate::corpus::columns::no_column;
use crate::corpus::{Corpus, Split, UNLABELLED};
use crate::rows::Cell;
use crate::{Error, Result};

/// A text in which `{column}` stands for a row's value; `{{` and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A brace is not closed, or was never opened.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Err(Error::input(format!("the template `{}` {what}", text.escape_default()))
                .with_hint("a column's name stands in braces, as in `{sentence}`; `{{` is a brace"))
        };
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
            } else if brace == "}" {
                return wrong("closes a brace that it did not open");
            } else {
                let Some((name, after)) = rest.split_once('}') else {
                    return wrong("opens a brace that it does not close");
                };
                if name.trim().is_empty() || name.contains('{') {
                    return wrong("has braces without a column's name in them");
                }
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Column(name.trim().to_owned()));
                rest = after;
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The columns that it names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Whether every split of a corpus has its columns.
    pub fn check(&self, corpus: &Corpus) -> Result<()> {
        for (name, split) in &corpus.splits {
            if let Some(column) = self.columns().find(|column| split.column(column).is_none()) {
                return Err(no_column(&format!("the split `{name}`"), column, &split.columns));
            }
        }
        Ok(())
    }

    /// The text for row `i`; the label column gives the name of the row's class.
    pub fn fill(&self, corpus: &Corpus, split: &Split, i: usize) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Column(name) if Some(name) == corpus.label_column.as_ref() => {
                    let class = split.label(i);
                    let known = usize::try_from(class).ok().filter(|_| class != UNLABELLED);
                    text.push_str(known.map_or("", |class| &corpus.label_names[class]));
                }
                Part::Column(name) => {
                    let cell = split.column(name).map(|at| &split.rows[i][at]);
                    if let Some(cell) = cell.filter(|cell| **cell != Cell::Null) {
                        text.push_str(&cell.to_string());
                    }
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Columns;
    use crate::download::dataset::{Source, locate};
    use crate::rows::tests::file;

    #[test]
    fn columns_stand_in_braces() {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), "train.csv", "ask,stars,label\nwhy,3,yes\nhow,,no\n");
        let located = locate(&Source::Folder(folder.path().to_owned())).unwrap();
        let corpus = Corpus::read(&located, &Columns::default()).unwrap();
        let template = Template::parse("{{{ask}}} of {stars}: { label }").unwrap();
        template.check(&corpus).unwrap();
        let train = &corpus.splits["train"];
        assert_eq!(template.fill(&corpus, train, 0), "{why} of 3: yes");
        assert_eq!(template.fill(&corpus, train, 1), "{how} of : no");
        let fault = Template::parse("{star}").unwrap().check(&corpus).unwrap_err();
        assert!(fault.to_string().contains("the split `train` has no column `star`"), "{fault}");
        assert_eq!(fault.hint(), Some("did you mean `stars`?"));
    }

    #[test]
    fn stray_braces_are_refused() {
        for (text, what) in [
            ("a {b", "opens a brace"),
            ("a } b", "closes a brace"),
            ("a {} b", "without a column's name"),
        ] {
            let fault = Template::parse(text).unwrap_err().to_string();
            assert!(fault.contains(what), "{fault}");
        }
    }
}
