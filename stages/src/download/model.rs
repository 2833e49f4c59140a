//! Which files make a model, and where they lie.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::cache::names_under;
use super::{Hub, Kind, NamedFile, Progress};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Taken along where they are there.
const OPTIONAL: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// The files of the model in a folder as Hugging Face lays it out, sorted by name.
///
/// These are `config.json`, `tokenizer.json`, the weights (`model.safetensors`, or its index and
/// the shards that it names), and the tokenizer's settings where there are any. A folder without
/// one that is needed is an error that says what it has instead.
pub fn model_files(folder: &Path) -> Result<Vec<NamedFile>> {
    let shown = folder.display().to_string();
    if !folder.is_dir() {
        let fault = if folder.exists() { "is no folder" } else { "does not exist" };
        return Err(Error::input(format!("the model folder `{shown}` {fault}")));
    }
    let names = names_under(folder);
    let mut wanted = wanted(&shown, &names)?;
    if wanted.contains(INDEX) {
        let path = folder.join(INDEX);
        let bytes = fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
        wanted.extend(shards(&shown, &names, &bytes)?);
    }
    Ok(wanted
        .into_iter()
        .map(|name| {
            let path = folder.join(&name);
            (name, path)
        })
        .collect())
}

/// The files of a model on the Hub, as [`model_files`] gives them, fetched into its cache.
pub fn fetch_model(
    hub: &Hub,
    repo: &str,
    commit: &str,
    progress: &mut Progress<'_>,
) -> Result<Vec<NamedFile>> {
    let names = hub.list(Kind::Model, repo, commit)?;
    let mut wanted = wanted(repo, &names)?;
    let mut files: Vec<NamedFile> = Vec::new();
    if wanted.contains(INDEX) {
        let path = hub.file(Kind::Model, repo, commit, INDEX, progress)?;
        let bytes = fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
        wanted.extend(shards(repo, &names, &bytes)?);
    }
    for name in wanted {
        let path: PathBuf = hub.file(Kind::Model, repo, commit, &name, progress)?;
        files.push((name, path));
    }
    Ok(files)
}

/// All but the shards. `place` stands for the model in errors.
fn wanted(place: &str, names: &[String]) -> Result<BTreeSet<String>> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let without = |name: &str| Error::input(format!("the model `{place}` has no {name}"));
    if !has(CONFIG) {
        return Err(without(CONFIG).with_hint("a model is a folder as `save_pretrained` writes it"));
    }
    if !has(TOKENIZER) {
        let hint = if has("tokenizer.model") {
            "it has tokenizer.model only; convert it once in Python, with sentencepiece and \
             protobuf installed: `AutoTokenizer.from_pretrained(FOLDER, add_bos_token=True)\
             .save_pretrained(FOLDER)` (False where texts do not begin with that token)"
        } else {
            "save the tokenizer beside the weights with `save_pretrained`"
        };
        return Err(without(TOKENIZER).with_hint(hint));
    }
    let weights = [WEIGHTS, INDEX].into_iter().find(|name| has(name));
    let Some(weights) = weights else {
        let is_pickled = |name: &String| name.starts_with("pytorch_model") && !name.contains('/');
        let hint = if names.iter().any(is_pickled) {
            "it has pytorch_model.bin only; convert it once in Python: \
             `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
        } else {
            "the weights are read from model.safetensors, or from shards with an index"
        };
        return Err(without(WEIGHTS).with_hint(hint));
    };
    let mut wanted: BTreeSet<String> = [CONFIG, TOKENIZER, weights].map(str::to_owned).into();
    let optional = OPTIONAL.into_iter().filter(|name| has(name));
    wanted.extend(optional.map(str::to_owned));
    Ok(wanted)
}

/// The shards that an index names, all of which must be there.
fn shards(place: &str, names: &[String], index: &[u8]) -> Result<BTreeSet<String>> {
    let broken = || {
        Error::input(format!("{INDEX} of the model `{place}` is no index of weights"))
            .with_hint("get the file again: it may have been cut short")
    };
    let index: Value = serde_json::from_slice(index).map_err(|_| broken())?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let mut shards = BTreeSet::new();
    for shard in map.ok_or_else(broken)?.values() {
        shards.insert(shard.as_str().ok_or_else(broken)?.to_owned());
    }
    if shards.is_empty() {
        return Err(broken());
    }
    // Also keeps names such as `../x` out: the listing has none.
    match shards.iter().find(|shard| !names.contains(shard)) {
        Some(gone) => {
            Err(Error::input(format!("the model `{place}` has no {gone}, which its index names"))
                .with_hint("the download may not have been finished"))
        }
        None => Ok(shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::file;

    fn names(folder: &Path) -> Vec<String> {
        let files = model_files(folder).unwrap();
        assert!(files.iter().all(|(_, path)| path.is_file()));
        files.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn one_file_of_weights_or_shards() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for name in [CONFIG, TOKENIZER, "tokenizer_config.json", "generation_config.json"] {
            file(at, name, "{}");
        }
        file(at, "model-1.safetensors", "");
        file(at, "model-2.safetensors", "");
        let index = r#"{"weight_map":{"a":"model-2.safetensors","b":"model-1.safetensors","c":"model-2.safetensors"}}"#;
        file(at, INDEX, index);
        let all = [
            CONFIG,
            "model-1.safetensors",
            "model-2.safetensors",
            INDEX,
            TOKENIZER,
            "tokenizer_config.json",
        ];
        assert_eq!(names(at), all);
        file(at, WEIGHTS, "");
        assert_eq!(names(at), [CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let fault = || match model_files(at).unwrap_err() {
            Error::Input { message, hint } => format!("{message}; {}", hint.unwrap_or_default()),
            other => panic!("{other:?}"),
        };
        let gone = model_files(&at.join("gone")).unwrap_err().to_string();
        assert!(gone.contains("does not exist"), "{gone}");
        assert!(fault().contains("no config.json"));
        file(at, CONFIG, "{}");
        file(at, "tokenizer.model", "");
        assert!(fault().contains("no tokenizer.json; it has tokenizer.model only"));
        assert!(
            fault().contains("`AutoTokenizer.from_pretrained(FOLDER, add_bos_token=True).save")
        );
        file(at, TOKENIZER, "{}");
        file(at, "pytorch_model.bin", "");
        assert!(fault().contains("pytorch_model.bin only"));
        file(at, INDEX, "{");
        assert!(fault().contains("no index"));
        file(at, INDEX, r#"{"weight_map":{"a":"../x.safetensors"}}"#);
        assert!(fault().contains("no ../x.safetensors"));
    }
}
