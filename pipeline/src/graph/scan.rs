//! The few tokens of RON that an edit has to step over: white space, comments, literals and brackets.

use std::ops::Range;

/// The offset of the first byte at or after `from` that is neither white space nor in a comment.
pub(super) fn skip_trivia(source: &str, from: usize) -> usize {
    let mut at = from;
    loop {
        let rest = &source[at..];
        let trimmed = rest.trim_start();
        at += rest.len() - trimmed.len();
        if trimmed.starts_with("//") {
            at += trimmed.find('\n').unwrap_or(trimmed.len());
        } else if trimmed.starts_with("/*") {
            at += block_comment(trimmed);
        } else {
            return at;
        }
    }
}

/// The length of the block comment that `text` starts with; such comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let rest = &text[at..];
        let Some(next) = rest.find("/*").into_iter().chain(rest.find("*/")).min() else {
            return text.len();
        };
        depth = if rest[next..].starts_with("/*") {
            depth + 1
        } else {
            depth - 1
        };
        at += next + 2;
        if depth == 0 {
            return at;
        }
    }
}

/// What is met on a walk through a source.
enum Token {
    Bracket(char),
    /// A text or a character whose end is missing.
    Unclosed,
}

/// The brackets outside of literals and comments, each with its offset.
fn brackets(source: &str) -> impl Iterator<Item = (usize, Token)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at = skip_trivia(source, at);
            let here = at;
            let next = source[at..].chars().next()?;
            match literal(&source[at..]) {
                Literal::None => at += next.len_utf8(),
                Literal::Whole(length) => at += length,
                Literal::Unclosed => {
                    at = source.len();
                    return Some((here, Token::Unclosed));
                }
            }
            if "()[]{}".contains(next) {
                return Some((here, Token::Bracket(next)));
            }
        }
    })
}

/// The offset of a bracket that is not closed, or closed by one of another kind; or that of a text
/// whose end is missing.
pub(super) fn unclosed(source: &str) -> Option<usize> {
    let mut open = Vec::new();
    for (at, token) in brackets(source) {
        let Token::Bracket(bracket) = token else {
            return Some(at);
        };
        if "([{".contains(bracket) {
            open.push((at, bracket));
            continue;
        }
        let (start, opened) = open.pop()?;
        if !matches!((opened, bracket), ('(', ')') | ('[', ']') | ('{', '}')) {
            return Some(start);
        }
    }
    open.pop().map(|(at, _)| at)
}

/// The range of the one value that the source is, without the comments around it.
pub(super) fn whole_value(source: &str) -> Range<usize> {
    let start = skip_trivia(source, 0);
    let end = brackets(source)
        .last()
        .map_or(source.len(), |(at, _)| at + 1);
    start..end.max(start)
}

/// Whether a text or a character begins at some place.
enum Literal {
    None,
    /// One of this length.
    Whole(usize),
    /// One whose end is missing.
    Unclosed,
}

fn literal(rest: &str) -> Literal {
    let found = |end: Option<usize>| end.map_or(Literal::Unclosed, Literal::Whole);
    if let Some(body) = rest.strip_prefix('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let Some(body) = body[hashes..].strip_prefix('"') else {
            return Literal::None;
        };
        let close = format!("\"{}", "#".repeat(hashes));
        return found(
            body.find(&close)
                .map(|end| 1 + hashes + 1 + end + close.len()),
        );
    }
    let Some(quote) = rest.chars().next().filter(|&c| c == '"' || c == '\'') else {
        return Literal::None;
    };
    let mut escaped = false;
    let end = rest.char_indices().skip(1).find(|&(_, c)| {
        let closes = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        closes
    });
    found(end.map(|(at, _)| at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trivia_ends_at_the_first_token() {
        let source = " \n// a, b\n/* x /* y */ ) */ , z";
        assert_eq!(&source[skip_trivia(source, 0)..], ", z");
        assert_eq!(skip_trivia("// no end", 0), 9);
    }

    #[test]
    fn an_unclosed_bracket_is_found_past_literals_and_comments() {
        assert_eq!(
            unclosed(r##"(a: ")", b: r#"]"#, c: ')' /* ] */, d: [1, 2]"##),
            Some(0)
        );
        assert_eq!(unclosed("(a: [1, 2]"), Some(0));
        assert_eq!(unclosed("(a: \"x)"), Some(4));
        assert_eq!(unclosed("(a: [1)"), Some(4));
        assert_eq!(unclosed("x)"), None);
        assert_eq!(unclosed("(r: 1, a: {\"b\": '('})"), None);
    }

    #[test]
    fn a_value_ends_at_its_last_bracket_whatever_comments_say() {
        let source = "// (\nGraph(a: \")\") // :)";
        assert_eq!(&source[whole_value(source)], "Graph(a: \")\")");
        assert_eq!(whole_value(" // no end"), 10..10);
    }
}
