//! A virtual clock: how long a round would take if each client had a machine and a line of its own.
//!
//! Nothing waits for it. It turns what was counted, tokens trained and bytes sent, into seconds.

use serde::{Deserialize, Serialize};

/// How fast a client is; what is not set takes no time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Tokens trained in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Bytes sent in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<f64>,
    /// Bytes received in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downlink: Option<f64>,
    /// What its training takes longer in this round: 1 for a client that is no straggler.
    pub slowdown: f64,
}

impl Pace {
    /// Whether it says anything about time.
    pub fn is_timed(&self) -> bool {
        self.speed.or(self.uplink).or(self.downlink).is_some()
    }

    /// Seconds from the server's first byte to the client's last.
    pub fn seconds(&self, down: u64, tokens: u64, up: u64) -> f64 {
        let at = |amount: u64, rate: Option<f64>| rate.map_or(0.0, |rate| amount as f64 / rate);
        at(down, self.downlink) + at(tokens, self.speed) * self.slowdown + at(up, self.uplink)
    }
}

/// The clock of a round.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clock {
    /// The pace of each client that trains, in their order.
    pub paces: Vec<Pace>,
    /// Seconds after which the server goes on without those that are not back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
}

impl Clock {
    /// How long the round took, if its clients took `seconds` each and `waits` says whether the server had to wait
    /// for some that never came back.
    pub fn round(&self, seconds: &[f64], waits: bool) -> f64 {
        let last = seconds.iter().copied().fold(0.0, f64::max);
        match self.deadline {
            Some(deadline) if waits || last > deadline => deadline,
            _ => last,
        }
    }

    /// How long it takes until the slowest of them has received so many bytes at the end of the round.
    pub fn broadcast(&self, bytes: u64) -> f64 {
        let receive = |pace: &Pace| pace.downlink.map_or(0.0, |rate| bytes as f64 / rate);
        self.paces.iter().map(receive).fold(0.0, f64::max)
    }

    /// Whether a client that took so many seconds is too late.
    pub fn is_late(&self, seconds: f64) -> bool {
        self.deadline.is_some_and(|deadline| seconds > deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_as_long_as_its_slowest_client_or_the_deadline() {
        let pace =
            Pace { speed: Some(100.0), uplink: Some(10.0), downlink: Some(50.0), slowdown: 1.0 };
        let seconds = pace.seconds(100, 200, 30);
        assert!((seconds - (2.0 + 2.0 + 3.0)).abs() < 1e-12);
        let straggler = Pace { slowdown: 4.0, ..pace };
        assert!((straggler.seconds(100, 200, 30) - (2.0 + 8.0 + 3.0)).abs() < 1e-12);
        let free = Pace { speed: None, uplink: None, downlink: None, slowdown: 4.0 };
        assert!(!free.is_timed() && free.seconds(1, 1, 1) == 0.0);
        let clock = |deadline| Clock { paces: vec![pace, straggler], deadline };
        let round = |deadline, waits| clock(deadline).round(&[7.0, 13.0], waits);
        for (deadline, waits, wanted) in [
            (None, true, 13.0),
            (Some(20.0), false, 13.0),
            (Some(20.0), true, 20.0),
            (Some(10.0), false, 10.0),
        ] {
            assert!((round(deadline, waits) - wanted).abs() < 1e-12);
        }
        assert!((clock(None).broadcast(100) - 2.0).abs() < 1e-12);
        assert!(clock(Some(10.0)).is_late(13.0) && !clock(None).is_late(13.0));
    }
}
