//! The norms of the residual stream.

use burn::tensor::Tensor;

/// A norm over rows `[rows, hidden]`, in f32.
pub(super) enum Norm {
    /// By the root mean square: `x / √(mean(x²) + eps) · gains`.
    Rms {
        /// `[1, hidden]`.
        gains: Tensor<2>,
        /// What is added to the mean square.
        eps: f64,
    },
    /// By mean and variance: `(x − mean) / √(var + eps) · gains + shift`.
    Layer {
        /// `[1, hidden]`.
        gains: Tensor<2>,
        /// `[1, hidden]`.
        shift: Tensor<2>,
        /// What is added to the variance.
        eps: f64,
    },
}

impl Norm {
    /// A root-mean-square norm with `gains`, `[hidden]`.
    pub(super) fn rms(gains: Tensor<1>, eps: f64) -> Self {
        Self::Rms { gains: gains.unsqueeze(), eps }
    }

    /// A layer norm with `gains` and `shift`, each `[hidden]`.
    pub(super) fn layer(gains: Tensor<1>, shift: Tensor<1>, eps: f64) -> Self {
        Self::Layer { gains: gains.unsqueeze(), shift: shift.unsqueeze(), eps }
    }

    pub(super) fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Rms { gains, eps } => x.clone() * inverse_size(x, *eps) * gains.clone(),
            Self::Layer { gains, shift, eps } => {
                let centred = x.clone() - x.clone().mean_dim(1);
                let scale = inverse_size(&centred, *eps);
                centred * scale * gains.clone() + shift.clone()
            }
        }
    }
}

/// One over the root mean square of each row. A product with it has a far cheaper backward pass than a quotient.
fn inverse_size(x: &Tensor<2>, eps: f64) -> Tensor<2> {
    (x.clone().square().mean_dim(1) + eps).sqrt().recip()
}
