//! The whole table of edges, turn by cause, as one snapshot that a reviewer can read.

use std::fmt::Write as _;

use super::fixtures::*;
use crate::machine::*;

const OP: &str = "{\"by\":\"op\"}";

/// A step that may fail again and again, a sleep far away, a signal and a callback asked for.
fn asks() -> Vec<Op> {
    vec![sleep("nap", 3_000), signal("s", "go", Some(9_000)), callback("c", None)]
}

fn waiting() -> World {
    let mut w = World::started(Started { timeout: Some(600_000), ..Started::default() });
    w.pump();
    w.answer(ops(asks()).awaiting(r#"{"any":["nap","s","c"]}"#));
    w
}

fn open() -> World {
    let mut w = waiting();
    w.tell(MessageKind::CallbackValue, "c", "1");
    w
}

fn backing_off() -> World {
    let mut w = open();
    w.fault(Fault::Retry { detail: "500".into(), status: Some(500), after: None });
    w
}

fn paused(mut w: World) -> World {
    w.act(MessageKind::Pause);
    w
}

/// The handler answered 202, and another owner has the run.
fn held() -> World {
    let mut w = open();
    w.hold();
    w.load();
    w
}

/// The handler waits within its exchange.
fn listening() -> World {
    let mut w = open();
    w.report(ops([]).awaiting("nap"), true);
    w
}

fn turns() -> Vec<(&'static str, World)> {
    let delayed = || {
        let mut w = World::started(Started { delay: Some(90_000), ..Started::default() });
        w.pump();
        w
    };
    let unseen = || {
        let mut w = open();
        w.signal("note", "1");
        w
    };
    let mut closing = unseen();
    closing.answer(ops([]).result());
    closing.signal("note", "2");
    closing.answer(ops([]).result());
    let mut cancelling = open();
    cancelling.act(MessageKind::Cancel);
    let mut ended = open();
    ended.answer(ops([]).result());
    vec![
        ("due: never invoked", World::new()),
        ("due: delayed start", delayed()),
        ("due: backing off", backing_off()),
        ("due: backing off, paused", paused(backing_off())),
        ("open", open()),
        ("open, a signal unseen", unseen()),
        ("open, closing after two refused ends", closing),
        ("open, paused", paused(open())),
        ("open, cancelling", cancelling),
        ("open, awaits within the exchange", listening()),
        ("held", held()),
        ("waiting", waiting()),
        ("waiting, paused", paused(waiting())),
        ("ended", ended),
    ]
}

type Make = fn(&mut World) -> Cause;

fn answered(w: &World, answer: Answer) -> Cause {
    Cause::Answered { epoch: w.run.epoch, answer, ms: 1 }
}

fn faulted(w: &World, fault: Fault) -> Cause {
    Cause::Faulted { epoch: w.run.epoch, fault }
}

fn reported(w: &World, answer: Answer, stays: bool) -> Cause {
    let (epoch, cp) = (w.run.epoch, w.run.talk.cp + 1);
    Cause::Reported(Report { epoch, cp, answer, stays })
}

fn drained(w: &mut World, kind: MessageKind, name: &str, body: &str) -> Cause {
    let m = w.message(kind, name, body);
    w.db.accept(m.clone());
    let pos = w.db.accepted;
    Cause::Drained(vec![Message { pos, ..m }])
}

fn later(w: &mut World, by: u64) -> Cause {
    w.clock = w.clock + ms(by);
    Cause::Tick
}

/// The open exchange wants to end, and loses its gate to this message.
fn gate_lost(w: &mut World, kind: MessageKind) -> Cause {
    lost(w, kind, ops([value("a", "1")]).result())
}

/// The same for one that wants to continue.
fn continue_lost(w: &mut World, kind: MessageKind) -> Cause {
    lost(w, kind, ops([value("a", "1")]).continuing())
}

fn lost(w: &mut World, kind: MessageKind, answer: Answer) -> Cause {
    let answer = answered(w, answer);
    let m = w.message(kind, "x", OP);
    let append = match w.cause(answer) {
        Ok(()) => w.run.seal().unwrap_or_default(),
        Err(_) => Append::default(),
    };
    w.db.accept(m);
    Cause::GateLost { append, messages: w.db.inbox.clone() }
}

const CAUSES: [(&str, Make); 66] = [
    ("free", |_| Cause::Free { dep: 1 }),
    ("answered: of another epoch", |_| Cause::Answered {
        epoch: 999,
        answer: ops([value("a", "1")]).result(),
        ms: 1,
    }),
    ("answered: a value", |w| answered(w, ops([value("a", "1")]))),
    ("answered: an error, retried", |w| {
        answered(w, ops([failure("a", error(Again::Default))]).awaiting("a"))
    }),
    ("answered: an error, never again", |w| answered(w, ops([failure("a", error(Again::Never))]))),
    ("answered: an error, pause", |w| answered(w, ops([failure("a", error(Again::Pause))]))),
    ("answered: start", |w| answered(w, ops([start("a")]))),
    ("answered: sleep and await it", |w| answered(w, ops([sleep("b", 50)]).awaiting("b"))),
    ("answered: signal that has come", |w| {
        answered(w, ops([signal("b", "note", None)]).awaiting("b"))
    }),
    ("answered: await what is pending", |w| answered(w, ops(asks()).awaiting("nap"))),
    ("answered: await what is settled", |w| answered(w, ops(asks()).awaiting("c"))),
    ("answered: await a stranger", |w| answered(w, ops([value("a", "1")]).awaiting("ghost"))),
    ("answered: a child and a signal", |w| {
        answered(w, ops([invoke("b", Close::Cancel), send("t")]).awaiting("b"))
    }),
    ("answered: an event awaited and one published", |w| {
        answered(w, ops([listen("b", Some(50)), publish("t")]).awaiting("b"))
    }),
    ("answered: a closed scope", |w| answered(w, ops([sleep("m/z", 50), scope("m")]))),
    ("answered: yield", |w| answered(w, ops([]).ending(Terminal::Yield))),
    ("answered: nothing", |w| answered(w, ops([]))),
    ("answered: status, tags, log", |w| {
        let tags = Op::Tags(vec![("k".into(), Some("v".into()))]);
        let log = Op::Log { level: "info".into(), message: "m".into(), fields: None };
        answered(w, ops([Op::Status(text("1")), tags, log]))
    }),
    ("answered: result", |w| answered(w, ops([value("a", "1")]).result())),
    ("answered: continue", |w| answered(w, ops([value("a", "1")]).continuing())),
    ("answered: error", |w| answered(w, ops([]).ending(Terminal::Error(error(Again::Default))))),
    ("answered: error, pause", |w| {
        answered(w, ops([]).ending(Terminal::Error(error(Again::Pause))))
    }),
    ("answered: mismatch", |w| answered(w, ops([value("a", "1"), value("nap", "1")]).result())),
    ("reported: a value", |w| reported(w, ops([value("a", "1")]), false)),
    ("reported: a number skipped", |w| match reported(w, ops([value("a", "1")]), false) {
        Cause::Reported(r) => Cause::Reported(Report { cp: r.cp.max(1) - 1, ..r }),
        other => other,
    }),
    ("reported: start", |w| reported(w, ops([start("a")]), false)),
    ("reported: sleep, awaited within", |w| reported(w, ops([sleep("b", 50)]).awaiting("b"), true)),
    ("reported: sleep, awaited", |w| reported(w, ops([sleep("b", 50)]).awaiting("b"), false)),
    ("reported: yield", |w| reported(w, ops([]).ending(Terminal::Yield), false)),
    ("reported: result", |w| reported(w, ops([value("a", "1")]).result(), false)),
    ("reported: continue", |w| reported(w, ops([value("a", "1")]).continuing(), false)),
    ("held", |w| Cause::Held { epoch: w.run.epoch, lease: ms(60_000) }),
    ("left", |w| Cause::Left { epoch: w.run.epoch, detail: "cut".into() }),
    ("faulted: of another epoch", |_| Cause::Faulted { epoch: 999, fault: Fault::Again }),
    ("faulted: retry", |w| {
        faulted(w, Fault::Retry { detail: "500".into(), status: None, after: None })
    }),
    ("faulted: retry after an hour", |w| {
        let after = Some(ms(3_600_000));
        faulted(w, Fault::Retry { detail: "503".into(), status: Some(503), after })
    }),
    ("faulted: unhealthy", |w| faulted(w, Fault::Unhealthy { detail: "404".into() })),
    ("faulted: again", |w| faulted(w, Fault::Again)),
    ("faulted: pause", |w| faulted(w, Fault::Pause(Attention::new("journal-limit", "x")))),
    ("drained: nothing", |_| Cause::Drained(vec![])),
    ("drained: signal asked for", |w| drained(w, MessageKind::Signal, "go", "1")),
    ("drained: signal not asked for", |w| drained(w, MessageKind::Signal, "other", "1")),
    ("drained: callback asked for or late", |w| drained(w, MessageKind::CallbackValue, "c", "1")),
    ("drained: callback, early", |w| drained(w, MessageKind::CallbackError, "d", "{}")),
    ("drained: an outcome, late", |w| {
        let told = Told { of: uuid::Uuid::nil(), value: None, error: None };
        let told = String::from_utf8(body_of(&told).to_vec()).expect("utf-8");
        drained(w, MessageKind::Outcome, "b", &told)
    }),
    ("drained: new", |w| drained(w, MessageKind::New, "", "")),
    ("drained: cancel", |w| drained(w, MessageKind::Cancel, "", OP)),
    ("drained: pause", |w| drained(w, MessageKind::Pause, "", OP)),
    ("drained: resume", |w| drained(w, MessageKind::Resume, "", OP)),
    ("drained: retry now", |w| drained(w, MessageKind::RetryNow, "", OP)),
    ("drained: a step completed by hand", |w| {
        drained(w, MessageKind::StepSettled, "nap", r#"{"by":"op","ok":true,"outcome":1}"#)
    }),
    ("drained: a step failed by hand, unasked", |w| {
        let body = r#"{"by":"op","op":0,"ok":false,"outcome":{"type":"E"}}"#;
        drained(w, MessageKind::StepSettled, "ghost", body)
    }),
    ("drained: a step completed, unknown", |w| {
        drained(w, MessageKind::StepSettled, "ghost", r#"{"by":"op","ok":true,"outcome":1}"#)
    }),
    ("drained: a step hurried", |w| drained(w, MessageKind::StepHurried, "nap", OP)),
    ("drained: re-pinned", |w| {
        drained(w, MessageKind::Repinned, "", r#"{"by":"op","deployment":7}"#)
    }),
    ("reopened", |_| Cause::Reopened { act: Act::default(), deadline: None }),
    ("drained: terminate", |w| drained(w, MessageKind::Terminate, "", OP)),
    ("drained: refused", |w| {
        drained(w, MessageKind::Refused, "", r#"{"type":"duplicate-key","message":"m"}"#)
    }),
    ("tick: nothing is due", |w| later(w, 1)),
    ("tick: what it waits for is due", |w| later(w, 4_000)),
    ("tick: the lease or grace is over", |w| later(w, 61_000)),
    ("tick: the run's deadline", |w| later(w, 601_000)),
    ("gate lost: to a signal", |w| gate_lost(w, MessageKind::Signal)),
    ("gate lost: to a cancel", |w| gate_lost(w, MessageKind::Cancel)),
    ("gate of continue lost: to a signal", |w| continue_lost(w, MessageKind::Signal)),
    ("gate of continue lost: to a callback", |w| continue_lost(w, MessageKind::CallbackValue)),
];

fn named(flags: Flags) -> String {
    let names = [
        (Flags::HANDLER, "handler"),
        (Flags::END, "end"),
        (Flags::PARK, "park"),
        (Flags::HOT, "hot"),
        (Flags::GATED, "gated"),
        (Flags::CLOSING, "closing"),
        (Flags::REF, "ref"),
        (Flags::BY_HAND, "by hand"),
    ];
    let set: Vec<&str> =
        names.iter().filter(|(bit, _)| flags.has(*bit)).map(|(_, name)| *name).collect();
    if set.is_empty() { String::new() } else { format!("({})", set.join(" ")) }
}

fn turn(run: &Run, now: Timestamp) -> String {
    let turn = match &run.turn {
        Turn::Due { reason, not_before } if *not_before <= now => format!("due {reason:?}"),
        Turn::Due { reason, not_before } => {
            format!("due {reason:?} in {:?}", not_before.since(now))
        }
        Turn::Open { reason, unseen, saw_cancel, .. } => {
            let unseen = if *unseen { " unseen" } else { "" };
            let cancel = if *saw_cancel { " with cancel" } else { "" };
            format!("open {reason:?}{unseen}{cancel}")
        }
        Turn::Held { .. } => "held".to_owned(),
        Turn::Waiting { tree } => {
            format!("waits for {}", serde_json::to_string(tree).expect("a tree"))
        }
        Turn::Ended { kind, .. } => format!("ended {kind:?}"),
    };
    let paused = run.paused.as_ref().map(|a| format!(", paused {}", a.code));
    format!("{turn}{}", paused.unwrap_or_default())
}

#[test]
fn the_table_of_edges() {
    let mut table = String::new();
    for (name, world) in turns() {
        writeln!(table, "## {name}: {}", turn(&world.run, world.env().now)).expect("memory");
        let mut refused: Vec<(Refusal, Vec<&str>)> = vec![];
        for (cause, make) in CAUSES {
            let mut w = world.clone();
            let what = make(&mut w);
            let before = format!("{:?}", w.run);
            if let Err(refusal) = w.cause(what) {
                assert_eq!(
                    format!("{:?}", w.run),
                    before,
                    "{name} / {cause}: refused, yet changed"
                );
                match refused.iter_mut().find(|(r, _)| *r == refusal) {
                    Some((_, causes)) => causes.push(cause),
                    None => refused.push((refusal, vec![cause])),
                }
                continue;
            }
            let rows: Vec<String> = w
                .run
                .seal()
                .unwrap_or_default()
                .rows
                .iter()
                .map(|r| format!("{:?}{}", r.kind, named(r.flags)))
                .collect();
            let rows = if rows.is_empty() { "-".to_owned() } else { rows.join(" ") };
            let next = turn(&w.run, w.env().now);
            writeln!(table, "{cause:<36} | {rows} | {next}").expect("memory");
        }
        for (refusal, causes) in refused {
            writeln!(table, "refused, {refusal:?}: {}", causes.join("; ")).expect("memory");
        }
        table.push('\n');
    }
    insta::assert_snapshot!("edges", table);
}
