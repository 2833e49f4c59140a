//! `fedpipe devices`

use clap::Args;
use serde_json::json;
use stages::device::Found;

use super::Desk;
use crate::failure::{Exit, Failure};

/// List the devices that this build can train on here
#[derive(Debug, Args)]
pub(super) struct Devices {}

impl Devices {
    #[expect(clippy::unused_self, reason = "every command has this form")]
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let found = stages::device::devices();
        let automatic = stages::device::automatic(&found);
        let is_taken = |name: &str| automatic.iter().any(|taken| taken.name == name);
        if desk.out.json() {
            let all = found.iter().map(|device| {
                let Found { name, part, .. } = device;
                let (memory, auto) = (device.memory(), is_taken(name));
                json!({ "device": name, "part": part, "memory": memory, "auto": auto })
            });
            desk.out.value(&all.collect::<Vec<_>>())?;
            return Ok(Exit::Done);
        }
        for device in &found {
            let Found { name, part, .. } = device;
            let auto = if is_taken(name) { "  (what `--device auto` takes)" } else { "" };
            desk.out.line(&format!("{name:<10} {part}{auto}"))?;
        }
        Ok(Exit::Done)
    }
}
