//! The training split, cut into one shard a client.

use serde::{Deserialize, Serialize};

use super::origin::place;
use crate::{
    check::Check,
    corpus::rows_of,
    edge::In,
    error::{Error, Result},
    kinds::{File, Shards, Tokens},
    node::{GraphStage, Node},
    partition::{self, By, Examples, Outcome, Skew, Table},
    rows::json,
    stage::{Context, Stage},
    token_set::TokenSet,
    unroll::{Sources, Unroll},
};

/// Cuts the split `train` of a token set into shards. Each example goes to one client at most, and
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
    /// The rows that the tokens were made of, for a rule that reads a column of them.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    rows: Option<In<File>>,
}

impl Partition {
    /// The rule, with its file where it lies.
    fn rule(&self, name: &str, sources: &dyn Sources) -> By {
        match &self.by {
            By::Explicit(given) => By::Explicit(given.at(place(sources, name, "by", &given.file))),
            other => other.clone(),
        }
    }
}

fn iid() -> By {
    By::Iid
}

/// The name of a client's shard: `client-007`.
pub(crate) fn client(number: u32) -> String {
    format!("client-{number:03}")
}

/// How many examples of each class each client has, as `skew.json` says.
pub(crate) fn label_table(skew: &[u8]) -> Result<Vec<Vec<usize>>> {
    #[derive(Deserialize)]
    struct Part {
        skew: Skew,
    }
    let part: Part = serde_json::from_slice(skew)
        .map_err(|e| Error::failed(format!("the stored skew of the shards cannot be read: {e}")))?;
    Ok(part.skew.label_table)
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
        if self.clients == 0 {
            return;
        }
        if let Err(error) = self.rule(name, check.sources).check(self.clients as usize) {
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
        let table = Some(Table { columns: &train.columns, cells: &train.rows });
        let of = Examples { labels: &train.labels(), names: &corpus.label_names, table };
        let by = self.rule(name, check.sources);
        if let Err(error) = by.split(&of, self.clients as usize, seed) {
            let field = if self.clients as usize > train.len() { "clients" } else { "by" };
            check.refuse(format!("{name}.{field}"), &error);
        }
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let mut by = self.rule(name, to.sources());
        if let By::Explicit(given) = &mut by {
            given.content = Some(to.sources().digest(&given.file)?.digest);
        }
        let rows = match (&by, to.nodes().get(self.of.name())) {
            (By::Natural(_), Some(Node::Tokenize(tokens))) => {
                Some(tokens.of.part(&rows_of("train")))
            }
            _ => None,
        };
        // Where nothing is drawn, a seed must not reach the key.
        let seed = by.is_drawn().then(|| to.seed("partition", self.seed));
        to.add(name, Self { by, seed, rows, ..self.clone() });
        Ok(())
    }
}

impl Stage for Partition {
    const NAME: &'static str = "partition";
    const VERSION: u32 = 2;
    type Output = Shards;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let tokens = cx.tree(&self.of)?;
        let train = TokenSet::from_bytes(&tokens.blob("train")?)?;
        let names: Vec<String> = tokens.json("labels.json")?;
        let rows = match &self.rows {
            Some(rows) => Some(json::parse(&rows_of("train"), &cx.open(rows)?.0)?),
            None => None,
        };
        let table = rows.as_ref().map(|rows| Table { columns: &rows.columns, cells: &rows.cells });
        let of = Examples { labels: train.labels(), names: &names, table };
        let seed = self.seed.unwrap_or_default();
        let made = self.by.split(&of, self.clients as usize, seed)?;
        for (number, shard) in (0..).zip(&made.shards) {
            cx.out().bytes(&client(number), &train.subset(shard).to_bytes())?;
        }
        cx.out().bytes("indices.json", &partition::to_json(&made.shards)?)?;
        let skew = Skew::of(&made.shards, train.labels());
        tell(cx, made.outcome, &skew);
        cx.metric("label_tv", skew.label_tv);
        cx.metric("size_gini", skew.size_gini);
        cx.write_json("skew.json", &Report { outcome: made.outcome, skew })
    }
}

/// Says what is out of the ordinary.
fn tell(cx: &Context<'_>, outcome: Outcome, skew: &Skew) {
    let Outcome { attempts, moved, evened, left_out } = outcome;
    if attempts > 1 || moved > 0 {
        let draws = if attempts == 1 { "one draw".to_owned() } else { format!("{attempts} draws") };
        let moves = match moved {
            0 => " until every client had enough".to_owned(),
            moved => format!(", and {moved} examples were moved so that every client has enough"),
        };
        cx.note(&format!("the split took {draws}{moves}"));
    }
    if evened > 0 {
        cx.note(&format!(
            "{evened} times nothing was left of the shares that were drawn, and the rest was shared evenly"
        ));
    }
    if left_out > 0 {
        cx.note(&format!("{left_out} examples have no client"));
    }
    let one_class = skew.of_one_class();
    if let Some(first) = one_class.first().and_then(|&first| u32::try_from(first).ok()) {
        cx.note(&format!(
            "{} of {} clients have examples of one class only, such as {}",
            one_class.len(),
            skew.sizes.len(),
            client(first)
        ));
    }
}
