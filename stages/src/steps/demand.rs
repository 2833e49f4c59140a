//! What the stages of a graph take of the memory, as far as that is known before work starts.

use crate::{
    check::Check,
    edge::In,
    kinds::ModelFiles,
    local_train::{Checkpoint, LocalNumbers},
    memory::{self, Demand, Need, Pass, Path, Scene, Texts},
    model::{Config, LoraConfig},
    node::Node,
    precision::Precision,
    tokenize::Task,
};

/// What local training takes: `most` clients of a round, each with such numbers and settings, on what `tokens` makes.
pub(super) fn of_training(
    base: &In<ModelFiles>,
    tokens: Option<&str>,
    settings: &[(LoraConfig, LocalNumbers)],
    most: usize,
    check: &mut Check<'_>,
    scene: &Scene<'_>,
) -> Need {
    let Some((config, task, sizes)) = known(base, tokens, check, scene) else {
        return Need::Unknown;
    };
    let each = settings.iter().filter_map(|(lora, numbers)| {
        let pass = pass(numbers.batch, sizes, task, scene.path);
        memory::training(&config, lora, 0, &pass, numbers.checkpoint).ok()
    });
    // What does not fit the base is told by the checks.
    let Some(each) = each.max_by_key(|bytes| bytes.total()) else { return Need::Nothing };
    let mut mends = Vec::new();
    if settings.iter().any(|(_, numbers)| numbers.batch > 1) {
        mends.push("set a smaller `local.batch` and a larger `local.accumulate`");
    }
    if settings.iter().any(|(_, numbers)| numbers.checkpoint == Checkpoint::None) {
        mends.push("set `local.checkpoint: Block`");
    }
    if scene.path == Path::Gpu && settings.iter().any(|(_, numbers)| numbers.precision.is_f32()) {
        mends.push("give `local.precision: Bf16` or `F16`");
    }
    let causal = *task != Task::Classify;
    let base = settings.iter().map(|(_, numbers)| numbers.precision);
    let base = base.map(|precision| memory::base(&config, causal, precision, scene.path)).max();
    Need::Known(Demand { base: base.unwrap_or(0), each, most, mends })
}

/// What evaluation in batches of `batch` takes, in `precision`.
pub(super) fn of_evaluation(
    base: &In<ModelFiles>,
    tokens: &str,
    (batch, precision): (usize, Precision),
    check: &mut Check<'_>,
    scene: &Scene<'_>,
) -> Need {
    let Some((config, task, sizes)) = known(base, Some(tokens), check, scene) else {
        return Need::Unknown;
    };
    let pass = pass(batch, sizes, task, scene.path);
    let Ok(each) = memory::evaluation(&config, None, &pass) else { return Need::Nothing };
    let base = memory::base(&config, *task != Task::Classify, precision, scene.path);
    let mut mends = vec!["set a smaller `batch`"];
    if scene.path == Path::Gpu && precision.is_f32() {
        mends.push("give `precision: Bf16` or `F16`");
    }
    Need::Known(Demand { base, each, most: 1, mends })
}

/// The largest pass over batches of `batch` examples.
fn pass(batch: usize, sizes: Texts, task: &Task, path: Path) -> Pass {
    let rows = batch.min(sizes.examples);
    Pass { rows, longest: sizes.longest, head: memory::head_of(task), path }
}

/// The base's config, the task and the sizes of the token set, as far as its texts were read yet.
fn known<'a>(
    base: &In<ModelFiles>,
    tokens: Option<&str>,
    check: &mut Check<'a>,
    scene: &Scene<'_>,
) -> Option<(Config, &'a Task, Texts)> {
    let nodes = check.nodes;
    let Some(Node::Tokenize(tokenize)) = nodes.get(tokens?) else { return None };
    let bound = Texts { longest: tokenize.max_len, examples: usize::MAX };
    let config = check.config(base.name())?;
    Some((config, &tokenize.task, (scene.texts)(tokens?).unwrap_or(bound)))
}
