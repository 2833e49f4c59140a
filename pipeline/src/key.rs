//! The name of a step's result: BLAKE3 of its canonical manifest.
//!
//! ARCHITECTURE.md has a table of what is in the key of each step, and what is not.
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
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' => {
                let code = c as usize;
                out.push_str("\\u00");
                out.extend([HEX[code >> 4], HEX[code & 15]].map(char::from));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::{Action, key_of_manifest};
    use artifacts::Digest;
    use serde_json::{Value, json};

    fn action(with: &Value) -> Action<'_> {
        Action { stage: "train", version: 1, with, device: None }
    }

    fn key(with: &Value) -> Digest {
        action(with).key(&|name| Some(Digest::of(name.as_bytes()))).unwrap()
    }

    /// Recorded once: a change here makes every result of every user anew.
    #[test]
    fn the_canonical_text_and_its_key_never_change() {
        let with = json!({
            "seed": u64::MAX, "local": { "lr": 3e-4, "batch": 16, "prox": 0.0, "big": 1e300 },
            "from": { "$in": "fed/init", "$kind": "adapter" }, "name": "a\"\\\n\u{1}é", "on": true,
        });
        let text = action(&with)
            .canonical(&mut |name, out| {
                out.extend(["<", name, ">"]);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            text,
            "{\"stage\":\"train\",\"version\":1,\"with\":{\"from\":<fed/init>,\"local\":{\"batch\":16,\
             \"big\":1e+300,\"lr\":0.0003,\"prox\":0.0},\"name\":\"a\\\"\\\\\\n\\u0001é\",\"on\":true,\
             \"seed\":18446744073709551615}}"
        );
        assert_eq!(
            key(&with).to_string(),
            "1f45f7976267601824b42b69f3e954b9ad9afb23804a75939df7864fee5e5b7e"
        );
    }

    #[test]
    fn a_manifest_kept_with_a_record_has_the_key_of_its_step() {
        let with = json!({ "lr": 0.1, "from": { "$in": "a#b", "$kind": "file" }, "n": [1, 2.5] });
        let resolve = |name: &str| Some(Digest::of(name.as_bytes()));
        let manifest = action(&with).manifest(&resolve);
        let text = serde_json::to_string(&manifest).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(key_of_manifest(&read).unwrap(), key(&with));
    }

    #[test]
    fn what_differs_has_another_key() {
        let edge = |name: &str| json!({ "from": { "$in": name, "$kind": "adapter" } });
        let all = [
            json!({ "a": 1 }),
            json!({ "a": 1.0 }),
            json!({ "a": "1" }),
            json!({ "a": [1] }),
            json!({ "a": { "1": 1 } }),
            json!({ "a": true }),
            json!({ "a,b": 1 }),
            json!({ "a": "}" }),
            edge("x"),
            edge("y"),
            json!({ "from": { "$blake3": "x" } }),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[..i] {
                assert_ne!(key(a), key(b), "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused() {
        let nan = serde_json::to_value(f64::NAN).unwrap();
        assert!(action(&json!({ "lr": nan })).key(&|_| None).is_err());
    }
}
