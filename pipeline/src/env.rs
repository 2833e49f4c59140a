//! Every environment variable that fedpipe reads, each read here and nowhere else.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the store, where `--store` does not name one.
pub const FEDPIPE_STORE: &str = "FEDPIPE_STORE";
/// The folder of Hugging Face's own things, by default `~/.cache/huggingface`.
pub const HF_HOME: &str = "HF_HOME";
/// The folder of downloaded models and data, by default `hub` in `HF_HOME`.
pub const HF_HUB_CACHE: &str = "HF_HUB_CACHE";
/// The access token; by default what the file `token` in `HF_HOME` holds.
pub const HF_TOKEN: &str = "HF_TOKEN";
/// The server to download from, by default `https://huggingface.co`.
pub const HF_ENDPOINT: &str = "HF_ENDPOINT";
/// Whether to download nothing: `1`, `true`, `yes` or `on`.
pub const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";
/// The folder of what was compiled for GPUs, by default `fedpipe/kernels` in the folder of all caches.
pub const FEDPIPE_KERNELS: &str = "FEDPIPE_KERNELS";
/// If set to anything, no colours: <https://no-color.org>.
pub const NO_COLOR: &str = "NO_COLOR";
/// If set to anything but `0`, colours also where there is no terminal.
pub const CLICOLOR_FORCE: &str = "CLICOLOR_FORCE";
/// If set (and not `false` or `0`), no bars.
pub const CI: &str = "CI";
/// What developers want logged.
pub const RUST_LOG: &str = "RUST_LOG";
/// The width of the terminal, in characters.
pub const COLUMNS: &str = "COLUMNS";
/// The folder of all caches, by default `~/.cache`.
pub const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
/// The user's own folder.
pub const HOME: &str = "HOME";

const ENDPOINT: &str = "https://huggingface.co";

/// What the environment says, read once at the start. It holds the token, so it has no `Debug`.
#[derive(Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the variables are independent switches")]
pub struct Env {
    /// [`FEDPIPE_STORE`].
    pub store: Option<PathBuf>,
    /// [`HF_HOME`] or its default; in the current folder where no home is known.
    pub hf_home: PathBuf,
    /// [`HF_HUB_CACHE`] or its default.
    pub hub_cache: PathBuf,
    /// [`HF_TOKEN`], or else the content of the token file.
    pub token: Option<String>,
    /// [`HF_ENDPOINT`] or its default, with no slash at its end.
    pub endpoint: String,
    /// [`HF_HUB_OFFLINE`].
    pub offline: bool,
    /// [`FEDPIPE_KERNELS`] or its default.
    pub kernels: PathBuf,
    /// [`NO_COLOR`].
    pub no_color: bool,
    /// [`CLICOLOR_FORCE`].
    pub color_forced: bool,
    /// [`CI`].
    pub ci: bool,
    /// [`RUST_LOG`].
    pub log: Option<String>,
    /// [`COLUMNS`].
    pub columns: Option<usize>,
}

impl Env {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn read() -> Self {
        Self::from(|name| std::env::var_os(name))
    }

    /// Reads an environment through `look_up`. A variable that is empty counts as not set.
    pub fn from(look_up: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let path = |name: &str| get(name).map(PathBuf::from);
        let text = |name: &str| get(name).map(|value| value.to_string_lossy().trim().to_owned());

        let cache =
            path(XDG_CACHE_HOME).unwrap_or_else(|| path(HOME).unwrap_or_default().join(".cache"));
        let hf_home = path(HF_HOME).unwrap_or_else(|| cache.join("huggingface"));
        let hub_cache = path(HF_HUB_CACHE).unwrap_or_else(|| hf_home.join("hub"));
        let token = text(HF_TOKEN).or_else(|| token_file(&hf_home));
        let endpoint = text(HF_ENDPOINT).unwrap_or_else(|| ENDPOINT.to_owned());
        Self {
            store: path(FEDPIPE_STORE),
            hf_home,
            hub_cache,
            token,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            offline: text(HF_HUB_OFFLINE).is_some_and(|value| is_yes(&value)),
            kernels: path(FEDPIPE_KERNELS).unwrap_or_else(|| cache.join("fedpipe/kernels")),
            no_color: get(NO_COLOR).is_some(),
            color_forced: text(CLICOLOR_FORCE).is_some_and(|value| value != "0"),
            ci: text(CI).is_some_and(|value| value != "0" && value != "false"),
            log: text(RUST_LOG),
            columns: text(COLUMNS).and_then(|value| value.parse().ok()),
        }
    }
}

/// The token that `huggingface-cli login` left; no file is no token.
fn token_file(home: &Path) -> Option<String> {
    let token = fs::read_to_string(home.join("token")).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn is_yes(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(set: &[(&str, &str)]) -> Env {
        Env::from(|name| {
            set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn defaults_follow_from_the_folders_that_are_known() {
        assert_eq!(env(&[]).hub_cache, Path::new(".cache/huggingface/hub"));
        let home = env(&[(HOME, "/h"), (HF_ENDPOINT, "https://mirror/")]);
        assert_eq!(home.hub_cache, Path::new("/h/.cache/huggingface/hub"));
        assert_eq!(home.endpoint, "https://mirror");
        assert_eq!(home.kernels, Path::new("/h/.cache/fedpipe/kernels"));
        let set = env(&[(HOME, "/h"), (XDG_CACHE_HOME, "/x"), (HF_HUB_CACHE, "/c")]);
        assert_eq!(set.kernels, Path::new("/x/fedpipe/kernels"));
        assert_eq!(set.hf_home, Path::new("/x/huggingface"));
        assert_eq!(set.hub_cache, Path::new("/c"));
        assert_eq!(set.endpoint, ENDPOINT);
    }

    #[test]
    fn the_token_is_found_in_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(env(&[(HF_HOME, home)]).token.as_deref(), Some("hf_file"));
        let both = env(&[(HF_HOME, home), (HF_TOKEN, "hf_var")]);
        assert_eq!(both.token.as_deref(), Some("hf_var"));
    }

    #[test]
    fn switches_take_the_usual_words() {
        assert!(env(&[(HF_HUB_OFFLINE, "YES")]).offline);
        assert!(!env(&[(HF_HUB_OFFLINE, "0")]).offline);
        assert!(!env(&[(NO_COLOR, "")]).no_color);
        assert!(!env(&[(CI, "false")]).ci && env(&[(CI, "true")]).ci);
    }
}
