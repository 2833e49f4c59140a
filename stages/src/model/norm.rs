//! The norms of the residual stream.

use burn::tensor::Tensor;

use super::linear::on_host;

/// A norm over rows `[rows, hidden]`, in f32: by the root mean square, `x / √(mean(x²) + eps) · gains`; or, where
/// there is a shift, by mean and variance, `(x − mean) / √(var + eps) · gains + shift`.
#[derive(Clone)]
pub(super) struct Norm {
    /// `[1, hidden]`.
    gains: Tensor<2>,
    /// `[1, hidden]`.
    shift: Option<Tensor<2>>,
    eps: f64,
}

impl Norm {
    /// A root-mean-square norm with `gains`, `[hidden]`.
    pub(super) fn rms(gains: Tensor<1>, eps: f64) -> Self {
        Self { gains: gains.unsqueeze(), shift: None, eps }
    }

    /// A layer norm with `gains` and `shift`, each `[hidden]`.
    pub(super) fn layer(gains: Tensor<1>, shift: Tensor<1>, eps: f64) -> Self {
        Self { gains: gains.unsqueeze(), shift: Some(shift.unsqueeze()), eps }
    }

    /// Its gains `[hidden]`, and its shift where it has one.
    pub(super) fn values(&self) -> (Vec<f32>, Option<Vec<f32>>) {
        (on_host(self.gains.clone()), self.shift.clone().map(on_host))
    }

    pub(super) fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let Some(shift) = &self.shift else {
            return x.clone() * inverse_size(x, self.eps) * self.gains.clone();
        };
        let centred = x.clone() - x.clone().mean_dim(1);
        let scale = inverse_size(&centred, self.eps);
        centred * scale * self.gains.clone() + shift.clone()
    }
}

/// One over the root mean square of each row. A product with it has a far cheaper backward pass than a quotient.
fn inverse_size(x: &Tensor<2>, eps: f64) -> Tensor<2> {
    (x.clone().square().mean_dim(1) + eps).sqrt().recip()
}
