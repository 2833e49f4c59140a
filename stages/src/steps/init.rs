//! The adapter that a federation starts from.

use serde::Serialize;

use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    kinds::{Adapter, AdapterConfig, File, ModelFiles},
    model::{Checkpoint, Config, LoraConfig},
    peft,
    stage::{Context, Stage},
    steps::model::with_checkpoint,
};

/// Draws the first adapter: LoRA's A seeded, its B zero, the classifier seeded.
#[derive(Debug, Serialize)]
pub struct Init {
    /// The base's `config.json`: its shapes, not its weights.
    pub config: In<File>,
    /// The label names: the classifier has a row for each. None for a task of the causal head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<In<File>>,
    /// Rank, alpha, targets and the rest.
    pub lora: LoraConfig,
    /// Seed of the draws.
    pub seed: u64,
}

impl Stage for Init {
    const NAME: &'static str = "init";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let config = Config::parse(&cx.open(&self.config)?.0)?;
        let labels = label_names(cx, self.labels.as_ref())?;
        let tensors = peft::init_adapter(&config, &self.lora, labels.len(), self.seed)?;
        if config.is_classifier() && !labels.is_empty() {
            cx.note("the base's own classifier is not used: the adapter's begins from its seed");
        }
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &AdapterConfig { lora: self.lora.clone(), labels })
    }
}

/// Draws the first adapter of a federation that trains cores: A and B from the base's weights, the core zero.
#[derive(Debug, Serialize)]
pub(super) struct InitCore {
    /// The base, whose weights the fixed factors come from.
    pub(super) base: In<ModelFiles>,
    /// The label names, where there is a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<In<File>>,
    /// Rank, alpha, targets and the rest.
    pub(super) lora: LoraConfig,
    /// Seed of the draws.
    pub(super) seed: u64,
}

impl Stage for InitCore {
    const NAME: &'static str = "init core";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let labels = label_names(cx, self.labels.as_ref())?;
        let files = cx.tree(&self.base)?;
        let cx_read = &*cx;
        let tensors = with_checkpoint(&files, |config, shards| {
            let checkpoint = Checkpoint::open(shards)?.of_family(config.family);
            let classes = labels.len();
            let mut progress = |done: usize, modules: usize| {
                cx_read.progress(done as u64, modules as u64, "modules");
                cx_read.go_on()
            };
            Ok(peft::init_core(
                &config,
                &self.lora,
                classes,
                self.seed,
                &checkpoint,
                &mut progress,
            )?)
        })?;
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &AdapterConfig { lora: self.lora.clone(), labels })
    }
}

/// The names that an edge leads to; none without an edge.
pub(super) fn label_names(cx: &Context<'_>, labels: Option<&In<File>>) -> Result<Vec<String>> {
    let Some(labels) = labels else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&cx.open(labels)?.0)
        .map_err(|e| Error::failed(format!("the stored label names cannot be read: {e}")))
}

/// Says what is wrong with LoRA's numbers for the base that an edge leads to, as far as the base is
/// known.
pub(crate) fn check_lora(lora: &LoraConfig, base: &str, path: &str, check: &mut Check<'_>) {
    let fault = match check.config(base) {
        Some(config) => lora.check(&config),
        None => lora.check_numbers(),
    };
    if let Err(fault) = fault {
        check.complain(format!("{path}.{}", fault.field()), fault.to_string(), None);
    }
}
