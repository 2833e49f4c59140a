//! The table at the end of a sweep's run.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Ran, Space};

fn sweep(over: &str) -> Space {
    let space = Space::with_graph(3, 2);
    space.write("sweep.ron", &format!("Graph(extends: \"graph.ron\", sweep: {{ {over} }})"));
    space
}

fn run(space: &Space) -> Ran {
    space.fedpipe(&["run", "sweep.ron", "--device", "cpu", "--json"]).fine()
}

fn table(ran: &Ran) -> Value {
    let events = ran.events();
    let [.., table, ended] = events.as_slice() else { panic!("{}", ran.stdout) };
    assert_eq!((&table["event"], &ended["event"]), (&"table".into(), &"ended".into()));
    serde_json::json!({ "metric": table["metric"], "rows": table["rows"] })
}

/// The accuracies of the last round by the labels of the variants.
fn accuracies(ran: &Ran) -> BTreeMap<String, f64> {
    let events = ran.events();
    let last = events.iter().filter(|event| {
        let step = event["step"].as_str().unwrap_or_default();
        let is_score = event["name"] == "accuracy" && event["client"].is_null();
        is_score && step.ends_with("score/round-002")
    });
    last.map(|event| {
        (event["variant"].as_str().unwrap().to_owned(), event["value"].as_f64().unwrap())
    })
    .collect()
}

#[test]
fn a_row_is_over_the_seeds_and_the_same_when_all_is_reused() {
    let space = sweep("\"fed.lora.rank\": [2, 3], \"seed\": [1, 2, 3]");
    let ran = run(&space);
    let (table, found) = (table(&ran), accuracies(&ran));
    assert_eq!((table["metric"].as_str().unwrap(), found.len()), ("accuracy", 6));
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, rank) in rows.iter().zip(["2", "3"]) {
        assert_eq!(row["settings"], serde_json::json!({ "fed.lora.rank": rank }));
        assert_eq!((&row["evaluation"], &row["n"]), (&"score".into(), &3.into()));
        let own = format!("fed.lora.rank={rank},");
        let values: Vec<f64> =
            found.iter().filter(|(label, _)| label.starts_with(&own)).map(|(_, v)| *v).collect();
        assert_eq!(values.len(), 3);
        let mean = values.iter().sum::<f64>() / 3.0;
        let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 2.0).sqrt();
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!((number("score") - mean).abs() < 1e-12 && (number("score_sd") - sd).abs() < 1e-12);
        assert!(number("train_seconds") > 0.0);
    }
    let again = run(&space);
    assert_eq!(again.counts().2, 0);
    assert_eq!(self::table(&again), table, "the seconds are those of the records");
    let told = space.fedpipe(&["run", "sweep.ron", "--device", "cpu"]).fine().stderr;
    let lines: Vec<&str> = told.lines().rev().take(3).collect();
    assert!(lines[2].trim_start().starts_with("settings"), "{told}");
    assert!(lines[1].contains("fed.lora.rank=2  3") && lines[1].contains(" ± "), "{told}");
    assert!(!told.contains("last accuracy"), "{told}");
}

#[test]
fn what_variants_share_counts_for_each_of_them() {
    let space = sweep("\"fed.aggregate\": [FedAvg, Median]");
    let ran = run(&space);
    let table = table(&ran);
    let events = ran.events();
    // Round 1's training is done once, in the first variant's name or in none.
    for (row, rule) in table["rows"].as_array().unwrap().iter().zip(["FedAvg", "Median"]) {
        let seconds: f64 = events
            .iter()
            .filter(|event| event["event"] == "finished")
            .filter(|event| event["stage"] == "train" || event["stage"] == "aggregate")
            .filter(|event| {
                let step = event["step"].as_str().unwrap();
                step.starts_with("fed/round-001/") || step.contains(&format!("={rule}/"))
            })
            .map(|event| event["seconds"].as_f64().unwrap())
            .sum();
        assert!((row["train_seconds"].as_f64().unwrap() - seconds).abs() < 1e-9, "{table}");
        assert_eq!((&row["n"], &row["score_sd"]), (&1.into(), &Value::Null));
    }
    let told = space.fedpipe(&["run", "sweep.ron", "--device", "cpu"]).fine().stderr;
    assert!(told.contains("fed.aggregate=Median  1") && !told.contains('±'), "{told}");
    // Without a sweep the lines are those of before.
    let plain = space.fedpipe(&["run", "graph.ron", "--device", "cpu"]).fine().stderr;
    assert!(plain.contains("last accuracy") && !plain.contains("settings"), "{plain}");
}
