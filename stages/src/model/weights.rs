//! Frozen weights from safetensors files: one file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData, bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};
use serde::Deserialize;
use thiserror::Error;

use super::config::Config;
use super::family::Family;

/// The file that names the shard of each tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The one file of a checkpoint that is not cut into shards.
pub const SINGLE_FILE: &str = "model.safetensors";

/// Why weights cannot be read.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// A file ends before, or goes on after, what its header announces.
    #[error("`{file}` is {found} bytes long, but its header announces {expected}: {}", if found < expected { "the file is truncated, fetch it again" } else { "bytes follow the last tensor" })]
    Length {
        /// The file's name.
        file: String,
        /// The length that the header announces, in bytes.
        expected: u64,
        /// The length of the file, in bytes.
        found: u64,
    },
    /// A file's header cannot be read.
    #[error("`{file}` is not a safetensors file: {reason}")]
    Header {
        /// The file's name.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The index cannot be read.
    #[error("`{INDEX_FILE}` cannot be read: {0}")]
    Index(serde_json::Error),
    /// The folder has no weights that can be read.
    #[error(
        "there is neither `{SINGLE_FILE}` nor `{INDEX_FILE}` with its shards: `{missing}` is missing"
    )]
    NoFile {
        /// The file that is not there.
        missing: String,
    },
    /// Tensors are missing, unexpected or of another shape than config.json says.
    #[error("the weights do not fit config.json: {0}")]
    Mismatch(String),
    /// A causal task on a checkpoint without a causal head.
    #[error(
        "the base has no causal head (`{CAUSAL_HEAD}`): it is a classifier's, or the decoder alone; use `Classify`, or the …ForCausalLM checkpoint"
    )]
    NoHead,
    /// A tensor has a type that is not read.
    #[error("tensor `{name}` is {dtype}; weights must be F32, F16 or BF16")]
    Dtype {
        /// The tensor's name.
        name: String,
        /// Its type.
        dtype: String,
    },
}

/// A file of a checkpoint folder, opened (usually mapped) by the caller.
#[derive(Clone, Copy, Debug)]
pub struct NamedFile<'a> {
    /// The name within the folder.
    pub name: &'a str,
    /// Its whole content.
    pub bytes: &'a [u8],
}

/// A tensor that a family reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    name: String,
    shape: Vec<usize>,
}

impl Expected {
    pub(super) fn new(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec() }
    }
}

/// The names of the shards that the text of an index file lists, sorted, each once.
pub fn shard_names(index_json: &[u8]) -> Result<Vec<String>, WeightsError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index_json).map_err(WeightsError::Index)?;
    Ok(index.weight_map.into_values().collect::<BTreeSet<_>>().into_iter().collect())
}

/// The bytes at the start of a safetensors file, its first eight included, that [`check_header`] wants to see.
pub fn header_length(file: &str, first_eight: &[u8]) -> Result<u64, WeightsError> {
    const LIMIT: u64 = 100_000_000;
    let invalid =
        |reason: &str| WeightsError::Header { file: file.to_owned(), reason: reason.to_owned() };
    let first = first_eight.first_chunk().ok_or_else(|| invalid("it has no header"))?;
    let length = u64::from_le_bytes(*first);
    if length > LIMIT {
        return Err(invalid("its first bytes give no plausible header length"));
    }
    Ok(8 + length)
}

/// Checks `head`, the first [`header_length`] bytes of a safetensors file of `file_length` bytes, without reading
/// the tensors: a truncated file is found at once.
pub fn check_header(file: &str, head: &[u8], file_length: u64) -> Result<(), WeightsError> {
    let start = header_length(file, head)?;
    let cut =
        |expected| WeightsError::Length { file: file.to_owned(), expected, found: file_length };
    if file_length < start {
        return Err(cut(start));
    }
    let invalid = |reason: String| WeightsError::Header { file: file.to_owned(), reason };
    let json = usize::try_from(start).ok().and_then(|end| head.get(8..end));
    let json = json.ok_or_else(|| invalid("too few of its first bytes were read".to_owned()))?;
    let header: Metadata = serde_json::from_slice(json).map_err(|e| invalid(e.to_string()))?;
    let expected = start + header.data_len() as u64;
    if expected == file_length { Ok(()) } else { Err(cut(expected)) }
}

/// The heads, whose names have no prefix, and which are read by those tasks that need them.
pub(super) const CAUSAL_HEAD: &str = "lm_head.weight";
const HEADS: [&str; 2] = [CAUSAL_HEAD, "score.weight"];

/// The open files of a checkpoint, and which of them holds each tensor.
pub struct Checkpoint<'a> {
    files: Vec<SafeTensors<'a>>,
    places: BTreeMap<String, usize>,
    /// What the names of this checkpoint leave out.
    left_out: &'static str,
}

impl<'a> Checkpoint<'a> {
    /// Opens the files of a checkpoint folder: [`SINGLE_FILE`], or [`INDEX_FILE`] with the shards that it lists.
    /// Other files may stand among them.
    pub fn open(files: &[NamedFile<'a>]) -> Result<Self, WeightsError> {
        let find = |name: &str| files.iter().find(|file| file.name == name).copied();
        let shards = match (find(SINGLE_FILE), find(INDEX_FILE)) {
            (Some(file), _) => vec![file],
            (None, Some(index)) => shard_names(index.bytes)?
                .into_iter()
                .map(|name| find(&name).ok_or(WeightsError::NoFile { missing: name }))
                .collect::<Result<_, _>>()?,
            (None, None) => {
                return Err(WeightsError::NoFile { missing: SINGLE_FILE.to_owned() });
            }
        };
        let mut checkpoint = Self { files: Vec::new(), places: BTreeMap::new(), left_out: "" };
        for shard in shards {
            let head =
                usize::try_from(header_length(shard.name, shard.bytes)?).unwrap_or(usize::MAX);
            let head = &shard.bytes[..head.min(shard.bytes.len())];
            check_header(shard.name, head, shard.bytes.len() as u64)?;
            let file = SafeTensors::deserialize(shard.bytes).map_err(|error| {
                WeightsError::Header { file: shard.name.to_owned(), reason: error.to_string() }
            })?;
            for name in file.names() {
                checkpoint.places.insert(name.to_owned(), checkpoint.files.len());
            }
            checkpoint.files.push(file);
        }
        Ok(checkpoint)
    }

    /// Reads the names as a family has them, whether the checkpoint is of a model with a head or of the decoder alone.
    #[must_use]
    pub fn of_family(self, family: Family) -> Self {
        self.with_prefix(family.rules().prefix())
    }

    /// The names, as the family has them, and shapes of all tensors that make up the decoder; with `causal` those of
    /// a head that is not tied, too.
    ///
    /// # Errors
    /// The checkpoint does not fit the config.
    pub fn tensors(
        &self,
        config: &Config,
        causal: bool,
    ) -> Result<Vec<(String, Vec<usize>)>, WeightsError> {
        let rules = config.family.rules();
        let mut expected = rules.expected(config);
        if causal && !config.tied {
            expected.push(Expected::new(CAUSAL_HEAD, &[config.vocab, config.hidden]));
        }
        self.check(&expected, &|name| rules.may_ignore(name))?;
        Ok(expected.into_iter().map(|Expected { name, shape }| (name, shape)).collect())
    }

    /// The values of a tensor, f32.
    ///
    /// # Errors
    /// It is not there, or not of floats.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let data = self.data(name, None)?;
        data.try_into_vec::<f32>().map_err(|error| WeightsError::Mismatch(format!("{error:?}")))
    }

    /// Reads names without `prefix` as if they had it, if no tensor of this checkpoint has it: one that was saved
    /// from the decoder alone.
    #[must_use]
    fn with_prefix(mut self, prefix: &'static str) -> Self {
        let is_bare = !self.places.keys().any(|name| name.starts_with(prefix));
        self.left_out = if is_bare { prefix } else { "" };
        self
    }

    /// The name that a tensor has in this checkpoint.
    fn stored<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.left_out).unwrap_or(name)
    }

    fn find(&self, name: &str) -> Option<TensorView<'a>> {
        let name = self.stored(name);
        self.places.get(name).and_then(|&file| self.files[file].tensor(name).ok())
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(self.stored(name))
    }

    /// Checks that every tensor of `expected` is there and has its shape, and that no other tensor is, but for
    /// those that `may_ignore` names; all that is wrong goes into one error.
    pub(super) fn check(
        &self,
        expected: &[Expected],
        may_ignore: &dyn Fn(&str) -> bool,
    ) -> Result<(), WeightsError> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        let mut known = BTreeSet::new();
        for Expected { name, shape } in expected {
            let stored = self.stored(name);
            known.insert(stored);
            match self.find(name) {
                Some(tensor) if tensor.shape() == shape => {}
                Some(tensor) => {
                    misshapen.push(format!("`{stored}` is {:?}, not {shape:?}", tensor.shape()));
                }
                None => missing.push(format!("`{stored}`")),
            }
        }
        let stray = |name: &&String| {
            let name = name.as_str();
            !known.contains(name) && !HEADS.contains(&name) && !may_ignore(name)
        };
        let extra = self.places.keys().filter(stray);
        let extra: Vec<String> = extra.map(|name| format!("`{name}`")).collect();
        let parts = [("missing: ", missing), ("unexpected: ", extra), ("", misshapen)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> =
            parts.map(|(what, names)| format!("{what}{}", listed(names))).collect();
        if parts.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(parts.join("; "))) }
    }

    /// A matrix, f32 on `device`.
    pub(super) fn matrix(&self, name: &str, device: &Device) -> Result<Tensor<2>, WeightsError> {
        self.data(name, None).map(|data| Tensor::from_data(data, device))
    }

    /// A vector, f32 on `device`.
    pub(super) fn vector(&self, name: &str, device: &Device) -> Result<Tensor<1>, WeightsError> {
        self.data(name, None).map(|data| Tensor::from_data(data, device))
    }

    /// These rows of a matrix, one range after the other.
    pub(super) fn matrix_rows(
        &self,
        name: &str,
        rows: &[Range<usize>],
        device: &Device,
    ) -> Result<Tensor<2>, WeightsError> {
        self.data(name, Some(rows)).map(|data| Tensor::from_data(data, device))
    }

    /// These places of a vector, one range after the other.
    pub(super) fn vector_rows(
        &self,
        name: &str,
        rows: &[Range<usize>],
        device: &Device,
    ) -> Result<Tensor<1>, WeightsError> {
        self.data(name, Some(rows)).map(|data| Tensor::from_data(data, device))
    }

    /// A whole tensor, or the ranges `rows` of its first axis.
    fn data(&self, name: &str, rows: Option<&[Range<usize>]>) -> Result<TensorData, WeightsError> {
        let missing = || WeightsError::Mismatch(format!("missing: `{}`", self.stored(name)));
        let tensor = self.find(name).ok_or_else(missing)?;
        let mut shape = tensor.shape().to_vec();
        let height = shape.first().copied().unwrap_or(1);
        let all = 0..height;
        let rows = rows.unwrap_or(std::slice::from_ref(&all));
        let bytes = tensor.data();
        let stride = bytes.len() / height.max(1);
        let mut values = Vec::with_capacity(
            rows.iter().map(Range::len).sum::<usize>() * shape.iter().skip(1).product::<usize>(),
        );
        for range in rows {
            let part = &bytes[range.start * stride..range.end * stride];
            widen_into(tensor.dtype(), part, &mut values).ok_or_else(|| WeightsError::Dtype {
                name: self.stored(name).to_owned(),
                dtype: format!("{:?}", tensor.dtype()),
            })?;
        }
        if let Some(first) = shape.first_mut() {
            *first = rows.iter().map(Range::len).sum();
        }
        Ok(TensorData::new(values, shape))
    }
}

/// Little-endian floats of 16 or 32 bits as f32; `None` for another type.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut values = Vec::new();
    widen_into(dtype, bytes, &mut values)?;
    Some(values)
}

/// Appends what [`widen`] gives.
fn widen_into(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) -> Option<()> {
    let halves = || bytes.as_chunks::<2>().0.par_iter().map(|&half| u16::from_le_bytes(half));
    match dtype {
        Dtype::F32 => {
            let words = bytes.as_chunks::<4>().0.par_iter();
            values.par_extend(words.map(|&word| f32::from_le_bytes(word)));
        }
        Dtype::F16 => values.par_extend(halves().map(|bits| f16::from_bits(bits).to_f32())),
        Dtype::BF16 => values.par_extend(halves().map(|bits| bf16::from_bits(bits).to_f32())),
        _ => return None,
    }
    Some(())
}

/// The first few of `names`, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tiny;

    fn error(files: &[NamedFile<'_>]) -> String {
        Checkpoint::open(files).err().expect("it is refused").to_string()
    }

    #[test]
    fn a_truncated_file_is_named_with_both_lengths() {
        let whole = tiny::bytes(SINGLE_FILE);
        let cut = &whole[..whole.len() - 100];
        let length = usize::try_from(header_length(SINGLE_FILE, &whole[..8]).unwrap()).unwrap();
        check_header(SINGLE_FILE, &whole[..length], whole.len() as u64).unwrap();
        let at_plan = check_header(SINGLE_FILE, &whole[..length], cut.len() as u64).unwrap_err();
        let sentence = "`model.safetensors` is 637924 bytes long, but its header announces 638024: the file is \
                        truncated, fetch it again";
        assert_eq!(at_plan.to_string(), sentence);
        assert_eq!(error(&[NamedFile { name: SINGLE_FILE, bytes: cut }]), sentence);
        for cut in [0, 5, 8, 300] {
            let text = error(&[NamedFile { name: SINGLE_FILE, bytes: &whole[..cut] }]);
            assert!(text.contains(SINGLE_FILE), "{text}");
        }
        let text = error(&[NamedFile { name: SINGLE_FILE, bytes: b"<!DOCTYPE html>" }]);
        assert!(text.contains("no plausible header length"), "{text}");
    }

    #[test]
    fn shards_are_found_by_the_index() {
        let whole = tiny::bytes(SINGLE_FILE);
        let index = br#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}"#;
        let index = NamedFile { name: INDEX_FILE, bytes: index };
        let shard = NamedFile { name: "one.safetensors", bytes: &whole };
        let checkpoint = Checkpoint::open(&[index, shard]).unwrap();
        assert!(checkpoint.matrix("model.embed_tokens.weight", &Device::flex()).is_ok());
        assert!(error(&[index]).ends_with("`one.safetensors` is missing"));
        assert!(error(&[]).ends_with("`model.safetensors` is missing"));
    }

    #[test]
    fn all_that_does_not_fit_goes_into_one_error() {
        let whole = tiny::bytes(SINGLE_FILE);
        let files = [NamedFile { name: SINGLE_FILE, bytes: &whole }];
        let checkpoint = Checkpoint::open(&files).unwrap();
        let expected = [Expected::new("model.norm.weight", &[47]), Expected::new("x", &[1])];
        let known = |name: &str| name != "model.embed_tokens.weight";
        let text = checkpoint.check(&expected, &known).unwrap_err().to_string();
        assert_eq!(
            text,
            "the weights do not fit config.json: missing: `x`; unexpected: `model.embed_tokens.weight`; \
             `model.norm.weight` is [48], not [47]"
        );
    }

    #[test]
    fn halves_are_widened() {
        let bf16: Vec<u8> = [0x3FC0_u16, 0xC000].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(widen(Dtype::BF16, &bf16).unwrap(), [1.5, -2.0]);
        let f16: Vec<u8> = [0x3E00_u16, 0x0001].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(widen(Dtype::F16, &f16).unwrap(), [1.5, 2.0_f32.powi(-24)]);
        assert_eq!(widen(Dtype::I64, &f16), None);
    }
}
