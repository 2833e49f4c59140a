//! Logits and hidden states against those that transformers and PEFT gave.

#![expect(clippy::print_stderr, reason = "the figures of an optional test are for people")]

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};

use super::recorded::{Recorded, apart};
use super::tiny::{BLOOM, LLAMA, Tiny, threads};
use super::{
    Base, Batch, Checkpoint, Config, Factors, Layout, LoraConfig, NamedFile, SINGLE_FILE,
    read_classes,
};
use crate::local_train::{Client, LocalNumbers, Optimizer, Trainer};
use crate::objective::Objective;
use crate::peft::{AdapterTensors, SCORE};

/// A base with the folder of what was recorded of it.
struct Case {
    base: Base,
    folder: PathBuf,
}

impl Case {
    fn tiny(model: Tiny) -> Self {
        Self { base: model.base(), folder: model.path("") }
    }

    /// The same base by the CPU's own kernels.
    fn fused(self) -> Self {
        Self { base: self.base.fused(threads(2)), ..self }
    }

    /// The real model, where two variables name its folder and that of its recordings.
    #[expect(
        clippy::disallowed_methods,
        reason = "the model is too large to lie in the repository"
    )]
    fn smollm2() -> Option<Self> {
        let folders = ["FEDPIPE_SMOLLM2", "FEDPIPE_ORACLES"].map(std::env::var_os);
        let [Some(model), Some(oracles)] = folders else {
            eprintln!("skipped: FEDPIPE_SMOLLM2 and FEDPIPE_ORACLES do not name folders");
            return None;
        };
        let model = Path::new(&model);
        let bytes = std::fs::read(model.join(SINGLE_FILE)).unwrap();
        let config = Config::parse(&std::fs::read(model.join("config.json")).unwrap()).unwrap();
        let files = [NamedFile { name: SINGLE_FILE, bytes: &bytes }];
        let checkpoint = Checkpoint::open(&files).unwrap();
        let base = Base::load(config, checkpoint, &Device::flex()).unwrap();
        Some(Self { base, folder: PathBuf::from(oracles) })
    }

    fn recorded(&self, name: &str) -> Recorded {
        Recorded::open(&self.folder.join(name))
    }

    fn batch(&self, rows: &[Vec<u32>]) -> Batch {
        super::recorded::batch(rows, &vec![0; rows.len()], &self.base)
    }

    fn factors(&self, adapter: &AdapterTensors) -> Factors {
        let lora = LoraConfig::of_rank(8);
        let layout = Layout::new(self.base.config(), &lora, adapter.classes()).unwrap();
        let flat = layout.stack(&[layout.pack(adapter, &layout).unwrap()], self.base.device());
        Factors::new(&[(&layout, &layout.split(&flat))], &[&layout], self.base.device())
    }

    fn adapter(&self, name: &str) -> AdapterTensors {
        AdapterTensors::from_safetensors(&std::fs::read(self.folder.join(name)).unwrap()).unwrap()
    }

    /// The largest difference from the recorded `[row, width, columns]` at real tokens of row `row`.
    fn row_apart(found: &Tensor<2>, batch: &Batch, row: usize, recorded: &[f32]) -> f32 {
        let (width, length) = (batch.width(), batch.lengths()[row]);
        let columns = found.dims()[1];
        let found = found.clone().narrow(0, row * width, length);
        apart(&found.try_into_vec_as::<f32>().unwrap(), &recorded[..length * columns])
    }

    /// The logits over tokens of every token, `[b·s, vocab]`.
    fn causal(&self, batch: &Batch, factors: Option<&Factors>) -> Tensor<2> {
        self.base.hidden(batch, factors).matmul(self.base.causal_head().clone().transpose())
    }

    /// The classifier's logits, with an adapter that is nothing but the recorded classifier.
    fn plain_classifier(&self, rows: &[Vec<u32>]) -> f32 {
        let recorded = self.recorded("seqcls.safetensors");
        let (shape, values) = recorded.floats("score.weight");
        let score = (SCORE.to_owned(), [shape[0], shape[1]], values);
        let mut tensors: Vec<_> =
            crate::peft::init_adapter(self.base.config(), &LoraConfig::of_rank(8), 0, 1)
                .unwrap()
                .iter()
                .map(|(name, shape, values)| (name.to_owned(), shape, values.to_vec()))
                .collect();
        tensors.push(score);
        let factors = self.factors(&AdapterTensors::new(tensors));
        self.classifier(rows, &factors, "seqcls.safetensors")
    }

    /// How far the hidden states between blocks are from the recorded ones, by the CPU's own kernels.
    fn between_blocks(&self, batch: &Batch, causal: &Recorded) -> f32 {
        let width = self.base.config().hidden;
        let far = |layer: usize| {
            let (_, recorded) = causal.floats(&format!("hidden.{layer}"));
            let rows = recorded.chunks_exact(batch.width() * width).zip(batch.lengths());
            let rows = rows.flat_map(|(row, length)| &row[..length * width]);
            apart(&self.base.below(batch, layer), &rows.copied().collect::<Vec<f32>>())
        };
        (0..self.base.config().layers).map(far).fold(0.0, f32::max)
    }

    fn classifier(&self, rows: &[Vec<u32>], factors: &Factors, recorded: &str) -> f32 {
        let hidden = self.base.read(&self.batch(rows), Some(factors), None);
        let logits = read_classes(hidden, factors.score().unwrap());
        let logits = logits.try_into_vec_as::<f32>().unwrap();
        apart(&logits, &self.recorded(recorded).floats("logits").1)
    }
}

fn hidden_states_and_causal_logits(model: Tiny) {
    let case = Case::tiny(model);
    let causal = case.recorded("causal.safetensors");
    let rows = causal.rows("input_ids", "attention_mask");
    let batch = case.batch(&rows);
    assert_eq!(batch.width(), 40);
    let width = case.base.config().hidden;
    for (layer, hidden) in case.base.hidden_by_layer(&batch, None).iter().enumerate() {
        let (_, recorded) = causal.floats(&format!("hidden.{layer}"));
        for row in 0..rows.len() {
            let far = Case::row_apart(hidden, &batch, row, &recorded[row * 40 * width..]);
            assert!(far < 1e-4, "hidden.{layer}, row {row}: {far}");
        }
    }
    let plain = case.causal(&batch, None);
    for row in [1, 3] {
        let (_, recorded) = causal.floats(&format!("logits.{row}"));
        let far = Case::row_apart(&plain, &batch, row, &recorded);
        assert!(far < 1e-4, "row {row}: {far}");
    }
    let factors = case.factors(&case.adapter("lora_causal/adapter_model.safetensors"));
    let adapted = case.causal(&batch, Some(&factors));
    let (_, recorded) = case.recorded("lora_causal.safetensors").floats("logits.3");
    let far = Case::row_apart(&adapted, &batch, 3, &recorded);
    assert!(far < 1e-4, "with the adapter: {far}");
    assert!(Case::row_apart(&plain, &batch, 3, &recorded) > 1e-2, "the adapter does something");
    let far = case.fused().between_blocks(&batch, &causal);
    assert!(far < 1e-4, "by the CPU's own kernels: {far}");
}

fn classifier_logits(model: Tiny) {
    for case in [Case::tiny(model), Case::tiny(model).fused()] {
        let rows = case.recorded("causal.safetensors").rows("input_ids", "attention_mask");
        let far = case.plain_classifier(&rows);
        assert!(far < 2e-5, "{far}");
        let factors = case.factors(&case.adapter("lora_seqcls/adapter_model.safetensors"));
        let far = case.classifier(&rows, &factors, "lora_seqcls.safetensors");
        assert!(far < 2e-5, "with the adapter: {far}");
    }
}

#[test]
fn hidden_states_and_causal_logits_of_the_tiny_llama() {
    hidden_states_and_causal_logits(LLAMA);
}

#[test]
fn hidden_states_and_causal_logits_of_the_tiny_bloom() {
    hidden_states_and_causal_logits(BLOOM);
}

#[test]
fn classifier_logits_of_the_tiny_llama() {
    classifier_logits(LLAMA);
}

#[test]
fn classifier_logits_of_the_tiny_bloom() {
    classifier_logits(BLOOM);
}

/// Runs where `FEDPIPE_SMOLLM2` names a folder with SmolLM2-135M and `FEDPIPE_ORACLES` what was recorded of it.
#[test]
fn logits_of_smollm2() {
    let Some(case) = Case::smollm2() else { return };
    let causal = case.recorded("causal.safetensors");
    let rows = causal.rows("input_ids", "attention_mask");
    let batch = case.batch(&rows);
    let (shape, recorded) = causal.floats("final_hidden");
    let hidden = case.base.hidden(&batch, None);
    let far = (0..rows.len())
        .map(|row| Case::row_apart(&hidden, &batch, row, &recorded[row * shape[1] * shape[2]..]))
        .fold(0.0, f32::max);
    eprintln!("hidden states: {far:e}");
    // The recordings suggest 1e-4, but are that far from the truth themselves: transformers in float64 is 1.83e-4
    // from them, and in float32 on another machine 8.0e-5. Here it is 1.24e-4.
    assert!(far < 2e-4, "{far}");
    let (shape, recorded) = causal.floats("last_logits");
    let head = case.base.causal_head().clone().transpose();
    for row in 0..rows.len() {
        let last = hidden.clone().narrow(0, row * batch.width() + batch.lengths()[row] - 1, 1);
        let logits = last.matmul(head.clone()).try_into_vec_as::<f32>().unwrap();
        let far = apart(&logits, &recorded[row * shape[1]..(row + 1) * shape[1]]);
        eprintln!("causal logits, row {row}: {far:e}");
        assert!(far < 5e-4, "row {row}: {far}");
    }
    let (shape, recorded) = causal.floats("last_hidden_all_layers");
    for (layer, hidden) in case.base.hidden_by_layer(&batch, None).iter().enumerate() {
        for row in 0..rows.len() {
            let last = row * batch.width() + batch.lengths()[row] - 1;
            let own: Vec<f32> = hidden.clone().narrow(0, last, 1).try_into_vec_as().unwrap();
            let start = (row * shape[1] + layer) * shape[2];
            let wanted = &recorded[start..start + shape[2]];
            let most = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let far = apart(&own, wanted) / most;
            assert!(far < 3e-5, "hidden.{layer}, row {row}: {far} of its largest value");
        }
    }
    let adapter = case.adapter("lora_causal/adapter_model.safetensors");
    let with = case.base.hidden(&batch, Some(&case.factors(&adapter)));
    let (shape, recorded) = case.recorded("lora_causal.safetensors").floats("last_logits");
    for row in 0..rows.len() {
        let last = with.clone().narrow(0, row * batch.width() + batch.lengths()[row] - 1, 1);
        let logits = last.matmul(head.clone()).try_into_vec_as::<f32>().unwrap();
        let far = apart(&logits, &recorded[row * shape[1]..(row + 1) * shape[1]]);
        eprintln!("causal logits with the adapter, row {row}: {far:e}");
        assert!(far < 5e-4, "row {row}: {far}");
    }
    classifiers_of_smollm2(&case, &rows);
    classifiers_of_smollm2(&case.fused(), &rows);
}

fn classifiers_of_smollm2(case: &Case, rows: &[Vec<u32>]) {
    let far = case.plain_classifier(rows);
    eprintln!("classifier: {far:e}");
    assert!(far < 1e-4, "{far}");
    let factors = case.factors(&case.adapter("lora_seqcls/adapter_model.safetensors"));
    let far = case.classifier(rows, &factors, "lora_seqcls.safetensors");
    eprintln!("classifier with the adapter: {far:e}");
    assert!(far < 1e-4, "{far}");
}

#[test]
fn the_training_trace_of_smollm2() {
    let Some(case) = Case::smollm2() else { return };
    follow_smollm2(&case);
}

#[test]
fn the_training_trace_of_smollm2_by_the_kernels_of_the_cpu() {
    let Some(case) = Case::smollm2() else { return };
    follow_smollm2(&case.fused());
}

fn follow_smollm2(case: &Case) {
    let before = case.adapter("train_adamw/adapter_before.safetensors");
    let (lora, numbers) = (LoraConfig::of_rank(8), LocalNumbers::new(8, Optimizer::adamw(1e-3)));
    let objective = &Objective::Classify;
    let client = Client::new(&before, &lora, 0, 5, objective);
    let mut trainer = Trainer::new(&case.base, &[client], &numbers).unwrap();
    let batches = case.recorded("train_batches.safetensors");
    let trajectory = std::fs::read(case.folder.join("train_adamw/trajectory.json")).unwrap();
    let trajectory: serde_json::Value = serde_json::from_slice(&trajectory).unwrap();
    for (step, recorded) in trajectory["losses"].as_array().unwrap().iter().enumerate() {
        let rows = batches.rows(&format!("input_ids.{step}"), &format!("attention_mask.{step}"));
        let (_, labels) = batches.integers(&format!("labels.{step}"));
        let batch = super::recorded::batch(&rows, &labels, &case.base);
        if step == 0 {
            let (gradient, _) = trainer.gradient(std::slice::from_ref(&batch)).unwrap();
            let gradient = trainer.named(&gradient).unwrap().remove(0).flatten();
            let recorded = case.adapter("train_adamw/grads_step0.safetensors").flatten();
            let most = recorded.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let far = apart(&gradient, &recorded) / most;
            eprintln!("gradient of step 0: {far:e} of its largest value");
            assert!(far < 1e-4, "{far}");
        }
        let loss: f32 = trainer.step(&[batch]).unwrap().into_scalar();
        let far = (f64::from(loss) / recorded.as_f64().unwrap() - 1.0).abs();
        eprintln!("loss of step {step}: {loss}, relative difference {far:e}");
        assert!(far < 1e-4, "step {step}: {loss}, not {recorded}");
    }
    let after = case.adapter("train_adamw/adapter_after.safetensors");
    let far = apart(&trainer.adapters().unwrap()[0].flatten(), &after.flatten());
    eprintln!("adapter after five steps: {far:e}");
    assert!(far < 3e-4, "{far}");
    let rows = case.recorded("causal.safetensors").rows("input_ids", "attention_mask");
    let factors = case.factors(&trainer.adapters().unwrap()[0]);
    let far = case.classifier(&rows, &factors, "train_adamw/final_eval.safetensors");
    eprintln!("classifier after five steps: {far:e}");
    assert!(far < 1e-3, "{far}");
}
