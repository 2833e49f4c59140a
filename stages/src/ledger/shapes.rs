//! How many values the parts of an adapter have.

use crate::codec::Codec;
use crate::model::{Config, LoraConfig, LoraError};
use crate::parts::Parts;
use crate::peft::{AdapterError, AdapterTensors};

/// The shape of one adapted module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModuleShape {
    /// The width of its input.
    pub inputs: usize,
    /// The width of its output.
    pub outputs: usize,
    /// The rank of its factors.
    pub rank: usize,
}

impl ModuleShape {
    /// The values of the factors A and B.
    pub fn factors(&self) -> usize {
        self.rank * (self.inputs + self.outputs)
    }

    /// The values of the weight itself.
    pub fn dense(&self) -> usize {
        self.inputs * self.outputs
    }
}

/// The shapes of an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shapes {
    modules: Vec<ModuleShape>,
    has_cores: bool,
    head: usize,
}

impl Shapes {
    /// The shapes of `lora` on a base of `config`; `classes` is the height of the classifier, 0 for none.
    ///
    /// # Errors
    /// The base cannot take the adapter.
    pub fn new(config: &Config, lora: &LoraConfig, classes: usize) -> Result<Self, LoraError> {
        let targets = config.family.targets();
        let modules = lora.modules(config)?.into_iter().filter_map(|module| {
            let (inputs, outputs) = config.linear(targets[module.slot])?;
            Some(ModuleShape { inputs, outputs, rank: module.rank })
        });
        let modules = modules.collect();
        Ok(Self { modules, has_cores: false, head: classes * config.hidden })
    }

    /// The shapes of an adapter that is there, in the order of its names.
    ///
    /// # Errors
    /// A factor has no counterpart, or one of another rank.
    pub fn of(adapter: &AdapterTensors) -> Result<Self, AdapterError> {
        let mut shapes = Self::default();
        let mut others = 0;
        for (name, [rows, columns], _) in adapter.iter() {
            match Parts::of(name) {
                Parts::A => {
                    let other = name.replace(".lora_A.weight", ".lora_B.weight");
                    let [outputs, rank] =
                        adapter.get(&other).map(|(shape, _)| shape).unwrap_or_default();
                    if rank != rows {
                        let what = format!("`{name}` has no `{other}` of its rank");
                        return Err(AdapterError::Mismatch(what));
                    }
                    shapes.modules.push(ModuleShape { inputs: columns, outputs, rank });
                }
                Parts::B => others += 1,
                Parts::CORE => shapes.has_cores = true,
                Parts::HEAD => shapes.head = rows * columns,
                _ => {}
            }
        }
        if others == shapes.modules.len() {
            Ok(shapes)
        } else {
            let what = "there are factors B without a factor A".to_owned();
            Err(AdapterError::Mismatch(what))
        }
    }

    /// The same with a core `[rank, rank]` between the factors of each module.
    #[must_use]
    pub fn with_cores(self) -> Self {
        Self { has_cores: true, ..self }
    }

    /// The adapted modules, block after block.
    pub fn modules(&self) -> &[ModuleShape] {
        &self.modules
    }

    /// `P_A`, the values of the factors A: `Σ rank·in`.
    pub fn a(&self) -> usize {
        self.modules.iter().map(|module| module.rank * module.inputs).sum()
    }

    /// `P_B`, the values of the factors B: `Σ rank·out`.
    pub fn b(&self) -> usize {
        self.modules.iter().map(|module| module.rank * module.outputs).sum()
    }

    /// The values of cores: `Σ rank²`, be there any or not.
    pub fn cores(&self) -> usize {
        self.modules.iter().map(|module| module.rank.pow(2)).sum()
    }

    /// D, the values of the weights themselves: `Σ in·out`.
    pub fn dense(&self) -> usize {
        self.modules.iter().map(ModuleShape::dense).sum()
    }

    /// H, the values of the classifier: `classes·hidden`.
    pub fn head(&self) -> usize {
        self.head
    }

    /// The values that the adapter has of some parts; of cores, none unless it has them.
    pub fn values(&self, parts: Parts) -> usize {
        let count = |part, values| if parts.has(part) { values } else { 0 };
        let cores = if self.has_cores { self.cores() } else { 0 };
        count(Parts::A, self.a())
            + count(Parts::B, self.b())
            + count(Parts::CORE, cores)
            + count(Parts::HEAD, self.head)
    }

    /// The bytes of a message with some parts of the adapter; none where it has nothing of them.
    pub fn bytes(&self, parts: Parts, codec: Codec) -> u64 {
        match self.values(parts) {
            0 => 0,
            values => codec.length(values) as u64,
        }
    }
}
