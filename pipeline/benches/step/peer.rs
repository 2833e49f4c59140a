//! `peers/step.py`, which waits with its model loaded until it is asked for steps.

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use serde::Deserialize;

use crate::python::Python;

/// One running program.
pub(crate) struct Peer {
    child: Child,
    /// Closed to end the program.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

/// What some steps took, and their losses.
#[derive(Deserialize)]
pub(crate) struct Steps {
    /// Seconds of each step.
    pub(crate) seconds: Vec<f64>,
    /// The loss before each step.
    pub(crate) losses: Vec<f64>,
}

impl Peer {
    /// Starts the program on the problem in `folder`.
    pub(crate) fn start(python: &Python, folder: &Path, mode: &str, threads: usize) -> Self {
        let mut command = python.program("step.py");
        command.arg(folder).args(["--mode", mode, "--threads", &threads.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().expect("the output is a pipe"));
        Self { child, to, from }
    }

    /// Has `n` steps done.
    pub(crate) fn steps(&mut self, n: usize) -> Steps {
        writeln!(self.to.as_mut().expect("the program is running"), "{n}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the peer said {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.to.take());
        drop(self.child.wait());
    }
}
