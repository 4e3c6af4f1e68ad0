//! What belongs to one transport: checkpoints, lines, and what is said back.

use serde_json::json;

use super::Seen;
use super::cases::{Case, cancel, case, ends_with, equal, journal, nap, three_steps, to_the_end};
use super::modes::{Mode, Spread};
use super::play::Play;
use crate::machine::Kind;
use crate::protocol::Transport;
use Spread::{Held, Plain, With};

const CHECKPOINT: &[Transport] = &[Transport::Checkpoint];
const STREAM: &[Transport] = &[Transport::Stream];
const DUPLEX: &[Transport] = &[Transport::Duplex];
/// What is said is answered within the exchange.
const ANSWERED: &[Transport] = &[Transport::Checkpoint, Transport::Duplex];
/// What is said is a line.
const LINES: &[Transport] = &[Transport::Stream, Transport::Duplex];

#[rustfmt::skip]
pub(super) const TALKS: [Case; 23] = [
    case!(CHECKPOINT, Plain, "each step a checkpoint", "three-steps", ["P4.6", "P4.8", "P4.11", "P4.12", "P4.29"], json!({"n": 7}), one_exchange),
    case!(STREAM, Plain, "each step a line", "three-steps", ["P4.4", "P4.22", "P4.23", "P4.24"], json!({"n": 7}), one_exchange),
    case!(DUPLEX, Plain, "each step a line", "three-steps", ["P4.7", "P4.22", "P4.24", "P4.25", "P4.29", "P4.39"], json!({"n": 7}), one_exchange),
    case!(CHECKPOINT, With(&[Mode::Lost]), "the same number again", "three-steps", ["P4.9", "P4.10"], json!({"n": 7}), three_steps),
    case!(DUPLEX, With(&[Mode::Lost]), "recorded, and not acknowledged", "three-steps", ["P4.29", "P9.1"], json!({"n": 7}), three_steps),
    case!(CHECKPOINT, With(&[Mode::Stale]), "stale epoch", "three-steps", ["P4.8", "P9.3"], json!({"n": 7}), three_steps),
    case!(DUPLEX, With(&[Mode::Stale]), "stale epoch", "three-steps", ["P4.27", "P9.3"], json!({"n": 7}), three_steps),
    case!(STREAM, With(&[Mode::Stale]), "cut", "three-steps", ["P4.5"], json!({"n": 7}), three_steps),
    case!(CHECKPOINT, With(&[Mode::Leave]), "suspend", "three-steps", ["P4.20"], json!({"n": 7}), three_steps),
    case!(DUPLEX, With(&[Mode::Leave]), "suspend", "three-steps", ["P4.20", "P4.27"], json!({"n": 7}), three_steps),
    case!(CHECKPOINT, Plain, "heartbeats", "beat", ["P4.18", "P4.36"], json!(null), beat),
    case!(LINES, Plain, "keep-alives", "beat", ["P4.19", "P4.26"], json!(null), beat),
    case!(ANSWERED, Plain, "waiting within the exchange", "nap", ["P4.14", "P4.15"], json!({"for": "90s"}), nap_within),
    case!(ANSWERED, With(&[Mode::Leave]), "leaving while it waits", "nap", ["P4.16"], json!({"for": "90s"}), nap),
    case!(ANSWERED, Plain, "the next attempt within the exchange", "fail", ["P4.33"], json!({"times": 1}), attempt_within),
    case!(ANSWERED, Plain, "a signal that an acknowledgement shows", "three-steps", ["P4.34"], json!({"n": 7}), signal_shown),
    case!(ANSWERED, Plain, "another outcome than the one sent", "three-steps", ["P4.28", "P4.32", "P5.41"], json!({"n": 7}), another_outcome),
    case!(ANSWERED, Plain, "a cancel within the exchange", "compensate", ["P4.35"], json!(null), cancel_within),
    case!(ANSWERED, Plain, "a cancel before anything is said", "compensate", ["P4.35"], json!(null), cancel_before),
    case!(ANSWERED, Plain, "the end of the run", "three-steps", ["P4.8", "P9.3"], json!({"n": 7}), terminated),
    case!(CHECKPOINT, With(&[Mode::Slow]), "a slow acknowledgement", "three-steps", ["P4.6", "P9.1"], json!({"n": 7}), three_steps),
    case!(DUPLEX, With(&[Mode::Slow]), "a slow acknowledgement", "three-steps", ["P4.29", "P9.1"], json!({"n": 7}), three_steps),
    case!(CHECKPOINT, Held, "held", "held", ["P3.21", "P4.13", "P4.37"], json!(null), held),
];

/// Fails unless all was said in so many exchanges.
fn within(p: &Play<'_>, exchanges: usize) -> Seen {
    equal("exchanges", &json!(p.exchanges.len()), &json!(exchanges))
}

async fn one_exchange(p: &mut Play<'_>) -> Seen {
    three_steps(p).await?;
    within(p, 1)?;
    if p.exchanges[0].reports < 3 {
        let reports = p.exchanges[0].reports;
        return Err(format!("three steps one after the other came as {reports} reports").into());
    }
    Ok(())
}

async fn beat(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    journal(p, &["work"])?;
    ends_with(p, &json!(null))?;
    match p.exchanges[0].beats {
        0 | 1 => Err("it should give two signs of life before it works".into()),
        _ => Ok(()),
    }
}

async fn nap_within(p: &mut Play<'_>) -> Seen {
    nap(p).await?;
    within(p, 1)
}

async fn attempt_within(p: &mut Play<'_>) -> Seen {
    to_the_end(p).await?;
    ends_with(p, &json!({"value": "worked"}))?;
    within(p, 1)
}

async fn signal_shown(p: &mut Play<'_>) -> Seen {
    p.signal_meanwhile("late", &json!(1));
    three_steps(p).await?;
    // It knew of the signal when it ended: nothing held that up.
    within(p, 1)
}

async fn another_outcome(p: &mut Play<'_>) -> Seen {
    p.settled_meanwhile("a", &json!(100));
    p.go().await?;
    journal(p, &["a", "b", "c"])?;
    ends_with(p, &json!([100, 101, 102]))
}

async fn cancel_within(p: &mut Play<'_>) -> Seen {
    cancel(p).await?;
    within(p, 2)
}

async fn cancel_before(p: &mut Play<'_>) -> Seen {
    p.cancel_meanwhile("a test");
    p.go().await?;
    // What was said without knowing of it is not recorded.
    journal(p, &["reserve", "release"])?;
    let first = p.exchanges.get(1).map(|e| e.invocation["steps"].clone());
    equal("the steps that it is invoked with", &first.unwrap_or_default(), &json!({}))?;
    p.error(Kind::Cancelled)?;
    within(p, 2)
}

async fn terminated(p: &mut Play<'_>) -> Seen {
    p.terminate_meanwhile();
    p.go().await?;
    journal(p, &[])?;
    p.error(Kind::Terminated)?;
    within(p, 1)
}

async fn held(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    journal(p, &["work"])?;
    ends_with(p, &json!("done"))?;
    if !p.exchanges[0].held {
        return Err("its exchange should be answered with 202".into());
    }
    within(p, 1)
}
