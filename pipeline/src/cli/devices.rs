//! `fedpipe devices`

use clap::Args;
use serde_json::json;

use super::Desk;
use crate::failure::{Exit, Failure};

/// List the devices that this build can train on here
#[derive(Debug, Args)]
pub(super) struct Devices {}

impl Devices {
    #[expect(clippy::unused_self, reason = "every command has this form")]
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let found = stages::device::devices();
        let first = found.iter().position(|device| device.automatic);
        if desk.out.json() {
            let all = found.iter().enumerate().map(|(i, device)| {
                json!({ "device": device.name, "part": device.part, "auto": Some(i) == first })
            });
            desk.out.value(&all.collect::<Vec<_>>())?;
            return Ok(Exit::Done);
        }
        for (i, device) in found.iter().enumerate() {
            let auto = if Some(i) == first { "  (what `--device auto` takes)" } else { "" };
            desk.out.line(&format!("{:<10} {}{auto}", device.name, device.part))?;
        }
        Ok(Exit::Done)
    }
}
