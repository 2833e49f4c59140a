//! Whose adapter it is that a folder gets.

use super::*;
use crate::kinds::AdapterConfig;
use crate::model::LoraConfig;
use crate::model::tiny::LLAMA;
use crate::peft::{AdapterTensors, Delta, SCORE, init_adapter};
use crate::scratch::Scratch;

const PATH: &str = "model.layers.0.self_attn.q_proj";

fn config(rank: usize) -> AdapterConfig {
    let labels = ["bad", "good"].map(str::to_owned).to_vec();
    AdapterConfig { lora: LoraConfig::of_rank(rank), labels }
}

/// An adapter all of whose values are `value`.
fn tensors(rank: usize, value: f32) -> AdapterTensors {
    let fresh = init_adapter(&LLAMA.config(), &LoraConfig::of_rank(rank), 2, 1).unwrap();
    fresh.with_values(&vec![value; fresh.length()])
}

fn delta() -> Delta {
    let mut delta = Delta::new();
    delta.add(PATH, ([3, 48], vec![0.5; 144]), ([48, 3], vec![0.25; 144]));
    delta
}

/// What is written of `trees`.
fn written(scratch: &Scratch, trees: &Trees) -> AdapterTensors {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("out");
    export(&folder, &scratch.store, trees, &Card::default()).unwrap();
    let bytes = fs::read(folder.join(peft::TENSORS_FILE)).unwrap();
    AdapterTensors::from_safetensors(&bytes).unwrap()
}

#[test]
fn a_clients_training_stands_on_the_base_that_it_started_from() {
    let scratch = Scratch::new();
    let base = scratch.base(LLAMA);
    let start = scratch.adapter(&config(2), &tensors(2, 0.0), Some(&delta()), None);
    let own = scratch.adapter(&config(2), &tensors(2, 1.0), None, None);
    let trees = Trees { adapter: own, start: Some(start), own: None, needs_stand_in: false, base };
    let found = written(&scratch, &trees);
    let [a, b] = peft::factor_names(PATH);
    let (shape, values) = found.get(&a).unwrap();
    assert_eq!(
        (shape, values[0].to_bits(), values[4 * 48].to_bits()),
        ([5, 48], 0.5_f32.to_bits(), 1.0_f32.to_bits())
    );
    let (_, values) = found.get(&b).unwrap();
    assert_eq!(values[..5], [0.25, 0.25, 0.25, 8.0, 8.0], "alpha 16 over rank 2");
    // Without what it started from it would be another adapter.
    let alone = written(&scratch, &Trees { start: None, ..trees });
    assert_eq!(alone.get(&a).unwrap().0, [2, 48]);
}

#[test]
fn a_client_has_its_own_parts_on_top_of_what_all_share() {
    let scratch = Scratch::new();
    let base = scratch.base(LLAMA);
    let adapter = scratch.adapter(&config(2), &tensors(2, 1.0), None, Some(&tensors(2, 3.0)));
    let own = scratch.adapter(&config(2), &tensors(2, 2.0), None, None);
    let trees = |own| Trees { adapter, start: None, own, needs_stand_in: false, base };
    let [a, b] = peft::factor_names(PATH);
    let first = |found: &AdapterTensors| {
        [a.as_str(), &b, SCORE].map(|name| found.get(name).unwrap().1[0].to_bits())
    };
    let bits = |values: [f32; 3]| values.map(f32::to_bits);
    let mixed = written(&scratch, &trees(Some((own, Parts::B | Parts::HEAD))));
    assert_eq!(first(&mixed), bits([1.0, 2.0, 2.0]));
    let head = written(&scratch, &trees(Some((own, Parts::HEAD))));
    assert_eq!(first(&head), bits([1.0, 1.0, 2.0]));
    let none = written(&scratch, &trees(None));
    assert_eq!(
        first(&none),
        bits([3.0, 3.0, 3.0]),
        "what stands in for an adapter that nobody has"
    );

    // A client of a smaller rank has the first rows of what all share, as it is scored.
    let smaller = scratch.adapter(&config(1), &tensors(1, 2.0), None, None);
    for (parts, values) in [(Parts::ALL, [2.0, 2.0, 2.0]), (Parts::B, [1.0, 2.0, 1.0])] {
        let found = written(&scratch, &trees(Some((smaller, parts))));
        assert_eq!((found.get(&a).unwrap().0, first(&found)), ([1, 48], bits(values)));
    }
    let larger = scratch.adapter(&config(4), &tensors(4, 2.0), None, None);
    let folder = scratch.folder.path().join("out");
    let half = trees(Some((larger, Parts::B)));
    let error = export(&folder, &scratch.store, &half, &Card::default()).unwrap_err();
    assert!(error.to_string().contains("is 4 for a client, and 2 in the global"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn the_card_gives_both_ranks() {
    let scratch = Scratch::new();
    let base = scratch.base(LLAMA);
    let adapter = scratch.adapter(&config(2), &tensors(2, 1.0), Some(&delta()), None);
    let trees = Trees { adapter, start: None, own: None, needs_stand_in: false, base };
    let text = |name: &str, merged| {
        let folder = scratch.folder.path().join(name);
        let card = Card { merged, ..Card::default() };
        export(&folder, &scratch.store, &trees, &card).unwrap();
        fs::read_to_string(folder.join("README.md")).unwrap()
    };
    let card = text("adapter", false);
    assert!(card.contains("have rank 2; those in this folder have rank 2 to 5"), "{card}");
    assert!(!text("merged", true).contains("larger because"));
}
