//! The functions that a handler offers, each driven through what it must withstand.

use std::future::Future;
use std::pin::Pin;

use serde_json::{Value, json};

use super::modes::{Mode, Spread};
use super::play::{BIG, Exchange, Play};
use super::{Seen, Wrong};
use crate::machine::{Kind, Op, Outcome};
use crate::protocol::Transport;

pub(super) type Playing<'p> = Pin<Box<dyn Future<Output = Seen> + 'p>>;

/// One function, driven in each of some modes.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) function: &'static str,
    pub(super) rules: &'static [&'static str],
    pub(super) on: &'static [Transport],
    pub(super) spread: Spread,
    /// Whether the handler must be able to fetch values and pages.
    pub(super) pages: bool,
    pub(super) input: fn() -> Value,
    pub(super) play: for<'p, 's> fn(&'p mut Play<'s>) -> Playing<'p>,
}

/// Whatever carries it.
pub(super) const ANY: &[Transport] =
    &[Transport::Respond, Transport::Checkpoint, Transport::Stream, Transport::Duplex];
const RESPOND: &[Transport] = &[Transport::Respond];

macro_rules! case {
    ($on:expr, $spread:expr, $name:literal, $function:literal, $rules:expr, $input:expr, $play:path) => {
        Case {
            name: $name,
            function: $function,
            rules: &$rules,
            on: $on,
            spread: $spread,
            pages: matches!($spread, Spread::Fetching),
            input: || $input,
            play: |p| Box::pin($play(p)),
        }
    };
}
use Spread::{All, Fetching, Interrupted, Licensed, Plain, Stateful};
pub(super) use case;

#[rustfmt::skip]
pub(super) const CASES: [Case; 29] = [
    case!(ANY, All, "echo", "echo", ["P2.1", "P3.1", "P3.2", "P4.2"], echoed(), echo),
    case!(ANY, Plain, "signal at the end", "echo", ["P2.7", "P2.8", "P3.17"], json!({"a": 1}), signal_at_the_end),
    case!(ANY, All, "facts", "facts", ["P2.10", "P2.16"], json!(null), facts),
    case!(ANY, All, "three steps", "three-steps", ["P2.11", "P3.11", "P4.3", "P5.3", "P5.4", "P9.2"], json!({"n": 7}), three_steps),
    case!(RESPOND, Plain, "replay", "three-steps", ["P8.10"], json!({"n": 7}), replay),
    case!(ANY, All, "names", "names", ["P2.25", "P2.26", "P5.2"], json!(null), names),
    case!(ANY, All, "refusal", "refuse", ["P3.3", "P5.35"], json!(null), refuse),
    case!(ANY, All, "status, tags and log", "tell", ["P5.21", "P5.22"], json!(null), tell),
    case!(ANY, Stateful, "a step that fails twice", "fail", ["P5.30", "P5.31", "P5.33"], json!({"times": 2}), fails_twice),
    case!(ANY, Stateful, "a step that waits", "fail", ["P5.30", "P5.32"], json!({"times": 1, "after_ms": 45000}), waits_after_ms),
    case!(ANY, Stateful, "retries used up", "fail", ["P5.31", "P5.34"], json!({"times": 99, "max_attempts": 3}), used_up),
    case!(ANY, Stateful, "retry never", "fail", ["P5.30", "P5.34"], json!({"times": 99, "retry": "never"}), never),
    case!(ANY, Stateful, "retry pause", "fail", ["P5.30"], json!({"times": 1, "retry": "pause"}), pause),
    case!(ANY, Licensed, "at most once", "once", ["P5.6", "P5.7", "P9.2"], json!(null), once),
    case!(ANY, Interrupted, "at most once, interrupted", "once", ["P5.7"], json!(null), interrupted),
    case!(ANY, All, "sleep", "nap", ["P2.12", "P3.4", "P5.9"], json!({"for": "90s"}), nap),
    case!(ANY, All, "signals in order", "signals", ["P5.10", "P5.24"], json!({"timeout": "1h"}), signals_in_order),
    case!(ANY, All, "signals in another order", "signals", ["P2.8", "P5.10"], json!({"timeout": "1h"}), signals_reordered),
    case!(ANY, All, "signals that do not come", "signals", ["P5.37"], json!({"timeout": "1h"}), signals_late),
    case!(ANY, All, "callback", "callback", ["P2.18", "P2.23", "P5.12"], json!({"timeout": "1h"}), callback),
    case!(ANY, All, "callback before the ask", "callback", ["P2.23"], json!({"timeout": "1h"}), callback_early),
    case!(ANY, All, "callback with an error", "callback", ["P2.19"], json!({"timeout": "1h"}), callback_error),
    case!(ANY, All, "callback too late", "callback", ["P5.37", "P5.38"], json!({"timeout": "1h"}), callback_late),
    case!(ANY, All, "all of three", "parallel", ["P3.4", "P3.5", "P3.15"], json!({"mode": "all"}), all_of_three),
    case!(ANY, All, "any of three", "parallel", ["P3.4", "P3.6"], json!({"mode": "any"}), any_of_three),
    case!(ANY, All, "three settled", "parallel", ["P3.4", "P3.7"], json!({"mode": "settled"}), three_settled),
    case!(ANY, All, "cancel", "compensate", ["P3.35", "P3.36"], json!(null), cancel),
    case!(ANY, Fetching, "a big value", "big", ["P2.17", "P2.27"], json!({"bytes": BIG}), big),
    case!(ANY, Fetching, "pages", "many", ["P2.17", "P2.28"], json!({"count": 12}), pages),
];

pub(super) fn equal(what: &str, got: &Value, expected: &Value) -> Seen {
    if got == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected}, got {got}").into())
}

pub(super) fn ends_with(p: &Play<'_>, expected: &Value) -> Seen {
    equal("the result", &p.output()?, expected)
}

/// These steps, each settled once, in this order.
pub(super) fn journal(p: &Play<'_>, expected: &[&str]) -> Seen {
    let got: Vec<&str> = p.journal().into_iter().map(|(id, _)| id).collect();
    equal("the journal", &json!(got), &json!(expected))
}

fn echoed() -> Value {
    json!({"text": "größe 名 \"\\\n\u{1f980}", "none": null, "no": false, "list": [], "object": {},
           "nested": [[1, {"a": [-1.5, 9_007_199_254_740_991_i64]}]], "": "an empty name"})
}

async fn echo(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    ends_with(p, &echoed())
}

async fn signal_at_the_end(p: &mut Play<'_>) -> Seen {
    p.signal_meanwhile("late", &json!(1));
    p.go().await?;
    let second = &p.exchanges.get(1).ok_or("it should have been invoked again")?.invocation;
    equal("the reason", &second["invocation"]["reason"], &json!("signal"))?;
    ends_with(p, &json!({"a": 1}))
}

async fn facts(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    let run = p.run();
    let expected = json!({"seed": run.created.seed, "created_at": run.created_at,
                          "key": format!("{}.1/pay", run.id)});
    ends_with(p, &expected)
}

pub(super) async fn three_steps(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    journal(p, &["a", "b", "c"])?;
    ends_with(p, &json!([8, 9, 10]))
}

async fn replay(p: &mut Play<'_>) -> Seen {
    let answer = p.ask("replay").await?;
    let mut runs = answer.ops.iter().filter_map(|op| match op {
        Op::Run { id, outcome, .. } => Some((id, outcome)),
        _ => None,
    });
    let Some((id, outcome)) = runs.next() else {
        return Err("replayed with no steps, it should report its first one".into());
    };
    match outcome {
        Outcome::Value(value) if &value[..] == b"null" && id == "a" => Ok(()),
        other => {
            Err(format!("a replay must not run bodies, and step {id:?} came with {other:?}").into())
        }
    }
}

async fn names(p: &mut Play<'_>) -> Seen {
    let names = ["constructor", "__proto__", "größe/名", "a b%c?d#e", "map/3", "name#2"];
    p.go().await?;
    journal(p, &names)?;
    ends_with(p, &json!(names))
}

async fn refuse(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    let error = p.error(Kind::EndFailed)?;
    equal("the error's type", &error["type"], &json!("Refused"))?;
    equal("the error's message", &error["message"], &json!("as asked"))?;
    equal("the error's data", &error["data"], &json!({"n": 1}))
}

async fn tell(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    let status = p.run().custom_status.as_deref().unwrap_or(b"null");
    let status: Value = serde_json::from_slice(status).map_err(|e| e.to_string())?;
    equal("the custom status", &status, &json!({"at": "work"}))?;
    let on = p.transport().word();
    let tags = json!({"suite": "conformance", "transport": on, "stage": "one"});
    equal("the tags, merged", &json!(p.run().tags), &tags)?;
    let said = |e: &Exchange| e.answer["ops"].as_array().cloned().unwrap_or_default();
    let mut ops = p.exchanges.iter().flat_map(said);
    let log = ops.find(|op| op["op"] == "log").unwrap_or_default();
    equal("the log's message", &log["message"], &json!("hello"))?;
    equal("the log's fields", &log["fields"], &json!({"n": 1}))?;
    journal(p, &["work"])?;
    ends_with(p, &json!(null))
}

/// Lets the time come for what is tried again, until the run waits for nothing by itself.
pub(super) async fn to_the_end(p: &mut Play<'_>) -> Seen {
    for _ in 0..20 {
        p.go().await?;
        if p.run().ended() || p.run().paused.is_some() {
            return Ok(());
        }
        p.wait();
    }
    p.waits().and_then(|()| Err("it waits for ever".into()))
}

async fn fails_twice(p: &mut Play<'_>) -> Seen {
    to_the_end(p).await?;
    equal("failed attempts", &json!(p.tried("work")), &json!(2))?;
    journal(p, &["work"])?;
    ends_with(p, &json!({"value": "worked"}))
}

async fn waits_after_ms(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    if p.transport() == Transport::Respond {
        // Something else invokes it while the step waits for its next attempt.
        let before = p.exchanges.len();
        let answer = p.ask("manual").await?;
        if answer.ops.iter().any(|op| op.step() == Some("work")) {
            return Err("while the step waited for its next attempt it was run".into());
        }
        equal("invocations so far", &json!(before), &json!(1))?;
    }
    to_the_end(p).await?;
    ends_with(p, &json!({"value": "worked"}))
}

async fn used_up(p: &mut Play<'_>) -> Seen {
    to_the_end(p).await?;
    equal("failed attempts before the last", &json!(p.tried("work")), &json!(2))?;
    journal(p, &["work", "undo"])?;
    ends_with(p, &json!({"caught": "Broken", "attempts": 3}))
}

async fn never(p: &mut Play<'_>) -> Seen {
    to_the_end(p).await?;
    equal("attempts that were followed by others", &json!(p.tried("work")), &json!(0))?;
    journal(p, &["work", "undo"])?;
    ends_with(p, &json!({"caught": "Broken", "attempts": 1}))
}

async fn pause(p: &mut Play<'_>) -> Seen {
    to_the_end(p).await?;
    p.paused("step-asks")?;
    p.resume();
    to_the_end(p).await?;
    ends_with(p, &json!({"value": "worked"}))
}

async fn once(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    let began = &p.exchanges[0].answer["ops"][0];
    equal("its first op", &began["op"], &json!("start"))?;
    journal(p, &["charge"])?;
    ends_with(p, &json!({"value": "charged"}))
}

async fn interrupted(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    journal(p, &["charge"])?;
    ends_with(p, &json!({"caught": "step-interrupted"}))
}

pub(super) async fn nap(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    p.wait();
    p.go().await?;
    journal(p, &["nap"])?;
    ends_with(p, &json!("awake"))
}

async fn signals_in_order(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    for (name, payload) in [("a", json!({"n": 1})), ("a", json!(null)), ("b", json!("three"))] {
        p.waits()?;
        p.signal(name, &payload);
        p.go().await?;
    }
    journal(p, &["a/1", "a/2", "b"])?;
    ends_with(p, &json!([{"n": 1}, null, "three"]))
}

async fn signals_reordered(p: &mut Play<'_>) -> Seen {
    for (name, payload) in [("b", 3), ("a", 1), ("other", 0), ("a", 2)] {
        p.signal(name, &json!(payload));
    }
    p.go().await?;
    let first = &p.exchanges[0].invocation["inbox"];
    equal("the inbox", first, &json!({"a": 2, "b": 1, "other": 1}))?;
    journal(p, &["a/1", "a/2", "b"])?;
    ends_with(p, &json!([1, 2, 3]))
}

async fn signals_late(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.signal("a", &json!(1));
    p.go().await?;
    p.waits()?;
    p.wait();
    p.go().await?;
    p.signal("b", &json!(3));
    p.go().await?;
    journal(p, &["a/1", "a/2", "b"])?;
    ends_with(p, &json!([1, "timed-out", 3]))
}

async fn callback(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    p.callback("approval", Ok(json!({"by": "ann"})));
    p.go().await?;
    // In the clear or percent-encoded: this id needs neither.
    equal("the address", &p.recorded("told"), &json!(p.callback_address("approval")))?;
    journal(p, &["told", "approval"])?;
    ends_with(p, &json!({"value": {"by": "ann"}}))
}

async fn callback_early(p: &mut Play<'_>) -> Seen {
    p.callback("approval", Ok(json!("early")));
    p.go().await?;
    journal(p, &["told", "approval"])?;
    ends_with(p, &json!({"value": "early"}))
}

async fn callback_error(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.callback("approval", Err(json!({"type": "Declined", "message": "no"})));
    p.go().await?;
    ends_with(p, &json!({"caught": "Declined"}))
}

async fn callback_late(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    p.wait();
    // Too late by a moment: it is recorded as such, and changes nothing.
    p.callback("approval", Ok(json!("late")));
    p.go().await?;
    ends_with(p, &json!({"caught": "timed-out"}))
}

/// One exchange asks for all three; then they are settled in another order.
async fn three(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    let ids = |answer: &Value| -> Vec<Value> {
        answer["ops"].as_array().into_iter().flatten().map(|op| op["id"].clone()).collect()
    };
    let asked: Vec<_> = p.exchanges.iter().map(|e| ids(&e.answer)).collect();
    // A stream may be cut between them.
    if p.transport() == Transport::Stream || asked.iter().any(|ids| *ids == ["p/1", "p/2", "p/3"]) {
        return Ok(());
    }
    Err(format!("three steps are to be asked for at once, and it asked for {}", json!(asked))
        .into())
}

/// How many invocations it takes to wait for something twice.
fn turns(p: &Play<'_>) -> Option<usize> {
    match (p.transport(), p.mode()) {
        (Transport::Respond, Mode::Lost | Mode::Cut) => Some(4),
        (Transport::Respond, _) | (Transport::Stream, Mode::Plain | Mode::Slow) => Some(2),
        // It may wait within its exchange, or leave it.
        _ => None,
    }
}

async fn all_of_three(p: &mut Play<'_>) -> Seen {
    three(p).await?;
    for n in [3, 1] {
        p.callback(&format!("p/{n}"), Ok(json!(n)));
        p.go().await?;
        p.waits()?;
    }
    p.callback("p/2", Ok(json!(2)));
    p.go().await?;
    journal(p, &["p/3", "p/1", "p/2"])?;
    if let Some(turns) = turns(p) {
        equal("invocations", &json!(p.exchanges.len()), &json!(turns))?;
    }
    ends_with(p, &json!({"1": 1, "2": 2, "3": 3}))
}

async fn any_of_three(p: &mut Play<'_>) -> Seen {
    three(p).await?;
    p.callback("p/2", Ok(json!("two")));
    p.go().await?;
    ends_with(p, &json!({"2": "two"}))
}

async fn three_settled(p: &mut Play<'_>) -> Seen {
    three(p).await?;
    p.callback("p/2", Err(json!({"type": "Declined", "message": "no"})));
    p.callback("p/1", Ok(json!(1)));
    p.go().await?;
    p.waits()?;
    p.callback("p/3", Ok(json!(3)));
    p.go().await?;
    ends_with(p, &json!({"1": 1, "2": {"error": "Declined"}, "3": 3}))
}

pub(super) async fn cancel(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    p.cancel("a test");
    p.go().await?;
    let told = p.exchanges.last().map(|e| e.invocation["cancel"]["reason"].clone());
    equal("the reason it was told", &told.unwrap_or_default(), &json!("a test"))?;
    journal(p, &["reserve", "release"])?;
    let error = p.error(Kind::Cancelled)?;
    equal("the error", &error["type"], &json!("Cancelled"))
}

async fn big(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    journal(p, &["blob", "size"])?;
    ends_with(p, &json!(BIG))?;
    let referred = |e: &Exchange| !e.invocation["steps"]["blob"]["ref"].is_null();
    if p.exchanges.iter().any(referred) && p.fetched().0 == 0 {
        return Err(Wrong::from("the value was shown by reference, and was not fetched"));
    }
    Ok(())
}

async fn pages(p: &mut Play<'_>) -> Seen {
    p.inline = 150;
    p.go().await?;
    let ids: Vec<String> = (1..=12).map(|n| format!("s/{n}")).collect();
    journal(p, &ids.iter().map(String::as_str).collect::<Vec<_>>())?;
    ends_with(p, &json!(78))?;
    let goes_on = |e: &Exchange| e.invocation["journal"]["more"] == true;
    if p.exchanges.iter().any(goes_on) && p.fetched().1 == 0 {
        return Err(Wrong::from("the journal went on in pages, and none was fetched"));
    }
    Ok(())
}
