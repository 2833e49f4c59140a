//! One client's adapter in memory, and where its gradients go.

use super::lora::{Gradients, Pair};
use crate::model::{Layout, Part};

/// The factors of one module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// `[rank, in]`.
    pub(crate) a: Vec<f32>,
    /// `[out, rank]`.
    pub(crate) b: Vec<f32>,
    /// `[rank, rank]`.
    pub(crate) core: Option<Vec<f32>>,
    pub(crate) rank: usize,
    pub(crate) scale: f32,
}

impl Module {
    pub(super) fn pair(&self) -> Pair<'_> {
        Pair {
            a: &self.a,
            b: &self.b,
            core: self.core.as_deref(),
            rank: self.rank,
            inputs: self.a.len() / self.rank.max(1),
            outputs: self.b.len() / self.rank.max(1),
            scale: self.scale,
        }
    }
}

/// The factors of one client, by block and slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapter {
    modules: Vec<Vec<Option<Module>>>,
}

impl Adapter {
    /// An adapter of these modules, by block and slot.
    pub(crate) fn new(modules: Vec<Vec<Option<Module>>>) -> Self {
        Self { modules }
    }

    /// The factors of the module at `slot` of block `layer`.
    pub(super) fn module(&self, layer: usize, slot: usize) -> Option<&Module> {
        self.modules.get(layer)?.get(slot)?.as_ref()
    }
}

/// The starts of the trained tensors of one module in the flat vector of what is trained.
#[derive(Clone, Copy, Debug, Default)]
struct Starts {
    a: Option<usize>,
    b: Option<usize>,
    core: Option<usize>,
}

/// Where the gradients go: the flat vector of what is trained, in the order of a [`Layout`].
#[derive(Debug)]
pub(super) struct Places {
    starts: Vec<Vec<Starts>>,
    /// The length of the flat vector.
    pub(super) length: usize,
}

impl Places {
    pub(super) fn new(trained: &Layout) -> Self {
        let mut starts = vec![vec![Starts::default(); trained.slots()]; trained.layers()];
        for entry in trained.entries() {
            match entry.part {
                Part::A { layer, slot } => starts[layer][slot].a = Some(entry.start),
                Part::B { layer, slot } => starts[layer][slot].b = Some(entry.start),
                Part::Core { layer, slot } => starts[layer][slot].core = Some(entry.start),
                Part::Score => {}
            }
        }
        Self { starts, length: trained.length() }
    }

    /// The lowest block with something to train, if there is one.
    pub(super) fn lowest(&self) -> Option<usize> {
        self.starts.iter().position(|slots| {
            slots.iter().any(|at| at.a.is_some() || at.b.is_some() || at.core.is_some())
        })
    }

    /// The parts of `flat` that belong to a module.
    pub(super) fn of<'a>(
        &self,
        layer: usize,
        slot: usize,
        pair: &Pair<'_>,
        flat: &'a mut [f32],
    ) -> Gradients<'a> {
        let Starts { a, b, core } = self.starts[layer][slot];
        let range =
            |start: Option<usize>, length: usize| start.map_or(0..0, |start| start..start + length);
        let ranges = [
            range(a, pair.a.len()),
            range(b, pair.b.len()),
            range(core, pair.core.map_or(0, <[f32]>::len)),
        ];
        let parts = flat.get_disjoint_mut(ranges);
        let [of_a, of_b, of_core] = parts.expect("a layout's tensors lie apart and within it");
        Gradients { a: a.map(|_| of_a), b: b.map(|_| of_b), core: core.map(|_| of_core) }
    }
}
