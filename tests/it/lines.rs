//! The transports `duplex` and `stream` (`docs/protocol.md` section 4), from outside.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::gateway::{Gateway, SECRET, settled};
use crate::talker::Talker;

fn value(id: &str, value: Value) -> Value {
    json!({"op": "run", "id": id, "value": value})
}

async fn register(g: &Gateway, url: &str, transport: &str, function: Value) {
    let body = json!({"name": "test", "url": url, "secret": SECRET, "functions": [function],
        "transports": [transport], "discover": false});
    g.post("/v1/endpoints", body).await;
}

async fn start(g: &Gateway, t: &Talker, transport: &str) -> String {
    register(g, &t.url, transport, json!({"name": "f"})).await;
    g.run("f", json!({"input": 1})).await
}

/// What a script of the handler says while it runs; if it has failed, it never does.
async fn soon(said: impl Future<Output = ()>) {
    tokio::time::timeout(Duration::from_mins(1), said).await.expect("the script came so far");
}

async fn ids(g: &Gateway, run: &str) -> Vec<String> {
    let journal = g.journal(run).await;
    journal.iter().map(|s| s["id"].as_str().expect("an id").to_owned()).collect()
}

// P4.7, P4.22, P4.24, P4.25, P4.28, P4.29, P4.31
#[tokio::test]
async fn the_example_of_the_protocol_is_spoken() {
    let g = Gateway::start().await;
    let napping = Arc::new(Notify::new());
    let naps = Arc::clone(&napping);
    let t = Talker::serve(move |it, mut lines| {
        let naps = Arc::clone(&naps);
        async move {
            assert_eq!(it["invocation"]["transport"], "duplex");
            let told =
                lines.ask(json!({"n": 1, "ops": [value("charge", json!({"id": "ch_9"}))]})).await;
            assert_eq!(told, json!({"ack": 1, "upto": 1}));
            let nap = json!({"op": "sleep", "id": "nap", "for": "200ms"});
            let told = lines.ask(json!({"n": 2, "ops": [nap], "await": "nap"})).await;
            assert_eq!(told, json!({"ack": 2, "upto": 1}));
            naps.notify_one();
            let news = lines.hear().await.expect("the sleep ends");
            let nap = json!({"seq": 2, "op": "sleep", "value": null});
            assert_eq!(news, json!({"upto": 2, "steps": {"nap": nap}}));
            let told =
                lines.ask(json!({"n": 3, "ops": [value("ship", json!(1))], "result": "out"})).await;
            assert_eq!(told, json!({"ack": 3, "upto": 3}));
            assert_eq!(lines.hear().await, None, "both ends close");
        }
    })
    .await;
    register(&g, &t.url, "duplex", json!({"name": "f"})).await;
    let text = "{\"input\": {\n\r\n\"a\": [1,\n2]}}".to_owned();
    let (_, _, run) = g.raw("POST", "/v1/functions/f/runs", &[], Some(text)).await;
    let run: Value = serde_json::from_slice(&run).expect("JSON");
    let run = run["id"].as_str().expect("an id");
    soon(napping.notified()).await;
    g.advance(Duration::from_secs(1));
    let view = g.status(run, "completed").await;
    assert_eq!((&view["output"], &view["invocations"]), (&json!("out"), &json!(1)));
    assert_eq!(ids(&g, run).await, ["charge", "nap", "ship"]);
    let (head, first) = t.heads().remove(0);
    assert_eq!(head["stepwell-transport"], "duplex");
    assert_eq!(head["content-type"], "application/x-ndjson");
    assert!(!first.contains(&b'\r'));
    assert_eq!(t.invocations()[0]["input"], json!({"a": [1, 2]}));
    let header = |name: &str| head[name].to_str().expect("text");
    let secret = stepwell::protocol::Secret::parse(SECRET).expect("a secret");
    let now = header("webhook-timestamp").parse().expect("a number");
    let id = header("webhook-id");
    let signed = stepwell::protocol::sign(id, now, &first, &[secret]);
    assert_eq!(signed, header("webhook-signature"), "of the first line without its end");
    assert_eq!(g.happened(run, "invocation.failed").await, [] as [Value; 0]);
    g.close().await;
}

// P4.28, P4.33
#[tokio::test]
async fn an_acknowledgement_shows_what_is_recorded_otherwise_than_it_was_sent() {
    let g = Gateway::start().await;
    let t = Talker::serve(|_, mut lines| async move {
        lines.ask(json!({"n": 1, "ops": [value("a", json!(1))]})).await;
        let told =
            lines.ask(json!({"n": 2, "ops": [value("a", json!(2)), value("b", json!(3))]})).await;
        assert_eq!(told["steps"], json!({"a": {"seq": 1, "op": "run", "value": 1}}));
        assert_eq!(told["upto"], 2);
        let fails = json!({"op": "run", "id": "c", "error": {"type": "Boom", "retry": "never"}});
        let again = json!({"op": "run", "id": "d", "error": {"type": "Boom"}});
        let told = lines.ask(json!({"n": 3, "ops": [fails, again]})).await;
        assert_eq!(told["steps"]["c"]["error"]["attempts"], 1);
        assert_eq!(told["steps"]["d"]["pending"], true);
        lines.ask(json!({"n": 4, "ops": [value("d", json!(4))], "result": 1})).await;
    })
    .await;
    let run = start(&g, &t, "duplex").await;
    g.status(&run, "completed").await;
    assert_eq!(ids(&g, &run).await, ["a", "b", "c", "d"]);
    g.close().await;
}

// P4.7, P4.17
#[tokio::test]
async fn steps_that_were_acknowledged_stay_when_the_handler_dies_on_its_way() {
    let g = Gateway::start().await;
    let t = Talker::serve(|it, mut lines| async move {
        let known = it["steps"].as_object().expect("steps").len();
        for k in known..10 {
            if known == 0 && k == 4 {
                return;
            }
            let told = lines
                .ask(json!({"n": k - known + 1, "ops": [value(&format!("s{k}"), json!(k))]}))
                .await;
            assert_eq!(told["upto"], k + 1);
        }
        lines.ask(json!({"n": 11 - known, "result": "all"})).await;
    })
    .await;
    let run = start(&g, &t, "duplex").await;
    g.eventually("it is invoked again", async |g| {
        g.advance(Duration::from_millis(100));
        t.heads().len() == 2
    })
    .await;
    g.status(&run, "completed").await;
    assert!(settled(&t.invocations()[1], "s3") && !settled(&t.invocations()[1], "s4"));
    assert_eq!(t.invocations()[1]["invocation"]["attempt"], 2);
    assert_eq!(ids(&g, &run).await.len(), 10);
    assert_eq!(g.happened(&run, "invocation.failed").await.len(), 1);
    g.close().await;
}

// P4.27, P4.35
#[tokio::test]
async fn a_cancel_is_told_on_the_line_and_the_next_exchange_knows_of_it() {
    let g = Gateway::start().await;
    let waiting = Arc::new(Notify::new());
    let waits = Arc::clone(&waiting);
    let t = Talker::serve(move |it, mut lines| {
        let waits = Arc::clone(&waits);
        async move {
            if it["cancel"].is_null() {
                let ask = json!({"op": "callback", "id": "c"});
                lines.ask(json!({"n": 1, "ops": [ask], "await": "c"})).await;
                waits.notify_one();
                let told = lines.hear().await.expect("a cancel");
                assert_eq!(told["cancel"]["reason"], "no longer");
                let told = lines.hear().await.expect("a problem");
                assert_eq!(told["problem"]["code"], "stale-epoch");
                assert_eq!(lines.hear().await, None);
                lines.say(json!({"n": 2, "ops": [value("late", json!(1))]})).await;
            } else {
                lines.ask(json!({"n": 1, "ops": [value("undo", json!(1))], "result": 0})).await;
            }
        }
    })
    .await;
    let run = start(&g, &t, "duplex").await;
    soon(waiting.notified()).await;
    g.post(&format!("/v1/runs/{run}/cancel"), json!({"reason": "no longer"})).await;
    g.status(&run, "cancelled").await;
    assert_eq!(ids(&g, &run).await, ["undo", "c"]);
    g.close().await;
}

// P4.16, P4.20, P4.27
#[tokio::test]
async fn a_gateway_that_leaves_says_so_and_the_run_waits_where_it_was() {
    let g = Gateway::start().await;
    let waiting = Arc::new(Notify::new());
    let waits = Arc::clone(&waiting);
    let t = Talker::serve(move |_, mut lines| {
        let waits = Arc::clone(&waits);
        async move {
            let ask = json!({"op": "signal", "id": "s", "name": "go"});
            lines.ask(json!({"n": 1, "ops": [ask], "await": "s"})).await;
            waits.notify_one();
            assert_eq!(lines.hear().await, Some(json!({"suspend": true})));
        }
    })
    .await;
    let run = start(&g, &t, "duplex").await;
    soon(waiting.notified()).await;
    let begun = Instant::now();
    g.engine.leave(Duration::from_mins(2)).await;
    assert!(begun.elapsed() < Duration::from_mins(1));
    let clock = g.clock.clone();
    let g = Gateway::at(g.kill().await, stepwell::machine::Limits::default(), clock).await;
    g.status(&run, "waiting").await;
    t.now(|it, mut lines| async move {
        lines.ask(json!({"n": 1, "result": it["steps"]["s"]["value"]})).await;
    });
    g.signal(&run, "go", json!(5)).await;
    assert_eq!(g.status(&run, "completed").await["output"], 5);
    g.close().await;
}

// P4.27, P4.41
#[tokio::test]
async fn a_line_that_cannot_be_taken_is_answered_with_a_problem_and_the_end() {
    let g = Gateway::start().await;
    let t = Talker::serve(|it, mut lines| async move {
        match it["input"].as_str() {
            Some("mismatch") => {
                lines.ask(json!({"n": 1, "ops": [value("a", json!(1))]})).await;
                let told = lines
                    .ask(json!({"n": 2, "ops": [{"op": "sleep", "id": "a", "for": "1s"}]}))
                    .await;
                assert_eq!(told["problem"]["code"], "run-paused");
            }
            Some("skip") => {
                let told = lines.ask(json!({"n": 2, "ops": [value("a", json!(1))]})).await;
                assert_eq!(told["problem"]["code"], "checkpoint-skipped");
            }
            _ => {
                lines.bytes("this is no JSON\n").await;
                let told = lines.hear().await.expect("a problem");
                assert_eq!(told["problem"]["code"], "invalid-request");
            }
        }
        assert_eq!(lines.hear().await, None, "the stream ends");
    })
    .await;
    let function = json!({"name": "f", "invocation_retry": {"max_attempts": 1}});
    register(&g, &t.url, "duplex", function).await;
    for (input, code) in [
        ("mismatch", "mismatch"),
        ("skip", "invocations-used-up"),
        ("noise", "invocations-used-up"),
    ] {
        let run = g.run("f", json!({"input": input})).await;
        let view = g.status(&run, "paused").await;
        assert_eq!(view["attention"]["code"], code, "{view}");
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

// P4.26, P4.41
#[tokio::test]
async fn silence_and_lines_that_never_end_are_bounded() {
    let g = Gateway::start().await;
    let t = Talker::serve(|it, mut lines| async move {
        lines.say(json!({"n": 1, "ops": [value("a", json!(1))]})).await;
        if it["input"] == "silent" {
            std::future::pending::<()>().await;
        }
        loop {
            // A byte at a time, and never the end of a line.
            lines.bytes("x").await;
            if tokio::time::timeout(Duration::from_millis(20), lines.hear()).await == Ok(None) {
                return;
            }
        }
    })
    .await;
    let function = json!({"name": "f", "timeouts": {"invocation": "600ms"},
        "invocation_retry": {"max_attempts": 1}});
    register(&g, &t.url, "duplex", function).await;
    for input in ["silent", "endless"] {
        let run = g.run("f", json!({"input": input})).await;
        g.status(&run, "paused").await;
        let failed = g.happened(&run, "invocation.failed").await;
        assert!(failed[0].to_string().contains("silent for 0.6 s"), "{failed:?}");
        assert_eq!(ids(&g, &run).await, ["a"], "what was recorded stays");
        g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
    }
    g.close().await;
}

// P4.26
#[tokio::test]
async fn an_empty_line_keeps_an_exchange_alive_on_either_side() {
    let g = Gateway::start().await;
    let t = Talker::serve(|_, mut lines| async move {
        // Longer than the silence that is allowed, in which the gateway says that it is there.
        for _ in 0..12 {
            lines.bytes("\n").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        lines.ask(json!({"n": 1, "result": 1})).await;
    })
    .await;
    let function = json!({"name": "f", "timeouts": {"invocation": "800ms"}});
    register(&g, &t.url, "duplex", function).await;
    let run = g.run("f", json!({})).await;
    g.status(&run, "completed").await;
    assert_eq!(t.heads().len(), 1);
    g.close().await;
}

#[tokio::test]
async fn a_handler_that_never_reads_harms_no_other_run_and_many_share_few_connections() {
    let g = Gateway::start().await;
    let t = Talker::serve(|it, mut lines| async move {
        if it["input"] == "deaf" {
            for n in 1.. {
                // Each line is answered with much, and nothing of it is read.
                let again = value("big", json!(1));
                let ops = if n == 1 {
                    json!([value("big", json!("x".repeat(20_000)))])
                } else {
                    json!([again])
                };
                lines.say(json!({"n": n, "ops": ops})).await;
            }
        }
        lines.ask(json!({"n": 1, "ops": [value("a", json!(1))]})).await;
        lines.ask(json!({"n": 2, "result": 1})).await;
    })
    .await;
    register(&g, &t.url, "duplex", json!({"name": "f", "timeouts": {"invocation": "5s"}})).await;
    let deaf = g.run("f", json!({"input": "deaf"})).await;
    g.eventually("it speaks", async |g| !g.journal(&deaf).await.is_empty()).await;
    let mut runs = Vec::new();
    for _ in 0..60 {
        runs.push(g.run("f", json!({"input": 1})).await);
    }
    for run in &runs {
        g.status(run, "completed").await;
    }
    assert!(t.connections.load(Ordering::Relaxed) <= 2, "{:?}", t.connections);
    g.post(&format!("/v1/runs/{deaf}/terminate"), json!({})).await;
    g.close().await;
}

/// A server that knows HTTP/1.1 alone, as some proxies do.
async fn old_server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut got = Vec::new();
                let mut more = [0; 4096];
                loop {
                    let Ok(n @ 1..) = peer.read(&mut more).await else { return };
                    got.extend_from_slice(&more[..n]);
                    let text = String::from_utf8_lossy(&got).into_owned();
                    let answer = if text.starts_with("PRI") {
                        "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                    } else if text.contains("\"token\":") && text.ends_with('}') {
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\nconnection: close\r\n\r\n{\"result\":1}"
                    } else {
                        continue;
                    };
                    drop(peer.write_all(answer.as_bytes()).await);
                    return;
                }
            });
        }
    });
    url
}

// P4.2, P4.39, P4.40
#[tokio::test]
async fn where_lines_do_not_get_through_the_gateway_falls_back_and_shows_it() {
    let g = Gateway::start().await;
    register(
        &g,
        &old_server().await,
        "duplex",
        json!({"name": "f", "invocation_retry": {"max_attempts": 1}}),
    )
    .await;
    for _ in 0..2 {
        let run = g.run("f", json!({"input": 1})).await;
        g.status(&run, "completed").await;
    }
    let deployments = g.get("/v1/endpoints/test/deployments").await;
    let shown = &deployments["data"][0];
    assert_eq!(
        (&shown["transports"], &shown["transport"]),
        (&json!(["respond", "duplex"]), &json!("respond")),
        "{shown}"
    );
    assert!(shown["fallback"].as_str().is_some_and(|why| !why.is_empty()), "{shown}");
    g.close().await;
}

// P4.4, P4.22, P4.23
#[tokio::test]
async fn a_stream_is_recorded_line_by_line() {
    let g = Gateway::start().await;
    let cut = Arc::new(Notify::new());
    let end = Arc::clone(&cut);
    let t = Talker::serve(move |it, mut lines| {
        let end = Arc::clone(&end);
        async move {
            assert_eq!(it["invocation"]["transport"], "stream");
            if settled(&it, "b") {
                lines.say(value("c", json!(3))).await;
                lines.bytes("\n").await;
                lines.say(json!({"ops": [value("d", json!(4))], "result": "out"})).await;
            } else {
                lines.say(value("a", json!(1))).await;
                lines.say(value("b", json!(2))).await;
                end.notified().await;
            }
        }
    })
    .await;
    let run = start(&g, &t, "stream").await;
    g.eventually("both are recorded", async |g| g.journal(&run).await.len() == 2).await;
    cut.notify_one();
    g.eventually("it is invoked again", async |g| {
        g.advance(Duration::from_millis(100));
        t.heads().len() == 2
    })
    .await;
    assert_eq!(g.status(&run, "completed").await["output"], "out");
    assert_eq!(ids(&g, &run).await, ["a", "b", "c", "d"]);
    g.close().await;
}

// P4.5
#[tokio::test]
async fn a_stream_s_last_line_may_await_and_a_bad_line_is_a_failed_exchange() {
    let g = Gateway::start().await;
    let t = Talker::serve(|it, mut lines| async move {
        if it["input"] == "bad" {
            lines.say(value("a", json!(1))).await;
            lines.say(json!({"op": "run", "id": "b", "value": 1, "error": {}})).await;
            return;
        }
        if settled(&it, "s") {
            lines.say(json!({"result": it["steps"]["s"]["value"]})).await;
        } else {
            lines.say(json!({"op": "signal", "id": "s", "name": "go"})).await;
            lines.say(json!({"await": "s"})).await;
        }
    })
    .await;
    register(&g, &t.url, "stream", json!({"name": "f", "invocation_retry": {"max_attempts": 1}}))
        .await;
    let run = g.run("f", json!({"input": 1})).await;
    g.status(&run, "waiting").await;
    g.signal(&run, "go", json!(9)).await;
    assert_eq!(g.status(&run, "completed").await["output"], 9);
    let bad = g.run("f", json!({"input": "bad"})).await;
    let view = g.status(&bad, "paused").await;
    assert!(
        view["attention"]["detail"].as_str().is_some_and(|d| d.contains("malformed line")),
        "{view}"
    );
    assert_eq!(ids(&g, &bad).await, ["a"]);
    g.post(&format!("/v1/runs/{bad}/terminate"), json!({})).await;
    g.close().await;
}
