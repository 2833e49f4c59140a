//! The first values of an adapter.

use super::AdapterTensors;
use crate::model::{Config, Init, Layout, LoraConfig, LoraError, Part};
use crate::seed::Draws;

/// The deviation of a new classifier's weights, as transformers has it.
const SCORE_DEVIATION: f64 = 0.02;

/// A new adapter for a base of `config`, with a classifier of `classes` classes (0 for none).
///
/// A is drawn by the name of its module, row after row, so that with [`Init::Kaiming`] a smaller rank is the first
/// rows of a larger one (with [`Init::Gaussian`] up to the deviation, which is one over the rank); B is zero. The
/// classifier does not depend on the rank.
///
/// # Errors
/// The base cannot take the adapter.
pub fn init_adapter(
    config: &Config,
    lora: &LoraConfig,
    classes: usize,
    seed: u64,
) -> Result<AdapterTensors, LoraError> {
    let layout = Layout::new(config, lora, classes)?;
    let tensors = layout.entries().iter().map(|entry| {
        let [rows, columns] = entry.shape;
        let count = rows * columns;
        let mut draws = Draws::named(seed, "adapter", &[&entry.name]);
        let values = match entry.part {
            Part::B { .. } | Part::Core { .. } => vec![0.0; count],
            Part::A { .. } => first_a(lora.init, entry.shape, &mut draws),
            Part::Score => (0..count).map(|_| narrow(draws.normal() * SCORE_DEVIATION)).collect(),
        };
        (entry.name.clone(), entry.shape, values)
    });
    Ok(AdapterTensors::new(tensors))
}

/// The first values of a factor A `[rank, in]`, row after row.
pub(crate) fn first_a(init: Init, shape: [usize; 2], draws: &mut Draws) -> Vec<f32> {
    let [rank, inputs] = shape;
    let spread = match init {
        Init::Kaiming => (inputs as f64).sqrt().recip(),
        Init::Gaussian => (rank as f64).recip(),
    };
    let mut draw = || match init {
        Init::Kaiming => 2.0 * draws.unit() - 1.0,
        Init::Gaussian => draws.normal(),
    };
    (0..rank * inputs).map(|_| narrow(draw() * spread)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Layers, tiny};
    use crate::peft::SCORE;

    fn config() -> Config {
        tiny::config()
    }

    #[test]
    fn a_smaller_rank_is_the_first_rows_of_a_larger_one() {
        let small = init_adapter(&config(), &LoraConfig::of_rank(4), 2, 17).unwrap();
        let large = init_adapter(&config(), &LoraConfig::of_rank(8), 2, 17).unwrap();
        for (name, shape, values) in small.iter() {
            let (other, more) = large.get(name).unwrap();
            match name {
                SCORE => assert_eq!(values, more),
                _ if name.contains("lora_A") => {
                    assert_eq!((shape, other), ([4, 48], [8, 48]));
                    assert_eq!(values, &more[..values.len()]);
                }
                _ => assert!(more.iter().chain(values).all(|value| *value == 0.0)),
            }
        }
        assert_ne!(small, init_adapter(&config(), &LoraConfig::of_rank(4), 2, 18).unwrap());
    }

    #[test]
    fn values_have_the_spread_that_peft_gives_them() {
        let adapter = init_adapter(&config(), &LoraConfig::of_rank(64), 2, 1).unwrap();
        let name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight";
        let (_, values) = adapter.get(name).unwrap();
        let bound = 48_f32.sqrt().recip();
        assert!(values.iter().all(|value| value.abs() <= bound));
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance * 3.0 * 48.0 - 1.0).abs() < 0.1, "{variance}");
        let lora =
            LoraConfig { init: Init::Gaussian, layers: Layers::Last(1), ..LoraConfig::of_rank(64) };
        let adapter = init_adapter(&config(), &lora, 0, 1).unwrap();
        assert_eq!(adapter.iter().count(), 4);
        let (_, values) = adapter.get(&name.replace("layers.1", "layers.2")).unwrap();
        let variance = values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32;
        assert!((variance * 4096.0 - 1.0).abs() < 0.1, "{variance}");
    }
}
