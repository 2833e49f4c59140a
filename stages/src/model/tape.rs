//! Forward passes that gradients can be taken through, up to the hidden states that a head reads.
//!
//! The head and its loss are a graph of their own: it hands back the gradient by the hidden states, and the tape
//! takes that on to the adapters. So the way through the blocks can be a graph, blocks that are run again one by one,
//! or the CPU's own kernels, and nothing above needs to know.

use burn::tensor::{Tensor, TensorData};

use super::block::{Pass, Rows};
use super::layout::{Layout, Part};
use super::linear::on_host;
use super::{Base, Batch, Blocks, Dropout, Factors};
use crate::fused::{self, Keep};

/// What is kept of a forward pass for the gradients. It changes memory and time, and results by rounding only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tape {
    /// Everything.
    #[default]
    Whole,
    /// What goes into each block; blocks are run again, one at a time (segmented backprop).
    Blocks,
}

/// The tensors of K clients' adapters, `[K, rows, columns]` each, on the base's device.
#[derive(Clone, Copy)]
pub struct Adapters<'a> {
    /// What is trained, one tensor for each entry of its layout.
    pub trained: (&'a Layout, &'a [Tensor<3>]),
    /// The rest.
    pub still: (&'a Layout, &'a [Tensor<3>]),
    /// The layouts of the clients' own adapters, which the other two cover.
    pub own: &'a [&'a Layout],
}

impl Adapters<'_> {
    fn factors(&self, trained: &[Tensor<3>], base: &Base) -> Factors {
        let groups = [(self.trained.0, trained), self.still];
        Factors::new(&groups, self.own, &base.device)
    }
}

/// A forward pass that was taped.
pub struct Forward<'a> {
    /// The hidden states `[K·q, hidden]` after the last norm, of the tokens that a head reads; without a graph.
    pub hidden: Tensor<2>,
    base: &'a Base,
    batch: &'a Batch,
    dropout: Option<&'a Dropout<'a>>,
    trained: &'a Layout,
    way: Way,
}

/// The way back.
enum Way {
    /// Through a graph that ends at these hidden states and begins at these tensors.
    Graph(Tensor<2>, Vec<Tensor<3>>),
    /// Through blocks from the `lowest` on, with what went into each of them and into the last norm.
    Blocks { inputs: Vec<Tensor<2>>, lowest: usize, factors: Factors, leaves: Vec<Tensor<3>> },
    /// Through the CPU's own kernels.
    Fused(fused::Tape, Vec<fused::Adapter>),
}

impl Base {
    /// Runs a batch through the blocks and keeps what the gradients need.
    pub fn forward<'a>(
        &'a self,
        batch: &'a Batch,
        adapters: &Adapters<'a>,
        dropout: Option<&'a Dropout<'a>>,
        tape: Tape,
    ) -> Forward<'a> {
        let (trained, tensors) = adapters.trained;
        let (hidden, way) = match (&self.blocks, tape) {
            (Blocks::Fused(decoder), tape) => {
                let own = adapters.factors(tensors, self).on_host();
                let pass = fused::Pass { batch, adapters: &own, dropout };
                let keep = if tape == Tape::Whole { Keep::All } else { Keep::Inputs };
                let lowest = lowest(trained).unwrap_or(self.config.layers);
                let (hidden, tape) = decoder.forward(pass, &self.entering(batch), keep, lowest);
                let shape = [hidden.len() / self.config.hidden, self.config.hidden];
                let hidden = Tensor::from_data(TensorData::new(hidden, shape), &self.device);
                (hidden, Way::Fused(tape, own))
            }
            (Blocks::Stock(_), Tape::Whole) => {
                let leaves = leaves(tensors);
                let factors = adapters.factors(&leaves, self);
                let hidden = self.read(batch, Some(&factors), dropout);
                (hidden.clone().inner(), Way::Graph(hidden, leaves))
            }
            (Blocks::Stock(_), Tape::Blocks) => {
                let plain = adapters.factors(tensors, self);
                let leaves = leaves(tensors);
                let lowest = lowest(trained).unwrap_or(self.config.layers);
                let mut inputs = Vec::new();
                let hidden = self.run(batch, Some(&plain), dropout, Rows::Read, Some(&mut inputs));
                drop(inputs.drain(..lowest.min(inputs.len())));
                let factors = adapters.factors(&leaves, self);
                (hidden, Way::Blocks { inputs, lowest, factors, leaves })
            }
        };
        Forward { hidden, base: self, batch, dropout, trained, way }
    }
}

impl Forward<'_> {
    /// The gradients `[K, P]` of what is trained, in the order of its layout, where `d_hidden` is the one by the
    /// hidden states and `d_score` that of the classifiers, if they are trained.
    pub fn backward(self, d_hidden: Tensor<2>, d_score: Option<Tensor<3>>) -> Tensor<2> {
        match self.way {
            Way::Graph(hidden, leaves) => {
                // Where only classifiers are trained, there is no graph behind the hidden states.
                let mut gradients = hidden.is_autodiff().then(|| gradients_of(hidden, d_hidden));
                let mut of = |leaf: &Tensor<3>| leaf.grad_remove(gradients.as_mut()?);
                let each = leaves.iter().map(&mut of).collect();
                flat(self.trained, &leaves, each, d_score)
            }
            Way::Blocks { ref inputs, lowest, ref factors, ref leaves } => {
                let each = self.by_blocks(inputs, lowest, factors, leaves, d_hidden);
                flat(self.trained, leaves, each, d_score)
            }
            Way::Fused(tape, own) => {
                let Blocks::Fused(decoder) = &self.base.blocks else {
                    unreachable!("only a fused base makes such a tape")
                };
                let pass = fused::Pass { batch: self.batch, adapters: &own, dropout: self.dropout };
                let mut found = tape.backward(decoder, pass, self.trained, &on_host(d_hidden));
                put_score(&mut found, self.trained, d_score);
                let shape = [own.len(), self.trained.length()];
                Tensor::from_data(TensorData::new(found, shape), &self.base.device)
            }
        }
    }

    /// Runs each block again, from the last to the lowest, for a graph of that block alone.
    fn by_blocks(
        &self,
        inputs: &[Tensor<2>],
        lowest: usize,
        factors: &Factors,
        leaves: &[Tensor<3>],
        d_hidden: Tensor<2>,
    ) -> Vec<Option<Tensor<3>>> {
        let mut found: Vec<Option<Tensor<3>>> = leaves.iter().map(|_| None).collect();
        let Blocks::Stock(blocks) = &self.base.blocks else { return found };
        let Some((last, inputs)) = inputs.split_last() else { return found };
        let x = last.clone().autodiff().require_grad();
        let mut gradients = gradients_of(self.base.final_norm.forward(&x), d_hidden);
        let mut dy = x.grad_remove(&mut gradients);
        let positions = self.base.positions(self.batch.width());
        for (at, input) in inputs.iter().enumerate().rev() {
            let Some(by_output) = dy.take() else { break };
            let layer = lowest + at;
            let (batch, dropout) = (self.batch, self.dropout);
            let pass = Pass {
                batch,
                positions: &positions,
                factors: Some(factors),
                dropout,
                layer,
                rows: Rows::All,
            };
            let keep = if layer + 1 == blocks.len() { Rows::Read } else { Rows::All };
            let x = input.clone().autodiff().require_grad();
            let y = blocks[layer].forward(x.clone(), &pass, keep);
            let mut gradients = gradients_of(y, by_output);
            dy = x.grad_remove(&mut gradients);
            for (entry, (leaf, found)) in
                self.trained.entries().iter().zip(leaves.iter().zip(&mut found))
            {
                if entry.part.layer() == Some(layer) {
                    *found = leaf.grad_remove(&mut gradients);
                }
            }
        }
        found
    }
}

/// The first block with something to train.
fn lowest(trained: &Layout) -> Option<usize> {
    trained.entries().iter().filter_map(|entry| entry.part.layer()).min()
}

fn leaves(tensors: &[Tensor<3>]) -> Vec<Tensor<3>> {
    tensors.iter().map(|tensor| tensor.clone().autodiff().require_grad()).collect()
}

/// All gradients behind `y`, where `dy` is the one by it.
fn gradients_of(y: Tensor<2>, dy: Tensor<2>) -> burn::tensor::Gradients {
    (y * Tensor::from_inner(dy)).sum().backward()
}

/// The gradients of all clients in one matrix, `[K, P]`; zeros where there is none.
fn flat(
    trained: &Layout,
    leaves: &[Tensor<3>],
    found: Vec<Option<Tensor<3>>>,
    d_score: Option<Tensor<3>>,
) -> Tensor<2> {
    let mut d_score = d_score;
    let each = trained.entries().iter().zip(leaves).zip(found).map(|((entry, leaf), found)| {
        let found = if entry.part == Part::Score { d_score.take() } else { found };
        let found = found.unwrap_or_else(|| leaf.clone().inner().zeros_like());
        let [clients, rows, columns] = found.dims();
        found.reshape([clients, rows * columns])
    });
    Tensor::cat(each.collect(), 1)
}

/// Puts the gradients of the classifiers to their place.
fn put_score(found: &mut [f32], trained: &Layout, d_score: Option<Tensor<3>>) {
    let entry = trained.entries().iter().find(|entry| entry.part == Part::Score);
    let (Some(entry), Some(d_score)) = (entry, d_score) else { return };
    let values = on_host(d_score);
    let length = entry.shape[0] * entry.shape[1];
    for (row, values) in found.chunks_exact_mut(trained.length()).zip(values.chunks_exact(length)) {
        row[entry.start..entry.start + length].copy_from_slice(values);
    }
}
