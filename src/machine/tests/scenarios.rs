//! The protocol's rules, one by one, on the machine and its database in memory.

use std::time::Duration;

use super::fixtures::*;
use crate::machine::*;

const NOW: &str = "{\"by\":\"op\"}";

fn invoked() -> World {
    let mut w = World::new();
    w.pump();
    w
}

fn settled(w: &World, id: &str) -> Option<bool> {
    match w.run.steps.get(id).map(|s| &s.state) {
        Some(StepState::Settled { ok, .. }) => Some(*ok),
        _ => None,
    }
}

fn retry() -> Fault {
    Fault::Retry { detail: "connection refused".to_owned(), status: None, after: None }
}

// --- section 3: the answer -------------------------------------------------------------------

#[test]
fn a_plain_run_is_one_row_a_step_and_one_for_the_end() {
    let mut w = invoked();
    w.answer(ops([value("a", "1")]));
    w.answer(ops([value("a", "2"), value("b", "2")]).result());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Done, Kind::Completed]);
    assert_eq!(w.body(1), "1", "the first recorded outcome wins");
    assert_eq!(w.sent.iter().map(|s| s.epoch).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_settles_together_is_shown_together() {
    let mut w = invoked();
    w.answer(ops([sleep("x", 100), sleep("y", 100)]).awaiting(r#"{"all":["x","y"]}"#));
    w.advance(200);
    assert_eq!(w.sent.len(), 2, "all of two is one invocation");
    assert_eq!((settled(&w, "x"), settled(&w, "y")), (Some(true), Some(true)));
}

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

#[test]
fn an_await_of_an_unknown_step_is_malformed_and_named() {
    let mut w = invoked();
    w.answer(ops([value("a", "1")]).awaiting("ghost"));
    assert_eq!(w.kinds(), [Kind::Created], "nothing of it is recorded");
    assert!(w.run.last_fault.as_ref().is_some_and(|d| d.contains("`ghost`")));
    assert_eq!(w.run.faults, 1);
}

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

// --- section 3: exchanges that fail ----------------------------------------------------------

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

// --- section 3: the end ----------------------------------------------------------------------

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

// --- section 3: cancel -----------------------------------------------------------------------

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

// --- delayed start, epochs -------------------------------------------------------------------

#[test]
fn a_delayed_start_waits_and_then_has_an_epoch_of_its_own() {
    let mut w = World::started(Started { delay: Some(5_000), ..Started::default() });
    w.pump();
    assert!(w.sent.is_empty());
    w.advance(5_100);
    assert_eq!(w.open_epoch(), 1);
    // Whoever created it lent no epoch, so the first one is in the journal before it is used.
    w.crash(false);
    let epochs: Vec<i32> = w.sent.iter().map(|s| s.epoch).collect();
    assert!(epochs[0] < epochs[1], "{epochs:?}");
}

#[test]
fn a_resume_does_not_start_a_delayed_run_early_and_retry_now_does() {
    let mut w = World::started(Started { delay: Some(500_000), ..Started::default() });
    w.pump();
    w.act(MessageKind::Pause);
    w.act(MessageKind::Resume);
    assert!(w.sent.is_empty());
    assert!(matches!(w.db.wake, Wake::Hot | Wake::At(_)));
    w.tell(MessageKind::RetryNow, "", r#"{"by":"op","hurry":true}"#);
    assert_eq!(w.sent.len(), 1);
    assert_eq!(w.db.wake, Wake::Hot);
}

#[test]
fn epochs_are_cleared_by_a_new_owner_and_need_a_row_when_room_runs_out() {
    let mut w = invoked();
    for _ in 0..EPOCH_ROOM {
        w.fault(Fault::Again);
    }
    assert_eq!((w.open_epoch(), w.kinds().len()), (1 + EPOCH_ROOM, 1));
    let mut other = w.clone();
    other.crash(false);
    assert_eq!(other.open_epoch(), 1 + EPOCH_BLOCK);
    w.fault(Fault::Again);
    assert_eq!(w.kinds(), [Kind::Created, Kind::Fault]);
    w.crash(false);
    assert!(w.open_epoch() > 2 + EPOCH_ROOM);
}

#[test]
fn a_run_that_kills_its_nodes_is_paused_and_can_be_resumed() {
    let mut w = invoked();
    for _ in 0..10 {
        w.crash(false);
        assert_eq!(w.attention(), None);
    }
    w.crash(false);
    assert_eq!(w.attention(), Some("node-killer"));
    w.act(MessageKind::Resume);
    assert!(matches!(w.run.turn, Turn::Open { .. }), "{:?}", w.attention());
}

#[test]
fn a_run_that_leaves_memory_between_attempts_is_no_node_killer() {
    let mut w = World::new();
    w.policy.step.initial = Duration::from_mins(30);
    w.policy.step.max_interval = Duration::from_mins(30);
    w.policy.step.max_attempts = 20;
    w.pump();
    for attempt in 1..20 {
        w.answer(ops([failure("a", error(Again::Default))]).awaiting("a"));
        assert_eq!(w.run.steps["a"].attempts, attempt);
        assert!(matches!(w.db.wake, Wake::At(_)));
        // It was forgotten, and is loaded when its alarm goes off.
        w.clock = w.clock + Duration::from_mins(31);
        w.crash(false);
        w.advance(0);
        assert_eq!(w.attention(), None, "attempt {attempt}");
    }
    w.answer(ops([failure("a", error(Again::Default))]));
    assert_eq!(settled(&w, "a"), Some(false));
}

// --- section 5: steps ------------------------------------------------------------------------

#[test]
fn three_attempts_are_three_whatever_crashes() {
    let mut w = World::new();
    w.policy.step.max_attempts = 3;
    w.pump();
    for attempt in 1..=3 {
        w.crash(attempt % 2 == 0);
        w.answer(ops([failure("a", error(Again::Default))]).awaiting("a"));
        w.crash(true);
        w.advance(120_000);
    }
    let last = w.kinds().iter().rposition(|k| *k == Kind::Failed).expect("a failed row");
    assert!(w.body(last).contains("\"attempts\":3"), "{}", w.body(last));
    assert_eq!(w.kinds().iter().filter(|k| **k == Kind::Tried).count(), 2);
}

#[test]
fn never_fails_at_once_and_after_ms_says_when() {
    let mut w = invoked();
    w.answer(ops([failure("a", error(Again::Never))]));
    assert_eq!(settled(&w, "a"), Some(false));
    let asked = StepError { after_ms: Some(7_000), ..error(Again::Default) };
    w.answer(ops([failure("b", asked)]).awaiting("b"));
    assert_eq!(w.run.next_wake(w.clock), Some(w.clock + ms(7_000 + SKEW)));
}

#[test]
fn a_step_that_asks_for_a_person_pauses_and_is_tried_again_after_the_resume() {
    let mut w = invoked();
    w.answer(ops([failure("a", error(Again::Pause))]).awaiting("a"));
    assert_eq!(w.attention(), Some("step-asks"));
    w.advance(600_000);
    assert_eq!(w.sent.len(), 1);
    w.act(MessageKind::Resume);
    w.advance(20);
    assert_eq!(w.sent.len(), 2);
    w.answer(ops([value("a", "1")]).result());
    assert!(w.run.ended());
}

#[test]
fn a_due_attempt_invokes_whatever_the_tree_says() {
    let mut w = invoked();
    let answer = ops([failure("a", error(Again::Default)), callback("c", None)]);
    w.answer(answer.awaiting("c"));
    w.advance(600);
    assert_eq!(w.sent.last().map(|s| s.reason), Some(Reason::Retry));
}

#[test]
fn a_failing_step_that_the_handler_gave_up_does_not_keep_the_run_busy() {
    let mut w = invoked();
    w.answer(ops([failure("gone", error(Again::Default)), callback("c", None)]).awaiting("c"));
    w.advance(600);
    assert_eq!(w.sent.len(), 2);
    // New code has no such step: the attempt was offered once, and nobody took it.
    w.answer(ops([callback("c", None)]).awaiting("c"));
    w.advance(600_000);
    w.advance(600_000);
    assert_eq!((w.sent.len(), w.attention()), (2, None));
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert_eq!(w.sent.len(), 3);
}

#[test]
fn a_due_attempt_that_is_awaited_and_never_made_is_no_progress() {
    let mut w = invoked();
    w.answer(ops([failure("a", error(Again::Default))]).awaiting("a"));
    w.advance(600);
    for _ in 0..3 {
        w.answer(ops([]).awaiting("a"));
    }
    assert_eq!(w.attention(), Some("no-progress"));
}

#[test]
fn an_at_most_once_step_runs_in_the_epoch_after_its_start_and_in_no_later_one() {
    let mut w = invoked();
    w.answer(ops([start("once")]));
    assert_eq!(w.sent.len(), 2, "the licensed epoch comes at once");
    let mut lucky = w.clone();
    lucky.answer(ops([value("once", "1")]));
    assert_eq!(settled(&lucky, "once"), Some(true));
    let mut again = w.clone();
    again.fault(Fault::Again);
    assert_eq!(settled(&again, "once"), Some(false));
    w.crash(false);
    assert_eq!(settled(&w, "once"), Some(false), "it may have run: it is never run again");
    let last = w.db.rows.len() - 1;
    assert!(w.body(last).contains("step-interrupted"));
}

#[test]
fn a_begun_step_that_is_awaited_and_not_reported_is_interrupted() {
    let mut w = invoked();
    w.answer(ops([start("once")]));
    w.answer(ops([]).awaiting("once"));
    assert_eq!(settled(&w, "once"), Some(false));
    assert_eq!(w.sent.len(), 3);
}

#[test]
fn a_mismatch_records_nothing_and_says_what_was_expected() {
    let mut w = invoked();
    w.answer(ops([value("a", "1")]));
    w.answer(ops([value("b", "2"), Op::Status(text("1")), sleep("a", 5)]).awaiting("a"));
    assert_eq!(w.since(2), [Kind::Paused]);
    let attention = w.run.paused.clone().expect("paused");
    assert_eq!(attention.code, "mismatch");
    assert_eq!(attention.expected.as_deref(), Some("run a"));
    assert_eq!(attention.got.as_deref(), Some("sleep a"));
    assert_eq!(w.run.custom_status, None);
}

#[test]
fn one_answer_may_not_use_one_id_for_two_kinds() {
    let mut w = invoked();
    w.answer(ops([value("a", "1"), signal("a", "x", None)]).result());
    assert_eq!((w.attention(), w.since(1)), (Some("mismatch"), vec![Kind::Paused]));
}

#[test]
fn limits_record_nothing_and_name_the_step() {
    let big = || StepError { message: "x".repeat(200), ..error(Again::Never) };
    let data = serde_json::value::to_raw_value(&"y".repeat(200)).expect("text");
    let deep = || StepError { data: Some(data.clone()), ..error(Again::Never) };
    for op in [value("a", "\"0123456789\""), failure("a", big()), failure("a", deep())] {
        let mut w = invoked();
        w.limits.value_bytes =
            if matches!(&op, Op::Run { outcome: Outcome::Value(_), .. }) { 11 } else { 150 };
        w.answer(ops([value("z", "1"), op]).result());
        assert_eq!((w.attention(), w.since(1)), (Some("value-limit"), vec![Kind::Paused]));
        assert!(w.body(1).contains("`a`"));
    }
    let mut w = invoked();
    w.limits.steps = 2;
    w.answer(ops([value("a", "1"), value("b", "1"), value("c", "1")]));
    assert_eq!((w.attention(), w.since(1)), (Some("journal-limit"), vec![Kind::Paused]));
}

#[test]
fn a_full_journal_can_still_end_and_repeats_count_once() {
    let mut w = invoked();
    w.limits.journal_bytes = 10;
    w.answer(ops([value("a", "\"123456\"")]));
    w.answer(ops([value("a", "\"123456\""), value("b", "1")]));
    assert_eq!(w.attention(), None, "what is recorded already takes no room");
    w.signal("big", "\"0123456789\"");
    w.answer(ops([signal("s", "big", None)]));
    w.answer(ops([]).result());
    assert!(w.run.ended(), "{:?}", w.attention());
}

// --- section 5: messages ---------------------------------------------------------------------

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

#[test]
fn a_second_callback_is_late() {
    let mut w = invoked();
    w.answer(ops([callback("c", None)]).awaiting("c"));
    w.tell(MessageKind::CallbackValue, "c", "1");
    w.tell(MessageKind::CallbackError, "c", "{}");
    assert_eq!(w.since(3), [Kind::Done, Kind::Late]);
    assert_eq!(settled(&w, "c"), Some(true));
}

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

// --- operators -------------------------------------------------------------------------------

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

// --- the run policy --------------------------------------------------------------------------

#[test]
fn a_run_level_error_follows_the_run_policy_over_crashes() {
    let mut w = World::new();
    w.policy.run.max_attempts = 3;
    w.pump();
    for failure in 1..=3 {
        assert!(!w.run.ended(), "{failure}");
        w.crash(false);
        w.answer(ops([]).ending(Terminal::Error(error(Again::Default))));
        w.crash(false);
        w.advance(120_000);
    }
    assert_eq!(w.kinds().last(), Some(&Kind::EndFailed));
    assert!(w.body(w.db.rows.len() - 1).contains("\"attempts\":3"));
}

#[test]
fn a_run_level_error_can_ask_for_a_person_and_never_try_again() {
    let mut w = invoked();
    w.answer(ops([]).ending(Terminal::Error(error(Again::Pause))));
    assert_eq!(w.attention(), Some("run-asks"));
    w.act(MessageKind::Resume);
    w.policy.run.max_attempts = 5;
    w.answer(ops([]).ending(Terminal::Error(error(Again::Never))));
    assert_eq!(w.kinds().last(), Some(&Kind::EndFailed));
}

// --- promise 5: what wakes a run -------------------------------------------------------------

#[test]
fn a_run_that_parks_and_is_woken_in_one_append_is_hot() {
    let mut w = invoked();
    let epoch = w.open_epoch();
    let answer = ops([callback("c", None)]).awaiting("c");
    assert_eq!(w.cause(Cause::Answered { epoch, answer, ms: 0 }), Ok(()));
    let m = w.message(MessageKind::CallbackValue, "c", "1");
    w.db.accept(m);
    w.drain();
    let append = w.run.seal().expect("rows");
    assert_eq!(w.db.append(&append), Verdict::Won);
    assert_eq!(w.db.wake, Wake::Hot);
}

#[test]
fn a_parked_run_whose_alarm_has_no_use_any_more_is_parked_anew() {
    let mut w = invoked();
    let asks = ops([signal("s", "go", Some(600_000)), callback("c", None)]);
    w.answer(asks.awaiting(r#"{"settled":["s","c"]}"#));
    assert!(matches!(w.db.wake, Wake::At(_)));
    w.advance(600_100);
    assert_eq!((w.sent.len(), w.db.wake), (1, Wake::Never));
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert_eq!((w.sent.len(), w.db.wake), (2, Wake::Hot));
    assert_eq!(settled(&w, "s"), Some(false));
}

#[test]
fn a_moment_that_passes_between_two_looks_is_not_forgotten() {
    let mut w = invoked();
    w.answer(ops([sleep("nap", 100)]).awaiting("nap"));
    w.clock = w.clock + ms(500);
    // Whoever asks late, with a later clock, still hears of it.
    let wake = w.run.next_wake(w.env().past);
    assert!(wake.is_some_and(|at| at <= w.clock), "{wake:?}");
}

#[test]
fn a_recovered_run_whose_tree_is_satisfied_wants_an_exchange() {
    let mut w = invoked();
    w.answer(ops([callback("c", None)]).awaiting("c"));
    w.tell(MessageKind::CallbackValue, "c", "1");
    assert!(w.recovered().wants_exchange(w.env().past));
    let mut w = invoked();
    w.answer(ops([sleep("nap", 100)]).awaiting("nap"));
    w.clock = w.clock + ms(500);
    assert!(w.recovered().next_wake(w.env().past).is_some_and(|at| at <= w.clock));
}
