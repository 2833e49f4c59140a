//! The kinds of artifact, and how each is opened from a tree of the store.

use artifacts::Blob;
use serde::{Deserialize, Serialize};

use crate::{
    edge::{Artifact, Open, Opened, TreeView},
    error::Result,
    model::LoraConfig,
    peft::{AdapterTensors, Delta},
    token_set::TokenSet,
};

/// One entry of an artifact, as bytes.
pub struct File(pub Blob);

impl Artifact for File {
    const KIND: &'static str = "file";
}

impl Open for File {
    fn open(from: Opened<'_>) -> Result<Self> {
        Ok(Self(from.entry()?))
    }
}

/// Kinds whose trees are read entry by entry.
macro_rules! trees {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl Artifact for $name {
                const KIND: &'static str = $kind;
            }
        )*
    };
}

trees! {
    /// A base model: `config.json`, the tokenizer's files and the safetensors, by their own names.
    ModelFiles = "model";
    /// Labelled texts: one `<split>.jsonl` a split, and `info.json`.
    Corpus = "corpus";
    /// Token ids: one [`TokenSet`] a split, `labels.json`, and `info.json` on how it was made.
    Tokens = "tokens";
    /// One [`TokenSet`] a client, `skew.json`, and `indices.json`.
    Shards = "shards";
    /// Figures of an evaluation: `scores.json`, and those of the clients of a federation in `clients.json`.
    Scores = "scores";
    /// How an adapter did on one client's own examples, `loss.json`.
    ShardScore = "shard score";
}

impl Artifact for TokenSet {
    const KIND: &'static str = "token set";
}

impl Open for TokenSet {
    fn open(from: Opened<'_>) -> Result<Self> {
        Ok(Self::from_bytes(&from.entry()?)?)
    }
}

/// The LoRA settings that an adapter was made with, kept beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Rank, alpha, targets and the rest.
    pub lora: LoraConfig,
    /// Label names, in the order of the classifier's rows; none for an adapter of the causal head.
    pub labels: Vec<String>,
}

/// What becomes of the classifier in a federation, apart from LoRA's factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Head {
    /// Trained by every client, and averaged with the rest.
    #[default]
    Shared,
    /// Trained by every client and kept by it: nobody else ever sees it.
    Local,
    /// Seeded and never trained.
    Frozen,
}

impl Head {
    /// Whether this is the default, which is not written.
    pub fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// What a local training counted, kept beside its adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Training examples: the weight of this client in an average.
    pub examples: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Tokens seen, padding not counted.
    pub tokens: u64,
    /// Mean training loss over the steps.
    pub mean_loss: f64,
    /// Training loss of the last step.
    pub last_loss: f64,
    /// The rank before training, where the client has pruned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned_from: Option<usize>,
}

/// A LoRA adapter, with a classifier where classes are told by one.
pub struct Adapter {
    /// How it was made.
    pub config: AdapterConfig,
    /// Its tensors, by PEFT's names.
    pub tensors: AdapterTensors,
    /// Present if it comes from a local training.
    pub trained: Option<Trained>,
    /// What rules have added to the base that it stands on; a client's adapter does not repeat that of the adapter
    /// that it started from.
    pub delta: Option<Delta>,
}

impl Adapter {
    /// The entry with the settings.
    pub const CONFIG: &'static str = "adapter.json";
    /// The entry with the tensors.
    pub const TENSORS: &'static str = "adapter.safetensors";
    /// The entry with the counts.
    pub const TRAINED: &'static str = "training.json";
    /// The entry with what was added to the base.
    pub const DELTA: &'static str = "delta.safetensors";
    /// The entry with what the server remembers from round to round.
    pub const STATE: &'static str = "server.safetensors";
    /// The entry with a client's control variate (SCAFFOLD).
    pub const CONTROL: &'static str = "control.safetensors";
    /// The entry with how that has changed, which the client sends.
    pub const CONTROL_CHANGE: &'static str = "control_change.safetensors";
    /// The entry with what stands in for a global adapter where there is none.
    pub const STAND_IN: &'static str = "approximate.safetensors";

    /// What stands in for the adapter when it is exported: under FedSA-LoRA each client keeps its own B, so that there
    /// is no global adapter, and the means of all A and of all B are an approximation. It is nothing to train from or
    /// to score, so it is only read when it is asked for.
    ///
    /// # Errors
    /// Its bytes are missing or damaged.
    pub fn stand_in(view: &TreeView<'_>) -> Result<Option<AdapterTensors>> {
        let bytes = view.blob_if_there(Self::STAND_IN)?;
        Ok(bytes.map(|bytes| AdapterTensors::from_safetensors(&bytes)).transpose()?)
    }

    /// What the adapter in `view` has added to its base, without the rest of it.
    ///
    /// # Errors
    /// Its bytes are missing or damaged.
    pub fn delta(view: &TreeView<'_>) -> Result<Option<Delta>> {
        let bytes = view.blob_if_there(Self::DELTA)?;
        Ok(bytes.map(|bytes| Delta::from_safetensors(&bytes)).transpose()?)
    }
}

impl Artifact for Adapter {
    const KIND: &'static str = "adapter";
}

impl Open for Adapter {
    fn open(from: Opened<'_>) -> Result<Self> {
        let view = from.tree()?;
        let trained = match view.tree.get(Self::TRAINED) {
            Some(_) => Some(view.json(Self::TRAINED)?),
            None => None,
        };
        Ok(Self {
            config: view.json(Self::CONFIG)?,
            tensors: AdapterTensors::from_safetensors(&view.blob(Self::TENSORS)?)?,
            trained,
            delta: Self::delta(&view)?,
        })
    }
}
