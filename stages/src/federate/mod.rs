//! Who takes part in a federation, with what means, and when: all that is decided before any client trains.

mod clients;
mod clock;
mod personal;
mod tiers;

pub use clients::{Clients, Roll};
pub use clock::{Clock, Pace};
pub use personal::{Own, of_client};
pub use tiers::{OwnLora, Tier};
