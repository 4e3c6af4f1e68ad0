//! The last invocations of an endpoint: what went over the wire, how long it took, what failed.
//!
//! Each node remembers those that it sent; who is asked asks the others too.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Reader;
use super::catalogue::Code;
use super::forward::{FromNode, endpoint_ref, no_endpoint};
use super::problem::Problem;
use super::request::{At, Params};
use crate::engine::{Caller, Error, Invoked, LAST, Minute, Part, Recent, times};
use crate::machine::{DeploymentId, InvocationId, RunId, Timestamp};
use crate::protocol::masked;

/// More than two hundred invocations and an hour take.
const MOST_BYTES: usize = 4 << 20;

/// One invocation that is over.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = RecentInvocation)]
pub(super) struct InvokedBody {
    /// Its id, which the handler saw as `webhook-id`.
    #[schema(value_type = String)]
    id: InvocationId,
    /// When it was sent.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// How long it took until its answer was read, in milliseconds.
    duration_ms: u64,
    #[schema(value_type = String)]
    run: RunId,
    function: String,
    /// Of a task's attempt: its step. null: the function itself was invoked.
    step: Option<String>,
    #[schema(value_type = String)]
    deployment: DeploymentId,
    /// `respond`, `stream`, `checkpoint` or `duplex`.
    transport: String,
    /// The HTTP status of the answer; null: there was none.
    status: Option<u16>,
    /// `answered`, `held` (202) or `failed`: no answer, a status that is none, or an answer that cannot
    /// be read.
    outcome: String,
    /// Why it failed.
    detail: Option<String>,
    /// The length of the request's body.
    request_bytes: usize,
    /// The length of the answer's body, of one that failed as much as was read; null: there was no answer, or it came line by line.
    answer_bytes: Option<usize>,
}

impl From<&Invoked> for InvokedBody {
    fn from(i: &Invoked) -> Self {
        Self {
            id: i.id,
            at: i.at,
            duration_ms: u64::try_from(i.took.as_millis()).unwrap_or(u64::MAX),
            run: i.run,
            function: i.function.clone(),
            step: i.step.clone(),
            deployment: i.deployment,
            transport: i.transport.to_owned(),
            status: i.status,
            outcome: i.outcome.to_owned(),
            detail: i.detail.clone(),
            request_bytes: i.request.bytes,
            answer_bytes: i.answer.as_ref().map(|answer| answer.bytes),
        }
    }
}

/// The invocations that were sent in one minute.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = InvocationMinute)]
pub(super) struct MinuteBody {
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Those that are over.
    invocations: u64,
    /// Of them, those that failed.
    failed: u64,
    /// How many took how long: those up to each of `bounds` and over the one before, and last those
    /// over all.
    durations: Vec<u64>,
}

/// The last invocations of an endpoint.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = RecentInvocations)]
pub(super) struct RecentBody {
    /// Newest first: the last hundred of each node, and of each as many before them that failed.
    data: Vec<InvokedBody>,
    /// How many are out now.
    open: usize,
    /// Of those that were sent in the last hour and are over: all.
    invocations: u64,
    /// Of them, those that failed.
    failed: u64,
    /// Half of them took no longer, in milliseconds: read off `durations`, so about. null: there were
    /// none.
    p50_ms: Option<f64>,
    /// Of a hundred, 95 took no longer.
    p95_ms: Option<f64>,
    /// The minutes of that hour in which some were sent, oldest first.
    minutes: Vec<MinuteBody>,
    /// The upper bounds of `durations`, in milliseconds.
    bounds: Vec<f64>,
    /// How many nodes were asked and did not answer: what they sent is missing.
    unreached: usize,
}

impl From<Recent> for RecentBody {
    fn from(recent: Recent) -> Self {
        let minute = |m: Minute| MinuteBody {
            at: m.at,
            invocations: m.invocations,
            failed: m.failed,
            durations: m.took,
        };
        Self {
            data: recent.last.iter().map(|i| InvokedBody::from(&**i)).collect(),
            open: recent.open,
            minutes: recent.minutes.into_iter().map(minute).collect(),
            bounds: times().iter().map(|seconds| seconds * 1_000.0).collect(),
            invocations: 0,
            failed: 0,
            p50_ms: None,
            p95_ms: None,
            unreached: 0,
        }
    }
}

impl RecentBody {
    /// With what another node knows.
    fn and(mut self, other: Self) -> Self {
        self.data.extend(other.data);
        self.open += other.open;
        let mut minutes: BTreeMap<Timestamp, MinuteBody> = BTreeMap::new();
        for minute in self.minutes.into_iter().chain(other.minutes) {
            match minutes.get_mut(&minute.at) {
                None => drop(minutes.insert(minute.at, minute)),
                Some(sum) => {
                    sum.invocations += minute.invocations;
                    sum.failed += minute.failed;
                    for (all, more) in sum.durations.iter_mut().zip(minute.durations) {
                        *all += more;
                    }
                }
            }
        }
        self.minutes = minutes.into_values().collect();
        self
    }

    /// In order, with what follows from its minutes.
    fn summed(mut self) -> Self {
        // Those of one moment stay in the order of their ends.
        self.data.sort_by_key(|i| std::cmp::Reverse(i.at));
        self.invocations = self.minutes.iter().map(|m| m.invocations).sum();
        self.failed = self.minutes.iter().map(|m| m.failed).sum();
        let mut counts = vec![0; self.bounds.len() + 1];
        for minute in &self.minutes {
            for (all, more) in counts.iter_mut().zip(&minute.durations) {
                *all += more;
            }
        }
        self.p50_ms = quantile(&self.bounds, &counts, 0.5);
        self.p95_ms = quantile(&self.bounds, &counts, 0.95);
        self
    }
}

/// About where this part of what was counted lies: evenly spread within its bucket. What is over all
/// bounds is taken for the last of them.
fn quantile(bounds: &[f64], counts: &[u64], part: f64) -> Option<f64> {
    let exact = |n: u64| u32::try_from(n).map_or(f64::MAX, f64::from);
    let all: u64 = counts.iter().sum();
    let rank = exact(all) * part;
    let (mut below, mut lower) = (0.0, 0.0);
    for (upper, count) in bounds.iter().zip(counts) {
        let count = exact(*count);
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * ((rank - below) / count));
        }
        (below, lower) = (below + count, *upper);
    }
    (all > 0).then_some(lower)
}

/// A request or an answer, as far as it is kept.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = InvocationPart)]
pub(super) struct PartBody {
    /// Those of its headers that give power, and all that the registration adds, are `(hidden)`.
    headers: BTreeMap<String, String>,
    /// The length of the body in bytes.
    bytes: usize,
    /// The first 8 KiB of it as text, the invocation's token and the secret of its callback addresses
    /// as `…`. null: not kept, because it is older than an hour, there was too much of it, or the run
    /// was erased.
    body: Option<String>,
    /// Whether the body is longer than what is here.
    cut: bool,
}

impl PartBody {
    fn of(part: &Part) -> Self {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &part.headers {
            let text = String::from_utf8_lossy(value.as_bytes());
            let value = headers.entry(name.to_string()).or_default();
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(&text);
        }
        let text = |head: &Bytes| masked(&String::from_utf8_lossy(head)).into_owned();
        Self {
            headers,
            bytes: part.bytes,
            body: part.head.as_ref().map(text),
            cut: part.head.as_ref().is_some_and(|head| head.len() < part.bytes),
        }
    }

    fn erased(self) -> Self {
        Self { body: None, cut: false, ..self }
    }
}

/// An invocation with what went over the wire.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WholeInvocation)]
pub(super) struct WholeBody {
    #[serde(flatten)]
    invoked: InvokedBody,
    /// What was sent.
    request: PartBody,
    /// What came back; null: nothing, or line by line.
    answer: Option<PartBody>,
}

/// See the last invocations of an endpoint.
///
/// The last hundred of each node, and as many before them that failed; how many there were in the
/// last hour, how many failed, how long they took. Nodes remember them in memory alone: a node that
/// is started again begins with none.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/invocations", tag = "endpoints",
    params(("endpoint" = String, Path, description = "Its id or name")),
    responses((status = 200, description = "The last invocations", body = RecentBody)),
    extensions(("x-problems" = json!(["endpoint-not-found"])))
)]
pub(super) async fn list_invocations(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(name): At<String>,
    FromNode(from_node): FromNode,
    params: Params,
) -> Result<Json<RecentBody>, Problem> {
    params.finish()?;
    let recent = recent(&state, &caller, &name).await?;
    let path = format!("/v1/endpoints/{}/invocations", recent.endpoint);
    let mut all = RecentBody::from(recent);
    let answers = if from_node { Vec::new() } else { at_peers(&state, &caller, &path).await };
    for answer in answers {
        match answer.and_then(|(_, body)| serde_json::from_slice::<RecentBody>(&body).ok()) {
            Some(other) => all = all.and(other),
            None => all.unreached += 1,
        }
    }
    Ok(Json(all.summed()))
}

/// See one of the last invocations of an endpoint, with what went over the wire.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/invocations/{invocation}", tag = "endpoints",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("invocation" = String, Path, description = "The invocation"),
    ),
    responses((status = 200, description = "The invocation", body = WholeBody)),
    extensions(("x-problems" = json!(["endpoint-not-found", "invocation-not-found"])))
)]
pub(super) async fn get_invocation(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At((name, id)): At<(String, String)>,
    FromNode(from_node): FromNode,
    params: Params,
) -> Result<Json<WholeBody>, Problem> {
    params.finish()?;
    let recent = recent(&state, &caller, &name).await?;
    let unknown = || {
        let detail = format!(
            "It is not among the last {LAST} invocations of this endpoint that a node remembers."
        );
        Problem::new(Code::InvocationNotFound, detail)
    };
    let asked: InvocationId = id.parse().map_err(|_| unknown())?;
    let Some(invoked) = recent.last.iter().find(|invoked| invoked.id == asked) else {
        let path = format!("/v1/endpoints/{}/invocations/{asked}", recent.endpoint);
        let answers = if from_node { Vec::new() } else { at_peers(&state, &caller, &path).await };
        // Who remembers it has looked whether it is still to be shown.
        let mut found =
            answers.into_iter().flatten().filter(|(status, _)| *status == StatusCode::OK);
        let whole = found.find_map(|(_, body)| serde_json::from_slice(&body).ok());
        return whole.map(Json).ok_or_else(unknown);
    };
    let whole = WholeBody {
        invoked: InvokedBody::from(&**invoked),
        request: PartBody::of(&invoked.request),
        answer: invoked.answer.as_ref().map(PartBody::of),
    };
    // A node may remember what the database has forgotten.
    match state.engine.view(&caller.namespace, whole.invoked.run).await {
        Ok(view) if view.erased_at.is_none() => Ok(Json(whole)),
        Ok(_) => Ok(Json(WholeBody {
            request: whole.request.erased(),
            answer: whole.answer.map(PartBody::erased),
            ..whole
        })),
        Err(Error::RunNotFound(_)) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}

async fn recent(state: &ApiState, caller: &Caller, name: &str) -> Result<Recent, Problem> {
    let found = state.engine.invocations(&caller.namespace, &endpoint_ref(name)).await?;
    found.ok_or_else(no_endpoint)
}

/// What each of the other nodes answers to a request that reads.
async fn at_peers(
    state: &ApiState,
    caller: &Caller,
    path: &str,
) -> Vec<Option<(StatusCode, Bytes)>> {
    let peers = state.engine.peers();
    let ask = |node: &String| {
        let node = node.clone();
        async move {
            let asked =
                state.nodes.ask(&state.engine, caller, &node, (Method::GET, path), MOST_BYTES);
            tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
        }
    };
    join_all(peers.iter().map(ask)).await
}

/// How long another node may take.
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_where_it_was_counted() {
        let bounds = [10.0, 100.0, 1_000.0];
        assert_eq!(quantile(&bounds, &[0, 0, 0, 0], 0.5), None);
        assert_eq!(quantile(&bounds, &[10, 0, 0, 0], 0.5), Some(5.0));
        assert_eq!(quantile(&bounds, &[10, 10, 0, 0], 0.5), Some(10.0));
        assert_eq!(quantile(&bounds, &[0, 10, 10, 0], 0.75), Some(550.0));
        assert_eq!(quantile(&bounds, &[0, 0, 0, 3], 0.95), Some(1_000.0));
    }
}
