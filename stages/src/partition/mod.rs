//! How the examples are shared out among the clients.
//!
//! A partitioner is one file with one `Rule`, and a line for it in [`By`] and in `By::rule`.

mod alpha;
mod cut;
mod dirichlet;
mod draw;
mod examples;
mod explicit;
mod given;
mod hsu;
mod iid;
mod natural;
mod pathological;
mod policy;
mod quantity;
mod skew;
#[cfg(test)]
mod tests;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use alpha::Alpha;
pub use cut::{Balance, Cuts, cut};
pub use dirichlet::{Dirichlet, Procedure};
pub use draw::draw;
pub use examples::{Examples, Table};
pub use explicit::{Explicit, to_json};
pub use hsu::{Hsu, Prior};
pub use iid::Iid;
pub use natural::Natural;
pub use pathological::Pathological;
pub use policy::OnFail;
pub use quantity::Quantity;
pub use skew::Skew;

use crate::{Error, Result, seed};

/// The rule by which examples are shared out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum By {
    /// At random, in equal parts.
    Iid,
    /// By label: shares of each class drawn from a Dirichlet distribution over the clients.
    Dirichlet(Dirichlet),
    /// By label, in equal parts: classes of each client drawn from a Dirichlet distribution.
    Hsu(Hsu),
    /// At random, in parts whose sizes are drawn from a Dirichlet distribution.
    Quantity(Quantity),
    /// By label: a few pieces of the sorted examples for each client.
    Pathological(Pathological),
    /// By a column of the data, such as who wrote them.
    Natural(Natural),
    /// As a file says.
    Explicit(Explicit),
}

impl By {
    fn rule(&self) -> &dyn Rule {
        match self {
            Self::Iid => &Iid,
            Self::Dirichlet(rule) => rule,
            Self::Hsu(rule) => rule,
            Self::Quantity(rule) => rule,
            Self::Pathological(rule) => rule,
            Self::Natural(rule) => rule,
            Self::Explicit(rule) => rule,
        }
    }

    /// What is wrong with the rule's own numbers for so many clients, before any data are there; with
    /// the file of an [`Explicit`] it is known.
    pub fn check(&self, clients: usize) -> Result<()> {
        self.rule().check(clients)
    }

    /// Whether anything is drawn, so that another seed gives another split.
    pub fn is_drawn(&self) -> bool {
        self.rule().is_drawn()
    }

    /// Shares the examples out among `clients`.
    ///
    /// No example goes to two clients, and every client gets at least one. With [`Hsu`] and
    /// [`Explicit`] an example may go to none: [`Outcome::left_out`]. The same examples, rule, number
    /// and seed give the same partition.
    pub fn split(&self, of: &Examples<'_>, clients: usize, seed: u64) -> Result<Partition> {
        let examples = of.labels.len();
        if clients == 0 {
            return Err(
                Error::input("there must be at least one client").with_hint("such as clients: 10")
            );
        }
        self.check(clients)?;
        if clients > examples {
            return Err(Error::input(format!(
                "{clients} clients cannot share {examples} examples"
            ))
            .with_hint(format!("at most {examples} clients: each needs one")));
        }
        let mut rng = seed::rng(seed, &["partition"]);
        let mut partition = self.rule().split(of, clients, &mut rng)?;
        for shard in &mut partition.shards {
            // One client's shard is then the whole set, in its own order.
            shard.sort_unstable();
        }
        let given = partition.shards.iter().map(Vec::len).sum::<usize>();
        partition.outcome.left_out = examples - given;
        Ok(partition)
    }
}

/// One way of sharing examples out.
trait Rule {
    /// What is wrong with its own numbers, for so many clients.
    fn check(&self, clients: usize) -> Result<()>;

    /// Whether it draws anything.
    fn is_drawn(&self) -> bool {
        true
    }

    /// The examples of each client, in any order; there are at least as many labels as clients.
    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition>;
}

/// Who has which examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// For each client the positions of its examples, rising.
    pub shards: Vec<Vec<usize>>,
    /// How it came to be.
    pub outcome: Outcome,
}

/// How a partition came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How many times the proportions were drawn until every client had enough.
    pub attempts: u32,
    /// How many examples were moved so that every client had enough.
    pub moved: usize,
    /// How often nothing was left of the shares that were drawn, so that the rest was shared evenly:
    /// classes of a balanced [`Dirichlet`], clients of [`Hsu`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub evened: usize,
    /// How many examples have no client.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

/// At the first attempt, with nothing to tell.
impl Default for Outcome {
    fn default() -> Self {
        Self { attempts: 1, moved: 0, evened: 0, left_out: 0 }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
