//! `fedpipe verify`

use clap::Args;
use serde_json::json;

use super::Desk;
use crate::{
    failure::{Exit, Failure},
    key,
};

/// Look for damage in the store
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Hash the contents again, not only look at the structure
    #[arg(long)]
    content: bool,
    /// With `--content`, hash only this share of the bytes: 5%
    #[arg(long, value_name = "SHARE", requires = "content", value_parser = share)]
    sample: Option<f64>,
}

fn share(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').and_then(|n| n.parse().ok());
    match number {
        Some(n) if n > 0.0 && n <= 100.0 => Ok(n / 100.0),
        _ => Err(format!("`{text}` is no share; write a percentage: `5%`")),
    }
}

impl Verify {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let store = desk.store()?;
        let content = self.content.then(|| self.sample.unwrap_or(1.0));
        let findings = store.verify(content, &|manifest| key::key_of_manifest(manifest).ok())?;
        if desk.out.json() {
            desk.out.value(&json!(findings))?;
        } else {
            for problem in &findings.problems {
                desk.out.line(&format!("{}: {}", problem.path.display(), problem.why))?;
            }
            desk.out.line(&format!(
                "looked at {} records, {} blobs, {} external files: {}",
                findings.records,
                findings.blobs,
                findings.external,
                match findings.problems.len() {
                    0 => "all whole".to_owned(),
                    1 => "1 is damaged".to_owned(),
                    n => format!("{n} are damaged"),
                }
            ))?;
        }
        Ok(if findings.problems.is_empty() { Exit::Done } else { Exit::Store })
    }
}
