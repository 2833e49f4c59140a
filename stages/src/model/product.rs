//! Products with frozen weights in the numbers of a [`Precision`].

use burn::tensor::{Device, FloatDType, Tensor};

use crate::precision::Precision;

/// A weight as it is kept on its device: rounded, and in the format itself where the device multiplies by it. The CPU
/// keeps the rounded numbers as f32, since its products of 16-bit tensors widen both operands in each call.
pub(super) fn keep(weight: Tensor<2>, precision: Precision) -> Tensor<2> {
    if precision.is_f32() {
        return weight;
    }
    let on_cpu = weight.device() == Device::flex();
    let kept = weight.cast(precision.dtype());
    if on_cpu { kept.cast(FloatDType::F32) } else { kept }
}

/// `x·weight`, f32, of `x`, `[rows, in]`, and a weight `[in, out]` that is kept for `precision`. What `x` is rounded
/// by counts for nothing in its gradient; the gradient of the product is rounded before it is multiplied.
pub(super) fn multiply(x: Tensor<2>, weight: Tensor<2>, precision: Precision) -> Tensor<2> {
    if precision.is_f32() {
        return x.matmul(weight);
    }
    let kept: FloatDType = weight.dtype().into();
    if kept == precision.dtype() {
        // The casts round on the way back, too.
        return x.cast(kept).matmul(weight).cast(FloatDType::F32);
    }
    let round = |x: Tensor<2>| x.cast(precision.dtype()).cast(FloatDType::F32);
    if !x.is_autodiff() {
        return round(x).matmul(weight);
    }
    // A cast rounds a tensor and its gradient alike, and here each time only one of both is meant. What a number lacks
    // to its rounded neighbour is an f32 exactly, and so is their sum: no bit is lost on these ways round.
    let plain = x.clone().inner();
    let product = (x + (round(plain.clone()) - plain)).matmul(weight);
    let plain = product.clone().inner();
    round(product) + (plain.clone() - round(plain))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{TensorData, bf16};

    use super::*;
    use crate::seed::Draws;

    const SHAPE: [usize; 3] = [5, 19, 7];

    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    fn draw(name: &str, shape: [usize; 2]) -> Tensor<2> {
        let mut draws = Draws::named(1, "test", &["product", name]);
        let values = (0..shape[0] * shape[1]).map(|_| draws.normal() as f32).collect();
        Tensor::from_data(TensorData::new::<f32, _>(values, shape), &Device::flex())
    }

    fn values(tensor: Tensor<2>) -> Vec<f32> {
        tensor.cast(FloatDType::F32).try_into_vec_as().unwrap()
    }

    fn nearest(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| bf16::from_f32(*value).to_f64()).collect()
    }

    /// `x·w` of `x`, `[rows, depth]`, and `w`, `[depth, columns]`.
    fn exact(x: &[f64], w: &[f64], [rows, depth, columns]: [usize; 3]) -> Vec<f64> {
        let cell = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            (0..depth).map(|j| x[row * depth + j] * w[j * columns + column]).sum()
        };
        (0..rows * columns).map(cell).collect()
    }

    fn far(found: &[f32], wanted: &[f64]) -> f64 {
        assert_eq!(found.len(), wanted.len());
        let apart = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs());
        apart.fold(0.0, f64::max)
    }

    #[test]
    fn what_is_multiplied_is_rounded_on_both_ways_and_nothing_else_is() {
        let [rows, inputs, outputs] = SHAPE;
        let (x, weight, slope) =
            (draw("x", [rows, inputs]), draw("w", [inputs, outputs]), draw("g", [rows, outputs]));
        let kept = keep(weight.clone(), Precision::Bf16);
        assert_eq!(kept.dtype(), FloatDType::F32.into());
        let leaf = x.clone().autodiff().require_grad();
        let product = multiply(leaf.clone(), kept.clone(), Precision::Bf16);
        let mut gradients = (product.clone() * slope.clone()).sum().backward();
        let gradient = values(leaf.grad_remove(&mut gradients).unwrap());

        let [x_near, w_near, g_near] = [&x, &weight, &slope].map(|t| nearest(&values(t.clone())));
        let wanted = exact(&x_near, &w_near, SHAPE);
        let product = values(product.inner());
        // Sums of 19 products in f32; a factor that was not rounded would be off by 2⁻⁹ of it.
        assert!(far(&product, &wanted) < 1e-5, "{}", far(&product, &wanted));
        assert_eq!(product, values(multiply(x.clone(), kept, Precision::Bf16)));
        let turned: Vec<f64> =
            (0..outputs * inputs).map(|at| w_near[at % inputs * outputs + at / inputs]).collect();
        let wanted = exact(&g_near, &turned, [rows, outputs, inputs]);
        assert!(far(&gradient, &wanted) < 1e-5, "{}", far(&gradient, &wanted));
        let unrounded: Vec<f64> = values(slope).into_iter().map(f64::from).collect();
        let other = exact(&unrounded, &turned, [rows, outputs, inputs]);
        assert!(far(&gradient, &other) > 1e-3, "the gradient was rounded");
    }

    #[test]
    fn a_weight_in_the_format_itself_multiplies_as_on_a_gpu() {
        let [rows, inputs, outputs] = SHAPE;
        for (precision, bound) in [(Precision::Bf16, 2e-2), (Precision::F16, 2e-3)] {
            let (x, weight) = (draw("x", [rows, inputs]), draw("w", [inputs, outputs]));
            let kept = weight.clone().cast(precision.dtype());
            let leaf = x.clone().autodiff().require_grad();
            let product = multiply(leaf.clone(), kept, precision);
            assert_eq!(product.dtype(), FloatDType::F32.into());
            let mut gradients = product.clone().sum().backward();
            let gradient = leaf.grad_remove(&mut gradients).unwrap();
            let [x, weight] = [x, weight]
                .map(|tensor| values(tensor).into_iter().map(f64::from).collect::<Vec<_>>());
            let wanted = exact(&x, &weight, SHAPE);
            let largest = wanted.iter().fold(1.0_f64, |most, value| most.max(value.abs()));
            let apart = far(&values(product.inner()), &wanted) / largest;
            assert!(apart < bound && apart > bound / 200.0, "{precision:?}: {apart}");
            let sums: Vec<f64> = weight.chunks(outputs).map(|row| row.iter().sum()).collect();
            let wanted: Vec<f64> = (0..rows).flat_map(|_| sums.clone()).collect();
            let apart = far(&values(gradient), &wanted) / largest;
            assert!(apart < bound, "{precision:?}: {apart}");
        }
    }
}
