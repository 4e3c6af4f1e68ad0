//! What goes wrong at the exchanges of a run, and with which cases on which transport.

use crate::protocol::Transport;

/// What goes wrong at every exchange of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    Plain,
    /// What is said is lost on its way, answers or acknowledgements.
    Lost,
    /// An epoch is over before its handler knows.
    Stale,
    /// Each body arrives in pieces, with pauses, and waiting takes too long.
    Slow,
    /// Each body breaks off half-way, and the invocation is repeated.
    Cut,
    /// The handler is asked to finish as soon as it has said something.
    Leave,
}

impl Mode {
    /// How it is told in reports.
    pub(super) const fn suffix(self, on: Transport) -> &'static str {
        match (self, on) {
            (Self::Plain, _) => "",
            (Self::Lost, Transport::Respond) => " (each answer lost)",
            (Self::Lost, Transport::Checkpoint) => " (each acknowledgement lost)",
            (Self::Lost, Transport::Stream) => " (all lines lost)",
            (Self::Lost, Transport::Duplex) => " (connection lost before an acknowledgement)",
            (Self::Stale, Transport::Respond) => " (old invocations repeated)",
            (Self::Stale, Transport::Stream) => " (cut after each first line)",
            (Self::Stale, _) => " (epoch over after its first acknowledgement)",
            (Self::Slow, _) => " (slow bodies)",
            (Self::Cut, _) => " (bodies cut off)",
            (Self::Leave, _) => " (asked to finish)",
        }
    }
}

/// In which modes a case is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// As it is.
    Plain,
    /// With this alone.
    With(&'static [Mode]),
    /// Its work goes on after a 202.
    Held,
    /// What is said depends on nothing but what is shown: in all.
    All,
    /// It fetches: what is of an old epoch fetches nothing any more.
    Fetching,
    /// It has state of its own outside of the journal.
    Stateful,
    /// It runs a step at most once.
    Licensed,
    /// The same, and what interrupts that.
    Interrupted,
}

impl Spread {
    pub(super) const fn modes(self, on: Transport) -> &'static [Mode] {
        use Mode::{Cut, Leave, Lost, Plain, Slow, Stale};
        let asked = matches!(on, Transport::Checkpoint | Transport::Duplex);
        match self {
            Self::Plain => &[Plain],
            Self::With(modes) => modes,
            Self::Held => &[Plain, Lost, Slow],
            Self::All | Self::Fetching if asked => &[Plain, Lost, Stale, Slow, Cut, Leave],
            Self::Fetching if matches!(on, Transport::Respond) => &[Plain, Lost, Slow, Cut],
            Self::All | Self::Fetching => &[Plain, Lost, Stale, Slow, Cut],
            Self::Stateful if asked => &[Plain, Stale, Slow, Leave],
            Self::Stateful | Self::Licensed => &[Plain, Slow],
            Self::Interrupted if matches!(on, Transport::Respond) => &[Lost],
            Self::Interrupted if asked => &[Stale, Leave],
            Self::Interrupted => &[Stale],
        }
    }
}
