//! The families of models, and what each must say of itself.

use burn::tensor::Device;

use super::block::Block;
use super::bloom::Bloom;
use super::config::{Config, ConfigError};
use super::llama::Llama;
use super::norm::Norm;
use super::weights::{Checkpoint, Expected, WeightsError};

/// A group of architectures that share one decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM2, `TinyLlama`, Qwen2, and Mistral without a sliding window.
    Llama,
    /// BLOOM and BLOOMZ.
    Bloom,
}

impl Family {
    const ALL: [Self; 2] = [Self::Llama, Self::Bloom];

    /// The family that an architecture of `config.json` belongs to.
    pub fn of(architecture: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.rules().architectures().contains(&architecture))
    }

    /// The names of the linear modules of a block that an adapter may target.
    pub fn targets(self) -> &'static [&'static str] {
        self.rules().targets()
    }

    /// The paths of modules that PEFT can adapt and this does not.
    pub(super) fn other_modules(self) -> [&'static str; 2] {
        let embeddings = self.rules().embeddings();
        ["lm_head", embeddings.strip_suffix(".weight").unwrap_or(embeddings)]
    }

    /// What is adapted where nothing else is said, as in PEFT.
    pub fn default_targets(self) -> &'static [&'static str] {
        self.rules().default_targets()
    }

    /// All supported architectures, as a list in a sentence.
    pub(super) fn listed() -> String {
        let names = Self::ALL.iter().flat_map(|family| family.rules().architectures());
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn rules(self) -> &'static dyn Rules {
        match self {
            Self::Llama => &Llama,
            Self::Bloom => &Bloom,
        }
    }
}

/// How a family's `config.json` and the names in its checkpoints map onto the decoder.
pub(super) trait Rules: Sync {
    /// The architectures, as `config.json` names them.
    fn architectures(&self) -> &'static [&'static str];

    /// What an adapter may target; the place of a name is its slot.
    fn targets(&self) -> &'static [&'static str];

    /// What PEFT adapts by default.
    fn default_targets(&self) -> &'static [&'static str];

    /// Reads a `config.json`, and refuses what is not supported.
    fn read(&self, json: &[u8]) -> Result<Config, ConfigError>;

    /// The input and output widths of a target.
    fn linear(&self, config: &Config, target: &str) -> Option<(usize, usize)>;

    /// The path of a target in block `layer`.
    fn module(&self, layer: usize, target: &str) -> Option<String>;

    /// What the names of all tensors but the heads' begin with; a checkpoint of the decoder alone leaves it out.
    fn prefix(&self) -> &'static str;

    /// The name of the token embeddings, `[vocab, hidden]`.
    fn embeddings(&self) -> &'static str;

    /// Every tensor that the decoder reads; the heads are not among them.
    fn expected(&self, config: &Config) -> Vec<Expected>;

    /// Whether a tensor may stand in a checkpoint although it is not read.
    fn may_ignore(&self, _name: &str) -> bool {
        false
    }

    /// The norm behind the embeddings, if there is one, and the norm before the head.
    fn norms(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        device: &Device,
    ) -> Result<(Option<Norm>, Norm), WeightsError>;

    /// Block `layer`, with its weights on `device`.
    fn block(
        &self,
        config: &Config,
        checkpoint: &Checkpoint<'_>,
        layer: usize,
        device: &Device,
    ) -> Result<Block, WeightsError>;
}
