//! How a run ends: gated by its inbox, so that no accepted signal is lost at the end.

use super::apply::{Env, REFUSED_ENDS, Refusal};
use super::body::{Noted, to_bytes};
use super::draft::Draft;
use super::row::{Append, Flags, Kind, Message, MessageKind};
use super::run::{End, Reason, Run, Turn};
use super::time::Timestamp;

impl Run {
    /// The moment at which the run ends if nothing else ends it.
    pub(super) fn latest_end(&self) -> Option<Timestamp> {
        let cancelled = self.cancel.as_ref().map(|c| c.deadline);
        self.deadline.into_iter().chain(cancelled).chain(self.start_by()).min()
    }

    /// The moment by which it must have been invoked, as long as it has not.
    pub(super) fn start_by(&self) -> Option<Timestamp> {
        // A run that was read back may have been invoked for nothing.
        let within = self.created.start_within.filter(|_| self.started_at.is_none())?;
        Some(self.created.start_at.map_or(self.created_at, |at| at.max(self.created_at)) + within)
    }

    /// Records an end, of the run or of its generation; the append is gated when it is sealed.
    pub(super) fn end(&mut self, end: End, env: &Env<'_>) {
        if end.kind == Kind::Continued {
            self.continue_as_new(&end, env);
            self.held_end = Some(end);
            return;
        }
        let flags = if end.holdable { Flags::HANDLER } else { 0 };
        let mut draft = Draft::new(end.kind, flags).ms(end.ms);
        if let Some(body) = &end.body {
            draft = draft.body(body.clone());
        }
        draft.put(self, env.now);
        self.held_end = Some(end);
    }

    /// The append with the end lost: messages had come. Its other rows are recorded all the same,
    /// then the messages, and the end again unless one of them was a signal that it had not seen.
    pub(super) fn gate_lost(
        &mut self,
        append: Append,
        messages: &[Message],
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        let last = append.rows.iter().rfind(|r| r.kind.ends() || r.kind == Kind::Continued);
        let Some((kind, cp)) = last.map(|r| (r.kind, r.cp)) else { return Err(Refusal::NotDue) };
        if kind == Kind::Continued && self.before.is_none() {
            return Err(Refusal::NotDue);
        }
        let Some(end) = self.held_end.take() else { return Err(Refusal::NotDue) };
        match self.before.take() {
            Some(before) if kind == Kind::Continued => self.undo(*before),
            _ => self.without_end(append),
        }
        self.turn = Turn::Due { reason: Reason::Retry, not_before: env.past };
        let signalled = messages
            .iter()
            .any(|m| m.kind == MessageKind::Signal && !self.seen.contains(&m.id.uuid()));
        let knew = self.cancel.is_some();
        self.drain(messages, env);
        if self.ended() {
            return Ok(());
        }
        if end.holdable && self.cancel.is_some() && !knew {
            // The cancel came while the end was on its way: compensation comes first.
            self.turn = Turn::Due { reason: Reason::Cancel, not_before: env.past };
        } else if end.holdable && signalled && self.refused < REFUSED_ENDS && !self.is_plain() {
            self.refuse_end(env);
            self.end_hold(env);
        } else {
            self.reporting = cp;
            self.end(end, env);
            self.reporting = 0;
        }
        Ok(())
    }

    /// The other rows of an append that lost with an end wait to be appended again.
    fn without_end(&mut self, append: Append) {
        let Append { mut rows, attributes, logs, mut history, mut outbox, .. } = append;
        rows.retain(|r| !r.kind.ends());
        if let Some(head) = rows.first_mut() {
            head.flags.clear(Flags::GATED);
        }
        self.n = rows.last().map_or(self.n - 1, |r| r.n + 1);
        self.seq = rows.last().map_or(self.seq, |r| r.seq);
        outbox.retain(|said| said.n < self.n);
        history.append(&mut self.next.history);
        self.next = Append { rows, attributes, logs, history, outbox, ..Append::default() };
    }

    /// It has not continued: all is as it was, and what was noted since then stays.
    fn undo(&mut self, before: Self) {
        let (drained, mut history) = (self.drained, std::mem::take(&mut self.next.history));
        let (last_at, last_note) = (self.last_at, self.last_note);
        *self = before;
        self.drained = drained;
        self.reporting = 0;
        self.last_at = self.last_at.max(last_at);
        self.last_note = last_note;
        self.next.history.append(&mut history);
    }

    /// A signal came that the answer with the end could not have seen: invoke again.
    pub(super) fn refuse_end(&mut self, env: &Env<'_>) {
        self.refused += 1;
        self.turn = Turn::Due { reason: Reason::Signal, not_before: env.past };
        if self.refused >= REFUSED_ENDS && !self.closing {
            self.closing = true;
            if self.next.rows.is_empty() {
                let noted = Noted::default();
                Draft::new(Kind::Noted, 0).body(to_bytes(&noted)).put(self, env.now);
                self.turn = Turn::Due { reason: Reason::Signal, not_before: env.past };
            }
        }
    }
}
