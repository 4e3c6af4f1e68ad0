//! The wire of a task (`docs/protocol.md` section 6): an invocation of its own without a journal, and
//! what a handler answers to it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::BadAnswer;
use super::form::{Form, Odd};
use super::op::Source;
use crate::machine::{InvocationId, Limits, Outcome, RunId};

/// One attempt of a task. All that it holds is borrowed.
#[derive(Debug, Clone, Copy)]
pub struct TaskInvocation<'a> {
    /// The function whose run asked for it.
    pub function: &'a str,
    /// The run.
    pub run: RunId,
    /// Its namespace's name.
    pub namespace: &'a str,
    /// Its key.
    pub key: Option<&'a str>,
    /// Its generation.
    pub generation: i32,
    /// This exchange, also its `webhook-id`.
    pub invocation: InvocationId,
    /// From 1.
    pub attempt: u32,
    /// How long the handler should work on the answer at most, in milliseconds.
    pub budget_ms: u64,
    /// The step's id.
    pub step: &'a str,
    /// The op as it was recorded.
    pub op: &'a [u8],
    /// The last details that came with a sign of life of an earlier attempt, JSON.
    pub heartbeat: Option<&'a [u8]>,
    /// The gateway as handlers reach it, without a slash at the end.
    pub base: &'a str,
    /// See [`super::ClusterKeys::callback_secret`].
    pub callback_secret: &'a str,
    /// Bearer token for reading the run.
    pub token: &'a str,
}

/// What a recorded `task` op says for its handler.
#[derive(Deserialize)]
struct TaskOp<'a> {
    #[serde(borrow)]
    task: Cow<'a, str>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// The name of the task that a recorded op asks for.
pub fn task_name(op: &[u8]) -> serde_json::Result<String> {
    serde_json::from_slice::<TaskOp<'_>>(op).map(|op| op.task.into_owned())
}

/// The JSON text of a task's invocation.
pub fn write_task(it: &TaskInvocation<'_>) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Run<'a> {
        id: RunId,
        namespace: &'a str,
        key: Option<&'a str>,
        generation: i32,
    }
    #[derive(Serialize)]
    struct Turn {
        id: InvocationId,
        attempt: u32,
        budget_ms: u64,
    }
    #[derive(Serialize)]
    struct Links {
        callback: String,
        heartbeat: String,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        protocol: u32,
        r#type: &'static str,
        function: &'a str,
        task: &'a str,
        run: Run<'a>,
        invocation: Turn,
        step: &'a str,
        input: Option<&'a RawValue>,
        heartbeat: Option<&'a RawValue>,
        links: Links,
        token: &'a str,
    }
    let op: TaskOp<'_> = serde_json::from_slice(it.op)?;
    let heartbeat = it.heartbeat.map(serde_json::from_slice).transpose()?;
    let callback = format!("{}/v1/callbacks/{}/{}", it.base, it.callback_secret, in_path(it.step));
    let heartbeat_link = format!("{callback}?outcome=heartbeat");
    serde_json::to_vec(&Body {
        protocol: super::VERSION,
        r#type: "task",
        function: it.function,
        task: &op.task,
        run: Run { id: it.run, namespace: it.namespace, key: it.key, generation: it.generation },
        invocation: Turn { id: it.invocation, attempt: it.attempt, budget_ms: it.budget_ms },
        step: it.step,
        input: op.input,
        heartbeat,
        links: Links { callback, heartbeat: heartbeat_link },
        token: it.token,
    })
}

/// A step's id as the rest of a URL's path: slashes as they are.
fn in_path(id: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(id.len());
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to memory succeeds");
        }
    }
    out
}

const FIELDS: &[&str] = &["value", "error"];
const VALUE: usize = 0;
const ERROR: usize = 1;

/// Reads the answer to a task. A value is a slice of `body`, byte for byte.
pub fn parse_task_answer(body: &Bytes, limits: &Limits) -> Result<Outcome, BadAnswer> {
    let malformed = |detail: String| BadAnswer::Malformed(detail);
    let text = std::str::from_utf8(body)
        .map_err(|_| malformed("the answer is not JSON: it is not UTF-8".to_owned()))?;
    if !text.trim_start().starts_with('{') {
        let detail = "the answer to a task is a JSON object with `value` or `error`";
        return Err(malformed(detail.to_owned()));
    }
    let form =
        Form::read(FIELDS, text).map_err(|e| malformed(format!("the answer is not JSON: {e}")))?;
    match &form.odd {
        Some(odd @ Odd::Unknown(_)) => {
            let detail = format!("{odd} in the answer to a task; it has `value` or `error`");
            return Err(malformed(detail));
        }
        Some(odd @ Odd::Twice(_)) => {
            return Err(malformed(format!("{odd} in the answer to a task")));
        }
        None => {}
    }
    let from = Source { body, limits };
    match (form.get(VALUE), form.get(ERROR)) {
        (Some(raw), None) => Ok(Outcome::Value(from.keep(raw, None, "value")?)),
        (None, Some(raw)) => Ok(Outcome::Error(from.error(raw, None, malformed)?)),
        (Some(_), Some(_)) => {
            Err(malformed("an answer to a task has `value` or `error`, not both".to_owned()))
        }
        (None, None) => {
            Err(malformed("the answer to a task has neither `value` nor `error`".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::machine::Timestamp;

    fn parse(text: &str) -> Result<Outcome, BadAnswer> {
        parse_task_answer(&Bytes::copy_from_slice(text.as_bytes()), &Limits::default())
    }

    #[test]
    fn a_task_is_written_as_the_protocol_says() {
        let at = Timestamp::from_micros(1_795_424_400_123_000);
        let it = TaskInvocation {
            function: "checkout",
            run: RunId::new(at, 1),
            namespace: "default",
            key: None,
            generation: 1,
            invocation: InvocationId::new(at, 3),
            attempt: 2,
            budget_ms: 55_000,
            step: "resize/3 ü",
            op: br#"{"op":"task","id":"resize/3","task":"resi\u007ae","input":{"n":  3544790567247868102}}"#,
            heartbeat: Some(b"{\"done\":1.0}"),
            base: "https://gw",
            callback_secret: "s3cret",
            token: "t",
        };
        let text = String::from_utf8(write_task(&it).expect("an op")).expect("UTF-8");
        assert!(text.contains("{\"n\":  3544790567247868102}"), "input as it came: {text}");
        let got: Value = serde_json::from_str(&text).expect("JSON");
        let callback = "https://gw/v1/callbacks/s3cret/resize/3%20%C3%BC";
        assert_eq!(
            got,
            json!({
                "protocol": 1, "type": "task", "function": "checkout", "task": "resize",
                "run": {"id": it.run.to_string(), "namespace": "default", "key": null, "generation": 1},
                "invocation": {"id": it.invocation.to_string(), "attempt": 2, "budget_ms": 55000},
                "step": "resize/3 ü", "input": {"n": 3_544_790_567_247_868_102_i64},
                "heartbeat": {"done": 1.0},
                "links": {"callback": callback, "heartbeat": format!("{callback}?outcome=heartbeat")},
                "token": "t"
            })
        );
        assert_eq!(task_name(it.op).expect("an op"), "resize");
    }

    #[test]
    fn an_answer_is_a_value_or_an_error_and_nothing_else() {
        assert!(matches!(parse(r#"{"value": null}"#), Ok(Outcome::Value(v)) if &v[..] == b"null"));
        let Ok(Outcome::Error(error)) = parse(r#"{"error":{"type":"E","after_ms":5}}"#) else {
            panic!()
        };
        assert_eq!((error.kind.as_str(), error.after_ms), ("E", Some(5)));
        for (text, says) in [
            ("", "JSON object"),
            ("[1]", "JSON object"),
            ("{}", "neither"),
            (r#"{"value":1,"error":{}}"#, "not both"),
            (r#"{"result":1}"#, "\"result\""),
            (r#"{"ops":[]}"#, "\"ops\""),
            (r#"{"value":1,"value":2}"#, "twice"),
            (r#"{"error":1}"#, "object"),
        ] {
            let said = parse(text).expect_err(text).to_string();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
