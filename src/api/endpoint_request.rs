//! What a registration of an endpoint says, read and checked for form.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::fields::{Fields, plain_text};
use super::start::{RetryRequest, TimeoutsRequest};
use crate::engine::{EndpointPatch, FunctionSpec, PULL, Registration, Versioning};
use crate::machine::RunKind;

/// Functions of one endpoint.
const MAX_FUNCTIONS: usize = 1_000;
/// The transports of the protocol; the gateway falls back to the first.
const TRANSPORTS: [&str; 4] = ["respond", "stream", "checkpoint", "duplex"];

/// An endpoint to register.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read` reads")]
pub(super) struct EndpointRequest {
    /// Its name; registering the same name again makes a new deployment of the same endpoint.
    #[schema(max_length = 128, min_length = 1)]
    name: String,
    /// Where its handler is; left out with `pull`.
    #[schema(format = "uri", example = "http://127.0.0.1:3000/")]
    url: Option<String>,
    /// Its handler cannot be called, and polls for its work instead. `functions` are needed then.
    pull: Option<bool>,
    /// A signing secret of your own (`whsec_…`); left out: one is made and shown once.
    secret: Option<String>,
    /// Extra request headers. Their values are never shown again.
    headers: Option<BTreeMap<String, String>>,
    /// Its functions; left out: the handler is asked.
    functions: Option<Vec<FunctionRequest>>,
    /// What it can do beside `respond`: `stream`, `checkpoint`, `duplex`.
    transports: Option<Vec<String>>,
    /// Whether it can fetch a long journal in pages.
    pages: Option<bool>,
    /// How much journal it is sent at once.
    #[schema(minimum = 65_536, maximum = 16_777_216)]
    max_inline_bytes: Option<u32>,
    /// Whether to ask the handler for its manifest; by default where `functions` is left out.
    discover: Option<bool>,
    /// Probe and tell, record nothing.
    dry_run: Option<bool>,
    /// With `dry_run`: replay so many of the most recent runs of each function against the handler.
    #[schema(maximum = 100)]
    replay: Option<u8>,
    /// Go on although functions with live runs are dropped; those are parked.
    force: Option<bool>,
}

/// The highest concurrency of an endpoint.
const MOST_CONCURRENCY: u32 = 100_000;

/// A change of an endpoint; what is left out stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read_patch` reads")]
pub(super) struct PatchEndpointRequest {
    #[schema(max_length = 128, min_length = 1)]
    name: Option<String>,
    /// Where its handler is now: a new deployment with the same functions.
    #[schema(format = "uri")]
    url: Option<String>,
    /// Extra request headers to set; null takes one away.
    headers: Option<BTreeMap<String, Option<String>>>,
    /// How many runs may be on their way to it at once, in the whole cluster; null: no limit.
    #[schema(minimum = 1, maximum = 100_000)]
    concurrency: Option<u32>,
}

/// A function of a handler.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `function` reads")]
pub(super) struct FunctionRequest {
    #[schema(max_length = 256, min_length = 1)]
    name: String,
    /// `function` (the default), `object`: runs with one key have it in turn, and state under it; or
    /// `plain`: the input is posted as it is, and a 2xx body is the result.
    #[schema(pattern = "^(function|object|plain)$")]
    kind: Option<String>,
    /// Of a plain function: where at the endpoint its input is posted, with a slash in front; left
    /// out: the endpoint's own URL.
    #[schema(max_length = 2048, pattern = "^/")]
    path: Option<String>,
    /// Of an object: its runs read the state of another function's objects, and wait for nobody.
    shared: Option<bool>,
    /// Of a shared one: the function whose objects it reads.
    #[schema(max_length = 256, min_length = 1)]
    object: Option<String>,
    /// `latest` (the default) or `pinned`.
    #[schema(pattern = "^(latest|pinned)$")]
    versioning: Option<String>,
    /// Default policy of its steps.
    retry: Option<RetryRequest>,
    /// For exchanges that fail.
    invocation_retry: Option<RetryRequest>,
    /// For errors of the run's code as a whole.
    run_retry: Option<RetryRequest>,
    timeouts: Option<TimeoutsRequest>,
    /// How long its ended runs are kept, an hour at least: `7d`. What the gateway and the namespace say
    /// counts where it is shorter.
    #[schema(example = "7d")]
    retention: Option<String>,
    /// Its tasks by name; where they are listed, another one is not sent.
    tasks: Option<Vec<String>>,
    /// Whether another `input_hash` for a recorded step is a mismatch.
    strict: Option<bool>,
    /// JSON Schema of its input.
    input_schema: Option<serde_json::Value>,
    /// The events that start it.
    triggers: Option<Vec<TriggerRequest>>,
    /// How many of its runs may be on their way at once; all must let a run through.
    concurrency: Option<Vec<ConcurrencyRequest>>,
    /// How fast its runs start; the rest waits.
    throttle: Option<ThrottleRequest>,
    /// How fast its runs start; the rest is refused.
    rate_limit: Option<RateLimitRequest>,
    /// Which starts are one. Not beside `singleton`.
    debounce: Option<DebounceRequest>,
    /// At most one live run.
    singleton: Option<SingletonRequest>,
    /// Which starts are one run. Not beside `debounce`, `singleton`, `rate_limit` and `cancel_on`.
    gather: Option<GatherRequest>,
    /// The objects that each of its runs has to itself. Not beside `debounce` and `gather`.
    #[schema(min_items = 1, max_items = 8)]
    locks: Option<Vec<LockRequest>>,
    /// The events that cancel its runs.
    #[schema(max_items = 8)]
    cancel_on: Option<Vec<CancelOnRequest>>,
}

/// Objects that a run has to itself.
#[derive(ToSchema)]
#[schema(as = Lock)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct LockRequest {
    /// The function of kind `object`.
    #[schema(max_length = 256, min_length = 1, example = "account")]
    object: String,
    /// Where the input of the run has the key, or a list of keys.
    #[schema(example = "input.from")]
    key: String,
}

/// How many runs may be on their way at once.
#[derive(ToSchema)]
#[schema(as = Concurrency)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct ConcurrencyRequest {
    /// So many.
    #[schema(minimum = 1, maximum = 100_000)]
    limit: u32,
    /// For each value at this path of the input.
    #[schema(example = "input.tenant")]
    key: Option<String>,
    /// Among runs that wait, values at this path of the input take turns. Another than `key`.
    #[schema(example = "input.user")]
    fair: Option<String>,
    /// What a slot covers: `invocation` (an open exchange, task or call, the default) or `run` (all
    /// of the run from its first invocation).
    #[schema(pattern = "^(invocation|run)$")]
    per: Option<String>,
    /// A run whose node has died waits until what that node may have left open has spent its budget.
    strict: Option<bool>,
}

/// How fast runs start; the rest waits.
#[derive(ToSchema)]
#[schema(as = Throttle)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct ThrottleRequest {
    /// So many …
    #[schema(minimum = 1, maximum = 100_000)]
    limit: u32,
    /// … in so long, at an even pace.
    #[schema(example = "1m")]
    period: String,
    /// How many may start at once after a pause; by default 1.
    #[schema(minimum = 1, maximum = 100_000)]
    burst: Option<u32>,
    /// For each value at this path of the input.
    key: Option<String>,
    /// Among runs that wait, values at this path of the input take turns. Another than `key`.
    #[schema(example = "input.user")]
    fair: Option<String>,
}

/// How fast runs start; the rest is refused with 429.
#[derive(ToSchema)]
#[schema(as = RateLimit)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct RateLimitRequest {
    /// So many …
    #[schema(minimum = 1, maximum = 100_000)]
    limit: u32,
    /// … in so long.
    #[schema(example = "1h")]
    period: String,
    /// For each value at this path of the input.
    key: Option<String>,
}

/// Starts that come soon after each other are one: the last.
#[derive(ToSchema)]
#[schema(as = Debounce)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct DebounceRequest {
    /// Starts when none has come for so long …
    #[schema(example = "10s")]
    period: String,
    /// … or so long after the first, whatever comes.
    #[schema(example = "5m")]
    max_wait: Option<String>,
    /// For each value at this path of the input.
    key: Option<String>,
}

/// At most one live run.
#[derive(ToSchema)]
#[schema(as = Singleton)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct SingletonRequest {
    /// For each value at this path of the input.
    key: Option<String>,
    /// `skip` (the start answers with the live run, the default) or `cancel` (the older is
    /// cancelled first).
    #[schema(pattern = "^(skip|cancel)$")]
    mode: Option<String>,
}

/// Starts that come within a time are one run, whose input is the list of their inputs.
#[derive(ToSchema)]
#[schema(as = Gather)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct GatherRequest {
    /// It begins with so many …
    #[schema(minimum = 2, maximum = 1000, example = 100)]
    size: u32,
    /// … or so long after the first.
    #[schema(example = "10s")]
    timeout: String,
    /// For each value at this path of the input.
    #[schema(example = "input.tenant")]
    key: Option<String>,
}

/// What starts a function by itself.
#[derive(ToSchema)]
#[schema(as = Trigger)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct TriggerRequest {
    /// The event's name.
    event: String,
    /// Paths of fields, and what they must be equal to.
    #[schema(example = json!({"data.plan": "pro"}))]
    r#match: Option<BTreeMap<String, serde_json::Value>>,
}

/// An event that cancels runs of a function: those that it is about.
#[derive(ToSchema)]
#[schema(as = CancelOn)]
#[expect(dead_code, reason = "describes what the manifest's check reads")]
pub(super) struct CancelOnRequest {
    /// The event's name.
    event: String,
    /// Paths of the event's fields, and what they must be equal to.
    #[schema(example = json!({"source": "shop"}))]
    r#match: Option<BTreeMap<String, serde_json::Value>>,
    /// Paths of the event's fields, and those of the run's input that must be the same; a run
    /// whose input has no scalar there is not cancelled.
    #[schema(example = json!({"data.order": "input.order"}))]
    same: Option<BTreeMap<String, String>>,
}

/// Reads a registration; where a fault was noted, what it gives is not to be used.
pub(super) fn read(f: &mut Fields<'_>, by: &str) -> Registration {
    let name = f.text("name", 128);
    let name = f.need("name", name);
    let url = f.parsed("url", check_url);
    let pull = f.value("pull").unwrap_or(false);
    let url = match url {
        Some(_) if pull => {
            f.fault("url", "has no meaning beside `pull`: nobody is called");
            None
        }
        None if pull => Some(PULL.to_owned()),
        url => f.need("url", url),
    };
    let functions = f.objects("functions", function);
    if functions.as_ref().is_some_and(|all| all.len() > MAX_FUNCTIONS) {
        f.fault("functions", format!("has more than {MAX_FUNCTIONS} functions"));
    }
    let functions: Option<Vec<_>> = functions.map(|all| all.into_iter().flatten().collect());
    if functions.as_ref().is_some_and(|all: &Vec<FunctionSpec>| {
        let names: std::collections::BTreeSet<_> = all.iter().map(|s| &s.name).collect();
        names.len() < all.len()
    }) {
        f.fault("functions", "names a function twice");
    }
    let discover = f.value("discover").unwrap_or(functions.is_none() && !pull);
    if discover && pull {
        f.fault("discover", "is not possible beside `pull`: nobody is called");
    }
    if pull && functions.iter().flatten().any(|spec| spec.kind == RunKind::Plain) {
        f.fault(
            "functions",
            "has one of kind `plain`, to which its input is posted: not beside `pull`",
        );
    }
    if !discover && functions.is_none() {
        f.fault("functions", "is needed where `discover` is false");
    }
    let transports: Vec<String> = f.value("transports").unwrap_or_default();
    if let Some(unknown) = transports.iter().find(|t| !TRANSPORTS.contains(&t.as_str())) {
        f.fault("transports", format!("`{unknown}` is none; there are {}", TRANSPORTS.join(", ")));
    }
    if pull && transports.iter().any(|t| t == "stream" || t == "duplex") {
        f.fault("transports", "can only be `respond` and `checkpoint` beside `pull`");
    }
    let max_inline_bytes = f.value::<u32>("max_inline_bytes");
    if max_inline_bytes.is_some_and(|n| !((64 << 10)..=(16 << 20)).contains(&n)) {
        f.fault("max_inline_bytes", "must be from 65536 to 16777216");
    }
    let dry_run = f.value("dry_run").unwrap_or(false);
    let replay = f.value::<u8>("replay").unwrap_or(0);
    if replay > 100 {
        f.fault("replay", "must be from 0 to 100");
    }
    if replay > 0 && pull {
        f.fault("replay", "is not possible beside `pull`: nobody is called");
    }
    if replay > 0 && !dry_run {
        f.fault("replay", "has no meaning without `dry_run`");
    }
    Registration {
        name: name.unwrap_or_default(),
        url: url.unwrap_or_default(),
        secret: f.parsed("secret", check_secret),
        headers: extra_headers(f),
        functions,
        transports,
        pages: f.value("pages").unwrap_or(false),
        max_inline_bytes,
        discover,
        dry_run,
        replay,
        force: f.value("force").unwrap_or(false),
        by: by.to_owned(),
    }
}

/// Reads a change of an endpoint.
pub(super) fn read_patch(f: &mut Fields<'_>) -> EndpointPatch {
    let name = f.text("name", 128);
    let url = f.parsed("url", check_url);
    let given: BTreeMap<String, Option<String>> = f.value("headers").unwrap_or_default();
    let gone: Vec<String> = given.iter().filter(|h| h.1.is_none()).map(|h| h.0.clone()).collect();
    let set = given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut headers: BTreeMap<String, Option<String>> =
        checked_headers(f, set).into_iter().map(|(name, value)| (name, Some(value))).collect();
    for name in gone {
        headers.insert(name.to_ascii_lowercase(), None);
    }
    let concurrency =
        f.payload("concurrency").map(|raw| serde_json::from_str::<Option<u32>>(raw.get()));
    let concurrency = match concurrency {
        Some(Ok(most)) if most.is_none_or(|n| (1..=MOST_CONCURRENCY).contains(&n)) => Some(most),
        Some(_) => {
            f.fault("concurrency", format!("must be from 1 to {MOST_CONCURRENCY}, or null"));
            None
        }
        None => None,
    };
    EndpointPatch { name, url, headers, concurrency }
}

fn function(f: &mut Fields<'_>) -> Option<FunctionSpec> {
    let name = f.text("name", 256);
    let name = f.need("name", name);
    let kinds =
        [RunKind::Function, RunKind::Object, RunKind::Plain].map(|kind| (kind.word(), kind));
    let kind = f.word("kind", &kinds);
    let path = f.text("path", 2_048);
    let (shared, object) = (f.value("shared").unwrap_or(false), f.text("object", 256));
    let versioning =
        f.word("versioning", &[("latest", Versioning::Latest), ("pinned", Versioning::Pinned)]);
    let (retry, invocation_retry, run_retry) =
        (f.retry("retry"), f.retry("invocation_retry"), f.retry("run_retry"));
    let timeouts = f
        .object("timeouts", |f| (f.duration("start"), f.duration("run"), f.duration("invocation")));
    let (start_timeout, run_timeout, invocation_timeout) = timeouts.unwrap_or_default();
    let retention = f.duration("retention");
    let tasks: Option<Vec<String>> = f.value("tasks");
    if let Some(Err(why)) = tasks.as_ref().and_then(|all| {
        let bad = all.iter().map(|name| plain_text(name, 256)).find(Result::is_err);
        bad.map(|r| r.map_err(|why| format!("has a name that {why}")))
    }) {
        f.fault("tasks", why);
    }
    let strict = f.value("strict").unwrap_or(false);
    let input_schema = f.payload("input_schema").map(json);
    let triggers = f.payload("triggers").map(json);
    let [concurrency, throttle, rate_limit, debounce, singleton, gather] =
        ["concurrency", "throttle", "rate_limit", "debounce", "singleton", "gather"]
            .map(|field| f.payload(field).map(json));
    let [locks, cancel_on] = ["locks", "cancel_on"].map(|field| f.payload(field).map(json));
    Some(FunctionSpec {
        name: name?,
        kind: kind.unwrap_or_default(),
        path,
        shared,
        object,
        versioning: versioning.unwrap_or_default(),
        retry: retry.unwrap_or_default(),
        invocation_retry: invocation_retry.unwrap_or_default(),
        run_retry: run_retry.unwrap_or_default(),
        start_timeout,
        run_timeout,
        invocation_timeout,
        retention,
        tasks,
        strict,
        input_schema,
        triggers,
        concurrency,
        throttle,
        rate_limit,
        debounce,
        singleton,
        gather,
        locks,
        cancel_on,
    })
}

fn json(raw: &RawValue) -> Bytes {
    Bytes::copy_from_slice(raw.get().as_bytes())
}

/// The form of a handler's URL; whether it may be reached is the engine's to say.
pub(super) fn check_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|e| format!("is not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        Err("must be an `http` or `https` URL".to_owned())
    } else if !url.username().is_empty() || url.password().is_some() {
        Err("must not have a user or password in it; use `headers`".to_owned())
    } else if url.fragment().is_some() {
        Err("must not have a fragment".to_owned())
    } else if text.len() > 2_048 {
        Err("must have at most 2048 bytes".to_owned())
    } else {
        Ok(url.into())
    }
}

/// The form of Standard Webhooks: 24 to 64 bytes in base64.
pub(super) fn check_secret(text: &str) -> Result<String, String> {
    use base64::Engine as _;
    let bytes = text
        .strip_prefix("whsec_")
        .and_then(|rest| base64::engine::general_purpose::STANDARD.decode(rest).ok());
    match bytes {
        Some(bytes) if (24..=64).contains(&bytes.len()) => Ok(text.to_owned()),
        _ => Err("must be `whsec_` and 24 to 64 bytes in base64".to_owned()),
    }
}

pub(super) fn extra_headers(f: &mut Fields<'_>) -> BTreeMap<String, String> {
    let headers = f.value("headers").unwrap_or_default();
    checked_headers(f, headers)
}

fn checked_headers(
    f: &mut Fields<'_>,
    headers: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    if headers.len() > 32 {
        f.fault("headers", "has more than 32 headers");
    }
    let mut out = BTreeMap::new();
    for (name, value) in headers {
        let parsed = name.parse::<HeaderName>();
        match parsed {
            Err(_) => f.fault("headers", "has a name that is no header's"),
            Ok(n) if is_ours(&n) => f.fault("headers", format!("`{n}` is set by the gateway")),
            Ok(_) if HeaderValue::from_str(&value).is_err() => {
                f.fault("headers", format!("the value of `{name}` cannot be sent"));
            }
            Ok(n) => {
                out.insert(n.to_string(), value);
            }
        }
    }
    out
}

fn is_ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("webhook-")
        || text.starts_with("stepwell-")
        || [
            "host",
            "content-type",
            "content-length",
            "content-encoding",
            "transfer-encoding",
            "connection",
            "traceparent",
            "expect",
            "te",
            "upgrade",
        ]
        .contains(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fields;

    fn registration(body: &str) -> Result<Registration, Vec<String>> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        fields::read(&body, |f| read(f, "ci")).map_err(|problem| {
            let json: serde_json::Value =
                serde_json::from_slice(&problem.body("", "")).expect("JSON");
            let errors = json["errors"].as_array().expect("a list").clone();
            errors.iter().map(|e| e["pointer"].as_str().unwrap_or_default().to_owned()).collect()
        })
    }

    #[test]
    fn the_registration_of_the_manual() {
        let got = registration(
            r#"{"name": "shop", "url": "http://127.0.0.1:3000/", "functions": [{"name": "checkout",
                "retry": {"max_attempts": 3}, "timeouts": {"run": "30d"}}], "discover": false}"#,
        )
        .expect("fine");
        assert_eq!((got.name.as_str(), got.url.as_str()), ("shop", "http://127.0.0.1:3000/"));
        let functions = got.functions.expect("given");
        assert_eq!(functions[0].retry.max_attempts, Some(3));
        assert_eq!(functions[0].run_timeout, Some(std::time::Duration::from_hours(720)));
        assert!(!got.discover && got.by == "ci");
        assert!(registration(r#"{"name":"a","url":"https://x.example"}"#).expect("fine").discover);
    }

    #[test]
    fn every_fault_of_a_registration_is_told() {
        let got = registration(
            r#"{"url": "ftp://x", "name": null, "functions": [{"nam": "a"}, 5], "secret": "whsec_AA==",
                "headers": {"webhook-id": "x", "a b": "c"}, "transports": ["pigeon"], "max_inline_bytes": 1}"#,
        )
        .expect_err("faults");
        for pointer in [
            "#/url",
            "#/name",
            "#/functions/0/name",
            "#/functions/0/nam",
            "#/functions/1",
            "#/secret",
            "#/headers",
            "#/transports",
            "#/max_inline_bytes",
        ] {
            assert!(got.contains(&pointer.to_owned()), "{pointer} in {got:?}");
        }
        assert_eq!(
            registration(r#"{"name":"a","url":"http://x","discover":false}"#).expect_err("none"),
            ["#/functions"]
        );
        for url in ["http://user@x/", "http://x/#y", "x", "file:///etc/passwd"] {
            let body = format!(r#"{{"name":"a","url":"{url}"}}"#);
            assert_eq!(registration(&body).expect_err(url), ["#/url"]);
        }
    }
}
