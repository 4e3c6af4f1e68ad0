//! Runs of plain functions (protocol, section 8).

use crate::machine::tests::fixtures::*;
use crate::machine::*;

fn posted() -> World {
    let mut w = World::started(Started { kind: RunKind::Plain, ..Started::default() });
    w.pump();
    w
}

fn failing(retry: Again) -> Fault {
    let error = StepError { retry, ..StepError::of_gateway("http-status", "x answered 503") };
    Fault::Post { error: Box::new(error), status: Some(503), after: None }
}

// P8.14
#[test]
fn attempts_are_recorded_and_the_last_ends_the_run() {
    let mut w = posted();
    w.policy.step.max_attempts = 3;
    w.fault(failing(Again::Default));
    assert_eq!(w.kinds(), [Kind::Created, Kind::Fault], "no crash gives an attempt back");
    w.crash(true);
    w.advance(60_000);
    w.fault(failing(Again::Default));
    w.advance(60_000);
    w.fault(failing(Again::Default));
    let Turn::Ended { kind: Kind::EndFailed, body: Some(body), .. } = &w.run.turn else {
        panic!("{:?}", w.run.turn)
    };
    let error: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!((&error["type"], &error["attempts"]), (&"http-status".into(), &3.into()));
    // What no other attempt will mend is not tried again.
    let mut w = posted();
    w.fault(failing(Again::Never));
    assert_eq!(w.kinds(), [Kind::Created, Kind::EndFailed]);
}

// P8.14
#[test]
fn messages_do_not_hold_its_end_up_and_a_cancel_is_its_end() {
    let mut w = posted();
    w.signal("note", "1");
    let m = w.message(MessageKind::Signal, "note", "2");
    w.arriving.push(m);
    w.answer(ops([]).result());
    let end = [Kind::Created, Kind::Arrived, Kind::Arrived, Kind::Completed];
    assert_eq!(w.kinds(), end, "nobody is posted to twice");
    let mut w = posted();
    w.act(MessageKind::Cancel);
    assert_eq!(w.kinds(), [Kind::Created, Kind::Cancelling, Kind::Cancelled]);
    assert_eq!(w.sent.len(), 1, "who knows nothing of runs has nothing to undo");
}
