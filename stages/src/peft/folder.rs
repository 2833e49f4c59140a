//! A PEFT adapter folder, read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::{Init, Layers, LoraConfig, Targets};

/// The file with the settings.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// The file with the tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// The fields of `adapter_config.json` that make a LoRA adapter what it is.
#[derive(Deserialize)]
struct Fields {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Option<Targets>,
    #[serde(default)]
    rank_pattern: Option<BTreeMap<String, usize>>,
    #[serde(default)]
    alpha_pattern: Option<BTreeMap<String, f64>>,
    layers_to_transform: Option<Blocks>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// One block or a list of them.
struct Blocks(Vec<usize>);

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let list = value.as_array().cloned().unwrap_or_else(|| vec![value]);
        let block = |value: &Value| value.as_u64().and_then(|block| usize::try_from(block).ok());
        let blocks = list.iter().map(block).collect::<Option<Vec<usize>>>();
        blocks.map(Self).ok_or_else(|| serde::de::Error::custom("blocks are whole numbers"))
    }
}

/// What must be as here where it is given: with another value the adapter would mean something else.
const PLAIN: [(&str, &[&str]); 13] = [
    // Others (PiSSA, OLoRA, LoftQ, CorDA ..) change the base when PEFT loads the adapter.
    ("init_lora_weights", &["true", "false", "gaussian", "orthogonal", "null"]),
    ("bias", &["none"]),
    ("use_dora", &["false"]),
    ("fan_in_fan_out", &["false"]),
    ("lora_bias", &["false"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["false", "null"]),
    ("layers_pattern", &["null", "[]"]),
    ("layer_replication", &["null"]),
    ("exclude_modules", &["null", "[]"]),
    ("target_parameters", &["null", "[]"]),
    ("trainable_token_indices", &["null"]),
    ("alora_invocation_tokens", &["null"]),
];

/// The LoRA settings of a PEFT adapter folder.
///
/// # Errors
/// The folder has no such adapter, or one that does not mean `W + s·B·A` on linear modules.
pub fn read_settings(folder: &Path) -> Result<LoraConfig> {
    let path = folder.join(CONFIG_FILE);
    let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let shown = path.display();
    let fields: Fields = serde_json::from_slice(&text)
        .map_err(|e| Error::input(format!("`{shown}` is not that of a LoRA adapter: {e}")))?;
    let refuse = |field: &str, value: &str| {
        Err(Error::input(format!("`{shown}` has `{field}: {value}`, which is not supported here"))
            .with_hint("only plain LoRA can be started from: bias none, no DoRA, linear modules, a base that is as it was; PEFT can convert others"))
    };
    if fields.peft_type != "LORA" {
        return refuse("peft_type", &fields.peft_type);
    }
    for (field, plain) in PLAIN {
        let value = fields.others.get(field).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        if let Some(value) = value.filter(|value| !plain.contains(&value.as_str())) {
            return refuse(field, &value);
        }
    }
    let saved = fields.modules_to_save.unwrap_or_default();
    if let Some(other) = saved.iter().find(|name| !["score", "classifier"].contains(&name.as_str()))
    {
        return refuse("modules_to_save", other);
    }
    Ok(LoraConfig {
        rank: fields.r,
        alpha: fields.lora_alpha,
        targets: fields.target_modules.map(sorted),
        rank_pattern: fields.rank_pattern.unwrap_or_default(),
        alpha_pattern: fields.alpha_pattern.unwrap_or_default(),
        dropout: fields.lora_dropout,
        rslora: fields.use_rslora,
        layers: match fields.layers_to_transform {
            Some(Blocks(list)) if !list.is_empty() => Layers::Only(list),
            _ => Layers::All,
        },
        init: Init::Kaiming,
    })
}

/// PEFT writes names in the order of a set, which varies.
fn sorted(targets: Targets) -> Targets {
    match targets {
        Targets::Names(mut names) => {
            names.sort_unstable();
            Targets::Names(names)
        }
        pattern @ Targets::Pattern(_) => pattern,
    }
}

/// Where the tensors of a PEFT adapter folder lie.
///
/// # Errors
/// They are not there, or in torch's own format.
pub fn tensors_path(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(TENSORS_FILE);
    if path.is_file() {
        return Ok(path);
    }
    let error = Error::input(format!("`{}` has no {TENSORS_FILE}", folder.display()));
    let is_pickled = folder.join("adapter_model.bin").is_file();
    Err(if is_pickled {
        error.with_hint("it has adapter_model.bin: save it again with a PEFT of 2024 or later")
    } else {
        error.with_hint(
            "a PEFT adapter folder has adapter_config.json and adapter_model.safetensors",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &str) -> Result<LoraConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut value = serde_json::json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "bias": "none",
            "target_modules": ["v_proj", "q_proj"], "use_dora": false, "layers_to_transform": null,
            "rank_pattern": {}, "modules_to_save": ["classifier", "score"], "task_type": "SEQ_CLS",
            "exclude_modules": null, "loftq_config": {},
        });
        let change: Value = serde_json::from_str(change).unwrap();
        for (key, new) in change.as_object().unwrap() {
            value[key] = new.clone();
        }
        std::fs::write(folder.path().join(CONFIG_FILE), value.to_string()).unwrap();
        read_settings(folder.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_are_read_as_peft_writes_them() {
        let lora = read("{}").unwrap();
        let wanted = LoraConfig {
            dropout: 0.1,
            targets: Some(Targets::names(&["q_proj", "v_proj"])),
            ..LoraConfig::of_rank(8)
        };
        assert_eq!(lora, wanted);
        assert_eq!(read(r#"{"layers_to_transform": []}"#).unwrap().layers, Layers::All);
        let change = r#"{"target_modules": "all-linear", "layers_to_transform": 3, "use_rslora": true,
            "rank_pattern": {"q_proj": 4}}"#;
        let lora = read(change).unwrap();
        assert_eq!(lora.targets, Some(Targets::Pattern("all-linear".to_owned())));
        assert_eq!(lora.layers, Layers::Only(vec![3]));
        assert!(lora.rslora);
        assert_eq!(lora.rank_pattern["q_proj"], 4);
    }

    #[test]
    fn what_is_not_plain_lora_is_refused_by_name() {
        for (change, field) in [
            (r#"{"peft_type": "IA3"}"#, "`peft_type: IA3`"),
            (r#"{"use_dora": true}"#, "`use_dora: true`"),
            (r#"{"bias": "all"}"#, "`bias: all`"),
            (r#"{"init_lora_weights": "pissa"}"#, "`init_lora_weights: pissa`"),
            (r#"{"modules_to_save": ["embed_tokens"]}"#, "`modules_to_save: embed_tokens`"),
        ] {
            let text = read(change).unwrap_err();
            assert!(text.contains(field), "{text}");
        }
        assert!(read(r#"{"r": "eight"}"#).unwrap_err().contains("not that of a LoRA adapter"));
        let folder = tempfile::tempdir().unwrap();
        let text = tensors_path(folder.path()).unwrap_err().to_string();
        assert!(text.contains("has no adapter_model.safetensors"), "{text}");
    }
}
