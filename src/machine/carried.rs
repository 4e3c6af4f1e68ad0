//! What outlives the rows before it: a run that continues as new begins with an input, an empty
//! journal and all that is not of one generation; one that is compacted with a state and what is
//! open.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::apply::Env;
use super::body::{Attention, Created, to_bytes};
use super::compact::StepCarried;
use super::draft::Draft;
use super::id::RunId;
use super::row::{Flags, Kind, MessageKind, OpKind, Row};
use super::run::{AT_ONCE, Buffered, Cancel, End, Mail, Reason, Run, Turn, Unreadable};
use super::time::{Timestamp, duration};
use super::works::Work;

/// A message that was taken so long ago does not come a second time.
const RECENT: Duration = Duration::from_mins(10);
/// So many of those that were taken last are known by their ids.
const MOST_RECENT: usize = 1_024;

/// Body of `continued` and `compacted`: all that is known of a run when the rows before this one are
/// not read. Its `due` is the run's deadline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Carried {
    /// As if it had been started so: the new input, a new seed, tags and deployment as they are.
    pub created: Created,
    /// When the run was started, in microseconds.
    pub created_at: i64,
    /// When it was first invoked, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// How long a generation may take.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub allowed: Option<Duration>,
    /// From 1.
    pub generation: i32,
    /// Exchanges opened, at least.
    #[serde(default)]
    pub invocations: u32,
    /// Custom status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_status: Option<Box<RawValue>>,
    /// Why a person is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Attention>,
    /// The cancel that was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CancelCarried>,
    /// It had ended once, and was reopened.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reopened: bool,
    /// Messages that were ever accepted.
    pub accepted: i32,
    /// Messages taken lately, and when, in microseconds: a repeat is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<(i64, Uuid)>,
    /// The last events that its steps took, oldest first: looking back does not find them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Uuid>,
    /// Of a compacted journal: what stands for the steps that were settled.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub state: Option<Box<RawValue>>,
    /// Of a compacted journal: run-level errors.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Of a compacted journal: the steps that were not settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepCarried>,
    /// Of a compacted journal: the tasks and calls among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub works: BTreeMap<String, Work>,
    /// Of a compacted journal: input hashes of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hashes: BTreeMap<String, String>,
    /// Of a compacted journal: fields of its object that were set.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Box<RawValue>>,
    /// Of a compacted journal: fields of its object that were taken away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<String>,
    /// Of a compacted journal: the invocation is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldCarried>,
    /// Of a compacted journal: a signal came that its exchange was not told of.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What is present is some, null too.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(d).map(Some)
}

/// JSON as a part of other JSON.
fn raw(json: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(json).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

impl Carried {
    pub(super) fn of(row: &Row) -> Result<Self, Unreadable> {
        serde_json::from_slice(row.body.as_deref().unwrap_or_default())
            .map_err(|e| Unreadable::Body { n: row.n, detail: e.to_string() })
    }
}

/// A held invocation that goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldCarried {
    /// The end of its lease, in microseconds.
    pub until: i64,
    /// How long a lease is.
    #[serde(with = "duration")]
    pub lease: Duration,
}

/// A cancel that goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CancelCarried {
    /// Why, if they said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when the handler may compensate, in microseconds.
    pub deadline: i64,
}

impl Carried {
    /// How a run was started, and nothing of what came after.
    pub(super) fn of_start(created: Created, created_at: Timestamp) -> Self {
        Self {
            created,
            created_at: created_at.as_micros(),
            started_at: None,
            allowed: None,
            generation: 1,
            invocations: 0,
            custom_status: None,
            paused: None,
            cancel: None,
            reopened: false,
            accepted: 0,
            taken: Vec::new(),
            events: Vec::new(),
            state: None,
            failures: 0,
            steps: Vec::new(),
            works: BTreeMap::new(),
            hashes: BTreeMap::new(),
            set: BTreeMap::new(),
            unset: Vec::new(),
            held: None,
            unseen: false,
        }
    }
}

impl Run {
    /// Whether rows wait to be appended by which it continues as new: their gate decides.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.next.rows.iter().any(|r| r.kind == Kind::Continued)
    }

    /// The generation ends, and the next begins; the append is gated when it is sealed.
    pub(super) fn continue_as_new(&mut self, end: &End, env: &Env<'_>) {
        // Should messages have come that it does not know of, none of this has happened.
        self.before = None;
        self.before = Some(Box::new(self.clone()));
        self.next.publication = self.publish();
        let untaken = self.untaken(|mail| mail == Mail::Signal);
        let children: Vec<RunId> =
            self.pending.values().filter_map(|id| self.cancellable_child(id)).collect();
        let carried = self.carried(end.body.as_ref(), env);
        let deadline = carried.allowed.map(|allowed| env.now + allowed);
        if self.home == 0 {
            // Nothing of the next generation is in the week of its birth, and who does not know of
            // it finds the position taken.
            Draft::new(Kind::Moved, Flags::HANDLER).put(self, env.now);
        }
        let n = self.n;
        Draft::new(Kind::Continued, Flags::HANDLER)
            .due(deadline)
            .body(to_bytes(&carried))
            .ms(end.ms)
            .put(self, env.now);
        self.cancel_children(n, children, "its parent has continued as new");
        self.carry_over(untaken, Flags::REF, env);
    }

    /// What the next generation begins with.
    fn carried(&self, input: Option<&Bytes>, env: &Env<'_>) -> Carried {
        let generation = self.generation + 1;
        let created = Created {
            input: input.and_then(raw).unwrap_or_else(|| RawValue::NULL.to_owned()),
            seed: next_seed(&self.created.seed, generation),
            start_at: None,
            ..self.created_now()
        };
        Carried { created, generation, ..self.outlives(env.now) }
    }

    /// What a compacted journal begins with: the same generation goes on.
    pub(super) fn carried_compacted(&self, state: &Bytes) -> Carried {
        let held = match self.turn {
            Turn::Held { until, lease, .. } => {
                Some(HeldCarried { until: until.as_micros(), lease })
            }
            _ => None,
        };
        let unseen = match self.turn {
            Turn::Open { unseen, .. } => unseen,
            _ => self.talk.unseen,
        };
        let (set, unset) = self.staged_as_noted();
        Carried {
            set,
            unset,
            state: raw(state),
            failures: self.failures,
            steps: self.open_steps(),
            works: self.works.carried(),
            hashes: self.hashes_of_open(),
            held,
            unseen,
            ..self.outlives(self.last_at)
        }
    }

    fn created_now(&self) -> Created {
        let (tags, pin) = (self.tags.clone(), self.pin);
        Created { tags, pin, ..self.created.clone() }
    }

    /// What outlives the rows so far, whatever follows.
    fn outlives(&self, now: Timestamp) -> Carried {
        let lately = now - RECENT;
        let recent = self.recent.iter().filter(|(at, _)| *at >= lately);
        Carried {
            started_at: self.started_at.map(Timestamp::as_micros),
            allowed: self.allowed,
            generation: self.generation,
            invocations: self.invocations,
            custom_status: self.custom_status.as_ref().and_then(raw),
            paused: self.paused.clone(),
            cancel: self.cancel.as_ref().map(|cancel| CancelCarried {
                reason: cancel.reason.clone(),
                deadline: cancel.deadline.as_micros(),
            }),
            reopened: self.was_reopened,
            accepted: self.drained,
            taken: recent.map(|(at, id)| (at.as_micros(), *id)).collect(),
            events: self.events.iter().copied().collect(),
            ..Carried::of_start(self.created_now(), self.created_at)
        }
    }

    fn hashes_of_open(&self) -> BTreeMap<String, String> {
        let open = self.hashes.iter().filter(|(id, _)| self.place_of(id).is_some());
        open.map(|(id, hash)| (id.clone(), hash.clone())).collect()
    }

    /// Messages of these classes that nothing has asked for, oldest first.
    pub(super) fn untaken(&self, which: impl Fn(Mail) -> bool) -> Vec<(Mail, String, Buffered)> {
        let queues = self.buffered.iter().filter(|((mail, _), _)| which(*mail));
        let mut untaken: Vec<_> = queues
            .flat_map(|((mail, name), queue)| {
                queue.iter().map(|m| (*mail, name.clone(), m.clone()))
            })
            .collect();
        untaken.sort_by_key(|(.., m)| m.at);
        untaken
    }

    /// What nobody has taken goes on behind the row that reading begins at.
    pub(super) fn carry_over(
        &mut self,
        untaken: Vec<(Mail, String, Buffered)>,
        flags: i16,
        env: &Env<'_>,
    ) {
        for (mail, name, m) in untaken {
            let (op, due) = match mail {
                // `due` has no other use here: it tells when the signal first came.
                Mail::Signal => (OpKind::Signal, Some(m.at)),
                // An early callback that is an error is marked so.
                Mail::Callback => {
                    (OpKind::Callback, (m.kind == MessageKind::CallbackError).then_some(m.at))
                }
            };
            Draft::new(Kind::Arrived, flags)
                .step(&name, op)
                .due(due)
                .body(m.body)
                .refer(m.id.uuid())
                .put(self, env.now);
        }
    }

    /// These messages were taken, and earlier ones will not be asked about.
    pub(super) fn know(&mut self, taken: Vec<(i64, Uuid)>) {
        self.seen = taken.iter().map(|(_, id)| *id).collect();
        let moment = Timestamp::from_micros;
        self.recent = taken.into_iter().map(|(at, id)| (moment(at), id)).collect();
    }

    /// A message was taken.
    pub(super) fn took(&mut self, id: Uuid, at: Timestamp) {
        if self.seen.insert(id) {
            if self.recent.len() >= MOST_RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back((at, id));
        }
    }

    /// A message came again that was taken before: it is known for as long again.
    pub(super) fn took_again(&mut self, id: Uuid, at: Timestamp) {
        if let Some((when, _)) = self.recent.iter_mut().find(|(_, known)| *known == id) {
            *when = at;
        } else {
            self.seen.remove(&id);
            self.took(id, at);
        }
    }

    /// A `continued` row: what memory knows beside the rows goes on.
    pub(super) fn continued(&mut self, row: &Row) -> Result<(), Unreadable> {
        let next = Self::carried_over(self.id, self.ns, row)?;
        let published = self.published_next();
        let old = std::mem::replace(self, next);
        self.published = published;
        self.home = old.home;
        self.epoch = old.epoch;
        self.fresh = old.fresh;
        self.drained = old.drained;
        self.next = old.next;
        self.talk = old.talk;
        self.heard = old.heard;
        self.reporting = old.reporting;
        self.gate = old.gate;
        self.parked = old.parked;
        self.was_parked = old.was_parked;
        self.was_closing = old.was_closing;
        self.last_log = old.last_log;
        self.last_note = old.last_note;
        self.before = old.before;
        self.placed = old.placed;
        self.listened = old.listened;
        // What still waits for events is said to wait no more when this is sealed.
        self.listening = old.listening;
        Ok(())
    }

    /// The run that a `continued` or a `compacted` row makes.
    pub(super) fn carried_over(id: RunId, ns: i32, row: &Row) -> Result<Self, Unreadable> {
        let mut carried = Carried::of(row)?;
        let moment = Timestamp::from_micros;
        // It has begun: nothing is to be waited for any more.
        let start_at = carried.created.start_at.take();
        let mut run = Self::made(id, ns, row, carried.created);
        run.created.start_at = start_at;
        run.created_at = moment(carried.created_at);
        run.started_at = carried.started_at.map(moment);
        run.allowed = carried.allowed;
        run.generation = carried.generation;
        run.invocations = carried.invocations;
        run.invoked = true;
        run.custom_status = carried.custom_status.map(|s| Bytes::from(s.get().to_owned()));
        run.cancel =
            carried.cancel.map(|c| Cancel { reason: c.reason, deadline: moment(c.deadline) });
        run.was_reopened = carried.reopened;
        run.paused = carried.paused;
        run.counted = carried.accepted;
        run.know(carried.taken);
        run.events = carried.events.into();
        let reason = if run.cancel.is_some() { Reason::Cancel } else { Reason::Start };
        run.turn = Turn::Due { reason, not_before: AT_ONCE };
        if row.kind == Kind::Compacted {
            run.state = carried.state.map(|s| Bytes::from(s.get().to_owned()));
            run.failures = carried.failures;
            run.hashes = carried.hashes;
            run.stage(carried.set, carried.unset);
            run.take_up(row, carried.steps, carried.works)?;
            run.talk.evolve(row, row.seq);
            run.talk.unseen = carried.unseen;
            run.turn = match carried.held {
                // An answer ends the exchange that its rows are of, and so may a checkpoint.
                Some(HeldCarried { until, lease }) if row.cp > 0 && !row.flags.has(Flags::END) => {
                    run.talk.held = true;
                    Turn::Held { epoch: row.epoch, until: moment(until), lease }
                }
                _ => Turn::Due { reason: Reason::Retry, not_before: AT_ONCE },
            };
        }
        Ok(run)
    }
}

/// Messages that were taken last, oldest first.
pub(super) type Recent = VecDeque<(Timestamp, Uuid)>;

/// The seed of a generation: it follows from the one before, and nobody can tell it from chance.
fn next_seed(seed: &str, generation: i32) -> String {
    let digest = Sha256::digest(format!("{seed}.{generation}"));
    digest[..16].iter().fold(String::with_capacity(32), |mut out, byte| {
        use std::fmt::Write as _;
        let _ = write!(out, "{byte:02x}");
        out
    })
}
