//! Products with frozen matrices that are kept in bf16: rows and weights are rounded to the nearest number of 8 bits, and
//! products are summed in f32 (`precision: Bf16`).
//!
//! There are three kernels, and the best that the machine has is found at run time: the tile registers of AMX
//! (Intel's Sapphire Rapids and later), the pairwise dot products of AVX-512 (AMD's Zen 4, Intel's Cooper Lake), and
//! f32 products of rounded numbers everywhere. They differ by the order of their sums alone, so the kernel is in no
//! key. The first two flush what is below 2⁻¹²⁶ to zero.
//!
//! All is on the calling thread, and no row's result depends on the rows beside it, to the bit.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_emulated;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod paired;
mod portable;
mod rounding;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
use paired::{Instructions, Paired};
use portable::Plain;

use super::matmul::Write;

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Tiles of 16 rows: `TDPBF16PS`.
    Amx,
    /// Sixteen dot products of two numbers each at once: `VDPBF16PS`.
    Avx512Bf16,
    /// Products of f32.
    Portable,
}

impl Kernel {
    /// The fastest that this machine has.
    pub(crate) fn best() -> Self {
        let all = [Self::Amx, Self::Avx512Bf16];
        all.into_iter().find(|kernel| kernel.is_here()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has it, and the operating system lets it be used.
    pub(crate) fn is_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::is_here(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => avx512::is_here(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Amx | Self::Avx512Bf16 => false,
            Self::Portable => true,
        }
    }
}

/// A frozen matrix `[out, in]` of bf16.
#[derive(Clone, Debug)]
pub(crate) struct Bf16Weight {
    /// `[out, in]`.
    shape: [usize; 2],
    form: Form,
}

/// How the numbers lie.
#[derive(Clone, Debug)]
enum Form {
    /// In pairs of bf16.
    #[cfg(target_arch = "x86_64")]
    Paired(Paired),
    /// As f32.
    Plain(Plain),
}

impl Bf16Weight {
    /// Rounds and packs `values`, `[out, in]` row by row, for `kernel`.
    ///
    /// # Panics
    /// Where this machine does not have the kernel, or there are not `out·in` values.
    pub(crate) fn new(values: &[f32], shape: [usize; 2], kernel: Kernel) -> Self {
        assert!(kernel.is_here(), "this machine has no {kernel:?}");
        let [outputs, inputs] = shape;
        assert_eq!(values.len(), outputs * inputs, "a matrix of {outputs} × {inputs} numbers");
        let form = match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx => Form::Paired(Paired::new(values, shape, Instructions::Amx)),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Bf16 => Form::Paired(Paired::new(values, shape, Instructions::Avx512)),
            _ => Form::Plain(Plain::new(values, shape)),
        };
        Self { shape, form }
    }

    /// `[out, in]`.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// `out (+)= x·Wᵀ`, with `x` `[rows, in]` and `out` `[rows, out]`.
    ///
    /// # Panics
    /// Where the slices are not as long as that.
    pub(crate) fn forward(&self, x: &[f32], rows: usize, out: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape;
        check(x, [rows, inputs], out, outputs);
        match &self.form {
            #[cfg(target_arch = "x86_64")]
            Form::Paired(paired) => paired.forward(x, out, write),
            Form::Plain(plain) => plain.forward(x, rows, out, write),
        }
    }

    /// `dx (+)= dy·W`, with `dy` `[rows, out]` and `dx` `[rows, in]`.
    ///
    /// # Panics
    /// Where the slices are not as long as that.
    pub(crate) fn backward(&self, dy: &[f32], rows: usize, dx: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape;
        check(dy, [rows, outputs], dx, inputs);
        match &self.form {
            #[cfg(target_arch = "x86_64")]
            Form::Paired(paired) => paired.backward(dy, dx, write),
            Form::Plain(plain) => plain.backward(dy, rows, dx, write),
        }
    }
}

fn check(x: &[f32], [rows, inputs]: [usize; 2], out: &[f32], outputs: usize) {
    assert_eq!(x.len(), rows * inputs, "{rows} rows of {inputs} numbers");
    assert_eq!(out.len(), rows * outputs, "{rows} rows of {outputs} results");
}
