//! The hidden states that go into the lowest adapted block: the same in every epoch, round, client, rank and rule.
//!
//! Nothing below that block is ever trained, so one pass over each example serves all that follow, and training and
//! evaluation begin at the block. The states are stored by the rows that an example's objective lays out: where labels
//! have several tokens, the prompt is there once for each label.

use std::io::Write;
use std::ops::ControlFlow;

use artifacts::Blob;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    edge::{Artifact, Open, Opened},
    error::{self, Error},
    fit::{self, DataError},
    local_train::Progress,
    model::{Base, Batch, Config, Layers, LoraConfig, Start, Targets},
    objective,
    token_set::TokenSet,
};

/// Examples in a pass over the blocks below.
pub(crate) const BATCH: usize = 32;
/// Bytes of a number.
const F32: usize = size_of::<f32>();

/// Why hidden states cannot be made or used.
#[derive(Debug, Error)]
pub enum PrefixError {
    /// They are those of other examples, or of another base.
    #[error("the stored hidden states are not those of the examples: {0}")]
    Misfit(String),
    /// The adapter changes what they were computed by.
    #[error(
        "the adapter changes block {adapted}, and the stored hidden states are those that go into block {layer}; \
         set `local.prefix: Recompute`"
    )]
    Adapted {
        /// The lowest adapted block.
        adapted: usize,
        /// Where the states end.
        layer: usize,
    },
    /// The examples cannot be taken through the base.
    #[error(transparent)]
    Data(#[from] DataError),
    /// They cannot be written.
    #[error("the hidden states cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl From<PrefixError> for Error {
    fn from(error: PrefixError) -> Self {
        match error {
            PrefixError::Stopped => Self::Stopped,
            PrefixError::Data(_) | PrefixError::Adapted { .. } => Self::input(error.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

/// Whether hidden states below the adapted blocks are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Reuse {
    /// Once for each example, `tokens · hidden · 4` bytes on the disk.
    #[default]
    Keep,
    /// They are computed again in every pass.
    Recompute,
}

impl Reuse {
    /// Whether this is the default, which is not written.
    pub fn is_keep(&self) -> bool {
        *self == Self::Keep
    }
}

/// The lowest adapted block, as far as it is known without the base's config: the plan of a base that is still to be
/// downloaded is that of one that lies here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Below {
    /// The first of the last so many blocks.
    Last(usize),
    /// This block, counted from 0.
    Block(usize),
}

impl Below {
    /// Where the frozen blocks below an adapter end; `None` where the first block may be adapted.
    pub fn of(lora: &LoraConfig) -> Option<Self> {
        // A target that is a whole path, with a block's number in it, is adapted whatever `layers` says.
        let is_path = |name: &String| name.split('.').any(|part| part.parse::<usize>().is_ok());
        if let Some(Targets::Names(names)) = &lora.targets
            && names.iter().any(is_path)
        {
            return None;
        }
        match &lora.layers {
            Layers::All => None,
            Layers::Last(last) => Some(Self::Last(*last)),
            Layers::Only(list) => {
                list.iter().min().filter(|least| **least > 0).map(|l| Self::Block(*l))
            }
        }
    }

    /// The block, in a base of `config`.
    pub fn layer(self, config: &Config) -> usize {
        match self {
            Self::Last(last) => config.layers.saturating_sub(last),
            Self::Block(layer) => layer,
        }
    }
}

/// What the prefix of a token set is, kept beside its states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Outline {
    /// The block that the states go into.
    layer: usize,
    /// The width of a state.
    hidden: usize,
}

/// The hidden states of every example of a token set, mapped from the store.
#[derive(Clone, Debug)]
pub struct Prefix {
    outline: Outline,
    /// For each example the first of its states and the first behind them.
    spans: Vec<[usize; 2]>,
    states: Blob,
}

impl Artifact for Prefix {
    const KIND: &'static str = "prefix";
}

impl Prefix {
    /// The entry with the block and the width.
    pub const OUTLINE: &'static str = "prefix.json";
    /// The entry with two numbers (u64) for each example: the first of its states and the first behind them.
    pub const SPANS: &'static str = "spans.u64";
    /// The entry with the states (f32), `[tokens, hidden]`.
    pub const STATES: &'static str = "states.f32";

    /// The block that the states go into.
    pub fn layer(&self) -> usize {
        self.outline.layer
    }

    /// Looks whether these are the states of `data` for an adapter of `lora` on a base of `config`.
    ///
    /// # Errors
    /// They are of other examples or of another width, or the adapter changes a block below them.
    pub fn check(
        &self,
        config: &Config,
        lora: &LoraConfig,
        data: &TokenSet,
    ) -> Result<(), PrefixError> {
        let wrong = |what: String| Err(PrefixError::Misfit(what));
        let layer = self.outline.layer;
        if self.outline.hidden != config.hidden || layer >= config.layers {
            return wrong("they are of a base of other sizes".to_owned());
        }
        let modules = lora.modules(config).unwrap_or_default();
        if let Some(adapted) = modules.iter().map(|module| module.layer).find(|at| *at < layer) {
            return Err(PrefixError::Adapted { adapted, layer });
        }
        if layer == 0 {
            return Ok(());
        }
        if self.spans.len() != data.len() {
            return wrong(format!("{} examples, not {}", self.spans.len(), data.len()));
        }
        let most = self.states.len() / (F32 * config.hidden);
        let fits = |(index, [start, end]): (usize, &[usize; 2])| {
            *end <= most && start + objective::tokens_of(data, index) == *end
        };
        match self.spans.iter().enumerate().position(|at| !fits(at)) {
            Some(example) => wrong(format!("example {example} has another length")),
            None => Ok(()),
        }
    }

    /// Appends the states of the example at `index`.
    fn copy(&self, index: usize, to: &mut Vec<f32>) {
        let bytes = self.spans[index].map(|at| at * self.outline.hidden * F32);
        let own = self.states[bytes[0]..bytes[1]].as_chunks::<F32>().0;
        to.extend(own.iter().map(|number| f32::from_le_bytes(*number)));
    }
}

impl Open for Prefix {
    fn open(from: Opened<'_>) -> error::Result<Self> {
        let view = from.tree()?;
        let number =
            |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).unwrap_or(usize::MAX);
        let spans = view.blob(Self::SPANS)?;
        let spans = spans.as_chunks::<16>().0.iter().map(|pair| {
            let (pair, _) = pair.as_chunks::<8>();
            [number(&pair[0]), number(&pair[1])]
        });
        Ok(Self {
            outline: view.json(Self::OUTLINE)?,
            spans: spans.collect(),
            states: view.blob(Self::STATES)?,
        })
    }
}

/// Lets a batch of these examples of each client begin where their prefixes end.
///
/// All must end at one block, else the batch stays as it is.
pub(crate) fn begin(batch: Batch, clients: &[(Option<&Prefix>, &[usize])]) -> Batch {
    let Some(layer) = clients.first().and_then(|(prefix, _)| Some(prefix.as_ref()?.layer())) else {
        return batch;
    };
    let ends_there =
        |(prefix, _): &(Option<&Prefix>, _)| prefix.is_some_and(|prefix| prefix.layer() == layer);
    if layer == 0 || !clients.iter().all(ends_there) {
        return batch;
    }
    let mut states = Vec::new();
    for (prefix, indices) in
        clients.iter().filter_map(|(prefix, indices)| Some(((*prefix)?, indices)))
    {
        for &index in *indices {
            prefix.copy(index, &mut states);
        }
    }
    batch.starting(Start { layer, states })
}

#[cfg(test)]
impl Prefix {
    /// What a step with these examples would store.
    pub(crate) fn of(base: &Base, data: &TokenSet, layer: usize) -> Self {
        use crate::{edge::TreeView, scratch::Scratch};
        let mut states = Vec::new();
        let go_on = &mut |_: Progress| ControlFlow::Continue(());
        let spans = compute(base, data, layer, &mut states, go_on).unwrap();
        assert_eq!(states.len() as u64, bytes(base.config(), data));
        let outline = serde_json::to_vec(&Outline { layer, hidden: base.config().hidden }).unwrap();
        let scratch = Scratch::new();
        let at =
            scratch.tree(&[(Self::OUTLINE, outline), (Self::SPANS, spans), (Self::STATES, states)]);
        let tree = scratch.store.tree(&at).unwrap().unwrap();
        Self::open(Opened::Tree(TreeView { tree, at, store: &scratch.store })).unwrap()
    }
}

/// The bytes of the states of all examples of `data`.
pub fn bytes(config: &Config, data: &TokenSet) -> u64 {
    let tokens: usize = (0..data.len()).map(|index| objective::tokens_of(data, index)).sum();
    (tokens * config.hidden * F32) as u64
}

/// Computes what goes into block `layer` for every example of `data`, and writes it to `to`; the result is what
/// [`Prefix::SPANS`] holds.
///
/// # Errors
/// The examples do not fit the base, or the states cannot be written.
pub fn compute(
    base: &Base,
    data: &TokenSet,
    layer: usize,
    to: &mut dyn Write,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<u8>, PrefixError> {
    fit::check(base.config(), data, None)?;
    let mut order: Vec<usize> = (0..data.len()).collect();
    order.sort_by_key(|&index| data.tokens(index).len());
    let mut spans = vec![[0_u64; 2]; data.len()];
    let mut written = 0;
    let steps = order.len().div_ceil(BATCH) as u64;
    for (step, indices) in (1..).zip(order.chunks(BATCH)) {
        let batch = objective::batch(&[(data, indices)], base.config().pad, base.device());
        let states = base.below(&batch, layer);
        let bytes: Vec<u8> = states.iter().flat_map(|x| x.to_le_bytes()).collect();
        to.write_all(&bytes)?;
        for &index in indices {
            let end = written + objective::tokens_of(data, index) as u64;
            spans[index] = [written, end];
            written = end;
        }
        if progress(Progress { step, steps, loss: None }).is_break() {
            return Err(PrefixError::Stopped);
        }
    }
    Ok(spans.iter().flatten().flat_map(|at| at.to_le_bytes()).collect())
}
