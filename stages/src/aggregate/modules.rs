//! The modules of a round, and what everyone has in them.

use super::checked::Checked;
use super::{AggregateError, Round, Update};
use crate::linear::Matrix;
use crate::model::LoraConfig;
use crate::peft::{self, AdapterTensors};

/// A module that is adapted.
pub(super) struct Module {
    pub(super) path: String,
    /// `s` of the global adapter.
    pub(super) scale: f64,
    /// `s_k` of each client.
    pub(super) scales: Vec<f64>,
}

/// `scale·b·a`, with a core between the factors already in b.
pub(super) struct Product {
    pub(super) scale: f64,
    /// `[out, rank]`.
    pub(super) b: Matrix,
    /// `[rank, in]`.
    pub(super) a: Matrix,
}

impl Checked<'_> {
    /// What the clients have in a module, in their order.
    pub(super) fn products(&self, module: &Module) -> Vec<Product> {
        let clients = self.clients.iter().zip(&module.scales);
        clients.map(|(client, scale)| self.product(client.adapter, &module.path, *scale)).collect()
    }

    /// What an adapter has in the module at `path`.
    pub(super) fn product(&self, adapter: &AdapterTensors, path: &str, scale: f64) -> Product {
        let matrix = |name: &str| {
            let (shape, values) = self.tensor(adapter, name);
            Matrix::from_f32(shape, values)
        };
        let [a, b] = peft::factor_names(path).map(|name| matrix(&name));
        let core = core_name(path);
        let b = if self.round.from.get(&core).is_some() { b.times(&matrix(&core)) } else { b };
        Product { scale, b, a }
    }

    /// ΔW* of a module as factors B `[out, Σr_k]` and A `[Σr_k, in]`, the shares and the scales in A.
    pub(super) fn target(&self, module: &Module) -> [Matrix; 2] {
        stacked(&self.shares, self.products(module))
    }
}

/// `Σ shares_k·scale_k·b_k·a_k` as factors B and A.
pub(super) fn stacked(shares: &[f64], products: Vec<Product>) -> [Matrix; 2] {
    let scaled = products.into_iter().zip(shares);
    let scaled = scaled.map(|(Product { scale, b, a }, share)| (b, a.scaled(share * scale)));
    let (b, a): (Vec<Matrix>, Vec<Matrix>) = scaled.unzip();
    [Matrix::beside(&b), Matrix::below(&a)]
}

/// The modules that `from` has both factors of, with everyone's scales.
pub(super) fn modules(
    round: &Round<'_>,
    clients: &[&Update<'_>],
) -> Result<Vec<Module>, AggregateError> {
    let paths = paths(round.from);
    let global = scales(round.from, round.from, round.lora, &paths)?;
    let global = global.ok_or(AggregateError::Unlike { client: 0 })?;
    let mut modules: Vec<Module> = (paths.iter().cloned().zip(global))
        .map(|(path, scale)| Module { path, scale, scales: Vec::new() })
        .collect();
    for (client, update) in clients.iter().enumerate() {
        let own = scales(update.adapter, round.from, update.lora, &paths)?;
        let own = own.ok_or(AggregateError::Unlike { client })?;
        for (module, scale) in modules.iter_mut().zip(own) {
            module.scales.push(scale);
        }
    }
    Ok(modules)
}

/// The paths of the modules that an adapter has both factors of.
pub(super) fn paths(adapter: &AdapterTensors) -> Vec<String> {
    let paths = adapter.iter().filter_map(|(name, ..)| peft::path_of_a(name));
    let whole = |path: &&str| {
        let [_, b] = peft::factor_names(path);
        adapter.get(&b).is_some()
    };
    paths.filter(whole).map(str::to_owned).collect()
}

/// The scales of an adapter at `paths`, what it lacks being that of `from`; `None` where two factors of a module
/// have different ranks.
fn scales(
    adapter: &AdapterTensors,
    from: &AdapterTensors,
    lora: &LoraConfig,
    paths: &[String],
) -> Result<Option<Vec<f64>>, AggregateError> {
    // Patterns are looked for in the paths, and there are none in adapters without factors.
    if paths.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let rank = |path: &String| {
        let shape = |name: &String| adapter.get(name).or_else(|| from.get(name)).map(|(s, _)| s);
        let [a, b] = peft::factor_names(path);
        shape(&a).zip(shape(&b)).filter(|(a, b)| a[0] == b[1]).map(|(a, _)| a[0])
    };
    let Some(ranks) = paths.iter().map(rank).collect::<Option<Vec<usize>>>() else {
        return Ok(None);
    };
    Ok(Some(lora.scales(paths, &ranks)?))
}

/// The name of the core between the factors of the module at `path`, `[rank, rank]`.
fn core_name(path: &str) -> String {
    format!("base_model.model.{path}.lora_R.weight")
}
