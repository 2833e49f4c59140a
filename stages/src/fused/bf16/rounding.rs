//! From f32 to the nearest bf16.

#[cfg(target_arch = "x86_64")]
use super::packed::Line;

/// The bits of the bf16 nearest to `value`, ties to even; what is not a number stays none.
pub(super) fn nearest(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // A payload that is rounded could carry into infinity.
    let kept = if value.is_nan() { bits | 0x40_0000 } else { rounded };
    upper(kept)
}

/// The f32 nearest to `value` among those that are a bf16.
pub(super) fn in_f32(value: f32) -> f32 {
    f32::from_bits(u32::from(nearest(value)) << 16)
}

fn upper(bits: u32) -> u16 {
    let [_, _, low, high] = bits.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Rounds rows of `width` numbers each, whole lines a row: what a row leaves of its last line is zero.
#[cfg(target_arch = "x86_64")]
pub(super) fn round_rows(rows: &[f32], width: usize, lines: &mut [Line]) {
    if super::avx512::is_here() {
        return super::avx512::round_rows(rows, width, lines);
    }
    let each = width.div_ceil(Line::NUMBERS);
    for (row, lines) in rows.chunks_exact(width).zip(lines.chunks_exact_mut(each)) {
        for (numbers, line) in row.chunks(Line::NUMBERS).zip(lines) {
            *line = Line::ZERO;
            for (rounded, number) in line.0.iter_mut().zip(numbers) {
                *rounded = nearest(*number);
            }
        }
    }
}
