//! Steps that are run together: each has its own record, and what one of them does is its own affair.

use std::sync::{Arc, atomic::AtomicBool};

use artifacts::Store;
use serde::Serialize;
use stages::{
    device::DeviceChoice,
    download::HubSettings,
    kinds::Adapter,
    session::Session,
    stage::{Stage, Work},
    unroll,
};

use super::{tests::Heard, *};
use crate::plan::Variant;

/// A client that tells how many it was run with.
#[derive(Serialize)]
struct Client {
    number: u32,
    /// Whether it fails, and all that are run with it.
    bad: bool,
    /// Whether it breaks down instead.
    panics: bool,
    round: u32,
}

impl Stage for Client {
    const NAME: &'static str = "client";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn run(&self, cx: &mut stages::stage::Context<'_>) -> stages::Result<()> {
        <Self as Stage>::run_together(&[self], std::slice::from_mut(cx))
    }

    fn cohort(&self, _: &dyn Fn(&str) -> Option<Digest>) -> Option<String> {
        Some(self.round.to_string())
    }

    fn most_together(steps: &[&Self], _: &[stages::stage::Context<'_>]) -> stages::Result<usize> {
        Ok(if steps.len() > 5 { 5 } else { steps.len() })
    }

    fn run_together(steps: &[&Self], cxs: &mut [stages::stage::Context<'_>]) -> stages::Result<()> {
        if cxs[0].stopped() {
            return Err(Error::Stopped);
        }
        for (step, cx) in steps.iter().zip(&mut *cxs) {
            cx.metric("together", steps.len() as f64);
            cx.write_json("adapter.json", &step.number)?;
        }
        assert!(!steps.iter().any(|step| step.panics), "all broke down");
        match steps.iter().find(|step| step.bad) {
            Some(bad) => Err(Error::failed(format!("client {} is bad", bad.number))),
            None => Ok(()),
        }
    }
}

fn plan(clients: &[(u32, bool, bool)]) -> Plan {
    let step = |&(number, bad, panics): &(u32, bool, bool)| unroll::Step {
        name: format!("client-{number}"),
        work: Arc::new(Client { number, bad, panics, round: number / 100 }) as Arc<dyn Work>,
        round: Some(1),
        client: Some(number),
        moving: None,
        unresolved: false,
    };
    let steps = clients.iter().map(step).collect();
    let outputs = BTreeMap::new();
    let variant = Variant {
        label: String::new(),
        settings: Vec::new(),
        steps,
        outputs,
        stops: Vec::new(),
        device: None,
    };
    Plan::new(vec![variant]).unwrap()
}

/// Runs the plan with `workers` and returns for each step that is done how many it was run with.
fn run(
    plan: &Plan,
    cohort: Cohort,
    workers: usize,
    stop: bool,
) -> (Vec<Option<f64>>, Tally, Vec<Event>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let lease = store.lease().unwrap();
    let (token, endpoint) = (None, "http://127.0.0.1:9".to_owned());
    let hub = HubSettings { cache: dir.path().join("hub"), token, endpoint, offline: true };
    let sessions = [Session::new(DeviceChoice::Cpu, hub)];
    let stop = AtomicBool::new(stop);
    let all = Shop {
        store: &store,
        lease: &lease,
        sessions: &sessions,
        stop: &stop,
        host: "test",
        now: String::new,
    };
    let mut heard = Heard(Vec::new());
    let states = plan.states(Some(&store)).unwrap();
    let sizes = Sizes { net: 1, cpu: 1, device: workers };
    let settings = Settings { sizes, keep_going: true, cohort };
    let tally = execute(plan, states, &all, settings, &mut heard).unwrap();
    let together = tally.figures.iter().map(|figures| Some(figures.as_ref()?.metrics["together"]));
    (together.collect(), tally, heard.0)
}

fn good(numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, bool, bool)> {
    numbers.into_iter().map(|number| (number, false, false)).collect()
}

fn set(most: usize) -> Cohort {
    Cohort { set: std::num::NonZeroUsize::new(most), on_cpu: true }
}

#[test]
fn clients_of_one_round_are_run_together_and_each_has_its_record() {
    let plan = plan(&good([0, 1, 2, 3, 100, 101]));
    let (together, tally, events) = run(&plan, set(8), 1, false);
    assert_eq!(together, [4.0, 4.0, 4.0, 4.0, 2.0, 2.0].map(Some));
    assert_eq!((tally.ran, tally.keys.len()), (6, 6));
    let keys: BTreeSet<_> = tally.keys.values().collect();
    assert_eq!(keys.len(), 6, "a key of its own for each");
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    assert_eq!(count(|event| matches!(event, Event::Started { device: Some(_), .. })), 6);
    assert_eq!(count(|event| matches!(event, Event::Finished { .. })), 6);
}

#[test]
fn a_cohort_is_no_larger_than_set_or_than_fits_or_than_a_worker_s_share() {
    let six = plan(&good(0..6));
    assert_eq!(run(&six, set(4), 1, false).0, [4.0, 4.0, 4.0, 4.0, 2.0, 2.0].map(Some));
    let of = |on_cpu| Cohort { set: None, on_cpu };
    assert_eq!(run(&six, of(true), 1, false).0, [1.0; 6].map(Some), "on the CPU side by side");
    let fitting = [5.0, 5.0, 5.0, 5.0, 5.0, 1.0].map(Some);
    assert_eq!(run(&six, of(false), 1, false).0, fitting, "five fit the device");
    let (shared, ..) = run(&six, set(32), 2, false);
    let most = shared.into_iter().flatten().fold(0.0, f64::max);
    assert!((most - 3.0).abs() < f64::EPSILON, "two workers share six: {most}");
}

#[test]
fn one_that_fails_fails_alone() {
    for (bad, panics) in [(true, false), (false, true)] {
        let mut clients = good(0..8);
        clients[5] = (5, bad, panics);
        let (together, tally, events) = run(&plan(&clients), set(8), 1, false);
        assert_eq!(together[..4], [4.0; 4].map(Some), "the half without it");
        assert_eq!(together[4..], [Some(1.0), None, Some(2.0), Some(2.0)]);
        assert_eq!(tally.failed.len(), 1);
        assert_eq!(tally.failed[0].0, "client-5");
        assert_eq!(tally.ran, 7);
        let started = events.iter().filter(|event| matches!(event, Event::Started { .. })).count();
        assert_eq!(started, 8, "each is begun once, however often it is tried");
        assert!(events.iter().any(|event| matches!(
            event, Event::Note { text, .. } if text.contains("8 steps were run together")
        )));
    }
}

#[test]
fn a_stop_ends_all_of_a_cohort_and_nothing_of_it_is_kept() {
    let (together, tally, _) = run(&plan(&good(0..4)), set(4), 1, true);
    assert_eq!(together, [None; 4]);
    assert_eq!((tally.ran, tally.failed.len(), tally.not_run), (0, 0, 4));
    assert!(tally.stopped);
}

/// Several workers take from one queue, and all is done whatever the order.
#[test]
fn many_cohorts_on_many_workers_are_all_done() {
    let clients = good((0..6).flat_map(|round| (0..9).map(move |client| round * 100 + client)));
    let (together, tally, _) = run(&plan(&clients), set(4), 3, false);
    assert_eq!(tally.ran, 54);
    assert!(together.iter().flatten().all(|k| (1.0..=4.0).contains(k)));
}
