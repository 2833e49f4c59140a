//! A federation that ends early: what it leaves out, what it reuses, and what cannot be asked of it.

use serde_json::Value;

use crate::harness::{Ran, Space};

/// With so small a rate no answer ever changes, and every round scores alike.
const FLAT: &str = "fed.local.optimizer=AdamW(lr: 1e-12)";
const STOP: &str =
    r#"fed.stop=(on: score, metric: "accuracy", patience: 3, min_delta: 0.0, mode: Max)"#;

/// Three clients: five steps before the first round, then three local trainings, an aggregation and a score a round.
const BEFORE: u64 = 5;
const ROUND: u64 = 5;

/// `(steps, reused, ran, unwanted)`.
fn counts(ran: &Ran) -> (u64, u64, u64, u64) {
    let (steps, reused, done) = ran.counts();
    let unwanted = ran.events().last().unwrap()["unwanted"].as_u64().unwrap_or(0);
    (steps, reused, done, unwanted)
}

fn notes(ran: &Ran) -> Vec<String> {
    let events = ran.events();
    let notes = events.iter().filter(|event| event["event"] == "note");
    notes
        .map(|note| {
            format!("{}: {}", note["step"].as_str().unwrap(), note["text"].as_str().unwrap())
        })
        .collect()
}

fn last_adapter(space: &Space) -> Value {
    let folder = format!("out-{}", space.inside(".").len());
    space.fedpipe(&["export", "last", &folder, "--json"]).fine().json()["step"].clone()
}

#[test]
fn flat_scores_end_it_and_more_patience_goes_on_from_there() {
    let space = Space::with_graph(3, 20);
    let (all, four) = (BEFORE + 20 * ROUND, BEFORE + 4 * ROUND);
    let early = space.run(&[FLAT, STOP]);
    assert_eq!(counts(&early), (all, 0, four, 16 * ROUND));
    assert_eq!(early.events().last().unwrap()["not_run"], 0);
    let note = "fed: stopped early after round 4 of 20: 3 rounds without a better accuracy";
    assert_eq!(notes(&early), [note]);
    assert_eq!(last_adapter(&space), "fed/round-004");
    assert_eq!(space.fedpipe(&["log", "--json"]).fine().json()[0]["state"], "done");

    let again = space.run(&[FLAT, STOP]);
    assert_eq!(counts(&again), (all, four, 0, 16 * ROUND));
    assert_eq!(notes(&again), [note]);
    assert_eq!(last_adapter(&space), "fed/round-004");

    // More rounds would be as little wanted, and fewer come to their end before the rule does.
    assert_eq!(counts(&space.run(&[FLAT, STOP, "fed.rounds=30"])).2, 0);
    let short = space.run(&[FLAT, STOP, "fed.rounds=4"]);
    assert_eq!(counts(&short), (four, four, 0, 0));
    assert!(notes(&short).is_empty(), "{:?}", notes(&short));

    let longer = space.run(&[FLAT, STOP, "fed.stop.patience=5"]);
    assert_eq!(counts(&longer), (all, four, 2 * ROUND, 14 * ROUND));
    assert_eq!(last_adapter(&space), "fed/round-006");
    // What more patience has made is not wanted by less.
    assert_eq!(counts(&space.run(&[FLAT, STOP])), (all, four, 0, 16 * ROUND));
    assert_eq!(last_adapter(&space), "fed/round-004");
}

#[test]
fn people_read_where_it_stopped_and_a_plan_shows_it() {
    let space = Space::with_graph(3, 8);
    let sets = ["--set", FLAT, "--set", STOP];
    let with = |args: &[&str]| space.fedpipe(&[args, &sets].concat()).fine();
    let plan = with(&["plan", "graph.ron", "--json"]).json();
    assert_eq!(
        (&plan["steps"], &plan["unwanted"]),
        (&45.into(), &0.into()),
        "nothing is known yet"
    );
    let ran = with(&["run", "graph.ron", "--device", "cpu"]).stderr;
    assert!(ran.contains("Note fed: stopped early after round 4 of 8: 3 rounds"), "{ran}");
    assert!(
        ran.contains("Finished 45 steps") && ran.contains("20 not wanted, stopped early"),
        "{ran}"
    );
    let plan = with(&["plan", "graph.ron"]).stdout;
    assert!(plan.contains("fed/round-005, 3 clients                     not wanted"), "{plan}");
    assert!(plan.contains("25 reused, 0 to run, 0 after those, 20 not wanted"), "{plan}");
    let why = with(&["why", "fed/round-006", "graph.ron"]).stdout;
    assert!(
        why.contains("`fed/round-006` is not wanted: stopped early after round 4 of 8"),
        "{why}"
    );
    // A score that is to be made again decides again: what comes after it waits for it.
    let plan = with(&["plan", "graph.ron", "--set", "score.split=\"train\""]).stdout;
    assert!(
        plan.contains("fed/round-002, 3 clients                     after score/round-001"),
        "{plan}"
    );
    let why = with(&["why", "fed/round-002", "graph.ron", "--set", "score.split=\"train\""]).stdout;
    assert!(why.contains("split \"validation\" -> \"train\" in score/round-001"), "{why}");
}

#[test]
fn rounds_that_other_runs_have_made_are_left_out_too() {
    let space = Space::with_graph(3, 6);
    assert_eq!(space.run(&[FLAT]).counts(), (35, 0, 35));
    assert_eq!(last_adapter(&space), "fed/round-006");
    assert_eq!(counts(&space.run(&[FLAT, STOP])), (35, 25, 0, 10));
    assert_eq!(last_adapter(&space), "fed/round-004", "the run is one of four rounds");
}

#[test]
fn what_is_run_does_not_depend_on_the_number_of_jobs() {
    let records = |jobs: &str| {
        let space = Space::with_graph(4, 6);
        let args = ["run", "graph.ron", "--device", "cpu", "--jobs", jobs, "--set", FLAT, "--set"];
        space.fedpipe(&[&args[..], &[STOP]].concat()).fine();
        space.records()
    };
    let one = records("1");
    assert_eq!(one.len(), 5 + 4 * 6);
    assert_eq!(one, records("4"));
}

#[test]
fn only_scored_rounds_count() {
    let space = Space::with_graph(3, 9);
    let ran = space.run(&[FLAT, STOP, "fed.stop.patience=2", "score.every=2"]);
    // Scored are 2, 4, 6, 8 and the last; 4 and 6 are in vain.
    assert_eq!(counts(&ran), (5 + 9 * 4 + 5, 0, 5 + 6 * 4 + 3, 3 * 4 + 2));
    assert!(notes(&ran)[0].contains("after round 6 of 9: 2 rounds"), "{:?}", notes(&ran));
    // The untrained adapter sets the mark, so that one round less is needed.
    let ran = space.run(&[FLAT, STOP, "fed.stop.patience=2", "score.untrained=true"]);
    assert!(notes(&ran)[0].contains("after round 2 of 9"), "{:?}", notes(&ran));
}

#[test]
fn a_loss_that_falls_goes_on_unless_it_falls_too_little() {
    let space = Space::with_graph(3, 5);
    let stop = |delta: &str| {
        format!(
            "fed.stop=(on: score, metric: \"loss\", patience: 1, min_delta: {delta}, mode: Min)"
        )
    };
    let whole = space.run(&[&stop("0.0")]);
    let losses: Vec<f64> = (1..=5)
        .map(|round| {
            let events = whole.events();
            let scored = format!("score/round-00{round}");
            let found = events.iter().find(|e| e["step"] == scored && e["name"] == "loss");
            found.unwrap()["value"].as_f64().unwrap()
        })
        .collect();
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert_eq!(counts(&whole), (30, 0, 30, 0));
    let early = space.run(&[&stop("0.5")]);
    assert_eq!(counts(&early), (30, 15, 0, 15));
    assert_eq!(
        notes(&early),
        ["fed: stopped early after round 2 of 5: 1 round without a better loss"]
    );
}

#[test]
fn variants_that_share_their_rounds_stop_each_by_its_own_rule() {
    let space = Space::with_graph(3, 8);
    let stop = STOP.strip_prefix("fed.stop=").unwrap();
    let sweep = |over: &str| {
        let text = format!(
            "Graph(extends: \"graph.ron\", set: {{ \"fed.stop\": {stop}, \
             \"fed.local.optimizer\": AdamW(lr: 1e-12) }}, sweep: {{ {over} }})"
        );
        space.write("sweep.ron", &text);
        space.fedpipe(&["run", "sweep.ron", "--device", "cpu", "--json"]).fine()
    };
    // All is shared, and what the more patient one wants is run: six rounds of eight.
    let ran = sweep("\"fed.stop.patience\": [2, 5]");
    assert_eq!(counts(&ran), (45, 0, BEFORE + 6 * ROUND, 2 * ROUND));
    let mut told = notes(&ran);
    told.sort();
    assert!(
        told[0].contains("after round 3 of 8: 2") && told[1].contains("after round 6 of 8: 5"),
        "{told:?}"
    );
    // Nothing of the rounds is shared: each stops after its fourth.
    let ran = sweep("\"fed.lora.rank\": [2, 3]");
    assert_eq!(counts(&ran), (4 + 2 * 41, 4, 2 * (1 + 4 * ROUND), 2 * 4 * ROUND));
    let mut told = notes(&ran);
    told.sort();
    assert!(
        told[0].starts_with("fed.lora.rank=2/fed: ")
            && told[1].starts_with("fed.lora.rank=3/fed: "),
        "{told:?}"
    );
    assert!(told.iter().all(|note| note.contains("after round 4 of 8")), "{told:?}");
}

#[test]
fn what_a_rule_cannot_be_is_refused() {
    let space = Space::with_graph(3, 4);
    let refused = |sets: &[&str], words: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        let ran = space.fedpipe(&[&["run", "graph.ron"], &sets[..]].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        for word in words {
            assert!(ran.stderr.contains(word), "`{word}` is not in:\n{}", ran.stderr);
        }
    };
    refused(&[STOP, "fed.stop.min_delta=-0.1"], &["`min_delta` must be a number from 0"]);
    refused(&[STOP, "fed.stop.patience=0"], &["a patience of 0"]);
    refused(&[STOP, "fed.stop.on=tokens"], &["`tokens` is no evaluation of `fed`", "`score`"]);
    refused(&[STOP, "fed.stop.on=scor"], &["`scor` is no evaluation of `fed`"]);
    refused(&[STOP, "fed.stop.mode=More"], &["More", "Max"]);
    let stages = space.path("graph.ron");
    let text = std::fs::read_to_string(&stages).unwrap();
    let other = "mean: Aggregate(from: fed, clients: [fed]),\n        score:";
    space.write("graph.ron", &text.replace("score:", other));
    refused(&[STOP], &["`mean` needs what `fed` comes to", "set `rounds`"]);
    space.write("graph.ron", &text);
    assert!(space.inside(".fedpipe").is_empty());
    // Which metrics there are is known once there is a score.
    refused(&[STOP, "fed.stop.metric=\"acuracy\""], &["metric `acuracy`", "`accuracy`", "`loss`"]);
}
