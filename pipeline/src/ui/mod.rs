//! What a user sees of a run: bars on a terminal, plain lines elsewhere, JSON lines for programs.

mod bars;
mod json;
mod lines;
mod out;
mod scores;
pub mod style;
mod table;
mod wording;

pub use bars::Bars;
pub use json::Json;
pub use lines::Lines;
pub use out::Out;
pub use style::size;

/// How much is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volume {
    /// Errors and the final line (`-q`).
    Quiet,
    /// A line for each round.
    #[default]
    Normal,
    /// A line for each step (`-v`).
    Verbose,
}
