//! What a run tells of the metrics of single clients.

use std::sync::atomic::AtomicBool;

use artifacts::Store;
use stages::{device::DeviceChoice, download::HubSettings, session::Session};

use super::*;
use crate::{event::line, toy};

/// Keeps what it is told.
pub(super) struct Heard(pub(super) Vec<Event>);

impl Sink for Heard {
    fn event(&mut self, event: &Event) {
        self.0.push(event.clone());
    }
}

fn run(store: &Store, plan: &Plan) -> (Vec<Event>, Tally) {
    let lease = store.lease().unwrap();
    let hub = HubSettings {
        cache: store.root().join("hub"),
        token: None,
        endpoint: "http://127.0.0.1:9".to_owned(),
        offline: true,
    };
    let (sessions, stop) = ([Session::new(DeviceChoice::Cpu, hub)], AtomicBool::new(false));
    let all = Shop {
        store,
        lease: &lease,
        sessions: &sessions,
        stop: &stop,
        host: "test",
        now: String::new,
    };
    let sizes = Sizes { net: 1, cpu: 1, device: 1 };
    let mut heard = Heard(Vec::new());
    let states = plan.states(Some(store)).unwrap();
    let cohort = Cohort { on_cpu: true, ..Cohort::default() };
    let settings = Settings { sizes, keep_going: false, cohort };
    let tally = execute(plan, states, &all, settings, &mut heard).unwrap();
    (heard.0, tally)
}

/// `(step, name, client, value)` of every metric.
fn metrics(events: &[Event]) -> Vec<(&str, &str, Option<u32>, u64)> {
    let metrics = events.iter().filter_map(|event| match event {
        Event::Metric { step, name, client, value, .. } => {
            Some((step.as_str(), name.as_str(), *client, value.to_bits()))
        }
        _ => None,
    });
    metrics.collect()
}

#[test]
fn metrics_of_clients_are_told_with_their_numbers_when_run_and_when_reused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let plan = Plan::new(vec![toy::variant(Vec::new(), 1)]).unwrap();
    let (first, tally) = run(&store, &plan);
    assert_eq!((tally.ran, tally.reused, tally.failed.len()), (3, 0, 0));
    let expected = [
        ("fed/round-001/client-000", "train_loss", Some(0), 0.5_f64.to_bits()),
        ("score/round-001", "accuracy", None, 0.75_f64.to_bits()),
        ("score/round-001", "accuracy", Some(0), 0.5_f64.to_bits()),
        ("score/round-001", "accuracy", Some(12), 1.0_f64.to_bits()),
    ];
    assert_eq!(metrics(&first), expected);
    let (again, tally) = run(&store, &plan);
    assert_eq!((tally.ran, tally.reused), (0, 3));
    assert_eq!(metrics(&again), expected);

    let lines: Vec<String> = again.iter().map(|event| line(event, 0.0).unwrap()).collect();
    let told = r#""step":"score/round-001","name":"accuracy","value":1.0,"round":1,"client":12,"#;
    assert!(lines.iter().any(|line| line.contains(told)), "{lines:?}");
}
