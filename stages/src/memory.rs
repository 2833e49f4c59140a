//! How many bytes training and evaluation take, told before they begin.
//!
//! The figures are sums over the tensors that are alive at the widest moment of a pass, each counted in numbers of
//! four bytes for one token of one block, with a margin for the allocator. They are meant as bounds from above: a
//! batch of short rows takes less.

use serde::{Deserialize, Serialize};

pub use crate::fused::OutOfMemory;

use crate::local_train::Checkpoint;
use crate::model::{Config, Layout, LoraConfig, LoraError, Position};
use crate::objective::{self, HeadKind, Objective};
use crate::precision::Precision;
use crate::token_set::TokenSet;

/// Which code computes a pass, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Burn's stock operations on the CPU: padded rows, and a graph of what gradients need.
    Stock,
    /// A fused block on the CPU: rows without padding, and one set of buffers for each block.
    Fused,
    /// Burn's stock operations on a GPU, which holds a rounded base in its own format.
    Gpu,
}

/// One pass over the base, at its largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Rows of tokens, of all clients of the cohort.
    pub rows: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// By what hidden states are read.
    pub head: HeadKind,
    /// Which code computes it.
    pub path: Path,
}

impl Pass {
    /// The largest pass over batches of `batch` examples of `data`.
    pub fn over(data: &TokenSet, batch: usize, path: Path) -> Self {
        let rows = objective::rows_of_each(data.objective());
        let extra = data.objective().labels().iter().map(|label| label.len() - 1).max();
        let longest = (0..data.len()).map(|index| data.tokens(index).len()).max();
        Self {
            rows: batch.min(data.len()) * rows,
            longest: longest.unwrap_or(1) + extra.unwrap_or(0),
            head: data.objective().head(),
            path,
        }
    }

    /// Tokens of a row as they are computed, and of all rows.
    fn tokens(&self) -> (f64, f64) {
        let width = match self.path {
            Path::Stock | Path::Gpu => self.longest.next_multiple_of(8),
            Path::Fused => self.longest,
        };
        (width as f64, (width * self.rows) as f64)
    }
}

/// What a step of local training or of evaluation takes beside its base (bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// The adapter: its values, their gradients and the optimiser's moments.
    pub adapter: u64,
    /// What lies between the embeddings and the loss.
    pub activations: u64,
}

impl Bytes {
    /// Both together.
    pub fn total(self) -> u64 {
        self.adapter + self.activations
    }
}

/// What the allocator and what is not counted one by one may add, as a factor.
const MARGIN: f64 = 1.15;
/// Bytes of a number.
const F32: f64 = 4.0;
/// The program itself, with a tokenizer and its threads (bytes).
const PROGRAM: u64 = 80 << 20;
/// Copies of what is trained: values, leaves, gradients, two moments, and what a step of the optimiser holds at once.
const COPIES: f64 = 10.0;
/// Logits over the vocabulary that are held at once, and the tensors of that size.
const VOCABULARY: f64 = 3.0 * (1 << 24) as f64;

/// The bytes of a base whose linear modules multiply in `precision`, with its causal head if `causal`. The CPU takes the
/// same in any precision: rounded weights are held in f32, or packed once for each direction.
pub fn base(config: &Config, causal: bool, precision: Precision, path: Path) -> u64 {
    let weight = if path == Path::Gpu && !precision.is_f32() { 2 } else { 4 };
    let weights: usize = linear(config).map(|(inputs, outputs)| inputs * outputs).sum();
    let biases: usize = linear(config).map(|(_, outputs)| outputs).sum();
    let vocabulary = config.vocab * config.hidden;
    let heads = if causal && !config.tied { 2 } else { 1 };
    let norms = 4 * config.hidden;
    let others = config.layers * (biases + norms) + heads * vocabulary + norms;
    (config.layers * weights * weight + others * 4) as u64
}

/// What training one client takes whose largest pass is `pass`, with an adapter of `lora` and `classes` classes.
///
/// # Errors
/// The base cannot take the adapter.
pub fn training(
    config: &Config,
    lora: &LoraConfig,
    classes: usize,
    pass: &Pass,
    checkpoint: Checkpoint,
) -> Result<Bytes, LoraError> {
    let layout = Layout::new(config, lora, classes)?;
    let adapter = layout.length() as f64 * COPIES * F32;
    let (width, tokens) = pass.tokens();
    let lowest = layout.modules().first().map_or(0, |module| module.layer);
    let mut kept: Vec<f64> = vec![kept_of_block(config, pass.path, width); config.layers - lowest];
    for module in layout.modules() {
        let inputs = linear(config).nth(module.slot).map_or(0, |(inputs, _)| inputs) as f64;
        let dropped = if lora.dropout > 0.0 { 2.0 * inputs } else { 0.0 };
        // The first input of attention is kept in any case; where values are dropped, the rest is kept instead.
        let is_kept = is_late(config, module.slot) && lora.dropout <= 0.0;
        let input = if is_kept { inputs } else { 0.0 };
        kept[module.layer - lowest] += 2.0 * module.rank as f64 + dropped + input;
    }
    let kept = match checkpoint {
        Checkpoint::None => kept.iter().sum(),
        Checkpoint::Block => {
            kept.iter().copied().fold(0.0, f64::max) + (kept.len() * config.hidden) as f64
        }
    };
    let numbers = tokens * (kept + passing(config, pass.path, width, true));
    let activations = numbers * F32 + head(config, pass);
    Ok(Bytes { adapter: whole(adapter), activations: whole(activations * MARGIN) })
}

/// What a pass of evaluation takes, with an adapter of `lora` if there is one.
///
/// # Errors
/// The base cannot take the adapter.
pub fn evaluation(
    config: &Config,
    lora: Option<&LoraConfig>,
    pass: &Pass,
) -> Result<Bytes, LoraError> {
    let length = lora.map(|lora| Ok(Layout::new(config, lora, 0)?.length())).transpose()?;
    let (width, tokens) = pass.tokens();
    let numbers = tokens * passing(config, pass.path, width, false);
    Ok(Bytes {
        adapter: whole(length.unwrap_or(0) as f64 * 2.0 * F32),
        activations: whole((numbers * F32 + head(config, pass)) * MARGIN),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
fn whole(bytes: f64) -> u64 {
    bytes.ceil() as u64
}

/// The widths of the linear modules of a block, in the order of their slots.
fn linear(config: &Config) -> impl Iterator<Item = (usize, usize)> {
    config.family.targets().iter().filter_map(|target| config.linear(target))
}

/// Whether the input of the module at `slot` is kept for its adapter alone: that of queries, keys and values is one.
fn is_late(config: &Config, slot: usize) -> bool {
    let early = if config.position == Position::Alibi { 1 } else { 3 };
    slot >= early
}

/// Numbers of one token that a block keeps for the backward pass, without what its adapters keep.
fn kept_of_block(config: &Config, path: Path, width: f64) -> f64 {
    let (hidden, inner) = (config.hidden as f64, config.inner as f64);
    let query = (config.heads * config.head_dim) as f64;
    let key = (config.kv_heads * config.head_dim) as f64;
    let weights = config.heads as f64 * width;
    match path {
        // The residuals and what comes out of the first norm; queries, keys, values and what is read; the weights of
        // attention; the gate, its sigmoid, their product and the other factor, or the four parts of GELU.
        Path::Stock | Path::Gpu => 3.0 * hidden + 2.0 * query + 2.0 * key + weights + 4.0 * inner,
        // The same without the parts of the activation, and of the weights of attention only what makes them again.
        Path::Fused => {
            let gate = if config.position == Position::Alibi { 1.0 } else { 2.0 };
            let heads = config.heads as f64;
            3.0 * hidden + query + 2.0 * key + heads + gate * inner + 4.0
        }
    }
}

/// Numbers of one token that are alive only while a block is computed, at its widest place.
fn passing(config: &Config, path: Path, width: f64, backward: bool) -> f64 {
    let (hidden, inner) = (config.hidden as f64, config.inner as f64);
    let query = (config.heads * config.head_dim) as f64;
    let weights = config.heads as f64 * width;
    match (path, backward) {
        (Path::Stock | Path::Gpu, true) => {
            (3.0 * weights).max(4.0 * inner) + 4.0 * hidden + 3.0 * query
        }
        (Path::Stock | Path::Gpu, false) => {
            (3.0 * weights).max(4.0 * inner) + 3.0 * hidden + 3.0 * query
        }
        (Path::Fused, _) => 3.0 * inner + 5.0 * hidden + 3.0 * query,
    }
}

/// Bytes that reading the hidden states takes.
fn head(config: &Config, pass: &Pass) -> f64 {
    match pass.head {
        HeadKind::Classifier | HeadKind::LabelRows => 0.0,
        HeadKind::LabelTokens | HeadKind::Completion => {
            let (_, tokens) = pass.tokens();
            let logits = (3.0 * tokens * config.vocab as f64).min(VOCABULARY);
            (logits + 2.0 * tokens * config.hidden as f64) * F32
        }
    }
}

/// The head that a task's examples are read by, before it is known how many tokens labels have.
pub(crate) fn head_of(task: &crate::tokenize::Task) -> HeadKind {
    use crate::tokenize::Task;
    match task {
        Task::Classify => Objective::Classify.head(),
        Task::Verbalize { .. } => HeadKind::LabelRows,
        Task::Complete { .. } => HeadKind::Completion,
    }
}

/// The sizes of a token set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts {
    /// Tokens of the longest text.
    pub longest: usize,
    /// Texts of the largest split.
    pub examples: usize,
}

/// What is known where the needs of a graph are asked for.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The sizes of the token set that a stage made, where it is there already.
    pub texts: &'a dyn Fn(&str) -> Option<Texts>,
    /// Which code will compute.
    pub path: Path,
}

/// What is known of what a stage of a graph takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// It neither trains nor scores.
    Nothing,
    /// Its base or its tokens are not on this machine yet.
    Unknown,
    /// This.
    Known(Demand),
}

/// What a stage of a graph takes while its steps run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The base (bytes); shared by all steps.
    pub base: u64,
    /// What one step takes beside it.
    pub each: Bytes,
    /// Steps that can be run at once: the clients of a round.
    pub most: usize,
    /// What would make it less, for people.
    pub mends: Vec<&'static str>,
}

impl Demand {
    /// The bytes with `steps` at once.
    pub fn total(&self, steps: usize) -> u64 {
        PROGRAM + self.base + self.each.total() * self.at_once(steps) as u64
    }

    /// Steps that are run at once where there could be `steps`.
    pub fn at_once(&self, steps: usize) -> usize {
        steps.clamp(1, self.most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layers;
    use crate::model::tiny::{BLOOM, LLAMA};

    fn pass(rows: usize, longest: usize) -> Pass {
        Pass { rows, longest, head: HeadKind::Classifier, path: Path::Stock }
    }

    fn bytes(lora: &LoraConfig, pass: &Pass, checkpoint: Checkpoint) -> Bytes {
        training(&LLAMA.config(), lora, 2, pass, checkpoint).unwrap()
    }

    #[test]
    fn a_base_takes_what_its_checkpoint_has_in_f32() {
        for model in [LLAMA, BLOOM] {
            let files = model.weights();
            let counted: usize = files
                .iter()
                .map(|(_, bytes)| safetensors::SafeTensors::deserialize(bytes).unwrap())
                .flat_map(|file| {
                    file.iter()
                        .map(|(_, t)| t.shape().iter().product::<usize>())
                        .collect::<Vec<_>>()
                })
                .sum();
            let config = model.config();
            let whole = base(&config, true, Precision::Bf16, Path::Fused);
            let far = whole as f64 / (counted * 4) as f64;
            assert!((0.98..1.02).contains(&far), "{model:?}: {far}");
            let linear: usize = linear(&config).map(|(inputs, outputs)| inputs * outputs).sum();
            let saved = whole - base(&config, true, Precision::F16, Path::Gpu);
            assert_eq!(saved, 2 * (config.layers * linear) as u64, "{model:?}");
            assert_eq!(whole, base(&config, true, Precision::F32, Path::Gpu), "{model:?}");
        }
    }

    #[test]
    fn every_mend_makes_it_less() {
        let lora = LoraConfig::of_rank(8);
        let of =
            |lora: &LoraConfig, pass: &Pass, checkpoint| bytes(lora, pass, checkpoint).activations;
        let whole = of(&lora, &pass(16, 60), Checkpoint::None);
        // A quarter of the rows takes a quarter, and rows are padded to a multiple of eight.
        assert!(of(&lora, &pass(4, 64), Checkpoint::None).abs_diff(whole / 4) < 8);
        assert!(of(&lora, &pass(16, 60), Checkpoint::Block) < whole / 3 * 2);
        let last = LoraConfig { layers: Layers::Last(1), ..lora.clone() };
        assert!(of(&last, &pass(16, 60), Checkpoint::None) < whole / 3 * 2);
        let fused = Pass { path: Path::Fused, ..pass(16, 60) };
        assert!(of(&lora, &fused, Checkpoint::None) < whole);
        let dropping = LoraConfig { dropout: 0.1, ..lora.clone() };
        assert!(of(&dropping, &pass(16, 60), Checkpoint::None) > whole);
        let scored = evaluation(&LLAMA.config(), Some(&lora), &pass(16, 60)).unwrap();
        assert!(scored.activations < whole / 2);
        let wide = bytes(&LoraConfig::of_rank(16), &pass(16, 60), Checkpoint::None);
        assert!(wide.adapter > bytes(&lora, &pass(16, 60), Checkpoint::None).adapter);
    }

    #[test]
    fn the_rows_of_a_batch_are_those_of_its_objective() {
        let set = TokenSet::from_examples([(&[5, 6, 7, 8][..], 1), (&[9, 8][..], 0)]).unwrap();
        let words = set.clone().with_objective(Objective::Verbalize(vec![vec![3], vec![4, 5, 6]]));
        let of = |set: &TokenSet, batch| {
            let Pass { rows, longest, .. } = Pass::over(set, batch, Path::Stock);
            (rows, longest)
        };
        assert_eq!(of(&set, 16), (2, 4));
        assert_eq!(of(&words.unwrap(), 1), (2, 6));
    }
}
