//! Optimizer steps for the clients of a cohort, all in one pass over the base.

use burn::tensor::{Int, Tensor, TensorData};

use super::adamw::{AdamW, Moments};
use super::loss::Head;
use super::member::{Client, Member, trained_parts};
use super::numbers::{Checkpoint, LocalNumbers, Optimizer};
use super::prune::Penalty;
use super::{TrainError, control, schedule, sgd};
use crate::model::{Adapters, Base, Batch, Dropout, Layout, Part, Tape};
use crate::peft::AdapterTensors;

/// The adapters of K clients between optimizer steps.
pub struct Trainer<'a> {
    base: &'a Base,
    numbers: &'a LocalNumbers,
    /// The order of what is trained.
    layout: Layout,
    members: Vec<Member>,
    head: Head,
    /// Everything that is trained, `[K, P]`.
    values: Tensor<2>,
    /// What of the adapters is not trained, `[K, rows, columns]` each, with its layout.
    still: (Layout, Vec<Tensor<3>>),
    /// What the proximal term pulls towards.
    anchor: Option<Tensor<2>>,
    /// What SCAFFOLD adds to each gradient.
    correction: Option<Tensor<2>>,
    penalty: Option<Penalty>,
    moments: Option<Moments>,
    done: u64,
}

impl<'a> Trainer<'a> {
    /// Lays the clients' adapters out on the base's device.
    ///
    /// # Errors
    /// Where an adapter or a control variate does not fit, a number cannot be used, or the clients differ in more
    /// than ranks, scales, dropout, lengths, control variates and pruning.
    pub fn new(
        base: &'a Base,
        clients: &[Client<'_>],
        numbers: &'a LocalNumbers,
    ) -> Result<Self, TrainError> {
        let first = clients.first().ok_or(TrainError::Empty { client: 0 })?;
        let members: Vec<Member> =
            clients.iter().map(|client| Member::new(base, client)).collect::<Result<_, _>>()?;
        let like = |other: &Client<'_>| {
            other.adapter.classes() == first.adapter.classes()
                && other.objective.head() == first.objective.head()
                && other.objective.labels() == first.objective.labels()
                && other.frozen == first.frozen
        };
        if let Some(client) = clients.iter().position(|client| !like(client)) {
            return Err(TrainError::Unlike { client });
        }
        let whole = covering(&members)?;
        let trained = trained_parts(first.adapter, first.frozen);
        let (layout, still) = (whole.only(trained), whole.only(!trained));
        let device = base.device();
        let (mut values, mut constants, mut corrections) = (Vec::new(), Vec::new(), Vec::new());
        for (client, member) in clients.iter().zip(&members) {
            values.push(layout.pack(&client.adapter.only(trained), &member.trained)?);
            constants.push(still.pack(&client.adapter.only(!trained), &member.still)?);
            corrections.push(control::correction(client, numbers, &layout, &member.trained)?);
        }
        let values = layout.stack(&values, device);
        // Not every device makes a tensor without values.
        let constants = match still.length() {
            0 => Vec::new(),
            _ => still.split(&still.stack(&constants, device)),
        };
        let has_control = clients.iter().any(|client| client.control.is_some());
        let kept: Vec<Option<(f64, usize)>> = members.iter().map(|member| member.prune).collect();
        Ok(Self {
            head: Head::new(base, first.objective, clients.len()),
            base,
            numbers,
            correction: has_control.then(|| layout.stack(&corrections, device)),
            penalty: Penalty::new(&kept, &layout, device),
            layout,
            members,
            anchor: (numbers.prox > 0.0).then(|| values.clone()),
            values,
            still: (still, constants),
            moments: None,
            done: 0,
        })
    }

    /// One optimizer step over the examples of `parts`, whose gradients are accumulated; the result, `[K]`, is each
    /// client's mean cross-entropy before the step.
    pub fn step(&mut self, parts: &[Batch]) -> Result<Tensor<1>, TrainError> {
        let (gradient, losses) = self.gradient(parts)?;
        let gradient = match self.numbers.clip {
            Some(limit) => clip(gradient, limit),
            None => gradient,
        };
        let rates = self
            .members
            .iter()
            .map(|member| schedule::learning_rate(self.numbers, self.done, member.steps));
        let lr = self.column(rates);
        let gradient = match &self.correction {
            Some(correction) => gradient + correction.clone(),
            None => gradient,
        };
        self.done += 1;
        let values = self.values.clone();
        self.values = match self.numbers.optimizer {
            Optimizer::Sgd { .. } => sgd::step(values, gradient, lr),
            Optimizer::AdamW { weight_decay, beta1, beta2, eps, .. } => {
                let rule = AdamW { weight_decay, beta1, beta2, eps };
                rule.step(&mut self.moments, values, gradient, lr, self.done)
            }
        };
        Ok(losses)
    }

    /// The gradient `[K, P]` of each client's loss by what it trains, the proximal term's and the penalty's included,
    /// before clipping and SCAFFOLD's correction; and each client's mean cross-entropy `[K]`.
    pub fn gradient(&self, parts: &[Batch]) -> Result<(Tensor<2>, Tensor<1>), TrainError> {
        let clients = self.members.len();
        let trained = self.layout.split(&self.values);
        let own: Vec<&Layout> = self.members.iter().map(|member| &member.own).collect();
        let still = (&self.still.0, self.still.1.as_slice());
        let adapters = Adapters { trained: (&self.layout, &trained), still, own: &own };
        let (score, is_trained) = match score_of(&self.layout, &trained) {
            Some(score) => (Some(score.autodiff().require_grad()), true),
            None => (score_of(&self.still.0, &self.still.1), false),
        };
        let units = |k: usize| parts.iter().map(|part| self.head.units(part, k)).sum();
        let totals: Vec<usize> = (0..clients).map(units).collect();
        let tape = match self.numbers.checkpoint {
            Checkpoint::None => Tape::Whole,
            Checkpoint::Block => Tape::Blocks,
        };
        let mut sum: Option<(Tensor<2>, Tensor<2>)> = None;
        for (at, part) in parts.iter().enumerate() {
            let rates = self.members.iter().map(|member| (member.seed, member.dropout)).collect();
            let dropout = Dropout::new(rates, self.done, &parts[..at], self.base.device());
            let forward = self.base.forward(part, &adapters, dropout.as_ref(), tape);
            let hidden = forward.hidden.clone().autodiff().require_grad();
            let (loss, losses) = self.head.loss(&hidden, score.as_ref(), part, &totals)?;
            let scale = self.base.precision().loss_scale();
            let loss = scale.map_or(loss.clone(), |scale| loss * scale);
            let mut gradients = loss.backward();
            let by_hidden = hidden.grad_remove(&mut gradients);
            let by_hidden = by_hidden.unwrap_or_else(|| forward.hidden.zeros_like());
            let trains = score.as_ref().filter(|_| is_trained);
            let by_score = trains.and_then(|score| score.grad_remove(&mut gradients));
            let flat = forward.backward(by_hidden, by_score);
            let flat = scale.map_or(flat.clone(), |scale| flat / scale);
            sum = Some(match sum {
                None => (flat, losses),
                Some((old, before)) => (old + flat, before + losses),
            });
        }
        let (mut gradient, losses) = sum.unwrap_or_else(|| {
            (self.values.zeros_like(), Tensor::zeros([clients, 1], self.base.device()))
        });
        if let Some(anchor) = &self.anchor {
            gradient = gradient + (self.values.clone() - anchor.clone()) * self.numbers.prox;
        }
        if let Some(penalty) = &self.penalty {
            gradient = gradient + penalty.gradient(&self.layout, &self.values);
        }
        Ok((gradient, losses.reshape([clients])))
    }

    /// The adapters as they are now.
    pub fn adapters(&self) -> Result<Vec<AdapterTensors>, TrainError> {
        let trained = self.named(&self.values)?;
        let whole = self.members.iter().zip(trained);
        Ok(whole.map(|(member, values)| member.adapter(&values)).collect())
    }

    /// What is trained, with the rows of `flat`, `[K, P]`, for values: gradients, say, with their names.
    pub fn named(&self, flat: &Tensor<2>) -> Result<Vec<AdapterTensors>, TrainError> {
        let flat = flat.clone().try_into_vec_as::<f32>();
        let flat = flat.map_err(|error| TrainError::Device(error.to_string()))?;
        let rows = self.members.iter().zip(flat.chunks(self.layout.length()));
        Ok(rows.map(|(member, row)| self.layout.unpack(row, &member.trained)).collect())
    }

    /// The row of `client`, padding included.
    #[cfg(test)]
    pub(super) fn flat(&self, client: usize) -> Vec<f32> {
        let row = self.values.clone().narrow(0, client, 1);
        row.try_into_vec_as().expect("the CPU does not fail")
    }

    /// Goes on with the clients at `keep` (increasing) alone.
    pub fn retain(&mut self, keep: &[usize]) {
        if keep.len() == self.members.len() || keep.is_empty() {
            return;
        }
        let indices: Vec<i32> = keep.iter().filter_map(|&k| i32::try_from(k).ok()).collect();
        let indices = TensorData::new(indices, [keep.len()]);
        let indices: Tensor<1, Int> = Tensor::from_data(indices, self.base.device());
        let take = |tensor: Tensor<2>| tensor.select(0, indices.clone());
        self.values = take(self.values.clone());
        self.anchor = self.anchor.take().map(take);
        self.correction = self.correction.take().map(take);
        self.moments = self
            .moments
            .take()
            .map(|moments| Moments { first: take(moments.first), second: take(moments.second) });
        self.members = keep.iter().map(|&k| self.members[k].clone()).collect();
        for constant in &mut self.still.1 {
            *constant = constant.clone().select(0, indices.clone());
        }
        if let Some(penalty) = &mut self.penalty {
            penalty.take(&indices);
        }
        self.head.take(&indices);
    }

    /// One number for each client, `[K, 1]`.
    fn column(&self, numbers: impl Iterator<Item = f64>) -> Tensor<2> {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let values: Vec<f32> = numbers.map(|number| number as f32).collect();
        let shape = [values.len(), 1];
        Tensor::from_data(TensorData::new(values, shape), self.base.device())
    }
}

/// The classifiers among the tensors of a layout.
fn score_of(layout: &Layout, tensors: &[Tensor<3>]) -> Option<Tensor<3>> {
    let mut all = layout.entries().iter().zip(tensors);
    all.find(|(entry, _)| entry.part == Part::Score).map(|(_, tensor)| tensor.clone())
}

/// The layout with room for the adapters of all members.
fn covering(members: &[Member]) -> Result<Layout, TrainError> {
    let layouts: Vec<Layout> = members.iter().map(|member| member.own.clone()).collect();
    Layout::covering(&layouts).ok_or_else(|| TrainError::Unlike {
        client: (1..layouts.len())
            .find(|&at| Layout::covering(&[layouts[0].clone(), layouts[at].clone()]).is_none())
            .unwrap_or_default(),
    })
}

/// Scales each client's gradient down to a norm of at most `limit`, by torch's formula.
fn clip(gradient: Tensor<2>, limit: f64) -> Tensor<2> {
    let norm = gradient.clone().square().sum_dim(1).sqrt();
    let scale = ((norm + 1e-6).recip() * limit).clamp_max(1.0);
    gradient * scale
}
