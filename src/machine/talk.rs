//! What happens within one exchange: checkpoints and lines in, what their acknowledgements show.
//!
//! A checkpoint is recorded as an answer is, but it closes the exchange only where it ends the turn.
//! Whatever an exchange knows that is no row is here, and lost with the memory: what of it matters
//! after a take-over (the last checkpoint, whether a signal came) the rows give back.

use std::time::Duration;

use super::apply::{Env, Fault, GoesOn, Refusal, Seen};
use super::body::{Attention, Noted, to_bytes};
use super::draft::Draft;
use super::op::{Answer, Terminal};
use super::row::{Flags, Kind, OpKind, Row};
use super::run::{Reason, Run, Turn};
use super::step::StepState;
use super::time::Timestamp;
use super::tree::{Standing, Tree};
use super::turn::Did;

/// One checkpoint, line or part of a stream.
#[derive(Debug, Clone)]
pub struct Report {
    /// The fence of the exchange.
    pub epoch: i32,
    /// Its number within the exchange, from 1.
    pub cp: i32,
    /// What it says.
    pub answer: Answer,
    /// Whether an `await` in it leaves the exchange open.
    pub stays: bool,
}

/// What an exchange has said and was told.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Talk {
    /// The exchange.
    pub epoch: i32,
    /// The last checkpoint that was taken.
    pub cp: i32,
    /// `seq` up to which the handler knows the journal.
    pub told: i32,
    /// What the handler waits for while the exchange goes on.
    pub tree: Option<Tree>,
    /// Somebody is to be told when that is satisfied.
    pub listening: bool,
    /// The handler was asked to finish.
    pub leaving: bool,
    /// A signal came that it was not told of.
    pub(super) unseen: bool,
    /// Its checkpoints have recorded something.
    pub(super) recorded: bool,
    /// It was answered with 202.
    pub(super) held: bool,
    /// All its checkpoints were taken by this memory: none is missing.
    pub(super) whole: bool,
}

/// What the last checkpoint came to, beyond its rows: its acknowledgement shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// Steps that are recorded just as the handler sent them, by `seq`.
    pub own: Vec<i32>,
    /// Steps that it sent and that were settled before, by `seq`.
    pub again: Vec<i32>,
    /// Steps whose attempt failed and that will have another.
    pub trying: Vec<String>,
    /// Why nothing of it was recorded: the run is paused.
    pub objection: Option<Attention>,
}

impl Talk {
    /// An exchange that begins: its invocation shows everything so far.
    pub(super) fn begun(epoch: i32, told: i32) -> Self {
        Self { epoch, told, whole: true, ..Self::default() }
    }

    /// What a row says of the exchange that it belongs to. `before`: the `seq` before it.
    pub(super) fn evolve(&mut self, row: &Row, before: i32) {
        if row.epoch > self.epoch {
            *self = Self { epoch: row.epoch, told: before, ..Self::default() };
        }
        let handler = row.flags.has(Flags::HANDLER);
        if handler && row.cp > self.cp {
            self.cp = row.cp;
            self.recorded = true;
        }
        match row.kind {
            Kind::Held if row.step.is_empty() => self.held = true,
            Kind::Arrived if row.flags.has(Flags::REF) => {}
            Kind::Arrived | Kind::Done if !handler && row.flags.op() == Some(OpKind::Signal) => {
                self.unseen = true;
            }
            _ => {}
        }
    }
}

impl Run {
    /// The epoch that may report: its exchange is open, or held.
    #[must_use]
    pub const fn talking(&self) -> Option<i32> {
        match self.turn {
            Turn::Open { epoch, .. } | Turn::Held { epoch, .. } => Some(epoch),
            _ => None,
        }
    }

    /// Whether a checkpoint of any larger number is the next: some may have left no row, and
    /// another memory has taken them.
    #[must_use]
    pub const fn takes_any(&self) -> bool {
        !self.talk.whole
    }

    /// A checkpoint or line: recorded as an answer is; its end of the turn closes the exchange.
    pub(super) fn reported(&mut self, report: Report, env: &Env<'_>) -> Result<(), Refusal> {
        let Report { epoch, cp, answer, stays } = report;
        if self.talking() != Some(epoch) {
            return Err(Refusal::StaleEpoch);
        }
        let next = cp == self.talk.cp + 1 || (!self.talk.whole && cp > self.talk.cp);
        let objection = self.objection(&answer, env);
        let over_limit = objection.as_ref().is_some_and(is_limit);
        if !next || over_limit || self.malformed(&answer).is_some() {
            return Err(Refusal::NotDue);
        }
        // Once a number was taken by this memory none can be missing.
        (self.talk.cp, self.talk.whole) = (cp, true);
        self.heard = Heard::default();
        self.reporting = cp;
        if let Some(attention) = objection {
            self.close_exchange(epoch)?;
            self.pause(&attention, env, Flags::HANDLER | Flags::END);
            self.heard.objection = Some(attention);
        } else {
            self.faults = 0;
            self.take_report(epoch, answer, stays, env)?;
        }
        self.reporting = 0;
        Ok(())
    }

    fn take_report(
        &mut self,
        epoch: i32,
        answer: Answer,
        stays: bool,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        let Answer { ops, terminal } = answer;
        let beats = ops.is_empty() && terminal.is_none();
        let first_row = self.next.rows.len();
        let mut did = Did::default();
        for op in ops {
            self.op(op, &mut did, env);
        }
        let (terminal, tree) = match terminal {
            Some(Terminal::Await(tree)) if stays => (None, Some(tree)),
            other => (other, None),
        };
        if terminal.is_none() && did.pause.is_none() {
            if did.recorded {
                (self.talk.recorded, self.idle) = (true, 0);
            }
            if !beats {
                (self.talk.listening, self.talk.tree) = (tree.is_some(), tree);
                self.looked = env.past;
                self.listen(env);
            }
            self.after_turn(env);
            return Ok(());
        }
        did.recorded |= self.talk.recorded;
        let ms = match self.turn {
            Turn::Open { at, .. } => i32::try_from(env.now.since(at).as_millis()).ok(),
            _ => None,
        };
        let seen = self.close_exchange(epoch)?;
        self.end_turn(terminal, ms.unwrap_or_default(), seen, did, first_row, env);
        if self.next.rows[first_row..].iter().all(|r| !r.flags.has(Flags::END)) {
            self.end_hold(env);
        }
        Ok(())
    }

    /// A turn that was held and goes on as due is so in the journal too: a new owner must not
    /// believe that the handler still works on.
    pub(super) fn end_hold(&mut self, env: &Env<'_>) {
        if !self.talk.held || self.continues() || !matches!(self.turn, Turn::Due { .. }) {
            return;
        }
        let turn = self.turn.clone();
        let flags = Flags::HANDLER | Flags::END;
        Draft::new(Kind::Noted, flags).body(to_bytes(&Noted::default())).put(self, env.now);
        self.turn = turn;
    }

    /// The handler answered 202 and works on: its lease is as long as it may be silent.
    pub(super) fn hold(
        &mut self,
        epoch: i32,
        lease: Duration,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        match self.turn {
            Turn::Open { epoch: open, .. } if open == epoch => {}
            _ => return Err(Refusal::StaleEpoch),
        }
        if self.talk.leaving {
            return self.left(epoch, String::new(), env);
        }
        Draft::new(Kind::Held, Flags::HANDLER).due(Some(env.now + lease)).put(self, env.now);
        Ok(())
    }

    /// The lease of a held invocation has passed. Whoever takes the run over must not give it
    /// another one, so this is recorded, whatever follows from it.
    pub(super) fn lapse(&mut self, env: &Env<'_>) {
        let detail = "the handler answered 202 and gave no sign of life since".to_owned();
        let faults = self.faults;
        let mut body = self.faulted_now(&detail);
        if faults == 0 {
            body.first = env.now;
        }
        body.faults += 1;
        Draft::new(Kind::Fault, 0).due(Some(env.past)).body(to_bytes(&body)).put(self, env.now);
        self.faults = faults;
        self.faulted(Fault::Retry { detail, status: None, after: None }, env);
    }

    /// Whether an exchange that ends now without a terminal field suspends its run: it awaits
    /// something, or was asked to finish.
    #[must_use]
    pub fn may_leave(&self, epoch: i32) -> bool {
        self.talking() == Some(epoch) && (self.talk.leaving || self.talk.tree.is_some())
    }

    /// The exchange ended without a terminal field.
    pub(super) fn left(
        &mut self,
        epoch: i32,
        detail: String,
        env: &Env<'_>,
    ) -> Result<(), Refusal> {
        if !matches!(self.turn, Turn::Open { epoch: open, .. } if open == epoch) {
            return Err(Refusal::StaleEpoch);
        }
        let tree = self.talk.tree.take();
        let (leaving, recorded) = (self.talk.leaving, self.talk.recorded);
        self.close_exchange(epoch)?;
        match tree {
            Some(tree) => self.turn = Turn::Waiting { tree },
            None if leaving => {
                self.turn = Turn::Due { reason: Reason::Yield, not_before: env.past };
            }
            None => {
                self.faulted(Fault::Retry { detail, status: None, after: None }, env);
                return Ok(());
            }
        }
        // Asked to finish, it need not have got on.
        let did = Did { recorded: recorded || leaving, ..Did::default() };
        self.suspend(&did, env);
        Ok(())
    }

    /// While somebody is to be told: what is due by itself is recorded, if it satisfies the tree.
    pub(super) fn listen(&mut self, env: &Env<'_>) {
        if !self.listens() {
            return;
        }
        let tree = self.talk.tree.as_ref();
        let goes_on = tree.and_then(|tree| self.goes_on(tree, env.past));
        self.looked = env.past;
        if goes_on == Some(GoesOn::Satisfied) {
            self.fire(env);
        }
    }

    /// Whether somebody waits within the exchange for a tree.
    pub(super) const fn listens(&self) -> bool {
        self.talk.listening && self.talk.tree.is_some() && self.talking().is_some()
    }

    /// Whether who waits within the exchange is to be told now. Asked while nothing waits to be
    /// appended: what is said then is recorded.
    #[must_use]
    pub fn hears(&self, past: Timestamp) -> bool {
        let Some(tree) = self.talk.tree.as_ref().filter(|_| self.listens()) else { return false };
        tree.standing(&|id| self.in_tree(id)) != Standing::Pending
            || self.goes_on(tree, past) == Some(GoesOn::Attempt)
    }

    /// Steps whose next attempt has come due and was not offered to the handler yet.
    pub fn come_due(&self, past: Timestamp) -> impl Iterator<Item = &str> {
        let since = (self.offered, i32::MAX);
        let to = (past.max(self.offered), i32::MAX);
        let due =
            self.timers.range((std::ops::Bound::Excluded(since), std::ops::Bound::Included(to)));
        due.filter_map(|(_, n)| {
            let id = self.pending.get(n)?;
            let step = self.steps.get(id)?;
            let trying = matches!(step.state, StepState::Trying { .. }) && !step.op.is_work();
            trying.then_some(id.as_str())
        })
    }

    /// The handler was told of everything: of the journal up to `upto`, of the inbox, of the
    /// attempts that are due.
    pub fn told(&mut self, upto: i32, past: Timestamp) {
        self.talk.told = self.talk.told.max(upto);
        self.offered = self.offered.max(past);
        if self.talk.told < self.seq {
            return;
        }
        self.talk.unseen = false;
        if let Turn::Open { unseen, .. } = &mut self.turn {
            *unseen = false;
        }
    }

    /// Who waited was told: the tree is satisfied, or there is an attempt to make.
    pub fn heard_of(&mut self) {
        self.talk.listening = false;
        if let Some(tree) = &self.talk.tree
            && tree.standing(&|id| self.in_tree(id)) != Standing::Pending
        {
            self.talk.tree = None;
        }
    }

    /// The handler gave a sign of life: its lease begins anew. A restart forgets this, and gives
    /// a whole lease instead.
    pub fn renew_lease(&mut self, now: Timestamp) {
        if let Turn::Held { until, lease, .. } = &mut self.turn {
            *until = (*until).max(now + *lease);
        }
    }

    /// A limit that this answer would pass, if it does: the step is named.
    #[must_use]
    pub fn over_limit(&self, answer: &Answer, env: &Env<'_>) -> Option<Attention> {
        self.objection(answer, env).filter(is_limit)
    }

    /// What the exchange of `epoch` has seen, and that it is over.
    pub(super) fn close_exchange(&mut self, epoch: i32) -> Result<Seen, Refusal> {
        let seen = match self.turn {
            Turn::Open { epoch: open, unseen, saw_cancel, .. } if open == epoch => {
                Seen { signals: !unseen, cancel: saw_cancel }
            }
            // A cancel that it has not seen would have ended it.
            Turn::Held { epoch: held, .. } if held == epoch => {
                Seen { signals: !self.talk.unseen, cancel: self.cancel.is_some() }
            }
            _ => return Err(Refusal::StaleEpoch),
        };
        (self.talk.tree, self.talk.listening) = (None, false);
        self.turn = Turn::Due { reason: Reason::Retry, not_before: super::run::AT_ONCE };
        Ok(seen)
    }
}

/// Whether something is merely too large: the handler may send something smaller.
fn is_limit(objection: &Attention) -> bool {
    objection.code.ends_with("-limit")
}
