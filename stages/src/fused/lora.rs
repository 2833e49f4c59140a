//! What an adapter adds to a module: `s·x·Aᵀ·Bᵀ`, or with a core `s·x·Aᵀ·Rᵀ·Bᵀ`, factored in both directions.

use super::buffers::{Buffer, Buffers};
use super::matmul::{Matrix, MatrixMut, Write, product};
use std::sync::Arc;

/// The factors of one module of one client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    /// `[rank, in]`.
    pub(super) a: &'a [f32],
    /// `[out, rank]`.
    pub(super) b: &'a [f32],
    /// `[rank, rank]`.
    pub(super) core: Option<&'a [f32]>,
    pub(super) rank: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) scale: f32,
}

/// What a pair keeps for its gradients.
#[derive(Debug)]
pub(super) struct Kept {
    /// `s·x·Aᵀ`, `[rows, rank]`.
    inner: Buffer,
    /// The same times `Rᵀ`.
    cored: Option<Buffer>,
}

/// Where the gradients of a pair go; those that are not there are of constants.
#[derive(Debug, Default)]
pub(super) struct Gradients<'a> {
    pub(super) a: Option<&'a mut [f32]>,
    pub(super) b: Option<&'a mut [f32]>,
    pub(super) core: Option<&'a mut [f32]>,
}

impl Pair<'_> {
    fn a(&self) -> Matrix<'_> {
        Matrix::new(self.a, [self.rank, self.inputs])
    }

    fn b(&self) -> Matrix<'_> {
        Matrix::new(self.b, [self.outputs, self.rank])
    }

    fn square(&self) -> [usize; 2] {
        [self.rank, self.rank]
    }

    /// Adds to `y`, `[rows, out]`, what the pair makes of `x`, `[rows, in]`, to which dropout was applied already.
    pub(super) fn forward(&self, x: &[f32], y: MatrixMut<'_>, buffers: &Arc<Buffers>) -> Kept {
        let rows = x.len() / self.inputs;
        let shape = [rows, self.rank];
        let mut inner = buffers.take(rows * self.rank);
        let x = Matrix::new(x, [rows, self.inputs]);
        product(MatrixMut::new(&mut inner, shape), Write::Over, x, self.a().t(), self.scale);
        let cored = self.core.map(|core| {
            let mut cored = buffers.take(rows * self.rank);
            let core = Matrix::new(core, self.square()).t();
            let out = MatrixMut::new(&mut cored, shape);
            product(out, Write::Over, Matrix::new(&inner, shape), core, 1.0);
            cored
        });
        let last = Matrix::new(cored.as_ref().unwrap_or(&inner), shape);
        product(y, Write::Add, last, self.b().t(), 1.0);
        Kept { inner, cored }
    }

    /// Writes the gradients of the factors, and adds to `dx`, if it is there, the one by `x`.
    pub(super) fn backward(
        &self,
        x: &[f32],
        kept: &Kept,
        dy: Matrix<'_>,
        gradients: Gradients<'_>,
        dx: Option<&mut [f32]>,
        buffers: &Arc<Buffers>,
    ) {
        let rows = x.len() / self.inputs;
        let shape = [rows, self.rank];
        let last = Matrix::new(kept.cored.as_ref().unwrap_or(&kept.inner), shape);
        if let Some(b) = gradients.b {
            product(MatrixMut::new(b, [self.outputs, self.rank]), Write::Over, dy.t(), last, 1.0);
        }
        if gradients.core.is_none() && gradients.a.is_none() && dx.is_none() {
            return;
        }
        let mut d_inner = buffers.take(rows * self.rank);
        product(MatrixMut::new(&mut d_inner, shape), Write::Over, dy, self.b(), 1.0);
        if let Some(core) = self.core {
            let d_cored = d_inner;
            let outer = Matrix::new(&d_cored, shape);
            if let Some(gradient) = gradients.core {
                let inner = Matrix::new(&kept.inner, shape);
                let out = MatrixMut::new(gradient, self.square());
                product(out, Write::Over, outer.t(), inner, 1.0);
            }
            d_inner = buffers.take(rows * self.rank);
            let core = Matrix::new(core, self.square());
            product(MatrixMut::new(&mut d_inner, shape), Write::Over, outer, core, 1.0);
        }
        let d_inner = Matrix::new(&d_inner, shape);
        if let Some(a) = gradients.a {
            let x = Matrix::new(x, [rows, self.inputs]);
            let out = MatrixMut::new(a, [self.rank, self.inputs]);
            product(out, Write::Over, d_inner.t(), x, self.scale);
        }
        if let Some(dx) = dx {
            let out = MatrixMut::new(dx, [rows, self.inputs]);
            product(out, Write::Add, d_inner, self.a(), self.scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slopes::check_gradient;
    use super::*;

    fn values(length: usize, seed: f32) -> Vec<f32> {
        (0..length).map(|i| (i as f32 * 0.83 + seed).sin()).collect()
    }

    #[test]
    fn gradients_of_factors_core_and_input_are_slopes() {
        let (rows, inputs, outputs, rank) = (5, 7, 6, 3);
        let (x, a, b) =
            (values(rows * inputs, 0.0), values(rank * inputs, 1.0), values(outputs * rank, 2.0));
        let core = values(rank * rank, 3.0);
        let weights = values(rows * outputs, 4.0);
        for with_core in [false, true] {
            let buffers = Arc::new(Buffers::default());
            let run = |x: &[f32], a: &[f32], b: &[f32], core: &[f32]| {
                let core = with_core.then_some(core);
                let pair = Pair { a, b, core, rank, inputs, outputs, scale: 1.5 };
                let mut y = vec![0.0; rows * outputs];
                let kept = pair.forward(x, MatrixMut::new(&mut y, [rows, outputs]), &buffers);
                (y, kept)
            };
            let (_, kept) = run(&x, &a, &b, &core);
            let pair = Pair {
                a: &a,
                b: &b,
                core: with_core.then_some(&core),
                rank,
                inputs,
                outputs,
                scale: 1.5,
            };
            let (mut da, mut db, mut dc) =
                (vec![9.0; a.len()], vec![9.0; b.len()], vec![9.0; core.len()]);
            let mut dx = vec![0.0; x.len()];
            let gradients = Gradients { a: Some(&mut da), b: Some(&mut db), core: Some(&mut dc) };
            let dy = Matrix::new(&weights, [rows, outputs]);
            pair.backward(&x, &kept, dy, gradients, Some(&mut dx), &buffers);
            check_gradient(&x, &dx, &weights, |x| run(x, &a, &b, &core).0);
            check_gradient(&a, &da, &weights, |a| run(&x, a, &b, &core).0);
            check_gradient(&b, &db, &weights, |b| run(&x, &a, b, &core).0);
            if with_core {
                check_gradient(&core, &dc, &weights, |core| run(&x, &a, &b, core).0);
            }
        }
    }
}
