//! An adapter on a device: factored, with the cohort as the leading axis.

use burn::tensor::{Device, Tensor, TensorData};

use super::layout::{Layout, Part};
use super::linear::on_host;
use crate::fused;

/// The factors of one module, of K clients.
struct Pair {
    /// `[K, rank, in]`.
    a: Tensor<3>,
    /// `[K, out, rank]`.
    b: Tensor<3>,
    /// What stands between them in an adapter with cores, `[K, rank, rank]`.
    core: Option<Tensor<3>>,
    /// The scale of each client, `[K, 1, 1]`.
    scale: Tensor<3>,
}

/// What has been found of one module.
#[derive(Default)]
struct Found {
    a: Option<Tensor<3>>,
    b: Option<Tensor<3>>,
    core: Option<Tensor<3>>,
}

/// The tensors of K clients' adapters, each with the clients as its first axis.
///
/// Where ranks differ, the smaller ones are padded with zeros, which stay zeros: each half of such a pair is the
/// only factor in the gradient of the other, and both are factors in the gradient of a core.
pub struct Factors {
    clients: usize,
    /// By block and slot.
    pairs: Vec<Vec<Option<Pair>>>,
    /// The classifier, `[K, classes, hidden]`.
    score: Option<Tensor<3>>,
}

impl Factors {
    /// Arranges the tensors of `groups`: layouts that share out whole adapters, each with a tensor for each of its
    /// entries. `own` are the layouts of the clients' own adapters, which those of `groups` cover.
    ///
    /// A tensor on the plain device is a constant, of which no gradient is taken.
    ///
    /// # Panics
    /// Where there is no client.
    pub fn new(groups: &[(&Layout, &[Tensor<3>])], own: &[&Layout], device: &Device) -> Self {
        let mut found: Vec<Vec<Found>> = Vec::new();
        let (layers, slots) = (own[0].layers(), own[0].slots());
        found.resize_with(layers, || (0..slots).map(|_| Found::default()).collect());
        let mut score = None;
        for (layout, tensors) in groups {
            for (entry, tensor) in layout.entries().iter().zip(*tensors) {
                let tensor = Some(tensor.clone());
                match entry.part {
                    Part::A { layer, slot } => found[layer][slot].a = tensor,
                    Part::B { layer, slot } => found[layer][slot].b = tensor,
                    Part::Core { layer, slot } => found[layer][slot].core = tensor,
                    Part::Score => score = tensor,
                }
            }
        }
        let mut pairs: Vec<Vec<Option<Pair>>> = Vec::new();
        pairs.resize_with(layers, || (0..slots).map(|_| None).collect());
        let mut met: Vec<(Vec<f32>, Tensor<3>)> = Vec::new();
        for (at, module) in own[0].modules().iter().enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
            let scales: Vec<f32> = own.iter().map(|own| own.modules()[at].scale as f32).collect();
            // Nearly always all modules have one scale: one tensor is enough.
            let known = met.iter().find(|(values, _)| *values == scales);
            let scale = if let Some((_, scale)) = known {
                scale.clone()
            } else {
                let data = TensorData::new(scales.clone(), [own.len(), 1, 1]);
                let scale: Tensor<3> = Tensor::from_data(data, device);
                met.push((scales, scale.clone()));
                scale
            };
            let found = std::mem::take(&mut found[module.layer][module.slot]);
            if let Found { a: Some(a), b: Some(b), core } = found {
                pairs[module.layer][module.slot] = Some(Pair { a, b, core, scale });
            }
        }
        Self { clients: own.len(), pairs, score }
    }

    /// The adapters of all clients in memory, one by one.
    pub(super) fn on_host(&self) -> Vec<fused::Adapter> {
        let mut clients: Vec<Vec<Vec<Option<fused::Module>>>> = Vec::new();
        clients.resize_with(self.clients, || {
            self.pairs.iter().map(|slots| slots.iter().map(|_| None).collect()).collect()
        });
        for (layer, slots) in self.pairs.iter().enumerate() {
            for (slot, pair) in slots.iter().enumerate() {
                let Some(pair) = pair else { continue };
                let rank = pair.a.dims()[1];
                let (a, b) = (on_host(pair.a.clone()), on_host(pair.b.clone()));
                let core = pair.core.clone().map(on_host);
                let scales = on_host(pair.scale.clone());
                let own = |values: &[f32], client: usize| {
                    let length = values.len() / self.clients;
                    values[client * length..(client + 1) * length].to_vec()
                };
                for (client, modules) in clients.iter_mut().enumerate() {
                    modules[layer][slot] = Some(fused::Module {
                        a: own(&a, client),
                        b: own(&b, client),
                        core: core.as_ref().map(|core| own(core, client)),
                        rank,
                        scale: scales[client],
                    });
                }
            }
        }
        clients.into_iter().map(fused::Adapter::new).collect()
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
        let pair = self.pair(layer, slot);
        self.outer(&self.inner(x, pair, mask), pair.b.clone())
    }

    /// The same for a module that makes queries, keys and values of `heads` heads at once: the rows of its B are
    /// ordered `[head][q, k, v][head_dim]`.
    pub(super) fn apply_fused(
        &self,
        x: &Tensor<2>,
        layer: usize,
        slot: usize,
        mask: Option<Tensor<3>>,
        heads: usize,
    ) -> [Tensor<2>; 3] {
        let pair = self.pair(layer, slot);
        let inner = self.inner(x, pair, mask);
        let [clients, outputs, rank] = pair.b.dims();
        let width = outputs / heads / 3;
        let b = pair.b.clone().reshape([clients, heads, 3, width * rank]);
        [0, 1, 2].map(|part| {
            let rows = b.clone().narrow(2, part, 1).reshape([clients, heads * width, rank]);
            self.outer(&inner, rows)
        })
    }

    fn pair(&self, layer: usize, slot: usize) -> &Pair {
        self.pairs[layer][slot].as_ref().expect("the caller asked `adapts`")
    }

    /// `s·x·Aᵀ`, `[K, rows, rank]`, or `s·x·Aᵀ·Rᵀ` where there is a core: both go where there is least to multiply.
    ///
    /// A core that was multiplied into B or A first would cost a gradient as large as that factor.
    fn inner(&self, x: &Tensor<2>, pair: &Pair, mask: Option<Tensor<3>>) -> Tensor<3> {
        let [total, inputs] = x.dims();
        let mut x: Tensor<3> = x.clone().reshape([self.clients, total / self.clients, inputs]);
        if let Some(mask) = mask {
            x = x * mask;
        }
        let inner = x.matmul(pair.a.clone().swap_dims(1, 2)) * pair.scale.clone();
        match &pair.core {
            Some(core) => inner.matmul(core.clone().swap_dims(1, 2)),
            None => inner,
        }
    }

    fn outer(&self, inner: &Tensor<3>, b: Tensor<3>) -> Tensor<2> {
        let (rows, outputs) = (inner.dims()[1], b.dims()[1]);
        inner.clone().matmul(b.swap_dims(1, 2)).reshape([self.clients * rows, outputs])
    }

    /// The classifiers, `[K, classes, hidden]`, where the adapters have any.
    pub fn score(&self) -> Option<&Tensor<3>> {
        self.score.as_ref()
    }
}
