//! Writes what is sent to a handler: the invocation of `docs/protocol.md` section 2, straight into
//! one buffer, because this is done for every exchange.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::machine::{DeploymentId, Fired, InvocationId, ObjectName, OpKind, RunId, Timestamp};

/// One invocation of a run. All that it holds is borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    /// The function's name.
    pub function: &'a str,
    /// A question about the run, in place of its next turn.
    pub query: Option<Query<'a>>,
    /// The run.
    pub run: RunHead<'a>,
    /// This exchange.
    pub turn: Turn<'a>,
    /// The run's input, JSON.
    pub input: &'a [u8],
    /// The object that the run has a part in: its key and its state, JSON.
    pub object: Option<(&'a str, &'a [u8])>,
    /// The objects of its locks, each with its state, JSON.
    pub locks: &'a [(&'a ObjectName, Vec<u8>)],
    /// What stands for the steps that a compaction has taken away, JSON.
    pub state: Option<&'a [u8]>,
    /// The settled steps as [`push_settled`] wrote them; may be empty.
    pub settled: &'a [u8],
    /// What is asked for and not settled.
    pub pending: &'a [Pending<'a>],
    /// The `seq` of the last settled step that is sent.
    pub upto: i32,
    /// Whether the journal goes on at `links.journal`.
    pub more: bool,
    /// Whether the run had better continue as new before long.
    pub long: bool,
    /// By name, how many signals were accepted and not yet taken.
    pub inbox: &'a [(&'a str, u32)],
    /// Set once a cancel was taken.
    pub cancel: Option<CancelNotice<'a>>,
    /// Where the handler reaches the gateway.
    pub links: Links<'a>,
    /// Bearer token for the links.
    pub token: &'a str,
}

/// A question about a run.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// What is asked.
    pub name: &'a str,
    /// JSON.
    pub args: &'a [u8],
}

/// What is the same in every invocation of a generation.
#[derive(Debug, Clone, Copy)]
pub struct RunHead<'a> {
    /// Its id.
    pub id: RunId,
    /// Its namespace's name.
    pub namespace: &'a str,
    /// Its key.
    pub key: Option<&'a str>,
    /// From 1.
    pub generation: i32,
    /// The deployment that is invoked.
    pub deployment: DeploymentId,
    /// A handler's deterministic clock.
    pub created_at: Timestamp,
    /// A handler's deterministic source of chance.
    pub seed: &'a str,
    /// Its tags.
    pub tags: &'a BTreeMap<String, String>,
    /// The run that started it, and the step that did.
    pub parent: Option<(RunId, &'a str)>,
    /// The firing of a schedule that it comes of.
    pub schedule: Option<&'a Fired>,
}

/// What is new in every invocation.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// The exchange's id, also its `webhook-id`.
    pub id: InvocationId,
    /// The fence.
    pub epoch: i32,
    /// 1, and more after failed exchanges.
    pub attempt: u32,
    /// `start`, `progress`, `retry`, `yield`, `signal`, `cancel`, `manual` or `replay`.
    pub reason: &'a str,
    /// `respond`, `stream` or `duplex`.
    pub transport: &'a str,
    /// How long the handler should work at most, in milliseconds.
    pub budget_ms: u64,
}

/// A step that is asked for and not settled.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its op.
    pub op: OpKind,
    /// Whether an at-most-once step was licensed to run.
    pub started: bool,
    /// While it waits for its next attempt: attempts so far, the last error (JSON), the next moment.
    pub retry: Option<(u32, &'a [u8], Timestamp)>,
}

/// A cancel, as the handler is told of it.
#[derive(Debug, Clone, Copy)]
pub struct CancelNotice<'a> {
    /// Why, if somebody said.
    pub reason: Option<&'a str>,
    /// The run ends then, whatever the handler does.
    pub deadline: Timestamp,
}

/// What the links are made of.
#[derive(Debug, Clone, Copy)]
pub struct Links<'a> {
    /// The gateway as handlers reach it, without a slash at the end.
    pub base: &'a str,
    /// See [`super::ClusterKeys::callback_secret`].
    pub callback_secret: &'a str,
}

/// How a step settled, as it is shown.
#[derive(Debug, Clone, Copy)]
pub enum Settled<'a> {
    /// With a value, JSON.
    Value(&'a [u8]),
    /// With an error, JSON.
    Error(&'a [u8]),
    /// With a value that is fetched from `links.values`.
    Ref {
        /// Its size.
        bytes: usize,
        /// Its SHA-256.
        sha256: &'a [u8; 32],
    },
}

/// Room for all but payloads.
const HEAD: usize = 1280;

/// The JSON text of an invocation.
#[must_use]
pub fn write_invocation(it: &Invocation<'_>) -> Vec<u8> {
    let size = HEAD + it.input.len() + it.settled.len() + it.pending.len() * 256;
    let mut out = Vec::with_capacity(size);
    let kind = if it.query.is_some() { "query" } else { "run" };
    raw(&mut out, r#"{"protocol":1,"type":""#);
    raw(&mut out, kind);
    raw(&mut out, r#"","function":"#);
    json(&mut out, it.function);
    if let Some(query) = it.query {
        raw(&mut out, r#","query":{"name":"#);
        json(&mut out, query.name);
        raw(&mut out, r#","args":"#);
        out.extend_from_slice(query.args);
        out.push(b'}');
    }
    write_run(&mut out, &it.run);
    write_turn(&mut out, &it.turn);
    raw(&mut out, r#","input":"#);
    out.extend_from_slice(it.input);
    if let Some(state) = it.state {
        raw(&mut out, r#","state":"#);
        out.extend_from_slice(state);
    }
    raw(&mut out, r#","steps":{"#);
    out.extend_from_slice(it.settled);
    for (i, step) in it.pending.iter().enumerate() {
        if i > 0 || !it.settled.is_empty() {
            out.push(b',');
        }
        write_pending(&mut out, step);
    }
    raw(&mut out, r#"},"journal":{"upto":"#);
    json(&mut out, it.upto);
    raw(&mut out, r#","more":"#);
    json(&mut out, it.more);
    if it.long {
        raw(&mut out, r#","continue_suggested":true"#);
    }
    raw(&mut out, r#"},"inbox":"#);
    write_inbox(&mut out, it.inbox);
    raw(&mut out, r#","object":"#);
    match it.object {
        None => raw(&mut out, "null"),
        Some((key, state)) => {
            raw(&mut out, r#"{"key":"#);
            json(&mut out, key);
            raw(&mut out, r#","state":"#);
            out.extend_from_slice(state);
            out.push(b'}');
        }
    }
    if !it.locks.is_empty() {
        write_locks(&mut out, it.locks);
    }
    raw(&mut out, r#","cancel":"#);
    write_cancel(&mut out, it.cancel.as_ref());
    write_links(&mut out, it.run.id, &it.links);
    raw(&mut out, r#","token":"#);
    json(&mut out, it.token);
    out.push(b'}');
    out
}

fn write_locks(out: &mut Vec<u8>, locks: &[(&ObjectName, Vec<u8>)]) {
    raw(out, r#","objects":["#);
    for (i, (object, state)) in locks.iter().enumerate() {
        raw(out, if i > 0 { r#",{"function":"# } else { r#"{"function":"# });
        json(out, &object.function);
        raw(out, r#","key":"#);
        json(out, &object.key);
        raw(out, r#","state":"#);
        out.extend_from_slice(state);
        out.push(b'}');
    }
    out.push(b']');
}

/// The JSON text of an object's state.
#[must_use]
pub fn write_state<'a>(fields: impl Iterator<Item = (&'a str, &'a bytes::Bytes)>) -> Vec<u8> {
    let mut out = vec![b'{'];
    for (i, (field, value)) in fields.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json(&mut out, field);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out
}

/// The JSON text that asks an endpoint for its manifest.
#[must_use]
pub fn write_discover() -> Vec<u8> {
    br#"{"protocol":1,"type":"discover"}"#.to_vec()
}

/// Adds one settled step to a fragment of `steps`, in commit order.
pub fn push_settled(fragment: &mut Vec<u8>, id: &str, seq: i32, op: OpKind, outcome: Settled<'_>) {
    if !fragment.is_empty() {
        fragment.push(b',');
    }
    json(fragment, id);
    raw(fragment, r#":{"seq":"#);
    json(fragment, seq);
    raw(fragment, r#","op":""#);
    raw(fragment, op.word());
    match outcome {
        Settled::Value(value) => {
            raw(fragment, r#"","value":"#);
            fragment.extend_from_slice(value);
        }
        Settled::Error(error) => {
            raw(fragment, r#"","error":"#);
            fragment.extend_from_slice(error);
        }
        Settled::Ref { bytes, sha256 } => {
            raw(fragment, r#"","ref":{"bytes":"#);
            json(fragment, bytes);
            raw(fragment, r#","sha256":""#);
            for byte in sha256 {
                raw(fragment, &format!("{byte:02x}"));
            }
            raw(fragment, r#""}"#);
        }
    }
    fragment.push(b'}');
}

fn write_run(out: &mut Vec<u8>, run: &RunHead<'_>) {
    let id = run.id.to_string();
    raw(out, r#","run":{"id":""#);
    raw(out, &id);
    raw(out, r#"","namespace":"#);
    json(out, run.namespace);
    raw(out, r#","key":"#);
    json(out, run.key);
    raw(out, r#","generation":"#);
    json(out, run.generation);
    raw(out, r#","deployment":"#);
    json(out, run.deployment);
    raw(out, r#","created_at":"#);
    json(out, run.created_at);
    raw(out, r#","seed":"#);
    json(out, run.seed);
    raw(out, r#","idempotency_prefix":""#);
    raw(out, &id);
    out.push(b'.');
    json(out, run.generation);
    raw(out, r#"/","parent":"#);
    match run.parent {
        None => raw(out, "null"),
        Some((parent, step)) => {
            raw(out, r#"{"run":"#);
            json(out, parent);
            raw(out, r#","step":"#);
            json(out, step);
            out.push(b'}');
        }
    }
    if let Some(fired) = run.schedule {
        raw(out, r#","schedule":"#);
        json(out, fired);
    }
    raw(out, r#","tags":"#);
    json(out, run.tags);
    out.push(b'}');
}

fn write_turn(out: &mut Vec<u8>, turn: &Turn<'_>) {
    raw(out, r#","invocation":{"id":"#);
    json(out, turn.id);
    raw(out, r#","epoch":"#);
    json(out, turn.epoch);
    raw(out, r#","attempt":"#);
    json(out, turn.attempt);
    raw(out, r#","reason":"#);
    json(out, turn.reason);
    raw(out, r#","transport":""#);
    raw(out, turn.transport);
    raw(out, r#"","budget_ms":"#);
    json(out, turn.budget_ms);
    out.push(b'}');
}

pub(super) fn write_inbox(out: &mut Vec<u8>, inbox: &[(&str, u32)]) {
    out.push(b'{');
    for (i, (name, count)) in inbox.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json(out, name);
        out.push(b':');
        json(out, count);
    }
    out.push(b'}');
}

pub(super) fn write_cancel(out: &mut Vec<u8>, cancel: Option<&CancelNotice<'_>>) {
    let Some(cancel) = cancel else { return raw(out, "null") };
    raw(out, r#"{"reason":"#);
    json(out, cancel.reason);
    raw(out, r#","deadline":"#);
    json(out, cancel.deadline);
    out.push(b'}');
}

pub(super) fn write_pending(out: &mut Vec<u8>, step: &Pending<'_>) {
    json(out, step.id);
    raw(out, r#":{"op":""#);
    raw(out, step.op.word());
    raw(out, r#"","pending":true"#);
    if step.started {
        raw(out, r#","started":true"#);
    }
    if let Some((attempt, last_error, next)) = step.retry {
        raw(out, r#","attempt":"#);
        json(out, attempt);
        raw(out, r#","last_error":"#);
        out.extend_from_slice(last_error);
        raw(out, r#","next_attempt_at":"#);
        json(out, next);
    }
    out.push(b'}');
}

fn write_links(out: &mut Vec<u8>, run: RunId, links: &Links<'_>) {
    let run = format!("{}/v1/runs/{run}", links.base);
    let callback = format!("{}/v1/callbacks/{}/", links.base, links.callback_secret);
    raw(out, r#","links":{"checkpoint":"#);
    json(out, format_args!("{run}/checkpoint"));
    raw(out, r#","journal":"#);
    json(out, format_args!("{run}/journal"));
    raw(out, r#","values":"#);
    json(out, format_args!("{run}/values/"));
    raw(out, r#","callback":"#);
    json(out, callback);
    out.push(b'}');
}

pub(super) fn raw(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn json(out: &mut Vec<u8>, value: impl Serialize) {
    serde_json::to_writer(out, &value).expect("text and numbers into memory cannot fail");
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_795_424_400_123_000);

    fn invocation(tags: &BTreeMap<String, String>) -> Invocation<'_> {
        Invocation {
            function: "check\"out\n",
            query: None,
            run: RunHead {
                id: RunId::new(AT, 1),
                namespace: "default",
                key: None,
                generation: 2,
                deployment: DeploymentId::new(AT, 2),
                created_at: AT,
                seed: "9f3c",
                tags,
                parent: None,
                schedule: None,
            },
            turn: Turn {
                id: InvocationId::new(AT, 3),
                epoch: 7,
                attempt: 1,
                reason: "start",
                transport: "respond",
                budget_ms: 55_000,
            },
            input: b"{\"order\":  3544790567247868102}",
            settled: b"",
            pending: &[],
            upto: 0,
            object: None,
            locks: &[],
            state: None,
            more: false,
            long: false,
            inbox: &[],
            cancel: None,
            links: Links { base: "https://gw", callback_secret: "s3cret" },
            token: "t",
        }
    }

    fn read(it: &Invocation<'_>) -> Value {
        serde_json::from_slice(&write_invocation(it)).expect("valid JSON")
    }

    // P2.6, P2.7, P2.10
    #[test]
    fn the_smallest_invocation() {
        let tags = BTreeMap::new();
        let it = invocation(&tags);
        let run = it.run.id.to_string();
        let expected = json!({
            "protocol": 1, "type": "run", "function": "check\"out\n",
            "run": {
                "id": run, "namespace": "default", "key": null, "generation": 2,
                "deployment": it.run.deployment.to_string(), "created_at": "2026-11-23T09:00:00.123Z",
                "seed": "9f3c", "idempotency_prefix": format!("{run}.2/"), "parent": null, "tags": {}
            },
            "invocation": {
                "id": it.turn.id.to_string(), "epoch": 7, "attempt": 1, "reason": "start",
                "transport": "respond", "budget_ms": 55000
            },
            "input": {"order": 3_544_790_567_247_868_102_i64},
            "steps": {}, "journal": {"upto": 0, "more": false}, "inbox": {}, "object": null,
            "cancel": null,
            "links": {
                "checkpoint": format!("https://gw/v1/runs/{run}/checkpoint"),
                "journal": format!("https://gw/v1/runs/{run}/journal"),
                "values": format!("https://gw/v1/runs/{run}/values/"),
                "callback": "https://gw/v1/callbacks/s3cret/"
            },
            "token": "t"
        });
        assert_eq!(read(&it), expected);
        let text = String::from_utf8(write_invocation(&it)).expect("UTF-8");
        assert!(text.contains("{\"order\":  3544790567247868102}"), "input as it came: {text}");
    }

    // P2.8, P2.11, P2.12, P2.27, P3.35, P5.32
    #[test]
    fn steps_settled_and_pending() {
        let tags = BTreeMap::from([("cu\u{1}".to_owned(), "c\\7".to_owned())]);
        let mut settled = Vec::new();
        push_settled(&mut settled, "ch\"arge", 1, OpKind::Run, Settled::Value(b"{\"id\":1}"));
        push_settled(&mut settled, "notify", 2, OpKind::Run, Settled::Error(b"{\"type\":\"E\"}"));
        let sha256 = [0xab; 32];
        let big = Settled::Ref { bytes: 812_345, sha256: &sha256 };
        push_settled(&mut settled, "report", 3, OpKind::Callback, big);
        let pending = [
            Pending { id: "approval", op: OpKind::Callback, started: false, retry: None },
            Pending { id: "once", op: OpKind::Run, started: true, retry: None },
            Pending {
                id: "pack",
                op: OpKind::Run,
                started: false,
                retry: Some((2, b"{\"type\":\"X\"}", AT)),
            },
        ];
        let it = Invocation {
            settled: &settled,
            pending: &pending,
            upto: 3,
            more: true,
            inbox: &[("approved", 2), ("re\"fused", 1)],
            cancel: Some(CancelNotice { reason: Some("no \"longer\""), deadline: AT }),
            run: RunHead {
                key: Some("order-42"),
                parent: Some((RunId::new(AT, 9), "st\"ep")),
                ..invocation(&tags).run
            },
            ..invocation(&tags)
        };
        let got = read(&it);
        assert_eq!(
            got["steps"],
            json!({
                "ch\"arge": {"seq": 1, "op": "run", "value": {"id": 1}},
                "notify": {"seq": 2, "op": "run", "error": {"type": "E"}},
                "report": {"seq": 3, "op": "callback",
                           "ref": {"bytes": 812_345, "sha256": "ab".repeat(32)}},
                "approval": {"op": "callback", "pending": true},
                "once": {"op": "run", "pending": true, "started": true},
                "pack": {"op": "run", "pending": true, "attempt": 2, "last_error": {"type": "X"},
                         "next_attempt_at": "2026-11-23T09:00:00.123Z"}
            })
        );
        assert_eq!(got["journal"], json!({"upto": 3, "more": true}));
        assert_eq!(got["inbox"], json!({"approved": 2, "re\"fused": 1}));
        let cancel = json!({"reason": "no \"longer\"", "deadline": "2026-11-23T09:00:00.123Z"});
        assert_eq!(got["cancel"], cancel);
        assert_eq!(got["run"]["key"], "order-42");
        let parent = json!({"run": RunId::new(AT, 9).to_string(), "step": "st\"ep"});
        assert_eq!(got["run"]["parent"], parent);
        assert_eq!(got["run"]["tags"], json!({"cu\u{1}": "c\\7"}));
        let only_pending = Invocation { settled: b"", pending: &pending, ..it };
        assert_eq!(read(&only_pending)["steps"].as_object().map(serde_json::Map::len), Some(3));
        let only_settled = Invocation { pending: &[], ..it };
        assert_eq!(read(&only_settled)["steps"].as_object().map(serde_json::Map::len), Some(3));
    }

    // P2.6, P8.1
    #[test]
    fn discovery_is_json() {
        let got: Value = serde_json::from_slice(&write_discover()).expect("valid JSON");
        assert_eq!(got, json!({"protocol": super::super::VERSION, "type": "discover"}));
    }
}
