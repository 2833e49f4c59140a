//! Clients of ranks of their own.

use super::super::{AggregateError, HetLoRA, Rule, Weights, for_rank};
use super::world::{MODULES, World, adapter, apart, gained, lora, matrix, products};
use crate::linear::{Matrix, svd};
use crate::model::LoraConfig;
use crate::parts::Parts;
use crate::peft::factor_names;

#[test]
fn a_client_of_a_smaller_rank_starts_from_the_first_rows() {
    let global = adapter(4, false);
    assert_eq!(for_rank(&global, &lora(4), &lora(4)).unwrap(), global, "bit for bit");
    let small = for_rank(&global, &lora(4), &lora(2)).unwrap();
    // Here the scale is alpha over the rank alone, so that it is twice as large for half the rank.
    let other = LoraConfig { alpha: 8.0, ..LoraConfig::of_rank(2) };
    let rescaled = for_rank(&global, &lora(4), &other).unwrap();
    for (path, ..) in MODULES {
        let [a, b] = factor_names(path);
        assert_eq!(matrix(&small, &a), matrix(&global, &a).first_rows(2));
        assert_eq!(matrix(&small, &b), matrix(&global, &b).first_columns(2));
        assert_eq!(matrix(&rescaled, &a), matrix(&small, &a));
        assert_eq!(matrix(&rescaled, &b), matrix(&small, &b).scaled(0.5));
    }
    assert!(apart(&products(&rescaled, &other), &products(&small, &lora(2))) < 1e-7);
    let pattern = LoraConfig { rank_pattern: [("v_proj".to_owned(), 1)].into(), ..lora(2) };
    let mixed = for_rank(&global, &lora(4), &pattern).unwrap();
    let ranks = MODULES.map(|(path, ..)| matrix(&mixed, &factor_names(path)[0]).rows());
    assert_eq!(ranks, [2, 1, 2, 1]);
    let path = MODULES[0].0.to_owned();
    let too_large = for_rank(&global, &lora(4), &lora(5)).unwrap_err();
    assert_eq!(too_large, AggregateError::Rank { path, own: 5, global: 4 });
}

#[test]
fn flexlora_is_the_best_of_its_rank_and_of_each_smaller_one() {
    let world = World::new(&Rule::FlexLoRA, 1, &[4, 2, 3]);
    let outcome = world.run(&Rule::FlexLoRA).unwrap();
    let targets = world.target(true);
    let decomposed: Vec<_> = targets.iter().map(svd).collect();
    for rank in 1..=4 {
        let fitted = for_rank(&outcome.adapter, &outcome.lora, &lora(rank)).unwrap();
        let best: Vec<Matrix> = decomposed.iter().map(|svd| svd.truncated(rank)).collect();
        assert!(apart(&products(&fitted, &lora(rank)), &best) < 1e-6);
        // Eckart and Young: what is missed is the rest of the singular values.
        let rest: f64 = (decomposed.iter())
            .map(|svd| svd.values[rank..].iter().map(|x| x * x).sum::<f64>())
            .sum();
        let all: f64 = targets.iter().map(|target| target.norm().powi(2)).sum();
        let missed = apart(&products(&fitted, &lora(rank)), &targets);
        assert!((missed - (rest / all).sqrt()).abs() < 1e-6, "{missed}");
    }
}

#[test]
fn flexlora_can_go_on_where_little_was_learnt() {
    let mut world = World::new(&Rule::FlexLoRA, 1, &[1, 1]);
    let outcome = world.run(&Rule::FlexLoRA).unwrap();
    assert!(outcome.error.unwrap() < 1e-6, "two ranks of one fit into four");
    for (path, inputs, outputs) in MODULES {
        let [a, b] = factor_names(path).map(|name| matrix(&outcome.adapter, &name));
        assert_eq!(a.shape(), [4, inputs]);
        for at in 2..4 {
            assert!((0..outputs).all(|row| b.at(row, at) == 0.0), "nothing was learnt there");
            let bound = (inputs as f64).sqrt().recip() + 1e-6;
            assert!(a.row(at).iter().all(|x| x.abs() <= bound));
            assert!(Matrix::new(1, inputs, a.row(at).to_vec()).norm() > 0.1, "but it can be");
        }
    }
    // Nobody has learnt anything at all.
    for client in &mut world.clients {
        for (path, _, outputs) in MODULES {
            let [_, b] = factor_names(path);
            client.adapter = client.adapter.clone().with(&b, [outputs, 1], vec![0.0; outputs]);
        }
    }
    let outcome = world.run(&Rule::FlexLoRA).unwrap();
    assert_eq!(outcome.error, Some(0.0));
    assert!(gained(&outcome).iter().all(|product| product.norm() == 0.0));
}

#[test]
fn flora_goes_on_with_a_fresh_adapter_whose_rows_are_nested() {
    let world = World::new(&Rule::FLoRA, 1, &[4, 2, 3]);
    let outcome = world.run(&Rule::FLoRA).unwrap();
    let next = World { number: 2, ..World::new(&Rule::FLoRA, 2, &[4, 2, 3]) };
    let next = next.run(&Rule::FLoRA).unwrap();
    let smaller =
        World { from: adapter(2, false), lora: lora(2), ..World::new(&Rule::FLoRA, 1, &[2]) };
    let smaller = smaller.run(&Rule::FLoRA).unwrap();
    for (path, ..) in MODULES {
        let [a, b] = factor_names(path);
        assert!(matrix(&outcome.adapter, &b).norm() == 0.0);
        let drawn = matrix(&outcome.adapter, &a);
        assert_ne!(drawn, matrix(&world.from, &a));
        assert_ne!(drawn, matrix(&next.adapter, &a), "another one each round");
        assert_eq!(drawn.first_rows(2), matrix(&smaller.adapter, &a));
    }
    assert_eq!(outcome, world.run(&Rule::FLoRA).unwrap(), "and the same each time");
}

#[test]
fn rows_that_nobody_has_stay_and_owners_are_not_diluted() {
    let rule = |weights| Rule::HetLoRA(HetLoRA { weights, prune: None });
    let world = World::new(&rule(Weights::Owners), 1, &[1, 3]);
    let clients: Vec<Matrix> = (world.clients.iter())
        .map(|client| matrix(&client.adapter, &factor_names(MODULES[1].0)[0]))
        .collect();
    let [a, b] = factor_names(MODULES[1].0);
    for weights in [Weights::Norm, Weights::Examples, Weights::Owners] {
        let outcome = world.run(&rule(weights)).unwrap();
        let (found, before) = (matrix(&outcome.adapter, &a), matrix(&world.from, &a));
        assert_eq!(found.row(3), before.row(3), "nobody has the last row");
        let (found_b, before_b) = (matrix(&outcome.adapter, &b), matrix(&world.from, &b));
        assert!((0..8).all(|row| found_b.at(row, 3).to_bits() == before_b.at(row, 3).to_bits()));
        let second = found.row(1).iter().zip(clients[1].row(1));
        let diluted = second.map(|(found, own)| found / own).collect::<Vec<_>>();
        let wanted = match weights {
            Weights::Owners => 1.0,
            Weights::Examples => 0.75,
            Weights::Norm => diluted[0],
        };
        assert!(diluted.iter().all(|ratio| (ratio - wanted).abs() < 1e-5), "{diluted:?}");
        assert!(weights != Weights::Norm || (wanted > 0.1 && wanted < 0.95));
    }
    let mut larger = World::new(&rule(Weights::Norm), 1, &[2]);
    larger.clients[0].adapter = adapter(5, false);
    larger.clients[0].lora = lora(5);
    let path = MODULES[0].0.to_owned();
    let fault = larger.run(&rule(Weights::Norm)).unwrap_err();
    assert_eq!(fault, AggregateError::Rank { path, own: 5, global: 4 });
}

#[test]
fn a_clients_own_scale_is_its_own() {
    let own = LoraConfig { alpha: 20.0, ..LoraConfig::of_rank(4) };
    for rule in [Rule::FLoRA, Rule::FlexLoRA, Rule::HetLoRA(HetLoRA::default()), Rule::FedExLoRA] {
        let mut world = World::new(&rule, 1, &[4]);
        world.clients[0].lora = own.clone();
        let outcome = world.run(&rule).unwrap();
        assert_eq!(outcome.lora, world.lora);
        let wanted = products(&world.clients[0].adapter, &own);
        assert!(apart(&gained(&outcome), &wanted) < 1e-6, "{}", rule.name());
        assert!(outcome.error.unwrap() < 1e-6, "{}", rule.name());
    }
}

#[test]
fn fedsa_needs_the_clients_b_for_its_stand_in_alone() {
    let rule = Rule::FedSALoRA;
    let mut world = World::new(&rule, 1, &[4; 3]);
    let whole = world.run(&rule).unwrap();
    for client in &mut world.clients {
        client.adapter = client.adapter.only(!Parts::B);
    }
    let without = world.run(&rule).unwrap();
    assert_eq!(without.adapter, whole.adapter);
    assert_eq!(without.stand_in.as_ref(), Some(&without.adapter), "with the B that all began with");
    assert_ne!(without.stand_in, whole.stand_in);
}
