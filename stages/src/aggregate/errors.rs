//! How far what a rule gives is from what the clients have learnt.

use super::checked::Checked;
use super::modules::{Module, Product};
use crate::linear::{Matrix, norm_of_product};
use crate::peft::{AdapterTensors, Change, Delta};

/// `e_agg` by module, and over all modules.
pub type Errors = (Vec<(String, f64)>, Option<f64>);

/// `e_agg` by module and over all, as [`super::Outcome`] has them, of the product of `adapter` and of `delta`.
pub(super) fn errors(
    round: &Checked<'_>,
    adapter: &AdapterTensors,
    delta: Option<&Delta>,
) -> Errors {
    let of_module = |module: &Module| {
        let change = delta.and_then(|delta| delta.get(&module.path));
        let product = round.product(adapter, &module.path, module.scale);
        norms(round, module, product, change)
    };
    let norms = round.by_module(of_module);
    let modules = round.modules.iter().zip(&norms);
    let errors = modules.filter_map(|(module, norms)| Some((module.path.clone(), ratio(*norms)?)));
    let whole = |at: usize| norms.iter().map(|norms| norms[at] * norms[at]).sum::<f64>().sqrt();
    let error = if norms.is_empty() { None } else { ratio([whole(0), whole(1)]) };
    (errors.collect(), error)
}

/// `‖ΔW* − ΔW‖` and `‖ΔW*‖` of a module.
fn norms(
    round: &Checked<'_>,
    module: &Module,
    product: Product,
    change: Option<&Change>,
) -> [f64; 2] {
    let [target_b, target_a] = round.target(module);
    let wanted = norm_of_product(&target_b, &target_a);
    let mut b = vec![target_b, product.b];
    let mut a = vec![target_a, product.a.scaled(-product.scale)];
    if let Some(Change::Factors { a: more_a, b: more_b }) = change {
        a.push(Matrix::from_f32(more_a.0, &more_a.1).scaled(-1.0));
        b.push(Matrix::from_f32(more_b.0, &more_b.1));
    }
    let (b, a) = (Matrix::beside(&b), Matrix::below(&a));
    let missed = match change {
        Some(Change::Dense((shape, values))) => {
            b.times(&a).minus(&Matrix::from_f32(*shape, values)).norm()
        }
        _ => norm_of_product(&b, &a),
    };
    [missed, wanted]
}

/// `missed / wanted`; nothing where there was nothing to miss, but something was given.
fn ratio([missed, wanted]: [f64; 2]) -> Option<f64> {
    match (missed > 0.0, wanted > 0.0) {
        (_, true) => Some(missed / wanted),
        (false, false) => Some(0.0),
        (true, false) => None,
    }
}
