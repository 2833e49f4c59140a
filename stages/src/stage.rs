//! What a stage is: a struct that is the graph's syntax when read, the cache key when written, and
//! the work when run.

use std::{
    any::Any,
    collections::BTreeMap,
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
};

use artifacts::{BlobRef, Digest, Draft, Store, Tree};
use serde::Serialize;
use serde_json::Value;

use crate::{
    edge::{Artifact, In, Open, Opened, TreeView},
    error::{Error, Result},
    metric,
    precision::Precision,
    session::Session,
};

/// What a step occupies while it runs; the executor bounds each separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// The network.
    Net,
    /// A processor core.
    Cpu,
    /// The training device.
    Device,
}

/// A cached step: a function of its own fields and of nothing else.
pub trait Stage: Serialize + Send + Sync + 'static {
    /// The name in keys and records. Never changed.
    const NAME: &'static str;
    /// Raised when the same fields and inputs would now give other bytes.
    const VERSION: u32;
    /// What it makes.
    type Output: Artifact;

    /// What it occupies.
    fn needs(&self) -> Needs {
        Needs::Cpu
    }

    /// In what numbers it multiplies by a frozen base; not every device has them all.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Does the work: reads its inputs and writes its output through `cx`.
    fn run(&self, cx: &mut Context<'_>) -> Result<()>;

    /// What steps must have in common to be run in one go, as a cohort; `None` where they never are. `digest` gives
    /// the content of an edge. It is in no key: a cohort changes no result beyond rounding.
    fn cohort(&self, _digest: &dyn Fn(&str) -> Option<Digest>) -> Option<String> {
        None
    }

    /// How many of `steps`, which are of one cohort, the device takes at once: at least 1.
    fn most_together(_steps: &[&Self], _cxs: &[Context<'_>]) -> Result<usize>
    where
        Self: Sized,
    {
        Ok(1)
    }

    /// Does the work of `steps`, which are of one cohort, each through the context in its place.
    ///
    /// # Errors
    /// Then nothing of any of them counts; whose fault it was may not be known.
    fn run_together(steps: &[&Self], cxs: &mut [Context<'_>]) -> Result<()>
    where
        Self: Sized,
    {
        steps.iter().zip(cxs).try_for_each(|(step, cx)| step.run(cx))
    }
}

/// A [`Stage`] with its type forgotten, as the plan holds it.
pub trait Work: Send + Sync {
    /// [`Stage::NAME`].
    fn stage(&self) -> &'static str;
    /// [`Stage::VERSION`].
    fn version(&self) -> u32;
    /// The kind of artifact that it makes.
    fn kind(&self) -> &'static str;
    /// What it occupies.
    fn needs(&self) -> Needs;
    /// In what numbers it multiplies by a frozen base.
    fn precision(&self) -> Precision;
    /// Its fields, edges marked (see [`crate::edge::as_edge`]).
    fn with(&self) -> Result<Value>;
    /// Does the work.
    fn run(&self, cx: &mut Context<'_>) -> Result<()>;
    /// [`Stage::cohort`], with the stage's name: what steps of other stages have is never the same.
    fn cohort(&self, digest: &dyn Fn(&str) -> Option<Digest>) -> Option<String>;
    /// [`Stage::most_together`], for steps of which this is one.
    fn most_together(&self, steps: &[&dyn Work], cxs: &[Context<'_>]) -> Result<usize>;
    /// [`Stage::run_together`], for steps of which this is one.
    fn run_together(&self, steps: &[&dyn Work], cxs: &mut [Context<'_>]) -> Result<()>;
    /// The stage itself.
    fn as_any(&self) -> &dyn Any;
}

/// `steps` as the stage that all of them are.
fn alike<'a, S: Stage>(steps: &[&'a dyn Work]) -> Result<Vec<&'a S>> {
    let same = steps.iter().map(|step| step.as_any().downcast_ref::<S>());
    let same: Option<Vec<&S>> = same.collect();
    same.ok_or_else(|| Error::failed(format!("not all steps of a cohort are of `{}`", S::NAME)))
}

impl<S: Stage> Work for S {
    fn stage(&self) -> &'static str {
        S::NAME
    }

    fn version(&self) -> u32 {
        S::VERSION
    }

    fn kind(&self) -> &'static str {
        S::Output::KIND
    }

    fn needs(&self) -> Needs {
        Stage::needs(self)
    }

    fn precision(&self) -> Precision {
        Stage::precision(self)
    }

    fn with(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| {
            Error::failed(format!("the fields of `{}` cannot be written: {e}", S::NAME))
        })
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        Stage::run(self, cx)
    }

    fn cohort(&self, digest: &dyn Fn(&str) -> Option<Digest>) -> Option<String> {
        Some(format!("{} {}", S::NAME, Stage::cohort(self, digest)?))
    }

    fn most_together(&self, steps: &[&dyn Work], cxs: &[Context<'_>]) -> Result<usize> {
        S::most_together(&alike(steps)?, cxs)
    }

    fn run_together(&self, steps: &[&dyn Work], cxs: &mut [Context<'_>]) -> Result<()> {
        S::run_together(&alike(steps)?, cxs)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Where an edge leads, once the step behind it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A whole tree.
    Tree(BlobRef),
    /// One entry of a tree.
    Entry(BlobRef),
}

impl Place {
    /// The content digest that stands for the edge in a key.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Tree(at) | Self::Entry(at) => at.digest,
        }
    }
}

/// What a step tells while it runs.
pub trait Report: Sync {
    /// `done` of `total` units of work.
    fn progress(&self, done: u64, total: u64, unit: &str);
    /// Something that the user should know, though the work goes on.
    fn note(&self, text: &str);
}

/// All that a running step can reach: its inputs, its output, the session and its report.
pub struct Context<'a> {
    store: &'a Store,
    session: &'a Session,
    inputs: &'a BTreeMap<String, Place>,
    report: &'a dyn Report,
    stop: &'a AtomicBool,
    draft: Draft,
    metrics: BTreeMap<String, f64>,
}

impl<'a> Context<'a> {
    /// A context for one step, whose edges lead to `inputs` and whose output goes to `draft`.
    pub fn new(
        store: &'a Store,
        session: &'a Session,
        inputs: &'a BTreeMap<String, Place>,
        report: &'a dyn Report,
        stop: &'a AtomicBool,
        draft: Draft,
    ) -> Self {
        Self { store, session, inputs, report, stop, draft, metrics: BTreeMap::new() }
    }

    /// Opens what an edge leads to.
    ///
    /// # Errors
    /// The artifact's bytes are missing or damaged.
    pub fn open<T: Open>(&self, edge: &In<T>) -> Result<T> {
        T::open(self.opened(edge.name())?)
    }

    /// The tree that an edge leads to, to read entry by entry.
    ///
    /// # Errors
    /// Its listing is missing or damaged.
    pub fn tree<T: Artifact>(&self, edge: &In<T>) -> Result<TreeView<'a>> {
        self.opened(edge.name())?.tree()
    }

    fn opened(&self, name: &str) -> Result<Opened<'a>> {
        let place = self.inputs.get(name);
        let place =
            place.ok_or_else(|| Error::failed(format!("`{name}` is not an input of this step")))?;
        Ok(match place {
            Place::Entry(at) => Opened::Entry(self.store.blob(at)?),
            Place::Tree(at) => Opened::Tree(self.view(at)?),
        })
    }

    fn view(&self, at: &BlobRef) -> Result<TreeView<'a>> {
        let tree: Tree = self.store.tree(at)?.ok_or_else(|| {
            Error::failed(format!(
                "the listing of artifact {} is gone from the store",
                at.digest.short()
            ))
        })?;
        Ok(TreeView { tree, at: *at, store: self.store })
    }

    /// The output.
    pub fn out(&mut self) -> &mut Draft {
        &mut self.draft
    }

    /// Writes an output entry as JSON with a final newline.
    pub fn write_json<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|e| Error::failed(format!("`{name}` cannot be written: {e}")))?;
        text.push(b'\n');
        self.draft.bytes(name, &text)?;
        Ok(())
    }

    /// A figure that the run shows and that is kept with the record.
    pub fn metric(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.to_owned(), value);
    }

    /// A figure of one client, kept like the others. A run tells it with the client's number, and does not show it.
    pub fn client_metric(&mut self, client: u32, name: &str, value: f64) {
        self.metrics.insert(metric::of_client(client, name), value);
    }

    /// The bytes that are free where the store is, if the system says so.
    pub fn free_bytes(&self) -> Option<u64> {
        self.store.free_bytes()
    }

    /// Says how far the work is.
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        self.report.progress(done, total, unit);
    }

    /// Says something that the user should know.
    pub fn note(&self, text: &str) {
        self.report.note(text);
    }

    /// Whether the user asked to stop. Long work looks often.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The same as [`Context::stopped`], in the form that loops take.
    pub fn go_on(&self) -> ControlFlow<()> {
        if self.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// What this process holds beyond a step: the device, loaded bases, the Hub.
    pub fn session(&self) -> &'a Session {
        self.session
    }

    /// The output and the metrics, when the work is done.
    pub fn finish(self) -> (Draft, BTreeMap<String, f64>) {
        (self.draft, self.metrics)
    }
}
