//! An adapter as a folder that `PeftModel.from_pretrained` loads.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::{CONFIG_FILE, TENSORS_FILE};
use super::one_lora;
use crate::error::{Error, Result};
use crate::kinds::Adapter;
use crate::model::{Config, Layers, LoraConfig, Module, Targets};

/// What PEFT must be told of the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseName {
    /// `owner/name` on the Hub, or a folder.
    pub name: String,
    /// The commit on the Hub.
    pub revision: Option<String>,
}

/// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, and gives the settings of what was
/// written: those of [`one_lora`], of a larger rank where a rule has added to the base.
///
/// # Errors
/// The adapter does not fit the base, or a file cannot be written.
pub fn write_adapter(
    folder: &Path,
    adapter: &Adapter,
    config: &Config,
    base: &BaseName,
) -> Result<LoraConfig> {
    let (tensors, lora) = one_lora(adapter, config)?;
    let settings = settings(adapter, &lora, config, base)?;
    let mut text = serde_json::to_vec_pretty(&settings)
        .map_err(|e| Error::failed(format!("the settings cannot be written: {e}")))?;
    text.push(b'\n');
    write(&folder.join(CONFIG_FILE), &text)?;
    write(&folder.join(TENSORS_FILE), &tensors.to_safetensors())?;
    Ok(lora)
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io("write", path, e))
}

/// The smallest set of settings that PEFT needs, and that every version of it knows.
fn settings(
    adapter: &Adapter,
    lora: &LoraConfig,
    config: &Config,
    base: &BaseName,
) -> Result<Value> {
    let modules = lora.modules(config)?;
    let is_classifier = !adapter.config.labels.is_empty();
    let layers = match &lora.layers {
        // A pattern and a list of blocks are more than PEFT takes together; the pattern is then written out.
        Layers::All => Value::Null,
        _ if matches!(lora.targets, Some(Targets::Pattern(_))) => Value::Null,
        layers => json!(
            (0..config.layers).filter(|&at| layers.has(at, config.layers)).collect::<Vec<_>>()
        ),
    };
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("peft_type", json!("LORA"));
    put("task_type", json!(if is_classifier { "SEQ_CLS" } else { "CAUSAL_LM" }));
    put("base_model_name_or_path", json!(base.name));
    put("revision", json!(base.revision));
    put("inference_mode", json!(true));
    put("r", json!(lora.rank));
    put("lora_alpha", number(lora.alpha));
    put("lora_dropout", number(lora.dropout));
    put("use_rslora", json!(lora.rslora));
    put("bias", json!("none"));
    put("fan_in_fan_out", json!(false));
    put("init_lora_weights", json!(true));
    put("target_modules", targets(lora, config, &modules));
    put("layers_to_transform", layers);
    put("rank_pattern", json!(lora.rank_pattern));
    let alphas = lora.alpha_pattern.iter().map(|(name, alpha)| (name.clone(), number(*alpha)));
    put("alpha_pattern", Value::Object(alphas.collect()));
    let saved = if is_classifier { json!(["classifier", "score"]) } else { Value::Null };
    put("modules_to_save", saved);
    Ok(Value::Object(fields))
}

/// Whole numbers without a fraction, as PEFT writes them.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
    if value.fract() == 0.0 && value.abs() < 1e9 { json!(value as i64) } else { json!(value) }
}

fn targets(lora: &LoraConfig, config: &Config, modules: &[Module]) -> Value {
    match (&lora.targets, &lora.layers) {
        (Some(Targets::Names(names)), _) => {
            let mut names = names.clone();
            names.sort_unstable();
            json!(names)
        }
        // Python's expressions are not quite Rust's: the paths that were found are what is meant.
        (Some(Targets::Pattern(pattern)), layers)
            if !pattern.eq_ignore_ascii_case(crate::model::ALL_LINEAR)
                || *layers != Layers::All =>
        {
            json!(modules.iter().map(|module| &module.path).collect::<Vec<_>>())
        }
        _ => {
            let known = config.family.targets();
            let mut names: Vec<&str> = modules.iter().map(|module| known[module.slot]).collect();
            names.sort_unstable();
            names.dedup();
            json!(names)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::AdapterConfig;
    use crate::model::tiny;
    use crate::peft::{AdapterTensors, init_adapter, read_settings};

    fn adapter(lora: LoraConfig, labels: &[&str]) -> Adapter {
        let tensors = init_adapter(&tiny::config(), &lora, labels.len(), 3).unwrap();
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Adapter { config: AdapterConfig { lora, labels }, tensors, trained: None, delta: None }
    }

    fn back(adapter: &Adapter) -> (Value, LoraConfig, AdapterTensors) {
        let folder = tempfile::tempdir().unwrap();
        let base = BaseName { name: "owner/name".to_owned(), revision: None };
        write_adapter(folder.path(), adapter, &tiny::config(), &base).unwrap();
        let text = std::fs::read(folder.path().join(CONFIG_FILE)).unwrap();
        let tensors = std::fs::read(folder.path().join(TENSORS_FILE)).unwrap();
        let tensors = AdapterTensors::from_safetensors(&tensors).unwrap();
        let lora = read_settings(folder.path()).unwrap();
        (serde_json::from_slice(&text).unwrap(), lora, tensors)
    }

    #[test]
    fn what_is_written_is_read_as_the_same_adapter() {
        let lora = LoraConfig {
            targets: Some(Targets::names(&["q_proj", "up_proj"])),
            rank_pattern: [("up_proj".to_owned(), 2)].into(),
            alpha_pattern: [("up_proj".to_owned(), 0.5)].into(),
            dropout: 0.1,
            rslora: true,
            layers: Layers::Only(vec![0, 2]),
            ..LoraConfig::of_rank(4)
        };
        let written = adapter(lora.clone(), &["bad", "good"]);
        let (settings, read, tensors) = back(&written);
        assert_eq!((read, &tensors), (lora, &written.tensors));
        assert_eq!(settings["task_type"], "SEQ_CLS");
        assert_eq!(settings["modules_to_save"], json!(["classifier", "score"]));
        assert_eq!(settings["lora_alpha"].to_string(), "16");
    }

    #[test]
    fn targets_are_written_so_that_peft_finds_the_same_modules() {
        let of = |targets: Option<Targets>, layers: Layers| {
            let lora = LoraConfig { targets, layers, ..LoraConfig::of_rank(2) };
            let modules = lora.modules(&tiny::config()).unwrap();
            let (settings, read, _) = back(&adapter(lora, &[]));
            assert_eq!(read.modules(&tiny::config()).unwrap(), modules);
            assert_eq!(settings["task_type"], "CAUSAL_LM");
            settings["target_modules"].clone()
        };
        assert_eq!(of(None, Layers::All), json!(["q_proj", "v_proj"]));
        let all = of(Some(Targets::Pattern("all-linear".to_owned())), Layers::All);
        assert_eq!(all.as_array().unwrap().len(), 7);
        let pattern = Some(Targets::Pattern(r".*\.1\..*[qk]_proj".to_owned()));
        let paths = ["q", "k"].map(|half| format!("model.layers.1.self_attn.{half}_proj"));
        assert_eq!(of(pattern.clone(), Layers::All), json!(paths));
        assert_eq!(of(pattern, Layers::Last(2)), json!(paths));
        of(None, Layers::Last(2));
        of(Some(Targets::names(&["q_proj", "model.layers.0.mlp.up_proj"])), Layers::Only(vec![2]));
    }
}
