//! What the engine takes and gives: the words that the API and the command line speak with it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::machine::{
    Attention, BulkId, DeploymentId, EndpointId, EventId, Fired, Hook, MessageId, OpKind,
    RetrySpec, RunId, ScheduleId, Timestamp, UpdateId,
};

/// A namespace, as a caller's credential names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// The number in every table.
    pub id: i32,
    /// The name.
    pub name: String,
}

/// An `Idempotency-Key` and what it was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Method and path, and the key itself.
    pub key: String,
    /// SHA-256 of the request's body.
    pub hash: [u8; 32],
}

/// What to do if a run with the same key is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfRunning {
    /// 409 `run-exists`.
    #[default]
    Fail,
    /// Answer with the live one.
    UseExisting,
    /// Cancel the live one, wait for its end, start anew.
    CancelExisting,
    /// Terminate the live one, start anew.
    TerminateExisting,
}

/// What to do if a run with the same key has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfClosed {
    /// Start anew.
    #[default]
    Allow,
    /// Start anew unless it completed.
    AllowIfFailed,
    /// 409 `run-exists`.
    Reject,
}

/// A start.
#[expect(clippy::struct_field_names, reason = "`start_at` is the API's word")]
#[derive(Debug, Clone)]
pub struct Start {
    /// Where.
    pub namespace: Namespace,
    /// Of which function.
    pub function: String,
    /// Byte for byte.
    pub input: Box<RawValue>,
    /// The run's key.
    pub key: Option<String>,
    /// If a run of that key is live.
    pub if_running: IfRunning,
    /// If a run of that key has ended.
    pub if_closed: IfClosed,
    /// First not before this moment.
    pub start_at: Option<Timestamp>,
    /// Searchable tags.
    pub tags: BTreeMap<String, String>,
    /// How long the run may take, over the function's.
    pub run_timeout: Option<Duration>,
    /// How long it may wait for its first invocation, over the function's.
    pub start_timeout: Option<Duration>,
    /// Among runs that wait for the same limit higher ones go first.
    pub priority: i16,
    /// How long an exchange may be silent, over the function's.
    pub invocation_timeout: Option<Duration>,
    /// Default policy of its steps, over the function's.
    pub retry: Option<RetrySpec>,
    /// The deployment to run on, instead of the newest.
    pub deployment: Option<DeploymentId>,
    /// A signal that is there from the start, or is sent to the existing run: name and payload.
    pub signal: Option<(String, Bytes)>,
    /// The idempotency key, if one was sent.
    pub idempotency: Option<Idempotency>,
    /// Who: the name of the API key, or `local`.
    pub by: String,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
    /// The firing of a schedule that it comes of.
    pub schedule: Option<Box<Fired>>,
    /// Who is told of its end.
    pub on_complete: Vec<Hook>,
    /// The input is a list already, where the function gathers its starts.
    pub gathered: bool,
}

impl Start {
    /// A start that says nothing but what is needed.
    #[must_use]
    pub const fn new(
        namespace: Namespace,
        function: String,
        input: Box<RawValue>,
        by: String,
    ) -> Self {
        Self {
            namespace,
            function,
            input,
            key: None,
            if_running: IfRunning::Fail,
            if_closed: IfClosed::Allow,
            start_at: None,
            tags: BTreeMap::new(),
            run_timeout: None,
            start_timeout: None,
            priority: 0,
            invocation_timeout: None,
            retry: None,
            deployment: None,
            signal: None,
            idempotency: None,
            by,
            traceparent: None,
            schedule: None,
            on_complete: Vec::new(),
            gathered: false,
        }
    }
}

/// What a start led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// A new run.
    New(RunId),
    /// The live run of the same key.
    Existing(RunId),
    /// What the same idempotency key started before.
    Replayed(RunId),
}

impl Started {
    /// The run in question.
    #[must_use]
    pub const fn run(self) -> RunId {
        match self {
            Self::New(run) | Self::Existing(run) | Self::Replayed(run) => run,
        }
    }
}

/// The one status of a run: the same word in list, detail and dashboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum Status {
    /// Starts later.
    Scheduled = 0,
    /// Wants an invocation and is kept from it.
    Queued = 1,
    /// An exchange is open, or the handler holds it.
    Running = 2,
    /// For a timer, signal or callback.
    Waiting = 3,
    /// An exchange or a step failed and is tried again later.
    Retrying = 4,
    /// Its endpoint is unhealthy.
    Parked = 5,
    /// Needs a person.
    Paused = 6,
    /// Ended with an output.
    Completed = 100,
    /// Ended with an error.
    Failed = 101,
    /// Ended by a cancel.
    Cancelled = 102,
    /// Ended by its deadline.
    TimedOut = 103,
    /// Ended by an operator.
    Terminated = 104,
}

impl Status {
    /// All, in the order of their codes.
    pub const ALL: [Self; 12] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Waiting,
        Self::Retrying,
        Self::Parked,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Terminated,
    ];

    /// The word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Retrying => "retrying",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Terminated => "terminated",
        }
    }

    /// The status of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// The code in the database.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// The status of a code.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.code() == code)
    }

    /// Whether the run has ended.
    #[must_use]
    pub const fn ended(self) -> bool {
        self as i16 >= 100
    }
}

/// One thing that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingFor {
    /// The step.
    pub step: String,
    /// Its op.
    pub op: OpKind,
    /// The name of a signal, an event or a task; where a call goes, without its query.
    pub name: Option<String>,
    /// When it was asked for.
    pub since: Option<Timestamp>,
    /// When it settles by itself.
    pub until: Option<Timestamp>,
}

/// A run as the API shows it.
#[derive(Debug, Clone)]
pub struct RunView {
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
    /// How it stands.
    pub status: Status,
    /// What it waits for.
    pub waiting_for: Vec<WaitingFor>,
    /// Why it does not move; none while all is well.
    pub attention: Option<Attention>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was first invoked, as far as the journal tells.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its input.
    pub input: Option<Bytes>,
    /// The output of a completed run.
    pub output: Option<Bytes>,
    /// The error of a failed run.
    pub error: Option<Bytes>,
    /// What its handler said last.
    pub custom_status: Option<Bytes>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Settled steps.
    pub settled: u32,
    /// Pending steps.
    pub pending: u32,
    /// Invocations so far, at least.
    pub invocations: u32,
    /// The run that it does again.
    pub rerun_of: Option<RunId>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// The firing of a schedule that it comes of.
    pub schedule: Option<Box<Fired>>,
    /// When its payloads were erased.
    pub erased_at: Option<Timestamp>,
    /// When it was imported; none: it ended here.
    pub imported_at: Option<Timestamp>,
}

/// How a callback is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// With a value.
    Value,
    /// With an error.
    Error,
    /// A sign of life.
    Heartbeat,
}

/// What became of a callback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackSettled {
    /// Settled, or kept for a step that is not asked for yet, or the same body again: 204.
    Done,
    /// Accepted here; the owner could not be asked: 202.
    Accepted,
}

/// Who drives a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// This node.
    Here,
    /// The node at this address (`http://host:port`).
    Node(String),
    /// Nobody at the moment.
    Nobody,
}

/// What is wrong with a request to the engine, in the engine's words.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such run in this namespace.
    #[error("there is no run {0}")]
    RunNotFound(RunId),
    /// No such function in this namespace.
    #[error("there is no function `{0}`; register an endpoint that has it")]
    FunctionNotFound(String),
    /// No such step in this run; what to do about it.
    #[error("run {0} has no step `{1}`{2}")]
    StepNotFound(RunId, String, &'static str),
    /// No such deployment of this function.
    #[error("there is no deployment {0} that has this function")]
    DeploymentNotFound(DeploymentId),
    /// No such schedule in this namespace.
    #[error("there is no schedule `{0}`")]
    ScheduleNotFound(String),
    /// Another schedule has the name.
    #[error("there is a schedule named `{name}`, and it is another one")]
    ScheduleExists {
        /// The name.
        name: String,
        /// Who has it.
        id: ScheduleId,
    },
    /// The schedule belongs to the registration of a function.
    #[error("this schedule is part of the registration of `{function}`; change it there")]
    ScheduleOwned {
        /// The function.
        function: String,
    },
    /// The schedule is at another version.
    #[error("the schedule is not at the version in `If-Match`")]
    ScheduleStale,
    /// No act on many runs of this id in this namespace.
    #[error("there is no bulk {0}")]
    BulkNotFound(BulkId),
    /// An act on many runs has ended.
    #[error("bulk {0} has come to its last run; it cannot be aborted any more")]
    BulkEnded(BulkId),
    /// No such webhook.
    #[error("there is no webhook `{0}`")]
    WebhookNotFound(String),
    /// Another one has the name.
    #[error("there is a webhook named `{0}`, and it is another one")]
    WebhookExists(String),
    /// It has changed in the meantime.
    #[error("the webhook is not at the version in `If-Match`")]
    WebhookStale,
    /// No such delivery of this webhook.
    #[error("there is no delivery {0} of this webhook; what is old is removed")]
    DeliveryNotFound(MessageId),
    /// No run of this namespace has had this kind of error.
    #[error("there is no error {0}")]
    UnknownFingerprint(super::Fingerprint),
    /// No such event in this namespace.
    #[error("there is no event {0}")]
    EventNotFound(EventId),
    /// The handler did not answer a query.
    #[error("the handler of run {0} did not answer the query: {1}")]
    QueryFailed(RunId, String),
    /// The function is of another kind than `object`.
    #[error("`{0}` is no object: only functions of kind `object` that are not `shared` have state")]
    NotAnObject(String),
    /// A run has the object, so nobody else may write to it.
    #[error("run {run} has the object `{key}`; wait for its end, or end it")]
    ObjectBusy {
        /// Which.
        run: RunId,
        /// The object's key.
        key: String,
    },
    /// The object's state is another one than the caller has seen.
    #[error("the state of the object is not the one in `If-Match`")]
    ObjectChanged,
    /// The run has had no such update.
    #[error("the run has had no update {0}")]
    UpdateNotFound(UpdateId),
    /// No such endpoint.
    #[error("there is no endpoint {0}")]
    EndpointNotFound(EndpointId),
    /// No run is started at the endpoint of the function.
    #[error(
        "endpoint `{endpoint}`, which has the function `{function}`, is draining and takes no new runs"
    )]
    EndpointDraining {
        /// The function.
        function: String,
        /// The endpoint.
        endpoint: String,
    },
    /// A run with this key exists, and the start said to fail or reject.
    #[error("run {run} has the key `{key}` and is {}", status.word())]
    RunExists {
        /// The one that has it.
        run: RunId,
        /// The key.
        key: String,
        /// How it stands.
        status: Status,
    },
    /// The function takes no more starts for a while.
    #[error("the rate limit of `{function}` lets no more starts through now")]
    RateLimited {
        /// The function.
        function: String,
        /// When the next one is let through.
        retry_after: Duration,
    },
    /// No such namespace that the caller may know of.
    #[error("there is no namespace `{0}`")]
    NamespaceNotFound(String),
    /// There is one, and it is another.
    #[error("there is a namespace `{0}`, and it may have other things")]
    NamespaceExists(String),
    /// It has what would go on without it.
    #[error("the namespace `{0}` still has {1}")]
    NamespaceInUse(String, String),
    /// It has changed in the meantime.
    #[error("the namespace is not at the version in `If-Match`")]
    NamespaceStale,
    /// The namespace has what it may have.
    #[error("the namespace `{namespace}` has used up its quota `{quota}`, which is {of}")]
    QuotaExceeded {
        /// The namespace.
        namespace: String,
        /// Which quota: `live_runs` or `starts`.
        quota: &'static str,
        /// How much it is.
        of: String,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The same idempotency key with another body.
    #[error("the idempotency key was used with another request body")]
    IdempotencyKeyReused,
    /// A request with this idempotency key is under way.
    #[error("a request with this idempotency key is under way")]
    IdempotencyInProgress,
    /// The run has ended.
    #[error("run {0} has ended")]
    RunEnded(RunId),
    /// The run is about to end and takes no more messages.
    #[error("run {0} is ending and accepts no more messages")]
    RunEnding(RunId),
    /// The act does not fit the run's state.
    #[error("run {run} is {}: {detail}", status.word())]
    InvalidState {
        /// The run.
        run: RunId,
        /// How it stands.
        status: Status,
        /// What would fit.
        detail: String,
    },
    /// More than 10,000 signals wait untaken.
    #[error("run {run} has {untaken} signals that it has not taken")]
    TooManySignals {
        /// The run.
        run: RunId,
        /// How many.
        untaken: usize,
    },
    /// The callback address is not one of ours.
    #[error("this callback address is not valid")]
    BadCallback,
    /// The step is of a kind that cannot be settled from outside.
    #[error("step `{0}` is a {word} step and cannot be settled by a callback", word = .1.word())]
    NotACallback(String, OpKind),
    /// The step is settled with another outcome.
    #[error("step `{step}` is settled already")]
    AlreadySettled {
        /// The step.
        step: String,
        /// Whether it has a value.
        ok: bool,
        /// Its recorded value or error.
        recorded: Bytes,
    },
    /// The bearer token of a handler is not valid for this run and epoch.
    #[error("the invocation token is not valid for this run")]
    BadToken,
    /// The epoch of the token is not the run's.
    #[error("stale epoch: stop now, nothing was recorded")]
    StaleEpoch,
    /// A checkpoint's number is not the next one.
    #[error("checkpoint {n} does not follow {last}, the last that was taken; nothing was recorded")]
    CheckpointSkipped {
        /// The number.
        n: i32,
        /// The last that was taken.
        last: i32,
    },
    /// A checkpoint's number was used with another body.
    #[error("checkpoint {0} was taken with another body; what was recorded stays")]
    CheckpointReused(i32),
    /// Nothing of a checkpoint was recorded, and the run is paused.
    #[error("the run is paused, and nothing of this checkpoint was recorded: {}", .0.detail)]
    RunPaused(Attention),
    /// What was sent cannot be accepted; (pointer, detail).
    #[error("{1}")]
    Invalid(String, String),
    /// Something is over a limit that is named.
    #[error("{0}")]
    TooLarge(String),
    /// Nothing may be asked of this node now: Postgres is away, or it sheds load.
    #[error("{detail}")]
    Unavailable {
        /// Why.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault of the gateway; the log says what.
    #[error("something went wrong inside the gateway")]
    Internal,
}
