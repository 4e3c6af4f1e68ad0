//! Starts that stand in a file.

use super::*;

#[tokio::test]
async fn a_batch_is_a_file_of_starts_and_tells_what_was_refused() {
    let file = std::env::temp_dir().join(format!("stepwell-batch-{}.jsonl", std::process::id()));
    let lines = "{\"function\": \"a\",  \"input\": 1.0}\n\n{\"function\":\"b\"}\n".repeat(501);
    std::fs::write(&file, lines).unwrap();
    let (url, seen) = gateway(|uri, before| {
        assert_eq!(uri, "/v1/runs/batch");
        let item = format!(r#"{{"status":202,"run":{},"problem":null}}"#, run_json("queued", ""));
        let bad =
            r#"{"status":404,"run":null,"problem":{"code":"function-not-found","detail":"no b"}}"#;
        let data = if before == 0 { vec![item.as_str(); 1000] } else { vec![&item, bad] };
        Some(json(202, &format!(r#"{{"data":[{}]}}"#, data.join(","))))
    })
    .await;
    let path = file.to_str().unwrap();
    let args = ["run", "start", "--batch", path, "--idempotency-key", "k"];
    let (exit, out, err) = run_args(&url, &args).await;
    assert!(exit == exit::FAILURE && err.contains("1 of 1002 starts"), "{err}");
    assert!(out.contains("1503") && out.contains("function-not-found: no b"), "{out}");
    let seen = seen.lock().unwrap();
    assert!(
        seen[0].body.starts_with(r#"{"runs":[{"function": "a",  "input": 1.0},{"function":"b"},"#)
    );
    assert_eq!(seen[1].body, r#"{"runs":[{"function": "a",  "input": 1.0},{"function":"b"}]}"#);
    let keys: Vec<_> = seen.iter().map(|s| s.idempotency_key.clone().unwrap()).collect();
    assert_eq!(keys, ["k.0", "k.1"]);
    std::fs::remove_file(file).unwrap();
}
