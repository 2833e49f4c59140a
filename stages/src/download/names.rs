//! Which names can go into paths of the cache and into URLs.

use std::fmt::Write as _;
use std::path::{Component, Path};

use crate::{Error, Result};

/// Refuses what cannot be a repository or a revision.
pub(super) fn check_repository(repo: &str, revision: &str) -> Result<()> {
    let plain = |part: &str, more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    if repo.split('/').count() > 2 || !repo.split('/').all(|part| plain(part, "")) {
        let error = Error::input(format!("`{repo}` is no repository of the Hub"));
        return Err(error.with_hint("write `owner/name`, as in the address of its page"));
    }
    if !revision.split('/').all(|part| plain(part, "+@=")) {
        let error = Error::input(format!("`{revision}` is no revision of `{repo}`"));
        return Err(error.with_hint("a branch, a tag or a commit hash, such as `main`"));
    }
    Ok(())
}

/// Refuses a file name that leads out of the repository.
pub(super) fn check_file(repo: &str, name: &str) -> Result<()> {
    let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !is_inside || name.contains('\\') {
        return Err(Error::input(format!(
            "`{repo}` has a file `{name}`, a name that cannot be fetched"
        ))
        .with_hint("download the repository by other means, and name its folder with `folder:`"));
    }
    Ok(())
}

/// A name as it stands in an address, its slashes kept unless `slash` says how they are written.
pub(super) fn escape(name: &str, slash: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        match byte {
            b'/' => escaped += slash,
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => escaped.push(b.into()),
            other => {
                write!(escaped, "%{other:02X}").expect("a string takes all");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_inside_are_taken() {
        for repo in ["../x", "a/b/c", "", "a b", "a/.b", "a/"] {
            assert!(check_repository(repo, "main").is_err(), "{repo}");
        }
        assert!(check_repository("a", "../../x").is_err());
        assert!(check_repository("owner/name", "refs/pr/1").is_ok());
        for name in ["", "../x", "/x", "a/../../x", "a\\x"] {
            assert!(check_file("a", name).is_err(), "{name}");
        }
        assert!(check_file("a", "data/my file.csv").is_ok());
    }

    #[test]
    fn names_are_escaped_in_addresses() {
        assert_eq!(escape("a b/ü#?%.csv", "/"), "a%20b/%C3%BC%23%3F%25.csv");
        assert_eq!(escape("refs/pr/1", "%2F"), "refs%2Fpr%2F1");
    }
}
