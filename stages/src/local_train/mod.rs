//! Local training: some clients' adapters over one frozen base, by their own examples.
//!
//! A pure function of the base, the adapters, the examples, the numbers and the seeds. How many clients are
//! trained in one pass is a matter of speed: each gets the gradient that it would get alone.

mod adamw;
mod batches;
mod cohort;
mod control;
#[cfg(test)]
mod control_tests;
#[cfg(test)]
mod core_tests;
#[cfg(all(test, any(feature = "cuda", feature = "wgpu")))]
mod device_tests;
mod error;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod frozen_tests;
mod loss;
mod member;
mod numbers;
#[cfg(test)]
mod objective_tests;
#[cfg(test)]
mod precision_tests;
#[cfg(test)]
mod prefix_tests;
mod prune;
#[cfg(test)]
mod prune_tests;
mod schedule;
mod sgd;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use burn::tensor::Tensor;

pub use batches::Batches;
pub use cohort::Trainer;
pub use control::{Control, ControlError};
pub use error::TrainError;
pub use member::{Client, trained_parts};
pub use numbers::{Checkpoint, LocalNumbers, MOST_BATCH, NumbersError, Optimizer};
pub use prune::{Prune, PruneError};

use crate::fit;
use crate::model::{Base, Batch, LoraConfig};
use crate::objective::{self, Objective};
use crate::parts::Parts;
use crate::peft::AdapterTensors;
use crate::prefix::{self, Prefix};
use crate::token_set::TokenSet;

/// Losses are fetched from the device once in so many steps, so that it is not made to wait.
const READ_EVERY: usize = 10;

/// What one client brings.
#[derive(Clone, Copy)]
pub struct ClientJob<'a> {
    /// The adapter that training starts from.
    pub adapter: &'a AdapterTensors,
    /// Its LoRA settings.
    pub lora: &'a LoraConfig,
    /// Its examples.
    pub data: &'a TokenSet,
    /// What its shuffles and masks are drawn from.
    pub seed: u64,
    /// The parts of its adapter that stay as they are, bit for bit; beside cores, A and B do in any case.
    pub frozen: Parts,
    /// SCAFFOLD's control variates.
    pub control: Option<Control<'a>>,
    /// Whether and how it prunes its own rank.
    pub prune: Option<Prune>,
    /// The hidden states of its examples that go into its lowest adapted block, where they are kept.
    pub prefix: Option<&'a Prefix>,
}

impl<'a> ClientJob<'a> {
    /// A client that trains its whole adapter by the gradient of its loss alone.
    pub fn new(
        adapter: &'a AdapterTensors,
        lora: &'a LoraConfig,
        data: &'a TokenSet,
        seed: u64,
    ) -> Self {
        let (frozen, control, prune, prefix) = (Parts::NONE, None, None, None);
        Self { adapter, lora, data, seed, frozen, control, prune, prefix }
    }
}

/// How far training is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Optimizer steps done, by the client that has most of them.
    pub step: u64,
    /// Optimizer steps to do, likewise.
    pub steps: u64,
    /// The mean loss of the clients at the last step whose losses are known.
    pub loss: Option<f64>,
}

/// What training made of one client's adapter.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The adapter afterwards.
    pub adapter: AdapterTensors,
    /// The number of examples that it was trained on: its weight in a mean.
    pub examples: u64,
    /// The number of optimizer steps.
    pub steps: u64,
    /// The number of tokens that went through, without padding.
    pub tokens: u64,
    /// The mean over the steps of the cross-entropy before each step, in nats.
    pub mean_loss: f64,
    /// The cross-entropy before the last step, in nats.
    pub last_loss: f64,
    /// The client's next control variate, where it was trained with one.
    pub control: Option<AdapterTensors>,
    /// The smaller rank that it has now, where it was pruned.
    pub rank: Option<usize>,
}

/// Trains all `clients` in one pass; the results are in their order.
///
/// `progress` is called after every step and may stop the work.
pub fn train(
    base: &Base,
    clients: &[ClientJob<'_>],
    numbers: &LocalNumbers,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Trained>, TrainError> {
    numbers.check()?;
    for (client, job) in clients.iter().enumerate() {
        check_data(base, client, job)?;
    }
    let effective = numbers.batch * numbers.accumulate;
    let mut batches: Vec<Batches<'_>> =
        clients.iter().map(|job| Batches::new(job.data, effective, job.seed)).collect();
    let steps: Vec<u64> = batches.iter().map(|b| numbers.steps_for(b.per_epoch())).collect();
    let all = clients.iter().zip(&steps).map(|(job, &steps)| {
        let ClientJob { adapter, lora, seed, data, frozen, control, prune, .. } = *job;
        Client { adapter, lora, seed, steps, objective: data.objective(), frozen, control, prune }
    });
    let mut trainer = Trainer::new(base, &all.collect::<Vec<_>>(), numbers)?;
    let mut active: Vec<usize> = (0..clients.len()).collect();
    let mut records: Vec<Record> = clients.iter().map(|_| Record::default()).collect();
    let most = steps.iter().copied().max().unwrap_or(0);
    let mut pending = Vec::new();
    for step in 0..most {
        let parts = draw_parts(base, clients, &active, &mut batches, numbers.batch);
        for (row, &client) in active.iter().enumerate() {
            records[client].tokens += parts.iter().map(|part| part.tokens(row) as u64).sum::<u64>();
        }
        pending.push(trainer.step(&parts)?);
        let ending = active.iter().any(|&client| steps[client] == step + 1);
        if ending || pending.len() == READ_EVERY {
            read_losses(&mut pending, step + 1, &active, &mut records)?;
        }
        let loss = mean(active.iter().filter_map(|&client| records[client].losses.last()));
        if ending {
            let keep: Vec<usize> =
                (0..active.len()).filter(|&row| steps[active[row]] > step + 1).collect();
            for (row, adapter) in trainer.adapters()?.into_iter().enumerate() {
                if !keep.contains(&row) {
                    records[active[row]].adapter = Some(adapter);
                }
            }
            trainer.retain(&keep);
            active = keep.iter().map(|&row| active[row]).collect();
        }
        if progress(Progress { step: step + 1, steps: most, loss }).is_break() {
            return Err(TrainError::Stopped);
        }
    }
    let results = records.into_iter().zip(clients).zip(&steps).enumerate();
    let finish = |(client, ((record, job), &steps)): (usize, ((Record, _), _))| {
        record.finish(client, job, steps, numbers)
    };
    results.map(finish).collect()
}

/// What is known of a client while it is trained.
#[derive(Default)]
struct Record {
    tokens: u64,
    losses: Vec<f64>,
    adapter: Option<AdapterTensors>,
}

impl Record {
    fn finish(
        self,
        client: usize,
        job: &ClientJob<'_>,
        steps: u64,
        numbers: &LocalNumbers,
    ) -> Result<Trained, TrainError> {
        let adapter = self.adapter.expect("every client ends at its own number of steps");
        let rates = || schedule::sum(numbers, steps);
        let control = job.control.map(|control| control.renewed(job.adapter, &adapter, rates()));
        let all_finite = |tensors: &AdapterTensors| {
            tensors.iter().all(|(_, _, values)| values.iter().all(|value| value.is_finite()))
        };
        for (what, tensors) in
            [("the adapter", Some(&adapter)), ("the control variate", control.as_ref())]
        {
            if !tensors.is_none_or(all_finite) {
                return Err(TrainError::NotFinite { what, client, step: steps });
            }
        }
        let pruned = job.prune.and_then(|prune| prune::pruned(prune, job.adapter, &adapter));
        let (rank, adapter) = match pruned {
            Some((rank, adapter)) => (Some(rank), adapter),
            None => (None, adapter),
        };
        Ok(Trained {
            adapter,
            examples: job.data.len() as u64,
            steps,
            tokens: self.tokens,
            mean_loss: mean(self.losses.iter()).unwrap_or(f64::NAN),
            last_loss: self.losses.last().copied().unwrap_or(f64::NAN),
            control,
            rank,
        })
    }
}

fn mean<'a>(numbers: impl Iterator<Item = &'a f64>) -> Option<f64> {
    let (count, sum) = numbers.fold((0_u32, 0.0), |(count, sum), number| (count + 1, sum + number));
    (count > 0).then(|| sum / f64::from(count))
}

fn check_data(base: &Base, client: usize, job: &ClientJob<'_>) -> Result<(), TrainError> {
    if job.data.is_empty() {
        return Err(TrainError::Empty { client });
    }
    let classes = match job.data.objective() {
        Objective::Classify if job.adapter.classes() == 0 => return Err(TrainError::NoClassifier),
        Objective::Classify => Some(job.adapter.classes()),
        Objective::Verbalize(labels) => Some(labels.len()),
        Objective::Complete(_) => None,
    };
    if let Some(prefix) = job.prefix {
        prefix.check(base.config(), job.lora, job.data)?;
    }
    Ok(fit::check(base.config(), job.data, classes)?)
}

/// The next batch of every active client, cut into parts of at most `size` examples each.
fn draw_parts(
    base: &Base,
    clients: &[ClientJob<'_>],
    active: &[usize],
    batches: &mut [Batches<'_>],
    size: usize,
) -> Vec<Batch> {
    let drawn: Vec<Vec<usize>> = active.iter().map(|&client| batches[client].draw()).collect();
    let parts = drawn.iter().map(|indices| indices.len().div_ceil(size)).max().unwrap_or(0);
    let cut = |part: usize| {
        let cuts = drawn.iter().map(|indices| indices.chunks(size).nth(part).unwrap_or_default());
        let own = || active.iter().map(|&client| &clients[client]).zip(cuts.clone());
        let rows: Vec<(&TokenSet, &[usize])> = own().map(|(job, cut)| (job.data, cut)).collect();
        let known: Vec<_> = own().map(|(job, cut)| (job.prefix, cut)).collect();
        prefix::begin(objective::batch(&rows, base.config().pad, base.device()), &known)
    };
    (0..parts).map(cut).collect()
}

/// Fetches the losses of the last steps, of which `step` is the last.
fn read_losses(
    pending: &mut Vec<Tensor<1>>,
    step: u64,
    active: &[usize],
    records: &mut [Record],
) -> Result<(), TrainError> {
    let first = step + 1 - pending.len() as u64;
    let losses = Tensor::cat(std::mem::take(pending), 0);
    let losses = losses.try_into_vec_as::<f32>().map_err(|e| TrainError::Device(e.to_string()))?;
    for (at, losses) in (first..).zip(losses.chunks(active.len())) {
        for (&client, &loss) in active.iter().zip(losses) {
            if !loss.is_finite() {
                return Err(TrainError::NotFinite { what: "the loss", client, step: at });
            }
            records[client].losses.push(f64::from(loss));
        }
    }
    Ok(())
}
