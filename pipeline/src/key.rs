//! The name of a step's result: BLAKE3 of its canonical manifest.
//!
//! | step | in its key | not in its key |
//! |---|---|---|
//! | Model, Dataset | repository and resolved commit, or file digests | token, cache folder, mirror, paths |
//! | Tokenize | corpus, the tokenizer's files, `max_len`, task | model weights |
//! | Partition | tokens, clients, splitter and its numbers, seed | rank, rounds |
//! | init | the base's config, label names, LoRA's numbers, seed | shards, rounds |
//! | local training | base, shard, the adapter it starts from, numbers resolved for the round, seed | number of rounds and of clients, rule, names, threads, device, cohort |
//! | Aggregate | the adapter before, the clients' adapters, rule | number of rounds |
//! | Evaluate | base, adapter, tokens, split | batch size, `every` |
//!
//! An edge stands in the manifest as the content digest of what it leads to, so an input that was
//! made again with the same bytes changes nothing behind it.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use artifacts::Digest;
use serde_json::{Value, json};
use stages::edge::as_edge;

/// Separates these hashes from every other use of BLAKE3.
const CONTEXT: &str = "fedpipe action v1";

/// Where an edge leads, by its name, as a content digest.
pub type Resolve<'a> = &'a dyn Fn(&str) -> Option<Digest>;

/// A step's identity before its edges are resolved.
pub struct Action<'a> {
    /// The stage's name in keys.
    pub stage: &'a str,
    /// The stage's version.
    pub version: u32,
    /// Its fields, edges marked.
    pub with: &'a Value,
    /// The device, in a graph that says `exact: true`.
    pub device: Option<&'a str>,
}

impl Action<'_> {
    /// The key, with each edge replaced by its digest.
    ///
    /// # Errors
    /// A number is not finite, or an edge is not resolved.
    pub fn key(&self, resolve: Resolve<'_>) -> Result<Digest> {
        Ok(key_of_text(&self.canonical(&mut |name, out| {
            let Some(digest) = resolve(name) else { bail!("the edge to `{name}` is not resolved") };
            write!(out, "{{\"$blake3\":\"{digest}\"}}")?;
            Ok(())
        })?))
    }

    /// The canonical text, with `edge` writing what stands for an edge.
    pub fn canonical(
        &self,
        edge: &mut dyn FnMut(&str, &mut String) -> Result<()>,
    ) -> Result<String> {
        let mut text = String::with_capacity(512);
        text.push('{');
        if let Some(device) = self.device {
            text.push_str("\"device\":");
            string(device, &mut text);
            text.push(',');
        }
        text.push_str("\"stage\":");
        string(self.stage, &mut text);
        write!(text, ",\"version\":{},\"with\":", self.version)?;
        write(self.with, edge, &mut text)?;
        text.push('}');
        Ok(text)
    }

    /// The manifest that the record keeps: the same value, as JSON.
    pub fn manifest(&self, resolve: Resolve<'_>) -> Value {
        let mut manifest = json!({
            "stage": self.stage,
            "version": self.version,
            "with": resolved(self.with, resolve),
        });
        if let Some(device) = self.device {
            manifest["device"] = json!(device);
        }
        manifest
    }
}

/// The key of a manifest that was kept with a record.
///
/// # Errors
/// The manifest holds something that no manifest holds.
pub fn key_of_manifest(manifest: &Value) -> Result<Digest> {
    let mut text = String::with_capacity(512);
    write(manifest, &mut |name, _| bail!("a stored manifest names an edge, `{name}`"), &mut text)?;
    Ok(key_of_text(&text))
}

fn key_of_text(text: &str) -> Digest {
    Digest::derive(CONTEXT, text.as_bytes())
}

fn resolved(value: &Value, resolve: Resolve<'_>) -> Value {
    if let Some((name, _)) = as_edge(value) {
        return json!({ "$blake3": resolve(name).map(|digest| digest.to_string()) });
    }
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), resolved(v, resolve))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|v| resolved(v, resolve)).collect()),
        other => other.clone(),
    }
}

/// Writes JSON with sorted keys and shortest round-trip numbers, no space. `serde_json`'s own order
/// changes as soon as any crate of the build turns on `preserve_order`.
fn write(
    value: &Value,
    edge: &mut dyn FnMut(&str, &mut String) -> Result<()>,
    out: &mut String,
) -> Result<()> {
    if let Some((name, _)) = as_edge(value) {
        return edge(name, out);
    }
    match value {
        // A stage leaves out what is not there, so a null can only come from a NaN or an infinity.
        Value::Null => bail!("a number in it is not finite"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => write!(out, "{n}")?,
        Value::String(s) => string(s, out),
        Value::Array(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, edge, out)?;
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_unstable();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                string(key, out);
                out.push(':');
                write(&map[key], edge, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// A JSON string: only what must be escaped is.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => {
                // Writing to a string cannot fail.
                drop(write!(out, "\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
