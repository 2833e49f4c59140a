//! What `tokenizer_config.json` says about tokens.
//!
//! The model's `config.json` is not asked: one token set serves every size of a family.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The token that fills a batch up, and who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PadToken {
    /// Its id.
    pub id: u32,
    /// Who says so.
    pub from: PadSource,
}

/// Who names the padding token; the first that does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PadSource {
    /// `pad_token` of `tokenizer_config.json`.
    Tokenizer,
    /// Nobody: the unknown token stands in, as LLaMA-2 is usually padded.
    Unknown,
    /// Nobody: the end of a text stands in. No text ends in it unless its tokenizer appends it.
    End,
}

/// The settings that matter here.
#[derive(Debug, Default)]
pub(super) struct Config {
    tokenizer: Map<String, Value>,
}

impl Config {
    pub(super) fn parse(tokenizer: Option<&[u8]>) -> Result<Self> {
        Ok(Self {
            tokenizer: match tokenizer {
                Some(bytes) => object("tokenizer_config.json", bytes)?,
                None => Map::new(),
            },
        })
    }

    /// The padding token by the rule of [`PadSource`]; `id_of` gives the id of a token.
    pub(super) fn pad(&self, id_of: impl Fn(&str) -> Option<u32>) -> Option<PadToken> {
        let named = |key: &str| id_of(token(self.tokenizer.get(key)?)?);
        let found = [
            (named("pad_token"), PadSource::Tokenizer),
            (named("unk_token"), PadSource::Unknown),
            (self.end(&id_of), PadSource::End),
        ];
        found.into_iter().find_map(|(id, from)| id.map(|id| PadToken { id, from }))
    }

    /// The token that ends a text.
    pub(super) fn end(&self, id_of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
        id_of(self.tokenizer.get("eos_token").and_then(token)?)
    }

    /// Whether long texts lose their beginning, not their end; `None` where nothing is said.
    pub(super) fn cuts_left(&self) -> Result<Option<bool>> {
        match self.tokenizer.get("truncation_side") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(side)) if side == "left" => Ok(Some(true)),
            Some(Value::String(side)) if side == "right" => Ok(Some(false)),
            Some(other) => {
                Err(Error::input(format!("`truncation_side` in tokenizer_config.json is {other}"))
                    .with_hint("it is \"left\" or \"right\""))
            }
        }
    }

    /// Whether special tokens that stand in a text are split as any other part of it.
    pub(super) fn splits_special(&self) -> bool {
        self.tokenizer.get("split_special_tokens").and_then(Value::as_bool) == Some(true)
    }

    /// The tokens that `tokenizer_config.json` lists with their flags, by id.
    pub(super) fn listed(&self) -> Vec<&Value> {
        let listed = self.tokenizer.get("added_tokens_decoder").and_then(Value::as_object);
        let mut listed: Vec<(Option<u64>, &Value)> =
            listed.into_iter().flatten().map(|(id, token)| (id.parse().ok(), token)).collect();
        listed.sort_by_key(|(id, _)| *id);
        listed.into_iter().map(|(_, token)| token).collect()
    }

    /// The special tokens that it gives a role (`bos_token`, `pad_token`, ..) or names beside those.
    pub(super) fn named(&self) -> impl Iterator<Item = &Value> {
        let roles = self.tokenizer.iter().filter(|(key, _)| key.ends_with("_token"));
        let extra = ["extra_special_tokens", "additional_special_tokens"];
        let extra = extra.into_iter().filter_map(|key| self.tokenizer.get(key)).flat_map(members);
        roles.map(|(_, value)| value).chain(extra)
    }
}

fn members(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// The text of a token, which is a string or an object that describes one.
pub(super) fn token(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn object(name: &str, bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::input(format!("the model's {name} is broken: {error}"))
            .with_hint("get the file again: it may have been cut short")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pad(tokenizer: &str) -> Option<(u32, PadSource)> {
        let config = Config::parse(Some(tokenizer.as_bytes())).unwrap();
        let id_of = |token: &str| match token {
            "<unk>" => Some(0),
            "</s>" => Some(2),
            "<pad>" => Some(3),
            _ => None,
        };
        config.pad(id_of).map(|pad| (pad.id, pad.from))
    }

    #[test]
    fn who_names_the_padding_token() {
        let all = r#"{"pad_token":{"content":"<pad>"},"unk_token":"<unk>","eos_token":"</s>"}"#;
        assert_eq!(pad(all), Some((3, PadSource::Tokenizer)));
        let none = r#"{"pad_token":null,"unk_token":"<unk>","eos_token":"</s>"}"#;
        assert_eq!(pad(none), Some((0, PadSource::Unknown)));
        assert_eq!(pad(r#"{"eos_token":"</s>"}"#), Some((2, PadSource::End)));
        assert_eq!(pad(r#"{"pad_token":"<gone>"}"#), None);
    }
}
