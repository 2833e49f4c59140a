//! From texts to token ids, as the model's own tokenizer makes them.

mod config;
mod tokenizer;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use config::{PadSource, PadToken};
pub use tokenizer::{Encoded, Tokenizer};

use crate::Result;
use crate::corpus::Corpus;
use crate::token_set::TokenSet;

/// What the model is asked to do with a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Task {
    /// Tell its class, by a head on the last token.
    #[default]
    Classify,
}

impl Task {
    /// Whether this is the default, which is not written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What was found out while tokenizing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensInfo {
    /// The task that the token ids are for.
    pub task: Task,
    /// No text has more tokens, special ones included.
    pub max_len: usize,
    /// The token that shorter texts are padded with, and who says so.
    pub pad: PadToken,
    /// The name of each class.
    pub label_names: Vec<String>,
    /// What the texts of each split came to.
    pub splits: IndexMap<String, Lengths>,
}

/// What the texts of one split came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lengths {
    /// How many texts there are.
    pub examples: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens of the longest text.
    pub longest: usize,
    /// How many texts were cut at `max_len`.
    pub truncated: usize,
}

/// The token ids of every split of a corpus.
pub fn tokenize(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    task: &Task,
    max_len: usize,
) -> Result<(IndexMap<String, TokenSet>, TokensInfo)> {
    let Task::Classify = task;
    let mut sets = IndexMap::new();
    let mut info = TokensInfo {
        task: task.clone(),
        max_len,
        pad: tokenizer.pad().clone(),
        label_names: corpus.label_names.clone(),
        splits: IndexMap::new(),
    };
    for (name, split) in &corpus.splits {
        let encoded = tokenizer.encode_all(&split.texts(), max_len)?;
        let lengths = Lengths {
            examples: split.len(),
            tokens: encoded.iter().map(|text| text.ids.len()).sum(),
            longest: encoded.iter().map(|text| text.ids.len()).max().unwrap_or(0),
            truncated: encoded.iter().filter(|text| text.truncated).count(),
        };
        let ids = encoded.iter().map(|text| text.ids.as_slice());
        let set = TokenSet::from_examples(ids.zip(split.labels()))?;
        sets.insert(name.clone(), set);
        info.splits.insert(name.clone(), lengths);
    }
    Ok((sets, info))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Columns;
    use crate::download::dataset::{Source, locate};
    use crate::rows::tests::file;

    #[test]
    fn every_split_becomes_a_token_set() {
        let folder = tempfile::tempdir().unwrap();
        let text = "text,label\nfine,good\na very long and winding sentence about a film,bad\n";
        file(folder.path(), "train.csv", text);
        file(folder.path(), "test.csv", "text\nfine\n");
        let located = locate(&Source::Folder(folder.path().to_owned())).unwrap();
        let corpus = Corpus::read(&located, &Columns::default()).unwrap();
        let tokenizer = tokenizer::tests::tokenizer();
        let (sets, info) = tokenize(&corpus, &tokenizer, &Task::Classify, 8).unwrap();
        let train = &sets["train"];
        assert_eq!(train.labels(), [1, 0]);
        assert_eq!((train.tokens(0)[0], train.tokens(1).len()), (1, 8));
        assert_eq!(train.subset(&[1]).tokens(0), train.tokens(1));
        assert_eq!(sets["test"].labels(), [-1]);
        assert_eq!(sets["test"].tokens(0), train.tokens(0));
        let lengths = &info.splits["train"];
        assert_eq!((lengths.examples, lengths.longest, lengths.truncated), (2, 8, 1));
        assert_eq!(lengths.tokens, train.total_tokens());
    }
}
