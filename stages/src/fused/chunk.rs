//! A batch cut into chunks of whole rows, without padding.

use std::ops::Range;

use crate::model::{Batch, Rows};

/// At least about so many tokens go through the base together: fewer make slow products.
const TOKENS: usize = 128;
/// The most chunks that are made of the rows of a client: they keep some threads busy, and longer chunks make faster
/// products. There are one, two or four, so that two threads have equal shares.
const MOST: usize = 4;

/// Some rows of one client, their tokens in sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) client: usize,
    /// The rows of the batch.
    pub(super) rows: Vec<usize>,
    /// Row i is made of the tokens `ends[i]..ends[i + 1]` of the chunk.
    pub(super) ends: Vec<usize>,
    /// The place of each token in its row.
    pub(super) positions: Vec<usize>,
    /// What a head reads.
    pub(super) reads: Vec<Read>,
}

/// A hidden state that a head reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// The token, counted in the chunk.
    pub(super) token: usize,
    /// The read's place in the batch.
    pub(super) place: usize,
}

impl Chunk {
    /// The number of tokens.
    pub(super) fn tokens(&self) -> usize {
        self.positions.len()
    }

    /// The tokens that are read, counted in the chunk.
    pub(super) fn read_tokens(&self) -> Vec<usize> {
        self.reads.iter().map(|read| read.token).collect()
    }
}

/// The chunks of a batch, client after client. For [`Rows::Read`], what stands behind the last read of a row is left
/// out: no token sees what follows it.
pub(super) fn cut(batch: &Batch, wanted: Rows) -> Vec<Chunk> {
    let mut reads: Vec<Vec<(usize, usize)>> = vec![Vec::new(); batch.lengths().len()];
    for (place, read) in batch.places().iter().enumerate() {
        if let Some((row, at)) = *read {
            reads[row].push((at, place));
        }
    }
    let needed = |row: usize| match wanted {
        Rows::All => batch.lengths()[row],
        Rows::Read => reads[row].iter().map(|(at, _)| at + 1).max().unwrap_or(0),
    };
    let mut chunks = Vec::new();
    for client in 0..batch.clients() {
        let rows: Vec<usize> = (client * batch.rows()..(client + 1) * batch.rows())
            .filter(|&row| needed(row) > 0)
            .collect();
        for part in shares(&rows.iter().map(|&row| needed(row)).collect::<Vec<_>>()) {
            chunks.push(chunk(client, &rows[part], &needed, &reads));
        }
    }
    chunks
}

/// Cuts rows of these lengths into parts, as equal as whole rows allow. The cut depends on the lengths alone, so that
/// sums over chunks are the same for any number of threads.
fn shares(lengths: &[usize]) -> Vec<Range<usize>> {
    let total: usize = lengths.iter().sum();
    let count = 1 << (total / TOKENS).clamp(1, MOST).ilog2();
    let (mut parts, mut start, mut before) = (Vec::new(), 0, 0);
    for (row, length) in lengths.iter().enumerate() {
        // A part ends with the row whose middle lies beyond the part's share.
        let middle = before + length / 2;
        if row > start && middle * count >= total * (parts.len() + 1) {
            parts.push(start..row);
            start = row;
        }
        before += length;
    }
    if start < lengths.len() {
        parts.push(start..lengths.len());
    }
    parts
}

fn chunk(
    client: usize,
    rows: &[usize],
    needed: &dyn Fn(usize) -> usize,
    reads: &[Vec<(usize, usize)>],
) -> Chunk {
    let mut found = Chunk {
        client,
        rows: rows.to_vec(),
        ends: vec![0],
        positions: Vec::new(),
        reads: Vec::new(),
    };
    for &row in rows {
        let start = found.positions.len();
        let own = reads[row].iter().map(|&(at, place)| Read { token: start + at, place });
        found.reads.extend(own);
        found.positions.extend(0..needed(row));
        found.ends.push(found.positions.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::{Read as Place, Row};

    fn batch(clients: &[&[(usize, &[usize])]]) -> Batch {
        let row = |&(length, reads): &(usize, &[usize])| Row {
            tokens: vec![1; length],
            reads: reads.iter().map(|&at| Place { at, target: 0, weight: 1.0 }).collect(),
        };
        let rows: Vec<Vec<Row>> =
            clients.iter().map(|rows| rows.iter().map(row).collect()).collect();
        let labels: Vec<Vec<u32>> = rows.iter().map(|rows| vec![0; rows.len()]).collect();
        Batch::new(&rows, &labels, &Device::flex())
    }

    #[test]
    fn rows_end_at_their_last_read_and_padding_is_left_out() {
        let batch = batch(&[&[(5, &[1, 3]), (2, &[1])], &[(9, &[0])]]);
        let whole: Vec<usize> = cut(&batch, Rows::All).iter().map(Chunk::tokens).collect();
        assert_eq!(whole, [7, 9]);
        let chunks = cut(&batch, Rows::Read);
        assert_eq!(chunks.len(), 2);
        assert_eq!((chunks[0].client, chunks[0].rows.as_slice()), (0, &[0, 1][..]));
        assert_eq!(chunks[0].ends, [0, 4, 6]);
        assert_eq!(chunks[0].positions, [0, 1, 2, 3, 0, 1]);
        assert_eq!(chunks[0].read_tokens(), [1, 3, 5]);
        assert_eq!(chunks[0].reads.iter().map(|read| read.place).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(
            (chunks[1].client, chunks[1].rows.as_slice(), chunks[1].tokens()),
            (1, &[2][..], 1)
        );
        assert_eq!(chunks[1].reads, [Read { token: 0, place: 3 }]);
    }

    #[test]
    fn chunks_are_alike_in_size_and_lose_no_row() {
        for lengths in
            [vec![24; 16], vec![96; 16], vec![1000, 3, 3, 3], vec![190], (1..60).collect()]
        {
            let parts = shares(&lengths);
            let rows: Vec<usize> = parts.iter().cloned().flatten().collect();
            assert!(rows.into_iter().eq(0..lengths.len()));
            let total: usize = lengths.iter().sum();
            let longest = lengths.iter().max().unwrap();
            for part in &parts {
                let size: usize = lengths[part.clone()].iter().sum();
                let share = (2 * TOKENS).max(total.div_ceil(MOST));
                assert!(size > 0 && size <= share + longest, "{size} of {total}");
            }
            assert!(parts.len() <= MOST);
        }
        assert_eq!(shares(&[24; 16]), [0..8, 8..16]);
        assert!(shares(&[]).is_empty());
    }
}
