//! How rules are written, and which numbers they take.

use super::super::*;
use crate::parts::Parts;

/// Every rule with its default settings.
pub(super) fn all() -> Vec<Rule> {
    vec![
        Rule::FedAvg,
        Rule::FedAvgM(FedAvgM::default()),
        Rule::FedAdam(FedAdam::default()),
        Rule::FedYogi(FedYogi::default()),
        Rule::FedAdagrad(FedAdagrad::default()),
        Rule::Median,
        Rule::TrimmedMean(TrimmedMean::default()),
        Rule::Krum(Krum::default()),
        Rule::MultiKrum(MultiKrum::default()),
        Rule::Bulyan(Bulyan::default()),
        Rule::QFedAvg(QFedAvg::default()),
        Rule::FFALoRA,
        Rule::RoLoRA,
        Rule::FedSALoRA,
        Rule::FLoRA,
        Rule::FlexLoRA,
        Rule::HetLoRA(HetLoRA::default()),
        Rule::FedExLoRA,
        Rule::LoRAFairLS(LoRAFairLS::default()),
        Rule::FedSB,
        Rule::Scaffold(Scaffold::default()),
        Rule::Local,
    ]
}

/// The names of those that `has` holds for.
fn those(has: impl Fn(&Rule) -> bool) -> Vec<&'static str> {
    all().iter().filter(|rule| has(rule)).map(Rule::name).collect()
}

#[test]
fn rules_are_written_as_the_graph_has_them() {
    for rule in all() {
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule);
        assert!(text.contains(&format!("\"{}\"", rule.name())), "{text}");
        if let Some(tagged) = text.strip_prefix('{') {
            let name = tagged.split('"').nth(1).unwrap();
            let empty = format!("{{\"{name}\":{{}}}}");
            assert_eq!(serde_json::from_str::<Rule>(&empty).unwrap(), rule, "{empty}");
            let unknown = format!("{{\"{name}\":{{\"no_such_field\":1}}}}");
            assert!(serde_json::from_str::<Rule>(&unknown).is_err(), "{unknown}");
        }
        assert_eq!(rule.check(), Ok(()));
    }
    let read = |text: &str| serde_json::from_str::<Rule>(text).unwrap();
    assert_eq!(read(r#""FedAvg""#), Rule::default());
    let adam = FedAdam { lr: 0.5, convention: Convention::Flower, ..FedAdam::default() };
    assert_eq!(read(r#"{"FedAdam":{"lr":0.5,"convention":"Flower"}}"#), Rule::FedAdam(adam));
    let prune = Some(Prune { gamma: 0.9, lambda: 1e-3 });
    let het = HetLoRA { weights: Weights::Owners, prune };
    assert_eq!(
        read(r#"{"HetLoRA":{"weights":"Owners","prune":{"gamma":0.9}}}"#),
        Rule::HetLoRA(het)
    );
    assert_eq!(FedYogi::default().lr.to_bits(), 0.01_f64.to_bits());
    assert_eq!(FedAvgM::default().momentum.to_bits(), 0.9_f64.to_bits());
}

#[test]
fn numbers_outside_their_ranges_are_refused_by_name() {
    let fields = |rules: Vec<Rule>| {
        let faults = rules.iter().map(|rule| rule.check().unwrap_err());
        faults.map(|fault| fault.field).collect::<Vec<_>>()
    };
    let adam = FedAdam::default;
    let adams = [
        FedAdam { lr: 0.0, ..adam() },
        FedAdam { beta1: 1.0, ..adam() },
        FedAdam { beta2: -0.1, ..adam() },
        FedAdam { tau: f64::NAN, ..adam() },
    ];
    let wanted = ["lr", "beta1", "beta2", "tau"];
    assert_eq!(fields(adams.into_iter().map(Rule::FedAdam).collect()), wanted);
    let yogi = |tau| Rule::FedYogi(FedYogi { tau, ..FedYogi::default() });
    let adagrad = |lr| Rule::FedAdagrad(FedAdagrad { lr, ..FedAdagrad::default() });
    let prune = |gamma, lambda| {
        Rule::HetLoRA(HetLoRA { prune: Some(Prune { gamma, lambda }), ..HetLoRA::default() })
    };
    let others = vec![
        Rule::FedAvgM(FedAvgM { momentum: 1.0, ..FedAvgM::default() }),
        yogi(0.0),
        adagrad(f64::INFINITY),
        Rule::TrimmedMean(TrimmedMean { cut: 0.5 }),
        Rule::MultiKrum(MultiKrum { keep: Some(0), ..MultiKrum::default() }),
        Rule::QFedAvg(QFedAvg { q: -1.0, lr: 0.1 }),
        Rule::QFedAvg(QFedAvg { q: 1.0, lr: 0.0 }),
        prune(1.0, 0.1),
        prune(0.9, -0.1),
        Rule::LoRAFairLS(LoRAFairLS { lambda: 0.0 }),
        Rule::Scaffold(Scaffold { lr: -1.0 }),
    ];
    let wanted = [
        "momentum",
        "tau",
        "lr",
        "cut",
        "keep",
        "q",
        "lr",
        "prune.gamma",
        "prune.lambda",
        "lambda",
        "lr",
    ];
    assert_eq!(fields(others), wanted);
    let fault = Rule::TrimmedMean(TrimmedMean { cut: 0.5 }).check().unwrap_err().to_string();
    assert_eq!(fault, "`cut` is 0.5; it is at least 0 and below 0.5");
}

#[test]
fn rules_say_what_they_are() {
    assert_eq!(those(Rule::is_exact), ["FFALoRA", "RoLoRA", "FLoRA", "FedExLoRA", "FedSB"]);
    assert_eq!(those(Rule::takes_ranks), ["FLoRA", "FlexLoRA", "HetLoRA", "Local"]);
    let means = ["FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"];
    let means = [means.as_slice(), &["FFALoRA", "RoLoRA", "FedSALoRA", "FedSB"]].concat();
    assert_eq!(those(Rule::is_mean), means);
    let unweighted = ["Median", "TrimmedMean", "Krum", "MultiKrum", "Bulyan", "QFedAvg"];
    let unweighted = [unweighted.as_slice(), &["Scaffold", "Local"]].concat();
    assert_eq!(those(|rule| !rule.weighs()), unweighted);
    assert_eq!(those(|rule| rule.copies() == 2), ["Scaffold"]);
    assert_eq!(those(|rule| rule.broadcast() == Broadcast::Stack), ["FLoRA"]);
    assert_eq!(those(|rule| rule.broadcast() == Broadcast::Residual), ["FedExLoRA"]);
    assert_eq!(those(|rule| rule.personal() == Parts::B), ["FedSALoRA"]);
    assert_eq!(those(|rule| rule.personal() == Parts::ALL), ["Local"]);
    assert_eq!(those(|rule| rule.least_clients() > 1), ["Krum", "MultiKrum", "Bulyan"]);
    let multi = |keep| MultiKrum { byzantine: 2, keep, ..MultiKrum::default() };
    assert_eq!(Rule::MultiKrum(multi(None)).least_clients(), 7);
    assert_eq!(Rule::MultiKrum(multi(Some(9))).least_clients(), 11, "9 are at most n - 2");
    assert_eq!(Rule::Bulyan(Bulyan { byzantine: 2, ..Bulyan::default() }).least_clients(), 11);
    let trains = |rule: Rule| [1, 2, 3].map(|round| rule.trains(round).to_string());
    assert_eq!(trains(Rule::RoLoRA), ["B+head", "A+head", "B+head"]);
    assert_eq!(trains(Rule::FFALoRA), ["B+head"; 3]);
    assert_eq!(trains(Rule::FedSB), ["R+head"; 3]);
    assert_eq!(trains(Rule::FedSALoRA), ["A+B+head"; 3]);
    assert_eq!(those(|rule| !rule.trains(2).has(Parts::HEAD)), Vec::<&str>::new());
}
