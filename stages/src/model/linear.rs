//! Frozen linear modules, with whatever an adapter adds to them.

use burn::tensor::Tensor;

use super::block::Pass;
use super::product;
use crate::precision::Precision;

/// A weight `[in, out]`, and perhaps a bias `[1, out]`.
#[derive(Clone)]
pub(super) struct Affine {
    weight: Tensor<2>,
    bias: Option<Tensor<2>>,
    precision: Precision,
}

impl Affine {
    /// `weight` is `[out, in]` and `bias` `[out]`, as checkpoints store them.
    pub(super) fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        // A view: a product packs its operands anyway.
        let bias = bias.map(Tensor::unsqueeze);
        Self { weight: weight.transpose(), bias, precision: Precision::F32 }
    }

    /// Adds `change`, `[out, in]`, to the weight, which other bases may share and which stays as it is for them.
    fn add(&mut self, change: Tensor<2>) {
        // Summed as the checkpoint has it, so that the result is laid out like a weight that was loaded.
        self.weight = (self.weight.clone().transpose() + change).transpose();
    }

    /// The width of the output.
    pub(super) fn outputs(&self) -> usize {
        self.weight.dims()[1]
    }

    /// The weight `[out, in]`, row by row, and the bias `[out]`.
    pub(super) fn values(&self) -> (Vec<f32>, Option<Vec<f32>>) {
        let bias = self.bias.as_ref().map(|bias| on_host(bias.clone()));
        (on_host(self.weight.clone().transpose()), bias)
    }

    /// Rounds the weight to `precision`; what is to be added to it was added before.
    fn round(&mut self, precision: Precision) {
        let stored = self.weight.clone().transpose();
        self.weight = product::keep(stored, precision).transpose();
        self.precision = precision;
    }

    fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let product = product::multiply(x.clone(), self.weight.clone(), self.precision);
        match &self.bias {
            Some(bias) => product + bias.clone(),
            None => product,
        }
    }
}

/// The values of a tensor on the CPU, row by row.
pub(super) fn on_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("the CPU does not fail")
}

/// A linear module, with its place among the family's targets.
#[derive(Clone)]
pub(super) struct Linear {
    slot: usize,
    frozen: Affine,
}

impl Linear {
    /// The module at `slot`.
    pub(super) fn new(slot: usize, frozen: Affine) -> Self {
        Self { slot, frozen }
    }

    /// Its slot and its frozen part.
    pub(super) fn parts(&self) -> (usize, &Affine) {
        (self.slot, &self.frozen)
    }

    /// Adds `change`, `[out, in]`, to the weight, if this is the module at `slot`.
    pub(super) fn add(&mut self, slot: usize, change: &Tensor<2>) {
        if self.slot == slot {
            self.frozen.add(change.clone());
        }
    }

    /// Rounds the weight to `precision`.
    pub(super) fn round(&mut self, precision: Precision) {
        self.frozen.round(precision);
    }

    /// `x` is `[rows, in]`, the result `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let frozen = self.frozen.forward(x);
        let Some(factors) = pass.factors.filter(|f| f.adapts(pass.layer, self.slot)) else {
            return frozen;
        };
        let mask = pass.mask(self.slot, x.dims()[1]);
        frozen + factors.apply(x, pass.layer, self.slot, mask)
    }
}

/// BLOOM's one module for queries, keys and values, whose rows are ordered `[head][q, k, v][head_dim]`.
///
/// The weight is cut when it is loaded: a cut through its output would cost a whole tensor of zeros for each part
/// in the backward pass. An adapter's B keeps the order of the checkpoint, and is cut where it is used.
#[derive(Clone)]
pub(super) struct Fused {
    slot: usize,
    heads: usize,
    parts: [Affine; 3],
}

impl Fused {
    /// The module at `slot`, already cut into queries, keys and values.
    pub(super) fn new(slot: usize, heads: usize, parts: [Affine; 3]) -> Self {
        Self { slot, heads, parts }
    }

    /// Its slot, its number of heads, and its queries, keys and values.
    pub(super) fn parts(&self) -> (usize, usize, &[Affine; 3]) {
        (self.slot, self.heads, &self.parts)
    }

    /// Adds `change`, `[3·heads·head_dim, in]` in the checkpoint's order of rows, to the weight, if this is the
    /// module at `slot`: it is cut as the weight was.
    pub(super) fn add(&mut self, slot: usize, change: &Tensor<2>) {
        if self.slot != slot {
            return;
        }
        let [outputs, inputs] = change.dims();
        let width = outputs / self.heads / 3;
        let rows: Tensor<3> = change.clone().reshape([self.heads, 3, width * inputs]);
        for (at, part) in self.parts.iter_mut().enumerate() {
            part.add(rows.clone().narrow(1, at, 1).reshape([self.heads * width, inputs]));
        }
    }

    /// Rounds the weight to `precision`.
    pub(super) fn round(&mut self, precision: Precision) {
        for part in &mut self.parts {
            part.round(precision);
        }
    }

    /// Queries, keys and values, each `[rows, heads·head_dim]`, of `x`, `[rows, in]`.
    pub(super) fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> [Tensor<2>; 3] {
        let frozen = self.parts.each_ref().map(|part| part.forward(x));
        let Some(factors) = pass.factors.filter(|f| f.adapts(pass.layer, self.slot)) else {
            return frozen;
        };
        let mask = pass.mask(self.slot, x.dims()[1]);
        let added = factors.apply_fused(x, pass.layer, self.slot, mask, self.heads);
        let [query, key, value] = frozen;
        let [more_query, more_key, more_value] = added;
        [query + more_query, key + more_key, value + more_value]
    }
}
