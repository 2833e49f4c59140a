//! Frozen weights in fewer bits, from the graph file to the scores: what is run anew, and what is refused.

use crate::{
    errors::refused,
    harness::{Ran, Space},
};

/// The last loss on the validation split.
fn loss(ran: &Ran) -> f64 {
    let events = ran.events();
    let of_score = |event: &&serde_json::Value| {
        event["event"] == "metric" && event["name"] == "loss" && event["step"] == "score/round-002"
    };
    events.iter().rfind(of_score).unwrap()["value"].as_f64().unwrap()
}

const BF16: &str = "fed.local.precision=Bf16";

#[test]
fn a_federation_in_bf16_is_another_one_and_ends_near() {
    let space = Space::with_graph(3, 2);
    let plain = space.run(&[]);
    let (steps, _, _) = plain.counts();
    let low = space.run(&[BF16]);
    // The base, the data, the tokens, the shards and the first adapter; all that is trained is trained anew.
    assert_eq!(low.counts(), (steps, 5, steps - 5));
    let (wanted, found) = (loss(&plain), loss(&low));
    let apart = (wanted - found).abs() / wanted;
    assert!(apart > 0.0 && apart < 1e-2, "{wanted} and {found}");

    // Scores in bf16, too: two of them are made anew, and no client is trained for it.
    let scored = space.run(&[BF16, "score.precision=Bf16"]);
    assert_eq!(scored.counts(), (steps, steps - 2, 2));
    let apart = (loss(&scored) - found).abs() / found;
    assert!(apart > 0.0 && apart < 1e-2, "{found} and {}", loss(&scored));

    // What f32 made has kept its keys, said or unsaid.
    let again = space.run(&["fed.local.precision=F32", "score.precision=F32"]);
    assert_eq!(again.counts(), (steps, steps, 0));
}

#[test]
fn two_runs_in_bf16_have_the_same_bytes() {
    let spaces = [Space::with_graph(3, 1), Space::with_graph(3, 1)];
    for (space, jobs) in spaces.iter().zip(["1", "2"]) {
        let args = ["run", "graph.ron", "--device", "cpu", "-j", jobs, "--set", BF16];
        space.fedpipe(&args).fine();
    }
    assert_eq!(spaces[0].records(), spaces[1].records());
}

#[test]
fn what_the_rule_adds_to_the_base_is_added_before_it_is_rounded() {
    let space = Space::with_graph(3, 2);
    let plain = space.run(&["fed.aggregate=FLoRA"]);
    let low = space.run(&["fed.aggregate=FLoRA", BF16, "score.precision=Bf16"]);
    let apart = (loss(&plain) - loss(&low)).abs() / loss(&plain);
    assert!(apart > 0.0 && apart < 1e-2, "{} and {}", loss(&plain), loss(&low));
}

#[test]
fn f16_on_the_cpu_is_refused_before_work_starts() {
    let space = Space::with_graph(3, 2);
    let words = ["`precision: F16` is for GPUs, and this run trains on the CPU", "`Bf16` or `F32`"];
    refused(&space, &["fed.local.precision=F16"], &words);
    refused(&space, &["score.precision=F16"], &words);
    refused(&space, &["fed.local.precision=Bf61"], &["`Bf61`", "did you mean `Bf16`?"]);
}
