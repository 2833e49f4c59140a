//! What holds for every rule.

use super::*;

fn labels(count: usize) -> Vec<i32> {
    (0..count).map(|i| i32::from(i % 3 == 0)).collect()
}

/// The rules that draw.
fn rules() -> [By; 8] {
    let dirichlet = Dirichlet::new(0.5);
    let top_up = Dirichlet { on_fail: OnFail::TopUp, ..Dirichlet::new(0.05) };
    let balanced = Dirichlet { balance: true, ..top_up.clone() };
    let niid_bench = Dirichlet { cut: Procedure::NiidBench, ..top_up.clone() };
    [
        By::Iid,
        By::Dirichlet(dirichlet),
        By::Dirichlet(top_up),
        By::Dirichlet(balanced),
        By::Dirichlet(niid_bench),
        By::Hsu(Hsu { alpha: 0.5, prior: Prior::Data }),
        By::Quantity(Quantity { beta: 2.0, min: 3, on_fail: OnFail::default() }),
        By::Pathological(Pathological { labels: 2 }),
    ]
}

#[test]
fn every_example_has_one_client() {
    let labels = labels(500);
    let of = Examples::labelled(&labels);
    for by in rules() {
        let partition = by.split(&of, 7, 3).unwrap();
        assert_eq!(partition.shards.len(), 7);
        let mut all: Vec<usize> = partition.shards.concat();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{by:?}");
        // Of 500 examples seven clients get 71 each, where all get as many.
        let left_out = if matches!(by, By::Hsu(_)) { 3 } else { 0 };
        assert_eq!((all.len(), partition.outcome.left_out), (500 - left_out, left_out), "{by:?}");
        for shard in &partition.shards {
            assert!(!shard.is_empty() && shard.is_sorted(), "{by:?}");
        }
        assert!(by.is_drawn());
        assert_eq!(by.split(&of, 7, 3).unwrap(), partition);
        assert_ne!(by.split(&of, 7, 4).unwrap(), partition);
        let alone = by.split(&of, 1, 3).unwrap().shards;
        assert_eq!(alone, [(0..500).collect::<Vec<_>>()], "{by:?}");
    }
}

#[test]
fn what_cannot_be_shared_is_a_sentence() {
    for by in rules() {
        let fault = |n, clients| {
            by.split(&Examples::labelled(&labels(n)), clients, 1).unwrap_err().to_string()
        };
        assert!(fault(5, 6).contains("6 clients cannot share 5 examples"));
        assert!(fault(0, 1).contains("1 clients cannot share 0"));
        assert!(fault(5, 0).contains("at least one client"));
    }
}

/// A cached split must not change. Of `Iid` and the first three of `Dirichlet` these were recorded with
/// the first version of the stage.
#[test]
fn splits_never_change() {
    let labels: Vec<i32> =
        (0..500).map(|i| i32::from(i % 3 == 0) + i32::from(i % 7 == 0)).collect();
    let retry = Dirichlet { on_fail: OnFail::Retry(1000), ..Dirichlet::new(0.3) };
    let [iid, _, top_up, balanced, niid_bench, hsu, quantity, pathological] = rules();
    for (by, digest, outcome) in [
        (iid, "f4a25f88dd2484cef8e166b6f7901563ea3368609a599fdaaab979628de4f434", r#""moved":0"#),
        (
            By::Dirichlet(Dirichlet::new(1.0)),
            "6fe7ce77631ed04d3374ceda5a54926395bd6d63dab9e1a513b587adf4afba4b",
            r#""moved":0"#,
        ),
        (
            By::Dirichlet(retry),
            "be6fe72a265b2d29d448de3f9a4d6742b98a049c5dcaac63caa9b32c083e39b9",
            r#""moved":0"#,
        ),
        (
            top_up,
            "2e1a5c9d37e14d9eae8638ddf4f5226e1d7578edb346cc6552e0c2eadec9564a",
            r#""moved":24"#,
        ),
        (
            balanced,
            "39f7ccba8cb68d9a841598743c89128415c3c99f49ebfea3d9b662480de97090",
            r#""moved":23"#,
        ),
        (
            niid_bench,
            "e0048eb04e9d010644869b3f5078568e4fce2c86f8bfa98ce37551e72798ed4d",
            r#""moved":25"#,
        ),
        (
            hsu,
            "5630b4803a3a3dbc984507e4229f7e518b433cb5e279186571d4887a69299152",
            r#""moved":0,"left_out":3"#,
        ),
        (
            quantity,
            "32223587e1fdf7be83f1463bcd59ff0a8c13c8b54e7cfd40c6579c9f0a2b2049",
            r#""moved":0"#,
        ),
        (
            pathological,
            "9979e4275303fe157aef2076f31e87adf29fb613900c821331f8cfe214b8a624",
            r#""moved":0"#,
        ),
    ] {
        let partition = by.split(&Examples::labelled(&labels), 7, 3).unwrap();
        let text = serde_json::to_string(&partition.shards).unwrap();
        assert_eq!(blake3::hash(text.as_bytes()).to_string(), digest, "{by:?}");
        let written = serde_json::to_string(&partition.outcome).unwrap();
        assert_eq!(written, format!("{{\"attempts\":1,{outcome}}}"));
    }
}

#[test]
fn a_rule_reads_and_writes_only_what_is_set() {
    for (text, back) in [
        (r#""Iid""#, r#""Iid""#),
        (r#"{"Dirichlet":{"alpha":0.5}}"#, r#"{"Dirichlet":{"alpha":0.5}}"#),
        (
            r#"{"Dirichlet":{"alpha":1,"min":10,"on_fail":{"Retry":10},"cut":"Flower","balance":false}}"#,
            r#"{"Dirichlet":{"alpha":1.0}}"#,
        ),
        (
            r#"{"Dirichlet":{"alpha":1.0,"min":3,"on_fail":"TopUp"}}"#,
            r#"{"Dirichlet":{"alpha":1.0,"min":3,"on_fail":"TopUp"}}"#,
        ),
        (
            r#"{"Dirichlet":{"alpha":[1,2.5],"cut":"NiidBench"}}"#,
            r#"{"Dirichlet":{"alpha":[1.0,2.5],"cut":"NiidBench"}}"#,
        ),
        (r#"{"Hsu":{"alpha":0.1,"prior":"Uniform"}}"#, r#"{"Hsu":{"alpha":0.1}}"#),
        (r#"{"Hsu":{"alpha":0.1,"prior":"Data"}}"#, r#"{"Hsu":{"alpha":0.1,"prior":"Data"}}"#),
        (r#"{"Quantity":{"beta":0.5,"min":10}}"#, r#"{"Quantity":{"beta":0.5}}"#),
        (r#"{"Pathological":{}}"#, r#"{"Pathological":{"labels":2}}"#),
        (r#"{"Natural":{"column":"user"}}"#, r#"{"Natural":{"column":"user"}}"#),
        (r#"{"Explicit":{"file":"split.json"}}"#, r#"{"Explicit":{}}"#),
    ] {
        let by: By = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&by).unwrap(), back);
    }
    for text in [
        r#"{"Dirichlet":{"alpa":0.5}}"#,
        r#"{"Hsu":{}}"#,
        r#"{"Quantity":{"alpha":0.5}}"#,
        r#"{"Pathological":{"label":2}}"#,
        r#"{"Natural":{}}"#,
        r#"{"Explicit":{"file":"a","content":"00"}}"#,
    ] {
        assert!(serde_json::from_str::<By>(text).is_err(), "{text}");
    }
}
