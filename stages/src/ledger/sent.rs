//! What was really sent in a round.

use serde::{Deserialize, Serialize};

use super::Traffic;

/// The bytes of one client's messages in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The client, counted from 0.
    pub client: u32,
    /// What it sent.
    pub up: u64,
    /// What it was sent, besides the broadcast.
    pub down: u64,
}

/// A round's messages in bytes, taken from the messages themselves: the lengths of what was encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    clients: Vec<Sent>,
    /// How many clients there are, sampled or not; each gets the broadcast.
    population: u32,
    /// The bytes of the broadcast to each of them.
    broadcast: u64,
    total: Traffic,
}

impl Ledger {
    /// Nothing sent yet, but for a broadcast of so many bytes to each of `population` clients; 0 for none.
    pub fn new(population: u32, broadcast: u64) -> Self {
        let total = Traffic { up: 0, down: u64::from(population) * broadcast };
        Self { clients: Vec::new(), population, broadcast, total }
    }

    /// Counts messages of one client. Those of one that is there already are added to its own.
    pub fn add(&mut self, client: u32, up: u64, down: u64) {
        match self.clients.binary_search_by_key(&client, |sent| sent.client) {
            Ok(at) => {
                self.clients[at].up += up;
                self.clients[at].down += down;
            }
            Err(at) => self.clients.insert(at, Sent { client, up, down }),
        }
        self.total = self.total + Traffic { up, down };
    }

    /// The clients with messages, by number.
    pub fn clients(&self) -> &[Sent] {
        &self.clients
    }

    /// The bytes of the broadcast to each client of the population.
    pub fn broadcast(&self) -> u64 {
        self.broadcast
    }

    /// All that was sent, the broadcast to every client with it.
    pub fn total(&self) -> Traffic {
        self.total
    }
}
