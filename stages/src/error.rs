//! What can go wrong in a step, told so that a person can act on it.

use std::{io, path::PathBuf};

use crate::{evaluate::EvaluateError, local_train::TrainError, peft::CoreError};

/// Why a step, or the check before it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's input is wrong; a run that meets it ends with exit code 2. The message names the
    /// file or field, the hint is the mend.
    #[error("{message}")]
    Input {
        /// A sentence without its full stop.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `list`.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The work itself failed; exit code 1.
    #[error("{message}")]
    Failed {
        /// A sentence without its full stop.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The user asked to stop; nothing of the step is kept.
    #[error("stopped")]
    Stopped,
    /// The store refused.
    #[error(transparent)]
    Store(#[from] artifacts::Error),
}

/// A result whose error is [`enum@Error`] unless said otherwise.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wrong input, with the sentence that says what is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input { message: message.into(), hint: None }
    }

    /// Failed work, with the sentence that says how.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }

    /// A refused file operation.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// The same error with the mend beside it, where this kind of error has room for one.
    #[must_use]
    pub fn with_hint(mut self, mend: impl Into<String>) -> Self {
        if let Self::Input { hint, .. } | Self::Failed { hint, .. } = &mut self {
            *hint = Some(mend.into());
        }
        self
    }

    /// The mend, if one is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Input { hint, .. } | Self::Failed { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}

/// What a part of the work says of the user's input.
macro_rules! from_input {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::input(error.to_string())
            }
        })*
    };
}

from_input!(
    crate::model::ConfigError,
    crate::model::LoraError,
    crate::model::WeightsError,
    crate::privacy::PrivacyError,
);

/// What a part of the work says of files that fedpipe wrote itself, or of the work.
macro_rules! from_failure {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::failed(error.to_string())
            }
        })*
    };
}

from_failure!(
    crate::aggregate::AggregateError,
    crate::codec::CodecError,
    crate::peft::AdapterError,
    crate::token_set::TokenSetError,
);

impl From<CoreError> for Error {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Stopped => Self::Stopped,
            other => Self::input(other.to_string()),
        }
    }
}

impl From<TrainError> for Error {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Stopped => Self::Stopped,
            TrainError::Prefix(error) => error.into(),
            TrainError::NotFinite { .. } | TrainError::Device(_) => Self::failed(error.to_string()),
            other => Self::input(other.to_string()),
        }
    }
}

impl From<EvaluateError> for Error {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Stopped => Self::Stopped,
            EvaluateError::Prefix(error) => error.into(),
            EvaluateError::NotFinite { .. } | EvaluateError::Device(_) => {
                Self::failed(error.to_string())
            }
            other => Self::input(other.to_string()),
        }
    }
}
