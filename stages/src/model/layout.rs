//! The order of an adapter's tensors in one flat vector.
//!
//! Every number that is trained has one place: tensors follow each other in the order of their names, each as PEFT
//! stores it. The optimizer, clipping and the proximal term work on `[K, P]`, one such row for each client.

use burn::tensor::{Device, Tensor, TensorData};

use super::config::Config;
use super::lora::LoraConfig;
use crate::peft::{self, AdapterError, AdapterTensors};

/// What a tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The factor A of a module, `[rank, in]`.
    A {
        /// The block.
        layer: usize,
        /// The module's place among the family's targets.
        slot: usize,
    },
    /// The factor B of a module, `[out, rank]`.
    B {
        /// The block.
        layer: usize,
        /// The module's place among the family's targets.
        slot: usize,
    },
    /// The classifier, `[classes, hidden]`.
    Score,
}

/// One tensor: its name, its meaning, its shape and where it begins in the flat vector.
#[derive(Clone, Debug)]
pub struct Entry {
    /// PEFT's name.
    pub name: String,
    /// What it is.
    pub part: Part,
    /// Rows and columns, with the largest rank of the cohort.
    pub shape: [usize; 2],
    /// The index of its first number in the flat vector.
    pub start: usize,
}

/// The tensors of an adapter in the order of their names.
#[derive(Clone, Debug)]
pub struct Layout {
    entries: Vec<Entry>,
    length: usize,
    layers: usize,
    slots: usize,
}

impl Layout {
    /// The layout of `lora` on a base of `config`, with factors padded to `rank`; `classes` is the height of the
    /// classifier, 0 for none.
    pub fn new(config: &Config, lora: &LoraConfig, rank: usize, classes: usize) -> Self {
        let targets = config.family.targets();
        let mut list = Vec::new();
        for layer in lora.adapted(config.layers) {
            for (slot, target) in targets.iter().enumerate() {
                let widths = config.linear(target).zip(config.module(layer, target));
                let wanted = lora.targets.iter().any(|name| name == target);
                if let Some(((inputs, outputs), module)) = widths.filter(|_| wanted) {
                    let [a, b] = peft::factor_names(&module);
                    list.push((a, Part::A { layer, slot }, [rank, inputs]));
                    list.push((b, Part::B { layer, slot }, [outputs, rank]));
                }
            }
        }
        if classes > 0 {
            list.push((peft::SCORE.to_owned(), Part::Score, [classes, config.hidden]));
        }
        list.sort_by(|a, b| a.0.cmp(&b.0));
        let mut length = 0;
        let entries = list.into_iter().map(|(name, part, shape)| {
            let start = length;
            length += shape[0] * shape[1];
            Entry { name, part, shape, start }
        });
        let entries = entries.collect();
        Self { entries, length, layers: config.layers, slots: targets.len() }
    }

    /// The tensors, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// P, the number of numbers of one client.
    pub fn length(&self) -> usize {
        self.length
    }

    pub(super) fn layers(&self) -> usize {
        self.layers
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The flat vector of `adapter`, whose factors have rank `rank`, padded with zeros where this layout is wider.
    pub fn pack(&self, adapter: &AdapterTensors, rank: usize) -> Result<Vec<f32>, AdapterError> {
        let names: Vec<(&str, [usize; 2])> = self
            .entries
            .iter()
            .map(|entry| (entry.name.as_str(), own_shape(entry, rank)))
            .collect();
        adapter.check(&names)?;
        let mut flat = vec![0.0; self.length];
        for entry in &self.entries {
            let Some((_, values)) = adapter.get(&entry.name) else {
                continue;
            };
            let (own, columns) = (own_shape(entry, rank), entry.shape[1]);
            for (row, source) in values.chunks_exact(own[1]).enumerate() {
                let start = entry.start + row * columns;
                flat[start..start + own[1]].copy_from_slice(source);
            }
        }
        Ok(flat)
    }

    /// The adapter of rank `rank` that `flat` holds.
    pub fn unpack(&self, flat: &[f32], rank: usize) -> AdapterTensors {
        let tensors = self.entries.iter().map(|entry| {
            let (own, columns) = (own_shape(entry, rank), entry.shape[1]);
            let rows = flat[entry.start..].chunks(columns).take(own[0]);
            let values: Vec<f32> = rows.flat_map(|row| &row[..own[1]]).copied().collect();
            (entry.name.clone(), own, values)
        });
        AdapterTensors::new(tensors)
    }

    /// Cuts `flat`, `[K, P]`, into a tensor `[K, rows, columns]` for each entry.
    pub fn split(&self, flat: &Tensor<2>) -> Vec<Tensor<3>> {
        let clients = flat.dims()[0];
        let cut = |entry: &Entry| {
            let length = entry.shape[0] * entry.shape[1];
            let part = flat.clone().narrow(1, entry.start, length);
            part.reshape([clients, entry.shape[0], entry.shape[1]])
        };
        self.entries.iter().map(cut).collect()
    }

    /// `[K, P]` of the flat vectors of K clients.
    pub fn stack(&self, rows: &[Vec<f32>], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(rows.concat(), [rows.len(), self.length]), device)
    }
}

/// The shape of a tensor when its adapter has rank `rank`.
fn own_shape(entry: &Entry, rank: usize) -> [usize; 2] {
    match entry.part {
        Part::A { .. } => [rank, entry.shape[1]],
        Part::B { .. } => [entry.shape[0], rank],
        Part::Score => entry.shape,
    }
}
