//! An adapter merged into its base: a checkpoint that needs no PEFT.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Value, json};

use super::export::write;
use super::sum::{self, Product};
use super::{AdapterTensors, Change, Delta, SCORE, factor_names};
use crate::error::{Error, Result};
use crate::kinds::Adapter;
use crate::model::{Checkpoint, Config, INDEX_FILE, Module, SINGLE_FILE, check_delta};

/// A shard is closed when the next tensor would make it larger than this, in bytes.
const SHARD: u64 = 5_000_000_000;

/// Writes `config.json` and the weights of the merged model, f32, into `folder`.
///
/// One tensor is held at a time. What a rule has added to the base goes into its weights, too. The adapter's
/// classifier becomes the model's own.
///
/// # Errors
/// The adapter does not fit the base, or a file cannot be written.
pub fn write_merged(
    folder: &Path,
    adapter: &Adapter,
    config_json: &[u8],
    checkpoint: Checkpoint<'_>,
) -> Result<()> {
    let config = Config::parse(config_json)?;
    write(&folder.join("config.json"), &merged_config(config_json, &config, adapter)?)?;
    let checkpoint = checkpoint.of_family(config.family);
    let added = Added::new(adapter, &config)?;
    let is_classifier = !adapter.config.labels.is_empty();
    let mut tensors: Vec<(String, Vec<usize>)> = checkpoint.tensors(&config, !is_classifier)?;
    if let Some((shape, _)) = adapter.tensors.get(SCORE) {
        tensors.push((HEAD.to_owned(), shape.to_vec()));
    }
    let shards = shards(&tensors);
    let name = |at: usize| match shards.len() {
        1 => SINGLE_FILE.to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
    };
    let mut places = serde_json::Map::new();
    for (at, shard) in shards.iter().enumerate() {
        let path = folder.join(name(at));
        let failed = |e| Error::io("write", &path, e);
        let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
        file.write_all(&header(shard)).map_err(failed)?;
        for (tensor, _) in *shard {
            places.insert(tensor.clone(), json!(name(at)));
            let own = adapter.tensors.get(SCORE).filter(|_| tensor == HEAD);
            let values = if let Some((_, values)) = own {
                values.to_vec()
            } else {
                let mut values = checkpoint.values(tensor)?;
                added.add_to(tensor, &mut values)?;
                values
            };
            let bytes: Vec<u8> = values.par_iter().flat_map_iter(|x| x.to_le_bytes()).collect();
            file.write_all(&bytes).map_err(failed)?;
        }
        file.flush().map_err(failed)?;
    }
    if shards.len() > 1 {
        let total: u64 = tensors.iter().map(|(_, shape)| bytes_of(shape)).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": places });
        write(&folder.join(INDEX_FILE), format!("{index:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The classifier's name in a checkpoint.
const HEAD: &str = "score.weight";

/// What is added to the weights of a base.
struct Added<'a> {
    /// Factors, without cores.
    factors: AdapterTensors,
    modules: BTreeMap<String, Module>,
    delta: Option<&'a Delta>,
}

impl<'a> Added<'a> {
    fn new(adapter: &'a Adapter, config: &Config) -> Result<Self> {
        let delta = adapter.delta.as_ref();
        delta.map_or(Ok(()), |delta| check_delta(config, delta))?;
        let modules = adapter.config.lora.modules(config)?;
        Ok(Self {
            factors: adapter.tensors.clone().folded()?,
            modules: modules.into_iter().map(|module| (module.path.clone(), module)).collect(),
            delta,
        })
    }

    /// Adds what belongs to the tensor of this name, `[out, in]`, if anything does: `s·B·A` and the change of its
    /// module.
    fn add_to(&self, tensor: &str, weight: &mut [f32]) -> Result<()> {
        let Some(path) = tensor.strip_suffix(".weight") else { return Ok(()) };
        let (mut inputs, mut products, mut dense) = (None, Vec::new(), None);
        if let Some(module) = self.modules.get(path) {
            let [a, b] = factor_names(path);
            let missing = || Error::failed(format!("the adapter has no factors for `{path}`"));
            let (a_shape, a) = self.factors.get(&a).ok_or_else(missing)?;
            let ([_, rank], b) = self.factors.get(&b).ok_or_else(missing)?;
            if a_shape[0] != rank || weight.len() * rank != b.len() * a_shape[1] {
                return Err(Error::failed(format!("the adapter does not fit `{path}`")));
            }
            inputs = Some(a_shape[1]);
            products.push(Product { a, b, rank, scale: module.scale });
        }
        match self.delta.and_then(|delta| delta.get(path)) {
            Some(change @ Change::Factors { a, b }) => {
                inputs = Some(change.shape()[1]);
                products.push(Product { a: &a.1, b: &b.1, rank: a.0[0], scale: 1.0 });
            }
            Some(Change::Dense(([_, columns], values))) => {
                inputs = Some(*columns);
                dense = Some(values.as_slice());
            }
            None => {}
        }
        if let Some(inputs) = inputs {
            sum::add(weight, inputs, &products, dense);
        }
        Ok(())
    }
}

fn bytes_of(shape: &[usize]) -> u64 {
    4 * shape.iter().product::<usize>() as u64
}

fn shards(tensors: &[(String, Vec<usize>)]) -> Vec<&[(String, Vec<usize>)]> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0);
    for (at, (_, shape)) in tensors.iter().enumerate() {
        let bytes = bytes_of(shape);
        if size > 0 && size + bytes > SHARD {
            shards.push(&tensors[start..at]);
            (start, size) = (at, 0);
        }
        size += bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

/// The first bytes of a safetensors file of f32 tensors, up to the tensors themselves.
fn header(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    entries.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += bytes_of(shape);
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        entries.insert(name.clone(), entry);
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes(), text.as_slice()].concat()
}

/// The base's `config.json` for the merged model: another head perhaps, and f32.
fn merged_config(base: &[u8], config: &Config, adapter: &Adapter) -> Result<Vec<u8>> {
    let mut json: Value = serde_json::from_slice(base)
        .map_err(|e| Error::failed(format!("the stored config.json cannot be read: {e}")))?;
    let labels = &adapter.config.labels;
    let family = ["ForCausalLM", "ForSequenceClassification", "Model"]
        .iter()
        .find_map(|task| config.architecture.strip_suffix(task));
    let family = family.unwrap_or(&config.architecture);
    let task = if labels.is_empty() { "ForCausalLM" } else { "ForSequenceClassification" };
    json["architectures"] = json!([format!("{family}{task}")]);
    if let Some(fields) = json.as_object_mut() {
        fields.remove("torch_dtype");
        fields.insert("dtype".to_owned(), json!("float32"));
        if !labels.is_empty() {
            let names: serde_json::Map<String, Value> = labels
                .iter()
                .enumerate()
                .map(|(at, label)| (at.to_string(), json!(label)))
                .collect();
            let numbers: serde_json::Map<String, Value> =
                labels.iter().enumerate().map(|(at, label)| (label.clone(), json!(at))).collect();
            fields.insert("id2label".to_owned(), Value::Object(names));
            fields.insert("label2id".to_owned(), Value::Object(numbers));
        }
    }
    Ok(format!("{json:#}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::kinds::AdapterConfig;
    use crate::model::recorded::{Recorded, apart};
    use crate::model::tiny::{BLOOM, LLAMA, Tiny};
    use crate::model::{Base, LoraConfig, NamedFile, read_classes};
    use crate::peft::AdapterTensors;

    /// The merged model's logits against those that were recorded with the adapter beside the base.
    fn follow(model: Tiny, lora: LoraConfig, labels: &[&str]) {
        let name = if labels.is_empty() { "lora_causal" } else { "lora_seqcls" };
        let tensors = model.bytes(&format!("{name}/adapter_model.safetensors"));
        let tensors = AdapterTensors::from_safetensors(&tensors).unwrap();
        let labels = labels.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        let adapter =
            Adapter { config: AdapterConfig { lora, labels }, tensors, trained: None, delta: None };
        let folder = tempfile::tempdir().unwrap();
        let bytes = model.bytes(SINGLE_FILE);
        let open = |bytes| Checkpoint::open(&[NamedFile { name: SINGLE_FILE, bytes }]).unwrap();
        let config = model.bytes("config.json");
        write_merged(folder.path(), &adapter, &config, open(&bytes)).unwrap();

        let merged = std::fs::read(folder.path().join(SINGLE_FILE)).unwrap();
        let config = std::fs::read(folder.path().join("config.json")).unwrap();
        let config = Config::parse(&config).unwrap();
        let base = Base::load(config, open(&merged), &Device::flex()).unwrap();
        let rows = Recorded::open(&model.path("causal.safetensors"));
        let rows = rows.rows("input_ids", "attention_mask");
        let batch = crate::model::recorded::batch(&rows, &vec![0; rows.len()], &base);
        let recorded = Recorded::open(&model.path(&format!("{name}.safetensors")));
        if adapter.config.labels.is_empty() {
            assert!(base.config().architecture.ends_with("ForCausalLM"));
            if !base.has_causal_head() {
                base.load_causal_head(&open(&merged)).unwrap();
            }
            let logits = base.hidden(&batch, None).matmul(base.causal_head().clone().transpose());
            let own = logits.narrow(0, 3 * batch.width(), batch.lengths()[3]);
            let own: Vec<f32> = own.try_into_vec_as().unwrap();
            let far = apart(&own, &recorded.floats("logits.3").1[..own.len()]);
            assert!(far < 1e-4, "{model:?}: {far}");
            return;
        }
        assert!(base.config().is_classifier());
        let score = Recorded::open(&folder.path().join(SINGLE_FILE)).floats(HEAD);
        let score = burn::tensor::TensorData::new(score.1, [1, score.0[0], score.0[1]]);
        let score = burn::tensor::Tensor::from_data(score, base.device());
        let logits = read_classes(base.read(&batch, None, None), &score);
        let logits: Vec<f32> = logits.try_into_vec_as().unwrap();
        let far = apart(&logits, &recorded.floats("logits").1);
        assert!(far < 2e-5, "{model:?}: {far}");
    }

    #[test]
    fn a_merged_model_is_the_base_with_its_adapter() {
        for model in [LLAMA, BLOOM] {
            follow(model, LoraConfig::of_rank(8), &[]);
            follow(model, LoraConfig::of_rank(8), &["bad", "good"]);
        }
    }

    #[test]
    fn tensors_beyond_five_gigabytes_go_into_another_shard() {
        let big = |name: &str| (name.to_owned(), vec![500_000, 1000]);
        let tensors = [big("a"), big("b"), big("c"), ("d".to_owned(), vec![2, 2])];
        let counts: Vec<usize> = shards(&tensors).iter().map(|shard| shard.len()).collect();
        assert_eq!(counts, [2, 2]);
        assert_eq!(header(&tensors[3..]).len() % 8, 0);
    }
}
