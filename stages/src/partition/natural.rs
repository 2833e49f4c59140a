//! One client for each user: the split that the data have already.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Examples, Outcome, Partition, Rule};
use crate::corpus::columns::no_column;
use crate::rows::Cell;
use crate::{Error, Result};

/// All examples with the same value in a column, such as who wrote them, go to the same client.
///
/// With as many clients as values, the first client has the first value, numbers and then texts in
/// rising order. With fewer, the values are dealt out whole, the one with the most examples first, each
/// to the client that has the fewest so far. Nothing is drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Natural {
    /// The column of the data set.
    pub column: String,
}

/// What tells examples apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value {
    Whole(i64),
    Text(String),
}

impl Value {
    /// `None` for a null and for empty text, which is how CSV files have nulls.
    fn of(cell: &Cell) -> Option<Self> {
        match cell {
            Cell::Null => None,
            Cell::Int(number) => Some(Self::Whole(*number)),
            Cell::Str(text) if text.is_empty() => None,
            Cell::Bool(_) | Cell::Float(_) | Cell::Str(_) => Some(Self::Text(cell.to_string())),
        }
    }
}

impl Natural {
    /// The positions of each value, in rising order of the values.
    fn groups(&self, of: &Examples<'_>) -> Result<Vec<Vec<usize>>> {
        let column = &self.column;
        let table = of.table.ok_or_else(|| Error::failed("the rows of the corpus are not here"))?;
        let at = table.columns.iter().position(|name| name == column);
        let at = at.ok_or_else(|| no_column("the data set", column, table.columns))?;
        if table.cells.len() != of.labels.len() {
            return Err(Error::failed(format!(
                "there are {} rows of the corpus for {} examples",
                table.cells.len(),
                of.labels.len()
            )));
        }
        let mut groups: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
        for (position, row) in table.cells.iter().enumerate() {
            let value = Value::of(&row[at]).ok_or_else(|| {
                Error::input(format!(
                    "row {} of the split `train` has nothing in column `{column}`",
                    position + 1
                ))
                .with_hint("every example must have a value to be given to a client by it")
            })?;
            groups.entry(value).or_default().push(position);
        }
        Ok(groups.into_values().collect())
    }
}

impl Rule for Natural {
    fn check(&self, _clients: usize) -> Result<()> {
        if self.column.is_empty() {
            return Err(Error::input("column is empty")
                .with_hint("name the column that tells whose an example is"));
        }
        Ok(())
    }

    fn is_drawn(&self) -> bool {
        false
    }

    fn split(&self, of: &Examples<'_>, clients: usize, _: &mut ChaCha8Rng) -> Result<Partition> {
        let mut groups = self.groups(of)?;
        let values = groups.len();
        if values < clients {
            return Err(Error::input(format!(
                "column `{}` has {values} different values, too few for {clients} clients",
                self.column
            ))
            .with_hint(format!("at most {values} clients: a value is never split")));
        }
        if values > clients {
            // The sort is stable, so values of one size stay in rising order.
            groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
        }
        let mut shards = vec![Vec::new(); clients];
        for group in groups {
            // The first of those with the fewest: as long as a client is empty it is one of them.
            let least = (0..clients).min_by_key(|&client| shards[client].len());
            shards[least.unwrap_or_default()].extend(group);
        }
        Ok(Partition { shards, outcome: Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{By, Table};
    use super::*;

    fn split(cells: &[Cell], clients: usize) -> Result<Partition> {
        let columns = ["user".to_owned()];
        let cells: Vec<Vec<Cell>> = cells.iter().map(|cell| vec![cell.clone()]).collect();
        let labels = vec![-1; cells.len()];
        let table = Some(Table { columns: &columns, cells: &cells });
        let of = Examples { table, ..Examples::labelled(&labels) };
        By::Natural(Natural { column: "user".to_owned() }).split(&of, clients, 1)
    }

    fn texts(values: &str) -> Vec<Cell> {
        values.chars().map(|value| Cell::Str(value.to_string())).collect()
    }

    #[test]
    fn one_client_a_value_in_rising_order() {
        let shards = split(&texts("bcabca"), 3).unwrap().shards;
        assert_eq!(shards, [[2, 5], [0, 3], [1, 4]]);
        let numbers = [10, 9, 100, 9].map(Cell::Int);
        assert_eq!(split(&numbers, 3).unwrap().shards, [vec![1, 3], vec![0], vec![2]]);
        let mixed = [Cell::Str("a".into()), Cell::Int(7), Cell::Bool(true), Cell::Float(0.5)];
        assert_eq!(split(&mixed, 4).unwrap().shards, [[1], [3], [0], [2]]);
    }

    #[test]
    fn more_values_than_clients_are_dealt_out_whole() {
        // c has 4, a and b 2, d 1: c | a | then b to the second, d to the first.
        let cells = texts("abcccabcd");
        let partition = split(&cells, 2).unwrap();
        assert_eq!(partition.shards, [vec![2, 3, 4, 7, 8], vec![0, 1, 5, 6]]);
        for clients in 1..=4 {
            let shards = split(&cells, clients).unwrap().shards;
            for value in ["a", "b", "c", "d"] {
                let owners = shards
                    .iter()
                    .filter(|shard| shard.iter().any(|&at| cells[at] == Cell::Str(value.into())));
                assert_eq!(owners.count(), 1, "{value} of {clients}");
            }
            assert!(shards.iter().all(|shard| !shard.is_empty()));
        }
    }

    #[test]
    fn what_cannot_be_dealt_is_a_sentence() {
        let fault = split(&texts("abab"), 3).unwrap_err();
        let says = "column `user` has 2 different values, too few for 3 clients";
        assert_eq!(fault.to_string(), says);
        assert_eq!(fault.hint(), Some("at most 2 clients: a value is never split"));
        let fault = split(&[Cell::Int(1), Cell::Null], 1).unwrap_err().to_string();
        assert!(fault.starts_with("row 2 of the split `train` has nothing"), "{fault}");
        let columns = ["users".to_owned()];
        let table = Some(Table { columns: &columns, cells: &[vec![Cell::Int(1)]] });
        let of = Examples { table, ..Examples::labelled(&[0]) };
        let by = By::Natural(Natural { column: "user".to_owned() });
        let fault = by.split(&of, 1, 1).unwrap_err();
        assert!(fault.to_string().starts_with("the data set has no column `user`"), "{fault}");
        assert_eq!(fault.hint(), Some("did you mean `users`?"));
    }
}
