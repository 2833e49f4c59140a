//! The model card of an exported adapter: what it is, and what it was made from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::BaseName;
use crate::kinds::Adapter;
use crate::model::{Init, Layers, LoraConfig, Targets};

/// The figures of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The step that gave them: `score/round-003`.
    pub step: String,
    /// Each by its name.
    pub values: BTreeMap<String, f64>,
}

/// What a card says.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// The step that made the adapter: `fed/round-003`.
    pub step: String,
    /// The run that it was exported from.
    pub run: String,
    /// When the run began.
    pub started: String,
    /// What the graph says of itself.
    pub about: String,
    /// The version of fedpipe.
    pub version: String,
    /// The devices that steps before it ran on.
    pub devices: Vec<String>,
    /// The data sets, each as the Hub names it or by its files.
    pub data: Vec<String>,
    /// The evaluations of it and of the adapters before it.
    pub figures: Vec<Figures>,
    /// The whole graph.
    pub graph: String,
    /// The base.
    pub base: BaseName,
    /// Whether it is merged into the base.
    pub merged: bool,
    /// What is adapted where the settings name no targets.
    pub family_targets: Vec<&'static str>,
    /// The client whose adapter it is, and what of it is the client's own; empty for one that all share.
    pub client: String,
    /// What to know before it is used.
    pub warning: Option<String>,
    /// The settings in the folder, where they are not those of the training: of [`super::one_lora`].
    pub written: Option<LoraConfig>,
}

impl Card {
    /// The text of a `README.md`.
    pub fn text(&self, adapter: &Adapter) -> String {
        let mut text = String::new();
        self.front(adapter, &mut text);
        let title =
            if self.merged { "A base with its LoRA adapter merged in" } else { "A LoRA adapter" };
        let _ = writeln!(text, "# {title}\n");
        if !self.about.is_empty() {
            let _ = writeln!(text, "{}\n", self.about);
        }
        if let Some(warning) = &self.warning {
            let _ = writeln!(text, "Note: {warning}.\n");
        }
        self.facts(adapter, &mut text);
        self.ranks(&adapter.config.lora, &mut text);
        if !self.figures.is_empty() {
            self.table(&mut text);
        }
        self.usage(adapter, &mut text);
        let _ = writeln!(text, "## Graph\n\n```ron\n{}\n```", self.graph.trim_end());
        text
    }

    /// The part that the Hub reads.
    fn front(&self, adapter: &Adapter, text: &mut String) {
        let task = if adapter.config.labels.is_empty() {
            "text-generation"
        } else {
            "text-classification"
        };
        let library = if self.merged { "transformers" } else { "peft" };
        let _ = writeln!(text, "---\nlibrary_name: {library}\npipeline_tag: {task}");
        if self.base.revision.is_some() {
            let _ = writeln!(text, "base_model: {}", self.base.name);
        }
        text.push_str("tags:\n- lora\n- federated-learning\n- fedpipe\n---\n\n");
    }

    fn facts(&self, adapter: &Adapter, text: &mut String) {
        let lora = &adapter.config.lora;
        let mut row = |name: &str, value: &str| {
            let _ = writeln!(text, "| {name} | {} |", value.replace('|', "\\|"));
        };
        row("", "");
        row("---", "---");
        row(
            "base",
            &match &self.base.revision {
                Some(commit) => format!("`{}` at `{commit}`", self.base.name),
                None => format!("`{}`", self.base.name),
            },
        );
        row("data", &self.data.join("; "));
        row("made by", &format!("step `{}` of run `{}` ({})", self.step, self.run, self.started));
        if !self.client.is_empty() {
            row("client", &self.client);
        }
        row("rank, alpha", &format!("{}, {}", lora.rank, lora.alpha));
        row(
            "targets",
            &match &lora.targets {
                None => format!("`{}`", self.family_targets.join("`, `")),
                Some(Targets::Names(names)) => format!("`{}`", names.join("`, `")),
                Some(Targets::Pattern(pattern)) => format!("`{pattern}`"),
            },
        );
        if lora.layers != Layers::All {
            row("blocks", &format!("{:?}", lora.layers));
        }
        if !lora.rank_pattern.is_empty() {
            row("other ranks", &format!("{:?}", lora.rank_pattern));
        }
        if !lora.alpha_pattern.is_empty() {
            row("other alphas", &format!("{:?}", lora.alpha_pattern));
        }
        row("scale", if lora.rslora { "alpha / √rank" } else { "alpha / rank" });
        row("dropout", &lora.dropout.to_string());
        if lora.init == Init::Gaussian {
            row("init", "gaussian");
        }
        if !adapter.config.labels.is_empty() {
            row("classes", &format!("`{}`", adapter.config.labels.join("`, `")));
        }
        row("device", &self.devices.join(", "));
        row("fedpipe", &self.version);
        text.push('\n');
    }

    /// Why the factors in the folder have another rank than those that were trained.
    fn ranks(&self, trained: &LoraConfig, text: &mut String) {
        let Some(written) = self.written.as_ref().filter(|written| *written != trained) else {
            return;
        };
        let _ = writeln!(
            text,
            "The factors that were trained have rank {}; those in this folder have rank {}, at a scale of 1. The rank \
             is larger because the method put its update into the base itself, and one adapter has to carry that \
             update as well.\n",
            range(trained),
            range(written)
        );
    }

    fn table(&self, text: &mut String) {
        let mut names: Vec<&String> = self.figures.iter().flat_map(|f| f.values.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let listed = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        text.push_str("## Figures\n\n");
        let head = std::iter::once("step".to_owned()).chain(names.iter().map(|n| (*n).clone()));
        text.push_str(&listed(head.collect()));
        text.push_str(&listed(vec!["---".to_owned(); names.len() + 1]));
        for figures in &self.figures {
            let value = |name: &&String| {
                figures.values.get(*name).map_or_else(String::new, |value| format!("{value:.4}"))
            };
            let row = std::iter::once(figures.step.clone()).chain(names.iter().map(value));
            text.push_str(&listed(row.collect()));
        }
        text.push('\n');
    }

    fn usage(&self, adapter: &Adapter, text: &mut String) {
        let classes = adapter.config.labels.len();
        let auto = match classes {
            0 => "AutoModelForCausalLM",
            _ => "AutoModelForSequenceClassification",
        };
        text.push_str("## Use\n\n```python\n");
        if self.merged {
            let _ = writeln!(
                text,
                "from transformers import {auto}\n\nmodel = {auto}.from_pretrained(\"this folder\")"
            );
        } else {
            let base = &self.base.name;
            let revision = match &self.base.revision {
                Some(commit) => format!(", revision=\"{commit}\""),
                None => String::new(),
            };
            let labels =
                if classes > 0 { format!(", num_labels={classes}") } else { String::new() };
            let _ = writeln!(
                text,
                "from peft import PeftModel\nfrom transformers import {auto}\n\n\
                 base = {auto}.from_pretrained(\"{base}\"{revision}{labels})\n\
                 model = PeftModel.from_pretrained(base, \"this folder\")"
            );
        }
        text.push_str("```\n\n");
    }
}

/// The ranks that modules have: one, or the least and the largest.
fn range(lora: &LoraConfig) -> String {
    let ranks = || lora.rank_pattern.values().copied().chain([lora.rank]);
    match (ranks().min(), ranks().max()) {
        (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
        _ => lora.rank.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::AdapterConfig;
    use crate::peft::AdapterTensors;

    #[test]
    fn a_card_says_what_the_adapter_was_made_from() {
        let labels = ["bad", "good"].map(str::to_owned).to_vec();
        let config = AdapterConfig { lora: LoraConfig::of_rank(8), labels };
        let adapter =
            Adapter { config, tensors: AdapterTensors::default(), trained: None, delta: None };
        let figures = Figures {
            step: "score/round-002".to_owned(),
            values: [("accuracy".to_owned(), 0.75), ("loss".to_owned(), 0.5)].into(),
        };
        let card = Card {
            step: "fed/round-002".to_owned(),
            data: vec!["`owner/data` at `abc`".to_owned()],
            figures: vec![figures],
            graph: "Graph()\n".to_owned(),
            base: BaseName { name: "owner/name".to_owned(), revision: Some("def".to_owned()) },
            ..Card::default()
        };
        let text = card.text(&adapter);
        for part in [
            "base_model: owner/name\n",
            "pipeline_tag: text-classification\n",
            "| base | `owner/name` at `def` |",
            "| data | `owner/data` at `abc` |",
            "| step | accuracy | loss |\n| --- | --- | --- |\n| score/round-002 | 0.7500 | 0.5000 |",
            "num_labels=2)",
            "```ron\nGraph()\n```",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("larger because") && !text.contains("Note:"), "{text}");
        let written = LoraConfig {
            rank_pattern: [("v_proj".to_owned(), 48)].into(),
            ..LoraConfig::of_rank(28)
        };
        let warning = Some("it is an approximation".to_owned());
        let client = "7".to_owned();
        let text = Card { written: Some(written), warning, client, ..card }.text(&adapter);
        for part in [
            "have rank 8; those in this folder have rank 28 to 48, at a scale of 1",
            "Note: it is an approximation.\n",
            "| client | 7 |",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
