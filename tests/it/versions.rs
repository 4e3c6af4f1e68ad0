//! Versions that outlive deploys: who needs which deployment, moving runs, draining, pruning.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler, settled};

/// Waits for one signal after another, then tells on which deployment it ended.
fn two_signals(it: &Value) -> Value {
    for step in ["one", "two"] {
        if !settled(it, step) {
            return json!({"ops": [{"op": "signal", "id": step, "name": step}], "await": step});
        }
    }
    json!({"result": it["run"]["deployment"]})
}

fn id(registered: &Value) -> String {
    registered["deployment"]["id"].as_str().expect("an id").to_owned()
}

fn functions() -> Value {
    json!(["latest", {"name": "stays", "versioning": "pinned"}])
}

/// What the list of deployments says of one: live, pinned, and whether it is drained.
async fn on(g: &Gateway, dep: &str) -> (u64, u64, bool) {
    let listed = g.get("/v1/endpoints/test/deployments").await;
    let all = listed["data"].as_array().expect("a list");
    let it = all.iter().find(|d| d["id"] == dep).unwrap_or_else(|| panic!("{dep} in {listed}"));
    let count = |of: &str| it["runs"][of].as_u64().expect("a number");
    (count("live"), count("pinned"), it["drained"] == true)
}

/// Waits until it says this.
async fn until(g: &Gateway, dep: &str, expected: (u64, u64, bool)) {
    g.eventually(&format!("{expected:?}"), async |g| on(g, dep).await == expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_drained_run_by_run_and_pruned() {
    let g = Gateway::start().await;
    let handler = Handler::serve(two_signals).await;
    let first = id(&g.register(&handler, functions()).await);
    let ended = g.run("latest", json!({})).await;
    for name in ["one", "two"] {
        g.signal(&ended, name, json!(1)).await;
    }
    g.status(&ended, "completed").await;
    let latest = g.run("latest", json!({})).await;
    let stays = g.run("stays", json!({})).await;
    let later = g.run("stays", json!({"delay": "7d"})).await;
    for run in [&latest, &stays] {
        g.status(run, "waiting").await;
    }
    until(&g, &first, (3, 1, false)).await;

    let new = Handler::serve(two_signals).await;
    let second = id(&g.register(&new, functions()).await);
    assert_eq!(on(&g, &first).await, (3, 1, false), "one of three stays: the others go on anyway");
    assert_eq!(g.post("/v1/endpoints/test/prune", json!({})).await, json!({"pruned": []}));
    g.signal(&latest, "one", json!(1)).await;
    until(&g, &first, (2, 1, false)).await;
    assert_eq!(on(&g, &second).await, (1, 0, false));
    // It left memory while it waited, and was taken up anew on the new one.
    let taken_up = g.happened(&latest, "run.claimed").await.len();
    assert!(taken_up + g.happened(&latest, "run.moved").await.len() > 0);

    let path = format!("/v1/endpoints/test/deployments/{first}/repin");
    let told = g.post(&path, json!({"reason": "end of life"})).await;
    assert_eq!(told, json!({"moved": 1, "left": 0}));
    let view = g.get(&format!("/v1/runs/{stays}")).await;
    assert_eq!((&view["deployment"], &view["status"]), (&json!(second), &json!("waiting")));
    let history = g.happened(&stays, "run.repinned").await;
    assert_eq!(history[0]["data"]["reason"], "end of life", "{history:?}");
    until(&g, &first, (1, 0, true)).await;
    assert_eq!(g.post("/v1/endpoints/test/prune", json!({})).await, json!({"pruned": [first]}));
    let listed = g.get("/v1/endpoints/test/deployments").await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");

    // What ended there still says so, and can be found by it; nothing can be put there.
    assert_eq!(g.get(&format!("/v1/runs/{ended}")).await["deployment"], json!(first));
    let found = g.get(&format!("/v1/runs?deployment={first}&status=completed")).await;
    assert_eq!(found["data"][0]["id"], json!(ended), "{found}");
    let back = json!({"deployment": first});
    let refused = g.refused("POST", &format!("/v1/runs/{stays}/repin"), Some(back)).await;
    assert_eq!((refused.0, &*refused.1), (404, "deployment-not-found"));

    // Nobody is lost by it: neither who moved nor who is yet to begin.
    let calls = handler.count();
    g.signal(&stays, "one", json!(1)).await;
    g.advance(Duration::from_secs(7 * 86_400));
    g.status(&later, "waiting").await;
    for run in [&stays, &later, &latest] {
        for name in ["one", "two"] {
            g.signal(run, name, json!(1)).await;
        }
        assert_eq!(g.status(run, "completed").await["output"], json!(second));
    }
    assert_eq!(handler.count(), calls, "the old handler is not called any more");
    // The old content again is the old deployment again.
    assert_eq!(id(&g.register(&handler, functions()).await), first);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_put_on_another_deployment_and_what_is_in_force_there_is_in_force() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if !settled(it, "one") {
            return two_signals(it);
        }
        if settled(it, "work") {
            return json!({"result": it["steps"]["work"]["error"]["type"]});
        }
        json!({"ops": [{"op": "run", "id": "work", "error": {"type": "Boom"}}], "await": "work"})
    })
    .await;
    let pinned = |attempts: u32| json!([{"name": "f", "versioning": "pinned", "retry": {"max_attempts": attempts}}]);
    let first = id(&g.register(&handler, pinned(10)).await);
    let run = g.run("f", json!({})).await;
    let other = g.run("f", json!({})).await;
    for run in [&run, &other] {
        g.status(run, "waiting").await;
    }
    let second = id(&g.register(&handler, pinned(1)).await);
    let path = format!("/v1/runs/{run}/repin");
    let absent = json!({"deployment": "dep_01k9c3v5h2e8x8p0m4s6t7w9yz"});
    assert_eq!(&*g.refused("POST", &path, Some(absent)).await.1, "deployment-not-found");
    let (status, _, problem) = g.refused("POST", &path, Some(json!({"to": second}))).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("#/to")), "{problem}");
    let view = g.post(&path, json!({})).await;
    assert_eq!(view["deployment"], json!(second), "the newest, at once");
    for run in [&run, &other] {
        g.signal(run, "one", json!(1)).await;
    }
    // One attempt there, ten here.
    assert_eq!(g.status(&run, "completed").await["output"], "Boom");
    assert_eq!(g.status(&other, "retrying").await["deployment"], json!(first));
    let (status, code, _) = g.refused("POST", &path, None).await;
    assert_eq!((status, &*code), (409, "invalid-state"), "it has ended");

    // It waits for an attempt on the old one when it is moved: the next failure is the last.
    g.post(&format!("/v1/runs/{other}/repin"), json!({"deployment": second})).await;
    g.post(&format!("/v1/runs/{other}/retry-now"), json!({})).await;
    assert_eq!(g.status(&other, "completed").await["output"], "Boom");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_endpoint_starts_nothing_and_lets_what_lives_go_on() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") if !settled(it, "one") => two_signals(it),
        Some("parent") if !settled(it, "child") => {
            json!({"ops": [{"op": "invoke", "id": "child", "function": "child"}], "await": "child"})
        }
        Some("parent") => json!({"result": it["steps"]["child"]["value"]}),
        _ => json!({"result": "a child"}),
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({"key": "k"})).await;
    g.status(&run, "waiting").await;
    let starts = "/v1/functions/parent/runs";
    let once = [("idempotency-key", "once")];
    let body = json!({"input": 1}).to_string();
    let (_, _, before) = g.raw("POST", starts, &once, Some(body.clone())).await;

    let endpoint = g.post("/v1/endpoints/test/drain", json!({})).await;
    assert_eq!((&endpoint["draining"], &endpoint["state"]), (&json!(true), &json!("healthy")));
    let (status, code, problem) = g.refused("POST", starts, Some(json!({}))).await;
    assert_eq!((status, &*code), (409, "endpoint-draining"), "{problem}");
    assert_eq!(problem["endpoint"], "test");
    // What is there already is found: the repeat of a request, and the run that has the key.
    let (status, _, again) = g.raw("POST", starts, &once, Some(body)).await;
    let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON")["id"].clone();
    assert_eq!((status, parsed(&again)), (202, parsed(&before)));
    let held =
        json!({"key": "k", "if_running": "use_existing", "signal": {"name": "one", "payload": 1}});
    assert_eq!(g.post(starts, held).await["id"], json!(run));
    let free = json!({"key": "other", "if_running": "use_existing"});
    assert_eq!(&*g.refused("POST", starts, Some(free)).await.1, "endpoint-draining");
    // It was signalled so, and needs a child: that is not a new run of a customer.
    assert_eq!(g.status(&run, "completed").await["output"], "a child");

    let endpoint = g.post("/v1/endpoints/test/enable", json!({})).await;
    assert_eq!(endpoint["draining"], json!(false));
    g.run("child", json!({})).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_changed_field_by_field() {
    let g = Gateway::start().await;
    let handler = Handler::serve(two_signals).await;
    let body = json!({"name": "shop", "url": handler.url, "functions": [{"name": "f"}],
        "discover": false, "headers": {"X-Team": "a", "Authorization": "Bearer hush"}});
    let made = g.post("/v1/endpoints", body).await;
    g.post("/v1/endpoints", json!({"name": "mail", "url": handler.url, "functions": [{"name": "m"}], "discover": false})).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    let path = "/v1/endpoints/shop";
    let patch = async |headers: &[(&str, &str)], body: Value| {
        let (status, headers, text) = g.raw("PATCH", path, headers, Some(body.to_string())).await;
        let body: Value = serde_json::from_slice(&text).expect("JSON");
        (status, headers, body)
    };
    let (status, _, problem) = patch(&[("if-match", "\"99\"")], json!({"name": "x"})).await;
    assert_eq!((status, &problem["code"]), (412, &json!("precondition-failed")));
    for (body, pointer) in [
        (json!({"nmae": "x"}), "#/nmae"),
        (json!({"name": "mail"}), "#/name"),
        (json!({"url": "ftp://x"}), "#/url"),
        (json!({"headers": {"webhook-id": "x"}}), "#/headers"),
        (json!({"headers": {"a b": "x"}}), "#/headers"),
    ] {
        let (status, _, problem) = patch(&[], body.clone()).await;
        assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
    }

    // Headers: one is set, one is taken away, the other stays.
    let change = json!({"headers": {"X-Team": null, "x-stage": "live"}});
    let (status, headers, endpoint) = patch(&[("if-match", "\"1\"")], change).await;
    assert_eq!(status, 200, "{endpoint}");
    assert_eq!(headers["etag"], "\"2\"");
    let mut names = endpoint["headers"].as_array().expect("names").clone();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, ["authorization", "x-stage"]);
    assert_eq!(endpoint["deployment"], made["deployment"]["id"], "no new deployment");
    let (_, headers, _) = patch(&[], json!({})).await;
    assert_eq!(headers["etag"], "\"2\"", "nothing is no change");

    // The handler has moved: what waits there goes on there.
    let moved = Handler::serve(two_signals).await;
    let calls = handler.count();
    let (_, _, endpoint) = patch(&[], json!({"url": moved.url})).await;
    assert_eq!((&endpoint["url"], &endpoint["functions"]), (&json!(moved.url), &json!(["f"])));
    assert_ne!(endpoint["deployment"], made["deployment"]["id"]);
    g.signal(&run, "one", json!(1)).await;
    let (headers, _) = {
        g.eventually("it is called there", async |_| moved.count() == 1).await;
        moved.requests().pop().expect("one")
    };
    assert_eq!(headers["authorization"], "Bearer hush");
    assert_eq!(
        (&headers["x-stage"], headers.get("x-team")),
        (&"live".parse().expect("a value"), None)
    );
    assert_eq!(handler.count(), calls);

    let (_, _, endpoint) = patch(&[], json!({"name": "store"})).await;
    assert_eq!(endpoint["name"], "store");
    assert_eq!(g.get("/v1/endpoints/store").await["id"], made["endpoint"]["id"]);
    assert_eq!(g.refused("GET", path, None).await.0, 404);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_endpoint_lets_go_of_runs_that_stay_though_their_function_has_moved() {
    let g = Gateway::start().await;
    let (old, new) = (Handler::serve(two_signals).await, Handler::serve(two_signals).await);
    g.register(&old, functions()).await;
    let run = g.run("stays", json!({})).await;
    let latest = g.run("latest", json!({})).await;
    for run in [&run, &latest] {
        g.status(run, "waiting").await;
    }
    let heir = json!({"name": "heir", "url": new.url, "functions": functions_as_objects(), "discover": false});
    let second = id(&g.post("/v1/endpoints", heir).await);
    let path = "/v1/endpoints/test";
    let (status, code, problem) = g.refused("DELETE", path, None).await;
    assert_eq!((status, &*code), (409, "endpoint-in-use"));
    assert_eq!(problem["runs"], json!([run]), "the other one goes on at its function's new host");
    assert_eq!(g.raw("DELETE", &format!("{path}?runs=repin"), &[], None).await.0, 204);
    for run in [&run, &latest] {
        for name in ["one", "two"] {
            g.signal(run, name, json!(1)).await;
        }
        assert_eq!(g.status(run, "completed").await["output"], json!(second));
    }
    assert_eq!(g.happened(&run, "run.repinned").await.len(), 1);
    g.close().await;
}

fn functions_as_objects() -> Value {
    json!([{"name": "latest"}, {"name": "stays", "versioning": "pinned"}])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_deployment_is_gone_says_so_and_is_moved() {
    let g = Gateway::start().await;
    let (old, new) = (Handler::serve(two_signals).await, Handler::serve(two_signals).await);
    let first = id(&g.register(&old, functions()).await);
    let run = g.run("latest", json!({"version": first})).await;
    g.status(&run, "waiting").await;
    let heir = json!({"name": "heir", "url": new.url, "functions": functions_as_objects(), "discover": false});
    g.post("/v1/endpoints", heir).await;
    assert_eq!(g.raw("DELETE", "/v1/endpoints/test?runs=park", &[], None).await.0, 204);
    g.signal(&run, "one", json!(1)).await;
    let view = g.status(&run, "parked").await;
    assert_eq!(view["attention"]["code"], "deployment-gone", "{view}");
    assert_eq!(view["deployment"], json!(first));
    g.post(&format!("/v1/runs/{run}/repin"), json!({})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "two", json!(1)).await;
    g.status(&run, "completed").await;
    g.close().await;
}

/// The counts of a deployment as a node tells them: live and pinned.
async fn counts(cluster: &Cluster, node: usize, dep: &str) -> Option<(u64, u64)> {
    let path = "/v1/endpoints/test/deployments";
    let (_, listed) = cluster.try_call(node, "GET", path, None, None).await?;
    let it = listed["data"].as_array()?.iter().find(|d| d["id"] == dep)?.clone();
    Some((it["runs"]["live"].as_u64()?, it["runs"]["pinned"].as_u64()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_move_while_the_node_that_moves_them_dies() {
    const RUNS: usize = 60;
    let (old, new) = (Handler::serve(two_signals).await, Handler::serve(two_signals).await);
    let mut cluster = Cluster::start(2).await;
    cluster.balanced().await;
    let functions = json!([{"name": "stays", "versioning": "pinned"}]);
    let register = async |node: usize, url: &str| {
        let body = json!({"name": "test", "url": url, "functions": functions, "discover": false});
        let (status, made) = cluster.call(node, "POST", "/v1/endpoints", Some(&body)).await;
        assert!(status < 300, "{made}");
        id(&made)
    };
    let first = register(0, &old.url).await;
    let mut runs = Vec::new();
    for i in 0..RUNS {
        runs.push(cluster.run(i % 2, "stays", &json!({})).await);
    }
    for run in &runs {
        cluster.status(0, run, "waiting").await;
    }
    let second = register(1, &new.url).await;
    for node in 0..2 {
        let all = Some((RUNS as u64, RUNS as u64));
        cluster
            .eventually("both nodes count the same", async || {
                counts(&cluster, node, &first).await == all
                    && counts(&cluster, node, &second).await == Some((0, 0))
            })
            .await;
    }
    let calls = old.count();

    // The node that is asked is killed before it can answer; the other is asked again.
    let path = format!("/v1/endpoints/test/deployments/{first}/repin");
    let body = json!({"deployment": second});
    {
        let asked = cluster.try_call(0, "POST", &path, Some(&body), None);
        tokio::pin!(asked);
        tokio::select! {
            _ = &mut asked => {}
            () = async {
                let some_moved = async || {
                    let left = counts(&cluster, 1, &first).await;
                    left.is_some_and(|(_, pinned)| pinned < RUNS as u64)
                };
                cluster.eventually("the first has moved", some_moved).await;
            } => {}
        }
    }
    cluster.nodes[0].kill();
    cluster
        .eventually("all have moved", async || {
            let told = cluster.try_call(1, "POST", &path, Some(&body), None).await;
            told.is_some_and(|(status, told)| status == 200 && told["left"] == 0)
        })
        .await;
    assert_eq!(counts(&cluster, 1, &second).await, Some((RUNS as u64, RUNS as u64)));
    let (_, pruned) = cluster.call(1, "POST", "/v1/endpoints/test/prune", None).await;
    assert_eq!(pruned, json!({"pruned": [first]}));
    for run in &runs {
        for name in ["one", "two"] {
            let path = format!("/v1/runs/{run}/signals/{name}");
            cluster
                .eventually("it is signalled", async || {
                    let told = cluster.try_call(1, "POST", &path, Some(&json!({})), None).await;
                    told.is_some_and(|(status, _)| status == 202)
                })
                .await;
        }
    }
    for run in &runs {
        assert_eq!(cluster.status(1, run, "completed").await["output"], json!(second));
    }
    assert_eq!(old.count(), calls, "the old handler could have been switched off");
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
