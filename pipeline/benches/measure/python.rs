//! The Python of the peers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The variable that names the folder that `peers/peft_env.sh` made.
const VARIABLE: &str = "FEDPIPE_PEERS";

/// A Python with torch, transformers, peft and flwr.
pub(crate) struct Python(PathBuf);

impl Python {
    /// The Python of `$FEDPIPE_PEERS`; where it is not set, says that there will be no comparison.
    #[expect(clippy::disallowed_methods, reason = "a benchmark is not fedpipe")]
    #[expect(clippy::print_stdout, reason = "a benchmark says what it leaves out")]
    pub(crate) fn find() -> Option<Self> {
        let Some(folder) = std::env::var_os(VARIABLE) else {
            println!(
                "{VARIABLE} is not set, so fedpipe runs alone (see pipeline/benches/peers/README.md)"
            );
            return None;
        };
        // Relative paths start at the repository, where cargo is called.
        let python =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join("bin/python");
        assert!(python.exists(), "{VARIABLE} names a folder without `bin/python`");
        Some(Self(python))
    }

    /// A program of `benches/peers`, which knows nothing of the network.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command
            .arg("-B")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name));
        command.envs([
            ("HF_HUB_OFFLINE", "1"),
            ("TOKENIZERS_PARALLELISM", "false"),
            ("TRANSFORMERS_VERBOSITY", "error"),
            ("TQDM_DISABLE", "1"),
        ]);
        command
    }

    /// `torch 2.15.0, peft 0.21.2`, say.
    pub(crate) fn versions(&self, packages: &[&str]) -> String {
        let script = "import sys, importlib.metadata as m; print(*[p + ' ' + m.version(p) for p in sys.argv[1:]], sep=', ')";
        let output = Command::new(&self.0).args(["-c", script]).args(packages).output();
        let output = output.unwrap_or_else(|error| panic!("Python does not start: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
