//! Padded rows of tokens for one pass, of one client or of a whole cohort.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// Widths are rounded up to a multiple of this, so that few distinct shapes occur.
const WIDTH_STEP: usize = 8;

/// A place where a head reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    /// The token of the row whose hidden state is read.
    pub at: usize,
    /// What should be found there: a class, or the next token.
    pub target: u32,
    /// How much it counts; 0 for a read that only fills a row up.
    pub weight: f32,
}

/// A row of tokens, and where it is read.
#[derive(Clone, Debug)]
pub struct Row {
    /// At least one token.
    pub tokens: Vec<u32>,
    /// At least one place.
    pub reads: Vec<Read>,
}

/// What a pass begins with that need not run the first blocks.
#[derive(Clone, Debug)]
pub struct Start {
    /// The block that the hidden states go into; those before it are not run.
    pub layer: usize,
    /// The hidden states `[Σ lengths, hidden]`: row after row of the batch, without padding.
    pub states: Vec<f32>,
}

/// Rows of `clients` clients, padded on the right to one width, client after client.
///
/// Letters: K clients, b rows and q reads for each of them, s tokens in a row. A client with fewer rows or reads
/// than others has rows of padding and reads of weight 0 after its own, which no loss counts.
#[derive(Clone, Debug)]
pub struct Batch {
    clients: usize,
    rows: usize,
    width: usize,
    reads: usize,
    lengths: Vec<usize>,
    /// The tokens of all rows, row after row without padding.
    tokens: Vec<u32>,
    /// The row of each read, and the token of the row; `None` for reads that fill up.
    places: Vec<Option<(usize, usize)>>,
    /// The reads of each client that are its own.
    own_reads: Vec<usize>,
    examples: Vec<usize>,
    labels: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    start: Option<Start>,
    pub(super) ids: Tensor<1, Int>,
    pub(super) read: Tensor<1, Int>,
}

impl Batch {
    /// Pads the rows of each client; `labels` are the classes of its examples, of which each may have several rows.
    pub fn new(clients: &[Vec<Row>], labels: &[Vec<u32>], device: &Device) -> Self {
        let rows = clients.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let longest = clients.iter().flatten().map(|row| row.tokens.len()).max().unwrap_or(0);
        let width = longest.max(1).next_multiple_of(WIDTH_STEP);
        let own_reads: Vec<usize> = clients
            .iter()
            .map(|rows| rows.iter().map(|row| row.reads.len()).sum::<usize>())
            .collect();
        let reads = own_reads.iter().copied().max().unwrap_or(0).max(1);
        let total = clients.len() * rows;
        let mut ids = vec![0_i32; total * width];
        let mut lengths = vec![0; total];
        let (mut read, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tokens, mut places) = (Vec::new(), Vec::new());
        for (client, own) in clients.iter().enumerate() {
            for (at, row) in own.iter().enumerate() {
                let place = client * rows + at;
                for (slot, &id) in ids[place * width..].iter_mut().zip(&row.tokens) {
                    *slot = id.cast_signed();
                }
                lengths[place] = row.tokens.len();
                tokens.extend_from_slice(&row.tokens);
                places.extend(row.reads.iter().map(|read| Some((place, read.at))));
                read.extend(row.reads.iter().map(|read| index(place * width + read.at)));
                targets.extend(row.reads.iter().map(|read| read.target));
                weights.extend(row.reads.iter().map(|read| read.weight));
            }
            let end = (client + 1) * reads;
            read.resize(end, index(client * rows * width));
            targets.resize(end, 0);
            weights.resize(end, 0.0);
            places.resize(end, None);
        }
        let most = labels.iter().map(Vec::len).max().unwrap_or(0);
        let padded = |own: &Vec<u32>| {
            let fill = std::iter::repeat_n(0, most - own.len());
            own.iter().copied().chain(fill).collect::<Vec<_>>()
        };
        let tensor = |values, length| Tensor::from_data(TensorData::new(values, [length]), device);
        Self {
            clients: clients.len(),
            rows,
            width,
            reads,
            lengths,
            tokens,
            places,
            own_reads,
            examples: labels.iter().map(Vec::len).collect(),
            labels: labels.iter().flat_map(padded).collect(),
            targets,
            weights,
            start: None,
            ids: tensor(ids, total * width),
            read: tensor(read, clients.len() * reads),
        }
    }

    /// The same rows, whose passes begin with these hidden states.
    ///
    /// # Panics
    /// Where there are not as many hidden states as tokens.
    #[must_use]
    pub fn starting(self, start: Start) -> Self {
        let tokens: usize = self.lengths.iter().sum();
        let whole = start.states.len().is_multiple_of(tokens.max(1));
        assert!(whole, "{tokens} tokens have {} numbers", start.states.len());
        Self { start: Some(start), ..self }
    }

    /// What a pass begins with, unless it begins with the embeddings.
    pub fn start(&self) -> Option<&Start> {
        self.start.as_ref()
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

    /// q, the reads of each client, those that fill up included.
    pub fn reads(&self) -> usize {
        self.reads
    }

    /// The tokens of each of the K·b rows without padding; 0 for a row of padding.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The tokens of all rows, row after row without padding.
    pub fn tokens_of_rows(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each row begins among the tokens without padding.
    pub fn starts(&self) -> Vec<usize> {
        let starts = self.lengths.iter().scan(0, |next, length| {
            let start = *next;
            *next += length;
            Some(start)
        });
        starts.collect()
    }

    /// Where each of the K·q reads is: its row and the token of the row; `None` for those that fill up.
    pub fn places(&self) -> &[Option<(usize, usize)>] {
        &self.places
    }

    /// The classes of the examples, as many for each client as the one with most examples has.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// What should be found at each of the K·q reads.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// How much each of the K·q reads counts.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The number of examples of `client`.
    pub fn examples(&self, client: usize) -> usize {
        self.examples[client]
    }

    /// The number of reads of `client` without those that fill up.
    pub fn own_reads(&self, client: usize) -> usize {
        self.own_reads[client]
    }

    /// The number of tokens of `client`, without padding.
    pub fn tokens(&self, client: usize) -> usize {
        self.of(client).iter().sum()
    }

    /// The lengths of the rows of `client`.
    pub(super) fn of(&self, client: usize) -> &[usize] {
        &self.lengths[client * self.rows..(client + 1) * self.rows]
    }

    /// The places of the reads among the K·b·s tokens.
    #[cfg(test)]
    pub(crate) fn read_at(&self) -> Vec<i32> {
        self.read.clone().try_into_vec_as().expect("the CPU does not fail")
    }
}

fn index(value: usize) -> i32 {
    i32::try_from(value).expect("a batch has fewer than 2^31 tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_and_reads_filled_up() {
        let row = |tokens: &[u32], at| Row {
            tokens: tokens.to_vec(),
            reads: vec![Read { at, target: 1, weight: 1.0 }],
        };
        let first = vec![row(&[5, 6, 7], 2), row(&[9, 0], 0)];
        let second = vec![row(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 8)];
        let labels = [vec![1, 1], vec![1]];
        let batch = Batch::new(&[first, second], &labels, &Device::flex());
        assert_eq!((batch.clients(), batch.rows(), batch.width()), (2, 2, 16));
        assert_eq!(batch.lengths(), [3, 2, 9, 0]);
        assert_eq!((batch.examples(1), batch.own_reads(1), batch.tokens(0)), (1, 1, 5));
        assert_eq!(batch.read_at(), [2, 16, 40, 32]);
        assert_eq!(batch.weights(), [1.0, 1.0, 1.0, 0.0]);
        assert_eq!(batch.labels(), [1, 1, 1, 0]);
    }
}
