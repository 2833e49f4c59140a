//! Draws what is wrong with a graph: the file, the line, a caret and a way out.

use super::edit::{Refusal, full_path};
use super::locate::locate;
use super::text::{Place, Text};
use crate::failure::Failure;
use stages::check::Complaint;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::ops::Range;

/// A complaint whose place is known.
pub(super) struct Drawing {
    pub(super) title: String,
    pub(super) place: Place,
    pub(super) label: String,
    pub(super) help: Option<String>,
}

/// Draws all complaints at once, each at the value of its path. The value of a path that is not
/// written is a default: there the nearest value around it is pointed at.
pub fn complain(text: &Text, complaints: &[Complaint]) -> Failure {
    let drawings = complaints.iter().map(|complaint| {
        let (found, whole) = locate(&text.source, &full_path(&complaint.path));
        let range = if whole {
            found.shown(&text.source)
        } else {
            found.head(&text.source)
        };
        Drawing {
            title: complaint.message.clone(),
            place: text.place(&range),
            label: complaint.label.clone(),
            help: complaint.help.clone(),
        }
    });
    draw(text, &drawings.collect::<Vec<_>>())
}

/// Draws an edit that was refused at the path that asked for it.
pub(super) fn refuse(text: &Text, refusal: Refusal, place: Place) -> Failure {
    let Refusal { title, label, help } = refusal;
    draw(
        text,
        &[Drawing {
            title,
            place,
            label,
            help,
        }],
    )
}

/// The failure that shows all drawings, one below the other.
pub(super) fn draw(text: &Text, drawings: &[Drawing]) -> Failure {
    let rendered = drawings
        .iter()
        .map(|drawing| render(text, drawing))
        .collect::<Vec<_>>();
    let message = match drawings {
        [first, _, ..] => format!("{}, and {} more", first.title, drawings.len() - 1),
        _ => drawings
            .first()
            .map(|only| only.title.clone())
            .unwrap_or_default(),
    };
    Failure::usage(message).drawn(rendered.join("\n\n"))
}

fn render(text: &Text, drawing: &Drawing) -> String {
    let written = text.written(&drawing.place);
    let Range { start, end } = drawing.place.range.clone();
    // A caret needs a character to stand under, also at the end of a file.
    let end = match written.text[start..].chars().next() {
        Some(c) if end <= start => start + c.len_utf8(),
        _ => end,
    };
    let annotation = AnnotationKind::Primary
        .span(start..end)
        .label(&drawing.label);
    let snippet = Snippet::source(&written.text)
        .path(&written.name)
        .annotation(annotation);
    let mut groups = vec![Level::ERROR.primary_title(&drawing.title).element(snippet)];
    if let Some(help) = &drawing.help {
        groups.push(Group::with_title(Level::HELP.secondary_title(help)));
    }
    Renderer::styled().render(&groups)
}

/// The name that `found` most likely meant: few typing errors away, capitals not counted.
///
/// ```
/// use fedpipe::graph::near;
/// assert_eq!(near("fedavg", &["Median", "FedAvg"]), Some("FedAvg"));
/// assert_eq!(near("rnak", &["alpha", "rank"]), Some("rank"));
/// assert_eq!(near("rounds", &["alpha", "rank"]), None);
/// ```
pub fn near<'a>(found: &str, names: &[&'a str]) -> Option<&'a str> {
    let found = found.to_lowercase();
    names
        .iter()
        .map(|&name| (strsim::osa_distance(&found, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= 1.max(name.chars().count() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
