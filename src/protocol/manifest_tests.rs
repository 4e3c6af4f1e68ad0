//! Manifests: what is read, what is left out, what is refused and where.

use super::*;

const FULL: &str = r#"{"protocol": [1, 1], "sdk": "stepwell-python/0.1.0", "version": "git-sha",
    "transports": ["respond", "checkpoint"], "pages": true, "max_inline_bytes": 1048576,
    "functions": [{"name": "checkout", "kind": "function", "tasks": ["resize"],
      "input_schema": {"type": "object"},
      "retry": {"max_attempts": 10, "initial": "500ms", "factor": 2, "max_interval": "60s"},
      "invocation_retry": {}, "run_retry": {"max_attempts": 1},
      "timeouts": {"run": "30d", "invocation": "60s"}, "concurrency": [{"limit": 3}],
      "triggers": [{"event": "order.created"}], "versioning": "latest"}]}"#;

fn with(function: &str) -> String {
    format!(r#"{{"protocol": [1, 1], "functions": [{{"name": "ok"}}, {function}]}}"#)
}

// P4.1, P8.1
#[test]
fn the_protocols_example_is_read_and_kept() {
    let manifest = Manifest::parse(FULL.as_bytes()).expect("a manifest");
    let checkout = manifest.function("checkout").expect("there");
    assert_eq!(checkout.timeouts.run, Some(Duration::from_hours(30 * 24)));
    assert_eq!(checkout.retry.and_then(|r| r.initial), Some(Duration::from_millis(500)));
    assert_eq!(manifest.transports, [Transport::Respond, Transport::Checkpoint]);
    let raw = |r: &Option<Box<RawValue>>| r.as_ref().map(|r| r.get().to_owned());
    assert_eq!(raw(&checkout.triggers).as_deref(), Some(r#"[{"event": "order.created"}]"#));
    let stored = serde_json::to_string(&manifest).expect("JSON");
    let again: Manifest = serde_json::from_str(&stored).expect("what was stored");
    assert_eq!(again.content_hash(), manifest.content_hash());
    assert_eq!(serde_json::to_string(&again).expect("JSON"), stored);
}

// P4.2, P8.3, P8.12
#[test]
fn what_is_left_out_has_the_default() {
    let short = Manifest::parse(br#"{"protocol":[1,3],"functions":[{"name":"f"}]}"#);
    let short = short.expect("a manifest");
    assert!(!short.pages && short.max_inline_bytes == DEFAULT_INLINE);
    assert_eq!(short.functions[0].versioning, Versioning::Latest);
    let listed = Manifest::listed(vec![FunctionSpec::named("f")]);
    assert_eq!(listed.check(), Ok(()));
    let said = Manifest { protocol: (1, 3), ..listed };
    assert_eq!(said.content_hash(), short.content_hash());
}

// P8.5, P8.8
#[test]
fn the_hash_is_of_the_content_and_not_of_its_form() {
    let hash = |json: &str| Manifest::parse(json.as_bytes()).expect(json).content_hash();
    let a = r#"{"protocol":[1,1],"functions":[{"name":"a","input_schema":{"x":1,"y":2}},{"name":"b"}]}"#;
    let b = r#"{"functions":[{"name":"b","kind":"function","retry":null},
        {"input_schema":{"y":2, "x":1},"name":"a"}],"protocol":[1,1],"transports":["respond"]}"#;
    assert_eq!(hash(a), hash(b));
    for other in [
        a.replace(r#""x":1"#, r#""x":2"#),
        a.replace(r#""name":"b""#, r#""name":"c""#),
        a.replace(r#""name":"b""#, r#""name":"b","timeouts":{"run":"1d"}"#),
        a.replace(r#"{"protocol""#, r#"{"version":"2","protocol""#),
    ] {
        assert_ne!(hash(a), hash(&other), "{other}");
    }
}

#[test]
fn errors_name_the_place() {
    for (json, pointer, word) in [
        ("<html>".to_owned(), "", "not a manifest"),
        (r#"{"functions":[{"name":"f"}]}"#.to_owned(), "", "protocol"),
        (r#"{"protocol":[2,3],"functions":[{"name":"f"}]}"#.to_owned(), "/protocol", "2 to 3"),
        (r#"{"protocol":[3,1],"functions":[{"name":"f"}]}"#.to_owned(), "/protocol", "range"),
        (r#"{"protocol":[1,1],"functions":[]}"#.to_owned(), "/functions", "at least one"),
        (
            r#"{"protocol":[1,1],"max_inline_bytes":9,"functions":[{"name":"f"}]}"#.to_owned(),
            "/max_inline_bytes",
            "between",
        ),
        (
            r#"{"protocol":[1,1],"transports":["pigeon"],"functions":[{"name":"f"}]}"#.to_owned(),
            "",
            "pigeon",
        ),
        (r#"{"protocol":[1,1],"funcs":[]}"#.to_owned(), "", "funcs"),
        (with(r#"{"name":"f","shared":true}"#), "/functions/1/shared", "alone"),
        (with(r#"{"name":"f","object":"a"}"#), "/functions/1/object", "alone"),
        (with(r#"{"name":"f","kind":"object","object":"a"}"#), "/functions/1/object", "shared"),
        (with(r#"{"name":"f","kind":"object","shared":true}"#), "/functions/1/object", "needs"),
        (
            with(r#"{"name":"f","kind":"object","triggers":[{"event":"e"}]}"#),
            "/functions/1/triggers",
            "key",
        ),
        (with(r#"{"name":"f","kind":"cron"}"#), "/functions/1/kind", "unknown kind"),
        (with(r#"{"name":"f","path":"/x"}"#), "/functions/1/path", "plain functions alone"),
        (with(r#"{"name":"f","kind":"plain","path":"x"}"#), "/functions/1/path", "one slash"),
        (with(r#"{"name":"f","kind":"plain","path":"//x"}"#), "/functions/1/path", "one slash"),
        (with(r#"{"name":"f","kind":"plain","path":"/\\x"}"#), "/functions/1/path", "one slash"),
        (with(r#"{"name":"f","kind":"plain","path":"/x y"}"#), "/functions/1/path", "spaces"),
        (with(r#"{"name":"f","kind":"plain","strict":true}"#), "/functions/1/strict", "`retry`"),
        (
            with(r#"{"name":"f","kind":"plain","run_retry":{}}"#),
            "/functions/1/run_retry",
            "`retry`",
        ),
        (with(r#"{"name":"f","kind":"plain","tasks":[]}"#), "/functions/1/tasks", "no meaning"),
        (with(r#"{"name":"f","versioning":"x"}"#), "/functions/1", "pinned"),
        (with(r#"{"name":"f","retry":{"max_atempts":3}}"#), "/functions/1", "max_atempts"),
        (with(r#"{"name":"f","retry":{"factor":0}}"#), "/functions/1/retry/factor", "\"f\""),
        (with(r#"{"name":"f","timeouts":{"run":"soon"}}"#), "/functions/1", "soon"),
        (with(r#"{"name":"f","timeouts":{"run":"0s"}}"#), "/functions/1/timeouts/run", "least"),
        (with(r#"{"name":""}"#), "/functions/1/name", "empty"),
        (with(r#"{"kind":"function"}"#), "/functions/1", "name"),
        (with(r#"{"name":"f","tasks":["\ud800"]}"#), "/functions/1/tasks", "escape"),
        (with(r#"{"name":"f","input_schema":1e999}"#), "/functions/1/input_schema", "out of range"),
        (
            with(&format!(r#"{{"name":"f","triggers":{}1{}}}"#, "[".repeat(200), "]".repeat(200))),
            "/functions/1/triggers",
            "recursion",
        ),
        (with(r#"{"name":"ok"}"#), "/functions/1/name", "twice"),
    ] {
        let said = Manifest::parse(json.as_bytes()).expect_err(&json);
        assert_eq!(said.pointer, pointer, "{said}");
        assert!(said.detail.contains(word), "{said}");
    }
}
