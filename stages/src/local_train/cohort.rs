//! Optimizer steps for the clients of a cohort, all in one pass over the base.

use burn::tensor::{Int, Tensor, TensorData, activation};

use super::adamw::{AdamW, Moments};
use super::numbers::{LocalNumbers, Optimizer};
use super::{TrainError, schedule, sgd};
use crate::model::{Base, Batch, Dropout, Factors, Layout, LoraConfig};
use crate::peft::AdapterTensors;

/// A client as the optimizer sees it.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// The adapter that training starts from.
    pub adapter: &'a AdapterTensors,
    /// Its LoRA settings.
    pub lora: &'a LoraConfig,
    /// What its dropout masks are drawn from.
    pub seed: u64,
    /// The number of steps that it will be trained for, which its learning rates depend on.
    pub steps: u64,
}

/// What stays the same for a client from step to step.
#[derive(Clone, Copy, Debug)]
struct Member {
    rank: usize,
    scale: f64,
    dropout: f64,
    seed: u64,
    steps: u64,
}

/// The adapters of K clients between optimizer steps.
pub struct Trainer<'a> {
    base: &'a Base,
    numbers: &'a LocalNumbers,
    layout: Layout,
    members: Vec<Member>,
    /// Everything that is trained, `[K, P]`.
    values: Tensor<2>,
    /// What the proximal term pulls towards.
    anchor: Option<Tensor<2>>,
    moments: Option<Moments>,
    done: u64,
}

impl<'a> Trainer<'a> {
    /// Lays the clients' adapters out on the base's device.
    ///
    /// # Errors
    /// Where an adapter does not fit, or the clients differ in more than ranks, scales, dropout and lengths.
    pub fn new(
        base: &'a Base,
        clients: &[Client<'_>],
        numbers: &'a LocalNumbers,
    ) -> Result<Self, TrainError> {
        let first = clients.first().ok_or(TrainError::Empty { client: 0 })?;
        let classes = first.adapter.classes();
        if classes == 0 {
            return Err(TrainError::NoClassifier);
        }
        for (client, other) in clients.iter().enumerate() {
            other.lora.check(base.config())?;
            let same = other.adapter.classes() == classes
                && other.lora.layers == first.lora.layers
                && sorted(&other.lora.targets) == sorted(&first.lora.targets);
            if !same {
                return Err(TrainError::Unlike { client });
            }
        }
        let rank = clients.iter().map(|client| client.lora.rank).max().unwrap_or(1);
        let layout = Layout::new(base.config(), first.lora, rank, classes);
        let rows = clients.iter().map(|client| layout.pack(client.adapter, client.lora.rank));
        let values = layout.stack(&rows.collect::<Result<Vec<_>, _>>()?, base.device());
        let member = |client: &Client<'_>| Member {
            rank: client.lora.rank,
            scale: client.lora.scale(),
            dropout: client.lora.dropout,
            seed: client.seed,
            steps: client.steps,
        };
        Ok(Self {
            base,
            numbers,
            layout,
            members: clients.iter().map(member).collect(),
            anchor: (numbers.prox > 0.0).then(|| values.clone()),
            values,
            moments: None,
            done: 0,
        })
    }

    /// One optimizer step over the examples of `parts`, whose gradients are accumulated; the result, `[K]`, is each
    /// client's mean cross-entropy before the step.
    pub fn step(&mut self, parts: &[Batch]) -> Tensor<1> {
        let (gradient, losses) = self.gradient(parts);
        let gradient = match self.numbers.clip {
            Some(limit) => clip(gradient, limit),
            None => gradient,
        };
        let rates = self
            .members
            .iter()
            .map(|member| schedule::learning_rate(self.numbers, self.done, member.steps));
        let lr = self.column(rates);
        self.done += 1;
        let values = self.values.clone();
        self.values = match self.numbers.optimizer {
            Optimizer::Sgd { .. } => sgd::step(values, gradient, lr),
            Optimizer::AdamW { weight_decay, beta1, beta2, eps, .. } => {
                let rule = AdamW { weight_decay, beta1, beta2, eps };
                rule.step(&mut self.moments, values, gradient, lr, self.done)
            }
        };
        losses
    }

    /// The gradient `[K, P]` of each client's loss by its own adapter, the proximal term's included, before
    /// clipping; and each client's mean cross-entropy `[K]`.
    pub fn gradient(&self, parts: &[Batch]) -> (Tensor<2>, Tensor<1>) {
        let clients = self.members.len();
        let leaves: Vec<Tensor<3>> = self
            .layout
            .split(&self.values)
            .into_iter()
            .map(|t| t.autodiff().require_grad())
            .collect();
        let scales: Vec<f64> = self.members.iter().map(|member| member.scale).collect();
        let factors = Factors::new(&self.layout, &leaves, &scales, self.base.device());
        let totals: Vec<usize> =
            (0..clients).map(|k| parts.iter().map(|part| part.examples(k)).sum()).collect();
        let mut sum: Option<(Tensor<2>, Tensor<2>)> = None;
        for (at, part) in parts.iter().enumerate() {
            let rates = self.members.iter().map(|member| (member.seed, member.dropout)).collect();
            let dropout = Dropout::new(rates, self.done, at, self.base.device());
            let logits = self.base.classify(part, &factors, dropout.as_ref());
            let losses = self.cross_entropy(logits, part, &totals); // K 1
            // No client's loss reaches another's adapter, so their sum has each client's own gradient.
            let mut gradients = losses.clone().sum().backward();
            let flat = leaves.iter().map(|leaf| {
                let gradient = leaf.grad_remove(&mut gradients);
                let gradient = gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like());
                let [_, rows, columns] = gradient.dims();
                gradient.reshape([clients, rows * columns])
            });
            let flat = Tensor::cat(flat.collect(), 1);
            let losses = losses.inner();
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
        (gradient, losses.reshape([clients]))
    }

    /// The share `[K, 1]` of this part in each client's mean cross-entropy over `totals` examples.
    fn cross_entropy(&self, logits: Tensor<2>, part: &Batch, totals: &[usize]) -> Tensor<2> {
        let (clients, rows, device) = (part.clients(), part.rows(), self.base.device());
        let labels: Vec<i32> = part.labels().iter().map(|&label| label.cast_signed()).collect();
        let labels = TensorData::new(labels, [clients * rows, 1]);
        let labels: Tensor<2, Int> = Tensor::from_data(labels, device);
        let weight = |(row, &length): (usize, &usize)| match length {
            0 => 0.0,
            _ => 1.0 / totals[row / rows] as f32,
        };
        let weights: Vec<f32> = part.lengths().iter().enumerate().map(weight).collect();
        let weights: Tensor<2> =
            Tensor::from_data(TensorData::new(weights, [clients * rows, 1]), device);
        let picked = activation::log_softmax(logits, 1).gather(1, labels); // K·b 1
        (picked * weights.neg()).reshape([clients, rows]).sum_dim(1)
    }

    /// The adapters as they are now.
    pub fn adapters(&self) -> Result<Vec<AdapterTensors>, TrainError> {
        self.named(&self.values)
    }

    /// The adapters whose values are the rows of `flat`, `[K, P]`: gradients, say, with their names.
    pub fn named(&self, flat: &Tensor<2>) -> Result<Vec<AdapterTensors>, TrainError> {
        let flat = flat.clone().try_into_vec_as::<f32>();
        let flat = flat.map_err(|error| TrainError::Device(error.to_string()))?;
        let rows = self.members.iter().zip(flat.chunks(self.layout.length()));
        Ok(rows.map(|(member, row)| self.layout.unpack(row, member.rank)).collect())
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
        self.moments = self
            .moments
            .take()
            .map(|moments| Moments { first: take(moments.first), second: take(moments.second) });
        self.members = keep.iter().map(|&k| self.members[k]).collect();
    }

    /// One number for each client, `[K, 1]`.
    fn column(&self, numbers: impl Iterator<Item = f64>) -> Tensor<2> {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let values: Vec<f32> = numbers.map(|number| number as f32).collect();
        let shape = [values.len(), 1];
        Tensor::from_data(TensorData::new(values, shape), self.base.device())
    }
}

/// Scales each client's gradient down to a norm of at most `limit`, by torch's formula.
fn clip(gradient: Tensor<2>, limit: f64) -> Tensor<2> {
    let norm = gradient.clone().square().sum_dim(1).sqrt();
    let scale = ((norm + 1e-6).recip() * limit).clamp_max(1.0);
    gradient * scale
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    names
}
