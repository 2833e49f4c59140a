//! A global adapter for a client of a smaller rank.

use super::AggregateError;
use super::checked::narrow;
use super::modules::paths;
use crate::model::LoraConfig;
use crate::peft::{self, AdapterTensors};

/// What a client with the settings `own` starts from, if the global adapter with the settings `lora` is `global`: the
/// first rows of each A and the first columns of each B, and B times the ratio of the scales, so that the product is
/// the part of the global one that those rows make. Where ranks and scales are equal, nothing is changed.
///
/// After `FlexLoRA` the first rows are those of the largest singular values, so that the client has the best
/// approximation of its rank.
///
/// # Errors
/// The client has a larger rank than the global adapter somewhere, or a pattern of `own` does not fit its modules.
pub fn for_rank(
    global: &AdapterTensors,
    lora: &LoraConfig,
    own: &LoraConfig,
) -> Result<AdapterTensors, AggregateError> {
    let paths = paths(global);
    if paths.is_empty() {
        return Ok(global.clone());
    }
    let a_names: Vec<[String; 2]> = paths.iter().map(|path| peft::factor_names(path)).collect();
    let held = |names: &[String; 2]| global.get(&names[0]).map_or(0, |(shape, _)| shape[0]);
    let held: Vec<usize> = a_names.iter().map(held).collect();
    let wanted = own.ranks(&paths)?;
    let ratios = (own.scales(&paths, &wanted)?.into_iter()).zip(lora.scales(&paths, &held)?);
    let ratios: Vec<f64> = ratios.map(|(own, global)| global / own).collect();
    let mut adapter = global.clone();
    for (at, [a, b]) in a_names.iter().enumerate() {
        let (rank, held) = (wanted[at], held[at]);
        if rank > held {
            let path = paths[at].clone();
            return Err(AggregateError::Rank { path, own: rank, global: held });
        }
        if let Some(([_, inputs], values)) = global.get(a) {
            adapter = adapter.with(a, [rank, inputs], values[..rank * inputs].to_vec());
        }
        if let Some(([outputs, _], values)) = global.get(b) {
            let rows = values.chunks_exact(held).flat_map(|row| &row[..rank]);
            let values = rows.map(|value| narrow(f64::from(*value) * ratios[at])).collect();
            adapter = adapter.with(b, [outputs, rank], values);
        }
    }
    Ok(adapter)
}
