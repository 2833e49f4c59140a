//! Stages that do nothing, for tests of plans and of execution.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use stages::{
    edge::In,
    error::Result,
    kinds::{Adapter, Scores},
    stage::{Context, Stage, Work},
    stop::{Mode, Stop, StopRule},
    unroll::Step,
};

use crate::plan::Variant;

#[derive(Serialize)]
struct Train {
    seed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<In<Adapter>>,
}

impl Stage for Train {
    const NAME: &'static str = "train";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        cx.metric("train_loss", 0.5);
        cx.write_json("adapter.json", &self.seed)
    }
}

#[derive(Serialize)]
struct Aggregate {
    rule: String,
    client: In<Adapter>,
}

impl Stage for Aggregate {
    const NAME: &'static str = "aggregate";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        cx.write_json("adapter.json", &self.rule)
    }
}

#[derive(Serialize)]
struct Evaluate {
    adapter: In<Adapter>,
}

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 1;
    type Output = Scores;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        cx.metric("accuracy", 0.75);
        cx.client_metric(0, "accuracy", 0.5);
        cx.client_metric(12, "accuracy", 1.0);
        cx.write_json("scores.json", &0)
    }
}

/// A federation of one client, whose training has the setting `seed` and whose aggregation `fed.rule`, scored after every
/// round; a rule of great patience says when it stops.
pub(crate) fn variant(settings: Vec<(String, String)>, rounds: u32) -> Variant {
    let set = |wanted: &str| {
        let found = settings.iter().find(|(path, _)| path == wanted);
        found.map_or_else(String::new, |(_, value)| value.clone())
    };
    let mut steps: Vec<Step> = Vec::new();
    let mut outputs = BTreeMap::new();
    let mut add = |name: String, work: Arc<dyn Work>, round: u32, client: Option<u32>| {
        outputs.insert(name.clone(), steps.len());
        let (round, moving, unresolved) = (Some(round), None, false);
        steps.push(Step { name, work, round, client, moving, unresolved });
    };
    let mut from = None;
    for round in 1..=rounds {
        let [server, client] = ["", "/client-000"].map(|end| format!("fed/round-{round:03}{end}"));
        add(client.clone(), Arc::new(Train { seed: set("seed"), from }), round, Some(0));
        let client = In::named(client);
        add(server.clone(), Arc::new(Aggregate { rule: set("fed.rule"), client }), round, None);
        from = Some(In::named(server));
    }
    for round in 1..=rounds {
        let adapter = In::named(format!("fed/round-{round:03}"));
        add(format!("score/round-{round:03}"), Arc::new(Evaluate { adapter }), round, None);
    }
    let rule = StopRule {
        on: In::named("score"),
        metric: "accuracy".to_owned(),
        patience: 1000,
        min_delta: 0.0,
        mode: Mode::Max,
    };
    let rules = vec![Stop { of: "fed".to_owned(), rule }];
    let parts: Vec<String> =
        settings.iter().map(|(path, value)| format!("{path}={value}")).collect();
    Variant { label: parts.join(", "), settings, steps, outputs, stops: rules, device: None }
}
