//! What an answer does and what a failed exchange does (protocol, section 3).

use std::time::Duration;

use super::{invoked, retry, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// --- section 3: the answer ---

// P5.41
#[test]
fn a_plain_run_is_one_row_a_step_and_one_for_the_end() {
    let mut w = invoked();
    w.answer(ops([value("a", "1")]));
    w.answer(ops([value("a", "2"), value("b", "2")]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Done, Kind::Completed]);
    assert_eq!(w.body(1), "1", "the first recorded outcome wins");
    assert_eq!(w.sent.iter().map(|s| s.epoch).collect::<Vec<_>>(), [1, 2]);
}

// P3.15
#[test]
fn what_settles_together_is_shown_together() {
    let mut w = invoked();
    w.answer(ops([sleep("x", 100), sleep("y", 100)]).awaiting(r#"{"all":["x","y"]}"#));
    w.advance(200);
    assert_eq!(w.sent.len(), 2, "all of two is one invocation");
    assert_eq!((settled(&w, "x"), settled(&w, "y")), (Some(true), Some(true)));
}

// P3.5, P3.6, P3.7
#[test]
fn trees_go_on_when_the_protocol_says() {
    // (tree, invoked after a value, invoked after a failure)
    for (tree, value, failed) in [
        (r#"{"all":["a","b"]}"#, false, true),
        (r#"{"any":["a","b"]}"#, true, true),
        (r#"{"settled":["a","b"]}"#, false, false),
        (r#"{"any":["b",{"all":["a"]}]}"#, true, true),
        (r#"{"settled":[{"any":["a"]},{"all":["b"]}]}"#, false, false),
    ] {
        for (kind, expected) in
            [(MessageKind::CallbackValue, value), (MessageKind::CallbackError, failed)]
        {
            let mut w = invoked();
            w.answer(ops([callback("a", None), callback("b", None)]).awaiting(tree));
            w.tell(kind, "a", "{}");
            assert_eq!(w.sent.len() == 2, expected, "{tree} {kind:?}");
            w.tell(MessageKind::CallbackValue, "b", "1");
            assert_eq!(w.sent.len(), 2, "{tree} {kind:?}, both settled");
        }
    }
}

#[test]
fn a_tree_that_failed_by_time_out_goes_on_even_if_it_was_due_before_the_await() {
    let mut w = invoked();
    let asks = ops([signal("s", "go", Some(50)), callback("c", None)]);
    w.answer(asks.ending(Terminal::Yield));
    w.clock = w.clock + ms(500);
    w.answer(ops([]).awaiting(r#"{"all":["s","c"]}"#));
    assert_eq!(settled(&w, "s"), Some(false));
    assert_eq!(w.sent.len(), 3);
}

// P3.8
#[test]
fn an_await_of_an_unknown_step_is_malformed_and_named() {
    let mut w = invoked();
    w.answer(ops([value("a", "1")]).awaiting("ghost"));
    assert_eq!(w.kinds(), [Kind::Created], "nothing of it is recorded");
    assert!(w.run.last_fault.as_ref().is_some_and(|d| d.contains("`ghost`")));
    assert_eq!(w.run.faults, 1);
}

// P3.11
#[test]
fn without_a_terminal_field_a_settled_step_yields_and_pending_ones_are_awaited() {
    let mut w = invoked();
    w.answer(ops([value("a", "1"), sleep("nap", 60)]));
    assert_eq!(w.sent.len(), 2);
    w.answer(ops([sleep("nap", 60)]));
    assert_eq!(w.run.turn, Turn::Waiting { tree: tree_of(r#"{"any":["nap"]}"#) });
    w.advance(100);
    assert_eq!(w.sent.len(), 3);
}

#[test]
fn an_ask_that_a_buffered_signal_settles_at_once_counts_as_settled() {
    let mut w = invoked();
    w.signal("go", "7");
    w.answer(ops([callback("never", None), signal("s", "go", None)]));
    assert_eq!(settled(&w, "s"), Some(true));
    assert_eq!(w.sent.len(), 2, "the handler has something new to see");
}

// P3.13
#[test]
fn three_answers_without_progress_pause_and_one_with_progress_begins_anew() {
    let mut w = invoked();
    for turn in 0..2 {
        w.answer(ops([]).ending(Terminal::Yield));
        assert_eq!(w.attention(), None, "{turn}");
    }
    w.answer(ops([value("a", "1")]));
    w.answer(ops([value("a", "1")]).awaiting("a"));
    w.answer(ops([]));
    w.answer(ops([start("a")]).ending(Terminal::Yield));
    assert_eq!(w.attention(), Some("no-progress"));
    let rows = w.kinds();
    assert_eq!(rows, [Kind::Created, Kind::Done, Kind::Paused]);
    w.act(MessageKind::Resume);
    assert!(matches!(w.run.turn, Turn::Open { reason: Reason::Manual, .. }));
}

#[test]
fn a_turn_that_waits_properly_breaks_a_row_of_idle_ones() {
    let mut w = invoked();
    w.answer(ops([value("a", "1"), callback("c", None), callback("d", None)]));
    for (done, step) in ["c", "d"].into_iter().enumerate() {
        w.answer(ops([]).ending(Terminal::Yield));
        w.answer(ops([]).ending(Terminal::Yield));
        assert_eq!(w.attention(), None, "{done}");
        w.answer(ops([]).awaiting(step));
        w.tell(MessageKind::CallbackValue, step, "1");
    }
    assert!(matches!(w.run.turn, Turn::Open { .. }));
}

#[test]
fn a_turn_that_only_logs_is_recorded_and_is_no_progress() {
    let mut w = invoked();
    let log = || Op::Log { level: "info".into(), message: "hi".into(), fields: None };
    for _ in 0..3 {
        w.answer(ops([log()]).ending(Terminal::Yield));
    }
    assert_eq!(w.attention(), Some("no-progress"));
}

// P5.21
#[test]
fn status_and_tags_are_recorded_once_and_shown_in_lists() {
    let mut w = invoked();
    let tags = || Op::Tags(vec![("customer".into(), None), ("tier".into(), Some("gold".into()))]);
    w.answer(ops([Op::Status(text("{\"at\":1}")), tags()]).ending(Terminal::Yield));
    w.answer(ops([Op::Status(text("{\"at\":1}")), tags(), value("a", "1")]));
    assert_eq!(w.kinds(), [Kind::Created, Kind::Noted, Kind::Noted, Kind::Done]);
    let shown = w.db.attributes.clone().expect("attributes");
    assert_eq!(shown.tags, r#"{"tier":"gold"}"#);
    assert_eq!(shown.custom_status.as_deref(), Some(&b"{\"at\":1}"[..]));
    w.answer(ops([Op::Status(text("null"))]).ending(Terminal::Yield));
    assert_eq!(w.recovered().custom_status, None);
}

// --- section 3: exchanges that fail ---

// P3.25
#[test]
fn failed_exchanges_back_off_then_pause_and_a_resume_begins_anew() {
    let mut w = World::new();
    w.policy.invocation.max_attempts = 3;
    w.pump();
    w.fault(retry());
    assert!(!w.run.wants_exchange(w.clock), "it backs off");
    w.advance(600);
    w.fault(retry());
    w.advance(1_100);
    w.fault(retry());
    assert_eq!(w.attention(), Some("invocations-used-up"));
    assert_eq!(w.kinds(), [Kind::Created, Kind::Paused], "failed exchanges are no rows");
    assert_eq!(w.db.wake, Wake::Never);
    w.act(MessageKind::Resume);
    assert_eq!((w.open_epoch(), w.run.faults, w.db.wake), (4, 0, Wake::Hot));
}

#[test]
fn retry_after_replaces_the_back_off_and_a_long_one_is_recorded() {
    let mut w = invoked();
    let after = Some(Duration::from_secs(5));
    w.fault(Fault::Retry { detail: "busy".into(), status: Some(429), after });
    assert_eq!(w.run.next_wake(w.clock), Some(w.clock + ms(5_000 + SKEW)));
    assert_eq!(w.kinds(), [Kind::Created]);
    w.advance(5_100);
    let after = Some(Duration::from_mins(10));
    w.fault(Fault::Retry { detail: "busy".into(), status: Some(503), after });
    assert_eq!(w.kinds(), [Kind::Created, Kind::Fault]);
    assert_eq!(w.db.wake, Wake::At(w.clock + Duration::from_mins(10) + ms(SKEW)));
    let again = w.recovered();
    assert_eq!((again.faults, again.next_wake(w.clock)), (2, w.run.next_wake(w.clock)));
    w.act(MessageKind::RetryNow);
    assert!(matches!(w.run.turn, Turn::Open { .. }));
    assert_eq!(w.db.wake, Wake::Hot, "a hurried run is not left to its old alarm");
}

#[test]
fn a_run_that_backs_off_past_its_deadline_is_woken_for_the_deadline() {
    let mut w = World::started(Started { timeout: Some(300_000), ..Started::default() });
    w.pump();
    let after = Some(Duration::from_hours(1));
    w.fault(Fault::Retry { detail: "busy".into(), status: Some(503), after });
    let deadline = w.run.deadline.expect("a deadline");
    assert!(matches!(w.db.wake, Wake::At(t) if t <= deadline), "{:?}", w.db.wake);
}

// P3.27, P3.28
#[test]
fn unhealthy_endpoints_and_smaller_bodies_cost_no_attempt() {
    let mut w = invoked();
    for _ in 0..40 {
        w.fault(Fault::Unhealthy { detail: "404".to_owned() });
        w.fault(Fault::Again);
    }
    assert_eq!((w.run.faults, w.attention()), (0, None));
    // Epochs beyond the room of the last row need a row.
    assert!(w.kinds().iter().filter(|k| **k == Kind::Fault).count() >= 4, "{:?}", w.kinds());
}

#[test]
fn an_exchange_that_cannot_be_cured_pauses() {
    let mut w = invoked();
    w.fault(Fault::Pause(Attention::new("journal-limit", "too much")));
    assert_eq!(w.attention(), Some("journal-limit"));
    assert_eq!(w.recovered().paused, w.run.paused);
}

// P9.3
#[test]
fn a_stale_epoch_changes_nothing() {
    let mut w = invoked();
    w.fault(Fault::Again);
    let before = format!("{:?}", w.run);
    let answer = ops([value("a", "1")]).result();
    let late = Cause::Answered { epoch: 1, answer, ms: 1 };
    assert_eq!(w.cause(late), Err(Refusal::StaleEpoch));
    assert_eq!(w.cause(Cause::Faulted { epoch: 1, fault: retry() }), Err(Refusal::StaleEpoch));
    assert_eq!(format!("{:?}", w.run), before);
}
