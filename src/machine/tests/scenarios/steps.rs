//! Steps, their attempts and their limits (protocol, section 5).

use super::{invoked, settled};
use crate::machine::tests::fixtures::*;
use crate::machine::*;

// P5.36
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

// P5.33
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

// P5.5, P5.6, P5.7
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

// P5.42, P5.43
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

// P5.42
#[test]
fn one_answer_may_not_use_one_id_for_two_kinds() {
    let mut w = invoked();
    w.answer(ops([value("a", "1"), signal("a", "x", None)]).result());
    assert_eq!((w.attention(), w.since(1)), (Some("mismatch"), vec![Kind::Paused]));
}

// P3.31
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
