//! Several nodes on one database behave as one, also while they come and go in order.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};
use crate::load::{Load, all_is_well};
use crate::oracle::Oracle;

async fn waiter() -> Handler {
    Handler::serve(|it| {
        if settled(it, "go") {
            json!({"result": it["steps"]["go"]["value"]})
        } else {
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"},
                           {"op": "callback", "id": "cb"}], "await": "go"})
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_started_on_one_signalled_on_another_and_read_on_a_third() {
    let handler = waiter().await;
    let cluster = Cluster::start(3).await;
    cluster.register(&handler.url, &["waits"]).await;
    cluster.balanced().await;
    for round in 0..6 {
        let [one, two, three] = [round % 3, (round + 1) % 3, (round + 2) % 3];
        let run = cluster.run(one, "waits", &json!({"input": round})).await;
        for node in [one, two, three] {
            cluster.status(node, &run, "waiting").await;
        }
        // Who waits elsewhere hears of the end when it comes.
        let path = format!("/v1/runs/{run}");
        let url = |node: usize, rest: &str| format!("{}{path}{rest}", cluster.nodes[node].url);
        let get = |url: String| cluster.http.get(url).bearer_auth(&cluster.key).send();
        let polls: Vec<_> = [one, two, three]
            .map(|node| tokio::spawn(get(url(node, "?wait=30s"))))
            .into_iter()
            .collect();
        let mut streams = Vec::new();
        for node in [one, two, three] {
            let mut stream = get(url(node, "/stream")).await.expect("a stream").bytes_stream();
            // The first bytes: it listens.
            stream.next().await.expect("it is open").expect("bytes");
            streams.push(stream);
        }
        let begun = Instant::now();
        let body = json!({"payload": {"by": two}});
        let sent = cluster.call(two, "POST", &format!("{path}/signals/go"), Some(&body)).await;
        assert_eq!(sent.0, 202, "{}", sent.1);
        for poll in polls {
            let text = poll.await.expect("no panic").expect("an answer").bytes().await;
            let view: Value = serde_json::from_slice(&text.expect("a body")).expect("JSON");
            assert_eq!(view["output"], json!({"by": two}));
        }
        for stream in streams {
            let text: Vec<u8> =
                stream.map(|b| b.expect("bytes").to_vec()).collect::<Vec<_>>().await.concat();
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(text.contains("event: end"), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let mut journals = Vec::new();
        for node in [one, two, three] {
            let view = cluster.call(node, "GET", &path, None).await;
            assert_eq!((view.0, &view.1["status"]), (200, &json!("completed")));
            journals.push(cluster.call(node, "GET", &format!("{path}/journal"), None).await);
        }
        assert!(journals.windows(2).all(|w| w[0] == w[1]), "{journals:#?}");
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_start_one_key_at_several_nodes_one_creates() {
    let handler = waiter().await;
    let cluster = Cluster::start(3).await;
    cluster.register(&handler.url, &["waits"]).await;
    cluster.balanced().await;
    let path = "/v1/functions/waits/runs";
    let body = json!({"key": "k", "if_running": "use_existing", "input": 1});
    let other = json!({"input": 2});
    let keyed = (0..50).map(|i| cluster.try_call(i % 3, "POST", path, Some(&body), None));
    let idem = (0..50).map(|i| {
        let body = if i % 10 == 9 { &other } else { &json!({"input": 1}) };
        let body = body.clone();
        let cluster = &cluster;
        async move { cluster.try_call(i % 3, "POST", path, Some(&body), Some("same")).await }
    });
    let (keyed, idem) =
        tokio::join!(futures::future::join_all(keyed), futures::future::join_all(idem));
    let mut ids: Vec<String> = Vec::new();
    for answer in keyed {
        let (status, run) = answer.expect("an answer");
        assert_eq!(status, 202, "{run}");
        ids.push(run["id"].to_string());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1, "one key, several runs: {ids:?}");
    // Whichever body came first has the idempotency key.
    let mut created: Vec<String> = Vec::new();
    let mut refused = 0;
    for answer in idem {
        let (status, run) = answer.expect("an answer");
        match status {
            202 => created.push(run["id"].to_string()),
            422 => refused += 1,
            _ => assert_eq!(status, 202, "{run}"),
        }
    }
    created.sort();
    created.dedup();
    assert_eq!(created.len(), 1, "one idempotency key, several runs: {created:?}");
    assert!(refused == 5 || refused == 45, "{refused} of 5 or 45 with another body");
    let (_, runs) = cluster.call(0, "GET", "/v1/runs", None).await;
    assert_eq!(runs["data"].as_array().map(Vec::len), Some(2), "{runs}");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_callbacks_at_several_nodes_settles_the_step() {
    let handler = waiter().await;
    let cluster = Cluster::start(3).await;
    cluster.register(&handler.url, &["waits"]).await;
    cluster.balanced().await;
    for round in 0..8 {
        let run = cluster.run(round % 3, "waits", &json!({})).await;
        cluster.status(0, &run, "waiting").await;
        let calls = handler.invocations();
        let call = calls.iter().rfind(|it| it["run"]["id"] == *run).expect("it was invoked");
        let link: url::Url =
            call["links"]["callback"].as_str().expect("a link").parse().expect("a URL");
        let path = format!("{}cb", link.path());
        let bodies = ["\"a\"", "\"a\"", "\"b\""];
        let sent = (0..9).map(|i| {
            let url = format!("{}{path}", cluster.nodes[i % 3].url);
            let request = cluster.http.post(url).header("content-type", "application/json");
            let body = bodies[i / 3];
            async move { (body, request.body(body).send().await.expect("an answer").status()) }
        });
        let answers = futures::future::join_all(sent).await;
        let rows = cluster.rows(&run).await;
        let taken: Vec<_> = rows.iter().filter(|r| r.step == "cb" && r.kind.settles()).collect();
        assert_eq!(taken.len(), 1, "{rows:#?}");
        let won = taken[0].body.clone().expect("a value");
        for (body, status) in answers {
            // Nobody is told that his is recorded when another's is.
            let expected = if body.as_bytes() == &won[..] { 204 } else { 410 };
            assert_eq!(status.as_u16(), expected, "{body}");
        }
        // Again, and after the end.
        let signal = format!("/v1/runs/{run}/signals/go");
        for (ended, node) in [(false, 1), (true, 2)] {
            let url = format!("{}{path}", cluster.nodes[node].url);
            let again = cluster.http.post(url).header("content-type", "application/json");
            let again = again.body(won.clone()).send().await.expect("an answer");
            assert_eq!(again.status().as_u16(), 204, "ended: {ended}");
            if !ended {
                assert_eq!(cluster.call(0, "POST", &signal, None).await.0, 202);
                cluster.status(0, &run, "completed").await;
            }
        }
    }
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_asked_to_end_hands_over_at_once() {
    let handler = waiter().await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["waits"]).await;
    cluster.balanced().await;
    let mut runs = Vec::new();
    for _ in 0..20 {
        let run = cluster.run(0, "waits", &json!({})).await;
        cluster.status(0, &run, "waiting").await;
        runs.push(run);
    }
    // One exchange stays open: it must not hold up the others, but for those of its own group,
    // which go when the time to drain is over.
    handler.now(|it| match it["run"]["tags"]["slow"].as_str() {
        Some(_) => crate::gateway::Answer::Hang,
        None => json!({"result": it["steps"]["go"]["value"]}).into(),
    });
    cluster.run(0, "waits", &json!({"tags": {"slow": "yes"}})).await;
    let calls = handler.invocations().len();
    cluster.eventually("it hangs", async || handler.invocations().len() >= calls).await;
    let asked = Instant::now();
    cluster.nodes[0].signal("TERM");
    for run in &runs {
        let path = format!("/v1/runs/{run}/signals/go");
        let (status, answer) = cluster.call(1, "POST", &path, Some(&json!({}))).await;
        assert_eq!(status, 202, "{answer}");
    }
    for run in &runs {
        cluster.status(1, run, "completed").await;
    }
    let took = asked.elapsed();
    eprintln!("20 runs went on at another node after {took:?}");
    assert!(cluster.nodes[0].ended().await.success());
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_fails_and_repeats_nothing() {
    let oracle = Oracle::default();
    let handler = oracle.serve().await;
    let mut cluster = Cluster::start(3).await;
    cluster.register(&handler, &["work"]).await;
    let load = Load::begin(&cluster, 4);
    for node in 0..3 {
        let before = load.acked();
        cluster.eventually("there is load", async || load.acked() > before + 30).await;
        cluster.nodes[node].signal("TERM");
        assert!(cluster.nodes[node].ended().await.success(), "node {node} did not end well");
        cluster.nodes[node].start();
        cluster.ready(&cluster.nodes[node].url).await;
    }
    let acked = load.end().await;
    all_is_well(&cluster, &oracle, &acked).await;
    let mut ran = std::collections::HashMap::new();
    for e in oracle.executions() {
        *ran.entry((e.run, e.step)).or_insert(0) += 1;
    }
    ran.retain(|_, times| *times > 1);
    assert!(ran.is_empty(), "steps that ran twice: {ran:?}");
}
