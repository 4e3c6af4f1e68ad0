//! How runs, steps and what happens to them look in JSON.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::engine::{
    Attempt, Fingerprint, HistoryItem, JournalEntry, ListedRun, LogItem, RunView, SignalItem,
    SignalState, StepView, WaitingFor,
};
use crate::machine::{Attention, DeploymentId, Fired, RunId, ScheduleId, Timestamp};

/// The largest value that a journal page shows; a larger one is a `ref`.
const MAX_INLINE: usize = 32 << 10;

/// JSON of a user, written as it came. Absent is null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Payload(pub(super) Option<Bytes>);

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            None => s.serialize_none(),
            Some(json) => {
                let raw: &RawValue = serde_json::from_slice(json)
                    .map_err(|_| serde::ser::Error::custom("a recorded payload is not JSON"))?;
                raw.serialize(s)
            }
        }
    }
}

/// What a run waits for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WaitingFor)]
pub(super) struct WaitingForBody {
    /// The step.
    step: String,
    /// Its op.
    op: &'static str,
    /// The name of a signal, an event or a task; where a call goes, without its query.
    name: Option<String>,
    /// When it was asked for.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// When it settles by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

impl From<WaitingFor> for WaitingForBody {
    fn from(w: WaitingFor) -> Self {
        Self { step: w.step, op: w.op.word(), name: w.name, since: w.since, until: w.until }
    }
}

/// Why a run does not move.
#[derive(ToSchema)]
#[schema(as = Attention)]
#[expect(dead_code, reason = "describes what `machine::Attention` writes")]
pub(super) struct AttentionBody {
    /// Such as `mismatch`, `no-progress`, `endpoint-unhealthy`, `operator`.
    code: String,
    /// What happened and what to do.
    detail: String,
    /// When the gateway tries again by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    /// For a mismatch: what is recorded.
    expected: Option<String>,
    /// For a mismatch: what the handler said.
    got: Option<String>,
    /// For a queued run (`limit-reached`, `limit-paused`): the limit that it waits for; else left out.
    limit: Option<HeldAtBody>,
}

/// The limit that a queued run waits for, named as in `GET /v1/limits`.
#[derive(ToSchema)]
#[schema(as = HeldAt)]
#[expect(dead_code, reason = "describes what `machine::HeldAt` writes")]
pub(super) struct HeldAtBody {
    /// `concurrency` or `throttle`.
    kind: String,
    /// The function whose limit it is.
    function: Option<String>,
    /// The endpoint whose limit it is.
    endpoint: Option<String>,
    /// The path of its key.
    key: Option<String>,
    /// The value at that path.
    value: Option<String>,
    /// How many runs go before it, counted up to 10,000.
    before: u64,
}

/// How many steps a run has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepCounts {
    /// With an outcome.
    settled: u32,
    /// Asked for and open.
    pending: u32,
}

/// Addresses of what can be done with a run, relative to the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    /// The run.
    #[serde(rename = "self")]
    myself: String,
    /// Its steps.
    journal: String,
    /// What happened to it.
    history: String,
    /// All of that, live.
    stream: String,
    /// Its output.
    result: String,
    /// Cancels it.
    cancel: String,
    /// Sends it a signal.
    signal: String,
}

impl Links {
    fn of(run: RunId) -> Self {
        let at = |rest: &str| format!("/v1/runs/{run}{rest}");
        Self {
            myself: at(""),
            journal: at("/journal"),
            history: at("/history"),
            stream: at("/stream"),
            result: at("/result"),
            cancel: at("/cancel"),
            signal: at("/signals/{name}"),
        }
    }
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Run)]
pub(super) struct RunBody {
    #[schema(value_type = String, example = "run_01k9c3v5h2e8x8p0m4s6t7w9yz")]
    id: RunId,
    namespace: String,
    function: String,
    key: Option<String>,
    /// From 1; grows when a run continues as new.
    generation: i32,
    /// The deployment it is pinned to by hand, else the one it was last invoked on.
    #[schema(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
    /// `scheduled`, `queued`, `running`, `waiting`, `retrying`, `parked` or `paused`; ended:
    /// `completed`, `failed`, `cancelled`, `timed_out` or `terminated`.
    status: &'static str,
    waiting_for: Vec<WaitingForBody>,
    /// Null while all is well.
    #[schema(value_type = Option<AttentionBody>)]
    attention: Option<Attention>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    /// When its payloads were erased; null: they were not.
    #[schema(value_type = Option<String>, format = DateTime)]
    erased_at: Option<Timestamp>,
    /// When it was imported; null: it ended here. How long it is kept counts from then.
    #[schema(value_type = Option<String>, format = DateTime)]
    imported_at: Option<Timestamp>,
    /// What it was started with, byte for byte.
    #[schema(value_type = Value)]
    input: Payload,
    /// The output of a completed run, byte for byte.
    #[schema(value_type = Value)]
    output: Payload,
    /// The error of a run that ended without an output.
    #[schema(value_type = Value)]
    error: Payload,
    /// What its handler said last.
    #[schema(value_type = Value)]
    custom_status: Payload,
    tags: BTreeMap<String, String>,
    steps: StepCounts,
    /// Invocations so far, at least.
    invocations: u32,
    /// The run that started this one.
    #[schema(value_type = Option<String>)]
    parent: Option<RunId>,
    /// The firing of a schedule that it comes of: `id`, `name`, `time`, `by`, and `last`, the run of
    /// the schedule that had completed last.
    #[schema(value_type = Value)]
    schedule: Option<Box<Fired>>,
    /// The run that this one does again.
    #[schema(value_type = Option<String>)]
    rerun_of: Option<RunId>,
    links: Links,
}

impl From<RunView> for RunBody {
    fn from(run: RunView) -> Self {
        Self {
            id: run.id,
            namespace: run.namespace,
            function: run.function,
            key: run.key,
            generation: run.generation,
            deployment: run.deployment,
            status: run.status.word(),
            waiting_for: run.waiting_for.into_iter().map(Into::into).collect(),
            attention: run.attention,
            created_at: run.created_at,
            started_at: run.started_at,
            ended_at: run.ended_at,
            erased_at: run.erased_at,
            imported_at: run.imported_at,
            input: Payload(run.input),
            output: Payload(run.output),
            error: Payload(run.error),
            custom_status: Payload(run.custom_status),
            tags: run.tags,
            steps: StepCounts { settled: run.settled, pending: run.pending },
            invocations: run.invocations,
            parent: run.parent,
            schedule: run.schedule,
            rerun_of: run.rerun_of,
            links: Links::of(run.id),
        }
    }
}

/// A run in a list: without its payloads. `status` may trail by a second.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ListedRun)]
pub(super) struct ListedRunBody {
    #[schema(value_type = String)]
    id: RunId,
    namespace: String,
    function: String,
    key: Option<String>,
    generation: i32,
    #[schema(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
    status: &'static str,
    #[schema(value_type = Option<AttentionBody>)]
    attention: Option<Attention>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    tags: BTreeMap<String, String>,
    /// The run that started this one.
    #[schema(value_type = Option<String>)]
    parent: Option<RunId>,
    /// The schedule that started it.
    #[schema(value_type = Option<String>)]
    schedule: Option<ScheduleId>,
    /// The kind of error that it failed or is paused by, as `/v1/errors` has it.
    #[schema(value_type = Option<String>)]
    fingerprint: Option<Fingerprint>,
    links: Links,
}

impl From<ListedRun> for ListedRunBody {
    fn from(run: ListedRun) -> Self {
        Self {
            id: run.id,
            namespace: run.namespace,
            function: run.function,
            key: run.key,
            generation: run.generation,
            deployment: run.deployment,
            status: run.status.word(),
            attention: run.attention,
            created_at: run.created_at,
            ended_at: run.ended_at,
            tags: run.tags,
            parent: run.parent,
            schedule: run.schedule,
            fingerprint: run.fingerprint,
            links: Links::of(run.id),
        }
    }
}

/// A value that is too big to be shown in place.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Ref)]
pub(super) struct RefBody {
    /// Its length.
    bytes: usize,
    /// Of its bytes, in hex.
    sha256: String,
}

/// A step in a journal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JournalEntry)]
pub(super) struct EntryBody {
    /// Commit order, from 1 without gaps; null while pending.
    seq: Option<i32>,
    /// The step.
    id: String,
    /// `run`, `sleep`, `signal` or `callback`.
    op: &'static str,
    /// The recorded value, byte for byte; absent where it is a `ref`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Value, required = false)]
    value: Option<Payload>,
    /// In place of a value over 32 KiB: fetch it from `…/values/{step}`.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    by_ref: Option<RefBody>,
    /// The recorded error.
    #[schema(value_type = Value)]
    error: Payload,
    attempts: u32,
    #[schema(value_type = Option<String>, format = DateTime)]
    asked_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    settled_at: Option<Timestamp>,
    /// How long the handler says it took.
    ms: i32,
    /// For a pending step that failed: when it is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt_at: Option<Timestamp>,
    /// For a pending step that failed: its last error.
    #[schema(value_type = Value)]
    last_error: Payload,
}

impl EntryBody {
    /// With its value, however large.
    pub(super) fn whole(entry: JournalEntry) -> Self {
        Self {
            seq: entry.seq,
            id: entry.id,
            op: entry.op.word(),
            value: Some(Payload(entry.value)),
            by_ref: None,
            error: Payload(entry.error),
            attempts: entry.attempts,
            asked_at: entry.asked_at,
            settled_at: entry.settled_at,
            ms: entry.ms,
            next_attempt_at: entry.next_attempt_at,
            last_error: Payload(entry.last_error),
        }
    }

    /// With a `ref` in place of a large value.
    pub(super) fn of(entry: JournalEntry) -> Self {
        let big = entry.value.as_ref().filter(|v| v.len() > MAX_INLINE);
        let by_ref = big.map(|v| RefBody { bytes: v.len(), sha256: hex(&Sha256::digest(v)) });
        let mut body = Self::whole(entry);
        if by_ref.is_some() {
            body.value = None;
            body.by_ref = by_ref;
        }
        body
    }
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a String takes what is written");
        out
    })
}

/// A failed attempt of a step.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct AttemptBody {
    /// Which one, from 1.
    attempt: u32,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    #[schema(value_type = Value)]
    error: Payload,
}

impl From<Attempt> for AttemptBody {
    fn from(a: Attempt) -> Self {
        Self { attempt: a.number, at: a.at, error: Payload(Some(a.error)) }
    }
}

/// A step with its value and its failed attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Step)]
pub(super) struct StepBody {
    #[serde(flatten)]
    entry: EntryBody,
    /// The failed attempts that are recorded, in order.
    failed_attempts: Vec<AttemptBody>,
}

impl From<StepView> for StepBody {
    fn from(step: StepView) -> Self {
        Self {
            entry: EntryBody::whole(step.entry),
            failed_attempts: step.attempts.into_iter().map(Into::into).collect(),
        }
    }
}

/// Something that happened to a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HistoryEntry)]
pub(super) struct HistoryBody {
    /// Position; grows, may have gaps.
    n: i64,
    epoch: i32,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Such as `invocation.ended`.
    r#type: String,
    /// Who: `gateway`, `handler`, or the name of an API key.
    by: String,
    #[schema(value_type = Value)]
    data: Payload,
}

impl From<HistoryItem> for HistoryBody {
    fn from(item: HistoryItem) -> Self {
        Self {
            n: item.n,
            epoch: item.epoch,
            at: item.at,
            r#type: item.what,
            by: item.by,
            data: Payload(Some(item.data)),
        }
    }
}

/// A line of a run's log.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub(super) struct LogBody {
    /// Position; grows, may have gaps.
    n: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    level: String,
    message: String,
    #[schema(value_type = Value)]
    fields: Payload,
}

/// A piece of an output stream of a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Chunk)]
pub(super) struct ChunkBody {
    /// Its offset; grows, may have gaps.
    n: i64,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Of which stream it is a piece.
    stream: String,
    #[schema(value_type = Value)]
    data: Payload,
}

impl From<LogItem> for ChunkBody {
    fn from(item: LogItem) -> Self {
        let line = item.line;
        let stream = line.stream.unwrap_or_default();
        Self { n: item.n, at: line.at, stream, data: Payload(line.fields) }
    }
}

impl From<LogItem> for LogBody {
    fn from(item: LogItem) -> Self {
        let line = item.line;
        Self {
            n: item.n,
            at: line.at,
            level: line.level,
            message: line.message,
            fields: Payload(line.fields),
        }
    }
}

/// A signal of a run, without its payload.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Signal)]
pub(super) struct SignalBody {
    name: String,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Length of its payload.
    bytes: usize,
    /// `waiting`, `taken`, or `untaken`: the run ended without taking it.
    state: &'static str,
    /// The step that took it.
    step: Option<String>,
}

impl From<SignalItem> for SignalBody {
    fn from(item: SignalItem) -> Self {
        let state = match item.state {
            SignalState::Waiting => "waiting",
            SignalState::Taken => "taken",
            SignalState::Untaken => "untaken",
        };
        Self { name: item.name, at: item.at, bytes: item.bytes, state, step: item.step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::OpKind;

    fn entry(value: &[u8]) -> JournalEntry {
        JournalEntry {
            seq: Some(1),
            id: "charge".to_owned(),
            op: OpKind::Run,
            value: Some(Bytes::copy_from_slice(value)),
            error: None,
            bytes: value.len(),
            attempts: 1,
            asked_at: None,
            settled_at: Some(Timestamp::from_micros(0)),
            ms: 3,
            next_attempt_at: None,
            last_error: None,
        }
    }

    #[test]
    fn values_are_written_as_they_came() {
        let text = serde_json::to_string(&EntryBody::of(entry(
            b"[3544790567247868102,  1.0, \"\\u00e9\"]",
        )))
        .expect("JSON");
        assert!(
            text.starts_with(
                r#"{"seq":1,"id":"charge","op":"run","value":[3544790567247868102,  1.0, "\u00e9"],"error":null,"#
            ),
            "{text}"
        );
        let step = StepView { entry: entry(b"1.0"), attempts: Vec::new() };
        let text = serde_json::to_string(&StepBody::from(step)).expect("JSON");
        assert!(text.contains(r#""value":1.0,"#), "{text}");
    }

    #[test]
    fn a_big_value_is_a_ref_in_lists_and_whole_in_its_step() {
        let big = format!("\"{}\"", "x".repeat(MAX_INLINE));
        let json = serde_json::to_value(EntryBody::of(entry(big.as_bytes()))).expect("JSON");
        assert_eq!(json["ref"]["bytes"], MAX_INLINE + 2);
        assert_eq!(json["ref"]["sha256"].as_str().map(str::len), Some(64));
        assert!(json.get("value").is_none());
        let json = serde_json::to_value(EntryBody::whole(entry(big.as_bytes()))).expect("JSON");
        assert!(json.get("ref").is_none() && json["value"].is_string());
    }
}
