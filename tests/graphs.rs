//! Every graph of the project parses, checks and plans, with no network and no model.

use std::fs;

use crate::harness::{Space, project};

#[test]
fn every_graph_plans() {
    let space = Space::empty();
    let mut planned = 0;
    for entry in fs::read_dir(project().join("graphs")).unwrap().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "ron") {
            continue;
        }
        let plan = space.fedpipe(&["plan", path.to_str().unwrap(), "--json"]).fine().json();
        assert!(plan["steps"].as_u64().unwrap() > 5, "{}", path.display());
        planned += 1;
    }
    assert!(planned >= 9, "only {planned} graphs were found");
    assert!(space.inside(".").is_empty(), "a plan wrote something");
}

#[test]
fn the_steps_of_the_reuse_table() {
    let space = Space::empty();
    let graph = project().join("graphs/llama2_r64.ron");
    let graph = graph.to_str().unwrap();
    let steps = |set: &str| {
        let plan = space.fedpipe(&["plan", graph, "--json", "--set", set]).fine().json();
        plan["steps"].as_u64().unwrap()
    };
    assert_eq!(steps("fed.rounds=20"), 245);
    assert_eq!(steps("fed.rounds=30"), 365);
    assert_eq!(steps("score.every=5"), 229);
    assert_eq!(steps("fed.clients=(per_round: 4)"), 4 + 1 + 20 * 5 + 20);
}
