//! Ended runs are in the archive before they go, and do not go while they cannot be.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;
use stepwell::engine::ArchivePlace;
use stepwell::store::testing::TestDb;
use tokio::process::Command;

use crate::bucket::Store;
use crate::gateway::{Gateway, Handler};

const HOUR: Duration = Duration::from_hours(1);

/// A gateway with an archive whose function `f` is kept for an hour and `g` as long as all.
async fn gateway(place: ArchivePlace) -> Gateway {
    let g = Gateway::archiving(place).await;
    let handler = Handler::serve(|it| {
        let length = it["input"]["length"].as_u64().unwrap_or(1);
        let result = "x".repeat(usize::try_from(length).expect("it fits"));
        json!({"ops": [{"op": "log", "message": "hi"}], "result": result})
    });
    let functions = json!([{"name": "f", "retention": "1h"}, {"name": "g"}]);
    let url = handler.await.url;
    let endpoint = json!({"name": "test", "url": url, "functions": functions, "discover": false});
    assert_eq!(g.call("POST", "/v1/endpoints", Some(endpoint)).await.0, 201);
    g
}

/// A run that has completed, and the document of its export.
async fn run(g: &Gateway, function: &str) -> (String, Value) {
    // Its line's ends are its own.
    let input = "{\n  \"text\": \"a\\nb\",\r\n  \"n\": 3544790567247868102 }";
    run_of(g, function, input).await
}

/// The same of a run with this input.
async fn run_of(g: &Gateway, function: &str, input: &str) -> (String, Value) {
    let path = format!("/v1/functions/{function}/runs?wait=20s");
    let body = format!("{{\"input\": {input}}}");
    let (status, _, body) = g.raw("POST", &path, &[], Some(body)).await;
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
    let g = gateway(ArchivePlace::folder(folder.clone())).await;
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
    let g = gateway(ArchivePlace::folder(folder.path().to_owned())).await;
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

/// A bucket of this store, for who has the environment but for this variable.
fn bucket(store: &Store, name: &str, but: (&str, &str)) -> ArchivePlace {
    let mut environment = store.environment();
    environment.retain(|(name, _)| name != but.0);
    environment.push((but.0.to_owned(), but.1.to_owned()));
    ArchivePlace::bucket(name, "old/ones", environment.into_iter()).expect("they go together")
}

/// The lines of all objects of the archive.
fn lines_of(store: &Store) -> Vec<Value> {
    let objects = store.objects();
    let archived = objects.iter().filter(|(name, _)| name.ends_with(".jsonl"));
    let text = archived.map(|(_, bytes)| String::from_utf8(bytes.to_vec()).expect("text"));
    let texts: Vec<String> = text.collect();
    let lines = texts.iter().flat_map(|text| text.strip_suffix('\n').expect("a line").split('\n'));
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_when_it_is_in_the_bucket_and_not_before() {
    let store = Store::serve().await;
    for (name, but, says) in [
        ("nothing", ("AWS_REGION", "eu-west-3"), "there is no bucket `nothing`"),
        ("runs", ("AWS_SECRET_ACCESS_KEY", "wrong"), "(SignatureDoesNotMatch, so it is)"),
        ("runs", ("AWS_ACCESS_KEY_ID", "another"), "refuses these credentials (InvalidAccess"),
    ] {
        let g = gateway(bucket(&store, name, but)).await;
        let (one, _) = run(&g, "f").await;
        g.advance(HOUR + Duration::from_secs(1));
        let error = g.engine.expire_runs().await.expect_err("it cannot be written").to_string();
        let place = format!("the archive s3://{name}/old/ones cannot be written: ");
        assert!(error.contains(&place) && error.contains(says), "{error}");
        assert!(is_there(&g, &one).await, "{says}");
        g.close().await;
    }
    assert_eq!(lines_of(&store), Vec::<Value>::new());
    let g = gateway(bucket(&store, "runs", ("AWS_DEFAULT_REGION", "elsewhere"))).await;
    let (one, export) = run(&g, "f").await;
    let (two, other) = run(&g, "f").await;
    g.advance(HOUR + Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 2);
    assert!(!is_there(&g, &one).await && !is_there(&g, &two).await);
    // They were created at one moment, and have no order.
    let both = lines_of(&store);
    assert!(both.len() == 2 && both.contains(&export) && both.contains(&other), "{both:?}");
    let objects = store.objects();
    let (name, bytes) = objects.first_key_value().expect("it was written");
    let day = &g.clock.lower().to_string()[..10];
    assert!(name.starts_with(&format!("old/ones/{day}/nod_")), "{name}");
    let text = String::from_utf8_lossy(bytes);
    assert!(text.contains("3544790567247868102"), "numbers are as they came");
    // Each batch is an object of its own.
    run(&g, "f").await;
    g.advance(HOUR + Duration::from_secs(1));
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 1);
    assert_eq!((store.objects().len(), lines_of(&store).len()), (2, 3));
    assert_eq!(store.uploads(), (0, 0), "what is small goes at once");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_goes_in_parts_and_is_there_whole_or_not_at_all() {
    let store = Store::serve().await;
    let g = gateway(bucket(&store, "runs", ("AWS_DEFAULT_REGION", "elsewhere"))).await;
    let mut exports = Vec::new();
    for length in [4_000_000, 3_900_000, 4_100_000, 3_999_999, 4_000_001] {
        exports.push(run_of(&g, "f", &format!("{{\"length\": {length}}}")).await);
    }
    g.advance(HOUR + Duration::from_secs(1));
    store.refuse_part(Some(2));
    let error = g.engine.expire_runs().await.expect_err("it cannot be written").to_string();
    assert!(error.contains("the store answers EntityTooLarge, so it is"), "{error}");
    assert_eq!((store.uploads(), store.objects().len()), ((1, 0), 0), "nothing is left of it");
    for (run, _) in &exports {
        assert!(is_there(&g, run).await);
    }
    store.refuse_part(None);
    assert_eq!(g.engine.expire_runs().await.expect("a round"), 5);
    assert_eq!((store.uploads(), store.objects().len()), ((2, 0), 1));
    let written = lines_of(&store);
    assert!(written.len() == 5 && exports.iter().all(|(_, export)| written.contains(export)));
    g.close().await;
}

/// `stepwell COMMAND --archive URL` on this database: whether it went well, and what it says.
async fn command(
    db: &TestDb,
    args: &[&str],
    archive: &str,
    environment: &[(String, String)],
) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stepwell"))
        .args(args)
        .args(["--archive", archive])
        .env("DATABASE_URL", &db.url)
        // So that nobody asks the machine that this runs on who it is.
        .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .kill_on_drop(true)
        .output();
    let output = output.await.expect("it starts");
    let both = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(both).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_cannot_be_written_is_found_before_it_is_needed() {
    let (db, store) = (TestDb::new().await, Store::serve().await);
    let folder = tempfile::tempdir().expect("a folder");
    let here = format!("file://{}", folder.path().display());
    let known = store.environment();
    let mut wrong = known.clone();
    wrong.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    let none: Vec<_> = wrong.iter().filter(|(k, _)| k != "AWS_ACCESS_KEY_ID").cloned().collect();
    let half = wrong.clone();
    wrong.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong".to_owned()));
    let missing = format!("{here}/nothing");
    for (archive, environment, says) in [
        (&*missing, &[][..], "nothing cannot be written: No such file"),
        (
            "s3://nothing/a",
            &known,
            "s3://nothing/a cannot be written: there is no bucket `nothing`",
        ),
        ("s3://runs/a", &wrong, "refuses these credentials (SignatureDoesNotMatch, so it is)"),
        ("s3://runs/a", &none, "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET"),
        ("s3://runs/a", &half, "AWS_SECRET_ACCESS_KEY are needed together"),
        ("http://runs/a", &known, "must be a folder, such as `file:///var/lib/stepwell/archive`"),
    ] {
        for args in [&["doctor"][..], &["serve", "--listen", "127.0.0.1:0"]] {
            let (well, said) = command(&db, args, archive, environment).await;
            assert!(!well && said.contains(says), "{args:?} {archive}: {said}");
            assert!(!said.contains("wrong"), "no secret is shown: {said}");
        }
    }
    assert_eq!(store.objects().len(), 0);
    for (archive, environment) in [(&*here, &[][..]), ("s3://runs/a/b", &known)] {
        let (well, said) = command(&db, &["doctor"], archive, environment).await;
        assert!(well && said.contains(" can be written"), "{archive}: {said}");
    }
    assert!(store.objects().contains_key("a/b/.probe"));
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "a folder is left as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_bucket_serves() {
    let store = Store::serve().await;
    let mut environment = store.environment();
    environment.push(("STEPWELL_ARCHIVE".to_owned(), "s3://runs".to_owned()));
    let variables: Vec<_> = environment.iter().map(|(k, v)| (&**k, &**v)).collect();
    let _cluster = crate::cluster::Cluster::start_with(1, &variables).await;
    assert!(store.objects().contains_key(".probe"));
}
