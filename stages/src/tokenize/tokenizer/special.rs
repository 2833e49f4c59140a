//! Special tokens: those that stand in texts, and those that are added around them.

use serde_json::Value;
use tokenizers::{AddedToken, Encoding, PostProcessor, Token, Tokenizer as Inner};

use super::super::config::{Config, token};
use super::failed;
use crate::Result;

/// What the post-processor adds around every text.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// The ids before a text.
    pub(super) before: Vec<u32>,
    /// How many come after it.
    after: usize,
}

impl Added {
    /// Found out by having a text processed that is one token long, since there are many kinds of
    /// post-processor and a chain of them is one too. The token need not be in the vocabulary.
    pub(super) fn by(inner: &Inner) -> Result<Self> {
        let Some(processor) = inner.get_post_processor() else {
            return Ok(Self::default());
        };
        let text = Encoding::from_tokens(vec![Token::new(0, "a".to_owned(), (0, 1))], 0);
        let whole = processor.process(text, None, true).map_err(|error| failed(&error))?;
        let (ids, marks) = (whole.get_ids(), whole.get_special_tokens_mask());
        let at = marks.iter().position(|mark| *mark == 0).unwrap_or(ids.len());
        Ok(Self { before: ids[..at].to_vec(), after: ids.len().saturating_sub(at + 1) })
    }

    /// How many tokens every text has beside its own.
    pub(super) fn len(&self) -> usize {
        self.before.len() + self.after
    }
}

/// Tells the tokenizer what `tokenizer_config.json` says about special tokens, as transformers does:
/// the flags of those that it lists are set anew, and those that it names but `tokenizer.json` does
/// not list become special.
///
/// Transformers also adds tokens that the vocabulary does not have. Their ids would lie beyond the
/// model's embeddings, so they are left out here, and such a text is split as any other.
pub(super) fn mark(inner: &mut Inner, config: &Config) -> Result<()> {
    inner.set_encode_special_tokens(config.splits_special());
    let known = inner.get_added_tokens_decoder();
    let mut tokens: Vec<AddedToken> = config.listed().into_iter().filter_map(described).collect();
    for named in config.named() {
        let Some(content) = token(named) else { continue };
        if let Some(listed) = tokens.iter_mut().find(|token| token.content == content) {
            listed.special = true;
        } else if !known.values().any(|token| token.content == content) {
            let described = described(named).map(|token| token.special(true));
            tokens.push(described.unwrap_or_else(|| AddedToken::from(content, true)));
        }
    }
    tokens.retain(|token| inner.token_to_id(&token.content).is_some());
    if !tokens.is_empty() {
        inner.add_tokens(tokens).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// A token that is described by an object, with the defaults of transformers.
fn described(value: &Value) -> Option<AddedToken> {
    let content = value.get("content")?.as_str()?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(
        AddedToken::from(content, special)
            .normalized(flag("normalized").unwrap_or(!special))
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false)),
    )
}
