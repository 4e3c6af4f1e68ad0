//! Ended runs are in the archive before they go, and do not go while they cannot be.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::gateway::{Gateway, Handler};

const HOUR: Duration = Duration::from_hours(1);

/// A gateway with an archive whose function `f` is kept for an hour and `g` as long as all.
async fn gateway(folder: &Path) -> Gateway {
    let g = Gateway::archiving(folder).await;
    let handler = Handler::serve(|_| json!({"ops": [{"op": "log", "message": "hi"}], "result": 1}));
    let functions = json!([{"name": "f", "retention": "1h"}, {"name": "g"}]);
    let url = handler.await.url;
    let endpoint = json!({"name": "test", "url": url, "functions": functions, "discover": false});
    assert_eq!(g.call("POST", "/v1/endpoints", Some(endpoint)).await.0, 201);
    g
}

/// A run that has completed, and the document of its export.
async fn run(g: &Gateway, function: &str) -> (String, Value) {
    let path = format!("/v1/functions/{function}/runs?wait=20s");
    // Its line's ends are its own.
    let input = "{\"input\": {\n  \"text\": \"a\\nb\",\r\n  \"n\": 3544790567247868102 }}";
    let (status, _, body) = g.raw("POST", &path, &[], Some(input.to_owned())).await;
    assert_eq!(status, 200, "{body:?}");
    let run: Value = serde_json::from_slice(&body).expect("JSON");
    let run = run["id"].as_str().expect("an id").to_owned();
    let (status, export) = g.call("GET", &format!("/v1/runs/{run}/export"), None).await;
    assert_eq!((status, &export["run"]["id"]), (200, &json!(run)));
    (run, export)
}

/// The lines of all files that are documents.
fn lines(folder: &Path) -> Vec<Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|f| f.expect("an entry").path()).collect();
    files.sort();
    let texts = files.iter().map(|f| std::fs::read_to_string(f).expect("text"));
    // What is cut off at the end of a day's file does not go on in that of the next.
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
}

async fn is_there(g: &Gateway, run: &str) -> bool {
    match g.call("GET", &format!("/v1/runs/{run}"), None).await.0 {
        200 => true,
        404 => false,
        status => panic!("{run}: {status}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_when_it_is_in_the_archive_and_not_before() {
    let parent = tempfile::tempdir().expect("a folder");
    let folder = parent.path().join("archive");
    std::fs::create_dir(&folder).expect("a folder");
    stepwell::telemetry::install_metrics();
    let g = gateway(&folder).await;
    let (one, export) = run(&g, "f").await;
    g.advance(HOUR + Duration::from_secs(1));
    // Somebody has taken the folder away: nothing goes, neither alone nor with its week.
    std::fs::remove_dir(&folder).expect("it is empty");
    let error = g.engine.expire_runs().await.expect_err("it cannot be written");
    assert!(error.to_string().contains("archive"), "{error}");
    assert!(is_there(&g, &one).await);
    let metrics = g.raw("GET", "/metrics", &[], None).await.2;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    assert!(metrics.contains("stepwell_archive_failures_total"), "{metrics}");
    std::fs::create_dir(&folder).expect("a folder");
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert!(!is_there(&g, &one).await);
    assert_eq!(lines(&folder), std::slice::from_ref(&export));
    let file = std::fs::read_dir(&folder).expect("a folder").next().expect("one").expect("one");
    let mut text = std::fs::read_to_string(file.path()).expect("text");
    assert!(text.contains("3544790567247868102"), "numbers are as they came");
    // Somebody has died in the middle of a line.
    text.push_str("{\"stepwell_export\":1,\"se");
    std::fs::write(file.path(), text).expect("it can be written");
    let (_, second) = run(&g, "f").await;
    g.advance(HOUR + Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert_eq!(lines(&folder), [&export, &second].map(Value::clone));
    // One that somebody holds while its time is up goes when nobody does, and is written once.
    let (three, third) = run(&g, "f").await;
    let mut conn = sqlx::PgConnection::connect(&g.db.url).await.expect("Postgres");
    let mut held = conn.begin().await.expect("a transaction");
    let hold = "select from stepwell.run_done for update";
    sqlx::query(hold).execute(&mut *held).await.expect("a lock");
    for hours in [1, 5] {
        g.advance(hours * HOUR + Duration::from_secs(1));
        assert_eq!(g.engine.expire_runs().await.expect("a round"), 0);
        assert!(is_there(&g, &three).await);
    }
    held.rollback().await.expect("nobody holds it");
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert!(!is_there(&g, &three).await);
    assert_eq!(lines(&folder), [export, second, third]);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_is_dropped_when_all_of_it_is_in_the_archive() {
    let folder = tempfile::tempdir().expect("a folder");
    let g = gateway(folder.path()).await;
    let mut exports = Vec::new();
    for _ in 0..3 {
        exports.push(run(&g, "g").await);
    }
    assert_eq!(g.engine.drop_weeks().await.expect("a round").partitions, Vec::<String>::new());
    assert_eq!(lines(folder.path()), Vec::<Value>::new());
    g.advance(40 * 24 * HOUR);
    g.db.store.ensure_partitions(g.clock.upper()).await.expect("partitions");
    let path = folder.path().to_owned();
    std::fs::remove_dir(&path).expect("it is empty");
    g.engine.drop_weeks().await.expect_err("it cannot be written");
    assert!(is_there(&g, &exports[0].0).await);
    std::fs::create_dir(&path).expect("a folder");
    let dropped = g.engine.drop_weeks().await.expect("a round");
    assert!(dropped.partitions.iter().any(|p| p.starts_with("run_done_")), "{dropped:?}");
    let written = lines(folder.path());
    assert_eq!(written.len(), 3);
    for (run, export) in &exports {
        assert!(!is_there(&g, run).await);
        assert!(written.contains(export), "{export}");
    }
    // Once is enough.
    g.engine.drop_weeks().await.expect("a round");
    assert_eq!(lines(folder.path()).len(), 3);
    g.close().await;
}
