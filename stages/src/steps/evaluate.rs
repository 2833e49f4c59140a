//! How good a base is, with an adapter or without one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    evaluate::{
        self, Adapted, ClassLogits, Classifier, ClientScore, Examples, Spread, TokenLogProbs,
        TokenScores, expected_accuracy,
    },
    federate::{self, Own},
    kinds::{Adapter, File, ModelFiles, Scores, Tokens},
    memory::{self, Need, Pass, Scene},
    model::{Base, LoraConfig},
    node::{GraphStage, Node},
    objective::Objective,
    parts::Parts,
    peft::{AdapterTensors, SCORE},
    precision::Precision,
    prefix::Prefix,
    stage::{Context, Needs, Stage},
    steps::{demand, model::load_base, partition, prefix::PrefixStates, tokenize::task_of},
    token_set::TokenSet,
    tokenize::Task,
    unroll::{RoundOf, Unroll},
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
    /// In what numbers the frozen base multiplies.
    #[serde(default, skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// The clients' own last adapters, where each keeps something to itself: the scores are the means over these.
    #[serde(skip_deserializing, skip_serializing_if = "Vec::is_empty")]
    own: Vec<Own>,
    /// What the clients keep to themselves.
    #[serde(skip_deserializing, skip_serializing_if = "Parts::is_none")]
    keeps: Parts,
    /// Which labels the clients of the federation have.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    skew: Option<In<File>>,
    /// The hidden states of the examples that go into the lowest adapted block, where they are kept.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    prefix: Option<In<Prefix>>,
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

    fn memory(&self, _name: &str, check: &mut Check<'_>, scene: &Scene<'_>) -> Need {
        let numbers = (self.batch, self.precision);
        demand::of_evaluation(&self.base, self.on.name(), numbers, check, scene)
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let (rounds, skew) = match &self.adapter {
            Some(adapter) => (to.rounds_of(adapter.name()), to.skew_of(adapter.name())),
            None => (Vec::new(), None),
        };
        let Some(last) = rounds.last().map(|round| round.round) else {
            to.add(name, self.clone());
            return Ok(());
        };
        let below = self.adapter.as_ref().and_then(|adapter| to.prefix_of(adapter.name()));
        let prefix = below.map(|below| {
            let (base, tokens) = (self.base.clone(), self.on.part(&self.split));
            let precision = self.precision;
            to.add(format!("{name}/prefix"), PrefixStates { base, tokens, below, precision })
        });
        let mut scored = None;
        for RoundOf { round, adapter, own, keeps } in rounds {
            let due =
                if round == 0 { self.untrained } else { round % self.every == 0 || round == last };
            if due {
                let (skew, prefix) = (skew.clone(), prefix.clone());
                let step =
                    Self { adapter: Some(adapter), own, keeps, skew, prefix, ..self.clone() };
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

    fn precision(&self) -> Precision {
        self.precision
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
        let (causal, adapter) = (set.objective().is_causal(), self.adapter.as_ref());
        let base = load_base(cx, &self.base, self.precision, causal, adapter)?;
        let adapter = self.adapter.as_ref().map(|adapter| cx.open(adapter)).transpose()?;
        let lora = adapter.as_ref().map(|adapter| &adapter.config.lora);
        let pass = Pass::over(&set, self.batch, base.path());
        let bytes = memory::evaluation(base.config(), lora, &pass)?;
        cx.session().require(bytes.total(), "this evaluation", "set a smaller `batch`")?;
        let table = match &self.skew {
            Some(skew) => partition::label_table(&cx.open(skew)?.0)?,
            None => Vec::new(),
        };
        let mut models: Vec<Model> = Vec::with_capacity(self.own.len() + 1);
        let mut whose: Vec<usize> = Vec::new();
        if let Some(global) = &adapter {
            for own in &self.own {
                let own = cx.open(&own.adapter)?;
                let lora = own.config.lora.clone();
                let tensors = federate::of_client(global, Some(&own), self.keeps, &lora)?;
                models.push(Some((tensors, lora)));
            }
            // Clients that have never taken part have what all began with.
            let place = |client: u32| self.own.iter().position(|own| own.client == client);
            whose = (0..).zip(&table).map(|(k, _)| place(k).unwrap_or(models.len())).collect();
            if self.own.is_empty() || whose.contains(&models.len()) {
                models.push(Some((global.tensors.clone(), global.config.lora.clone())));
            }
        }
        if models.is_empty() {
            models.push(None);
        }
        if self.own.is_empty() || whose.is_empty() {
            whose = (0..models.len()).collect();
        }
        let parties = Parties { models, whose, table };
        let prefix = self.prefix.as_ref().map(|prefix| cx.open(prefix)).transpose()?;
        let data = Examples { set: &set, prefix: prefix.as_ref() };
        if is_completion {
            self.score_tokens(cx, &base, &parties, data)
        } else {
            self.score_classes(cx, &base, &parties, data)
        }
    }
}

/// A model's adapter and its settings; none for the base itself.
type Model = Option<(AdapterTensors, LoraConfig)>;

/// What is scored.
struct Parties {
    /// One model for all, or those of the clients that have one of their own, and last that of the others.
    models: Vec<Model>,
    /// The models that the figures are means over: that of each client, where clients have their own.
    whose: Vec<usize>,
    /// How many examples of each class each client has.
    table: Vec<Vec<usize>>,
}

impl Parties {
    /// The mean of a figure of the models.
    fn mean<S>(&self, scores: &[S], of: fn(&S) -> f64) -> f64 {
        self.whose.iter().map(|&at| of(&scores[at])).sum::<f64>() / self.whose.len() as f64
    }
}

fn adapted(model: &Model) -> Option<Adapted<'_>> {
    model.as_ref().map(|(adapter, lora)| Adapted { adapter, lora })
}

impl Evaluate {
    fn score_tokens(
        &self,
        cx: &mut Context<'_>,
        base: &Base,
        parties: &Parties,
        data: Examples<'_>,
    ) -> Result<()> {
        let mut all = Vec::with_capacity(parties.models.len());
        for model in &parties.models {
            let found = evaluate::tokens(base, adapted(model), data, self.batch, &mut |at| {
                cx.progress(at.step, at.steps, "batches");
                cx.go_on()
            })?;
            all.push(found);
        }
        let scores: Vec<TokenScores> = all.iter().map(TokenScores::of).collect();
        let mean = |of| parties.mean(&scores, of);
        cx.metric("token_accuracy", mean(|scores| scores.token_accuracy));
        cx.metric("loss", mean(|scores| scores.loss));
        cx.metric("perplexity", mean(|scores| scores.perplexity));
        self.write(cx, &scores, &all.iter().map(TokenLogProbs::to_safetensors).collect::<Vec<_>>())
    }

    fn score_classes(
        &self,
        cx: &mut Context<'_>,
        base: &Base,
        parties: &Parties,
        data: Examples<'_>,
    ) -> Result<()> {
        let models = &parties.models;
        let mut found = Vec::with_capacity(models.len());
        // Where the classifiers alone differ, one pass over the base serves them all.
        let lora = |model: &Model| model.as_ref().map(|(_, lora)| lora.clone());
        let shared = self.keeps == Parts::HEAD
            && models.len() > 1
            && models.iter().all(|model| lora(model) == lora(&models[0]));
        let classifiers: Vec<Classifier<'_>> = if shared {
            models.iter().flatten().filter_map(|(own, _)| own.get(SCORE)).collect()
        } else {
            Vec::new()
        };
        for model in &models[..if shared { 1 } else { models.len() }] {
            let logits = evaluate::classes(
                base,
                adapted(model),
                &classifiers,
                data,
                self.batch,
                &mut |at| {
                    cx.progress(at.step, at.steps, "batches");
                    cx.go_on()
                },
            )?;
            found.extend(logits);
        }
        let scores: Vec<evaluate::Scores> =
            found.iter().map(|logits| evaluate::Scores::of(logits, data.set.labels())).collect();
        let mean = |of| parties.mean(&scores, of);
        cx.metric("accuracy", mean(|scores| scores.accuracy));
        cx.metric("loss", mean(|scores| scores.loss));
        cx.metric("macro_f1", mean(|scores| scores.macro_f1));
        Self::score_clients(cx, &scores, parties)?;
        self.write(cx, &scores, &found.iter().map(ClassLogits::to_safetensors).collect::<Vec<_>>())
    }

    /// What each client of the federation can expect, by its own labels and, where it has one, its own model.
    fn score_clients(
        cx: &mut Context<'_>,
        scores: &[evaluate::Scores],
        parties: &Parties,
    ) -> Result<()> {
        let of = |client: usize| match scores {
            [all] => Some(all),
            _ => parties.whose.get(client).map(|&at| &scores[at]),
        };
        let seen = (0..).zip(parties.table.iter().enumerate());
        let seen = seen.filter_map(|(client, (at, counts))| {
            let accuracy = expected_accuracy(of(at)?, counts)?;
            Some(ClientScore { client, accuracy })
        });
        let Some(spread) = Spread::of(seen.collect()) else { return Ok(()) };
        cx.metric("client_accuracy", spread.mean);
        cx.metric("worst_client_accuracy", spread.worst);
        cx.metric("bottom_decile_accuracy", spread.bottom_decile);
        cx.metric("client_accuracy_variance", spread.variance);
        for &ClientScore { client, accuracy } in &spread.clients {
            cx.client_metric(client, "accuracy", accuracy);
        }
        cx.write_json(CLIENTS, &spread)
    }

    /// Writes the figures and what they were counted from: of one model, or of each client's.
    fn write<S: Serialize>(
        &self,
        cx: &mut Context<'_>,
        scores: &[S],
        predictions: &[Vec<u8>],
    ) -> Result<()> {
        if let ([scores], [predictions], true) = (scores, predictions, self.own.is_empty()) {
            cx.out().bytes(PREDICTIONS, predictions)?;
            return cx.write_json(SCORES, scores);
        }
        let names: Vec<String> = self.own.iter().map(|own| partition::client(own.client)).collect();
        for (name, predictions) in names.iter().zip(predictions) {
            cx.out().bytes(&format!("{name}/{PREDICTIONS}"), predictions)?;
        }
        let by_client: BTreeMap<&String, &S> = names.iter().zip(scores).collect();
        cx.write_json(SCORES, &serde_json::json!({ "clients": by_client }))
    }
}

const SCORES: &str = "scores.json";
const PREDICTIONS: &str = "predictions.safetensors";
const CLIENTS: &str = "clients.json";
