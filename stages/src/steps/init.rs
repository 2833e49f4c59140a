//! The adapter that a federation starts from.

use serde::Serialize;

use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    kinds::{Adapter, AdapterConfig, File},
    model::{Config, LoraConfig},
    peft,
    stage::{Context, Stage},
};

/// Draws the first adapter: LoRA's A seeded, its B zero, the head seeded.
#[derive(Debug, Serialize)]
pub struct Init {
    /// The base's `config.json`: its shapes, not its weights.
    pub config: In<File>,
    /// The label names: the head has a row for each.
    pub labels: In<File>,
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
        let labels: Vec<String> = serde_json::from_slice(&cx.open(&self.labels)?.0)
            .map_err(|e| Error::failed(format!("the stored label names cannot be read: {e}")))?;
        self.lora.check(&config)?;
        let tensors = peft::init_adapter(&config, &self.lora, labels.len(), self.seed);
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &AdapterConfig { lora: self.lora.clone(), labels })
    }
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
