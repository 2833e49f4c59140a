//! The table at the end of a sweep's run, in aligned columns.

use super::style::{duration, size};
use crate::table::{Row, Table};

/// A column: its head, and what stands in it for a row.
type Column<'a> = (&'a str, Box<dyn Fn(&Row) -> Option<String> + 'a>);

/// The head and a line for each row; columns in which nothing stands are left out.
pub(super) fn lines(table: &Table) -> Vec<String> {
    let several = table.rows.iter().any(|row| row.evaluation != table.rows[0].evaluation);
    let number = |value: f64| format!("{value:.3}");
    let columns: [Column<'_>; 10] = [
        ("settings", Box::new(|row| Some(settings(row)))),
        ("evaluation", Box::new(|row| several.then(|| row.evaluation.clone()))),
        ("n", Box::new(|row| Some(row.n.to_string()))),
        (&table.metric, Box::new(score)),
        ("worst client", Box::new(move |row| row.worst_client_accuracy.map(number))),
        ("e_agg", Box::new(|row| row.e_agg.map(error))),
        ("up", Box::new(|row| row.bytes_up.map(bytes))),
        ("down", Box::new(|row| row.bytes_down.map(bytes))),
        ("simulated", Box::new(|row| row.simulated_seconds.map(duration))),
        ("training", Box::new(|row| row.train_seconds.map(duration))),
    ];
    let mut lines = vec![String::new(); table.rows.len() + 1];
    for (at, (head, cell)) in columns.iter().enumerate() {
        let cells: Vec<Option<String>> = table.rows.iter().map(cell).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let mut cells: Vec<String> = cells.into_iter().map(Option::unwrap_or_default).collect();
        cells.insert(0, (*head).to_owned());
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(cells) {
            // Words begin in one column, numbers end in one.
            let aligned =
                if at < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
            line.push_str("  ");
            line.push_str(&aligned);
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

fn settings(row: &Row) -> String {
    let parts: Vec<String> =
        row.settings.iter().map(|(path, value)| format!("{path}={value}")).collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}

/// A relative error: exact rules have one of rounding only.
fn error(value: f64) -> String {
    if value < 1e-3 { format!("{value:.1e}") } else { format!("{value:.3}") }
}

fn score(row: &Row) -> Option<String> {
    let score = row.score?;
    Some(match row.score_sd {
        Some(sd) => format!("{score:.3} ± {sd:.3}"),
        None => format!("{score:.3}"),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a mean of whole numbers from 0, shown with three digits"
)]
fn bytes(mean: f64) -> String {
    size(mean.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    fn row(rank: &str, score: Option<f64>, score_sd: Option<f64>) -> Row {
        let settings = [("fed.lora.rank".to_owned(), rank.to_owned())].into_iter().collect();
        let n = score.map_or(0, |_| 3);
        Row { settings, evaluation: "score".to_owned(), n, score, score_sd, ..Row::default() }
    }

    #[test]
    fn columns_are_aligned_and_empty_ones_are_left_out() {
        let mut rows = vec![row("4", Some(0.8125), Some(0.0126)), row("16", None, None)];
        rows[0].bytes_up = Some(4_200_000.0);
        rows[0].train_seconds = Some(61.4);
        let metric = "accuracy".to_owned();
        assert_snapshot!(lines(&Table { metric, rows }).join("\n"), @r"
          settings          n       accuracy      up  training
          fed.lora.rank=4   3  0.812 ± 0.013  4.2 MB      61 s
          fed.lora.rank=16  0
        ");
    }

    #[test]
    fn several_evaluations_are_told_apart_and_one_seed_has_no_deviation() {
        let mut rows = vec![row("4", Some(0.75), None), row("4", Some(0.5), None)];
        rows[1].evaluation = "central_score".to_owned();
        rows[0].settings.clear();
        rows[0].worst_client_accuracy = Some(0.25);
        rows[0].e_agg = Some(0.6587);
        let metric = "token_accuracy".to_owned();
        assert_snapshot!(lines(&Table { metric, rows }).join("\n"), @r"
          settings         evaluation     n  token_accuracy  worst client  e_agg
          all              score          3           0.750         0.250  0.659
          fed.lora.rank=4  central_score  3           0.500
        ");
    }
}
