//! Deployments of endpoints, and what went over the wire to them.

use super::*;

#[tokio::test]
async fn old_deployments_are_listed_waited_for_and_pruned() {
    let (url, seen) = gateway(|uri, _| {
        let deployments = r#"{"data": [
            {"id": "dep_2", "current": true, "version": "9f3c", "url": "http://new/", "drained": false,
             "runs": {"live": 1, "pinned": 0, "running": 1}, "created_at": "2026-11-26T01:00:00Z"},
            {"id": "dep_1", "current": false, "version": null, "url": "http://old/", "drained": true,
             "runs": {"live": 0, "pinned": 0, "running": 0}, "created_at": "2026-11-20T09:00:00Z"}]}"#;
        Some(match uri {
            uri if uri.ends_with("/repin") => json(200, r#"{"moved": 3, "left": 1}"#),
            uri if uri.ends_with("/prune") => json(200, r#"{"pruned": ["dep_1"]}"#),
            uri if uri.contains("/deployments") => json(200, deployments),
            _ => json(200, r#"{"id": "end_1", "functions": ["order", "refund"]}"#),
        })
    })
    .await;
    let (_, out, _) = run(&url, "endpoint get shop").await;
    assert!(out.contains("functions  order, refund"), "{out}");
    let (exit, out, err) = run(&url, "endpoint deployments shop").await;
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains("current") && out.contains("drained"), "{out}");
    let (exit, _, err) = run(&url, "endpoint drain shop --wait=1ms").await;
    assert_eq!(exit, exit::TIMED_OUT, "{err}");
    assert!(err.contains("1 are live") && err.contains("1 runs are live at shop"), "{err}");
    let (_, _, err) = run(&url, "endpoint repin shop --from dep_1 --reason old").await;
    assert!(err.contains("3 runs move") && err.contains("1 stay on dep_1"), "{err}");
    let (_, out, _) = run(&url, "endpoint prune shop -o id").await;
    assert_eq!(out, "dep_1\n");
    run(&url, "endpoint set shop --header a=b --without-header c").await;
    let seen = seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last.body, r#"{"headers":{"a":"b","c":null}}"#);
    assert!(seen.iter().any(|r| r.body == r#"{"reason":"old"}"#));
}

#[tokio::test]
async fn invocations_are_listed_and_one_is_shown_as_it_went_over_the_wire() {
    let (url, _) = gateway(|uri, _| {
        let invocation = r#""id": "inv_1", "at": "2026-11-26T01:00:00Z", "duration_ms": 41, "run": "run_1",
            "function": "order", "step": "charge", "deployment": "dep_1", "transport": "respond",
            "status": 503, "outcome": "failed", "detail": "the handler answered 503",
            "request_bytes": 9, "answer_bytes": 4"#;
        let part = r#"{"headers": {"x-a": "b\u001b[2J"}, "bytes": 9000, "body": "{\u001b[2J", "cut": true}"#;
        Some(if uri.ends_with("/inv_1") {
            json(200, &format!("{{{invocation}, \"request\": {part}, \"answer\": null}}"))
        } else {
            json(200, &format!("{{\"data\": [{{{invocation}}}], \"open\": 2, \"invocations\": 1204, \"failed\": 3, \"p50_ms\": 38.2, \"p95_ms\": null, \"minutes\": [], \"bounds\": [], \"unreached\": 1}}"))
        })
    })
    .await;
    let (exit, out, err) = run(&url, "endpoint invocations shop").await;
    assert_eq!(exit, 0, "{err}");
    assert!(out.contains("charge") && out.contains("the handler answered 503"), "{out}");
    for part in
        ["1204 invocations, 3 failed", "at most 38 ms", "2 out now", "1 nodes did not answer"]
    {
        assert!(err.contains(part), "{err}");
    }
    let (_, out, _) = run(&url, "endpoint invocations shop -o id").await;
    assert_eq!(out, "inv_1\n");
    let (exit, out, err) = run(&url, "endpoint invocations shop inv_1").await;
    assert_eq!(exit, 0, "{err}");
    for part in ["order, step charge", "request, 9000 bytes", "  x-a: b", "(cut here)", "no answer"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(!out.contains('\u{1b}'), "{out}");
}
