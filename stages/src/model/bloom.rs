//! BLOOM and BLOOMZ: how their `config.json` and the names in their checkpoints map onto the decoder.

use std::ops::Range;

use burn::tensor::Device;
use serde::Deserialize;

use super::attention::{Attention, Projections};
use super::block::Block;
use super::config::{Biases, Config, ConfigError, Position, TokenIds};
use super::family::{Family, Rules};
use super::linear::{Affine, Fused, Linear};
use super::mlp::Mlp;
use super::norm::Norm;
use super::weights::{Checkpoint, Expected, WeightsError};

const ARCHITECTURES: &[&str] =
    &["BloomForCausalLM", "BloomForSequenceClassification", "BloomModel"];

/// What an adapter may target, in the order of their slots.
const TARGETS: [&str; 4] = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"];

/// The fields of `config.json` that matter here, in their older and newer spellings.
#[derive(Deserialize)]
struct Fields {
    vocab_size: usize,
    hidden_size: Option<usize>,
    n_embed: Option<usize>,
    n_layer: Option<usize>,
    num_hidden_layers: Option<usize>,
    n_head: Option<usize>,
    num_attention_heads: Option<usize>,
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default)]
    apply_residual_connection_post_layernorm: bool,
    #[serde(default = "tied")]
    tie_word_embeddings: bool,
    #[serde(default)]
    pad_token_id: TokenIds,
    #[serde(default)]
    bos_token_id: TokenIds,
    #[serde(default)]
    eos_token_id: TokenIds,
    hidden_dropout: Option<f64>,
    attention_dropout: Option<f64>,
    quantization_config: Option<serde_json::Value>,
}

fn epsilon() -> f64 {
    1e-5
}

fn tied() -> bool {
    true
}

/// The one value of a field that has two spellings.
fn either(names: [&str; 2], values: [Option<usize>; 2]) -> Result<usize, ConfigError> {
    let [first, second] = names;
    match values {
        [Some(a), Some(b)] if a != b => Err(ConfigError::Inconsistent(format!(
            "`{first}` is {a}, and `{second}`, which means the same, is {b}"
        ))),
        [Some(value), _] | [None, Some(value)] => Ok(value),
        [None, None] => {
            Err(ConfigError::Inconsistent(format!("neither `{first}` nor `{second}` is there")))
        }
    }
}

fn read(json: &[u8]) -> Result<Config, ConfigError> {
    let fields: Fields = serde_json::from_slice(json)?;
    let refuse = |field, value, expected| Err(ConfigError::Unsupported { field, value, expected });
    for (field, rate) in
        [("hidden_dropout", fields.hidden_dropout), ("attention_dropout", fields.attention_dropout)]
    {
        if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
            return refuse(field, rate.to_string(), "only LoRA has dropout here");
        }
    }
    if fields.quantization_config.is_some() {
        let expected = "use the f32, f16 or bf16 checkpoint";
        return refuse("quantization_config", "…".to_owned(), expected);
    }
    let hidden = either(["hidden_size", "n_embed"], [fields.hidden_size, fields.n_embed])?;
    let layers =
        either(["n_layer", "num_hidden_layers"], [fields.n_layer, fields.num_hidden_layers])?;
    let heads =
        either(["n_head", "num_attention_heads"], [fields.n_head, fields.num_attention_heads])?;
    if heads > 0 && !hidden.is_multiple_of(heads) {
        let what = format!("{heads} heads do not divide a width of {hidden} evenly");
        return Err(ConfigError::Inconsistent(what));
    }
    Ok(Config {
        family: Family::Bloom,
        architecture: String::new(),
        vocab: fields.vocab_size,
        hidden,
        inner: 4 * hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads.max(1),
        norm_eps: fields.layer_norm_epsilon,
        position: Position::Alibi,
        biases: Biases { qkv: true, output: true, mlp: true },
        residual_after_norm: fields.apply_residual_connection_post_layernorm,
        tied: fields.tie_word_embeddings,
        max_positions: None,
        pad: fields.pad_token_id.0.first().copied(),
        bos: fields.bos_token_id.0.first().copied(),
        eos: fields.eos_token_id.0,
    })
}

const EMBEDDINGS: &str = "transformer.word_embeddings.weight";
const EMBEDDING_NORM: &str = "transformer.word_embeddings_layernorm";
const FINAL_NORM: &str = "transformer.ln_f";

/// The rows of queries (`part` 0), keys (1) or values (2) in the fused module, `[head][q, k, v][head_dim]`.
fn rows_of(config: &Config, part: usize) -> Vec<Range<usize>> {
    let width = config.head_dim;
    let start = |head: usize| (3 * head + part) * width;
    (0..config.heads).map(|head| start(head)..start(head) + width).collect()
}

/// The family itself.
pub(super) struct Bloom;

impl Rules for Bloom {
    fn architectures(&self) -> &'static [&'static str] {
        ARCHITECTURES
    }

    fn targets(&self) -> &'static [&'static str] {
        &TARGETS
    }

    fn default_targets(&self) -> &'static [&'static str] {
        &["query_key_value"]
    }

    fn read(&self, json: &[u8]) -> Result<Config, ConfigError> {
        read(json)
    }

    fn linear(&self, config: &Config, target: &str) -> Option<(usize, usize)> {
        let (hidden, inner) = (config.hidden, config.inner);
        Some(match target {
            "query_key_value" => (hidden, 3 * hidden),
            "dense" => (hidden, hidden),
            "dense_h_to_4h" => (hidden, inner),
            "dense_4h_to_h" => (inner, hidden),
            _ => return None,
        })
    }

    fn module(&self, layer: usize, target: &str) -> Option<String> {
        let part = match target {
            "query_key_value" | "dense" => "self_attention",
            "dense_h_to_4h" | "dense_4h_to_h" => "mlp",
            _ => return None,
        };
        Some(format!("transformer.h.{layer}.{part}.{target}"))
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embeddings(&self) -> &'static str {
        EMBEDDINGS
    }

    fn expected(&self, config: &Config) -> Vec<Expected> {
        let mut list = vec![Expected::new(EMBEDDINGS, &[config.vocab, config.hidden])];
        let mut norm = |path: &str| {
            for half in ["weight", "bias"] {
                list.push(Expected::new(format!("{path}.{half}"), &[config.hidden]));
            }
        };
        norm(EMBEDDING_NORM);
        norm(FINAL_NORM);
        for layer in 0..config.layers {
            norm(&format!("transformer.h.{layer}.input_layernorm"));
            norm(&format!("transformer.h.{layer}.post_attention_layernorm"));
        }
        for (layer, target) in (0..config.layers).flat_map(|layer| TARGETS.map(|t| (layer, t))) {
            let widths = self.linear(config, target).zip(self.module(layer, target));
            let ((inputs, outputs), path) = widths.expect("every target is known");
            list.push(Expected::new(format!("{path}.weight"), &[outputs, inputs]));
            list.push(Expected::new(format!("{path}.bias"), &[outputs]));
        }
        list
    }

    fn norms(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        device: &Device,
    ) -> Result<(Option<Norm>, Norm), WeightsError> {
        let norm = |path: &str| norm(config, checkpoint, path, device);
        Ok((Some(norm(EMBEDDING_NORM)?), norm(FINAL_NORM)?))
    }

    fn block(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        layer: usize,
        device: &Device,
    ) -> Result<Block, WeightsError> {
        let path = |slot: usize| self.module(layer, TARGETS[slot]).expect("every target is known");
        let linear = |slot: usize| -> Result<Linear, WeightsError> {
            let weight = checkpoint.matrix(&format!("{}.weight", path(slot)), device)?;
            let bias = checkpoint.vector(&format!("{}.bias", path(slot)), device)?;
            Ok(Linear::new(slot, Affine::new(weight, Some(bias))))
        };
        let part = |part: usize| -> Result<Affine, WeightsError> {
            let rows = rows_of(config, part);
            let weight = checkpoint.matrix_rows(&format!("{}.weight", path(0)), &rows, device)?;
            let bias = checkpoint.vector_rows(&format!("{}.bias", path(0)), &rows, device)?;
            Ok(Affine::new(weight, Some(bias)))
        };
        let norm =
            |name: &str| norm(config, checkpoint, &format!("transformer.h.{layer}.{name}"), device);
        let fused = Fused::new(0, config.heads, [part(0)?, part(1)?, part(2)?]);
        Ok(Block {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::new(config, Projections::Fused(fused), linear(1)?, device),
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp { gate: None, up: linear(2)?, down: linear(3)? },
            residual_after_norm: config.residual_after_norm,
        })
    }
}

fn norm(
    config: &Config,
    checkpoint: &Checkpoint<'_>,
    path: &str,
    device: &Device,
) -> Result<Norm, WeightsError> {
    let gains = checkpoint.vector(&format!("{path}.weight"), device)?;
    let shift = checkpoint.vector(&format!("{path}.bias"), device)?;
    Ok(Norm::layer(gains, shift, config.norm_eps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_sizes_are_read() {
        let old = br#"{"architectures": ["BloomForCausalLM"], "vocab_size": 48, "n_embed": 24,
            "n_layer": 2, "num_attention_heads": 6, "pad_token_id": 3}"#;
        let new = br#"{"architectures": ["BloomForCausalLM"], "vocab_size": 48, "hidden_size": 24,
            "num_hidden_layers": 2, "n_head": 6, "pad_token_id": 3}"#;
        let (old, new) = (Config::parse(old).unwrap(), Config::parse(new).unwrap());
        assert_eq!(old, new);
        assert_eq!((old.head_dim, old.inner, old.max_positions), (4, 96, None));
        assert!(old.tied);
        assert_eq!(rows_of(&old, 1)[..2], [4..8, 16..20]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let refused = |sizes: &str| {
            let json = format!(r#"{{"architectures": ["BloomModel"], "vocab_size": 48, {sizes}}}"#);
            Config::parse(json.as_bytes()).unwrap_err().to_string()
        };
        let text = refused(r#""n_embed": 24, "hidden_size": 32, "n_layer": 1, "n_head": 4"#);
        assert!(text.contains("`hidden_size` is 32, and `n_embed`"), "{text}");
        let text = refused(r#""n_embed": 24, "n_layer": 1"#);
        assert!(text.contains("neither `n_head` nor `num_attention_heads`"), "{text}");
        let text = refused(r#""n_embed": 24, "n_layer": 1, "n_head": 5"#);
        assert!(text.contains("5 heads do not divide a width of 24"), "{text}");
    }
}
