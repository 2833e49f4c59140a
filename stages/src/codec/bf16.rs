//! Differences as the upper halves of their f32, rounded to nearest and ties to even.

pub(super) fn encode(differences: impl Iterator<Item = f32>) -> Vec<u8> {
    differences.flat_map(|difference| round(difference).to_le_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    let widen = |two: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*two)) << 16);
    bytes.as_chunks().0.iter().map(widen).collect()
}

/// The nearest bfloat16. It has eight significant bits, so it is 2⁻⁸ of the value away at most, unless it is subnormal.
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    // Half of the last place that is kept, less one where that place is even: a carry then rounds up.
    let even = (bits >> 16) & 1;
    ((bits.wrapping_add(0x7fff + even)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::round;

    #[test]
    fn ties_go_to_the_even_neighbour() {
        // 1 + 2⁻⁸ and 1 + 3·2⁻⁸ lie halfway between bfloat16s, which are 2⁻⁷ apart there.
        assert_eq!(round(1.0), 0x3f80);
        assert_eq!(round(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(round(1.0 + 3.0 / 256.0), 0x3f82);
        assert_eq!(round(1.0 + 1.0 / 256.0 + f32::EPSILON), 0x3f81);
        assert_eq!(round(-1.0 - 3.0 / 256.0), 0xbf82);
        // A carry goes on into the exponent.
        assert_eq!(round(1.998), 0x4000);
        assert_eq!(round(-0.0), 0x8000);
    }
}
