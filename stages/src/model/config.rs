//! What a checkpoint's `config.json` says, read for every supported family into one shape.

use serde::Deserialize;
use thiserror::Error;

use super::family::Family;
use super::rope::Rope;

/// Why a `config.json` cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file is not the JSON that is expected.
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// The architecture is not one of the supported ones.
    #[error("architecture `{found}` is not supported; supported are {}", Family::listed())]
    Architecture {
        /// The architecture that the file names.
        found: String,
    },
    /// A field has a value that would need other computations.
    #[error("`{field}: {value}` in config.json is not supported; {expected}")]
    Unsupported {
        /// The field's name.
        field: &'static str,
        /// Its value, as text.
        value: String,
        /// What is supported instead.
        expected: &'static str,
    },
    /// Two sizes do not fit together.
    #[error("config.json is inconsistent: {0}")]
    Inconsistent(String),
}

/// The sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, which fixes the checkpoint's names and the targets.
    pub family: Family,
    /// The number of token ids.
    pub vocab: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The width inside the MLP.
    pub inner: usize,
    /// The number of blocks.
    pub layers: usize,
    /// The number of query heads.
    pub heads: usize,
    /// The number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// The width of one head.
    pub head_dim: usize,
    /// What the norms add to the mean square.
    pub norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: Rope,
    /// Whether the causal head is the embedding matrix.
    pub tied: bool,
    /// The longest sequence that the base was made for, in tokens.
    pub max_positions: usize,
    /// The token that fills short rows; a classifier does not read it.
    pub pad: Option<u32>,
    /// The token that opens a text.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
}

impl Config {
    /// Reads the text of a `config.json` (as written by transformers 4 or 5).
    ///
    /// # Errors
    /// Whatever is not supported is refused by name.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let outline: Outline = serde_json::from_slice(json)?;
        let found = match outline.architectures.as_deref() {
            Some([first, ..]) => first.clone(),
            _ => outline.model_type.unwrap_or_else(|| "unnamed".to_owned()),
        };
        let family = Family::of(&found).ok_or(ConfigError::Architecture { found })?;
        family.rules().read(json)
    }

    /// The input and output widths of the linear module `target` of any block.
    pub fn linear(&self, target: &str) -> Option<(usize, usize)> {
        self.family.rules().linear(self, target)
    }

    /// The path of `target` in block `layer`, as in the checkpoint: `model.layers.3.self_attn.q_proj`; `None`
    /// where the family has no such target.
    pub fn module(&self, layer: usize, target: &str) -> Option<String> {
        self.family.rules().module(layer, target)
    }
}

/// The part of a `config.json` that tells what the rest means.
#[derive(Deserialize)]
struct Outline {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
}

/// One token id, a list of them, or none: `config.json` knows all three, and -1 for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TokenIds(pub(super) Vec<u32>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let list = match value {
            serde_json::Value::Array(list) => list,
            other => vec![other],
        };
        Ok(Self(list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()))
    }
}
