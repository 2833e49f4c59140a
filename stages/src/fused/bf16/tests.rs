//! All kernels against sums in f64, against each other, and against themselves.

use super::*;

thread_local! {
    /// Whether this thread's AMX instructions are emulated.
    static EMULATED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

pub(super) fn is_emulated() -> bool {
    EMULATED.get()
}

/// From now on this thread may use AMX.
pub(super) fn emulate() {
    EMULATED.set(true);
}

/// `[out, in]` and rows, few of them multiples of anything.
const SIZES: [([usize; 2], usize); 12] = [
    ([1, 1], 1),
    ([1, 300], 3),
    ([3, 2], 70),
    ([5, 3], 2),
    ([16, 32], 16),
    ([17, 31], 13),
    ([32, 33], 33),
    ([48, 64], 12),
    ([64, 32], 97),
    ([70, 100], 29),
    ([129, 65], 200),
    ([40, 1536], 110),
];

/// Numbers between -1 and 1, which are no bf16.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    #[expect(clippy::cast_possible_truncation, reason = "tests of f32")]
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    };
    (0..count).map(|_| next()).collect()
}

fn here() -> Vec<Kernel> {
    let all = [Kernel::Amx, Kernel::Avx512Bf16, Kernel::Portable];
    all.into_iter().filter(|kernel| kernel.is_here()).collect()
}

/// What a kernel makes: `x·Wᵀ`, `[rows, out]`, or where it is turned `dy·W`, `[rows, in]`, added to `start` if any.
fn run(weight: &Bf16Weight, turned: bool, x: &[f32], start: Option<&[f32]>) -> Vec<f32> {
    let [outputs, inputs] = weight.shape();
    let (from, to) = if turned { (outputs, inputs) } else { (inputs, outputs) };
    let rows = x.len() / from;
    let mut out = start.map_or_else(|| vec![f32::NAN; rows * to], <[f32]>::to_vec);
    let write = if start.is_some() { Write::Add } else { Write::Over };
    if turned {
        weight.backward(x, rows, &mut out, write);
    } else {
        weight.forward(x, rows, &mut out, write);
    }
    out
}

/// The sum that each result is, in f64, with the sum of its terms' magnitudes.
fn exact(
    values: &[f32],
    [outputs, inputs]: [usize; 2],
    turned: bool,
    x: &[f32],
) -> Vec<(f64, f64)> {
    let near = |value: f32| f64::from(rounding::in_f32(value));
    let (from, to) = if turned { (outputs, inputs) } else { (inputs, outputs) };
    let mut sums = Vec::with_capacity(x.len() / from * to);
    for row in x.chunks(from) {
        for at in 0..to {
            let weight =
                |j: usize| if turned { values[j * inputs + at] } else { values[at * inputs + j] };
            let terms = row.iter().enumerate().map(|(j, x)| near(*x) * near(weight(j)));
            sums.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    sums
}

/// All that is asked of `kernel`.
pub(super) fn check(kernel: Kernel) {
    for (at, (shape, rows)) in SIZES.into_iter().enumerate() {
        let seed = u32::try_from(at).unwrap() * 8;
        let values = numbers(shape[0] * shape[1], seed + 1);
        let weight = Bf16Weight::new(&values, shape, kernel);
        for turned in [false, true] {
            let (from, to) = if turned { (shape[0], shape[1]) } else { (shape[1], shape[0]) };
            let x = numbers(rows * from, seed + 2);
            let start = numbers(rows * to, seed + 3);
            let (plain, added) =
                (run(&weight, turned, &x, None), run(&weight, turned, &x, Some(&start)));
            let wanted = exact(&values, shape, turned, &x);
            for ((found, added), (start, (sum, size))) in
                plain.iter().zip(&added).zip(start.iter().zip(wanted))
            {
                // Each of so many additions rounds once.
                let bound = |size: f64| size * (from + 2) as f64 * f64::from(f32::EPSILON) / 2.0;
                let apart = (f64::from(*found) - sum).abs();
                assert!(apart <= bound(size), "{kernel:?} {shape:?} {rows}: {found}, {sum}");
                let (sum, size) = (sum + f64::from(*start), size + f64::from(start.abs()));
                let apart = (f64::from(*added) - sum).abs();
                assert!(apart <= bound(size), "{kernel:?} {shape:?} {rows}: {added}, {sum}");
            }
            check_rows(&weight, turned, &x, &start, [&plain, &added]);
        }
    }
}

/// Each row's result is the same alone, and behind others.
fn check_rows(weight: &Bf16Weight, turned: bool, x: &[f32], start: &[f32], all: [&[f32]; 2]) {
    let [outputs, inputs] = weight.shape();
    let (from, to) = if turned { (outputs, inputs) } else { (inputs, outputs) };
    let rows = x.len() / from;
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for (first, end) in [(0, 1), (rows - 1, rows), (rows / 3, rows), (0, rows.div_ceil(2))] {
        let (x, places) = (&x[first * from..end * from], first * to..end * to);
        let plain = run(weight, turned, x, None);
        assert_eq!(bits(&plain), bits(&all[0][places.clone()]), "rows {first} to {end} of {rows}");
        let added = run(weight, turned, x, Some(&start[places.clone()]));
        assert_eq!(bits(&added), bits(&all[1][places]), "rows {first} to {end} of {rows}, added");
    }
}

#[test]
fn the_kernels_of_this_machine_sum_rounded_numbers() {
    for kernel in here() {
        check(kernel);
    }
}

#[test]
fn the_kernels_differ_by_the_order_of_sums_alone() {
    let (shape, rows) = ([70, 300], 40);
    let values = numbers(shape[0] * shape[1], 1);
    let x = numbers(rows * shape[1], 2);
    let made = |kernel| run(&Bf16Weight::new(&values, shape, kernel), false, &x, None);
    let wanted = made(Kernel::Portable);
    for kernel in here() {
        let apart =
            made(kernel).iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{kernel:?}: {apart}");
    }
    // Without rounding it is another product by far.
    let sum = |row: usize, column: usize| {
        let terms =
            (0..300).map(|j| f64::from(x[row * 300 + j]) * f64::from(values[column * 300 + j]));
        terms.sum::<f64>()
    };
    let apart = (0..70).map(|column| (sum(3, column) - f64::from(wanted[3 * 70 + column])).abs());
    assert!(apart.fold(0.0, f64::max) > 1e-2);
}

#[test]
fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
    for (value, wanted) in [
        (1.0, 0x3f80),
        (-0.0, 0x8000),
        (1.0 + 1.0 / 256.0, 0x3f80),
        (1.0 + 3.0 / 256.0, 0x3f82),
        (1.0 + 1.0 / 256.0 + f32::EPSILON, 0x3f81),
        (f32::MAX, 0x7f80),
        (f32::INFINITY, 0x7f80),
        (f32::NEG_INFINITY, 0xff80),
    ] {
        assert_eq!(rounding::nearest(value), wanted, "{value}");
    }
    assert!(rounding::in_f32(f32::from_bits(0x7f80_0001)).is_nan());
    assert!(rounding::in_f32(f32::from_bits(0xffff_ffff)).is_nan());
}

#[cfg(target_arch = "x86_64")]
#[test]
fn rows_are_rounded_as_numbers_are() {
    let width = 45;
    let mut values = numbers(3 * width, 9);
    values[50] = f32::INFINITY;
    values[51] = 3e38;
    values[52] = -0.0;
    let mut lines = vec![packed::Line([7; 32]); 6];
    rounding::round_rows(&values, width, &mut lines);
    for (row, lines) in values.chunks(width).zip(lines.chunks(2)) {
        let found = lines.iter().flat_map(|line| line.0);
        let wanted = row.iter().copied().map(rounding::nearest).chain([0; 2 * 32 - 45]);
        assert!(found.eq(wanted));
    }
}

#[test]
#[should_panic(expected = "3 rows of 4 numbers")]
fn a_slice_that_is_too_short_is_refused() {
    let weight = Bf16Weight::new(&[0.5; 20], [5, 4], Kernel::best());
    weight.forward(&[0.0; 11], 3, &mut [0.0; 15], Write::Over);
}
