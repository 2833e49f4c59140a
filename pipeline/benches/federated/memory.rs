//! The memory of a process and of all that it started, from Linux's `/proc`.

use std::{collections::BTreeMap, fs, process::Command, thread, time::Duration};

/// How often one looks.
const EVERY: Duration = Duration::from_millis(50);

/// Runs `command` to its end; gives its output, and the most bytes that it and its descendants held at once. Memory
/// that several of them share is counted once (`Pss`).
pub(crate) fn peak(command: &mut Command) -> (Vec<u8>, u64) {
    let child = command.spawn().unwrap();
    let root = child.id();
    thread::scope(|scope| {
        let output = scope.spawn(|| child.wait_with_output().unwrap());
        let mut peak = 0;
        while !output.is_finished() {
            peak = peak.max(tree(root).into_iter().map(share).sum());
            thread::sleep(EVERY);
        }
        let output = output.join().expect("waiting does not panic");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} failed: {said}");
        (output.stdout, peak)
    })
}

/// The processes that descend from `root`, itself among them.
fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next]).unwrap_or_default());
        next += 1;
    }
    found
}

/// The process that started `pid`, unless it is gone.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses, and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The bytes of `pid`, of shared ones its share; none where it is gone.
fn share(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
