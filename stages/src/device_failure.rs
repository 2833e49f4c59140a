//! What a GPU says when it fails, told so that a person can act on it.

use crate::error::Error;

/// What drivers and Burn write of memory that is not there.
const OUT_OF_MEMORY: [&str; 8] = [
    "out of memory",
    "out-of-memory",
    "out of device memory",
    "outofmemory",
    "out_of_memory",
    "out_of_device_memory",
    "not enough memory",
    "can't allocate buffer",
];
/// What they write of a device that does not answer any more.
const LOST: [&str; 6] =
    ["poisoned", "device lost", "device was lost", "device_lost", "illegal address", "lost device"];

/// The error that `told`, by a device's failure or its panic, amounts to; `None` where it says nothing of a device.
pub fn explain(device: &str, told: &str) -> Option<Error> {
    let lower = told.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&OUT_OF_MEMORY) {
        let error = Error::failed(format!("`{device}` ran out of memory ({})", first_line(told)));
        return Some(error.with_hint(
            "a smaller `local.batch`, `--cohort 1` or `local.checkpoint: Block` needs less; what was done is kept",
        ));
    }
    if says(&LOST) {
        let error = Error::failed(format!("`{device}` was lost ({})", first_line(told)));
        return Some(
            error.with_hint("run again: what was done is kept, and the rest is taken up anew"),
        );
    }
    None
}

/// The line that says most: of a chain of causes the last that is no backtrace.
fn first_line(told: &str) -> String {
    let lines = told.lines().map(str::trim).filter(|line| !line.is_empty());
    let before_trace = lines.take_while(|line| !line.to_lowercase().starts_with("backtrace"));
    let causes: Vec<&str> = before_trace.collect();
    let lower = |line: &&&str| {
        let line = line.to_lowercase();
        OUT_OF_MEMORY.iter().chain(&LOST).any(|word| line.contains(word))
    };
    causes.iter().rev().find(lower).or(causes.first()).map_or_else(String::new, |s| (*s).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_lost_devices_are_told_apart_with_their_mends() {
        let told = "An error happened during execution\nCaused by:\n  out of device memory allocating 64 bytes\n\
                    Backtrace\n 0: here";
        let error = explain("cuda:1", told).unwrap();
        let text = "`cuda:1` ran out of memory (out of device memory allocating 64 bytes)";
        assert_eq!(error.to_string(), text);
        assert!(error.hint().unwrap().contains("local.batch"));
        let error = explain("cuda:0", "The device was poisoned during launch").unwrap();
        assert!(error.to_string().starts_with("`cuda:0` was lost"), "{error}");
        assert!(explain("cuda:0", "index out of bounds").is_none());
    }
}
