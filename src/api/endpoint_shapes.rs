//! How endpoints, deployments, probes, functions and API keys look in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use super::shapes::Payload;
use crate::engine::{
    Change, DeploymentView, EndpointHealth, EndpointState, EndpointView, FunctionView, KeyRow,
    PULL, ProbeStage, Registered, Repinned, Replayed, Rotated, RunsOn, Setting, Source,
};
use crate::machine::{DeploymentId, EndpointId, KeyId, RunId, Timestamp};
use crate::replay::Report;

/// An endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(super) struct EndpointBody {
    #[schema(value_type = String, example = "end_01k9c3v5h2e8x8p0m4s6t7w9yz")]
    id: EndpointId,
    name: String,
    /// Where its handler is; null: it polls for its work.
    url: Option<String>,
    /// Its handler is not called but polls for its work.
    pull: bool,
    /// Of a pull endpoint: how many polls wait for work now; may trail at other nodes.
    polls: Option<usize>,
    /// `healthy`, `unhealthy` (its runs are parked) or `disabled`.
    state: &'static str,
    /// Why it is unhealthy.
    detail: Option<String>,
    /// Since when it is unhealthy.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// When an unhealthy endpoint is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_probe_at: Option<Timestamp>,
    /// It takes no new runs; those that are live go on.
    draining: bool,
    /// How many runs may be on their way to it at once, in the whole cluster; null: no limit.
    concurrency: Option<u32>,
    /// Names of the extra request headers; their values are not shown.
    headers: Vec<String>,
    /// The newest deployment.
    #[schema(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
    /// Its functions in the newest deployment.
    functions: Vec<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

/// State, detail, since when, and the next probe.
type Standing = (&'static str, Option<String>, Option<Timestamp>, Option<Timestamp>);

fn standing(state: EndpointState) -> Standing {
    match state {
        EndpointState::Healthy => ("healthy", None, None, None),
        EndpointState::Disabled => ("disabled", None, None, None),
        EndpointState::Unhealthy { detail, since, next_probe_at } => {
            ("unhealthy", Some(detail), Some(since), next_probe_at)
        }
    }
}

/// How well an endpoint is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointHealth)]
pub(super) struct EndpointHealthBody {
    /// `healthy`, `unhealthy` (its runs are parked) or `disabled`.
    state: &'static str,
    /// Why it is unhealthy.
    detail: Option<String>,
    /// Since when it is unhealthy.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// When an unhealthy endpoint is tried again.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_probe_at: Option<Timestamp>,
    /// Probes that have failed since it became unhealthy; the wait for the next doubles with each.
    failed_probes: u32,
    /// A probe is out at this moment.
    probing: bool,
}

impl From<EndpointHealth> for EndpointHealthBody {
    fn from(h: EndpointHealth) -> Self {
        let (state, detail, since, next_probe_at) = standing(h.state);
        let EndpointHealth { failed_probes, probing, .. } = h;
        Self { state, detail, since, next_probe_at, failed_probes, probing }
    }
}

impl From<EndpointView> for EndpointBody {
    fn from(e: EndpointView) -> Self {
        let (state, detail, since, next_probe_at) = standing(e.state);
        Self {
            id: e.id,
            name: e.name,
            pull: e.url == PULL,
            polls: (e.url == PULL).then_some(e.polls),
            url: Some(e.url).filter(|url| url != PULL),
            state,
            detail,
            since,
            next_probe_at,
            draining: e.draining,
            concurrency: e.concurrency,
            headers: e.headers,
            deployment: e.deployment,
            functions: e.functions,
            created_at: e.created_at,
            updated_at: e.updated_at,
        }
    }
}

/// One immutable registration of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Deployment)]
pub(super) struct DeploymentBody {
    #[schema(value_type = String)]
    id: DeploymentId,
    #[schema(value_type = String)]
    endpoint: EndpointId,
    /// The URL at that time; null: its handler polls for its work.
    url: Option<String>,
    /// What the manifest says the SDK is.
    sdk: Option<String>,
    /// The handler's own version.
    version: Option<String>,
    transports: Vec<String>,
    /// The one that the gateway uses now: `respond`, `stream` or `duplex`.
    transport: String,
    /// Why it does not use a better one for a while.
    fallback: Option<String>,
    pages: bool,
    functions: Vec<String>,
    /// Whether it is the endpoint's newest.
    current: bool,
    /// The live runs that it has; null in the answer to a registration.
    runs: Option<RunsOnBody>,
    /// No live run needs it: its handler can be switched off, and it can be pruned.
    drained: bool,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<DeploymentView> for DeploymentBody {
    fn from(d: DeploymentView) -> Self {
        Self {
            id: d.id,
            endpoint: d.endpoint,
            url: Some(d.url).filter(|url| url != PULL),
            sdk: d.sdk,
            version: d.version,
            transports: d.transports,
            transport: d.transport,
            fallback: d.fallback,
            pages: d.pages,
            functions: d.functions,
            current: d.current,
            runs: d.runs.map(|r| {
                let RunsOn { live, pinned, running } = r;
                RunsOnBody { live, pinned, running }
            }),
            drained: d.drained,
            created_at: d.created_at,
        }
    }
}

/// The live runs of a deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RunsOn)]
pub(super) struct RunsOnBody {
    /// Those that were last invoked there, or are pinned to it.
    live: u64,
    /// Of these, those that stay there; the others go on with the newest deployment.
    pinned: u64,
    /// Of these, those with an exchange that is open there; may trail by a second.
    running: u64,
}

/// What became of runs that were to move.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Repinned)]
pub(super) struct RepinnedBody {
    /// So many are told to go on elsewhere.
    moved: u64,
    /// So many stay: their function is not there, or they were not seen to move yet.
    left: u64,
}

impl From<Repinned> for RepinnedBody {
    fn from(Repinned { moved, left }: Repinned) -> Self {
        Self { moved, left }
    }
}

/// Deployments that are no more.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Pruned)]
pub(super) struct PrunedBody {
    #[schema(value_type = Vec<String>)]
    pub(super) pruned: Vec<DeploymentId>,
}

/// One stage of a probe.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProbeStage)]
pub(super) struct ProbeStageBody {
    /// `dns`, `connect`, `tls`, `status`, `signature`, `poll` or `functions`.
    name: String,
    /// Null where an earlier failure kept it from being tried.
    ok: Option<bool>,
    /// What was seen.
    detail: String,
    /// What to do about a failure.
    fix: Option<String>,
}

impl From<ProbeStage> for ProbeStageBody {
    fn from(s: ProbeStage) -> Self {
        Self { name: s.name, ok: s.ok, detail: s.detail, fix: s.fix }
    }
}

/// How a handler answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Probe)]
pub(super) struct ProbeBody {
    /// Whether no stage failed.
    ok: bool,
    stages: Vec<ProbeStageBody>,
}

impl From<Vec<ProbeStage>> for ProbeBody {
    fn from(stages: Vec<ProbeStage>) -> Self {
        let ok = stages.iter().all(|s| s.ok != Some(false));
        Self { ok, stages: stages.into_iter().map(Into::into).collect() }
    }
}

/// What a registration led to. With `dry_run` there is only the probe.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Registered)]
pub(super) struct RegisteredBody {
    endpoint: Option<EndpointBody>,
    deployment: Option<DeploymentBody>,
    /// What it made of the endpoint, or with `dry_run` would make of it: `created`, `changed` or
    /// `unchanged`; null: the handler did not tell its functions.
    #[schema(pattern = "^(created|changed|unchanged)$")]
    change: Option<&'static str>,
    /// The signing secret, where one was made just now. It is not shown again.
    secret: Option<String>,
    probe: ProbeBody,
    /// What replays of recent runs came to, where a dry run asked for them.
    replays: Vec<ReplayedBody>,
}

/// The replay of a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replayed)]
pub(super) struct ReplayedBody {
    #[schema(value_type = String)]
    run: RunId,
    function: String,
    #[serde(flatten)]
    #[schema(inline)]
    report: ReplayBody,
}

impl From<Replayed> for ReplayedBody {
    fn from(r: Replayed) -> Self {
        Self { run: r.run, function: r.function, report: r.report.into() }
    }
}

/// What a replay came to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replay)]
pub(super) struct ReplayBody {
    /// Null where the candidate does what was done.
    divergence: Option<DivergenceBody>,
    /// Steps that the candidate asks for and the run never had; no divergence by themselves.
    inserted: Vec<String>,
    /// Steps that the run had and the candidate does not ask for; no divergence by themselves.
    removed: Vec<String>,
    /// Why the replay ended before the candidate did, if it did.
    stopped: Option<String>,
    /// How often the candidate was invoked.
    invocations: u32,
}

/// The first thing that a candidate does otherwise.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Divergence)]
pub(super) struct DivergenceBody {
    /// Null where it is about the end, or about an answer as a whole.
    step: Option<String>,
    /// What is recorded.
    expected: String,
    /// What the candidate did.
    got: String,
}

impl From<Report> for ReplayBody {
    fn from(r: Report) -> Self {
        let Report { divergence, inserted, removed, stopped, invocations } = r;
        let divergence =
            divergence.map(|d| DivergenceBody { step: d.step, expected: d.expected, got: d.got });
        Self { divergence, inserted, removed, stopped, invocations }
    }
}

impl RegisteredBody {
    /// Nothing was recorded.
    pub(super) fn dry_run(
        probe: Vec<ProbeStage>,
        change: Option<Change>,
        replays: Vec<Replayed>,
    ) -> Self {
        Self {
            endpoint: None,
            deployment: None,
            change: change.map(in_a_word),
            secret: None,
            probe: probe.into(),
            replays: replays.into_iter().map(Into::into).collect(),
        }
    }
}

const fn in_a_word(change: Change) -> &'static str {
    match change {
        Change::Created => "created",
        Change::Changed => "changed",
        Change::Unchanged => "unchanged",
    }
}

impl From<Registered> for RegisteredBody {
    fn from(r: Registered) -> Self {
        Self {
            endpoint: Some(r.endpoint.into()),
            deployment: Some(r.deployment.into()),
            change: Some(in_a_word(r.change)),
            secret: r.secret,
            probe: r.probe.into(),
            replays: Vec::new(),
        }
    }
}

/// An endpoint and its new signing secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rotated)]
pub(super) struct RotatedBody {
    endpoint: EndpointBody,
    /// The new secret. It is not shown again.
    secret: String,
    /// Until when requests are signed with the old one too.
    #[schema(value_type = String, format = DateTime)]
    old_until: Timestamp,
}

impl From<Rotated> for RotatedBody {
    fn from(r: Rotated) -> Self {
        Self { endpoint: r.endpoint.into(), secret: r.secret, old_until: r.old_until }
    }
}

/// One value of a function's configuration.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Setting)]
pub(super) struct SettingBody {
    /// Such as `retry.max_attempts`.
    name: String,
    #[schema(value_type = serde_json::Value)]
    value: Payload,
    /// Where it comes from: `default` or `deployment`.
    source: &'static str,
}

impl From<Setting> for SettingBody {
    fn from(s: Setting) -> Self {
        let source = match s.source {
            Source::Default => "default",
            Source::Deployment => "deployment",
        };
        Self { name: s.name, value: Payload(Some(s.value)), source }
    }
}

/// A function.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Function)]
pub(super) struct FunctionBody {
    name: String,
    /// The endpoint that hosts it.
    #[schema(value_type = String)]
    endpoint: EndpointId,
    endpoint_name: String,
    /// The newest deployment that has it.
    #[schema(value_type = String)]
    deployment: DeploymentId,
    /// `function`, `object` or `plain`.
    kind: String,
    /// Where at the endpoint the input of a plain function is posted; null: at the endpoint's own URL.
    path: Option<String>,
    /// Of an object: its runs read the state of another function's objects, and wait for nobody.
    shared: bool,
    /// Of a shared one: the function whose objects it reads.
    object: Option<String>,
    /// Every setting in force, and where it comes from.
    settings: Vec<SettingBody>,
    /// Its tasks; null: it does not list them.
    #[schema(value_type = Option<Vec<String>>)]
    tasks: Payload,
    /// What starts it by itself; null: nothing does.
    #[schema(value_type = Option<Vec<Value>>)]
    triggers: Payload,
    /// JSON Schema of its input, as the handler says; left out in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    input_schema: Option<Payload>,
    /// None of its runs is invoked; null: it is not paused.
    paused: Option<super::limits::PauseBody>,
}

impl FunctionBody {
    /// For a list.
    pub(super) fn listed(self) -> Self {
        Self { input_schema: None, ..self }
    }
}

impl From<FunctionView> for FunctionBody {
    fn from(f: FunctionView) -> Self {
        Self {
            name: f.name,
            endpoint: f.endpoint,
            endpoint_name: f.endpoint_name,
            deployment: f.deployment,
            kind: f.kind,
            path: f.path,
            shared: f.shared,
            object: f.object,
            settings: f.settings.into_iter().map(Into::into).collect(),
            tasks: Payload(f.tasks),
            triggers: Payload(f.triggers),
            input_schema: Some(Payload(f.input_schema)),
            paused: f.paused.map(Into::into),
        }
    }
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(super) struct KeyBody {
    #[schema(value_type = String)]
    id: KeyId,
    /// The namespace that it opens.
    namespace: String,
    name: String,
    scopes: Vec<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Timestamp>,
}

impl From<KeyRow> for KeyBody {
    fn from(key: KeyRow) -> Self {
        Self {
            id: key.id,
            namespace: key.namespace,
            name: key.name,
            scopes: key.scopes.iter().map(crate::engine::Scope::word).collect(),
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A new API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewApiKey)]
pub(super) struct NewKeyBody {
    #[serde(flatten)]
    key: KeyBody,
    /// For `Authorization: Bearer`. It is not shown again.
    secret: String,
}

impl NewKeyBody {
    /// A key and its secret.
    pub(super) fn new(key: KeyRow, secret: String) -> Self {
        Self { key: key.into(), secret }
    }
}
