//! What ended elsewhere is imported from its export, and is then a run like any other.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::gateway::{Gateway, Handler, settled};
use crate::namespaces::{operator, tenant};

/// Does a bit of everything; how it ends is in its input.
async fn handler() -> Handler {
    Handler::serve(|it| {
        let retry = json!({"max_attempts": 3, "initial": "1s", "factor": 1, "jitter": 0});
        if !it["task"].is_null() {
            return json!({"value": 1});
        }
        if it["function"] == "child" {
            return json!({"result": 1});
        }
        if !settled(it, "work") {
            if it["invocation"]["reason"] != "retry" {
                let error = json!({"type": "Busy", "message": "later", "data": {"k": 1.0}});
                return json!({"ops": [
                    {"op": "status", "value": {"at": "work"}},
                    {"op": "tags", "value": {"seen": "yes"}},
                    {"op": "log", "message": "a line\n", "fields": {"n": 1}},
                    {"op": "chunk", "stream": "out", "data": [1.0]},
                    {"op": "chunk", "stream": "other", "data": null},
                    {"op": "run", "id": "work", "error": error, "retry": retry}]});
            }
            return json!({"ops": [{"op": "run", "id": "work", "value": {"n": 1.0}, "ms": 7}], "yield": true});
        }
        if !settled(it, "go") {
            let error = json!({"type": "Refused", "message": "no", "retry": "never"});
            return json!({"ops": [
                {"op": "run", "id": "refused", "error": error},
                {"op": "run", "id": "nothing", "value": null},
                {"op": "signal", "id": "go", "name": "go"},
                {"op": "signal", "id": "never", "name": "never"},
                {"op": "callback", "id": "cb", "timeout": "1h"},
                {"op": "sleep", "id": "nap", "for": "9h"},
                {"op": "task", "id": "task", "task": "t", "input": 1},
                {"op": "invoke", "id": "child", "function": "child", "input": 1}], "await": "go"});
        }
        match it["input"]["end"].as_str() {
            Some("fail") => json!({"error": {"type": "Refused", "message": "no", "retry": "never"}}),
            Some("wait") => json!({"await": "never"}),
            _ => json!({"result": {"n": 3_544_790_567_247_868_102_u64}}),
        }
    })
    .await
}

/// A run as it ends, and the text of its export.
async fn exported(g: &Gateway, end: &str) -> (String, String) {
    let start = json!({"input": {"end": end}, "key": end, "tags": {"team": "a"}});
    let run = g.run("f", start).await;
    g.status(&run, "retrying").await;
    g.advance(Duration::from_secs(2));
    g.status(&run, "waiting").await;
    for name in ["other", "go"] {
        g.signal(&run, name, json!({"from": 1.0})).await;
    }
    if end == "wait" {
        let view = async |g: &Gateway| g.get(&format!("/v1/runs/{run}")).await;
        g.eventually("it has taken it", async |g| {
            view(g).await["waiting_for"][0]["step"] == "never"
        })
        .await;
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.eventually("it has ended", async |g| {
        !g.get(&format!("/v1/runs/{run}")).await["ended_at"].is_null()
    })
    .await;
    let (status, _, body) = g.raw("GET", &format!("/v1/runs/{run}/export"), &[], None).await;
    assert_eq!(status, 200, "{body:?}");
    (run, String::from_utf8(body.to_vec()).expect("text"))
}

async fn import(g: &Gateway, document: &str) -> (u16, Value) {
    let (status, _, body) = g.raw("POST", "/v1/runs/import", &[], Some(document.to_owned())).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// A document without what an import changes: who had it, when it came, and that it did.
fn but_for_the_import(mut document: Value) -> Value {
    for name in ["deployment", "imported_at", "namespace"] {
        document["run"][name].take();
    }
    let history = document["history"].as_array_mut().expect("a list");
    history.retain(|item| item["type"] != "run.imported");
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_reads_as_it_was_exported() {
    let there = Gateway::start().await;
    there.register(&handler().await, json!(["f", "child"])).await;
    let here = Gateway::start().await;
    for end in ["complete", "fail", "wait"] {
        let (run, text) = exported(&there, end).await;
        here.advance(Duration::from_mins(1));
        let (status, view) = import(&here, &text).await;
        assert_eq!((status, &view["id"]), (201, &json!(run)), "{end}: {view}");
        assert!(view["imported_at"].is_string() && view["deployment"].is_null(), "{view}");
        let (status, again) = import(&here, &text).await;
        assert_eq!((status, &again), (200, &view), "{end}");
        let (.., body) = here.raw("GET", &format!("/v1/runs/{run}/export"), &[], None).await;
        let (was, is) = (parsed(&text), parsed(&String::from_utf8_lossy(&body)));
        let told = is["history"].as_array().expect("a list").last().cloned().expect("one");
        assert_eq!(
            (&told["type"], &told["by"], &told["data"]),
            (&json!("run.imported"), &json!("local"), &json!({"id": run}))
        );
        assert_eq!(but_for_the_import(is.clone()), but_for_the_import(was.clone()), "{end}");
        assert!(was["journal"].as_array().is_some_and(|steps| steps.len() >= 7), "{was}");
        // Once more, from what was imported.
        let third = Gateway::start().await;
        third.advance(Duration::from_mins(2));
        assert_eq!(import(&third, &is.to_string()).await.0, 201);
        let twice = third.get(&format!("/v1/runs/{run}/export")).await;
        assert_eq!(but_for_the_import(twice), but_for_the_import(was.clone()), "{end}");
        third.close().await;

        let step = here.get(&format!("/v1/runs/{run}/steps/work")).await;
        let there = there.get(&format!("/v1/runs/{run}/steps/work")).await;
        assert_eq!(step, there, "{end}");
        let chunks = here.get(&format!("/v1/runs/{run}/outputs/out")).await;
        assert_eq!(chunks["data"][0]["data"], json!([1.0]), "{chunks}");
        for filter in ["function=f", &format!("key={end}"), "tag=team:a", "q=seen"] {
            let list = here.get(&format!("/v1/runs?{filter}")).await;
            let listed = list["data"].as_array().expect("a list");
            let listed = listed.iter().find(|r| r["id"] == json!(run));
            let listed = listed.unwrap_or_else(|| panic!("{filter}: {list}"));
            assert_eq!(listed["ended_at"], was["run"]["ended_at"], "{filter}");
            assert_eq!(listed["status"], was["run"]["status"], "{filter}");
        }
    }
    let (.., body) = here.raw("GET", "/v1/runs?function=f&status=completed", &[], None).await;
    let id = parsed(&String::from_utf8_lossy(&body))["data"][0]["id"].clone();
    let (.., body) =
        here.raw("GET", &format!("/v1/runs/{}/result", id.as_str().unwrap()), &[], None).await;
    assert_eq!(&body[..], b"{\"n\":3544790567247868102}", "byte for byte");
    there.close().await;
    here.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_can_be_done_again_and_is_never_driven() {
    let there = Gateway::start().await;
    let handler = handler().await;
    there.register(&handler, json!(["f", "child"])).await;
    let (run, text) = exported(&there, "fail").await;
    there.close().await;
    let here = Gateway::start().await;
    here.advance(Duration::from_mins(1));
    assert_eq!(import(&here, &text).await.0, 201);
    let at = |what: &str| format!("/v1/runs/{run}/{what}");
    // Nobody here has its function.
    let (status, problem) = here.call("POST", &at("rerun"), Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (404, &json!("function-not-found")), "{problem}");
    let calls = handler.count();
    here.register(&handler, json!(["f", "child"])).await;
    // Its key is free.
    let other = here.run("f", json!({"input": {"end": "complete"}, "key": "fail"})).await;
    here.post(&format!("/v1/runs/{other}/terminate"), json!({})).await;
    let again = here.post(&at("rerun"), json!({"from_step": "refused"})).await;
    let new = again["id"].as_str().expect("an id").to_owned();
    here.status(&new, "waiting").await;
    let step = here.get(&format!("/v1/runs/{new}/steps/work")).await;
    assert_eq!(step["value"], json!({"n": 1.0}), "{step}");
    here.post(&format!("/v1/runs/{new}/terminate"), json!({})).await;
    assert!(handler.count() > calls);
    let candidate = json!({"url": handler.url, "secret": crate::gateway::SECRET});
    let report = here.post(&at("replay"), candidate).await;
    assert_eq!((&report["divergence"], &report["stopped"]), (&Value::Null, &Value::Null));
    assert_eq!(report["removed"], json!([]), "{report}");
    let (status, problem) = here.call("POST", &at("rewind"), None).await;
    assert_eq!((status, &problem["code"]), (409, &json!("invalid-state")), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.contains("imported")), "{problem}");
    let (status, _) = here.call("POST", &at("signals/go"), Some(json!({"payload": 1}))).await;
    assert_eq!(status, 410);
    let acts = here.get("/v1/audit").await;
    let imported = acts["data"].as_array().expect("a list");
    let imported = imported.iter().filter(|act| act["action"] == "POST /v1/runs/import").count();
    assert_eq!(imported, 1, "it is an act: {acts}");

    let erased = here.post(&at("erase"), json!({"reason": "asked for"})).await;
    assert!(erased["erased_at"].is_string() && erased["input"].is_null(), "{erased}");
    let left = here.get(&at("export")).await;
    assert_eq!((&left["logs"], &left["outputs"]), (&json!([]), &json!([])));
    assert_eq!(left["history"].as_array().and_then(|h| h.last()).unwrap()["type"], "run.erased");
    for said in ["later", "a line", "from"] {
        assert!(!left.to_string().contains(said), "{said}: {left}");
    }
    let (status, _) = here.call("DELETE", &format!("/v1/runs/{run}"), None).await;
    assert_eq!(status, 204);
    assert_eq!(here.db.number("select count(*) from imported").await, 0);
    // What was erased elsewhere is imported as it is.
    assert_eq!(import(&here, &left.to_string()).await.0, 201);
    let (status, problem) = here.call("POST", &at("rerun"), Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("invalid-state")), "{problem}");
    here.close().await;
}

/// A small document of a run that ended long ago.
fn small() -> Value {
    json!({
        "stepwell_export": 1, "seed": "0".repeat(32), "kind": "function", "parent": null, "input_hashes": {},
        "run": {
            "id": "run_01fr9c3v5h2e8x8p0m4s6t7w9y", "namespace": "other", "function": "gone", "key": "k",
            "generation": 3, "status": "completed", "created_at": "2022-01-01T00:00:00Z",
            "started_at": "2022-01-01T00:00:01Z", "ended_at": "2022-01-01T00:00:02Z", "input": 1, "output": 2,
            "tags": {}, "invocations": 2, "parent": null,
        },
        "journal": [
            {"seq": 1, "id": "a", "op": "run", "value": 1, "error": null, "attempts": 2,
             "asked_at": null, "settled_at": "2022-01-01T00:00:01Z", "ms": 1},
            {"seq": null, "id": "b", "op": "run", "attempts": 0},
        ],
        "history": [{"n": 1, "epoch": 1, "at": "2022-01-01T00:00:01Z", "type": "x", "by": "y", "data": {}}],
        "logs": [{"n": 1, "at": "2022-01-01T00:00:01Z", "level": "info", "message": "m", "fields": null}],
        "outputs": [], "signals": [],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_it_is_kept_counts_from_the_import() {
    let g = Gateway::start().await;
    let (status, view) = import(&g, &small().to_string()).await;
    assert_eq!(status, 201, "{view}");
    assert_eq!(
        (&view["generation"], &view["ended_at"]),
        (&json!(3), &json!("2022-01-01T00:00:02.000Z"))
    );
    let path = format!("/v1/runs/{}", view["id"].as_str().expect("an id"));
    let functions = g.get("/v1/functions").await;
    assert!(
        !functions.to_string().contains("\"gone\"") || functions["data"][0]["endpoint"].is_null()
    );
    let kept = json!({"retention": {"completed": "2h"}});
    let (status, changed) = g.call("PATCH", "/v1/namespaces/default", Some(kept)).await;
    assert_eq!(status, 200, "{changed}");
    g.engine.drop_weeks().await.expect("a round");
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
    assert_eq!(g.get(&path).await["status"], "completed");
    g.advance(Duration::from_hours(3));
    // A walk begins anew once a day.
    g.advance(Duration::from_hours(24));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert_eq!(g.call("GET", &path, None).await.0, 404);
    assert_eq!(g.db.number("select count(*) from imported").await, 0);
    // And with its week.
    let none = json!({"retention": {"completed": null}});
    g.call("PATCH", "/v1/namespaces/default", Some(none)).await;
    assert_eq!(import(&g, &small().to_string()).await.0, 201);
    g.advance(Duration::from_hours(40 * 24));
    g.db.store.ensure_partitions(g.clock.upper()).await.expect("partitions");
    g.engine.drop_weeks().await.expect("a round");
    assert_eq!(g.call("GET", &path, None).await.0, 404);
    assert_eq!(g.db.number("select count(*) from imported").await, 0);
    assert_eq!(g.db.number("select count(*) from journal_long").await, 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_run_is_refused_with_its_place() {
    let g = Gateway::start().await;
    let run = |name: &str, value: Value| (format!("/run/{name}"), value);
    let step = |name: &str, value: Value| (format!("/journal/0/{name}"), value);
    let cases = [
        (run("status", json!("running")), "#/run/status: is `running`; only a run that has ended"),
        (run("status", json!("gone")), "#/run/status: must be `completed`"),
        (run("id", json!("run_1")), "#/run/id: is no id"),
        (run("id", json!("run_7zzzzzzzzzzzzzzzzzzzzzzzzz")), "#/run/id: is of a run that is still"),
        (run("function", json!("a\u{0}b")), "#/run/function: a name must not contain control"),
        (run("function", json!(null)), "#/run/function: is needed"),
        (run("key", json!("")), "#/run/key: a key must not be empty"),
        (run("tags", json!({"a": "\u{0}"})), "#/run/tags: "),
        (run("created_at", json!("2022-01-01T00:00:09Z")), "#/run/ended_at: lies before"),
        (run("ended_at", json!("2922-01-01T00:00:09Z")), "#/run/ended_at: lies in the future"),
        (run("created_at", json!("-009000-01-01T00:00:00Z")), "#/run/created_at: lies before 1970"),
        (run("generation", json!(0)), "#/run/generation: must be 1"),
        (run("schedule", json!({"id": 1})), "#/run/schedule: "),
        (
            run("input", json!("x".repeat(5 << 20))),
            "#/run/input: has 5242882 bytes, over the limit",
        ),
        (("/stepwell_export".to_owned(), json!(2)), "#/stepwell_export: is 2"),
        (("/seed".to_owned(), json!("x")), "#/seed: must be 32 hex"),
        (("/journal".to_owned(), json!({})), "#/journal: "),
        (("/history".to_owned(), json!(null)), "#/history: is needed"),
        (("/history/0/n".to_owned(), json!(-1)), "#/history/0/n: must be greater"),
        (("/history/0/data".to_owned(), json!(1)), "#/history/0/data: is needed"),
        (("/logs/0/level".to_owned(), json!("loud")), "#/logs/0/level: must be one of"),
        (
            ("/logs/0/message".to_owned(), json!("\u{0}")),
            "#/logs/0/message: must not have the char",
        ),
        (step("seq", json!(2)), "#/journal/0/seq: must count"),
        (step("id", json!("b")), "#/journal/1/id: is that of another step"),
        (step("op", json!("dance")), "#/journal/0/op: is no kind of step"),
        (step("attempts", json!(4_000_000_000_u32)), "#/journal/0/attempts: makes more than"),
        (step("attempts", json!(-1)), "#/journal/0/attempts: "),
        (step("ms", json!(-1)), "#/journal/0/ms: must not be negative"),
        (step("settled_at", json!(null)), "#/journal/0/settled_at: is needed"),
        (step("ref", json!({"bytes": 1})), "#/journal/0/ref: stands for a value"),
    ];
    for ((pointer, value), says) in cases {
        let mut document = small();
        let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
        document.pointer_mut(parent).expect("it is there")[name] = value;
        let (status, problem) = import(&g, &document.to_string()).await;
        assert_eq!(status, 422, "{says}: {problem}");
        let faults = problem["errors"].as_array().expect("faults").iter();
        let faults: Vec<String> = faults
            .map(|f| {
                format!("{}: {}", f["pointer"].as_str().unwrap(), f["detail"].as_str().unwrap())
            })
            .collect();
        assert!(faults.iter().any(|fault| fault.starts_with(says)), "{says}\n{faults:#?}");
    }
    assert_eq!(import(&g, "{\"stepwell_export\":1").await.0, 400);
    let host = g.url.strip_prefix("http://").expect("an address");
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("it listens");
    let head = format!(
        "POST /v1/runs/import HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        65 << 20
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.expect("it answers");
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("the document of a run may have 64 MiB"), "{answer}");
    assert_eq!(g.db.number("select count(*) from run_done").await, 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_another_namespace_stays_its_own() {
    let g = Gateway::closed().await;
    let operator = operator(&g).await;
    operator.done("POST", "/v1/namespaces", json!({"name": "other"})).await;
    let (ours, theirs) = (tenant(&operator, "default").await, tenant(&operator, "other").await);
    let mut document = small();
    let one = ours.done("POST", "/v1/runs/import", document.clone()).await;
    assert_eq!((&one["id"], &one["namespace"]), (&document["run"]["id"], &json!("default")));
    document["run"]["output"] = json!("theirs");
    let two = theirs.done("POST", "/v1/runs/import", document.clone()).await;
    assert_eq!((&two["output"], &two["namespace"]), (&json!("theirs"), &json!("other")));
    assert_ne!(two["id"], one["id"]);
    let again = theirs.done("POST", "/v1/runs/import", document).await;
    assert_eq!(again, two, "always the same");
    let path = format!("/v1/runs/{}", one["id"].as_str().expect("an id"));
    assert_eq!(ours.done("GET", &path, Value::Null).await["output"], 2);
    assert_eq!(theirs.refused("GET", &path, Value::Null).await.0, 404);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_takes_documents_and_archives() {
    let g = Gateway::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut other = small();
    other["run"]["id"] = json!("run_01fr9c3v5h2e8x8p0m4s6t7w9z");
    let archive = folder.path().join("runs.jsonl");
    let lines = format!("{}\n{{\"stepwell_exp\n\n{other}\n", small());
    std::fs::write(&archive, lines).expect("it can be written");
    let one = folder.path().join("one.json");
    let pretty = serde_json::to_string_pretty(&small()).expect("JSON");
    std::fs::write(&one, pretty).expect("it can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["run", "import", "--url", &g.url])
        .args([&archive, &one])
        .output();
    let output = output.await.expect("it starts");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success(), "{out}{err}");
    assert!(err.contains("1 of 4 runs were refused"), "{out}{err}");
    assert_eq!(out.matches("imported").count(), 2, "{out}{err}");
    assert_eq!(out.matches("was here already").count(), 1, "{out}{err}");
    assert!(out.contains("runs.jsonl:2") && out.contains("it is not JSON"), "{out}{err}");
    assert_eq!(g.get("/v1/runs?function=gone").await["data"].as_array().map(Vec::len), Some(2));
    g.close().await;
}
