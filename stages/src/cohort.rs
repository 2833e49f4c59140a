//! How many clients a device takes in one pass: an estimate of memory.
//!
//! It is for the decoder of stock operations in f32, and meant to be above what is used: a cohort that is smaller than
//! it could be costs a little time, one that is too large costs the pass. Sizes are in bytes.

use crate::model::{Config, LoraConfig};
use crate::objective::HeadKind;
use crate::token_set::TokenSet;

/// The most clients of a cohort, whatever the memory: by then a GPU is full.
pub const MOST: usize = 32;
/// What is assumed of a device that does not tell its memory.
const UNKNOWN: u64 = 4 << 30;
/// The bytes of an f32.
const FLOAT: u64 = 4;

/// The frozen weights of a base.
pub fn base(config: &Config) -> u64 {
    let Config { hidden, inner, .. } = *config;
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    // Two matrices of the MLP in BLOOM, three in LLaMA; norms and biases are nothing beside them.
    let block = 2 * hidden * (queries + keys) + 3 * hidden * inner;
    let vocabulary = config.vocab * hidden * if config.tied { 1 } else { 2 };
    FLOAT * (config.layers * block + vocabulary) as u64
}

/// What one client adds: the activations of a batch of `batch` of its longest examples, and the `trained` numbers of
/// its adapter with their gradients and moments.
pub fn client(
    config: &Config,
    lora: &LoraConfig,
    data: &TokenSet,
    batch: usize,
    trained: usize,
) -> u64 {
    let longest = (0..data.len()).map(|example| data.tokens(example).len()).max().unwrap_or(0);
    let labels = data.objective().labels();
    let (rows, more) = match data.objective().head() {
        HeadKind::LabelTokens => (labels.len(), labels.iter().map(Vec::len).max().unwrap_or(0)),
        HeadKind::Classifier | HeadKind::LabelRows | HeadKind::Completion => (1, 0),
    };
    let width = (longest + more).next_multiple_of(8);
    let tokens = batch.min(data.len()) * rows * width;
    // What a block keeps of a token for the way back: around attention and the MLP sixteen states of the width of the
    // residual stream, six of the MLP's, and its rows of scores before and after softmax, masked and not; what
    // adapters keep is small. On the way back one block's gradients are there, too.
    let block = 16 * config.hidden + 6 * config.inner + 4 * config.heads * width;
    let kept = (0..config.layers).filter(|&layer| layer >= lowest(config, lora)).count() + 1;
    // Values, gradient, two moments, and one copy of each while a step is made.
    FLOAT * (tokens * block * kept + 8 * trained) as u64
}

/// The lowest block that an adapter is on: below it nothing is kept for the way back.
fn lowest(config: &Config, lora: &LoraConfig) -> usize {
    let modules = lora.modules(config).unwrap_or_default();
    modules.iter().map(|module| module.layer).min().unwrap_or(0)
}

/// How many clients that add `client` each go with a base of `base` into a device of `memory`: at least 1, at most
/// [`MOST`].
pub fn most(memory: Option<u64>, base: u64, client: u64) -> usize {
    // A fifth is left to what is not counted: the driver, kernels, and the gaps of the memory pool.
    let usable = memory.unwrap_or(UNKNOWN) / 5 * 4;
    let clients = usable.saturating_sub(base) / client.max(1);
    usize::try_from(clients).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layers, tiny};

    fn data(width: usize) -> TokenSet {
        let tokens = vec![5_u32; width];
        TokenSet::from_examples((0..64).map(|_| (tokens.as_slice(), 0))).unwrap()
    }

    #[test]
    fn a_client_costs_more_with_longer_examples_larger_batches_and_more_blocks() {
        let config = tiny::config();
        let lora = LoraConfig::of_rank(4);
        let of = |lora: &LoraConfig, width, batch| client(&config, lora, &data(width), batch, 100);
        let usual = of(&lora, 16, 8);
        assert!(of(&lora, 32, 8) > 2 * usual - 4000, "attention grows faster than the width");
        assert!(of(&lora, 16, 16) > usual && of(&lora, 16, 64) == of(&lora, 16, 640));
        let last = LoraConfig { layers: Layers::Last(1), ..lora };
        assert!(of(&last, 16, 8) < usual);
    }

    #[test]
    fn a_cohort_fills_what_the_base_leaves() {
        let gib = 1 << 30;
        assert_eq!(most(Some(80 * gib), 28 * gib, 3 * gib), 12);
        assert_eq!(most(Some(8 * gib), 28 * gib, gib), 1, "what cannot fit is tried alone");
        assert_eq!(most(Some(80 * gib), gib, 1), MOST);
        assert!(most(None, 0, gib) == 3);
    }

    /// The matrices as the files of a checkpoint in f32 have them, to within norms and headers.
    #[test]
    fn the_base_is_as_large_as_its_checkpoint() {
        let files: usize = tiny::LLAMA.weights().iter().map(|(_, bytes)| bytes.len()).sum();
        let counted = base(&tiny::config()) as f64 / files as f64;
        assert!((0.9..=1.1).contains(&counted), "{counted} of {files}");
    }
}
