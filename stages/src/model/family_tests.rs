//! Small models of every shape that the families know, against what transformers made of them.

use super::recorded::{Recorded, apart};
use super::tiny::Tiny;
use super::{Batch, Factors, Layout, LoraConfig};
use crate::peft::{SCORE, init_adapter};

/// The rows under `mask`, wherever their padding stands.
fn rows(file: &Recorded, side: &str) -> Vec<Vec<u32>> {
    let (shape, ids) = file.integers(&format!("input_ids{side}"));
    let (_, mask) = file.integers(&format!("attention_mask{side}"));
    let rows = ids.chunks(shape[1]).zip(mask.chunks(shape[1]));
    let real = |(row, mask): (&[u32], &[u32])| {
        row.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect()
    };
    rows.map(real).collect()
}

/// The recorded values `[row, width, columns]` at the real tokens of each row.
fn recorded(file: &Recorded, name: &str, side: &str) -> Vec<Vec<f32>> {
    let (shape, values) = file.floats(name);
    let (_, mask) = file.integers(&format!("attention_mask{side}"));
    let tokens = values.chunks(shape[2]).zip(&mask).collect::<Vec<_>>();
    let real = |row: &[(&[f32], &u32)]| {
        row.iter()
            .filter(|(_, mask)| **mask == 1)
            .flat_map(|(values, _)| *values)
            .copied()
            .collect()
    };
    tokens.chunks(shape[1]).map(real).collect()
}

fn row_of(found: &burn::tensor::Tensor<2>, batch: &Batch, row: usize) -> Vec<f32> {
    let own = found.clone().narrow(0, row * batch.width(), batch.lengths()[row]);
    own.try_into_vec_as().unwrap()
}

fn follow(model: Tiny) {
    let base = model.base();
    let file = Recorded::open(&model.path("recorded.safetensors"));
    let rows_of = rows(&file, "");
    let batch = super::recorded::batch(&rows_of, &vec![0; rows_of.len()], &base);
    for (layer, hidden) in base.hidden_by_layer(&batch, None).iter().enumerate() {
        for (row, wanted) in recorded(&file, &format!("hidden.{layer}"), "").iter().enumerate() {
            let far = apart(&row_of(hidden, &batch, row), wanted);
            assert!(far < 1e-4, "{model:?}, hidden.{layer}, row {row}: {far}");
        }
    }
    if base.config().is_classifier() {
        return follow_classifier(model);
    }
    let logits = base.hidden(&batch, None).matmul(base.causal_head().clone().transpose());
    let mut sides = vec![("logits", "")];
    if model.0.ends_with("-left") {
        sides.push(("logits_left", "_left"));
        assert_eq!(rows(&file, "_left"), rows_of);
    }
    for (name, side) in sides {
        for (row, wanted) in recorded(&file, name, side).iter().enumerate() {
            let far = apart(&row_of(&logits, &batch, row), wanted);
            assert!(far < 2e-4, "{model:?}, {name}, row {row}: {far}");
        }
    }
}

/// The classifier that lies in the checkpoint, as an adapter's own.
fn follow_classifier(model: Tiny) {
    let base = model.base();
    let file = Recorded::open(&model.path("recorded.safetensors"));
    let (shape, values) = Recorded::open(&model.path("model.safetensors")).floats("score.weight");
    let lora = LoraConfig::of_rank(2);
    let adapter = init_adapter(base.config(), &lora, 0, 1).unwrap();
    let adapter = adapter.with(SCORE, [shape[0], shape[1]], values);
    let layout = Layout::new(base.config(), &lora, shape[0]).unwrap();
    let flat = layout.stack(&[layout.pack(&adapter, &layout).unwrap()], base.device());
    let factors = Factors::new(&[(&layout, &layout.split(&flat))], &[&layout], base.device());
    for side in ["", "_left"] {
        let rows = rows(&file, side);
        let batch = super::recorded::batch(&rows, &vec![0; rows.len()], &base);
        let hidden = base.read(&batch, Some(&factors), None);
        let logits = super::read_classes(hidden, factors.score().unwrap());
        let logits: Vec<f32> = logits.try_into_vec_as().unwrap();
        let far = apart(&logits, &file.floats(&format!("cls_logits{side}")).1);
        assert!(far < 2e-5, "{model:?}{side}: {far}");
    }
}

#[test]
fn bloom_with_six_heads_residuals_behind_norms_old_names_and_f16() {
    follow(Tiny("families/bloom-h6-post"));
}

#[test]
fn bloom_padded_on_either_side() {
    follow(Tiny("families/bloom-h3-left"));
}

#[test]
fn bloom_and_llama_classifiers() {
    follow(Tiny("families/bloom-seqcls"));
    follow(Tiny("families/llama-seqcls"));
}

#[test]
fn llama_with_grouped_queries_llama3_rope_and_bf16_shards() {
    follow(Tiny("families/llama-gqa-llama3"));
}

#[test]
fn llama_with_linear_rope_and_wide_heads() {
    follow(Tiny("families/llama-linear"));
}

#[test]
fn llama_with_biases_everywhere() {
    follow(Tiny("families/llama-bias"));
}

#[test]
fn qwen2_and_mistral() {
    follow(Tiny("families/qwen2"));
    follow(Tiny("families/mistral"));
}
