//! Everything that a graph file can name: the only registration of stages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    check::Check,
    edge::Artifact,
    error::Result,
    kinds,
    memory::{Need, Scene},
    steps::{Aggregate, Dataset, Evaluate, Federate, Model, Partition, Tokenize, Train},
    unroll::Unroll,
};

/// A stage as a graph file writes it.
pub trait GraphStage: Serialize {
    /// What an edge to it leads to.
    type Makes: Artifact;

    /// Says what is wrong with its fields, as far as that can be known before work starts.
    fn check(&self, name: &str, check: &mut Check<'_>);

    /// Says what is wrong with the data that it will work on, as far as they are on this machine.
    fn check_data(&self, _name: &str, _check: &mut Check<'_>) {}

    /// What its steps take of the memory, as far as that is known; in this scene.
    fn memory(&self, _name: &str, _check: &mut Check<'_>, _scene: &Scene<'_>) -> Need {
        Need::Nothing
    }

    /// Adds its steps.
    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()>;
}

macro_rules! stages {
    ($($stage:ident: $about:literal),* $(,)?) => {
        /// One named stage of a graph.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(clippy::large_enum_variant, reason = "a graph has a handful of them")]
        pub enum Node {
            $(#[doc = $about] $stage($stage),)*
        }

        impl Node {
            /// Name and purpose of every stage that a graph can use.
            pub const ALL: &'static [(&'static str, &'static str)] =
                &[$((stringify!($stage), $about),)*];

            /// The kind of artifact that an edge to this node leads to.
            pub fn makes(&self) -> &'static str {
                match self {
                    $(Self::$stage(_) => <$stage as GraphStage>::Makes::KIND,)*
                }
            }

            /// The stage's name: `Federate`.
            pub fn stage(&self) -> &'static str {
                match self {
                    $(Self::$stage(_) => stringify!($stage),)*
                }
            }

            /// Says what is wrong with its fields.
            pub fn check(&self, name: &str, check: &mut Check<'_>) {
                match self {
                    $(Self::$stage(stage) => stage.check(name, check),)*
                }
            }

            /// Says what is wrong with the data that it will work on.
            pub fn check_data(&self, name: &str, check: &mut Check<'_>) {
                match self {
                    $(Self::$stage(stage) => stage.check_data(name, check),)*
                }
            }

            /// What its steps take of the memory, as far as that is known.
            pub fn memory(
                &self,
                name: &str,
                check: &mut Check<'_>,
                scene: &Scene<'_>,
            ) -> Need {
                match self {
                    $(Self::$stage(stage) => stage.memory(name, check, scene),)*
                }
            }

            /// Adds its steps.
            pub fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
                match self {
                    $(Self::$stage(stage) => stage.unroll(name, to),)*
                }
            }

            /// Its fields, edges marked.
            pub fn fields(&self) -> Value {
                let fields = match self {
                    $(Self::$stage(stage) => serde_json::to_value(stage),)*
                };
                fields.unwrap_or(Value::Null)
            }
        }
    };
}

stages! {
    Model: "a base model, from the Hub or a folder",
    Dataset: "labelled texts, from the Hub, a folder or files",
    Tokenize: "texts to token ids, with a base's tokenizer",
    Partition: "the training split, cut into one shard a client",
    Federate: "rounds of local training and aggregation",
    Train: "the same local training over all the data: the centralised baseline",
    Aggregate: "one aggregation of adapters by a rule",
    Evaluate: "how good an adapter, or the base alone, is on a split",
}

/// The kinds that edges carry, for messages.
pub fn makers(kind: &str) -> Vec<&'static str> {
    let all = [
        (kinds::ModelFiles::KIND, "Model"),
        (kinds::Corpus::KIND, "Dataset"),
        (kinds::Tokens::KIND, "Tokenize"),
        (kinds::Shards::KIND, "Partition"),
        (kinds::Adapter::KIND, "Federate"),
        (kinds::Adapter::KIND, "Train"),
        (kinds::Scores::KIND, "Evaluate"),
    ];
    all.iter().filter(|(k, _)| *k == kind).map(|(_, stage)| *stage).collect()
}
