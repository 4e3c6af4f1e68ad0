//! Pull endpoints: workers take invocations and bring the answers.
//!
//! A poll waits at every node at once, but only its own node hands out: another one says that there
//! is something, and is asked for it then, so that no poll is given more than it wants.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::{join_all, select_all};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::{Handling, Worker};
use super::catalogue::Code;
use super::endpoints::find;
use super::fields;
use super::forward::{FromNode, no_endpoint};
use super::problem::Problem;
use super::request::{At, Bare, Headers, Params, Sent, run_id};
use crate::engine::{Caller, Handout, MOST_TAKEN};
use crate::machine::{EndpointId, InvocationId, to_bytes};
use crate::outbound::Reply;

/// How long a poll waits, unless it says so itself.
const WAIT: Duration = Duration::from_secs(30);
/// After another node could not be asked, or somebody else was faster there.
const PAUSE: Duration = Duration::from_millis(100);
/// What another node hands out at once.
const MOST_BYTES: usize = 1 << 30;

/// Invocations for a worker.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Work)]
pub(super) struct WorkBody {
    /// The invocations; none where there was nothing before the time was up.
    #[schema(value_type = Vec<WorkItemBody>)]
    data: Vec<Box<RawValue>>,
}

/// An invocation for a worker: the request that another handler would get, and where its answer goes.
#[derive(Serialize, ToSchema)]
#[schema(as = WorkItem)]
pub(super) struct WorkItemBody {
    /// The invocation's id.
    #[schema(value_type = String)]
    invocation: InvocationId,
    /// Its run.
    #[schema(value_type = String)]
    run: crate::machine::RunId,
    /// The headers of the request: the endpoint's own, and those of the protocol with the signature.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: std::collections::BTreeMap<String, String>,
    /// The body of the request, which is JSON: byte for byte what is signed.
    body: String,
    /// Where the answer is posted.
    #[schema(format = "uri")]
    answer: String,
    /// The bearer token of the answer; also that of checkpoints, where the body has it too.
    token: String,
}

impl WorkItemBody {
    fn of(handout: Handout, answer: String) -> Self {
        let Handout { run, invocation, headers, body, token } = handout;
        let text = |v: &axum::http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        Self {
            invocation,
            run,
            headers: headers.iter().map(|(name, v)| (name.to_string(), text(v))).collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
            answer,
            token,
        }
    }
}

/// Take work from a pull endpoint.
///
/// Waits for the first invocation, and answers with what there is then, up to `max`. Who takes one
/// answers it at its `answer`, or it is repeated as if its handler had crashed. While nobody polls
/// no invocation is made: runs wait, and no attempt is lost.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/poll", tag = "handlers",
    params(
        ("endpoint" = String, Path, description = "Its id or name"),
        ("max" = Option<u16>, Query, minimum = 1, maximum = 100, description = "How many invocations to take at most; by default 1"),
        ("wait" = Option<String>, Query, description = "How long to wait for the first, at most `5m`; by default `30s`"),
    ),
    responses((status = 200, description = "What there is to do", body = WorkBody)),
    extensions(("x-problems" = json!(["endpoint-not-found", "invalid-request"])))
)]
pub(super) async fn poll_endpoint(
    State(state): State<ApiState>,
    Worker(caller): Worker,
    At(name): At<String>,
    FromNode(from_node): FromNode,
    mut params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    let most = i64::try_from(MOST_TAKEN).unwrap_or(i64::MAX);
    let most = params.number("max", 1, most).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    let wait = params.wait().unwrap_or(WAIT);
    // Another node asks whether there is something, and takes nothing.
    let listens = from_node && params.one("listen", |_| Ok(())).is_some();
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    let endpoint = find(&state, &caller, &name).await?.id;
    if listens {
        let heard = state.engine.hear_of_work(&caller.namespace, endpoint, wait);
        let heard = tokio::select! {
            heard = heard => heard?.ok_or_else(no_endpoint)?,
            () = state.shutdown.cancelled() => false,
        };
        let status = if heard { StatusCode::OK } else { StatusCode::NO_CONTENT };
        return Ok(status.into_response());
    }
    let poll = Poll { state: &state, caller: &caller, endpoint, most };
    let data = tokio::select! {
        data = poll.take(wait, from_node) => data?,
        () = state.shutdown.cancelled() => Vec::new(),
    };
    Ok(Json(WorkBody { data }).into_response())
}

/// A poll, as far as it stays the same while it waits.
struct Poll<'a> {
    state: &'a ApiState,
    caller: &'a Caller,
    endpoint: EndpointId,
    most: usize,
}

impl Poll<'_> {
    /// What there is, here or, unless it is asked from there, at another node.
    async fn take(&self, wait: Duration, here_alone: bool) -> Result<Vec<Box<RawValue>>, Problem> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let peers = if here_alone { Vec::new() } else { self.state.engine.peers() };
            // What is at hand goes before what has to be waited for.
            let here = self.here(left);
            if peers.is_empty() {
                return here.await;
            }
            let node = tokio::select! {
                biased;
                taken = here => {
                    let taken = taken?;
                    if !taken.is_empty() || !wait.is_zero() {
                        return Ok(taken);
                    }
                    return Ok(self.at_any(&peers).await);
                }
                node = self.hear(&peers, left), if !left.is_zero() => node,
            };
            let taken = self.at(&node, "wait=0").await.unwrap_or_default();
            if !taken.is_empty() || Instant::now() >= until {
                return Ok(taken);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn here(&self, wait: Duration) -> Result<Vec<Box<RawValue>>, Problem> {
        let polled = self.state.engine.poll(&self.caller.namespace, self.endpoint, self.most, wait);
        let taken = polled.await?.ok_or_else(no_endpoint)?;
        let raw = |handout: Handout| {
            let answer = self.state.engine.answer_url(handout.run, handout.invocation);
            let json = to_bytes(&WorkItemBody::of(handout, answer));
            RawValue::from_string(String::from_utf8_lossy(&json).into_owned()).ok()
        };
        Ok(taken.into_iter().filter_map(raw).collect())
    }

    /// The first node that has something.
    async fn hear(&self, peers: &[String], wait: Duration) -> String {
        let query = format!("listen=1&wait={}ms", wait.as_millis().max(1));
        let listen = |node: &String| {
            let (node, query) = (node.clone(), query.clone());
            Box::pin(async move {
                while self.ask(&node, &query).await.is_none_or(|(status, _)| status != 200) {
                    tokio::time::sleep(PAUSE).await;
                }
                node
            })
        };
        select_all(peers.iter().map(listen)).await.0
    }

    /// What the first of the other nodes has that has something.
    async fn at_any(&self, peers: &[String]) -> Vec<Box<RawValue>> {
        let query = "listen=1&wait=1ms";
        let answers = join_all(peers.iter().map(|node| self.ask(node, query))).await;
        for (node, answer) in peers.iter().zip(answers) {
            if answer.is_some_and(|(status, _)| status == 200) {
                let taken = self.at(node, "wait=0").await.unwrap_or_default();
                if !taken.is_empty() {
                    return taken;
                }
            }
        }
        Vec::new()
    }

    /// Takes what another node has.
    async fn at(&self, node: &str, query: &str) -> Option<Vec<Box<RawValue>>> {
        let (status, body) = self.ask(node, &format!("max={}&{query}", self.most)).await?;
        if status != 200 {
            return None;
        }
        Some(serde_json::from_slice::<WorkBody>(&body).ok()?.data)
    }

    async fn ask(&self, node: &str, query: &str) -> Option<(u16, Bytes)> {
        let path = format!("/v1/endpoints/{}/poll?{query}", self.endpoint);
        let (engine, nodes) = (&self.state.engine, &self.state.nodes);
        let asked = nodes.ask(engine, self.caller, node, (Method::POST, &path), MOST_BYTES);
        asked.await.map(|(status, body)| (status.as_u16(), body))
    }
}

/// Answer an invocation that was taken from a pull endpoint.
///
/// The body is what a handler answers to a request of that kind, its status is in `status`. With the
/// `token` that came with the invocation. A 204 comes when what it led to is durable; whether the
/// answer was a good one is in the run's history.
#[utoipa::path(
    post, path = "/v1/runs/{id}/answers/{invocation}", tag = "handlers",
    params(
        ("id" = String, Path, description = "The run"),
        ("invocation" = String, Path, description = "The invocation"),
        ("status" = Option<u16>, Query, minimum = 200, maximum = 599, description = "The HTTP status that the handler answers with; by default 200. Not 3xx"),
        ("Retry-After" = Option<String>, Header, description = "Of a status that asks for another attempt: when"),
    ),
    request_body(content = Option<AnswerRequest>, content_type = "application/json"),
    responses((status = 204, description = "It has come to the run")),
    security(("invocation_token" = [])),
    extensions(("x-problems" = json!(["invalid-token", "run-not-found", "stale-epoch", "payload-too-large"])))
)]
pub(super) async fn answer_invocation(
    State(state): State<ApiState>,
    handler: Handling,
    At((id, invocation)): At<(String, String)>,
    Headers(headers): Headers,
    mut params: Params,
    Bare(body): Bare,
) -> Result<StatusCode, Problem> {
    let run = run_id(&id)?;
    let status = params.number("status", 200, 599).unwrap_or(200);
    if (300..400).contains(&status) {
        params.fault("status", "must not be 3xx: there is nowhere else to go");
    }
    params.finish()?;
    let token = handler.token()?;
    let invocation: InvocationId = invocation.parse().map_err(|_| {
        Problem::new(Code::StaleEpoch, "There is no such invocation, or it is over.")
    })?;
    let mut reply =
        Reply { status: u16::try_from(status).unwrap_or(200), headers: HeaderMap::new(), body };
    // Of the headers of a request the others are about itself, and not about the answer in it.
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        reply.headers.extend(headers.get(&name).map(|value| (name, value.clone())));
    }
    state.engine.bring_answer(&token, run, invocation, reply).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An answer, as a handler gives it: of a function's invocation `ops` and one end, of a task's
/// `value` or `error`, of a query's `result`.
#[derive(ToSchema)]
#[schema(as = HandlerAnswer)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct AnswerRequest {
    /// What is reported and asked for.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    ops: Vec<serde_json::Value>,
    /// The run, or the query, has this result.
    #[schema(value_type = serde_json::Value, required = false)]
    result: serde_json::Value,
    /// It failed.
    #[schema(value_type = serde_json::Value, required = false)]
    error: serde_json::Value,
    /// The run is suspended until this is satisfied.
    #[schema(value_type = serde_json::Value, required = false)]
    r#await: serde_json::Value,
    /// A task has this value.
    #[schema(value_type = serde_json::Value, required = false)]
    value: serde_json::Value,
}
