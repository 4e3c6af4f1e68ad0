//! An ended run that is reopened, and what that takes back.

use super::super::fixtures::*;
use crate::machine::*;

/// A run that failed after a step of each kind of end.
fn failed() -> World {
    let mut w = World::started(Started { timeout: Some(600_000), ..Started::default() });
    w.pump();
    w.answer(
        ops([
            value("good", "1"),
            failure("bad", error(Again::Never)),
            value("later", "2"),
            failure("worse", error(Again::Never)),
        ])
        .ending(Terminal::Error(error(Again::Never))),
    );
    w.pump();
    assert!(w.run.ended());
    w
}

#[test]
fn a_reopened_run_has_its_good_steps_and_is_read_back_the_same() {
    let mut w = failed();
    let seq = w.run.seq;
    let act = Act { by: "ann".to_owned(), ..Act::default() };
    let deadline = Some(w.clock + ms(600_000));
    assert_eq!(w.cause(Cause::Reopened { act: act.clone(), deadline }), Ok(()));
    let kinds: Vec<(Kind, String)> =
        w.run.next.rows.iter().map(|r| (r.kind, r.step.clone())).collect();
    let taken = |step: &str| (Kind::Retaken, step.to_owned());
    assert_eq!(kinds, [(Kind::Reopened, String::new()), taken("bad"), taken("worse")]);
    assert_eq!(w.cause(Cause::Reopened { act, deadline }), Err(Refusal::NotDue), "it is live");
    w.pump();
    assert_eq!(w.run.seq, seq, "numbers stay used");
    assert_eq!(w.run.deadline, deadline);
    let shown = String::from_utf8(w.run.shown.within(1_000).0.to_vec()).expect("UTF-8");
    assert_eq!(
        shown,
        r#""good":{"seq":1,"op":"run","value":1},"later":{"seq":3,"op":"run","value":2}"#
    );
    w.check();
    // The handler does the failed ones again, and they get the next numbers.
    w.answer(ops([value("bad", "3"), value("worse", "4")]).result());
    w.pump();
    assert!(matches!(w.run.turn, Turn::Ended { kind: Kind::Completed, .. }));
    assert_eq!(w.run.seq, seq + 2);
    w.check();
}

#[test]
fn a_run_that_goes_on_elsewhere_says_so_before_it_is_invoked_there() {
    let mut w = World::new();
    w.pump();
    w.answer(ops([signal("s", "go", None)]).awaiting("s"));
    assert_eq!(w.db.placement, Placement { dep: 1, pinned: false });
    w.dep = 2;
    let n = w.db.rows.len();
    assert!(w.signal("go", "1"));
    assert_eq!(w.since(n), [Kind::Done, Kind::Noted], "committed before it is sent");
    assert_eq!((w.sent.last().map(|s| s.view.dep), w.db.placement.dep), (Some(2), 2));
    // Its owner dies, and a newer one is there: that is a move again, and no other row is needed.
    w.dep = 3;
    w.crash(false);
    assert_eq!(w.since(n + 2), [Kind::Claimed]);
    assert_eq!(w.db.placement, Placement { dep: 3, pinned: false });
    w.answer(ops([value("a", "1")]));
    assert_eq!(w.since(n + 3), [Kind::Done], "what has not moved says nothing");
    // Pinned by hand, it is there at once, though it was invoked elsewhere.
    assert!(w.tell(MessageKind::Repinned, "", r#"{"by":"op","deployment":1}"#));
    assert_eq!(w.db.placement, Placement { dep: 1, pinned: true });
    w.check();
}
