//! From proportions to positions, exactly as Flower's `DirichletPartitioner` cuts.

use std::collections::BTreeMap;

/// Cuts each class's positions, in data set order, at the running sums of its proportions.
///
/// `proportions` has one row for each class that occurs, in rising order of the class, and in each
/// row one number a client. The arithmetic is that of
/// `np.split(positions, (np.cumsum(p) * len(positions)).astype(int)[:-1])`: cuts are truncated, and
/// the last client takes what rounding leaves. A client's positions are grouped by class.
///
/// # Panics
///
/// Where there are fewer rows than classes.
pub fn cut(labels: &[i32], proportions: &[Vec<f64>]) -> Vec<Vec<usize>> {
    let mut classes: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (position, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(position);
    }
    assert!(
        classes.len() <= proportions.len(),
        "every class has its proportions"
    );
    let clients = proportions.first().map_or(0, Vec::len);
    let mut shards = vec![Vec::new(); clients];
    for (positions, row) in classes.values().zip(proportions) {
        let mut start = 0;
        let mut sum = 0.0;
        for (client, proportion) in row.iter().enumerate() {
            sum += proportion;
            let end = if client + 1 == clients {
                positions.len()
            } else {
                truncated(sum * positions.len() as f64).clamp(start, positions.len())
            };
            shards[client].extend_from_slice(&positions[start..end]);
            start = end;
        }
    }
    shards
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is what NumPy does; a share of a length is neither negative nor large"
)]
fn truncated(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected values are NumPy's for the same labels and proportions.
    #[test]
    fn cuts_are_numpys() {
        // Class 0 at 0 2 3 5 6 8 9, class 1 at 1 4 7.
        let labels = [0, 1, 0, 0, 1, 0, 0, 1, 0, 0];
        let rows = vec![vec![0.5, 0.3, 0.2], vec![0.1, 0.6, 0.3]];
        // 7 * [0.5, 0.8] = [3.5, 5.6] -> 3, 5; 3 * [0.1, 0.7] = [0.3, 2.1] -> 0, 2.
        assert_eq!(
            cut(&labels, &rows),
            [vec![0, 2, 3], vec![5, 6, 1, 4], vec![8, 9, 7]]
        );
    }

    #[test]
    fn rounding_is_that_of_a_running_sum() {
        // 0.1 added up eight times is 0.7999999999999999, of which ten times is cut to 7; nine times
        // rounds to 9 again. NumPy's cuts of ten are 1 2 3 4 5 6 7 7 9.
        let sizes: Vec<usize> = cut(&[4; 10], &[vec![0.1; 10]])
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 1, 0, 2, 1]);
    }

    #[test]
    fn a_client_may_get_nothing_and_the_last_takes_the_rest() {
        let rows = vec![vec![0.0, 1.0, 0.0], vec![0.2, 0.2, 0.2]];
        assert_eq!(
            cut(&[7, 9, 7, 9, 9, 9, 9], &rows),
            [vec![1], vec![0, 2, 3], vec![4, 5, 6]]
        );
        // A running sum that rounding took past one.
        let rows = vec![vec![0.7, 0.300_000_001, 0.0]];
        assert_eq!(cut(&[0, 0, 0], &rows), [vec![0, 1], vec![2], vec![]]);
    }
}
