//! What races, while gateways are killed: every journal ever shown has one order, attempts are
//! counted once, a cancel and an end have one winner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepwell::clock::Clock;
use stepwell::machine::{Flags, Kind, Limits, Row};
use stepwell::store::testing::TestDb;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, settled};
use crate::oracle::Prefixes;

/// A handler with two functions: `races` waits for a sleep and a callback at once, `fails` has a
/// step that may be tried three times.
#[derive(Clone, Default)]
struct Racer {
    shown: Arc<Mutex<Prefixes>>,
    /// The path of each run's callback, once it has been invoked.
    links: Arc<Mutex<HashMap<String, String>>>,
}

impl Racer {
    async fn serve(&self) -> Handler {
        let racer = self.clone();
        Handler::serve(move |it: &Value| racer.answer(it)).await
    }

    fn answer(&self, it: &Value) -> Answer {
        let run = it["run"]["id"].as_str().unwrap_or_default().to_owned();
        self.shown.lock().expect("no panic").show(it);
        if it["function"] == "fails" {
            let step = &it["steps"]["step"];
            if let Some(error) = step.get("error") {
                return json!({"result": error["attempts"]}).into();
            }
            if step["pending"] == json!(true) {
                return json!({"await": "step"}).into();
            }
            let retry = json!({"max_attempts": 3, "initial": "20ms", "factor": 1, "jitter": 0});
            let error = json!({"type": "Sorry", "message": "no"});
            return json!({"ops": [{"op": "run", "id": "step", "error": error, "retry": retry}]})
                .into();
        }
        let link: url::Url =
            it["links"]["callback"].as_str().unwrap_or_default().parse().expect("a URL");
        self.links.lock().expect("no panic").insert(run, format!("{}cb", link.path()));
        let (nap, cb) = (settled(it, "nap"), settled(it, "cb"));
        if nap && cb {
            return json!({"result": [it["steps"]["nap"]["seq"], it["steps"]["cb"]["seq"]]}).into();
        }
        let asked = json!([{"op": "callback", "id": "cb"},
                           {"op": "sleep", "id": "nap", "for": "60ms"}]);
        let tree =
            if nap || cb { json!({"all": ["nap", "cb"]}) } else { json!({"any": ["nap", "cb"]}) };
        json!({"ops": asked, "await": tree}).into()
    }

    /// Settles the run's callback at about the moment when its sleep is over, by whatever node
    /// there is.
    async fn call_back(&self, http: reqwest::Client, run: String, urls: Arc<Mutex<Vec<String>>>) {
        let begun = Instant::now();
        let path = loop {
            if let Some(path) = self.links.lock().expect("no panic").get(&run) {
                break path.clone();
            }
            assert!(begun.elapsed() < Duration::from_mins(3), "{run} was never invoked");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 90)).await;
        loop {
            let url = {
                let urls = urls.lock().expect("no panic");
                urls[rand::random::<u32>() as usize % urls.len()].clone()
            };
            let sent = http
                .post(format!("{url}{path}"))
                .header("content-type", "application/json")
                .timeout(Duration::from_secs(5))
                .body("\"called\"")
                .send()
                .await;
            if sent.is_ok_and(|a| a.status().is_success()) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_mins(3), "{run} was never called back");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// One order in all journals that were shown, and in the one that is recorded.
    fn check(&self, run: &str, rows: &[Row]) {
        let shown = self.shown.lock().expect("no panic");
        assert_eq!(shown.faults, Vec::<String>::new());
        let recorded: Vec<String> =
            rows.iter().filter(|r| r.kind.settles()).map(|r| r.step.clone()).collect();
        let longest = shown.longest(run);
        assert_eq!(longest, recorded[..longest.len()], "{run}: {rows:#?}");
        let ends = rows.iter().filter(|r| r.kind.ends()).count();
        assert_eq!(ends, 1, "{run}: {rows:#?}");
        let tried = rows.iter().filter(|r| r.kind == Kind::Tried).count();
        let failed = rows.iter().filter(|r| r.kind == Kind::Failed).count();
        if failed > 0 {
            assert_eq!((tried, failed), (2, 1), "{run}: {rows:#?}");
        } else {
            assert_eq!((tried, recorded.len()), (0, 2), "{run}: {rows:#?}");
        }
    }
}

/// Which came first, over all runs: a race that only one side wins is none.
fn winners(journals: &[Vec<Row>]) -> (usize, usize) {
    let first = |rows: &Vec<Row>| {
        rows.iter().find(|r| r.kind.settles()).map(|r| r.step.clone()).unwrap_or_default()
    };
    let firsts: Vec<String> = journals.iter().map(first).collect();
    let count = |step: &str| firsts.iter().filter(|f| *f == step).count();
    (count("nap"), count("cb"))
}

/// How often the gateway is killed.
const KILLS: usize = 40;

async fn gateway_on(db: TestDb) -> Gateway {
    Gateway::at(db, Limits::default(), Clock::system()).await
}

// P2.13, P2.14, P5.36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_and_a_callback_have_one_order_and_three_attempts_are_three_under_kills() {
    let racer = Racer::default();
    let handler = racer.serve().await;
    let mut gateway = gateway_on(TestDb::new().await).await;
    gateway.register(&handler, json!(["races", "fails"])).await;
    let urls = Arc::new(Mutex::new(vec![gateway.url.clone()]));
    let mut runs = Vec::new();
    let mut callers = Vec::new();
    for _ in 0..KILLS {
        for i in 0..6 {
            let function = if i < 4 { "races" } else { "fails" };
            let run = gateway.run(function, json!({})).await;
            if i < 4 {
                let (racer, http) = (racer.clone(), gateway.http.clone());
                let (run, urls) = (run.clone(), urls.clone());
                callers.push(tokio::spawn(async move { racer.call_back(http, run, urls).await }));
            }
            runs.push((function, run));
        }
        tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 150)).await;
        let db = gateway.kill().await;
        // Its lease need not be waited for.
        db.forget_nodes().await;
        gateway = gateway_on(db).await;
        *urls.lock().expect("no panic") = vec![gateway.url.clone()];
    }
    for caller in callers {
        caller.await.expect("every callback is settled");
    }
    let mut races = Vec::new();
    for (function, run) in runs {
        let view = gateway.status(&run, "completed").await;
        let id = run.parse().expect("the gateway's own id");
        let rows = gateway.db.store.rows_after(id, 0, -1, 1_000).await.expect("its journal");
        racer.check(&run, &rows);
        if function == "fails" {
            assert_eq!(view["output"], 3, "{rows:#?}");
        } else {
            races.push(rows);
        }
    }
    let (nap, cb) = winners(&races);
    eprintln!("{KILLS} kills: the sleep was first {nap} times, the callback {cb} times");
    assert!(nap > 0 && cb > 0, "no race: {nap} and {cb}");
    gateway.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_with_processes() {
    let racer = Racer::default();
    let handler = racer.serve().await;
    let mut cluster = Cluster::start(3).await;
    cluster.register(&handler.url, &["races", "fails"]).await;
    let all: Vec<String> = cluster.nodes.iter().map(|n| n.url.clone()).collect();
    let urls = Arc::new(Mutex::new(all));
    let (mut runs, mut callers) = (Vec::new(), Vec::new());
    for round in 0..3 {
        for i in 0..30 {
            let function = if i % 3 == 2 { "fails" } else { "races" };
            let run = cluster.run((round + 1) % 3, function, &json!({})).await;
            if function == "races" {
                let (racer, http) = (racer.clone(), cluster.http.clone());
                let (run, urls) = (run.clone(), urls.clone());
                callers.push(tokio::spawn(async move { racer.call_back(http, run, urls).await }));
            }
            runs.push(run);
        }
        cluster.nodes[round].kill();
        cluster.nodes[round].start();
        cluster.ready(&cluster.nodes[round].url).await;
    }
    for caller in callers {
        caller.await.expect("every callback is settled");
    }
    for run in runs {
        cluster.status(0, &run, "completed").await;
        racer.check(&run, &cluster.rows(&run).await);
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

// P9.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_and_an_end_have_one_winner() {
    let handler = Handler::serve(|it| {
        if it["cancel"].is_object() {
            json!({"ops": [{"op": "run", "id": "undo", "value": 1}], "result": "undone"})
        } else if settled(it, "one") {
            json!({"result": "done"})
        } else {
            json!({"ops": [{"op": "run", "id": "one", "value": 1}]})
        }
    })
    .await;
    let gateway = gateway_on(TestDb::new().await).await;
    gateway.register(&handler, json!(["quick"])).await;
    let one = async |i: usize| {
        let run = gateway.run("quick", json!({})).await;
        for _ in 0..(i * 7) % 60 {
            tokio::task::yield_now().await;
        }
        let cancelled = gateway.call("POST", &format!("/v1/runs/{run}/cancel"), None).await;
        (run, cancelled)
    };
    let mut outcomes: HashMap<String, usize> = HashMap::new();
    let all = futures::StreamExt::buffer_unordered(
        futures::StreamExt::map(futures::stream::iter(0..1_000), one),
        16,
    );
    for (run, (status, answer)) in futures::StreamExt::collect::<Vec<_>>(all).await {
        let path = format!("/v1/runs/{run}?wait=10s");
        let view = gateway.get(&path).await;
        let id = run.parse().expect("the gateway's own id");
        let rows = gateway.db.store.rows_after(id, 0, -1, 1_000).await.expect("its journal");
        let ends: Vec<Kind> = rows.iter().map(|r| r.kind).filter(|k| k.ends()).collect();
        let cancelling = rows.iter().position(|r| r.kind == Kind::Cancelling);
        let word = view["status"].as_str().expect("a word").to_owned();
        match status {
            200..300 => {
                let at =
                    cancelling.unwrap_or_else(|| panic!("{run}: accepted and gone: {rows:#?}"));
                assert_eq!(ends, [Kind::Cancelled], "{run}: {rows:#?}");
                // Nobody who has not seen it records anything after it.
                let blind = rows[at..].iter().filter(|r| {
                    r.flags.has(Flags::HANDLER) && r.epoch <= rows[at].epoch && !r.kind.ends()
                });
                assert_eq!(blind.count(), 0, "{run}: {rows:#?}");
            }
            409 | 410 => {
                assert_eq!((ends, cancelling), (vec![Kind::Completed], None), "{run}: {rows:#?}");
            }
            _ => panic!("{run}: {status} {answer}"),
        }
        *outcomes.entry(word).or_default() += 1;
    }
    eprintln!("{outcomes:?}");
    assert!(outcomes.contains_key("cancelled") && outcomes.contains_key("completed"));
    gateway.close().await;
}
