//! Variants of a graph: every combination of the values that it sweeps over.

use super::compose::Loaded;
use super::diagnose::refuse;
use super::edit::{self, Refusal, Setting};
use super::text::{Place, Text};
use crate::failure::Failure;
use std::path::PathBuf;

/// One path and the values to try there.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    pub(super) path: String,
    pub(super) path_place: Place,
    pub(super) values: Vec<Place>,
    pub(super) folder: PathBuf,
}

impl Sweep {
    /// The sweep's value number `index` as a setting.
    fn setting(&self, index: usize) -> Setting {
        Setting {
            path: self.path.clone(),
            path_place: self.path_place.clone(),
            value: self.values[index].clone(),
            folder: self.folder.clone(),
        }
    }

    /// Refuses a sweep over nothing, or at a path that the graph does not have.
    pub(super) fn check(&self, text: &Text) -> Result<(), Failure> {
        let tried = if self.values.is_empty() {
            Err(Refusal {
                title: format!("the sweep of `{}` has no values", self.path),
                label: "nothing to try".to_owned(),
                help: None,
            })
        } else {
            edit::set(&mut text.clone(), &self.setting(0))
        };
        tried.map_err(|refusal| refuse(text, refusal, self.path_place.clone()))
    }
}

/// One graph of a sweep.
#[derive(Clone, Debug)]
pub struct Variant {
    /// What sets it apart, `fed.lora.rank=16, seed=1`; empty if the graph sweeps over nothing.
    pub label: String,
    /// The paths that are swept, with this variant's values as written.
    pub settings: Vec<(String, String)>,
    /// The variant's own text.
    pub text: Text,
}

/// All variants of a graph, the path that is written last varying fastest. A graph without a
/// sweep is one variant with an empty label.
pub fn variants(loaded: &Loaded) -> Result<Vec<Variant>, Failure> {
    let mut variants = vec![Variant {
        label: String::new(),
        settings: Vec::new(),
        text: loaded.text.clone(),
    }];
    for sweep in &loaded.sweeps {
        let mut next = Vec::with_capacity(variants.len() * sweep.values.len());
        for variant in &variants {
            for index in 0..sweep.values.len() {
                next.push(vary(variant, sweep, index)?);
            }
        }
        variants = next;
    }
    Ok(variants)
}

fn vary(variant: &Variant, sweep: &Sweep, index: usize) -> Result<Variant, Failure> {
    let Variant {
        mut settings,
        mut text,
        ..
    } = variant.clone();
    let setting = sweep.setting(index);
    edit::set(&mut text, &setting)
        .map_err(|refusal| refuse(&text, refusal, setting.path_place.clone()))?;
    let value = text.fragment(&setting.value).text;
    settings.push((sweep.path.clone(), value));
    let parts = settings
        .iter()
        .map(|(path, value)| format!("{path}={value}"));
    let label = parts.collect::<Vec<_>>().join(", ");
    Ok(Variant {
        label,
        settings,
        text,
    })
}
