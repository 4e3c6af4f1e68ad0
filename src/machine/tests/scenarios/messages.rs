//! Signals, callbacks and operators' acts.

use std::time::Duration;

use super::{invoked, retry, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// --- section 5: messages ---

// P5.10
#[test]
fn signals_are_taken_oldest_first_and_each_once() {
    let mut w = invoked();
    for n in ["1", "2", "3"] {
        w.signal("go", n);
    }
    let asks = ["a", "b", "c", "d"].map(|id| signal(id, "go", None));
    w.answer(ops(asks).awaiting("d"));
    let taken: Vec<String> = (0..w.db.rows.len())
        .filter(|n| w.db.rows[*n].kind == Kind::Done)
        .map(|n| format!("{}={}", w.db.rows[n].step, w.body(n)))
        .collect();
    assert_eq!(taken, ["a=1", "b=2", "c=3"]);
    w.signal("go", "4");
    assert_eq!(settled(&w, "d"), Some(true));
}

#[test]
fn a_signal_s_time_out_is_an_error_and_a_later_one_waits_for_the_next_ask() {
    let mut w = invoked();
    w.answer(ops([signal("s", "go", Some(1_000))]).awaiting("s"));
    w.advance(500);
    assert_eq!(settled(&w, "s"), None);
    w.advance(600);
    assert_eq!(settled(&w, "s"), Some(false));
    assert!(w.body(w.db.rows.len() - 1).contains("timed-out"));
    w.signal("go", "1");
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("go", 1)]);
}

#[test]
fn what_is_due_by_one_clock_and_not_by_the_other_is_not_due() {
    let mut w = invoked();
    w.answer(ops([sleep("nap", 1_000), callback("c", None)]).awaiting(r#"{"any":["nap","c"]}"#));
    w.clock = w.clock + ms(1_000 + SKEW);
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert_eq!((w.sent.len(), settled(&w, "nap")), (2, None), "the exchange does not see it");
    w.clock = w.clock + ms(SKEW);
    w.answer(ops([]).awaiting("nap"));
    assert_eq!((w.sent.len(), settled(&w, "nap")), (3, Some(true)));
}

// P2.23
#[test]
fn an_early_callback_is_kept_value_and_error_alike_also_over_a_crash() {
    for (kind, ok) in [(MessageKind::CallbackValue, true), (MessageKind::CallbackError, false)] {
        let mut w = invoked();
        w.tell(kind, "c", r#"{"type":"X","message":"y"}"#);
        assert_eq!(w.run.inbox().count(), 0, "it is not shown as a signal");
        w.crash(false);
        w.answer(ops([callback("c", Some(1_000))]).awaiting("c"));
        assert_eq!(settled(&w, "c"), Some(ok));
        assert_eq!(w.sent.len(), 3);
    }
}

// P3.19, P5.38
#[test]
fn a_second_callback_is_late() {
    let mut w = invoked();
    w.answer(ops([callback("c", None)]).awaiting("c"));
    w.tell(MessageKind::CallbackValue, "c", "1");
    w.tell(MessageKind::CallbackError, "c", "{}");
    assert_eq!(w.since(3), [Kind::Done, Kind::Late]);
    assert_eq!(settled(&w, "c"), Some(true));
}

// P5.38
#[test]
fn a_callback_after_its_time_out_is_late() {
    let mut w = invoked();
    w.answer(ops([callback("c", Some(100))]).awaiting("c"));
    w.advance(200);
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert_eq!(settled(&w, "c"), Some(false));
    assert_eq!(w.kinds().last(), Some(&Kind::Late));
}

#[test]
fn a_sign_of_life_puts_a_callback_s_time_out_off() {
    let mut w = invoked();
    w.answer(ops([callback("c", Some(1_000))]).awaiting("c"));
    let until = w.clock + ms(5_000);
    w.run.put_off("c", until);
    w.advance(2_000);
    assert_eq!(settled(&w, "c"), None);
    assert_eq!(w.run.next_wake(w.clock), Some(until));
    w.advance(3_100);
    assert_eq!(settled(&w, "c"), Some(false));
}

// P9.4
#[test]
fn messages_that_were_accepted_before_a_crash_are_drained_by_the_next_owner() {
    let mut w = invoked();
    for name in ["a", "b"] {
        let m = w.message(MessageKind::Signal, name, "1");
        assert!(w.db.accept(m));
    }
    w.crash(false);
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("a", 1), ("b", 1)]);
    assert!(w.db.inbox.is_empty());
    w.answer(ops([]).result());
    assert!(w.run.ended());
}

// --- operators ---

#[test]
fn a_pause_lets_the_open_exchange_answer_and_holds_the_next() {
    let mut w = invoked();
    w.act(MessageKind::Pause);
    w.answer(ops([value("a", "1")]));
    assert_eq!((w.sent.len(), w.attention()), (1, Some("operator")));
    assert_eq!(w.db.wake, Wake::Never);
    w.act(MessageKind::Pause);
    assert_eq!(w.kinds().last(), Some(&Kind::Late));
    w.act(MessageKind::Resume);
    assert_eq!(w.sent.len(), 2);
}

#[test]
fn retry_now_hurries_a_step_and_an_exchange() {
    let mut w = invoked();
    let asked = StepError { after_ms: Some(3_600_000), ..error(Again::Default) };
    w.answer(ops([failure("a", asked)]).awaiting("a"));
    assert_eq!(w.db.wake, Wake::At(w.clock + Duration::from_hours(1) + ms(SKEW)));
    w.act(MessageKind::RetryNow);
    w.advance(20);
    assert_eq!(w.sent.len(), 2);
    w.fault(retry());
    w.act(MessageKind::RetryNow);
    assert_eq!(w.sent.len(), 3);
}

#[test]
fn terminate_ends_at_once_whatever_has_come() {
    let mut w = invoked();
    let m = w.message(MessageKind::Signal, "x", "1");
    w.arriving.push(m);
    w.act(MessageKind::Terminate);
    assert_eq!(w.kinds(), [Kind::Created, Kind::Terminated]);
    assert_eq!(w.db.inbox.len(), 1, "what is left goes to the history");
}
