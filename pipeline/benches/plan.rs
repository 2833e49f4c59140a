//! How long `fedpipe plan` takes on an unchanged graph, as a whole process.
//!
//!     cargo bench --bench plan
//!
//! It writes graphs of about 1,000 and 10,000 steps, fills a store with a record for each of their
//! steps (without training: a plan looks at records only), and times the command. Beside it stands
//! the floor: reading as many small files, in the same run.

#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

mod measure;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use artifacts::{NewRecord, Provenance};
use clap::Parser;
use fedpipe::{
    plan::{Places, Plan, State},
    project::Project,
    world::World,
};
use stages::download::HubSettings;

use measure::{Contender, Report, Times, interleave, ratios};

#[derive(Parser)]
struct Options {
    /// Rounds of turns
    #[arg(long, default_value_t = 15)]
    turns: usize,
    /// Print the table, and leave the one in `results` as it is
    #[arg(long)]
    dry: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let about = "`fedpipe plan` on a graph of which nothing has changed, as a whole process; the floor reads as many small \
                 files, and does nothing with them. Medians, with quartiles.";
    let mut report = Report::new("plan", about);
    report.fact(&format!("{} rounds of turns", options.turns));
    let mut rows = Vec::new();
    for (clients, rounds) in [(10, 82), (10, 832)] {
        let dir = tempfile::tempdir().unwrap();
        let steps = prepare(dir.path(), clients, rounds);
        let mut contenders = [
            Contender { name: "plan".to_owned(), turn: Box::new(|| plan(dir.path(), steps)) },
            Contender { name: "floor".to_owned(), turn: Box::new(|| floor(dir.path())) },
        ];
        let all = interleave(options.turns, &mut contenders);
        let row = |(at, times): (usize, &Times)| {
            let milliseconds = format!("{:.1}", times.spread().median * 1e3);
            [vec![steps.to_string(), times.name.clone(), milliseconds], ratios(&all, 1, at)]
                .concat()
        };
        rows.extend(all.iter().enumerate().map(row));
    }
    report.table(&["steps", "side", "ms", "plan to it"], &rows);
    report.finish(!options.dry);
}

/// A graph and a store in which every step of it is done; gives the number of steps.
fn prepare(dir: &Path, clients: u32, rounds: u32) -> usize {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs/data/tiny-llama-vader");
    let base = base.canonicalize().unwrap();
    let base = base.to_str().unwrap();
    let graph = format!(
        r#"Graph(stages: (
    base: Model(folder: {base:?}),
    data: Dataset(file: "data.tsv"),
    tokens: Tokenize(of: data, with: base),
    shards: Partition(of: tokens, clients: {clients}, by: Iid),
    fed: Federate(base: base, shards: shards, lora: (rank: 8), rounds: {rounds}),
    score: Evaluate(base: base, adapter: fed, on: tokens, split: "train"),
))"#
    );
    fs::write(dir.join("graph.ron"), graph).unwrap();
    fs::write(dir.join("data.tsv"), "text\tlabel\ngood\t1\nbad\t0\n").unwrap();
    let hub = HubSettings {
        cache: dir.join("hub"),
        token: None,
        endpoint: "http://127.0.0.1:9".into(),
        offline: true,
    };
    let world = World::look(&dir.join(".fedpipe"), hub).unwrap();
    world.make_store().unwrap();
    let project = Project::open(&dir.join("graph.ron"), &[], &world)
        .unwrap_or_else(|failure| panic!("{failure:?}"));
    let plan = project.plan(&world, "cpu").unwrap();
    fill(&plan, &world);
    plan.steps.len()
}

/// Publishes a small record for every step, with the entries that other steps look for.
fn fill(plan: &Plan, world: &World) {
    let store = world.store().unwrap();
    let lease = store.lease().unwrap();
    let mut parts: Vec<BTreeSet<String>> = vec![BTreeSet::new(); plan.steps.len()];
    for dep in plan.steps.iter().flat_map(|step| &step.deps) {
        parts[dep.step].extend(dep.part.clone());
    }
    let mut places = Places::new(Some(store));
    let mut states: Vec<State> = Vec::with_capacity(plan.steps.len());
    for (i, step) in plan.steps.iter().enumerate() {
        let mut state = step.state(&states, Some(store), &mut places).unwrap();
        if let State::ToRun { key } = state {
            let mut draft = store.draft(&lease).unwrap();
            draft.bytes("made", step.name.as_bytes()).unwrap();
            for part in &parts[i] {
                draft.bytes(part, format!("{part} of {i}").as_bytes()).unwrap();
            }
            let record = NewRecord {
                key,
                manifest: step.action().manifest(&|_| None),
                kind: step.work.kind().to_owned(),
                output: draft.finish().unwrap(),
                metrics: BTreeMap::from([("accuracy".to_owned(), 0.5)]),
                provenance: Provenance {
                    seconds: 1.0,
                    cpu_seconds: None,
                    peak_bytes: None,
                    device: Some("cpu (flex)".into()),
                    host: "bench".into(),
                    version: "0".into(),
                    created: "2026-01-01T00:00:00Z".into(),
                },
            };
            store.publish(&lease, record).unwrap();
            state = step.state(&states, Some(store), &mut places).unwrap();
        }
        assert!(matches!(state, State::Reused { .. }), "{}", step.name);
        states.push(state);
    }
}

fn plan(dir: &Path, steps: usize) -> f64 {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_fedpipe"))
        .args(["plan", "graph.ron", "--json"])
        .current_dir(dir)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let seconds = start.elapsed().as_secs_f64();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["reused"], steps, "the store does not hold every step");
    seconds
}

/// Reads every record of the store, and does nothing with it.
fn floor(dir: &Path) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    for shard in fs::read_dir(dir.join(".fedpipe/ac")).unwrap().flatten() {
        for record in fs::read_dir(shard.path()).unwrap().flatten() {
            bytes += fs::read(record.path()).unwrap().len();
        }
    }
    assert!(bytes > 0);
    start.elapsed().as_secs_f64()
}
