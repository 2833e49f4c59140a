//! Where compiled kernels and what was found to be fastest are kept between processes.

use std::path::Path;

/// Keeps the kernels that are compiled for a GPU, and which variant of each was fastest, in a file in `folder`; a later
/// process on the same machine begins with them. To be called before a device is opened.
///
/// `CubeCL`'s own variables (`CUBECL_DEBUG_LOG` and the like) still hold; a `cubecl.toml` that lies about is not read.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub fn keep(folder: &Path) {
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig as _, cache::CacheConfig};

    let mut config = CubeClRuntimeConfig::default().override_from_env();
    config.environment.path = CacheConfig::Directory(folder.to_owned());
    config.compilation.cache = true;
    // A process that has read its settings keeps them: they cannot change between two runs of one.
    CubeClRuntimeConfig::try_set(config);
}

/// On the CPU nothing is compiled.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
pub fn keep(_folder: &Path) {}
