//! Hidden states read by a fixed matrix: a few classes at once, or the whole vocabulary in pieces.

use burn::tensor::{Int, Tensor, TensorData, activation};

/// So many logits over the vocabulary are held at once.
const LOGITS_HELD: usize = 1 << 24;

/// The logits `[K·q, classes]` of hidden states `[K·q, hidden]` by a head for each client, `[K, classes, hidden]`.
pub fn read_classes(hidden: Tensor<2>, head: &Tensor<3>) -> Tensor<2> {
    let ([total, width], [clients, classes, _]) = (hidden.dims(), head.dims());
    let hidden: Tensor<3> = hidden.reshape([clients, total / clients, width]);
    hidden.matmul(head.clone().swap_dims(1, 2)).reshape([total, classes])
}

/// What the causal head finds where tokens are read.
pub struct Likelihood {
    /// `-ln p(target)` of each read, `[reads]`, in nats.
    pub nll: Tensor<1>,
    /// Its gradient by the hidden state, `[reads, hidden]`; `None` unless asked for.
    pub gradient: Option<Tensor<2>>,
    /// 1 where the target is the likeliest token, else 0, `[reads]`; `None` unless asked for.
    pub right: Option<Tensor<1, Int>>,
}

/// Reads `targets` by the causal head, `[vocab, hidden]`, from plain hidden states `[reads, hidden]`.
///
/// The head is frozen, so the gradient by the hidden state, `softmax·W − W[target]`, can be had in the same sweep:
/// no more than a few rows of logits exist at a time.
pub fn likelihood(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    targets: &[u32],
    with_gradient: bool,
    with_right: bool,
) -> Likelihood {
    let ([reads, _], [vocab, _]) = (hidden.dims(), head.dims());
    let device = hidden.device();
    let step = (LOGITS_HELD / vocab).max(1);
    let (mut nll, mut gradients, mut right) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..reads).step_by(step) {
        let count = step.min(reads - start);
        let wanted: Vec<i32> =
            targets[start..start + count].iter().map(|target| target.cast_signed()).collect();
        let wanted: Tensor<1, Int> = Tensor::from_data(TensorData::new(wanted, [count]), &device);
        let column: Tensor<2, Int> = wanted.clone().reshape([count, 1]);
        let logits = hidden.clone().narrow(0, start, count).matmul(head.clone().transpose());
        if with_right {
            right.push(logits.clone().argmax(1).equal(column.clone()).int().reshape([count]));
        }
        let log_p = activation::log_softmax(logits, 1);
        nll.push(log_p.clone().gather(1, column).neg().reshape([count]));
        if with_gradient {
            gradients.push(log_p.exp().matmul(head.clone()) - head.clone().select(0, wanted));
        }
    }
    Likelihood {
        nll: Tensor::cat(nll, 0),
        gradient: with_gradient.then(|| Tensor::cat(gradients, 0)),
        right: with_right.then(|| Tensor::cat(right, 0)),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_likelihood() {
        let device = Device::flex();
        let of = |values: Vec<f32>, shape: [usize; 2]| -> Tensor<2> {
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        let hidden: Vec<f32> = (0..6).map(|i| (i as f32 * 0.7).sin()).collect();
        let head: Vec<f32> = (0..15).map(|i| (i as f32 * 1.3).cos()).collect();
        let head = of(head, [5, 3]);
        let nll = |hidden: &[f32]| {
            let found = likelihood(&of(hidden.to_vec(), [2, 3]), &head, &[4, 1], true, true);
            let gradient: Vec<f32> = found.gradient.unwrap().try_into_vec_as().unwrap();
            let nll: Vec<f32> = found.nll.try_into_vec_as().unwrap();
            (nll.iter().sum::<f32>(), gradient)
        };
        let (_, gradient) = nll(&hidden);
        for at in 0..6 {
            let shifted = |by: f32| {
                let mut hidden = hidden.clone();
                hidden[at] += by;
                nll(&hidden).0
            };
            let slope = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((slope - gradient[at]).abs() < 1e-3, "{at}: {slope}, {}", gradient[at]);
        }
    }

    #[test]
    fn the_likeliest_token_is_right() {
        let device = Device::flex();
        let hidden: Tensor<2> = Tensor::from_data([[1.0_f32, 0.0], [0.0, 1.0]], &device);
        let head: Tensor<2> = Tensor::from_data([[2.0_f32, 0.0], [0.0, 2.0], [1.0, 1.0]], &device);
        let found = likelihood(&hidden, &head, &[0, 2], false, true);
        let right: Vec<i32> = found.right.unwrap().try_into_vec_as().unwrap();
        assert_eq!(right, [1, 0]);
        let nll: Vec<f32> = found.nll.try_into_vec_as().unwrap();
        let sum = 2_f32.exp() + 1.0 + 1_f32.exp();
        assert!((nll[0] - (sum.ln() - 2.0)).abs() < 1e-6);
    }
}
