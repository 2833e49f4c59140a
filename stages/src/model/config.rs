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

/// How the tokens of a sequence are told apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Position {
    /// Queries and keys are rotated.
    Rotary(Rope),
    /// Scores fall with the distance, with a slope for each head.
    Alibi,
}

/// The groups of linear modules that have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output of attention.
    pub output: bool,
    /// The MLP.
    pub mlp: bool,
}

/// The sizes and constants of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The family, which fixes the checkpoint's names and the targets.
    pub family: Family,
    /// The architecture, as the file names it: `LlamaForCausalLM`.
    pub architecture: String,
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
    /// How tokens know their places.
    pub position: Position,
    /// Which linear modules have biases.
    pub biases: Biases,
    /// Whether residuals take what comes out of a norm (`apply_residual_connection_post_layernorm`).
    pub residual_after_norm: bool,
    /// Whether the causal head is the embedding matrix.
    pub tied: bool,
    /// The longest sequence that the base was made for, in tokens; `None` for one without a limit, as BLOOM.
    pub max_positions: Option<usize>,
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
        match Family::of(&found) {
            Some(family) => {
                let config = Self { architecture: found, ..family.rules().read(json)? };
                config.check_sizes()?;
                Ok(config)
            }
            None => Err(ConfigError::Architecture { found }),
        }
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let wrong = |what: String| Err(ConfigError::Inconsistent(what));
        let sizes = [self.vocab, self.hidden, self.inner, self.layers, self.heads, self.kv_heads];
        if sizes.contains(&0) || self.head_dim == 0 {
            return wrong("a size is 0".to_owned());
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return wrong(format!(
                "{} heads do not share {} key and value heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if !self.norm_eps.is_finite() {
            return wrong("the epsilon of the norms is not a usable number".to_owned());
        }
        if let Position::Rotary(rope) = &self.position {
            if !self.head_dim.is_multiple_of(2) {
                return wrong(format!("a head of width {} has no halves to rotate", self.head_dim));
            }
            if !(rope.theta.is_finite() && rope.theta > 0.0) {
                return wrong("`rope_theta` is not a usable number".to_owned());
            }
        }
        Ok(())
    }

    /// The input and output widths of the linear module `target` of any block.
    pub fn linear(&self, target: &str) -> Option<(usize, usize)> {
        self.family.rules().linear(self, target)
    }

    /// Whether this is the config of a classifier, whose checkpoint has a head of its own.
    pub fn is_classifier(&self) -> bool {
        self.architecture.ends_with("ForSequenceClassification")
    }

    /// Whether its checkpoint has what a causal task needs, as far as the architecture's name tells.
    pub fn has_causal_head(&self) -> bool {
        self.tied || self.architecture.ends_with("ForCausalLM")
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
