//! By which kernels the frozen base is computed.

/// What `--kernels` asks for. It changes results by rounding only, and is in no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The fastest that the device has: on the CPU fedpipe's own, elsewhere Burn's operations.
    #[default]
    Auto,
    /// Burn's operations on every device.
    Stock,
}
