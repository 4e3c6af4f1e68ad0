//! Updates: signals whose sender waits for an answer.

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler, settled};

/// A counter: adds what updates say, answers with the sum, refuses what is no number, and ends with
/// the update that says "stop", which it answers as it ends.
fn counts(it: &Value) -> Value {
    let (mut sum, mut ops) = (it["input"].as_i64().unwrap_or(0), Vec::new());
    for n in 0.. {
        let (take, answer) = (format!("take#{n}"), format!("answer#{n}"));
        if !settled(it, &take) {
            ops.push(json!({"op": "signal", "id": take, "name": "add"}));
            return json!({"ops": ops, "await": take});
        }
        let update = &it["steps"][&take]["value"];
        let mut reply = json!({"op": "reply", "id": answer, "update": update["update"]});
        let stop = update["payload"] == "stop";
        if update["payload"] == "anew" {
            reply["value"] = json!("begun anew");
            return json!({"ops": [reply], "continue": {"input": sum}});
        }
        match update["payload"].as_i64() {
            _ if stop => reply["value"] = json!(sum),
            Some(more) => {
                sum += more;
                reply["value"] = json!(sum);
            }
            None => reply["error"] = json!({"type": "NotANumber", "message": "it is none"}),
        }
        if !settled(it, &answer) {
            ops.push(reply);
        }
        if stop {
            return json!({"ops": ops, "result": sum});
        }
    }
    unreachable!()
}

// P2.8, P5.18, P7.2
#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_answered_by_the_step_that_takes_it() {
    let g = Gateway::start().await;
    let handler = Handler::serve(counts).await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    let path = format!("/v1/runs/{run}/updates/add");
    let wait = format!("{path}?wait=20s");
    let (status, first) = g.call("POST", &wait, Some(json!({"payload": 2}))).await;
    assert_eq!((status, &first["value"], &first["run"]), (200, &json!(2), &json!(run)), "{first}");
    let (status, wrong) = g.call("POST", &wait, Some(json!({"payload": "two"}))).await;
    assert_eq!((status, &wrong["error"]["type"]), (200, &json!("NotANumber")), "{wrong}");
    // What its sender calls it makes it the same, also when the answer is there already.
    let named = json!({"payload": 5, "id": "order-7"});
    let (_, seven) = g.call("POST", &wait, Some(named.clone())).await;
    let (_, again) = g.call("POST", &wait, Some(named)).await;
    assert_eq!((&seven["value"], &again), (&json!(7), &seven));
    // Without `wait` it is recorded, and its answer is read later.
    let (status, later) = g.call("POST", &path, Some(json!({"payload": 1}))).await;
    assert_eq!((status, later.get("value")), (202, None), "{later}");
    let at = format!("/v1/runs/{run}/updates/{}", later["id"].as_str().expect("an id"));
    let (status, later) = g.call("GET", &format!("{at}?wait=20s"), None).await;
    assert_eq!((status, &later["value"]), (200, &json!(8)), "{later}");
    // A step that replies is one like others, with what it said.
    let step = g.get(&format!("/v1/runs/{run}/steps/answer%230")).await;
    assert_eq!((&step["op"], &step["value"]), (&json!("reply"), &json!({"value": 2})), "{step}");
    let taken = g.get(&format!("/v1/runs/{run}/steps/take%230")).await["value"].clone();
    assert_eq!(taken, json!({"update": first["id"], "payload": 2}));
    let none = format!("/v1/runs/{run}/updates/upd_00000000000000000000000000");
    let (status, code, _) = g.refused("GET", &none, None).await;
    assert_eq!((status, code.as_str()), (404, "update-not-found"));
    // An answer goes with the end of a generation, and of the run.
    let (_, anew) = g.call("POST", &wait, Some(json!({"payload": "anew"}))).await;
    assert_eq!(anew["value"], "begun anew");
    let (_, stop) = g.call("POST", &wait, Some(json!({"payload": "stop"}))).await;
    assert_eq!(stop["value"], 8);
    let view = g.status(&run, "completed").await;
    assert_eq!((&view["output"], &view["generation"]), (&json!(8), &json!(2)));
    let (status, code, _) = g.refused("POST", &wait, Some(json!({"payload": 1}))).await;
    assert_eq!((status, code.as_str()), (410, "run-ended"));
    let (_, still) = g.call("GET", &at, None).await;
    assert_eq!(still["value"], 8, "answers outlive the run");
    g.close().await;
}

// P7.2
#[tokio::test(flavor = "multi_thread")]
async fn an_update_survives_a_kill_and_one_that_nobody_answers_says_so() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "go") {
            return json!({"ops": [
                {"op": "reply", "id": "no", "update": "upd_00000000000000000000000000", "value": 1},
            ], "await": {"settled": ["no", "over"]}});
        }
        json!({"ops": [{"op": "signal", "id": "go", "name": "go"},
            {"op": "signal", "id": "over", "name": "over"}], "await": "go"})
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "waiting").await;
    let (status, sent) = g.call("POST", &format!("/v1/runs/{run}/updates/go"), None).await;
    assert_eq!(status, 202, "{sent}");
    let clock = g.clock.clone();
    let db = g.kill().await;
    let g = Gateway::at(db, stepwell::machine::Limits::default(), clock).await;
    let no = format!("/v1/runs/{run}/steps/no");
    g.eventually("the wrong reply has failed", async |g| g.call("GET", &no, None).await.0 == 200)
        .await;
    assert_eq!(g.get(&no).await["error"]["type"], "update-not-found");
    let at = format!("/v1/runs/{run}/updates/{}", sent["id"].as_str().expect("an id"));
    assert_eq!(g.call("GET", &at, None).await.0, 202);
    let answer = format!("{at}?wait=20s");
    let terminate = format!("/v1/runs/{run}/terminate");
    let (answer, _) =
        tokio::join!(g.call("GET", &answer, None), g.call("POST", &terminate, Some(json!({}))));
    assert_eq!((answer.0, &answer.1["error"]["type"]), (200, &json!("run-ended")), "{answer:?}");
    g.close().await;
}
