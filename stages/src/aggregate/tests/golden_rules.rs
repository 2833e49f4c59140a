//! The same values through the rules themselves, on f32 tensors.

use super::super::{
    Convention, FedAdagrad, FedAdam, FedAvgM, FedYogi, HetLoRA, Krum, LoRAFairLS, QFedAvg, Rule,
    TrimmedMean, Weights,
};
use super::golden::{Golden, SIZES, a, b, near};
use super::world::{Client, World, matrix};
use crate::linear::Matrix;
use crate::model::LoraConfig;
use crate::peft::{AdapterTensors, Change, factor_names};

/// The bound for f32.
const BOUND: f64 = 1e-5;
const PATH: &str = "model.layers.0.self_attn.q_proj";

fn adapter(a: &Matrix, b: &Matrix) -> AdapterTensors {
    let [a_name, b_name] = factor_names(PATH);
    AdapterTensors::new([(a_name, a.shape(), a.to_f32()), (b_name, b.shape(), b.to_f32())])
}

fn lora(rank: usize, alpha: f64) -> LoraConfig {
    LoraConfig { alpha, ..LoraConfig::of_rank(rank) }
}

fn client(adapter: AdapterTensors, lora: LoraConfig, weight: f64) -> Client {
    Client { weight, adapter, lora, loss: None, control: None }
}

/// The three clients, as `alphas` has their alphas, and a global adapter of the rank `global`.
fn world(ranks: [usize; 3], alphas: [f64; 3], global: usize) -> World {
    let clients = (0..3).map(|k| {
        let own = adapter(&a(k, ranks[k]), &b(k, ranks[k]));
        client(own, lora(ranks[k], alphas[k]), SIZES[k])
    });
    World {
        number: 1,
        population: 3,
        from: adapter(&a(9, global), &b(9, global)),
        lora: lora(global, 8.0),
        state: None,
        clients: clients.collect(),
    }
}

fn factors(adapter: &AdapterTensors) -> [Matrix; 2] {
    factor_names(PATH).map(|name| matrix(adapter, &name))
}

/// `s·B·A`.
fn product(adapter: &AdapterTensors, lora: &LoraConfig) -> Matrix {
    let [a, b] = factors(adapter);
    b.times(&a).scaled(lora.alpha / a.rows() as f64)
}

#[track_caller]
fn same(found: &Matrix, wanted: &Matrix) {
    assert_eq!(found.shape(), wanted.shape());
    near(found.values(), wanted.values(), BOUND);
}

#[test]
fn one_rank() {
    let golden = Golden::read();
    let world = world([2; 3], [8.0; 3], 2);
    let mean = world.run(&Rule::FedAvg).unwrap();
    let [a, b] = factors(&mean.adapter);
    same(&a, &golden.matrix("homog", "fedit_A"));
    same(&b, &golden.matrix("homog", "fedit_B"));
    same(&product(&mean.adapter, &mean.lora), &golden.matrix("homog", "fedit_dW"));
    let error = golden.number("homog", "e_agg");
    near(&[mean.error.unwrap(), mean.errors[0].1], &[error; 2], BOUND);
    assert_eq!((mean.errors.len(), mean.errors[0].0.as_str()), (1, PATH));

    let shared = world.run(&Rule::FedSALoRA).unwrap();
    let [a, kept] = factors(&shared.adapter);
    same(&a, &golden.matrix("fedsa", "A"));
    assert_eq!(kept, factors(&world.from)[1]);
    assert_eq!(shared.stand_in.unwrap(), mean.adapter);
    near(&[shared.error.unwrap()], &[error], BOUND);
    let whole = golden.matrix("homog", "exact_dW");

    let with_residual = world.run(&Rule::FedExLoRA).unwrap();
    assert_eq!(with_residual.adapter, mean.adapter);
    let delta = with_residual.delta.as_ref().unwrap();
    let Some(Change::Dense((shape, values))) = delta.get(PATH) else {
        panic!("eight rows of 6 + 5 are more than 30 numbers");
    };
    let residual = Matrix::from_f32(*shape, values);
    same(&residual, &golden.matrix("fedex", "residual"));
    same(&residual.plus(&product(&with_residual.adapter, &world.lora)), &whole);
    assert!(with_residual.error.unwrap() < 1e-6);

    let fair = world.run(&Rule::LoRAFairLS(LoRAFairLS::default())).unwrap();
    let [a, b] = factors(&fair.adapter);
    same(&a, &golden.matrix("homog", "fedit_A"));
    let corrected = golden.matrix("homog", "fedit_B").plus(&golden.matrix("fair", "dB"));
    same(&b, &corrected);
    same(&product(&fair.adapter, &fair.lora), &golden.matrix("fair", "dW"));
    near(&[fair.error.unwrap()], &[golden.number("fair", "err_after")], BOUND);
}

#[test]
fn one_factor_at_a_time() {
    let golden = Golden::read();
    let mut world = world([2; 3], [8.0; 3], 2);
    let zero = Matrix::zeros(6, 2);
    world.from = adapter(&a(9, 2), &zero);
    for (k, client) in world.clients.iter_mut().enumerate() {
        client.adapter = adapter(&a(9, 2), &b(k, 2));
    }
    for rule in [Rule::FFALoRA, Rule::RoLoRA] {
        let outcome = world.run(&rule).unwrap();
        let [a, b] = factors(&outcome.adapter);
        same(&a, &golden.matrix("ffa", "A0"));
        same(&b, &golden.matrix("ffa", "B"));
        same(&product(&outcome.adapter, &outcome.lora), &golden.matrix("ffa", "dW"));
        assert!(outcome.error.unwrap() < 1e-6);
    }
    // The even rounds of RoLoRA are the mirror image: the same B for all, and the mean of A.
    world.number = 2;
    world.from = adapter(&a(9, 2), &b(9, 2));
    for (k, client) in world.clients.iter_mut().enumerate() {
        client.adapter = adapter(&a(k, 2), &b(9, 2));
    }
    let outcome = world.run(&Rule::RoLoRA).unwrap();
    let [found, kept] = factors(&outcome.adapter);
    same(&found, &golden.matrix("homog", "fedit_A"));
    assert_eq!(kept, b(9, 2));
    assert!(outcome.error.unwrap() < 1e-6);
}

#[test]
fn different_ranks() {
    let golden = Golden::read();
    let whole = golden.matrix("hetero", "exact_dW");
    let own = world([1, 2, 3], [8.0; 3], 3);
    let stack = own.run(&Rule::FLoRA).unwrap();
    let Some(Change::Dense((shape, values))) = stack.delta.as_ref().unwrap().get(PATH) else {
        panic!("six rows of 6 + 5 are more than 30 numbers");
    };
    same(&Matrix::from_f32(*shape, values), &whole);
    assert!(stack.error.unwrap() < 1e-6);
    let one = World {
        clients: own.clients.into_iter().skip(1).take(1).collect(),
        ..world([1, 2, 3], [8.0; 3], 3)
    };
    let stack = one.run(&Rule::FLoRA).unwrap();
    let Some(Change::Factors { a: found, b: other }) = stack.delta.as_ref().unwrap().get(PATH)
    else {
        panic!("two rows of 6 + 5 are fewer than 30 numbers");
    };
    same(&Matrix::from_f32(found.0, &found.1), &a(1, 2).scaled(4.0));
    same(&Matrix::from_f32(other.0, &other.1), &b(1, 2));

    for rank in 1..=3 {
        let best = world([1, 2, 3], [8.0; 3], rank).run(&Rule::FlexLoRA).unwrap();
        let wanted = golden.matrix("flexlora", &format!("best_rank{rank}_dW"));
        same(&product(&best.adapter, &best.lora), &wanted);
        let missed = golden.vector("flexlora", "trunc_err")[rank - 1];
        near(&[best.error.unwrap()], &[missed], BOUND);
    }
    let all = world([1, 2, 3], [8.0; 3], 5).run(&Rule::FlexLoRA).unwrap();
    same(&product(&all.adapter, &all.lora), &whole);
    assert!(all.error.unwrap() < 1e-6);

    // The script pads without scales, which is what a scale that all ranks share comes to.
    let mut padded = world([1, 2, 3], [2.0, 4.0, 6.0], 3);
    padded.lora.alpha = 6.0;
    for (weights, name_a, name_b) in
        [(Weights::Norm, "A", "B"), (Weights::Examples, "A_by_n", "B_by_n")]
    {
        let rule = HetLoRA { weights, prune: None };
        let [a, b] = factors(&padded.run(&Rule::HetLoRA(rule)).unwrap().adapter);
        same(&a, &golden.matrix("hetlora", name_a));
        same(&b, &golden.matrix("hetlora", name_b));
    }
}

/// A vector as an adapter.
fn flat(values: &[f64]) -> AdapterTensors {
    let values = Matrix::new(1, values.len(), values.to_vec());
    AdapterTensors::new([("x".to_owned(), values.shape(), values.to_f32())])
}

fn values(adapter: &AdapterTensors) -> Vec<f64> {
    adapter.flatten().into_iter().map(f64::from).collect()
}

#[test]
fn optimisers_carry_their_state_over_the_rounds() {
    let golden = Golden::read();
    let adam = |convention| Rule::FedAdam(FedAdam { convention, ..FedAdam::default() });
    let yogi = |convention| Rule::FedYogi(FedYogi { convention, lr: 0.1, ..FedYogi::default() });
    let adagrad = |convention| Rule::FedAdagrad(FedAdagrad { convention, ..FedAdagrad::default() });
    for (rule, name, kept) in [
        (Rule::FedAvgM(FedAvgM::default()), "fedavgm_lr1_mom0.9", 1),
        (adam(Convention::Reddi), "fedadam_reddi_v0=tau2", 2),
        (adam(Convention::Flower), "fedadam_flower", 2),
        (yogi(Convention::Reddi), "fedyogi_reddi_v0=tau2", 2),
        (yogi(Convention::Flower), "fedyogi_flower", 2),
        (adagrad(Convention::Reddi), "fedadagrad_reddi_v0=tau2", 1),
        (adagrad(Convention::Flower), "fedadagrad_flower", 1),
    ] {
        let lora = lora(1, 1.0);
        let from = flat(&golden.vector("server", "x0"));
        let mut world =
            World { number: 0, population: 2, from, lora, state: None, clients: Vec::new() };
        let trace = golden.rows("server", name);
        for (delta, wanted) in golden.rows("server", "deltas").iter().zip(&trace) {
            world.number += 1;
            let x = values(&world.from);
            // Two clients as far on either side of the mean as it is from x.
            let moved = |times: f64| {
                flat(&x.iter().zip(delta).map(|(x, delta)| x + times * delta).collect::<Vec<_>>())
            };
            world.clients = [0.0, 2.0]
                .map(|times| client(moved(times), world.lora.clone(), 10.0))
                .into_iter()
                .collect();
            let outcome = world.run(&rule).unwrap();
            near(&values(&outcome.adapter), wanted, BOUND);
            let state = outcome.state.unwrap();
            assert_eq!(state.iter().count(), kept, "{name}");
            world.clients.clear();
            world.from = outcome.adapter.clone();
            world.state = Some(state.clone());
            let nobody = world.run(&rule).unwrap();
            assert_eq!((nobody.adapter, nobody.state), (outcome.adapter, Some(state)));
        }
        assert!(
            matches!(world.state, Some(ref state) if state.iter().all(|(name, ..)| name.ends_with("/x")))
        );
    }
}

#[test]
fn rules_of_one_round() {
    let golden = Golden::read();
    let world = |from: &[f64], vectors: &[Vec<f64>], losses: [f64; 3]| {
        let clients = vectors.iter().enumerate().map(|(at, vector)| Client {
            loss: losses.get(at).copied(),
            ..client(flat(vector), lora(1, 1.0), 10.0 + at as f64)
        });
        World {
            number: 1,
            population: 5,
            from: flat(from),
            lora: lora(1, 1.0),
            state: None,
            clients: clients.collect(),
        }
    };
    let x = golden.vector("server", "x0");
    let moved: Vec<Vec<f64>> = (golden.rows("server", "deltas").iter())
        .map(|delta| x.iter().zip(delta).map(|(x, delta)| x + delta).collect())
        .collect();
    let fair = world(&x, &moved, [0.5, 1.0, 2.0]);
    let outcome = fair.run(&Rule::QFedAvg(QFedAvg { q: 0.2, lr: 0.1 })).unwrap();
    near(&values(&outcome.adapter), &golden.vector("server", "qfedavg"), BOUND);

    let vectors = golden.rows("robust", "X");
    let robust = world(&[0.0; 3], &vectors, [1.0; 3]);
    let found = |rule: Rule| values(&robust.run(&rule).unwrap().adapter);
    near(&found(Rule::Median), &golden.vector("robust", "median"), BOUND);
    let trimmed = Rule::TrimmedMean(TrimmedMean::default());
    near(&found(trimmed), &golden.vector("robust", "trim_0_2"), BOUND);
    let krum = robust.run(&Rule::Krum(Krum::default())).unwrap();
    let picked = krum.picked.unwrap();
    near(&[picked[0] as f64], &[golden.number("robust", "krum_pick")], 0.0);
    assert_eq!(krum.adapter, robust.clients[picked[0]].adapter);
}
