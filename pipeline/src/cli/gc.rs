//! `fedpipe gc`

use std::time::Duration;

use artifacts::Policy;
use clap::Args;
use serde_json::json;

use super::Desk;
use crate::{
    failure::{Exit, Failure},
    ui::style::size,
};

/// Remove what no kept run needs
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Keep the last N runs, and forget the others
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Keep the runs of this long: 12h, 30d, 8w
    #[arg(long, value_name = "TIME", value_parser = time)]
    keep_within: Option<Duration>,
    /// Spare what is newer than this, as a run may be using it
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1h", hide = true)]
    grace: Duration,
}

/// A time such as `90s`, `15m`, `12h`, `30d` or `8w`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write a number and one of s, m, h, d, w: `30d`");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

impl Gc {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let store = desk.store()?;
        let policy =
            Policy { keep_last: self.keep_last, keep_within: self.keep_within, grace: self.grace };
        let swept = store.gc(&policy, self.dry_run)?;
        if desk.out.json() {
            let mut value = json!(swept);
            value["dry_run"] = json!(self.dry_run);
            desk.out.value(&value)?;
            return Ok(Exit::Done);
        }
        if self.dry_run || desk.out.verbose() {
            for item in &swept.items {
                let bytes = size(item.bytes);
                let what = format!("{:?}", item.what).to_lowercase();
                desk.out.line(&format!("{bytes:>10}  {what:<7} {} ({})", item.id, item.why))?;
            }
        }
        let verb = if self.dry_run { "would remove" } else { "removed" };
        desk.out.line(&format!(
            "{verb} {} runs, {} records, {} blobs: {}",
            swept.runs,
            swept.records,
            swept.blobs,
            size(swept.bytes)
        ))?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::time;
    use std::time::Duration;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        for wrong in ["", "d", "30", "-1h", "3é", "99999999999999999w"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
