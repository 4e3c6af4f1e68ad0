//! Journals that are compacted to a state (protocol, section 5).

use super::{invoked, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// P5.23
#[test]
fn what_is_settled_goes_and_a_state_stands_for_it() {
    let mut w = invoked();
    w.answer(ops([value("a", "1"), value("b", "2"), compact("{\"n\":2}"), value("c", "3")]));
    assert_eq!(w.since(1), [Kind::Done, Kind::Done, Kind::Compacted, Kind::Done]);
    let sent = w.sent.last().expect("an exchange");
    assert_eq!(sent.view.state, Some(text("{\"n\":2}")));
    assert_eq!(sent.view.steps.keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!((w.run.seq, w.run.generation), (3, 1), "their numbers stay used");
    w.check();
    w.crash(false);
    assert_eq!(w.sent.last().expect("an exchange").view.state, Some(text("{\"n\":2}")));
    // The same again changes nothing, and is no progress; another state is.
    let rows = w.db.rows.len();
    w.answer(ops([compact("{\"n\":3}")]).ending(Terminal::Yield));
    w.answer(ops([compact("{\"n\":3}")]).ending(Terminal::Yield));
    assert_eq!(w.since(rows), [Kind::Compacted]);
    assert_eq!(w.run.idle, 1);
    w.answer(ops([]).result());
    assert!(w.run.ended());
    w.check();
}

// P5.40
#[test]
fn what_is_pending_or_untaken_stays() {
    let mut w = invoked();
    w.signal("note", "1");
    w.tell(MessageKind::CallbackError, "early", "{}");
    let asks = [sleep("nap", 5_000), signal("s", "go", Some(90_000)), callback("c", None)];
    w.answer(ops(asks).ending(Terminal::Yield));
    let again = failure("r", error(Again::Default));
    w.answer(ops([start("o"), again, invoke("i", Close::Cancel), value("a", "1"), compact("1")]));
    assert_eq!(w.run.pending.len(), 6);
    w.check();
    w.crash(false);
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("note", 1)]);
    assert_eq!(settled(&w, "o"), Some(false), "its licence has run out, as without it");
    w.answer(ops([callback("early", None)]).awaiting("nap"));
    assert_eq!(settled(&w, "early"), Some(false));
    w.advance(6_000);
    assert_eq!(settled(&w, "nap"), Some(true));
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert_eq!(settled(&w, "c"), Some(true));
    w.check();
}

#[test]
fn who_waits_for_what_was_compacted_away_waits_for_nothing() {
    let mut w = invoked();
    let answer = ops([value("a", "1"), sleep("nap", 9_000), compact("1")]);
    w.answer(answer.awaiting(r#"{"any":["a","nap"]}"#));
    assert!(matches!(w.run.turn, Turn::Open { .. }));
    // A name that is forgotten may be a new step.
    w.answer(ops([value("a", "2")]).awaiting("nap"));
    assert_eq!((settled(&w, "a"), w.run.seq), (Some(true), 2));
    w.check();
}

#[test]
fn a_held_invocation_is_held_still() {
    let mut w = invoked();
    w.hold();
    w.report(ops([value("a", "1"), compact("1")]), false);
    w.check();
    let epoch = w.run.talking();
    w.crash(false);
    assert_eq!(w.run.talking(), epoch);
    w.report(ops([value("b", "1")]).result(), false);
    assert!(w.run.ended());
}

#[test]
fn a_long_run_that_compacts_keeps_little_and_is_sent_little() {
    let mut w = invoked();
    w.limits.steps = 40;
    let ids: Vec<String> = (0..30).map(|k| format!("s{k}")).collect();
    for round in 0..50 {
        let work = ids.iter().map(|id| value(id, "\"some value\""));
        w.answer(ops(work.chain([compact("1")])).ending(Terminal::Yield));
        let sent = w.sent.last().expect("an exchange");
        assert!(sent.view.steps.is_empty() && sent.view.shown.within(usize::MAX).0.is_empty());
        assert_eq!(sent.view.seq, 30 * (round + 1));
    }
    let body = w.db.rows.iter().rfind(|r| r.kind == Kind::Compacted).and_then(|r| r.body.clone());
    assert!(body.expect("a body").len() < 1_000);
    assert_eq!(w.attention(), None, "a limit of steps is one of those that are there");
    w.check();
}
