//! How much memory there is for a run, and what a run would take of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use artifacts::Store;
use serde::Serialize;
use stages::cohort;
use stages::memory::{self, Demand, Need, Texts};
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

/// Where a run trains, and the memory that there is for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hardware {
    /// Steps side by side on the CPU.
    Cpu {
        /// Which code computes.
        path: memory::Path,
        /// What is free (bytes), where that is known.
        free: Option<u64>,
        /// The most steps at a time.
        jobs: usize,
    },
    /// Cohorts of clients on a GPU.
    Gpu {
        /// The device, for people.
        name: String,
        /// What it has (bytes), where its driver says so.
        memory: Option<u64>,
        /// The clients of a cohort, where the user set that.
        cohort: Option<usize>,
    },
}

impl Hardware {
    /// Which code computes.
    pub fn path(&self) -> memory::Path {
        match self {
            Self::Cpu { path, .. } => *path,
            Self::Gpu { .. } => memory::Path::Gpu,
        }
    }

    /// How many steps of a stage that takes `demand` are run at once.
    fn at_once(&self, demand: &Demand) -> usize {
        demand.at_once(match self {
            Self::Cpu { jobs, .. } => *jobs,
            Self::Gpu { memory, cohort, .. } => {
                cohort.unwrap_or_else(|| cohort::most(*memory, demand.base, demand.each.total()))
            }
        })
    }
}

/// One stage's need, as `plan` shows it (bytes). What is not known yet is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The stage's name in the graph.
    pub stage: String,
    /// The GPU that it is trained on, if there is one.
    pub device: Option<String>,
    /// The frozen base, which all steps share.
    pub base: Option<u64>,
    /// The adapter of one step: its values, gradients and moments.
    pub adapter: Option<u64>,
    /// The activations of one step.
    pub activations: Option<u64>,
    /// Steps at once: side by side on the CPU, as a cohort on a GPU.
    pub at_once: Option<usize>,
    /// All of it.
    pub total: Option<u64>,
}

impl Line {
    /// The need of `stage` on `hardware`.
    pub fn new(stage: &str, need: &Need, hardware: &Hardware) -> Self {
        let stage = stage.to_owned();
        let device = match hardware {
            Hardware::Gpu { name, .. } => Some(name.clone()),
            Hardware::Cpu { .. } => None,
        };
        let Need::Known(demand) = need else {
            let (base, adapter, activations, at_once, total) = (None, None, None, None, None);
            return Self { stage, device, base, adapter, activations, at_once, total };
        };
        let at_once = hardware.at_once(demand);
        Self {
            stage,
            device,
            base: Some(demand.base),
            adapter: Some(demand.each.adapter),
            activations: Some(demand.each.activations),
            at_once: Some(at_once),
            total: Some(demand.total(at_once)),
        }
    }

    /// As a sentence without its full stop.
    pub fn text(&self) -> String {
        let Self {
            stage,
            device,
            base: Some(base),
            adapter: Some(adapter),
            activations: Some(activations),
            at_once: Some(at_once),
            total: Some(total),
        } = self
        else {
            return format!("{}: not known yet, its base is not on this machine", self.stage);
        };
        let device = device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
        format!(
            "{stage}{device}: about {} ({} base, {at_once} × ({} adapter, {} activations))",
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
    fn a_cohort_is_as_large_as_the_memory_of_its_device_takes() {
        let gib = 1 << 30;
        let each = Bytes { adapter: gib, activations: 3 * gib };
        let demand = Demand { base: 10 * gib, each, most: 12, mends: Vec::new() };
        let line = |memory, cohort| {
            let hardware = Hardware::Gpu { name: "cuda:0 (A GPU)".to_owned(), memory, cohort };
            Line::new("fed", &Need::Known(demand.clone()), &hardware)
        };
        // A fifth of the device is left to what is not counted.
        let text = line(Some(40 * gib), None).text();
        let wanted = "fed on cuda:0 (A GPU): about 30.1 GiB (10.0 GiB base, 5 × (1.0 GiB adapter, 3.0 GiB activations))";
        assert_eq!(text, wanted);
        assert_eq!(line(Some(40 * gib), Some(2)).at_once, Some(2));
        assert_eq!(line(Some(400 * gib), None).at_once, Some(12), "no more than there are");
        assert_eq!(line(None, None).at_once, Some(1));
    }

    #[test]
    fn as_many_steps_run_side_by_side_as_fit() {
        let each = Bytes { adapter: 10, activations: 90 };
        let demand = Demand { base: 1000, each, most: 3, mends: Vec::new() };
        let needs = [("fed".to_owned(), Need::Known(demand)), ("score".to_owned(), Need::Unknown)];
        let Need::Known(known) = &needs[0].1 else { unreachable!("it is known") };
        let one = known.total(1);
        assert_eq!((known.total(2) - one, known.total(8) - one), (100, 200), "at most three");
        assert_eq!(fitting(&needs, one + 200, 8), Ok(8));
        assert_eq!(fitting(&needs, one + 199, 8), Ok(2));
        assert_eq!(fitting(&needs, one, 8), Ok(1));
        assert_eq!(fitting(&needs, one - 1, 8).unwrap_err().0, "fed");
        let cpu = Hardware::Cpu { path: memory::Path::Fused, free: None, jobs: 2 };
        let text = Line::new("fed", &needs[0].1, &cpu).text();
        let wanted = "fed: about 80.0 MiB (1 KiB base, 2 × (0 KiB adapter, 0 KiB activations))";
        assert_eq!(text, wanted);
        let text = Line::new("score", &needs[1].1, &cpu).text();
        assert_eq!(text, "score: not known yet, its base is not on this machine");
        assert_eq!(size(1_610_612_736), "1.5 GiB");
        assert_eq!(size(150 << 20), "150 MiB");
    }
}
