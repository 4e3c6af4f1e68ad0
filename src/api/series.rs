//! What happened over the last hour or day: the curves that the dashboard shows.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::ApiState;
use super::auth::Admin;
use super::problem::Problem;
use super::request::Params;
use crate::engine::{Curves, NodeCurves, Window};
use crate::machine::time::format_duration;
use crate::machine::{NodeId, Timestamp};
use crate::telemetry::{bounds, series};

/// How long something took: how many fell into each bucket.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Times)]
pub(super) struct TimesBody {
    /// The upper bounds of the buckets, in seconds. There is one bucket more, for what took longer.
    bounds: Vec<f64>,
    /// For each moment how many fell into each bucket alone; null: nothing was timed.
    counts: Vec<Option<Vec<u64>>>,
}

/// What one node counted, moment by moment: each list has a place for each moment.
///
/// Counts of nodes can be added, and buckets too. Since the process began; at most a window.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MetricsSeries)]
pub(super) struct SeriesBody {
    /// Who counted. Another node has counted what it did itself.
    #[schema(value_type = String)]
    node: NodeId,
    /// How far apart the moments are. They are on a grid that all nodes have.
    #[schema(example = "10s")]
    step: String,
    /// When each moment ended.
    #[schema(value_type = Vec<String>, format = DateTime)]
    at: Vec<Timestamp>,
    /// How long each was, in seconds: counts by it are rates.
    seconds: Vec<f64>,
    /// Runs that were started.
    runs_started: Vec<u64>,
    /// Runs that ended, by status.
    runs_ended: BTreeMap<String, Vec<u64>>,
    /// Calls of handlers, by outcome: `answered`, `held` (202), `failed`.
    invocations: BTreeMap<String, Vec<u64>>,
    /// Attempts of tasks and calls, by outcome: `value`, `failed`, `accepted` (202), `unhealthy`.
    attempts: BTreeMap<String, Vec<u64>>,
    /// How long calls of handlers took.
    invocation_seconds: TimesBody,
    /// How long runs took that ended.
    run_seconds: TimesBody,
    /// How long runs waited for a limit that let them through.
    limit_wait_seconds: TimesBody,
    /// Live runs of the whole cluster by status, as lists have it. null: this node did not count them
    /// (one node does), or there were 100,000 or more.
    live: BTreeMap<String, Vec<Option<u64>>>,
}

impl From<NodeCurves> for SeriesBody {
    fn from(NodeCurves { node, curves }: NodeCurves) -> Self {
        let Curves { step, at, over, mut counts, mut times, live } = curves;
        let all = at.len();
        let mut times_of = |name: &str| TimesBody {
            bounds: bounds(name).to_vec(),
            counts: times.remove(name).unwrap_or_else(|| vec![None; all]),
        };
        let mut parts = |name: &str| counts.remove(name).unwrap_or_default();
        Self {
            node,
            step: format_duration(step),
            seconds: over.iter().map(std::time::Duration::as_secs_f64).collect(),
            runs_started: parts(series::STARTED).remove("").unwrap_or_else(|| vec![0; all]),
            runs_ended: parts(series::ENDED),
            invocations: parts(series::INVOCATIONS),
            attempts: parts(series::ATTEMPTS),
            invocation_seconds: times_of(series::INVOCATION_SECONDS),
            run_seconds: times_of(series::RUN_SECONDS),
            limit_wait_seconds: times_of(series::LIMIT_SECONDS),
            live,
            at,
        }
    }
}

/// What happened over the last hour or day, as the node that answers counted it.
///
/// By ten seconds, or by five minutes; kept in the node's memory since it began. For more, and for all
/// nodes, let Prometheus read `/metrics` of each.
#[utoipa::path(
    get, path = "/v1/metrics/series", tag = "node",
    params(("window" = Option<String>, Query, pattern = "^(1h|24h)$", description = "`1h` (by default) or `24h`")),
    responses((status = 200, description = "What it counted", body = SeriesBody)),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn metrics_series(
    State(state): State<ApiState>,
    Admin(_): Admin,
    mut params: Params,
) -> Result<Json<SeriesBody>, Problem> {
    let window = params.one("window", |text| match text {
        "1h" => Ok(Window::Hour),
        "24h" => Ok(Window::Day),
        _ => Err("is `1h` or `24h`".to_owned()),
    });
    params.finish()?;
    Ok(Json(state.engine.curves(window.unwrap_or(Window::Hour)).into()))
}
