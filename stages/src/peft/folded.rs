//! Adapters with cores as plain pairs of factors.

use super::sum::{self, Product};
use super::{AdapterError, AdapterTensors};
use crate::parts::Parts;

/// What the name of a core ends in.
const CORE: &str = ".lora_R.weight";

impl AdapterTensors {
    /// The same adapter without cores: where a module has a core R `[rank, rank]` between its factors (Fed-SB, Singhal
    /// et al. 2025, 2502.15436), its product `s·B·R·A` is that of A and `B·R`. Without cores it is the adapter itself.
    ///
    /// # Errors
    /// A core has no B, or another rank than it.
    pub fn folded(self) -> Result<Self, AdapterError> {
        if !self.iter().any(|(name, ..)| name.ends_with(CORE)) {
            return Ok(self);
        }
        let mut folded = self.only(!Parts::CORE);
        for (name, [rows, columns], core) in self.iter() {
            let Some(module) = name.strip_suffix(CORE) else { continue };
            let b_name = format!("{module}.lora_B.weight");
            let Some(([outputs, rank], b)) = self.get(&b_name).filter(|(b, _)| b[1] == rows) else {
                return Err(AdapterError::Mismatch(format!(
                    "`{name}` is {:?}, which no `{b_name}` has the rank for",
                    [rows, columns]
                )));
            };
            let mut product = vec![0.0; outputs * columns];
            let of = Product { a: core, b, rank, scale: 1.0 };
            sum::add(&mut product, columns, &[of], None);
            folded = folded.with(&b_name, [outputs, columns], product);
        }
        Ok(folded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peft::SCORE;

    fn cored(rank: usize) -> AdapterTensors {
        AdapterTensors::new([
            ("m.lora_A.weight".to_owned(), [2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            ("m.lora_B.weight".to_owned(), [1, 2], vec![10.0, 1.0]),
            ("m.lora_R.weight".to_owned(), [rank, rank], vec![2.0; rank * rank]),
            (SCORE.to_owned(), [1, 1], vec![7.0]),
        ])
    }

    #[test]
    fn a_core_goes_into_b() {
        let folded = cored(2).folded().unwrap();
        assert_eq!(folded.get("m.lora_B.weight"), Some(([1, 2], [22.0, 22.0].as_slice())));
        assert_eq!(folded.get("m.lora_A.weight"), cored(2).get("m.lora_A.weight"));
        assert_eq!(folded.get(SCORE), cored(2).get(SCORE));
        assert_eq!(folded.iter().count(), 3, "no core is left");
        assert_eq!(folded.clone().folded().unwrap(), folded);
        let text = cored(1).folded().unwrap_err().to_string();
        assert!(text.contains("`m.lora_R.weight` is [1, 1]"), "{text}");
    }
}
