//! What answers are taken, and what is said of those that are not.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::machine::{Again, Ask, Moment, Outcome};

fn parse(json: &str) -> Result<Answer, BadAnswer> {
    parse_answer(&Bytes::copy_from_slice(json.as_bytes()), &Limits::default())
}

fn taken(json: &str) -> Answer {
    parse(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

fn malformed(json: &str) -> String {
    match parse(json) {
        Err(BadAnswer::Malformed(said)) => said,
        other => panic!("{json}: {other:?}"),
    }
}

fn op(json: &str) -> Op {
    taken(&format!(r#"{{"ops":[{json}]}}"#)).ops.remove(0)
}

fn bad_op(json: &str) -> String {
    malformed(&format!(r#"{{"ops":[{json}]}}"#))
}

#[test]
fn payloads_are_slices_of_the_body_byte_for_byte() {
    let json = r#"{"ops":[{"op":"run","id":"a","value": {"n": 3544790567247868102,  "f":1.0e5} }], "result":[ 1 ,"\u00e4"]}"#;
    let body = Bytes::copy_from_slice(json.as_bytes());
    let answer = parse_answer(&body, &Limits::default()).expect("an answer");
    let Op::Run { outcome: Outcome::Value(value), .. } = &answer.ops[0] else { panic!() };
    assert_eq!(&value[..], br#"{"n": 3544790567247868102,  "f":1.0e5}"#);
    assert!(body.as_ptr_range().contains(&value.as_ptr()), "not copied");
    let Some(Terminal::Result(result)) = &answer.terminal else { panic!() };
    assert_eq!(&result[..], br#"[ 1 ,"\u00e4"]"#);
}

// P5.4
#[test]
fn null_is_a_value_and_nothing_is_null() {
    for json in [
        r#"{"op":"run","id":"a","value":null}"#,
        r#"{"op":"run","id":"a"}"#,
        r#"{"id":"a","ms":null,"retry":null,"attempt":null,"input_hash":null,"op":"run"}"#,
    ] {
        let Op::Run { id, outcome: Outcome::Value(value), ms: 0, retry: None, .. } = op(json)
        else {
            panic!("{json}")
        };
        assert_eq!((id.as_str(), &value[..]), ("a", &b"null"[..]), "{json}");
    }
    let answer = taken(r#"{"result": null}"#);
    assert!(matches!(answer.terminal, Some(Terminal::Result(v)) if &v[..] == b"null"));
    assert!(taken("{}").terminal.is_none());
    assert!(bad_op(r#"{"op":"run","id":"a","value":null,"error":{}}"#).contains("not both"));
    assert!(bad_op(r#"{"op":"run","id":"a","error":null}"#).contains("must be an object"));
}

// P5.4, P5.5, P5.6, P5.9, P5.10, P5.12, P5.21, P5.22, P5.30
#[test]
fn every_op_is_read() {
    let run = op(
        r#"{"op":"run","id":"a","error":{"type":"E","message":"m","data":[1],"retry":"never","after_ms":5},
            "ms":12.6,"attempt":2,"input_hash":"x","retry":{"max_attempts":3,"initial":"1s"}}"#,
    );
    let Op::Run { outcome: Outcome::Error(error), ms: 13, retry: Some(retry), .. } = run else {
        panic!("{run:?}")
    };
    assert_eq!((error.kind.as_str(), error.retry, error.after_ms), ("E", Again::Never, Some(5)));
    assert_eq!((retry.max_attempts, retry.initial), (Some(3), Some(Duration::from_secs(1))));
    assert!(matches!(op(r#"{"op":"start","id":"a"}"#), Op::Start { id } if id == "a"));
    let json = r#"{"op":"sleep", "id":"a","for":"200ms"}"#;
    let Op::Ask { ask: Ask::Sleep(Moment::For(d)), raw, .. } = op(json) else { panic!() };
    assert_eq!((d, &raw[..]), (Duration::from_millis(200), json.as_bytes()));
    let until = op(r#"{"op":"sleep","id":"a","until":"2026-11-23T09:00:00+01:00"}"#);
    assert!(matches!(until, Op::Ask { ask: Ask::Sleep(Moment::Until(_)), .. }));
    let Op::Ask { ask, .. } = op(r#"{"op":"signal","id":"a","name":"ok","timeout":"7d"}"#) else {
        panic!()
    };
    let week = Some(Duration::from_hours(168));
    assert_eq!(ask, Ask::Signal { name: "ok".to_owned(), timeout: week });
    let Op::Ask { ask, .. } =
        op(r#"{"op":"callback","id":"a","timeout":null,"heartbeat":"PT30S"}"#)
    else {
        panic!()
    };
    let heartbeat = Some(Duration::from_secs(30));
    assert_eq!(ask, Ask::Callback { timeout: None, heartbeat });
    assert!(matches!(op(r#"{"op":"status","value":null}"#), Op::Status(v) if &v[..] == b"null"));
    let Op::Tags(tags) = op(r#"{"op":"tags","value":{"a":"b","c":null}}"#) else { panic!() };
    assert_eq!(tags, [("a".to_owned(), Some("b".to_owned())), ("c".to_owned(), None)]);
    let log = op(r#"{"op":"log","message":"x\u0000y","fields":{"a":1}}"#);
    let Op::Log { level, message, fields: Some(fields) } = log else { panic!() };
    assert_eq!(
        (level.as_str(), message.as_str(), &fields[..]),
        ("info", "x\u{fffd}y", &b"{\"a\":1}"[..])
    );
}

#[test]
fn an_error_that_was_shown_may_be_passed_on() {
    let json = r#"{"error":{"type":"SmtpError","message":"…","attempts":5,"stack":null}}"#;
    let Some(Terminal::Error(error)) = taken(json).terminal else { panic!() };
    assert_eq!((error.kind.as_str(), error.attempts, error.stack), ("SmtpError", None, None));
    let Some(Terminal::Error(error)) = taken(r#"{"error":{}}"#).terminal else { panic!() };
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("Error", ""));
}

// P3.1
#[test]
fn an_answer_ends_in_one_way() {
    assert!(matches!(taken(r#"{"yield":true}"#).terminal, Some(Terminal::Yield)));
    let tree = taken(r#"{"await":{"all":["a",{"any":["b","c"]}]}}"#).terminal;
    assert!(matches!(tree, Some(Terminal::Await(t)) if t.steps() == ["a", "b", "c"]));
    for (json, input) in
        [(r#"{"continue":{"input": [1.0] }}"#, "[1.0]"), (r#"{"continue":{}}"#, "null")]
    {
        let next = taken(json).terminal;
        assert!(
            matches!(&next, Some(Terminal::Continue(it)) if &it[..] == input.as_bytes()),
            "{next:?}"
        );
    }
    let long = format!(r#"{{"continue":{{"input":"{}"}}}}"#, "x".repeat(1 << 20));
    let long = parse_answer(&Bytes::from(long), &Limits::default());
    assert!(matches!(long, Err(BadAnswer::TooLarge { limit: 1_048_576, .. })), "{long:?}");
    for (json, word) in [
        (r#"{"result":1,"error":{}}"#, "`result` and `error`"),
        (r#"{"await":"a","yield":true}"#, "`await` and `yield`"),
        (r#"{"result":1,"result":1}"#, "given twice"),
        (r#"{"ops":[],"ops":[]}"#, "given twice"),
        (r#"{"yield":false}"#, "must be true"),
        (r#"{"continue":{"input":1},"result":1}"#, "`result` and `continue`"),
        (r#"{"continue":true}"#, "an object such as"),
        (r#"{"continue":{"inptu":1}}"#, r#"unknown field "inptu""#),
        (r#"{"reslut":1}"#, r#"unknown field "reslut""#),
        (r#"{"error":"boom"}"#, "must be an object"),
        (r#"{"error":{"typ":"E"}}"#, "typ"),
        (r#"{"await":{"any":[]}}"#, "never be satisfied"),
        (r#"{"await":null}"#, "await tree"),
        (r#"{"ops":{}}"#, "a list of ops"),
        (r#"{"ops":null}"#, "a list of ops"),
        ("", "empty"),
        (" \n", "empty"),
        ("<html>", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ("{} {}", "not JSON"),
        (r#"{"result":01}"#, "not JSON"),
    ] {
        let said = malformed(json);
        assert!(said.contains(word), "{json}: {said}");
    }
    let latin1 = Bytes::from_static(b"{\"result\":\"\xe4\"}");
    let said = parse_answer(&latin1, &Limits::default()).expect_err("not UTF-8");
    assert!(said.to_string().contains("UTF-8"));
    let zipped = Bytes::from_static(b"\x1f\x8b\x08\x00");
    let said = parse_answer(&zipped, &Limits::default()).expect_err("compressed");
    assert!(said.to_string().contains("gzip"));
}

// P2.25, P5.1
#[test]
fn errors_name_op_step_and_field() {
    let said = malformed(
        r#"{"ops":[{"op":"start","id":"a"},{"op":"start","id":"b"},{"op":"run","vlaue":1,"id":"charge"}]}"#,
    );
    assert!(said.starts_with(r#"ops[2] (step "charge"): unknown field "vlaue""#), "{said}");
    for (json, word) in [
        (r#"{"op":"run"}"#, r#"missing field "id""#),
        (r#"{"id":"a"}"#, r#"ops[0] (step "a"): missing field "op""#),
        (r#"{"op":"run","id":"a","name":"x"}"#, r#"unknown field "name""#),
        (r#"{"op":"run","id":"a","id":"b"}"#, r#""id" is given twice"#),
        (r#"{"op":"rnu","id":"a"}"#, r#"unknown op "rnu""#),
        (r#"{"op":"set","key":"a"}"#, "missing field \"value\""),
        (r#"{"op":"set","value":1}"#, "missing field \"key\""),
        (r#"{"op":"set","key":"","value":1}"#, "`key`"),
        (r#"{"op":"unset","key":"a","value":1}"#, "op `unset` has object, key"),
        (r#"{"op":"reply","id":"a"}"#, "missing field \"update\""),
        (r#"{"op":"reply","id":"a","update":"run_1"}"#, "upd_"),
        (r#"{"op":"compact"}"#, "missing field \"state\""),
        (r#"{"op":"chunk","data":1}"#, "missing field \"stream\""),
        (r#"{"op":"chunk","stream":"s"}"#, "missing field \"data\""),
        (r#"{"op":1}"#, "`op` must be a string"),
        (r#"{"op":"run","id":1}"#, "`id` must be a string"),
        (r#"{"op":"run","id":"\ud800"}"#, "`id` is not Unicode"),
        (r#"{"op":"run","id":""}"#, "empty"),
        (r#"{"op":"run","id":"a/../b"}"#, "`..`"),
        (r#"{"op":"run","id":"a\nb"}"#, "control"),
        (r#"{"op":"run","id":"a","ms":"5"}"#, "`ms` must be a number"),
        (r#"{"op":"run","id":"a","attempt":0}"#, "`attempt`"),
        (r#"{"op":"run","id":"a","input_hash":7}"#, "`input_hash` must be a string"),
        (r#"{"op":"run","id":"a","retry":{"max":1}}"#, "unknown field `max`"),
        (r#"{"op":"run","id":"a","retry":{"factor":0.5}}"#, "`retry.factor` must be"),
        (r#"{"op":"sleep","id":"a"}"#, "`for` or `until`"),
        (r#"{"op":"sleep","id":"a","for":"1s","until":"2026-11-23T09:00:00Z"}"#, "not both"),
        (r#"{"op":"sleep","id":"a","for":90}"#, "`for` must be a string"),
        (r#"{"op":"sleep","id":"a","for":"soon"}"#, "`soon` is not a duration"),
        (r#"{"op":"sleep","id":"a","until":"soon"}"#, "RFC 3339"),
        (r#"{"op":"signal","id":"a"}"#, r#"missing field "name""#),
        (r#"{"op":"signal","id":"a","name":".."}"#, "`name`"),
        (r#"{"op":"callback","id":"a","timeout":"-1s"}"#, "negative"),
        (r#"{"op":"status"}"#, r#"missing field "value""#),
        (r#"{"op":"tags","value":{"a":1}}"#, "strings or null"),
        (r#"{"op":"tags","value":{"a:b":"c"}}"#, "colon"),
        (r#"{"op":"log","message":"m","level":"loud"}"#, "`level` must be one of"),
        (r#"{"op":"log","message":"m","fields":[]}"#, "`fields` must be an object"),
        ("7", "ops[0]: an op is a JSON object"),
    ] {
        let said = bad_op(json);
        assert!(said.starts_with("ops[0]") && said.contains(word), "{json}: {said}");
    }
    let long = format!(r#"{{"op":"{}"}}"#, "x".repeat(100_000));
    assert!(bad_op(&long).len() < 400);
    let long = format!(r#"{{"op":"run","id":"a","retry":{{"{}":1}}}}"#, "x".repeat(100_000));
    assert!(bad_op(&long).len() < 600);
}

// P5.45
#[test]
fn a_step_is_reported_once_an_answer() {
    taken(r#"{"ops":[{"op":"start","id":"a"},{"op":"run","id":"a"},{"op":"run","id":"b"}]}"#);
    for pair in [
        r#"{"op":"run","id":"a"},{"op":"run","id":"\u0061"}"#,
        r#"{"op":"start","id":"a"},{"op":"start","id":"a"}"#,
        r#"{"op":"sleep","id":"a","for":"1s"},{"op":"callback","id":"a"}"#,
    ] {
        assert!(bad_op(pair).starts_with(r#"ops[1] (step "a")"#), "{pair}");
    }
    taken(r#"{"ops":[{"op":"status","value":1},{"op":"status","value":1}]}"#);
}

// P3.29, P3.31
#[test]
fn limits_are_told_from_malformed_answers_and_name_the_step() {
    let limits = Limits { value_bytes: 200, ..Limits::default() };
    let parse = |json: &str| parse_answer(&Bytes::copy_from_slice(json.as_bytes()), &limits);
    let value = |n: usize| format!("\"{}\"", "x".repeat(n - 2));
    let run = |v: &str| format!(r#"{{"ops":[{{"op":"run","id":"big","value":{v}}}]}}"#);
    assert!(parse(&run(&value(200))).is_ok());
    let said = parse(&run(&value(201))).expect_err("over the limit");
    let (step, what) = (Some("big".to_owned()), "value".to_owned());
    assert_eq!(said, BadAnswer::TooLarge { step, what, bytes: 201, limit: 200 });
    assert_eq!(said.to_string(), r#"step "big": the value is 201 bytes, over the limit of 200"#);
    assert!(said.is_limit());
    let said = parse(&format!(r#"{{"result":{}}}"#, value(300))).expect_err("over the limit");
    assert_eq!(said.to_string(), "the result is 300 bytes, over the limit of 200");
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    assert!(parse(&run(&nested(64))).is_ok());
    let said = parse(&run(&nested(65))).expect_err("too deep");
    assert_eq!(said.to_string(), r#"step "big": the value nests deeper than 64 levels"#);
    let said = parse_answer(&Bytes::from(vec![b' '; MAX_ANSWER + 1]), &limits);
    assert!(said.is_err_and(|e| e.is_limit()));
    let many = format!(r#"{{"ops":[{}{{}}]}}"#, "{},".repeat(MAX_OPS));
    let many = parse(&many).expect_err("too many");
    assert_eq!(many, BadAnswer::TooManyOps { ops: MAX_OPS + 1, limit: MAX_OPS });
    let bomb = format!(r#"{{"result":{}}}"#, nested(100_000));
    let roomy = parse_answer(&Bytes::from(bomb), &Limits::default());
    assert!(matches!(roomy, Err(BadAnswer::TooDeep { .. })));
}

fn some_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "[a-z\\\\\"/.é]{0,6}".prop_map(|s| serde_json::Value::from(s).to_string()),
        Just("\"run\"".to_owned()),
        Just("\"sleep\"".to_owned()),
        Just("\"1s\"".to_owned()),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let name = prop_oneof![
            prop::sample::select(vec![
                "ops", "result", "error", "await", "yield", "op", "id", "value", "for", "all",
                "any", "type",
            ])
            .prop_map(str::to_owned),
            "[a-z]{0,3}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| format!("[{}]", v.join(","))),
            prop::collection::vec((name, inner), 0..5).prop_map(|v| {
                let fields: Vec<_> = v.iter().map(|(n, j)| format!("\"{n}\": {j}")).collect();
                format!("{{{}}}", fields.join(", "))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_whatever_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_answer(&Bytes::from(bytes), &Limits::default());
    }

    #[test]
    fn no_json_whatever_breaks_the_reader(json in some_json()) {
        let _ = parse(&json);
    }

    #[test]
    fn every_json_value_passes_untouched(json in some_json()) {
        let answer = format!("{{\"ops\":[{{\"op\":\"run\",\"id\":\"a\",\"value\":{json}}}]}}");
        let Op::Run { outcome: Outcome::Value(value), .. } = taken(&answer).ops.remove(0) else {
            panic!("not a value")
        };
        prop_assert_eq!(&value[..], json.as_bytes());
    }
}
