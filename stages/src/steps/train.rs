//! The centralised baseline.

use serde::{Deserialize, Serialize};

use crate::{
    check::Check,
    edge::In,
    error::Result,
    kinds::{Adapter, ModelFiles, Tokens},
    model::LoraConfig,
    node::GraphStage,
    steps::{
        Init, Local, LocalTraining, Seeds,
        federate::local_seed,
        init::{self},
    },
    unroll::Unroll,
};

/// The same local training over all the data, round after round: what a federation is compared
/// with. It unrolls to `init` and one local training a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// The frozen base.
    pub base: In<ModelFiles>,
    /// The tokens whose split `train` is trained on.
    pub on: In<Tokens>,
    /// Rank, alpha, targets and the rest.
    pub lora: LoraConfig,
    /// Local training.
    #[serde(default)]
    pub local: Local,
    /// How often `local` is done, each with a fresh optimiser as in a federation.
    #[serde(default = "one")]
    pub rounds: u32,
    /// Seeds set by hand.
    #[serde(default)]
    pub seeds: Seeds,
}

fn one() -> u32 {
    1
}

impl GraphStage for Train {
    type Makes = Adapter;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        init::check_lora(&self.lora, self.base.name(), &format!("{name}.lora"), check);
        self.local.check(&format!("{name}.local"), check);
        check.require(self.rounds > 0, format!("{name}.rounds"), "training takes at least one round");
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        let local = to.seed("local", self.seeds.local);
        let init = Init {
            config: self.base.part("config.json"),
            labels: self.on.part("labels.json"),
            lora: self.lora.clone(),
            seed: to.seed("init", self.seeds.init),
        };
        let mut adapter = to.add_for(format!("{name}/init"), init, Some(0), None);
        to.round(name, 0, &adapter);
        for round in 1..=self.rounds {
            let training = LocalTraining {
                base: self.base.clone(),
                shard: self.on.part("train"),
                from: adapter,
                local: self.local.numbers(round),
                seed: local_seed(local, round, 0),
            };
            adapter = to.add_for(format!("{name}/round-{round:03}"), training, Some(round), None);
            to.round(name, round, &adapter);
        }
        to.alias(name, &adapter);
        Ok(())
    }
}
