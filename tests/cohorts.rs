//! Clients of a round trained together: the same results to rounding, under the same keys.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use artifacts::Store;
use fedpipe::{history, lineage::Lineage};
use stages::{kinds::Adapter, peft::AdapterTensors};

use crate::harness::{Ran, Space};

/// What a store has of every client's local training, by the step's name.
pub(crate) fn adapters(space: &Space) -> BTreeMap<String, AdapterTensors> {
    let store = Store::open_existing(&space.path(".fedpipe")).unwrap().unwrap();
    let run = history::runs(&store).unwrap().remove(0);
    let lineage = Lineage::of(&run, &store).unwrap();
    let steps = lineage.steps().iter().filter(|made| made.name.contains("/client-"));
    let read = |made: &fedpipe::lineage::Made| {
        let tree = store.tree(&made.record.found.tree).unwrap().unwrap();
        let bytes = store.blob(&tree.get(Adapter::TENSORS).unwrap()).unwrap();
        (made.name.clone(), AdapterTensors::from_safetensors(&bytes).unwrap())
    };
    steps.map(read).collect()
}

/// The distance of two adapters, relative to the length of the second.
pub(crate) fn relative(left: &AdapterTensors, right: &AdapterTensors) -> f64 {
    let (left, right) = (left.flatten(), right.flatten());
    assert_eq!(left.len(), right.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let far: f64 = left.iter().zip(&right).map(|(a, b)| square(a - b)).sum();
    (far / right.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// The metric `name` of every step that has it.
pub(crate) fn metrics(ran: &Ran, name: &str) -> BTreeMap<String, f64> {
    let events = ran.events().into_iter();
    let events = events.filter(|event| event["event"] == "metric" && event["name"] == name);
    events
        .map(|event| (event["step"].as_str().unwrap().to_owned(), event["value"].as_f64().unwrap()))
        .collect()
}

fn run(space: &Space, args: &[&str]) -> Ran {
    let all = [&["run", "graph.ron", "--device", "cpu", "--json"], args].concat();
    space.fedpipe(&all).fine()
}

/// Seven clients with shards of unlike sizes, of two ranks, with dropout.
const UNLIKE: [&str; 4] = [
    "--set",
    "fed.clients=(tiers: [(share: 0.4, rank: 2)])",
    "--set",
    r#"fed.lora=(rank: 4, alpha: 8, targets: ["q_proj", "v_proj", "o_proj"], dropout: 0.1)"#,
];

#[test]
fn a_cohort_on_the_cpu_makes_what_clients_alone_make() {
    let (alone, together) = (Space::with_graph(7, 2), Space::with_graph(7, 2));
    let first = run(&alone, &[&UNLIKE[..], &["--set", "fed.aggregate=FlexLoRA"]].concat());
    let cohort = ["--set", "fed.aggregate=FlexLoRA", "--cohort", "4", "-j", "1"];
    let second = run(&together, &[&UNLIKE[..], &cohort].concat());
    let losses = metrics(&second, "train_loss");
    for (step, loss) in metrics(&first, "train_loss") {
        let far = (losses[&step] - loss).abs() / loss;
        assert!(far < 1e-5, "{step}: {loss} alone, {} together", losses[&step]);
    }
    let trained = adapters(&together);
    let sizes: Vec<usize> = trained.values().map(AdapterTensors::length).collect();
    assert!(sizes.iter().min() < sizes.iter().max(), "two ranks: {sizes:?}");
    for (step, adapter) in adapters(&alone) {
        let far = relative(&trained[&step], &adapter);
        assert!(far < 1e-5, "{step}: {far}");
    }
    let keys = |space: &Space| -> Vec<String> {
        space.records().into_iter().map(|(key, _)| key).collect()
    };
    let first_round = |keys: Vec<String>, others: &[String]| {
        keys.iter().filter(|key| others.contains(key)).count()
    };
    let (of_alone, of_together) = (keys(&alone), keys(&together));
    // What stands before the first aggregation has the same keys: the cohort is in none.
    assert!(first_round(of_alone, &of_together) >= 5 + 7);
    let counts = run(&alone, &[&UNLIKE[..], &cohort].concat()).counts();
    assert_eq!(counts.2, 0, "what was trained alone is reused by a run with cohorts");
}

/// Each step tells its own progress and is finished by itself, with its share of the time.
#[test]
fn each_of_a_cohort_is_a_step_of_its_own() {
    let space = Space::with_graph(4, 1);
    let ran = run(&space, &["--cohort", "4", "-j", "1"]);
    let events = ran.events();
    let of = |kind: &str| -> Vec<usize> {
        let wanted = |event: &serde_json::Value| {
            event["event"] == kind && event["step"].as_str().unwrap_or("").contains("/client-")
        };
        (0..events.len()).filter(|&at| wanted(&events[at])).collect()
    };
    let (started, finished) = (of("started"), of("finished"));
    assert_eq!((started.len(), finished.len()), (4, 4));
    assert!(started[3] < finished[0], "all are begun before one is finished");
    assert!(started.iter().all(|&at| events[at]["device"] == "cpu (flex)"));
    let seconds: Vec<f64> =
        finished.iter().map(|&at| events[at]["seconds"].as_f64().unwrap()).collect();
    let total: f64 = seconds.iter().sum();
    assert!(seconds.iter().all(|s| (s - total / 4.0).abs() < 1e-6), "shares: {seconds:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_inside_a_cohort_keeps_nothing_of_it_and_the_next_run_makes_it() {
    let space = Space::with_graph(6, 1);
    let long = ["--set", "fed.local.epochs=400"];
    let args = [&["run", "graph.ron", "--device", "cpu", "--cohort", "6", "-j", "1"], &long[..]];
    let mut child = space.start(&args.concat());
    // The base, the data, tokens, shards and the first adapter are there: the cohort is being trained.
    while space.inside(".fedpipe/ac").len() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(300));
    let interrupt = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(space.records().len(), 5, "nothing of the cohort is kept");
    let (steps, reused, ran) = space.run(&["fed.local.epochs=1"]).counts();
    assert_eq!((reused, reused + ran), (5, steps));
}

#[test]
fn a_cohort_whose_loss_is_no_number_fails_client_by_client() {
    let space = Space::with_graph(3, 1);
    let args = ["run", "graph.ron", "--device", "cpu", "--json", "--keep-going", "--cohort", "3"];
    let ran = space
        .fedpipe(&[&args[..], &["-j", "1", "--set", "fed.local.optimizer=Sgd(lr: 1e38)"]].concat());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let events = ran.events();
    let failed: Vec<_> = events.iter().filter(|event| event["event"] == "failed").collect();
    assert_eq!(failed.len(), 3);
    assert!(failed.iter().all(|event| event["message"].as_str().unwrap().contains("not finite")));
}
