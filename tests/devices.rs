//! The same federation on a GPU, or on a software adapter where there is none, as on the CPU. Skipped, with a word, where
//! this build or this machine has nothing for wgpu.

#![expect(clippy::print_stderr, reason = "a test that is skipped says so")]
#![expect(clippy::print_stdout, reason = "`--nocapture` shows how near they are")]

use std::collections::BTreeMap;

use crate::{
    cohorts::{adapters, metrics, relative},
    harness::{Ran, Space, project},
};

/// The first adapter that wgpu finds, as `--device` takes it.
fn gpu(space: &Space) -> Option<String> {
    let found = space.fedpipe(&["devices", "--json"]).fine().json();
    let names = found.as_array().unwrap().iter().map(|it| it["device"].as_str().unwrap());
    let first = names.into_iter().find(|name| name.starts_with("wgpu:")).map(str::to_owned);
    if first.is_none() {
        eprintln!("skipped: this build or this machine has nothing for wgpu");
    }
    first
}

/// A folder whose kernels are kept in it.
fn space() -> Space {
    let mut space = Space::with_graph(3, 2);
    let kernels = space.path("kernels");
    space.set("FEDPIPE_KERNELS", kernels.to_str().unwrap());
    space
}

fn run(space: &Space, graph: &str, device: &str, more: &[&str]) -> Ran {
    let args = [&["run", graph, "--device", device, "--json"], more].concat();
    space.fedpipe(&args).fine()
}

/// The largest relative difference of figures of the same steps.
fn apart(found: &BTreeMap<String, f64>, wanted: &BTreeMap<String, f64>) -> f64 {
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    let each = wanted.iter().map(|(step, wanted)| (found[step] - wanted).abs() / wanted);
    each.fold(0.0, f64::max)
}

#[test]
fn a_federation_on_a_gpu_is_that_of_the_cpu() {
    let space = space();
    let Some(device) = gpu(&space) else { return };
    let quickstart = project().join("graphs/quickstart.ron");
    let quickstart = quickstart.to_str().unwrap();
    let cut = ["--set", "fed.rounds=2", "--set", "shards.clients=4", "--set", "tokens.max_len=24"];
    let of = |device: &str, store: &str, more: &[&str]| {
        let args = [&cut[..], &["--store", store], more].concat();
        run(&space, quickstart, device, &args)
    };
    let cpu = of("cpu", "cpu", &[]);
    let losses = metrics(&cpu, "train_loss");
    let wanted = metrics(&cpu, "accuracy");
    for (store, more) in [("together", &["--cohort", "4"][..]), ("alone", &["--cohort", "1"])] {
        let gpu = of(&device, store, more);
        let far = apart(&metrics(&gpu, "train_loss"), &losses);
        let accuracy = metrics(&gpu, "accuracy");
        let off = wanted.iter().map(|(step, wanted)| (accuracy[step] - wanted).abs());
        let off = off.fold(0.0, f64::max);
        println!("{device}, {store}: losses {far:.1e}, accuracy {off:.4}");
        assert!(far < 1e-3, "{store}: losses {far}");
        assert!(off <= 0.01, "{store}: accuracy {off}");
        let events = gpu.events();
        let trained = events.iter().find(|event| {
            event["event"] == "started" && event["step"] == "fed/round-001/client-000"
        });
        assert!(trained.unwrap()["device"].as_str().unwrap().starts_with(&device));
    }
}

/// One adapter named twice: two threads, each with its own base, share the clients of a round.
#[test]
fn two_workers_share_a_round() {
    let space = space();
    let Some(device) = gpu(&space) else { return };
    run(&space, "graph.ron", "cpu", &["--store", "cpu"]);
    let both = format!("{device},{device}");
    let ran = run(&space, "graph.ron", &both, &[]);
    let (steps, _, done) = ran.counts();
    assert_eq!(steps, done);
    let cpu = run(&space, "graph.ron", "cpu", &["--store", "cpu"]);
    let far = apart(&metrics(&ran, "train_loss"), &metrics(&cpu, "train_loss"));
    assert!(far < 1e-3, "{far}");
    for (step, adapter) in adapters(&space) {
        assert!(relative(&adapter, &adapter) < f64::EPSILON, "{step} is finite");
    }
}

/// What was compiled by one process is found by the next.
#[test]
fn kernels_are_kept_between_processes() {
    let space = space();
    let Some(device) = gpu(&space) else { return };
    run(&space, "graph.ron", &device, &["--store", "first"]);
    let kept = space.inside("kernels");
    assert!(!kept.is_empty(), "a file of kernels is written");
    let size = || -> u64 {
        let files = std::fs::read_dir(space.path("kernels")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let before = size();
    let again = run(&space, "graph.ron", &device, &["--store", "second"]);
    assert_eq!(again.counts().1, 0, "nothing of the first store is reused");
    println!("{before} bytes of kernels, {} after a second run", size());
    assert!(size() < before + before / 5, "the second run adds next to nothing");
}
