//! The families of models, and what each must say of itself.

use burn::tensor::Device;

use super::block::Block;
use super::config::{Config, ConfigError};
use super::llama::Llama;
use super::weights::{Checkpoint, Expected, WeightsError};

/// A group of architectures that share one decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM2, `TinyLlama`, and Mistral without a sliding window.
    Llama,
}

impl Family {
    const ALL: [Self; 1] = [Self::Llama];

    /// The family that an architecture of `config.json` belongs to.
    pub fn of(architecture: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.rules().architectures().contains(&architecture))
    }

    /// The names of the linear modules of a block that an adapter may target.
    pub fn targets(self) -> &'static [&'static str] {
        self.rules().targets()
    }

    /// All supported architectures, as a list in a sentence.
    pub(super) fn listed() -> String {
        let names = Self::ALL.iter().flat_map(|family| family.rules().architectures());
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn rules(self) -> &'static dyn Rules {
        match self {
            Self::Llama => &Llama,
        }
    }
}

/// How a family's `config.json` and the names in its checkpoints map onto the decoder.
pub(super) trait Rules: Sync {
    /// The architectures, as `config.json` names them.
    fn architectures(&self) -> &'static [&'static str];

    /// What an adapter may target; the place of a name is its slot.
    fn targets(&self) -> &'static [&'static str];

    /// Reads a `config.json`, and refuses what is not supported.
    fn read(&self, json: &[u8]) -> Result<Config, ConfigError>;

    /// The input and output widths of a target.
    fn linear(&self, config: &Config, target: &str) -> Option<(usize, usize)>;

    /// The path of a target in block `layer`.
    fn module(&self, layer: usize, target: &str) -> Option<String>;

    /// The names of the token embeddings, of the last norm's gains and of an untied causal head.
    fn ends(&self) -> Ends;

    /// Every tensor that the decoder reads; the causal head is not among them.
    fn expected(&self, config: &Config) -> Vec<Expected>;

    /// Whether a tensor may stand in a checkpoint although it is not read.
    fn may_ignore(&self, name: &str) -> bool;

    /// Block `layer`, with its weights on `device`.
    fn block(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        layer: usize,
        device: &Device,
    ) -> Result<Block, WeightsError>;
}

/// The names of the tensors before and after the blocks.
pub(super) struct Ends {
    /// `[vocab, hidden]`.
    pub(super) embeddings: &'static str,
    /// `[hidden]`.
    pub(super) final_norm: &'static str,
    /// `[vocab, hidden]`.
    pub(super) causal_head: &'static str,
}
