//! What the engine's answers look like to the API and the command line, beside the words in `types`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Namespace, Status};
use crate::machine::{
    Attention, DeploymentId, EndpointId, KeyId, OpKind, RetrySpec, RunId, RunKind, ScheduleId,
    Timestamp,
};

/// What an API key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Read runs, functions and endpoints.
    RunsRead = 1,
    /// Start runs and act on them; includes reading them.
    RunsWrite = 2,
    /// Send signals.
    SignalsWrite = 4,
    /// Register and change endpoints; includes reading them.
    EndpointsWrite = 8,
    /// Change schedules; includes reading them, and runs.
    SchedulesWrite = 16,
    /// Everything, API keys included.
    Admin = 32,
    /// Poll pull endpoints for work.
    EndpointsPoll = 64,
}

impl Scope {
    /// All, in the order of their bits.
    pub const ALL: [Self; 7] = [
        Self::RunsRead,
        Self::RunsWrite,
        Self::SignalsWrite,
        Self::EndpointsWrite,
        Self::SchedulesWrite,
        Self::Admin,
        Self::EndpointsPoll,
    ];

    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::RunsRead => "runs:read",
            Self::RunsWrite => "runs:write",
            Self::SignalsWrite => "signals:write",
            Self::EndpointsWrite => "endpoints:write",
            Self::SchedulesWrite => "schedules:write",
            Self::Admin => "admin",
            Self::EndpointsPoll => "endpoints:poll",
        }
    }

    /// The scope of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(pub u8);

impl Scopes {
    /// Everything.
    pub const ALL: Self = Self(Scope::Admin as u8);

    /// Whether what needs `scope` may be done: `admin` may do all, and who may write more than signals
    /// may read. A worker that polls may do nothing else.
    #[must_use]
    pub const fn allow(self, scope: Scope) -> bool {
        let by = match scope {
            Scope::RunsRead => !(Scope::SignalsWrite as u8 | Scope::EndpointsPoll as u8),
            other => other as u8,
        };
        self.0 & (by | Scope::Admin as u8) != 0
    }

    /// The scopes in it, as granted.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |s| self.0 & *s as u8 != 0)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope as u8))
    }
}

/// Who calls: what a credential stands for. The namespace comes from here and from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Where.
    pub namespace: Namespace,
    /// The name of the API key, or `local`.
    pub by: String,
    /// What it may do.
    pub scopes: Scopes,
}

/// The header that marks a request as forwarded by another node of the same cluster. Whoever sends
/// it and does not pass [`crate::engine::Engine::check_node`] is refused.
pub const NODE_HEADER: &str = "stepwell-node";

/// A request that another node forwarded, after its authentication was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// Whom the other node had authenticated; none where the credential is a handler's token, which
    /// travels in the request itself.
    pub caller: Option<Caller>,
}

/// One step in a run's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Position among the settled ones; none while pending.
    pub seq: Option<i32>,
    /// The step.
    pub id: String,
    /// Its op.
    pub op: OpKind,
    /// The recorded value, whole and byte for byte.
    pub value: Option<Bytes>,
    /// The recorded error, a JSON object.
    pub error: Option<Bytes>,
    /// Length of what is recorded.
    pub bytes: usize,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was asked for; none for work that was reported when it was done.
    pub asked_at: Option<Timestamp>,
    /// When it settled.
    pub settled_at: Option<Timestamp>,
    /// How long the handler says it took.
    pub ms: i32,
    /// For a pending step that failed: when it is tried again.
    pub next_attempt_at: Option<Timestamp>,
    /// For a pending step that failed: its last error.
    pub last_error: Option<Bytes>,
}

/// A part of a journal: settled steps in commit order, then, on the last page, the pending ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JournalPage {
    /// The steps.
    pub entries: Vec<JournalEntry>,
    /// How many steps of this generation are settled in all.
    pub upto: i32,
    /// Which one it is, from 1.
    pub generation: i32,
}

/// A failed attempt of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When it was recorded.
    pub at: Timestamp,
    /// How it failed.
    pub error: Bytes,
}

/// One step with its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepView {
    /// As in the journal.
    pub entry: JournalEntry,
    /// The failed attempts that are recorded, in order.
    pub attempts: Vec<Attempt>,
}

/// One thing that happened to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryItem {
    /// Position in the run's history; grows, may have gaps.
    pub n: i64,
    /// The epoch that it belongs to.
    pub epoch: i32,
    /// When.
    pub at: Timestamp,
    /// Such as `invocation.ended`.
    pub what: String,
    /// Who: `gateway`, `handler`, or the name of an API key.
    pub by: String,
    /// JSON object.
    pub data: Bytes,
}

/// A line of a run's log, with its place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogItem {
    /// Position in the run's log; grows, may have gaps.
    pub n: i64,
    /// The line.
    pub line: crate::machine::LogLine,
}

/// What has become of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalState {
    /// Accepted; no step has taken it yet.
    Waiting,
    /// A step took it.
    Taken,
    /// The run ended without taking it.
    Untaken,
}

/// A signal of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalItem {
    /// Its name.
    pub name: String,
    /// When it was accepted.
    pub at: Timestamp,
    /// Length of its payload.
    pub bytes: usize,
    /// What has become of it.
    pub state: SignalState,
    /// The step that took it.
    pub step: Option<String>,
}

/// What sending a signal led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signalled {
    /// Whether the same idempotency key had sent it before.
    pub replayed: bool,
}

/// A run in a list.
#[derive(Debug, Clone)]
pub struct ListedRun {
    /// Its id.
    pub id: RunId,
    /// Its namespace's name.
    pub namespace: String,
    /// Its function's name.
    pub function: String,
    /// Its key.
    pub key: Option<String>,
    /// From 1.
    pub generation: i32,
    /// The deployment it was last invoked on.
    pub deployment: Option<DeploymentId>,
    /// How it stands; may trail by a second.
    pub status: Status,
    /// Why it does not move; none while all is well.
    pub attention: Option<Attention>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// The schedule that started it.
    pub schedule: Option<ScheduleId>,
    /// The kind of error that it failed or is paused by.
    pub fingerprint: Option<super::Fingerprint>,
}

/// A page of runs, new to old.
#[derive(Debug, Clone, Default)]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<ListedRun>,
    /// The place of the last run that was looked at, if there may be more after it.
    pub next: Option<super::RunPlace>,
}

/// Where a value of a function's configuration comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Stepwell's default.
    Default,
    /// The deployment says so.
    Deployment,
}

/// One value of a function's effective configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Such as `retry.max_attempts` or `timeouts.run`.
    pub name: String,
    /// JSON.
    pub value: Bytes,
    /// Where it comes from.
    pub source: Source,
}

/// How an endpoint stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointState {
    /// Its circuit is closed.
    Healthy,
    /// Its circuit is open and its runs are parked.
    Unhealthy {
        /// What happened.
        detail: String,
        /// Since when.
        since: Timestamp,
        /// When it is probed next.
        next_probe_at: Option<Timestamp>,
    },
    /// An operator disabled it: its runs are parked.
    Disabled,
}

/// How well an endpoint is, as all nodes agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// How it stands.
    pub state: EndpointState,
    /// Probes that have failed since its circuit opened.
    pub failed_probes: u32,
    /// A probe is out.
    pub probing: bool,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Its name, unique in the namespace.
    pub name: String,
    /// Where it is; [`PULL`](super::PULL) where its handler fetches its work.
    pub url: String,
    /// How many poll it now, as far as the node that answers knows: here, and at other nodes for it.
    pub polls: usize,
    /// Grows with every change; becomes the `ETag`.
    pub version: i64,
    /// How it stands.
    pub state: EndpointState,
    /// No run is started there.
    pub draining: bool,
    /// How many runs may be on their way to it at once, in the whole cluster.
    pub concurrency: Option<u32>,
    /// Names of the extra request headers; their values may be secrets and are not shown.
    pub headers: Vec<String>,
    /// The newest deployment.
    pub deployment: Option<DeploymentId>,
    /// Its functions in the newest deployment.
    pub functions: Vec<String>,
    /// When it was registered first.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// A change of an endpoint; what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointPatch {
    /// Its name.
    pub name: Option<String>,
    /// Where its handler is: a new deployment with the same functions.
    pub url: Option<String>,
    /// Extra headers that are set, and (none) that are taken away.
    pub headers: BTreeMap<String, Option<String>>,
    /// How many runs may be on their way to it at once, or (none) that there is no limit.
    #[expect(clippy::option_option, reason = "left alone, no limit, and a limit are three things")]
    pub concurrency: Option<Option<u32>>,
}

/// What a change led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Patched {
    /// The endpoint as it is now.
    Done(Box<EndpointView>),
    /// It has changed since the version that was named, or is gone.
    Stale,
}

/// Which deployment a run goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Versioning {
    /// The newest.
    #[default]
    Latest,
    /// That of its first invocation.
    Pinned,
}

/// A function as a registration lists it: the manifest's fields; what is left out has the default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FunctionSpec {
    /// Its name.
    pub name: String,
    /// `function`, `object` or `plain`.
    pub kind: RunKind,
    /// Where at the endpoint the input of a plain function is posted.
    pub path: Option<String>,
    /// Of an object: its runs only read.
    pub shared: bool,
    /// Of a shared one: the function whose objects it reads.
    pub object: Option<String>,
    /// Which deployment its runs go on with.
    pub versioning: Versioning,
    /// Default policy of its steps.
    pub retry: RetrySpec,
    /// For exchanges that fail.
    pub invocation_retry: RetrySpec,
    /// For run-level errors.
    pub run_retry: RetrySpec,
    /// How long a run may take.
    pub run_timeout: Option<Duration>,
    /// How long a run may wait for its first invocation.
    pub start_timeout: Option<Duration>,
    /// How long an exchange may be silent.
    pub invocation_timeout: Option<Duration>,
    /// How long its ended runs are kept.
    pub retention: Option<Duration>,
    /// Its tasks, where it lists them.
    pub tasks: Option<Vec<String>>,
    /// Whether another `input_hash` for a recorded step is a mismatch.
    pub strict: bool,
    /// JSON Schema of its input.
    pub input_schema: Option<Bytes>,
    /// The events that start it, as in a manifest.
    pub triggers: Option<Bytes>,
    /// JSON, what the manifest's check reads.
    pub concurrency: Option<Bytes>,
    /// JSON, likewise.
    pub throttle: Option<Bytes>,
    /// JSON, likewise.
    pub rate_limit: Option<Bytes>,
    /// JSON, likewise.
    pub debounce: Option<Bytes>,
    /// JSON, likewise.
    pub singleton: Option<Bytes>,
    /// JSON, likewise.
    pub gather: Option<Bytes>,
    /// JSON, likewise.
    pub locks: Option<Bytes>,
    /// JSON, likewise.
    pub cancel_on: Option<Bytes>,
}

/// A registration of an endpoint.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent options of one request")]
pub struct Registration {
    /// Its name; the same name again is the same endpoint.
    pub name: String,
    /// Where it is. Checked for form by the API, for reach by the engine.
    pub url: String,
    /// Its signing secret (`whsec_…`), if the caller brings one.
    pub secret: Option<String>,
    /// Extra request headers.
    pub headers: BTreeMap<String, String>,
    /// Its functions; none where discovery tells.
    pub functions: Option<Vec<FunctionSpec>>,
    /// The transports it can do.
    pub transports: Vec<String>,
    /// Whether it can page.
    pub pages: bool,
    /// Its inline budget in bytes.
    pub max_inline_bytes: Option<u32>,
    /// Whether to ask the handler for its manifest.
    pub discover: bool,
    /// Probe and tell, record nothing.
    pub dry_run: bool,
    /// How many of the most recent runs of each function to replay in a dry run.
    pub replay: u8,
    /// Go on although a function with live runs is dropped.
    pub force: bool,
    /// Who registers.
    pub by: String,
}

/// One stage of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeStage {
    /// `dns`, `connect`, `tls`, `status`, `signature`, `poll` or `functions`.
    pub name: String,
    /// Whether it passed; none where an earlier failure kept it from being tried.
    pub ok: Option<bool>,
    /// What was seen.
    pub detail: String,
    /// What to do about a failure, in words.
    pub fix: Option<String>,
}

/// What a registration or a sync led to.
#[derive(Debug, Clone)]
pub enum RegisterOutcome {
    /// It stands.
    Registered(Box<Registered>),
    /// Nothing was recorded, because a dry run was asked for: what would be, if the handler told its
    /// functions; and what replays of recent runs came to.
    DryRun(Vec<ProbeStage>, Option<Change>, Vec<super::Replayed>),
    /// Nothing was recorded, because the handler could not tell its functions.
    ProbeFailed(Vec<ProbeStage>),
    /// Nothing was recorded, because functions with live runs would be gone: their names and some
    /// of the runs.
    DropsFunctions(Vec<String>, Vec<RunId>),
}

/// What a registration makes of an endpoint, or would make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none of its name.
    Created,
    /// Something of it is another than before.
    Changed,
    /// It is what it was.
    Unchanged,
}

/// A registered endpoint.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The endpoint.
    pub endpoint: EndpointView,
    /// Its deployment.
    pub deployment: super::DeploymentView,
    /// The signing secret, where the gateway made one just now.
    pub secret: Option<String>,
    /// How the handler answered.
    pub probe: Vec<ProbeStage>,
    /// What has become of it.
    pub change: Change,
}

/// How an endpoint is named in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointRef {
    /// By id.
    Id(EndpointId),
    /// By name.
    Name(String),
}

/// What becomes of the live runs of an endpoint that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsPolicy {
    /// They are cancelled.
    Cancel,
    /// They are parked until the functions are registered again.
    Park,
    /// They go on with another endpoint that has the function.
    Repin,
}

/// What a delete led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone.
    Done,
    /// It is gone already, or has changed since the version that was named.
    Stale,
    /// It has live runs and no policy was named: some of them.
    InUse(Vec<RunId>),
}

/// An endpoint and its new signing secret.
#[derive(Debug, Clone)]
pub struct Rotated {
    /// The endpoint.
    pub endpoint: EndpointView,
    /// The new secret, shown once.
    pub secret: String,
    /// Until when requests are signed with the old one too.
    pub old_until: Timestamp,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// The name of its namespace.
    pub namespace: String,
    /// Its name: who did it, in every history.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}
