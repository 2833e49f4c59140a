//! How good a base is, with an adapter or without one.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    evaluate::{self, Adapted, ClassLogits, Classifier},
    kinds::{Adapter, ModelFiles, Scores, Tokens},
    model::Base,
    node::{GraphStage, Node},
    objective::Objective,
    peft::SCORE,
    stage::{Context, Needs, Stage},
    steps::{model::load_base, tokenize::task_of},
    token_set::TokenSet,
    tokenize::Task,
    unroll::Unroll,
};

/// On one split: accuracy, loss, macro-F1, confusion counts and the figures of each class where there are labels;
/// loss, perplexity and token accuracy of completions. An adapter with rounds is scored after every round.
///
/// Without an adapter it is the base itself that is scored: zero-shot, by its causal head.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The adapter; none to score the base itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<In<Adapter>>,
    /// The tokens.
    pub on: In<Tokens>,
    /// Which split of them.
    #[serde(default = "validation")]
    pub split: String,
    /// Score every n-th round, and always the last.
    #[serde(default = "one", skip_serializing)]
    pub every: u32,
    /// Score the untrained adapter, too, as round 0.
    #[serde(default, skip_serializing)]
    pub untrained: bool,
    /// Examples in a batch. It cannot change a figure by more than rounding, so it is in no key.
    #[serde(default = "sixty_four", skip_serializing)]
    pub batch: usize,
    /// The clients' own adapters, where each keeps its classifier to itself: the scores are the means over these
    /// classifiers on top of `adapter`.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    heads: Vec<In<Adapter>>,
}

fn validation() -> String {
    "validation".to_owned()
}

fn one() -> u32 {
    1
}

fn sixty_four() -> usize {
    64
}

impl GraphStage for Evaluate {
    type Makes = Scores;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        check.require(self.every > 0, format!("{name}.every"), "`every` counts from 1");
        check.require(
            self.batch > 0,
            format!("{name}.batch"),
            "a batch must hold at least one example",
        );
        let task = task_of(check.nodes, self.on.name());
        let is_classifier = task.is_some_and(|task| *task == Task::Classify);
        let trained = match &self.adapter {
            None => {
                let message = "classes are told by a classifier, which only an adapter has: name one with `adapter:`";
                check.require(!is_classifier, format!("{name}.adapter"), message);
                return;
            }
            Some(adapter) => match check.nodes.get(adapter.name()) {
                Some(Node::Federate(federate)) => federate.tokens(check.nodes),
                Some(Node::Train(train)) => Some(train.on.name()),
                _ => None,
            },
        };
        let trained = trained.and_then(|tokens| task_of(check.nodes, tokens));
        if let Some(trained) = trained.filter(|_| task.is_some()) {
            let both = (*trained == Task::Classify) == is_classifier;
            let message = "the adapter was trained for another task than these tokens are for: a classifier and a \
                           causal head are not the same";
            check.require(both, format!("{name}.on"), message);
        }
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        let Some(Node::Tokenize(tokens)) = check.nodes.get(self.on.name()) else { return };
        let Some(corpus) = check.corpus(tokens.of.name()) else { return };
        let path = format!("{name}.split");
        let Some(split) = corpus.splits.get(&self.split) else {
            let names: Vec<&str> = corpus.splits.keys().map(String::as_str).collect();
            let message =
                format!("the data have no split `{}`, only `{}`", self.split, names.join("`, `"));
            return check.complain(path, message, None);
        };
        let needs_labels = !matches!(tokens.task, Task::Complete { .. });
        let message = format!("the split `{}` has no labels to score against", self.split);
        check.require(!needs_labels || split.is_labelled(), path, message);
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let rounds = match &self.adapter {
            Some(adapter) => to.rounds_of(adapter.name()),
            None => Vec::new(),
        };
        let Some((last, ..)) = rounds.last().cloned() else {
            to.add(name, self.clone());
            return Ok(());
        };
        let mut scored = None;
        for (round, adapter, heads) in rounds {
            let due =
                if round == 0 { self.untrained } else { round % self.every == 0 || round == last };
            if due {
                let step = Self { adapter: Some(adapter), heads, ..self.clone() };
                scored =
                    Some(to.add_for(format!("{name}/round-{round:03}"), step, Some(round), None));
            }
        }
        if let Some(scored) = scored {
            to.alias(name, &scored);
        }
        Ok(())
    }
}

impl Stage for Evaluate {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 2;
    type Output = Scores;

    fn needs(&self) -> Needs {
        Needs::Device
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tokens = cx.tree(&self.on)?;
        let set = TokenSet::from_bytes(&tokens.blob(&self.split)?)?;
        let is_completion = matches!(set.objective(), Objective::Complete(_));
        if !is_completion && set.labels().iter().all(|&label| label < 0) {
            return Err(Error::input(format!(
                "the split `{}` has no labels to score against",
                self.split
            )));
        }
        let base = load_base(cx, &self.base, set.objective().is_causal())?;
        let adapter = self.adapter.as_ref().map(|adapter| cx.open(adapter)).transpose()?;
        let with = adapter
            .as_ref()
            .map(|adapter| Adapted { adapter: &adapter.tensors, lora: &adapter.config.lora });
        if is_completion {
            self.score_tokens(cx, &base, with, &set)
        } else {
            self.score_classes(cx, &base, with, &set)
        }
    }
}

impl Evaluate {
    fn score_tokens(
        &self,
        cx: &mut Context<'_>,
        base: &Base,
        adapted: Option<Adapted<'_>>,
        set: &TokenSet,
    ) -> Result<()> {
        let found = evaluate::tokens(base, adapted, set, self.batch, &mut |at| {
            cx.progress(at.step, at.steps, "batches");
            cx.go_on()
        })?;
        let scores = evaluate::TokenScores::of(&found);
        cx.metric("token_accuracy", scores.token_accuracy);
        cx.metric("loss", scores.loss);
        cx.metric("perplexity", scores.perplexity);
        cx.out().bytes(PREDICTIONS, &found.to_safetensors())?;
        cx.write_json(SCORES, &scores)
    }

    fn score_classes(
        &self,
        cx: &mut Context<'_>,
        base: &Base,
        adapted: Option<Adapted<'_>>,
        set: &TokenSet,
    ) -> Result<()> {
        let mut own = Vec::with_capacity(self.heads.len());
        for head in &self.heads {
            own.push(cx.open(head)?);
        }
        let classifiers: Vec<Classifier<'_>> =
            own.iter().filter_map(|client| client.tensors.get(SCORE)).collect();
        let found = evaluate::classes(base, adapted, &classifiers, set, self.batch, &mut |at| {
            cx.progress(at.step, at.steps, "batches");
            cx.go_on()
        })?;
        let scores: Vec<evaluate::Scores> =
            found.iter().map(|logits| evaluate::Scores::of(logits, set.labels())).collect();
        let mean = |of: fn(&evaluate::Scores) -> f64| {
            scores.iter().map(of).sum::<f64>() / scores.len() as f64
        };
        cx.metric("accuracy", mean(|scores| scores.accuracy));
        cx.metric("loss", mean(|scores| scores.loss));
        cx.metric("macro_f1", mean(|scores| scores.macro_f1));
        match (found.as_slice(), scores.as_slice()) {
            ([logits], [scores]) if self.heads.is_empty() => {
                cx.out().bytes(PREDICTIONS, &logits.to_safetensors())?;
                cx.write_json(SCORES, scores)
            }
            (found, scores) => {
                let worst = scores.iter().map(|scores| scores.accuracy).fold(1.0, f64::min);
                cx.metric("worst_accuracy", worst);
                cx.out().bytes(PREDICTIONS, &joined(found).to_safetensors())?;
                let clients: Vec<&str> = self.heads.iter().map(In::name).collect();
                cx.write_json(SCORES, &serde_json::json!({ "clients": clients, "scores": scores }))
            }
        }
    }
}

const SCORES: &str = "scores.json";
const PREDICTIONS: &str = "predictions.safetensors";

/// The logits of all clients, one client's examples after the other's.
fn joined(all: &[ClassLogits]) -> ClassLogits {
    let classes = all.first().map_or(0, |logits| logits.classes);
    ClassLogits { classes, values: all.iter().flat_map(|logits| &logits.values).copied().collect() }
}
