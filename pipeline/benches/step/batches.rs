//! What both sides train on: the same batches, base and first adapter, written where the peers find them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;
use serde_json::json;
use stages::{
    kinds::{Adapter, AdapterConfig},
    model::{Base, Batch, Checkpoint, Config, LoraConfig, NamedFile, SINGLE_FILE, Targets},
    objective,
    peft::{BaseName, init_adapter, write_adapter},
    precision::Precision,
    seed::Draws,
    token_set::TokenSet,
};

use crate::llama::Dims;

/// Examples in a batch.
pub(crate) const BATCH: usize = 16;
/// Batches that are met in turn.
const BATCHES: usize = 8;
/// The sizes of SmolLM2-135M.
pub(crate) const SMOL: Dims =
    Dims { hidden: 576, inner: 1536, layers: 30, heads: 9, kv_heads: 3, vocab: 49_152 };
/// LoRA's rank.
pub(crate) const RANK: usize = 16;

/// A problem, ready to train.
pub(crate) struct Problem {
    /// The settings of the adapter.
    pub(crate) lora: LoraConfig,
    /// The adapter that training starts from.
    pub(crate) adapter: Adapter,
    config: Config,
    /// `model.safetensors`.
    weights: PathBuf,
    /// One set a batch.
    sets: Vec<TokenSet>,
}

impl Problem {
    /// Draws a base, an adapter on queries and values, and batches of lengths uniform in [seq / 2, seq], one of them
    /// `seq`; all of it is in `folder` afterwards.
    pub(crate) fn draw(dims: &Dims, seq: usize, folder: &Path) -> Self {
        let base = folder.join("base");
        dims.write(&base).unwrap();
        let config = Config::parse(&fs::read(base.join("config.json")).unwrap()).unwrap();
        let lora = LoraConfig {
            targets: Some(Targets::names(&["q_proj", "v_proj"])),
            alpha: 2.0 * RANK as f64,
            ..LoraConfig::of_rank(RANK)
        };
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let adapter = Adapter {
            tensors: init_adapter(&config, &lora, labels.len(), 1).unwrap(),
            config: AdapterConfig { lora: lora.clone(), labels },
            trained: None,
            delta: None,
        };
        let at = folder.join("adapter");
        fs::create_dir(&at).unwrap();
        write_adapter(&at, &adapter, &config, &BaseName::default()).unwrap();
        let sets: Vec<TokenSet> = (0..BATCHES).map(|at| batch(dims, seq, at)).collect();
        let rows = |set: &TokenSet| (0..BATCH).map(|i| set.tokens(i).to_vec()).collect::<Vec<_>>();
        let text = sets.iter().map(|set| json!({"ids": rows(set), "labels": set.labels()}));
        let text = text.collect::<serde_json::Value>().to_string();
        fs::write(folder.join("batches.json"), text).unwrap();
        let weights = base.join(SINGLE_FILE);
        Self { lora, adapter, config, weights, sets }
    }

    /// Loads the base.
    pub(crate) fn load(&self, precision: Precision, device: &Device) -> Base {
        let bytes = fs::read(&self.weights).unwrap();
        let checkpoint = [NamedFile { name: SINGLE_FILE, bytes: &bytes }];
        let checkpoint = Checkpoint::open(&checkpoint).unwrap();
        Base::load_in(self.config.clone(), checkpoint, precision, device).unwrap()
    }

    /// The batches as local training lays them out for `base`.
    pub(crate) fn batches(&self, base: &Base) -> Vec<Batch> {
        self.cohorts(base, 1)
    }

    /// The same for a cohort, whose clients meet the batches one after another; the first as it would alone.
    pub(crate) fn cohorts(&self, base: &Base, clients: usize) -> Vec<Batch> {
        let all: Vec<usize> = (0..BATCH).collect();
        let lay = |at: usize| {
            let sets = (at..at + clients).map(|set| (&self.sets[set % BATCHES], all.as_slice()));
            objective::batch(&sets.collect::<Vec<_>>(), base.config().pad, base.device())
        };
        (0..BATCHES).map(lay).collect()
    }
}

fn batch(dims: &Dims, seq: usize, at: usize) -> TokenSet {
    let mut draws = Draws::named(2, "bench", &["batch", &at.to_string()]);
    let rows = (0..BATCH).map(|row| {
        let length = if row == 0 { seq } else { seq / 2 + draws.below(seq - seq / 2 + 1) };
        let token = |_| u32::try_from(1 + draws.below(dims.vocab - 1)).unwrap();
        let tokens: Vec<u32> = (0..length).map(token).collect();
        (tokens, i32::try_from(draws.below(2)).unwrap())
    });
    let rows: Vec<(Vec<u32>, i32)> = rows.collect();
    TokenSet::from_examples(rows.iter().map(|(tokens, label)| (tokens.as_slice(), *label))).unwrap()
}
