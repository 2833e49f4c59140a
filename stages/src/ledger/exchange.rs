//! What a rule sends in a round, by formula.

use std::ops::Add;

use serde::{Deserialize, Serialize};

use super::Shapes;
use crate::codec::Codec;
use crate::parts::Parts;

/// Bytes from the clients to the server and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From all clients to the server.
    pub up: u64,
    /// From the server to all clients.
    pub down: u64,
}

impl Add for Traffic {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { up: self.up + other.up, down: self.down + other.down }
    }
}

/// What the server sends so that every client can add it to its own base, besides an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broadcast {
    /// Nothing.
    #[default]
    None,
    /// All clients' factors, one beside the other (`FLoRA`).
    Stack,
    /// What the mean of the factors misses of the mean of the products, as such factors (FedEx-LoRA).
    Residual,
}

/// What one round of a rule sends.
///
/// | rule | up | down | broadcast | copies |
/// |---|---|---|---|---|
/// | `FedIT`, FedProx, server optimisers, robust rules, LoRA-FAIR, `FlexLoRA`, `HetLoRA` | all | all | none | 1 |
/// | SCAFFOLD | all | all | none | 2 |
/// | FFA-LoRA, `RoLoRA` in odd rounds | B, head | B, head | none | 1 |
/// | `RoLoRA` in even rounds | A, head | A, head | none | 1 |
/// | FedSA-LoRA | A | A | none | 1 |
/// | `FLoRA` | all | head | stack | 1 |
/// | FedEx-LoRA | all | all | residual | 1 |
///
/// What is sent once before the first round (FFA's factor A, or the seed that makes it) is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What each sampled client sends.
    pub up: Parts,
    /// What each client gets: a sampled one, or with a broadcast every one there is.
    pub down: Parts,
    /// What every client gets besides.
    pub broadcast: Broadcast,
    /// How many vectors of that size go each way: SCAFFOLD sends control variates too.
    pub copies: u32,
}

impl Exchange {
    /// All of the adapter both ways, once.
    pub const WHOLE: Self =
        Self { up: Parts::ALL, down: Parts::ALL, broadcast: Broadcast::None, copies: 1 };

    /// The bytes of a round whose sampled clients have adapters of `sampled`, one each, out of `population` clients.
    ///
    /// `up` and `down` are the forms of the messages. A broadcast is always in f32: there is nothing received before that
    /// it could differ from, and what is added to a base must be the same to the bit at every client.
    pub fn traffic(&self, sampled: &[Shapes], population: u32, [up, down]: [Codec; 2]) -> Traffic {
        let copies = u64::from(self.copies);
        let sum =
            |parts, codec| sampled.iter().map(|shapes| shapes.bytes(parts, codec)).sum::<u64>();
        let down = match self.broadcast {
            Broadcast::None => copies * sum(self.down, down),
            Broadcast::Stack | Broadcast::Residual => {
                let adapter = sampled.iter().map(|shapes| shapes.bytes(self.down, down)).max();
                let each = copies * adapter.unwrap_or(0) + 4 * merged(sampled) as u64;
                u64::from(population) * each
            }
        };
        Traffic { up: copies * sum(self.up, up), down }
    }
}

/// The values of what a client adds to its base: for each module the factors of all sampled clients, or the matrix itself
/// where that is smaller.
pub fn merged(sampled: &[Shapes]) -> usize {
    let modules = sampled.first().map_or(&[][..], Shapes::modules);
    let least = |(at, module): (usize, &super::ModuleShape)| {
        let factors = sampled.iter().filter_map(|shapes| shapes.modules().get(at));
        factors.map(super::ModuleShape::factors).sum::<usize>().min(module.dense())
    };
    modules.iter().enumerate().map(least).sum()
}
