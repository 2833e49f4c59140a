//! How uneven a partition is.

use serde::{Deserialize, Serialize};

/// How uneven a partition is, in sizes and in labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skew {
    /// How many examples each client has.
    pub sizes: Vec<usize>,
    /// For each client how many examples of each class, from 0; unlabelled ones are in none.
    pub label_table: Vec<Vec<usize>>,
    /// The total variation distance between a client's labels and all labels, its mean over the
    /// clients: 0 where all are alike, near 1 where they share no class.
    pub label_tv: f64,
    /// The Gini coefficient of the sizes: 0 where all are equal, near 1 where one has all.
    pub size_gini: f64,
}

impl Skew {
    /// Of the shards of examples with these labels.
    pub fn of(shards: &[Vec<usize>], labels: &[i32]) -> Self {
        let sizes: Vec<usize> = shards.iter().map(Vec::len).collect();
        let class = |label: i32| usize::try_from(label).ok();
        let classes =
            labels.iter().filter_map(|&label| class(label)).max().map_or(0, |most| most + 1);
        let mut label_table = vec![vec![0; classes]; shards.len()];
        for (counts, shard) in label_table.iter_mut().zip(shards) {
            for &position in shard {
                if let Some(class) = class(labels[position]) {
                    counts[class] += 1;
                }
            }
        }
        Self {
            label_tv: mean_distance(&label_table, classes),
            size_gini: gini(&sizes),
            sizes,
            label_table,
        }
    }

    /// The clients all of whose examples are of one class, where there is more than one class to have.
    pub fn of_one_class(&self) -> Vec<usize> {
        let classes = |counts: &Vec<usize>| counts.iter().filter(|&&count| count > 0).count();
        let of_all: Vec<usize> = self.label_table.iter().fold(Vec::new(), |mut sum, counts| {
            sum.resize(counts.len(), 0);
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            sum
        });
        if classes(&of_all) < 2 {
            return Vec::new();
        }
        (0..self.label_table.len()).filter(|&at| classes(&self.label_table[at]) == 1).collect()
    }
}

fn mean_distance(table: &[Vec<usize>], classes: usize) -> f64 {
    let share = |counts: &[usize]| -> Vec<f64> {
        let sum = counts.iter().sum::<usize>().max(1) as f64;
        counts.iter().map(|&count| count as f64 / sum).collect()
    };
    let total = |class: usize| table.iter().map(|counts| counts[class]).sum();
    let totals: Vec<usize> = (0..classes).map(total).collect();
    let all = share(&totals);
    let distance = |counts: &Vec<usize>| -> f64 {
        let apart = share(counts).into_iter().zip(&all);
        apart.map(|(own, all)| (own - all).abs()).sum::<f64>() / 2.0
    };
    table.iter().map(distance).sum::<f64>() / table.len().max(1) as f64
}

fn gini(sizes: &[usize]) -> f64 {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let count = sizes.len() as f64;
    let sum = sizes.iter().sum::<usize>() as f64;
    if sum == 0.0 {
        return 0.0;
    }
    let ranked = sizes.iter().enumerate();
    let weighted: f64 = ranked.map(|(i, &size)| (i + 1) as f64 * size as f64).sum();
    2.0 * weighted / (count * sum) - (count + 1.0) / count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_of_known_partitions() {
        let even = Skew::of(&[vec![0, 1], vec![2, 3]], &[0, 1, 0, 1]);
        assert_eq!(even.label_table, [[1, 1], [1, 1]]);
        assert!(even.label_tv.abs() < 1e-12 && even.size_gini.abs() < 1e-12);

        // All labels are 3/4 and 1/4; the clients' 1, 0 and 1/2, 1/2: distances 1/4 and 1/4.
        let uneven = Skew::of(&[vec![0, 1], vec![2, 3]], &[0, 0, 0, 1]);
        assert!((uneven.label_tv - 0.25).abs() < 1e-12);

        assert!(even.of_one_class().is_empty());
        assert_eq!(uneven.of_one_class(), [0]);

        // Sizes 1 and 3: |1 - 3| summed over both pairs, by twice the count and the sum: 4 / 16.
        let sizes = Skew::of(&[vec![0], vec![1, 2, 3]], &[-1; 4]);
        assert_eq!(sizes.sizes, [1, 3]);
        assert!((sizes.size_gini - 0.25).abs() < 1e-12);
        assert!(sizes.label_table.iter().all(Vec::is_empty) && sizes.label_tv == 0.0);
        assert!(sizes.of_one_class().is_empty());
        assert!(Skew::of(&[vec![0], vec![1]], &[1, 1]).of_one_class().is_empty());
    }
}
