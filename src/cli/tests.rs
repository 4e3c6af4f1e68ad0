//! The tree of commands, and whole commands against a small gateway of canned answers.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use clap::CommandFactory;

use super::*;

mod batch;
mod endpoints;
mod objects;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::read(line.split_whitespace())
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn commands_are_understood_in_full_and_by_their_beginnings() {
    for line in [
        "stepwell dev --port 0 --data-dir /tmp/x -u http://127.0.0.1:3000/ -- python3 order.py --x",
        "stepwell dev --ephemeral --listen ::1",
        "stepwell dev --ephemeral --demo",
        "stepwell serve --database-url postgres://x/y --listen 0.0.0.0:1 --advertise http://a:1 --threads 2 --log text",
        "stepwell migrate print --from 3",
        "stepwell openapi --json",
        "stepwell endpoint register http://127.0.0.1:3000/ --function checkout --header a=b --dry-run",
        "stepwell en l -o jsonl",
        "stepwell ev se order.paid -i {} --id o1 --source shop",
        "stepwell endpoint rotate-secret shop",
        "stepwell run start checkout -i {} --key k --if-running use-existing --tag a=b --wait=30s",
        "stepwell run start checkout --wait --delay 7d",
        "stepwell run start checkout --at 2026-11-23T09:00:00Z --follow",
        "stepwell run l -q order --status failed --status paused --since 1h --all --quiet",
        "stepwell run terminate run_1 --yes --reason because",
        "stepwell run retry run_1",
        "stepwell run rewind run_1 --reason mended",
        "stepwell run rerun run_1 --from charge --edit a={} --keep-signals --idempotency-key k",
        "stepwell run export run_1",
        "stepwell run replay export.json --url http://127.0.0.1:3000/",
        "stepwell run replay run_1 --candidate http://127.0.0.1:3000/ --secret whsec_x",
        "stepwell step complete run_1 charge -i {} --unasked",
        "stepwell step fail run_1 charge --type Declined --message no",
        "stepwell step retry-now run_1 charge --reason mended",
        "stepwell function list",
        "stepwell function get checkout",
        "stepwell endpoint register http://127.0.0.1:3000/ --dry-run --replay 10",
        "stepwell endpoint test shop",
        "stepwell endpoint set shop --address http://10.0.0.7:3000/ --header a=b --without-header c --name store",
        "stepwell endpoint deployments shop",
        "stepwell endpoint invocations shop",
        "stepwell endpoint invocations shop inv_01",
        "stepwell endpoint drain shop",
        "stepwell endpoint drain shop --wait=30m",
        "stepwell endpoint repin shop --from dep_01 --to dep_02 --reason incident-7",
        "stepwell endpoint prune shop",
        "stepwell run repin run_01 --deployment dep_01",
        "stepwell run update run_1 add -i 1 --id order-7 --wait 5s",
        "stepwell run query run_1 steps -i {}",
        "stepwell endpoint enable shop",
        "stepwell signal send run_1 approved -i -",
        "stepwell key create --name ci --scope runs:read --scope runs:write",
        "stepwell object get account a1",
        "stepwell object list account -o jsonl",
        "stepwell object set account a1 -i @state.json --if-match 3f --yes",
        "stepwell secret set stripe --file key.txt",
        "stepwell secret list",
        "stepwell secret rm stripe --yes",
        "stepwell completions bash",
        "stepwell version --json",
    ] {
        parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn wrong_commands_are_refused_with_exit_code_2() {
    for line in [
        "stepwell",
        "stepwell walk",
        "stepwell run start",
        "stepwell run start f --delay 1s --at 2026-11-23T09:00:00Z",
        "stepwell run start f --if-running fail",
        "stepwell run start f --tag nothing",
        "stepwell run list --limit 0",
        "stepwell run list --limit 5 --all",
        "stepwell key create --name ci",
        "stepwell key create --name ci --scope everything",
        "stepwell dev --ephemeral --data-dir x",
        "stepwell dev --url http://127.0.0.1:3000/",
        "stepwell --timeout soon version",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line} was taken"));
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_global_option_may_stand_anywhere() {
    for line in
        ["stepwell --url http://a:1 -o id run list", "stepwell run list -o id --url http://a:1"]
    {
        let cli = parse(line).unwrap();
        assert_eq!((cli.global.url.as_str(), cli.global.output), ("http://a:1/", Format::Id));
    }
}

#[test]
fn secrets_are_not_printed() {
    let cli =
        parse("stepwell serve --database-url postgres://u:hunter2@h/d --api-key sw_x").unwrap();
    let text = format!("{cli:?}");
    assert!(!text.contains("hunter2") && !text.contains("sw_x"), "{text}");
}

/// A stream that a test can read.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("nothing panics while it writes").clone())
            .expect("output is UTF-8")
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nothing panics while it writes").write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One request as the gateway saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: Method,
    uri: String,
    authorization: Option<String>,
    if_match: Option<String>,
    idempotency_key: Option<String>,
    body: String,
}

type Canned = fn(&str, usize) -> Option<Response>;

#[derive(Clone)]
struct Gateway {
    canned: Canned,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Answers `canned(path and query, number of earlier requests of it)`; 404 for none.
async fn gateway(canned: Canned) -> (String, Arc<Mutex<Vec<Seen>>>) {
    async fn answer(
        State(gateway): State<Gateway>,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response {
        let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let seen = Seen {
            method,
            uri: uri.to_string(),
            authorization: header("authorization"),
            if_match: header("if-match"),
            idempotency_key: header("idempotency-key"),
            body: String::from_utf8(body.to_vec()).unwrap(),
        };
        let before = {
            let mut all = gateway.seen.lock().unwrap();
            let path = |uri: &str| uri.split('?').next().map(str::to_owned);
            let before = all.iter().filter(|s| path(&s.uri) == path(&seen.uri)).count();
            all.push(seen);
            before
        };
        let found = (gateway.canned)(&uri.to_string(), before);
        found.unwrap_or_else(|| problem(404, "run-not-found", "there is no such run"))
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let gateway = Gateway { canned, seen: seen.clone() };
    let app = Router::new().fallback(answer).with_state(gateway);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, seen)
}

fn json(status: u16, body: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [("content-type", "application/json")], body.to_owned()).into_response()
}

fn problem(status: u16, code: &str, detail: &str) -> Response {
    let body = format!(
        r##"{{"type": "/problems/{code}", "title": "A title", "status": {status}, "code": "{code}",
            "detail": "{detail}", "request_id": "req_7", "errors": [{{"pointer": "#/retry", "detail": "unknown field"}}]}}"##
    );
    let headers = [("content-type", "application/problem+json"), ("retry-after", "3")];
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}

/// Exit code, standard output and standard error of a command line.
async fn run(url: &str, line: &str) -> (u8, String, String) {
    run_args(url, &line.split_whitespace().collect::<Vec<_>>()).await
}

async fn run_args(url: &str, args: &[&str]) -> (u8, String, String) {
    let mut line = vec!["stepwell", "--url", url];
    line.extend(args);
    let cli = Cli::read(line).unwrap_or_else(|error| panic!("{error}"));
    let Command::Client(command) = cli.command else { panic!("not a client's command") };
    let (out, err) = (Buffer::default(), Buffer::default());
    let mut output = Output::into_buffers(cli.global.output, out.clone(), err.clone());
    let code = report(execute(&cli.global, command, &mut output).await, &mut output);
    (code, out.text(), err.text())
}

const RUN: &str = "run_01jd0000000000000000000000";

fn run_json(status: &str, more: &str) -> String {
    format!(
        r#"{{"id": "{RUN}", "function": "checkout", "status": "{status}", "created_at": "2026-11-23T09:00:00.000Z",
            "steps": {{"settled": 1, "pending": 1}}, "invocations": 2, "unknown": [] {more}}}"#
    )
}

#[tokio::test]
async fn each_refusal_has_its_exit_code_and_says_all() {
    let cases: [(u16, &str, u8); 12] = [
        (400, "malformed-request", exit::FAILURE),
        (401, "unauthorized", exit::AUTH),
        (403, "forbidden", exit::AUTH),
        (404, "run-not-found", exit::NOT_FOUND),
        (409, "run-exists", exit::CONFLICT),
        (410, "run-ended", exit::CONFLICT),
        (412, "precondition-failed", exit::CONFLICT),
        (422, "invalid-request", exit::FAILURE),
        (422, "run-failed", exit::RUN_FAILED),
        (429, "too-many-requests", exit::FAILURE),
        (500, "internal", exit::FAILURE),
        (503, "database-unavailable", exit::FAILURE),
    ];
    // The path tells the gateway what to answer: /v1/functions/{status}.{code}/runs.
    let (url, _) = gateway(|uri, _| {
        let (status, code) = uri.split('/').nth(3)?.split_once('.')?;
        Some(problem(status.parse().ok()?, code, "what is wrong"))
    })
    .await;
    for (status, code, expected) in cases {
        let (exit, out, err) = run(&url, &format!("run start {status}.{code}")).await;
        assert_eq!((exit, out.as_str()), (expected, ""), "{status} {code}: {err}");
        for part in [code, "what is wrong", "#/retry: unknown field", "req_7", "3 s"] {
            assert!(err.contains(part), "{err}");
        }
    }
}

#[tokio::test]
async fn a_secret_is_read_from_a_file_and_never_printed() {
    let (url, seen) = gateway(|uri, _| match uri.split('?').next()? {
        "/v1/secrets/stripe" => Some(StatusCode::NO_CONTENT.into_response()),
        "/v1/secrets" if uri.contains('?') => Some(json(
            200,
            r#"{"data": [{"name": "stripe", "created_at": "2026-11-23T09:00:00.000Z"}], "next_cursor": null}"#,
        )),
        _ => Some(json(201, r#"{"name": "stripe"}"#)),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "sk_live_1\n").unwrap();
    let path = file.to_str().unwrap();
    let (exit, out, err) = run_args(&url, &["secret", "set", "stripe", "--file", path]).await;
    assert!(exit == exit::OK && err.contains("stripe"), "{err}");
    assert!(!format!("{out}{err}").contains("sk_live_1"), "{out}{err}");
    assert_eq!(seen.lock().unwrap()[0].body, r#"{"name":"stripe","value":"sk_live_1"}"#);
    let (exit, out, err) = run(&url, "secret list").await;
    assert!(exit == exit::OK && out.contains("stripe"), "{out}{err}");
    let (exit, _, err) = run(&url, "secret rm stripe --yes").await;
    assert!(exit == exit::OK && err.contains("stripe"), "{err}");
    assert_eq!(seen.lock().unwrap().last().unwrap().method, Method::DELETE);
    let (exit, _, err) = run(&url, "secret set stripe --file no/such/file").await;
    assert!(exit == exit::USAGE && err.contains("no/such/file"), "{err}");
}

#[tokio::test]
async fn answers_of_runs_are_printed_as_they_came() {
    const RUN: &str = "run_01k9f3d8n4e2mvbq6w5j7ax2cz";
    let (url, seen) = gateway(|uri, _| {
        let path = uri.split('?').next()?;
        match path.rsplit('/').next()? {
            "add" => Some(json(200, r#"{"id": "upd_1", "run": "run_1", "value": {"sum":  3.0}}"#)),
            "no" => Some(json(200, r#"{"id": "upd_1", "error": {"type": "No"}}"#)),
            "slow" => Some(json(202, r#"{"id": "upd_1", "run": "run_1"}"#)),
            "steps" => Some(json(200, r#"{"result": [1,  2]}"#)),
            _ => None,
        }
    })
    .await;
    let (exit, out, err) = run(&url, &format!("run update {RUN} add -i 1.0 --id a")).await;
    assert_eq!((exit, out.as_str()), (exit::OK, "{\"sum\":  3.0}\n"), "{err}");
    assert_eq!(seen.lock().unwrap().last().unwrap().body, r#"{"payload":1.0,"id":"a"}"#);
    let (exit, _, err) = run(&url, &format!("run update {RUN} no")).await;
    assert!(exit == exit::RUN_FAILED && err.contains("{\"type\": \"No\"}"), "{err}");
    let (exit, _, err) = run(&url, &format!("run update {RUN} slow --wait 1ms")).await;
    assert!(exit == exit::TIMED_OUT && err.contains("upd_1"), "{err}");
    let (exit, _, err) = run(&url, &format!("run update {RUN} slow --wait 0s")).await;
    assert!(exit == exit::OK && err.contains("upd_1"), "{err}");
    let (exit, out, err) = run(&url, &format!("run query {RUN} steps")).await;
    assert_eq!((exit, out.as_str()), (exit::OK, "[1,  2]\n"), "{err}");
}

#[tokio::test]
async fn nobody_there_and_somebody_else_there() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (exit, _, err) = run(&format!("http://{unused}"), "run list").await;
    assert!(exit == exit::FAILURE && err.contains("cannot reach the gateway"), "{err}");

    let (url, _) = gateway(|_, _| Some((StatusCode::BAD_GATEWAY, "<html>").into_response())).await;
    let (exit, _, err) = run(&url, "run list").await;
    assert!(exit == exit::FAILURE && err.contains("502") && err.contains("<html>"), "{err}");

    let (url, _) = gateway(|_, _| {
        let headers = [("location", "https://elsewhere/")];
        Some((StatusCode::MOVED_PERMANENTLY, headers).into_response())
    })
    .await;
    let (exit, _, err) = run(&url, "--api-key sw_secret run list").await;
    assert!(exit == exit::FAILURE && err.contains("https://elsewhere/"), "{err}");

    let (url, _) = gateway(|_, _| Some(json(200, r#"["no page"]"#))).await;
    let (exit, _, err) = run(&url, "run list").await;
    assert!(exit == exit::FAILURE && err.contains("expects"), "{err}");
}

#[tokio::test]
async fn a_start_sends_the_input_byte_for_byte_and_prints_the_run() {
    let (url, seen) = gateway(|_, _| Some(json(202, &run_json("running", "")))).await;
    let input = r#"{"n": 3544790567247868102,  "f": 1.10}"#;
    let args = [
        "run",
        "start",
        "shop/check out",
        "-i",
        input,
        "--key",
        "order-42",
        "--tag",
        "a=b",
        "--delay",
        "90s",
        "--idempotency-key",
        "once",
        "--api-key",
        "sw_k",
    ];
    let (exit, out, err) = run_args(&url, &args).await;
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains(RUN) && out.contains("1 settled, 1 pending"), "{out}");
    let seen = seen.lock().unwrap()[0].clone();
    assert_eq!(seen.uri, "/v1/functions/shop%2Fcheck%20out/runs");
    assert_eq!(seen.authorization.as_deref(), Some("Bearer sw_k"));
    assert_eq!(seen.idempotency_key.as_deref(), Some("once"));
    let body = format!(r#"{{"input":{input},"key":"order-42","delay":"90s","tags":{{"a":"b"}}}}"#);
    assert_eq!(seen.body, body);

    let (_, out, _) = run(&url, "run start checkout -o id").await;
    assert_eq!(out, format!("{RUN}\n"));
}

#[tokio::test]
async fn waiting_goes_on_through_a_restart_and_prints_the_bare_output() {
    let (url, seen) = gateway(|uri, before| match (uri.split('?').next()?, before) {
        (path, 0) if path.ends_with("/runs") => Some(json(202, &run_json("queued", ""))),
        (path, _) if path.ends_with("/result") => Some(json(200, r#"{"n": 9007199254740993}"#)),
        (path, 0) if path.ends_with(RUN) => Some(problem(503, "starting", "not yet")),
        (path, 1) if path.ends_with(RUN) => Some(json(200, &run_json("waiting", ""))),
        (path, _) if path.ends_with(RUN) => Some(json(200, &run_json("completed", ""))),
        _ => None,
    })
    .await;
    let (exit, out, err) = run(&url, "run start checkout --wait").await;
    assert_eq!((exit, out.as_str()), (0, "{\"n\": 9007199254740993}\n"), "{err}");
    assert!(seen.lock().unwrap().iter().any(|s| s.uri.ends_with("?wait=30000ms")));
}

#[tokio::test]
async fn a_run_that_fails_or_does_not_end_has_its_exit_code() {
    let (url, _) = gateway(|uri, _| match uri.split('?').next()? {
        path if path.ends_with("/result") => Some(json(202, "{}")),
        path if path.ends_with("/slow/runs") => Some(json(202, &run_json("running", ""))),
        path if path.ends_with(RUN) => Some(json(200, &run_json("waiting", ""))),
        path if path.ends_with("/runs") => Some(json(202, &run_json("running", ""))),
        _ => None,
    })
    .await;
    let (exit, _, err) = run(&url, "run start slow --wait=20ms").await;
    assert!(exit == exit::TIMED_OUT && err.contains("it is waiting"), "{err}");
    let (exit, out, _) = run(&url, &format!("run result {RUN}")).await;
    assert_eq!((exit, out.as_str()), (exit::TIMED_OUT, ""));

    let (url, _) = gateway(|uri, _| {
        let error = r#", "error": {"type": "OutOfStock", "message": "none left"}"#;
        let status = if uri.contains("?wait") { "failed" } else { "running" };
        Some(json(200, &run_json(status, error)))
    })
    .await;
    let (exit, out, err) = run(&url, "run start checkout --wait").await;
    assert_eq!((exit, out.as_str()), (exit::RUN_FAILED, ""));
    assert!(err.contains("failed: OutOfStock: none left"), "{err}");
    let (exit, out, _) = run(&url, "run start checkout --wait -o jsonl").await;
    assert!(exit == exit::RUN_FAILED && out.contains(r#""status":"failed""#), "{out}");
}

#[tokio::test]
async fn lists_follow_the_cursor_to_the_limit() {
    let (url, seen) = gateway(|uri, _| {
        let next = if uri.contains("cursor=c%2B2") { "null" } else { r#""c+2""# };
        Some(json(
            200,
            &format!(r#"{{"data": [{}], "next_cursor": {next}}}"#, run_json("failed", "")),
        ))
    })
    .await;
    let args = "run list --tag a=b --sort -ended --ended-after 2026-01-02T00:00:00Z --all";
    let (exit, out, err) = run(&url, args).await;
    assert_eq!((exit, out.lines().count()), (0, 3), "{out}{err}");
    assert!(out.starts_with("ID ") && !err.contains("more"), "{out}{err}");
    let first = seen.lock().unwrap()[0].uri.clone();
    assert!(first.ends_with("ended_after=2026-01-02T00%3A00%3A00.000Z&sort=-ended&limit=200"));
    let (_, out, err) = run(&url, "run list --limit 1 -o json").await;
    assert!(out.starts_with("[\n  {") && err.contains("more than these 1"), "{out}{err}");
    let (_, out, _) = run(&url, "run list --all -o jsonl").await;
    assert_eq!(out.lines().filter(|line| line.starts_with(r#"{"id":"run_"#)).count(), 2, "{out}");
}

#[tokio::test]
async fn a_run_may_be_named_by_the_beginning_of_its_id() {
    // `RUN` begins with its moment: the first eight characters leave about a second open.
    let (url, seen) = gateway(|uri, _| {
        let run = run_json("running", "");
        let other = run.replace("01jd00000000", "01jd00000001");
        Some(match uri.split('?').next()? {
            "/v1/runs" => json(200, &format!(r#"{{"data": [{run}, {other}]}}"#)),
            _ => json(202, "{}"),
        })
    })
    .await;
    let (exit, _, err) = run(&url, "signal send 01JD00000000 approved -i true").await;
    assert!(exit == 0 && err.contains("accepted"), "{err}");
    let seen = seen.lock().unwrap().clone();
    let window =
        "started_after=2024-11-18T15%3A59%3A20.112Z&started_before=2024-11-18T15%3A59%3A24.112Z";
    assert_eq!(seen[0].uri, format!("/v1/runs?{window}&limit=200"));
    assert_eq!(seen[1].uri, format!("/v1/runs/{RUN}/signals/approved"));
    assert_eq!(seen[1].body, r#"{"payload":true}"#);
    assert_eq!(run(&url, "run pause run_01jd0000000").await.0, exit::USAGE, "it is ambiguous");
    assert_eq!(run(&url, "run pause run_01jd").await.0, exit::USAGE, "it is too short");
    assert_eq!(run(&url, "run pause run_01jd00009").await.0, exit::NOT_FOUND);
    assert_eq!(run(&url, "run pause what-is-this").await.0, exit::NOT_FOUND);
}

#[tokio::test]
async fn what_cannot_be_undone_needs_a_yes() {
    let (url, seen) = gateway(|_, _| Some(json(202, &run_json("terminated", "")))).await;
    // The test's standard input may be a terminal; a question would then wait for ever.
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        let (exit, _, err) = run(&url, &format!("run terminate {RUN}")).await;
        assert!(exit == exit::USAGE && err.contains("--yes"), "{err}");
        assert!(seen.lock().unwrap().is_empty());
    }
    let (exit, out, err) = run(&url, &format!("run terminate {RUN} --yes --reason tired")).await;
    assert_eq!((exit, out.as_str()), (0, ""));
    assert!(err.contains("is terminated"), "{err}");
    assert_eq!(seen.lock().unwrap()[0].body, r#"{"reason":"tired"}"#);
}

#[tokio::test]
async fn a_trace_tells_a_pipe_each_step_once_and_ends_with_the_run() {
    const FIRST: &str = r#"{"data": [{"seq": 1, "id": "charge", "op": "run", "value": 1, "ms": 120},
                            {"seq": null, "id": "ok", "op": "signal"}]}"#;
    const SECOND: &str = r#"{"data": [{"seq": 2, "id": "ok", "op": "signal", "value": true}]}"#;
    let (url, _) = gateway(|uri, before| match uri.split('?').next()? {
        path if path.ends_with("/stream") => {
            let text = "event: log\ndata: {\"level\": \"info\", \"message\": \"hello\"}\n\n";
            Some(([("content-type", "text/event-stream")], text).into_response())
        }
        path if path.ends_with("/journal") && uri.contains("after=0") => Some(json(200, FIRST)),
        path if path.ends_with("/journal") && uri.contains("after=1") => Some(json(200, SECOND)),
        _ if before == 0 => Some(json(200, &run_json("waiting", ""))),
        _ => Some(json(200, &run_json("completed", r#", "ended_at": "2026-11-23T09:00:02.000Z""#))),
    })
    .await;
    let (exit, out, err) = run(&url, &format!("run trace {RUN}")).await;
    let expected = format!(
        "checkout {RUN}\n✓ charge  run  120 ms\n• ok  signal  pending\ninfo  hello\n\
         ✓ ok  signal\n{RUN} completed 2.0 s\n"
    );
    assert_eq!((exit, out), (0, expected), "{err}");
}

#[tokio::test]
async fn a_registration_prints_what_the_probe_found() {
    let (url, seen) = gateway(|_, _| {
        Some(json(
            201,
            r#"{"endpoint": {"id": "end_01jd0000000000000000000000", "name": "localhost-3000", "detail": null},
                "deployment": {"id": "dep_01jd0000000000000000000000"}, "secret": "whsec_x",
                "probe": {"ok": false, "stages": [{"name": "dns", "ok": true, "detail": "127.0.0.1", "fix": null},
                {"name": "connect", "ok": false, "detail": "connection refused", "fix": "Start the handler."},
                {"name": "status", "ok": null, "detail": "", "fix": null}]}}"#,
        ))
    })
    .await;
    let (exit, out, err) = run(&url, "endpoint register http://localhost:3000/ --function f").await;
    assert_eq!(exit, 0, "{err}");
    for part in [
        "name    localhost-3000",
        "whsec_x",
        "✓ dns",
        "✗ connect",
        "  Start the handler.",
        "- status",
    ] {
        assert!(out.contains(part), "{out}");
    }
    let body = r#"{"name":"localhost-3000","url":"http://localhost:3000/","functions":[{"name":"f"}],"discover":false}"#;
    assert_eq!(seen.lock().unwrap()[0].body, body);
    let (_, out, _) = run(&url, "endpoint get localhost-3000 -o id").await;
    assert_eq!(out, "end_01jd0000000000000000000000\n");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let (url, _) = gateway(|_, _| Some(json(200, r#"{"data": []}"#))).await;
    let cli = Cli::read(["stepwell", "--url", &url, "run", "list"]).unwrap();
    let Command::Client(command) = cli.command else { panic!("not a client's command") };
    let err = Buffer::default();
    let mut output = Output::into_buffers(Format::Table, Closed, err.clone());
    let done = execute(&cli.global, command, &mut output).await;
    assert_eq!((report(done, &mut output), err.text().as_str()), (exit::OK, ""));
}
