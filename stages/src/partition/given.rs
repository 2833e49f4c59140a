//! The JSON of a split that was made elsewhere: positions, or proportions of each class.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::corpus::columns::nearest;
use crate::{Error, Result};

/// What a file says: `{"clients": [[0, 5], [1]]}`, or the list alone, or
/// `{"proportions": {"bad": [0.5, 0.5], "good": [0.1, 0.9]}}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Given {
    /// The positions of each client's examples.
    Clients(Vec<Vec<usize>>),
    /// For each class the share of each client.
    Proportions(Shares),
}

/// For each class the share of each client.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shares {
    /// By the number of the class, from 0.
    Listed(Vec<Vec<f64>>),
    /// By its name or its number.
    Named(Vec<(String, Vec<f64>)>),
}

/// Shares written with few digits, or as 32-bit numbers, do not add up to 1 exactly.
const ROUNDING: f64 = 1e-6;

const FORMS: &str = "such as {\"clients\": [[0, 5], [1, 2]]} or {\"proportions\": {\"bad\": [0.3, 0.7], \"good\": [0.6, 0.4]}}";

impl Given {
    /// Reads the bytes of the file at `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let is_list = bytes.trim_ascii_start().first() == Some(&b'[');
        let read = if is_list {
            serde_json::from_slice(bytes).map(Self::Clients)
        } else {
            serde_json::from_slice(bytes)
        };
        read.map_err(|error| at_fault(path, &format!("is no split: {error}")).with_hint(FORMS))
    }

    /// What is wrong with it for so many clients, before the examples are known.
    pub(super) fn check(&self, path: &Path, clients: usize) -> Result<()> {
        match self {
            Self::Clients(shards) => {
                if shards.len() != clients {
                    return Err(wrong_number(path, "has shards for", shards.len(), clients));
                }
                if let Some(client) = shards.iter().position(Vec::is_empty) {
                    return Err(no_example(path, client));
                }
                check_once(path, shards)
            }
            Self::Proportions(shares) => {
                let check = |class: &str, row: &[f64]| check_shares(path, class, row, clients);
                match shares {
                    Shares::Listed(rows) => {
                        let mut rows = rows.iter().enumerate();
                        rows.try_for_each(|(class, row)| check(&class.to_string(), row))
                    }
                    Shares::Named(rows) => {
                        rows.iter().try_for_each(|(class, row)| check(class, row))
                    }
                }
            }
        }
    }
}

impl Shares {
    /// The row of each of `classes`, which are numbers of `names`, in their order.
    pub(super) fn of_classes(
        &self,
        path: &Path,
        classes: &[usize],
        names: &[String],
    ) -> Result<Vec<Vec<f64>>> {
        let mut rows: Vec<Option<&Vec<f64>>> = vec![None; names.len()];
        match self {
            Self::Listed(listed) => {
                if listed.len() != names.len() {
                    return Err(at_fault(
                        path,
                        &format!("has {} rows for {} classes", listed.len(), names.len()),
                    )
                    .with_hint(format!("give one row for each of {}", names.join(", "))));
                }
                rows = listed.iter().map(Some).collect();
            }
            Self::Named(rows_by_name) => {
                for (name, row) in rows_by_name {
                    let class = class_of(path, name, names)?;
                    if rows[class].replace(row).is_some() {
                        let twice = format!("has two rows for class `{}`", names[class]);
                        return Err(at_fault(path, &twice));
                    }
                }
            }
        }
        let row = |&class: &usize| {
            let row = rows.get(class).copied().flatten().cloned();
            row.ok_or_else(|| {
                let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
                at_fault(path, &format!("has no proportions of class `{name}`"))
            })
        };
        classes.iter().map(row).collect()
    }
}

/// A class by its name, or by its number where no class is called so.
fn class_of(path: &Path, name: &str, names: &[String]) -> Result<usize> {
    let number = || name.parse().ok().filter(|class| *class < names.len());
    names.iter().position(|known| known == name).or_else(number).ok_or_else(|| {
        let error = at_fault(path, &format!("has proportions of `{name}`, which is no class"));
        match nearest(name, names) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint(format!("the classes are {}", names.join(", "))),
        }
    })
}

fn check_shares(path: &Path, class: &str, row: &[f64], clients: usize) -> Result<()> {
    if row.len() != clients {
        let has = format!("has in the row of class `{class}` numbers for");
        return Err(wrong_number(path, &has, row.len(), clients));
    }
    if let Some(share) = row.iter().find(|share| !(0.0..=1.0 + ROUNDING).contains(*share)) {
        let what = format!("has {share} in the row of class `{class}`: a share is from 0 to 1");
        return Err(at_fault(path, &what));
    }
    let sum: f64 = row.iter().sum();
    if sum > 1.0 + ROUNDING {
        let what = format!("shares out {sum} of class `{class}`, which is more than all of it");
        return Err(at_fault(path, &what).with_hint("a row adds up to 1"));
    }
    Ok(())
}

/// Every position is there once.
fn check_once(path: &Path, shards: &[Vec<usize>]) -> Result<()> {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for (client, shard) in shards.iter().enumerate() {
        all.extend(shard.iter().map(|&position| (position, client)));
    }
    all.sort_unstable();
    let Some(pair) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) else { return Ok(()) };
    let (position, first, second) = (pair[0].0, pair[0].1, pair[1].1);
    let who = if first == second {
        format!("client {first} twice")
    } else {
        format!("clients {first} and {second}")
    };
    Err(at_fault(path, &format!("gives example {position} to {who}")))
}

fn wrong_number(path: &Path, has: &str, found: usize, clients: usize) -> Error {
    at_fault(path, &format!("{has} {found} clients, but there are {clients}"))
        .with_hint("set `clients:` to their number")
}

/// A client without an example, which cannot train.
pub(super) fn no_example(path: &Path, client: usize) -> Error {
    at_fault(path, &format!("leaves client {client} without examples"))
        .with_hint("every client needs at least one; clients are counted from 0")
}

/// A sentence about the file.
pub(super) fn at_fault(path: &Path, what: &str) -> Error {
    Error::input(format!("`{}` {what}", path.display()))
}

impl<'de> Deserialize<'de> for Shares {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Shares;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rows by class, or a list of rows")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shares, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = list.next_element()? {
                    rows.push(row);
                }
                Ok(Shares::Listed(rows))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shares, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = map.next_entry()? {
                    rows.push(row);
                }
                Ok(Shares::Named(rows))
            }
        }
        from.deserialize_any(Read)
    }
}
