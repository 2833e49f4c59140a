//! From texts to token ids, as the model's own tokenizer makes them.

mod config;
mod prompt;
mod template;
mod tokenizer;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use config::{PadSource, PadToken};
pub use template::Template;
pub use tokenizer::{Encoded, Tokenizer};

use crate::corpus::columns::no_role;
use crate::corpus::{Corpus, Split};
use crate::objective::Objective;
use crate::token_set::TokenSet;
use crate::{Error, Result};

/// What the model is asked to do with a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Task {
    /// Tell its class, by a classifier on the last token.
    #[default]
    Classify,
    /// Say which label goes on best after a prompt: the one whose tokens have the largest mean log-likelihood.
    Verbalize {
        /// The prompt, with columns in braces: `"Review: {sentence}\nSentiment:"`.
        prompt: String,
        /// What is said for each class, in their order: `[" negative", " positive"]`.
        labels: Vec<String>,
    },
    /// Go on after a prompt as the data do, to the end of the text. The loss is over the completion alone.
    Complete {
        /// The prompt, with columns in braces.
        prompt: String,
        /// What goes on after it, likewise; often with a space first.
        completion: String,
    },
}

impl Task {
    /// Whether this is the default, which is not written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with its own words, before any data are there; with the field that is to blame.
    pub fn check(&self) -> Result<(), (&'static str, Error)> {
        let parse = |field, text: &str| match Template::parse(text) {
            Ok(_) if text.is_empty() => Err((field, Error::input(format!("`{field}` is empty")))),
            Ok(template) => Ok(template),
            Err(error) => Err((field, error)),
        };
        match self {
            Self::Classify => Ok(()),
            Self::Verbalize { prompt, labels } => {
                parse("prompt", prompt)?;
                let wrong = |what: String| Err(("labels", Error::input(what)));
                if labels.len() < 2 {
                    return wrong("there must be at least two labels to choose from".to_owned());
                }
                if labels.iter().any(String::is_empty) {
                    return wrong("a label is empty".to_owned());
                }
                match (1..labels.len()).find(|&at| labels[..at].contains(&labels[at])) {
                    Some(twice) => wrong(format!("the label `{}` is there twice", labels[twice])),
                    None => Ok(()),
                }
            }
            Self::Complete { prompt, completion } => {
                parse("prompt", prompt)?;
                parse("completion", completion).map(drop)
            }
        }
    }

    /// Whether a corpus has what the task needs.
    pub fn fits(&self, corpus: &Corpus) -> Result<()> {
        let labelled = || match &corpus.label_column {
            Some(_) => Ok(()),
            None => Err(no_role("label", &corpus.columns())),
        };
        match self {
            Self::Classify => {
                if corpus.text_column.is_none() {
                    return Err(no_role("text", &corpus.columns()));
                }
                labelled()
            }
            Self::Verbalize { prompt, labels } => {
                labelled()?;
                if labels.len() != corpus.label_names.len() {
                    let names = corpus.label_names.join("`, `");
                    let (given, classes) = (labels.len(), corpus.label_names.len());
                    let message =
                        format!("there are {given} labels for {classes} classes: `{names}`");
                    return Err(
                        Error::input(message).with_hint("give one label for each, in this order")
                    );
                }
                Template::parse(prompt)?.check(corpus)
            }
            Self::Complete { prompt, completion } => {
                Template::parse(prompt)?.check(corpus)?;
                Template::parse(completion)?.check(corpus)
            }
        }
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
    /// The token that shorter texts are padded with where they must be, and who says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<PadToken>,
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
    task.fits(corpus)?;
    let mut sets = IndexMap::new();
    let mut info = TokensInfo {
        task: task.clone(),
        max_len,
        pad: tokenizer.pad().cloned(),
        label_names: corpus.label_names.clone(),
        splits: IndexMap::new(),
    };
    let labels = match task {
        Task::Verbalize { prompt, labels } => {
            prompt::labels(tokenizer, corpus, &Template::parse(prompt)?, labels)?
        }
        Task::Classify | Task::Complete { .. } => Vec::new(),
    };
    for (name, split) in &corpus.splits {
        let (encoded, objective) = encode(tokenizer, corpus, split, task, &labels, max_len)?;
        let lengths = Lengths {
            examples: split.len(),
            tokens: encoded.iter().map(|text| text.ids.len()).sum(),
            longest: encoded.iter().map(|text| text.ids.len()).max().unwrap_or(0),
            truncated: encoded.iter().filter(|text| text.truncated).count(),
        };
        let ids = encoded.iter().map(|text| text.ids.as_slice());
        let set = TokenSet::from_examples(ids.zip(split.labels()))?.with_objective(objective)?;
        sets.insert(name.clone(), set);
        info.splits.insert(name.clone(), lengths);
    }
    Ok((sets, info))
}

/// The token ids of a split, and what they are read for.
fn encode(
    tokenizer: &Tokenizer,
    corpus: &Corpus,
    split: &Split,
    task: &Task,
    labels: &[Vec<u32>],
    max_len: usize,
) -> Result<(Vec<Encoded>, Objective)> {
    match task {
        Task::Classify => Ok((tokenizer.encode_all(&split.texts(), max_len)?, Objective::Classify)),
        Task::Verbalize { prompt, .. } => {
            let room = labels.iter().map(Vec::len).max().unwrap_or(0);
            if max_len <= room + 1 {
                return Err(Error::input(format!(
                    "max_len is {max_len}, which leaves no room for a prompt before labels of {room} tokens"
                )));
            }
            let prompt = Template::parse(prompt)?;
            let encoded = prompt::prompts(tokenizer, corpus, split, &prompt, max_len - room)?;
            Ok((encoded, Objective::Verbalize(labels.to_vec())))
        }
        Task::Complete { prompt, completion } => {
            let templates = [&Template::parse(prompt)?, &Template::parse(completion)?];
            let both = prompt::completions(tokenizer, corpus, split, templates, max_len)?;
            let (encoded, starts) = both.into_iter().unzip();
            Ok((encoded, Objective::Complete(starts)))
        }
    }
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

    fn corpus(text: &str) -> Corpus {
        let folder = tempfile::tempdir().unwrap();
        file(folder.path(), "train.csv", text);
        let located = locate(&Source::Folder(folder.path().to_owned())).unwrap();
        Corpus::read(&located, &Columns::default()).unwrap()
    }

    #[test]
    fn a_prompt_keeps_its_end_and_labels_have_tokens_behind_it() {
        let corpus = corpus("text,label\nfine,good\na very long and winding film,bad\n");
        let tokenizer = tokenizer::tests::tokenizer();
        let labels = [" bad", " good"].map(str::to_owned).to_vec();
        let task = Task::Verbalize { prompt: "Review: {text}\nVerdict:".to_owned(), labels };
        let (sets, info) = tokenize(&corpus, &tokenizer, &task, 64).unwrap();
        let train = &sets["train"];
        let whole = |text: &str| tokenizer.encode_prompt(text).unwrap();
        let prompt = whole("Review: fine\nVerdict:");
        assert_eq!(train.tokens(0), prompt);
        let Objective::Verbalize(words) = train.objective() else { panic!("labels are words") };
        let both = whole("Review: fine\nVerdict: good");
        assert_eq!(both, [prompt.clone(), words[1].clone()].concat());
        assert_eq!(info.splits["train"].truncated, 0);

        let (sets, info) = tokenize(&corpus, &tokenizer, &task, 16).unwrap();
        let long = sets["train"].tokens(1);
        assert!(info.splits["train"].truncated > 0);
        assert_eq!(long[0], prompt[0], "the token that opens a text");
        assert_eq!(long.last(), prompt.last(), "what is asked");
        assert!(long.len() < 16);

        let spaced = ["bad", "good"].map(str::to_owned).to_vec();
        let task = Task::Verbalize { prompt: "{text} is ".to_owned(), labels: spaced };
        let fault = tokenize(&corpus, &tokenizer, &task, 64).unwrap_err();
        assert!(fault.to_string().contains("grows together"), "{fault}");
        let three = ["a", "b", "c"].map(str::to_owned).to_vec();
        let task = Task::Verbalize { prompt: "{text}:".to_owned(), labels: three };
        let fault = tokenize(&corpus, &tokenizer, &task, 64).unwrap_err().to_string();
        assert_eq!(fault, "there are 3 labels for 2 classes: `bad`, `good`");
    }

    #[test]
    fn a_completion_ends_the_text_and_is_kept_before_its_prompt() {
        let corpus = corpus("ask,answer\nwhat is a film,fine\nwhy,\n");
        let tokenizer = tokenizer::tests::tokenizer();
        let task = Task::Complete {
            prompt: "Q: {ask}\nA:".to_owned(),
            completion: " {answer}".to_owned(),
        };
        let (sets, _) = tokenize(&corpus, &tokenizer, &task, 64).unwrap();
        let train = &sets["train"];
        let Objective::Complete(starts) = train.objective() else { panic!("a completion") };
        let prompt = tokenizer.encode_prompt("Q: what is a film\nA:").unwrap();
        assert_eq!(train.tokens(0)[..starts[0] as usize], prompt);
        assert_eq!(train.tokens(0).last(), Some(&2), "the token that ends a text");
        assert_eq!(train.label(0), -1);

        let answer = train.tokens(0)[starts[0] as usize..].to_vec();
        let most = answer.len() + 4;
        let (sets, info) = tokenize(&corpus, &tokenizer, &task, most).unwrap();
        let cut = sets["train"].tokens(0);
        assert_eq!((cut.len(), cut[0]), (most, prompt[0]));
        assert_eq!(cut[4..], answer);
        assert_eq!(info.splits["train"].truncated, 2);
        let fault = tokenize(&corpus, &tokenizer, &task, 2).unwrap_err().to_string();
        assert!(fault.contains("must be at least 3"), "{fault}");
    }
}
