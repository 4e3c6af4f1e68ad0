//! A run that ended elsewhere comes in as the document of its export.

use std::collections::{BTreeMap, HashMap, HashSet};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::ApiState;
use super::auth::Operator;
use super::catalogue::Code;
use super::fields::{self, Fields};
use super::problem::Problem;
use super::request::{Params, Sent};
use super::runs::ExportBody;
use super::shapes::RunBody;
use super::start::some_tags;
use crate::engine::{ImportedItem, ImportedPart, Status};
use crate::machine::{
    Created, DeploymentId, Import, ImportedAttempt, ImportedOutcome, ImportedStep, Kind, Limits,
    OpKind, Parent, RunId, RunKind, Timestamp,
};
use crate::protocol::{valid_key, valid_name, valid_step_id};

/// Failed attempts, lines of the log, and whatever else a document has many of.
const MOST: usize = 200_000;
/// Numbers in documents are exact up to here.
const LAST: i64 = 1 << 53;
/// The longest message of a line, in bytes.
const LONGEST: usize = 1 << 20;
/// A gateway's clock may be ahead of ours.
const AHEAD: std::time::Duration = std::time::Duration::from_mins(1);

/// Import a run that has ended elsewhere.
///
/// The body is the document of `GET /v1/runs/{id}/export`, or a line of an archive. The run keeps its id, unless a run of
/// another namespace has it; what is imported again is there already and stays as it is. Nothing is driven, and nobody is
/// told: it is read, found, replayed, rerun, erased and deleted like any other. How long it is kept counts from the import.
#[utoipa::path(
    post, path = "/v1/runs/import", tag = "runs",
    request_body(content = ExportBody),
    responses(
        (status = 201, description = "The run", body = RunBody),
        (status = 200, description = "It was here already", body = RunBody),
    ),
    extensions(("x-problems" = json!(["payload-too-large"])))
)]
pub(super) async fn import_run(
    State(state): State<ApiState>,
    Operator(caller): Operator,
    params: Params,
    sent: Sent,
) -> Result<Response, Problem> {
    params.finish()?;
    let (now, limits) = (state.engine.now(), *state.engine.limits());
    let (by, ns) = (caller.by.clone(), caller.namespace.name.clone());
    let read = move || {
        let mut document = None;
        fields::read(&sent.0, |f| document = read(f, &ns, &by, now, &limits))?;
        Ok::<_, Problem>(document)
    };
    // A large one takes a while, and others are not to wait for it.
    let document = tokio::task::spawn_blocking(read).await;
    let document = document.map_err(|_| Problem::new(Code::Internal, "It was not read."))??;
    let Some(Document { import, deployment, told }) = document else {
        return Err(Problem::new(Code::InvalidRequest, "The document says too little of a run."));
    };
    let (view, new) = state.engine.import(&caller.namespace, import, deployment, told).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(RunBody::from(view))).into_response())
}

/// What a document says.
struct Document {
    import: Import,
    deployment: Option<DeploymentId>,
    told: Vec<ImportedItem>,
}

/// What it says of the run itself.
struct RunSaid {
    id: RunId,
    created: Created,
    deployment: Option<DeploymentId>,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Timestamp,
    generation: i32,
    invocations: u32,
    custom_status: Option<Box<RawValue>>,
    end: Kind,
    body: Option<Bytes>,
}

fn read(
    f: &mut Fields<'_>,
    ns: &str,
    by: &str,
    now: Timestamp,
    limits: &Limits,
) -> Option<Document> {
    f.take_any();
    let version: Option<u32> = f.value("stepwell_export");
    match f.need("stepwell_export", version) {
        Some(1) | None => {}
        Some(n) => f.fault("stepwell_export", format!("is {n}; documents of the form 1 are known")),
    }
    let seed = f.parsed("seed", |seed| {
        let hex = seed.len() == 32 && seed.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| seed.to_owned()).ok_or_else(|| "must be 32 hex digits".to_owned())
    });
    let seed = f.need("seed", seed);
    let kind = f.word(
        "kind",
        &[
            ("function", RunKind::Function),
            ("plain", RunKind::Plain),
            ("object", RunKind::Object),
            ("reader", RunKind::Reader),
        ],
    );
    let parent = f.object("parent", |f| {
        f.take_any();
        let run = f.parsed("run", id);
        let step = f.parsed("step", |step| valid_step_id(step).map(|()| step.to_owned()));
        // Nobody is told of its end a second time.
        Some(Parent { run: f.need("run", run)?, step: f.need("step", step)?, detached: true })
    });
    let hashes: BTreeMap<String, String> = f.value("input_hashes").unwrap_or_default();
    if hashes.iter().any(|(step, hash)| valid_step_id(step).is_err() || hash.len() > 256) {
        f.fault("input_hashes", "must have a hash of at most 256 bytes for each of some steps");
    }
    let created = |function: String, input: Box<RawValue>| Created {
        function,
        kind: kind.unwrap_or_default(),
        namespace: ns.to_owned(),
        key: None,
        locks: Vec::new(),
        input,
        seed: seed.unwrap_or_default(),
        start_at: None,
        tags: BTreeMap::new(),
        priority: 0,
        start_within: None,
        invocation_timeout: None,
        retry: None,
        pin: None,
        traceparent: None,
        rerun_of: None,
        by: by.to_owned(),
        parent: parent.flatten(),
        cancel_on: false,
        schedule: None,
        on_complete: Vec::new(),
        erased_at: None,
        imported: Some(crate::machine::Imported { at: now, by: by.to_owned() }),
    };
    let run = f.object("run", |f| run(f, created, now, limits));
    let run = f.need("run", run);
    let mut told = Vec::new();
    let tried = history(f, &mut told);
    let begun = run.as_ref().and_then(|run| Some(run.as_ref()?.created_at)).unwrap_or_default();
    let steps = journal(f, tried, begun, limits);
    lines(f, &mut told);
    signals(f, &mut told);
    let run = run.flatten()?;
    Some(Document {
        deployment: run.deployment,
        import: Import {
            id: run.id,
            created: run.created,
            created_at: run.created_at,
            started_at: run.started_at,
            ended_at: run.ended_at,
            generation: run.generation,
            invocations: run.invocations,
            custom_status: run.custom_status,
            hashes,
            steps,
            end: run.end,
            body: run.body,
        },
        told,
    })
}

fn id(text: &str) -> Result<RunId, String> {
    text.parse().map_err(|e| format!("is no id of a run: {e}"))
}

/// A moment that a database can keep and that has come.
fn past(f: &mut Fields<'_>, name: &'static str, now: Option<Timestamp>) -> Option<Timestamp> {
    let at = f.moment(name)?;
    if at < Timestamp::from_micros(0) {
        f.fault(name, "lies before 1970");
    } else if now.is_some_and(|now| at > now + AHEAD) {
        f.fault(name, "lies in the future");
    }
    Some(at)
}

/// A payload of a field; null and absent are one.
fn some<'a>(f: &mut Fields<'a>, name: &'static str, limits: &Limits) -> Option<&'a RawValue> {
    let raw = f.payload(name).filter(|raw| raw.get() != "null")?;
    let (bytes, limit) = (raw.get().len(), limits.value_bytes);
    if bytes > limit {
        f.fault(name, format!("has {bytes} bytes, over the limit of {limit}"));
    }
    Some(raw)
}

fn owned(raw: &RawValue) -> Bytes {
    Bytes::from(raw.get().to_owned())
}

fn run(
    f: &mut Fields<'_>,
    created: impl FnOnce(String, Box<RawValue>) -> Created,
    now: Timestamp,
    limits: &Limits,
) -> Option<RunSaid> {
    f.take_any();
    let own = f.parsed("id", id);
    let own = f.need("id", own);
    if own.is_some_and(|id| id >= RunId::floor(now + AHEAD)) {
        f.fault("id", "is of a run that is still to be started");
    }
    let function = f.parsed("function", |name| valid_name(name).map(|()| name.to_owned()));
    let function = f.need("function", function);
    let key = f.parsed("key", |key| valid_key(key).map(|()| key.to_owned()));
    let tags = some_tags(f).unwrap_or_default();
    let status = f.parsed("status", |word| match Status::from_word(word) {
        Some(status) if status.ended() => Ok(status),
        Some(_) => Err(format!(
            "is `{word}`; only a run that has ended is imported, for a run is driven in one place"
        )),
        None => {
            Err("must be `completed`, `failed`, `cancelled`, `timed_out` or `terminated`"
                .to_owned())
        }
    });
    let status = f.need("status", status);
    let created_at = past(f, "created_at", Some(now));
    let created_at = f.need("created_at", created_at);
    let started_at = past(f, "started_at", Some(now));
    let ended_at = past(f, "ended_at", Some(now));
    let ended_at = f.need("ended_at", ended_at);
    if created_at.zip(ended_at).is_some_and(|(created, ended)| ended < created) {
        f.fault("ended_at", "lies before `created_at`");
    }
    let erased_at = past(f, "erased_at", Some(now));
    let generation = f.value::<i32>("generation").unwrap_or(1);
    if generation < 1 {
        f.fault("generation", "must be 1 at least");
    }
    let invocations = f.value::<u32>("invocations").unwrap_or(0);
    let deployment = f.value::<String>("deployment").and_then(|id| id.parse().ok());
    let input = some(f, "input", limits).unwrap_or(RawValue::NULL);
    let output = some(f, "output", limits).map(owned);
    let error = some(f, "error", limits).map(owned);
    let custom_status = some(f, "custom_status", limits).map(ToOwned::to_owned);
    let schedule = f.value("schedule");
    let rerun_of = f.parsed("rerun_of", id);
    let mut created = created(function?, input.to_owned());
    if created.parent.is_none()
        && let Some(run) = f.parsed("parent", id)
    {
        created.parent = Some(Parent { run, step: "?".to_owned(), detached: true });
    }
    created = Created { key, tags, rerun_of, schedule, erased_at, ..created };
    let end = Kind::from_code(status?.code())?;
    let body = if end == Kind::Completed {
        output.or_else(|| Some(Bytes::from_static(b"null")))
    } else {
        error
    };
    Some(RunSaid {
        id: own?,
        created,
        deployment,
        created_at: created_at?,
        started_at,
        ended_at: ended_at?,
        generation,
        invocations,
        custom_status,
        end,
        body,
    })
}

/// Failed attempts by step and number, as the history tells of them.
type Attempts = HashMap<String, BTreeMap<u32, ImportedAttempt>>;

/// A failed attempt in the history.
#[derive(serde::Deserialize)]
struct Failed {
    step: String,
    attempt: u32,
    #[serde(default)]
    next_attempt_at: Option<Timestamp>,
    #[serde(default)]
    ms: i32,
    #[serde(default)]
    error: Option<Box<RawValue>>,
}

fn history(f: &mut Fields<'_>, told: &mut Vec<ImportedItem>) -> Attempts {
    let mut tried = Attempts::new();
    let mut last = -1;
    let items = f.objects("history", |f| {
        f.take_any();
        let item = item(f, &mut last)?;
        let name = f.text("type", 256);
        let text = f.parsed("by", |by| message(by, 1024));
        let number = f.value::<i32>("epoch").unwrap_or(0);
        let data = f.payload("data").filter(|data| data.get().starts_with('{'));
        let name = f.need("type", name)?;
        let body = f.need("data", data)?;
        if name == "attempt.failed"
            && let Ok(failed) = serde_json::from_str::<Failed>(body.get())
        {
            let error = failed.error.unwrap_or_else(unknown);
            let (at, due, ms) = (item.at, failed.next_attempt_at, failed.ms.max(0));
            let attempt = ImportedAttempt { at, due, ms, error };
            tried.entry(failed.step).or_default().insert(failed.attempt, attempt);
        }
        let text = text.unwrap_or_default();
        let part = ImportedPart::History as i16;
        Some(ImportedItem { part, number, name, text, body: Some(owned(body)), ..item })
    });
    put(f, "history", items, told);
    tried
}

/// What is said of a failure that the document is silent about.
fn unknown() -> Box<RawValue> {
    let text = r#"{"type":"Unknown","message":"The document does not say how it failed."}"#;
    serde_json::from_str(text).expect("it is JSON")
}

/// Number and moment, which everything that is told has.
fn item(f: &mut Fields<'_>, last: &mut i64) -> Option<ImportedItem> {
    let n = f.value::<i64>("n");
    let at = past(f, "at", None);
    let (n, at) = (f.need("n", n)?, f.need("at", at)?);
    if !(0..LAST).contains(&n) || n <= *last {
        f.fault("n", "must be greater than the one before, and less than 2^53");
    }
    *last = n;
    let (name, text) = (String::new(), String::new());
    Some(ImportedItem { part: 0, n, at, number: 0, name, text, body: None })
}

fn put(
    f: &mut Fields<'_>,
    name: &'static str,
    items: Option<Vec<Option<ImportedItem>>>,
    told: &mut Vec<ImportedItem>,
) {
    let items = f.need(name, items).unwrap_or_default();
    if items.len() > MOST {
        f.fault(name, format!("has {} items; the limit is {MOST}", items.len()));
    }
    told.extend(items.into_iter().flatten());
}

/// A text as a database takes it.
fn message(text: &str, most: usize) -> Result<String, String> {
    if text.len() > most {
        Err(format!("has {} bytes, over the limit of {most}", text.len()))
    } else if text.contains('\0') {
        Err("must not have the character U+0000".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn lines(f: &mut Fields<'_>, told: &mut Vec<ImportedItem>) {
    let mut last = -1;
    let logs = f.objects("logs", |f| {
        f.take_any();
        let item = item(f, &mut last)?;
        let name = f.word("level", &["debug", "info", "warn", "error"].map(|w| (w, w)));
        let text = f.parsed("message", |text| message(text, LONGEST));
        let body = f.payload("fields").filter(|raw| raw.get() != "null").map(owned);
        let (name, text) = (f.need("level", name)?.to_owned(), f.need("message", text)?);
        Some(ImportedItem { part: ImportedPart::Log as i16, name, text, body, ..item })
    });
    put(f, "logs", logs, told);
    let mut last = -1;
    let outputs = f.objects("outputs", |f| {
        f.take_any();
        let item = item(f, &mut last)?;
        let name = f.parsed("stream", |name| valid_name(name).map(|()| name.to_owned()));
        let name = f.need("stream", name)?;
        let body = f.payload("data").map(owned);
        Some(ImportedItem { part: ImportedPart::Outputs as i16, name, body, ..item })
    });
    put(f, "outputs", outputs, told);
}

fn signals(f: &mut Fields<'_>, told: &mut Vec<ImportedItem>) {
    let mut n = -1;
    let signals = f.objects("signals", |f| {
        f.take_any();
        n += 1;
        let name = f.parsed("name", |name| valid_name(name).map(|()| name.to_owned()));
        let at = past(f, "at", None);
        let number = f.value::<u32>("bytes").map_or(0, |b| i32::try_from(b).unwrap_or(i32::MAX));
        let step = f.parsed("step", |step| valid_step_id(step).map(|()| step.to_owned()));
        let (name, at) = (f.need("name", name)?, f.need("at", at)?);
        let (part, text) = (ImportedPart::Signals as i16, step.unwrap_or_default());
        Some(ImportedItem { part, n, at, number, name, text, body: None })
    });
    put(f, "signals", signals, told);
}

fn journal(
    f: &mut Fields<'_>,
    mut tried: Attempts,
    begun: Timestamp,
    limits: &Limits,
) -> Vec<ImportedStep> {
    let (mut seq, mut open, mut attempts) = (0, false, 0_usize);
    let mut ids = HashSet::new();
    let steps = f.objects("journal", |f| {
        f.take_any();
        let id = f.parsed("id", |id| valid_step_id(id).map(|()| id.to_owned()));
        let id = f.need("id", id)?;
        if !ids.insert(id.clone()) {
            f.fault("id", "is that of another step");
        }
        let op = f.parsed("op", |word| {
            OpKind::from_word(word).ok_or_else(|| "is no kind of step that is known".to_owned())
        });
        let op = f.need("op", op)?;
        let asked_at = past(f, "asked_at", None);
        let at = past(f, "settled_at", None);
        let ms = f.value::<i32>("ms").unwrap_or(0);
        if ms < 0 {
            f.fault("ms", "must not be negative");
        }
        if f.has("ref") {
            f.fault("ref", "stands for a value; the document of an export has it itself");
        }
        let value = some(f, "value", limits);
        let error = some(f, "error", limits);
        let made = f.value::<u32>("attempts").unwrap_or(0);
        let known = tried.remove(&id).unwrap_or_default();
        let settled = if let Some(n) = f.value::<i32>("seq") {
            seq += 1;
            if n != seq || open {
                f.fault("seq", "must count settled steps from 1, before those that are not");
            }
            let at = f.need("settled_at", at)?;
            let body = owned(error.or(value).unwrap_or(RawValue::NULL));
            Some(ImportedOutcome { at, ok: error.is_none(), body, ms })
        } else {
            open = true;
            None
        };
        // Of one that settled, the last attempt is its outcome.
        let failed = if settled.is_some() { made.saturating_sub(1) } else { made };
        attempts = attempts.saturating_add(usize::try_from(failed).unwrap_or(usize::MAX));
        if attempts > MOST {
            f.fault("attempts", format!("makes more than {MOST} failed attempts of all steps"));
            return None;
        }
        let last = some(f, "last_error", limits);
        let next = past(f, "next_attempt_at", None);
        let one = |n: u32| {
            let known = known.get(&n).cloned();
            let newest = n == failed && settled.is_none();
            let told = last.filter(|_| newest).map(ToOwned::to_owned);
            let mut attempt = known.unwrap_or_else(|| {
                let (at, error) = (asked_at.or(at).unwrap_or(begun), unknown());
                ImportedAttempt { at, due: None, ms: 0, error }
            });
            attempt.due = next.filter(|_| newest).or(attempt.due);
            attempt.error = told.unwrap_or(attempt.error);
            attempt
        };
        let tried = (1..=failed).map(one).collect();
        Some(ImportedStep { id, op, asked_at, tried, settled })
    });
    let steps = f.need("journal", steps).unwrap_or_default();
    let (have, most) = (steps.len(), limits.steps);
    if have > most {
        f.fault("journal", format!("has {have} steps, over the limit of {most}"));
    }
    steps.into_iter().flatten().collect()
}
