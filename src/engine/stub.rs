//! Stands where the engine will be: the signatures the API calls, each of which says `unavailable`.

#![expect(
    clippy::too_many_arguments,
    clippy::unused_self,
    reason = "signatures of what will be here"
)]

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use bytes::Bytes;

use super::{
    CallbackOutcome, CallbackSettled, Caller, Deleted, DeploymentView, EndpointRef, EndpointView,
    Error, Forwarded, FunctionView, HistoryItem, Idempotency, JournalPage, KeyRow, LogItem,
    Namespace, ProbeStage, RegisterOutcome, Registration, Rotated, Route, RunFilter, RunPage,
    RunView, RunsPolicy, Scopes, SignalItem, Signalled, Start, Started, StepView,
};
use crate::machine::{Act, DeploymentId, EndpointId, KeyId, MessageKind, RunId, Shard, Timestamp};

/// The engine.
#[derive(Debug, Clone, Default)]
pub struct Engine;

/// Tells when something of a run was committed.
#[derive(Debug)]
pub struct Changes;

impl Changes {
    /// Returns when something of the run was committed since the last call.
    pub async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }
}

fn away<T>() -> Result<T, Error> {
    Err(Error::Unavailable {
        detail: "there is no engine here".to_owned(),
        retry_after: Duration::from_secs(1),
    })
}

macro_rules! away {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $of:ty),*) -> $gives:ty;)*) => {
        impl Engine {$(
            $(#[$doc])*
            pub async fn $name(&self, $($arg: $of),*) -> Result<$gives, Error> {
                $(let _ = $arg;)*
                std::future::ready(away()).await
            }
        )*}
    };
}

away! {
    /// Starts a run.
    start(start: Start) -> Started;
    /// A run as it stands.
    view(ns: &Namespace, run: RunId) -> RunView;
    /// A run when it has ended or the time is up.
    wait_end(ns: &Namespace, run: RunId, at_most: Duration) -> RunView;
    /// Steps after `after_seq`; `limit` counts settled ones.
    journal(ns: &Namespace, run: RunId, after_seq: i32, limit: usize) -> JournalPage;
    /// One step; none if the run has no such step.
    step(ns: &Namespace, run: RunId, step: &str) -> Option<StepView>;
    /// What happened after `after_n`.
    history(ns: &Namespace, run: RunId, after_n: i64, limit: usize) -> Vec<HistoryItem>;
    /// Log lines after `after_n`.
    logs(ns: &Namespace, run: RunId, after_n: i64, limit: usize) -> Vec<LogItem>;
    /// The run's signals in the order of their acceptance.
    signals(ns: &Namespace, run: RunId) -> Vec<SignalItem>;
    /// Sends a signal to a run.
    signal(ns: &Namespace, run: RunId, name: &str, payload: Bytes, idempotency: Option<Idempotency>, by: &str) -> Signalled;
    /// Sends a signal to the live run of a key; none if there is none.
    signal_key(ns: &Namespace, function: &str, key: &str, name: &str, payload: Bytes, idempotency: Option<Idempotency>, by: &str) -> Option<(RunId, Signalled)>;
    /// An operator's act. `deployment` is for `resume`; the engine turns it into `Act::deployment`.
    act(ns: &Namespace, run: RunId, kind: MessageKind, act: Act, deployment: Option<DeploymentId>) -> RunView;
    /// Settles a callback.
    settle(secret: &str, step: &str, outcome: CallbackOutcome, body: Bytes) -> CallbackSettled;
    /// A step's value, whole; none if the run has no such step or it has no value.
    value(ns: &Namespace, run: RunId, step: &str) -> Option<Bytes>;
    /// Checks a handler's bearer token for reading a run: the namespace of the run.
    handler(token: &str, run: RunId) -> Namespace;
    /// Lists runs.
    list(ns: &Namespace, filter: RunFilter) -> RunPage;
    /// All functions by name.
    functions(ns: &Namespace) -> Vec<FunctionView>;
    /// One function.
    function(ns: &Namespace, name: &str) -> Option<FunctionView>;
    /// All endpoints by id.
    endpoints(ns: &Namespace) -> Vec<EndpointView>;
    /// One endpoint.
    endpoint(ns: &Namespace, endpoint: &EndpointRef) -> Option<EndpointView>;
    /// Its deployments, new to old.
    deployments(ns: &Namespace, endpoint: EndpointId) -> Vec<DeploymentView>;
    /// Registers an endpoint.
    register_endpoint(ns: &Namespace, registration: Registration) -> RegisterOutcome;
    /// Asks the handler for its manifest again; none if the endpoint is gone.
    sync_endpoint(ns: &Namespace, endpoint: EndpointId, force: bool, by: &str) -> Option<RegisterOutcome>;
    /// Deletes an endpoint, if it still has `version` where one is named.
    delete_endpoint(ns: &Namespace, endpoint: EndpointId, version: Option<i64>, runs: Option<RunsPolicy>, by: &str) -> Deleted;
    /// A new signing secret, the given one or one of the gateway's; none if the endpoint is gone.
    rotate_secret(ns: &Namespace, endpoint: EndpointId, secret: Option<String>, by: &str) -> Option<Rotated>;
    /// Parks its runs; none if the endpoint is gone.
    disable_endpoint(ns: &Namespace, endpoint: EndpointId, by: &str) -> Option<EndpointView>;
    /// Lets them go on; none if the endpoint is gone.
    enable_endpoint(ns: &Namespace, endpoint: EndpointId, by: &str) -> Option<EndpointView>;
    /// Calls the handler and tells what was seen; none if the endpoint is gone.
    probe_endpoint(ns: &Namespace, endpoint: EndpointId) -> Option<Vec<ProbeStage>>;
    /// A new API key and its secret.
    create_key(ns: &Namespace, name: &str, scopes: Scopes, by: &str) -> (KeyRow, String);
    /// All API keys by id.
    list_keys(ns: &Namespace) -> Vec<KeyRow>;
    /// Whether there was such a key; a second revocation changes nothing.
    revoke_key(ns: &Namespace, key: KeyId, by: &str) -> bool;
    /// Whom an API key stands for; none if it is not valid.
    authenticate(key: &str) -> Option<Caller>;
    /// Whether this node can serve.
    ready() -> ();
}

impl Engine {
    /// Begins to watch a run.
    #[must_use]
    pub fn changes(&self, run: RunId) -> Changes {
        let _ = run;
        Changes
    }

    /// The cluster's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }

    /// Who drives a shard.
    #[must_use]
    pub fn route(&self, shard: Shard) -> Route {
        let _ = shard;
        Route::Here
    }

    /// Headers that authenticate a request to another node, [`super::NODE_HEADER`] among them.
    /// `path` has the query.
    #[must_use]
    pub fn node_headers(
        &self,
        caller: Option<&Caller>,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Vec<(HeaderName, HeaderValue)> {
        let _ = (caller, method, path, body);
        Vec::new()
    }

    /// Checks a request from another node; none if it is not authentic.
    #[must_use]
    pub fn check_node(
        &self,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Option<Forwarded> {
        let _ = (headers, method, path, body);
        None
    }

    /// Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        String::new()
    }
}
