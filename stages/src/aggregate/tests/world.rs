//! A small round for tests: two blocks with queries and values as grouped-query attention has them, and a classifier.

use super::super::{AggregateError, Outcome, Round, Rule, Update, for_rank};
use crate::linear::Matrix;
use crate::model::{Config, LoraConfig};
use crate::parts::Parts;
use crate::peft::{AdapterTensors, Change, SCORE, factor_names};
use crate::seed::Draws;

/// Path, inputs and outputs of the modules.
pub(super) const MODULES: [(&str, usize, usize); 4] = [
    ("model.layers.0.self_attn.q_proj", 16, 16),
    ("model.layers.0.self_attn.v_proj", 16, 8),
    ("model.layers.1.self_attn.q_proj", 16, 16),
    ("model.layers.1.self_attn.v_proj", 16, 8),
];

/// The base that these modules are of.
pub(super) fn base() -> Config {
    let json = br#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64, "tie_word_embeddings": true}"#;
    Config::parse(json).unwrap()
}

pub(super) struct Client {
    pub(super) weight: f64,
    pub(super) adapter: AdapterTensors,
    pub(super) lora: LoraConfig,
    pub(super) loss: Option<f64>,
    pub(super) control: Option<AdapterTensors>,
}

/// A round with all that it borrows.
pub(super) struct World {
    pub(super) number: u32,
    pub(super) population: usize,
    pub(super) from: AdapterTensors,
    pub(super) lora: LoraConfig,
    pub(super) state: Option<AdapterTensors>,
    pub(super) clients: Vec<Client>,
}

/// Settings of a rank whose scale is 2, whatever the rank is.
pub(super) fn lora(rank: usize) -> LoraConfig {
    LoraConfig { alpha: 2.0 * rank as f64, ..LoraConfig::of_rank(rank) }
}

#[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

/// A trained adapter of `rank`, with cores if asked for.
pub(super) fn adapter(rank: usize, cores: bool) -> AdapterTensors {
    let draw = |name: &str, shape: [usize; 2], deviation: f64| {
        let mut draws = Draws::named(5, "test", &["from", name]);
        let values = (0..shape[0] * shape[1]).map(|_| narrow(deviation * draws.normal())).collect();
        (name.to_owned(), shape, values)
    };
    let mut tensors = vec![draw(SCORE, [3, 16], 0.2)];
    for (path, inputs, outputs) in MODULES {
        let [a, b] = factor_names(path);
        tensors.push(draw(&a, [rank, inputs], 0.3));
        tensors.push(draw(&b, [outputs, rank], 0.1));
        if cores {
            tensors.push(draw(&a.replace("lora_A", "lora_R"), [rank, rank], 0.5));
        }
    }
    AdapterTensors::new(tensors)
}

/// `adapter` with other values in `parts`, as after local training.
pub(super) fn trained(adapter: &AdapterTensors, parts: Parts, client: usize) -> AdapterTensors {
    let tensors = adapter.iter().filter(|(name, ..)| parts.has(Parts::of(name)));
    let tensors = tensors.map(|(name, shape, values)| {
        let mut draws = Draws::named(5, "test", &["client", &client.to_string(), name]);
        let moved = values.iter().map(|value| value + narrow(0.05 * draws.normal())).collect();
        (name.to_owned(), shape, moved)
    });
    adapter.clone().overlaid(&AdapterTensors::new(tensors))
}

impl World {
    /// The round of `number` under `rule`, with a client for each of `ranks`; the global adapter has the rank 4.
    pub(super) fn new(rule: &Rule, number: u32, ranks: &[usize]) -> Self {
        let trains = rule.trains(number);
        let (from, global) = (adapter(4, trains.has(Parts::CORE)), lora(4));
        let client = |(at, &rank): (usize, &usize)| {
            let own = lora(rank);
            let received = for_rank(&from, &global, &own).unwrap();
            let sent = trained(&received, trains, at);
            let control = trained(&received, trains, 100 + at).only(trains);
            Client {
                weight: [100.0, 300.0, 600.0][at % 3],
                adapter: sent,
                lora: own,
                loss: Some([0.5, 1.0, 2.0][at % 3]),
                control: Some(control),
            }
        };
        let clients = ranks.iter().enumerate().map(client).collect();
        Self { number, population: ranks.len(), from, lora: global, state: None, clients }
    }

    /// What `rule` makes of it.
    pub(super) fn run(&self, rule: &Rule) -> Result<Outcome, AggregateError> {
        let clients: Vec<Update<'_>> = (self.clients.iter())
            .map(|client| Update {
                weight: client.weight,
                adapter: &client.adapter,
                lora: &client.lora,
                loss: client.loss,
                control: client.control.as_ref(),
            })
            .collect();
        rule.aggregate(&Round {
            number: self.number,
            population: self.population,
            from: &self.from,
            lora: &self.lora,
            state: self.state.as_ref(),
            clients: &clients,
            seed: 17,
        })
    }

    /// The same without a classifier in what the clients sent.
    pub(super) fn without_head(mut self) -> Self {
        for client in &mut self.clients {
            client.adapter = client.adapter.without(SCORE);
        }
        self
    }

    /// `p_k` where `weighs`, else equal ones.
    pub(super) fn shares(&self, weighs: bool) -> Vec<f64> {
        let part = |client: &Client| if weighs { client.weight } else { 1.0 };
        let total: f64 = self.clients.iter().map(part).sum();
        self.clients.iter().map(|client| part(client) / total).collect()
    }

    /// `Σ p_k·s_k·B_k·A_k` of each module, made in full.
    pub(super) fn target(&self, weighs: bool) -> Vec<Matrix> {
        let shares = self.shares(weighs);
        let products = self.clients.iter().map(|client| products(&client.adapter, &client.lora));
        let scaled = products.zip(&shares).map(|(products, share)| {
            products.into_iter().map(|product| product.scaled(*share)).collect::<Vec<_>>()
        });
        let sum = |sums: Vec<Matrix>, more: Vec<Matrix>| {
            sums.into_iter().zip(&more).map(|(sum, more)| sum.plus(more)).collect()
        };
        scaled.reduce(sum).unwrap()
    }
}

/// The matrix of a name.
pub(super) fn matrix(adapter: &AdapterTensors, name: &str) -> Matrix {
    let (shape, values) = adapter.get(name).unwrap();
    Matrix::from_f32(shape, values)
}

/// `s·B·A`, or `s·B·R·A`, of each module.
pub(super) fn products(adapter: &AdapterTensors, lora: &LoraConfig) -> Vec<Matrix> {
    let product = |(path, ..): (&str, usize, usize)| {
        let [a, b] = factor_names(path);
        let core = a.replace("lora_A", "lora_R");
        let (a, b) = (matrix(adapter, &a), matrix(adapter, &b));
        let scale = lora.alpha / a.rows() as f64;
        let b = if adapter.get(&core).is_some() { b.times(&matrix(adapter, &core)) } else { b };
        b.times(&a).scaled(scale)
    };
    MODULES.into_iter().map(product).collect()
}

/// What the base and the adapter have gained by a round, by module; of the stand-in where there is no global model.
pub(super) fn gained(outcome: &Outcome) -> Vec<Matrix> {
    let adapter = outcome.stand_in.as_ref().unwrap_or(&outcome.adapter);
    let products = products(adapter, &outcome.lora);
    let change = |path: &str| match outcome.delta.as_ref().and_then(|delta| delta.get(path)) {
        None => None,
        Some(Change::Dense((shape, values))) => Some(Matrix::from_f32(*shape, values)),
        Some(Change::Factors { a, b }) => {
            Some(Matrix::from_f32(b.0, &b.1).times(&Matrix::from_f32(a.0, &a.1)))
        }
    };
    let modules = products.into_iter().zip(MODULES);
    let sum = |(product, (path, ..)): (Matrix, (&str, usize, usize))| match change(path) {
        Some(change) => product.plus(&change),
        None => product,
    };
    modules.map(sum).collect()
}

/// `√(Σ‖x − y‖² / Σ‖y‖²)` over the modules.
pub(super) fn apart(found: &[Matrix], wanted: &[Matrix]) -> f64 {
    let square = |matrix: &Matrix| matrix.norm().powi(2);
    let missed: f64 = found.iter().zip(wanted).map(|(x, y)| square(&x.minus(y))).sum();
    (missed / wanted.iter().map(square).sum::<f64>()).sqrt()
}
