//! What one client has: the global adapter as it fits, and what it keeps to itself.

use serde::Serialize;

use crate::{
    aggregate::for_rank, edge::In, error::Result, kinds::Adapter, model::LoraConfig, parts::Parts,
    peft::AdapterTensors,
};

/// A client's own last adapter.
#[derive(Clone, Debug, Serialize)]
pub struct Own {
    /// The client's number.
    pub client: u32,
    /// What its last local training made.
    pub adapter: In<Adapter>,
}

/// The adapter of a client whose settings are `lora`: the global one at its rank, with the parts that it `keeps` taken
/// from its `own` last adapter, if it has one.
///
/// # Errors
/// Its rank is larger than that of the global adapter.
pub fn of_client(
    global: &Adapter,
    own: Option<&Adapter>,
    keeps: Parts,
    lora: &LoraConfig,
) -> Result<AdapterTensors> {
    let fitted = for_rank(&global.tensors, &global.config.lora, lora)?;
    Ok(match own {
        Some(own) => fitted.overlaid(&own.tensors.only(keeps)),
        None => fitted,
    })
}
