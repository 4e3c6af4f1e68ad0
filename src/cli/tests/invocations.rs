//! `stepwell endpoint invocations`, against a gateway that says what a test wants.

use super::{gateway, json, run};

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
