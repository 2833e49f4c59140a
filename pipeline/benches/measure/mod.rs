//! What the benches share: contenders that take turns, and what their times say of one another.
//!
//! A machine is now fast and now slow, for reasons of its own. So contenders take turns, and each turn is compared
//! with the turns beside it: what is told is the median of those ratios, with the quartiles for their spread.

mod report;

use std::fmt;

pub(crate) use report::Report;

/// One of those that are compared.
pub(crate) struct Contender<'a> {
    /// What it is called in the table.
    pub(crate) name: String,
    /// Does its work once; gives the seconds that the work took.
    pub(crate) turn: Box<dyn FnMut() -> f64 + 'a>,
}

/// The seconds of each contender, one for each round.
pub(crate) struct Times {
    /// What it is called.
    pub(crate) name: String,
    /// Its turns, in the order in which they were taken.
    pub(crate) seconds: Vec<f64>,
}

/// Lets all contenders take a turn, one after another, `rounds` times over.
///
/// Whoever wants a warm-up takes it before.
pub(crate) fn interleave(rounds: usize, contenders: &mut [Contender<'_>]) -> Vec<Times> {
    let name = |of: &Contender<'_>| Times { name: of.name.clone(), seconds: Vec::new() };
    let mut all: Vec<Times> = contenders.iter().map(name).collect();
    for _ in 0..rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut all) {
            times.seconds.push((contender.turn)());
        }
    }
    all
}

impl Times {
    /// How the turns spread.
    pub(crate) fn spread(&self) -> Spread {
        Spread::of(self.seconds.iter().copied())
    }

    /// How the ratios of these turns to those of `other` in the same round spread.
    fn over(&self, other: &Self) -> Spread {
        Spread::of(self.seconds.iter().zip(&other.seconds).map(|(own, other)| own / other))
    }
}

/// The cells of one row: how each of the first `own` contenders did beside the contender `at`.
pub(crate) fn ratios(all: &[Times], own: usize, at: usize) -> Vec<String> {
    let ratio = |first: usize| {
        if first == at { "1".to_owned() } else { all[first].over(&all[at]).to_string() }
    };
    (0..own).map(ratio).collect()
}

/// A median with its quartiles. Shown as `0.56 (0.55 to 0.58)`.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    low: f64,
    /// The one in the middle.
    pub(crate) median: f64,
    high: f64,
}

impl Spread {
    /// The quartiles of `values`, of which there is at least one.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        assert!(!sorted.is_empty(), "there must be at least one round");
        let at = |quarters: usize| {
            let (last, place) = (sorted.len() - 1, quarters * (sorted.len() - 1));
            let (below, share) = (sorted[place / 4], (place % 4) as f64 / 4.0);
            below + share * (sorted[last.min(place / 4 + 1)] - below)
        };
        Self { low: at(1), median: at(2), high: at(3) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}
