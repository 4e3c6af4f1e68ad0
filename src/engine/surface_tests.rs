//! The engine's reads, registrations and keys on a real database, with real handlers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::machine::{Act, LogPart, MessageKind};
use crate::outbound::Guard;
use crate::protocol::Secret;
use crate::store::testing::TestDb;

type Said = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A handler on a port of its own: `discover` gives the manifest, the rest goes to a function.
struct Handler {
    url: String,
    manifest: Arc<Mutex<Value>>,
    said: Said,
}

async fn handler(answer: fn(&Value) -> Value) -> Handler {
    let said = Said::default();
    let manifest = Arc::new(Mutex::new(json!({"protocol": [1, 1], "functions": [{"name": "f"}]})));
    let (kept, shown) = (Arc::clone(&said), Arc::clone(&manifest));
    let app = axum::Router::new().fallback(move |headers: HeaderMap, body: Bytes| async move {
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        let answer = match body["type"].as_str() {
            Some("discover") => shown.lock().expect("no panics").clone(),
            _ => answer(&body),
        };
        kept.lock().expect("no panics").push((headers, body));
        match answer {
            Value::Null => (StatusCode::INTERNAL_SERVER_ERROR, "not now".to_owned()),
            answer => (StatusCode::OK, answer.to_string()),
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Handler { url, manifest, said }
}

struct Node {
    engine: Engine,
    ns: Namespace,
    db: TestDb,
}

async fn node() -> Node {
    let db = TestDb::new().await;
    let settings = Settings {
        retention: std::time::Duration::from_hours(24),
        archive: None,
        public_url: "http://127.0.0.1:1".to_owned(),
        address: "http://127.0.0.1:1".to_owned(),
        sign_publicly: false,
        limits: Limits::default(),
        jwt: None,
        faults: Faults::default(),
    };
    let client = Client::new(Guard::dev()).expect("a client");
    let engine = Engine::begin(db.store.clone(), Clock::system(), client, settings).await;
    let engine = engine.expect("the database is there");
    while engine.route(crate::machine::Shard(0)) != Route::Here {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ns = engine.catalog().namespace_named("default").expect("there from the start");
    Node { engine, ns, db }
}

fn registration(name: &str, url: &str, functions: Option<&[&str]>) -> Registration {
    let spec = |n: &&str| FunctionSpec { name: (*n).to_owned(), ..FunctionSpec::default() };
    Registration {
        name: name.to_owned(),
        url: url.to_owned(),
        secret: None,
        headers: BTreeMap::new(),
        discover: functions.is_none(),
        functions: functions.map(|f| f.iter().map(spec).collect()),
        transports: Vec::new(),
        pages: false,
        max_inline_bytes: None,
        dry_run: false,
        replay: 0,
        force: false,
        by: "ann".to_owned(),
    }
}

fn start(ns: &Namespace, function: &str) -> Start {
    Start {
        tags: BTreeMap::from([("customer".to_owned(), "c7".to_owned())]),
        ..Start::new(
            ns.clone(),
            function.to_owned(),
            serde_json::value::to_raw_value(&1).expect("JSON"),
            "ann".to_owned(),
        )
    }
}

impl Node {
    async fn register(&self, registration: Registration) -> RegisterOutcome {
        self.engine.register_endpoint(&self.ns, registration).await.expect("an outcome")
    }

    async fn registered(&self, registration: Registration) -> Registered {
        match self.register(registration).await {
            RegisterOutcome::Registered(stands) => *stands,
            other => panic!("{other:?}"),
        }
    }

    async fn start(&self, function: &str) -> RunId {
        self.engine.start(start(&self.ns, function)).await.expect("started").run()
    }

    async fn until(&self, run: RunId, fits: impl Fn(&RunView) -> bool) -> RunView {
        let mut changes = self.engine.changes(run);
        loop {
            let view = self.engine.view(&self.ns, run).await.expect("there");
            if fits(&view) {
                return view;
            }
            let next = tokio::time::timeout(Duration::from_secs(20), changes.changed());
            next.await.unwrap_or_else(|_| panic!("stuck: {view:?}"));
        }
    }
}

fn stage<'a>(stages: &'a [ProbeStage], name: &str) -> &'a ProbeStage {
    stages.iter().find(|s| s.name == name).expect("there")
}

/// Two steps, then a signal, then the end; the first invocation fails.
fn order(invocation: &Value) -> Value {
    let steps = &invocation["steps"];
    if invocation["invocation"]["attempt"] == 1
        && steps.as_object().is_none_or(serde_json::Map::is_empty)
    {
        return Value::Null;
    }
    let wait = json!({"op": "signal", "id": "go-ahead", "name": "approved"});
    if steps.get("charge").is_none() {
        let big = "x".repeat(40_000);
        return json!({"ops": [
            {"op": "run", "id": "charge", "value": {"n": 3_544_790_567_247_868_102_i64}, "ms": 7},
            {"op": "run", "id": "big", "value": big},
            {"op": "log", "level": "info", "message": "charged"},
            {"op": "log", "level": "warn", "message": "again", "fields": {"a": 1}},
            wait], "await": "go-ahead"});
    }
    if steps["go-ahead"].get("value").is_none() {
        return json!({"ops": [wait], "await": "go-ahead"});
    }
    let flaky = json!({"op": "run", "id": "flaky", "error": {"type": "E", "message": "m"},
        "retry": {"max_attempts": 2, "initial": "1ms"}});
    match steps.get("flaky") {
        Some(flaky) if flaky.get("error").is_some() => json!({"result": {"ok": true}}),
        _ => json!({"ops": [flaky], "yield": true}),
    }
}

#[tokio::test]
async fn a_run_is_read_from_every_side_and_its_history_goes_on_from_anywhere() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let handler = handler(order).await;
    let listed = Registration { pages: true, ..registration("shop", &handler.url, Some(&["f"])) };
    node.registered(listed).await;
    let run = node.start("f").await;
    node.until(run, |v| v.status == Status::Waiting).await;

    let page = engine.journal(ns, run, 0, 50).await.expect("a page");
    let ids: Vec<(&str, Option<i32>)> = page.entries.iter().map(|e| (&*e.id, e.seq)).collect();
    assert_eq!(ids, [("charge", Some(1)), ("big", Some(2)), ("go-ahead", None)]);
    assert_eq!(page.upto, 2);
    let charge = page.entries[0].value.as_deref().expect("a value");
    assert!(charge.windows(19).any(|w| w == b"3544790567247868102"));
    assert_eq!(page.entries[0].ms, 7);
    let first = engine.journal(ns, run, 0, 1).await.expect("a page");
    assert_eq!((first.entries.len(), first.upto), (1, 2), "pending ones come on the last page");
    assert_eq!(engine.journal(ns, run, 2, 50).await.expect("a page").entries.len(), 1);

    let token = handler.said.lock().expect("no panics").last().expect("called").1["token"].clone();
    let token = token.as_str().expect("a token").to_owned();
    assert_eq!(engine.handler(&token, run).await.expect("valid"), *ns);
    let other = node.start("f").await;
    assert!(matches!(engine.handler(&token, other).await, Err(Error::BadToken)));
    assert!(matches!(engine.handler("x", run).await, Err(Error::BadToken)));
    let value = engine.value(ns, run, "big").await.expect("read").expect("a value");
    assert_eq!(value.len(), 40_002);
    assert!(engine.value(ns, run, "go-ahead").await.expect("read").is_none());
    assert!(engine.value(ns, run, "nothing").await.expect("read").is_none());

    // Somebody follows from here on.
    let seen = engine.history(ns, run, -1, 1000).await.expect("history");
    engine.signal(ns, run, "other", Bytes::from_static(b"1"), None, "ann").await.expect("taken");
    engine
        .signal(ns, run, "approved", Bytes::from_static(b"true"), None, "ann")
        .await
        .expect("taken");
    let view = node.until(run, |v| v.status.ended()).await;
    assert_eq!(view.status, Status::Completed);
    assert!(matches!(engine.handler(&token, run).await, Err(Error::StaleEpoch)));

    let all = engine.history(ns, run, -1, 1000).await.expect("history");
    let whats: Vec<&str> = all.iter().map(|i| i.what.as_str()).collect();
    let in_order = [
        "run.created",
        "invocation.failed",
        "invocation.ended",
        "step.settled",
        "step.asked",
        "message.arrived",
        "signal.taken",
        "attempt.failed",
        "step.failed",
        "run.completed",
    ];
    let mut rest = whats.iter();
    for what in in_order {
        assert!(rest.any(|w| *w == what), "{what} in {whats:?}");
    }
    assert!(all.windows(2).all(|w| w[0].n < w[1].n && w[0].at <= w[1].at));
    assert_eq!(all[..seen.len()], seen[..], "what was shown stays as it was shown");
    for item in &all {
        let data: Value = serde_json::from_slice(&item.data).expect("JSON");
        assert!(data.is_object() && item.data.len() < 34_000, "{item:?}");
        let rest = engine.history(ns, run, item.n, 1000).await.expect("history");
        let at = all.iter().position(|i| i.n == item.n).expect("itself");
        assert_eq!(rest, all[at + 1..], "after {}", item.n);
    }
    let (mut paged, mut after) = (Vec::new(), -1);
    while let Some(item) = engine.history(ns, run, after, 1).await.expect("history").pop() {
        after = item.n;
        paged.push(item);
    }
    assert_eq!(paged, all);

    let logs = engine.logs(ns, run, LogPart::Lines, -1, 10).await.expect("logs");
    let lines: Vec<&str> = logs.iter().map(|l| l.line.message.as_str()).collect();
    assert_eq!(lines, ["charged", "again"]);
    let rest = engine.logs(ns, run, LogPart::Lines, logs[0].n, 10).await.expect("logs");
    assert_eq!(rest, logs[1..]);
    assert!(engine.logs(ns, run, LogPart::Lines, logs[1].n, 10).await.expect("logs").is_empty());

    let signals = engine.signals(ns, run).await.expect("signals");
    let shown: Vec<_> =
        signals.iter().map(|s| (&*s.name, s.state, s.step.as_deref(), s.bytes)).collect();
    assert_eq!(
        shown,
        [
            ("other", SignalState::Untaken, None, 1),
            ("approved", SignalState::Taken, Some("go-ahead"), 4),
        ]
    );
    let flaky = engine.step(ns, run, "flaky").await.expect("read").expect("a step");
    assert_eq!(flaky.attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!((flaky.entry.attempts, flaky.entry.seq), (2, Some(4)));
    assert!(flaky.entry.error.is_some() && flaky.entry.value.is_none());
    assert!(engine.step(ns, run, "nothing").await.expect("read").is_none());

    let stranger = Namespace { id: ns.id + 1, name: "other".to_owned() };
    assert!(matches!(engine.history(&stranger, run, -1, 9).await, Err(Error::RunNotFound(_))));
    let filter = RunFilter {
        limit: 1,
        tags: vec!["customer:c7".parse().expect("a tag")],
        ..RunFilter::default()
    };
    let page = engine.list(ns, filter.clone()).await.expect("a list");
    assert_eq!((page.runs.len(), page.next.map(|place| place.run)), (1, Some(other)));
    let page = engine.list(ns, RunFilter { after: page.next, ..filter }).await.expect("a list");
    assert_eq!((page.runs[0].id, page.runs[0].status, page.next), (run, Status::Completed, None));
    engine.halt();
}

#[tokio::test]
async fn messages_that_a_terminate_leaves_come_last_in_the_history() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let handler =
        handler(|_| json!({"ops": [{"op": "sleep", "id": "s", "for": "1h"}], "await": "s"})).await;
    node.registered(registration("e", &handler.url, Some(&["f"]))).await;
    let run = node.start("f").await;
    node.until(run, |v| v.status == Status::Waiting).await;
    let act = Act { by: "bob: the op".to_owned(), ..Act::default() };
    engine.act(ns, run, MessageKind::Terminate, act, None).await.expect("taken");
    let view = node.until(run, |v| v.status.ended()).await;
    assert_eq!(view.status, Status::Terminated);
    // As it would be if it had been accepted just before, and not drained.
    let sql = "insert into inbox (shard, run_id, ns, pos, msg_id, kind, name, body, at)
        values ($1, $2, $3, 9, $2, 1, 'late', '\\x0031'::bytea, now() - interval '1 hour')";
    let pool = sqlx::PgPool::connect(&node.db.url).await.expect("connected");
    let sql = sql.replace("inbox (", "stepwell.inbox (");
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(run.shard().column())
        .bind(run.uuid())
        .bind(ns.id)
        .execute(&pool)
        .await
        .expect("inserted");
    let before = engine.history(ns, run, -1, 100).await.expect("history");
    assert_eq!(node.db.store.bury(&[run]).await, Ok(1));
    let rest = engine.history(ns, run, before.last().expect("some").n, 100).await.expect("history");
    assert_eq!(rest.len(), 1);
    let data: Value = serde_json::from_slice(&rest[0].data).expect("JSON");
    assert_eq!(
        (rest[0].what.as_str(), &data["payload"], &data["kind"]),
        ("message.untaken", &json!(1), &json!("signal"))
    );
    let signals = engine.signals(ns, run).await.expect("signals");
    assert_eq!(
        (signals[0].name.as_str(), signals[0].state, signals[0].bytes),
        ("late", SignalState::Untaken, 1)
    );
    engine.halt();
}

// P8.4, P8.8
#[tokio::test]
async fn registrations_are_probed_checked_and_idempotent() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let handler =
        handler(|_| json!({"ops": [{"op": "sleep", "id": "s", "for": "1h"}], "await": "s"})).await;

    let dry = Registration { dry_run: true, ..registration("shop", &handler.url, None) };
    let RegisterOutcome::DryRun(stages, change, _) = node.register(dry).await else {
        panic!("not dry")
    };
    assert_eq!(change, Some(Change::Created));
    assert!(stages.iter().all(|s| s.ok != Some(false)), "{stages:?}");
    assert_eq!(stage(&stages, "functions").detail, "f");
    assert!(engine.endpoints(ns).await.expect("a list").is_empty());

    let first = node.registered(registration("shop", &handler.url, None)).await;
    let secret = first.secret.clone().expect("shown once");
    assert!(first.change == Change::Created && first.deployment.functions == ["f"]);
    let again = node.registered(registration("shop", &handler.url, None)).await;
    assert_eq!((again.change, again.secret), (Change::Unchanged, None));
    assert_eq!((&again.endpoint, &again.deployment), (&first.endpoint, &first.deployment));
    let (headers, _) = handler.said.lock().expect("no panics").last().expect("called").clone();
    let header = |name: &str| headers[name].to_str().expect("text").to_owned();
    let verified = crate::protocol::verify(
        &header("webhook-id"),
        &header("webhook-timestamp"),
        &header("webhook-signature"),
        &crate::protocol::write_discover(),
        &[Secret::parse(&secret).expect("a secret")],
        engine.now().as_secs(),
    );
    assert_eq!(verified, Ok(()));

    let run = node.start("f").await;
    node.until(run, |v| v.status == Status::Waiting).await;
    *handler.manifest.lock().expect("no panics") = json!({"protocol": [1, 1], "functions":
        [{"name": "g", "retry": {"max_attempts": 3}, "timeouts": {"run": "30d"}}]});
    let id = first.endpoint.id;
    let outcome = engine.sync_endpoint(ns, id, false, "ann").await.expect("asked").expect("there");
    let RegisterOutcome::DropsFunctions(names, runs) = outcome else { panic!("{outcome:?}") };
    assert_eq!((names, runs), (vec!["f".to_owned()], vec![run]));
    let outcome = engine.sync_endpoint(ns, id, true, "ann").await.expect("asked").expect("there");
    let RegisterOutcome::Registered(forced) = outcome else { panic!("{outcome:?}") };
    assert!(
        forced.deployment.id != first.deployment.id
            && forced.endpoint.version > first.endpoint.version
    );
    assert!(engine.function(ns, "f").await.expect("read").is_none());
    let g = engine.function(ns, "g").await.expect("read").expect("there");
    let setting = |name: &str| g.settings.iter().find(|s| s.name == name).expect("there").clone();
    assert_eq!(
        (&setting("retry.max_attempts").value[..], setting("retry.max_attempts").source),
        (&b"3"[..], Source::Deployment)
    );
    assert_eq!(
        (&setting("retry.initial").value[..], setting("retry.initial").source),
        (&b"\"500ms\""[..], Source::Default)
    );
    assert_eq!(&setting("timeouts.run").value[..], b"\"2592000s\"");
    assert_eq!(&setting("timeouts.invocation").value[..], b"\"60s\"");

    // Back to the first content is back to the first deployment.
    *handler.manifest.lock().expect("no panics") =
        json!({"functions": [{"name": "f", "kind": "function"}], "protocol": [1, 1]});
    let back = node.registered(registration("shop", &handler.url, None)).await;
    assert_eq!(back.deployment.id, first.deployment.id);
    let deployments = engine.deployments(ns, id).await.expect("a list");
    assert_eq!(deployments.iter().map(|d| d.current).collect::<Vec<_>>(), [false, true]);

    // Nobody listens there: the registration stands where it says what is hosted, and the probe tells.
    let gone = "http://127.0.0.1:9/";
    let listed = node.registered(registration("later", gone, Some(&["h"]))).await;
    assert_eq!(stage(&listed.probe, "connect").ok, Some(false));
    assert!(stage(&listed.probe, "connect").fix.is_some());
    let outcome = node.register(registration("never", gone, None)).await;
    assert!(matches!(outcome, RegisterOutcome::ProbeFailed(_)));
    for (url, pointer, headers) in [
        ("http://169.254.169.254/", "/url", vec![]),
        ("ftp://127.0.0.1/", "/url", vec![]),
        (handler.url.as_str(), "/headers/Webhook-Id", vec![("Webhook-Id", "x")]),
        (handler.url.as_str(), "/headers/a b", vec![("a b", "x")]),
        (handler.url.as_str(), "/headers/x", vec![("x", "a\nb")]),
    ] {
        let headers = headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let bad = Registration { headers, ..registration("bad", url, None) };
        let said = engine.register_endpoint(ns, bad).await;
        assert!(matches!(&said, Err(Error::Invalid(p, _)) if p == pointer), "{url}: {said:?}");
    }
    let both =
        Registration { discover: true, ..registration("both", &handler.url, Some(&["nope"])) };
    let RegisterOutcome::ProbeFailed(stages) = node.register(both).await else { panic!("taken") };
    assert!(stage(&stages, "functions").detail.contains("nope"));
    let probe = engine.probe_endpoint(ns, id).await.expect("asked").expect("there");
    assert!(probe.iter().all(|s| s.ok != Some(false)), "{probe:?}");

    // Off, on, a new secret.
    let off = engine.disable_endpoint(ns, id, "ann").await.expect("switched").expect("there");
    assert_eq!(off.state, EndpointState::Disabled);
    let parked = node.start("f").await;
    let view = node.until(parked, |v| v.status == Status::Parked).await;
    assert_eq!(view.attention.expect("why").code, "endpoint-disabled");
    let on = engine.enable_endpoint(ns, id, "ann").await.expect("switched").expect("there");
    assert!(on.state == EndpointState::Healthy && on.version > off.version);
    node.until(parked, |v| v.status == Status::Waiting).await;
    let rotated = engine.rotate_secret(ns, id, None, "ann").await.expect("rotated").expect("there");
    engine.probe_endpoint(ns, id).await.expect("asked").expect("there");
    let (headers, _) = handler.said.lock().expect("no panics").last().expect("called").clone();
    assert_eq!(headers["webhook-signature"].to_str().expect("text").split(' ').count(), 2);
    assert!(rotated.secret != secret && rotated.old_until > engine.now());
    engine.halt();
}

#[tokio::test]
async fn an_endpoint_is_deleted_with_a_policy_for_its_runs() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let handler = handler(|invocation| match &invocation["cancel"] {
        Value::Null => json!({"ops": [{"op": "sleep", "id": "s", "for": "1h"}], "await": "s"}),
        _ => json!({"result": "compensated"}),
    })
    .await;
    let delete = async |id, version, policy| {
        engine.delete_endpoint(ns, id, version, policy, "ann").await.expect("an outcome")
    };
    let a = node.registered(registration("a", &handler.url, Some(&["f"]))).await.endpoint;
    let run = node.start("f").await;
    node.until(run, |v| v.status == Status::Waiting).await;
    assert_eq!(delete(a.id, None, None).await, Deleted::InUse(vec![run]));
    assert_eq!(delete(a.id, Some(a.version + 1), Some(RunsPolicy::Park)).await, Deleted::Stale);
    let said = engine.delete_endpoint(ns, a.id, None, Some(RunsPolicy::Repin), "ann").await;
    assert!(matches!(said, Err(Error::Invalid(p, _)) if p == "/runs"));

    // Another endpoint takes the function over by registering it; then the first may have it back.
    let b = node.registered(registration("b", &handler.url, Some(&["f"]))).await.endpoint;
    assert_eq!(engine.function(ns, "f").await.expect("read").expect("there").endpoint, b.id);
    assert_eq!(delete(b.id, Some(b.version), Some(RunsPolicy::Repin)).await, Deleted::Done);
    assert_eq!(engine.function(ns, "f").await.expect("read").expect("there").endpoint, a.id);
    assert_eq!(delete(b.id, None, None).await, Deleted::Stale);

    let a = engine.endpoint(ns, &EndpointRef::Id(a.id)).await.expect("read").expect("there");
    assert_eq!(delete(a.id, Some(a.version), Some(RunsPolicy::Cancel)).await, Deleted::Done);
    let view = node.until(run, |v| v.status.ended()).await;
    assert_eq!(view.status, Status::Cancelled);
    let item = engine.history(ns, run, -1, 99).await.expect("history");
    assert!(item.iter().any(|i| i.what == "run.cancelling" && i.by == "ann"));
    assert!(engine.functions(ns).await.expect("a list").is_empty());
    engine.halt();
}

#[tokio::test]
async fn keys_open_what_they_should_until_they_are_revoked() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let scopes: Scopes = [Scope::RunsWrite, Scope::SignalsWrite].into_iter().collect();
    let (row, key) = engine.create_key(ns, "ci", scopes, "ann").await.expect("made");
    let caller = engine.authenticate(&key).await.expect("asked").expect("valid");
    assert_eq!(caller, Caller { namespace: ns.clone(), by: "ci".to_owned(), scopes });
    let (_, other) = bootstrap_key(&node.db.store, "root", Scopes::ALL).await.expect("made");
    assert_eq!(
        engine.authenticate(&other).await.expect("asked").expect("valid").scopes,
        Scopes::ALL
    );
    // The id of one and the secret of another, with a right checksum.
    let parts = |key: &str| key.split('_').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (parts(&key), parts(&other));
    let mixed = format!("sw_{}_{}_{}", mine[1], mine[2], theirs[3]);
    let forged = format!("{mixed}_{}", crc_of(&mixed));
    assert!(crate::protocol::ApiKey::parse(&forged).is_ok(), "the checksum is right");
    for bad in ["", "sw_live", &key[..key.len() - 1], &forged] {
        assert_eq!(engine.authenticate(bad).await.expect("asked"), None, "{bad}");
    }
    let used = async || {
        engine
            .list_keys(ns)
            .await
            .expect("a list")
            .iter()
            .find(|k| k.id == row.id)
            .and_then(|k| k.last_used_at)
    };
    while used().await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(engine.revoke_key(ns, row.id, "ann").await.expect("asked"));
    assert!(engine.revoke_key(ns, row.id, "ann").await.expect("asked"));
    assert_eq!(engine.authenticate(&key).await.expect("asked"), None);
    let keys = engine.list_keys(ns).await.expect("a list");
    assert!(keys.len() == 2 && keys.iter().all(|k| k.revoked_at.is_some() == (k.id == row.id)));
    let unknown = crate::machine::KeyId::new(engine.now(), 1);
    assert!(!engine.revoke_key(ns, unknown, "ann").await.expect("asked"));
    engine.halt();
}

fn crc_of(text: &str) -> String {
    const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = u64::from(crc32fast::hash(text.as_bytes()));
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[usize::try_from(crc % 62).expect("small")];
        crc /= 62;
    }
    String::from_utf8(digits.to_vec()).expect("ASCII")
}

#[tokio::test]
async fn nodes_vouch_for_callers_and_nobody_else_does() {
    let node = node().await;
    let (engine, ns) = (&node.engine, &node.ns);
    let caller = Caller { namespace: ns.clone(), by: "ci, ü".to_owned(), scopes: Scopes(3) };
    for caller in [Some(caller), None] {
        let sent = engine.node_headers(caller.as_ref(), &Method::POST, "/v1/runs/x?wait=1", b"{}");
        let headers: HeaderMap = sent.into_iter().collect();
        let check = |headers: &HeaderMap, method: &Method, path: &str, body: &[u8]| {
            engine.check_node(headers, method, path, body)
        };
        let passed = check(&headers, &Method::POST, "/v1/runs/x?wait=1", b"{}");
        assert_eq!(passed, Some(Forwarded { caller }));
        assert_eq!(check(&headers, &Method::GET, "/v1/runs/x?wait=1", b"{}"), None);
        assert_eq!(check(&headers, &Method::POST, "/v1/runs/x?wait=2", b"{}"), None);
        assert_eq!(check(&headers, &Method::POST, "/v1/runs/x?wait=1", b"{ }"), None);
        let text = headers[NODE_HEADER].to_str().expect("text").to_owned();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let mut forged = HeaderMap::new();
            forged.insert(NODE_HEADER, HeaderValue::from_bytes(&changed).expect("ASCII"));
            assert_eq!(check(&forged, &Method::POST, "/v1/runs/x?wait=1", b"{}"), None, "{at}");
        }
        let mut twice = headers.clone();
        twice.append(NODE_HEADER, headers[NODE_HEADER].clone());
        assert_eq!(check(&twice, &Method::POST, "/v1/runs/x?wait=1", b"{}"), None);
    }
    engine.halt();
}
