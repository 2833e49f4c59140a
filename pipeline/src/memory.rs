//! How much memory there is for a run, and what a run would take of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use artifacts::Store;
use serde::Serialize;
use stages::memory::{Demand, Need, Texts};
use stages::tokenize::TokensInfo;

use crate::plan::{Plan, State};

/// The memory that this process could still take (bytes), by what is free on the machine, by the limits of its control
/// groups and by that of its address space; `None` where the system says none of it.
pub fn available() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| kib(&text, "MemAvailable:"));
    let groups = read("/proc/self/cgroup").and_then(|text| of_groups(&text, Path::new(GROUPS)));
    let space = read("/proc/self/limits").and_then(|text| limit(&text));
    let used = read("/proc/self/status").and_then(|text| kib(&text, "VmSize:"));
    let space = space.zip(used).map(|(limit, used)| limit.saturating_sub(used));
    [machine, groups, space].into_iter().flatten().min()
}

const GROUPS: &str = "/sys/fs/cgroup";

/// A line like `MemAvailable:   24133820 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// The soft limit of the address space in `/proc/self/limits`, unless there is none.
fn limit(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What is left in the narrowest of the control groups that `/proc/self/cgroup` names, and of those around them.
fn of_groups(text: &str, root: &Path) -> Option<u64> {
    let lines = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => Some((root.to_owned(), path, ["memory.max", "memory.current"])),
            list if list.split(',').any(|name| name == "memory") => {
                let files = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
                Some((root.join("memory"), path, files))
            }
            _ => None,
        }
    });
    lines
        .filter_map(|(root, path, files)| {
            let group = root.join(path.trim_start_matches('/'));
            let around = group.ancestors().take_while(|group| group.starts_with(&root));
            around.filter_map(|group| of_group(group, files)).min()
        })
        .min()
}

/// What is left in one control group. Cached files count as used there, but go when memory is short.
fn of_group(group: &Path, [most, used]: [&str; 2]) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(group.join(name)).ok()?.trim().parse().ok()
    };
    let most = number(most)?;
    let used = number(used)?;
    let stat = fs::read_to_string(PathBuf::from(group).join("memory.stat")).unwrap_or_default();
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cached: u64 = cached.and_then(|number| number.parse().ok()).unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(cached)))
}

/// The sizes of the token set that a node made, if it is there.
pub fn texts(plan: &Plan, states: &[State], store: Option<&Store>, node: &str) -> Option<Texts> {
    let store = store?;
    let mut known = plan.steps.iter().zip(states).filter_map(|(step, state)| {
        let State::Reused { found, .. } = state else { return None };
        let is_it = step.work.stage() == "tokenize"
            && step.name.rsplit('/').next().is_some_and(|name| name == node);
        if !is_it {
            return None;
        }
        let tree = store.tree(&found.tree).ok().flatten()?;
        let info = store.blob(&tree.get("info.json")?).ok()?;
        let info: TokensInfo = serde_json::from_slice(&info).ok()?;
        let splits = info.splits.values();
        let longest = splits.clone().map(|split| split.longest).max()?;
        Some(Texts { longest, examples: splits.map(|split| split.examples).max()? })
    });
    known.next()
}

/// One stage's need, as `plan` shows it (bytes). What is not known yet is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The stage's name in the graph.
    pub stage: String,
    /// The frozen base, which all steps share.
    pub base: Option<u64>,
    /// The adapter of one step: its values, gradients and moments.
    pub adapter: Option<u64>,
    /// The activations of one step.
    pub activations: Option<u64>,
    /// Steps side by side.
    pub side_by_side: Option<usize>,
    /// All of it.
    pub total: Option<u64>,
}

impl Line {
    /// The need of `stage` with `jobs` steps side by side.
    pub fn new(stage: &str, need: &Need, jobs: usize) -> Self {
        let stage = stage.to_owned();
        let Need::Known(demand) = need else {
            let (base, adapter, activations, side_by_side, total) = (None, None, None, None, None);
            return Self { stage, base, adapter, activations, side_by_side, total };
        };
        Self {
            stage,
            base: Some(demand.base),
            adapter: Some(demand.each.adapter),
            activations: Some(demand.each.activations),
            side_by_side: Some(demand.side_by_side(jobs)),
            total: Some(demand.total(jobs)),
        }
    }

    /// As a sentence without its full stop.
    pub fn text(&self) -> String {
        let Self {
            stage,
            base: Some(base),
            adapter: Some(adapter),
            activations: Some(activations),
            side_by_side: Some(side_by_side),
            total: Some(total),
        } = self
        else {
            return format!("{}: not known yet, its base is not on this machine", self.stage);
        };
        format!(
            "{stage}: about {} ({} base, {side_by_side} × ({} adapter, {} activations))",
            size(*total),
            size(*base),
            size(*adapter),
            size(*activations)
        )
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 100.0 && unit > 0);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// How many steps side by side find room in `free` bytes for all of `needs`, at most `jobs`; or else the stage that not
/// even one step of finds room.
///
/// # Errors
/// The name of that stage with what it takes.
pub fn fitting(
    needs: &[(String, Need)],
    free: u64,
    jobs: usize,
) -> Result<usize, (String, Demand)> {
    let mut fits = jobs;
    for (stage, need) in needs {
        let Need::Known(demand) = need else { continue };
        let least = (1..=fits).rev().find(|jobs| demand.total(*jobs) <= free);
        fits = least.ok_or_else(|| (stage.clone(), demand.clone()))?;
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stages::memory::Bytes;

    #[test]
    fn the_systems_words_are_read() {
        assert_eq!(kib("MemTotal: 1 kB\nMemAvailable:   24 kB\n", "MemAvailable:"), Some(24 << 10));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max address space         4194304000           unlimited            bytes     \n";
        assert_eq!(limit(limits), Some(4_194_304_000));
        assert_eq!(limit(&limits.replace("4194304000", "unlimited ")), None);
    }

    #[test]
    fn the_narrowest_group_decides() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "5000\n");
        write("a/memory.current", "1500\n");
        write("a/memory.stat", "anon 1000\ninactive_file 500\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "900\n");
        assert_eq!(of_groups("0::/a/b\n", dir.path()), Some(4000));
        write("memory/c/memory.limit_in_bytes", "700\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        let both = "5:cpu,memory:/c\n0::/a/b\n";
        assert_eq!(of_groups(both, dir.path()), Some(600));
        assert_eq!(of_groups("0::/\n", dir.path()), None);
    }

    #[test]
    fn as_many_steps_run_side_by_side_as_fit() {
        let each = Bytes { adapter: 10, activations: 90 };
        let demand = Demand { base: 1000, each, most: 3, mends: Vec::new() };
        let needs = [("fed".to_owned(), Need::Known(demand)), ("score".to_owned(), Need::Unknown)];
        assert_eq!(fitting(&needs, 5000, 8), Ok(8), "never more than three of them");
        assert_eq!(fitting(&needs, 1250, 8), Ok(2));
        assert_eq!(fitting(&needs, 1100, 8), Ok(1));
        assert_eq!(fitting(&needs, 1099, 8).unwrap_err().0, "fed");
        let text = Line::new("fed", &needs[0].1, 2).text();
        assert_eq!(text, "fed: about 1 KiB (1 KiB base, 2 × (0 KiB adapter, 0 KiB activations))");
        let text = Line::new("score", &needs[1].1, 2).text();
        assert_eq!(text, "score: not known yet, its base is not on this machine");
        assert_eq!(size(1_610_612_736), "1.5 GiB");
        assert_eq!(size(150 << 20), "150 MiB");
    }
}
