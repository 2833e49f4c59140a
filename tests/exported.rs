//! What is exported after a federation by each rule is what its server came to, to the sixth digit.

#![expect(clippy::print_stdout, reason = "`--nocapture` shows how near they are")]

use std::collections::BTreeMap;

use artifacts::Store;
use fedpipe::{history, lineage::Lineage};
use stages::{
    kinds::{Adapter, AdapterConfig},
    model::{Config, LoraConfig, Module},
    peft::{self, AdapterTensors, Change, Delta},
};

use crate::{
    federated::RULES,
    harness::{Space, project},
};

/// `B·A` by module, `[out, in]` row by row in f64.
type Products = BTreeMap<String, Vec<f64>>;

fn config() -> Config {
    let bytes = std::fs::read(project().join("tests/data/llama-tiny-mha/config.json")).unwrap();
    Config::parse(&bytes).unwrap()
}

/// Adds `scale·b·a` to the product of a module.
fn add(
    products: &mut Products,
    path: &str,
    scale: f64,
    a: ([usize; 2], &[f32]),
    b: ([usize; 2], &[f32]),
) {
    let ([rank, inputs], [outputs, _]) = (a.0, b.0);
    let sum = products.entry(path.to_owned()).or_insert_with(|| vec![0.0; inputs * outputs]);
    for row in 0..outputs {
        for column in 0..inputs {
            let product =
                |r: usize| f64::from(b.1[row * rank + r]) * f64::from(a.1[r * inputs + column]);
            sum[row * inputs + column] += scale * (0..rank).map(product).sum::<f64>();
        }
    }
}

fn of_adapter(products: &mut Products, tensors: &AdapterTensors, lora: &LoraConfig) {
    for Module { path, scale, .. } in lora.modules(&config()).unwrap() {
        let [a, b] = peft::factor_names(&path);
        let (a, b) = (tensors.get(&a).unwrap(), tensors.get(&b).unwrap());
        add(products, &path, scale, a, b);
    }
}

/// What the store has of a step: its adapter, or what stands in for it, and what was added to the base.
fn of_store(space: &Space, step: &str) -> Products {
    let store = Store::open_existing(&space.path(".fedpipe")).unwrap().unwrap();
    let run = history::runs(&store).unwrap().remove(0);
    let lineage = Lineage::of(&run, &store).unwrap();
    let made = lineage.steps().iter().find(|made| made.name == step).unwrap();
    let tree = store.tree(&made.record.found.tree).unwrap().unwrap();
    let read = |name: &str| tree.get(name).map(|at| store.blob(&at).unwrap());
    let tensors = read(Adapter::STAND_IN).or_else(|| read(Adapter::TENSORS)).unwrap();
    let tensors = AdapterTensors::from_safetensors(&tensors).unwrap().folded().unwrap();
    let config: AdapterConfig = serde_json::from_slice(&read(Adapter::CONFIG).unwrap()).unwrap();
    let mut products = Products::new();
    of_adapter(&mut products, &tensors, &config.lora);
    if let Some(delta) = read(Adapter::DELTA) {
        for (path, change) in Delta::from_safetensors(&delta).unwrap().iter() {
            match change {
                Change::Factors { a, b } => {
                    add(&mut products, path, 1.0, (a.0, &a.1), (b.0, &b.1));
                }
                Change::Dense((_, values)) => {
                    let sum = products.get_mut(path).unwrap();
                    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
                }
            }
        }
    }
    products
}

/// What PEFT makes of an exported folder.
fn of_folder(space: &Space, folder: &str) -> Products {
    let folder = space.path(folder);
    let lora = peft::read_settings(&folder).unwrap();
    let bytes = std::fs::read(folder.join(peft::TENSORS_FILE)).unwrap();
    let mut products = Products::new();
    of_adapter(&mut products, &AdapterTensors::from_safetensors(&bytes).unwrap(), &lora);
    products
}

/// The largest relative distance of a module.
fn apart(found: &Products, wanted: &Products) -> f64 {
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let one = |(found, wanted): (&Vec<f64>, &Vec<f64>)| {
        let size = norm(&mut wanted.iter().copied());
        assert!(size > 0.0, "nothing was learnt");
        norm(&mut found.iter().zip(wanted).map(|(a, b)| a - b)) / size
    };
    found.values().zip(wanted.values()).map(one).fold(0.0, f64::max)
}

fn check(space: &Space, rule: &str, sets: &[&str]) {
    let rule_set = format!("fed.aggregate={rule}");
    space.run(&[&[rule_set.as_str()], sets].concat());
    if rule == "Local" {
        let ran = space.fedpipe(&["export", "last", "local"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("--client"), "{}", ran.stderr);
    } else {
        let told = space.fedpipe(&["export", "last", rule]).fine().stdout;
        assert_eq!(told.contains("approximation"), rule == "FedSALoRA", "{told}");
        let far = apart(&of_folder(space, rule), &of_store(space, "fed/round-002"));
        println!("{rule:34} {sets:?} {far:.1e}");
        assert!(far <= 1e-6, "{rule} {sets:?}: {far}");
    }
    if rule == "Local" {
        let folder = format!("{rule} of 1");
        space.fedpipe(&["export", "last", &folder, "--client", "1"]).fine();
        let far = apart(&of_folder(space, &folder), &of_store(space, "fed/round-002/client-001"));
        assert!(far <= 1e-6, "{rule}: {far}");
    }
}

#[test]
fn the_export_of_every_rule_has_the_product_of_its_server() {
    let space = Space::with_graph(5, 2);
    for rule in RULES {
        check(&space, rule, &[]);
    }
}

#[test]
fn and_so_it_has_where_clients_have_ranks_of_their_own() {
    let space = Space::with_graph(5, 2);
    let clients = "fed.clients=(tiers: [(share: 0.4, rank: 2), (share: 0.2, rank: 1)])";
    for rule in ["FLoRA", "FlexLoRA", "HetLoRA()"] {
        check(&space, rule, &[clients]);
    }
}
