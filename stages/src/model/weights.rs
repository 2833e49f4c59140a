//! Frozen weights from safetensors files: one file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor, TensorData, bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde::Deserialize;
use thiserror::Error;

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

/// The open files of a checkpoint, and which of them holds each tensor.
pub struct Checkpoint<'a> {
    files: Vec<SafeTensors<'a>>,
    places: BTreeMap<String, usize>,
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
        let mut checkpoint = Self { files: Vec::new(), places: BTreeMap::new() };
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
            known.insert(name.as_str());
            match self.places.get(name).map(|&file| self.files[file].tensor(name)) {
                Some(Ok(tensor)) if tensor.shape() == shape => {}
                Some(Ok(tensor)) => {
                    misshapen.push(format!("`{name}` is {:?}, not {shape:?}", tensor.shape()));
                }
                _ => missing.push(format!("`{name}`")),
            }
        }
        let extra =
            self.places.keys().filter(|name| !known.contains(name.as_str()) && !may_ignore(name));
        let extra: Vec<String> = extra.map(|name| format!("`{name}`")).collect();
        let parts = [("missing: ", missing), ("unexpected: ", extra), ("", misshapen)];
        let parts = parts.iter().filter(|(_, names)| !names.is_empty());
        let parts: Vec<String> =
            parts.map(|(what, names)| format!("{what}{}", listed(names))).collect();
        if parts.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(parts.join("; "))) }
    }

    /// A matrix, f32 on `device`.
    pub(super) fn matrix(&self, name: &str, device: &Device) -> Result<Tensor<2>, WeightsError> {
        self.data(name).map(|data| Tensor::from_data(data, device))
    }

    /// A vector, f32 on `device`.
    pub(super) fn vector(&self, name: &str, device: &Device) -> Result<Tensor<1>, WeightsError> {
        self.data(name).map(|data| Tensor::from_data(data, device))
    }

    fn data(&self, name: &str) -> Result<TensorData, WeightsError> {
        let tensor = self.places.get(name).and_then(|&file| self.files[file].tensor(name).ok());
        let tensor = tensor.ok_or_else(|| WeightsError::Mismatch(format!("missing: `{name}`")))?;
        let values = widen(tensor.dtype(), tensor.data()).ok_or_else(|| WeightsError::Dtype {
            name: name.to_owned(),
            dtype: format!("{:?}", tensor.dtype()),
        })?;
        Ok(TensorData::new(values, tensor.shape().to_vec()))
    }
}

/// Little-endian floats of 16 or 32 bits as f32; `None` for another type.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.as_chunks::<2>().0.par_iter().map(|&half| u16::from_le_bytes(half));
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.par_iter().map(|&x| f32::from_le_bytes(x)).collect(),
        Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        _ => return None,
    })
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
        let known = |name: &str| name != "lm_head.weight";
        let text = checkpoint.check(&expected, &known).unwrap_err().to_string();
        assert_eq!(
            text,
            "the weights do not fit config.json: missing: `x`; unexpected: `lm_head.weight`; \
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
