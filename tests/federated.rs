//! Federations by every rule, from the graph file to what comes out: what is shared, what is sent, what is refused.

#![expect(clippy::float_cmp, reason = "bytes and clients are counted")]
#![expect(clippy::print_stdout, reason = "`--nocapture` shows the bytes and the sentences")]

use std::collections::BTreeMap;

use serde_json::Value;
use stages::{
    codec::Codec,
    ledger::{Broadcast, Exchange, Shapes},
    model::{Config, LoraConfig, Targets},
    parts::Parts,
};

use crate::harness::{Ran, Space, project};

/// Every rule that trains with `AdamW`, as a graph writes it.
pub(crate) const RULES: [&str; 21] = [
    "FedAvg",
    "FedAvgM(lr: 1.0, momentum: 0.5)",
    "FedAdam(lr: 0.01)",
    "FedYogi(lr: 0.01)",
    "FedAdagrad(lr: 0.01)",
    "QFedAvg(q: 0.5, lr: 0.5)",
    "Median",
    "TrimmedMean(cut: 0.2)",
    "Krum(byzantine: 1)",
    "MultiKrum(byzantine: 1, keep: 3)",
    "Bulyan(byzantine: 0)",
    "FFALoRA",
    "RoLoRA",
    "FedSALoRA",
    "FLoRA",
    "FlexLoRA",
    "HetLoRA()",
    "FedExLoRA",
    "LoRAFairLS()",
    "FedSB",
    "Local",
];

fn run(space: &Space, graph: &str, sets: &[&str]) -> Ran {
    let mut args = vec!["run", graph, "--device", "cpu", "--json"];
    for set in sets {
        args.extend(["--set", set]);
    }
    space.fedpipe(&args).fine()
}

/// The metric `name` of `step`.
#[track_caller]
fn metric(ran: &Ran, step: &str, name: &str) -> f64 {
    maybe(ran, step, name).unwrap_or_else(|| panic!("{step} has no {name}"))
}

fn maybe(ran: &Ran, step: &str, name: &str) -> Option<f64> {
    let events = ran.events();
    let is_meant = |event: &&Value| {
        event["event"] == "metric"
            && event["step"] == step
            && event["name"] == name
            && event["client"].is_null()
    };
    events.iter().find(is_meant)?["value"].as_f64()
}

/// How many steps of a stage ran.
fn ran_of(ran: &Ran, stage: &str) -> usize {
    let is_meant = |event: &&Value| event["event"] == "finished" && event["stage"] == stage;
    ran.events().iter().filter(is_meant).count()
}

#[test]
fn the_first_round_is_trained_once_for_all_rules_that_start_alike() {
    let space = Space::with_graph(5, 2);
    let text = format!(
        r#"Graph(extends: "graph.ron", sweep: {{ "fed.aggregate": [{}] }})"#,
        RULES.join(", ")
    );
    space.write("rules.ron", &text);
    let ran = run(&space, "rules.ron", &[]);
    // Five clients for the rules that train both factors, five for FFA-LoRA and RoLoRA, five for Fed-SB; and in the
    // second round five for each rule.
    assert_eq!(ran_of(&ran, "train"), 3 * 5 + RULES.len() * 5);
    assert_eq!(ran_of(&ran, "aggregate"), RULES.len() * 2);
    let again = run(&space, "rules.ron", &[]);
    let (steps, reused, anew) = again.counts();
    assert_eq!((steps - reused, anew), (0, 0));
    for rule in RULES {
        let set = format!("fed.aggregate={rule}");
        let one = run(&space, "graph.ron", &[&set]);
        assert_eq!(one.counts().2, 0, "{rule} alone is one of the sweep");
    }
}

/// A round's bytes by the formulas, for five of five clients of the harness's graph.
fn foreseen(rule: &str, round: u32) -> (f64, f64) {
    let config = std::fs::read(project().join("tests/data/llama-tiny-mha/config.json")).unwrap();
    let config = Config::parse(&config).unwrap();
    let lora = LoraConfig {
        targets: Some(Targets::names(&["q_proj", "v_proj"])),
        alpha: 8.0,
        ..LoraConfig::of_rank(4)
    };
    let mut shapes = Shapes::new(&config, &lora, 2).unwrap();
    let whole = Exchange::WHOLE;
    let head = |factors: Parts| Exchange {
        up: factors | Parts::HEAD,
        down: factors | Parts::HEAD,
        ..whole
    };
    let name = rule.split('(').next().unwrap();
    let exchange = match name {
        "FFALoRA" => head(Parts::B),
        "RoLoRA" => head(if round % 2 == 1 { Parts::B } else { Parts::A }),
        "FedSALoRA" => head(Parts::A),
        "FLoRA" => Exchange { down: Parts::HEAD, broadcast: Broadcast::Stack, ..whole },
        "FedExLoRA" => Exchange { broadcast: Broadcast::Residual, ..whole },
        "FedSB" => {
            shapes = shapes.with_cores();
            head(Parts::CORE)
        }
        "Scaffold" => Exchange { copies: 2, ..whole },
        "Local" => return (0.0, 0.0),
        _ => whole,
    };
    let traffic = exchange.traffic(&vec![shapes; 5], 5, [Codec::F32; 2]);
    (traffic.up as f64, traffic.down as f64)
}

#[test]
fn what_is_sent_is_what_the_formulas_say() {
    let space = Space::with_graph(5, 3);
    let mut table = BTreeMap::new();
    for rule in RULES {
        let ran = run(&space, "graph.ron", &[&format!("fed.aggregate={rule}")]);
        // The first round sends what later ones need no more (FFA-LoRA's A, the half that RoLoRA does not train).
        for round in 2..=3 {
            let step = format!("fed/round-{round:03}");
            let sent = (metric(&ran, &step, "bytes_up"), metric(&ran, &step, "bytes_down"));
            let mut wanted = foreseen(rule, round);
            if rule == "RoLoRA" {
                // The clients of a round lack the half that was averaged in the one before.
                wanted.1 = foreseen(rule, round - 1).1;
            }
            table.insert((rule, round), (sent, wanted));
        }
    }
    for ((rule, round), (sent, wanted)) in &table {
        println!("{rule:32} round {round}: up {:>8} down {:>8}", sent.0, sent.1);
        assert_eq!(sent, wanted, "{rule} in round {round}");
    }
}

#[test]
fn exact_rules_lose_nothing_in_any_round() {
    let space = Space::with_graph(4, 3);
    for rule in ["FFALoRA", "RoLoRA", "FLoRA", "FedExLoRA", "FedSB"] {
        let ran = run(&space, "graph.ron", &[&format!("fed.aggregate={rule}")]);
        for round in 1..=3 {
            let error = metric(&ran, &format!("fed/round-00{round}"), "e_agg");
            assert!(error <= 1e-6, "{rule} in round {round}: {error}");
        }
    }
    let ran = run(&space, "graph.ron", &[]);
    assert!(metric(&ran, "fed/round-002", "e_agg") > 1e-3, "and FedAvg does");
}

#[test]
fn a_federation_of_one_client_is_central_training() {
    let space = Space::with_graph(1, 1);
    let text = std::fs::read_to_string(space.path("graph.ron")).unwrap();
    let central = r#"central: Train(base: base, on: tokens, lora: (rank: 4, alpha: 8, targets: ["q_proj", "v_proj"]),
            local: (epochs: 1, batch: 4, optimizer: AdamW(lr: 1e-3)), rounds: 1),
        score:"#;
    space.write("graph.ron", &text.replace("score:", central));
    let ran = run(&space, "graph.ron", &[]);
    // The one client's shard is the whole set and its seed that of the central training: the very same step.
    assert_eq!(ran_of(&ran, "train"), 1);
    for (step, folder) in [("fed/round-001", "fed"), ("central/round-001", "central")] {
        space.fedpipe(&["export", "last", folder, "--step", step]).fine();
    }
    let bytes = |folder: &str| std::fs::read(space.path(folder).join("adapter_model.safetensors"));
    assert_eq!(bytes("fed").unwrap(), bytes("central").unwrap());
}

/// The exported tensors of the last round.
fn tensors(space: &Space, folder: &str) -> Vec<u8> {
    space.fedpipe(&["export", "last", folder]).fine();
    std::fs::read(space.path(folder).join("adapter_model.safetensors")).unwrap()
}

#[test]
fn privacy_without_noise_and_bound_changes_no_byte() {
    for rule in ["FedAvg", "FFALoRA", "FedAdam(lr: 0.01)"] {
        let space = Space::with_graph(4, 2);
        let rule = format!("fed.aggregate={rule}");
        let uniform = "fed.weights=Uniform";
        run(&space, "graph.ron", &[&rule, uniform]);
        let plain = tensors(&space, "plain");
        let open = "fed.privacy=(clip: inf, noise: 0.0)";
        let ran = run(&space, "graph.ron", &[&rule, uniform, open]);
        assert!(ran.counts().2 > 0, "the key says that there is privacy");
        assert_eq!(tensors(&space, "open"), plain);
        let noise = "fed.privacy=(clip: 0.1, noise: 1.0)";
        let ran = run(&space, "graph.ron", &[&rule, uniform, noise]);
        assert_ne!(tensors(&space, "noised"), plain);
        let epsilon = |round| metric(&ran, &format!("fed/round-00{round}"), "epsilon");
        assert!(epsilon(1) > 0.0 && epsilon(2) > epsilon(1));
    }
}

#[test]
fn the_loss_of_the_received_adapter_weighs_the_clients_of_q_fedavg() {
    let space = Space::with_graph(3, 1);
    let ran = run(&space, "graph.ron", &["fed.aggregate=QFedAvg(q: 0.0, lr: 1.0)"]);
    assert_eq!(ran_of(&ran, "shard loss"), 3);
    let q = tensors(&space, "q");
    run(&space, "graph.ron", &["fed.weights=Uniform"]);
    let read = |bytes: &[u8]| stages::peft::AdapterTensors::from_safetensors(bytes).unwrap();
    let (q, mean) = (read(&q).flatten(), read(&tensors(&space, "mean")).flatten());
    // With q = 0 it is the plain mean.
    assert!(q.iter().zip(&mean).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3)));
}

#[test]
fn scaffold_carries_its_control_variates_on() {
    let space = Space::with_graph(3, 3);
    let sgd = "fed.local.optimizer=Sgd(lr: 0.1)";
    let uniform = "fed.weights=Uniform";
    let first = |space: &Space, sets: &[&str], folder: &str| {
        run(space, "graph.ron", sets);
        space.fedpipe(&["export", "last", folder, "--step", "fed/round-001"]).fine();
        let first = std::fs::read(space.path(folder).join("adapter_model.safetensors")).unwrap();
        (first, tensors(space, &format!("{folder}-last")))
    };
    let (plain_first, plain_last) = first(&space, &[sgd, uniform], "plain");
    let (first, last) = first(&space, &[sgd, "fed.aggregate=Scaffold()"], "scaffold");
    assert_eq!(first, plain_first, "without control variates yet it is FedAvg");
    assert_ne!(last, plain_last);
    let ran = run(&space, "graph.ron", &[sgd, "fed.aggregate=Scaffold()"]);
    let bytes =
        |set: &str| metric(&run(&space, "graph.ron", &[sgd, set]), "fed/round-002", "bytes_up");
    assert_eq!(metric(&ran, "fed/round-002", "bytes_up"), 2.0 * bytes(uniform));
}

#[test]
fn a_classifier_of_its_own_is_corrected_by_nobody() {
    // With one client there is no drift, and SCAFFOLD is plain SGD.
    let space = Space::with_graph(1, 3);
    let sets = ["fed.local.optimizer=Sgd(lr: 0.1)", "fed.head=Local"];
    let losses = |rule: &str| {
        let ran = run(&space, "graph.ron", &[sets[0], sets[1], &format!("fed.aggregate={rule}")]);
        [1, 2, 3].map(|round| metric(&ran, &format!("fed/round-00{round}"), "train_loss"))
    };
    let (plain, scaffold) = (losses("FedAvg"), losses("Scaffold()"));
    assert!(
        plain.iter().zip(scaffold).all(|(a, b)| (a - b).abs() < 1e-4 * a),
        "{plain:?} {scaffold:?}"
    );
}

#[test]
fn a_server_optimiser_moves_whatever_is_sent() {
    let space = Space::with_graph(3, 2);
    for rule in
        ["FedAvg", "Median", "FFALoRA", "RoLoRA", "FedSALoRA", "HetLoRA()", "LoRAFairLS()", "FedSB"]
    {
        let export = |set: &str, folder: &str| {
            run(&space, "graph.ron", &[&format!("fed.aggregate={rule}"), set]);
            tensors(&space, &format!("{rule} {folder}"))
        };
        let (plain, moved) = (
            export("fed.weights=Uniform", "plain"),
            export("fed.server=FedAvgM(lr: 1.0, momentum: 0.5)", "moved"),
        );
        assert_ne!(plain, moved, "{rule}");
    }
}

#[test]
fn who_is_lost_is_sent_an_adapter_of_its_own_rank() {
    let space = Space::with_graph(6, 1);
    let clients = "fed.clients=(dropout: 0.5, tiers: [(share: 1.0, rank: 1)])";
    let ran = run(&space, "graph.ron", &["fed.aggregate=FlexLoRA", clients]);
    let present = metric(&ran, "fed/round-001", "clients");
    let up = metric(&ran, "fed/round-001", "bytes_up") / present;
    assert!(present < 6.0);
    assert_eq!(metric(&ran, "fed/round-001", "bytes_down"), 6.0 * up);
}

#[test]
fn a_robust_rule_waits_out_a_round_with_too_few() {
    let space = Space::with_graph(4, 1);
    let clients =
        "fed.clients=(deadline: 5.0, speed: 100.0, each: {1: (speed: 1.0), 2: (speed: 1.0)})";
    let ran = run(&space, "graph.ron", &["fed.aggregate=Krum(byzantine: 0)", clients]);
    assert!(ran.events().iter().any(|event| {
        event["event"] == "note" && event["text"].as_str().unwrap().contains("only 2 came back")
    }));
}

#[test]
fn what_does_not_go_together_is_refused_with_its_sentence() {
    let space = Space::with_graph(5, 2);
    let refused = |sets: &[&str], sentence: &str| {
        let mut args = vec!["run", "graph.ron"];
        for set in sets {
            args.extend(["--set", set]);
        }
        let ran = space.fedpipe(&args);
        assert_eq!(ran.code, 2, "{sets:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{sentence}\nis not in:\n{}", ran.stderr);
        assert!(space.inside(".fedpipe").is_empty());
        println!("{}", ran.stderr);
    };
    for rule in ["FLoRA", "FlexLoRA", "FedExLoRA"] {
        let rule = format!("fed.aggregate={rule}");
        let momentum = "fed.server=FedAvgM(momentum: 0.9)";
        refused(
            &[&rule, momentum],
            "makes new factors in every round, so momentum over the old ones",
        );
    }
    refused(&["fed.server=Median"], "`Median` is no server optimiser");
    refused(
        &["fed.aggregate=FedAdam()", "fed.server=FedAvgM()"],
        "there are two server optimisers",
    );
    refused(
        &["fed.aggregate=HetLoRA()", "fed.clients=(tiers: [(share: 0.4, rank: 2, alpha: 8)])"],
        "alpha / rank must be the same for all",
    );
    refused(
        &["fed.clients=(tiers: [(share: 0.4, rank: 2)])"],
        "`FedAvg` cannot mix adapters of different ranks or scales",
    );
    refused(
        &["fed.aggregate=FLoRA", "fed.clients=(each: {1: (rank: 8)})"],
        "more than the 4 of the global adapter",
    );
    for (rule, least) in [("Krum(byzantine: 2)", 7), ("Bulyan(byzantine: 1)", 7)] {
        let name = rule.split('(').next().unwrap();
        let sentence =
            format!("`{name}` needs at least {least} clients in a round, and round 1 has 5");
        refused(&[&format!("fed.aggregate={rule}")], &sentence);
    }
    refused(
        &["fed.aggregate=Krum(byzantine: 1)", "fed.clients=(per_round: 4)"],
        "needs at least 5 clients in a round, and round 1 has 4",
    );
    let noise = "fed.privacy=(clip: 1.0, noise: 1.1)";
    refused(&[noise], "a mean weighted by examples has no bound on what one client can change");
    refused(&[noise, "fed.aggregate=Median"], "`Median` is none");
    refused(
        &["fed.weights=Uniform", "fed.privacy=(noise: 1.1)"],
        "noise without a bound hides nothing",
    );
    refused(
        &[noise, "fed.weights=Uniform", "fed.aggregate=QFedAvg()"],
        "sends more than an update",
    );
    refused(&["fed.aggregate=Scaffold()"], "AdamW would scale them away");
    refused(
        &["fed.aggregate=Scaffold()", "fed.local=(optimizer: Sgd(lr: 0.1), clip: 1.0)"],
        "a clipped one is another",
    );
    refused(
        &[
            "fed.aggregate=Scaffold()",
            "fed.local.optimizer=Sgd(lr: 0.1)",
            "fed.clients=(deadline: 5.0, speed: 1.0)",
        ],
        "no longer be their mean",
    );
    refused(
        &[
            "fed.aggregate=HetLoRA(prune: ())",
            "fed.weights=Uniform",
            "fed.privacy=(clip: 1.0, noise: 1.0, at: Local)",
        ],
        "a rank that was pruned",
    );
    refused(&["fed.aggregate=FedSB", "fed.lora.rank=64"], "more than the smaller side");
    refused(&["fed.local.batch=4000000000000000000"], "at most 1048576");
    refused(&["fed.aggregate=TrimmedMean(cut: 0.5)"], "cut");
    refused(&["fed.codec=TopK(share: 0.0)"], "above 0 and at most 1");
    refused(&["fed.clients=(fraction: 0.5, poisson: 0.5)"], "give one of");
    refused(&["fed.clients=(deadline: 5.0)"], "there is no virtual clock without");
    refused(&["fed.clients=(tiers: [(share: 0.7), (share: 0.7)])"], "come to more than 1");
    refused(&["fed.clients=(each: {9: (batch: 2)})"], "there is no client 9");
}

#[test]
fn clients_of_different_kinds_share_one_adapter() {
    let space = Space::with_graph(6, 2);
    let clients = "fed.clients=(tiers: [(share: 0.34, rank: 2), (share: 0.34, rank: 1, batch: 2)])";
    for rule in [
        "FLoRA",
        "FlexLoRA",
        "HetLoRA()",
        "HetLoRA(weights: Owners)",
        "HetLoRA(weights: Examples)",
        "Local",
    ] {
        let ran = run(&space, "graph.ron", &[clients, &format!("fed.aggregate={rule}")]);
        let error = maybe(&ran, "fed/round-002", "e_agg");
        match rule {
            "FLoRA" => assert!(error.unwrap() <= 1e-6, "{error:?}"),
            "Local" => assert_eq!(error, None),
            // Cutting down to the largest rank, or padding with zeros, loses something.
            _ => assert!(error.unwrap() > 1e-6, "{rule}: {error:?}"),
        }
    }
}

#[test]
fn who_does_not_come_back_is_left_out_and_counted() {
    let space = Space::with_graph(6, 3);
    let ran = run(&space, "graph.ron", &["fed.clients=(dropout: 0.5)"]);
    let rounds = ["fed/round-001", "fed/round-002", "fed/round-003"];
    let present: Vec<f64> = rounds.map(|step| metric(&ran, step, "clients")).to_vec();
    assert!(present.iter().sum::<f64>() < 18.0);
    assert_eq!(ran_of(&ran, "train") as f64, present.iter().sum::<f64>());
    let (whole, lossy) = (rounds[1], metric(&ran, rounds[1], "bytes_up"));
    // All six were sent the adapter, but only some sent theirs.
    let all = run(&space, "graph.ron", &[]);
    assert_eq!(metric(&ran, whole, "bytes_down"), metric(&all, whole, "bytes_down"));
    assert_eq!(lossy, metric(&all, whole, "bytes_up") / 6.0 * present[1]);
    // A round without anybody leaves the adapter as it is.
    let ran = run(&space, "graph.ron", &["fed.clients=(poisson: 0.1)", "fed.rounds=6"]);
    assert!(ran.events().iter().any(|event| {
        event["event"] == "note" && event["text"].as_str().unwrap().contains("no client came back")
    }));
}

#[test]
fn a_virtual_clock_counts_seconds_and_keeps_a_deadline() {
    let space = Space::with_graph(4, 2);
    let clock = "fed.clients=(speed: 100.0, uplink: 1e4, downlink: 1e5, each: {1: (speed: 1.0)})";
    let ran = run(&space, "graph.ron", &[clock]);
    let seconds =
        |ran: &Ran, round| metric(ran, &format!("fed/round-00{round}"), "simulated_seconds");
    assert!(seconds(&ran, 1) > 10.0 && seconds(&ran, 2) > 10.0);
    let late = clock.replace("(speed: 100.0,", "(deadline: 5.0, speed: 100.0,");
    let ran = run(&space, "graph.ron", &[&late]);
    assert_eq!((seconds(&ran, 1), seconds(&ran, 2)), (5.0, 5.0));
    assert_eq!(metric(&ran, "fed/round-001", "clients"), 3.0);
    // The clock is in no key of local training.
    assert_eq!(ran_of(&ran, "train"), 4, "only the second round was trained anew");
    let slower = run(&space, "graph.ron", &[&clock.replace("speed: 100.0", "speed: 50.0")]);
    assert!(seconds(&slower, 1) > 10.0);
    assert_eq!((ran_of(&slower, "train"), ran_of(&slower, "evaluate")), (0, 0), "same adapters");
    // What every client is sent into its base takes time, too.
    let slow = "fed.clients=(downlink: 1000.0)";
    let stacked = run(&space, "graph.ron", &[slow, "fed.aggregate=FLoRA"]);
    let plain = run(&space, "graph.ron", &[slow]);
    assert!(seconds(&stacked, 2) > 3.0 * seconds(&plain, 2));
}

#[test]
fn a_codec_is_what_the_server_aggregates() {
    let space = Space::with_graph(3, 1);
    let plain = run(&space, "graph.ron", &[]);
    let values = metric(&plain, "fed/round-001", "bytes_up") / 4.0 / 3.0;
    let f32 = tensors(&space, "f32");
    for (codec, bytes) in [
        ("BF16", 2.0 * values),
        ("Int8(block: 64)", values + 4.0 * (values / 64.0).ceil()),
        ("TopK(share: 0.1)", 8.0 * (values * 0.1).ceil() + 4.0),
    ] {
        let ran = run(&space, "graph.ron", &[&format!("fed.codec={codec}")]);
        assert_eq!(metric(&ran, "fed/round-001", "bytes_up"), 3.0 * bytes, "{codec}");
        assert_eq!(ran_of(&ran, "train"), 0, "training does not know how its result is sent");
        assert_ne!(tensors(&space, &codec.replace(['(', ')', ':', ' '], "")), f32, "{codec}");
    }
}

#[test]
fn clients_are_scored_by_their_own_labels() {
    let space = Space::with_graph(4, 1);
    let skewed = "shards.by=Dirichlet(alpha: 0.3, min: 1, on_fail: TopUp)";
    for rule in ["FedAvg", "FedSALoRA", "Local"] {
        let ran = run(&space, "graph.ron", &[skewed, &format!("fed.aggregate={rule}")]);
        let score = "score/round-001";
        let of = |name: &str| metric(&ran, score, name);
        assert!(of("worst_client_accuracy") <= of("bottom_decile_accuracy"));
        assert!(of("bottom_decile_accuracy") <= of("client_accuracy"));
        assert!(of("client_accuracy_variance") >= 0.0);
        let events = ran.events();
        let own = events.iter().filter(|event| {
            event["event"] == "metric" && event["step"] == score && event["client"].is_u64()
        });
        assert_eq!(own.count(), 4, "{rule}");
    }
}
