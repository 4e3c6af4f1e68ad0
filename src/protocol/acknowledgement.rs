//! Writes what a checkpoint or a line is answered with: that it is durable, and what is new.

use super::request::{CancelNotice, Pending, json, raw, write_cancel, write_inbox, write_pending};

/// An acknowledgement, or, without a number, news for a handler that waits.
#[derive(Debug, Clone, Copy, Default)]
pub struct Acknowledgement<'a> {
    /// The number of the checkpoint that is durable.
    pub ack: Option<i32>,
    /// The `seq` up to which the handler knows the journal now.
    pub upto: i32,
    /// Settled steps as an invocation shows them, in parts.
    pub settled: &'a [&'a [u8]],
    /// Steps that wait for their next attempt.
    pub pending: &'a [Pending<'a>],
    /// Steps whose next attempt is due: not in the journal any more.
    pub due: &'a [&'a str],
    /// How long the handler should work on; left out on line transports.
    pub budget_ms: Option<u64>,
    /// By name, how many signals were accepted and not yet taken; left out where there are none.
    pub inbox: &'a [(&'a str, u32)],
    /// Set once a cancel was taken.
    pub cancel: Option<CancelNotice<'a>>,
    /// The handler is asked to finish its exchange.
    pub suspend: bool,
    /// The run had better continue as new before long.
    pub long: bool,
}

/// The JSON text of an acknowledgement, on one line and without its end.
#[must_use]
pub fn write_acknowledgement(it: &Acknowledgement<'_>) -> Vec<u8> {
    let size: usize = it.settled.iter().map(|part| part.len() + 1).sum();
    let mut out = Vec::with_capacity(96 + size);
    out.push(b'{');
    if let Some(n) = it.ack {
        raw(&mut out, r#""ack":"#);
        json(&mut out, n);
        out.push(b',');
    }
    raw(&mut out, r#""upto":"#);
    json(&mut out, it.upto);
    // Whoever waits is always shown `steps`, so that merging them is one line.
    if it.budget_ms.is_some()
        || !(it.settled.is_empty() && it.pending.is_empty() && it.due.is_empty())
    {
        raw(&mut out, r#","steps":{"#);
        let mut first = true;
        let mut comma = |out: &mut Vec<u8>| {
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
        };
        for part in it.settled {
            comma(&mut out);
            out.extend_from_slice(part);
        }
        for step in it.pending {
            comma(&mut out);
            write_pending(&mut out, step);
        }
        for id in it.due {
            comma(&mut out);
            json(&mut out, id);
            raw(&mut out, ":null");
        }
        out.push(b'}');
    }
    if !it.inbox.is_empty() {
        raw(&mut out, r#","inbox":"#);
        write_inbox(&mut out, it.inbox);
    }
    if let Some(budget) = it.budget_ms {
        raw(&mut out, r#","budget_ms":"#);
        json(&mut out, budget);
    }
    if it.budget_ms.is_some() || it.cancel.is_some() {
        raw(&mut out, r#","cancel":"#);
        write_cancel(&mut out, it.cancel.as_ref());
    }
    if it.suspend {
        raw(&mut out, r#","suspend":true"#);
    }
    if it.long {
        raw(&mut out, r#","continue_suggested":true"#);
    }
    out.push(b'}');
    out
}

/// The line that tells a handler of a cancel.
#[must_use]
pub fn write_cancel_line(cancel: &CancelNotice<'_>) -> Vec<u8> {
    let mut out = br#"{"cancel":"#.to_vec();
    write_cancel(&mut out, Some(cancel));
    out.extend_from_slice(b"}\n");
    out
}

/// JSON on one line: line ends between its tokens, the only place where it can have them, become
/// spaces.
#[must_use]
pub fn on_one_line(mut json: Vec<u8>) -> Vec<u8> {
    for byte in &mut json {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::machine::{OpKind, Timestamp};

    fn written(it: &Acknowledgement<'_>) -> Value {
        serde_json::from_slice(&write_acknowledgement(it)).expect("valid JSON")
    }

    #[test]
    fn a_line_is_short_and_an_answer_is_whole() {
        let short = Acknowledgement { ack: Some(1), upto: 1, ..Acknowledgement::default() };
        assert_eq!(write_acknowledgement(&short), br#"{"ack":1,"upto":1}"#);
        let whole = Acknowledgement { budget_ms: Some(41_000), ..short };
        let expected =
            json!({"ack": 1, "upto": 1, "steps": {}, "budget_ms": 41_000, "cancel": null});
        assert_eq!(written(&whole), expected);
    }

    #[test]
    fn all_that_is_new_is_there() {
        let at = Timestamp::from_micros(1_795_424_400_123_000);
        let pending = [Pending {
            id: "charge",
            op: OpKind::Run,
            started: false,
            retry: Some((1, b"{\"type\":\"X\"}", at)),
        }];
        let it = Acknowledgement {
            ack: None,
            upto: 7,
            settled: &[br#""a":{"seq":6}"#, br#""b":{"seq":7}"#],
            pending: &pending,
            due: &["again"],
            budget_ms: None,
            inbox: &[("go", 2)],
            cancel: Some(CancelNotice { reason: None, deadline: at }),
            suspend: true,
            long: true,
        };
        let expected = json!({"upto": 7,
            "steps": {"a": {"seq": 6}, "b": {"seq": 7}, "again": null,
                "charge": {"op": "run", "pending": true, "attempt": 1, "last_error": {"type": "X"},
                           "next_attempt_at": "2026-11-23T09:00:00.123Z"}},
            "inbox": {"go": 2}, "suspend": true, "continue_suggested": true,
            "cancel": {"reason": null, "deadline": "2026-11-23T09:00:00.123Z"}});
        assert_eq!(written(&it), expected);
    }
}
