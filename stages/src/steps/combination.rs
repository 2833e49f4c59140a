//! Which rules, optimisers, clients and privacy go together.

use super::{
    aggregate::{Weights, check_server},
    federate::Federate,
};
use crate::{
    aggregate::Rule,
    check::Check,
    federate::Tier,
    local_train::Optimizer,
    model::{LoraConfig, Module},
    parts::Parts,
    privacy::Where,
};

impl Federate {
    /// Says which of its parts do not go together; `all` is the number of clients.
    pub(super) fn check_combination(&self, name: &str, all: Option<u32>, check: &mut Check<'_>) {
        if let Err(wrong) = self.aggregate.check() {
            check.complain(format!("{name}.aggregate"), wrong.to_string(), None);
        }
        if let Err(wrong) = self.codec.check() {
            check.complain(format!("{name}.codec"), wrong.to_string(), None);
        }
        check_server(&self.aggregate, self.server.as_ref(), &format!("{name}.server"), check);
        self.check_local(name, check);
        self.check_ranks(name, all, check);
        self.check_privacy(name, check);
        if let Some(all) = all {
            self.check_numbers_of_clients(name, all, check);
        }
    }

    /// SCAFFOLD corrects gradients, and so takes the optimiser for plain gradient descent.
    fn check_local(&self, name: &str, check: &mut Check<'_>) {
        if self.aggregate.controls() {
            let is_sgd = matches!(self.local.optimizer, Optimizer::Sgd { .. });
            let message = "SCAFFOLD's control variates are gradients of plain SGD: AdamW would scale them away";
            let help = "set `optimizer: Sgd(lr: …)`";
            if !is_sgd {
                let path = format!("{name}.local.optimizer");
                check.complain(path, message, Some(help.to_owned()));
            }
            let message =
                "SCAFFOLD's control variates are whole gradients: a clipped one is another";
            check.require(self.local.clip.is_none(), format!("{name}.local.clip"), message);
            let message = "a client that comes too late has moved its control variate on, and the server's would no \
                           longer be their mean";
            let path = format!("{name}.clients.deadline");
            check.require(self.clients.deadline.is_none(), path, message);
        }
        if self.aggregate.trains(1).has(Parts::CORE) {
            let message = "Fed-SB begins with factors of its own from the base's weights, so it cannot go on with an \
                           adapter";
            check.require(self.from.is_none(), format!("{name}.from"), message);
        }
    }

    /// Every kind of client with settings of its own: its path, and what it has after all others are filled in.
    fn own_settings(&self, name: &str, all: u32, sampling: u64) -> Vec<(String, Tier)> {
        let tiers = self.clients.tiers.iter().enumerate();
        let tiers = tiers.map(|(at, tier)| (format!("{name}.clients.tiers.{at}"), *tier));
        let settings = |client: &u32| {
            let path = format!("{name}.clients.each.{client}");
            let whole = self.clients.settings(all, sampling);
            Some((path, *whole.get(*client as usize)?))
        };
        tiers.chain(self.clients.each.keys().filter_map(settings)).collect()
    }

    fn check_ranks(&self, name: &str, all: Option<u32>, check: &mut Check<'_>) {
        let Ok(lora) = self.start(name).lora_config(check.sources) else { return };
        let rule = self.aggregate.name();
        let config = check.config(self.base.name());
        let modules = |lora: &LoraConfig| lora.modules(config.as_ref()?).ok();
        if self.aggregate.prune().is_some() && !lora.rank_pattern.is_empty() {
            let message = "a client that prunes its rank has one rank for all modules";
            check.complain(format!("{name}.lora.rank_pattern"), message, None);
        }
        if self.aggregate.trains(1).has(Parts::CORE) {
            let widths = |module: &Module| {
                let config = config.as_ref()?;
                config.linear(config.family.targets()[module.slot])
            };
            let wide = modules(&lora).into_iter().flatten().find(|module| {
                widths(module).is_some_and(|(inputs, outputs)| module.rank > inputs.min(outputs))
            });
            if let Some(module) = wide {
                let message = format!(
                    "a rank of {} is more than the smaller side of `{}`, and Fed-SB begins with so many singular \
                     vectors of it",
                    module.rank, module.path
                );
                check.complain(format!("{name}.lora.rank"), message, None);
            }
        }
        let sampling = check.seed("sampling", self.seeds.sampling);
        for (path, tier) in self.own_settings(name, all.unwrap_or(0), sampling) {
            let Some(own) = tier.own_lora(&lora) else { continue };
            let field = if tier.rank.is_some() { "rank" } else { "alpha" };
            let path = format!("{path}.{field}");
            if !self.aggregate.takes_ranks() {
                let message = format!("`{rule}` cannot mix adapters of different ranks or scales");
                let help = "`FLoRA`, `FlexLoRA` and `HetLoRA` can";
                check.complain(path, message, Some(help.to_owned()));
            } else if own.rank > lora.rank {
                let message = format!(
                    "a rank of {} is more than the {} of the global adapter, which has the largest",
                    own.rank, lora.rank
                );
                check.complain(path, message, None);
            } else if matches!(self.aggregate, Rule::HetLoRA(_)) {
                let scales = |lora: &LoraConfig| {
                    let scales = modules(lora)?.iter().map(|module| module.scale).collect();
                    Some::<Vec<f64>>(scales)
                };
                let same = match (scales(&lora), scales(&own.of(&lora))) {
                    (Some(all), Some(own)) => {
                        all.iter().zip(own).all(|(all, own)| (all - own).abs() <= 1e-9 * all)
                    }
                    _ => keeps_scale(own.rank, own.alpha, &lora),
                };
                let message = "HetLoRA cuts the global adapter down to a client's rank, so alpha / rank must be the \
                               same for all, in every module: with another scale that is another function";
                let help = "leave `alpha` out, and it follows from the rank";
                if !same {
                    check.complain(path, message, Some(help.to_owned()));
                }
            }
        }
    }

    fn check_privacy(&self, name: &str, check: &mut Check<'_>) {
        let Some(privacy) = &self.privacy else { return };
        let path = format!("{name}.privacy");
        if let Err((field, message)) = privacy.check() {
            check.complain(format!("{path}.{field}"), message, None);
        }
        let rule = &self.aggregate;
        if rule.weighs() && self.weights == Weights::Examples {
            let message = "a mean weighted by examples has no bound on what one client can change, so there is no \
                           privacy to account for";
            let help = "set `weights: Uniform`";
            check.complain(path.clone(), message, Some(help.to_owned()));
        }
        let is_central = privacy.at == Where::Central;
        if is_central && !rule.is_mean() {
            let message = format!(
                "noise on the mean needs a rule that is a mean of what clients send, and `{}` is none",
                rule.name()
            );
            let help = "with `at: Local` each client adds its own, whatever the rule is";
            check.complain(path.clone(), message, Some(help.to_owned()));
        }
        if rule.controls() || rule.needs_loss() || rule.prune().is_some() {
            let message = format!(
                "`{}` sends more than an update (control variates, a loss, or a rank that was pruned), which is \
                 neither clipped nor noised",
                rule.name()
            );
            check.complain(path, message, None);
        }
    }

    /// Robust rules need so many clients in every round, with those left out that do not come back.
    fn check_numbers_of_clients(&self, name: &str, all: u32, check: &mut Check<'_>) {
        let least = self.aggregate.least_clients();
        if least <= 1 {
            return;
        }
        let sampling = check.seed("sampling", self.seeds.sampling);
        let short = (1..=self.rounds).find_map(|round| {
            let present = self.clients.roll(all, round, sampling).present.len();
            (present < least).then_some((round, present))
        });
        if let Some((round, present)) = short {
            let message = format!(
                "`{}` needs at least {least} clients in a round, and round {round} has {present}",
                self.aggregate.name()
            );
            check.complain(format!("{name}.aggregate"), message, None);
        }
    }
}

/// Whether alpha goes with the rank, as far as that can be told without the base.
fn keeps_scale(rank: usize, alpha: f64, lora: &LoraConfig) -> bool {
    let wanted = lora.alpha_for(rank);
    (alpha - wanted).abs() <= 1e-9 * wanted
}
