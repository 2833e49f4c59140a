//! Turns an error of the RON reader into a sentence about the graph, at the place of the value it is about.

use super::diagnose::{Drawing, draw, near};
use super::edit::{shown, ticked};
use super::locate::{Located, innermost};
use super::options;
use super::probe::{choices, is_bare, still_open};
use super::scan::{skip_trivia, unclosed};
use super::text::Text;
use crate::failure::Failure;
use ron::error::{Error, Position, SpannedError};
use serde::de::{DeserializeOwned, IgnoredAny};
use std::ops::Range;

/// What is said about an error.
struct Sentence {
    title: String,
    range: Range<usize>,
    label: String,
    help: Option<String>,
}

/// Draws why `text` is no `Graph<N>`.
pub(super) fn explain<N: DeserializeOwned>(text: &Text, error: &SpannedError) -> Failure {
    let source = text.source.as_str();
    let span = offset(source, error.span.start)..offset(source, error.span.end);
    let said = match about_names::<N>(source, &error.code, &span) {
        Some(said) => said,
        // The structure is sound if it can be read with no type in mind.
        None if options().from_str::<IgnoredAny>(source).is_ok() => {
            about_value::<N>(source, &error.code, &span)
        }
        None => about_syntax(source, &error.code, &span),
    };
    let Sentence {
        title,
        range,
        label,
        help,
    } = said;
    draw(
        text,
        &[Drawing {
            title,
            place: text.place(&range),
            label,
            help,
        }],
    )
}

/// The byte at a position of the reader, which counts lines and characters from 1.
pub(super) fn offset(source: &str, position: Position) -> usize {
    let line: usize = source
        .split_inclusive('\n')
        .take(position.line - 1)
        .map(str::len)
        .sum();
    let characters = &source[line..];
    line + characters
        .char_indices()
        .nth(position.col - 1)
        .map_or(characters.len(), |(at, _)| at)
}

/// Fields and names that are unknown, missing or there twice.
fn about_names<N: DeserializeOwned>(
    source: &str,
    code: &Error,
    span: &Range<usize>,
) -> Option<Sentence> {
    let of = |outer: &Option<String>| outer.as_ref().map(|name| format!("`{name}`"));
    let said = match code {
        Error::NoSuchStructField {
            expected,
            found,
            outer,
        } => Sentence {
            title: match of(outer) {
                Some(outer) => format!("{outer} has no field `{found}`"),
                None => format!("there is no field `{found}`"),
            },
            range: span.clone(),
            label: "unknown field".to_owned(),
            help: Some(choice(found, expected, "its fields are")),
        },
        Error::NoSuchEnumVariant {
            expected, found, ..
        } => Sentence {
            title: format!("nothing is called `{found}` here"),
            range: span.clone(),
            label: "unknown name".to_owned(),
            help: Some(choice(found, expected, "choose one of")),
        },
        Error::MissingStructField { field, outer } => {
            let inside = innermost(source, span.end, false);
            let outer = of(outer).unwrap_or_else(|| format!("`{}`", shown(&inside.path)));
            let missing = still_open::<N>(source, &inside);
            Sentence {
                title: format!("{outer} needs the field `{field}`"),
                range: inside.head(source),
                label: format!("`{field}` is missing"),
                help: (missing.len() > 1)
                    .then(|| format!("the fields not given here are: {}", ticked(&missing))),
            }
        }
        Error::DuplicateStructField { field, outer } => Sentence {
            title: match of(outer) {
                Some(outer) => format!("{outer} has two fields `{field}`"),
                None => format!("the field `{field}` is there twice"),
            },
            range: span.clone(),
            label: "given a second time".to_owned(),
            help: None,
        },
        Error::ExpectedDifferentStructName { expected, found } => Sentence {
            title: format!("`{expected}( … )` is expected here, not `{found}`"),
            range: last_word(source, span),
            label: format!("not a `{expected}`"),
            help: None,
        },
        _ => return None,
    };
    Some(said)
}

fn choice(found: &str, expected: &[&'static str], list: &str) -> String {
    match (near(found, expected), expected) {
        (Some(name), _) => format!("did you mean `{name}`?"),
        (None, []) => "there is nothing to choose from".to_owned(),
        (None, _) => format!("{list}: {}", ticked(expected)),
    }
}

/// A value that is well written, but not of the type that its field has.
fn about_value<N: DeserializeOwned>(source: &str, code: &Error, span: &Range<usize>) -> Sentence {
    let at = span.end;
    let value = innermost(source, skip_trivia(source, at).min(source.len()), true);
    let value = if value.path.is_empty() {
        innermost(source, at, true)
    } else {
        value
    };
    if value.path.is_empty() {
        return no_graph(source, &value);
    }
    let written = &source[value.value.clone()];
    let path = shown(&value.path);
    let brief = if written.contains('\n') || written.chars().count() > 40 {
        "this".to_owned()
    } else {
        format!("`{written}`")
    };
    let (title, label) = match (code, wanted(code)) {
        (Error::Message(message), _) => (message.clone(), "here".to_owned()),
        (Error::ExpectedStructLike | Error::ExpectedNamedStructLike(_), _) if is_bare(written) => (
            format!("{brief} needs its fields, in parentheses"),
            "no fields are given".to_owned(),
        ),
        (Error::IntegerOutOfBounds, _) => (
            format!("`{path}` cannot be {brief}"),
            "out of range".to_owned(),
        ),
        (_, Some(wanted)) => (
            format!("`{path}` takes {wanted}, not {brief}"),
            format!("not {wanted}"),
        ),
        (_, None) => (
            format!("`{path}` cannot be {brief}"),
            "not a value of this field".to_owned(),
        ),
    };
    let help = mend::<N>(source, code, &value);
    // A name that was just read is what a message is about, as when two stages have it.
    let is_named = matches!(code, Error::Message(_)) && is_bare(&source[span.clone()]);
    let range = if is_named {
        span.clone()
    } else {
        value.shown(source)
    };
    Sentence {
        title,
        range,
        label,
        help,
    }
}

/// What could be written in the place of a value that is of another type.
fn mend<N: DeserializeOwned>(source: &str, code: &Error, value: &Located) -> Option<String> {
    let written = &source[value.value.clone()];
    match code {
        Error::ExpectedString if written.chars().all(char::is_alphanumeric) => {
            Some(format!("did you mean `\"{written}\"`?"))
        }
        Error::ExpectedStructLike | Error::ExpectedNamedStructLike(_) if is_bare(written) => Some(
            format!("write `{written}( … )`, or `{written}()` for its defaults"),
        ),
        Error::ExpectedIdentifier | Error::SuggestRawIdentifier(_) => choices::<N>(source, value),
        _ => None,
    }
}

fn no_graph(source: &str, root: &Located) -> Sentence {
    Sentence {
        title: "a graph file is a `Graph( … )`".to_owned(),
        range: root.shown(source),
        label: "not a graph".to_owned(),
        help: None,
    }
}

/// What the reader wanted at a value.
fn wanted(code: &Error) -> Option<String> {
    let wanted = match code {
        Error::ExpectedInteger => "a whole number",
        Error::ExpectedFloat => "a number",
        Error::ExpectedString => "a text in quotes",
        Error::ExpectedBoolean => "`true` or `false`",
        Error::ExpectedArray => "a list, `[ … ]`",
        Error::ExpectedMap => "a map, `{ \"name\": value, … }`",
        Error::ExpectedStructLike | Error::ExpectedNamedStructLike(_) => {
            "fields, `( name: value, … )`"
        }
        Error::ExpectedIdentifier | Error::SuggestRawIdentifier(_) => "a name",
        Error::InvalidValueForType { expected, .. }
        | Error::ExpectedDifferentLength { expected, .. } => return Some(expected.clone()),
        _ => return None,
    };
    Some(wanted.to_owned())
}

/// A text that is no RON at all.
fn about_syntax(source: &str, code: &Error, span: &Range<usize>) -> Sentence {
    let at = skip_trivia(source, span.end.min(source.len())).min(source.len());
    let here = at..at;
    let say = |title: &str, label: &str, range: Range<usize>| Sentence {
        title: title.to_owned(),
        range,
        label: label.to_owned(),
        help: None,
    };
    let open = unclosed(source).unwrap_or(at);
    let at_end = source[at..].is_empty() || source[at..].starts_with([')', ']', '}']);
    let never_closed = open < at && at_end;
    match code {
        _ if skip_trivia(source, 0) == source.len() => say("there is no graph here", "empty", here),
        Error::ExpectedNamedStructLike("Graph") => {
            say("a graph file is a `Graph( … )`", "not a graph", here)
        }
        _ if never_closed && source[open..].starts_with('"') => say(
            "a text has no closing quote",
            "it begins here",
            open..open + 1,
        ),
        _ if never_closed => say(
            "a bracket is never closed",
            "it is opened here",
            open..open + 1,
        ),
        Error::Eof => say("the text ends too early", "here", here),
        Error::ExpectedComma => say("a comma is missing", "`,` expected before this", here),
        Error::ExpectedMapColon => say("a colon is missing", "`:` expected before this", here),
        Error::ExpectedStructLikeEnd | Error::ExpectedOptionEnd => {
            say("a closing `)` is missing", "`)` expected before this", here)
        }
        Error::ExpectedArrayEnd => {
            say("a closing `]` is missing", "`]` expected before this", here)
        }
        Error::ExpectedMapEnd => say("a closing `}` is missing", "`}` expected before this", here),
        Error::UnexpectedChar(c) => say(&format!("`{c}` is not expected here"), "here", here),
        Error::TrailingCharacters => {
            say("something follows after the end", "not expected here", here)
        }
        Error::Message(_) | Error::NoSuchExtension(_) | Error::InvalidEscape(_) => {
            say(&lower_first(&code.to_string()), "here", span.clone())
        }
        code => match wanted(code) {
            Some(wanted) => {
                let label = format!("not {wanted}");
                say(&format!("{wanted} is expected here"), &label, here)
            }
            None => say(&lower_first(&code.to_string()), "here", here),
        },
    }
}

/// A sentence about a value that stands alone, such as that of a `--set`.
pub(super) fn about_lone_value(
    source: &str,
    error: &SpannedError,
) -> (String, String, Range<usize>) {
    let span = offset(source, error.span.start)..offset(source, error.span.end);
    let Sentence {
        title,
        label,
        range,
        ..
    } = about_syntax(source, &error.code, &span);
    (title, label, range)
}

fn lower_first(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters.next().map_or_else(String::new, |c| {
        c.to_lowercase().chain(characters).collect()
    })
}

/// The word that ends where the span does.
fn last_word(source: &str, span: &Range<usize>) -> Range<usize> {
    let before = &source[..span.end];
    let word = before.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_');
    if word.len() < span.end {
        word.len()..span.end
    } else {
        span.clone()
    }
}
