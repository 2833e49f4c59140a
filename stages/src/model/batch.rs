//! Padded rows of tokens for one pass, of one client or of a whole cohort.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Widths are rounded up to a multiple of this, so that few distinct shapes occur.
const WIDTH_STEP: usize = 8;

/// One example of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Example<'a> {
    /// Its token ids; at least one.
    pub tokens: &'a [u32],
    /// Its class, `0..classes`.
    pub label: u32,
}

/// Examples of `clients` clients, padded on the right to one width, client after client.
///
/// Letters: K clients, b rows for each of them, s tokens in a row. A client with fewer than b examples has rows of
/// padding after them, which no head reads and no loss counts.
#[derive(Clone, Debug)]
pub struct Batch {
    clients: usize,
    rows: usize,
    width: usize,
    lengths: Vec<usize>,
    labels: Vec<u32>,
    pub(super) ids: Tensor<1, Int>,
    pub(super) read: Tensor<1, Int>,
}

impl Batch {
    /// Pads the examples of each client. `pad` is the base's padding token: as in transformers, a classifier reads
    /// the last token of a row that is not `pad`.
    pub fn new(clients: &[Vec<Example<'_>>], pad: Option<u32>, device: &Device) -> Self {
        let rows = clients.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let longest =
            clients.iter().flatten().map(|example| example.tokens.len()).max().unwrap_or(0);
        let width = longest.max(1).next_multiple_of(WIDTH_STEP);
        let total = clients.len() * rows;
        let mut ids = vec![0_i32; total * width];
        let (mut lengths, mut labels) = (vec![0; total], vec![0; total]);
        let mut read: Vec<i32> = (0..total).map(|row| index(row * width)).collect();
        for (client, examples) in clients.iter().enumerate() {
            for (at, example) in examples.iter().enumerate() {
                let row = client * rows + at;
                for (slot, &id) in ids[row * width..].iter_mut().zip(example.tokens) {
                    *slot = id.cast_signed();
                }
                lengths[row] = example.tokens.len();
                labels[row] = example.label;
                let last = example.tokens.iter().rposition(|&id| Some(id) != pad).unwrap_or(0);
                read[row] += index(last);
            }
        }
        let tensor = |values, length| Tensor::from_data(TensorData::new(values, [length]), device);
        Self {
            clients: clients.len(),
            rows,
            width,
            lengths,
            labels,
            ids: tensor(ids, total * width),
            read: tensor(read, total),
        }
    }

    /// K, the number of clients.
    pub fn clients(&self) -> usize {
        self.clients
    }

    /// b, the rows of each client.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// s, the tokens of a row, padding included.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The tokens of each of the K·b rows without padding; 0 for a row without an example.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The labels of the K·b rows; 0 for a row without an example.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The number of examples of `client`.
    pub fn examples(&self, client: usize) -> usize {
        self.of(client).iter().filter(|&&length| length > 0).count()
    }

    /// The number of tokens of `client`, without padding.
    pub fn tokens(&self, client: usize) -> usize {
        self.of(client).iter().sum()
    }

    /// The lengths of the rows of `client`.
    pub(super) fn of(&self, client: usize) -> &[usize] {
        &self.lengths[client * self.rows..(client + 1) * self.rows]
    }
}

fn index(value: usize) -> i32 {
    i32::try_from(value).expect("a batch has fewer than 2^31 tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_and_the_last_real_token_is_read() {
        let example = |tokens| Example { tokens, label: 1 };
        let first = vec![example(&[5, 6, 7][..]), example(&[9, 0][..])];
        let second = vec![example(&[1, 2, 3, 4, 5, 6, 7, 8, 9][..])];
        let batch = Batch::new(&[first, second], Some(0), &Device::flex());
        assert_eq!((batch.clients(), batch.rows(), batch.width()), (2, 2, 16));
        assert_eq!(batch.lengths(), [3, 2, 9, 0]);
        assert_eq!((batch.examples(1), batch.tokens(0)), (1, 5));
        let read: Vec<i32> = batch.read.try_into_vec_as().unwrap();
        assert_eq!(read, [2, 16, 40, 48]);
    }
}
