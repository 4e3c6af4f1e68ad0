//! The functions that a handler offers, each driven through what it must withstand.

use std::future::Future;
use std::pin::Pin;

use serde_json::{Value, json};

use super::play::{BIG, Mode, Play};
use super::{Seen, Wrong};
use crate::machine::{Kind, Op, Outcome};

type Playing<'p> = Pin<Box<dyn Future<Output = Seen> + 'p>>;

/// One function, driven in each of some modes.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) function: &'static str,
    pub(super) rules: &'static [&'static str],
    pub(super) modes: &'static [Mode],
    /// Whether the handler must be able to fetch values and pages.
    pub(super) pages: bool,
    pub(super) input: fn() -> Value,
    pub(super) play: for<'p, 's> fn(&'p mut Play<'s>) -> Playing<'p>,
}

const ONE: &[Mode] = &[Mode::Plain];
/// For functions whose answers depend on nothing but what is shown.
const ALL: &[Mode] = &[Mode::Plain, Mode::Lost, Mode::Stale, Mode::Slow, Mode::Cut];
/// For functions that fetch: what is of an old epoch fetches nothing any more.
const FETCHING: &[Mode] = &[Mode::Plain, Mode::Lost, Mode::Slow, Mode::Cut];
/// For functions with state of their own outside of the journal.
const STATEFUL: &[Mode] = &[Mode::Plain, Mode::Slow];

macro_rules! case {
    ($name:literal, $function:literal, $rules:expr, $modes:expr, $input:expr, $play:path) => {
        case!($name, $function, $rules, $modes, $input, $play, false)
    };
    ($name:literal, $function:literal, $rules:expr, $modes:expr, $input:expr, $play:path, $pages:expr) => {
        Case {
            name: $name,
            function: $function,
            rules: &$rules,
            modes: $modes,
            pages: $pages,
            input: || $input,
            play: |p| Box::pin($play(p)),
        }
    };
}

#[rustfmt::skip]
pub(super) const CASES: [Case; 29] = [
    case!("echo", "echo", ["P2.1", "P3.1", "P3.2", "P4.2"], ALL, echoed(), echo),
    case!("signal at the end", "echo", ["P2.7", "P2.8", "P3.17"], ONE, json!({"a": 1}), signal_at_the_end),
    case!("facts", "facts", ["P2.10", "P2.16"], ALL, json!(null), facts),
    case!("three steps", "three-steps", ["P2.11", "P3.11", "P4.3", "P5.3", "P5.4", "P9.2"], ALL, json!({"n": 7}), three_steps),
    case!("replay", "three-steps", ["P8.10"], ONE, json!({"n": 7}), replay),
    case!("names", "names", ["P2.25", "P2.26", "P5.2"], ALL, json!(null), names),
    case!("refusal", "refuse", ["P3.3", "P5.35"], ALL, json!(null), refuse),
    case!("status, tags and log", "tell", ["P5.21", "P5.22"], ALL, json!(null), tell),
    case!("a step that fails twice", "fail", ["P5.30", "P5.31", "P5.33"], STATEFUL, json!({"times": 2}), fails_twice),
    case!("a step that waits", "fail", ["P5.30", "P5.32"], STATEFUL, json!({"times": 1, "after_ms": 45000}), waits_after_ms),
    case!("retries used up", "fail", ["P5.31", "P5.34"], STATEFUL, json!({"times": 99, "max_attempts": 3}), used_up),
    case!("retry never", "fail", ["P5.30", "P5.34"], STATEFUL, json!({"times": 99, "retry": "never"}), never),
    case!("retry pause", "fail", ["P5.30"], STATEFUL, json!({"times": 1, "retry": "pause"}), pause),
    case!("at most once", "once", ["P5.6", "P5.7", "P9.2"], &[Mode::Plain, Mode::Slow], json!(null), once),
    case!("at most once, interrupted", "once", ["P5.7"], &[Mode::Lost], json!(null), interrupted),
    case!("sleep", "nap", ["P2.12", "P3.4", "P5.9"], ALL, json!({"for": "90s"}), nap),
    case!("signals in order", "signals", ["P5.10", "P5.24"], ALL, json!({"timeout": "1h"}), signals_in_order),
    case!("signals in another order", "signals", ["P2.8", "P5.10"], ALL, json!({"timeout": "1h"}), signals_reordered),
    case!("signals that do not come", "signals", ["P5.37"], ALL, json!({"timeout": "1h"}), signals_late),
    case!("callback", "callback", ["P2.18", "P2.23", "P5.12"], ALL, json!({"timeout": "1h"}), callback),
    case!("callback before the ask", "callback", ["P2.23"], ALL, json!({"timeout": "1h"}), callback_early),
    case!("callback with an error", "callback", ["P2.19"], ALL, json!({"timeout": "1h"}), callback_error),
    case!("callback too late", "callback", ["P5.37", "P5.38"], ALL, json!({"timeout": "1h"}), callback_late),
    case!("all of three", "parallel", ["P3.4", "P3.5", "P3.15"], ALL, json!({"mode": "all"}), all_of_three),
    case!("any of three", "parallel", ["P3.4", "P3.6"], ALL, json!({"mode": "any"}), any_of_three),
    case!("three settled", "parallel", ["P3.4", "P3.7"], ALL, json!({"mode": "settled"}), three_settled),
    case!("cancel", "compensate", ["P3.35", "P3.36"], ALL, json!(null), cancel),
    case!("a big value", "big", ["P2.17", "P2.27"], FETCHING, json!({"bytes": BIG}), big, true),
    case!("pages", "many", ["P2.17", "P2.28"], FETCHING, json!({"count": 12}), pages, true),
];

fn equal(what: &str, got: &Value, expected: &Value) -> Seen {
    if got == expected {
        return Ok(());
    }
    Err(format!("{what}: expected {expected}, got {got}").into())
}

fn ends_with(p: &Play<'_>, expected: &Value) -> Seen {
    equal("the result", &p.output()?, expected)
}

/// These steps, each settled once, in this order.
fn journal(p: &Play<'_>, expected: &[&str]) -> Seen {
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

async fn three_steps(p: &mut Play<'_>) -> Seen {
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
    let tags = json!({"suite": "conformance", "stage": "one"});
    equal("the tags, merged", &json!(p.run().tags), &tags)?;
    let said = |e: &super::play::Exchange| e.answer["ops"].as_array().cloned().unwrap_or_default();
    let mut ops = p.exchanges.iter().flat_map(said);
    let log = ops.find(|op| op["op"] == "log").unwrap_or_default();
    equal("the log's message", &log["message"], &json!("hello"))?;
    equal("the log's fields", &log["fields"], &json!({"n": 1}))?;
    journal(p, &["work"])?;
    ends_with(p, &json!(null))
}

/// Lets the time come for what is tried again, until the run waits for nothing by itself.
async fn to_the_end(p: &mut Play<'_>) -> Seen {
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
    // Something else invokes it while the step waits for its next attempt.
    let before = p.exchanges.len();
    let answer = p.ask("manual").await?;
    if answer.ops.iter().any(|op| op.step() == Some("work")) {
        return Err("while the step waited for its next attempt it was run".into());
    }
    equal("invocations so far", &json!(before), &json!(1))?;
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

async fn nap(p: &mut Play<'_>) -> Seen {
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

/// The value that the handler recorded of a step, as it was last shown.
fn shown(p: &Play<'_>, step: &str) -> Value {
    p.exchanges.last().map(|e| e.invocation["steps"][step]["value"].clone()).unwrap_or_default()
}

async fn callback(p: &mut Play<'_>) -> Seen {
    p.go().await?;
    p.waits()?;
    p.callback("approval", Ok(json!({"by": "ann"})));
    p.go().await?;
    // In the clear or percent-encoded: this id needs neither.
    equal("the address", &shown(p, "told"), &json!(p.callback_address("approval")))?;
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
    let asked = p.exchanges.last().map(|e| e.answer["ops"].clone()).unwrap_or_default();
    let ids: Vec<&Value> = asked.as_array().into_iter().flatten().map(|op| &op["id"]).collect();
    equal("what is asked for at once", &json!(ids), &json!(["p/1", "p/2", "p/3"]))
}

/// How often the gateway had a reason to invoke.
fn turns(p: &Play<'_>) -> usize {
    let repeated = matches!(p.mode(), Mode::Lost | Mode::Cut);
    p.exchanges.len() / if repeated { 2 } else { 1 }
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
    equal("invocations", &json!(turns(p)), &json!(2))?;
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

async fn cancel(p: &mut Play<'_>) -> Seen {
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
    if p.fetched().0 == 0 {
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
    if p.fetched().1 == 0 {
        return Err(Wrong::from("the journal went on in pages, and none was fetched"));
    }
    Ok(())
}
