//! What every codec promises, on random values.

use super::*;
use crate::seed::Draws;

const ALL: [Codec; 4] =
    [Codec::F32, Codec::BF16, Codec::Int8 { block: 64 }, Codec::TopK { share: 0.1 }];

/// Values and what was received: sizes from 1e-4 to 1e4, some of them the same on both sides.
fn pair(length: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut draws = Draws::named(seed, "test", &["codec"]);
    #[expect(clippy::cast_possible_truncation, reason = "values are f32")]
    let mut number = || {
        let size = 10.0_f64.powf(8.0 * draws.unit() - 4.0);
        (size * draws.normal()) as f32
    };
    let received: Vec<f32> = (0..length).map(|_| number()).collect();
    let values = (0..length).map(|i| if i % 5 == 0 { received[i] } else { number() }).collect();
    (values, received)
}

/// What is left after one message.
fn told(codec: Codec, values: &[f32], received: &[f32]) -> Vec<f32> {
    let bytes = codec.encode(values, received);
    assert_eq!(bytes.len(), codec.length(values.len()), "{codec:?}");
    codec.decode(&bytes, received).unwrap()
}

/// How far the sum of a difference and what was received may lie from the value because of f32 alone.
fn rounding(value: f32, before: f32) -> f64 {
    2.0 * f64::from(f32::EPSILON) * f64::from(value.abs() + before.abs())
}

#[test]
fn lengths_are_by_formula() {
    let length = |codec: Codec| [0, 1, 64, 65, 1000].map(|values| codec.length(values));
    assert_eq!(length(Codec::F32), [0, 4, 256, 260, 4000]);
    assert_eq!(length(Codec::BF16), [0, 2, 128, 130, 2000]);
    assert_eq!(length(Codec::Int8 { block: 64 }), [0, 5, 68, 73, 1064]);
    assert_eq!(length(Codec::TopK { share: 0.1 }), [4, 12, 60, 60, 804]);
    for codec in ALL {
        assert_eq!(told(codec, &[], &[]), [0.0; 0], "{codec:?}");
    }
}

#[test]
fn f32_keeps_every_bit() {
    let (mut values, received) = pair(1000, 1);
    values.extend([-0.0, 1e-42, f32::MAX, f32::MIN_POSITIVE]);
    let received = [received, vec![1.0; 4]].concat();
    let back = told(Codec::F32, &values, &received);
    assert!(values.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
}

#[test]
fn what_did_not_change_is_told_exactly() {
    let (_, received) = pair(500, 2);
    for codec in ALL {
        assert_eq!(told(codec, &received, &received), received, "{codec:?}");
    }
}

#[test]
fn bf16_is_within_a_256th_of_the_difference() {
    let (values, received) = pair(5000, 3);
    let mut worst = 0.0_f64;
    for ((&value, &before), back) in
        values.iter().zip(&received).zip(told(Codec::BF16, &values, &received))
    {
        let difference = f64::from(value) - f64::from(before);
        let error = (f64::from(back) - f64::from(value)).abs();
        assert!(error <= difference.abs() / 256.0 + rounding(value, before), "{value} {before}");
        if difference.abs() > f64::from(before.abs()) {
            worst = worst.max(error / difference.abs());
        }
    }
    assert!(worst > 1.0 / 270.0, "the bound is nearly met: {worst}");
}

#[test]
fn int8_is_within_half_a_scale_of_its_block() {
    let (values, received) = pair(5000, 4);
    for block in [1, 7, 64, 10_000] {
        let codec = Codec::Int8 { block };
        let back = told(codec, &values, &received);
        let all: Vec<(f32, f32, f32)> =
            values.iter().zip(&received).zip(back).map(|((&v, &r), b)| (v, r, b)).collect();
        for block in all.chunks(block) {
            let most = block.iter().map(|(v, r, _)| f64::from(v - r).abs()).fold(0.0, f64::max);
            let scale = most / 127.0;
            for &(value, before, back) in block {
                let error = (f64::from(back) - f64::from(value)).abs();
                let bound = 0.5 * scale * (1.0 + 1e-4) + rounding(value, before);
                assert!(error <= bound, "{value} {before}: {error} {bound}");
            }
        }
    }
}

#[test]
fn top_k_tells_the_largest_differences_and_nothing_else() {
    let (values, received) = pair(5000, 5);
    let share = 0.013;
    let back = told(Codec::TopK { share }, &values, &received);
    let moved: Vec<usize> =
        (0..5000).filter(|&i| back[i].to_bits() != received[i].to_bits()).collect();
    assert_eq!(moved.len(), 65, "all of the largest differences move their values");
    let size = |i: usize| (values[i] - received[i]).abs();
    let least = moved.iter().map(|&i| size(i)).fold(f32::INFINITY, f32::min);
    let most = (0..5000).filter(|i| !moved.contains(i)).map(size).fold(0.0, f32::max);
    assert!(least >= most, "{least} {most}");
    for i in moved {
        let error = (f64::from(back[i]) - f64::from(values[i])).abs();
        assert!(error <= rounding(values[i], received[i]));
    }
}

#[test]
fn of_equal_differences_the_first_are_told() {
    let values = [1.0, -1.0, 2.0, 1.0, -1.0];
    let codec = Codec::TopK { share: 0.6 };
    let bytes = codec.encode(&values, &[0.0; 5]);
    assert_eq!(codec.decode(&bytes, &[0.0; 5]).unwrap(), [1.0, -1.0, 2.0, 0.0, 0.0]);
    let words: Vec<u32> =
        bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect();
    assert_eq!(words[..4], [3, 0, 1, 2]);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let (values, received) = pair(200, 6);
    for codec in ALL {
        let good = codec.encode(&values, &received);
        for cut in 0..good.len() {
            let error = codec.decode(&good[..cut], &received).unwrap_err();
            assert!(matches!(error, CodecError::Length { .. }), "{error}");
        }
        assert!(codec.decode(&[&good[..], &[0]].concat(), &received).is_err());
        for at in 0..good.len() {
            for bit in [0, 3, 6, 7] {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                // It may be another message, but then one of finite values.
                if let Ok(told) = codec.decode(&bytes, &received) {
                    assert!(told.len() == 200 && told.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
    let damaged = |codec: Codec, bytes: &[u8]| {
        matches!(codec.decode(bytes, &[0.0, 0.0]).unwrap_err(), CodecError::Damaged(_))
    };
    let nan = f32::NAN.to_le_bytes();
    assert!(damaged(Codec::F32, &[nan, nan].concat()));
    assert!(damaged(Codec::BF16, &[0x80, 0x7f, 0, 0]));
    let int8 = Codec::Int8 { block: 64 };
    assert!(damaged(int8, &[&nan[..], &[1, 1]].concat()));
    assert!(damaged(int8, &[&(-1.0_f32).to_le_bytes()[..], &[1, 1]].concat()));
    assert!(damaged(int8, &[&1.0_f32.to_le_bytes()[..], &[1, 0x80]].concat()));
    let words =
        |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let both = Codec::TopK { share: 1.0 };
    assert!(!both.decode(&words(&[2, 0, 1, 0, 0]), &[0.0, 0.0]).unwrap().is_empty());
    for wrong in [[1, 0, 1, 0, 0], [2, 1, 0, 0, 0], [2, 0, 0, 0, 0], [2, 0, 2, 0, 0]] {
        assert!(damaged(both, &words(&wrong)), "{wrong:?}");
    }
}

#[test]
fn the_syntax_has_defaults_and_the_numbers_are_checked() {
    let read = |text: &str| serde_json::from_str::<Codec>(text);
    assert_eq!(read(r#"{"Int8":{}}"#).unwrap(), ALL[2]);
    assert_eq!(read(r#"{"TopK":{"share":0.1}}"#).unwrap(), ALL[3]);
    assert!(read(r#"{"Int8":{"blok":1}}"#).is_err());
    for codec in ALL {
        let text = serde_json::to_string(&codec).unwrap();
        assert_eq!(read(&text).unwrap(), codec);
        assert_eq!(codec.check(), Ok(()));
    }
    assert_eq!(Codec::Int8 { block: 0 }.check(), Err(CodecError::Block));
    for share in [0.0, 1.1, f64::NAN, -0.1] {
        assert!(Codec::TopK { share }.check().is_err(), "{share}");
    }
}
