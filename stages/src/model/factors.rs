//! An adapter on a device: factored, with the cohort as the leading axis.

use burn::tensor::{Device, Tensor, TensorData};

use super::layout::{Layout, Part};

/// The tensors of K clients' adapters, each with the clients as its first axis.
///
/// Where ranks differ, the smaller ones are padded with zeros, which stay zeros: each half of such a pair is the
/// only factor in the gradient of the other.
pub struct Factors {
    clients: usize,
    /// By block and slot: A `[K, rank, in]` and B `[K, out, rank]`.
    pairs: Vec<Vec<Option<(Tensor<3>, Tensor<3>)>>>,
    /// The classifier, `[K, classes, hidden]`.
    score: Option<Tensor<3>>,
    /// The scale of each client, `[K, 1, 1]`.
    scale: Tensor<3>,
}

impl Factors {
    /// Arranges `tensors`, one for each entry of `layout`; `scales` has one number for each client.
    pub fn new(layout: &Layout, tensors: &[Tensor<3>], scales: &[f64], device: &Device) -> Self {
        let mut halves: Vec<Vec<[Option<Tensor<3>>; 2]>> = Vec::new();
        halves.resize_with(layout.layers(), || (0..layout.slots()).map(|_| [None, None]).collect());
        let mut score = None;
        for (entry, tensor) in layout.entries().iter().zip(tensors) {
            match entry.part {
                Part::A { layer, slot } => halves[layer][slot][0] = Some(tensor.clone()),
                Part::B { layer, slot } => halves[layer][slot][1] = Some(tensor.clone()),
                Part::Score => score = Some(tensor.clone()),
            }
        }
        let pair = |[a, b]: [Option<Tensor<3>>; 2]| a.zip(b);
        let pairs = halves.into_iter().map(|block| block.into_iter().map(pair).collect()).collect();
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let values: Vec<f32> = scales.iter().map(|&scale| scale as f32).collect();
        let scale = Tensor::from_data(TensorData::new(values, [scales.len(), 1, 1]), device);
        Self { clients: scales.len(), pairs, score, scale }
    }

    /// Whether the module at `slot` of block `layer` has a pair of factors.
    pub(super) fn adapts(&self, layer: usize, slot: usize) -> bool {
        self.pairs[layer][slot].is_some()
    }

    /// What the adapter adds to a module's output: `x` is `[K·rows, in]`, the result `[K·rows, out]`.
    pub(super) fn apply(
        &self,
        x: &Tensor<2>,
        layer: usize,
        slot: usize,
        mask: Option<Tensor<3>>,
    ) -> Tensor<2> {
        let (a, b) = self.pairs[layer][slot].as_ref().expect("the caller asked `adapts`");
        let [total, inputs] = x.dims();
        let (rows, outputs) = (total / self.clients, b.dims()[1]);
        let mut x: Tensor<3> = x.clone().reshape([self.clients, rows, inputs]);
        if let Some(mask) = mask {
            x = x * mask;
        }
        // The scale goes where there is least to multiply.
        let inner = x.matmul(a.clone().swap_dims(1, 2)) * self.scale.clone();
        inner.matmul(b.clone().swap_dims(1, 2)).reshape([total, outputs])
    }

    /// The logits `[K·rows, classes]` of the classifier over hidden states `[K·rows, hidden]`; `None` where the
    /// adapter has no classifier.
    pub(super) fn classify(&self, hidden: Tensor<2>) -> Option<Tensor<2>> {
        let score = self.score.as_ref()?;
        let [total, width] = hidden.dims();
        let classes = score.dims()[1];
        let hidden: Tensor<3> = hidden.reshape([self.clients, total / self.clients, width]);
        Some(hidden.matmul(score.clone().swap_dims(1, 2)).reshape([total, classes]))
    }
}
