//! Acts on many runs: begin one, see what it would be about, see how far it has come, stop it.

use std::time::Duration;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::ApiState;
use super::acts::{MAX_GRACE, reason};
use super::auth::{Operator, Reader};
use super::fields::{self, Fields};
use super::operator::MAX_STEP;
use super::page::{self, Page};
use super::problem::Problem;
use super::request::{At, Headers, Params, Sent, check_input, idempotency};
use super::run_filter::{self, BulkFilterRequest};
use super::shapes::ListedRunBody;
use super::start::REPLAYED;
use crate::engine::{
    BulkAction, BulkReason, BulkSearch, BulkStarted, BulkStatus, BulkView, NewBulk, RunCount,
    RunFilter,
};
use crate::machine::time::format_duration;
use crate::machine::{BulkId, DeploymentId, RunId, Timestamp};

/// Runs a second where nothing is said, and at most.
const RATE: u32 = 100;
const MAX_RATE: u32 = 1000;
/// Bytes of a signal's name.
const MAX_SIGNAL: usize = 256;

/// An act on many runs.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct BulkRequest {
    filter: BulkFilterRequest,
    /// `cancel`, `terminate`, `pause`, `resume`, `retry-now`, `rerun`, `rewind`, `signal` or `delete`.
    #[schema(pattern = "^(cancel|terminate|pause|resume|retry-now|rerun|rewind|signal|delete)$")]
    action: String,
    /// How many runs a second at most.
    #[schema(minimum = 1, maximum = 1000, default = 100)]
    rate: Option<u32>,
    /// Why: it stands in the history of each run, with the id of this act.
    #[schema(max_length = 1024)]
    reason: Option<String>,
    /// Nothing is done: the answer says how many runs match and shows the newest.
    dry_run: Option<bool>,
    /// Of `cancel`: how long handlers may compensate.
    #[schema(example = "60s")]
    grace: Option<String>,
    /// Of `resume` and `rerun`: the deployment to go on with (`dep_…`).
    deployment: Option<String>,
    /// Of `rerun`: steps that settled before this one are copied.
    #[schema(max_length = 256)]
    from_step: Option<String>,
    /// Of `rerun`: signals that no copied step took are there again.
    keep_signals: Option<bool>,
    /// Of `signal`, which needs it.
    signal: Option<BulkSignalRequest>,
}

/// A signal to each run.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct BulkSignalRequest {
    #[schema(max_length = 256)]
    name: String,
    /// Any JSON, passed on byte for byte; left out: null.
    #[schema(value_type = serde_json::Value, required = false)]
    payload: Option<Box<RawValue>>,
}

/// A number of runs, counted to 10,000, and for what no index has over the newest 210,000 runs.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[schema(as = RunCount)]
pub(super) struct CountBody {
    count: i64,
    /// Whether there are no more.
    exact: bool,
}

impl From<RunCount> for CountBody {
    fn from(count: RunCount) -> Self {
        Self { count: count.count, exact: count.exact }
    }
}

/// An act on many runs as it stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Bulk)]
pub(super) struct BulkBody {
    #[schema(value_type = String, example = "blk_01k9c3v5h2e8x8p0m4s6t7w9yz")]
    id: BulkId,
    namespace: String,
    /// `running`, `completed` (it has come to the last run) or `aborted`.
    status: &'static str,
    action: &'static str,
    /// As it was asked for; nothing in it: all runs.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    filter: RunFilter,
    options: OptionsBody,
    rate: u32,
    reason: Option<String>,
    /// Who asked for it.
    by: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    ended_at: Option<Timestamp>,
    /// Who aborted it.
    ended_by: Option<String>,
    /// How many runs matched when it was asked for.
    expected: CountBody,
    /// How many runs it has come to.
    matched: i64,
    /// Of them, those that were acted on.
    done: i64,
    /// Of them, those whose state left nothing to do.
    skipped: i64,
    /// Of them, those on which the act failed.
    failed: i64,
    /// Why runs were skipped or failed, at most 20 reasons.
    reasons: Vec<ReasonBody>,
    links: BulkLinks,
}

/// What its action was given.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = BulkOptions)]
struct OptionsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    deployment: Option<DeploymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_signals: Option<bool>,
    /// The signal's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
}

/// Why runs were not acted on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkReason)]
struct ReasonBody {
    /// `skipped` or `failed`.
    outcome: &'static str,
    /// The code of the problem that a single act would have been answered with.
    #[schema(example = "invalid-state")]
    code: String,
    detail: String,
    /// How many runs.
    count: u64,
    /// The first of them.
    #[schema(value_type = String)]
    run: RunId,
}

/// Where to go from here.
#[derive(Debug, Serialize, ToSchema)]
struct BulkLinks {
    #[serde(rename = "self")]
    this: String,
    abort: String,
}

/// What would be acted on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BulkDryRun)]
pub(super) struct DryRunBody {
    /// Always true.
    dry_run: bool,
    action: &'static str,
    /// As it was asked for; nothing in it: all runs.
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    filter: RunFilter,
    /// How many runs match.
    expected: CountBody,
    /// The newest of them.
    sample: Vec<ListedRunBody>,
}

impl From<BulkView> for BulkBody {
    fn from(view: BulkView) -> Self {
        let itself = format!("/v1/bulk/{}", view.id);
        Self {
            id: view.id,
            namespace: view.namespace,
            status: view.status.word(),
            action: view.action.word(),
            filter: view.filter,
            options: options(view.action),
            rate: view.rate,
            reason: view.reason,
            by: view.by,
            created_at: view.created_at,
            updated_at: view.updated_at,
            ended_at: view.ended_at,
            ended_by: view.ended_by,
            expected: view.expected.into(),
            matched: view.counts.matched,
            done: view.counts.done,
            skipped: view.counts.skipped,
            failed: view.counts.failed,
            reasons: view.reasons.into_iter().map(ReasonBody::from).collect(),
            links: BulkLinks { abort: format!("{itself}/abort"), this: itself },
        }
    }
}

impl From<BulkReason> for ReasonBody {
    fn from(r: BulkReason) -> Self {
        Self {
            outcome: if r.failed { "failed" } else { "skipped" },
            code: r.code,
            detail: r.detail,
            count: r.count,
            run: r.run,
        }
    }
}

fn options(action: BulkAction) -> OptionsBody {
    let none = OptionsBody::default();
    match action {
        BulkAction::Cancel { grace_ms } => OptionsBody {
            grace: grace_ms.map(|g| format_duration(Duration::from_millis(g))),
            ..none
        },
        BulkAction::Resume { deployment } => OptionsBody { deployment, ..none },
        BulkAction::Rerun { from_step, deployment, keep_signals } => {
            OptionsBody { from_step, deployment, keep_signals: Some(keep_signals), ..none }
        }
        BulkAction::Signal { name, .. } => OptionsBody { signal: Some(name), ..none },
        BulkAction::Terminate
        | BulkAction::Pause
        | BulkAction::RetryNow
        | BulkAction::Rewind
        | BulkAction::Delete
        | BulkAction::Erase => none,
    }
}

/// What a request asks for, and whether nothing is to be done.
fn read(f: &mut Fields<'_>) -> (Option<NewBulk>, bool) {
    let filter = run_filter::of_body(f);
    let action = action(f);
    let rate = f.value("rate").unwrap_or(RATE);
    if !(1..=MAX_RATE).contains(&rate) {
        f.fault("rate", format!("must be between 1 and {MAX_RATE}"));
    }
    let (reason, dry_run) = (reason(f), f.value("dry_run").unwrap_or(false));
    let new = filter.zip(action).map(|(filter, action)| NewBulk {
        filter,
        action,
        rate,
        reason,
        idempotency: None,
    });
    (new, dry_run)
}

fn action(f: &mut Fields<'_>) -> Option<BulkAction> {
    let words = BulkAction::WORDS.map(|word| (word, word));
    let word = f.word("action", &words);
    let grace = f.duration("grace");
    if grace.is_some_and(|g| g > MAX_GRACE) {
        f.fault("grace", "must be at most 24 h");
    }
    let deployment = f.parsed("deployment", |text| text.parse().map_err(|e| format!("{e}")));
    let from_step = f.text("from_step", MAX_STEP);
    let keep_signals: Option<bool> = f.value("keep_signals");
    let signal = f.object("signal", |f| {
        let name = f.text("name", MAX_SIGNAL);
        let payload =
            f.payload("payload").map_or_else(|| RawValue::NULL.to_owned(), ToOwned::to_owned);
        f.need("name", name).map(|name| (name, payload))
    });
    let word = f.need("action", word)?;
    let given = [
        ("grace", grace.is_some(), ["cancel", ""]),
        ("deployment", deployment.is_some(), ["resume", "rerun"]),
        ("from_step", from_step.is_some(), ["rerun", ""]),
        ("keep_signals", keep_signals.is_some(), ["rerun", ""]),
        ("signal", signal.is_some(), ["signal", ""]),
    ];
    for (name, is_there, of) in given {
        if is_there && !of.contains(&word) {
            let of = of.into_iter().filter(|of| !of.is_empty()).collect::<Vec<_>>().join("` or `");
            f.fault(name, format!("belongs to the action `{of}`, not to `{word}`"));
        }
    }
    Some(match word {
        "cancel" => {
            BulkAction::Cancel { grace_ms: grace.and_then(|g| u64::try_from(g.as_millis()).ok()) }
        }
        "terminate" => BulkAction::Terminate,
        "pause" => BulkAction::Pause,
        "resume" => BulkAction::Resume { deployment },
        "retry-now" => BulkAction::RetryNow,
        "rerun" => {
            BulkAction::Rerun { from_step, deployment, keep_signals: keep_signals.unwrap_or(false) }
        }
        "rewind" => BulkAction::Rewind,
        "delete" => BulkAction::Delete,
        "erase" => BulkAction::Erase,
        _ => {
            let (name, payload) = f.need("signal", signal.flatten())?;
            BulkAction::Signal { name, payload }
        }
    })
}

/// Act on many runs.
///
/// The act is durable and goes on by itself, whatever becomes of the node that was asked. It comes
/// to all runs of the filter that were started before it, new to old, each once, and judges each as it
/// is then. With `dry_run` nothing is done.
#[utoipa::path(
    post, path = "/v1/bulk", tag = "bulk",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body begin one act")),
    request_body(content = BulkRequest, content_type = "application/json"),
    responses(
        (status = 202, description = "It has begun", body = BulkBody, headers(
            ("Location" = String, description = "The act"),
            ("Idempotent-Replayed" = String, description = "`true` where the idempotency key was used before"))),
        (status = 200, description = "Of a dry run: what it would be about", body = DryRunBody),
    ),
    extensions(("x-problems" = json!(["idempotency-in-progress", "idempotency-key-reused"])))
)]
pub(super) async fn begin_bulk(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    params: Params,
    Headers(headers): Headers,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let (new, dry_run) = fields::read(&sent.0, read)?;
    let new = new.ok_or_else(|| Problem::internal("a request without faults asks for nothing"))?;
    if let BulkAction::Signal { payload, .. } = &new.action {
        check_input("signal/payload", payload.get().len())?;
    }
    let ns = &caller.namespace;
    if dry_run {
        let foreseen = state.engine.foresee(ns, new.filter.clone()).await?;
        let body = DryRunBody {
            dry_run: true,
            action: new.action.word(),
            filter: new.filter,
            expected: foreseen.expected.into(),
            sample: foreseen.sample.into_iter().map(ListedRunBody::from).collect(),
        };
        return Ok(Json(body).into_response());
    }
    let idempotency = idempotency(&headers, "POST /v1/bulk", &sent.0)?;
    let started = state.engine.begin_bulk(ns, NewBulk { idempotency, ..new }, &caller.by).await?;
    let (view, replayed) = match started {
        BulkStarted::New(view) => (view, false),
        BulkStarted::Replayed(view) => (view, true),
    };
    let location = HeaderValue::try_from(format!("/v1/bulk/{}", view.id));
    let location = location.expect("ids are letters and digits");
    let body = Json(BulkBody::from(*view));
    let mut response = (StatusCode::ACCEPTED, [(header::LOCATION, location)], body).into_response();
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// List acts on many runs, new to old.
#[utoipa::path(
    get, path = "/v1/bulk", tag = "bulk",
    params(
        ("status" = Option<Vec<String>>, Query, explode, description = "`running`, `completed` or `aborted`"),
        ("action" = Option<Vec<String>>, Query, explode, description = "Their action"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "By default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page of them", body = Page<BulkBody>, headers(
        ("Link" = String, description = "The next page, with `rel=\"next\"`")))),
    extensions(("x-problems" = json!([])))
)]
pub(super) async fn list_bulks(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    OriginalUri(uri): OriginalUri,
    mut params: Params,
) -> Result<Response, Problem> {
    let one_of = |word: &str, words: &[&str]| format!("`{word}` is none of {}", words.join(", "));
    let search = BulkSearch {
        statuses: params.all("status", |word| {
            let words = BulkStatus::ALL.map(BulkStatus::word);
            let found = BulkStatus::ALL.into_iter().find(|s| s.word() == word);
            found.ok_or_else(|| one_of(word, &words))
        }),
        actions: params.all("action", |word| {
            let found = BulkAction::WORDS.into_iter().find(|w| *w == word);
            found.map(str::to_owned).ok_or_else(|| one_of(word, &BulkAction::WORDS))
        }),
        limit: params.limit(),
        after: page::cursor(&mut params),
    };
    params.finish()?;
    let page = state.engine.list_bulks(&caller.namespace, search).await?;
    let data = page.bulks.into_iter().map(BulkBody::from).collect();
    Ok(Page::new(data, page.next).answer(&uri))
}

/// Read an act on many runs: how far it has come.
#[utoipa::path(
    get, path = "/v1/bulk/{id}", tag = "bulk",
    params(("id" = String, Path, description = "The act")),
    responses((status = 200, description = "The act", body = BulkBody)),
    extensions(("x-problems" = json!(["bulk-not-found"])))
)]
pub(super) async fn get_bulk(
    State(state): State<ApiState>,
    Reader(caller): Reader,
    At(id): At<String>,
    params: Params,
) -> Result<Json<BulkBody>, Problem> {
    let id = bulk_id(&id)?;
    params.finish()?;
    Ok(Json(state.engine.bulk(&caller.namespace, id).await?.into()))
}

/// Abort an act on many runs.
///
/// Runs that it has not come to are left alone; what is done stays done. Those of the page that is
/// under way, at most a hundred, are still acted on. Again is no error.
#[utoipa::path(
    post, path = "/v1/bulk/{id}/abort", tag = "bulk",
    params(("id" = String, Path, description = "The act")),
    responses((status = 200, description = "Aborted", body = BulkBody)),
    extensions(("x-problems" = json!(["bulk-not-found", "invalid-state"])))
)]
pub(super) async fn abort_bulk(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    At(id): At<String>,
    params: Params,
    sent: Sent,
) -> Result<Json<BulkBody>, Problem> {
    let id = bulk_id(&id)?;
    params.finish()?;
    fields::read(&sent.0, |_| ())?;
    Ok(Json(state.engine.abort_bulk(&caller.namespace, id, &caller.by).await?.into()))
}

/// An id in a path; what has not the form of one is not found either.
fn bulk_id(text: &str) -> Result<BulkId, Problem> {
    text.parse().map_err(|e| {
        Problem::new(
            super::catalogue::Code::BulkNotFound,
            format!("There is no such bulk operation: {e}."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::catalogue::Code;
    use crate::engine::Error;
    use axum::body::Bytes;

    fn asked(body: &'static str) -> Result<(NewBulk, bool), Vec<String>> {
        match fields::read(&Bytes::from_static(body.as_bytes()), read) {
            Ok((new, dry)) => Ok((new.expect("no fault, so something is asked for"), dry)),
            Err(problem) => {
                let json: serde_json::Value =
                    serde_json::from_slice(&problem.body("", "")).expect("JSON");
                let errors = json["errors"].as_array().expect("a list");
                Err(errors.iter().map(|e| format!("{} {}", e["pointer"], e["detail"])).collect())
            }
        }
    }

    #[test]
    fn all_runs_are_meant_only_where_it_is_said() {
        let faults = asked(r#"{"filter": {}, "action": "pause"}"#).expect_err("refused");
        assert!(
            faults[0].contains("#/filter/all") && faults[0].contains("every run"),
            "{faults:?}"
        );
        let faults =
            asked(r#"{"filter": {"status": []}, "action": "pause"}"#).expect_err("refused");
        assert!(faults[0].contains("#/filter/all"), "{faults:?}");
        let both = asked(r#"{"filter": {"all": true, "key": "k"}, "action": "pause"}"#);
        assert!(both.expect_err("refused")[0].contains("#/filter/all"));
        let (new, _) = asked(r#"{"filter": {"all": true}, "action": "pause"}"#).expect("fine");
        assert!(new.filter.is_empty());
        assert!(asked(r#"{"action": "pause"}"#).expect_err("refused")[0].contains("#/filter"));
    }

    #[test]
    fn a_criterion_is_a_text_or_a_list() {
        let (new, dry) = asked(
            r#"{"filter": {"status": "failed", "function": ["a", "b"], "tag": "c:d"},
                "action": "rerun", "from_step": "s", "rate": 7, "dry_run": true}"#,
        )
        .expect("fine");
        assert!(dry);
        assert_eq!(new.rate, 7);
        assert_eq!(
            serde_json::to_string(&new.filter).expect("JSON"),
            r#"{"status":["failed"],"function":["a","b"],"tag":["c:d"]}"#
        );
        assert!(matches!(new.action, BulkAction::Rerun { from_step: Some(s), .. } if s == "s"));
    }

    #[test]
    fn what_belongs_to_another_action_is_refused_by_name() {
        let faults = asked(
            r#"{"filter": {"key": "k"}, "action": "pause", "grace": "1s", "from_step": "s",
                "signal": {"name": "n"}, "rate": 0, "colour": 1}"#,
        )
        .expect_err("refused");
        for name in ["grace", "from_step", "signal", "rate", "colour"] {
            assert!(faults.iter().any(|f| f.contains(&format!("#/{name}"))), "{name}: {faults:?}");
        }
        let faults = asked(r#"{"filter": {"key": "k"}, "action": "signal"}"#).expect_err("refused");
        assert!(faults[0].contains("#/signal"), "{faults:?}");
        let faults = asked(r#"{"filter": {"status": "lost"}, "action": "burn"}"#);
        assert_eq!(faults.expect_err("refused").len(), 2);
    }

    #[test]
    fn a_payload_stays_as_it_came() {
        let (new, _) = asked(
            r#"{"filter": {"key": "k"}, "action": "signal",
                "signal": {"name": "n", "payload": {"n": 3544790567247868102, "f": 1.0}}}"#,
        )
        .expect("fine");
        let kept = serde_json::to_vec(&new.action).expect("JSON");
        let BulkAction::Signal { payload, .. } = serde_json::from_slice(&kept).expect("read back")
        else {
            panic!("another action")
        };
        assert_eq!(payload.get(), r#"{"n": 3544790567247868102, "f": 1.0}"#);
    }

    #[test]
    fn reasons_have_codes_of_the_catalogue() {
        let run = RunId::new(Timestamp::from_micros(0), 1);
        let errors = [
            Error::RunNotFound(run),
            Error::RunEnded(run),
            Error::RunEnding(run),
            Error::FunctionNotFound("f".to_owned()),
            Error::TooLarge("x".to_owned()),
            Error::Invalid("/a".to_owned(), "x".to_owned()),
            Error::TooManySignals { run, untaken: 1 },
        ];
        for error in errors {
            let code = Problem::from(error.clone()).code();
            assert_eq!(Code::from_slug(crate::engine::code_of(&error)), Some(code));
        }
    }
}
