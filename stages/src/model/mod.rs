//! A pre-norm decoder of plain tensors: the frozen base, shared by reference, and the adapters over it.
//!
//! A family file (`llama.rs`) says how `config.json` and a checkpoint's names map onto the decoder. Frozen weights
//! lie on the plain device; only what is trained is on the autodiff device, so nothing below the first adapted
//! module keeps a graph.

mod attention;
mod batch;
mod block;
mod config;
mod dropout;
mod factors;
mod family;
mod layout;
mod llama;
mod lora;
#[cfg(test)]
mod parity_tests;
#[cfg(test)]
pub(crate) mod recorded;
mod rope;
#[cfg(test)]
pub(crate) mod tiny;
mod weights;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Tensor};

pub use batch::{Batch, Example};
pub use config::{Config, ConfigError};
pub use dropout::Dropout;
pub use factors::Factors;
pub use family::Family;
pub use layout::{Entry, Layout, Part};
pub use lora::{Init, Layers, LoraConfig, LoraError};
pub use rope::{Rope, Scaling};
pub(crate) use weights::widen;
pub use weights::{
    Checkpoint, INDEX_FILE, NamedFile, SINGLE_FILE, WeightsError, check_header, header_length,
    shard_names,
};

use block::{Block, Norm, Pass, Rows};
use rope::Positions;

/// The frozen weights of a base model, f32 on one plain device.
pub struct Base {
    config: Config,
    device: Device,
    embeddings: Tensor<2>,
    blocks: Vec<Block>,
    final_norm: Norm,
    frequencies: Vec<f32>,
    /// What attention needs for each width met so far.
    positions: Mutex<BTreeMap<usize, Positions>>,
}

impl Base {
    /// Reads the weights of a base; a causal head is not read, see [`Base::causal_head`].
    ///
    /// # Errors
    /// Tensors that are missing, unexpected or misshapen are named, all in one error.
    pub fn load(
        config: Config,
        checkpoint: &Checkpoint<'_>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let rules = config.family.rules();
        checkpoint.check(&rules.expected(&config), &|name| rules.may_ignore(name))?;
        let blocks =
            (0..config.layers).map(|layer| rules.block(&config, checkpoint, layer, device));
        let ends = rules.ends();
        Ok(Self {
            embeddings: checkpoint.matrix(ends.embeddings, device)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            final_norm: Norm::new(checkpoint.vector(ends.final_norm, device)?, config.norm_eps),
            frequencies: config.rope.frequencies(config.head_dim),
            positions: Mutex::default(),
            device: device.clone(),
            config,
        })
    }

    /// The matrix `[vocab, hidden]` that turns hidden states into logits over tokens.
    pub fn causal_head(&self, checkpoint: &Checkpoint<'_>) -> Result<Tensor<2>, WeightsError> {
        let name = self.config.family.rules().ends().causal_head;
        if self.config.tied {
            return Ok(self.embeddings.clone());
        }
        checkpoint.matrix(name, &self.device)
    }

    /// The sizes of this base.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The plain device that the weights lie on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The logits `[K·b, classes]` of the adapters' classifiers, at the last token of each row.
    ///
    /// # Panics
    /// Where `factors` have no classifier; [`Layout`] says whether they have.
    pub fn classify(
        &self,
        batch: &Batch,
        factors: &Factors,
        dropout: Option<&Dropout>,
    ) -> Tensor<2> {
        let hidden = self.run(batch, Some(factors), dropout, Rows::Read, None);
        factors.classify(hidden).expect("a classifier was asked for of an adapter that has one")
    }

    /// The hidden states `[K·b·s, hidden]` after the last norm; those of padding mean nothing.
    pub fn hidden(&self, batch: &Batch, factors: Option<&Factors>) -> Tensor<2> {
        self.run(batch, factors, None, Rows::All, None)
    }

    /// What goes into each block, and last what [`Base::hidden`] returns: `layers + 1` tensors.
    pub fn hidden_by_layer(&self, batch: &Batch, factors: Option<&Factors>) -> Vec<Tensor<2>> {
        let mut trace = Vec::new();
        let last = self.run(batch, factors, None, Rows::All, Some(&mut trace));
        trace.push(last);
        trace
    }

    fn run(
        &self,
        batch: &Batch,
        factors: Option<&Factors>,
        dropout: Option<&Dropout>,
        keep: Rows,
        mut trace: Option<&mut Vec<Tensor<2>>>,
    ) -> Tensor<2> {
        let positions = self.positions(batch.width());
        let mut x = self.embeddings.clone().select(0, batch.ids.clone());
        for (layer, block) in self.blocks.iter().enumerate() {
            if let Some(trace) = trace.as_deref_mut() {
                trace.push(x.clone());
            }
            let rows = Rows::All;
            let pass = Pass { batch, positions: &positions, factors, dropout, layer, rows };
            let last = layer + 1 == self.blocks.len();
            x = block.forward(x, &pass, if last { keep } else { Rows::All });
        }
        self.final_norm.forward(&x)
    }

    fn positions(&self, width: usize) -> Positions {
        let mut met = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Positions::new(&self.frequencies, width, &self.device);
        met.entry(width).or_insert_with(make).clone()
    }
}
