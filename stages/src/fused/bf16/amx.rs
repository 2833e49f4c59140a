//! Products by the tile registers of AMX (`TDPBF16PS`): sixteen rows by sixteen columns, 32 numbers deep, at once.
//!
//! The compiler knows neither the registers nor the instructions, so all of them stand here as assembly.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

use super::packed::{Line, PANEL, Packed};

/// Rows of a block of four tiles.
const BLOCK: usize = 32;
/// Rows of a tile, and the bytes in each of them.
const TILE: (usize, u16) = (16, 64);

/// Whether this machine has AMX for bf16, and the operating system lets this process use it.
pub(super) fn is_here() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    #[cfg(test)]
    if super::tests::is_emulated() {
        return true;
    }
    *FOUND.get_or_init(|| cpu_has_it() && is_permitted())
}

fn cpu_has_it() -> bool {
    const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
}

/// Asks Linux for the permission to use tiles, for all threads: their state is 8 KiB, which it keeps for none that
/// has not asked.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "a system call")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this call reads and writes no memory; it changes the two registers that are named beside its result.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// `out (+)= x·weight`: `x` has `rows` rows of `weight.pairs()` pairs, and lines enough for whole blocks of them;
/// `out` is `[rows, columns]`.
#[expect(
    unsafe_code,
    reason = "the blocks take pointers, and instructions that are looked for at run time"
)]
pub(super) fn multiply(
    x: &[Line],
    weight: &Packed,
    rows: usize,
    out: &mut [f32],
    accumulate: bool,
) {
    let (columns, lines) = (weight.columns(), weight.pairs() / Line::PAIRS);
    assert!(is_here() && lines > 0 && out.len() == rows * columns);
    // What stands behind the last row goes through with it, and what becomes of it is left out.
    let x = &x[..rows.next_multiple_of(BLOCK) * lines];
    let _tiles = Tiles::configured();
    for (first, panel) in weight.panels() {
        for row in (0..rows).step_by(BLOCK) {
            let (height, width) = ((rows - row).min(BLOCK), (columns - first).min(PANEL));
            let x = &x[row * lines..][..BLOCK * lines];
            let at = row * columns + first;
            if (height, width) == (BLOCK, PANEL) {
                let out = &mut out[at..][..(BLOCK - 1) * columns + PANEL];
                // SAFETY: tiles are configured; `x` has 32 rows of `lines` lines, the panel 32 lines for each of
                // these, and `out` 32 rows of 32 numbers, `columns` apart.
                unsafe { block(x, lines, panel, out.as_mut_ptr(), columns, accumulate) };
                continue;
            }
            let mut whole = [[0.0_f32; PANEL]; BLOCK];
            let there = |line: usize| at + line * columns..at + line * columns + width;
            if accumulate {
                for (line, whole) in whole.iter_mut().take(height).enumerate() {
                    whole[..width].copy_from_slice(&out[there(line)]);
                }
            }
            // SAFETY: likewise, and `whole` is 32 rows of 32 numbers.
            unsafe { block(x, lines, panel, whole.as_mut_ptr().cast(), PANEL, accumulate) };
            for (line, whole) in whole.iter().take(height).enumerate() {
                out[there(line)].copy_from_slice(&whole[..width]);
            }
        }
    }
}

/// The tile registers of this thread while they are configured: eight of 16 rows of 64 bytes.
struct Tiles;

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    #[expect(unsafe_code, reason = "the compiler does not know the instruction")]
    fn configured() -> Self {
        let mut all = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        all.row_bytes[..8].fill(TILE.1);
        all.rows[..8].fill(16);
        // SAFETY: it reads the 64 bytes of `all`, which are a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const all, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Tiles {
    /// Tiles in use make switching between threads slower.
    #[expect(unsafe_code, reason = "the compiler does not know the instruction")]
    fn drop(&mut self) {
        // SAFETY: it touches tile registers alone.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// 32 rows by 32 columns of results, in four tiles; two more hold rows of `x`, and two columns of the panel.
///
/// # Safety
/// The machine has AMX and [`Tiles`] are configured; `x` has 32 rows of `lines` lines each, `panel` 32 lines for each of
/// these, and `out` 32 rows, `stride` numbers apart, of 32 numbers.
#[expect(unsafe_code, reason = "the compiler does not know the instructions")]
unsafe fn block(
    x: &[Line],
    lines: usize,
    panel: &[Line],
    out: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    let (x_stride, out_stride) = (lines * size_of::<Line>(), stride * size_of::<f32>());
    // SAFETY: by the contract. In each turn of the loop the tiles of `x` go one line to the right, and those of the
    // panel 16 pairs of lines down.
    unsafe {
        asm!(
            "test {accumulate:e}, {accumulate:e}",
            "jz 2f",
            "tileloadd tmm0, [{upper} + {out_stride}]",
            "tileloadd tmm1, [{upper} + {out_stride} + 64]",
            "tileloadd tmm2, [{lower} + {out_stride}]",
            "tileloadd tmm3, [{lower} + {out_stride} + 64]",
            "jmp 3f",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "3:",
            "tileloadd tmm4, [{x} + {x_stride}]",
            "tileloadd tmm6, [{panel} + {panel_stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{panel} + {panel_stride} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x_lower} + {x_stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {x}, 64",
            "add {x_lower}, 64",
            "add {panel}, 2048",
            "dec {lines}",
            "jnz 3b",
            "tilestored [{upper} + {out_stride}], tmm0",
            "tilestored [{upper} + {out_stride} + 64], tmm1",
            "tilestored [{lower} + {out_stride}], tmm2",
            "tilestored [{lower} + {out_stride} + 64], tmm3",
            accumulate = in(reg) u32::from(accumulate),
            upper = in(reg) out,
            lower = in(reg) out.wrapping_add(TILE.0 * stride),
            out_stride = in(reg) out_stride,
            x = inout(reg) x.as_ptr() => _,
            x_lower = inout(reg) x.as_ptr().wrapping_add(TILE.0 * lines) => _,
            x_stride = in(reg) x_stride,
            panel = inout(reg) panel.as_ptr() => _,
            panel_stride = in(reg) 2 * size_of::<Line>(),
            lines = inout(reg) lines => _,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            out("tmm3") _,
            out("tmm4") _,
            out("tmm5") _,
            out("tmm6") _,
            out("tmm7") _,
            options(nostack),
        );
    }
}
