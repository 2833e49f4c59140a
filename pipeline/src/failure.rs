//! How the program ends: exit codes, and what is said when it does not do what was asked.

use crate::ui::style::{BAD, HINT};
use std::fmt;
use std::io::{self, Write};

/// The exit codes, which scripts can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// All that was asked for is done. A reader of the output that went away (a broken pipe) is no failure.
    Done = 0,
    /// A step failed, or something else that is neither of the below.
    StepFailed = 1,
    /// The command line or the graph is wrong; nothing was started.
    Usage = 2,
    /// The store is busy or damaged.
    Store = 3,
    /// The user stopped it (Ctrl-C); the next run takes up where this one stopped.
    Stopped = 130,
}

impl Exit {
    /// The number for the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ends early: what decides the exit code, what is said, and what could help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind, which is the exit code.
    pub kind: Exit,
    /// What went wrong: a sentence without its full stop, names in backticks, no colour.
    pub message: String,
    /// What the user could do, one sentence each.
    pub hints: Vec<String>,
    drawing: Option<String>,
}

impl Failure {
    /// A failure of a kind, to be told in one sentence.
    pub fn new(kind: Exit, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
            drawing: None,
        }
    }

    /// The command line or the graph is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// The store is busy or damaged.
    pub fn store(message: impl Into<String>) -> Self {
        Self::new(Exit::Store, message)
    }

    /// A step failed.
    pub fn step(message: impl Into<String>) -> Self {
        Self::new(Exit::StepFailed, message)
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Shows this drawing (with its own `error:` titles and with colours) in the sentence's place.
    #[must_use]
    pub fn drawn(mut self, drawing: String) -> Self {
        self.drawing = Some(drawing);
        self
    }

    /// Whether nothing went wrong but that no one reads on.
    pub fn is_quiet(&self) -> bool {
        self.kind == Exit::Done
    }

    /// Writes what a user gets to see, with colours; a stream that takes none is to strip them.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(self.shown().as_bytes())
    }

    fn shown(&self) -> String {
        if self.is_quiet() {
            return String::new();
        }
        let mut lines = vec![match &self.drawing {
            Some(drawing) => drawing.clone(),
            None => format!("{BAD}error{BAD:#}: {}", self.message),
        }];
        if !self.hints.is_empty() {
            lines.push(String::new());
        }
        lines.extend(
            self.hints
                .iter()
                .map(|hint| format!("{HINT}hint{HINT:#}: {hint}")),
        );
        lines.join("\n") + "\n"
    }

    /// What [`Failure::write`] writes, without colours.
    pub fn plain(&self) -> String {
        anstream::adapter::strip_str(&self.shown()).to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    /// Keeps a failure that was wrapped, with what was said on top of it. A broken pipe is a quiet end.
    fn from(error: anyhow::Error) -> Self {
        let broken = error.chain().filter_map(|e| e.downcast_ref::<io::Error>());
        if broken
            .into_iter()
            .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
        {
            return Self::new(Exit::Done, "");
        }
        let message = format!("{error:#}");
        let error = match error.downcast::<Self>() {
            Ok(failure) if failure.drawing.is_some() => return failure,
            Ok(failure) => return Self { message, ..failure },
            Err(error) => error,
        };
        let error = match error.downcast::<stages::Error>() {
            Ok(error) => return Self { message, ..error.into() },
            Err(error) => error,
        };
        match error.downcast::<artifacts::Error>() {
            Ok(error) => Self { message, ..error.into() },
            Err(_) => Self::step(message),
        }
    }
}

impl From<stages::Error> for Failure {
    /// Wrong input is the user's to mend, the store's own troubles are the store's, and the rest is a step's.
    fn from(error: stages::Error) -> Self {
        let failure = Self::new(kind(&error), error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The exit code that an error of the stages means.
pub fn kind(error: &stages::Error) -> Exit {
    match error {
        stages::Error::Input { .. } => Exit::Usage,
        stages::Error::Stopped => Exit::Stopped,
        stages::Error::Store(error) if error.is_store_problem() => Exit::Store,
        _ => Exit::StepFailed,
    }
}

impl From<artifacts::Error> for Failure {
    fn from(error: artifacts::Error) -> Self {
        stages::Error::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_sentence_then_hints_after_a_blank_line() {
        let failure =
            Failure::store("the store `.fedpipe` is in use").hint("wait for the other run");
        assert_eq!(
            failure.plain(),
            "error: the store `.fedpipe` is in use\n\nhint: wait for the other run\n"
        );
        assert_eq!(failure.kind.code(), 3);
    }

    #[test]
    fn context_keeps_the_kind_and_the_hints() {
        let inner = Failure::usage("no stage is called `x`").hint("look again");
        let outer: Failure = anyhow::Error::new(inner)
            .context("cannot plan `g.ron`")
            .into();
        assert_eq!(outer.kind, Exit::Usage);
        assert_eq!(outer.message, "cannot plan `g.ron`: no stage is called `x`");
        assert_eq!(outer.hints, ["look again"]);
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let pipe: io::Result<()> = Err(io::ErrorKind::BrokenPipe.into());
        let failure: Failure = pipe.context("cannot write").unwrap_err().into();
        assert_eq!(failure.kind, Exit::Done);
        assert_eq!(failure.plain(), "");
        let other: Failure = anyhow::anyhow!("no").into();
        assert_eq!(other.kind, Exit::StepFailed);
    }
}
