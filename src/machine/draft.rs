//! A journal row in the making: what it says first, its place in the log last.

use bytes::Bytes;

use super::row::{Flags, Kind, Message, OpKind, Row};
use super::run::Run;
use super::time::Timestamp;

/// A row before it has its place in the log.
pub(super) struct Draft(Row);

impl Draft {
    pub(super) fn new(kind: Kind, flags: i16) -> Self {
        Self(Row {
            n: 0,
            kind,
            flags: Flags(flags),
            seq: 0,
            epoch: 0,
            cp: 0,
            ms: 0,
            dep: 0,
            at: Timestamp::default(),
            due: None,
            refer: None,
            step: String::new(),
            body: None,
            pos: 0,
        })
    }
    pub(super) fn step(mut self, id: &str, op: OpKind) -> Self {
        id.clone_into(&mut self.0.step);
        self.0.flags.set(Flags::of(op).0);
        self
    }
    pub(super) fn due(mut self, due: Option<Timestamp>) -> Self {
        self.0.due = due;
        self
    }
    pub(super) fn body(mut self, body: Bytes) -> Self {
        self.0.body = Some(body);
        self
    }
    pub(super) fn ms(mut self, ms: i32) -> Self {
        self.0.ms = ms;
        self
    }
    pub(super) fn refer(mut self, id: uuid::Uuid) -> Self {
        self.0.refer = Some(id);
        self
    }
    /// The row takes this message out of the inbox.
    pub(super) fn took(self, m: &Message) -> Self {
        self.taking(m.id.uuid(), m.pos)
    }
    /// The row takes a message; `pos` is 0 where it has left the inbox before.
    pub(super) fn taking(mut self, id: uuid::Uuid, pos: i32) -> Self {
        self.0.refer = Some(id);
        self.0.pos = pos;
        self
    }
    /// Gives the row its place, lets the run evolve by it and keeps it for the next append.
    pub(super) fn put(mut self, run: &mut Run, at: Timestamp) {
        self.0.n = run.n;
        self.0.seq = match self.0.kind {
            Kind::Continued => 0,
            kind => run.seq + i32::from(kind.settles()),
        };
        self.0.epoch = run.epoch.max(run.row_epoch);
        self.0.dep = run.dep;
        if self.0.flags.has(Flags::HANDLER) {
            self.0.cp = run.reporting;
        }
        // A clock that was set right may go back a little; time along a journal does not.
        self.0.at = at.max(run.last_at);
        // What this module writes it can read: a row that could not be evolved would be a bug
        // here, and the property tests replay every row ever recorded.
        let read = run.evolve(&self.0);
        debug_assert!(read.is_ok(), "{read:?}");
        run.next.rows.push(self.0);
    }
}
