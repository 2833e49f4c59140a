//! The Llama family: how its `config.json` and the names in its checkpoints map onto the decoder.

use burn::tensor::Device;
use serde::Deserialize;

use super::attention::{Attention, Projections};
use super::block::Block;
use super::config::{Biases, Config, ConfigError, Position, TokenIds};
use super::family::{Family, Rules};
use super::linear::{Affine, Linear};
use super::mlp::Mlp;
use super::norm::Norm;
use super::rope::{Rope, Scaling};
use super::weights::{Checkpoint, Expected, WeightsError};

/// The architectures of this family.
const ARCHITECTURES: &[&str] = &[
    "LlamaForCausalLM",
    "LlamaForSequenceClassification",
    "LlamaModel",
    "MistralForCausalLM",
    "MistralForSequenceClassification",
    "Qwen2ForCausalLM",
    "Qwen2ForSequenceClassification",
];

/// What an adapter may target, in the order of their slots.
const TARGETS: [&str; 7] =
    ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The fields of `config.json` that matter here.
#[derive(Deserialize)]
struct Fields {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeFields>,
    rope_parameters: Option<RopeFields>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    pad_token_id: TokenIds,
    #[serde(default)]
    bos_token_id: TokenIds,
    #[serde(default)]
    eos_token_id: TokenIds,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    sliding_window: Window,
    /// Qwen2 names a window that it does not use.
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    attention_dropout: Option<f64>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<serde_json::Value>,
}

/// `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
#[derive(Deserialize)]
struct RopeFields {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// A sliding window. Absent and null are not the same: what is absent has its default.
#[derive(Clone, Copy, Default)]
enum Window {
    #[default]
    Absent,
    None,
    Of(usize),
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(from)?.map_or(Self::None, Self::Of))
    }
}

/// What `rope_theta` is unless given.
const THETA: f64 = 10_000.0;

/// The members of the family that differ in what a field means or is when it is absent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Llama,
    Mistral,
    Qwen2,
}

impl Member {
    fn of(fields: &Fields) -> Self {
        let first = fields.architectures.as_ref().and_then(|all| all.first());
        let name = first.or(fields.model_type.as_ref()).map_or("", String::as_str);
        let name = name.to_ascii_lowercase();
        match name {
            name if name.starts_with("mistral") => Self::Mistral,
            name if name.starts_with("qwen2") => Self::Qwen2,
            _ => Self::Llama,
        }
    }

    /// The number of key and value heads of a base with `heads` heads whose config does not say it.
    fn kv_heads(self, heads: usize) -> usize {
        match self {
            Self::Llama => heads,
            Self::Mistral => 8,
            Self::Qwen2 => 32,
        }
    }
}

fn positions() -> usize {
    2048
}

/// Reads a `config.json` of this family.
fn read(json: &[u8]) -> Result<Config, ConfigError> {
    let fields: Fields = serde_json::from_slice(json)?;
    let member = Member::of(&fields);
    refuse_unsupported(&fields, member)?;
    let heads = fields.num_attention_heads;
    Ok(Config {
        family: Family::Llama,
        architecture: String::new(),
        vocab: fields.vocab_size,
        hidden: fields.hidden_size,
        inner: fields.intermediate_size,
        layers: fields.num_hidden_layers,
        heads,
        kv_heads: fields.num_key_value_heads.unwrap_or(member.kv_heads(heads)),
        head_dim: fields.head_dim.unwrap_or(fields.hidden_size / heads.max(1)),
        norm_eps: fields.rms_norm_eps,
        position: Position::Rotary(rope(&fields)?),
        biases: biases(&fields, member),
        residual_after_norm: false,
        tied: fields.tie_word_embeddings,
        max_positions: Some(fields.max_position_embeddings),
        pad: fields.pad_token_id.0.first().copied(),
        bos: fields.bos_token_id.0.first().copied(),
        eos: fields.eos_token_id.0,
    })
}

/// Qwen2 has biases without saying so; in Llama one switch is for all of attention.
fn biases(fields: &Fields, member: Member) -> Biases {
    let attention = fields.attention_bias;
    Biases { qkv: attention || member == Member::Qwen2, output: attention, mlp: fields.mlp_bias }
}

fn refuse_unsupported(fields: &Fields, member: Member) -> Result<(), ConfigError> {
    let refuse =
        |field, value: String, expected| Err(ConfigError::Unsupported { field, value, expected });
    match fields.hidden_act.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => return refuse("hidden_act", other.to_owned(), "it must be `silu`"),
    }
    let window = match (fields.sliding_window, member) {
        (Window::Of(window), Member::Llama | Member::Mistral) => Some(window),
        (Window::Absent, Member::Mistral) => Some(4096),
        (Window::Of(window), Member::Qwen2) if fields.use_sliding_window == Some(true) => {
            Some(window)
        }
        _ => None,
    };
    if let Some(window) = window {
        return refuse(
            "sliding_window",
            window.to_string(),
            "attention is over the whole sequence: it must be there and be null",
        );
    }
    let mut kinds = fields.layer_types.iter().flatten();
    if let Some(kind) = kinds.find(|kind| *kind != "full_attention") {
        return refuse("layer_types", kind.clone(), "attention is over the whole sequence");
    }
    if let Some(share) = fields.partial_rotary_factor.filter(|share| *share < 1.0) {
        return refuse("partial_rotary_factor", share.to_string(), "whole heads are rotated");
    }
    if let Some(rate) = fields.attention_dropout.filter(|rate| *rate > 0.0) {
        return refuse("attention_dropout", rate.to_string(), "only LoRA has dropout here");
    }
    if fields.quantization_config.is_some() {
        return refuse(
            "quantization_config",
            "…".to_owned(),
            "use the f32, f16 or bf16 checkpoint",
        );
    }
    Ok(())
}

fn rope(fields: &Fields) -> Result<Rope, ConfigError> {
    let theta = fields.rope_theta.unwrap_or(THETA);
    // Where a file has both, transformers goes by the older.
    let Some(scaling) = fields.rope_scaling.as_ref().or(fields.rope_parameters.as_ref()) else {
        return Ok(Rope { theta, scaling: Scaling::Default });
    };
    let need = |value: Option<f64>, name: &str| {
        let missing = || ConfigError::Inconsistent(format!("rope scaling has no `{name}`"));
        value.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(missing)
    };
    let named = scaling.rope_type.as_deref().or(scaling.r#type.as_deref());
    let scaling_kind = named.unwrap_or("default");
    let kind = match scaling_kind {
        "default" => Scaling::Default,
        "linear" => Scaling::Linear { factor: need(scaling.factor, "factor")? },
        "llama3" => Scaling::Llama3 {
            factor: need(scaling.factor, "factor")?,
            low: need(scaling.low_freq_factor, "low_freq_factor")?,
            high: need(scaling.high_freq_factor, "high_freq_factor")?,
            original: need(
                scaling.original_max_position_embeddings,
                "original_max_position_embeddings",
            )?,
        },
        other => {
            return Err(ConfigError::Unsupported {
                field: "rope_type",
                value: other.to_owned(),
                expected: "it must be `default`, `linear` or `llama3`",
            });
        }
    };
    // The base of the series may stand in either, whichever has the scaling.
    let parameters = fields.rope_parameters.as_ref().and_then(|all| all.rope_theta);
    Ok(Rope {
        theta: scaling.rope_theta.or(fields.rope_theta).or(parameters).unwrap_or(THETA),
        scaling: kind,
    })
}

const EMBEDDINGS: &str = "model.embed_tokens.weight";
const FINAL_NORM: &str = "model.norm.weight";

/// The family itself.
pub(super) struct Llama;

impl Rules for Llama {
    fn architectures(&self) -> &'static [&'static str] {
        ARCHITECTURES
    }

    fn targets(&self) -> &'static [&'static str] {
        &TARGETS
    }

    fn default_targets(&self) -> &'static [&'static str] {
        &["q_proj", "v_proj"]
    }

    fn read(&self, json: &[u8]) -> Result<Config, ConfigError> {
        read(json)
    }

    fn linear(&self, config: &Config, target: &str) -> Option<(usize, usize)> {
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        Some(match target {
            "q_proj" => (config.hidden, queries),
            "k_proj" | "v_proj" => (config.hidden, keys),
            "o_proj" => (queries, config.hidden),
            "gate_proj" | "up_proj" => (config.hidden, config.inner),
            "down_proj" => (config.inner, config.hidden),
            _ => return None,
        })
    }

    fn module(&self, layer: usize, target: &str) -> Option<String> {
        let part = match target {
            "q_proj" | "k_proj" | "v_proj" | "o_proj" => "self_attn",
            "gate_proj" | "up_proj" | "down_proj" => "mlp",
            _ => return None,
        };
        Some(format!("model.layers.{layer}.{part}.{target}"))
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn embeddings(&self) -> &'static str {
        EMBEDDINGS
    }

    fn expected(&self, config: &Config) -> Vec<Expected> {
        let mut list = vec![
            Expected::new(EMBEDDINGS, &[config.vocab, config.hidden]),
            Expected::new(FINAL_NORM, &[config.hidden]),
        ];
        for layer in 0..config.layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                let name = format!("model.layers.{layer}.{norm}.weight");
                list.push(Expected::new(name, &[config.hidden]));
            }
            for target in TARGETS {
                let widths = self.linear(config, target).zip(self.module(layer, target));
                let ((inputs, outputs), path) = widths.expect("every target is known");
                list.push(Expected::new(format!("{path}.weight"), &[outputs, inputs]));
                if has_bias(config, target) {
                    list.push(Expected::new(format!("{path}.bias"), &[outputs]));
                }
            }
        }
        list
    }

    fn may_ignore(&self, name: &str) -> bool {
        // Old checkpoints carry the rotary frequencies.
        name.ends_with(".rotary_emb.inv_freq")
    }

    fn norms(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        device: &Device,
    ) -> Result<(Option<Norm>, Norm), WeightsError> {
        Ok((None, Norm::rms(checkpoint.vector(FINAL_NORM, device)?, config.norm_eps)))
    }

    fn block(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        layer: usize,
        device: &Device,
    ) -> Result<Block, WeightsError> {
        let linear = |slot: usize| -> Result<Linear, WeightsError> {
            let target = TARGETS[slot];
            let path = self.module(layer, target).expect("every target is known");
            let weight = checkpoint.matrix(&format!("{path}.weight"), device)?;
            let bias = has_bias(config, target)
                .then(|| checkpoint.vector(&format!("{path}.bias"), device));
            Ok(Linear::new(slot, Affine::new(weight, bias.transpose()?)))
        };
        let norm = |name: &str| -> Result<Norm, WeightsError> {
            let gains =
                checkpoint.vector(&format!("model.layers.{layer}.{name}.weight"), device)?;
            Ok(Norm::rms(gains, config.norm_eps))
        };
        let projections =
            Projections::Apart { query: linear(0)?, key: linear(1)?, value: linear(2)? };
        Ok(Block {
            attention_norm: norm("input_layernorm")?,
            attention: Attention::new(config, projections, linear(3)?, device),
            mlp_norm: norm("post_attention_layernorm")?,
            mlp: Mlp { gate: Some(linear(4)?), up: linear(5)?, down: linear(6)? },
            residual_after_norm: config.residual_after_norm,
        })
    }
}

fn has_bias(config: &Config, target: &str) -> bool {
    match target {
        "q_proj" | "k_proj" | "v_proj" => config.biases.qkv,
        "o_proj" => config.biases.output,
        _ => config.biases.mlp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: &str) -> Vec<u8> {
        let mut value: serde_json::Value = serde_json::from_str(
            r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16,
                "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
                "rms_norm_eps": 1e-5}"#,
        )
        .unwrap();
        let change: serde_json::Value = serde_json::from_str(change).unwrap();
        for (key, new) in change.as_object().unwrap() {
            value[key] = new.clone();
        }
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let old = Config::parse(&text(
            r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}"#,
        ));
        let new = Config::parse(&text(
            r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2}}"#,
        ));
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!(old, new);
        let rope = Rope { theta: 5e5, scaling: Scaling::Linear { factor: 2.0 } };
        assert_eq!(old.position, Position::Rotary(rope));
        assert_eq!((old.kv_heads, old.head_dim), (4, 4));
        assert_eq!(old.linear("gate_proj"), Some((16, 24)));
        assert_eq!(old.linear("query_key_value"), None);
    }

    #[test]
    fn what_is_absent_has_the_default_of_its_architecture() {
        let mistral = |more: &str| {
            let change = format!(r#"{{"architectures": ["MistralForCausalLM"]{more}}}"#);
            Config::parse(&text(&change)).map_err(|error| error.to_string())
        };
        let error = mistral(r#", "num_key_value_heads": 2"#).unwrap_err();
        assert!(error.contains("`sliding_window: 4096`"), "{error}");
        let config = mistral(r#", "num_key_value_heads": 2, "sliding_window": null"#).unwrap();
        assert_eq!(config.kv_heads, 2);
        let error = mistral(r#", "sliding_window": null"#).unwrap_err();
        assert!(error.contains("4 heads do not share 8"), "{error}");
        let qwen = r#"{"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 4,
            "sliding_window": 4096, "use_sliding_window": true}"#;
        assert!(Config::parse(&text(qwen)).is_err());
    }

    #[test]
    fn rope_is_read_as_transformers_does() {
        let rope = |change: &str| Config::parse(&text(change)).unwrap().position;
        let linear = Scaling::Linear { factor: 4.0 };
        let both = r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
            "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4}}"#;
        assert_eq!(rope(both), Position::Rotary(Rope { theta: 5e5, scaling: linear }));
        let nulls = r#"{"rope_theta": null, "rope_scaling": null, "layer_types": null}"#;
        let plain = Rope { theta: 1e4, scaling: Scaling::Default };
        assert_eq!(rope(nulls), Position::Rotary(plain));
    }

    #[test]
    fn token_ids_may_be_lists_or_missing() {
        let json = r#"{"eos_token_id": [7, 8], "pad_token_id": -1, "bos_token_id": null}"#;
        let config = Config::parse(&text(json)).unwrap();
        assert_eq!((config.eos, config.pad, config.bos), (vec![7, 8], None, None));
    }

    #[test]
    fn biases_are_where_the_architecture_has_them() {
        let biases = |change: &str| Config::parse(&text(change)).unwrap().biases;
        assert_eq!(biases("{}"), Biases::default());
        let all = biases(r#"{"attention_bias": true, "mlp_bias": true}"#);
        assert_eq!(all, Biases { qkv: true, output: true, mlp: true });
        let qwen = r#"{"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2,
            "sliding_window": 4096}"#;
        assert_eq!(biases(qwen), Biases { qkv: true, output: false, mlp: false });
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (change, sentence) in [
            (
                r#"{"architectures": ["GPT2LMHeadModel"]}"#,
                "architecture `GPT2LMHeadModel` is not supported; supported are `LlamaForCausalLM`",
            ),
            (r#"{"layer_types": ["sliding_attention"]}"#, "`layer_types: sliding_attention`"),
            (r#"{"attention_dropout": 0.1}"#, "`attention_dropout: 0.1` in config.json"),
            (r#"{"hidden_act": "gelu"}"#, "`hidden_act: gelu` in config.json"),
            (r#"{"sliding_window": 4096}"#, "`sliding_window: 4096` in config.json"),
            (r#"{"rope_scaling": {"rope_type": "yarn"}}"#, "`rope_type: yarn` in config.json"),
            (r#"{"num_key_value_heads": 3}"#, "4 heads do not share 3 key and value heads evenly"),
            (r#"{"num_attention_heads": 0}"#, "a size is 0"),
        ] {
            let error = Config::parse(&text(change)).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
