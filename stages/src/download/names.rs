//! Which names can go into paths of the cache and into URLs.

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

/// Refuses a file name that `hf-hub` cannot fetch, or that leads out of the repository.
pub(super) fn check_file(repo: &str, name: &str) -> Result<()> {
    let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    // `hf-hub` puts the name into the URL as it is.
    let plain = |c: char| c.is_ascii_graphic() && !"?#%\\\"<>{}|^`".contains(c);
    if name.is_empty() || !inside || !name.chars().all(plain) {
        return Err(Error::input(format!(
            "`{repo}` has a file `{name}`, a name that cannot be fetched"
        ))
        .with_hint("download the repository by other means, and name its folder with `folder:`"));
    }
    Ok(())
}
