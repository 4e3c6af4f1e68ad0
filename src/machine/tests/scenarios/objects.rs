//! What runs change of their objects (protocol, sections 5 and 8).

use std::sync::Arc;

use crate::machine::tests::fixtures::*;
use crate::machine::*;

fn set(field: &str, value: &'static str) -> Op {
    Op::Set { object: None, field: field.to_owned(), value: Some(text(value)) }
}

fn unset(field: &str) -> Op {
    Op::Set { object: None, field: field.to_owned(), value: None }
}

fn holder() -> World {
    let mut w = World::started(Started { kind: RunKind::Object, ..Started::default() });
    let state = [("a", "1"), ("b", "2")].map(|(f, v)| (f.to_owned(), text(v)));
    w.run.published = Arc::new(state.into());
    w.pump();
    w
}

fn state(run: &Run) -> Vec<(&str, &[u8])> {
    let mut state: Vec<_> = run.object_state().map(|(f, v)| (f, v.as_ref())).collect();
    state.sort_unstable();
    state
}

// P5.20
#[test]
fn changes_are_staged_in_the_journal_and_published_by_completing() {
    let mut w = holder();
    w.answer(
        ops([set("a", "1"), set("a", "3"), unset("b"), unset("c"), value("s", "1")])
            .ending(Terminal::Yield),
    );
    assert_eq!(state(&w.run), [("a", &b"3"[..])]);
    let noted = w.kinds().iter().filter(|k| **k == Kind::Noted).count();
    assert_eq!(noted, 2, "what is so already is no row");
    assert_eq!(w.run.next.publication, None, "nobody else sees it");
    // A new owner reads what was published, and finds the changes in the rows.
    let published = Arc::clone(&w.run.published);
    w.crash(true);
    w.run.published = published;
    assert_eq!(state(&w.run), [("a", &b"3"[..])]);
    w.advance(1);
    let epoch = w.open_epoch();
    let answer = ops([]).result();
    w.cause(Cause::Answered { epoch, answer, ms: 1 }).expect("its exchange is open");
    let append = w.run.seal().expect("an end");
    let changes = Changes::from([("a".to_owned(), Some(text("3"))), ("b".to_owned(), None)]);
    assert_eq!(append.publication, Some(Publication { changes, frees: true }));
}

// P5.20
#[test]
fn an_end_that_is_no_completion_publishes_nothing_and_frees_the_object() {
    for act in [MessageKind::Terminate, MessageKind::Cancel] {
        let mut w = holder();
        w.answer(
            ops([set("a", "3"), sleep("z", 60_000)])
                .ending(Terminal::Await(Tree::Step("z".to_owned()))),
        );
        let m = w.message(act, "", "{\"by\":\"op\",\"grace_ms\":0}");
        w.db.accept(m.clone());
        let m = w.db.inbox.last().cloned().expect("it is there");
        w.cause(Cause::Drained(vec![m])).expect("it is live");
        if !w.run.ended() {
            w.run.seal();
            w.clock = w.clock + ms(100);
            w.cause(Cause::Tick).expect("the grace is over");
        }
        let append = w.run.seal().expect("an end");
        let frees = Publication { changes: Changes::new(), frees: true };
        assert_eq!(append.publication, Some(frees), "{act:?}");
    }
}

// P5.20
#[test]
fn a_generation_publishes_and_keeps_the_object_unless_its_gate_is_shut() {
    let mut w = holder();
    w.answer(ops([set("a", "3")]).ending(Terminal::Yield));
    let note = w.message(MessageKind::Signal, "note", "1");
    w.arriving.push(note);
    w.answer(ops([set("b", "4")]).ending(Terminal::Continue(text("2"))));
    assert_eq!(w.run.generation, 1, "a signal came first");
    assert_eq!(state(&w.run), [("a", &b"3"[..]), ("b", b"4")]);
    assert_eq!(w.run.staged.len(), 2, "staged still");
    w.answer(ops([]).ending(Terminal::Continue(text("2"))));
    assert_eq!(w.run.generation, 2);
    assert_eq!((state(&w.run), w.run.staged.len()), (vec![("a", &b"3"[..]), ("b", b"4")], 0));
    w.answer(ops([unset("a")]).ending(Terminal::Yield));
    assert_eq!(state(&w.run), [("b", &b"4"[..])]);
}

// P5.20
#[test]
fn a_compaction_keeps_what_is_staged() {
    let mut w = holder();
    w.answer(ops([set("a", "3"), unset("b"), Op::Compact(text("{}"))]).ending(Terminal::Yield));
    let published = Arc::clone(&w.run.published);
    let mut read = w.recovered();
    read.published = published;
    assert_eq!(state(&read), state(&w.run));
    assert_eq!(state(&read), [("a", &b"3"[..])]);
}

// P8.13
#[test]
fn who_waits_for_an_object_wants_nothing_until_it_has_it() {
    let mut w = World::started(Started {
        kind: RunKind::Object,
        elsewhere: true,
        timeout: Some(90_000),
        ..Started::default()
    });
    w.run.behind = Some(RunId::new(w.clock, 7));
    assert!(!w.run.wants_exchange(w.clock));
    assert_eq!(w.run.next_wake(w.clock), w.run.deadline, "but for its end");
    w.run.take_object(State::from([("a".to_owned(), text("1"))]));
    assert!(w.run.wants_exchange(w.clock));
    assert_eq!(state(&w.run), [("a", &b"1"[..])]);
}

// P8.13
#[test]
fn what_may_not_be_changed_is_named_and_nothing_of_the_answer_is_recorded() {
    for (kind, code) in [(RunKind::Reader, "object-read-only"), (RunKind::Function, "no-object")] {
        let mut w = World::started(Started { kind, ..Started::default() });
        w.pump();
        w.answer(ops([value("s", "1"), set("a", "1")]).result());
        assert_eq!((w.attention(), w.kinds()), (Some(code), vec![Kind::Created, Kind::Paused]));
    }
    let mut w = holder();
    w.limits.object_fields = 3;
    w.answer(ops([set("c", "1"), set("d", "1")]).result());
    assert_eq!(w.attention(), Some("object-limit"));
    let mut w = holder();
    w.limits.object_bytes = 4;
    w.answer(ops([unset("a"), set("c", "1")]).ending(Terminal::Yield));
    assert_eq!(w.attention(), None, "one went, another came");
    w.answer(ops([set("c", "12")]).ending(Terminal::Yield));
    assert_eq!(w.attention(), Some("object-limit"));
}
