//! Replays: new code is held against recorded runs, and nothing comes of it but a report.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::protocol;

use crate::gateway::{Gateway, Handler, SECRET, settled};

/// Does its steps one after another; in a replay it reports them without doing them.
fn code(it: &Value, steps: &[&str], result: &Value) -> Value {
    for step in steps {
        if settled(it, step) {
            continue;
        }
        let op = match *step {
            s if s.starts_with("nap") => json!({"op": "sleep", "id": s, "for": "1h"}),
            s if s.starts_with("go") => json!({"op": "signal", "id": s, "name": s}),
            s if it["invocation"]["reason"] == "replay" => json!({"op": "run", "id": s}),
            s => json!({"op": "run", "id": s, "value": format!("{s} {}", it["run"]["seed"])}),
        };
        return json!({"ops": [op]});
    }
    let seen: Vec<&Value> = steps.iter().map(|s| &it["steps"][s]["value"]).collect();
    json!({"result": [seen, result]})
}

const STEPS: [&str; 4] = ["a", "nap", "go", "b"];

/// A run that has completed with these steps.
async fn recorded(g: &Gateway, handler: &Handler) -> String {
    handler.now(|it| code(it, &STEPS, &json!(1)));
    g.register(handler, json!(["f"])).await;
    let run = g.run("f", json!({"input": {"n": 1}})).await;
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(3_601));
    g.signal(&run, "go", json!({"who": "ann"})).await;
    g.status(&run, "completed").await;
    run
}

async fn replay(g: &Gateway, run: &str, candidate: &Handler) -> Value {
    g.post(&format!("/v1/runs/{run}/replay"), json!({"url": candidate.url})).await
}

#[tokio::test(flavor = "multi_thread")]
// P8.10
async fn the_same_code_does_not_diverge_and_nothing_is_recorded() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({})).await;
    let run = recorded(&g, &handler).await;
    let path = format!("/v1/runs/{run}");
    let before = (g.get(&path).await, g.journal(&run).await, g.history(&run).await);
    let calls = handler.count();
    let candidate = Handler::serve(|it| code(it, &STEPS, &json!(1))).await;
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    assert_eq!((&report["inserted"], &report["removed"]), (&json!([]), &json!([])));
    assert_eq!(report["invocations"], 5);
    let after = (g.get(&path).await, g.journal(&run).await, g.history(&run).await);
    assert_eq!(after, before, "nothing of it is recorded");
    assert_eq!(handler.count(), calls, "only the candidate is called");
    let first = &candidate.invocations()[0];
    assert_eq!(first["steps"], json!({}), "it begins with no steps");
    assert_eq!(first["invocation"]["reason"], "replay");
    assert_eq!((&first["input"], &first["run"]["id"]), (&json!({"n": 1}), &json!(run)));
    let original = &handler.invocations()[0];
    assert_eq!(first["run"]["seed"], original["run"]["seed"]);
    assert_eq!(first["run"]["created_at"], original["run"]["created_at"]);
    // Signed as every call is, and its token opens nothing.
    let secret = protocol::Secret::parse(SECRET).expect("a secret");
    for (headers, body) in candidate.requests() {
        let text = |name: &str| headers[name].to_str().expect("ASCII").to_owned();
        let (id, at, signature) =
            (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"));
        let seconds: i64 = at.parse().expect("seconds");
        assert_eq!(signature, protocol::sign(&id, seconds, &body, std::slice::from_ref(&secret)));
    }
    let bearer = format!("Bearer {}", first["token"].as_str().expect("a token"));
    let values = format!("{path}/values/a");
    let (status, ..) = g.raw("GET", &values, &[("authorization", &bearer)], None).await;
    assert_eq!(status, 401);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
// P8.11
async fn what_new_code_does_otherwise_is_told() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({})).await;
    let run = recorded(&g, &handler).await;
    let candidate = Handler::serve(|_| json!({})).await;

    // Another kind under a recorded id.
    candidate.now(|it| {
        if settled(it, "a") {
            json!({"ops": [{"op": "signal", "id": "nap", "name": "n"}]})
        } else {
            code(it, &STEPS, &json!(1))
        }
    });
    let report = replay(&g, &run, &candidate).await;
    let divergence = json!({"step": "nap", "expected": "sleep nap", "got": "signal nap"});
    assert_eq!(report["divergence"], divergence, "{report}");

    // Another end.
    candidate.now(|it| code(it, &STEPS, &json!(2)));
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"]["step"], Value::Null, "{report}");
    assert!(report["divergence"]["expected"].as_str().is_some_and(|e| e.starts_with("completed")));

    // A step more and a step less are told, and are no divergence by themselves.
    candidate.now(|it| {
        let more = ["a", "extra", "nap/2", "go", "b"];
        let answer = code(it, &more, &json!(1));
        if answer["result"].is_null() {
            return answer;
        }
        let seen = ["a", "nap", "go", "b"].map(|s| it["steps"][s]["value"].clone());
        json!({"result": [seen, 1]})
    });
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    assert_eq!(report["inserted"], json!(["extra", "nap/2"]));
    assert_eq!(report["removed"], json!(["nap"]));

    // What nothing is recorded of cannot go on.
    candidate.now(|it| code(it, &["a", "go/never"], &json!(1)));
    let report = replay(&g, &run, &candidate).await;
    assert!(report["stopped"].as_str().is_some_and(|s| s.contains("go/never")), "{report}");

    // No answer is a divergence too, and so is standing still.
    candidate.now(|_| crate::gateway::Answer::status(500));
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"]["got"], "status 500", "{report}");
    candidate.now(|_| json!({"yield": true}));
    let report = replay(&g, &run, &candidate).await;
    assert!(report["divergence"]["got"].as_str().is_some_and(|g| g.contains("nothing new")));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_met_in_the_order_in_which_it_happened() {
    let g = Gateway::start().await;
    // Whoever is first decides; the loser settles long after.
    let race = |it: &Value| {
        for (step, result) in [("nap", "late"), ("go", "in time")] {
            if settled(it, step) {
                let done = settled(it, "close");
                return if done {
                    json!({"result": result})
                } else {
                    json!({"ops": [{"op": "sleep", "id": "close", "for": "2h"}], "await": "close"})
                };
            }
        }
        json!({"ops": [{"op": "sleep", "id": "nap", "for": "1h"},
                       {"op": "signal", "id": "go", "name": "go"}], "await": {"any": ["nap", "go"]}})
    };
    // As it ran, `go` was taken first; by the end both are settled.
    let careful = move |it: &Value| {
        let seq = |s: &str| it["steps"][s]["seq"].as_i64().unwrap_or(i64::MAX);
        if seq("go") < seq("nap") && settled(it, "close") {
            return json!({"result": "in time"});
        }
        if settled(it, "go") && settled(it, "nap") && !settled(it, "close") {
            return json!({"result": "it was shown what had not happened yet"});
        }
        race(it)
    };
    let handler = Handler::serve(careful).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "go", json!(1)).await;
    g.invoked(&handler, 2).await;
    g.status(&run, "waiting").await;
    g.advance(Duration::from_secs(3 * 3_600));
    assert_eq!(g.status(&run, "completed").await["output"], "in time");
    let candidate = Handler::serve(careful).await;
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_is_replayed_as_far_as_it_has_come() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| code(it, &["a", "go"], &json!(1))).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    let candidate = Handler::serve(|it| code(it, &["a", "go", "b"], &json!(1))).await;
    let report = replay(&g, &run, &candidate).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    assert!(report["stopped"].as_str().is_some_and(|s| s.contains("as the recorded run does")));
    candidate.now(|it| code(it, &["a"], &json!(1)));
    let report = replay(&g, &run, &candidate).await;
    assert!(
        report["divergence"]["expected"].as_str().is_some_and(|e| e.contains("wait")),
        "{report}"
    );
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_asked_for_strictly() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({})).await;
    let run = recorded(&g, &handler).await;
    let path = format!("/v1/runs/{run}/replay");
    for (body, pointer) in [
        (json!({}), "#/url"),
        (json!({"url": "ftp://x/"}), "#/url"),
        (json!({"url": "http://169.254.169.254/"}), "#/url"),
        (json!({"url": handler.url, "secret": "x"}), "#/secret"),
        (json!({"url": handler.url, "uri": 1}), "#/uri"),
    ] {
        let (status, code, problem) = g.refused("POST", &path, Some(body.clone())).await;
        assert_eq!((status, &*code), (422, "invalid-request"), "{body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_a_deploy_goes_live_recent_runs_are_replayed() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({})).await;
    for _ in 0..3 {
        recorded(&g, &handler).await;
    }
    let candidate = Handler::serve(|it| code(it, &STEPS, &json!(2))).await;
    let body = json!({
        "name": "test", "url": candidate.url, "functions": [{"name": "f"}], "discover": false,
        "secret": SECRET, "dry_run": true, "replay": 2,
    });
    let answer = g.post("/v1/endpoints", body.clone()).await;
    let replays = answer["replays"].as_array().expect("a list");
    assert_eq!(replays.len(), 2, "{answer}");
    for replay in replays {
        assert_eq!(replay["function"], "f");
        assert!(replay["divergence"]["got"].as_str().is_some_and(|got| got.contains('2')));
    }
    candidate.now(|it| code(it, &STEPS, &json!(1)));
    let answer = g.post("/v1/endpoints", body.clone()).await;
    assert_eq!(answer["replays"][1]["divergence"], Value::Null, "{answer}");
    let endpoint = g.get("/v1/endpoints/test").await;
    assert_eq!(endpoint["url"], json!(handler.url), "nothing went live");
    let mut live = body;
    live["dry_run"] = json!(false);
    let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(live)).await;
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("#/replay")));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_replayed_by_the_command_line_alone() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({})).await;
    let run = recorded(&g, &handler).await;
    let (_, _, export) = g.raw("GET", &format!("/v1/runs/{run}/export"), &[], None).await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("run.json");
    std::fs::write(&file, &export).expect("it is written");
    g.close().await;

    let candidate = Handler::serve(|it| code(it, &STEPS, &json!(1))).await;
    let url = candidate.url.clone();
    let replayed = async || {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_stepwell"))
            .args(["run", "replay"])
            .arg(&file)
            .args(["--url", &url, "--secret", SECRET, "-o", "json"])
            .stdin(Stdio::null())
            .output()
            .await
            .expect("it runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), report)
    };
    let (code_, report) = replayed().await;
    assert_eq!((code_, &report["divergence"]), (Some(0), &Value::Null), "{report}");
    assert!(candidate.requests()[0].0.contains_key("webhook-signature"));
    candidate.now(|it| code(it, &["a", "go"], &json!(3)));
    let (code_, report) = replayed().await;
    assert_eq!((code_, &report["removed"]), (Some(1), &json!(["nap", "b"])), "{report}");
}

// P8.11
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_the_parent_and_compares_the_inputs_of_strict_functions() {
    let g = Gateway::start().await;
    let work = |hash: &'static str| {
        move |it: &Value| {
            if it["function"] == "parent" {
                return if settled(it, "kid") {
                    json!({"result": it["steps"]["kid"]["value"]})
                } else {
                    json!({"ops": [{"op": "invoke", "id": "kid", "function": "child"}]})
                };
            }
            let charge = json!({"op": "run", "id": "charge", "value": 1, "input_hash": hash});
            json!({"ops": [charge], "result": it["run"]["parent"]})
        }
    };
    let functions = json!([{"name": "parent"}, {"name": "child", "strict": true}]);
    let manifest = json!({"protocol": [1, 1], "functions": functions});
    let handler = Handler::serve(move |_| manifest.clone()).await;
    g.post("/v1/endpoints", json!({"name": "test", "url": handler.url, "secret": SECRET})).await;
    handler.now(work("a1"));
    let parent = g.run("parent", json!({})).await;
    let shown = g.status(&parent, "completed").await["output"].clone();
    assert_eq!(shown, json!({"run": parent, "step": "kid"}));
    let children = g.get(&format!("/v1/runs?parent={parent}")).await;
    let child = children["data"][0]["id"].as_str().expect("an id").to_owned();

    let candidate = Handler::serve(work("a1")).await;
    let report = replay(&g, &child, &candidate).await;
    assert_eq!(report["divergence"], Value::Null, "{report}");
    assert_eq!(candidate.invocations()[0]["run"]["parent"], shown);
    candidate.now(work("b2"));
    let expected = json!({"step": "charge", "expected": "run charge with input_hash a1",
        "got": "run charge with input_hash b2"});
    assert_eq!(replay(&g, &child, &candidate).await["divergence"], expected);
    // An export knows of both.
    let (_, _, export) = g.raw("GET", &format!("/v1/runs/{child}/export"), &[], None).await;
    let recorded = stepwell::replay::Recorded::from_export(&export).expect("an export");
    assert_eq!(recorded.hashes["charge"], "a1");
    let (run, step) = recorded.parent.expect("a parent");
    assert_eq!((run.to_string(), step), (parent, "kid".to_owned()));
    g.close().await;
}
