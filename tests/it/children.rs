//! What runs ask of other runs: children, signals, cancels, scopes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

const SECOND: Duration = Duration::from_secs(1);

/// The entry of a step in a journal.
fn entry<'a>(journal: &'a [Value], id: &str) -> &'a Value {
    journal.iter().find(|e| e["id"] == id).unwrap_or_else(|| panic!("no {id} in {journal:?}"))
}

/// Asks for `op` as step `ask`, waits for it, and ends with what it came to.
fn asks(it: &Value, op: &Value) -> Value {
    let mut op = op.clone();
    op["id"] = json!("ask");
    if settled(it, "ask") {
        json!({"result": it["steps"]["ask"]})
    } else {
        json!({"ops": [op], "await": {"settled": ["ask"]}})
    }
}

// P5.13, P5.27
#[tokio::test(flavor = "multi_thread")]
async fn a_childs_end_is_its_parents_step() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") => asks(
            it,
            &json!({"op": "invoke", "function": "child", "input": it["input"], "tags": {"a": "b"}}),
        ),
        _ if it["input"] == "fail" => {
            json!({"error": {"type": "Broke", "message": "m", "data": {"k": 1.0}}})
        }
        _ => json!({"result": {"of": it["input"], "parent": it["run"]["parent"]}}),
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({"input": 7})).await;
    let step = g.status(&run, "completed").await["output"].clone();
    assert_eq!((&step["op"], &step["seq"]), (&json!("invoke"), &json!(1)), "{step}");
    let parent = json!({"run": run, "step": "ask"});
    assert_eq!(step["value"], json!({"of": 7, "parent": parent}));
    let children = g.get(&format!("/v1/runs?parent={run}")).await["data"].clone();
    assert_eq!(children.as_array().map(Vec::len), Some(1), "{children}");
    let child = &children[0];
    assert_eq!((&child["function"], &child["parent"]), (&json!("child"), &json!(run)));
    assert_eq!(child["tags"], json!({"a": "b"}));
    let id = child["id"].as_str().expect("an id");
    assert_eq!(g.get(&format!("/v1/runs/{id}")).await["parent"], json!(run));

    let run = g.run("parent", json!({"input": "fail"})).await;
    let step = g.status(&run, "completed").await["output"].clone();
    let error = json!({"type": "Broke", "message": "m", "data": {"k": 1.0}, "attempts": 1});
    assert_eq!(step["error"], error);
    g.close().await;
}

// P5.25, P5.27
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_child_is_told_by_its_kind() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") => asks(it, &json!({"op": "invoke", "function": it["input"]})),
        _ => json!({"ops": [{"op": "sleep", "id": "z", "for": "30d"}], "await": "z"}),
    })
    .await;
    let brief = json!({"name": "brief", "timeouts": {"run": "20s"}});
    g.register(&handler, json!(["parent", "child", brief])).await;
    for (function, act, kind) in [
        ("child", Some("cancel"), "run-cancelled"),
        ("child", Some("terminate"), "run-terminated"),
        ("brief", None, "run-timed-out"),
        ("nobody", None, "function-not-found"),
    ] {
        let run = g.run("parent", json!({"input": function})).await;
        if function != "nobody" {
            g.eventually("the child waits", async |g| {
                let page = g.get(&format!("/v1/runs?parent={run}")).await;
                let Some(child) = page["data"][0]["id"].as_str().map(str::to_owned) else {
                    return false;
                };
                if g.get(&format!("/v1/runs/{child}")).await["status"] != "waiting" {
                    return false;
                }
                match act {
                    Some(act) => drop(g.post(&format!("/v1/runs/{child}/{act}"), json!({})).await),
                    None => g.advance(21 * SECOND),
                }
                true
            })
            .await;
            if act == Some("cancel") {
                g.advance(61 * SECOND);
            }
        }
        let step = g.status(&run, "completed").await["output"].clone();
        assert_eq!(step["error"]["type"], kind, "{step}");
    }
    g.close().await;
}

// P5.26, P5.46, P5.47
#[tokio::test(flavor = "multi_thread")]
async fn a_parents_end_reaches_its_children() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") if it["cancel"].is_null() => json!({"ops": [
            {"op": "invoke", "id": "mine", "function": "child", "input": "mine"},
            {"op": "invoke", "id": "own", "function": "child", "input": "own",
             "on_parent_close": "abandon"},
            {"op": "invoke", "id": "free", "function": "child", "input": "free", "detach": true},
        ], "await": "mine"}),
        Some("parent") => json!({"result": "compensated"}),
        _ if it["cancel"].is_null() => {
            json!({"ops": [{"op": "sleep", "id": "z", "for": "1h"}], "await": "z"})
        }
        _ => json!({"result": it["cancel"]["reason"]}),
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({})).await;
    let children = async |g: &Gateway| -> Vec<(String, String, String)> {
        let page = g.get(&format!("/v1/runs?parent={run}")).await;
        let mut found = Vec::new();
        for child in page["data"].as_array().expect("a list") {
            let id = child["id"].as_str().expect("an id");
            let view = g.get(&format!("/v1/runs/{id}")).await;
            let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            found.push((word(&view["input"]), word(&view["status"]), id.to_owned()));
        }
        found.sort();
        found
    };
    g.eventually("all children wait", async |g| {
        let all = children(g).await;
        all.len() == 3 && all.iter().all(|c| c.1 == "waiting")
    })
    .await;
    let free = entry(&g.journal(&run).await, "free").clone();
    let ids = children(&g).await;
    assert_eq!(free["value"], json!(ids[0].2), "a detached child's step is its id at once");
    g.post(&format!("/v1/runs/{run}/cancel"), json!({})).await;
    g.status(&run, "cancelled").await;
    g.eventually("the child is cancelled", async |g| children(g).await[1].1 == "cancelled").await;
    let now: Vec<String> = children(&g).await.into_iter().map(|c| c.1).collect();
    assert_eq!(now, ["waiting", "cancelled", "waiting"], "free, mine, own");
    // What the child came to is of no use to its parent any more, and is not lost without a trace.
    g.eventually("it is known to be late", async |g| {
        !g.happened(&run, "message.late").await.is_empty()
    })
    .await;
    g.close().await;
}

// P5.48
#[tokio::test(flavor = "multi_thread")]
async fn a_child_with_a_key_follows_if_running() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") => {
            let mut op = it["input"].clone();
            op["op"] = json!("invoke");
            op["function"] = json!("child");
            op["key"] = json!("k");
            asks(it, &op)
        }
        _ if it["input"] == "quick" || !it["cancel"].is_null() => json!({"result": "done"}),
        _ => json!({"ops": [{"op": "signal", "id": "s", "name": "go"}], "await": "s"}),
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let holder = g.run("child", json!({"key": "k", "input": "slow"})).await;
    g.status(&holder, "waiting").await;
    let parent = async |op: Value| {
        let run = g.run("parent", json!({"input": op})).await;
        g.status(&run, "completed").await["output"].clone()
    };
    let step = parent(json!({"input": "quick"})).await;
    assert_eq!(step["error"]["type"], "run-exists", "{step}");
    let step = parent(json!({"if_running": "use_existing", "detach": true})).await;
    assert_eq!(step["value"], json!(holder));
    let step = parent(json!({"input": "quick", "if_running": "cancel_existing"})).await;
    assert_eq!(step["value"], "done", "{step}");
    g.status(&holder, "cancelled").await;
    let holder = g.run("child", json!({"key": "k", "input": "slow"})).await;
    g.status(&holder, "waiting").await;
    let step = parent(json!({"input": "quick", "if_running": "terminate_existing"})).await;
    assert_eq!(step["value"], "done", "{step}");
    g.status(&holder, "terminated").await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_child_starts_later() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("parent") => asks(it, &json!({"op": "invoke", "function": "child", "delay": "30s"})),
        _ => json!({"result": 1}),
    })
    .await;
    g.register(&handler, json!(["parent", "child"])).await;
    let run = g.run("parent", json!({})).await;
    g.eventually("the child is scheduled", async |g| {
        g.get(&format!("/v1/runs?parent={run}")).await["data"][0]["status"] == "scheduled"
    })
    .await;
    assert_eq!(handler.count(), 1);
    g.advance(31 * SECOND);
    g.status(&run, "completed").await;
    g.close().await;
}

// P5.15, P5.17, P5.29
#[tokio::test(flavor = "multi_thread")]
async fn a_run_signals_and_cancels_others() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("asker") => asks(it, &it["input"]),
        _ if it["cancel"].is_null() => asks(it, &json!({"op": "signal", "name": "go"})),
        _ => json!({"result": it["cancel"]["reason"]}),
    })
    .await;
    g.register(&handler, json!(["asker", "waits"])).await;
    let ask = async |op: Value| {
        let run = g.run("asker", json!({"input": op})).await;
        g.status(&run, "completed").await["output"].clone()
    };
    let target = g.run("waits", json!({"key": "k"})).await;
    g.status(&target, "waiting").await;
    let payload = json!({"n": 3_544_790_567_247_868_102_i64});
    let step = ask(json!({"op": "send", "run": target, "signal": "go", "payload": payload})).await;
    assert_eq!((&step["op"], &step["value"]), (&json!("send"), &Value::Null), "{step}");
    let got = g.status(&target, "completed").await["output"]["value"].clone();
    assert_eq!(got, payload);
    let to = |extra: Value| {
        let mut op = json!({"op": "send", "signal": "go"});
        op.as_object_mut().expect("an object").extend(extra.as_object().expect("one").clone());
        op
    };
    assert_eq!(ask(to(json!({"run": target}))).await["error"]["type"], "run-ended");
    let key = json!({"function": "waits", "key": "k"});
    assert_eq!(ask(to(key.clone())).await["error"]["type"], "run-ended");
    let never = json!({"function": "waits", "key": "other"});
    assert_eq!(ask(to(never)).await["error"]["type"], "run-not-found");
    let nobody = stepwell::machine::RunId::new(g.clock.lower(), 77).to_string();
    assert_eq!(ask(to(json!({"run": nobody}))).await["error"]["type"], "run-not-found");
    let target = g.run("waits", json!({"key": "k"})).await;
    assert_eq!(ask(to(key)).await["value"], Value::Null);
    g.status(&target, "completed").await;

    let target = g.run("waits", json!({})).await;
    g.status(&target, "waiting").await;
    let step = ask(json!({"op": "cancel", "run": target, "reason": "enough"})).await;
    assert_eq!((&step["op"], &step["value"]), (&json!("cancel"), &Value::Null), "{step}");
    g.status(&target, "cancelled").await;
    let again = ask(json!({"op": "cancel", "run": target})).await;
    assert_eq!(again["error"]["type"], "run-ended");
    g.close().await;
}

// P2.15, P5.19
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_a_closed_scope_is_no_longer_sent() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["invocation"]["epoch"].as_i64() {
        Some(1) => json!({"ops": [
            {"op": "run", "id": "a", "value": 1},
            {"op": "run", "id": "map/0", "value": 2},
            {"op": "run", "id": "map/1", "value": 3},
            {"op": "callback", "id": "map/late"},
        ], "yield": true}),
        Some(2) => json!({"ops": [{"op": "scope", "id": "map", "value": [2, 3]}]}),
        _ => json!({"result": it["steps"]}),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let steps = g.status(&run, "completed").await["output"].clone();
    let expected = json!({
        "a": {"seq": 1, "op": "run", "value": 1},
        "map": {"seq": 4, "op": "scope", "value": [2, 3]},
    });
    assert_eq!(steps, expected);
    assert_eq!(handler.invocations()[1]["steps"]["map/late"]["pending"], true);
    let journal = g.journal(&run).await;
    assert_eq!(entry(&journal, "map/1")["value"], 3, "the record keeps them");
    g.close().await;
}
