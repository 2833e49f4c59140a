//! Whether examples can be taken through a base: the last look before any work, for training and evaluation alike.

use thiserror::Error;

use crate::model::Config;
use crate::token_set::TokenSet;

/// Why they cannot.
#[derive(Debug, Error)]
pub enum DataError {
    /// A label is none of the classes.
    #[error("example {example} has label {label}, which is not one of 0 to {}", classes - 1)]
    Label {
        /// The example's place in its token set.
        example: usize,
        /// Its label.
        label: i32,
        /// The number of classes.
        classes: usize,
    },
    /// A label's token is not in the base's vocabulary.
    #[error("label {label} holds token {token}, but the base has only {vocab}")]
    LabelToken {
        /// The label's place.
        label: usize,
        /// The token id.
        token: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// An example is longer than the base was made for.
    #[error(
        "example {example} has {tokens} tokens, but the base knows {most} positions; set `max_len` to {most} or less"
    )]
    Long {
        /// The example's place in its token set.
        example: usize,
        /// Its tokens.
        tokens: usize,
        /// The positions.
        most: usize,
    },
    /// A token is not in the base's vocabulary.
    #[error("example {example} holds token {token}, but the base has only {vocab}")]
    Token {
        /// The example's place in its token set.
        example: usize,
        /// The token id.
        token: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
}

/// Checks the labels (of `classes` classes, at least one, where there are any), lengths and tokens of `data`.
pub fn check(config: &Config, data: &TokenSet, classes: Option<usize>) -> Result<(), DataError> {
    let vocab = config.vocab;
    let beyond = |tokens: &[u32]| tokens.iter().copied().find(|&token| token as usize >= vocab);
    for (label, words) in data.objective().labels().iter().enumerate() {
        if let Some(token) = beyond(words) {
            return Err(DataError::LabelToken { label, token, vocab });
        }
    }
    let most = config.max_positions.unwrap_or(usize::MAX);
    for (example, &label) in data.labels().iter().enumerate() {
        if let Some(classes) = classes
            && usize::try_from(label).map_or(true, |label| label >= classes)
        {
            return Err(DataError::Label { example, label, classes });
        }
        let tokens = data.tokens(example);
        if tokens.len() > most {
            return Err(DataError::Long { example, tokens: tokens.len(), most });
        }
        if let Some(token) = beyond(tokens) {
            return Err(DataError::Token { example, token, vocab });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tiny;
    use crate::objective::Objective;

    #[test]
    fn what_no_base_can_take_is_named() {
        let refused = |tokens: &[u32], label: i32, words: Option<Vec<Vec<u32>>>| {
            let data = TokenSet::from_examples([(&[1][..], 0), (tokens, label)]).unwrap();
            let data = match words {
                Some(words) => data.with_objective(Objective::Verbalize(words)).unwrap(),
                None => data,
            };
            check(&tiny::config(), &data, Some(2)).unwrap_err().to_string()
        };
        let text = refused(&[1], -1, None);
        assert_eq!(text, "example 1 has label -1, which is not one of 0 to 1");
        let text = refused(&[1, 768], 1, None);
        assert_eq!(text, "example 1 holds token 768, but the base has only 768");
        let text = refused(&[1; 513], 1, None);
        assert!(text.starts_with("example 1 has 513 tokens, but the base knows 512"), "{text}");
        let text = refused(&[1], 1, Some(vec![vec![5], vec![6, 800]]));
        assert_eq!(text, "label 1 holds token 800, but the base has only 768");
    }
}
