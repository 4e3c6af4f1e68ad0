//! Locks: runs that have several objects at once, and change all of them or none.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler, settled};

/// Accounts, and a transfer that has both of its own.
fn bank() -> Value {
    json!([{"name": "account", "kind": "object"}, {"name": "transfer", "locks": [
        {"object": "account", "key": "input.from"}, {"object": "account", "key": "input.to"},
    ]}])
}

fn set(key: &Value, value: impl Into<Value>) -> Value {
    let object = json!({"function": "account", "key": key});
    json!({"op": "set", "object": object, "key": "balance", "value": value.into()})
}

/// What a transfer has to do: an account alone takes its input.
fn moves(it: &Value) -> Value {
    let balance = |state: &Value| state["balance"].as_i64().unwrap_or(0);
    if it["function"] == "account" {
        let after = balance(&it["object"]["state"]) + it["input"].as_i64().expect("an amount");
        return json!({"ops": [{"op": "set", "key": "balance", "value": after}], "result": after});
    }
    let (from, to) = (&it["objects"][0], &it["objects"][1]);
    let amount = it["input"]["amount"].as_i64().expect("an amount");
    let left = balance(&from["state"]) - amount;
    if left < 0 {
        let missing = json!({"type": "NotEnough", "message": "no", "retry": "never"});
        return json!({"ops": [set(&from["key"], left)], "error": missing});
    }
    let ops = [set(&from["key"], left), set(&to["key"], balance(&to["state"]) + amount)];
    json!({"ops": ops, "result": it["objects"]})
}

fn transfer(from: &str, to: &str, amount: i64) -> Value {
    json!({"input": {"from": from, "to": to, "amount": amount}})
}

async fn account(g: &Gateway, key: &str) -> Value {
    g.get(&format!("/v1/objects/account/{key}")).await
}

async fn balances(g: &Gateway, keys: &[&str]) -> Vec<Value> {
    let mut all = Vec::new();
    for key in keys {
        all.push(account(g, key).await["state"]["balance"].clone());
    }
    all
}

// P8.17, P8.18, P8.19
#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_all_of_its_objects_and_changes_all_or_none() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(1));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| Answer::held(&held, moves(it))).await;
    g.register(&handler, bank()).await;
    let filled = g.run("account", json!({"input": 100, "key": "ann"})).await;
    g.status(&filled, "completed").await;
    // The first has both; whoever wants one of them waits behind it, in the order of their starts.
    let first = g.run("transfer", transfer("ann", "bob", 30)).await;
    g.invoked(&handler, 2).await;
    let back = g.run("transfer", transfer("bob", "ann", 10)).await;
    let alone = g.run("account", json!({"input": 5, "key": "bob"})).await;
    let other = g.run("transfer", transfer("bob", "cy", 1)).await;
    for run in [&back, &alone, &other] {
        let view = g.status(run, "queued").await;
        assert_eq!(view["attention"]["code"], "object-busy", "{view}");
    }
    let detail = g.get(&format!("/v1/runs/{back}")).await["attention"]["detail"].clone();
    let detail = detail.as_str().expect("text");
    assert!(detail.contains(&first) && detail.contains("`account` `bob`"), "{detail}");
    let view = account(&g, "bob").await;
    assert_eq!((&view["holder"], &view["waiting"]), (&json!(first), &json!(3)), "{view}");
    assert_eq!(view["state"], json!({}), "nobody sees what is not published");
    let cy = account(&g, "cy").await;
    assert_eq!((&cy["holder"], &cy["waiting"]), (&json!(other), &json!(0)), "free, so taken");
    assert_eq!(handler.count(), 2);
    gate.add_permits(100);
    let shown = g.status(&first, "completed").await["output"].clone();
    let at = |key: &str, state: Value| json!({"function": "account", "key": key, "state": state});
    assert_eq!(shown, json!([at("ann", json!({"balance": 100})), at("bob", json!({}))]));
    for run in [&back, &alone, &other] {
        g.status(run, "completed").await;
    }
    assert_eq!(g.get(&format!("/v1/runs/{alone}")).await["output"], 25, "30 - 10 + 5: in order");
    assert_eq!(balances(&g, &["ann", "bob", "cy"]).await, [80, 24, 1]);
    // An end without a result publishes nothing, of neither.
    let poor = g.run("transfer", transfer("cy", "ann", 7)).await;
    g.status(&poor, "failed").await;
    assert_eq!(balances(&g, &["ann", "bob", "cy"]).await, [80, 24, 1]);
    let rewind = format!("/v1/runs/{poor}/rewind");
    assert_eq!(g.refused("POST", &rewind, Some(json!({}))).await.1, "invalid-state");
    for key in ["ann", "bob", "cy"] {
        let view = account(&g, key).await;
        assert_eq!((&view["holder"], &view["waiting"]), (&json!(null), &json!(0)), "{view}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_in_both_directions_end_and_keep_the_sum() {
    let g = Gateway::start().await;
    let handler = Handler::serve(moves).await;
    g.register(&handler, bank()).await;
    let names = ["a", "b", "c", "d"];
    for key in names {
        let filled = g.run("account", json!({"input": 1_000, "key": key})).await;
        g.status(&filled, "completed").await;
    }
    let starts = (0..60).map(|n: usize| {
        let (from, to) = (names[n % 4], names[(n + 1 + n / 4 % 3) % 4]);
        let (from, to) = if n.is_multiple_of(2) { (from, to) } else { (to, from) };
        let g = &g;
        async move { g.run("transfer", transfer(from, to, 1 + i64::from(n as u8))).await }
    });
    let runs = futures::future::join_all(starts).await;
    for run in &runs {
        g.status(run, "completed").await;
    }
    let sum: i64 = balances(&g, &names).await.iter().map(|b| b.as_i64().expect("a number")).sum();
    assert_eq!(sum, 4_000);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_while_it_waits_lets_go_of_what_it_has() {
    let g = Gateway::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = Handler::serve(move |it| {
        let fails = it["input"]["amount"] == 0 && it["invocation"]["reason"] == "start";
        let never = json!({"type": "No", "message": "m", "retry": "never"});
        let answer = if fails { json!({"error": never}) } else { moves(it) };
        if it["input"]["amount"] == 0 { answer.into() } else { Answer::held(&held, answer) }
    })
    .await;
    g.register(&handler, bank()).await;
    let failed = g.run("transfer", transfer("x", "y", 0)).await;
    g.status(&failed, "failed").await;
    let holds = g.run("account", json!({"input": 1, "key": "b"})).await;
    g.invoked(&handler, 2).await;
    let brief = json!({"input": {"from": "a", "to": "b", "amount": 0}, "timeouts": {"run": "20s"}});
    let brief = g.run("transfer", brief).await;
    g.status(&brief, "queued").await;
    assert_eq!(account(&g, "a").await["holder"], brief, "it has what is free");
    let next = g.run("transfer", transfer("a", "c", 0)).await;
    g.status(&next, "queued").await;
    g.advance(Duration::from_secs(21));
    g.status(&brief, "timed_out").await;
    // The next was invoked: it has both. It fails at first, and may be done again as it has changed nothing.
    g.status(&next, "failed").await;
    assert_eq!(account(&g, "b").await["waiting"], 0);
    let cancelled = g.run("transfer", transfer("b", "d", 0)).await;
    g.status(&cancelled, "queued").await;
    g.post(&format!("/v1/runs/{cancelled}/cancel"), json!({})).await;
    g.status(&cancelled, "cancelled").await;
    assert_eq!(account(&g, "d").await["holder"], json!(null));
    // Rewound, a run has its objects again: if nobody else has.
    let taken = g.run("account", json!({"input": 1, "key": "y"})).await;
    g.invoked(&handler, 4).await;
    let rewind = format!("/v1/runs/{failed}/rewind");
    let (status, code, problem) = g.refused("POST", &rewind, Some(json!({}))).await;
    assert_eq!((status, code.as_str()), (409, "run-exists"), "{problem}");
    gate.add_permits(10);
    for run in [&holds, &taken] {
        g.status(run, "completed").await;
    }
    g.post(&rewind, json!({})).await;
    g.status(&failed, "completed").await;
    assert_eq!(balances(&g, &["x", "y"]).await, [0, 1]);
    let view = account(&g, "y").await;
    assert_eq!((&view["holder"], &view["waiting"]), (&json!(null), &json!(0)), "{view}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_locks_and_a_continued_run_keeps_what_it_has() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let (function, input) = (it["function"].as_str(), &it["input"]);
        match function {
            Some("parent") if !settled(it, "moved") => json!({"ops": [
                {"op": "invoke", "id": "moved", "function": "keeps", "input": {"both": ["p", 7, "p"]}},
                {"op": "invoke", "id": "no", "function": "keeps", "input": {}},
            ], "await": {"settled": ["moved", "no"]}}),
            Some("parent") => json!({"result": it["steps"]}),
            Some("keeps") if input["both"].is_array() => {
                let ops = it["objects"].as_array().expect("locks").iter();
                let ops: Vec<Value> = ops.map(|o| set(&o["key"], 1)).collect();
                json!({"ops": ops, "continue": {"input": {"next": true}}})
            }
            Some("keeps") if !settled(it, "go") => {
                json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
            }
            _ => json!({"result": it["objects"]}),
        }
    })
    .await;
    let locks = json!([{"object": "account", "key": "input.both"}]);
    let functions =
        json!([{"name": "account", "kind": "object"}, "parent", {"name": "keeps", "locks": locks}]);
    g.register(&handler, functions).await;
    let parent = g.run("parent", json!({})).await;
    g.eventually("the end of a generation publishes", async |g| {
        balances(g, &["p", "7"]).await == [1, 1]
    })
    .await;
    let child = account(&g, "p").await["holder"].clone();
    assert_eq!(account(&g, "7").await["holder"], child, "they are its own still");
    g.status(child.as_str().expect("an id"), "waiting").await;
    g.signal(child.as_str().expect("an id"), "go", json!(null)).await;
    let steps = g.status(&parent, "completed").await["output"].clone();
    let keys: Vec<&Value> =
        steps["moved"]["value"].as_array().expect("objects").iter().map(|o| &o["key"]).collect();
    assert_eq!(keys, ["p", "7"], "each once");
    assert_eq!(steps["no"]["error"]["type"], "start-refused", "{steps}");
    assert_eq!(account(&g, "p").await["holder"], json!(null));
    g.close().await;
}

// P8.17, P8.19, P8.20
#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_rules_of_locks_is_refused_by_name() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let mut op = it["input"]["op"].clone();
        op["id"] = it["input"]["id"].clone();
        if op["id"].is_null() {
            op.as_object_mut().expect("an op").remove("id");
        }
        json!({"ops": [op], "result": 1})
    })
    .await;
    let mut functions = bank();
    functions.as_array_mut().expect("a list").push(json!("plain"));
    g.register(&handler, functions).await;
    for (body, pointer, said) in [
        (json!({"input": {"from": "a"}}), "#/input", "input.to"),
        (json!({"input": {"from": "a", "to": {"k": 1}}}), "#/input", "input.to"),
        (json!({"input": {"from": "a", "to": "b"}, "delay": "1s"}), "#/start_at", "turns"),
    ] {
        let (status, code, problem) =
            g.refused("POST", "/v1/functions/transfer/runs", Some(body)).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        assert!(problem.to_string().contains(said), "{problem}");
    }
    let foreign =
        json!({"op": "set", "object": {"function": "account", "key": "z"}, "key": "f", "value": 1});
    let nobodys = json!({"op": "unset", "key": "f"});
    let child = json!({"op": "invoke", "function": "account", "key": "b", "input": 1});
    let mut detached = child.clone();
    detached["detach"] = json!(true);
    for (function, op, id, code) in [
        ("transfer", &foreign, json!(null), Some("no-object")),
        ("transfer", &nobodys, json!(null), Some("no-object")),
        ("plain", &foreign, json!(null), Some("no-object")),
        ("transfer", &child, json!("c"), Some("object-circle")),
        ("transfer", &detached, json!("c"), None),
    ] {
        let input = json!({"from": "a", "to": "b", "op": op, "id": id});
        let run = g.run(function, json!({"input": input})).await;
        let Some(code) = code else {
            g.status(&run, "completed").await;
            continue;
        };
        let attention = g.status(&run, "paused").await["attention"].clone();
        assert_eq!(attention["code"], code, "{attention}");
        let detail = attention["detail"].as_str().expect("text");
        assert!(detail.contains("Nothing of"), "{detail}");
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        g.status(&run, "terminated").await;
    }
    let lock = |object: &str| json!([{"object": object, "key": "input.k"}]);
    for (function, field) in [
        (json!({"name": "f", "kind": "object", "locks": lock("account")}), "locks"),
        (json!({"name": "f", "locks": [{"object": "account", "key": "k"}]}), "locks"),
        (json!({"name": "f", "locks": lock("account"), "debounce": {"period": "1s"}}), "locks"),
    ] {
        let body = json!({"name": "no", "url": handler.url, "functions": [function]});
        let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(body)).await;
        assert_eq!(status, 422, "{problem}");
        let pointer = problem["errors"][0]["pointer"].as_str().expect("a pointer");
        assert!(pointer.ends_with(field), "{problem}");
    }
    // What has no objects cannot be locked.
    let locks = json!([{"name": "wrong", "locks": lock("plain")}, {"name": "unknown", "locks": lock("nowhere")}]);
    let second = Handler::serve(|_| json!({"result": 1})).await;
    let body = json!({"name": "second", "url": second.url, "functions": locks, "discover": false});
    g.post("/v1/endpoints", body).await;
    for (function, code) in [("wrong", "not-an-object"), ("unknown", "function-not-found")] {
        let path = format!("/v1/functions/{function}/runs");
        let (status, got, problem) =
            g.refused("POST", &path, Some(json!({"input": {"k": "x"}}))).await;
        assert_eq!((status, got.as_str()), (404, code), "{problem}");
    }
    g.close().await;
}
