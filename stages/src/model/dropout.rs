//! Dropout masks for what goes into an adapter, drawn on the host.

use burn::tensor::{Device, Tensor, TensorData};

use super::batch::Batch;
use super::block::Rows;
use crate::seed::Draws;

/// The draws of one pass: a mask for each adapted module.
///
/// A client's draws are named by its own seed, the step, the block and the module, and are made for its real tokens
/// only, row after row of the step: neither the other clients of the cohort, nor the padding, nor into how many batches
/// the step is cut change them.
pub struct Dropout<'a> {
    clients: Vec<(u64, f64)>,
    step: u64,
    earlier: &'a [Batch],
    device: Device,
}

impl<'a> Dropout<'a> {
    /// `clients` are the seed and the rate of each client; `earlier` are the batches of the same step before this one.
    /// `None` where no client drops anything.
    pub fn new(
        clients: Vec<(u64, f64)>,
        step: u64,
        earlier: &'a [Batch],
        device: &Device,
    ) -> Option<Self> {
        let wanted = clients.iter().any(|&(_, rate)| rate > 0.0);
        wanted.then(|| Self { clients, step, earlier, device: device.clone() })
    }

    /// The factors `[K, rows, width]` for the input of one module: 0, or `1 / (1 - rate)`.
    pub(super) fn mask(
        &self,
        batch: &Batch,
        rows: Rows,
        layer: usize,
        slot: usize,
        width: usize,
    ) -> Tensor<3> {
        let per_client = match rows {
            Rows::All => batch.rows() * batch.width(),
            Rows::Read => batch.reads(),
        };
        let mut values = vec![1.0_f32; batch.clients() * per_client * width];
        for (client, &(_, rate)) in self.clients.iter().enumerate() {
            if rate <= 0.0 {
                continue;
            }
            let mut draws = self.draws(client, layer, slot);
            draws.seek(self.before(client, rows, width));
            let own = &mut values[client * per_client * width..];
            match rows {
                Rows::All => {
                    for (row, &length) in batch.of(client).iter().enumerate() {
                        let start = row * batch.width() * width;
                        draw(&mut draws, rate, &mut own[start..start + length * width]);
                    }
                }
                Rows::Read => {
                    let reads = own.chunks_exact_mut(width).take(batch.own_reads(client));
                    reads.for_each(|read| draw(&mut draws, rate, read));
                }
            }
        }
        let shape = [batch.clients(), per_client, width];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

/// The draws of one client for one module, for its rows without padding.
pub(crate) struct Ragged<'a> {
    batch: &'a Batch,
    client: usize,
    rate: f64,
    draws: Draws,
    /// The words of the stream that earlier batches of the step have taken.
    before: usize,
    /// The whole mask, where only reads are masked.
    reads: Vec<f32>,
}

impl Dropout<'_> {
    /// The same masks as those that are drawn for padded rows, of one client; `None` where it drops nothing.
    pub(crate) fn ragged<'b>(
        &self,
        batch: &'b Batch,
        client: usize,
        rows: Rows,
        layer: usize,
        slot: usize,
        width: usize,
    ) -> Option<Ragged<'b>> {
        let (_, rate) = self.clients[client];
        if rate <= 0.0 {
            return None;
        }
        let mut draws = self.draws(client, layer, slot);
        let before = self.before(client, rows, width);
        let mut reads = Vec::new();
        if rows == Rows::Read {
            draws.seek(before);
            reads.resize(batch.own_reads(client) * width, 1.0);
            reads.chunks_exact_mut(width).for_each(|read| draw(&mut draws, rate, read));
        }
        Some(Ragged { batch, client, rate, draws, before, reads })
    }

    fn draws(&self, client: usize, layer: usize, slot: usize) -> Draws {
        let name = [self.step, layer as u64, slot as u64].map(|n| n.to_string());
        Draws::named(self.clients[client].0, "dropout", &name.each_ref().map(String::as_str))
    }

    /// The words of the stream that the earlier batches of the step have taken.
    fn before(&self, client: usize, rows: Rows, width: usize) -> usize {
        let of = |batch: &Batch| match rows {
            Rows::All => batch.of(client).iter().map(|length| words(length * width)).sum(),
            Rows::Read => batch.own_reads(client) * words(width),
        };
        self.earlier.iter().map(of).sum()
    }
}

/// The 32-bit words of a stream that masks of `values` take; every row, and every read, begins with a whole word.
fn words(values: usize) -> usize {
    (values * 2).div_ceil(4)
}

impl Ragged<'_> {
    /// The mask of the first tokens of a row of the batch, as many as `values` has room for.
    pub(crate) fn of_row(&mut self, row: usize, width: usize, values: &mut [f32]) {
        let first = self.client * self.batch.rows();
        let rows = self.batch.lengths()[first..row].iter();
        self.draws.seek(self.before + rows.map(|length| words(length * width)).sum::<usize>());
        draw(&mut self.draws, self.rate, values);
    }

    /// The mask of a read of the batch.
    pub(crate) fn of_read(&self, place: usize, values: &mut [f32]) {
        let start = (place - self.client * self.batch.reads()) * values.len();
        values.copy_from_slice(&self.reads[start..start + values.len()]);
    }
}

/// Sixteen bits decide on each value, so a rate is met to within 2⁻¹⁶.
fn draw(draws: &mut Draws, rate: f64, values: &mut [f32]) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate lies in [0, 1)"
    )]
    let (threshold, kept) = ((rate * 65536.0) as u32, (1.0 / (1.0 - rate)) as f32);
    let mut bytes = vec![0; values.len() * 2];
    draws.fill(&mut bytes);
    for (value, bits) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = if u32::from(u16::from_le_bytes(*bits)) < threshold { 0.0 } else { kept };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{Read, Row};

    #[test]
    fn masks_belong_to_the_client_and_not_to_the_cohort() {
        let device = Device::flex();
        let of = |length: usize| {
            let reads = vec![Read { at: length - 1, target: 0, weight: 1.0 }];
            vec![Row { tokens: vec![1; length], reads }]
        };
        let alone = Batch::new(&[of(5)], &[vec![0]], &device);
        let both = Batch::new(&[of(20), of(5)], &[vec![0], vec![0]], &device);
        let mask = |clients: Vec<(u64, f64)>, batch: &Batch| -> Vec<f32> {
            let dropout = Dropout::new(clients, 3, &[], &device).unwrap();
            let mask = dropout.mask(batch, Rows::All, 1, 2, 50);
            mask.try_into_vec_as().unwrap()
        };
        let first = mask(vec![(9, 0.25)], &alone);
        let second = mask(vec![(4, 0.5), (9, 0.25)], &both);
        assert_eq!(first[..250], second[24 * 50..24 * 50 + 250]);
        let dropped = first[..250].iter().filter(|x| **x == 0.0).count();
        assert!((30..100).contains(&dropped), "{dropped} of 250");
        assert!(Dropout::new(vec![(1, 0.0)], 0, &[], &device).is_none());
    }
}
