//! Edits of a graph's text: set a value, add a stage, take a field of the header out. Comments, order
//! and all that is not touched stay as they were written.

use super::diagnose::near;
use super::locate::{Contents, Located, contents, locate};
use super::scan::skip_trivia;
use super::text::{Fragment, Place, Text};
use std::ops::Range;
use std::path::PathBuf;

/// The fields of the graph itself, which no stage may be called and which a path names as they are.
pub(super) const OWN: [&str; 7] = [
    "about", "seed", "exact", "extends", "set", "sweep", "stages",
];

/// A value to be set, and what asked for it.
pub(super) struct Setting {
    /// The path as it was written, `fed.lora.rank` or `seed`.
    pub(super) path: String,
    /// Where the path stands.
    pub(super) path_place: Place,
    /// Where the value stands.
    pub(super) value: Place,
    /// The folder from which a relative path in the value starts.
    pub(super) folder: PathBuf,
}

impl Setting {
    /// The place of the path's name number `from_end`, counted from the last.
    fn place_of(&self, from_end: usize) -> Place {
        let Place { written, range } = &self.path_place;
        let names: Vec<_> = self.path.split('.').collect();
        let Some(nth) = names
            .len()
            .checked_sub(from_end + 1)
            .filter(|_| range.len() == self.path.len())
        else {
            return self.path_place.clone();
        };
        let start = range.start
            + names[..nth]
                .iter()
                .map(|name| name.len() + 1)
                .sum::<usize>();
        Place {
            written: *written,
            range: start..start + names[nth].len(),
        }
    }
}

/// Why an edit could not be made; to be drawn at the place of the path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) title: String,
    pub(super) label: String,
    pub(super) help: Option<String>,
}

/// The path from the root of a file: `fed.rounds` is `stages.fed.rounds`, while `seed` is the graph's own.
pub(super) fn full_path(path: &str) -> Vec<&str> {
    let mut full: Vec<_> = path.split('.').collect();
    if !OWN.contains(&full[0]) {
        full.insert(0, "stages");
    }
    full
}

/// Sets the value at a path, which is put in where it was left to its default.
pub(super) fn set(text: &mut Text, setting: &Setting) -> Result<(), Refusal> {
    let path = full_path(&setting.path);
    check_path(&path, text)?;
    let (found, whole) = locate(&text.source, &path);
    if whole {
        let value = text.fragment(&setting.value);
        text.splice(found.value, vec![value]);
    } else {
        insert(text, &found, &path[found.path.len()..], setting)?;
    }
    if path[0] == "stages" {
        text.originate(&path[1..].join("."), setting.folder.clone());
    }
    Ok(())
}

/// Puts a stage in: in the place of the one that has its name, else after the others.
pub(super) fn put_stage(text: &mut Text, name: &str, stage: &Setting) -> Result<(), Refusal> {
    let (found, whole) = locate(&text.source, &["stages", name]);
    if whole {
        let value = text.fragment(&stage.value);
        text.splice(found.value, vec![value]);
    } else if found.path.is_empty() {
        insert(text, &found, &["stages", name], stage)?;
    } else {
        insert(text, &found, &[name], stage)?;
    }
    text.originate(name, stage.folder.clone());
    Ok(())
}

/// Takes a field of the graph's own out, with its comma and, where it has lines of its own, its lines.
pub(super) fn remove(text: &mut Text, name: &str) {
    let (found, whole) = locate(&text.source, &[name]);
    if !whole {
        return;
    }
    let source = &text.source;
    let comma = skip_trivia(source, found.value.end);
    let mut end = if source[comma..].starts_with(',') {
        comma + 1
    } else {
        found.value.end
    };
    let line = source[..found.key.start].rfind('\n').map_or(0, |at| at + 1);
    let mut start = found.key.start;
    let rest = source[end..].trim_start_matches([' ', '\t', '\r']);
    if source[line..start].trim().is_empty() && rest.starts_with('\n') {
        start = line;
        end = source.len() - rest.len() + 1;
    }
    text.splice(start..end, vec![]);
}

fn check_path(path: &[&str], text: &Text) -> Result<(), Refusal> {
    if let Some(bad) = path.iter().find(|name| !is_name(name)) {
        return Err(Refusal {
            title: format!("`{bad}` in `{}` is not a name", path.join(".")),
            label: "not a path".to_owned(),
            help: Some("a path is names with dots between, like `fed.lora.rank`".to_owned()),
        });
    }
    if matches!(path[0], "extends" | "set" | "sweep") || path == ["stages"] {
        return Err(Refusal {
            title: format!("`{}` itself cannot be set", path[0]),
            label: "not a value of a stage".to_owned(),
            help: None,
        });
    }
    if path[0] == "stages" {
        let (stages, _) = locate(&text.source, &["stages"]);
        let stages = stages.children(&text.source);
        let names: Vec<_> = stages
            .iter()
            .filter_map(|s| s.path.get(1))
            .map(String::as_str)
            .collect();
        if !names.contains(&path[1]) {
            return Err(Refusal {
                title: format!("no stage is called `{}`", path[1]),
                label: "unknown stage".to_owned(),
                help: Some(match near(path[1], &names) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("the stages are: {}", ticked(&names)),
                }),
            });
        }
    }
    Ok(())
}

/// A field's or a stage's name, or the index of an entry: what can stand between the dots of a path.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// Names in backticks with commas between.
pub(super) fn ticked<S: AsRef<str>>(names: &[S]) -> String {
    names
        .iter()
        .map(|name| format!("`{}`", name.as_ref()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Puts `names` (a field that is not written, and the way on from there) into the value `into`.
fn insert(
    text: &mut Text,
    into: &Located,
    names: &[&str],
    setting: &Setting,
) -> Result<(), Refusal> {
    let source = text.source.as_str();
    let fields = match contents(source, &into.value) {
        Contents::Fields(fields) => fields,
        other => return Err(no_fields(source, into, names[0], &other)),
    };
    let last = fields.last().map(|last| (last.key.start, last.value.end));
    let gap = Gap::at_end(source, &into.value, last);
    let quoted = source[into.value.clone()].starts_with('{');

    let asked = &setting.path_place;
    let made_up = |text: String, place: &Place| Fragment {
        text,
        place: place.clone(),
    };
    let mut put = vec![made_up(gap.before, asked)];
    for (depth, name) in names.iter().enumerate() {
        let written = match () {
            () if quoted && depth == 0 => format!("\"{name}\": "),
            () if name.contains('-') => format!("r#{name}: "),
            () => format!("{name}: "),
        };
        let open = if depth > 0 { "(" } else { "" };
        put.push(made_up(open.to_owned(), asked));
        put.push(made_up(written, &setting.place_of(names.len() - 1 - depth)));
    }
    put.push(text.fragment(&setting.value));
    put.push(made_up(")".repeat(names.len() - 1) + gap.after, asked));
    text.splice(gap.at..gap.at, put);
    if let Some(at) = gap.comma {
        text.splice(at..at, vec![made_up(",".to_owned(), asked)]);
    }
    Ok(())
}

fn no_fields(source: &str, into: &Located, name: &str, contents: &Contents<'_>) -> Refusal {
    let path = shown(&into.path);
    let (title, help) = match contents {
        Contents::Entries(entries) if name.parse::<usize>().is_ok() => (
            format!("`{path}` has no entry {name}"),
            format!("its {} entries are counted from 0", entries.len()),
        ),
        Contents::Entries(_) => (
            format!("`{path}` is a list, in which nothing is called `{name}`"),
            format!("an entry is named by its index, like `{path}.0`"),
        ),
        _ => (
            format!(
                "`{path}` is `{}`, which has no field `{name}`",
                &source[into.value.clone()]
            ),
            format!("set `{path}` as a whole"),
        ),
    };
    Refusal {
        title,
        label: format!("`{name}` is not in `{path}`"),
        help: Some(help),
    }
}

/// A path as a user writes it, without `stages`.
pub(super) fn shown(path: &[String]) -> String {
    match path {
        [first, rest @ ..] if first == "stages" && !rest.is_empty() => rest.join("."),
        path => path.join("."),
    }
}

/// Where a new field goes into a value, and what stands around it there.
struct Gap {
    /// Where a comma has to be put first.
    comma: Option<usize>,
    at: usize,
    before: String,
    after: &'static str,
}

impl Gap {
    /// The gap before the closing bracket of `value`, whose last field spans `last` (start of its name, end
    /// of its value). Where fields have lines of their own, so has the new one, below all comments.
    fn at_end(source: &str, value: &Range<usize>, last: Option<(usize, usize)>) -> Self {
        let close = source[..value.end].rfind([')', '}']).unwrap_or(value.end);
        let Some((key, end)) = last else {
            return Self {
                comma: None,
                at: close,
                before: String::new(),
                after: "",
            };
        };
        let next = skip_trivia(source, end);
        let (comma, rest) = if source[next..].starts_with(',') {
            (None, &source[next + 1..close])
        } else {
            (Some(end), &source[end..close])
        };
        let at = close - (rest.len() - rest.trim_end().len());
        if !rest.contains('\n') {
            return Self {
                comma,
                at,
                before: " ".to_owned(),
                after: "",
            };
        }
        let line = source[..key].rfind('\n').map_or(0, |at| at + 1);
        let indent = source.len() - line - source[line..].trim_start_matches([' ', '\t']).len();
        let newline = if rest.contains("\r\n") { "\r\n" } else { "\n" };
        let before = format!("{newline}{}", &source[line..line + indent]);
        Self {
            comma,
            at,
            before,
            after: ",",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn edited(source: &str, path: &str, value: &str) -> Result<String, Refusal> {
        let mut text = Text::new(Path::new("g.ron"), source.to_owned());
        let arg = text.write("--set".to_owned(), format!("{path}={value}"));
        let place = |range| Place {
            written: arg.written,
            range,
        };
        let setting = Setting {
            path: path.to_owned(),
            path_place: place(0..path.len()),
            value: place(path.len() + 1..arg.range.end),
            folder: PathBuf::new(),
        };
        set(&mut text, &setting).map(|()| text.source)
    }

    const GRAPH: &str = "Graph(
    stages: (
        // Shards.
        shards: Partition(of: tokens, by: Iid), // two
        fed: Federate(
            rank: 64, // big
            targets: [\"q\"] // last
            // end
        ),
        data: Dataset(files: {\"train\": \"ä.tsv\", }),
    ),
)
";

    #[test]
    fn a_value_is_replaced_and_comments_stay() {
        let new = edited(GRAPH, "fed.rank", "16").unwrap();
        assert_eq!(new, GRAPH.replace("64, // big", "16, // big"));
        let new = edited(GRAPH, "shards.by", "Dirichlet(alpha: 1)").unwrap();
        assert_eq!(new, GRAPH.replace("Iid", "Dirichlet(alpha: 1)"));
        let new = edited(GRAPH, "fed.targets.0", "\"ü\"").unwrap();
        assert_eq!(new, GRAPH.replace("\"q\"", "\"ü\""));
    }

    #[test]
    fn a_field_left_to_its_default_is_put_in() {
        let new = edited(GRAPH, "shards.clients", "10").unwrap();
        assert_eq!(new, GRAPH.replace("by: Iid)", "by: Iid, clients: 10)"));
        let new = edited(GRAPH, "data.files.dev", "\"b\"").unwrap();
        assert_eq!(
            new,
            GRAPH.replace("\"ä.tsv\", }", "\"ä.tsv\", \"dev\": \"b\" }")
        );
        let new = edited(GRAPH, "fed.local.optimizer", "AdamW()").unwrap();
        let below =
            "[\"q\"], // last\n            // end\n            local: (optimizer: AdamW()),\n";
        assert_eq!(
            new,
            GRAPH.replace("[\"q\"] // last\n            // end\n", below)
        );
        assert_eq!(edited("(exact: true) // :)", "seed", "1").unwrap(), "(exact: true, seed: 1) // :)");
        let new = edited(GRAPH, "seed", "3").unwrap();
        assert_eq!(new, GRAPH.replace("    ),\n)", "    ),\n    seed: 3,\n)"));
        assert_eq!(
            edited("(stages: (a: B(),)) // :)", "a.x", "1").unwrap(),
            "(stages: (a: B(x: 1),)) // :)"
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_with_a_reason() {
        let title = |path: &str| edited(GRAPH, path, "1").unwrap_err().title;
        assert_eq!(title("fde.rank"), "no stage is called `fde`");
        assert_eq!(
            title("shards.by.alpha"),
            "`shards.by` is `Iid`, which has no field `alpha`"
        );
        assert_eq!(title("fed.targets.1"), "`fed.targets` has no entry 1");
        assert_eq!(title("fed..rank"), "`` in `stages.fed..rank` is not a name");
        assert_eq!(title("sweep"), "`sweep` itself cannot be set");
        let help = edited(GRAPH, "fde.rank", "1").unwrap_err().help;
        assert_eq!(help.as_deref(), Some("did you mean `fed`?"));
    }

    #[test]
    fn a_field_is_removed_with_its_lines() {
        let source =
            "Graph(\n    extends: \"a\", \n    set: {\n        \"a\": 1 },\n    seed: 1\n)";
        let mut text = Text::new(Path::new("g.ron"), source.to_owned());
        for name in ["extends", "set", "sweep"] {
            remove(&mut text, name);
        }
        assert_eq!(text.source, "Graph(\n    seed: 1\n)");
        let mut text = Text::new(Path::new("g.ron"), "(seed: 1, extends: \"a\")".to_owned());
        remove(&mut text, "extends");
        assert_eq!(text.source, "(seed: 1, )");
    }
}
