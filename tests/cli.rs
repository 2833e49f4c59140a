//! What the commands print.

use crate::harness::Space;

#[test]
fn a_run_tells_every_event_as_a_line_of_json() {
    let space = Space::with_graph(3, 2);
    let ran = space.run(&["score.untrained=true"]);
    let events = ran.events();
    assert_eq!(events[0]["event"], "planned");
    let ended = events.last().unwrap();
    assert_eq!(ended["failed"], 0);
    let rounds: Vec<_> = events
        .iter()
        .filter(|e| e["event"] == "metric" && e["name"] == "accuracy" && e["client"].is_null())
        .map(|e| e["round"].as_u64().unwrap())
        .collect();
    let mut sorted = rounds.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2]);
    // The same lines are kept with the run.
    let run = ended["run"].as_str().unwrap();
    let kept = std::fs::read_to_string(space.path(&format!(".fedpipe/runs/{run}/metrics.jsonl")));
    let kept = kept.unwrap();
    let accuracies = || kept.lines().filter(|line| line.contains("\"accuracy\""));
    let of_clients = accuracies().filter(|line| line.contains("\"client\"")).count();
    assert_eq!(accuracies().count() - of_clients, 3);
    assert!(of_clients >= 3, "each client has its own");
    // A reused run tells the same figures again.
    let again = space.run(&["score.untrained=true"]).events();
    let values = |events: &[serde_json::Value]| {
        let mut all: Vec<String> = events
            .iter()
            .filter(|e| e["event"] == "metric")
            .map(|e| format!("{} {} {}", e["step"], e["name"], e["value"]))
            .collect();
        all.sort();
        all
    };
    assert_eq!(values(&events), values(&again));
}

#[test]
fn people_read_verbs_and_a_summary() {
    let space = Space::with_graph(3, 2);
    let ran = space.fedpipe(&["run", "graph.ron", "--device", "cpu"]).fine();
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    for word in ["Fetched", "Tokenized", "Split", "Prepared", "Trained", "Scored", "accuracy"] {
        assert!(ran.stderr.contains(word), "`{word}` is not in:\n{}", ran.stderr);
    }
    let again = space.fedpipe(&["run", "graph.ron", "--device", "cpu"]).fine();
    assert!(again.stderr.contains("Reused 15 steps"), "{}", again.stderr);
    let log = space.fedpipe(&["log"]).fine().stdout;
    assert_eq!(log.lines().count(), 2);
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let help = Space::empty().fedpipe(&["--help"]).fine().stdout;
    for word in
        ["run", "plan", "why", "check", "log", "gc", "verify", "devices", "completions", "130"]
    {
        assert!(help.contains(word), "{help}");
    }
    assert_eq!(Space::empty().fedpipe(&["rnu"]).code, 2);
}

#[test]
fn check_finds_a_graph_fine_and_lists_the_stages() {
    let space = Space::with_graph(3, 2);
    assert!(space.fedpipe(&["check", "graph.ron"]).fine().stdout.contains("fine, 15 steps"));
    assert!(space.fedpipe(&["check", "--stages"]).fine().stdout.contains("Federate"));
    assert!(space.fedpipe(&["devices"]).fine().stdout.contains("cpu"));
    assert!(space.fedpipe(&["completions", "bash"]).fine().stdout.contains("_fedpipe"));
    assert!(space.inside(".fedpipe").is_empty());
}

#[test]
fn a_plan_shows_the_effective_graph_and_its_drawing() {
    let space = Space::with_graph(3, 2);
    let plan = |args: &[&str]| {
        let mut all = vec!["plan", "graph.ron", "--set", "fed.rounds=1"];
        all.extend(args);
        space.fedpipe(&all).fine().stdout
    };
    assert!(plan(&["--effective"]).contains("rounds: 1,"));
    assert!(plan(&["--graph", "dot"]).contains("->"));
    assert!(plan(&["--graph", "mermaid"]).contains("-->"));
    assert!(plan(&[]).contains("fed/round-001, 3 clients"));
}
