//! How the clients of a federation fare, each by itself.

use serde::{Deserialize, Serialize};

use super::Scores;

/// One client's figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientScore {
    /// Its number.
    pub client: u32,
    /// The accuracy that it would see: that of each class, by the shares that the classes have among its own
    /// examples.
    pub accuracy: f64,
}

/// The spread of the clients' figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Each client's, in the order of their numbers.
    pub clients: Vec<ClientScore>,
    /// Their mean, each client counting alike.
    pub mean: f64,
    /// The smallest.
    pub worst: f64,
    /// The mean of the lowest tenth of the clients, of one at least.
    pub bottom_decile: f64,
    /// Their variance.
    pub variance: f64,
}

impl Spread {
    /// Of these figures; none without any.
    pub fn of(clients: Vec<ClientScore>) -> Option<Self> {
        let mut sorted: Vec<f64> = clients.iter().map(|score| score.accuracy).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let worst = *sorted.first()?;
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let decile = &sorted[..sorted.len().div_ceil(10)];
        let variance = sorted.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        Some(Self {
            bottom_decile: decile.iter().sum::<f64>() / decile.len() as f64,
            clients,
            mean,
            worst,
            variance,
        })
    }
}

/// The accuracy that a client with `counts` examples of each class would see; none where the scores are over none of
/// its classes.
///
/// The split that is scored is shared by all. Weighing its classes as the client's own examples have them says what
/// the client can expect, and uses every example of the split, where a cut of a few hundred examples for each client
/// would be noise.
pub fn expected_accuracy(scores: &Scores, counts: &[usize]) -> Option<f64> {
    let classes = scores.per_class.iter().zip(counts).filter(|(class, _)| class.support > 0);
    let (right, all) = classes.fold((0.0, 0.0), |(right, all), (class, &count)| {
        (right + class.recall * count as f64, all + count as f64)
    });
    (all > 0.0).then(|| right / all)
}

#[cfg(test)]
mod tests {
    use super::super::ClassLogits;
    use super::*;

    #[test]
    fn a_client_sees_the_classes_that_it_has() {
        let logits = ClassLogits { classes: 2, values: [1.0, 0.0].repeat(4) };
        // All answers are class 0: right for three of four.
        let scores = Scores::of(&logits, &[0, 0, 0, 1]);
        let seen = |counts: &[usize]| expected_accuracy(&scores, counts);
        assert_eq!(seen(&[30, 10]), Some(0.75));
        assert_eq!([seen(&[5, 0]), seen(&[0, 5])], [Some(1.0), Some(0.0)]);
        assert_eq!(seen(&[0, 0]), None);
        let only = Scores::of(&logits, &[0, 0, 0, 0]);
        assert_eq!(expected_accuracy(&only, &[1, 9]), Some(1.0), "class 1 is not in the split");
    }

    #[test]
    fn the_spread_of_known_figures() {
        let score = |client: u32| ClientScore { client, accuracy: f64::from(client) / 10.0 };
        let spread = Spread::of((0..11).map(score).collect()).unwrap();
        assert!((spread.mean - 0.5).abs() < 1e-12 && spread.worst == 0.0);
        assert!((spread.bottom_decile - 0.05).abs() < 1e-12, "the lowest two of eleven");
        assert!((spread.variance - 0.1).abs() < 1e-12);
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
