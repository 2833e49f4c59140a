//! Texts to token ids.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    corpus,
    edge::In,
    error::{Error, Result},
    kinds::{Corpus, File, ModelFiles, Tokens},
    node::{GraphStage, Node},
    stage::{Context, Stage},
    tokenize::{self, Task, Tokenizer},
    unroll::Unroll,
};

/// Every split of a corpus as token ids, with a base's tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenize {
    /// The corpus.
    pub of: In<Corpus>,
    /// The base whose tokenizer is used.
    pub with: In<ModelFiles>,
    /// Longer texts are cut, on the side that the tokenizer says, and prompts at their start; special tokens count.
    #[serde(default = "max_len")]
    pub max_len: usize,
    /// What the model is asked to do with a text.
    #[serde(default)]
    pub task: Task,
}

fn max_len() -> usize {
    128
}

/// The task that the tokens named `tokens` are for.
pub(crate) fn task_of<'a>(nodes: &'a IndexMap<String, Node>, tokens: &str) -> Option<&'a Task> {
    match nodes.get(tokens) {
        Some(Node::Tokenize(tokens)) => Some(&tokens.task),
        _ => None,
    }
}

/// The edge to the names of the classes, where the task needs a classifier.
pub(crate) fn labels_of(nodes: &IndexMap<String, Node>, tokens: &In<Tokens>) -> Option<In<File>> {
    let is_classifier = task_of(nodes, tokens.name()).is_some_and(|task| *task == Task::Classify);
    is_classifier.then(|| tokens.part("labels.json"))
}

impl GraphStage for Tokenize {
    type Makes = Tokens;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let path = format!("{name}.max_len");
        check.require(self.max_len > 0, path.clone(), "a text must keep at least one token");
        let most = check.config(self.with.name()).and_then(|config| config.max_positions);
        if let Some(most) = most {
            let message =
                format!("`max_len` is {}, but the model knows {most} positions", self.max_len);
            check.require(self.max_len <= most, path, message);
        }
        let has_head = check.config(self.with.name()).is_none_or(|config| config.has_causal_head());
        let message = "the base has no causal head, which this task needs: use `Classify`, or the …ForCausalLM checkpoint";
        check.require(self.task == Task::Classify || has_head, format!("{name}.task"), message);
        if let Err((field, error)) = self.task.check() {
            check.refuse(format!("{name}.task.{field}"), &error);
        }
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        let corpus = check.corpus(self.of.name());
        if let Some(Err(error)) = corpus.map(|corpus| self.task.fits(&corpus)) {
            check.refuse(format!("{name}.task"), &error);
        }
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let encode = Encode {
            of: self.of.clone(),
            tokenizer: self.with.part("tokenizer.json"),
            settings: self.with.part("tokenizer_config.json"),
            max_len: self.max_len,
            task: self.task.clone(),
        };
        to.add(name, encode);
        Ok(())
    }
}

/// The step behind [`Tokenize`]. Of the base only the tokenizer's files are in its key, so one token
/// set serves every size of a family.
#[derive(Debug, Serialize)]
struct Encode {
    of: In<Corpus>,
    tokenizer: In<File>,
    settings: In<File>,
    max_len: usize,
    #[serde(skip_serializing_if = "Task::is_default")]
    task: Task,
}

impl Stage for Encode {
    const NAME: &'static str = "tokenize";
    const VERSION: u32 = 2;
    type Output = Tokens;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let files = cx.tree(&self.of)?;
        let corpus = corpus::Corpus::from_files(|name| Ok(files.blob(name)?.to_vec()))?;
        let (json, settings) = (cx.open(&self.tokenizer)?, cx.open(&self.settings)?);
        let tokenizer = Tokenizer::load(&json.0, Some(&settings.0))?;
        let (sets, info) = tokenize::tokenize(&corpus, &tokenizer, &self.task, self.max_len)?;
        for (split, set) in &sets {
            if set.is_empty() {
                return Err(Error::input(format!("the split `{split}` is empty")));
            }
            cx.out().bytes(split, &set.to_bytes())?;
        }
        cx.write_json("labels.json", &info.label_names)?;
        cx.write_json("info.json", &info)
    }
}
