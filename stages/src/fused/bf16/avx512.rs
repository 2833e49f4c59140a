//! Products by the pairwise dot products of AVX-512 (`VDPBF16PS`): each of sixteen sums takes two products at once.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_load_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_store_si512,
};

use super::packed::{Line, Packed};

/// Rows of a tile. Twice as many sums, two for the columns and one for a pair of the row fill the 32 registers
/// nearly, and a tile of 12 loads 14 vectors for 24 products.
const TILE: usize = 12;

/// Whether this machine has what is used here.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

/// `out (+)= x·weight`: `x` has `rows` rows of `weight.pairs()` pairs, and `out` is `[rows, columns]`.
#[expect(
    unsafe_code,
    reason = "the tiles take pointers, and instructions that are looked for at run time"
)]
pub(super) fn multiply(
    x: &[Line],
    weight: &Packed,
    rows: usize,
    out: &mut [f32],
    accumulate: bool,
) {
    let (columns, stride) = (weight.columns(), weight.pairs());
    assert!(is_here() && x.len() * Line::PAIRS >= rows * stride && out.len() == rows * columns);
    for (first, panel) in weight.panels() {
        let left = columns - first;
        for row in (0..rows).step_by(TILE) {
            // SAFETY: the machine has the instructions. The tile reads `height` rows of `stride` pairs of `x` from
            // `row` on, which is at most `rows` with them; all lines of the panel; and the columns that the masks
            // leave of the rows of `out`, which lie within it, since `first + left` is its width.
            unsafe {
                let at = Tile {
                    x: x.as_ptr().cast::<u32>().add(row * stride),
                    stride,
                    panel: panel.as_ptr(),
                    pairs: weight.depth().div_ceil(2),
                    out: out.as_mut_ptr().add(row * columns + first),
                    columns,
                    masks: [mask(left), mask(left.saturating_sub(Line::PAIRS))],
                    accumulate,
                };
                match rows - row {
                    1 => at.run::<1>(),
                    2 => at.run::<2>(),
                    3 => at.run::<3>(),
                    4 => at.run::<4>(),
                    5 => at.run::<5>(),
                    6 => at.run::<6>(),
                    7 => at.run::<7>(),
                    8 => at.run::<8>(),
                    9 => at.run::<9>(),
                    10 => at.run::<10>(),
                    11 => at.run::<11>(),
                    _ => at.run::<TILE>(),
                }
            }
        }
    }
}

/// The first `count` of sixteen.
fn mask(count: usize) -> __mmask16 {
    if count >= Line::PAIRS { u16::MAX } else { (1 << count) - 1 }
}

/// Where a tile of results and what it is made of lie.
struct Tile {
    x: *const u32,
    stride: usize,
    panel: *const Line,
    pairs: usize,
    out: *mut f32,
    columns: usize,
    masks: [__mmask16; 2],
    accumulate: bool,
}

impl Tile {
    /// Makes `HEIGHT` rows of results.
    ///
    /// # Safety
    /// The machine has AVX-512 and its bf16 instructions. `x` has `HEIGHT` rows, `stride` apart, of at least `pairs`
    /// pairs; `panel` two lines for each of them; and of `out` there are `HEIGHT` rows, `columns` apart, of those
    /// columns that are in `masks`.
    #[expect(unsafe_code, reason = "sums stay in registers, and all else is read by pointers")]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn run<const HEIGHT: usize>(self) {
        let mut sums: [[__m512; 2]; HEIGHT] = [[_mm512_setzero_ps(); 2]; HEIGHT];
        for pair in 0..self.pairs {
            // SAFETY: by the contract.
            let columns = unsafe { [0, 1].map(|half| line(self.panel.add(2 * pair + half))) };
            for (row, sums) in sums.iter_mut().enumerate() {
                // SAFETY: by the contract.
                let x = unsafe { *self.x.add(row * self.stride + pair) };
                let x = pairs(_mm512_set1_epi32(x.cast_signed()));
                sums[0] = _mm512_dpbf16_ps(sums[0], x, columns[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], x, columns[1]);
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, (sum, mask)) in sums.into_iter().zip(self.masks).enumerate() {
                let out = self.out.wrapping_add(row * self.columns + half * Line::PAIRS);
                // SAFETY: by the contract; what is not in the mask is not touched.
                unsafe {
                    let sum = if self.accumulate {
                        _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sum)
                    } else {
                        sum
                    };
                    _mm512_mask_storeu_ps(out, mask, sum);
                }
            }
        }
    }
}

/// # Safety
/// `from` points to a line.
#[expect(unsafe_code, reason = "a load takes a pointer")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn line(from: *const Line) -> __m512bh {
    // SAFETY: by the contract, and lines are aligned as the load asks.
    pairs(unsafe { _mm512_load_si512(from.cast()) })
}

/// The same bits as pairs of bf16.
#[expect(unsafe_code, reason = "there is no other way between the two types")]
#[target_feature(enable = "avx512f")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and all of them mean something.
    unsafe { std::mem::transmute(bits) }
}

/// Rounds rows of `width` numbers, as [`super::rounding::round_rows`] does.
#[expect(unsafe_code, reason = "the instructions are looked for at run time")]
pub(super) fn round_rows(rows: &[f32], width: usize, lines: &mut [Line]) {
    assert!(is_here());
    let each = width.div_ceil(Line::NUMBERS);
    for (row, lines) in rows.chunks_exact(width).zip(lines.chunks_exact_mut(each)) {
        // SAFETY: the machine has the instructions.
        unsafe { round_row(row, lines) };
    }
}

#[expect(unsafe_code, reason = "masked loads take pointers")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn round_row(row: &[f32], lines: &mut [Line]) {
    for (numbers, line) in row.chunks(Line::NUMBERS).zip(lines) {
        let (low, high) = (numbers.as_ptr(), numbers.as_ptr().wrapping_add(Line::PAIRS));
        let more = numbers.len().saturating_sub(Line::PAIRS);
        // SAFETY: the masks leave only what lies in `numbers`; a line is aligned and as long as what is stored.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask(numbers.len()), low);
            let high = _mm512_maskz_loadu_ps(mask(more), high);
            let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_store_si512(line.0.as_mut_ptr().cast(), rounded);
        }
    }
}
