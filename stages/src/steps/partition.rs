//! The training split, cut into one shard a client.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::Result,
    kinds::{Shards, Tokens},
    node::{GraphStage, Node},
    partition::{By, Outcome, Skew},
    stage::{Context, Stage},
    token_set::TokenSet,
    unroll::Unroll,
};

/// Cuts the split `train` of a token set into shards. Each example goes to exactly one client, and
/// every client gets at least one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    /// The tokens.
    pub of: In<Tokens>,
    /// The number of clients.
    pub clients: u32,
    /// How the examples are shared out.
    #[serde(default = "iid")]
    pub by: By,
    /// Seed of the draws; derived by name from the graph's seed unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn iid() -> By {
    By::Iid
}

/// The name of a client's shard: `client-007`.
pub(crate) fn client(number: u32) -> String {
    format!("client-{number:03}")
}

/// `skew.json`: how the split came to be, and how uneven it is.
#[derive(Debug, Serialize)]
struct Report {
    outcome: Outcome,
    skew: Skew,
}

impl GraphStage for Partition {
    type Makes = Shards;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let message = "there must be at least one client";
        check.require(self.clients > 0, format!("{name}.clients"), message);
        if let Err(error) = self.by.check() {
            check.refuse(format!("{name}.by"), &error);
        }
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        let corpus = match check.nodes.get(self.of.name()) {
            Some(Node::Tokenize(tokens)) => check.corpus(tokens.of.name()),
            _ => None,
        };
        let Some(corpus) = corpus else { return };
        let Some(train) = corpus.splits.get("train") else {
            let message = "the data have no split `train` to share out";
            return check.complain(format!("{name}.of"), message, None);
        };
        let seed = check.seed("partition", self.seed);
        if let Err(error) = self.by.split(&train.labels(), self.clients as usize, seed) {
            let field = if self.clients as usize > train.len() { "clients" } else { "by" };
            check.refuse(format!("{name}.{field}"), &error);
        }
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let seed = Some(to.seed("partition", self.seed));
        to.add(name, Self { seed, ..self.clone() });
        Ok(())
    }
}

impl Stage for Partition {
    const NAME: &'static str = "partition";
    const VERSION: u32 = 1;
    type Output = Shards;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tokens = cx.tree(&self.of)?;
        let train = TokenSet::from_bytes(&tokens.blob("train")?)?;
        let seed = self.seed.unwrap_or_default();
        let partition = self.by.split(train.labels(), self.clients as usize, seed)?;
        for (number, shard) in (0..).zip(&partition.shards) {
            cx.out().bytes(&client(number), &train.subset(shard).to_bytes())?;
        }
        let outcome = partition.outcome;
        if outcome.attempts > 1 || outcome.moved > 0 {
            cx.note(&format!(
                "the split took {} draws, and {} examples were moved so that every client has enough",
                outcome.attempts, outcome.moved
            ));
        }
        let skew = Skew::of(&partition.shards, train.labels());
        cx.metric("label_tv", skew.label_tv);
        cx.metric("size_gini", skew.size_gini);
        cx.write_json("skew.json", &Report { outcome, skew })
    }
}
