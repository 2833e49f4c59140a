//! The coordinate-wise median (arXiv 1803.01498).

use super::{Update, flat, narrow};

/// The middle value of each coordinate; the mean of the two middle ones where the number of clients is even.
pub(super) fn median(updates: &[Update<'_>]) -> Vec<f32> {
    let all = flat(updates);
    let mut column = vec![0.0_f32; all.len()];
    let middle = |at: usize| {
        for (place, values) in column.iter_mut().zip(&all) {
            *place = values[at];
        }
        column.sort_unstable_by(f32::total_cmp);
        let half = column.len() / 2;
        if column.len() % 2 == 1 {
            column[half]
        } else {
            narrow(f64::midpoint(f64::from(column[half - 1]), f64::from(column[half])))
        }
    };
    (0..all[0].len()).map(middle).collect()
}
