//! How runs end, are cancelled, and what holds an end up (protocol, section 3).

use std::time::Duration;

use super::{NOW, invoked, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// --- section 3: the end ---

// P3.17
#[test]
fn a_signal_during_the_exchange_refuses_the_end_and_is_shown() {
    let mut w = invoked();
    w.signal("note", "1");
    w.answer(ops([value("a", "1")]).result());
    let s = w.sent.last().expect("an exchange");
    assert_eq!((s.reason, s.view.inbox().collect::<Vec<_>>()), (Reason::Signal, vec![("note", 1)]));
    assert_eq!(settled(&w, "a"), Some(true), "the ops of the answer are recorded");
    w.answer(ops([]).result());
    assert!(w.run.ended());
}

#[test]
fn a_gate_lost_to_a_signal_keeps_the_answer_and_invokes_again() {
    let mut w = invoked();
    let m = w.message(MessageKind::Signal, "note", "1");
    w.arriving.push(m);
    w.answer(ops([value("a", "1"), Op::Status(text("1"))]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Noted, Kind::Arrived]);
    assert_eq!(w.sent.last().map(|s| s.reason), Some(Reason::Signal));
    assert!(w.db.attributes.is_some(), "what went with the answer went with it");
    w.answer(ops([signal("s", "note", None)]).result());
    assert_eq!(w.since(4), [Kind::Asked, Kind::Done, Kind::Completed]);
}

// P3.19
#[test]
fn a_gate_lost_to_a_late_callback_does_not_hold_the_end_up() {
    let mut w = invoked();
    let m = w.message(MessageKind::CallbackValue, "early", "1");
    w.arriving.push(m);
    w.answer(ops([value("a", "1")]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Arrived, Kind::Completed]);
    assert!(w.run.ended());
}

#[test]
fn a_gate_lost_to_a_repeat_of_a_known_signal_does_not_hold_the_end_up() {
    let mut w = invoked();
    let m = w.message(MessageKind::Signal, "note", "1");
    w.db.accept(m.clone());
    w.drain();
    w.pump();
    w.answer(ops([]).ending(Terminal::Yield));
    w.arriving.push(m);
    w.answer(ops([]).result());
    assert!(w.run.ended(), "{:?}", w.run.turn);
    assert_eq!(w.kinds(), [Kind::Created, Kind::Arrived, Kind::Completed]);
}

#[test]
fn a_gate_lost_to_a_terminate_terminates() {
    let mut w = invoked();
    for kind in [MessageKind::Terminate, MessageKind::Signal] {
        let m = w.message(kind, "x", NOW);
        w.arriving.push(m);
    }
    w.answer(ops([value("a", "1")]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Terminated]);
}

#[test]
fn a_gate_lost_to_a_cancel_lets_the_handler_compensate() {
    let mut w = invoked();
    let m = w.message(MessageKind::Cancel, "", NOW);
    w.arriving.push(m);
    w.answer(ops([value("a", "1")]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Cancelling]);
    assert!(matches!(w.run.turn, Turn::Open { saw_cancel: true, .. }));
    w.answer(ops([value("undo", "1")]).result());
    assert_eq!(w.since(3), [Kind::Done, Kind::Cancelled]);
}

#[test]
fn a_deadline_that_loses_the_gate_ends_the_run_all_the_same() {
    let mut w = World::started(Started { timeout: Some(1_000), ..Started::default() });
    w.pump();
    for kind in [MessageKind::Signal, MessageKind::Cancel] {
        let m = w.message(kind, "x", NOW);
        w.arriving.push(m);
    }
    w.advance(2_000);
    let rows = [Kind::Created, Kind::Arrived, Kind::Cancelling, Kind::TimedOut];
    assert_eq!(w.kinds(), rows);
}

// P3.18
#[test]
fn after_two_refused_ends_messages_are_refused_and_the_third_end_stands() {
    let mut w = invoked();
    for _ in 0..2 {
        assert!(w.signal("note", "1"));
        w.answer(ops([]).result());
    }
    assert!(w.db.closing && !w.signal("note", "1"), "it has stopped accepting");
    w.answer(ops([]).result());
    assert!(w.run.ended());
}

#[test]
fn the_third_end_stands_though_signals_came_while_it_was_closing() {
    let mut w = invoked();
    for _ in 0..2 {
        w.signal("note", "1");
        // Accepted before the rows that close the run are committed, drained by nobody yet.
        let m = w.message(MessageKind::Signal, "note", "2");
        w.arriving.push(m);
        w.answer(ops([Op::Status(text("1"))]).result());
    }
    assert!(w.db.closing && !w.db.inbox.is_empty());
    w.answer(ops([]).result());
    assert!(w.run.ended(), "{:?}", w.run.turn);
    assert!(w.db.inbox.is_empty(), "all of them are in the journal");
}

#[test]
fn a_run_that_goes_on_after_refused_ends_accepts_again() {
    let mut w = invoked();
    for _ in 0..2 {
        w.signal("note", "1");
        w.answer(ops([]).result());
    }
    w.answer(ops([signal("s", "more", None)]).awaiting("s"));
    assert!(!w.db.closing && w.signal("more", "1"));
    assert_eq!(settled(&w, "s"), Some(true));
}

#[test]
fn a_closing_run_that_backs_off_stays_closed_and_a_paused_one_accepts_again() {
    let mut w = invoked();
    for _ in 0..2 {
        w.signal("note", "1");
        w.answer(ops([]).result());
    }
    let after = Some(Duration::from_mins(10));
    w.fault(Fault::Retry { detail: "busy".into(), status: Some(503), after });
    assert!(matches!(w.db.wake, Wake::At(_)) && w.db.closing, "parking it does not open it");
    assert!(!w.signal("note", "1") && w.act(MessageKind::Pause), "operators are heard");
    assert!(!w.db.closing && w.signal("note", "1"));
}

#[test]
fn the_run_s_deadline_ends_it_whatever_is_open() {
    let mut w = World::started(Started { timeout: Some(1_000), ..Started::default() });
    w.pump();
    let epoch = w.open_epoch();
    w.advance(900);
    assert!(!w.run.ended());
    w.advance(200);
    assert_eq!(w.kinds(), [Kind::Created, Kind::TimedOut]);
    let answer = ops([]).result();
    assert_eq!(w.cause(Cause::Answered { epoch, answer, ms: 0 }), Err(Refusal::Ended));
}

// --- section 3: cancel ---

#[test]
fn a_cancel_makes_the_open_exchange_stale() {
    let mut w = invoked();
    let old = w.open_epoch();
    w.act(MessageKind::Cancel);
    assert!(matches!(w.run.turn, Turn::Open { saw_cancel: true, reason: Reason::Cancel, .. }));
    let answer = ops([value("a", "1")]).result();
    let late = Cause::Answered { epoch: old, answer, ms: 0 };
    assert_eq!(w.cause(late), Err(Refusal::StaleEpoch));
    w.answer(ops([]).ending(Terminal::Error(error(Again::Default))));
    assert_eq!(w.kinds(), [Kind::Created, Kind::Cancelling, Kind::Cancelled]);
}

#[test]
fn a_second_cancel_is_late_and_moves_no_deadline() {
    let mut w = invoked();
    w.act(MessageKind::Cancel);
    let first = w.run.cancel.clone();
    w.advance(10_000);
    w.act(MessageKind::Cancel);
    assert_eq!(w.since(1), [Kind::Cancelling, Kind::Late]);
    assert_eq!(w.run.cancel, first);
    w.advance(51_000);
    assert_eq!(w.since(3), [Kind::Cancelled], "the deadline ends it");
}

// P3.37
#[test]
fn a_run_that_was_never_invoked_is_cancelled_at_once_also_by_a_new_owner() {
    for recover in [false, true] {
        let mut w = World::started(Started { delay: Some(5_000), ..Started::default() });
        w.pump();
        w.signal("note", "1");
        if recover {
            w.crash(false);
        }
        w.act(MessageKind::Cancel);
        let rows = [Kind::Created, Kind::Arrived, Kind::Cancelling, Kind::Cancelled];
        assert_eq!(w.kinds(), rows, "recovered: {recover}");
    }
}

#[test]
fn a_cancel_lets_a_paused_run_go_on() {
    let mut w = invoked();
    w.fault(Fault::Pause(Attention::new("mismatch", "x")));
    w.act(MessageKind::Cancel);
    assert!(matches!(w.run.turn, Turn::Open { saw_cancel: true, .. }));
    assert_eq!(w.db.wake, Wake::Hot);
}
