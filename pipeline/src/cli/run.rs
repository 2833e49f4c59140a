//! `fedpipe run`

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Instant,
};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use stages::{device, session::Session};

use super::{Desk, GraphArgs, hardware::HardwareArgs};
use crate::{
    clock,
    event::{Event, Sink as _},
    execute::{self, Cohort, Settings, Shop, Sizes, Tally},
    failure::{self, Exit, Failure},
    memory::{self, Hardware},
    plan::{Plan, State},
    project::Project,
    table::Table,
    world::World,
};

/// Run a graph
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    graph: GraphArgs,
    #[command(flatten)]
    hardware: HardwareArgs,
    /// After a failure, finish what does not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Ask the Hub again what `main` and other moving revisions mean
    #[arg(long, conflicts_with = "offline")]
    refresh: bool,
    /// Use only what is cached; do not touch the network
    #[arg(long)]
    offline: bool,
}

/// Set by the first Ctrl-C.
static STOP: AtomicBool = AtomicBool::new(false);
/// How many Ctrl-C there were.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

impl Run {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let start = Instant::now();
        let world = desk.world(self.offline)?;
        let project = Project::open(&self.graph.graph, &self.graph.sets, &world)?;
        let session = self.hardware.session(&world);
        // A device that was asked for by name is looked for before anything is written.
        let asked = &self.hardware.device;
        let named = !asked.is_auto() || project.exact();
        let found = if named { device::choose_all(asked)? } else { Vec::new() };
        let device: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        let device = device.join(",");
        let fresh = world.store().is_none();
        let plan = self.resolved_plan(&project, &world, &device)?;
        if fresh {
            let states = plan.states(None)?;
            check_precision(&session, &plan, &states)?;
            project.check_data(&world, &plan, &states)?;
            self.within_memory(&session, &project, &world, &plan, &states)?;
        }
        let store = world.make_store()?;
        // Before the first look at a record: what is found from here on stays.
        let lease = store.lease()?;
        let states = plan.states(Some(store))?;
        if !fresh {
            check_precision(&session, &plan, &states)?;
            project.check_data(&world, &plan, &states)?;
        }
        let lowered = self.within_memory(&session, &project, &world, &plan, &states)?;
        stop_on_signal()?;

        let id = clock::run_id();
        let run = store.new_run(&id, &self.description(&id, &project, &plan, &states))?;
        let mut sink = desk.out.sink(run.journal()?, run.metrics()?, start);
        let host = clock::host();
        let stop = &STOP;
        sink.event(&planned(&id, &states));
        let (sessions, mut settings) = self.settings(session, &states, &plan)?;
        if let Some((most, text)) = lowered.filter(|_| settings.cohort.on_cpu) {
            settings.sizes.device = settings.sizes.device.min(most);
            sink.event(&Event::Note { step: None, text });
        }
        let (sessions, now) = (sessions.as_slice(), clock::now);
        let workshop = Shop { store, lease: &lease, sessions, stop, host: &host, now };
        let tally = execute::execute(&plan, states, &workshop, settings, &mut sink)?;
        if tally.ran > 0 {
            store.sync()?;
        }
        store.stat_cache().save()?;
        let exit = exit_of(&tally);
        if let Some(table) = Table::of(&plan, &tally) {
            sink.event(&Event::Table(table));
        }
        sink.event(&ended(&id, &tally, plan.steps.len(), start));
        sink.close()?;
        if exit == Exit::Usage && tally.ran == 0 {
            // Wrong input found by the first step: as if the command had not been given.
            run.remove()?;
            drop(lease);
            if fresh {
                world.unmake_store()?;
            }
            return Ok(exit);
        }
        let mut description = self.description(&id, &project, &plan, &[]);
        finish(&mut description, &tally, start);
        run.update(&description)?;
        Ok(exit)
    }

    /// The plan, after every moving revision was resolved to a commit.
    fn resolved_plan(
        &self,
        project: &Project,
        world: &World,
        device: &str,
    ) -> Result<Plan, Failure> {
        let plan = project.plan(world, device)?;
        let commits = world.resolve(&plan.revisions(), self.refresh)?;
        if commits.is_empty() {
            return Ok(plan);
        }
        world.make_store()?;
        world.record(&commits)?;
        Ok(project.plan(world, device)?)
    }

    /// On the CPU a step of local training has one thread, so as many run as there are cores; on a GPU one thread owns
    /// the device, and trains whole cohorts. No device is opened for a run that needs none.
    fn settings(
        &self,
        session: Session,
        states: &[State],
        plan: &Plan,
    ) -> Result<(Vec<Session>, Settings), Failure> {
        let jobs = self.hardware.side_by_side();
        let idle = plan.is_idle(states);
        let sessions = if idle { vec![session] } else { session.by_device()? };
        let on_cpu = idle || sessions[0].device()?.is_cpu();
        let device = if on_cpu { jobs } else { sessions.len() };
        let settings = Settings {
            sizes: Sizes { net: 4, cpu: jobs, device },
            keep_going: self.keep_going,
            cohort: Cohort { set: self.hardware.cohort, on_cpu },
        };
        Ok((sessions, settings))
    }

    /// The most steps that can train side by side in the memory that is free, with a word on it, where that is fewer
    /// than there would be otherwise. A cohort on a GPU is made as large as fits.
    fn within_memory(
        &self,
        session: &Session,
        project: &Project,
        world: &World,
        plan: &Plan,
        states: &[State],
    ) -> Result<Option<(usize, String)>, Failure> {
        if plan.is_idle(states) {
            return Ok(None);
        }
        let hardware = self.hardware.on(session.device()?);
        let (bytes, jobs, there) = match &hardware {
            Hardware::Cpu { free: Some(free), jobs, .. } => {
                (*free, *jobs, format!("{} are free", memory::size(*free)))
            }
            Hardware::Gpu { name, memory: Some(bytes), .. } => {
                (*bytes, 1, format!("{name} has {}", memory::size(*bytes)))
            }
            Hardware::Cpu { free: None, .. } | Hardware::Gpu { memory: None, .. } => {
                return Ok(None);
            }
        };
        let needs = project.memory(world, plan, states, hardware.path());
        let fits = match memory::fitting(&needs, bytes, jobs) {
            Ok(fits) if fits == jobs => return Ok(None),
            Ok(fits) => fits,
            Err((stage, demand)) => {
                let takes = memory::size(demand.total(1));
                let failure =
                    Failure::usage(format!("`{stage}` takes about {takes} of memory, and {there}"));
                return Err(demand.mends.iter().fold(failure, |failure, mend| failure.hint(*mend)));
            }
        };
        let room = memory::size(bytes);
        if self.hardware.jobs.is_some() {
            let message = format!("{jobs} steps side by side do not find room in {room} of memory");
            return Err(Failure::usage(message).hint(format!("`-j {fits}` fits")));
        }
        let text = format!("{room} of memory are free, so at most {fits} steps train side by side");
        Ok(Some((fits, text)))
    }

    /// What `run.json` says of the run: enough to do it again, and to find what it made.
    fn description(&self, id: &str, project: &Project, plan: &Plan, states: &[State]) -> Value {
        let known = plan.steps.iter().zip(states);
        let keys: BTreeMap<&str, String> = known
            .filter_map(|(step, state)| Some((step.name.as_str(), state.key()?.to_string())))
            .collect();
        let graphs: BTreeMap<&str, &str> =
            project.texts().map(|(label, text)| (label, text.source.as_str())).collect();
        json!({
            "schema": 1,
            "id": id,
            "graph": self.graph.graph,
            "set": self.graph.sets.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "about": project.loaded.about,
            "version": env!("CARGO_PKG_VERSION"),
            "started": clock::now(),
            "ended": false,
            "steps": plan.steps.len(),
            "keys": keys,
            "effective": graphs,
        })
    }
}

/// Refuses steps that are to run in numbers that the device has not. It is not opened where nothing asks for any.
fn check_precision(session: &Session, plan: &Plan, states: &[State]) -> Result<(), Failure> {
    for (step, state) in plan.steps.iter().zip(states) {
        let precision = step.work.precision();
        if !precision.is_f32() && !matches!(state, State::Reused { .. } | State::Unwanted) {
            precision.check(session.device()?)?;
        }
    }
    Ok(())
}

fn planned(run: &str, states: &[State]) -> Event {
    let count = |is: fn(&State) -> bool| states.iter().filter(|state| is(state)).count();
    Event::Planned {
        run: run.to_owned(),
        steps: states.len(),
        reused: count(|state| matches!(state, State::Reused { .. })),
        to_run: count(|state| matches!(state, State::ToRun { .. })),
        after: count(|state| matches!(state, State::After)),
        unwanted: count(|state| matches!(state, State::Unwanted)),
    }
}

fn ended(run: &str, tally: &Tally, steps: usize, start: Instant) -> Event {
    Event::Ended {
        run: run.to_owned(),
        steps,
        reused: tally.reused,
        ran: tally.ran,
        failed: tally.failed.len(),
        not_run: tally.not_run,
        unwanted: tally.unwanted,
        seconds: start.elapsed().as_secs_f64(),
        stopped: tally.stopped,
    }
}

fn finish(description: &mut Value, tally: &Tally, start: Instant) {
    let keys: BTreeMap<&str, String> =
        tally.keys.iter().map(|(step, key)| (step.as_str(), key.to_string())).collect();
    description["keys"] = json!(keys);
    description["ended"] = json!(true);
    description["reused"] = json!(tally.reused);
    description["ran"] = json!(tally.ran);
    description["failed"] = json!(tally.failed.iter().map(|(step, _)| step).collect::<Vec<_>>());
    description["not_run"] = json!(tally.not_run);
    description["unwanted"] = json!(tally.unwanted);
    description["stopped"] = json!(tally.stopped);
    description["seconds"] = json!(start.elapsed().as_secs_f64());
}

/// The worst that happened decides.
fn exit_of(tally: &Tally) -> Exit {
    if tally.stopped {
        return Exit::Stopped;
    }
    let mut exit = Exit::Done;
    for (_, error) in &tally.failed {
        let this = failure::kind(error);
        if exit == Exit::Done || this == Exit::Store {
            exit = this;
        }
    }
    exit
}

/// The first Ctrl-C lets running steps end and keeps what is done; the second ends the process now,
/// which loses only what was running.
fn stop_on_signal() -> Result<(), Failure> {
    let handler = || {
        if SIGNALS.fetch_add(1, Ordering::Relaxed) > 0 {
            leave_now();
        }
        STOP.store(true, Ordering::Relaxed);
    };
    Ok(ctrlc::set_handler(handler).context("cannot listen for Ctrl-C")?)
}

#[expect(clippy::exit, reason = "the user asked twice, and the store is safe against a kill")]
fn leave_now() {
    std::process::exit(Exit::Stopped as i32)
}
