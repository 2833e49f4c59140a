//! A smaller corpus: some rows of a split, drawn by seed.

use super::Corpus;
use super::columns::nearest;
use crate::{Error, Result, seed, shuffle};

impl Corpus {
    /// Keeps of each named split so many rows, drawn without replacement, in their order.
    ///
    /// A split's draw depends on the seed, its name and its number of rows, and on no other split.
    pub fn sample<'a>(
        &mut self,
        sizes: impl IntoIterator<Item = (&'a str, usize)>,
        seed: u64,
    ) -> Result<()> {
        for (name, size) in sizes {
            let Some(split) = self.splits.get_mut(name) else {
                return Err(self.unknown(name));
            };
            let total = split.len();
            if size == 0 || size > total {
                return Err(Error::input(format!(
                    "cannot sample {size} of the {total} rows of split `{name}`"
                ))
                .with_hint(format!("a whole number from 1 to {total}")));
            }
            let mut rng = seed::rng(seed, &["sample", name]);
            let mut kept = shuffle::choose(&mut rng, total, size)
                .into_iter()
                .peekable();
            let mut row = 0;
            split.rows.retain(|_| {
                let keep = kept.next_if_eq(&row).is_some();
                row += 1;
                keep
            });
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<&str> = self.splits.keys().map(String::as_str).collect();
        let error = Error::input(format!(
            "the data set has no split `{name}`: it has {}",
            names.join(", ")
        ));
        match nearest(name, self.splits.keys()) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Columns;
    use super::*;
    use crate::download::dataset::{Source, locate};
    use crate::rows::tests::file;

    #[test]
    fn a_sample_is_some_rows_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let lines: Vec<String> = (0..50).map(|i| format!("{i},{}\n", i % 2)).collect();
        let csv = format!("text,label\n{}", lines.concat());
        let path = file(folder.path(), "a.csv", csv);
        let located = locate(&Source::File(path)).unwrap();
        let whole = Corpus::read(&located, &Columns::default()).unwrap();
        let sampled = |seed| {
            let mut corpus = whole.clone();
            corpus.sample([("train", 20)], seed).unwrap();
            let texts = corpus.splits["train"].texts().into_iter();
            texts
                .map(|text| text.parse().unwrap())
                .collect::<Vec<u32>>()
        };
        let rows = sampled(1);
        assert!(
            rows.len() == 20 && rows.is_sorted_by(|a, b| a < b),
            "{rows:?}"
        );
        assert_eq!(rows, sampled(1));
        assert_ne!(rows, sampled(2));

        let fault = |sizes| whole.clone().sample([sizes], 1).unwrap_err().to_string();
        assert!(fault(("train", 51)).contains("51 of the 50 rows"));
        assert!(fault(("train", 0)).contains("0 of the 50 rows"));
        assert!(fault(("trian", 1)).contains("no split `trian`: it has train"));
    }
}
