//! What strangers send, as functions over bytes for a fuzzer: each reads what it is given and
//! panics where something does not hold. `fuzz/README.md` says how to run them for long; a bounded
//! run over `fuzz/corpus` is among the tests.

use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;

use crate::machine::time::{LONGEST, format_duration, parse_duration};
use crate::machine::{Limits, Op, Outcome, Terminal, Timestamp};
use crate::outbound::{MAX_RETRY_AFTER, Reply};
use crate::protocol::{
    ApiKey, BadAnswer, ClusterKeys, ClusterSecret, Manifest, Secret, parse_answer, sign,
    valid_step_id, verify,
};

/// A target: reads bytes, and panics if what was promised of them does not hold.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 8] = [
    ("answer", answer),
    ("op", op),
    ("await_tree", await_tree),
    ("manifest", manifest),
    ("token", token),
    ("signature", signature),
    ("duration", duration),
    ("retry_after", retry_after),
];

/// What is said of bad input may be long, but not as long as the input.
const MOST_SAID: usize = 2_000;

/// A handler's answer.
pub fn answer(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    match parse_answer(&body, &Limits::default()) {
        Ok(answer) => {
            for op in &answer.ops {
                if let Some(id) = op.step() {
                    assert_eq!(valid_step_id(id), Ok(()), "{id:?}");
                }
                // Payloads are parts of the answer, untouched.
                match op {
                    Op::Run { outcome: Outcome::Value(value), .. } | Op::Status(value) => {
                        within(&body, value);
                    }
                    _ => {}
                }
            }
            match &answer.terminal {
                Some(Terminal::Result(value)) => within(&body, value),
                Some(Terminal::Await(tree)) => {
                    assert!(tree.steps().iter().all(|id| id.len() <= data.len()));
                }
                _ => {}
            }
        }
        Err(error) => {
            assert!(
                error.to_string().len() <= MOST_SAID,
                "{} bytes are said",
                error.to_string().len()
            );
            if let BadAnswer::Malformed(said) = error {
                assert!(!said.is_empty());
            }
        }
    }
}

/// A payload is JSON, and a slice of the body or one of the constants.
fn within(body: &Bytes, payload: &Bytes) {
    let json: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(payload);
    assert!(json.is_ok(), "a payload is no JSON");
    let inside = body.as_ptr_range().contains(&payload.as_ptr());
    assert!(inside || &payload[..] == b"null", "a payload was copied");
}

/// One op, as it stands in an answer or on a line.
pub fn op(data: &[u8]) {
    answer(&[br#"{"ops":["#, data, b"]}"].concat());
}

/// The tree of an `await`: what is read can be written and read again.
pub fn await_tree(data: &[u8]) {
    let read = |data: &[u8]| {
        let body = Bytes::from([br#"{"await":"#, data, b"}"].concat());
        match parse_answer(&body, &Limits::default()) {
            Ok(answer) => match answer.terminal {
                Some(Terminal::Await(tree)) => Some(tree),
                _ => None,
            },
            Err(error) => {
                assert!(error.to_string().len() <= MOST_SAID);
                None
            }
        }
    };
    if let Some(tree) = read(data) {
        let text = serde_json::to_vec(&tree).expect("a tree is JSON");
        assert_eq!(read(&text), Some(tree), "written and read again");
    }
}

/// A manifest: what is read is sound, and stays the same when it is stored and read again.
pub fn manifest(data: &[u8]) {
    match Manifest::parse(data) {
        Ok(manifest) => {
            let stored = serde_json::to_vec(&manifest).expect("a manifest is JSON");
            let again = Manifest::parse(&stored).expect("what was stored can be read");
            assert_eq!(again.content_hash(), manifest.content_hash());
        }
        Err(error) => assert!(error.to_string().len() <= MOST_SAID),
    }
}

/// Tokens, callback secrets and API keys: what is accepted is, to the letter, what was given out.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secret = ClusterSecret::new([7; 32]);
    let keys = ClusterKeys::derive(&secret);
    if let Ok(claims) = keys.check(text, Timestamp::default()) {
        assert_eq!(keys.mint(claims.run, claims.epoch, claims.expires), text);
    }
    if let Ok((run, generation)) = keys.parse_callback_secret(text) {
        assert_eq!(keys.callback_secret(run, generation), text);
    }
    if let Err(error) = ApiKey::parse(text) {
        assert!(error.to_string().len() <= MOST_SAID);
    }
}

/// A signature and a secret: lines of id, timestamp and header, and the body behind them.
pub fn signature(data: &[u8]) {
    const NOW: i64 = 1_795_424_400;
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut text = || std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let (id, timestamp, header) = (text(), text(), text());
    let body = parts.next().unwrap_or_default();
    let secret = Secret::parse("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let secret = secret.expect("it is one");
    let secrets = std::slice::from_ref(&secret);
    if verify(id, timestamp, header, body, secrets, NOW).is_ok() && !id.contains('.') {
        let at: i64 = timestamp.parse().expect("it was read");
        let ours = sign(id, at, body, secrets);
        assert!(header.split(' ').any(|theirs| theirs == ours), "another text was accepted");
    }
    if let Ok(secret) = Secret::parse(header) {
        assert_eq!(secret.reveal(), header);
    }
}

/// Durations and moments: what is read can be written and read again.
pub fn duration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match parse_duration(text) {
        Ok(length) => {
            assert!(length <= LONGEST);
            let again = parse_duration(&format_duration(length)).expect("what was written");
            assert_eq!(again.as_micros(), length.as_micros(), "{text:?}");
        }
        Err(said) => assert!(said.len() <= MOST_SAID),
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        let again: Timestamp = moment.to_string().parse().expect("what was written");
        assert_eq!(again.as_millis(), moment.as_millis(), "{text:?}");
    }
}

/// The header `Retry-After`: never more than is believed.
pub fn retry_after(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(value) = HeaderValue::from_str(text) else { return };
    let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
    let reply = Reply { status: 503, headers, body: Bytes::new() };
    if let Some(delay) = reply.retry_delay(Timestamp::from_micros(1_795_424_400_000_000)) {
        assert!(delay <= MAX_RETRY_AFTER);
    }
}

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod tests;
