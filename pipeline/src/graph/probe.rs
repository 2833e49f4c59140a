//! Asks the RON reader what it would have taken, by showing it something that it cannot know: its
//! error then lists the names that it does know.

use super::edit::ticked;
use super::locate::Located;
use super::{Graph, options};
use ron::error::Error;
use serde::de::DeserializeOwned;

/// The fields of the value `inside` that are not written. The reader names but the first that is missing;
/// it lists all of them on meeting one that it does not know, so it is shown such a one.
pub(super) fn still_open<N: DeserializeOwned>(source: &str, inside: &Located) -> Vec<&'static str> {
    let Some(open) = source[inside.value.clone()].find('(') else {
        return Vec::new();
    };
    let mut probe = source.to_owned();
    probe.insert_str(inside.value.start + open + 1, "not_a_field: (), ");
    match options()
        .from_str::<Graph<N>>(&probe)
        .map_err(|error| error.code)
    {
        Err(Error::NoSuchStructField {
            expected, found, ..
        }) if found == "not_a_field" => {
            let written = inside.children(source);
            let is_written = |name: &str| {
                written
                    .iter()
                    .any(|c| c.path.last().is_some_and(|n| n == name))
            };
            expected
                .iter()
                .copied()
                .filter(|name| !is_written(name))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The names that could stand in the place of `value`, found by showing the reader one it cannot know.
pub(super) fn choices<N: DeserializeOwned>(source: &str, value: &Located) -> Option<String> {
    let mut probe = source.to_owned();
    probe.replace_range(value.value.clone(), "not_a_name");
    match options()
        .from_str::<Graph<N>>(&probe)
        .map_err(|error| error.code)
    {
        Err(Error::NoSuchEnumVariant {
            expected, found, ..
        }) if found == "not_a_name" => Some(format!("choose one of: {}", ticked(expected))),
        _ => {
            let bare = source[value.value.clone()].trim_matches('"');
            is_bare(bare).then(|| format!("did you mean `{bare}`?"))
        }
    }
}

/// Whether this is a name as it is, with no quotes and no brackets.
pub(super) fn is_bare(written: &str) -> bool {
    written.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && written.chars().all(|c| c.is_alphanumeric() || c == '_')
}
