//! The order of an adapter's tensors in one flat vector.
//!
//! Every number that is trained has one place: tensors follow each other in the order of their names, each as PEFT
//! stores it. The optimizer, clipping and the proximal term work on `[K, P]`, one such row for each client.

use burn::tensor::{Device, Tensor, TensorData};

use super::config::Config;
use super::lora::{LoraConfig, LoraError, Module};
use crate::parts::Parts;
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
    /// The core R between the factors of a module, `[rank, rank]`.
    Core {
        /// The block.
        layer: usize,
        /// The module's place among the family's targets.
        slot: usize,
    },
    /// The classifier, `[classes, hidden]`.
    Score,
}

impl Part {
    /// The block that it belongs to; none for the classifier.
    pub fn layer(self) -> Option<usize> {
        match self {
            Self::A { layer, .. } | Self::B { layer, .. } | Self::Core { layer, .. } => Some(layer),
            Self::Score => None,
        }
    }

    /// The kind of tensor, whatever the module.
    pub fn kind(self) -> Parts {
        match self {
            Self::A { .. } => Parts::A,
            Self::B { .. } => Parts::B,
            Self::Core { .. } => Parts::CORE,
            Self::Score => Parts::HEAD,
        }
    }
}

/// One tensor: its name, its meaning, its shape and where it begins in the flat vector.
#[derive(Clone, Debug)]
pub struct Entry {
    /// PEFT's name.
    pub name: String,
    /// What it is.
    pub part: Part,
    /// Rows and columns.
    pub shape: [usize; 2],
    /// The index of its first number in the flat vector.
    pub start: usize,
}

/// The tensors of an adapter in the order of their names.
#[derive(Clone, Debug)]
pub struct Layout {
    entries: Vec<Entry>,
    modules: Vec<Module>,
    length: usize,
    layers: usize,
    slots: usize,
}

impl Layout {
    /// The layout of `lora` on a base of `config`; `classes` is the height of the classifier, 0 for none.
    ///
    /// # Errors
    /// The base cannot take the adapter.
    pub fn new(config: &Config, lora: &LoraConfig, classes: usize) -> Result<Self, LoraError> {
        Self::build(config, lora, classes, false)
    }

    /// The layout of an adapter that is there: with a classifier as high as its own, and with cores if it has any.
    ///
    /// # Errors
    /// The base cannot take the adapter.
    pub fn of(
        config: &Config,
        lora: &LoraConfig,
        adapter: &AdapterTensors,
    ) -> Result<Self, LoraError> {
        Self::build(config, lora, adapter.classes(), adapter.has_cores())
    }

    fn build(
        config: &Config,
        lora: &LoraConfig,
        classes: usize,
        cores: bool,
    ) -> Result<Self, LoraError> {
        let modules = lora.modules(config)?;
        let mut list = Vec::new();
        for &Module { layer, slot, ref path, rank, .. } in &modules {
            let Some((inputs, outputs)) = config.linear(config.family.targets()[slot]) else {
                continue;
            };
            let [a, b] = peft::factor_names(path);
            list.push((a, Part::A { layer, slot }, [rank, inputs]));
            list.push((b, Part::B { layer, slot }, [outputs, rank]));
            if cores {
                list.push((peft::core_name(path), Part::Core { layer, slot }, [rank, rank]));
            }
        }
        if classes > 0 {
            list.push((peft::SCORE.to_owned(), Part::Score, [classes, config.hidden]));
        }
        list.sort_by(|a, b| a.0.cmp(&b.0));
        let entries =
            list.into_iter().map(|(name, part, shape)| Entry { name, part, shape, start: 0 });
        let (layers, slots) = (config.layers, config.family.targets().len());
        Ok(Self { entries: entries.collect(), modules, length: 0, layers, slots }.placed())
    }

    /// The layout that has room for each of `layouts`: the factors of each module have the largest of its ranks.
    /// `None` where they do not have the same tensors.
    pub fn covering(layouts: &[Self]) -> Option<Self> {
        let (first, rest) = layouts.split_first()?;
        let mut wide = first.clone();
        for other in rest {
            let same = wide.entries.len() == other.entries.len()
                && wide.entries.iter().zip(&other.entries).all(|(a, b)| a.name == b.name);
            if !same {
                return None;
            }
            for (entry, other) in wide.entries.iter_mut().zip(&other.entries) {
                entry.shape = [0, 1].map(|axis| entry.shape[axis].max(other.shape[axis]));
            }
        }
        Some(wide.placed())
    }

    /// The layout of the tensors of some parts alone; it knows of all modules.
    #[must_use]
    pub fn only(&self, parts: Parts) -> Self {
        let mut some = self.clone();
        some.entries.retain(|entry| parts.has(entry.part.kind()));
        some.placed()
    }

    fn placed(mut self) -> Self {
        self.length = 0;
        for entry in &mut self.entries {
            entry.start = self.length;
            self.length += entry.shape[0] * entry.shape[1];
        }
        self
    }

    /// The tensors, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// P, the number of numbers of one client.
    pub fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// The modules that are adapted, with the ranks and scales of this adapter itself.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The flat vector of `adapter`, whose own layout is `own`, padded with zeros where this layout is wider.
    pub fn pack(&self, adapter: &AdapterTensors, own: &Self) -> Result<Vec<f32>, AdapterError> {
        let names: Vec<(&str, [usize; 2])> =
            own.entries.iter().map(|entry| (entry.name.as_str(), entry.shape)).collect();
        adapter.check(&names)?;
        let mut flat = vec![0.0; self.length];
        for (entry, own) in self.entries.iter().zip(&own.entries) {
            let Some((_, values)) = adapter.get(&entry.name) else {
                continue;
            };
            for (row, source) in values.chunks_exact(own.shape[1]).enumerate() {
                let start = entry.start + row * entry.shape[1];
                flat[start..start + own.shape[1]].copy_from_slice(source);
            }
        }
        Ok(flat)
    }

    /// The adapter with the layout `own` that `flat` holds.
    pub fn unpack(&self, flat: &[f32], own: &Self) -> AdapterTensors {
        let tensors = self.entries.iter().zip(&own.entries).map(|(entry, own)| {
            let rows = flat[entry.start..].chunks(entry.shape[1]).take(own.shape[0]);
            let values: Vec<f32> = rows.flat_map(|row| &row[..own.shape[1]]).copied().collect();
            (entry.name.clone(), own.shape, values)
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
