//! Makes one self-contained text of a graph file, the files it extends and what is set on it.
//!
//! A file with `extends` begins as the other graph, after that graph's own `set`. Then, in this order:
//! its own `about`, `seed` and `exact` replace those of the other; its own stages are put in, one that has
//! the name of another in that one's place, any other after the rest; its `set` is applied; its `sweep` is
//! added. `--set` comes last. A value set at or above a path that is swept ends that sweep; one set
//! below is refused, since the sweep would overwrite it.

use super::diagnose::{Drawing, draw, refuse};
use super::edit::{self, Refusal, Setting};
use super::locate::locate;
use super::setting::Set;
use super::sweep::Sweep;
use super::text::{Place, Text, is_at_or_below};
use super::{Graph, parse};
use crate::failure::Failure;
use indexmap::IndexMap;
use serde::de::IgnoredAny;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A graph whose `extends`, `set` and `--set` are resolved.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The effective text: it names no other file to extend, sets nothing and sweeps nothing.
    pub text: Text,
    /// The graph's own description.
    pub about: String,
    /// The graph's own seed.
    pub seed: u64,
    /// Whether devices are kept apart.
    pub exact: bool,
    /// The values to try, as they are written, by path.
    pub sweep: IndexMap<String, Vec<String>>,
    pub(super) sweeps: Vec<Sweep>,
}

/// Reads a graph file and resolves all that it is composed of. The stages are not looked into yet.
pub fn load(path: &Path, overrides: &[Set]) -> Result<Loaded, Failure> {
    let source = read(path).map_err(|error| {
        Failure::usage(format!(
            "cannot read the graph `{}`: {error}",
            path.display()
        ))
    })?;
    let mut composed = Composed::of_file(path, source, &mut Vec::new())?;
    for set in overrides {
        let argument = composed.text.write("--set".to_owned(), set.to_string());
        let split = set.path.len();
        let place = |range| Place {
            written: argument.written,
            range,
        };
        composed.set(&Setting {
            path: set.path.clone(),
            path_place: place(0..split),
            value: place(split + 1..argument.range.end),
            folder: PathBuf::new(),
        })?;
    }
    let Composed { text, sweeps } = composed;
    let Graph {
        about, seed, exact, ..
    } = parse::<IgnoredAny>(&text)?;
    let sweep = sweeps.iter().map(|sweep| {
        let values = sweep.values.iter().map(|place| text.fragment(place).text);
        (sweep.path.clone(), values.collect())
    });
    Ok(Loaded {
        about,
        seed,
        exact,
        sweep: sweep.collect(),
        sweeps,
        text,
    })
}

/// A text under composition.
struct Composed {
    text: Text,
    sweeps: Vec<Sweep>,
}

/// A file on the way from the one that was asked for down its `extends`.
struct Link {
    shown: String,
    file: PathBuf,
}

impl Composed {
    fn of_file(path: &Path, source: String, chain: &mut Vec<Link>) -> Result<Self, Failure> {
        let own = Text::new(path, source);
        let header: Graph<IgnoredAny> = parse(&own)?;
        let file = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        chain.push(Link {
            shown: own.name.clone(),
            file,
        });
        let mut composed = match &header.extends {
            Some(other) => {
                let mut composed = Self::of_extended(&own, other, chain)?;
                composed.take_over(&own)?;
                composed
            }
            None => Self::of_root(own.clone()),
        };
        composed.apply_header(&own)?;
        Ok(composed)
    }

    fn of_root(mut text: Text) -> Self {
        let (stages, _) = locate(&text.source, &["stages"]);
        for stage in stages.children(&text.source) {
            if let [_, name] = stage.path.as_slice() {
                text.originate(name, text.dir.clone());
            }
        }
        for field in ["extends", "set", "sweep"] {
            edit::remove(&mut text, field);
        }
        Self {
            text,
            sweeps: Vec::new(),
        }
    }

    fn of_extended(own: &Text, other: &str, chain: &mut Vec<Link>) -> Result<Self, Failure> {
        let path = own.dir.join(other);
        let place = own.place(&locate(&own.source, &["extends"]).0.value);
        let complain = |title: String, label: &str| {
            let label = label.to_owned();
            draw(
                own,
                &[Drawing {
                    title,
                    place: place.clone(),
                    label,
                    help: None,
                }],
            )
        };
        let file = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if let Some(first) = chain.iter().position(|link| link.file == file) {
            let mut names: Vec<_> = chain[first..]
                .iter()
                .map(|link| link.shown.as_str())
                .collect();
            names.push(names[0]);
            let title = format!("a graph extends itself: {}", names.join(" -> "));
            return Err(complain(title, "leads back"));
        }
        let source = read(&path).map_err(|error| {
            let title = format!(
                "cannot read `{}`, which `{}` extends: {error}",
                path.display(),
                own.name
            );
            complain(title, "no such graph")
        })?;
        Self::of_file(&path, source, chain)
    }

    /// Takes over what the file `own` says itself, over what it extends.
    fn take_over(&mut self, own: &Text) -> Result<(), Failure> {
        let written = self
            .text
            .write(own.name.clone(), own.source.clone())
            .written;
        self.text.name.clone_from(&own.name);
        self.text.dir.clone_from(&own.dir);
        let place = |range| Place { written, range };
        for field in ["about", "seed", "exact"] {
            let (found, whole) = locate(&own.source, &[field]);
            if whole {
                let value = place(found.value);
                let path_place = place(found.key);
                let folder = own.dir.clone();
                self.set(&Setting {
                    path: field.to_owned(),
                    path_place,
                    value,
                    folder,
                })?;
            }
        }
        let (stages, whole) = locate(&own.source, &["stages"]);
        for stage in stages.children(&own.source).into_iter().filter(|_| whole) {
            let setting = Setting {
                path: stage.path.join("."),
                path_place: place(stage.key),
                value: place(stage.value),
                folder: own.dir.clone(),
            };
            edit::put_stage(&mut self.text, &stage.path[1], &setting)
                .map_err(|refusal| refuse(&self.text, refusal, setting.path_place))?;
        }
        Ok(())
    }

    /// Applies the `set` and adds the `sweep` of the file `own`, the last one taken in.
    fn apply_header(&mut self, own: &Text) -> Result<(), Failure> {
        let written = self
            .text
            .write(own.name.clone(), own.source.clone())
            .written;
        let place = |range| Place { written, range };
        let (set, whole) = locate(&own.source, &["set"]);
        for entry in set.children(&own.source).into_iter().filter(|_| whole) {
            self.set(&Setting {
                path: entry.path[1].clone(),
                path_place: place(entry.key),
                value: place(entry.value),
                folder: own.dir.clone(),
            })?;
        }
        let (sweep, whole) = locate(&own.source, &["sweep"]);
        for entry in sweep.children(&own.source).into_iter().filter(|_| whole) {
            let values = entry
                .children(&own.source)
                .into_iter()
                .map(|v| place(v.value))
                .collect();
            let sweep = Sweep {
                path: entry.path[1].clone(),
                path_place: place(entry.key),
                values,
                folder: own.dir.clone(),
            };
            sweep.check(&self.text)?;
            match self
                .sweeps
                .iter_mut()
                .find(|known| known.path == sweep.path)
            {
                Some(known) => *known = sweep,
                None => self.sweeps.push(sweep),
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: &Setting) -> Result<(), Failure> {
        let path = setting.path.as_str();
        self.sweeps
            .retain(|sweep| !is_at_or_below(&sweep.path, path));
        let swept = self
            .sweeps
            .iter()
            .find(|sweep| is_at_or_below(path, &sweep.path));
        let done = match swept {
            Some(sweep) => Err(Refusal {
                title: format!("`{path}` lies in `{}`, which is swept", sweep.path),
                label: "a sweep would overwrite it".to_owned(),
                help: Some(format!(
                    "set `{}` as a whole, which ends its sweep",
                    sweep.path
                )),
            }),
            None => edit::set(&mut self.text, setting),
        };
        done.map_err(|refusal| refuse(&self.text, refusal, setting.path_place.clone()))
    }
}

/// The text of a file, without the mark that some editors put in front.
fn read(path: &Path) -> io::Result<String> {
    let source = fs::read_to_string(path)?;
    Ok(source
        .strip_prefix('\u{feff}')
        .map(str::to_owned)
        .unwrap_or(source))
}
