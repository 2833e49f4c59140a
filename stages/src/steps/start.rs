//! What training starts from: a seeded adapter, or one from a PEFT folder.

use std::path::{Path, PathBuf};

use artifacts::Digest;
use serde::{Deserialize, Serialize};

use super::init::{Init, InitCore, check_lora, label_names};
use super::origin::place;
use crate::{
    check::Check,
    edge::In,
    error::{Error, Result},
    kinds::{Adapter, AdapterConfig, File, ModelFiles},
    model::{Config, Layout, LoraConfig},
    node::Node,
    peft::{self, AdapterTensors, SCORE},
    stage::{Context, Stage},
    tokenize::Task,
    unroll::Unroll,
};

/// An adapter that was not made here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum From {
    /// A folder as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`.
    Adapter {
        /// Where it is.
        folder: PathBuf,
    },
}

/// How a stage that trains says what it starts from.
pub(super) struct Start<'a> {
    /// The stage's name.
    pub(super) name: &'a str,
    /// The frozen base.
    pub(super) base: &'a In<ModelFiles>,
    /// LoRA's settings, for a seeded adapter.
    pub(super) lora: Option<&'a LoraConfig>,
    /// The adapter that there is already.
    pub(super) from: Option<&'a From>,
}

impl Start<'_> {
    fn folder(&self, sources: &dyn crate::unroll::Sources) -> Option<PathBuf> {
        let From::Adapter { folder } = self.from?;
        Some(place(sources, self.name, "from", folder))
    }

    /// Says what is wrong with it.
    pub(super) fn check(&self, check: &mut Check<'_>) {
        let name = self.name;
        match (self.lora, self.folder(check.sources)) {
            (Some(lora), None) => {
                check_lora(lora, self.base.name(), &format!("{name}.lora"), check);
            }
            (None, Some(folder)) => {
                let path = format!("{name}.from");
                let read = peft::read_settings(&folder)
                    .and_then(|lora| peft::tensors_path(&folder).map(|_| lora));
                match (read, check.config(self.base.name())) {
                    (Err(error), _) => check.refuse(path, &error),
                    (Ok(lora), Some(config)) => {
                        if let Err(fault) = lora.fitted(&config).check(&config) {
                            let message = format!("the adapter does not fit the base: {fault}");
                            check.complain(path, message, None);
                        }
                    }
                    (Ok(_), None) => {}
                }
            }
            (Some(_), Some(_)) => {
                let message =
                    "give `lora` or `from`, not both: an adapter folder has its own settings";
                check.complain(format!("{name}.from"), message, None);
            }
            (None, None) => {
                let message = "give `lora`, the settings of a new adapter, or `from`, an adapter to go on with";
                check.complain(name.to_owned(), message, None);
            }
        }
    }

    /// Says what is wrong with the adapter's tensors, for the classes of the corpus behind `tokens`.
    pub(super) fn check_data(&self, tokens: Option<&str>, check: &mut Check<'_>) {
        let Some((folder, config)) = self.folder(check.sources).zip(check.config(self.base.name()))
        else {
            return;
        };
        let tokenize = tokens.and_then(|tokens| check.nodes.get(tokens));
        let Some(Node::Tokenize(tokenize)) = tokenize else { return };
        let classes = match tokenize.task {
            Task::Classify => match check.corpus(tokenize.of.name()) {
                Some(corpus) => corpus.label_names.len(),
                None => return,
            },
            Task::Verbalize { .. } | Task::Complete { .. } => 0,
        };
        let tensors = peft::read_settings(&folder)
            .and_then(|lora| Ok((lora, peft::tensors_path(&folder)?)))
            .and_then(|(lora, path)| take_over(&path, &config, &lora.fitted(&config), classes, 0));
        if let Err(error) = tensors {
            check.refuse(format!("{}.from", self.name), &error);
        }
    }

    /// The settings of the adapter.
    pub(super) fn lora_config(&self, sources: &dyn crate::unroll::Sources) -> Result<LoraConfig> {
        match (self.folder(sources), self.lora) {
            (Some(folder), _) => peft::read_settings(&folder),
            (None, Some(lora)) => Ok(lora.clone()),
            (None, None) => Err(Error::input("there is neither `lora` nor `from`")),
        }
    }

    /// Adds the step that makes the adapter, with cores between fixed factors if `is_core`; `labels` leads to the names of the classes, where there is a
    /// classifier.
    pub(super) fn unroll(
        &self,
        labels: Option<In<File>>,
        seed: u64,
        is_core: bool,
        to: &mut Unroll<'_>,
    ) -> Result<In<Adapter>> {
        let (step, config) = (format!("{}/init", self.name), self.base.part("config.json"));
        let Some(folder) = self.folder(to.sources()) else {
            let lora = self.lora_config(to.sources())?;
            if is_core {
                let init = InitCore { base: self.base.clone(), labels, lora, seed };
                return Ok(to.add_for(step, init, Some(0), None));
            }
            let init = Init { config, labels, lora, seed };
            return Ok(to.add_for(step, init, Some(0), None));
        };
        let path = peft::tensors_path(&folder)?;
        let tensors = to.sources().digest(&path)?.digest;
        let lora = peft::read_settings(&folder)?;
        Ok(to.add_for(step, Import { config, labels, lora, tensors, seed, path }, Some(0), None))
    }
}

/// Takes an adapter over from a PEFT folder; a classifier that it lacks is seeded.
#[derive(Debug, Serialize)]
struct Import {
    config: In<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<In<File>>,
    lora: LoraConfig,
    tensors: Digest,
    seed: u64,
    #[serde(skip)]
    path: PathBuf,
}

impl Stage for Import {
    const NAME: &'static str = "import";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let config = Config::parse(&cx.open(&self.config)?.0)?;
        let labels = label_names(cx, self.labels.as_ref())?;
        let lora = self.lora.fitted(&config);
        let (tensors, is_seeded) = take_over(&self.path, &config, &lora, labels.len(), self.seed)?;
        if is_seeded {
            cx.note("the adapter has no classifier: one begins from its seed");
        }
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &AdapterConfig { lora, labels })
    }
}

/// The tensors of a PEFT folder, with a classifier for so many classes, and whether that had to be seeded.
fn take_over(
    path: &Path,
    config: &Config,
    lora: &LoraConfig,
    classes: usize,
    seed: u64,
) -> Result<(AdapterTensors, bool)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let at_fault = |what: String| Error::input(format!("`{}`: {what}", path.display()));
    let mut tensors =
        AdapterTensors::from_safetensors(&bytes).map_err(|error| at_fault(error.to_string()))?;
    let found = tensors.classes();
    let is_seeded = found == 0 && classes > 0;
    if is_seeded {
        let seeded = peft::init_adapter(config, lora, classes, seed)?;
        if let Some((shape, values)) = seeded.get(SCORE) {
            tensors = tensors.with(SCORE, shape, values.to_vec());
        }
    } else if classes == 0 && found > 0 {
        return Err(at_fault(format!(
            "the adapter has a classifier of {found} classes, but the task is one of the causal head"
        )));
    } else if found != classes {
        return Err(at_fault(format!(
            "the adapter's classifier has {found} classes, but the data have {classes}"
        )));
    }
    let layout = Layout::new(config, lora, classes)?;
    layout.pack(&tensors, &layout).map_err(|error| at_fault(error.to_string()))?;
    Ok((tensors, is_seeded))
}
