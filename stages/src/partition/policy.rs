//! What becomes of a draw that leaves a client with too few examples.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cut::Cuts;
use super::{Outcome, Partition};
use crate::{Error, Result, shuffle};

/// What to do when a draw leaves a client with fewer than `min` examples.
///
/// The default is Flower's: `Retry(10)`, eleven draws in all, and then an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFail {
    /// Give up.
    Error,
    /// Draw again, at most so many times, and then give up.
    Retry(u32),
    /// Move examples, drawn at random, from whichever client has the most.
    TopUp,
}

impl Default for OnFail {
    fn default() -> Self {
        Self::Retry(10)
    }
}

impl OnFail {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The least number of examples of a client, unless it is set.
pub(super) fn ten() -> usize {
    10
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
pub(super) fn is_ten(min: &usize) -> bool {
    *min == ten()
}

/// How many examples a client must have and what to do where one has fewer, for one rule.
pub(super) struct Policy {
    pub(super) min: usize,
    pub(super) on_fail: OnFail,
    /// The rule as a graph writes it: `Dirichlet(alpha: 0.1)`.
    pub(super) rule: String,
    /// The field that makes its draws more even when it is raised.
    pub(super) evener: &'static str,
}

impl Policy {
    /// What is wrong with its numbers.
    pub(super) fn check(&self) -> Result<()> {
        if self.min == 0 {
            return Err(Error::input("min is 0, and must be at least 1")
                .with_hint("a client without examples cannot train"));
        }
        Ok(())
    }

    /// Draws until every client has enough, and shares out the positions in `groups`.
    ///
    /// `draw` makes the cuts of those groups anew, from random numbers that go on.
    pub(super) fn split(
        &self,
        groups: &[Vec<usize>],
        clients: usize,
        rng: &mut ChaCha8Rng,
        draw: impl FnMut(&mut ChaCha8Rng) -> Cuts,
    ) -> Result<Partition> {
        let examples = groups.iter().map(Vec::len).sum();
        let (cuts, attempts) = self.draw(examples, clients, rng, draw)?;
        let mut shards = cuts.shards(groups);
        let moved = match self.on_fail {
            OnFail::TopUp => top_up(&mut shards, self.min, rng),
            OnFail::Error | OnFail::Retry(_) => 0,
        };
        let outcome = Outcome { attempts, moved, evened: cuts.evened, ..Outcome::default() };
        Ok(Partition { shards, outcome })
    }

    /// The first draw that leaves every client with enough, and how many it took; where others are
    /// topped up, the first draw of all.
    pub(super) fn draw(
        &self,
        examples: usize,
        clients: usize,
        rng: &mut ChaCha8Rng,
        mut draw: impl FnMut(&mut ChaCha8Rng) -> Cuts,
    ) -> Result<(Cuts, u32)> {
        let min = self.min;
        if clients.saturating_mul(min) > examples {
            return Err(Error::input(format!(
                "{examples} examples cannot give {clients} clients at least {min} each"
            ))
            .with_hint("lower `min:` or `clients:`"));
        }
        let draws = match self.on_fail {
            OnFail::Error | OnFail::TopUp => 1,
            OnFail::Retry(more) => more.saturating_add(1),
        };
        for attempts in 1..=draws {
            let cuts = draw(rng);
            if self.on_fail == OnFail::TopUp || cuts.sizes.iter().all(|&size| size >= min) {
                return Ok((cuts, attempts));
            }
        }
        let draws = match draws {
            1 => "one draw".to_owned(),
            more => format!("{more} draws"),
        };
        Err(Error::input(format!(
            "{} left one of {clients} clients with fewer than {min} of {examples} examples in {draws}",
            self.rule
        ))
        .with_hint(format!(
            "raise `{}:`, lower `min:` or `clients:`, or set `on_fail: TopUp` or `on_fail: Retry(1000)`",
            self.evener
        )))
    }
}

/// Moves examples to clients that have fewer than `min`; gives how many it moved.
///
/// There are enough examples for all.
fn top_up(shards: &mut [Vec<usize>], min: usize, rng: &mut ChaCha8Rng) -> usize {
    let mut moved = 0;
    for poor in 0..shards.len() {
        while shards[poor].len() < min {
            // The first of the largest, so that the choice does not depend on the search.
            let rich = (0..shards.len()).rev().max_by_key(|&i| shards[i].len());
            let Some(rich) = rich.filter(|&i| shards[i].len() > min) else {
                return moved;
            };
            let at = shuffle::below(rng, shards[rich].len());
            let example = shards[rich].swap_remove(at);
            shards[poor].push(example);
            moved += 1;
        }
    }
    moved
}
