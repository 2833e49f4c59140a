//! On what a graph is run: the flags that `run` and `plan` share.

use std::num::NonZeroUsize;

use clap::{Args, ValueEnum};
use stages::{
    device::{Asked, Found},
    kernels::Kernels,
    memory::Path,
    session::Session,
};

use super::devices_of;
use crate::{
    memory::{self, Hardware},
    world::World,
};

#[derive(Debug, Args)]
pub(super) struct HardwareArgs {
    /// Train on these devices: auto, cpu, wgpu[:INDEX], vulkan[:INDEX], cuda[:INDEX], or several with commas
    #[arg(long, value_name = "DEVICES", default_value = "auto", value_parser = devices_of)]
    pub(super) device: Asked,
    /// Train N clients of a round in one pass [default: as many as the device's memory takes]
    #[arg(long, value_name = "N")]
    pub(super) cohort: Option<NonZeroUsize>,
    /// Run at most N steps at a time on the CPU [default: the number of cores]
    #[arg(short, long, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Compute by these kernels: auto takes fedpipe's own on the CPU, stock Burn's operations everywhere
    #[arg(long, value_name = "KERNELS", default_value = "auto")]
    kernels: Chosen,
}

/// By what the frozen base is computed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Chosen {
    Auto,
    Stock,
}

impl From<Chosen> for Kernels {
    fn from(chosen: Chosen) -> Self {
        match chosen {
            Chosen::Auto => Self::Auto,
            Chosen::Stock => Self::Stock,
        }
    }
}

impl HardwareArgs {
    pub(super) fn session(&self, world: &World) -> Session {
        Session::new(self.device.clone(), world.hub().clone())
            .with_kernels(self.kernels.into(), self.jobs.map_or(0, NonZeroUsize::get))
            .with_room(memory::available)
    }

    /// The steps that run at a time on the CPU.
    pub(super) fn side_by_side(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.jobs.map_or(cores, NonZeroUsize::get)
    }

    /// What there is for training on `device`.
    pub(super) fn on(&self, device: &Found) -> Hardware {
        if device.is_cpu() {
            let path = match self.kernels {
                Chosen::Auto => Path::Fused,
                Chosen::Stock => Path::Stock,
            };
            return Hardware::Cpu { path, free: memory::available(), jobs: self.side_by_side() };
        }
        let cohort = self.cohort.map(NonZeroUsize::get);
        Hardware::Gpu { name: device.to_string(), memory: device.memory(), cohort }
    }
}
