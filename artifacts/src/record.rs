//! Records: what a step made, under the key of what went into it.
//!
//! A record is one JSON file of five lines, so that a look needs to read one of them:
//!
//! ```text
//! {"schema":1,"sum":"<BLAKE3 of the key and of all that follows this line>",
//! "head":{"kind":…,"digest":…,"len":…,"metrics":{…},"seconds":…,"device":…,"listing":…},
//! "inline":{…},
//! "manifest":{…},
//! "provenance":{…}}
//! ```
//! The sum is checked before anything is believed: a flipped digit in a metric, a file that was cut
//! off and a record under another record's name are all found. Numbers are written as text: JSON
//! has no NaN, and what is read must be the same bits that were written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{BlobRef, Digest, Finished, Tree};

/// Raised when a record of the new version would be misread by an older one.
const FIRST: &str = "{\"schema\":1,\"sum\":\"";
/// A tree whose listing is longer than this (bytes) is read from its blob.
const LISTING: usize = 16 << 10;

/// What a look at a record gives: enough to plan with.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The kind of the artifact.
    pub kind: String,
    /// The listing of the tree that the step made.
    pub tree: BlobRef,
    /// The numbers that the step gave.
    pub metrics: BTreeMap<String, f64>,
    /// The tree, where its listing is short enough for the record to carry it (16 KiB).
    pub listing: Option<Tree>,
    /// Wall time that the step took (seconds).
    pub seconds: f64,
    /// The device that made it.
    pub device: Option<String>,
}

/// All of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What it is found under.
    pub key: Digest,
    /// The head: kind, tree, metrics, time and device.
    pub found: Found,
    /// Small text entries of the tree, readable even after their blobs are pruned.
    pub inline: BTreeMap<String, String>,
    /// What the key was made from.
    pub manifest: Value,
    /// How it was made. None of it is in the key.
    pub provenance: Provenance,
}

/// What is to be published.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// The action key.
    pub key: Digest,
    /// What the key was made from.
    pub manifest: Value,
    /// The kind of the artifact.
    pub kind: String,
    /// The tree that the step made.
    pub output: Finished,
    /// The numbers that the step gave.
    pub metrics: BTreeMap<String, f64>,
    /// How it was made.
    pub provenance: Provenance,
}

/// How a result was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Wall time (seconds).
    #[serde(with = "number")]
    pub seconds: f64,
    /// Time on all cores together (seconds).
    #[serde(default, with = "maybe_number")]
    pub cpu_seconds: Option<f64>,
    /// The most memory that was in use (bytes).
    pub peak_bytes: Option<u64>,
    /// The device.
    pub device: Option<String>,
    /// The machine.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When, as the caller writes times.
    pub created: String,
}

#[derive(Serialize, Deserialize)]
struct Head {
    kind: String,
    digest: Digest,
    len: u64,
    #[serde(with = "numbers")]
    metrics: BTreeMap<String, f64>,
    #[serde(with = "number")]
    seconds: f64,
    device: Option<String>,
    listing: Option<String>,
}

#[derive(Deserialize)]
struct Rest {
    inline: BTreeMap<String, String>,
    manifest: Value,
    provenance: Provenance,
}

impl NewRecord {
    /// The bytes of the record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let listing = String::from_utf8(self.output.tree.canonical()).ok();
        let head = Head {
            kind: self.kind.clone(),
            digest: self.output.blob.digest,
            len: self.output.blob.len,
            metrics: self.metrics.clone(),
            seconds: self.provenance.seconds,
            device: self.provenance.device.clone(),
            listing: listing.filter(|text| text.len() <= LISTING),
        };
        let body = format!(
            "\"head\":{},\n\"inline\":{},\n\"manifest\":{},\n\"provenance\":{}}}\n",
            json(&head),
            json(&self.output.inline),
            self.manifest,
            json(&self.provenance)
        );
        format!("{FIRST}{}\",\n{body}", sum(&self.key, body.as_bytes())).into_bytes()
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text keys and plain data always have a JSON form")
}

/// Binds the bytes to the key, so that a record cannot be taken for another one.
fn sum(key: &Digest, body: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(body);
    hasher.finalize().into()
}

/// Reads the head of a record.
///
/// # Errors
/// Says in what way the bytes are not the record of `key`.
pub(crate) fn head(key: &Digest, bytes: &[u8]) -> Result<Found, &'static str> {
    let body = body(key, bytes)?;
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line
        .strip_prefix(b"\"head\":")
        .and_then(|line| line.strip_suffix(b","));
    let head = serde_json::from_slice::<Head>(line.ok_or("it has no head")?);
    let Head {
        kind,
        digest,
        len,
        metrics,
        seconds,
        device,
        listing,
    } = head.map_err(|_| "its head cannot be read")?;
    let tree = BlobRef { digest, len };
    let listing = listing.map(|text| Tree::parse(text.as_bytes())).transpose();
    let listing = listing.map_err(|_| "its listing cannot be read")?;
    Ok(Found {
        kind,
        tree,
        metrics,
        listing,
        seconds,
        device,
    })
}

/// Reads all of a record.
///
/// # Errors
/// As [`head`].
pub(crate) fn whole(key: &Digest, bytes: &[u8]) -> Result<Record, &'static str> {
    let found = head(key, bytes)?;
    let Rest {
        inline,
        manifest,
        provenance,
    } = serde_json::from_slice(bytes).map_err(|_| "it cannot be read")?;
    Ok(Record {
        key: *key,
        found,
        inline,
        manifest,
        provenance,
    })
}

fn body<'a>(key: &Digest, bytes: &'a [u8]) -> Result<&'a [u8], &'static str> {
    let rest = bytes.strip_prefix(FIRST.as_bytes());
    let rest = rest.ok_or("it is no record, or one of a newer version")?;
    let (hex, rest) = rest.split_at_checked(64).ok_or("it is cut off")?;
    let body = rest.strip_prefix(b"\",\n").ok_or("it is cut off")?;
    let said = std::str::from_utf8(hex)
        .ok()
        .and_then(|hex| hex.parse::<Digest>().ok());
    if said == Some(sum(key, body)) {
        Ok(body)
    } else {
        Err("its bytes do not have its sum")
    }
}

/// A number as text, in the shortest form that gives the same bits.
mod number {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature is serde's"
    )]
    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:?}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        text.parse()
            .map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &"a number"))
    }
}

mod maybe_number {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Number;

    #[expect(clippy::ref_option, reason = "the signature is serde's")]
    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(from)?.map(|number| number.0))
    }
}

mod numbers {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Number;

    type Map = BTreeMap<String, f64>;

    pub(super) fn serialize<S: Serializer>(values: &Map, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(values.iter().map(|(name, value)| (name, Number(*value))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
        let map = BTreeMap::<String, Number>::deserialize(from)?;
        Ok(map
            .into_iter()
            .map(|(name, value)| (name, value.0))
            .collect())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Number(#[serde(with = "number")] f64);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> NewRecord {
        let mut tree = Tree::default();
        tree.insert("a \"quoted\" name", BlobRef::of(b"a")).unwrap();
        NewRecord {
            key: Digest::of(b"key"),
            manifest: json!({"stage": "Tokenize", "with": {"max_len": 128}}),
            kind: "tokens".into(),
            output: Finished {
                blob: tree.blob(),
                tree,
                inline: BTreeMap::from([("note".into(), "line\nline".into())]),
            },
            metrics: BTreeMap::from([
                ("loss".into(), 0.1 + 0.2),
                ("nan".into(), f64::NAN),
                ("gap".into(), f64::NEG_INFINITY),
            ]),
            provenance: Provenance {
                seconds: 1.0 / 3.0,
                cpu_seconds: Some(2.5e-7),
                host: "here".into(),
                ..Provenance::default()
            },
        }
    }

    #[test]
    fn a_record_comes_back_bit_by_bit() {
        let new = sample();
        let record = whole(&new.key, &new.encode()).unwrap();
        assert_eq!(record.found.tree, new.output.blob);
        assert_eq!(record.found.listing.as_ref(), Some(&new.output.tree));
        for (name, value) in &new.metrics {
            assert_eq!(
                record.found.metrics[name].to_bits(),
                value.to_bits(),
                "{name}"
            );
        }
        assert_eq!(record.inline, new.output.inline);
        assert_eq!(record.manifest, new.manifest);
        assert_eq!(record.provenance, new.provenance);
        // Any JSON reader can read it.
        let json: Value = serde_json::from_slice(&new.encode()).unwrap();
        assert_eq!(json["head"]["metrics"]["loss"], "0.30000000000000004");
    }

    #[test]
    fn a_damaged_record_is_never_read() {
        let new = sample();
        let good = new.encode();
        assert!(head(&new.key, &good).is_ok());
        for at in 0..good.len() {
            assert!(head(&new.key, &good[..at]).is_err(), "cut at {at}");
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            assert!(head(&new.key, &flipped).is_err(), "flipped at {at}");
        }
        assert!(head(&Digest::of(b"another key"), &good).is_err());
        assert!(head(&new.key, &[&good[..], b" "].concat()).is_err());
    }

    #[test]
    fn a_long_listing_is_left_to_its_blob() {
        let mut new = sample();
        for i in 0..300 {
            new.output
                .tree
                .insert(format!("{i}"), BlobRef::of(b""))
                .unwrap();
        }
        assert_eq!(head(&new.key, &new.encode()).unwrap().listing, None);
    }
}
