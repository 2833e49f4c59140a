//! The text of a graph that remembers, through all edits, where each piece of it was written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Something a user wrote: a graph file, or the argument of one `--set`.
#[derive(Debug)]
pub(super) struct Written {
    /// The path as shown, or `--set`.
    pub(super) name: String,
    pub(super) text: String,
}

/// A range of something written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Index into [`Text`]'s list of what was written.
    pub(super) written: usize,
    pub(super) range: Range<usize>,
}

/// A piece of text to put in, with the place it stands for. Where both have the same length, the piece
/// is the text of that place; else it was made up on its behalf, as the name of a field is that gets set.
pub(super) struct Fragment {
    pub(super) text: String,
    pub(super) place: Place,
}

/// The effective, self-contained text of a graph: `extends`, `set` and `--set` are resolved.
#[derive(Clone, Debug)]
pub struct Text {
    /// The path of the graph file, as shown to the user.
    pub name: String,
    /// The RON text, which can be run and recorded as it is.
    pub source: String,
    /// The folder of the graph file.
    pub dir: PathBuf,
    /// The folder that relative paths start from, by the dotted path of what was written there:
    /// `base` for a whole stage, `base.folder` for one value that was set. An empty folder is the
    /// current one (`--set`). See [`Text::folder_of`].
    pub origins: BTreeMap<String, PathBuf>,
    written: Vec<Arc<Written>>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    length: usize,
    place: Place,
}

impl Piece {
    /// The part of the place that `range` of this piece stands for.
    fn part(&self, range: Range<usize>) -> Place {
        let Place {
            written,
            range: whole,
        } = &self.place;
        let range = if whole.len() == self.length {
            whole.start + range.start..whole.start + range.end
        } else {
            whole.clone()
        };
        Place {
            written: *written,
            range,
        }
    }
}

impl Text {
    /// The text of one file, as it is.
    pub fn new(path: &Path, source: String) -> Self {
        let name = path.display().to_string();
        let mut text = Self {
            name: name.clone(),
            source: String::new(),
            dir: path.parent().unwrap_or(Path::new("")).to_owned(),
            origins: BTreeMap::new(),
            written: Vec::new(),
            pieces: Vec::new(),
        };
        let place = text.write(name, source.clone());
        text.pieces.push(Piece {
            length: source.len(),
            place,
        });
        text.source = source;
        text
    }

    /// The folder from which a relative path at `path` (`base.folder`, without `stages.`) starts.
    pub fn folder_of(&self, path: &str) -> &Path {
        let mut prefix = path;
        loop {
            if let Some(folder) = self.origins.get(prefix) {
                return folder;
            }
            match prefix.rsplit_once('.') {
                Some((parent, _)) => prefix = parent,
                None => return &self.dir,
            }
        }
    }

    /// Notes that what lies at `path` was written in a file of `folder`.
    pub(super) fn originate(&mut self, path: &str, folder: PathBuf) {
        self.origins.retain(|known, _| !is_at_or_below(known, path));
        self.origins.insert(path.to_owned(), folder);
    }

    /// Takes in one more thing that a user wrote; the place is all of it.
    pub(super) fn write(&mut self, name: String, text: String) -> Place {
        let range = 0..text.len();
        self.written.push(Arc::new(Written { name, text }));
        Place {
            written: self.written.len() - 1,
            range,
        }
    }

    /// What the place is a range of.
    pub(super) fn written(&self, place: &Place) -> &Written {
        &self.written[place.written]
    }

    /// The text at a place, to be put somewhere else.
    pub(super) fn fragment(&self, place: &Place) -> Fragment {
        let text = self.written(place).text[place.range.clone()].to_owned();
        Fragment {
            text,
            place: place.clone(),
        }
    }

    /// Replaces `range` by the fragments.
    pub(super) fn splice(&mut self, range: Range<usize>, fragments: Vec<Fragment>) {
        let mut pieces = self.cut(0..range.start);
        let tail = self.cut(range.end..self.source.len());
        let mut put = String::new();
        for Fragment { text, place } in fragments {
            put.push_str(&text);
            pieces.push(Piece {
                length: text.len(),
                place,
            });
        }
        pieces.extend(tail);
        self.source.replace_range(range, &put);
        self.pieces = pieces;
    }

    /// The pieces of `range`, clipped to it.
    fn cut(&self, range: Range<usize>) -> Vec<Piece> {
        let mut start = 0;
        let mut cut = Vec::new();
        for piece in &self.pieces {
            let end = start + piece.length;
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                cut.push(Piece {
                    length: to - from,
                    place: piece.part(from - start..to - start),
                });
            }
            start = end;
        }
        cut
    }

    /// Where `range` of the effective text was written. Of a range that was written in several places
    /// it is the first one's part.
    pub(super) fn place(&self, range: &Range<usize>) -> Place {
        let end = range.end.max(range.start + 1).min(self.source.len());
        let pieces = self.cut(range.start.min(end.saturating_sub(1))..end);
        let Some(first) = pieces.first() else {
            return Place {
                written: 0,
                range: 0..0,
            };
        };
        let mut place = first.place.clone();
        for piece in &pieces[1..] {
            if piece.place.written == place.written && piece.place.range.start >= place.range.end {
                place.range.end = piece.place.range.end;
            }
        }
        if range.is_empty() {
            place.range.end = place.range.start;
        }
        place
    }
}

/// Whether the dotted `path` is `parent` or lies below it.
pub(super) fn is_at_or_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_keeps_its_place_through_edits() {
        let mut text = Text::new(Path::new("graphs/a.ron"), "(a: 1, b: 2)".to_owned());
        let set = text.write("--set".to_owned(), "b=2000".to_owned());
        let value = text.fragment(&Place {
            written: set.written,
            range: 2..6,
        });
        text.splice(10..11, vec![value]);
        text.splice(4..5, vec![]);
        assert_eq!(text.source, "(a: , b: 2000)");

        let at = text.source.find("2000").unwrap();
        let place = text.place(&(at + 1..at + 3));
        assert_eq!(text.written(&place).name, "--set");
        assert_eq!(place.range, 3..5);
        let end = text.source.len() - 1;
        assert_eq!(
            text.place(&(end..end + 1)),
            Place {
                written: 0,
                range: 11..12
            }
        );
        assert_eq!(text.place(&(6..7)).range, 7..8);
    }

    #[test]
    fn a_relative_path_starts_where_it_was_written() {
        let mut text = Text::new(Path::new("graphs/a.ron"), String::new());
        text.originate("base", "graphs".into());
        text.originate("base.folder", PathBuf::new());
        assert_eq!(text.folder_of("base.folder"), Path::new(""));
        assert_eq!(text.folder_of("base.other.0"), Path::new("graphs"));
        text.originate("base", "elsewhere".into());
        assert_eq!(text.folder_of("base.folder"), Path::new("elsewhere"));
        assert_eq!(text.folder_of("baseline"), Path::new("graphs"));
    }
}
