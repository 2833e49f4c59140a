//! The first values of an adapter with cores between fixed factors.

use std::ops::ControlFlow;

use thiserror::Error;

use super::{AdapterTensors, core_name, factor_names, init_adapter};
use crate::linear::{Matrix, leading};
use crate::model::{Checkpoint, Config, LoraConfig, LoraError, WeightsError};
use crate::seed::Draws;

/// Why an adapter with cores cannot be begun.
#[derive(Debug, Error)]
pub enum CoreError {
    /// The base cannot take the adapter.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The base's weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A weight has fewer singular vectors than the core is wide.
    #[error(
        "`rank` is {rank} at `{path}`, whose weight has only {most} singular vectors for a core to stand between"
    )]
    Rank {
        /// The module's path.
        path: String,
        /// The rank asked for.
        rank: usize,
        /// The smaller side of the module's weight.
        most: usize,
    },
    /// The caller asked to stop.
    #[error("the start of the adapter was stopped")]
    Stopped,
}

/// A new adapter with cores for a base of `config`, with a classifier of `classes` classes (0 for none), as
/// [`init_adapter`] draws it.
///
/// With `W ≈ U·Σ·Vᵀ`, the weight `[out, in]` of a module at its rank, A `[rank, in]` is Vᵀ, B `[out, rank]` is U, and the
/// core R `[rank, rank]` is zero, so that the adapter adds nothing at first; but R has a gradient at once. Of each column
/// of U the largest entry is positive. The singular vectors are found by a seeded iteration that gives the same bits on
/// every machine; what `lora` says of first values is not used.
///
/// **This is not the start of the papers that it serves.** Fed-SB (Singhal et al. 2025, 2502.15436) starts as LoRA-SB does
/// (Ponkshe et al. 2024, 2411.19557): U and V are those of the first step of full fine-tuning, of a gradient, and
/// `R = Σ/s`. Here they are those of the weight itself, as in LoRA-XS (Bałazy et al. 2024, 2405.17604), which however
/// leaves Σ in the factor at the input, and draws R with a deviation of 1e-5.
///
/// `checkpoint` holds the base's weights under the family's names ([`Checkpoint::of_family`]). They are read one at a
/// time; `progress` is told how many modules are done, of how many, and may stop the work.
///
/// # Errors
/// The base cannot take the adapter, its weights do not fit, or a rank is larger than a weight's smaller side.
pub fn init_core(
    config: &Config,
    lora: &LoraConfig,
    classes: usize,
    seed: u64,
    checkpoint: &Checkpoint<'_>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<AdapterTensors, CoreError> {
    let mut adapter = init_adapter(config, lora, classes, seed)?;
    // So that what follows is of the shapes that the config gives.
    checkpoint.tensors(config, false)?;
    let modules = lora.modules(config)?;
    for (done, module) in modules.iter().enumerate() {
        if progress(done, modules.len()).is_break() {
            return Err(CoreError::Stopped);
        }
        let (path, rank) = (&module.path, module.rank);
        let [a, b] = factor_names(path);
        let [outputs, inputs] = sides(&adapter, &a, &b);
        let most = inputs.min(outputs);
        if rank > most {
            return Err(CoreError::Rank { path: path.clone(), rank, most });
        }
        let weight = checkpoint.values(&format!("{path}.weight"))?;
        let weight = Matrix::from_f32([outputs, inputs], &weight);
        let svd = leading(&weight, rank, &mut Draws::named(seed, "core", &[path]));
        adapter = adapter
            .with(&a, [rank, inputs], svd.vt.to_f32())
            .with(&b, [outputs, rank], svd.u.to_f32())
            .with(&core_name(path), [rank, rank], vec![0.0; rank * rank]);
    }
    Ok(adapter)
}

/// The output and input width of the module whose factors have the names `a` and `b`.
fn sides(adapter: &AdapterTensors, a: &str, b: &str) -> [usize; 2] {
    let shape = |name| adapter.get(name).expect("a new adapter has the factors of every module").0;
    [shape(b)[0], shape(a)[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::svd;
    use crate::model::tiny::{BLOOM, LLAMA, Tiny};
    use crate::model::{NamedFile, Targets};
    use crate::parts::Parts;
    use crate::peft::SCORE;

    /// An adapter with cores of a tiny model, and the weights that it was begun from, by module.
    fn begin(
        model: Tiny,
        lora: &LoraConfig,
        seed: u64,
    ) -> Result<(AdapterTensors, Vec<Matrix>), CoreError> {
        let files = model.weights();
        let files: Vec<NamedFile<'_>> =
            files.iter().map(|(name, bytes)| NamedFile { name, bytes }).collect();
        let config = model.config();
        let checkpoint = Checkpoint::open(&files).unwrap().of_family(config.family);
        let go_on = &mut |_, _| ControlFlow::Continue(());
        let adapter = init_core(&config, lora, 2, seed, &checkpoint, go_on)?;
        let modules = lora.modules(&config).unwrap();
        let weights = modules.iter().map(|module| {
            let values = checkpoint.values(&format!("{}.weight", module.path)).unwrap();
            let (inputs, outputs) = config.linear(config.family.targets()[module.slot]).unwrap();
            Matrix::from_f32([outputs, inputs], &values)
        });
        Ok((adapter, weights.collect()))
    }

    fn all_linear(rank: usize) -> LoraConfig {
        let targets = Some(Targets::Pattern("all-linear".to_owned()));
        LoraConfig { targets, ..LoraConfig::of_rank(rank) }
    }

    fn matrix(adapter: &AdapterTensors, name: &str) -> Matrix {
        let (shape, values) = adapter.get(name).unwrap();
        Matrix::from_f32(shape, values)
    }

    #[test]
    fn factors_are_the_singular_vectors_of_the_weights() {
        for model in [LLAMA, BLOOM] {
            let lora = all_linear(6);
            let (adapter, weights) = begin(model, &lora, 5).unwrap();
            let modules = lora.modules(&model.config()).unwrap();
            for (module, weight) in modules.iter().zip(&weights) {
                let [a, b] = factor_names(&module.path).map(|name| matrix(&adapter, &name));
                let identity = Matrix::identity(6);
                assert!(a.times_transposed(&a).minus(&identity).norm() < 1e-5);
                assert!(b.transposed_times(&b).minus(&identity).norm() < 1e-5);
                let core = matrix(&adapter, &core_name(&module.path));
                assert_eq!(core, Matrix::zeros(6, 6));
                let columns = b.transposed();
                for column in 0..6 {
                    let most = columns
                        .row(column)
                        .iter()
                        .fold(0.0, |most: f64, x| if x.abs() > most.abs() { *x } else { most });
                    assert!(most > 0.0);
                }
                // Uᵀ·W·V is Σ, and nearly as large as six directions can make it, although the weights are random
                // and hardly have leading directions.
                let inner = b.transposed_times(weight).times_transposed(&a);
                let diagonal =
                    Matrix::from_fn(
                        6,
                        6,
                        |row, column| {
                            if row == column { inner.at(row, row) } else { 0.0 }
                        },
                    );
                assert!(inner.minus(&diagonal).norm() < 1e-5 * inner.norm());
                let best = svd(weight).values.iter().take(6).map(|x| x * x).sum::<f64>().sqrt();
                let share = inner.norm() / best;
                assert!(share > 0.999 && share < 1.0 + 1e-6, "{}: {share}", module.path);
            }
        }
    }

    #[test]
    fn only_the_seed_and_the_weights_decide() {
        let lora = LoraConfig::of_rank(4);
        let (adapter, _) = begin(LLAMA, &lora, 5).unwrap();
        assert_eq!(adapter.to_safetensors(), begin(LLAMA, &lora, 5).unwrap().0.to_safetensors());
        let plain = init_adapter(&LLAMA.config(), &lora, 2, 5).unwrap();
        assert_eq!(adapter.get(SCORE), plain.get(SCORE), "the classifier is drawn as ever");
        assert_eq!(adapter.only(Parts::CORE).iter().count() * 3 + 1, adapter.iter().count());
        let (other, _) = begin(LLAMA, &lora, 6).unwrap();
        assert_ne!(adapter.get(SCORE), other.get(SCORE));
        let far = adapter.only(Parts::FACTORS).flatten().into_iter();
        let far = far.zip(other.only(Parts::FACTORS).flatten()).map(|(a, b)| (a - b).abs());
        assert!(
            far.fold(0.0, f32::max) < 1e-2,
            "another seed begins elsewhere and ends there, too"
        );
    }

    #[test]
    fn a_core_wider_than_the_weight_is_refused_and_work_can_be_stopped() {
        let error = begin(LLAMA, &LoraConfig::of_rank(49), 5).unwrap_err().to_string();
        assert!(error.starts_with("`rank` is 49 at `model.layers.0.self_attn.q_proj`"), "{error}");
        let files = LLAMA.weights();
        let files: Vec<NamedFile<'_>> =
            files.iter().map(|(name, bytes)| NamedFile { name, bytes }).collect();
        let (config, lora) = (LLAMA.config(), LoraConfig::of_rank(2));
        let checkpoint = Checkpoint::open(&files).unwrap().of_family(config.family);
        let stop = &mut |done, _| {
            if done == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let stopped = init_core(&config, &lora, 0, 1, &checkpoint, stop);
        assert!(matches!(stopped, Err(CoreError::Stopped)));
    }
}
