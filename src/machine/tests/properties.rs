//! Laws of the machine under random handlers, messages, clocks, crashes and rival owners.

use std::collections::HashMap;

use proptest::prelude::*;

use super::fixtures::*;
use super::programs::{Handler, Stmt, program};
use crate::machine::*;

// --- what happens ------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Event {
    /// The handler answers the open exchange.
    Answer(Said),
    /// An exchange that is not open any more is answered.
    Late(usize, Said),
    Fault(u8),
    Accept(u8),
    /// Accepted while the next append is on its way.
    Arriving(u8),
    /// An attempt of a task comes back.
    Attempt(usize, u8),
    /// Whoever does a task gives a sign of life.
    Beat(u8),
    /// A message comes a second time.
    Repeat(usize),
    Drain,
    /// What the run has said is brought to whom it is for.
    Deliver(bool),
    Advance(u64),
    /// To the next moment at which something is due, give or take some milliseconds.
    Nearly(u64),
    Crash(bool),
    Steal,
    /// Another deployment is the newest.
    Deploy(u8),
    /// The handler was told of everything, and sends a checkpoint; an await in it may stay.
    Report(Said, bool),
    /// It answers 202.
    Hold,
    /// Its exchange ends without a word, perhaps because it was asked to finish.
    Leave(bool),
}

/// What a handler without sense says.
#[derive(Debug, Clone)]
struct Said {
    ops: Vec<(u8, u8)>,
    end: u8,
    tree: (u8, Vec<u8>),
}

const STEPS: [&str; 20] = [
    "r0", "r1", "o0", "z0", "z1", "s0", "s1", "c0", "c1", "i0", "t0", "m", "m/i1", "m/r2", "e0",
    "m/e1", "p0", "k0", "k1", "m/k2",
];

fn step(n: u8) -> &'static str {
    STEPS[usize::from(n) % STEPS.len()]
}

impl Said {
    fn op(which: u8, how: u8) -> Op {
        let id = step(which);
        let again = [Again::Default, Again::Default, Again::Never, Again::Pause];
        let failing = || failure(id, error(again[usize::from(how / 4) % 4]));
        let leaf = id.rsplit('/').next().unwrap_or(id);
        let close = if how > 100 { Close::Cancel } else { Close::Abandon };
        match (leaf.as_bytes()[0], how % 16) {
            // Now and then the code has changed what a name means.
            (_, 15) => sleep(id, 40),
            (_, 14) => Op::Status(if how > 100 { text("null") } else { text("{\"at\":1}") }),
            (_, 13) => Op::Tags(vec![("k".into(), (how > 100).then(|| how.to_string()))]),
            (_, 12) if how < 160 => field(which, how),
            (_, 12) => Op::Log { level: "info".into(), message: "m".into(), fields: None },
            (b'm', 10) => reply(id, u128::from(how) % 8),
            (_, 11) => compact(if how > 100 { "7" } else { "{\"n\":8}" }),
            (b'r', 0..6) => value(id, "1"),
            (b'o', 0..6) => start(id),
            (b'o', 6..9) => value(id, "2"),
            (b'r' | b'o', _) => failing(),
            (b'z', _) => sleep(id, u64::from(how) * 700),
            (b'k', _) => task(id, &terms(how)),
            (b's', _) => signal(id, "n0", (how > 100).then_some(u64::from(how) * 500)),
            (b'i', _) => invoke(id, close),
            (b't', _) => send(id),
            (b'e', _) => listen(id, (how > 100).then_some(u64::from(how) * 500)),
            (b'p', _) => publish(id),
            (b'm', _) => scope(id),
            _ => callback(id, (how > 100).then_some(u64::from(how) * 500)),
        }
    }

    fn answer(&self) -> Answer {
        let answer = ops(self.ops.iter().map(|(which, how)| Self::op(*which, *how)));
        let steps: Vec<Tree> =
            self.tree.1.iter().map(|n| Tree::Step(step(*n).to_owned())).collect();
        let tree = match self.tree.0 % 3 {
            _ if steps.is_empty() => Tree::Step("z0".to_owned()),
            0 => Tree::All(steps),
            1 => Tree::Any(steps),
            _ => Tree::Settled(vec![Tree::Any(steps)]),
        };
        match self.end {
            0..4 => answer,
            4..6 => answer.ending(Terminal::Yield),
            6..7 => answer.result(),
            7..8 => answer.ending(Terminal::Error(error(Again::Default))),
            8..9 => answer.continuing(),
            _ => answer.ending(Terminal::Await(tree)),
        }
    }
}

/// Sets a field of the run's object, or takes it away.
fn field(which: u8, how: u8) -> Op {
    let field = ["a", "b"][usize::from(which) % 2].to_owned();
    let value = [None, Some("1"), Some("2")][usize::from(how / 16) % 3];
    Op::Set { object: None, field, value: value.map(text) }
}

/// What a task's op may say of its attempts.
pub(super) fn terms(how: u8) -> serde_json::Value {
    match how % 5 {
        0 => serde_json::json!({"limit": 1}),
        1 => serde_json::json!({"heartbeat": "20s", "limit": 1}),
        2 => serde_json::json!({"timeout": "50s"}),
        3 => serde_json::json!({"retry": {"max_elapsed": "70s", "max_attempts": 2}}),
        _ => serde_json::json!({}),
    }
}

fn attempt_end(how: u8) -> AttemptEnd {
    let after = |ms| StepError { after_ms: Some(ms), ..error(Again::Default) };
    match how % 8 {
        0 | 1 => AttemptEnd::Value(text("1")),
        2 => AttemptEnd::Failed(error(Again::Default)),
        3 => AttemptEnd::Failed(after(u64::from(how) * 1_000)),
        4 => AttemptEnd::Failed(error(if how > 200 { Again::Pause } else { Again::Never })),
        5 => AttemptEnd::Unburnt,
        _ => AttemptEnd::Held,
    }
}

fn said() -> impl Strategy<Value = Said> {
    let ops = prop::collection::vec((any::<u8>(), any::<u8>()), 0..4);
    let tree = (any::<u8>(), prop::collection::vec(any::<u8>(), 1..4));
    (ops, 0..16u8, tree).prop_map(|(ops, end, tree)| Said { ops, end, tree })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => said().prop_map(Event::Answer),
        1 => (any::<usize>(), said()).prop_map(|(n, s)| Event::Late(n, s)),
        2 => any::<u8>().prop_map(Event::Fault),
        4 => any::<u8>().prop_map(Event::Accept),
        2 => any::<u8>().prop_map(Event::Arriving),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Event::Attempt(n, how)),
        1 => any::<u8>().prop_map(Event::Beat),
        1 => any::<usize>().prop_map(Event::Repeat),
        3 => Just(Event::Drain),
        3 => any::<bool>().prop_map(Event::Deliver),
        4 => prop_oneof![0..200u64, 0..90_000u64, Just(3_600_000)].prop_map(Event::Advance),
        3 => (0..20u64).prop_map(Event::Nearly),
        2 => any::<bool>().prop_map(Event::Crash),
        1 => Just(Event::Steal),
        1 => any::<u8>().prop_map(Event::Deploy),
        8 => (said(), any::<bool>()).prop_map(|(s, stays)| Event::Report(s, stays)),
        1 => Just(Event::Hold),
        1 => any::<bool>().prop_map(Event::Leave),
    ]
}

/// Events, and whether the owner comes to act after each.
fn events(most: usize) -> impl Strategy<Value = Vec<(Event, bool)>> {
    prop::collection::vec((event(), prop::bool::weighted(0.8)), 1..most)
}

fn message(w: &mut World, which: u8) -> Message {
    let act = "{\"by\":\"op\"}";
    match which {
        0..86 => w.message(MessageKind::Signal, "n0", "1"),
        86..98 => {
            // None of these is a step of a handler with sense.
            let step = ["r0", "r1", "o0", "z0", "z1", "c0"][usize::from(which - 86) % 6];
            let (op, ok) = (if which > 90 { r#""op":0,"# } else { "" }, !which.is_multiple_of(3));
            let body = format!(r#"{{"by":"op",{op}"ok":{ok},"outcome":{{"type":"E"}}}}"#);
            w.message(MessageKind::StepSettled, step, &body)
        }
        98..107 => w.message(MessageKind::StepHurried, step(which), act),
        107..110 => w.message(MessageKind::Repinned, "", r#"{"by":"op","deployment":3}"#),
        110..120 => w.message(MessageKind::Signal, "n1", "1"),
        120..150 => w.message(MessageKind::CallbackValue, "c0", "1"),
        150..170 => w.message(MessageKind::CallbackError, "c1", "{}"),
        170..173 => w.message(MessageKind::CallbackValue, "r0", "1"),
        173..176 => w.message(MessageKind::CallbackValue, "k0", "1"),
        176..179 => w.message(MessageKind::CallbackError, "k1", "{}"),
        179..180 => w.message(MessageKind::New, "", ""),
        180..190 => w.message(MessageKind::Cancel, "", act),
        190..205 => w.message(MessageKind::Pause, "", act),
        205..245 => w.message(MessageKind::Resume, "", act),
        245..253 => w.message(MessageKind::RetryNow, "", act),
        _ => w.message(MessageKind::Terminate, "", act),
    }
}

fn fault(which: u8) -> Fault {
    let after = (which > 180).then(|| ms(u64::from(which) * 1_000));
    match which {
        0..20 => Fault::Again,
        20..40 => Fault::Unhealthy { detail: "404".into() },
        40..50 => Fault::Pause(Attention::new("journal-limit", "x")),
        _ => Fault::Retry { detail: "500".into(), status: Some(500), after },
    }
}

/// A world, and what is needed to play events on it.
struct Play<H> {
    w: World,
    told: Vec<Message>,
    handler: H,
}

impl<H: FnMut(&Sent, &Said) -> Answer> Play<H> {
    fn open(&self) -> Option<Sent> {
        let Turn::Open { epoch, .. } = self.w.run.turn else { return None };
        self.w.sent.iter().rfind(|s| s.epoch == epoch).cloned()
    }

    fn event(&mut self, event: &Event) {
        if self.w.run.continues() && !matches!(event, Event::Crash(_) | Event::Steal) {
            // The gate decides before anything else happens.
            self.w.pump();
        }
        match event {
            Event::Answer(said) => {
                if self.w.run.talk.cp > 0 {
                    self.w.pump();
                    self.w.tell_all();
                }
                let Some(sent) = self.open() else { return };
                let answer = (self.handler)(&sent, said);
                let cause = Cause::Answered { epoch: sent.epoch, answer, ms: 1 };
                assert_eq!(self.w.cause(cause), Ok(()));
            }
            Event::Report(said, stays) => {
                // What a handler is told in an acknowledgement is committed.
                self.w.pump();
                let Some(epoch) = self.w.run.talking() else { return };
                self.w.tell_all();
                let sent = self.w.sent.iter().rfind(|s| s.epoch == epoch).expect("sent").clone();
                let answer = (self.handler)(&sent, said);
                let report = self.w.next_report(answer, *stays);
                let skipped = Report { cp: report.cp - 1, ..report.clone() };
                self.changes_nothing(Cause::Reported(skipped));
                if self.w.run.malformed(&report.answer).is_some() {
                    self.changes_nothing(Cause::Reported(report));
                    return;
                }
                assert_eq!(self.w.cause(Cause::Reported(report)), Ok(()));
            }
            Event::Hold => {
                let Some(Sent { epoch, .. }) = self.open() else { return };
                let lease = ms(60_000);
                assert_eq!(self.w.cause(Cause::Held { epoch, lease }), Ok(()));
            }
            Event::Leave(asked) => {
                let Some(Sent { epoch, .. }) = self.open() else { return };
                self.w.run.talk.leaving = *asked;
                assert_eq!(self.w.cause(Cause::Left { epoch, detail: "cut".into() }), Ok(()));
            }
            Event::Late(n, said) => {
                let old: Vec<&Sent> =
                    self.w.sent.iter().filter(|s| !self.is_open(s.epoch)).collect();
                if old.is_empty() {
                    return;
                }
                let sent = old[n % old.len()].clone();
                let answer = (self.handler)(&sent, said);
                self.changes_nothing(Cause::Answered { epoch: sent.epoch, answer, ms: 1 });
                let fault = fault(said.end);
                self.changes_nothing(Cause::Faulted { epoch: sent.epoch, fault });
                if self.w.run.talking() != Some(sent.epoch) {
                    let answer = (self.handler)(&sent, said);
                    let cp = self.w.run.talk.cp + 1;
                    let (epoch, stays) = (sent.epoch, false);
                    self.changes_nothing(Cause::Reported(Report { epoch, cp, answer, stays }));
                }
            }
            Event::Fault(which) => {
                let Some(Sent { epoch, .. }) = self.open() else { return };
                let fault = fault(*which);
                assert_eq!(self.w.cause(Cause::Faulted { epoch, fault }), Ok(()));
            }
            Event::Accept(which) => {
                let m = message(&mut self.w, *which);
                self.tell(m);
            }
            Event::Arriving(which) => {
                let m = message(&mut self.w, *which);
                self.told.push(m.clone());
                self.w.arriving.push(m);
            }
            Event::Attempt(n, how) => {
                if self.w.out.is_empty() {
                    return;
                }
                let AttemptDue { step, attempt, .. } = self.w.out.remove(n % self.w.out.len());
                let end = attempt_end(*how);
                let before = format!("{:?}", self.w.run);
                let cause = Cause::AttemptEnded { step, attempt, end, ms: 1 };
                if self.w.cause(cause).is_err() {
                    assert_eq!(format!("{:?}", self.w.run), before, "it came too late");
                }
            }
            Event::Beat(which) => {
                let step = if *which > 100 { "k0" } else { "k1" }.to_owned();
                let details = (which % 2 == 0).then(|| text("{\"at\":1}"));
                let _: Result<(), Refusal> = self.w.cause(Cause::Beat { step, details });
            }
            Event::Repeat(n) => {
                // Over generations ids are known for ten minutes: a request is repeated sooner.
                let soon = |m: &&Message| m.at + ms(9 * 60_000) > self.w.clock;
                let recent: Vec<&Message> = self.told.iter().filter(soon).collect();
                if !recent.is_empty() {
                    let m = recent[n % recent.len()].clone();
                    self.w.db.accept(m);
                }
            }
            Event::Drain => {
                let messages = self.w.db.inbox.clone();
                self.w.drain();
                let twice = self.w.run.clone();
                let _: Result<(), Refusal> = self.w.cause(Cause::Drained(messages));
                assert_eq!(format!("{:?}", self.w.run), format!("{twice:?}"), "twice is once");
            }
            Event::Deliver(fails) => {
                if let Some(m) = self.w.deliver(fails.then_some("{}")) {
                    self.tell(m);
                }
            }
            Event::Advance(by) => {
                // A run is driven within seconds: what came a second time does not lie in its inbox
                // until its id is forgotten.
                let again = |m: &&Message| self.w.run.seen.contains(&m.id.uuid());
                if *by > 60_000 && self.w.db.inbox.iter().find(again).is_some() {
                    self.w.drain();
                }
                self.w.clock = self.w.clock + ms(*by);
                let _: Result<(), Refusal> = self.w.cause(Cause::Tick);
            }
            Event::Nearly(by) => {
                let next = self.w.run.timers.first().map_or(self.w.clock, |(due, _)| *due);
                self.w.clock = self.w.clock.max(next - ms(10) + ms(*by));
                let _: Result<(), Refusal> = self.w.cause(Cause::Tick);
            }
            Event::Crash(committed) => self.w.crash(*committed),
            Event::Steal => self.w.steal(),
            Event::Deploy(which) => self.w.dep = 1 + i32::from(which % 3),
        }
    }

    fn is_open(&self, epoch: i32) -> bool {
        matches!(self.w.run.turn, Turn::Open { epoch: open, .. } if open == epoch)
    }

    fn tell(&mut self, m: Message) {
        self.told.push(m.clone());
        self.w.db.accept(m);
    }

    fn changes_nothing(&mut self, cause: Cause) {
        let before = format!("{:?}", self.w.run);
        assert!(self.w.cause(cause).is_err());
        assert_eq!(format!("{:?}", self.w.run), before);
    }

    fn all(&mut self, events: &[(Event, bool)]) {
        self.w.pump();
        for (event, acts) in events {
            self.event(event);
            if *acts {
                self.w.pump();
                self.w.check();
            }
        }
        self.w.pump();
        self.w.check();
    }
}

// --- a handler with sense ------------------------------------------------------------------------

impl World {
    /// From here on the world is kind: what the run asks for comes, and people resume it.
    fn see_to_the_end(&mut self, mut handler: impl FnMut(&Sent) -> Answer) {
        self.crash(false);
        for _ in 0..400 {
            self.pump();
            self.check();
            if self.run.ended() {
                return;
            }
            if self.run.paused.is_some() {
                self.act(MessageKind::Resume);
            } else if let Some(epoch) = self.run.talking() {
                let sent = self.sent.iter().rfind(|s| s.epoch == epoch).expect("sent").clone();
                if matches!(self.run.turn, Turn::Open { .. }) {
                    self.answer(handler(&sent));
                } else {
                    self.tell_all();
                    let sent = self.sent.iter().rfind(|s| s.epoch == epoch).expect("sent").clone();
                    self.report(handler(&sent), false);
                }
            } else {
                while let Some(m) = self.deliver(None) {
                    self.db.accept(m);
                }
                self.drain();
                while !self.out.is_empty() && !self.run.ended() {
                    let _: Result<(), Refusal> = self.attempt(AttemptEnd::Value(text("1")));
                }
                let asked: Vec<String> = self.run.pending.values().cloned().collect();
                for id in asked {
                    if self.run.standing(&id) != Standing::Pending {
                        continue;
                    }
                    match self.run.steps[&id].op {
                        OpKind::Signal => drop(self.signal("n0", "1")),
                        OpKind::Event => drop(self.tell(MessageKind::EventMatched, &id, EVENT)),
                        OpKind::Callback | OpKind::Task => {
                            let _ = self.tell(MessageKind::CallbackValue, &id, "1");
                        }
                        _ => {}
                    }
                }
                let wake = self.run.next_wake(self.env().past);
                let until = wake.map_or(0, |at| at.since(self.clock).as_millis());
                self.advance(u64::try_from(until).expect("short") + 2 * SKEW + 1);
            }
        }
        panic!("it never ends: {:?} {:#?}", self.run.turn, self.db.rows);
    }
}

// --- the laws ------------------------------------------------------------------------------------

fn world((with, jitter): (Started, f64)) -> World {
    let mut w = World::started(with);
    w.policy.step.max_attempts = 3;
    w.policy.invocation.max_attempts = 4;
    w.policy.run.max_attempts = 2;
    w.jitter = jitter;
    w
}

fn starts() -> impl Strategy<Value = (Started, f64)> {
    let timeout = prop::option::weighted(0.2, 0..4_000_000u64);
    let delay = prop::option::weighted(0.2, 0..200_000u64);
    let kind = prop::bool::weighted(0.8);
    let kind = kind.prop_map(|o| if o { RunKind::Object } else { RunKind::Function });
    let with = (timeout, delay, any::<bool>(), kind)
        .prop_map(|(timeout, delay, elsewhere, kind)| Started { delay, timeout, elsewhere, kind });
    (with, 0.0..1.0f64)
}

proptest! {
    // P9.1, P9.3, P9.4, P9.5
    #[test]
    fn no_handler_breaks_a_law(start in starts(), events in events(50)) {
        let w = world(start);
        let mut play = Play { w, told: vec![], handler: |_: &Sent, said: &Said| said.answer() };
        play.all(&events);
    }

    #[test]
    fn a_sensible_handler_gets_to_its_end(
        start in starts(), program in program(), events in events(40), generations in 1..4,
        compacts in any::<bool>()
    ) {
        let ran = HashMap::new();
        let mut handler = Handler { program: &program, generations, compacts, ran };
        let answer = |sent: &Sent, _: &Said| handler.answer(sent);
        let mut play = Play { w: world(start), told: vec![], handler: answer };
        play.all(&events);
        let mut w = play.w;
        w.see_to_the_end(|sent| handler.answer(sent));
        prop_assert!(handler.ran.values().all(|epochs| epochs.len() == 1), "{:?}", handler.ran);
        let Turn::Ended { kind, .. } = w.run.turn else { unreachable!() };
        let excused = [Kind::TimedOut, Kind::Cancelled, Kind::Terminated];
        prop_assert!(kind == Kind::Completed || excused.contains(&kind), "{kind:?}");
        if kind == Kind::Completed && !compacts {
            for (n, stmt) in program.iter().enumerate() {
                if let Stmt::Run(failures) = stmt {
                    let expected = if *failures < 3 { Standing::Value } else { Standing::Failed };
                    prop_assert_eq!(w.run.standing(&format!("s{n}")), expected);
                }
            }
        }
    }
}

// --- tasks that share a limit --------------------------------------------------------------------

/// What matters to tasks, more often than among all events.
fn events_of_tasks() -> impl Strategy<Value = Vec<(Event, bool)>> {
    let event = prop_oneof![
        10 => said().prop_map(Event::Answer),
        2 => any::<u8>().prop_map(Event::Fault),
        4 => any::<u8>().prop_map(Event::Accept),
        12 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Event::Attempt(n, how)),
        1 => any::<u8>().prop_map(Event::Beat),
        3 => Just(Event::Drain),
        6 => prop_oneof![0..200u64, 0..90_000u64, Just(3_600_000)].prop_map(Event::Advance),
        3 => (0..20u64).prop_map(Event::Nearly),
        2 => any::<bool>().prop_map(Event::Crash),
    ];
    prop::collection::vec((event, prop::bool::weighted(0.8)), 1..20)
}

fn tasks() -> impl Strategy<Value = Vec<Stmt>> {
    let leaf = prop_oneof![
        3 => any::<u8>().prop_map(Stmt::Task),
        1 => (0..200_000u64).prop_map(Stmt::Sleep),
    ];
    let some = (any::<bool>(), prop::collection::vec(leaf, 1..4));
    let stmt = some.prop_map(|(all, of)| if all { Stmt::All(of) } else { Stmt::Any(of) });
    prop::collection::vec(stmt, 1..4)
}

proptest! {
    // A task without room waits for another's end, which must wake its run, parked or not.
    #[test]
    fn tasks_that_share_a_limit_break_no_law(
        start in starts(), program in tasks(), events in events_of_tasks()
    ) {
        let ran = HashMap::new();
        let mut handler =
            Handler { program: &program, generations: 1, compacts: false, ran };
        let answer = |sent: &Sent, _: &Said| handler.answer(sent);
        let mut play = Play { w: world(start), told: vec![], handler: answer };
        play.all(&events);
    }
}
