//! A split that was made elsewhere, from a JSON file.

use std::fs;
use std::path::PathBuf;

use artifacts::Digest;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cut::{Balance, Cuts, classes};
use super::given::{Given, Shares, at_fault, no_example};
use super::{Examples, Outcome, Partition, Rule};
use crate::rows::missing;
use crate::{Error, Result};

/// Who has which examples, from a JSON file.
///
/// `{"clients": [[0, 5], [1, 2]]}`, or that list alone, gives for each client the positions of its
/// examples in the training split, from 0; in which order they are written changes nothing, and an
/// example may have no client. An `indices.json` that another split wrote is such a file.
///
/// `{"proportions": {"bad": [0.3, 0.7], "good": [0.6, 0.4]}}`, by the names of classes or by their
/// numbers, or a list of rows in the order of the classes, gives for each class the share of each
/// client. They are cut as Flower's `DirichletPartitioner` cuts what it drew (see
/// [`cut`](super::cut())), so that its proportions give its split; the last client gets what a row
/// leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explicit {
    /// The file. Relative paths start at the graph's folder; a path is in no key.
    #[serde(skip_serializing)]
    pub file: PathBuf,
    /// The digest of its content, which is in the key.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

impl Explicit {
    /// The same file by another path.
    #[must_use]
    pub fn at(&self, file: PathBuf) -> Self {
        Self { file, ..self.clone() }
    }

    fn read(&self, clients: usize) -> Result<Given> {
        let path = &self.file;
        let bytes = fs::read(path).map_err(|error| missing(path, error))?;
        if self.content.is_some_and(|content| content != Digest::of(&bytes)) {
            return Err(at_fault(path, "has changed since the run began").with_hint("run it again"));
        }
        let given = Given::parse(path, &bytes)?;
        given.check(path, clients)?;
        Ok(given)
    }

    /// The positions as they were written.
    fn indices(&self, shards: Vec<Vec<usize>>, examples: usize) -> Result<Vec<Vec<usize>>> {
        match shards.iter().flatten().find(|&&position| position >= examples) {
            Some(position) => Err(at_fault(
                &self.file,
                &format!("has position {position}, but there are {examples} examples"),
            )
            .with_hint("positions are those of the split `train`, from 0")),
            None => Ok(shards),
        }
    }

    /// The cut of each class at the running sums of its shares.
    fn cut(&self, shares: &Shares, of: &Examples<'_>) -> Result<Vec<Vec<usize>>> {
        of.require_labels()?;
        let groups = classes(of.labels);
        let numbers: Vec<usize> = groups.keys().filter_map(|&c| usize::try_from(c).ok()).collect();
        let proportions = shares.of_classes(&self.file, &numbers, of.names)?;
        let groups: Vec<Vec<usize>> = groups.into_values().collect();
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        let cuts = Cuts::new(&sizes, &proportions, Balance::Off);
        match cuts.sizes.iter().position(|&size| size == 0) {
            Some(client) => Err(no_example(&self.file, client)),
            None => Ok(cuts.shards(&groups)),
        }
    }
}

impl Rule for Explicit {
    fn check(&self, clients: usize) -> Result<()> {
        self.read(clients).map(drop)
    }

    fn is_drawn(&self) -> bool {
        false
    }

    fn split(&self, of: &Examples<'_>, clients: usize, _: &mut ChaCha8Rng) -> Result<Partition> {
        let shards = match self.read(clients)? {
            Given::Clients(shards) => self.indices(shards, of.labels.len())?,
            Given::Proportions(shares) => self.cut(&shares, of)?,
        };
        Ok(Partition { shards, outcome: Outcome::default() })
    }
}

/// The text of a file that gives this split again: one line a client.
///
/// # Errors
/// None that is known of: numbers always serialise.
pub fn to_json(shards: &[Vec<usize>]) -> Result<Vec<u8>> {
    let line = |shard: &Vec<usize>| serde_json::to_string(shard);
    let lines: Vec<String> = shards
        .iter()
        .map(line)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::failed(format!("positions cannot be written: {error}")))?;
    Ok(format!("{{\"clients\": [\n{}\n]}}\n", lines.join(",\n")).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::{By, Dirichlet, cut};
    use super::*;

    struct Case {
        folder: tempfile::TempDir,
        names: Vec<String>,
    }

    impl Case {
        fn new() -> Self {
            let names = ["bad", "good", "odd"].map(str::to_owned).to_vec();
            Self { folder: tempfile::tempdir().unwrap(), names }
        }

        fn rule(&self, text: &str) -> Explicit {
            let file = self.folder.path().join("split.json");
            fs::write(&file, text).unwrap();
            Explicit { file, content: None }
        }

        fn split(&self, text: &str, labels: &[i32], clients: usize) -> Result<Partition> {
            let of = Examples { names: &self.names, ..Examples::labelled(labels) };
            By::Explicit(self.rule(text)).split(&of, clients, 1)
        }

        #[track_caller]
        fn refused(&self, text: &str, labels: &[i32], clients: usize, says: &str) {
            let error = self.split(text, labels, clients).unwrap_err();
            assert!(matches!(error, Error::Input { .. }));
            let message = error.to_string();
            assert!(message.contains("split.json` "), "{message}");
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn positions_are_taken_as_they_are() {
        let case = Case::new();
        for text in [r#"{"clients": [[4, 0], [2]]}"#, " [[4,0],[2]]\n"] {
            let partition = case.split(text, &[-1; 5], 2).unwrap();
            assert_eq!(partition.shards, [vec![0, 4], vec![2]]);
            assert_eq!(partition.outcome.left_out, 2);
        }
    }

    #[test]
    fn proportions_are_cut_as_flower_cuts() {
        let case = Case::new();
        let labels = [0, 1, 0, 0, 1, 0, 0, 1, 0, 0];
        let rows = vec![vec![0.5, 0.3, 0.2], vec![0.1, 0.6, 0.3]];
        let mut expected = cut(&labels, &rows);
        for shard in &mut expected {
            shard.sort_unstable();
        }
        for text in [
            r#"{"proportions": {"good": [0.1, 0.6, 0.3], "bad": [0.5, 0.3, 0.2]}}"#,
            r#"{"proportions": {"1": [0.1, 0.6, 0.3], "0": [0.5, 0.3, 0.2]}}"#,
            r#"{"proportions": [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [1, 0, 0]]}"#,
        ] {
            assert_eq!(case.split(text, &labels, 3).unwrap().shards, expected, "{text}");
        }
    }

    #[test]
    fn a_name_comes_before_a_number() {
        let case = Case { names: vec!["1".to_owned(), "0".to_owned()], ..Case::new() };
        let text = r#"{"proportions": {"0": [1, 0], "1": [0, 1]}}"#;
        assert_eq!(case.split(text, &[0, 1, 1], 2).unwrap().shards, [vec![1, 2], vec![0]]);
    }

    #[test]
    fn what_another_split_wrote_comes_back() {
        let labels: Vec<i32> = (0..200).map(|i| i % 3).collect();
        let of = Examples::labelled(&labels);
        let made = By::Dirichlet(Dirichlet::new(1.0)).split(&of, 4, 7).unwrap();
        let text = String::from_utf8(to_json(&made.shards).unwrap()).unwrap();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert_eq!(Case::new().split(&text, &labels, 4).unwrap().shards, made.shards);
    }

    #[test]
    fn positions_that_cannot_be() {
        let case = Case::new();
        let refused = |text: &str, says: &str| case.refused(text, &[0; 5], 2, says);
        refused("[[0, 5], [1]]", "has position 5, but there are 5 examples");
        refused("[[0, 1], [2, 1]]", "gives example 1 to clients 0 and 1");
        refused("[[0, 3, 3], [2]]", "gives example 3 to client 0 twice");
        refused("[[0], [1], [2]]", "has shards for 3 clients, but there are 2");
        refused("[[0], []]", "leaves client 1 without examples");
        refused("[[0], [-1]]", "is no split: invalid value");
        refused("[[0], [0.5]]", "is no split: invalid type");
        refused("[0, 1]", "is no split");
        refused(
            "{\"client\": []}",
            "unknown variant `client`, expected `clients` or `proportions`",
        );
        refused("[[0], [1", "EOF");
        refused("", "EOF");
    }

    #[test]
    fn proportions_that_cannot_be() {
        let case = Case::new();
        let refused = |rows: &str, says: &str| {
            let text = format!("{{\"proportions\": {rows}}}");
            case.refused(&text, &[0, 1, 0, 1, 0], 2, says);
        };
        refused(
            "{\"bad\": [1, 0], \"good\": [1]}",
            "class `good` numbers for 1 clients, but there are 2",
        );
        refused("{\"bad\": [1, 0], \"good\": [0.6, 0.5]}", "shares out 1.1 of class `good`");
        refused("{\"bad\": [1, 0], \"good\": [-0.5, 1]}", "has -0.5 in the row of class `good`");
        refused("{\"bad\": [1, 0]}", "has no proportions of class `good`");
        refused(
            "{\"bad\": [1, 0], \"goood\": [0, 1]}",
            "has proportions of `goood`, which is no class",
        );
        refused("{\"bad\": [1, 0], \"0\": [0, 1]}", "has two rows for class `bad`");
        refused("{\"bad\": [1, 0], \"good\": [1, 0]}", "leaves client 1 without examples");
        refused("[[1, 0], [0, 1]]", "has 2 rows for 3 classes");
        refused("0.5", "expected rows by class, or a list of rows");
        let unlabelled = case.split("{\"proportions\": [[1, 0]]}", &[-1; 5], 2);
        assert!(unlabelled.unwrap_err().to_string().contains("without labels"));
    }

    #[test]
    fn a_file_is_known_by_its_content() {
        let case = Case::new();
        let mut rule = case.rule("[[0], [1]]");
        rule.content = Some(Digest::of(b"[[0], [1]]"));
        assert!(rule.check(2).is_ok());
        let written = serde_json::to_value(By::Explicit(rule.clone())).unwrap();
        let digest = serde_json::to_value(rule.content).unwrap();
        assert_eq!(written, serde_json::json!({"Explicit": {"content": digest}}), "no path");
        fs::write(&rule.file, "[[1], [0]]").unwrap();
        let fault = rule.check(2).unwrap_err().to_string();
        assert!(fault.ends_with("has changed since the run began"), "{fault}");
        let gone = rule.at(case.folder.path().join("gone.json")).check(2).unwrap_err();
        assert!(gone.to_string().starts_with("there is no file"), "{gone}");
    }
}
