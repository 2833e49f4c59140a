//! What the steps of a run say of an adapter, by their names and manifests: which rule made it, and whose it is.

use artifacts::{BlobRef, Store};
use serde_json::Value;

use super::view;
use crate::aggregate::Rule;
use crate::error::Result;
use crate::parts::Parts;
use crate::peft::BaseName;
use crate::stage::Stage;
use crate::steps::{Aggregate, LocalTraining};

/// Whether a step's result is one client's own, and not what a federation came to.
pub fn is_of_client(step: &str) -> bool {
    step.rsplit('/').next().is_some_and(|last| last.starts_with("client-"))
}

/// The digest of the adapter that an evaluation was about, by the manifest of its step.
pub fn subject(manifest: &Value) -> Option<&str> {
    manifest["with"]["adapter"]["$blake3"].as_str()
}

/// What PEFT should call the base: its name on the Hub, by the manifest of the step that fetched it, else the folder
/// where its weights lie.
pub fn base_name(store: &Store, base: BlobRef, manifest: &Value) -> Result<BaseName> {
    let hub = &manifest["with"]["origin"]["hub"];
    if let Some(name) = hub["repo"].as_str() {
        let revision = hub["commit"].as_str().map(str::to_owned);
        return Ok(BaseName { name: name.to_owned(), revision });
    }
    let files = view(store, base)?;
    let weights = files.tree.iter().find(|(name, _)| name.ends_with(".safetensors"));
    let folder = weights.and_then(|(_, blob)| {
        let path = store.path(&blob).ok()?;
        Some(path.parent()?.display().to_string())
    });
    Ok(BaseName { name: folder.unwrap_or_default(), revision: None })
}

/// What a data set is called, by the manifest of the step that read it.
pub fn data_name(manifest: &Value) -> String {
    let origin = &manifest["with"]["origin"];
    if let Some(repo) = origin["hub"]["repo"].as_str() {
        return format!("`{repo}` at `{}`", origin["hub"]["commit"].as_str().unwrap_or("?"));
    }
    let files = origin["files"].as_object().into_iter().flatten();
    let listed: Vec<String> = files
        .map(|(name, digest)| {
            let digest = digest.as_str().unwrap_or_default();
            format!("`{name}` (BLAKE3 {}…)", &digest[..digest.len().min(12)])
        })
        .collect();
    listed.join(", ")
}

/// What a user should know of an adapter before others use it, by the manifest of the step that made it.
pub fn warning(manifest: &Value) -> Option<String> {
    let approximate = needs_stand_in(manifest).then_some(
        "it is an approximation, which nobody trained: with `FedSALoRA` each client keeps its own B, and this has the \
         mean of those of the last round's clients; `--client K` exports what client K has",
    );
    let untrained = (is_aggregate(manifest) && keeps_head(manifest)).then_some(
        "its classifier was never trained: with `head: Local` each client keeps its own, and is scored with that on \
         top of this adapter; `--client K` exports what client K has",
    );
    let said: Vec<&str> = approximate.into_iter().chain(untrained).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Whether the adapter that a step made is one that nobody has, so that another stands in for it.
pub fn needs_stand_in(manifest: &Value) -> bool {
    kept_by_rule(manifest).is_some_and(|kept| !kept.is_none() && kept != Parts::ALL)
}

/// Why the adapter that a step made is not one to export, by the step's manifest.
pub fn refusal(manifest: &Value) -> Option<&'static str> {
    (kept_by_rule(manifest) == Some(Parts::ALL)).then_some(
        "it is the adapter that all clients started from: with `Local` nothing is aggregated, and each client has its own",
    )
}

/// What a client keeps to itself from round to round, by the manifest of the step that ends a round; `None` where it
/// ends none, and so has no clients.
pub fn personal(manifest: &Value) -> Option<Parts> {
    let kept = kept_by_rule(manifest)?;
    Some(if keeps_head(manifest) { kept | Parts::HEAD } else { kept })
}

/// The digest of the adapter that a client started from, by the manifest of its local training.
pub fn start(manifest: &Value) -> Option<&str> {
    let is_training = manifest["stage"] == LocalTraining::NAME;
    manifest["with"]["from"]["$blake3"].as_str().filter(|_| is_training)
}

/// The round that a step ends or belongs to, and the stage of the graph that it is of: `fed/round-003` is round 3 of
/// `fed`.
fn round_of(step: &str) -> Option<(&str, u32)> {
    let (stage, round) = step.rsplit_once("/round-")?;
    Some((stage, round.parse().ok()?))
}

/// Of the steps called `names`, those in which `client` trained in the round that `step` ends or before, the last
/// first, each with its round.
pub fn trainings<'a>(
    names: impl Iterator<Item = &'a str>,
    step: &str,
    client: u32,
) -> Vec<(u32, &'a str)> {
    let Some((stage, last)) = round_of(step) else { return Vec::new() };
    let found = names.filter_map(|name| {
        let (of, who) = name.rsplit_once('/')?;
        let (other, round) = round_of(of)?;
        let number: u32 = who.strip_prefix("client-")?.parse().ok()?;
        (other == stage && number == client && round <= last).then_some((round, name))
    });
    let mut found: Vec<(u32, &str)> = found.collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found
}

fn is_aggregate(manifest: &Value) -> bool {
    manifest["stage"] == Aggregate::NAME
}

fn keeps_head(manifest: &Value) -> bool {
    manifest["with"]["head"] == "Local"
}

/// What clients keep for ever by the rule of the round that a step ends.
fn kept_by_rule(manifest: &Value) -> Option<Parts> {
    let rule: Rule = serde_json::from_value(manifest["with"]["rule"].clone()).ok()?;
    is_aggregate(manifest).then(|| rule.personal())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn aggregate(rule: &Value, head: Option<&str>) -> Value {
        let mut manifest = json!({ "stage": "aggregate", "with": { "rule": rule } });
        if let Some(head) = head {
            manifest["with"]["head"] = json!(head);
        }
        manifest
    }

    #[test]
    fn what_a_client_keeps_follows_from_the_rule_and_the_head() {
        let kept = |rule: Value, head| personal(&aggregate(&rule, head)).unwrap();
        assert_eq!(kept(json!("FedAvg"), None), Parts::NONE);
        assert_eq!(kept(json!("FedAvg"), Some("Frozen")), Parts::NONE);
        assert_eq!(kept(json!("FLoRA"), Some("Local")), Parts::HEAD);
        assert_eq!(kept(json!("FedSALoRA"), None), Parts::B);
        assert_eq!(kept(json!("FedSALoRA"), Some("Local")), Parts::B | Parts::HEAD);
        assert_eq!(kept(json!("Local"), None), Parts::ALL);
        let training = json!({ "stage": "train", "with": { "from": { "$blake3": "abc" } } });
        assert_eq!((personal(&training), start(&training)), (None, Some("abc")));
        assert_eq!(start(&aggregate(&json!("FedAvg"), None)), None);
    }

    #[test]
    fn approximations_are_told_and_what_is_nothing_is_refused() {
        let warned = |rule: Value, head| warning(&aggregate(&rule, head)).unwrap_or_default();
        assert_eq!(warned(json!("FedAvg"), None), "");
        assert!(warned(json!("FedSALoRA"), None).starts_with("it is an approximation"));
        assert!(warned(json!("FedAvg"), Some("Local")).starts_with("its classifier was never"));
        let both = warned(json!("FedSALoRA"), Some("Local"));
        assert!(both.contains("approximation") && both.contains("never trained"), "{both}");
        assert_eq!(warning(&json!({ "stage": "train", "with": {} })), None);
        assert!(refusal(&aggregate(&json!("Local"), None)).is_some());
        assert_eq!(refusal(&aggregate(&json!("FedAvg"), Some("Local"))), None);
    }

    #[test]
    fn trainings_are_found_by_name() {
        let names = [
            "fed/init",
            "fed/round-001",
            "fed/round-001/client-001",
            "fed/round-001/client-011",
            "fed/round-002/client-001",
            "fed/round-003/client-001",
            "other/round-001/client-001",
            "a=1/fed/round-001/client-001",
        ];
        let of = |step, client| trainings(names.iter().copied(), step, client);
        let wanted = [(2, "fed/round-002/client-001"), (1, "fed/round-001/client-001")];
        assert_eq!(of("fed/round-002", 1), wanted);
        assert_eq!(of("a=1/fed/round-1000", 1), [(1, "a=1/fed/round-001/client-001")]);
        assert_eq!(of("fed/round-002", 2), []);
        assert_eq!(of("fed/init", 1), []);
    }
}
