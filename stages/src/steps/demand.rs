//! What the stages of a graph take of the memory, as far as that is known before work starts.

use crate::{
    check::Check,
    edge::In,
    kinds::ModelFiles,
    local_train::{Checkpoint, LocalNumbers},
    memory::{self, Demand, Need, Pass, Path},
    model::LoraConfig,
    node::Node,
    tokenize::Task,
};

/// The tokens of the longest text of a token set, where it is there already.
pub(crate) type Longest<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// What local training takes: `most` clients of a round, each with such numbers and settings, on what `tokens` makes.
pub(super) fn of_training(
    base: &In<ModelFiles>,
    tokens: Option<&str>,
    settings: &[(LoraConfig, LocalNumbers)],
    most: usize,
    check: &mut Check<'_>,
    longest: Longest<'_>,
) -> Need {
    let Some((config, task, longest)) = known(base, tokens, check, longest) else {
        return Need::Unknown;
    };
    let each = settings.iter().filter_map(|(lora, numbers)| {
        let pass =
            Pass { rows: numbers.batch, longest, head: memory::head_of(task), path: Path::Stock };
        memory::training(&config, lora, 0, 1, &pass, numbers.checkpoint).ok()
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
    let base = memory::base(&config, *task != Task::Classify, WEIGHT);
    Need::Known(Demand { base, each, most, mends })
}

/// What evaluation in batches of `batch` takes.
pub(super) fn of_evaluation(
    base: &In<ModelFiles>,
    tokens: &str,
    batch: usize,
    check: &mut Check<'_>,
    longest: Longest<'_>,
) -> Need {
    let Some((config, task, longest)) = known(base, Some(tokens), check, longest) else {
        return Need::Unknown;
    };
    let pass = Pass { rows: batch, longest, head: memory::head_of(task), path: Path::Stock };
    let Ok(each) = memory::evaluation(&config, None, &pass) else { return Need::Nothing };
    let base = memory::base(&config, *task != Task::Classify, WEIGHT);
    Need::Known(Demand { base, each, most: 1, mends: vec!["set a smaller `batch`"] })
}

/// Bytes of a frozen number.
pub(super) const WEIGHT: u64 = 4;

type Known<'a> = (crate::model::Config, &'a Task, usize);

fn known<'a>(
    base: &In<ModelFiles>,
    tokens: Option<&str>,
    check: &mut Check<'a>,
    longest: Longest<'_>,
) -> Option<Known<'a>> {
    let nodes = check.nodes;
    let Some(Node::Tokenize(tokenize)) = nodes.get(tokens?) else { return None };
    let config = check.config(base.name())?;
    Some((config, &tokenize.task, longest(tokens?).unwrap_or(tokenize.max_len)))
}
