//! Which device trains: named on the command line, found at run time.

use std::{fmt, str::FromStr};

use burn::tensor::Device;

use crate::error::{Error, Result};

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if it is compiled in and present, else a real GPU by Vulkan, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first adapter that wgpu finds, whatever its graphics interface.
    Wgpu,
    /// The adapter with this index among those that Vulkan shows, software ones included.
    Vulkan(usize),
    /// The CUDA device with this index.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = match text.split_once(':') {
            Some((kind, index)) => {
                (kind, index.parse().map_err(|_| format!("`{index}` is not the index of a device"))?)
            }
            None => (text, 0),
        };
        match kind {
            "vulkan" => Ok(Self::Vulkan(index)),
            "cuda" => Ok(Self::Cuda(index)),
            "auto" | "cpu" | "wgpu" if text.contains(':') => {
                Err(format!("`{kind}` takes no index; `vulkan:{index}` and `cuda:{index}` do"))
            }
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "wgpu" => Ok(Self::Wgpu),
            _ => Err("choose one of `auto`, `cpu`, `wgpu`, `vulkan[:INDEX]`, `cuda[:INDEX]`".to_owned()),
        }
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
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.part)
    }
}

/// Every device that this build reaches here, best first; the CPU is always the last.
pub fn devices() -> Vec<Found> {
    let mut found = cuda();
    found.extend(vulkan());
    found.push(cpu());
    found
}

/// The device that `choice` means here.
///
/// # Errors
/// This build has no such backend, or the machine has no such device.
pub fn choose(choice: DeviceChoice) -> Result<Found> {
    match choice {
        DeviceChoice::Cpu => Ok(cpu()),
        DeviceChoice::Auto => devices()
            .into_iter()
            .find(|found| found.automatic)
            .ok_or_else(|| Error::failed("no device was found")),
        DeviceChoice::Cuda(index) => numbered(cuda(), index, "cuda", cfg!(feature = "cuda")),
        DeviceChoice::Vulkan(index) => numbered(vulkan(), index, "vulkan", cfg!(feature = "wgpu")),
        DeviceChoice::Wgpu => wgpu(),
    }
}

fn numbered(mut found: Vec<Found>, index: usize, kind: &str, built: bool) -> Result<Found> {
    if !built {
        return Err(not_built(kind));
    }
    if index < found.len() {
        return Ok(found.swap_remove(index));
    }
    let there = match found.len() {
        0 => format!("no {kind} device was found on this machine"),
        n => format!("there is no `{kind}:{index}`: this machine has {n}, counted from 0"),
    };
    Err(Error::input(there).with_hint("`fedpipe devices` lists what can be used"))
}

fn not_built(kind: &str) -> Error {
    let feature = if kind == "cuda" { "cuda" } else { "wgpu" };
    Error::input(format!("`--device {kind}` was asked for, but this fedpipe was built without it"))
        .with_hint(format!("build it with `cargo install --path pipeline --features {feature}`"))
}

fn cpu() -> Found {
    Found { name: "cpu".into(), part: "flex".into(), automatic: true, device: Device::flex() }
}

#[cfg(feature = "cuda")]
fn cuda() -> Vec<Found> {
    listed(burn::tensor::DeviceType::Cuda, "cuda")
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Vec<Found> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn vulkan() -> Vec<Found> {
    listed(burn::tensor::DeviceType::Vulkan, "vulkan")
}

#[cfg(not(feature = "wgpu"))]
fn vulkan() -> Vec<Found> {
    Vec::new()
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Found> {
    let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
    if vulkan().is_empty() {
        return Err(Error::input("wgpu finds no adapter on this machine")
            .with_hint("`fedpipe devices` lists what can be used"));
    }
    let part = device.identity().map_or_else(|| "unnamed".to_owned(), |it| it.name);
    Ok(Found { name: "wgpu".into(), part, automatic: true, device })
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Found> {
    Err(not_built("wgpu"))
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn listed(of: burn::tensor::DeviceType, kind: &str) -> Vec<Found> {
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
