//! How a command fails, what is said about it, and its exit code.

use std::fmt::Write as _;
use std::io;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::model::probe_lines;
use super::output::plain;

/// The exit codes. Scripts rely on them: they do not change.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Anything that has no code of its own.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong; nothing was sent.
    pub const USAGE: u8 = 2;
    /// There is no such run, endpoint, function or key.
    pub const NOT_FOUND: u8 = 3;
    /// No API key, a wrong one, or one without the scope.
    pub const AUTH: u8 = 4;
    /// The state of things does not allow it.
    pub const CONFLICT: u8 = 5;
    /// What was waited for did not come in time.
    pub const TIMED_OUT: u8 = 6;
    /// The awaited run ended and did not complete.
    pub const RUN_FAILED: u8 = 10;
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The arguments are wrong; nothing was sent.
    Usage(String),
    /// No connection, or it broke.
    Unreachable { url: String, reason: String },
    /// The gateway refused, and said why.
    Problem(Box<Problem>),
    /// Something else answered, or the gateway in a way that this version does not know.
    Unexpected(String),
    /// No such thing, found out without a problem document.
    NotFound(String),
    /// It did not happen in time.
    TimedOut(String),
    /// The awaited run ended otherwise than completed.
    RunFailed(String),
    /// New code does not do what a recorded run did.
    Diverged(String),
    /// The user was asked and said no.
    Declined,
    /// Standard output or a file could not be used.
    Io(io::Error),
}

/// An RFC 9457 document of the API.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    pub(super) status: u16,
    #[serde(default)]
    pub(super) code: String,
    #[serde(default)]
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: Option<String>,
    #[serde(default)]
    pub(super) request_id: Option<String>,
    #[serde(default)]
    pub(super) errors: Vec<Fault>,
    /// What a probe of an endpoint found, where it is about one.
    #[serde(default)]
    pub(super) probe: Option<Box<RawValue>>,
    /// Seconds from the `Retry-After` header; not in the document.
    #[serde(skip)]
    pub(super) retry_after: Option<String>,
}

/// One fault of a request, and where it is.
#[derive(Debug, Deserialize)]
pub(super) struct Fault {
    #[serde(default)]
    pub(super) pointer: String,
    #[serde(default)]
    pub(super) detail: String,
}

impl Failure {
    /// The process's exit code.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::NotFound(_) => exit::NOT_FOUND,
            Self::TimedOut(_) => exit::TIMED_OUT,
            Self::RunFailed(_) => exit::RUN_FAILED,
            Self::Problem(problem) => problem.exit_code(),
            Self::Io(_) if self.is_broken_pipe() => exit::OK,
            Self::Unreachable { .. }
            | Self::Unexpected(_)
            | Self::Diverged(_)
            | Self::Declined
            | Self::Io(_) => exit::FAILURE,
        }
    }

    /// Whether the reader of our output went away, which is no error (`stepwell run list | head`).
    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether asking again may help: the gateway is away, starting, or sheds load.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Problem(problem) => matches!(problem.status, 429 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// What to tell the user: one line or several, without a line end.
    pub(super) fn message(&self) -> String {
        match self {
            Self::Usage(text)
            | Self::Unexpected(text)
            | Self::Diverged(text)
            | Self::NotFound(text)
            | Self::TimedOut(text)
            | Self::RunFailed(text) => plain(text),
            Self::Unreachable { url, reason } => format!(
                "cannot reach the gateway at {url}: {}\n  Is it running? Start one with \
                 `stepwell dev`, or name another with --url or STEPWELL_URL.",
                plain(reason)
            ),
            Self::Problem(problem) => problem.message(),
            Self::Declined => "nothing was done".to_owned(),
            Self::Io(error) => error.to_string(),
        }
    }
}

impl Problem {
    fn exit_code(&self) -> u8 {
        match (self.status, self.code.as_str()) {
            (_, "run-failed") => exit::RUN_FAILED,
            (401 | 403, _) => exit::AUTH,
            (404, _) => exit::NOT_FOUND,
            (409 | 410 | 412 | 428, _) => exit::CONFLICT,
            (408 | 504, _) => exit::TIMED_OUT,
            _ => exit::FAILURE,
        }
    }

    fn message(&self) -> String {
        let what = self.detail.as_deref().filter(|d| !d.is_empty()).unwrap_or(&self.title);
        let mut text = format!("{} ({})", plain(what), plain(&self.code));
        for fault in &self.errors {
            let at = if fault.pointer.is_empty() { "#" } else { &fault.pointer };
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  at {}: {}", plain(at), plain(&fault.detail));
        }
        for line in self.probe.iter().flat_map(|probe| probe_lines(probe.get())) {
            let _ = write!(text, "\n  {}", plain(&line));
        }
        if self.status == 401 {
            text.push_str("\n  Give an API key with --api-key or STEPWELL_API_KEY.");
        }
        if let Some(seconds) = &self.retry_after {
            let _ = write!(text, "\n  try again in {} s", plain(seconds));
        }
        if let Some(id) = &self.request_id {
            let _ = write!(text, "\n  request {}", plain(id));
        }
        text
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
