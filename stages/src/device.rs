//! Which devices train: named on the command line, found at run time.

use std::{fmt, str::FromStr};

use burn::tensor::Device;

use crate::error::{Error, Result};

/// One item of what `--device` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// All CUDA devices if they are compiled in and present, else all real GPUs by Vulkan or wgpu, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The adapter with this index among those that wgpu shows, software ones included, by whatever graphics interface
    /// the machine has; all real ones where there is no index.
    Wgpu(Option<usize>),
    /// The same by Vulkan alone, with kernels in its own SPIR-V.
    Vulkan(Option<usize>),
    /// The CUDA device with this index; all of them where there is none.
    Cuda(Option<usize>),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => {
                let parsed = index.parse();
                let parsed = parsed.map_err(|_| format!("`{index}` is not the index of a device"));
                (kind, Some(parsed?))
            }
            None => (text, None),
        };
        match (kind, index) {
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("vulkan", index) => Ok(Self::Vulkan(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            ("auto" | "cpu", Some(index)) => {
                Err(format!("`{kind}` takes no index; `wgpu:{index}` and `cuda:{index}` do"))
            }
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            _ => Err("choose `auto`, `cpu`, `wgpu[:INDEX]`, `vulkan[:INDEX]`, `cuda[:INDEX]`, or \
                      several GPUs with commas between them"
                .to_owned()),
        }
    }
}

/// All that `--device` asks for: `cuda`, or `cuda:0,cuda:1`.
///
/// A GPU may be named twice: then two threads train on it, each with its own copy of the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked(Vec<DeviceChoice>);

impl Asked {
    /// Whether it is left to fedpipe which devices train.
    pub fn is_auto(&self) -> bool {
        self.0 == [DeviceChoice::Auto]
    }
}

impl From<DeviceChoice> for Asked {
    fn from(one: DeviceChoice) -> Self {
        Self(vec![one])
    }
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = text.split(',').map(|one| one.trim().parse::<DeviceChoice>());
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let alone = |one: &DeviceChoice| matches!(one, DeviceChoice::Auto | DeviceChoice::Cpu);
        if all.len() > 1 && all.iter().any(alone) {
            return Err("`auto` and `cpu` stand alone: a list is of GPUs".to_owned());
        }
        Ok(Self(all))
    }
}

/// A device that this build can use on this machine.
#[derive(Clone, Debug)]
pub struct Found {
    /// How to ask for it: `cuda:0`.
    pub name: String,
    /// The part as it names itself.
    pub part: String,
    /// Whether `--device auto` may take it: software adapters only run when named.
    pub automatic: bool,
    pub(crate) device: Device,
}

impl Found {
    /// Whether this is the CPU, where each step has one thread and several run at a time.
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }

    /// Where Burn puts tensors that are made on it.
    pub fn tensors(&self) -> &Device {
        &self.device
    }

    /// The memory that the device may be asked to hold (bytes), where its driver says so.
    pub fn memory(&self) -> Option<u64> {
        memory(&self.device)
    }

    /// Waits for what it was given to do and gives back the memory that it keeps for later, so that less is in use
    /// before something is tried again.
    pub fn calm(&self) {
        // What failed was told to whoever asked for its result.
        drop(self.device.sync());
        self.device.memory_cleanup();
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.part)
    }
}

/// Every device that this build reaches here, best first; the CPU is always the last.
pub fn devices() -> Vec<Found> {
    let mut found = cuda();
    // What Vulkan shows, wgpu shows too.
    found.extend(if cfg!(feature = "vulkan") { vulkan() } else { wgpu() });
    found.push(cpu());
    found
}

/// Those of `found`, in the order of [`devices`], that `--device auto` takes: all of the first kind of which there
/// are any.
pub fn automatic(found: &[Found]) -> Vec<&Found> {
    let kind = |found: &Found| found.name.split(':').next().map(str::to_owned);
    let mut able = found.iter().filter(|found| found.automatic);
    let Some(first) = able.next() else { return Vec::new() };
    std::iter::once(first).chain(able.filter(|other| kind(other) == kind(first))).collect()
}

/// The first device that `choice` means here.
///
/// # Errors
/// This build has no such backend, or the machine has no such device.
pub fn choose(choice: DeviceChoice) -> Result<Found> {
    Ok(meant(choice)?.swap_remove(0))
}

/// All devices that were asked for, in that order; one that was named twice is there twice.
///
/// # Errors
/// This build has no such backend, or the machine has no such device.
pub fn choose_all(asked: &Asked) -> Result<Vec<Found>> {
    Ok(asked.0.iter().map(|choice| meant(*choice)).collect::<Result<Vec<_>>>()?.concat())
}

/// At least one device.
fn meant(choice: DeviceChoice) -> Result<Vec<Found>> {
    match choice {
        DeviceChoice::Cpu => Ok(vec![cpu()]),
        DeviceChoice::Auto => Ok(automatic(&devices()).into_iter().cloned().collect()),
        DeviceChoice::Cuda(index) => listed(cuda(), index, "cuda", cfg!(feature = "cuda")),
        DeviceChoice::Vulkan(index) => {
            drawn(listed(vulkan(), index, "vulkan", cfg!(feature = "vulkan"))?)
        }
        DeviceChoice::Wgpu(index) => drawn(listed(wgpu(), index, "wgpu", cfg!(feature = "wgpu"))?),
    }
}

/// What Vulkan or wgpu found, unless kernels would crash its driver: the SPIR-V that Burn's compiler makes of memory that
/// threads share is only valid where the driver lets such memory have a layout, and software adapters do not. What wgpu
/// makes of WGSL is valid anywhere.
fn drawn(found: Vec<Found>) -> Result<Vec<Found>> {
    match found.iter().find(|found| cfg!(feature = "vulkan") && !found.automatic) {
        Some(software) => {
            let message = format!("{software} is a software adapter, and takes no SPIR-V");
            Err(Error::input(message)
                .with_hint("build with `--features wgpu`, without `vulkan`, to train on it"))
        }
        None => Ok(found),
    }
}

fn listed(
    mut found: Vec<Found>,
    index: Option<usize>,
    kind: &str,
    built: bool,
) -> Result<Vec<Found>> {
    if !built {
        return Err(not_built(kind));
    }
    let there = match (index, found.len()) {
        (_, 0) => format!("no {kind} device was found on this machine"),
        (Some(index), n) if index < n => return Ok(vec![found.swap_remove(index)]),
        (Some(index), n) => {
            format!("there is no `{kind}:{index}`: this machine has {n}, counted from 0")
        }
        (None, _) if found.iter().any(|found| found.automatic) => {
            found.retain(|found| found.automatic);
            return Ok(found);
        }
        (None, _) => format!("this machine has only software adapters for {kind}"),
    };
    Err(Error::input(there).with_hint("`fedpipe devices` lists what can be used"))
}

fn not_built(kind: &str) -> Error {
    Error::input(format!("`--device {kind}` was asked for, but this fedpipe was built without it"))
        .with_hint(format!("build it with `cargo install --path pipeline --features {kind}`"))
}

fn cpu() -> Found {
    Found { name: "cpu".into(), part: "flex".into(), automatic: true, device: Device::flex() }
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<Found> {
    enumerated(burn::tensor::DeviceType::Cuda, "cuda")
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<Found> {
    Vec::new()
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Vec<Found> {
    enumerated(burn::tensor::DeviceType::Vulkan, "vulkan")
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Vec<Found> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Vec<Found> {
    enumerated(burn::tensor::DeviceType::Wgpu, "wgpu")
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Vec<Found> {
    Vec::new()
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn enumerated(of: burn::tensor::DeviceType, kind: &str) -> Vec<Found> {
    let all = Device::enumerate(of).into_iter().enumerate();
    all.map(|(index, device)| {
        let identity = device.identity();
        Found {
            name: format!("{kind}:{index}"),
            automatic: identity.as_ref().is_some_and(|it| it.physical.is_some()),
            part: identity.map_or_else(|| "unnamed".to_owned(), |it| it.name),
            device,
        }
    })
    .collect()
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn memory(device: &Device) -> Option<u64> {
    match device.as_dispatch() {
        burn::backend::DispatchDevice::Cube(device) => {
            device.client().properties().memory.max_memory()
        }
        _ => None,
    }
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn memory(_device: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_gpus_are_asked_for_with_commas() {
        let asked: Asked = "cuda:0, cuda:1".parse().unwrap();
        assert_eq!(asked.0, [DeviceChoice::Cuda(Some(0)), DeviceChoice::Cuda(Some(1))]);
        assert_eq!("cuda".parse::<Asked>().unwrap().0, [DeviceChoice::Cuda(None)]);
        assert!("auto".parse::<Asked>().unwrap().is_auto());
        assert!("wgpu:0,wgpu:0".parse::<Asked>().is_ok(), "two threads on one device");
        for wrong in ["cpu,cuda:0", "auto,auto", "cuda:", "cuda:x", "cpu:1", "gpu", ""] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn auto_takes_all_devices_of_the_best_kind() {
        let found = |name: &str, automatic| Found { name: name.into(), automatic, ..cpu() };
        let names = |found: &[Found]| -> Vec<String> {
            automatic(found).iter().map(|found| found.name.clone()).collect()
        };
        let all = [
            found("cuda:0", true),
            found("cuda:1", true),
            found("vulkan:0", true),
            found("cpu", true),
        ];
        assert_eq!(names(&all), ["cuda:0", "cuda:1"]);
        let software = [found("vulkan:0", false), found("cpu", true)];
        assert_eq!(names(&software), ["cpu"]);
    }
}
