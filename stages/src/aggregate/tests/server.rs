//! What the server keeps, and that nothing depends on threads.

use super::super::{AggregateError, Rule, Scaffold, server_control};
use super::settings::all;
use super::world::{World, matrix};
use crate::linear::Matrix;
use crate::parts::Parts;
use crate::peft::AdapterTensors;

#[test]
fn scaffolds_control_stays_the_mean_of_the_clients() {
    let rule = Rule::Scaffold(Scaffold::default());
    let mut world = World::new(&rule, 1, &[4; 3]);
    let zero = world.from.with_values(&vec![0.0; world.from.length()]);
    let mut own = vec![zero; 3];
    for round in 1..=3 {
        world.number = round;
        for (client, own) in world.clients.iter().zip(&mut own) {
            *own = sum(own, client.control.as_ref().unwrap());
        }
        let outcome = world.run(&rule).unwrap();
        let control = server_control(outcome.state.as_ref().unwrap());
        for (name, ..) in control.iter() {
            let own: Vec<Matrix> = own.iter().map(|own| matrix(own, name)).collect();
            let mean = own[0].clone().plus(&own[1]).plus(&own[2]).scaled(1.0 / 3.0);
            assert!(matrix(&control, name).minus(&mean).norm() < 1e-6 * mean.norm());
        }
        assert_eq!(control.iter().count(), 9);
        world.state = outcome.state;
    }
    // One of ten clients moves c by a tenth of its own change.
    let mut one = World { population: 10, ..World::new(&rule, 1, &[4]) };
    let control = server_control(&one.run(&rule).unwrap().state.unwrap());
    let change = one.clients[0].control.clone().unwrap();
    for (name, ..) in control.iter() {
        let wanted = matrix(&change, name).scaled(0.1);
        assert!(matrix(&control, name).minus(&wanted).norm() < 1e-6 * wanted.norm());
    }
    let change = change.only(Parts::A);
    one.clients[0].control = Some(change);
    assert_eq!(one.run(&rule).unwrap_err(), AggregateError::NoControl { client: 0 });
}

fn sum(left: &AdapterTensors, right: &AdapterTensors) -> AdapterTensors {
    let values: Vec<f32> = left.flatten().iter().zip(right.flatten()).map(|(x, y)| x + y).collect();
    left.with_values(&values)
}

#[test]
fn half_a_step_goes_half_way() {
    let rule = Rule::Scaffold(Scaffold { lr: 0.5 });
    let world = World::new(&rule, 1, &[4; 2]);
    let whole = world.run(&Rule::Scaffold(Scaffold::default())).unwrap().adapter.flatten();
    let half = world.run(&rule).unwrap().adapter.flatten();
    for ((half, whole), from) in half.iter().zip(whole).zip(world.from.flatten()) {
        assert!((half - f32::midpoint(whole, from)).abs() < 1e-6);
    }
}

#[test]
fn state_of_another_adapter_is_refused() {
    for rule in all() {
        let world = World::new(&rule, 1, &[4; 7]);
        let Some(state) = world.run(&rule).unwrap().state else { continue };
        let (name, ..) = state.iter().next().unwrap();
        let wrong = state.clone().with(name, [1, 1], vec![0.0]);
        let name = name.to_owned();
        let world = World { state: Some(wrong), ..world };
        assert_eq!(world.run(&rule).unwrap_err(), AggregateError::State { name });
    }
}

#[test]
fn no_rule_depends_on_the_number_of_threads() {
    for rule in all() {
        let ranks = if rule.takes_ranks() { [4, 2, 3, 1, 4, 2, 3] } else { [4; 7] };
        let world = World::new(&rule, 1, &ranks);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| world.run(&rule).unwrap())
        };
        let one = on(1);
        assert!([2, 5].map(on).iter().all(|other| *other == one), "{}", rule.name());
    }
}

#[test]
fn nothing_changes_where_nobody_came_back() {
    for rule in all() {
        let mut world = World::new(&rule, 1, &[4; 7]);
        world.state = world.run(&rule).unwrap().state;
        world.clients.clear();
        let outcome = world.run(&rule).unwrap();
        assert_eq!(outcome.adapter, world.from);
        assert_eq!(outcome.lora, world.lora);
        assert_eq!(outcome.state, world.state);
        assert_eq!((outcome.delta, outcome.errors.len(), outcome.error), (None, 0, None));
    }
}
