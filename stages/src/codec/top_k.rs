//! The largest differences alone: how many, then their places in rising order, then the differences.

use super::{CodecError, floats};

/// How many of `values` differences are sent: the share of them, rounded up.
///
/// 0.07 × 100 is a little more than 7 in f64, and means 7.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a usize is one"
)]
fn kept(values: usize, share: f64) -> usize {
    let exact = share * values as f64;
    let rounded = (exact * (1.0 - 1e-12)).ceil() as usize;
    rounded.clamp(usize::from(values > 0), values)
}

pub(super) fn length(values: usize, share: f64) -> usize {
    4 + 8 * kept(values, share)
}

pub(super) fn encode(differences: &[f32], share: f64) -> Vec<u8> {
    let count = kept(differences.len(), share);
    let mut places: Vec<usize> = (0..differences.len()).collect();
    // Larger ones first, and of equals the earlier one: no two places compare as equal.
    let order = |a: &usize, b: &usize| {
        let [size_a, size_b] = [a, b].map(|&at| differences[at].abs());
        size_b.total_cmp(&size_a).then(a.cmp(b))
    };
    if count < places.len() {
        places.select_nth_unstable_by(count, order);
        places.truncate(count);
    }
    places.sort_unstable();
    let number = |at: usize| u32::try_from(at).expect("an adapter has less than 2³² values");
    let mut bytes = number(count).to_le_bytes().to_vec();
    bytes.extend(places.iter().flat_map(|&at| number(at).to_le_bytes()));
    bytes.extend(places.iter().flat_map(|&at| differences[at].to_le_bytes()));
    bytes
}

/// All `values` differences, zero where none was sent. The length of `bytes` was checked.
pub(super) fn decode(bytes: &[u8], values: usize) -> Result<Vec<f32>, CodecError> {
    let [count, numbers @ ..] = bytes.as_chunks().0 else {
        return Err(CodecError::Damaged("it has no count"));
    };
    let half = numbers.len() / 2;
    if u32::from_le_bytes(*count) as usize != half {
        return Err(CodecError::Damaged("the count is not that of its differences"));
    }
    let mut all = vec![0.0; values];
    let mut next = 0;
    for (place, difference) in numbers[..half].iter().zip(floats(&bytes[4 + 4 * half..])) {
        let at = u32::from_le_bytes(*place) as usize;
        if at < next || at >= values {
            return Err(CodecError::Damaged("places do not rise, or lie outside the adapter"));
        }
        all[at] = difference;
        next = at + 1;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::kept;

    #[test]
    fn a_share_is_rounded_up_from_what_it_means() {
        assert_eq!([kept(100, 0.07), kept(30, 0.1), kept(10, 0.3), kept(7, 1.0)], [7, 3, 3, 7]);
        assert_eq!([kept(101, 0.07), kept(31, 0.1), kept(1, 0.1), kept(0, 0.1)], [8, 4, 1, 0]);
    }
}
