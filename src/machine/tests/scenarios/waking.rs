//! Starts, epochs, the run policy, and what wakes a run (promises 3 and 5).

use std::time::Duration;

use super::{invoked, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// --- delayed start, epochs ---

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

// P3.33
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

// --- the run policy ---

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

// --- promise 5: what wakes a run ---

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

// --- kept back ---

/// What the owner does with a run that is kept from its handler for long.
fn keep_back(w: &mut World, gate: i64) -> bool {
    let (policy, limits) = (w.policy.clone(), w.limits);
    let env = Env { policy: &policy, limits: &limits, ..w.env() };
    let kept = w.run.park_at_gate(gate, Attention::new("endpoint-unhealthy", "410"), &env);
    if let Some(append) = w.run.seal() {
        assert_eq!(append.gate, Some(gate));
        assert_eq!(w.db.append(&append), Verdict::Won);
    }
    kept
}

#[test]
fn a_run_that_is_kept_back_comes_back_as_it_was() {
    let mut w = World::started(Started { timeout: Some(3_600_000), ..Started::default() });
    w.pump();
    assert!(!keep_back(&mut w, 12), "its exchange is open");
    w.fault(Fault::Retry { detail: "500".to_owned(), status: Some(500), after: None });
    let deadline = w.run.deadline.expect("it has one");
    assert!(keep_back(&mut w, 12));
    assert_eq!(w.db.wake, Wake::At(deadline));
    let rows = w.db.rows.len();
    assert!(keep_back(&mut w, 12));
    assert_eq!(w.db.rows.len(), rows, "the database knows");
    let back = w.recovered();
    assert_eq!((back.faults, back.epoch, back.claims), (w.run.faults, w.run.epoch, 0));
    assert!(matches!(back.turn, Turn::Due { .. }) && back.wants_exchange(w.env().past));
    assert!(keep_back(&mut w, 13), "another gate is told");
    assert_eq!(w.db.rows.len(), rows + 1);
    // A probe uses an epoch that no row tells of: then the next wait is a row again.
    w.advance(60_000);
    w.pump();
    let used = w.open_epoch();
    let fault = Fault::Unhealthy { detail: "410".to_owned() };
    assert_eq!(w.cause(Cause::Faulted { epoch: used, fault }), Ok(()));
    assert!(keep_back(&mut w, 13));
    assert_eq!((w.db.rows.len(), w.recovered().epoch), (rows + 2, used));
}

#[test]
fn what_ends_a_run_that_is_kept_back_reaches_it() {
    let mut w = World::started(Started::default());
    w.pump();
    let (epoch, fault) = (w.open_epoch(), Fault::Unhealthy { detail: "410".to_owned() });
    assert_eq!(w.cause(Cause::Faulted { epoch, fault }), Ok(()));
    assert!(keep_back(&mut w, 12));
    assert_eq!(w.db.wake, Wake::Never);
    w.load();
    w.run.gate = Some(12);
    w.act(MessageKind::Pause);
    // It waits for a person now, not for its endpoint.
    assert_eq!((w.run.gate, w.db.wake), (None, Wake::Never));
    w.act(MessageKind::Terminate);
    assert!(w.db.ended());
}
