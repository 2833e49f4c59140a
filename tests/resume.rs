//! A killed, stopped or failed run loses at most what was running, and its successor makes the same bytes.

use std::{thread::sleep, time::Duration};

use crate::harness::Space;

#[test]
fn after_a_kill_only_the_unfinished_is_run_and_bytes_are_the_same() {
    let whole = Space::with_graph(6, 6);
    let (steps, ..) = whole.run(&[]).counts();
    let expected = whole.records();

    let broken = Space::with_graph(6, 6);
    let mut ran_before = 0;
    let mut kills = 0;
    for wait in [150, 250, 350, 450] {
        let mut child = broken.start(&["run", "graph.ron", "--device", "cpu"]);
        sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        let killed = !child.wait().unwrap().success();
        let done = broken.records().len() as u64;
        assert!(done >= ran_before, "a kill lost a finished step");
        ran_before = done;
        kills += u32::from(killed);
    }
    assert!(kills > 0, "every run ended before its kill");
    let (_, reused, ran) = broken.run(&[]).counts();
    assert_eq!(reused, ran_before, "what was recorded is reused");
    assert_eq!(reused + ran, steps);
    assert_eq!(broken.records(), expected);
    let verified = broken.fedpipe(&["verify", "--content", "--json"]).fine().json();
    assert_eq!(verified["problems"].as_array().unwrap().len(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_done_and_exits_130() {
    let space = Space::with_graph(6, 12);
    let mut child = space.start(&["run", "graph.ron", "--device", "cpu"]);
    while space.inside(".fedpipe/ac").len() < 8 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        sleep(Duration::from_millis(5));
    }
    let interrupt = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let done = space.records().len() as u64;
    let log = space.fedpipe(&["log", "--json"]).fine().json();
    assert_eq!(log[0]["state"], "stopped");
    // One client's adapter is not what a federation came to, however far it got.
    let told = space.fedpipe(&["export", "last", "out"]).fine().stdout;
    assert!(told.contains("did not come to its end") && !told.contains("client-"), "{told}");
    let (_, reused, _) = space.run(&[]).counts();
    assert_eq!(reused, done);
}

#[test]
fn a_failure_stops_what_depends_on_it_and_with_keep_going_nothing_else() {
    let space = Space::with_graph(3, 3);
    // The rate of one variant is so high that its loss is soon no number.
    space.write(
        "sweep.ron",
        r#"Graph(extends: "graph.ron", sweep: { "fed.local.optimizer": [Sgd(lr: 1e38), Sgd(lr: 0.1)] })"#,
    );
    let args = ["run", "sweep.ron", "--device", "cpu", "--json", "--keep-going"];
    let ran = space.fedpipe(&args);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let events = ran.events();
    let ended = events.last().unwrap();
    assert_eq!(ended["failed"], 3, "round 1 of the three clients: {}", ran.stderr);
    // Shared: base, sst2, tokens, shards, init. By variant: three rounds of three clients and an
    // aggregation, and three scores.
    assert_eq!(ended["steps"], 5 + 2 * 15);
    assert_eq!(ended["ran"], 5 + 15, "the other variant is whole");
    assert_eq!(ended["not_run"], 15 - 3);
    let failed = events.iter().find(|event| event["event"] == "failed").unwrap();
    assert!(failed["message"].as_str().unwrap().contains("not finite"), "{failed}");
    // A failure is never cached: without the option the run ends at the first one.
    let again = space.fedpipe(&args[..5]);
    assert_eq!(again.code, 1);
    assert_eq!(again.events().last().unwrap()["ran"], 0);
}
