//! A run in memory: what its journal rows add up to, and the turn it is in.
//!
//! [`Run::evolve`] is the only way a row changes a run, live and on recovery alike.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::body::{Attention, Created, Limits};
use super::carried::Recent;
use super::id::{MessageId, RunId};
use super::objects::{Changes, State};
use super::row::{Append, Flags, Kind, MessageKind, Placement, Row};
use super::shown::Shown;
use super::step::{Step, StepState};
use super::talk::{Heard, Talk};
use super::telling::Listened;
use super::time::Timestamp;
use super::tree::{Standing, Tree};
use super::works::Works;

/// A moment that has come, whatever the clock says.
pub(super) const AT_ONCE: Timestamp = Timestamp::from_micros(0);
/// A moment before every other.
const NEVER_YET: Timestamp = Timestamp::from_micros(i64::MIN);

/// A journal is long from this part of its limits on.
const LONG: usize = 4;

/// Why the gateway invokes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The first invocation.
    Start,
    /// What it waited for has settled.
    Progress,
    /// A failed exchange, or a step's next attempt.
    Retry,
    /// The handler yielded.
    Yield,
    /// An end was refused because a signal had come that it could not have seen.
    Signal,
    /// A cancel was taken.
    Cancel,
    /// An operator asked.
    Manual,
}

impl Reason {
    /// The word in the invocation.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Progress => "progress",
            Self::Retry => "retry",
            Self::Yield => "yield",
            Self::Signal => "signal",
            Self::Cancel => "cancel",
            Self::Manual => "manual",
        }
    }
}

/// Whose move it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// The run wants an exchange, not before a moment.
    Due {
        /// Why.
        reason: Reason,
        /// Back-off or delayed start.
        not_before: Timestamp,
    },
    /// An exchange is open.
    Open {
        /// Its fence.
        epoch: i32,
        /// Why it was opened.
        reason: Reason,
        /// When.
        at: Timestamp,
        /// A signal was accepted since, which this exchange cannot have seen.
        unseen: bool,
        /// The cancel was known when it was opened.
        saw_cancel: bool,
    },
    /// The handler answered 202 and works on; without a sign of life until then it has crashed.
    Held {
        /// Its fence.
        epoch: i32,
        /// The end of its lease.
        until: Timestamp,
        /// How long a lease is.
        lease: Duration,
    },
    /// Until the tree is satisfied.
    Waiting {
        /// What must settle.
        tree: Tree,
    },
    /// For ever, unless an operator reopens it.
    Ended {
        /// How.
        kind: Kind,
        /// Output or error.
        body: Option<Bytes>,
        /// When.
        at: Timestamp,
    },
}

/// A cancel that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// Why, if they said.
    pub reason: Option<String>,
    /// Until when the handler may compensate.
    pub deadline: Timestamp,
}

/// A drained message that nothing has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffered {
    /// Its identity.
    pub id: MessageId,
    /// Signal or callback.
    pub kind: MessageKind,
    /// The payload.
    pub body: Bytes,
    /// When it was accepted.
    pub at: Timestamp,
}

/// An end that waits for the gate.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// How it ends.
    pub kind: Kind,
    /// Output or error.
    pub body: Option<Bytes>,
    /// Whether a signal that it has not seen holds it up: an answer's end, but no deadline's.
    pub holdable: bool,
    /// Milliseconds of the exchange that brought it.
    pub ms: i32,
}

/// A run, as far as the gateway must know it.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Clone)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its namespace.
    pub ns: i32,
    /// Where its journal is.
    pub home: i16,
    /// What it was started with.
    pub created: Created,
    /// When.
    pub created_at: Timestamp,
    /// When it is timed out.
    pub deadline: Option<Timestamp>,
    /// How long a generation of it may take.
    pub allowed: Option<Duration>,
    /// Grows at `continue`.
    pub generation: i32,
    /// Next position in the log.
    pub n: i32,
    /// Settled steps of this generation.
    pub seq: i32,
    /// The last epoch issued.
    pub epoch: i32,
    /// The epoch of the last row: what recovery will know.
    pub row_epoch: i32,
    /// The deployment last invoked.
    pub dep: i32,
    /// The deployment that it is to stay on, whatever is newest.
    pub pin: Option<i32>,
    /// Which deployment has it as far as the database tells, or will with what is on its way there;
    /// none: that is not known.
    pub placed: Option<Placement>,
    /// Input hashes of the steps of a strict function.
    pub(super) hashes: BTreeMap<String, String>,
    /// All steps by id, those under one scope side by side.
    pub steps: BTreeMap<String, Step>,
    /// What stands for the steps before the last compaction, JSON; none: there was none.
    pub state: Option<Bytes>,
    /// Steps asked for and not settled, in order of their asks.
    pub pending: BTreeMap<i32, String>,
    /// When steps settle by themselves or are tried again.
    pub timers: BTreeSet<(Timestamp, i32)>,
    /// Tasks and calls that are not settled.
    pub works: Works,
    /// Messages that nothing asks for, by class and name, oldest first.
    pub buffered: BTreeMap<(Mail, String), VecDeque<Buffered>>,
    /// Steps that wait for events, as the tables of events have it.
    pub(super) listening: BTreeSet<String>,
    /// The last events that its steps took, oldest first.
    pub(super) events: VecDeque<Uuid>,
    /// Every message that is in the journal of this generation, and those taken shortly before it.
    pub seen: HashSet<Uuid>,
    /// Of these the ones taken last.
    pub(super) recent: Recent,
    /// Messages that had ever been accepted when this generation began.
    pub(super) counted: i32,
    /// The last inbox position that was drained.
    pub drained: i32,
    /// Whose move it is.
    pub turn: Turn,
    /// It had ended once.
    pub(super) was_reopened: bool,
    /// The row that paused it last; later ones say only that it still is.
    pub(super) paused_since: Option<i32>,
    /// Of what those outside are told, as of the last thing that happened.
    pub(super) listened: Listened,
    /// Why a person is needed; the turn stands still beneath it.
    pub paused: Option<Attention>,
    /// The cancel that was taken.
    pub cancel: Option<Cancel>,
    /// Failed exchanges in a row.
    pub faults: u32,
    /// Run-level errors.
    pub failures: u32,
    /// When the first of them in a row happened.
    pub first_fault: Timestamp,
    /// What the last fault was.
    pub last_fault: Option<String>,
    /// Answers in a row that made no progress.
    pub idle: u32,
    /// Ends refused because of unseen signals.
    pub refused: u32,
    /// `claimed` rows since the last sign that a node outlived an exchange of this run.
    pub claims: u32,
    /// Messages are refused from now on.
    pub closing: bool,
    /// Whether the database says parked, as of the rows recorded so far.
    pub parked: bool,
    /// What keeps it out of memory while it is parked, as of the rows recorded so far; recovery
    /// takes it from the database.
    pub gate: Option<i64>,
    /// Loaded, and not invoked since: the first exchange must clear the epochs of the last owner.
    pub fresh: bool,
    /// Whether a handler may have been called.
    pub invoked: bool,
    /// Exchanges opened, at least.
    pub invocations: u32,
    /// An end that lost to the gate and waits for the messages.
    pub held_end: Option<End>,
    /// The run as it was before it said that it continues, while its gate may refuse that.
    pub(super) before: Option<Box<Self>>,
    /// What invocations show of settled steps.
    pub shown: Shown,
    /// Tags now.
    pub tags: BTreeMap<String, String>,
    /// Custom status now.
    pub custom_status: Option<Bytes>,
    /// When the first invocation was opened, as far as is known.
    pub started_at: Option<Timestamp>,
    /// When the last row was recorded.
    pub last_at: Timestamp,
    /// The time of the last log lines, as far as is known.
    pub last_log: Timestamp,
    /// The time of the last entry beside the journal, as far as is known.
    pub(super) last_note: Timestamp,
    /// Rows that wait for the next append.
    pub next: Append,
    /// What the last exchange has said and was told.
    pub talk: Talk,
    /// What its last checkpoint came to.
    pub heard: Heard,
    /// The number of the checkpoint that is being recorded; else 0.
    pub(super) reporting: i32,
    /// Until when the database leaves a parked run alone; none: for ever.
    pub(super) alarm: Option<Timestamp>,
    /// Timers due by then have been looked at since the run began to wait.
    pub(super) looked: Timestamp,
    /// Attempts due by then were offered to the handler by the last exchange.
    pub(super) offered: Timestamp,
    /// The state of its object as others see it; the owner sets it when it reads the run.
    pub published: Arc<State>,
    /// What it has changed of that in this generation.
    pub staged: Changes,
    /// It is of an object that another run has: which one, when this one was read.
    pub behind: Option<RunId>,
    /// How the database's parked flag stood when the last append was sealed.
    pub(super) was_parked: bool,
    /// How the database's closing flag stood when the last append was sealed.
    pub(super) was_closing: bool,
}

/// The class of a buffered message: signals and early callbacks have names of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mail {
    /// By signal name.
    Signal,
    /// By step id.
    Callback,
}

impl MessageKind {
    /// The class under which it is buffered, if it can be.
    #[must_use]
    pub const fn mail(self) -> Option<Mail> {
        match self {
            Self::Signal => Some(Mail::Signal),
            Self::CallbackValue | Self::CallbackError => Some(Mail::Callback),
            _ => None,
        }
    }
}

/// Why rows cannot be read as a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// There is no row 0.
    #[error("the journal has no `created` row")]
    NoCreated,
    /// A body is not what its kind says.
    #[error("row {n}: {detail}")]
    Body {
        /// Which row.
        n: i32,
        /// What is wrong.
        detail: String,
    },
}

impl Run {
    /// The run that a `created` row makes.
    pub fn of_created(id: RunId, ns: i32, row: &Row) -> Result<Self, Unreadable> {
        let body = row.body.as_ref().filter(|_| row.kind == Kind::Created);
        let body = body.ok_or(Unreadable::NoCreated)?;
        let created: Created = serde_json::from_slice(body)
            .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })?;
        Ok(Self::made(id, ns, row, created))
    }

    /// The run that begins with this row.
    pub(super) fn made(id: RunId, ns: i32, row: &Row, created: Created) -> Self {
        let not_before = created.start_at.unwrap_or_default();
        Self {
            id,
            ns,
            home: 0,
            created_at: row.at,
            deadline: row.due,
            allowed: row.due.map(|due| due.since(row.at)),
            generation: 1,
            n: row.n + 1,
            seq: row.seq,
            epoch: 0,
            row_epoch: row.epoch,
            dep: row.dep,
            pin: created.pin,
            placed: Some(Placement { dep: row.dep, pinned: created.pin.is_some() }),
            hashes: BTreeMap::new(),
            steps: BTreeMap::new(),
            state: None,
            pending: BTreeMap::new(),
            timers: BTreeSet::new(),
            works: Works::default(),
            buffered: BTreeMap::new(),
            listening: BTreeSet::new(),
            events: VecDeque::new(),
            seen: HashSet::new(),
            recent: Recent::new(),
            counted: 0,
            drained: 0,
            turn: Turn::Due { reason: Reason::Start, not_before },
            was_reopened: false,
            paused_since: None,
            listened: Listened::default(),
            paused: None,
            cancel: None,
            faults: 0,
            failures: 0,
            first_fault: row.at,
            last_fault: None,
            idle: 0,
            refused: 0,
            claims: 0,
            closing: false,
            // A delayed start is parked until its moment.
            parked: created.start_at.is_some(),
            gate: None,
            // Epoch 0 lends nobody an epoch: the first one needs a row before it is used.
            fresh: row.epoch == 0,
            invoked: false,
            invocations: 0,
            held_end: None,
            before: None,
            shown: Shown::default(),
            tags: created.tags.clone(),
            custom_status: None,
            started_at: None,
            last_at: row.at,
            last_log: NEVER_YET,
            last_note: NEVER_YET,
            next: Append::default(),
            talk: Talk { epoch: row.epoch, ..Talk::default() },
            heard: Heard::default(),
            reporting: 0,
            alarm: created.start_at.into_iter().chain(row.due).min(),
            looked: NEVER_YET,
            offered: NEVER_YET,
            published: Arc::default(),
            staged: Changes::new(),
            behind: None,
            was_parked: created.start_at.is_some(),
            was_closing: false,
            created,
        }
    }

    /// The run that `rows` add up to, as a new owner finds it. `parked` and `closing` are the
    /// database's flags. The owner sets `drained` to the counter of accepted messages and `placed`
    /// to the place that it read in the same snapshot, and drains what is left in the inbox before
    /// anything else.
    pub fn recover(
        id: RunId,
        ns: i32,
        rows: &[Row],
        parked: bool,
        closing: bool,
    ) -> Result<Self, Unreadable> {
        let (first, rest) = rows.split_first().ok_or(Unreadable::NoCreated)?;
        let mut run = match first.kind {
            Kind::Continued | Kind::Compacted => Self::carried_over(id, ns, first)?,
            _ => Self::of_created(id, ns, first)?,
        };
        let mut last_epoch = if first.flags.has(Flags::HANDLER) { first.epoch } else { 0 };
        for row in rest {
            run.evolve(row)?;
            if row.flags.has(Flags::HANDLER) && row.epoch > last_epoch {
                last_epoch = row.epoch;
                run.invocations += 1;
            }
        }
        let started_at = rest.iter().find(|r| r.flags.has(Flags::HANDLER)).map(|r| r.at);
        run.started_at = run.started_at.or(started_at);
        run.epoch = run.row_epoch;
        // Its log is not read: the last lines came with a row.
        run.last_log = run.last_at;
        run.last_note = run.last_at;
        // Whoever had an epoch may have used it before anything else was recorded.
        run.invoked = run.row_epoch > 0;
        if let Turn::Waiting { tree } = &run.turn
            && tree.standing(&|id| run.in_tree(id)) != Standing::Pending
        {
            run.turn = Turn::Due { reason: Reason::Progress, not_before: AT_ONCE };
        }
        run.forget_settled_listeners();
        run.fresh = true;
        run.placed = None;
        run.parked = parked;
        run.was_parked = parked;
        run.closing = closing;
        run.was_closing = closing;
        Ok(run)
    }

    /// How a step stands, for await trees.
    #[must_use]
    pub fn standing(&self, id: &str) -> Standing {
        match self.steps.get(id).map(|s| &s.state) {
            // Nobody is to wait for what is done with.
            Some(StepState::Settled { ok: true, .. } | StepState::Closed) => Standing::Value,
            Some(StepState::Settled { ok: false, .. }) => Standing::Failed,
            _ => Standing::Pending,
        }
    }

    /// The same for an await tree: what a compaction has taken away had settled.
    #[must_use]
    pub fn in_tree(&self, id: &str) -> Standing {
        if self.state.is_some() && !self.steps.contains_key(id) {
            return Standing::Value;
        }
        self.standing(id)
    }

    /// Whether its journal is so long that it had better continue as new.
    #[must_use]
    pub fn is_long(&self, limits: &Limits) -> bool {
        self.steps.len() >= limits.steps / LONG || self.shown.bytes >= limits.journal_bytes / LONG
    }

    /// How many messages were ever taken, at most.
    #[must_use]
    pub fn taken(&self) -> i32 {
        self.counted.saturating_add(i32::try_from(self.seen.len()).unwrap_or(i32::MAX))
    }

    /// Whether the run has ended.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.turn, Turn::Ended { .. })
    }

    /// How many signals were accepted and not taken, by name.
    pub fn inbox(&self) -> impl Iterator<Item = (&str, usize)> {
        self.buffered
            .iter()
            .filter(|((mail, _), queue)| *mail == Mail::Signal && !queue.is_empty())
            .map(|((_, name), queue)| (name.as_str(), queue.len()))
    }

    /// Somebody works on this callback step still: it is not timed out for its heartbeat's length.
    /// A restart forgets this, and gives one whole heartbeat instead.
    pub fn sign_of_life(&mut self, id: &str, now: Timestamp) {
        let until = match self.steps.get(id).map(|s| &s.state) {
            Some(StepState::Asked { ask, at, .. }) => {
                let latest = ask.timeout.map(|timeout| *at + timeout);
                ask.heartbeat
                    .map(|heartbeat| latest.map_or(now + heartbeat, |l| l.min(now + heartbeat)))
            }
            _ => None,
        };
        if let Some(until) = until {
            self.put_off(id, until);
        }
    }

    /// Whether a pending callback wants signs of life. They are kept in memory alone, so such a
    /// run does not leave it: loaded anew it would be given a whole heartbeat each time.
    pub(super) fn wants_signs_of_life(&self) -> bool {
        let mut pending = self.pending.values().filter_map(|id| self.steps.get(id));
        pending.any(|s| matches!(&s.state, StepState::Asked { ask, .. } if ask.heartbeat.is_some()))
    }

    /// Gives every pending callback and accepted task that wants signs of life one whole heartbeat from now.
    pub fn renew_heartbeats(&mut self, now: Timestamp) {
        let waiting: Vec<String> = self.pending.values().cloned().collect();
        for id in waiting {
            self.task_lives(&id, now);
            self.sign_of_life(&id, now);
        }
    }

    /// Moves the moment at which a pending step settles by itself.
    pub fn put_off(&mut self, id: &str, until: Timestamp) {
        if let Some(Step { state: StepState::Asked { n, due: Some(due), .. }, .. }) =
            self.steps.get_mut(id)
        {
            self.timers.remove(&(*due, *n));
            *due = until;
            self.timers.insert((until, *n));
        }
    }
}
