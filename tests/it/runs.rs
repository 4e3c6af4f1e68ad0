//! Runs from start to end as callers see them: bytes, waits, lists, deadlines.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Answer, Gateway, Handler, moment};

/// JSON that does not survive a parser: numbers beyond doubles, spacing, escapes, repeated names.
const ODD: &str = r#"{"n":  3544790567247868102, "f" : 1.10e+2,"s":"\u00e9\/",  "a":[ ] ,"a":0.0}"#;

#[tokio::test(flavor = "multi_thread")]
async fn payloads_pass_byte_for_byte() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        let text = if it["steps"].get("odd").is_none() {
            format!(r#"{{"ops": [ {{"op":"run","id":"odd", "value" :{ODD} }}]}}"#)
        } else {
            format!("{{ \"result\" :\n{ODD}\t}}")
        };
        Answer::Raw(text.into_bytes())
    })
    .await;
    g.register(&handler, json!(["odd"])).await;
    let body = format!(r#"{{"input" : {ODD}, "key":"k"}}"#);
    let (status, headers, text) =
        g.raw("POST", "/v1/functions/odd/runs?wait=20s", &[], Some(body)).await;
    assert_eq!(status, 200, "{text:?}");
    let has = |text: &[u8], what: String| {
        let text = std::str::from_utf8(text).expect("UTF-8");
        assert!(text.contains(&what), "{what} in {text}");
    };
    has(&text, format!(r#""output":{ODD}"#));
    has(&text, format!(r#""input":{ODD}"#));
    let run = headers["location"].to_str().expect("ASCII").to_owned();

    let (first, second) = (&handler.requests()[0].1, &handler.requests()[1].1);
    has(first, format!(r#""input":{ODD}"#));
    has(second, format!(r#""odd":{{"seq":1,"op":"run","value":{ODD}}}"#));
    let (status, _, result) = g.raw("GET", &format!("{run}/result"), &[], None).await;
    assert_eq!((status, &result[..]), (200, ODD.as_bytes()));
    for place in ["journal", "steps/odd", "history", "export", "stream"] {
        let (status, _, text) = g.raw("GET", &format!("{run}/{place}"), &[], None).await;
        assert_eq!(status, 200);
        has(&text, format!(r#""value":{ODD}"#));
    }
    let (_, _, value) = g.raw("GET", &format!("{run}/values/odd"), &[], None).await;
    assert_eq!(&value[..], ODD.as_bytes());
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_run_or_with_its_time() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("fails") => json!({"error": {"type": "Declined", "message": "no funds"}}),
        _ => json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"}),
    })
    .await;
    g.register(&handler, json!(["fails", "waits"])).await;

    let (status, headers, body) =
        g.raw("POST", "/v1/functions/waits/runs?wait=0s", &[], Some("{}".to_owned())).await;
    let run: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, headers["retry-after"].as_bytes()), (202, &b"1"[..]), "{run}");
    let path = format!("/v1/runs/{}", run["id"].as_str().expect("an id"));
    assert_eq!(headers["location"].to_str().ok(), Some(&*path));
    assert_eq!(run["links"]["self"], path);
    assert!(run["ended_at"].is_null() && run["output"].is_null());
    let run = g.status(run["id"].as_str().expect("an id"), "waiting").await;
    assert_eq!(run["waiting_for"][0]["name"], "go");
    assert!(run["attention"].is_null());
    assert_eq!(run["steps"], json!({"settled": 0, "pending": 1}));
    let (status, unfinished) = g.call("GET", &format!("{path}/result"), None).await;
    assert_eq!((status, &unfinished["status"]), (202, &json!("waiting")));

    let prefer = [("prefer", "respond-async, wait=20")];
    let (status, _, body) =
        g.raw("POST", "/v1/functions/fails/runs", &prefer, Some("{}".to_owned())).await;
    let failed: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((status, &failed["status"]), (200, &json!("failed")), "{failed}");
    assert_eq!(failed["error"]["type"], "Declined");
    assert!(failed["output"].is_null());
    assert!(moment(&failed["ended_at"]) >= moment(&failed["created_at"]));
    let path = format!("/v1/runs/{}/result", failed["id"].as_str().expect("an id"));
    let (status, code, problem) = g.refused("GET", &path, None).await;
    assert_eq!((status, &*code), (422, "run-failed"));
    assert_eq!(problem["error"]["message"], "no funds");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_makes_no_sense_is_refused_with_every_fault() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let path = "/v1/functions/f/runs";
    for (body, pointer) in [
        (json!({"inptu": 1}), "#/inptu"),
        (json!({"retry": {"max_atempts": 3}}), "#/retry/max_atempts"),
        (json!({"retry": {"factor": 0.5}}), "#/retry/factor"),
        (json!({"delay": "soon"}), "#/delay"),
        (json!({"if_running": "fail"}), "#/if_running"),
        (json!({"if_closed": "maybe", "key": "k"}), "#/if_closed"),
        (json!({"key": "a\nb"}), "#/key"),
        (json!({"version": "run_01k9"}), "#/version"),
        (json!({"tags": {"a": 1}}), "#/tags"),
    ] {
        let (status, code, problem) = g.refused("POST", path, Some(body.clone())).await;
        assert_eq!((status, &*code), (422, "invalid-request"), "{body}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let (status, _, body) = g.raw("POST", path, &[], Some("{\"input\":".to_owned())).await;
    assert_eq!(status, 400, "{body:?}");
    let big = format!("{{\"input\":\"{}\"}}", "x".repeat(1 << 20));
    let (status, _, body) = g.raw("POST", path, &[], Some(big)).await;
    assert_eq!(status, 413, "{body:?}");
    let unknown = g.refused("POST", "/v1/functions/g/runs", Some(json!({}))).await;
    assert_eq!((unknown.0, &*unknown.1), (404, "function-not-found"));
    assert_eq!(handler.count(), 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_read_back_at_once() {
    let g = Gateway::start().await;
    let wait = json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"});
    let handler = Handler::serve(move |_| wait.clone()).await;
    g.register(&handler, json!(["f"])).await;
    for i in 0..20 {
        let key = format!("k{i}");
        let run = g.run("f", json!({"key": key, "tags": {"n": key}})).await;
        assert_eq!(g.get(&format!("/v1/runs/{run}")).await["key"], *key);
        let listed = g.get(&format!("/v1/runs?key={key}")).await;
        assert_eq!(listed["data"][0]["id"], *run, "in lists from its 202: {listed}");
        g.signal(&run, "other", json!(i)).await;
        let signals = g.get(&format!("/v1/runs/{run}/signals")).await;
        assert_eq!(signals["data"][0]["name"], "other", "{signals}");
        let ended = g.post(&format!("/v1/runs/{run}/terminate"), json!({})).await;
        assert_eq!(ended["status"], "terminated");
        let listed = g.get(&format!("/v1/runs?key={key}")).await;
        assert_eq!(listed["data"][0]["status"], "terminated", "an end is in lists at once");
        let of_key = format!("/v1/functions/f/keys/{key}/signals/x");
        assert_eq!(g.refused("POST", &of_key, None).await.0, 404, "the key is free at once");
    }
    g.close().await;
}

/// The ids of the runs that a list has, page by page.
async fn ids(g: &Gateway, query: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = g.get(&format!("/v1/runs?{query}{cursor}")).await;
        for run in page["data"].as_array().expect("a list") {
            assert!(run.get("output").is_none() && run.get("input").is_none(), "no payloads");
            ids.push(run["id"].as_str().expect("an id").to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_filter_by_everything_and_page_without_gaps() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["input"].as_str() {
        Some("waits") => json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}),
        Some("fails") => json!({"error": {"type": "E", "message": "m"}}),
        _ => json!({"result": null}),
    })
    .await;
    let first = g.register(&handler, json!(["alpha", "beta"])).await;
    let mut runs = Vec::new();
    let starts = [
        ("alpha", "ends", "completed"),
        ("alpha", "waits", "waiting"),
        ("beta", "fails", "failed"),
        ("beta", "ends", "completed"),
    ];
    for (i, (function, input, status)) in starts.into_iter().enumerate() {
        let body = json!({"input": input, "key": format!("Key-{i}"),
            "tags": {"n": i.to_string(), "half": (i / 2).to_string(), "c:d": "x y"}});
        runs.push(g.run(function, body).await);
        // It ends within its ten seconds.
        g.status(&runs[i], status).await;
        g.advance(Duration::from_secs(10));
    }
    let second = g.register(&handler, json!(["alpha", "beta", "gamma"])).await;
    let newest = g.run("gamma", json!({"input": "ends"})).await;
    g.status(&newest, "completed").await;
    runs.push(newest);
    // The status of a live run trails; it is told once it has lasted.
    g.advance(Duration::from_secs(1));
    g.eventually("the list shows that it waits", async |g| {
        ids(g, "status=waiting").await == [runs[1].clone()]
    })
    .await;
    let dep = |r: &Value| r["deployment"]["id"].as_str().expect("an id").to_owned();
    let (old, new) = (dep(&first), dep(&second));
    for (query, expected) in [
        (String::new(), vec![4, 3, 2, 1, 0]),
        ("limit=1".to_owned(), vec![4, 3, 2, 1, 0]),
        ("limit=2".to_owned(), vec![4, 3, 2, 1, 0]),
        ("status=failed".to_owned(), vec![2]),
        ("status=failed&status=waiting".to_owned(), vec![2, 1]),
        ("status=completed&limit=1".to_owned(), vec![4, 3, 0]),
        ("function=alpha".to_owned(), vec![1, 0]),
        ("function=alpha&function=gamma".to_owned(), vec![4, 1, 0]),
        ("function=alpha&status=completed".to_owned(), vec![0]),
        ("function=nosuch".to_owned(), vec![]),
        ("key=Key-2&key=Key-3".to_owned(), vec![3, 2]),
        ("tag=half:1".to_owned(), vec![3, 2]),
        ("tag=n:1&tag=n:2".to_owned(), vec![2, 1]),
        ("tag=half:0&tag=n:1".to_owned(), vec![1]),
        ("tag=half:0&tag=n:2".to_owned(), vec![]),
        (format!("deployment={old}"), vec![3, 2, 1, 0]),
        (format!("deployment={new}"), vec![4]),
        (format!("deployment={new}&deployment={old}&limit=3"), vec![4, 3, 2, 1, 0]),
        (format!("started_after={}", g.moment(10)), vec![4, 3, 2, 1]),
        (format!("started_before={}", g.moment(10)), vec![0]),
        (format!("started_after={}&started_before={}", g.moment(10), g.moment(30)), vec![2, 1]),
        ("sort=-started&limit=2".to_owned(), vec![4, 3, 2, 1, 0]),
        ("sort=started&limit=2".to_owned(), vec![0, 1, 2, 3, 4]),
        ("sort=started&status=completed&limit=1".to_owned(), vec![0, 3, 4]),
        ("sort=-ended&limit=1".to_owned(), vec![4, 3, 2, 0]),
        ("sort=ended&limit=3".to_owned(), vec![0, 2, 3, 4]),
        ("sort=ended&status=waiting".to_owned(), vec![]),
        (format!("sort=ended&ended_after={}", g.moment(20)), vec![2, 3, 4]),
        (format!("ended_after={}&ended_before={}", g.moment(20), g.moment(40)), vec![3, 2]),
        (format!("ended_before={}", g.moment(10)), vec![0]),
        ("q=key-1".to_owned(), vec![1]),
        ("q=BETA".to_owned(), vec![3, 2]),
        ("q=half:0".to_owned(), vec![1, 0]),
        (format!("q={}", runs[2]), vec![2]),
        ("q=nothing".to_owned(), vec![]),
    ] {
        let expected: Vec<String> = expected.into_iter().map(|i: usize| runs[i].clone()).collect();
        assert_eq!(ids(&g, &query).await, expected, "{query}");
    }
    let page = g.get("/v1/runs?limit=1&sort=-ended").await;
    let cursor = page["next_cursor"].as_str().expect("there are more");
    let path = format!("/v1/runs?limit=1&cursor={cursor}");
    let (status, code, problem) = g.refused("GET", &path, None).await;
    assert_eq!((status, &*code), (400, "invalid-query"), "{problem}");
    assert!(problem.to_string().contains("is of a list with `sort=-ended`"), "{problem}");
    let counted = g.get("/v1/runs?sort=ended&count=estimate&limit=1").await;
    assert_eq!(counted["count"]["count"], 4, "{counted}");
    let filter = json!({"ended_after": g.moment(20), "ended_before": g.moment(40)});
    let act = json!({"filter": filter, "action": "delete", "dry_run": true});
    let dry = g.post("/v1/bulk", act).await;
    assert_eq!(dry["expected"], json!({"count": 2, "exact": true}), "{dry}");
    let bad = ["status=done", "tag=x", "limit=0", "limit=201", "cursor=x", "tags=a:b", "sort=end"];
    for bad in bad {
        let (status, code, _) = g.refused("GET", &format!("/v1/runs?{bad}"), None).await;
        assert_eq!((status, &*code), (400, "invalid-query"), "{bad}");
    }
    let (_, headers, _) = g.raw("GET", "/v1/runs?limit=2&function=beta", &[], None).await;
    assert!(!headers.contains_key("link"), "the page is the last");
    let (_, headers, _) = g.raw("GET", "/v1/runs?limit=1&function=beta", &[], None).await;
    let link = headers["link"].to_str().expect("ASCII");
    let next = link.trim_start_matches('<').split('>').next().expect("a URL");
    assert_eq!(g.get(next).await["data"][0]["id"], *runs[2], "{link}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_skip_nor_repeat_while_runs_start_and_end() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|_| json!({"result": 1})).await;
    g.register(&handler, json!(["f"])).await;
    let mut before = BTreeSet::new();
    for _ in 0..12 {
        before.insert(g.run("f", json!({})).await);
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = g.get(&format!("/v1/runs?limit=3{cursor}")).await;
        let ids = page["data"].as_array().expect("a list").iter();
        seen.extend(ids.map(|r| r["id"].as_str().expect("an id").to_owned()));
        g.advance(Duration::from_millis(1));
        g.run("f", json!({})).await;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let unique: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(unique.len(), seen.len(), "no run twice");
    assert!(before.is_subset(&unique), "no run left out");
    // In the order of ends, where what ends meanwhile comes before the first page or after the last.
    for run in &unique {
        g.status(run, "completed").await;
    }
    for sort in ["-ended", "ended"] {
        let (mut seen, mut cursor, mut more) = (Vec::new(), String::new(), 5);
        loop {
            let page = g.get(&format!("/v1/runs?limit=4&sort={sort}{cursor}")).await;
            let ids = page["data"].as_array().expect("a list").iter();
            seen.extend(ids.map(|r| r["id"].as_str().expect("an id").to_owned()));
            g.advance(Duration::from_millis(1));
            if more > 0 {
                let run = g.run("f", json!({})).await;
                g.status(&run, "completed").await;
                more -= 1;
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let once: BTreeSet<String> = seen.iter().cloned().collect();
        assert_eq!(once.len(), seen.len(), "{sort}: no run twice");
        assert!(unique.is_subset(&once), "{sort}: no run left out");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_start_waits_in_memory_or_in_the_table_and_comes_once() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| json!({"result": it["input"]})).await;
    g.register(&handler, json!(["f"])).await;
    let soon = g.run("f", json!({"delay": "30s", "input": "soon"})).await;
    let late = g.run("f", json!({"start_at": g.moment(3 * 3600), "input": "late"})).await;
    for run in [&soon, &late] {
        let view = g.status(run, "scheduled").await;
        assert!(view["started_at"].is_null());
    }
    let past = g.run("f", json!({"start_at": "2020-01-01T00:00:00Z", "input": "past"})).await;
    g.status(&past, "completed").await;
    g.advance(Duration::from_secs(29));
    g.status(&soon, "scheduled").await;
    g.advance(Duration::from_secs(1));
    let ended = g.status(&soon, "completed").await;
    assert_eq!(ended["output"], "soon");
    g.advance(Duration::from_secs(3 * 3600 - 60));
    g.status(&late, "scheduled").await;
    g.advance(Duration::from_secs(60));
    assert_eq!(g.status(&late, "completed").await["output"], "late");
    assert_eq!(handler.count(), 3);
    let gone = g.run("f", json!({"delay": "9h"})).await;
    g.post(&format!("/v1/runs/{gone}/cancel"), json!({})).await;
    g.status(&gone, "cancelled").await;
    assert_eq!(handler.count(), 3, "who was never invoked has nothing to compensate");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_its_deadline_whatever_it_does() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["function"].as_str() {
        Some("hangs") => Answer::Hang,
        Some("fails") => Answer::status(500),
        _ => json!({"ops": [{"op": "signal", "id": "s", "name": "s"}], "await": "s"}).into(),
    })
    .await;
    let functions = json!([
        {"name": "waits", "timeouts": {"run": "2h"}}, "hangs", "fails", "parked"
    ]);
    g.register(&handler, functions).await;
    let timeouts = json!({"timeouts": {"run": "PT20S"}});
    let far = g.run("waits", json!({})).await;
    let near = g.run("waits", timeouts.clone()).await;
    let hangs = g.run("hangs", timeouts.clone()).await;
    let fails = g.run("fails", timeouts.clone()).await;
    let paused = g.run("waits", timeouts.clone()).await;
    let delayed = json!({"timeouts": {"run": "20s"}, "delay": "30s"});
    let delayed = g.run("waits", delayed).await;
    for (run, status) in
        [(&near, "waiting"), (&hangs, "running"), (&fails, "retrying"), (&paused, "waiting")]
    {
        g.status(run, status).await;
    }
    g.post(&format!("/v1/runs/{paused}/pause"), json!({})).await;
    g.advance(Duration::from_secs(19));
    g.status(&near, "waiting").await;
    g.advance(Duration::from_secs(1));
    for run in [&near, &hangs, &fails, &paused] {
        let view = g.status(run, "timed_out").await;
        assert_eq!(view["error"]["type"], "run-timed-out", "{view}");
    }
    g.advance(Duration::from_secs(10));
    g.status(&delayed, "waiting").await;
    g.advance(Duration::from_secs(20));
    g.status(&delayed, "timed_out").await;
    g.status(&far, "waiting").await;
    g.advance(Duration::from_secs(7200));
    g.status(&far, "timed_out").await;
    g.close().await;
}

// P3.32, P3.23, P9.3
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_silent_too_long_is_repeated_with_a_new_epoch() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| match it["invocation"]["attempt"].as_i64() {
        Some(1) => Answer::Hang,
        _ => json!({"result": "second"}).into(),
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let run = g.run("f", json!({"timeouts": {"invocation": "150ms"}})).await;
    let view = g.status(&run, "retrying").await;
    assert_eq!(view["attention"]["code"], "invocation-failing", "{view}");
    let detail = view["attention"]["detail"].as_str().expect("words");
    assert!(detail.contains("silent"), "{detail}");
    assert!(moment(&view["attention"]["next_attempt_at"]) > g.clock.lower());
    g.advance(Duration::from_secs(1));
    assert_eq!(g.status(&run, "completed").await["output"], "second");
    let all = handler.invocations();
    let numbers =
        |it: &Value| (it["invocation"]["epoch"].as_i64(), it["invocation"]["attempt"].as_i64());
    assert!(numbers(&all[1]).0 > numbers(&all[0]).0, "epochs grow");
    assert_eq!((numbers(&all[0]).1, numbers(&all[1]).1), (Some(1), Some(2)));
    assert_eq!(all[1]["invocation"]["reason"], "retry");
    let ids: BTreeSet<_> = all.iter().map(|it| it["invocation"]["id"].as_str()).collect();
    assert_eq!(ids.len(), 2, "one id for each exchange");
    assert_eq!(g.happened(&run, "invocation.failed").await.len(), 1);
    g.close().await;
}
