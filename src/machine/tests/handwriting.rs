//! What handlers of the tests say: ops and how a turn ends.

use std::collections::BTreeMap;

use super::fixtures::{body_of, ms, text};
use crate::machine::*;

pub(super) fn ops(ops: impl IntoIterator<Item = Op>) -> Answer {
    Answer { ops: ops.into_iter().collect(), terminal: None }
}

impl Answer {
    pub(super) fn ending(self, terminal: Terminal) -> Self {
        Self { terminal: Some(terminal), ..self }
    }

    pub(super) fn awaiting(self, tree: &str) -> Self {
        self.ending(Terminal::Await(tree_of(tree)))
    }

    pub(super) fn continuing(self) -> Self {
        self.ending(Terminal::Continue(text("\"next\"")))
    }

    pub(super) fn result(self) -> Self {
        self.ending(Terminal::Result(text("\"out\"")))
    }
}

/// A tree from JSON; a bare word is a step.
pub(super) fn tree_of(tree: &str) -> Tree {
    serde_json::from_str(tree).unwrap_or_else(|_| Tree::Step(tree.to_owned()))
}

pub(super) fn value(id: &str, value: &'static str) -> Op {
    Op::Run {
        id: id.to_owned(),
        outcome: Outcome::Value(text(value)),
        ms: 1,
        retry: None,
        input_hash: None,
    }
}

pub(super) fn failure(id: &str, error: StepError) -> Op {
    Op::Run {
        id: id.to_owned(),
        outcome: Outcome::Error(error),
        ms: 1,
        retry: None,
        input_hash: None,
    }
}

pub(super) fn error(retry: Again) -> StepError {
    StepError { retry, ..StepError::of_gateway("Boom", "it broke") }
}

pub(super) fn start(id: &str) -> Op {
    Op::Start { id: id.to_owned() }
}

fn asking(id: &str, ask: Ask, raw: &serde_json::Value) -> Op {
    Op::Ask { id: id.to_owned(), ask, raw: body_of(raw) }
}

pub(super) fn sleep(id: &str, length: u64) -> Op {
    let raw = serde_json::json!({"op": "sleep", "id": id, "for": format!("{length}ms")});
    asking(id, Ask::Sleep(Moment::For(ms(length))), &raw)
}

pub(super) fn signal(id: &str, name: &str, timeout: Option<u64>) -> Op {
    let raw = serde_json::json!({"op": "signal", "id": id, "name": name});
    asking(id, Ask::Signal { name: name.to_owned(), timeout: timeout.map(ms) }, &raw)
}

pub(super) fn invoke(id: &str, on_parent_close: Close) -> Op {
    let raw = serde_json::json!({"op": "invoke", "id": id, "function": "child",
        "on_parent_close": on_parent_close});
    let child = Invoke {
        function: "child".to_owned(),
        input: text("1"),
        key: None,
        detach: false,
        delay: None,
        on_parent_close,
        if_running: Holder::Fail,
        tags: BTreeMap::new(),
    };
    asking(id, Ask::Other(Box::new(Errand::Invoke(child))), &raw)
}

pub(super) fn send(id: &str) -> Op {
    let raw = serde_json::json!({"op": "send", "id": id, "run": "run_x", "signal": "go"});
    let to = Addressee::Key { function: "f".to_owned(), key: "k".to_owned() };
    let errand = Errand::Send { to, signal: "go".to_owned(), payload: text("1") };
    asking(id, Ask::Other(Box::new(errand)), &raw)
}

pub(super) fn reply(id: &str, update: u128) -> Op {
    let update = UpdateId::from(uuid::Uuid::from_u128(update));
    Op::Reply { id: id.to_owned(), update, answer: text("{\"value\":1}") }
}

pub(super) fn compact(state: &'static str) -> Op {
    Op::Compact(text(state))
}

pub(super) fn scope(id: &str) -> Op {
    Op::Scope { id: id.to_owned(), value: text("9") }
}

pub(super) fn callback(id: &str, timeout: Option<u64>) -> Op {
    let raw = serde_json::json!({"op": "callback", "id": id});
    asking(id, Ask::Callback { timeout: timeout.map(ms), heartbeat: None }, &raw)
}

pub(super) fn listen(id: &str, timeout: Option<u64>) -> Op {
    let raw = serde_json::json!({"op": "event", "id": id, "event": "paid"});
    let (event, matching) = ("paid".to_owned(), Matching::default());
    let listen = Listen { event, matching, timeout: timeout.map(ms), lookback: ms(0) };
    asking(id, Ask::Other(Box::new(Errand::Listen(listen))), &raw)
}

pub(super) fn publish(id: &str) -> Op {
    let raw = serde_json::json!({"op": "publish", "id": id, "event": "paid"});
    let errand = Errand::Publish { event: "paid".to_owned(), data: text("1") };
    asking(id, Ask::Other(Box::new(errand)), &raw)
}

/// A task with these further fields of its op.
pub(super) fn task(id: &str, more: &serde_json::Value) -> Op {
    let mut raw = serde_json::json!({"op": "task", "id": id, "task": "work", "input": 1});
    let more = more.as_object().expect("fields").clone();
    let retry = more.get("retry").map(|r| serde_json::from_value(r.clone()).expect("a policy"));
    raw.as_object_mut().expect("an op").extend(more);
    asking(id, Ask::Work { op: OpKind::Task, retry }, &raw)
}
