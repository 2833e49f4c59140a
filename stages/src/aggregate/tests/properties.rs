//! What must hold for every rule, as one table.

use super::super::{
    AggregateError, Distance, HetLoRA, Krum, MultiKrum, Outcome, QFedAvg, Rule, Weights,
};
use super::golden::{Golden, a, b};
use super::settings::all;
use super::world::{MODULES, World, adapter, apart, base, gained, lora, matrix, products, trained};
use crate::kinds::{Adapter, AdapterConfig};
use crate::linear::Matrix;
use crate::model::LoraConfig;
use crate::parts::Parts;
use crate::peft::{AdapterTensors, SCORE, factor_names, one_lora};

/// How far two results in f32 may be apart that are the same.
const SAME: f64 = 1e-6;

const TITLES: [&str; 10] = [
    "one client",
    "identical clients",
    "order of clients",
    "all n_k scaled",
    "exact",
    "equal A",
    "ranks",
    "zero weight",
    "head",
    "export",
];

const NOTES: [(char, &str); 9] = [
    ('a', "one client is too few for the rule, and is refused"),
    ('b', "the server's step is its own: one that learnt nothing changes nothing"),
    ('c', "q > 0 shortens the step; with q = 0 it holds"),
    ('d', "an approximation, whose e_agg is that of the dense products"),
    ('e', "nothing is aggregated: the global adapter stays as it is"),
    ('f', "the result is no mean with the shares of ΔW*"),
    ('g', "clients of one rank only, others are refused"),
    ('h', "the numbers of examples do not enter: they change nothing"),
    ('i', "its weights are norms"),
];

/// One cell of the table.
enum Cell {
    Holds,
    /// It has no meaning, for the reason of this letter; what holds instead was checked.
    Void(char),
    Fails(String),
}

/// The cell of a property that holds, or of one that has no meaning if there is a reason.
fn cell(holds: bool, reason: Option<char>, otherwise: impl Into<String>) -> Cell {
    match (holds, reason) {
        (true, None) => Cell::Holds,
        (true, Some(letter)) => Cell::Void(letter),
        (false, _) => Cell::Fails(otherwise.into()),
    }
}

fn near(found: f64, reason: Option<char>) -> Cell {
    cell(found <= SAME, reason, format!("{found:.1e}"))
}

/// The head's distance as well as that of the modules.
fn outcomes_apart(found: &Outcome, wanted: &Outcome) -> f64 {
    let head = |outcome: &Outcome| matrix(&outcome.adapter, SCORE);
    let heads = head(found).minus(&head(wanted)).norm() / head(wanted).norm();
    apart(&gained(found), &gained(wanted)).max(heads)
}

fn is_adaptive(rule: &Rule) -> bool {
    matches!(rule, Rule::FedAdam(_) | Rule::FedYogi(_) | Rule::FedAdagrad(_))
}

/// A round with as many clients of one rank as the rule takes.
fn world(rule: &Rule) -> World {
    // Of five clients the trimmed mean cuts two.
    let least = if matches!(rule, Rule::TrimmedMean(_)) { 5 } else { 3 };
    World::new(rule, 1, &vec![4; rule.least_clients().max(least)])
}

fn one_client(rule: &Rule) -> Cell {
    let one = World::new(rule, 1, &[4]);
    if rule.least_clients() > 1 {
        let refused = matches!(one.run(rule), Err(AggregateError::TooFew { found: 1, .. }));
        return cell(refused, Some('a'), "one client was taken");
    }
    let outcome = one.run(rule).unwrap();
    if *rule == Rule::Local {
        return cell(outcome.adapter == one.from, Some('e'), "the adapter changed");
    }
    if is_adaptive(rule) {
        let mut idle = World::new(rule, 1, &[4]);
        idle.clients[0].adapter = idle.from.clone();
        let outcome = idle.run(rule).unwrap();
        return cell(outcome.adapter == idle.from, Some('b'), "the adapter changed");
    }
    let (outcome, reason) = match rule {
        Rule::QFedAvg(own) => {
            (one.run(&Rule::QFedAvg(QFedAvg { q: 0.0, ..*own })).unwrap(), Some('c'))
        }
        _ => (outcome, None),
    };
    let client = &one.clients[0];
    let wanted = products(&client.adapter, &client.lora);
    let head = matrix(&outcome.adapter, SCORE).minus(&matrix(&client.adapter, SCORE)).norm();
    near(apart(&gained(&outcome), &wanted).max(head), reason)
}

fn identical_clients(rule: &Rule) -> Cell {
    let mut many = world(rule);
    let first = World::new(rule, 1, &[4]).clients.remove(0);
    for client in &mut many.clients {
        client.adapter = first.adapter.clone();
        client.loss = first.loss;
    }
    let outcome = many.run(rule).unwrap();
    if *rule == Rule::Local {
        return cell(outcome.adapter == many.from, Some('e'), "the adapter changed");
    }
    if rule.least_clients() > 1 {
        return near(apart(&gained(&outcome), &products(&first.adapter, &first.lora)), None);
    }
    let one = World { clients: vec![first], ..World::new(rule, 1, &[4]) };
    near(outcomes_apart(&outcome, &one.run(rule).unwrap()), None)
}

fn order_of_clients(rule: &Rule) -> Cell {
    let mut world = world(rule);
    let forward = world.run(rule).unwrap();
    world.clients.reverse();
    let backward = world.run(rule).unwrap();
    let count = world.clients.len();
    let mirrored = |picked: &Vec<usize>| {
        let mut places: Vec<usize> = picked.iter().map(|place| count - 1 - place).collect();
        places.sort_unstable();
        places
    };
    let sorted = |picked: &Vec<usize>| {
        let mut places = picked.clone();
        places.sort_unstable();
        places
    };
    if forward.picked.as_ref().map(sorted) != backward.picked.as_ref().map(mirrored) {
        return Cell::Fails(format!("{:?}, {:?}", forward.picked, backward.picked));
    }
    near(outcomes_apart(&backward, &forward), None)
}

fn all_weights_scaled(rule: &Rule) -> Cell {
    let mut world = world(rule);
    let before = world.run(rule).unwrap();
    for client in &mut world.clients {
        client.weight *= 7.0;
    }
    cell(world.run(rule).unwrap() == before, None, "other bits")
}

fn exact(rule: &Rule) -> Cell {
    let ranks: &[usize] = match rule {
        // Their sum fits into the rank of the adapter.
        Rule::FlexLoRA => &[1, 1, 2],
        Rule::FLoRA => &[4, 2, 3],
        _ => &[4; 7],
    };
    let mut worst = 0.0_f64;
    for round in [1, 2] {
        let world = World::new(rule, round, ranks);
        let outcome = world.run(rule).unwrap();
        if *rule == Rule::Local {
            let nothing = outcome.error.is_none() && outcome.errors.is_empty();
            return cell(nothing, Some('e'), "an error is told");
        }
        let dense = apart(&gained(&outcome), &world.target(rule.weighs()));
        let told = outcome.error.unwrap();
        let parts: Vec<f64> = (gained(&outcome).iter().zip(&world.target(rule.weighs())))
            .map(|(found, wanted)| found.minus(wanted).norm() / wanted.norm())
            .collect();
        let by_module = outcome.errors.iter().zip(parts);
        let off = by_module.map(|((_, told), dense)| (told - dense).abs()).fold(0.0, f64::max);
        if (told - dense).abs().max(off) > SAME || outcome.errors.len() != MODULES.len() {
            return Cell::Fails(format!("e_agg {told:.2e}, dense {dense:.2e}"));
        }
        worst = worst.max(told);
    }
    if rule.is_exact() || *rule == Rule::FlexLoRA {
        return near(worst, None);
    }
    cell(worst > SAME, Some('d'), "it is exact after all")
}

fn equal_a(rule: &Rule) -> Cell {
    let mut world = world(rule);
    for client in &mut world.clients {
        let a = world.from.only(Parts::A);
        client.adapter = client.adapter.clone().overlaid(&a);
    }
    let outcome = world.run(rule).unwrap();
    let reason = match rule {
        Rule::Local => return cell(outcome.adapter == world.from, Some('e'), "it changed"),
        _ if is_adaptive(rule) => 'b',
        Rule::QFedAvg(own) => {
            let even = world.run(&Rule::QFedAvg(QFedAvg { q: 0.0, ..*own })).unwrap();
            return near(even.error.unwrap(), Some('c'));
        }
        Rule::HetLoRA(HetLoRA { weights: Weights::Norm, .. }) => 'i',
        Rule::Median
        | Rule::TrimmedMean(_)
        | Rule::Krum(_)
        | Rule::MultiKrum(_)
        | Rule::Bulyan(_) => 'f',
        _ => return near(outcome.error.unwrap(), None),
    };
    cell(outcome.error.unwrap() > SAME, Some(reason), "it holds after all")
}

/// The recorded clients of the ranks 1, 2, 3; alphas as given.
fn recorded(alphas: [f64; 3], global: usize, alpha: f64) -> World {
    let one = |a: &Matrix, b: &Matrix| {
        let [a_name, b_name] = factor_names(MODULES[0].0);
        AdapterTensors::new([(a_name, a.shape(), a.to_f32()), (b_name, b.shape(), b.to_f32())])
    };
    let clients = (0..3).map(|k| super::world::Client {
        weight: super::golden::SIZES[k],
        adapter: one(&a(k, k + 1), &b(k, k + 1)),
        lora: LoraConfig { alpha: alphas[k], ..LoraConfig::of_rank(k + 1) },
        loss: Some(1.0),
        control: None,
    });
    World {
        number: 1,
        population: 3,
        from: one(&a(9, global), &b(9, global)),
        lora: LoraConfig { alpha, ..LoraConfig::of_rank(global) },
        state: None,
        clients: clients.collect(),
    }
}

fn ranks(rule: &Rule) -> Cell {
    let golden = Golden::read();
    if !rule.takes_ranks() {
        // The first client has the rank of the global adapter, the second does not.
        let mut many = world(rule);
        many.clients[1].adapter =
            trained(&adapter(2, rule.trains(1).has(Parts::CORE)), Parts::ALL, 1);
        many.clients[1].lora = lora(2);
        let refused = many.run(rule) == Err(AggregateError::Unlike { client: 1 });
        return cell(refused, Some('g'), "another rank was taken");
    }
    let off = |found: &Matrix, wanted: &Matrix| found.minus(wanted).norm() / wanted.norm();
    let factors =
        |outcome: &Outcome| factor_names(MODULES[0].0).map(|name| matrix(&outcome.adapter, &name));
    if let Rule::HetLoRA(HetLoRA { weights, .. }) = rule {
        let padded = recorded([2.0, 4.0, 6.0], 3, 6.0);
        let [found_a, found_b] = factors(&padded.run(rule).unwrap());
        let wanted = match weights {
            Weights::Norm => ["A", "B"].map(|name| golden.matrix("hetlora", name)),
            Weights::Examples => ["A_by_n", "B_by_n"].map(|name| golden.matrix("hetlora", name)),
            Weights::Owners => owners(),
        };
        return near(off(&found_a, &wanted[0]).max(off(&found_b, &wanted[1])), None);
    }
    let world = recorded([8.0; 3], 5, 8.0);
    let outcome = world.run(rule).unwrap();
    if *rule == Rule::Local {
        return cell(outcome.adapter == world.from, Some('e'), "the adapter changed");
    }
    let [a, b] = factors(&outcome);
    let mut gained = b.times(&a).scaled(8.0 / 5.0);
    if let Some(crate::peft::Change::Dense((shape, values))) =
        outcome.delta.as_ref().and_then(|delta| delta.get(MODULES[0].0))
    {
        gained = gained.plus(&Matrix::from_f32(*shape, values));
    }
    near(off(&gained, &golden.matrix("hetero", "exact_dW")), None)
}

/// The mean of each row over those that have it: 1, 3 and 6 parts, then 3 and 6, then the last client alone.
fn owners() -> [Matrix; 2] {
    let row = |row: usize, value: &dyn Fn(usize) -> f64| -> f64 {
        let owners = row..3;
        let weight = |client: usize| [1.0, 3.0, 6.0][client];
        let total: f64 = owners.clone().map(weight).sum();
        owners.map(|client| weight(client) * value(client)).sum::<f64>() / total
    };
    let of_a = Matrix::from_fn(3, 5, |i, j| row(i, &|client| a(client, 3).at(i, j)));
    let of_b = Matrix::from_fn(6, 3, |i, j| row(j, &|client| b(client, 3).at(i, j)));
    [of_a, of_b]
}

fn zero_weight(rule: &Rule) -> Cell {
    let mut world = world(rule);
    let before = world.run(rule).unwrap();
    if !rule.weighs() {
        for (at, client) in world.clients.iter_mut().enumerate() {
            client.weight = at as f64;
        }
        let reason = if *rule == Rule::Local { 'e' } else { 'h' };
        return cell(world.run(rule).unwrap() == before, Some(reason), "weights enter");
    }
    let mut idle = World::new(rule, 1, &[4]).clients.remove(0);
    idle.weight = 0.0;
    let wild: Vec<f32> = idle.adapter.flatten().iter().map(|x| 1e6 * x).collect();
    idle.adapter = idle.adapter.with_values(&wild);
    world.clients.insert(1, idle);
    cell(world.run(rule).unwrap() == before, None, "other bits")
}

fn head(rule: &Rule) -> Cell {
    let shared = world(rule);
    let outcome = shared.run(rule).unwrap();
    let before = matrix(&shared.from, SCORE);
    let found = matrix(&outcome.adapter, SCORE);
    // Parts that nobody trains, and a head that nobody sends, are bit for bit those of before.
    let fixed = (shared.from.iter()).filter(|(name, ..)| !rule.trains(1).has(Parts::of(name)));
    for (name, shape, values) in fixed {
        if outcome.adapter.get(name) != Some((shape, values)) {
            return Cell::Fails(format!("`{name}` changed"));
        }
    }
    let without = world(rule).without_head().run(rule).unwrap();
    if matrix(&without.adapter, SCORE) != before {
        return Cell::Fails("a head was aggregated that nobody sent".to_owned());
    }
    if *rule == Rule::Local {
        return cell(found == before, None, "the head was aggregated");
    }
    // Rules that look at the whole vector may choose otherwise without the head.
    let is_whole =
        matches!(rule, Rule::Krum(_) | Rule::MultiKrum(_) | Rule::Bulyan(_) | Rule::QFedAvg(_));
    if !is_whole && without.adapter.without(SCORE) != outcome.adapter.without(SCORE) {
        return Cell::Fails("the head changes the factors".to_owned());
    }
    let clients = shared.clients.iter().zip(shared.shares(rule.weighs()));
    let mean = clients
        .map(|(client, share)| matrix(&client.adapter, SCORE).scaled(share))
        .reduce(|sum, more| sum.plus(&more))
        .unwrap();
    let is_mean = rule.weighs() && !is_adaptive(rule) || matches!(rule, Rule::Scaffold(_));
    if is_mean {
        return near(found.minus(&mean).norm() / mean.norm(), None);
    }
    cell(found.minus(&before).norm() > 0.01, None, "the head was not aggregated")
}

/// The one plain LoRA that is exported adds to the base what the server came to. That PEFT reads it as that is what
/// `tests/peft` checks.
fn export(rule: &Rule) -> Cell {
    let mut distances = Vec::new();
    let rounds = if rule.takes_ranks() {
        vec![world(rule), World::new(rule, 1, &[4, 2, 1])]
    } else {
        vec![world(rule)]
    };
    for round in rounds {
        let outcome = round.run(rule).unwrap();
        let wanted = gained(&outcome);
        let tensors = outcome.stand_in.unwrap_or(outcome.adapter);
        let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
        let config = AdapterConfig { lora: outcome.lora, labels };
        let exported = Adapter { config, tensors, trained: None, delta: outcome.delta };
        let (tensors, lora) = one_lora(&exported, &base()).unwrap();
        let modules = lora.modules(&base()).unwrap();
        let found: Vec<Matrix> = modules
            .iter()
            .map(|module| {
                let [a, b] = factor_names(&module.path);
                matrix(&tensors, &b).times(&matrix(&tensors, &a)).scaled(module.scale)
            })
            .collect();
        distances.push(apart(&found, &wanted));
    }
    let far = distances.into_iter().fold(0.0, f64::max);
    near(far, (*rule == Rule::Local).then_some('e'))
}

/// Every rule, and the variants that behave in their own way.
fn rows() -> Vec<(String, Rule)> {
    let mut rows: Vec<(String, Rule)> =
        all().into_iter().map(|rule| (rule.name().to_owned(), rule)).collect();
    for weights in [Weights::Examples, Weights::Owners] {
        let rule = Rule::HetLoRA(HetLoRA { weights, prune: None });
        rows.push((format!("HetLoRA({weights:?})"), rule));
    }
    let distance = Distance::Product;
    rows.push(("Krum(Product)".to_owned(), Rule::Krum(Krum { distance, ..Krum::default() })));
    let rule = MultiKrum { keep: Some(2), distance, ..MultiKrum::default() };
    rows.push(("MultiKrum(2, Product)".to_owned(), Rule::MultiKrum(rule)));
    rows
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
fn every_rule_has_every_property() {
    let properties: [fn(&Rule) -> Cell; 10] = [
        one_client,
        identical_clients,
        order_of_clients,
        all_weights_scaled,
        exact,
        equal_a,
        ranks,
        zero_weight,
        head,
        export,
    ];
    let mut faults = Vec::new();
    let titles = TITLES.iter().zip(1..).map(|(title, number)| format!("{number} {title}"));
    let titles: Vec<String> = titles.collect();
    let line = |row: &str, cells: &[String]| {
        let cells = cells.iter().zip(&titles);
        let cells = cells.map(|(cell, title)| format!("{cell:<width$}", width = title.len()));
        format!("{row:<22} | {}", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut lines = vec![line("", &titles)];
    for (row, rule) in rows() {
        let cells = TITLES.iter().zip(properties).map(|(title, property)| match property(&rule) {
            Cell::Holds => "ok".to_owned(),
            Cell::Void(letter) => format!("–{letter}"),
            Cell::Fails(what) => {
                faults.push(format!("{row}, {title}: {what}"));
                "FAILS".to_owned()
            }
        });
        let cells: Vec<String> = cells.collect();
        lines.push(line(&row, &cells));
    }
    let table = lines.join("\n");
    println!("{table}");
    for (letter, reason) in NOTES {
        println!("{letter}: {reason}");
        assert!(table.contains(&format!("–{letter}")), "no cell has the note {letter}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
