//! Steps on one worker: one alone, or those of a cohort together, each still with its own record.

use std::{
    any::Any,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use stages::{
    cohort::MOST,
    device_failure,
    error::Error,
    memory::OutOfMemory,
    stage::{Context, Needs, Report as _, Work},
};

use crate::memory;

use super::work::{Bench, Job, Message, Told, publish};

/// What helps where the memory is used up.
const LESS: &str = "set a smaller `local.batch` and a larger `local.accumulate`, or `local.checkpoint: Block`, or run \
                    fewer steps side by side with `-j`; nothing that was done is lost";

/// How many steps that may be run together are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cohort {
    /// What the user set; otherwise as many as the device's memory takes.
    pub set: Option<NonZeroUsize>,
    /// Whether the CPU trains: there clients run side by side, a thread each, and not together.
    pub on_cpu: bool,
}

impl Cohort {
    /// The most that a worker takes at once.
    pub(super) fn most(self) -> usize {
        let most = if self.on_cpu { 1 } else { MOST };
        self.set.map_or(most, NonZeroUsize::get)
    }
}

/// Runs `jobs`, of one cohort, in as large groups as fit, and tells how each went.
pub(super) fn perform(jobs: &[Job], bench: &Bench<'_>, cohort: Cohort) {
    let mut rest = jobs;
    while !rest.is_empty() {
        let fit = match cohort.set {
            None if rest.len() > 1 => fitting(rest, bench),
            _ => rest.len(),
        };
        let (now, later) = rest.split_at(fit.clamp(1, rest.len()));
        begin(now, bench);
        rest = later;
    }
}

/// How many of `jobs`, from the first, are run at once. Where that cannot be told, what it is that is wrong shows when
/// they are run.
fn fitting(jobs: &[Job], bench: &Bench<'_>) -> usize {
    let told: Vec<Told> = jobs.iter().map(|job| told(job, bench)).collect();
    let contexts = contexts(jobs, &told, bench);
    contexts.and_then(|cxs| jobs[0].work.most_together(&works(jobs), &cxs)).unwrap_or(jobs.len())
}

/// Says that `jobs` are begun, and runs them.
fn begin(jobs: &[Job], bench: &Bench<'_>) {
    match device(jobs, bench) {
        Ok(device) => {
            for job in jobs {
                bench.send(Message::Started { step: job.step, device: device.clone() });
            }
            together(jobs, device.as_deref(), bench);
        }
        Err(error) => {
            let text = error.to_string();
            end_all(jobs, bench, error, || Error::failed(&text));
        }
    }
}

/// Runs `jobs` at once. If that fails, each half of them is tried by itself, so that in the end only those fail that
/// fail alone, and a cohort that was too large for the device becomes a smaller one.
fn together(jobs: &[Job], device: Option<&str>, bench: &Bench<'_>) {
    let told: Vec<Told> = jobs.iter().map(|job| told(job, bench)).collect();
    let start = Instant::now();
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let mut cxs = contexts(jobs, &told, bench)?;
        match jobs {
            [job] => job.work.run(&mut cxs[0])?,
            _ => jobs[0].work.run_together(&works(jobs), &mut cxs)?,
        }
        Ok(cxs.into_iter().map(Context::finish).collect::<Vec<_>>())
    }));
    let attempt = attempt.unwrap_or_else(|panic| Err(broken(&*panic)));
    match attempt.map_err(|error| on_device(error, jobs, bench)) {
        Ok(finished) => {
            // What was done together took each of them its share of the time.
            let seconds = start.elapsed().as_secs_f64() / jobs.len() as f64;
            for ((job, made), told) in jobs.iter().zip(finished).zip(&told) {
                let made =
                    publish(job, bench.shop, made, (seconds, device.map(str::to_owned)), told);
                bench.send(Message::Ended { step: job.step, result: made });
            }
        }
        Err(error) => match (jobs, error) {
            ([job], error) => bench.send(Message::Ended { step: job.step, result: Err(error) }),
            (jobs, Error::Stopped) => end_all(jobs, bench, Error::Stopped, || Error::Stopped),
            (jobs, error) => {
                told[0].note(&format!(
                    "{} steps were run together, and {error}; each half of them is tried by itself",
                    jobs.len()
                ));
                let (left, right) = jobs.split_at(jobs.len() / 2);
                if let Ok(found) = bench.session.device() {
                    found.calm();
                }
                together(left, device, bench);
                together(right, device, bench);
            }
        },
    }
}

/// Ends all of `jobs` with an error, the first with `error` itself.
fn end_all(jobs: &[Job], bench: &Bench<'_>, error: Error, again: impl Fn() -> Error) {
    let errors = std::iter::once(error).chain(std::iter::repeat_with(again));
    for (job, error) in jobs.iter().zip(errors) {
        bench.send(Message::Ended { step: job.step, result: Err(error) });
    }
}

fn works(jobs: &[Job]) -> Vec<&dyn Work> {
    jobs.iter().map(|job| &*job.work).collect()
}

fn told(job: &Job, bench: &Bench<'_>) -> Told {
    Told { step: job.step, tell: bench.tell.clone() }
}

/// A context with an empty draft for each job.
fn contexts<'a>(
    jobs: &'a [Job],
    told: &'a [Told],
    bench: &'a Bench<'_>,
) -> Result<Vec<Context<'a>>, Error> {
    let shop = bench.shop;
    let each = jobs.iter().zip(told).map(|(job, told)| {
        let draft = shop.store.draft(shop.lease)?;
        Ok(Context::new(shop.store, bench.session, &job.inputs, told, shop.stop, draft))
    });
    each.collect()
}

/// The device that `jobs` run on, if they need one.
fn device(jobs: &[Job], bench: &Bench<'_>) -> Result<Option<String>, Error> {
    Ok(match jobs[0].work.needs() {
        Needs::Device => Some(bench.session.device()?.to_string()),
        Needs::Net | Needs::Cpu => None,
    })
}

/// What a panic says, as an error.
fn broken(panic: &(dyn Any + Send)) -> Error {
    if let Some(OutOfMemory { bytes }) = panic.downcast_ref() {
        let more = memory::size(*bytes as u64);
        return Error::failed(format!("the memory is used up: {more} more were asked for"))
            .with_hint(LESS);
    }
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::failed(format!(
        "the step broke down: {}",
        text.unwrap_or_else(|| "no reason given".into())
    ))
    .with_hint("this is a fault of fedpipe; nothing that was done is lost")
}

/// `error` in the words of [`device_failure`], where it is the device's own.
fn on_device(error: Error, jobs: &[Job], bench: &Bench<'_>) -> Error {
    if !matches!(error, Error::Failed { .. }) || jobs[0].work.needs() != Needs::Device {
        return error;
    }
    let name = bench.session.device().map_or_else(|_| String::new(), |found| found.name.clone());
    device_failure::explain(&name, &error.to_string()).unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_up_is_no_fault_of_fedpipe() {
        let error = broken(&OutOfMemory { bytes: 3 << 30 });
        assert_eq!(error.to_string(), "the memory is used up: 3.0 GiB more were asked for");
        assert_eq!(error.hint(), Some(LESS));
        let error = broken(&"a bug".to_owned());
        assert_eq!(error.to_string(), "the step broke down: a bug");
    }
}
