//! Steps on a base that a rule has added to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use artifacts::{BlobRef, Tree};
use serde_json::json;

use super::model::load_base;
use super::{Evaluate, LocalTraining};
use crate::device::DeviceChoice;
use crate::download::HubSettings;
use crate::edge::{In, TreeView};
use crate::kinds::{Adapter, AdapterConfig};
use crate::local_train::{LocalNumbers, Optimizer};
use crate::model::recorded::apart;
use crate::model::tiny::{BLOOM, LLAMA, Tiny};
use crate::model::{Checkpoint, LoraConfig, NamedFile, SINGLE_FILE};
use crate::parts::Parts;
use crate::peft::{AdapterTensors, Delta, init_adapter, write_merged};
use crate::precision::Precision;
use crate::scratch::Scratch;
use crate::seed::Draws;
use crate::session::Session;
use crate::stage::{Context, Place, Report, Stage};
use crate::token_set::TokenSet;

struct Silent;

impl Report for Silent {
    fn progress(&self, _done: u64, _total: u64, _unit: &str) {}
    fn note(&self, _text: &str) {}
}

/// An adapter with a delta on a base, and the same adapter alone on a base with the delta merged in.
struct Pair {
    scratch: Scratch,
    session: Session,
    inputs: BTreeMap<String, Place>,
}

impl Pair {
    fn new(model: Tiny) -> Self {
        let scratch = Scratch::new();
        let lora = LoraConfig::of_rank(4);
        let mut draws = Draws::named(3, "test", &["steps"]);
        #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
        let mut values = |count: usize| -> Vec<f32> {
            (0..count).map(|_| (0.1 * draws.normal()) as f32).collect()
        };
        let fresh = init_adapter(&model.config(), &lora, 2, 1).unwrap();
        let tensors = fresh.with_values(&values(fresh.length()));
        let mut delta = Delta::new();
        for module in lora.modules(&model.config()).unwrap() {
            let target = model.config().family.targets()[module.slot];
            let (inputs, outputs) = model.config().linear(target).unwrap();
            delta.add(
                &module.path,
                ([2, inputs], values(2 * inputs)),
                ([outputs, 2], values(2 * outputs)),
            );
        }
        let labels = ["bad", "good"].map(str::to_owned).to_vec();
        let config = AdapterConfig { lora, labels };
        let rows: Vec<Vec<u32>> = (0..9_u32)
            .map(|row| (0..5 + row % 3).map(|at| 4 + (at * 7 + row * 5) % 90).collect())
            .collect();
        let rows =
            rows.iter().enumerate().map(|(at, row)| (row.as_slice(), i32::from(at % 2 == 0)));
        let tokens = TokenSet::from_examples(rows).unwrap().to_bytes();
        let tree = |place: BlobRef| Place::Tree(place);
        let tokens = scratch.tree(&[("validation", tokens)]);
        let listing: Tree = scratch.store.tree(&tokens).unwrap().unwrap();
        let inputs = [
            ("base", tree(scratch.base(model))),
            ("merged", tree(merged(&scratch, model, &config, &delta))),
            ("changed", tree(scratch.adapter(&config, &tensors, Some(&delta), None))),
            ("plain", tree(scratch.adapter(&config, &tensors, None, None))),
            ("tokens", tree(tokens)),
            ("tokens#validation", Place::Entry(listing.get("validation").unwrap())),
        ];
        let inputs = inputs.map(|(name, place)| (name.to_owned(), place)).into();
        let hub = HubSettings {
            cache: std::path::PathBuf::new(),
            token: None,
            endpoint: String::new(),
            offline: true,
        };
        Self { session: Session::new(DeviceChoice::Cpu, hub), scratch, inputs }
    }

    fn with<T>(&self, work: impl FnOnce(Context<'_>) -> T) -> T {
        let draft = self.scratch.store.draft(&self.scratch.lease).unwrap();
        let stop = AtomicBool::new(false);
        work(Context::new(&self.scratch.store, &self.session, &self.inputs, &Silent, &stop, draft))
    }

    /// The matrices of one entry of what a step makes.
    fn run(&self, step: &impl Stage, entry: &str) -> AdapterTensors {
        let made = self.with(|mut cx| {
            step.run(&mut cx).unwrap();
            cx.finish().0.finish().unwrap()
        });
        let view = TreeView { tree: made.tree, at: made.blob, store: &self.scratch.store };
        assert!(
            view.tree.get(Adapter::DELTA).is_none(),
            "a client does not repeat what it was sent"
        );
        AdapterTensors::from_safetensors(&view.blob(entry).unwrap()).unwrap()
    }
}

/// The base with `delta` merged into its checkpoint.
fn merged(scratch: &Scratch, model: Tiny, config: &AdapterConfig, delta: &Delta) -> BlobRef {
    let zero = init_adapter(&model.config(), &config.lora, 0, 1).unwrap();
    let config = AdapterConfig { labels: Vec::new(), ..config.clone() };
    let adapter = Adapter { config, tensors: zero, trained: None, delta: Some(delta.clone()) };
    let (folder, bytes) = (tempfile::tempdir().unwrap(), model.bytes(SINGLE_FILE));
    let checkpoint = Checkpoint::open(&[NamedFile { name: SINGLE_FILE, bytes: &bytes }]).unwrap();
    write_merged(folder.path(), &adapter, &model.bytes("config.json"), checkpoint).unwrap();
    let read = |name| (name, std::fs::read(folder.path().join(name)).unwrap());
    scratch.tree(&["config.json", SINGLE_FILE].map(read))
}

#[test]
fn training_and_evaluation_stand_on_the_changed_base() {
    // What is added to a rounded base is added before it is rounded, as to the merged checkpoint.
    for (model, precision) in
        [(LLAMA, Precision::F32), (BLOOM, Precision::F32), (LLAMA, Precision::Bf16)]
    {
        let pair = Pair::new(model);
        let scores = |base: &str, adapter: &str| {
            let fields =
                json!({ "base": base, "adapter": adapter, "on": "tokens", "precision": precision });
            let step: Evaluate = serde_json::from_value(fields).unwrap();
            pair.run(&step, "predictions.safetensors").flatten()
        };
        let found = scores("base", "changed");
        let far = apart(&found, &scores("merged", "plain"));
        let moved = apart(&found, &scores("base", "plain"));
        assert!(far < 1e-5 && moved > 0.05, "{model:?}: {far}, moved {moved}");

        let trained = |base: &str, from: &str| {
            let step = LocalTraining {
                prefix: None,
                base: In::named(base),
                shard: In::named("tokens#validation"),
                from: In::named(from),
                own: None,
                keeps: Parts::NONE,
                lora: None,
                local: LocalNumbers {
                    precision,
                    ..LocalNumbers::new(4, Optimizer::Sgd { lr: 0.1 })
                },
                seed: 1,
                frozen: Parts::NONE,
                control: false,
                prune: None,
            };
            pair.run(&step, Adapter::TENSORS).flatten()
        };
        let found = trained("base", "changed");
        let far = apart(&found, &trained("merged", "plain"));
        let moved = apart(&found, &trained("base", "plain"));
        assert!(far < 1e-5 && moved > 1e-3, "{model:?}: {far}, moved {moved}");
    }
}

#[test]
fn clients_of_a_round_share_one_changed_base() {
    let pair = Pair::new(LLAMA);
    let base = |causal, adapter: Option<&str>| {
        let adapter = adapter.map(In::named);
        pair.with(|cx| {
            let edge = In::named("base");
            load_base(&cx, &edge, Precision::F32, causal, adapter.as_ref()).unwrap()
        })
    };
    let (plain, changed) = (base(false, None), base(false, Some("changed")));
    assert!(!Arc::ptr_eq(&plain, &changed));
    assert!(Arc::ptr_eq(&plain, &base(false, Some("plain"))), "there is nothing to add");
    // A causal task finds its head on the same bases.
    assert!(!changed.has_causal_head());
    assert!(Arc::ptr_eq(&changed, &base(true, Some("changed"))));
    assert!(changed.has_causal_head() && Arc::ptr_eq(&plain, &base(true, None)));
}
