//! From proportions to positions, as Flower's `DirichletPartitioner` and as PFNM and NIID-Bench cut.

use std::collections::BTreeMap;

/// The positions of each class that occurs, in data set order; classes in rising order.
pub(super) fn classes(labels: &[i32]) -> BTreeMap<i32, Vec<usize>> {
    let mut classes: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (position, &label) in labels.iter().enumerate() {
        classes.entry(label).or_default().push(position);
    }
    classes
}

/// Cuts each class's positions, in data set order, at the running sums of its proportions.
///
/// `proportions` has one row for each class that occurs, in rising order of the class, and in each
/// row one number a client. The arithmetic is that of
/// `np.split(positions, (np.cumsum(p) * len(positions)).astype(int)[:-1])`: cuts are truncated, and
/// the last client takes what rounding leaves. A client's positions are grouped by class.
///
/// # Panics
///
/// Where there are not as many rows as classes.
pub fn cut(labels: &[i32], proportions: &[Vec<f64>]) -> Vec<Vec<usize>> {
    let groups: Vec<Vec<usize>> = classes(labels).into_values().collect();
    let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
    Cuts::new(&sizes, proportions, Balance::Off).shards(&groups)
}

/// Which clients get nothing more of the classes that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    /// None.
    Off,
    /// Those that have more than an even share of all examples: Flower's `self_balancing`.
    Above,
    /// Those that have an even share already: PFNM's and NIID-Bench's balance.
    Reached,
}

impl Balance {
    /// Whether a client with `size` examples gets nothing more, where an even share is `even`.
    fn is_full(self, size: usize, even: f64) -> bool {
        match self {
            Self::Off => false,
            Self::Above => size as f64 > even,
            Self::Reached => size as f64 >= even,
        }
    }
}

/// Where each class is cut, before it is known which positions it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cuts {
    /// For each class where the part of each client ends.
    ends: Vec<Vec<usize>>,
    /// How many examples each client gets.
    pub sizes: Vec<usize>,
    /// How many classes were shared evenly, because none of their proportions was left.
    pub evened: usize,
}

impl Cuts {
    /// Cuts classes of `classes` examples each; `proportions` has a row a class, a number a client.
    ///
    /// With a balance the proportions of full clients are zero and the others are divided by their
    /// sum, class after class. Where that sum is zero, which gives NaN in Flower, those that are not
    /// full get the same.
    ///
    /// # Panics
    ///
    /// Where there are not as many rows as classes.
    pub fn new(classes: &[usize], proportions: &[Vec<f64>], balance: Balance) -> Self {
        assert_eq!(classes.len(), proportions.len(), "every class has its proportions");
        let clients = proportions.first().map_or(0, Vec::len);
        let even = classes.iter().sum::<usize>() as f64 / clients as f64;
        let mut cuts = Self { ends: Vec::new(), sizes: vec![0; clients], evened: 0 };
        for (&length, row) in classes.iter().zip(proportions) {
            let balanced;
            let row = if balance == Balance::Off {
                row
            } else {
                balanced = cuts.balanced(row, balance, even);
                &balanced
            };
            let ends = ends(length, row);
            let mut start = 0;
            for (size, end) in cuts.sizes.iter_mut().zip(&ends) {
                *size += end - start;
                start = *end;
            }
            cuts.ends.push(ends);
        }
        cuts
    }

    fn balanced(&mut self, row: &[f64], balance: Balance, even: f64) -> Vec<f64> {
        let is_full: Vec<bool> =
            self.sizes.iter().map(|&size| balance.is_full(size, even)).collect();
        let open = |values: &[f64]| -> Vec<f64> {
            let each = values.iter().zip(&is_full);
            each.map(|(&value, &is_full)| if is_full { 0.0 } else { value }).collect()
        };
        let mut shares = open(row);
        let mut sum: f64 = shares.iter().sum();
        if sum == 0.0 {
            // Before the last example is given out, somebody has less than an even share.
            self.evened += 1;
            shares = open(&vec![1.0; row.len()]);
            sum = shares.iter().sum();
        }
        shares.into_iter().map(|share| share / sum).collect()
    }

    /// The positions of each client, grouped by class; `groups` has the positions of each class.
    pub fn shards(&self, groups: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let mut shards: Vec<Vec<usize>> =
            self.sizes.iter().map(|&size| Vec::with_capacity(size)).collect();
        for (positions, ends) in groups.iter().zip(&self.ends) {
            let mut start = 0;
            for (shard, &end) in shards.iter_mut().zip(ends) {
                shard.extend_from_slice(&positions[start..end]);
                start = end;
            }
        }
        shards
    }
}

/// Where each client's part of a class of `length` examples ends.
fn ends(length: usize, row: &[f64]) -> Vec<usize> {
    let mut ends = Vec::with_capacity(row.len());
    let (mut sum, mut start) = (0.0, 0);
    for (client, proportion) in row.iter().enumerate() {
        sum += proportion;
        start = if client + 1 == row.len() {
            length
        } else {
            truncated(sum * length as f64).clamp(start, length)
        };
        ends.push(start);
    }
    ends
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is what NumPy does; a share of a length is neither negative nor large"
)]
fn truncated(value: f64) -> usize {
    value as usize
}

/// `order` in so many parts, whose sizes differ by at most one; the larger ones come first.
pub(super) fn even_parts(order: &[usize], parts: usize) -> Vec<&[usize]> {
    let (size, larger) = (order.len() / parts, order.len() % parts);
    let mut rest = order;
    let mut cut = Vec::with_capacity(parts);
    for part in 0..parts {
        let (taken, after) = rest.split_at(size + usize::from(part < larger));
        cut.push(taken);
        rest = after;
    }
    cut
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// The expected values are `NumPy`'s for the same labels and proportions.
    #[test]
    fn cuts_are_numpys() {
        // Class 0 at 0 2 3 5 6 8 9, class 1 at 1 4 7.
        let labels = [0, 1, 0, 0, 1, 0, 0, 1, 0, 0];
        let rows = vec![vec![0.5, 0.3, 0.2], vec![0.1, 0.6, 0.3]];
        // 7 * [0.5, 0.8] = [3.5, 5.6] -> 3, 5; 3 * [0.1, 0.7] = [0.3, 2.1] -> 0, 2.
        assert_eq!(cut(&labels, &rows), [vec![0, 2, 3], vec![5, 6, 1, 4], vec![8, 9, 7]]);
    }

    #[test]
    fn rounding_is_that_of_a_running_sum() {
        // 0.1 added up eight times is 0.7999999999999999, of which ten times is cut to 7; nine times
        // rounds to 9 again. NumPy's cuts of ten are 1 2 3 4 5 6 7 7 9.
        let sizes: Vec<usize> = cut(&[4; 10], &[vec![0.1; 10]]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1, 1, 1, 1, 1, 0, 2, 1]);
    }

    #[test]
    fn a_client_may_get_nothing_and_the_last_takes_the_rest() {
        let rows = vec![vec![0.0, 1.0, 0.0], vec![0.2, 0.2, 0.2]];
        assert_eq!(cut(&[7, 9, 7, 9, 9, 9, 9], &rows), [vec![1], vec![0, 2, 3], vec![4, 5, 6]]);
        // A running sum that rounding took past one.
        let rows = vec![vec![0.7, 0.300_000_001, 0.0]];
        assert_eq!(cut(&[0, 0, 0], &rows), [vec![0, 1], vec![2], vec![]]);
    }

    /// What the reference code was given and what it made of it; tests/data/partition/README.md.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Recorded {
        name: String,
        balance: String,
        groups: Vec<Vec<usize>>,
        proportions: Vec<Vec<f64>>,
        shards: Vec<Vec<usize>>,
    }

    #[test]
    fn cuts_are_those_of_the_reference_code() {
        let text = include_str!("../../../tests/data/partition/cuts.json");
        let cases: Vec<Recorded> = serde_json::from_str(text).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for case in cases {
            let balance = match case.balance.as_str() {
                "off" => Balance::Off,
                "flower" => Balance::Above,
                "niid-bench" => Balance::Reached,
                other => panic!("{other}"),
            };
            let sizes: Vec<usize> = case.groups.iter().map(Vec::len).collect();
            let cuts = Cuts::new(&sizes, &case.proportions, balance);
            let shards = cuts.shards(&case.groups);
            assert_eq!(shards, case.shards, "{}", case.name);
            assert_eq!(cuts.sizes, shards.iter().map(Vec::len).collect::<Vec<_>>());
            assert_eq!(cuts.evened, 0, "{}", case.name);
            if balance != Balance::Off {
                let off = Cuts::new(&sizes, &case.proportions, Balance::Off);
                assert_ne!(off.sizes, cuts.sizes, "{}: balance did nothing", case.name);
            }
            seen.insert(case.balance);
        }
        assert_eq!(seen.len(), 3);
    }

    /// An even share of 8 examples among 4 is 2: who has 2 gets more from Flower, and nothing more
    /// from NIID-Bench.
    #[test]
    fn flower_gives_to_who_has_just_an_even_share() {
        let rows = [vec![0.5, 0.5, 0.0, 0.0], vec![0.5, 0.25, 0.25, 0.0]];
        let sizes = |balance| Cuts::new(&[4, 4], &rows, balance).sizes;
        assert_eq!(sizes(Balance::Above), [4, 3, 1, 0]);
        assert_eq!(sizes(Balance::Reached), [2, 2, 4, 0]);
    }

    /// The reference code divides by zero here.
    #[test]
    fn nothing_left_is_shared_evenly_among_those_below() {
        let rows = [vec![1.0, 0.0, 0.0], vec![1.0, 0.0, 0.0]];
        for balance in [Balance::Above, Balance::Reached] {
            let cuts = Cuts::new(&[6, 4], &rows, balance);
            assert_eq!((cuts.sizes.as_slice(), cuts.evened), (&[6, 2, 2][..], 1));
        }
    }

    #[test]
    fn even_parts_differ_by_at_most_one() {
        let parts = even_parts(&[5, 4, 3, 2, 1], 3);
        assert_eq!(parts, [&[5, 4][..], &[3, 2], &[1]]);
    }
}
