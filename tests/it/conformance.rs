//! `stepwell conformance` against handlers in five languages, and against what is wrong on purpose.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::watchdog::Watched;

#[path = "../../conformance/handler/serve.rs"]
mod handler;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn handlers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/handlers")
}

/// A handler that is being served.
struct Served {
    child: Child,
    url: String,
    /// Where it may leave files.
    temp: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        // `go run` has a child of its own.
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

impl Served {
    /// Runs `command`, in which `FILE` and `PORT` are replaced, and waits until it listens.
    async fn start(command: &str, file: &Path) -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = listener.local_addr().expect("it is bound");
        drop(listener);
        let port = at.port().to_string();
        let file = file.to_str().expect("UTF-8");
        let command = command.replace("FILE", file).replace("PORT", &port);
        let mut child = Command::new("sh")
            .args(["-c", &format!("exec {command}")])
            .env("PORT", port)
            .env("STEPWELL_SIGNING_SECRET", SECRET)
            .env("TMPDIR", temp.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let until = Instant::now() + Duration::from_secs(90); // a compiler may run first
        while tokio::net::TcpStream::connect(at).await.is_err() {
            let ended = child.try_wait().expect("its state");
            assert!(ended.is_none(), "`{command}` ended: {ended:?}");
            assert!(Instant::now() < until, "`{command}` does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, url: format!("http://{at}"), temp }
    }

    async fn tested(&self, more: &[&str]) -> (Option<i32>, Value) {
        tested(&self.url, more).await
    }
}

/// The suite's exit code and its report.
async fn tested(url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let _watched = Watched::new();
    let ended = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(["conformance", "--url", url, "-o", "json", "--timeout", "10s"])
        .args(more)
        .env("STEPWELL_SIGNING_SECRET", SECRET)
        .output()
        .await
        .expect("the suite runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let report = serde_json::from_slice(&ended.stdout).unwrap_or(Value::from(said));
    (ended.status.code(), report)
}

/// The handler in Rust, served here; `fault` is what it does wrong.
async fn in_rust(fault: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (secret, fault) = (SECRET.to_owned(), fault.to_owned());
    tokio::spawn(handler::serve(listener, handler::Handler { secret, fault }));
    url
}

async fn keeps_every_rule(command: &str, file: &str) {
    let served = Served::start(command, &handlers().join(file)).await;
    let (code, report) = served.tested(&[]).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!((&report["ok"], &report["skipped"]), (&Value::from(true), &Value::from(0)));
    assert!(report["passed"].as_u64() > Some(100), "{report:#}");
    assert!(served.temp.path().exists());
}

#[tokio::test]
async fn python_keeps_every_rule() {
    keeps_every_rule("python3 FILE", "handler.py").await;
}

#[tokio::test]
async fn node_keeps_every_rule() {
    keeps_every_rule("node FILE", "handler.mjs").await;
}

#[tokio::test]
async fn go_keeps_every_rule() {
    keeps_every_rule("go run FILE", "handler.go").await;
}

#[tokio::test]
async fn php_keeps_every_rule() {
    keeps_every_rule("php -S 127.0.0.1:PORT FILE", "handler.php").await;
}

async fn keeps_every_rule_on(transport: &str, checks: u64) {
    let (code, report) = tested(&in_rust("").await, &["--transports", transport]).await;
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!((&report["ok"], &report["skipped"]), (&Value::from(true), &Value::from(0)));
    assert_eq!(report["transports"][0]["transport"], transport);
    assert!(report["transports"][0]["passed"].as_u64() > Some(checks), "{report:#}");
}

#[tokio::test]
async fn rust_keeps_every_rule_on_respond() {
    keeps_every_rule_on("respond", 110).await;
}

#[tokio::test]
async fn rust_keeps_every_rule_on_checkpoint() {
    keeps_every_rule_on("checkpoint", 160).await;
}

#[tokio::test]
async fn rust_keeps_every_rule_on_stream() {
    keeps_every_rule_on("stream", 110).await;
}

#[tokio::test]
async fn rust_keeps_every_rule_on_duplex() {
    keeps_every_rule_on("duplex", 160).await;
}

/// What goes wrong on the way of what a handler says, and not in the answer.
#[tokio::test]
async fn what_breaks_a_rule_of_a_transport_is_found() {
    for (fault, on, only, rule) in [
        ("runs-again", "checkpoint", "three steps", "P5.4"),
        ("runs-again", "stream", "cut", "P4.5"),
        ("runs-again", "duplex", "stale epoch", "P9.3"),
        ("drops-await", "checkpoint", "waiting within", "P4.14"),
        ("careless", "checkpoint", "the same number", "P4.9"),
        ("reworded", "checkpoint", "the same number", "P4.10"),
        ("goes-on", "checkpoint", "stale epoch", "P4.8"),
        ("goes-on", "checkpoint", "the end of the run", "P4.8"),
        ("hasty", "duplex", "a slow acknowledgement", "P9.1"),
        ("not-held", "checkpoint", "held", "P3.21"),
        ("stays", "checkpoint", "suspend", "P4.20"),
        ("stays", "duplex", "suspend", "P4.27"),
        ("own-outcome", "checkpoint", "another outcome", "P4.28"),
        ("own-outcome", "duplex", "another outcome", "P4.28"),
        ("silent", "checkpoint", "heartbeats", "P4.18"),
        ("silent", "stream", "keep-alives", "P4.26"),
        ("forgets-input", "respond", "continue", "P3.10"),
        ("never-long", "checkpoint", "a long journal", "P2.30"),
        ("answers-whole", "stream", "each step a line", "P4.4"),
        ("answers-whole", "duplex", "each step a line", "P4.7"),
    ] {
        let (code, report) =
            tested(&in_rust(fault).await, &["--transports", on, "--only", only]).await;
        assert_eq!(code, Some(1), "{fault}, {on}: {report:#}");
        let rules = report["rules"].as_array().unwrap_or_else(|| panic!("{fault}: {report}"));
        let broken: Vec<_> = rules.iter().filter(|r| r["status"] == "failed").collect();
        assert!(broken.iter().any(|r| r["rule"] == rule), "{fault}, {on}: {broken:#?}");
    }
}

/// Each fault of a handler is found, and told by the rule that it breaks.
#[tokio::test]
async fn what_breaks_a_rule_is_found() {
    let good = std::fs::read_to_string(handlers().join("handler.py")).expect("the handler");
    for (from, to, only, rule) in [
        ("abs(time.time() - int(at)) > 300", "False", "old and future", "P2.2"),
        ("any(hmac.compare_digest", "any(True or hmac.compare_digest", "unsigned", "P2.2"),
        ("signatures.split())", "signatures.split()[:1])", "rotation", "P2.2"),
        ("{\"result\": FUNCTIONS", "{\"reslut\": FUNCTIONS", "echo", "P3.1"),
        (
            "if step is None:\n            op =",
            "if step is None or id == 'a':\n            op =",
            "three steps",
            "P9.2",
        ),
        ("!= \"replay\"", "!= \"rehearsal\"", "replay", "P8.10"),
        (
            "if step.get(\"pending\"):",
            "if step.get(\"pending\") and 'attempt' not in step:",
            "a step that waits",
            "P5.32",
        ),
        (
            "raise Answer({\"ops\": [{\"op\": \"start\", \"id\": \"charge\"}]})",
            "return outcome(run, 'charge', {'op': 'run'})",
            "at most once",
            "P5.6",
        ),
        (
            "[take(\"a/1\", \"a\"), take(\"a/2\", \"a\"), take(\"b\", \"b\")]",
            "[take(\"b\", \"b\"), take(\"a/1\", \"a\"), take(\"a/2\", \"a\")]",
            "signals in another",
            "P5.10",
        ),
        ("while call[\"journal\"][\"more\"]:", "while False:", "pages", "P2.28"),
        ("if not run.call[\"cancel\"]:", "if True:", "cancel", "P3.35"),
        (
            "return [a, b, c]",
            "tries['x'] += 1; return [a, b, c, tries['x']]",
            "three steps",
            "P5.3",
        ),
        ("{mode: ids}", "{'any': ids}", "three settled", "P3.7"),
        ("+ urllib.parse.quote(id))", "+ 'nothing')", "a big value", "P2.27"),
        ("{\"left\": run.input[\"left\"] - 1, ", "{\"left\": 0, ", "continue", "P3.10"),
    ] {
        assert!(good.contains(from), "{from}");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("handler.py");
        std::fs::write(&file, good.replace(from, to)).expect("written");
        let served = Served::start("python3 FILE", &file).await;
        let (code, report) = served.tested(&["--only", only]).await;
        assert_eq!(code, Some(1), "{to}: {report:#}");
        let rules = report["rules"].as_array().unwrap_or_else(|| panic!("{to}: {report}"));
        let broken: Vec<_> = rules.iter().filter(|r| r["status"] == "failed").collect();
        assert!(broken.iter().any(|r| r["rule"] == rule), "{to}: {broken:#?}");
    }
}

#[tokio::test]
async fn a_transport_that_the_manifest_does_not_name_is_refused() {
    let served = Served::start("python3 FILE", &handlers().join("handler.py")).await;
    let (code, said) = served.tested(&["--transports", "respond,duplex"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.as_str().is_some_and(|s| s.contains("does not name the transport `duplex`")));
}

#[tokio::test]
async fn what_is_no_handler_is_told_in_words() {
    let suite = |args: &'static [&'static str]| async move {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepwell"));
        let ended = command.arg("conformance").args(args).output().await.expect("it runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = suite(&["--secret", SECRET]).await;
    assert!(code == Some(2) && said.contains("--url"), "{said}");
    let (code, said) = suite(&["--url", "http://127.0.0.1:9", "--secret", "nonsense"]).await;
    assert!(code == Some(2) && said.contains("whsec_"), "{said}");
    let (code, said) = suite(&["--url", "http://127.0.0.1:9", "--secret", SECRET]).await;
    assert!(code == Some(1) && said.contains("cannot be called"), "{said}");
}
