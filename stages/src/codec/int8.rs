//! Differences in blocks, each as whole multiples of a scale of its own: the scale in f32, then one byte a value.

use super::{CodecError, floats};

/// The largest multiple; −128 is not used, so that both signs have the same range.
const MOST: f32 = 127.0;

pub(super) fn length(values: usize, block: usize) -> usize {
    4 * values.div_ceil(block.max(1)) + values
}

pub(super) fn encode(differences: &[f32], block: usize) -> Vec<u8> {
    let block = block.max(1);
    let mut bytes = Vec::with_capacity(length(differences.len(), block));
    for values in differences.chunks(block) {
        let scale = values.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / MOST;
        bytes.extend(scale.to_le_bytes());
        bytes.extend(values.iter().map(|value| multiple(*value, scale).cast_unsigned()));
    }
    bytes
}

/// The nearest multiple of the scale: half a scale away at most, as long as the scale is a normal number.
#[expect(clippy::cast_possible_truncation, reason = "clamped to ±127")]
fn multiple(value: f32, scale: f32) -> i8 {
    if scale == 0.0 {
        return 0;
    }
    (value / scale).round_ties_even().clamp(-MOST, MOST) as i8
}

pub(super) fn decode(bytes: &[u8], block: usize) -> Result<Vec<f32>, CodecError> {
    let mut differences = Vec::with_capacity(bytes.len());
    for part in bytes.chunks(4 + block.max(1)) {
        let (scale, multiples) = part.split_at_checked(4).unwrap_or((part, &[]));
        let scale = floats(scale).next().unwrap_or(f32::NAN);
        if !scale.is_finite() || scale.is_sign_negative() {
            return Err(CodecError::Damaged("a scale is no number from 0"));
        }
        for &byte in multiples {
            if byte.cast_signed() == i8::MIN {
                return Err(CodecError::Damaged("a multiple is −128"));
            }
            differences.push(f32::from(byte.cast_signed()) * scale);
        }
    }
    Ok(differences)
}
