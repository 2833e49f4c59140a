//! A pre-norm decoder of plain tensors: the frozen base, shared by reference, and the adapters over it.
//!
//! A family file (`llama.rs`, `bloom.rs`) says how `config.json` and a checkpoint's names map onto the decoder. Frozen weights
//! lie on the plain device; only what is trained is on the autodiff device, so nothing below the first adapted
//! module keeps a graph.

mod alibi;
mod attention;
mod batch;
mod block;
mod bloom;
mod changed;
mod config;
mod dropout;
mod factors;
mod family;
#[cfg(test)]
mod family_tests;
mod fuse;
mod layout;
mod linear;
mod llama;
mod lora;
mod mlp;
mod norm;
#[cfg(test)]
mod parity_tests;
mod positions;
mod product;
#[cfg(test)]
pub(crate) mod recorded;
mod rope;
mod tape;
mod targets;
#[cfg(test)]
pub(crate) mod tiny;
mod vocabulary;
mod weights;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};

pub use batch::{Batch, Read, Row, Start};
pub(crate) use block::Rows;
pub(crate) use changed::check_delta;
pub use config::{Biases, Config, ConfigError, Position};
pub use dropout::Dropout;
pub use factors::Factors;
pub use family::Family;
pub use layout::{Entry, Layout, Part};
pub use lora::{Init, Layers, LoraConfig, LoraError, Module};
pub use rope::{Rope, Scaling};
pub use tape::{Adapters, Forward, Tape};
pub use targets::{ALL_LINEAR, Targets};
pub use vocabulary::{Likelihood, likelihood, read_classes};
pub(crate) use weights::widen;
pub use weights::{
    Checkpoint, INDEX_FILE, NamedFile, SINGLE_FILE, WeightsError, check_header, header_length,
    shard_names,
};

use crate::fused::{self, Decoder, Keep};
use crate::precision::Precision;
use block::{Block, Pass};
use linear::on_host;
use norm::Norm;
use positions::Positions;
use weights::{CAUSAL_HEAD, Expected};

/// The blocks, by what runs them.
#[derive(Clone)]
enum Blocks {
    /// Burn's operations, on any device.
    Stock(Vec<Block>),
    /// The CPU's own kernels.
    Fused(Box<Decoder>),
}

/// The frozen weights of a base model on one plain device: f32, but for linear modules of another [`Precision`].
pub struct Base {
    config: Config,
    precision: Precision,
    device: Device,
    embeddings: Tensor<2>,
    embedding_norm: Option<Norm>,
    blocks: Blocks,
    final_norm: Norm,
    /// Shared with the bases that [`Base::with_delta`] makes of this one: loaded for one, it is there for all.
    causal_head: Arc<OnceLock<Tensor<2>>>,
    /// What attention needs for each width met so far, shared likewise.
    positions: Arc<Mutex<BTreeMap<usize, Positions>>>,
}

impl Base {
    /// Reads the weights of a base, f32, as [`Base::load_in`] does.
    ///
    /// # Errors
    /// Tensors that are missing, unexpected or misshapen are named, all in one error.
    pub fn load(
        config: Config,
        checkpoint: Checkpoint<'_>,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        Self::load_in(config, checkpoint, Precision::F32, device)
    }

    /// Reads the weights of a base whose linear modules multiply in `precision`; a causal head of its own is read when
    /// [`Base::load_causal_head`] asks for it.
    ///
    /// # Errors
    /// Tensors that are missing, unexpected or misshapen are named, all in one error.
    pub fn load_in(
        config: Config,
        checkpoint: Checkpoint<'_>,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, WeightsError> {
        let rules = config.family.rules();
        let checkpoint = checkpoint.of_family(config.family);
        let mut expected = rules.expected(&config);
        if !config.tied && checkpoint.has(CAUSAL_HEAD) {
            expected.push(Expected::new(CAUSAL_HEAD, &[config.vocab, config.hidden]));
        }
        checkpoint.check(&expected, &|name| rules.may_ignore(name))?;
        // Rounded one by one, so that no more than one block is held in f32 for it.
        let blocks = (0..config.layers).map(|layer| {
            let mut block = rules.block(&config, &checkpoint, layer, device)?;
            block.round(precision);
            Ok::<_, WeightsError>(block)
        });
        let blocks = Blocks::Stock(blocks.collect::<Result<_, _>>()?);
        let (embedding_norm, final_norm) = rules.norms(&config, &checkpoint, device)?;
        let embeddings = checkpoint.matrix(rules.embeddings(), device)?;
        let causal_head = Arc::new(OnceLock::new());
        if config.tied {
            causal_head.get_or_init(|| embeddings.clone());
        }
        Ok(Self {
            embeddings,
            embedding_norm,
            blocks,
            final_norm,
            causal_head,
            positions: Arc::default(),
            device: device.clone(),
            config,
            precision,
        })
    }

    /// Whether [`Base::causal_head`] can be asked for.
    pub fn has_causal_head(&self) -> bool {
        self.causal_head.get().is_some()
    }

    /// Reads the causal head of a base that is not tied, from the checkpoint that the base was read from.
    ///
    /// # Errors
    /// The checkpoint has none: it is that of a classifier, or of the decoder alone.
    pub fn load_causal_head(&self, checkpoint: &Checkpoint<'_>) -> Result<(), WeightsError> {
        if !checkpoint.has(CAUSAL_HEAD) {
            return Err(WeightsError::NoHead);
        }
        let head = checkpoint.matrix(CAUSAL_HEAD, &self.device)?;
        self.causal_head.get_or_init(|| head);
        Ok(())
    }

    /// The matrix `[vocab, hidden]` that turns hidden states into logits over tokens.
    ///
    /// # Panics
    /// Where the base is not tied and its head was not loaded.
    pub fn causal_head(&self) -> &Tensor<2> {
        self.causal_head.get().expect("a causal task loads the head with the base")
    }

    /// The sizes of this base.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// In what numbers its linear modules multiply.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The plain device that the weights lie on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The rows of the causal head `[labels, hidden]` of labels that are one token each.
    ///
    /// # Panics
    /// Where a label has no token, or the head was not loaded.
    pub fn label_rows(&self, labels: &[Vec<u32>]) -> Tensor<2> {
        let ids: Vec<i32> = labels.iter().map(|label| label[0].cast_signed()).collect();
        let ids = TensorData::new(ids, [labels.len()]);
        let ids: Tensor<1, Int> = Tensor::from_data(ids, &self.device);
        self.causal_head().clone().select(0, ids)
    }

    /// The hidden states `[K·q, hidden]` after the last norm, of the tokens that a head reads.
    pub fn read(
        &self,
        batch: &Batch,
        factors: Option<&Factors>,
        dropout: Option<&Dropout<'_>>,
    ) -> Tensor<2> {
        let Blocks::Fused(decoder) = &self.blocks else {
            return self.run(batch, factors, dropout, Rows::Read, None);
        };
        let adapters = factors.map(Factors::on_host).unwrap_or_default();
        let pass = fused::Pass { batch, adapters: &adapters, dropout };
        let layers = self.config.layers;
        let (hidden, _) = decoder.forward(pass, &self.entering(batch), Keep::Nothing, layers);
        let shape = [hidden.len() / self.config.hidden, self.config.hidden];
        Tensor::from_data(TensorData::new(hidden, shape), &self.device)
    }

    /// The hidden states `[K·b·s, hidden]` after the last norm; those of padding mean nothing.
    #[cfg(test)]
    pub fn hidden(&self, batch: &Batch, factors: Option<&Factors>) -> Tensor<2> {
        self.run(batch, factors, None, Rows::All, None)
    }

    /// What goes into block `layer` where none before it is adapted, `[Σ lengths, hidden]`: row after row of the
    /// batch, without padding.
    pub fn below(&self, batch: &Batch, layer: usize) -> Vec<f32> {
        match &self.blocks {
            Blocks::Fused(decoder) => decoder.below(batch, &self.entering(batch), layer),
            Blocks::Stock(_) => {
                let states = self.through(batch, layer, (None, None, Rows::All), None);
                let (states, row) = (on_host(states), batch.width() * self.config.hidden);
                let rows = states.chunks_exact(row).zip(batch.lengths());
                rows.flat_map(|(row, length)| &row[..length * self.config.hidden])
                    .copied()
                    .collect()
            }
        }
    }

    /// What goes into each block, and last what [`Base::hidden`] returns: `layers + 1` tensors. A batch that begins at
    /// a block has none for those before it.
    #[cfg(test)]
    pub fn hidden_by_layer(&self, batch: &Batch, factors: Option<&Factors>) -> Vec<Tensor<2>> {
        let mut trace = Vec::new();
        let last = self.run(batch, factors, None, Rows::All, Some(&mut trace));
        trace.pop();
        trace.push(last);
        trace
    }

    /// By Burn's operations. `trace` takes what goes into each block and into the last norm.
    fn run(
        &self,
        batch: &Batch,
        factors: Option<&Factors>,
        dropout: Option<&Dropout<'_>>,
        keep: Rows,
        trace: Option<&mut Vec<Tensor<2>>>,
    ) -> Tensor<2> {
        let mut trace = trace;
        let through = (factors, dropout, keep);
        let x = self.through(batch, self.config.layers, through, trace.as_deref_mut());
        if let Some(trace) = trace {
            trace.push(x.clone());
        }
        self.final_norm.forward(&x)
    }

    /// What comes out of the blocks before block `end`, whether the batch begins with embeddings or further up.
    fn through(
        &self,
        batch: &Batch,
        end: usize,
        (factors, dropout, keep): (Option<&Factors>, Option<&Dropout<'_>>, Rows),
        mut trace: Option<&mut Vec<Tensor<2>>>,
    ) -> Tensor<2> {
        let positions = self.positions(batch.width());
        let Blocks::Stock(blocks) = &self.blocks else {
            unreachable!("a fused base runs its decoder")
        };
        let (first, mut x) = match batch.start() {
            Some(start) => (start.layer, self.padded(batch, &start.states)),
            None => (0, self.embedded(batch)),
        };
        for (layer, block) in blocks.iter().enumerate().take(end).skip(first) {
            if let Some(trace) = trace.as_deref_mut() {
                trace.push(x.clone());
            }
            let rows = Rows::All;
            let pass = Pass { batch, positions: &positions, factors, dropout, layer, rows };
            let last = layer + 1 == blocks.len();
            x = block.forward(x, &pass, if last { keep } else { Rows::All });
        }
        x
    }

    /// What goes into the first block, `[K·b·s, hidden]`.
    fn embedded(&self, batch: &Batch) -> Tensor<2> {
        let x = self.embeddings.clone().select(0, batch.ids.clone());
        match &self.embedding_norm {
            Some(norm) => norm.forward(&x),
            None => x,
        }
    }

    /// Hidden states `[Σ lengths, hidden]` as `[K·b·s, hidden]`, with zeros for padding: no token looks at it.
    fn padded(&self, batch: &Batch, states: &[f32]) -> Tensor<2> {
        let (hidden, row) = (self.config.hidden, batch.width() * self.config.hidden);
        let mut values = vec![0.0; batch.lengths().len() * row];
        let mut rest = states;
        for (place, &length) in values.chunks_mut(row).zip(batch.lengths()) {
            let own;
            (own, rest) = rest.split_at(length * hidden);
            place[..own.len()].copy_from_slice(own);
        }
        let shape = [batch.lengths().len() * batch.width(), hidden];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    fn positions(&self, width: usize) -> Positions {
        let mut met = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Positions::new(&self.config, width, &self.device);
        met.entry(width).or_insert_with(make).clone()
    }
}
