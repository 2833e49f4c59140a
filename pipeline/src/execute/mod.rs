//! Runs what a plan asks for: finds what is ready, hands it to the pools, and takes up what follows.

mod cohort;
mod pools;
mod status;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{atomic::Ordering, mpsc},
};

use anyhow::Result;
use artifacts::{Digest, Found};
use stages::{
    error::Error,
    metric,
    session::Session,
    stage::{Needs, Place},
};

pub use cohort::Cohort;
pub use pools::Sizes;
pub use status::{Output, Status};
pub use work::Shop;

use crate::{
    event::{Event, Sink},
    plan::{Leads, Places, Plan, State, Step},
    stopping::{self, Gate, News, Verdicts},
};
use pools::Queue;
use work::{Bench, Job, Made, Message};

/// How a run goes about it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Sizes of the pools.
    pub sizes: Sizes,
    /// Whether to finish what does not depend on a failed step.
    pub keep_going: bool,
    /// How many steps of one cohort may be run together.
    pub cohort: Cohort,
}

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Tally {
    /// Steps whose results were there.
    pub reused: usize,
    /// Steps that ran.
    pub ran: usize,
    /// Steps that failed, with why.
    pub failed: Vec<(String, Error)>,
    /// Steps that were not run, because of a failure or a stop.
    pub not_run: usize,
    /// Steps of rounds after the one at which their federation stopped.
    pub unwanted: usize,
    /// Whether the user stopped it.
    pub stopped: bool,
    /// The key of every step whose key became known.
    pub keys: BTreeMap<String, Digest>,
    /// The figures of every step of the plan that is done.
    pub figures: Vec<Option<Figures>>,
    /// For each rule of the plan the round after which it stopped.
    pub stopped_after: Vec<Option<u32>>,
}

/// What a done step measured, now or when its record was made.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Its metrics.
    pub metrics: BTreeMap<String, f64>,
    /// Wall time (seconds).
    pub seconds: f64,
}

/// Runs all steps of `plan` that have no record. `states` is what the plan knows of them.
///
/// # Errors
/// The store cannot be read. A step's own failure is in the tally.
pub fn execute(
    plan: &Plan,
    states: Vec<State>,
    shop: &Shop<'_>,
    settings: Settings,
    sink: &mut dyn Sink,
) -> Result<Tally> {
    let queues: BTreeMap<Needs, (Queue<Job>, usize)> = settings
        .sizes
        .all()
        .into_iter()
        .map(|(needs, size)| (needs, (Queue::default(), size)))
        .collect();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for (needs, (queue, size)) in &queues {
            for seat in 0..*size {
                let tell = tell.clone();
                let session = &shop.sessions[seat % shop.sessions.len()];
                let worker = Worker { needs: *needs, session, shop, settings, tell };
                scope.spawn(move || worker.live(queue));
            }
        }
        let mut coordinator = Coordinator::new(plan, shop, settings, &queues, sink);
        let result = coordinator.run(states, &told);
        for (queue, _) in queues.values() {
            queue.drain();
            queue.close();
        }
        result?;
        Ok(coordinator.tally())
    })
}

/// One that takes jobs from a queue, on a thread of its own.
struct Worker<'a> {
    needs: Needs,
    session: &'a Session,
    shop: &'a Shop<'a>,
    settings: Settings,
    tell: mpsc::Sender<Message>,
}

impl Worker<'_> {
    /// A worker's life. On the CPU each device worker has a rayon pool of one thread to itself: two clients on a thread
    /// each are faster than two threads on one client, and sums never depend on how many threads there are. On a GPU
    /// this thread is the one that gives it work, from the first step to the last: it owns a queue of the device's and
    /// the memory behind it.
    fn live(&self, queue: &Queue<Job>) {
        let workers = self.settings.sizes.of(self.needs);
        let together = |job: &Job, other: &Job| job.cohort.is_some() && job.cohort == other.cohort;
        loop {
            let on_device = self.needs == Needs::Device;
            let most = if on_device { self.settings.cohort.most() } else { 1 };
            let Some(jobs) = queue.pop(most, workers, together) else { return };
            if on_device && self.settings.cohort.on_cpu {
                Session::on_one_thread(|| self.perform(&jobs));
            } else {
                self.perform(&jobs);
            }
        }
    }

    fn perform(&self, jobs: &[Job]) {
        let bench = Bench { shop: self.shop, session: self.session, tell: &self.tell };
        cohort::perform(jobs, &bench, self.settings.cohort);
    }
}

struct Coordinator<'a> {
    plan: &'a Plan,
    shop: &'a Shop<'a>,
    settings: Settings,
    queues: &'a BTreeMap<Needs, (Queue<Job>, usize)>,
    sink: &'a mut dyn Sink,
    places: Places<'a>,
    status: Vec<Status>,
    outputs: Vec<Option<Output>>,
    /// The key under which each step was last looked up or run.
    keys: Vec<Option<Digest>>,
    /// Steps whose bytes were pruned and are needed again.
    again: Vec<bool>,
    reused: Vec<bool>,
    figures: Vec<Option<Figures>>,
    dependents: Vec<Vec<usize>>,
    /// Steps of other names with the key of one that is queued or running.
    followers: BTreeMap<Digest, Vec<usize>>,
    /// What the scores so far say of which rounds are wanted.
    verdicts: Verdicts<'a>,
    /// Records that this run has touched.
    touched: BTreeSet<Digest>,
    pending: VecDeque<usize>,
    /// Jobs that are ready, until all that are ready with them are known: then a cohort is seen whole.
    ready: BTreeMap<Needs, Vec<Job>>,
    in_flight: usize,
    failed: Vec<(String, Error)>,
    halted: bool,
}

impl<'a> Coordinator<'a> {
    fn new(
        plan: &'a Plan,
        shop: &'a Shop<'a>,
        settings: Settings,
        queues: &'a BTreeMap<Needs, (Queue<Job>, usize)>,
        sink: &'a mut dyn Sink,
    ) -> Self {
        let n = plan.steps.len();
        let mut dependents = vec![Vec::new(); n];
        for (i, step) in plan.steps.iter().enumerate() {
            for dep in &step.deps {
                if dependents[dep.step].last() != Some(&i) {
                    dependents[dep.step].push(i);
                }
            }
        }
        Self {
            plan,
            shop,
            settings,
            queues,
            sink,
            places: Places::new(Some(shop.store)),
            status: vec![Status::Unknown; n],
            outputs: vec![None; n],
            keys: vec![None; n],
            again: vec![false; n],
            reused: vec![false; n],
            figures: vec![None; n],
            dependents,
            followers: BTreeMap::new(),
            verdicts: Verdicts::new(&plan.stops),
            touched: BTreeSet::new(),
            pending: VecDeque::new(),
            ready: BTreeMap::new(),
            in_flight: 0,
            failed: Vec::new(),
            halted: false,
        }
    }

    fn run(&mut self, states: Vec<State>, told: &mpsc::Receiver<Message>) -> Result<()> {
        for (i, state) in states.into_iter().enumerate() {
            if let State::Reused { key, found } = state {
                self.keys[i] = Some(key);
                self.reuse(i, key, &found);
            }
        }
        self.pending.extend(0..self.plan.steps.len());
        self.settle_pending()?;
        while self.in_flight > 0 {
            // The senders live in the workers, which live until the queues are closed.
            let Ok(message) = told.recv() else { break };
            self.hear(message)?;
            if self.shop.stop.load(Ordering::Relaxed) {
                self.halt();
            }
            self.settle_pending()?;
        }
        Ok(())
    }

    fn settle_pending(&mut self) -> Result<()> {
        while let Some(i) = self.pending.pop_front() {
            self.settle(i)?;
        }
        for (needs, jobs) in std::mem::take(&mut self.ready) {
            self.queues[&needs].0.push(jobs);
        }
        Ok(())
    }

    /// Takes a step as far as it can go now.
    fn settle(&mut self, i: usize) -> Result<()> {
        if !matches!(self.status[i], Status::Unknown | Status::Wanted) || self.halted {
            return Ok(());
        }
        let step = &self.plan.steps[i];
        if self.verdicts.gate(&step.stops) != Gate::Open {
            return Ok(());
        }
        let Some(inputs) = self.inputs(i)? else { return Ok(()) };
        let resolve = |name: &str| inputs.get(name).map(Place::digest);
        let key = step.action().key(&resolve)?;
        self.keys[i] = Some(key);
        if !self.again[i]
            && let Some(found) = self.shop.store.find(&key)?
        {
            self.reuse(i, key, &found);
            self.pending.extend(&self.dependents[i]);
            return Ok(());
        }
        if self.made_elsewhere(i, key) || !self.bytes_are_there(i, &inputs)? {
            return Ok(());
        }
        let manifest = step.action().manifest(&resolve);
        self.status[i] = Status::Queued;
        self.in_flight += 1;
        self.followers.insert(key, Vec::new());
        let (work, again) = (step.work.clone(), self.again[i]);
        let cohort = work.cohort(&|name| inputs.get(name).map(Place::digest));
        let job = Job { step: i, work, key, manifest, inputs, again, cohort };
        self.ready.entry(step.work.needs()).or_default().push(job);
        Ok(())
    }

    /// Where the step's edges lead, or `None` if that is not known yet or never will be.
    fn inputs(&mut self, i: usize) -> Result<Option<BTreeMap<String, Place>>> {
        let plan = self.plan;
        let step: &Step = &plan.steps[i];
        if step.deps.iter().any(|dep| !self.status[dep.step].is_done()) {
            return Ok(None);
        }
        let mut inputs = BTreeMap::new();
        for dep in &step.deps {
            let Some(output) = &self.outputs[dep.step] else { return Ok(None) };
            match self.places.find(output.tree, output.listing.as_ref(), dep.part.as_deref())? {
                Leads::To(place) => drop(inputs.insert(dep.edge.clone(), place)),
                Leads::NoEntry { entries } => {
                    let error = no_entry(&plan.steps[dep.step].name, dep.part.as_deref(), &entries);
                    self.fail(i, error);
                    return Ok(None);
                }
                Leads::Pruned => {
                    self.status[i] = Status::Wanted;
                    self.make_again(dep.step);
                    return Ok(None);
                }
            }
        }
        Ok(Some(inputs))
    }

    /// Whether a step of another name is doing this very work; then this one waits for it.
    fn made_elsewhere(&mut self, i: usize, key: Digest) -> bool {
        match self.followers.get_mut(&key) {
            Some(followers) => {
                followers.push(i);
                self.status[i] = Status::Queued;
                true
            }
            None => false,
        }
    }

    /// Whether the bytes of all inputs are in the store; those that were pruned are made again. The
    /// records are touched before, so that the collector leaves alone what is found.
    fn bytes_are_there(&mut self, i: usize, inputs: &BTreeMap<String, Place>) -> Result<bool> {
        let mut there = true;
        let plan = self.plan;
        for dep in &plan.steps[i].deps {
            let kept = match self.keys[dep.step] {
                Some(key) => self.touched(key)?,
                None => false,
            };
            if !kept || !self.is_there(inputs[&dep.edge])? {
                there = false;
                self.status[i] = Status::Wanted;
                self.make_again(dep.step);
            }
        }
        Ok(there)
    }

    fn touched(&mut self, key: Digest) -> Result<bool> {
        if self.touched.contains(&key) {
            return Ok(true);
        }
        let kept = self.shop.store.touch(&key)?;
        if kept {
            self.touched.insert(key);
        }
        Ok(kept)
    }

    fn is_there(&self, place: Place) -> Result<bool> {
        let store = self.shop.store;
        Ok(match place {
            Place::Entry(blob) => store.has(&blob),
            Place::Tree(at) => match store.tree(&at)? {
                Some(tree) => tree.iter().all(|(_, blob)| store.has(&blob)),
                None => false,
            },
        })
    }

    fn make_again(&mut self, i: usize) {
        if self.status[i].is_done() {
            self.status[i] = Status::Unknown;
            self.again[i] = true;
            self.pending.push_back(i);
        }
    }

    fn reuse(&mut self, i: usize, key: Digest, found: &Found) {
        self.status[i] = Status::Done;
        self.reused[i] = true;
        self.outputs[i] = Some(Output::found(found));
        let step = &self.plan.steps[i];
        self.sink.event(&Event::Reused {
            step: step.name.clone(),
            key: key.to_string(),
            stage: step.work.stage().to_owned(),
        });
        self.measure(i, &found.metrics, found.seconds);
        self.judge(i, &found.metrics);
    }

    fn measure(&mut self, i: usize, metrics: &BTreeMap<String, f64>, seconds: f64) {
        self.figures[i] = Some(Figures { metrics: metrics.clone(), seconds });
        let step = &self.plan.steps[i];
        for (kept, value) in metrics {
            let (client, name) = metric::split(kept);
            self.sink.event(&Event::Metric {
                step: step.name.clone(),
                name: name.to_owned(),
                value: *value,
                round: step.round,
                client: client.or(step.client),
                variant: step.variant.clone(),
            });
        }
    }

    /// Lets the rules know of a score, and takes up the steps that waited for it.
    fn judge(&mut self, i: usize, metrics: &BTreeMap<String, f64>) {
        let plan = self.plan;
        match self.verdicts.take(i, metrics) {
            Ok(News { stopped, decided }) => {
                for (rule, round) in stopped {
                    let rule = &plan.stops[rule];
                    if round < rule.rounds() {
                        let step = Some(stopping::subject(rule, &plan.steps));
                        self.sink.event(&Event::Note { step, text: rule.sentence(round) });
                    }
                }
                self.pending.extend(decided);
            }
            Err(error) => self.fail(i, error),
        }
    }

    fn hear(&mut self, message: Message) -> Result<()> {
        match message {
            Message::Started { step, device } => {
                self.status[step] = Status::Running;
                let it = &self.plan.steps[step];
                self.sink.event(&Event::Started {
                    step: it.name.clone(),
                    key: self.keys[step].map(|key| key.to_string()).unwrap_or_default(),
                    stage: it.work.stage().to_owned(),
                    device,
                });
            }
            Message::Progress { step, done, total, unit } => {
                let step = self.plan.steps[step].name.clone();
                self.sink.event(&Event::Progress { step, done, total, unit });
            }
            Message::Note { step, text } => {
                let step = Some(self.plan.steps[step].name.clone());
                self.sink.event(&Event::Note { step, text });
            }
            Message::Ended { step, result } => {
                self.in_flight -= 1;
                let followers = self.keys[step].and_then(|key| self.followers.remove(&key));
                let followers = followers.unwrap_or_default();
                match result {
                    Ok(made) => self.made(step, &followers, &made)?,
                    Err(error) => self.not_made(step, &followers, error),
                }
            }
        }
        Ok(())
    }

    fn made(&mut self, i: usize, followers: &[usize], made: &Made) -> Result<()> {
        let step = &self.plan.steps[i];
        let key = self.keys[i].map(|key| key.to_string()).unwrap_or_default();
        self.sink.event(&Event::Finished {
            step: step.name.clone(),
            key,
            stage: step.work.stage().to_owned(),
            seconds: made.seconds,
            bytes: made.bytes,
        });
        self.measure(i, &made.metrics, made.seconds);
        self.done(i, made, false)?;
        self.judge(i, &made.metrics);
        for &follower in followers {
            self.status[follower] = Status::Unknown;
            self.pending.push_back(follower);
        }
        Ok(())
    }

    fn done(&mut self, i: usize, made: &Made, reused: bool) -> Result<()> {
        let changed = self.outputs[i].as_ref().is_some_and(|before| before.tree != made.tree);
        self.status[i] = Status::Done;
        self.reused[i] = reused;
        self.again[i] = false;
        self.outputs[i] = Some(Output { tree: made.tree, listing: Some(made.listing.clone()) });
        for d in self.dependents[i].clone() {
            if changed && self.status[d].is_done() && self.key_changed(d)? {
                self.status[d] = Status::Unknown;
            }
            self.pending.push_back(d);
        }
        Ok(())
    }

    /// Whether a done step would now have another key, because an input was made anew otherwise.
    fn key_changed(&mut self, i: usize) -> Result<bool> {
        let Some(inputs) = self.inputs(i)? else { return Ok(true) };
        let key = self.plan.steps[i].action().key(&|name| inputs.get(name).map(Place::digest))?;
        Ok(self.keys[i] != Some(key))
    }

    fn not_made(&mut self, i: usize, followers: &[usize], error: Error) {
        for &follower in followers {
            self.status[follower] = Status::Unknown;
        }
        if matches!(error, Error::Stopped) {
            self.status[i] = Status::Unknown;
            self.halt();
        } else {
            self.fail(i, error);
        }
    }

    fn fail(&mut self, i: usize, error: Error) {
        self.status[i] = Status::Failed;
        let step = self.plan.steps[i].name.clone();
        self.sink.event(&Event::Failed {
            step: step.clone(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        });
        self.failed.push((step, error));
        if !self.settings.keep_going {
            self.halt();
        }
    }

    /// Begins nothing more; what runs is waited for.
    fn halt(&mut self) {
        self.halted = true;
        let queued = self.queues.values().flat_map(|(queue, _)| queue.drain());
        let ready = std::mem::take(&mut self.ready).into_values().flatten();
        for job in queued.chain(ready) {
            self.status[job.step] = Status::Unknown;
            self.in_flight -= 1;
        }
    }

    fn tally(self) -> Tally {
        let done = self.status.iter().filter(|status| status.is_done()).count();
        let reused = (self.status.iter().zip(&self.reused))
            .filter(|(status, reused)| status.is_done() && **reused)
            .count();
        let is_unwanted = |(status, step): &(&Status, &Step)| {
            matches!(status, Status::Unknown) && self.verdicts.gate(&step.stops) == Gate::Closed
        };
        let unwanted = self.status.iter().zip(&self.plan.steps).filter(is_unwanted).count();
        let named = self.plan.steps.iter().zip(&self.keys);
        Tally {
            reused,
            ran: done - reused,
            not_run: self.status.len() - done - self.failed.len() - unwanted,
            unwanted,
            failed: self.failed,
            stopped: self.shop.stop.load(Ordering::Relaxed),
            stopped_after: self.verdicts.stopped_after().to_vec(),
            figures: self.figures,
            keys: named.filter_map(|(s, key)| Some((s.name.clone(), (*key)?))).collect(),
        }
    }
}

fn no_entry(step: &str, part: Option<&str>, entries: &[String]) -> Error {
    let there: Vec<_> = entries.iter().map(|entry| format!("`{entry}`")).collect();
    Error::input(format!(
        "`{step}` made no `{}`, only {}",
        part.unwrap_or_default(),
        there.join(", ")
    ))
}

#[cfg(test)]
mod cohort_tests;
#[cfg(test)]
mod tests;
