//! The wall clock: read here and nowhere else.

use jiff::Timestamp;

/// Now, as people and `jq` read it: `2026-11-22T15:30:12Z`.
pub fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A name for a run: sorted by time, and not the same for two processes of one second.
pub fn run_id() -> String {
    let now = Timestamp::now();
    let tail = (u64::from(now.subsec_nanosecond().unsigned_abs()) << 16) ^ u64::from(std::process::id());
    format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), tail % 0x1_0000)
}

/// This machine's name, for provenance.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}
