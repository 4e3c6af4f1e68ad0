//! What those outside are told of a run: that it has ended, or needs a person.

use serde::{Deserialize, Serialize};

use super::body::to_bytes;
use super::outgoing::{Outgoing, OutgoingKind, Said};
use super::row::Kind;
use super::run::Run;

/// Where what is told stands among the messages of its row.
const TO_LISTENERS: i16 = -2;

/// Who asked at a start to be told of the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Where it is posted.
    pub url: String,
    /// The name of the secret that signs it; none: the cluster's public key alone does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether output and error go with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payloads: bool,
}

/// Of which ends, and of pauses, somebody wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Listened(u8);

impl Listened {
    /// Adds what a row of this kind says; what nobody is told of is left out.
    pub fn add(&mut self, kind: Kind) {
        self.0 |= bit(kind);
    }

    /// Whether somebody wants to be told of it.
    #[must_use]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 & bit(kind) != 0
    }
}

const fn bit(kind: Kind) -> u8 {
    match kind {
        Kind::Paused => 1,
        Kind::Completed => 2,
        Kind::EndFailed => 4,
        Kind::Cancelled => 8,
        Kind::TimedOut => 16,
        Kind::Terminated => 32,
        _ => 0,
    }
}

/// What is told. Which run and row it is about is known from where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    /// The kind of the row.
    pub what: i16,
    /// The run had ended before, and was reopened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopened: bool,
    /// Who is told beside those who are told of everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
}

impl Run {
    /// Says that the run has ended, if somebody listens.
    pub(super) fn tell_of_end(&mut self) {
        let Some(end) = self.next.rows.last().filter(|r| r.kind.ends()) else { return };
        let (n, kind) = (end.n, end.kind);
        if self.listened.has(kind) || !self.created.on_complete.is_empty() {
            let hooks = self.created.on_complete.clone();
            self.tell(n, Telling { what: kind.code(), reopened: self.was_reopened, hooks });
        }
    }

    /// Says that the run needs a person, if somebody listens.
    pub(super) fn tell_of_pause(&mut self) {
        if !self.listened.has(Kind::Paused) {
            return;
        }
        // One that stays paused and parks anew has told so before.
        let new = |n: &i32| self.next.rows.iter().any(|r| r.n == *n);
        if let Some(n) = self.paused_since.filter(new) {
            let (what, reopened) = (Kind::Paused.code(), self.was_reopened);
            self.tell(n, Telling { what, reopened, hooks: Vec::new() });
        }
    }

    fn tell(&mut self, n: i32, telling: Telling) {
        let (k, kind) = (TO_LISTENERS, OutgoingKind::Tell);
        let body = to_bytes(&Said::Tell(telling));
        self.next.outbox.push(Outgoing { n, k, kind, to: None, body });
    }
}
