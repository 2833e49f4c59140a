//! The server's part of a round.

use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{Rule, Update},
    check::Check,
    edge::In,
    error::{Error, Result},
    kinds::{Adapter, Head},
    node::GraphStage,
    peft::SCORE,
    stage::{Context, Stage},
    unroll::Unroll,
};

/// Makes one adapter of the clients' adapters, by a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The adapter that the clients started from.
    pub from: In<Adapter>,
    /// The clients' adapters, in the order of their numbers. Each carries its example count.
    pub clients: Vec<In<Adapter>>,
    /// How.
    #[serde(default)]
    pub rule: Rule,
    /// What becomes of the classifier: unless it is shared, that of `from` stays as it is.
    #[serde(default, skip_serializing_if = "Head::is_shared")]
    pub head: Head,
}

impl GraphStage for Aggregate {
    type Makes = Adapter;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let path = format!("{name}.clients");
        check.require(!self.clients.is_empty(), path, "there is nothing to aggregate");
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        to.add(name, self.clone());
        Ok(())
    }
}

impl Stage for Aggregate {
    const NAME: &'static str = "aggregate";
    const VERSION: u32 = 1;
    type Output = Adapter;

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let start = cx.open(&self.from)?;
        let mut clients = Vec::with_capacity(self.clients.len());
        for edge in &self.clients {
            let mut client = cx.open(edge)?;
            if !self.head.is_shared() {
                client.tensors = client.tensors.without(SCORE);
            }
            clients.push(client);
        }
        let mut updates = Vec::with_capacity(clients.len());
        let (mut examples, mut loss) = (0u64, 0.0f64);
        for (client, edge) in clients.iter().zip(&self.clients) {
            let trained = client.trained.as_ref().ok_or_else(|| {
                Error::input(format!(
                    "`{}` was not locally trained, so it has no weight",
                    edge.name()
                ))
            })?;
            examples += trained.examples;
            loss += trained.mean_loss * trained.examples as f64;
            updates.push(Update { examples: trained.examples, adapter: &client.tensors });
        }
        let mut tensors = self.rule.aggregate(&updates)?;
        if let Some((shape, values)) = start.tensors.get(SCORE).filter(|_| !self.head.is_shared()) {
            tensors = tensors.with(SCORE, shape, values.to_vec());
        }
        cx.metric("train_loss", loss / examples.max(1) as f64);
        cx.out().bytes(Adapter::TENSORS, &tensors.to_safetensors())?;
        cx.write_json(Adapter::CONFIG, &start.config)
    }
}
