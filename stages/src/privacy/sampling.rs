//! How the clients of a round were drawn, and what an accountant's ε means for it.

use std::fmt;

/// How the clients of a round are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// All of them take part: the rate is 1, and nothing is drawn.
    Everyone,
    /// Each takes part with a probability of its own, whatever the others do.
    Poisson,
    /// A fixed number of them, drawn without replacement.
    FixedSize,
}

/// What ε means, as a sentence for reports without its full stop.
impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everyone => {
                "ε holds for adding or removing one client; all of them take part in every round"
            }
            Self::Poisson => {
                "ε holds for adding or removing one client, each taking part by a draw of its own (Poisson)"
            }
            Self::FixedSize => {
                "ε is that of Poisson sampling at the same rate; a fixed number of clients drawn without \
                 replacement has another bound (Wang, Balle and Kasiviswanathan 2019), so it is no guarantee here"
            }
        })
    }
}

impl Sampling {
    /// Whether the accountant's ε is a guarantee under this sampling.
    pub fn is_covered(self) -> bool {
        self != Self::FixedSize
    }
}
