//! Optimizer steps for the clients of a cohort, all in one pass over the base.

use burn::tensor::{Int, Tensor, TensorData};

use super::adamw::{AdamW, Moments};
use super::loss::Head;
use super::numbers::{LocalNumbers, Optimizer};
use super::{TrainError, schedule, sgd};
use crate::model::{Base, Batch, Dropout, Factors, Layout, LoraConfig};
use crate::objective::Objective;
use crate::peft::{AdapterTensors, SCORE};

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
    /// What its examples are read for.
    pub objective: &'a Objective,
    /// Whether its classifier stays as it is.
    pub frozen_head: bool,
}

/// What stays the same for a client from step to step.
#[derive(Clone, Debug)]
struct Member {
    /// The layout of its own adapter, without a classifier that is frozen.
    own: Layout,
    /// The classifier that is frozen.
    score: Option<([usize; 2], Vec<f32>)>,
    dropout: f64,
    seed: u64,
    steps: u64,
}

impl Member {
    fn new(base: &Base, client: &Client<'_>) -> Result<Self, TrainError> {
        let classes = client.adapter.classes();
        match (client.objective.is_causal(), classes) {
            (false, 0) => return Err(TrainError::NoClassifier),
            (true, 1..) => return Err(TrainError::Classifier),
            _ => {}
        }
        let score = client.adapter.get(SCORE).filter(|_| client.frozen_head);
        let trained = if client.frozen_head { 0 } else { classes };
        Ok(Self {
            own: Layout::new(base.config(), client.lora, trained)?,
            score: score.map(|(shape, values)| (shape, values.to_vec())),
            dropout: client.lora.dropout,
            seed: client.seed,
            steps: client.steps,
        })
    }

    /// The whole adapter of which this layout holds `values`.
    fn adapter(&self, values: AdapterTensors) -> AdapterTensors {
        match &self.score {
            Some((shape, score)) => values.with(SCORE, *shape, score.clone()),
            None => values,
        }
    }
}

/// The adapters of K clients between optimizer steps.
pub struct Trainer<'a> {
    base: &'a Base,
    numbers: &'a LocalNumbers,
    layout: Layout,
    members: Vec<Member>,
    head: Head,
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
        let members: Vec<Member> =
            clients.iter().map(|client| Member::new(base, client)).collect::<Result<_, _>>()?;
        let like = |other: &Client<'_>| {
            other.adapter.classes() == first.adapter.classes()
                && other.objective.head() == first.objective.head()
                && other.objective.labels() == first.objective.labels()
                && other.frozen_head == first.frozen_head
        };
        if let Some(client) = clients.iter().position(|client| !like(client)) {
            return Err(TrainError::Unlike { client });
        }
        let layouts: Vec<Layout> = members.iter().map(|member| member.own.clone()).collect();
        let layout = Layout::covering(&layouts).ok_or_else(|| TrainError::Unlike {
            client: (1..layouts.len())
                .find(|&at| Layout::covering(&[layouts[0].clone(), layouts[at].clone()]).is_none())
                .unwrap_or_default(),
        })?;
        let rows = clients.iter().zip(&members).map(|(client, member)| {
            let trained = match member.score {
                Some(_) => &client.adapter.without(SCORE),
                None => client.adapter,
            };
            layout.pack(trained, &member.own)
        });
        let values = layout.stack(&rows.collect::<Result<Vec<_>, _>>()?, base.device());
        let scores: Option<Vec<&([usize; 2], Vec<f32>)>> =
            members.iter().map(|member| member.score.as_ref()).collect();
        let classifiers = scores.map(|scores| {
            let all: Vec<f32> = scores.iter().flat_map(|(_, values)| values).copied().collect();
            let [classes, width] = scores[0].0;
            let shape = [scores.len(), classes, width];
            Tensor::from_data(TensorData::new(all, shape), base.device())
        });
        Ok(Self {
            head: Head::new(base, first.objective, clients.len(), classifiers),
            base,
            numbers,
            layout,
            members,
            anchor: (numbers.prox > 0.0).then(|| values.clone()),
            values,
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

    /// The gradient `[K, P]` of each client's loss by its own adapter, the proximal term's included, before
    /// clipping; and each client's mean cross-entropy `[K]`.
    pub fn gradient(&self, parts: &[Batch]) -> Result<(Tensor<2>, Tensor<1>), TrainError> {
        let clients = self.members.len();
        let leaves: Vec<Tensor<3>> = self
            .layout
            .split(&self.values)
            .into_iter()
            .map(|t| t.autodiff().require_grad())
            .collect();
        let own: Vec<&Layout> = self.members.iter().map(|member| &member.own).collect();
        let factors = Factors::new(&self.layout, &leaves, &own, self.base.device());
        let units = |k: usize| parts.iter().map(|part| self.head.units(part, k)).sum();
        let totals: Vec<usize> = (0..clients).map(units).collect();
        let mut sum: Option<(Tensor<2>, Tensor<2>)> = None;
        for (at, part) in parts.iter().enumerate() {
            let rates = self.members.iter().map(|member| (member.seed, member.dropout)).collect();
            let dropout = Dropout::new(rates, self.done, at, self.base.device());
            let hidden = self.base.read(part, Some(&factors), dropout.as_ref());
            let (loss, losses) = self.head.loss(&hidden, &factors, part, &totals)?;
            let mut gradients = loss.backward();
            let flat = leaves.iter().map(|leaf| {
                let gradient = leaf.grad_remove(&mut gradients);
                let gradient = gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like());
                let [_, rows, columns] = gradient.dims();
                gradient.reshape([clients, rows * columns])
            });
            let flat = Tensor::cat(flat.collect(), 1);
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
        Ok((gradient, losses.reshape([clients])))
    }

    /// The adapters as they are now.
    pub fn adapters(&self) -> Result<Vec<AdapterTensors>, TrainError> {
        let trained = self.named(&self.values)?;
        let whole = self.members.iter().zip(trained);
        Ok(whole.map(|(member, values)| member.adapter(values)).collect())
    }

    /// What is trained, with the rows of `flat`, `[K, P]`, for values: gradients, say, with their names.
    pub fn named(&self, flat: &Tensor<2>) -> Result<Vec<AdapterTensors>, TrainError> {
        let flat = flat.clone().try_into_vec_as::<f32>();
        let flat = flat.map_err(|error| TrainError::Device(error.to_string()))?;
        let rows = self.members.iter().zip(flat.chunks(self.layout.length()));
        Ok(rows.map(|(member, row)| self.layout.unpack(row, &member.own)).collect())
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
        self.members = keep.iter().map(|&k| self.members[k].clone()).collect();
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

/// Scales each client's gradient down to a norm of at most `limit`, by torch's formula.
fn clip(gradient: Tensor<2>, limit: f64) -> Tensor<2> {
    let norm = gradient.clone().square().sum_dim(1).sqrt();
    let scale = ((norm + 1e-6).recip() * limit).clamp_max(1.0);
    gradient * scale
}
