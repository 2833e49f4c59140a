//! Whether a file is what the Hub says it is.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// Whether a file's bytes are those that its `ETag` stands for.
///
/// The Hub's is the SHA-256 of a large file, and git's own name (a SHA-1) of a small one. What a
/// mirror makes up instead tells nothing, so it is taken for right.
pub(super) fn is_of(etag: &str, path: &Path) -> io::Result<bool> {
    let is_hex = etag.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut file = File::open(path)?;
    let mut digest = match etag.len() {
        64 if is_hex => Context::new(&SHA256),
        40 if is_hex => {
            let mut blob = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            blob.update(format!("blob {}\0", file.metadata()?.len()).as_bytes());
            blob
        }
        _ => return Ok(true),
    };
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => digest.update(&piece[..n]),
        }
    }
    let mut found = String::new();
    for byte in digest.finish().as_ref() {
        write!(found, "{byte:02x}").expect("a string takes all");
    }
    Ok(found == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::file;

    #[test]
    fn a_large_file_is_known_by_its_sha256_and_a_small_one_by_its_name_in_git() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), "a", "hello\n");
        // What `sha256sum` and `git hash-object` print.
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert!(is_of(sha256, &path).unwrap());
        assert!(is_of(git, &path).unwrap());
        assert!(is_of("made-up-by-a-mirror", &path).unwrap());
        let other = file(folder.path(), "b", "hellO\n");
        assert!(!is_of(sha256, &other).unwrap());
        assert!(!is_of(git, &other).unwrap());
    }
}
