//! A database in memory, and the owner that drives one run on it as the engine does.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use super::handwriting::*;
use crate::machine::*;

/// True time is known to this many milliseconds, either way.
pub(super) const SKEW: u64 = 5;
/// How long a run may idle in memory.
pub(super) const HORIZON: Duration = Duration::from_mins(1);
/// An event as a step is told of it.
pub(super) const EVENT: &str = r#"{"id":"evt_01k9zzzzzze0080000000000ab","data":1}"#;
/// Where the clock starts, in milliseconds.
const EPOCH_MS: i64 = 1_800_000_000_000;

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn text(of: &'static str) -> Bytes {
    Bytes::from_static(of.as_bytes())
}

/// When the database would have somebody load the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Hot,
    At(Timestamp),
    Never,
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Won,
    LostByGate,
    LostByHead,
}

/// One run's rows, inbox and flags.
#[derive(Debug, Clone)]
pub(super) struct Db {
    pub rows: Vec<Row>,
    pub inbox: Vec<Message>,
    /// The last position given out.
    pub accepted: i32,
    pub closing: bool,
    pub wake: Wake,
    pub attributes: Option<Attributes>,
    pub placement: Placement,
    /// Every message that was accepted, repeats once.
    pub ever: Vec<(Uuid, MessageKind)>,
    /// What was said to others, and is not delivered yet.
    pub outbox: Vec<Outgoing>,
    /// The same, delivered or not.
    pub said: Vec<Outgoing>,
    /// Where its generation begins.
    pub base: usize,
    /// The state of its object, as others see it.
    pub object: State,
    /// Generations, by their first row, that began when no message was accepted any more.
    pub closed: Vec<i32>,
}

impl Db {
    pub(super) fn ended(&self) -> bool {
        self.rows.last().is_some_and(|r| r.kind.ends())
    }

    /// Any node accepts a message; false is a 410.
    pub(super) fn accept(&mut self, mut m: Message) -> bool {
        let mail = m.kind == MessageKind::New || m.kind.mail().is_some();
        if self.ended() || (self.closing && mail) {
            return false;
        }
        if self.inbox.iter().all(|there| there.id != m.id) {
            self.accepted += 1;
            m.pos = self.accepted;
            // `new` says nothing that the run must remember.
            let known = self.ever.iter().any(|(id, _)| *id == m.id.uuid());
            if !known && m.kind != MessageKind::New {
                self.ever.push((m.id.uuid(), m.kind));
            }
            self.inbox.push(m);
        }
        true
    }

    /// The compare-and-append, with its gate and its flips.
    pub(super) fn append(&mut self, a: &Append) -> Verdict {
        let head = &a.rows[0];
        let over = self.ended() && head.kind != Kind::Reopened;
        if usize::try_from(head.n) != Ok(self.rows.len()) || over {
            return Verdict::LostByHead;
        }
        let gated = head.flags.has(Flags::GATED);
        if gated && a.drained >= 0 && a.drained != self.accepted {
            return Verdict::LostByGate;
        }
        let base = |r: &&Row| matches!(r.kind, Kind::Continued | Kind::Compacted);
        if let Some(next) = a.rows.iter().rfind(base) {
            self.base = usize::try_from(next.n).expect("n");
        }
        if let Some(next) = a.rows.iter().rfind(|r| r.kind == Kind::Continued) {
            self.closed.extend(self.closing.then_some(next.n));
        }
        self.rows.extend(a.rows.iter().cloned());
        self.outbox.extend(a.outbox.iter().cloned());
        self.said.extend(a.outbox.iter().cloned());
        self.inbox.retain(|m| a.rows.iter().all(|r| r.pos != m.pos));
        if let Some(attributes) = &a.attributes {
            self.attributes = Some(attributes.clone());
        }
        self.placement = a.placement.unwrap_or(self.placement);
        if let Some(publication) = &a.publication {
            change(&mut self.object, &publication.changes);
        }
        let flips = |r: &&Row| r.flags.0 & (Flags::PARK | Flags::HOT | Flags::CLOSING) != 0;
        if let Some(flip) = a.rows.iter().rev().find(flips) {
            let parked = flip.flags.has(Flags::PARK);
            self.wake = match flip.due {
                _ if !parked => Wake::Hot,
                Some(due) => Wake::At(due),
                None => Wake::Never,
            };
            self.closing = flip.flags.has(Flags::CLOSING);
        }
        Verdict::Won
    }

    /// What an invocation that shows everything that is committed would show.
    pub(super) fn journal(&self) -> Shown {
        let mut shown = Shown::default();
        let mut seqs = std::collections::HashMap::new();
        let begins = self.rows.iter().rposition(|r| r.kind == Kind::Continued).unwrap_or(0);
        for row in &self.rows[begins..] {
            if row.kind == Kind::Compacted {
                shown.compact(row.seq);
                seqs.clear();
            }
            if row.kind == Kind::Retaken
                && let Some(seq) = seqs.remove(&row.step)
            {
                shown.hide(vec![seq]);
            }
            if !row.kind.settles() {
                continue;
            }
            seqs.insert(row.step.clone(), row.seq);
            let op = row.flags.op().expect("an op");
            let body = row.body.clone().expect("a body");
            shown.push(&row.step, row.seq, op, row.kind == Kind::Done, &body);
            if op == OpKind::Scope {
                let under = |r: &&Row| r.step.starts_with(&format!("{}/", row.step));
                let generation = self.rows[begins..].iter();
                let before = generation.take_while(|r| r.n < row.n).filter(under);
                shown.hide(before.filter(|r| r.kind.settles()).map(|r| r.seq).collect());
            }
        }
        shown
    }
}

/// An exchange that was sent: what its handler sees.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub epoch: i32,
    pub reason: Reason,
    pub saw_cancel: bool,
    pub view: Run,
}

/// A run, its database, a clock, and everything that was ever sent for it.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub db: Db,
    pub run: Run,
    /// True time.
    pub clock: Timestamp,
    pub policy: Policy,
    pub limits: Limits,
    pub jitter: f64,
    /// The newest deployment.
    pub dep: i32,
    /// Every exchange in the order of sending.
    pub sent: Vec<Sent>,
    /// Accepted while the next append is on its way.
    pub arriving: Vec<Message>,
    /// Attempts of tasks that were sent and have not come back.
    pub out: Vec<AttemptDue>,
    /// The epoch of the exchange that this owner sent last.
    posted: Option<i32>,
    /// Distinct ids for messages.
    next_message: u128,
}

/// Options of a start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Started {
    /// Milliseconds until the first invocation.
    pub delay: Option<u64>,
    /// Milliseconds until the run times out.
    pub timeout: Option<u64>,
    /// Created by a node that does not own it.
    pub elsewhere: bool,
    /// What its function is.
    pub kind: RunKind,
}

impl World {
    pub(super) fn new() -> Self {
        Self::started(Started::default())
    }

    pub(super) fn started(with: Started) -> Self {
        let clock = Timestamp::from_micros(EPOCH_MS * 1_000);
        let start_at = with.delay.map(|d| clock + ms(d));
        let created = Created {
            pin: None,
            function: "checkout".to_owned(),
            kind: with.kind,
            namespace: "default".to_owned(),
            key: None,
            locks: Vec::new(),
            input: serde_json::value::to_raw_value(&1).expect("a number"),
            seed: "0".repeat(32),
            start_at,
            tags: BTreeMap::from([("customer".to_owned(), "c7".to_owned())]),
            priority: 0,
            start_within: None,
            invocation_timeout: None,
            retry: None,
            traceparent: None,
            rerun_of: None,
            by: "local".to_owned(),
            parent: None,
            cancel_on: false,
            schedule: None,
            on_complete: Vec::new(),
            erased_at: None,
            imported: None,
        };
        let lends = start_at.is_none() && !with.elsewhere;
        let row = Row {
            n: 0,
            kind: Kind::Created,
            flags: Flags(0),
            seq: 0,
            epoch: i32::from(lends),
            cp: 0,
            ms: 0,
            dep: 1,
            at: clock,
            due: with.timeout.map(|t| clock + ms(t)),
            refer: None,
            step: String::new(),
            body: Some(body_of(&created)),
            pos: 0,
        };
        let id = RunId::new(clock, 7);
        let run = Run::of_created(id, 1, &row).expect("a created row");
        let wake = start_at.map_or(Wake::Hot, |at| Wake::At(row.due.map_or(at, |due| at.min(due))));
        let db = Db {
            rows: vec![row],
            inbox: vec![],
            accepted: 0,
            closing: false,
            wake,
            attributes: None,
            placement: Placement { dep: 1, pinned: false },
            ever: vec![],
            outbox: vec![],
            said: vec![],
            base: 0,
            object: State::new(),
            closed: vec![],
        };
        Self {
            db,
            run,
            clock,
            policy: Policy::default(),
            limits: Limits::default(),
            jitter: 0.0,
            dep: 1,
            sent: vec![],
            arriving: vec![],
            out: vec![],
            posted: None,
            next_message: 0,
        }
    }

    pub(super) fn env(&self) -> Env<'_> {
        Env {
            now: self.clock + ms(SKEW),
            past: self.clock - ms(SKEW),
            jitter: self.jitter,
            policy: &self.policy,
            limits: &self.limits,
            horizon: HORIZON,
        }
    }

    /// One cause, without the append that follows from it.
    pub(super) fn cause(&mut self, cause: Cause) -> Result<(), Refusal> {
        let (policy, limits) = (self.policy.clone(), self.limits);
        let env = Env { policy: &policy, limits: &limits, ..self.env() };
        self.run.apply(cause, &env)
    }

    /// Everything that the owner can do now: append, open an exchange and send it, park.
    pub(super) fn pump(&mut self) {
        for _ in 0..100 {
            let (policy, limits) = (self.policy.clone(), self.limits);
            let env = Env { policy: &policy, limits: &limits, ..self.env() };
            self.run.settle_down(&env);
            if let Some(append) = self.run.seal() {
                for m in std::mem::take(&mut self.arriving) {
                    self.db.accept(m);
                }
                match self.db.append(&append) {
                    Verdict::Won if append.rows.iter().any(|r| r.kind == Kind::Moved) => {
                        self.run.home = 1;
                    }
                    Verdict::Won => {}
                    Verdict::LostByHead => self.load(),
                    Verdict::LostByGate => {
                        let messages = self.db.inbox.clone();
                        self.run.drained = self.db.accepted;
                        assert_eq!(self.cause(Cause::GateLost { append, messages }), Ok(()));
                        self.discard();
                    }
                }
                continue;
            }
            self.send();
            for due in self.run.attempts_due(self.env().past, self.run.n) {
                self.run.attempt_out(&due.step);
                self.out.push(due);
            }
            if self.run.wants_exchange(self.env().past) {
                let dep = self.run.pin.unwrap_or(self.dep);
                assert_eq!(self.cause(Cause::Free { dep }), Ok(()));
                continue;
            }
            return;
        }
        panic!("the run never comes to rest: {:#?}", self.db.rows);
    }

    /// Sends the open exchange, if it was not: everything that it shows is committed.
    fn send(&mut self) {
        let Turn::Open { epoch, reason, saw_cancel, .. } = self.run.turn else { return };
        if self.posted.replace(epoch) != Some(epoch) {
            let view = self.run.clone();
            // Whatever is shown was committed before, in this order, for ever.
            let (committed, shown) = (self.db.journal(), view.shown.within(usize::MAX));
            assert!(committed.within(usize::MAX).0.starts_with(shown.0), "{committed:?} {shown:?}");
            self.sent.push(Sent { epoch, reason, saw_cancel, view });
        }
    }

    /// A new owner: what the database knows, and nothing else.
    pub(super) fn load(&mut self) {
        self.run = self.recovered();
        self.posted = None;
        let left = self.db.inbox.clone();
        let refused = self.cause(Cause::Drained(left));
        assert!(refused.is_ok() || self.run.ended(), "{refused:?}");
        self.discard();
    }

    pub(super) fn recovered(&self) -> Run {
        self.recovered_from(self.db.base)
    }

    /// The run as it is read from this row on.
    pub(super) fn recovered_from(&self, base: usize) -> Run {
        let parked = self.db.wake != Wake::Hot;
        let (id, rows) = (self.run.id, &self.db.rows[base..]);
        let mut run = Run::recover(id, 1, rows, parked, self.db.closing).expect("readable rows");
        run.drained = self.db.accepted;
        run.home = i16::from(self.db.rows.iter().any(|r| r.kind == Kind::Continued));
        run.placed = Some(self.db.placement);
        run.published = self.db.object.clone().into();
        run
    }

    /// The owner dies before its append is on its way, or after it was committed.
    pub(super) fn crash(&mut self, committed: bool) {
        if committed && let Some(append) = self.run.seal() {
            self.db.append(&append);
        }
        self.load();
        self.pump();
    }

    /// Another node believes that the run is its own, moves it once, and dies.
    pub(super) fn steal(&mut self) {
        let (mine, posted) = (self.run.clone(), self.posted);
        self.load();
        self.pump();
        (self.run, self.posted) = (mine, posted);
    }

    /// Brings the oldest message of the outbox to whom it is for, and back what it comes to: a
    /// child's end with this error or a value, a signal that is recorded. None: nobody waits.
    pub(super) fn deliver(&mut self, error: Option<&str>) -> Option<Message> {
        if self.db.outbox.is_empty() {
            return None;
        }
        let said = self.db.outbox.remove(0);
        let (step, of) = match serde_json::from_slice(&said.body).expect("readable") {
            Said::Start { step, .. } => (Some(step), said.to.expect("a child").uuid()),
            Said::Signal { step, .. } | Said::Publish { step, .. } => {
                (Some(step), MessageId::of_outgoing(self.run.id, said.n, said.k, 0).uuid())
            }
            Said::Cancel { step, .. } => {
                (step, MessageId::of_outgoing(self.run.id, said.n, said.k, 0).uuid())
            }
            Said::Listen { step, .. } => {
                // Looking for it, an event is found, or is not.
                let found = || self.message(MessageKind::EventMatched, &step, EVENT);
                return error.is_none().then(found);
            }
            Said::Unlisten { .. } | Said::Ended { .. } | Said::Ran { .. } | Said::Tell(_) => {
                (None, Uuid::nil())
            }
        };
        let raw = |json: &str| serde_json::value::RawValue::from_string(json.to_owned()).ok();
        let (value, error) = (raw("1").filter(|_| error.is_none()), error.and_then(raw));
        let body = body_of(&Told { of, value, error });
        let body = std::str::from_utf8(&body).expect("utf-8").to_owned();
        step.map(|step| self.message(MessageKind::Outcome, &step, &body))
    }

    pub(super) fn message(&mut self, kind: MessageKind, name: &str, body: &str) -> Message {
        self.next_message += 1;
        Message {
            pos: 0,
            id: MessageId::from(Uuid::from_u128(self.next_message)),
            kind,
            name: name.to_owned(),
            body: Bytes::from(body.to_owned()),
            at: self.clock,
            generation: None,
        }
    }

    /// Reads the inbox as the owner's poll does.
    pub(super) fn drain(&mut self) {
        let messages = self.db.inbox.clone();
        let refused = self.cause(Cause::Drained(messages));
        assert!(refused.is_ok() || self.run.ended(), "{refused:?}");
        self.discard();
    }

    /// A repeat of what is recorded is deleted by key, and `new` says nothing.
    fn discard(&mut self) {
        let known: HashSet<Uuid> = self.db.rows.iter().filter_map(|r| r.refer).collect();
        let keep = |m: &Message| m.kind != MessageKind::New && !known.contains(&m.id.uuid());
        self.db.inbox.retain(keep);
    }

    // --- what scenarios are written in -------------------------------------------------------

    /// Accepts, drains, and goes on; false is a 410.
    pub(super) fn tell(&mut self, kind: MessageKind, name: &str, body: &str) -> bool {
        let m = self.message(kind, name, body);
        let accepted = self.db.accept(m);
        self.drain();
        self.pump();
        accepted
    }

    pub(super) fn signal(&mut self, name: &str, payload: &str) -> bool {
        self.tell(MessageKind::Signal, name, payload)
    }

    pub(super) fn act(&mut self, kind: MessageKind) -> bool {
        self.tell(kind, "", r#"{"by":"op"}"#)
    }

    /// The open exchange is answered.
    pub(super) fn answer(&mut self, answer: Answer) {
        let epoch = self.open_epoch();
        assert_eq!(self.cause(Cause::Answered { epoch, answer, ms: 3 }), Ok(()));
        self.pump();
    }

    /// A checkpoint of the exchange that is open or held: everything was told before.
    pub(super) fn report(&mut self, answer: Answer, stays: bool) {
        let report = self.next_report(answer, stays);
        assert_eq!(self.cause(Cause::Reported(report)), Ok(()));
        self.pump();
    }

    pub(super) fn next_report(&self, answer: Answer, stays: bool) -> Report {
        let epoch = self.run.talking().expect("an exchange");
        Report { epoch, cp: self.run.talk.cp + 1, answer, stays }
    }

    /// The handler is told of everything that is committed.
    pub(super) fn tell_all(&mut self) {
        let Some(epoch) = self.run.talking() else { return };
        let (seq, past) = (self.run.seq, self.env().past);
        self.run.told(seq, past);
        let view = self.run.clone();
        let sent = self.sent.iter_mut().rfind(|s| s.epoch == epoch);
        sent.expect("it was sent").view = view;
    }

    pub(super) fn hold(&mut self) {
        let epoch = self.open_epoch();
        assert_eq!(self.cause(Cause::Held { epoch, lease: ms(60_000) }), Ok(()));
        self.pump();
    }

    /// The oldest attempt that is out comes to this.
    pub(super) fn attempt(&mut self, end: AttemptEnd) -> Result<(), Refusal> {
        let AttemptDue { step, attempt, .. } = self.out.remove(0);
        let ended = self.cause(Cause::AttemptEnded { step, attempt, end, ms: 2 });
        self.pump();
        ended
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        let epoch = self.open_epoch();
        assert_eq!(self.cause(Cause::Faulted { epoch, fault }), Ok(()));
        self.pump();
    }

    pub(super) fn advance(&mut self, by: u64) {
        self.clock = self.clock + ms(by);
        let refused = self.cause(Cause::Tick);
        assert!(matches!(refused, Ok(()) | Err(Refusal::NotDue | Refusal::Ended)), "{refused:?}");
        self.pump();
    }

    pub(super) fn open_epoch(&self) -> i32 {
        match self.run.turn {
            Turn::Open { epoch, .. } => epoch,
            ref other => panic!("no exchange is open but {other:?}, {:?}", self.run.paused),
        }
    }

    pub(super) fn kinds(&self) -> Vec<Kind> {
        self.db.rows.iter().map(|r| r.kind).collect()
    }

    /// Kinds of the rows from `n` on.
    pub(super) fn since(&self, n: usize) -> Vec<Kind> {
        self.kinds().split_off(n)
    }

    pub(super) fn body(&self, n: usize) -> String {
        let body = self.db.rows[n].body.clone().unwrap_or_default();
        String::from_utf8(body.to_vec()).expect("utf-8")
    }

    pub(super) fn attention(&self) -> Option<&str> {
        self.run.paused.as_ref().map(|a| a.code.as_str())
    }
}

pub(super) fn body_of(of: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(of).expect("JSON").into()
}
