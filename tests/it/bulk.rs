//! Acts on many runs: which they come to, what they do, and that they do it once whoever dies.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler, settled};

/// `waits` waits for a signal and ends with its payload; `fails` fails until it may not.
async fn handler() -> Handler {
    Handler::serve(|it| match it["function"].as_str() {
        Some("waits") if settled(it, "go") => json!({"result": it["steps"]["go"]["value"]}),
        Some("waits") => {
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
        _ => json!({"error": {"type": "Broken", "message": "no such order 17"}}),
    })
    .await
}

async fn begun(g: &Gateway, body: Value) -> String {
    // What is started from now on is later than the act.
    g.advance(Duration::from_millis(2));
    let (status, bulk) = g.call("POST", "/v1/bulk", Some(body)).await;
    assert_eq!(status, 202, "{bulk}");
    g.advance(Duration::from_millis(2));
    bulk["id"].as_str().expect("an id").to_owned()
}

async fn ended(g: &Gateway, id: &str) -> Value {
    let path = format!("/v1/bulk/{id}");
    g.eventually("the act ends", async |g| {
        g.advance(Duration::from_millis(20));
        g.get(&path).await["status"] != "running"
    })
    .await;
    g.get(&path).await
}

async fn done(g: &Gateway, body: Value) -> Value {
    let id = begun(g, body).await;
    ended(g, &id).await
}

fn counts(bulk: &Value) -> [i64; 4] {
    ["matched", "done", "skipped", "failed"].map(|name| bulk[name].as_i64().expect("a number"))
}

/// Waits until a list has so many runs: it trails by up to a second.
async fn until_listed(g: &Gateway, query: &str, count: usize) {
    g.eventually(&format!("{count} of {query}"), async |g| {
        g.advance(Duration::from_millis(300));
        listed(g, query).await.len() == count
    })
    .await;
}

async fn listed(g: &Gateway, query: &str) -> Vec<String> {
    let page = g.get(&format!("/v1/runs?limit=200&{query}")).await;
    let runs = page["data"].as_array().expect("a list").iter();
    runs.map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_does_to_many_what_it_does_to_one() {
    let g = Gateway::start().await;
    let handler = handler().await;
    g.register(&handler, json!(["waits", "fails"])).await;
    let mut waiting = Vec::new();
    for n in 0..4 {
        waiting.push(g.run("waits", json!({"tags": {"n": n.to_string(), "team": "a"}})).await);
    }
    for _ in 0..3 {
        let run = g.run("fails", json!({"input": {"n": 1.0}})).await;
        g.status(&run, "failed").await;
    }
    for run in &waiting {
        g.status(run, "waiting").await;
    }
    // A dry run does nothing.
    g.advance(Duration::from_millis(2));
    let ask = json!({"filter": {"status": "failed"}, "action": "rerun", "reason": "a fix"});
    let dry = {
        let mut ask = ask.clone();
        ask["dry_run"] = json!(true);
        g.post("/v1/bulk", ask).await
    };
    assert_eq!(dry["expected"], json!({"count": 3, "exact": true}), "{dry}");
    assert_eq!(dry["sample"].as_array().map(Vec::len), Some(3), "{dry}");
    assert_eq!(g.get("/v1/bulk").await["data"], json!([]));
    // Runs again: each once, and not what that started, which has failed by then too.
    let bulk = done(&g, ask).await;
    assert_eq!((counts(&bulk), &bulk["status"]), ([3, 3, 0, 0], &json!("completed")), "{bulk}");
    g.eventually("the new ones have failed", async |g| {
        listed(g, "function=fails&status=failed").await.len() == 6
    })
    .await;
    let id = bulk["id"].as_str().expect("an id");
    let mut of = BTreeSet::new();
    for run in listed(&g, "function=fails").await {
        let view = g.get(&format!("/v1/runs/{run}")).await;
        let created = g.happened(&run, "run.created").await[0].clone();
        if let Some(original) = view["rerun_of"].as_str() {
            assert!(of.insert(original.to_owned()), "{original} twice");
            assert!(created["by"].as_str().is_some_and(|by| by.contains(id)), "{created}");
            assert_eq!(view["input"], json!({"n": 1.0}));
        }
    }
    assert_eq!(of.len(), 3);
    // A pause, by tag; a run of the same tag that is started later goes on.
    let pause = json!({"filter": {"tag": "team:a"}, "action": "pause", "reason": "look"});
    let bulk = done(&g, pause).await;
    assert_eq!(counts(&bulk), [4, 4, 0, 0], "{bulk}");
    let id = bulk["id"].as_str().expect("an id");
    let view = g.status(&waiting[0], "paused").await;
    let told = view["attention"]["detail"].as_str().expect("why").to_owned();
    assert!(told.contains(&format!("look (bulk {id})")), "{told}");
    // Signals reach paused runs; then some go on, and what is not paused is passed over.
    let signal = json!({"filter": {"run": &waiting[..2]}, "action": "signal",
        "signal": {"name": "go", "payload": {"n": 3_544_790_567_247_868_102_i64}}});
    assert_eq!(counts(&done(&g, signal).await), [2, 2, 0, 0]);
    let resume = json!({"filter": {"tag": ["n:0", "n:1"]}, "action": "resume"});
    assert_eq!(counts(&done(&g, resume.clone()).await), [2, 2, 0, 0]);
    let output = g.status(&waiting[0], "completed").await["output"].clone();
    assert_eq!(output, json!({"n": 3_544_790_567_247_868_102_i64}));
    g.status(&waiting[1], "completed").await;
    let bulk = done(&g, resume).await;
    assert_eq!(counts(&bulk), [2, 0, 2, 0], "{bulk}");
    let why = &bulk["reasons"][0];
    assert_eq!(
        (&why["outcome"], &why["code"], &why["count"]),
        (&json!("skipped"), &json!("invalid-state"), &json!(2))
    );
    assert!(waiting.contains(&why["run"].as_str().expect("a run").to_owned()), "{why}");
    // A cancel, which says why; again it changes nothing.
    until_listed(&g, "status=paused", 2).await;
    let cancel = json!({"filter": {"status": "paused"}, "action": "cancel", "grace": "1s"});
    assert_eq!(counts(&done(&g, cancel).await), [2, 2, 0, 0]);
    for run in &waiting[2..] {
        g.eventually("the cancel is taken", async |g| {
            !g.happened(run, "run.cancelling").await.is_empty()
        })
        .await;
        let entry = g.happened(run, "run.cancelling").await[0].clone();
        assert!(entry["data"]["reason"].as_str().is_some_and(|r| r.starts_with("bulk blk_")));
    }
    let terminate = json!({"filter": {"run": &waiting[2..]}, "action": "terminate"});
    done(&g, terminate).await;
    g.eventually("all have ended", async |g| {
        g.advance(Duration::from_secs(1));
        listed(g, "function=waits").await.len()
            == listed(g, "status=completed&status=cancelled&status=terminated").await.len()
    })
    .await;
    // Rewound runs fail again, and are not rewound again.
    let rewind = json!({"filter": {"function": "fails"}, "action": "rewind"});
    assert_eq!(counts(&done(&g, rewind).await), [6, 6, 0, 0]);
    g.eventually("they have failed again", async |g| {
        listed(g, "function=fails&status=failed").await.len() == 6
    })
    .await;
    // What has ended can be deleted, and nothing is left of it.
    let bulk = done(&g, json!({"filter": {"function": "waits"}, "action": "delete"})).await;
    assert_eq!(counts(&bulk), [4, 4, 0, 0], "{bulk}");
    assert_eq!(listed(&g, "function=waits").await, Vec::<String>::new());
    assert_eq!(listed(&g, "").await.len(), 6);
    let (status, code, _) = g.refused("GET", &format!("/v1/runs/{}", waiting[0]), None).await;
    assert_eq!((status, code.as_str()), (404, "run-not-found"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_keeps_its_rate_and_is_aborted_and_repeated() {
    let g = Gateway::start().await;
    let handler = handler().await;
    g.register(&handler, json!(["waits"])).await;
    for _ in 0..5 {
        let run = g.run("waits", json!({})).await;
        g.status(&run, "waiting").await;
    }
    let ask = json!({"filter": {"function": "waits"}, "action": "pause", "rate": 1});
    g.advance(Duration::from_millis(2));
    let body = Some(ask.to_string());
    let key = [("idempotency-key", "k1")];
    let (status, _, first) = g.raw("POST", "/v1/bulk", &key, body.clone()).await;
    let (again, headers, second) = g.raw("POST", "/v1/bulk", &key, body).await;
    let first: Value = serde_json::from_slice(&first).expect("JSON");
    let second: Value = serde_json::from_slice(&second).expect("JSON");
    assert_eq!((status, again, &first["id"]), (202, 202, &second["id"]), "{second}");
    assert_eq!(headers["idempotent-replayed"], "true");
    let other = Some(json!({"filter": {"all": true}, "action": "pause"}).to_string());
    let (status, _, problem) = g.raw("POST", "/v1/bulk", &key, other).await;
    let problem: Value = serde_json::from_slice(&problem).expect("JSON");
    assert_eq!((status, &problem["code"]), (422, &json!("idempotency-key-reused")));
    let path = format!("/v1/bulk/{}", first["id"].as_str().expect("an id"));
    g.eventually("one run", async |g| g.get(&path).await["matched"] == 1).await;
    // The clock stands, so that is all for this second.
    g.advance(Duration::from_millis(900));
    g.advance(Duration::from_millis(200));
    g.eventually("another one", async |g| g.get(&path).await["matched"] == 2).await;
    let aborted = g.post(&format!("{path}/abort"), json!({})).await;
    assert_eq!(
        (&aborted["status"], &aborted["ended_by"]),
        (&json!("aborted"), &json!("local")),
        "{aborted}"
    );
    assert_eq!(g.post(&format!("{path}/abort"), json!({})).await["status"], "aborted");
    g.advance(Duration::from_secs(10));
    until_listed(&g, "status=paused", 2).await;
    let bulk = done(&g, json!({"filter": {"status": "paused"}, "action": "resume"})).await;
    assert_eq!(counts(&bulk), [2, 2, 0, 0], "{bulk}");
    assert_eq!(g.get(&path).await["matched"], 2);
    let path = format!("/v1/bulk/{}", bulk["id"].as_str().expect("an id"));
    let (status, code, _) = g.refused("POST", &format!("{path}/abort"), None).await;
    assert_eq!((status, code.as_str()), (409, "invalid-state"));
    let page = g.get("/v1/bulk?status=aborted&action=pause").await;
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "{page}");
    let first_page = g.get("/v1/bulk?limit=1").await;
    assert_eq!(first_page["data"][0]["id"], bulk["id"]);
    let next = first_page["next_cursor"].as_str().expect("there is another").to_owned();
    let second_page = g.get(&format!("/v1/bulk?limit=1&cursor={next}")).await;
    assert_eq!(
        (&second_page["data"][0]["id"], &second_page["next_cursor"]),
        (&first["id"], &Value::Null)
    );
    let live = listed(&g, "function=waits").await[0].clone();
    let (status, code, _) = g.refused("DELETE", &format!("/v1/runs/{live}"), None).await;
    assert_eq!((status, code.as_str()), (409, "invalid-state"));
    let (status, code, _) = g.refused("GET", "/v1/bulk/blk_01k9c3v5h2e8x8p0m4s6t7w9yz", None).await;
    assert_eq!((status, code.as_str()), (404, "bulk-not-found"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_where_one_dies_and_each_run_is_acted_on_once() {
    const RUNS: usize = 60;
    let handler = handler().await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["waits", "fails"]).await;
    for function in ["waits", "fails"] {
        for _ in 0..RUNS {
            cluster.run(1, function, &json!({})).await;
        }
    }
    let count = async |cluster: &Cluster, sql: &'static str| cluster.db.number(sql).await;
    cluster
        .eventually("they wait and have failed", async || {
            let waiting = "select count(*) from run_active where status = 3";
            count(&cluster, waiting).await == 60
                && count(&cluster, "select count(*) from run_done").await == 60
        })
        .await;
    cluster.nodes[0].kill();
    let dies = format!("{}:70", Point::BulkActed.word());
    cluster.nodes[0].start_with(&[(CRASH_AT, &dies)]);
    cluster.ready(&cluster.nodes[0].url).await;
    cluster.balanced().await;
    // The node that is asked carries it out.
    let asks = [
        json!({"filter": {"status": "failed"}, "action": "rerun"}),
        json!({"filter": {"status": "waiting"}, "action": "signal", "signal": {"name": "go"}}),
    ];
    let mut ids = Vec::new();
    for ask in &asks {
        let (status, bulk) = cluster.call(0, "POST", "/v1/bulk", Some(ask)).await;
        assert_eq!(status, 202, "{bulk}");
        ids.push(bulk["id"].as_str().expect("an id").to_owned());
    }
    let status = cluster.nodes[0].ended().await;
    assert!(status.code().is_none(), "it was to be killed: {status}");
    for id in &ids {
        let path = format!("/v1/bulk/{id}");
        cluster
            .eventually("the other one ends it", async || {
                cluster.call(1, "GET", &path, None).await.1["status"] == "completed"
            })
            .await;
        let (_, bulk) = cluster.call(1, "GET", &path, None).await;
        assert_eq!(counts(&bulk), [60, 60, 0, 0], "{bulk}");
    }
    cluster
        .eventually("all have ended", async || {
            count(&cluster, "select count(*) from run_done").await == 3 * 60
        })
        .await;
    let again = "select count(distinct convert_from(substr(body, 2), 'UTF8')::jsonb ->> 'rerun_of')
        from journal where kind = 0 and convert_from(substr(body, 2), 'UTF8')::jsonb ? 'rerun_of'";
    assert_eq!(count(&cluster, again).await, 60);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

/// The example of `docs/bulk.md`, as it stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_page_is_true() {
    let page = include_str!("../../docs/bulk.md");
    let body = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let body: Value = serde_json::from_str(body.expect("a block")).expect("JSON");
    let g = Gateway::start().await;
    let handler = Handler::answers([
        json!({"error": {"type": "Declined", "message": "no"}}),
        json!({"error": {"type": "Declined", "message": "no"}}),
        json!({"result": "paid"}),
    ])
    .await;
    g.register(&handler, json!(["checkout"])).await;
    let other = g.run("checkout", json!({"tags": {"region": "us"}})).await;
    g.status(&other, "failed").await;
    let run = g.run("checkout", json!({"tags": {"region": "eu"}})).await;
    g.status(&run, "failed").await;
    assert_eq!(counts(&done(&g, body).await), [1, 1, 0, 0]);
    g.status(&run, "completed").await;
    let reopened = g.happened(&run, "run.reopened").await[0].clone();
    let reason = reopened["data"]["reason"].as_str().expect("a reason");
    assert!(reason.starts_with("the payment provider is back (bulk blk_"), "{reopened}");
    g.status(&other, "failed").await;
    g.close().await;
}
