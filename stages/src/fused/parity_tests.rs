//! The CPU's own kernels against Burn's operations, on small models of both families.

use burn::tensor::{Device, Tensor, TensorData};

use crate::model::recorded::apart;
use crate::model::tiny::{BLOOM, LLAMA, Tiny, threads};
use crate::model::{
    Adapters, Base, Batch, Config, Dropout, Factors, Layers, Layout, LoraConfig, Read, Row, Tape,
    Targets,
};
use crate::parts::Parts;
use crate::peft::{AdapterTensors, init_adapter};
use crate::seed::Draws;

/// Six query heads share two key and value heads.
const GROUPED: Tiny = Tiny("families/llama-gqa-llama3");
const MODELS: [Tiny; 3] = [LLAMA, GROUPED, BLOOM];

/// Rows of two clients with several reads, enough of them for several chunks.
fn batch(config: &Config) -> Batch {
    let mut draws = Draws::named(5, "test", &["batch"]);
    let mut client = |rows: usize| -> Vec<Row> {
        let row = |_| {
            let length = 1 + draws.below(40);
            let tokens =
                (0..length).map(|_| u32::try_from(4 + draws.below(config.vocab - 4)).unwrap());
            let tokens: Vec<u32> = tokens.collect();
            let mut reads = vec![Read { at: draws.below(length), target: 1, weight: 1.0 }];
            if draws.below(2) == 0 {
                reads.push(Read { at: draws.below(length), target: 0, weight: 1.0 });
            }
            Row { tokens, reads }
        };
        (0..rows).map(row).collect()
    };
    let rows = [client(14), client(9)];
    let labels = rows.each_ref().map(|rows| vec![0; rows.len()]);
    Batch::new(&rows, &labels, &Device::flex())
}

fn settings(layers: Layers) -> LoraConfig {
    let targets = Some(Targets::Pattern("all-linear".to_owned()));
    LoraConfig { targets, alpha: 6.0, layers, ..LoraConfig::of_rank(3) }
}

/// An adapter with no zero in it.
fn adapter(config: &Config, lora: &LoraConfig, seed: u64) -> AdapterTensors {
    let fresh = init_adapter(config, lora, 2, 1).unwrap();
    let mut draws = Draws::named(seed, "test", &["adapter"]);
    #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
    let flat: Vec<f32> = (0..fresh.length()).map(|_| (0.4 * draws.unit() - 0.2) as f32).collect();
    fresh.with_values(&flat)
}

/// Hidden states and gradients of two clients.
struct Found {
    hidden: Vec<f32>,
    gradient: Vec<f32>,
}

fn run(base: &Base, lora: &LoraConfig, parts: Parts, rate: f64, tape: Tape) -> Found {
    let device = Device::flex();
    let clients = [1, 2].map(|seed| adapter(base.config(), lora, seed));
    let own = Layout::of(base.config(), lora, &clients[0]).unwrap();
    let (trained, still) = (own.only(parts), own.only(!parts));
    let tensors = |layout: &Layout, parts: Parts| {
        if layout.length() == 0 {
            return Vec::new();
        }
        let rows = clients.each_ref().map(|client| {
            let some = client.only(parts);
            layout.pack(&some, layout).unwrap()
        });
        layout.split(&layout.stack(&rows, &device))
    };
    let (of_trained, of_still) = (tensors(&trained, parts), tensors(&still, !parts));
    let adapters = Adapters {
        trained: (&trained, &of_trained),
        still: (&still, &of_still),
        own: &[&own, &own],
    };
    let batch = batch(base.config());
    let dropout = Dropout::new(vec![(7, rate), (8, rate)], 3, &[], &device);
    let forward = base.forward(&batch, &adapters, dropout.as_ref(), tape);
    let hidden: Vec<f32> = forward.hidden.clone().try_into_vec_as().unwrap();
    // Reads that only fill up weigh nothing.
    let width = base.config().hidden;
    let slopes = (0..hidden.len()).map(|i| match batch.places()[i / width] {
        Some(_) => (i as f32 * 0.37).cos(),
        None => 0.0,
    });
    let slopes = TensorData::new(slopes.collect::<Vec<f32>>(), [hidden.len() / width, width]);
    let gradient = forward.backward(Tensor::from_data(slopes, &device), None);
    let mut hidden = hidden;
    for (place, row) in batch.places().iter().zip(hidden.chunks_exact_mut(width)) {
        if place.is_none() {
            row.fill(0.0);
        }
    }
    Found { hidden, gradient: gradient.try_into_vec_as().unwrap() }
}

fn near(found: &Found, wanted: &Found, what: &str) {
    let size = |values: &[f32]| values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let far = apart(&found.hidden, &wanted.hidden) / size(&wanted.hidden);
    assert!(far < 1e-5, "{what}: hidden states are {far} apart");
    let far = apart(&found.gradient, &wanted.gradient) / size(&wanted.gradient);
    assert!(far < 2e-5, "{what}: gradients are {far} apart");
    assert!(size(&wanted.gradient) > 1e-3, "{what}");
}

#[test]
fn hidden_states_and_gradients_are_those_of_the_stock_operations() {
    for model in MODELS {
        let [stock, fused] = model.by_each_kernel();
        let lora = settings(Layers::All);
        let all = Parts::FACTORS | Parts::HEAD;
        for rate in [0.0, 0.3] {
            let wanted = run(&stock, &lora, all, rate, Tape::Whole);
            for tape in [Tape::Whole, Tape::Blocks] {
                let found = run(&fused, &lora, all, rate, tape);
                near(&found, &wanted, &format!("{model:?}, dropout {rate}, {tape:?}"));
            }
            let segmented = run(&stock, &lora, all, rate, Tape::Blocks);
            near(&segmented, &wanted, &format!("{model:?}, dropout {rate}, stock by blocks"));
        }
    }
}

#[test]
fn any_part_can_be_trained_in_any_blocks() {
    for model in MODELS {
        let (stock, fused) = (model.base(), model.base().fused(threads(1)));
        let targets = stock.config().family.targets();
        for parts in [Parts::A, Parts::B, Parts::B | Parts::HEAD] {
            for layers in [Layers::Last(1), Layers::Only(vec![0])] {
                for target in targets {
                    let targets = Some(Targets::names(&[target]));
                    let lora = LoraConfig { targets, ..settings(layers.clone()) };
                    let wanted = run(&stock, &lora, parts, 0.0, Tape::Whole);
                    for tape in [Tape::Whole, Tape::Blocks] {
                        let found = run(&fused, &lora, parts, 0.0, tape);
                        let what = format!("{model:?}, {target}, {layers:?}, {parts:?}, {tape:?}");
                        near(&found, &wanted, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for model in MODELS {
        let lora = settings(Layers::All);
        let of = |count| {
            let base = model.base().fused(threads(count));
            run(&base, &lora, Parts::FACTORS, 0.2, Tape::Whole)
        };
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let one = of(1);
        for count in [2, 5] {
            let more = of(count);
            assert_eq!(bits(&one.hidden), bits(&more.hidden), "{model:?}, {count} threads");
            assert_eq!(bits(&one.gradient), bits(&more.gradient), "{model:?}, {count} threads");
        }
    }
}

#[test]
fn an_evaluation_reads_what_a_training_step_reads() {
    for model in MODELS {
        let base = model.base().fused(threads(2));
        let lora = settings(Layers::All);
        let clients = [1, 2].map(|seed| adapter(base.config(), &lora, seed));
        let layout = Layout::of(base.config(), &lora, &clients[0]).unwrap();
        let flat = clients.each_ref().map(|client| layout.pack(client, &layout).unwrap());
        let tensors = layout.split(&layout.stack(&flat, base.device()));
        let factors = Factors::new(&[(&layout, &tensors)], &[&layout, &layout], base.device());
        let batch = batch(base.config());
        let hidden = base.read(&batch, Some(&factors), None);
        let wanted = run(&base, &lora, Parts::FACTORS, 0.0, Tape::Whole);
        let found: Vec<f32> = hidden.try_into_vec_as().unwrap();
        assert_eq!(found, wanted.hidden, "{model:?}");
    }
}
