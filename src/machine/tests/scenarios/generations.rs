//! Runs that continue as new (protocol, section 3).

use super::{NOW, invoked, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// P3.10
#[test]
fn a_run_continues_with_a_new_input_and_an_empty_journal_and_its_epochs_go_on() {
    let mut w = invoked();
    let (id, seed) = (w.run.id, w.run.created.seed.clone());
    w.answer(ops([value("a", "1"), Op::Status(text("7"))]).continuing());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Noted, Kind::Moved, Kind::Continued]);
    let sent = w.sent.last().expect("an exchange");
    assert_eq!((sent.epoch, sent.reason, sent.view.generation), (2, Reason::Start, 2));
    assert_eq!((w.run.id, w.run.created.input.get(), w.run.seq), (id, "\"next\"", 0));
    assert!(w.run.steps.is_empty() && w.run.shown == Shown::default());
    assert_ne!(w.run.created.seed, seed);
    assert_eq!(w.run.created.seed.len(), 32);
    assert_eq!(w.run.custom_status, Some(text("7")));
    assert_eq!(w.run.tags["customer"], "c7");
    // The same name again is a new step, the first of this generation.
    w.answer(ops([value("a", "2")]).continuing());
    assert_eq!(w.since(5), [Kind::Done, Kind::Continued]);
    assert_eq!(w.db.rows[5].seq, 1);
    assert_eq!(w.run.generation, 3);
    w.check();
}

// P3.10
#[test]
fn signals_that_nobody_took_stay_and_come_in_their_order() {
    let mut w = invoked();
    for (name, payload) in [("note", "1"), ("other", "2"), ("note", "3")] {
        w.signal(name, payload);
    }
    w.tell(MessageKind::CallbackValue, "early", "4");
    w.answer(ops([signal("s", "note", None)]).ending(Terminal::Yield));
    assert_eq!(w.body(w.db.rows.len() - 1), "1", "the first of them");
    w.answer(ops([]).continuing());
    let copies: Vec<&Row> = w.db.rows.iter().filter(|r| r.flags.has(Flags::REF)).collect();
    assert_eq!(copies.len(), 2, "a callback is of its generation: {copies:#?}");
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("note", 1), ("other", 1)]);
    w.crash(true);
    w.answer(ops([signal("s", "note", None)]).ending(Terminal::Yield));
    assert_eq!(w.body(w.db.rows.len() - 1), "3");
    w.check();
}

// P3.38
#[test]
fn a_signal_that_settled_a_step_unseen_is_shown_before_the_run_continues() {
    let mut w = invoked();
    w.answer(ops([signal("s", "note", None), sleep("nap", 1_000)]).awaiting("nap"));
    w.advance(2_000);
    w.signal("note", "1");
    assert_eq!(settled(&w, "s"), Some(true), "taken while the exchange was open");
    w.answer(ops([]).continuing());
    let sent = w.sent.last().expect("an exchange");
    assert_eq!((sent.reason, sent.view.generation), (Reason::Signal, 1));
    assert_eq!(sent.view.standing("s"), Standing::Value);
    w.answer(ops([]).continuing());
    assert_eq!(w.run.generation, 2);
}

// P3.16
#[test]
fn a_gate_lost_to_a_signal_undoes_the_generation_and_keeps_the_answer() {
    let mut w = invoked();
    w.answer(ops([sleep("nap", 60_000), value("a", "1")]));
    let m = w.message(MessageKind::Signal, "note", "1");
    w.arriving.push(m);
    w.answer(ops([value("b", "1"), Op::Status(text("1"))]).continuing());
    assert_eq!(w.since(3), [Kind::Done, Kind::Noted, Kind::Arrived]);
    let sent = w.sent.last().expect("an exchange");
    assert_eq!((sent.reason, sent.view.generation), (Reason::Signal, 1));
    assert_eq!((settled(&w, "b"), w.run.pending.len()), (Some(true), 1));
    assert!(w.db.attributes.is_some(), "what went with the answer went with it");
    w.check();
    w.answer(ops([]).continuing());
    assert_eq!((w.run.generation, w.run.pending.len(), w.run.timers.len()), (2, 0, 0));
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("note", 1)]);
    w.check();
}

#[test]
fn a_gate_lost_to_another_message_continues_all_the_same() {
    let mut w = invoked();
    let m = w.message(MessageKind::CallbackValue, "early", "1");
    w.arriving.push(m);
    w.answer(ops([value("a", "1")]).continuing());
    assert_eq!(w.since(1), [Kind::Done, Kind::Arrived, Kind::Moved, Kind::Continued]);
    assert_eq!(w.run.generation, 2);
    assert!(w.run.buffered.is_empty());
    w.check();
}

// P3.18
#[test]
fn after_two_refusals_the_third_stands_and_the_next_generation_accepts_again() {
    let mut w = invoked();
    for _ in 0..2 {
        assert!(w.signal("note", "1"));
        w.answer(ops([]).continuing());
    }
    assert!(w.db.closing && !w.signal("note", "1"), "it has stopped accepting");
    w.answer(ops([]).continuing());
    assert_eq!(w.run.generation, 2);
    assert!(!w.db.closing && w.signal("note", "1"));
    assert_eq!(w.run.inbox().collect::<Vec<_>>(), [("note", 3)]);
}

// P3.38
#[test]
fn a_cancel_that_comes_meanwhile_is_shown_first_and_goes_on_in_the_next_generation() {
    let mut w = invoked();
    let m = w.message(MessageKind::Cancel, "", NOW);
    w.arriving.push(m);
    w.answer(ops([]).continuing());
    assert!(matches!(w.run.turn, Turn::Open { saw_cancel: true, .. }));
    assert_eq!(w.run.generation, 1);
    w.answer(ops([]).continuing());
    let sent = w.sent.last().expect("an exchange");
    assert_eq!((sent.reason, sent.saw_cancel, sent.view.generation), (Reason::Cancel, true, 2));
    w.crash(false);
    w.advance(70_000);
    assert_eq!(w.kinds().last(), Some(&Kind::Cancelled), "its deadline is what it was");
}

#[test]
fn a_signal_holds_up_a_run_that_continues_under_a_cancel_that_it_knows_of() {
    let mut w = invoked();
    w.act(MessageKind::Cancel);
    w.hold();
    let m = w.message(MessageKind::Signal, "note", "1");
    w.arriving.push(m);
    w.report(ops([]).continuing(), false);
    assert_eq!(w.sent.last().map(|s| (s.reason, s.view.generation)), Some((Reason::Signal, 1)));
    w.check();
}

#[test]
fn a_terminate_that_comes_meanwhile_ends_the_generation_that_it_finds() {
    let mut w = invoked();
    let m = w.message(MessageKind::Terminate, "", NOW);
    w.arriving.push(m);
    w.answer(ops([value("a", "1")]).continuing());
    assert_eq!(w.kinds(), [Kind::Created, Kind::Done, Kind::Terminated]);
}

// P2.24
#[test]
fn a_callback_of_an_older_generation_is_late() {
    let mut w = invoked();
    w.answer(ops([callback("c", None)]).continuing());
    w.answer(ops([callback("c", None)]).awaiting("c"));
    let m = w.message(MessageKind::CallbackValue, "c", "1");
    w.db.accept(Message { generation: Some(1), ..m });
    w.drain();
    w.pump();
    assert_eq!((settled(&w, "c"), w.kinds().last()), (None, Some(&Kind::Late)));
    let m = w.message(MessageKind::CallbackValue, "c", "2");
    w.db.accept(Message { generation: Some(2), ..m });
    w.drain();
    w.pump();
    assert_eq!(settled(&w, "c"), Some(true));
    w.check();
}

#[test]
fn a_message_that_was_taken_before_is_known_in_the_next_generation() {
    let mut w = invoked();
    let m = w.message(MessageKind::Signal, "note", "1");
    w.db.accept(m.clone());
    w.drain();
    w.pump();
    w.answer(ops([signal("s", "note", None)]).ending(Terminal::Yield));
    w.answer(ops([]).continuing());
    w.db.accept(m);
    w.crash(false);
    w.drain();
    w.pump();
    assert_eq!(w.run.inbox().count(), 0, "each once");
    // What is kept for that does not grow with the generations.
    for _ in 0..50 {
        w.signal("note", "1");
        w.answer(ops([]).ending(Terminal::Yield));
        w.answer(ops([signal("s", "note", None)]).continuing());
        w.advance(60_000);
    }
    let last = w.db.rows.iter().rfind(|r| r.kind == Kind::Continued).expect("it continued");
    let carried: Carried =
        serde_json::from_slice(last.body.as_ref().expect("a body")).expect("JSON");
    assert!(carried.taken.len() <= 12, "{}", carried.taken.len());
    assert!(w.run.taken() >= w.db.accepted);
}

#[test]
fn children_follow_on_parent_close_and_what_comes_of_them_is_late() {
    let mut w = invoked();
    w.answer(ops([invoke("i", Close::Cancel), invoke("j", Close::Abandon)]).continuing());
    let kinds: Vec<OutgoingKind> = w.db.said.iter().map(|s| s.kind).collect();
    assert_eq!(kinds, [OutgoingKind::Start, OutgoingKind::Start, OutgoingKind::Cancel]);
    assert_eq!(w.db.said[2].to, w.db.said[0].to);
    w.answer(ops([invoke("j", Close::Cancel)]).awaiting("j"));
    let (first, second) = (w.deliver(None), w.deliver(None));
    for m in [first, second].into_iter().flatten() {
        w.db.accept(m);
    }
    w.drain();
    w.pump();
    assert_eq!(w.kinds().iter().filter(|k| **k == Kind::Late).count(), 2);
    assert_eq!(settled(&w, "j"), None);
    w.check();
}

// P3.38
#[test]
fn a_generation_has_the_run_s_time_anew() {
    let mut w = World::started(Started { timeout: Some(10_000), ..Started::default() });
    w.pump();
    for _ in 0..3 {
        w.advance(8_000);
        w.answer(ops([]).continuing());
    }
    w.crash(false);
    w.advance(9_900);
    assert!(!w.run.ended());
    w.advance(200);
    assert_eq!(w.kinds().last(), Some(&Kind::TimedOut));
}

#[test]
fn a_run_that_a_person_has_paused_stays_so() {
    let mut w = invoked();
    w.act(MessageKind::Pause);
    w.answer(ops([]).continuing());
    assert_eq!((w.run.generation, w.attention()), (2, Some("operator")));
    w.crash(false);
    assert_eq!((w.attention(), w.sent.len()), (Some("operator"), 1));
    w.check();
    w.act(MessageKind::Resume);
    assert_eq!(w.sent.last().map(|s| s.view.generation), Some(2));
}

#[test]
fn a_checkpoint_of_a_held_invocation_may_continue() {
    let mut w = invoked();
    w.hold();
    w.report(ops([value("a", "1")]), false);
    w.crash(false);
    w.report(ops([value("b", "1")]).continuing(), false);
    assert_eq!(w.run.generation, 2);
    let last = w.kinds().last().copied();
    assert!(matches!(last, Some(Kind::Continued | Kind::Claimed)), "{:?}", w.kinds());
    assert_eq!(w.sent.last().map(|s| s.reason), Some(Reason::Start));
    w.check();
}
