//! The rules for flat vectors by hand, and what is refused.

use super::super::{AggregateError, Bulyan, Krum, MultiKrum, QFedAvg, Round, Rule, Update};
use crate::model::LoraConfig;
use crate::peft::AdapterTensors;

fn adapter(values: &[f32]) -> AdapterTensors {
    AdapterTensors::new([("a".to_owned(), [1, values.len()], values.to_vec())])
}

/// What comes of clients with these weights, where all began with the first one's adapter.
fn outcome(
    rule: Rule,
    clients: &[(f64, &AdapterTensors)],
) -> Result<super::super::Outcome, AggregateError> {
    let lora = LoraConfig::of_rank(1);
    let update = |&(weight, adapter): &(f64, _)| Update {
        weight,
        adapter,
        lora: &lora,
        loss: Some(1.0),
        control: None,
    };
    let updates: Vec<Update<'_>> = clients.iter().map(update).collect();
    let none = adapter(&[4.0, 2.0]);
    rule.aggregate(&Round {
        number: 1,
        population: 10,
        from: clients.first().map_or(&none, |first| first.1),
        lora: &lora,
        state: None,
        clients: &updates,
        seed: 0,
    })
}

fn values(rule: Rule, clients: &[(f64, &AdapterTensors)]) -> Result<Vec<f32>, AggregateError> {
    outcome(rule, clients).map(|outcome| outcome.adapter.flatten())
}

#[test]
fn fedavg_weighs_by_examples() {
    let (a, b) = (adapter(&[1.0, 10.0]), adapter(&[5.0, -10.0]));
    let mean = values(Rule::FedAvg, &[(1.0, &a), (3.0, &b)]).unwrap();
    assert_eq!(mean, [4.0, -5.0]);
    assert_eq!(values(Rule::FedAvg, &[(10.0, &a), (30.0, &b)]).unwrap(), mean);
    assert_eq!(values(Rule::FedAvg, &[(0.0, &a), (3.0, &b)]).unwrap(), [5.0, -10.0]);
    let odd = adapter(&[0.1, -0.0]);
    let back = values(Rule::FedAvg, &[(7.0, &odd)]).unwrap();
    assert_eq!(
        back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        [0.1_f32.to_bits(), (-0.0_f32).to_bits()]
    );
    let alike = values(Rule::FedAvg, &[(1.0, &odd), (1.0, &odd), (5.0, &odd)]).unwrap();
    assert_eq!(alike, back);
}

#[test]
fn median_is_the_middle_of_each_coordinate() {
    let all = [adapter(&[1.0, 9.0]), adapter(&[5.0, -2.0]), adapter(&[100.0, 0.0])];
    let updates: Vec<_> = all.iter().map(|adapter| (1.0, adapter)).collect();
    assert_eq!(values(Rule::Median, &updates).unwrap(), [5.0, 0.0]);
    assert_eq!(values(Rule::Median, &updates[..2]).unwrap(), [3.0, 3.5]);
}

#[test]
fn what_cannot_be_aggregated_is_refused() {
    let (a, b) = (adapter(&[1.0, 10.0]), adapter(&[5.0]));
    assert_eq!(values(Rule::FedAvg, &[]).unwrap(), [4.0, 2.0], "nobody came back");
    let fault = |rule, clients: &[(f64, &AdapterTensors)]| values(rule, clients).unwrap_err();
    let unlike = AggregateError::Unlike { client: 1 };
    assert_eq!(fault(Rule::Median, &[(1.0, &a), (1.0, &b)]), unlike);
    assert_eq!(fault(Rule::FedAvg, &[(0.0, &a), (0.0, &a)]), AggregateError::NoWeight);
    let weight = AggregateError::Weight { client: 1, weight: -1.0 };
    assert_eq!(fault(Rule::FedAvg, &[(1.0, &a), (-1.0, &a)]), weight);
    let few = AggregateError::TooFew { rule: "Krum", needed: 5, found: 2 };
    assert_eq!(fault(Rule::Krum(Krum::default()), &[(1.0, &a), (1.0, &a)]), few);
    let scaffold = Rule::Scaffold(super::super::Scaffold::default());
    assert_eq!(fault(scaffold, &[(1.0, &a)]), AggregateError::NoControl { client: 0 });
}

#[test]
fn krum_finds_the_same_client_in_any_order() {
    let all: Vec<AdapterTensors> = [[0.0, 0.0], [0.1, 0.0], [0.0, 0.2], [0.3, 0.3], [9.0, 9.0]]
        .iter()
        .map(|x| adapter(x))
        .collect();
    // Each turn begins with another client.
    for turn in 0..5 {
        let order: Vec<usize> = (0..5).map(|at| (at + turn) % 5).collect();
        let clients: Vec<_> = order.iter().map(|&client| (1.0, &all[client])).collect();
        let outcome = outcome(Rule::Krum(Krum::default()), &clients).unwrap();
        let picked = outcome.picked.unwrap();
        assert_eq!(order[picked[0]], 0, "its two nearest are 0.01 and 0.04 away");
        assert_eq!(outcome.adapter, all[0], "bit for bit");
    }
    let clients: Vec<_> = all.iter().map(|adapter| (1.0, adapter)).collect();
    let rule = MultiKrum { keep: Some(2), ..MultiKrum::default() };
    let outcome = outcome(Rule::MultiKrum(rule), &clients).unwrap();
    assert_eq!(outcome.picked.unwrap(), [0, 1]);
    assert_eq!(outcome.adapter.flatten(), [0.05, 0.0]);
}

#[test]
fn bulyan_takes_the_values_around_the_median_of_those_that_krum_picks() {
    // n = 7 and f = 1: five are picked, and of each coordinate the three values nearest to the median are averaged.
    let all: Vec<AdapterTensors> =
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1000.0].iter().map(|&x| adapter(&[x, -x])).collect();
    let clients: Vec<_> = all.iter().map(|adapter| (1.0, adapter)).collect();
    let found = outcome(Rule::Bulyan(Bulyan::default()), &clients).unwrap();
    // The sums over the 4, 3, 2, 1 and 1 nearest are least for 2 and 3 (10), 2 (9), 1 and 4 (10), 0 and 1 (1), 0 and 5
    // (25); of two that are equal the one is chosen whose next neighbours are nearer. Of 1 to 5 the three around the
    // median are 2, 3 and 4.
    assert_eq!(found.picked.unwrap(), [3, 2, 4, 1, 5]);
    assert_eq!(found.adapter.flatten(), [3.0, -3.0]);
    let few = outcome(Rule::Bulyan(Bulyan::default()), &clients[..6]).unwrap_err();
    assert_eq!(few, AggregateError::TooFew { rule: "Bulyan", needed: 7, found: 6 });
}

#[test]
fn q_fedavg_without_fairness_is_the_unweighted_mean() {
    let (a, b) = (adapter(&[1.0, 10.0]), adapter(&[5.0, -10.0]));
    let rule = QFedAvg { q: 0.0, lr: 0.3 };
    let mean = values(Rule::QFedAvg(rule), &[(1.0, &a), (3.0, &b)]).unwrap();
    assert!((mean[0] - 3.0).abs() < 1e-6 && mean[1].abs() < 1e-6, "{mean:?}");
}
