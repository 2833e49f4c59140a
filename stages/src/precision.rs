//! In what numbers the frozen base multiplies.

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

use crate::{
    device::Found,
    error::{Error, Result},
};

/// The format of the frozen linear modules' weights, and of what is multiplied with them: activations on the way
/// forward, gradients on the way back. Each is rounded to the nearest number of the format, ties to even, and the
/// products are summed in f32. All else is f32: embeddings, norms, attention, biases, adapters, heads, the optimizer.
///
/// On a GPU the products are written in the format, too, after they were summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Precision {
    /// 24 bits of significand: nothing is rounded.
    #[default]
    F32,
    /// 8 bits of significand, and the exponents of f32.
    Bf16,
    /// 11 bits of significand, and 65504 is the largest number. On GPUs alone.
    F16,
}

impl Precision {
    /// By what a loss is multiplied before its gradient is taken, and the gradient divided by afterwards: f16 has few
    /// exponents, and the gradients of one token are small.
    const F16_LOSS_SCALE: f64 = 1024.0;

    /// Whether nothing is rounded, as where no precision is given: then it is in no key.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// The format as Burn names it.
    pub(crate) fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }

    /// The factor on the loss that keeps gradients within the format, where it takes one.
    pub(crate) fn loss_scale(self) -> Option<f64> {
        (self == Self::F16).then_some(Self::F16_LOSS_SCALE)
    }

    /// Whether `device` can multiply in this format.
    ///
    /// # Errors
    /// It cannot; the sentence names the device, the hint the formats that it has.
    pub fn check(self, device: &Found) -> Result<()> {
        if device.is_cpu() {
            return self.check_cpu();
        }
        if self.is_f32() || device.device.supports_dtype(self.dtype()) {
            return Ok(());
        }
        let others = if self == Self::Bf16 { "`F16` or `F32`" } else { "`F32`" };
        let message = format!("{device} has no arithmetic for `precision: {self:?}`");
        Err(Error::input(message).with_hint(format!("give {others}, or another `--device`")))
    }

    fn check_cpu(self) -> Result<()> {
        if self != Self::F16 {
            return Ok(());
        }
        let message = "`precision: F16` is for GPUs, and this run trains on the CPU";
        Err(Error::input(message).with_hint("give `Bf16` or `F32`, or name a GPU with `--device`"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::device::{DeviceChoice, choose};
    use crate::local_train::{LocalNumbers, Optimizer};
    use crate::steps::{Evaluate, Local};

    #[test]
    fn f32_is_in_no_key() {
        let numbers = LocalNumbers::new(8, Optimizer::adamw(1e-3));
        let fields = serde_json::to_value(numbers).unwrap();
        assert!(fields.get("precision").is_none());
        let fields = serde_json::to_value(LocalNumbers { precision: Precision::Bf16, ..numbers });
        assert_eq!(fields.unwrap()["precision"], "Bf16");
        for (precision, kept) in [("F32", None), ("Bf16", Some("Bf16"))] {
            let fields = json!({ "base": "base", "on": "tokens", "precision": precision });
            let evaluate: Evaluate = serde_json::from_value(fields).unwrap();
            let fields = serde_json::to_value(evaluate).unwrap();
            assert_eq!(fields.get("precision").and_then(|value| value.as_str()), kept);
            let local: Local = serde_json::from_value(json!({ "precision": precision })).unwrap();
            let fields = serde_json::to_value(local).unwrap();
            assert_eq!(fields.get("precision").and_then(|value| value.as_str()), kept);
        }
    }

    #[test]
    fn a_cpu_has_no_f16() {
        let cpu = choose(DeviceChoice::Cpu).unwrap();
        Precision::F32.check(&cpu).unwrap();
        Precision::Bf16.check(&cpu).unwrap();
        let error = Precision::F16.check(&cpu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`precision: F16` is for GPUs, and this run trains on the CPU"
        );
        assert!(error.hint().unwrap().contains("`Bf16` or `F32`"));
    }
}
