//! What must hold of a run and its database whenever the owner is at rest.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::fixtures::*;
use crate::machine::*;

/// What the journal must be able to give back of a run.
#[derive(Debug, PartialEq)]
struct Projection {
    steps: BTreeMap<String, Step>,
    state: Option<bytes::Bytes>,
    hashes: BTreeMap<String, String>,
    pending: BTreeMap<i32, String>,
    timers: Vec<(Timestamp, i32)>,
    buffered: BTreeMap<(Mail, String), Vec<MessageId>>,
    seen: HashSet<uuid::Uuid>,
    numbers: (i32, i32, i32, i32),
    tags: BTreeMap<String, String>,
    custom_status: Option<bytes::Bytes>,
    object: (Changes, State),
    cancel: Option<Cancel>,
    began: (serde_json::Value, Timestamp, Option<Timestamp>, i16),
    paused: Option<Attention>,
    shown: Shown,
    turn: String,
    works: BTreeMap<String, (i32, Option<Timestamp>, bool, Option<bytes::Bytes>)>,
}

impl Projection {
    fn of(run: &Run, w: &World) -> Self {
        let ids = |queue: &std::collections::VecDeque<Buffered>| {
            queue.iter().map(|m| m.id).collect::<Vec<_>>()
        };
        Self {
            steps: run.steps.iter().map(|(id, step)| (id.clone(), step.clone())).collect(),
            state: run.state.clone(),
            hashes: run.hashes.clone(),
            pending: run.pending.clone(),
            timers: run.timers.iter().copied().collect(),
            buffered: run.buffered.iter().map(|(k, q)| (k.clone(), ids(q))).collect(),
            seen: run.seen.clone(),
            numbers: (run.n, run.seq, run.row_epoch, run.generation),
            tags: run.tags.clone(),
            custom_status: run.custom_status.clone(),
            object: (
                run.staged.clone(),
                run.object_state().map(|(f, v)| (f.to_owned(), v.clone())).collect(),
            ),
            cancel: run.cancel.clone(),
            began: (
                serde_json::to_value(&run.created).expect("JSON"),
                run.created_at,
                run.deadline,
                run.home,
            ),
            paused: run.paused.clone(),
            shown: run.shown.clone(),
            turn: turn(run, w),
            works: run
                .pending
                .values()
                .filter_map(|id| Some((id.clone(), run.works.get(id)?)))
                .map(|(id, w)| (id, (w.n, w.deadline, w.accepted, w.beat.clone())))
                .collect(),
        }
    }
}

/// The turn as far as it is durable: whether the run moves, once it has looked at the clock.
fn turn(run: &Run, w: &World) -> String {
    let mut run = run.clone();
    let _: Result<(), Refusal> = run.apply(Cause::Tick, &w.env());
    match run.turn {
        Turn::Due { .. } | Turn::Open { .. } => "moves".to_owned(),
        Turn::Held { epoch, .. } => format!("held by {epoch}"),
        Turn::Waiting { tree } => format!("waits for {tree:?}"),
        Turn::Ended { kind, body, .. } => format!("{kind:?} {body:?}"),
    }
}

impl World {
    /// Every law that can be checked from outside, while nothing waits to be appended.
    pub(super) fn check(&self) {
        self.check_rows();
        self.check_epochs();
        self.check_messages();
        self.check_attempts();
        self.check_end();
        self.check_outbox();
        self.check_listeners();
        self.check_object();
        // Another owner may have got ahead of this one, which then knows only what was.
        let ahead = usize::try_from(self.run.n) != Ok(self.db.rows.len());
        if !ahead {
            self.check_recovery();
            self.check_erased();
            self.check_placement();
        }
        if !ahead && !self.run.ended() {
            self.check_wake();
        }
    }

    /// An object is what completed runs and ended generations have made of it, and nothing else.
    fn check_object(&self) {
        let (mut published, mut staged) = (State::new(), Changes::new());
        for row in &self.db.rows {
            let body = || row.body.as_deref().unwrap_or_default();
            match row.kind {
                Kind::Noted if !row.flags.has(Flags::PARK) => {
                    let noted: Noted = serde_json::from_slice(body()).expect("readable");
                    let bytes = |v: &serde_json::value::RawValue| v.get().to_owned().into();
                    staged.extend(noted.set.iter().map(|(f, v)| (f.clone(), Some(bytes(v)))));
                    staged.extend(noted.unset.into_iter().map(|f| (f, None)));
                }
                Kind::Continued | Kind::Completed => change(&mut published, &staged),
                _ => {}
            }
            if row.kind == Kind::Continued {
                staged.clear();
            }
        }
        assert_eq!(self.db.object, published, "published by ends alone");
    }

    /// Dense log, epochs that never fall, dense `seq`, each step settled once, the end last.
    fn check_rows(&self) {
        let rows = &self.db.rows;
        let mut settled = HashSet::new();
        for (n, row) in rows.iter().enumerate() {
            assert_eq!(usize::try_from(row.n), Ok(n), "dense");
            let reopened = rows.get(n + 1).is_some_and(|r| r.kind == Kind::Reopened);
            assert!(!row.kind.ends() || n + 1 == rows.len() || reopened, "the end is the last row");
            if row.kind == Kind::Retaken {
                settled.remove(&row.step);
            }
            if matches!(row.kind, Kind::Continued | Kind::Compacted) {
                settled.clear();
            }
            assert!(row.kind != Kind::Continued || row.seq == 0, "an empty journal");
            if row.kind.settles() {
                assert!(settled.insert(&row.step), "step {} settles twice", row.step);
            }
        }
        for pair in rows.windows(2) {
            assert!(pair[0].epoch <= pair[1].epoch, "epochs never fall: {pair:#?}");
            let grows = i32::from(pair[1].kind.settles());
            let next = pair[1].kind == Kind::Continued;
            assert!(next || pair[1].seq == pair[0].seq + grows, "{pair:#?}");
        }
        // Sleeps are over when they are over, whatever the error of the clock.
        let mut due = HashMap::new();
        for row in rows.iter().filter(|r| r.flags.op() == Some(OpKind::Sleep)) {
            match row.kind {
                Kind::Asked => drop(due.insert(&row.step, row.due.expect("a moment"))),
                // An operator does not wait for it.
                Kind::Done | Kind::Failed if row.flags.has(Flags::BY_HAND) => {}
                Kind::Retaken | Kind::Late => {}
                Kind::Done => assert!(due[&row.step] + ms(2 * SKEW) <= row.at, "early: {row:?}"),
                _ => panic!("a sleep has no {row:?}"),
            }
        }
    }

    /// The database tells which deployment a live run needs, and an exchange is sent to no other
    /// than its rows name.
    fn check_placement(&self) {
        let Some(last) = self.db.rows.last().filter(|r| !r.kind.ends()) else { return };
        let expected =
            Placement { dep: self.run.pin.unwrap_or(last.dep), pinned: self.run.pin.is_some() };
        assert_eq!(self.db.placement, expected, "{:#?}", self.db.rows);
        if let Some(sent) = self.sent.last().filter(|s| s.epoch == self.run.epoch) {
            assert_eq!(sent.view.dep, last.dep, "{:#?}", self.db.rows);
        }
    }

    /// No two exchanges share an epoch; after a cancel nothing is recorded of one that did not
    /// see it.
    fn check_epochs(&self) {
        let saw: HashMap<i32, bool> = self.sent.iter().map(|s| (s.epoch, s.saw_cancel)).collect();
        assert_eq!(saw.len(), self.sent.len(), "an epoch is issued twice");
        let cancel = self.db.rows.iter().position(|r| r.kind == Kind::Cancelling);
        for row in self.db.rows.iter().skip(cancel.unwrap_or(usize::MAX)) {
            let handler = row.flags.has(Flags::HANDLER);
            assert!(!handler || saw[&row.epoch], "it did not see the cancel: {row:?}");
        }
    }

    /// Every accepted message leaves one trace, before the end.
    fn check_messages(&self) {
        let mut arrived = HashSet::new();
        let mut used = HashSet::new();
        for row in &self.db.rows {
            let Some(id) = row.refer else { continue };
            match row.kind {
                Kind::Arrived if row.flags.has(Flags::REF) => {
                    assert!(arrived.contains(&id), "what is carried over came before: {row:?}");
                    assert!(!used.contains(&id), "it is untaken: {row:?}");
                }
                Kind::Arrived => assert!(arrived.insert(id), "arrives twice: {row:?}"),
                // It answers an update, and takes nothing.
                Kind::Done if row.flags.op() == Some(OpKind::Reply) => {}
                _ => assert!(used.insert(id), "is used twice: {row:?}"),
            }
        }
        let terminated = self.db.rows.last().is_some_and(|r| r.kind == Kind::Terminated);
        for (id, kind) in &self.db.ever {
            let waits = self.db.inbox.iter().any(|m| m.id.uuid() == *id);
            let traced = arrived.contains(id) || used.contains(id);
            assert!(
                traced || (waits && (!self.db.ended() || terminated)),
                "a {kind:?} was accepted and is lost"
            );
        }
    }

    /// An end that a handler wanted had seen every signal before it, or had been refused twice.
    fn check_end(&self) {
        let last = self.db.rows.last().filter(|end| end.kind.ends() && !self.db.closing);
        let next = |r: &&Row| r.kind == Kind::Continued && !self.db.closed.contains(&r.n);
        for end in self.db.rows.iter().filter(next).chain(last) {
            if !end.flags.has(Flags::HANDLER) {
                continue;
            }
            let sent = self.sent.iter().find(|s| s.epoch == end.epoch).expect("sent");
            let signal = |id| self.db.ever.contains(&(id, MessageKind::Signal));
            let since = |r: &&Row| r.n >= sent.view.n && r.n < end.n;
            for row in self.db.rows.iter().filter(since) {
                let arrives = row.pos > 0 && row.refer.is_some_and(signal);
                assert!(!arrives, "the end had not seen {row:?}");
            }
        }
    }

    /// What a run asks of others is said with the row that asks, once; its end is told to the
    /// children that must not outlive it.
    fn check_outbox(&self) {
        let mut living = BTreeMap::new();
        for row in &self.db.rows {
            let op = row.flags.op();
            let silent = OutgoingKind::Unlisten;
            let said = || self.db.said.iter().filter(|s| s.n == row.n && s.kind != silent);
            match row.kind {
                Kind::Asked
                    if matches!(
                        op,
                        Some(OpKind::Invoke | OpKind::Send | OpKind::Event | OpKind::Publish)
                    ) =>
                {
                    assert_eq!(said().count(), 1, "{row:?}");
                    let child = said().find(|s| s.kind == OutgoingKind::Start);
                    let cancels = self.body(usize::try_from(row.n).expect("n")).contains("cancel");
                    if let Some(child) = child.filter(|_| cancels) {
                        assert_eq!(child.to.map(RunId::uuid), row.refer);
                        living.insert(row.step.clone(), child.to);
                    }
                }
                Kind::Done if op == Some(OpKind::Scope) => {
                    let under = format!("{}/", row.step);
                    let cancelled: Vec<_> = said().map(|s| s.to).collect();
                    let mut gone = vec![];
                    living.retain(|step, child| {
                        let under = step.starts_with(&under);
                        gone.extend(under.then_some(*child));
                        !under
                    });
                    assert_eq!(cancelled.len(), gone.len(), "{row:?}");
                    assert!(gone.iter().all(|child| cancelled.contains(child)), "{row:?}");
                }
                kind if kind.settles() => drop(living.remove(&row.step)),
                Kind::Continued => {
                    let told: HashSet<_> = said().map(|s| s.to).collect();
                    assert_eq!(told, living.values().copied().collect(), "{row:?}");
                    living.clear();
                }
                kind if kind.ends() => {
                    let told: HashSet<_> = said().map(|s| s.to).collect();
                    assert_eq!(told, living.values().copied().collect(), "{row:?}");
                }
                _ => assert_eq!(said().count(), 0, "{row:?}"),
            }
        }
        let rows = self.db.rows.len();
        assert!(self.db.said.iter().all(|s| usize::try_from(s.n).is_ok_and(|n| n < rows)));
    }

    /// Who waits for events by what was said of it waits for events by its journal, and nobody else.
    fn check_listeners(&self) {
        let mut listening = HashSet::new();
        for row in &self.db.rows {
            if row.flags.op() == Some(OpKind::Event) {
                let by_event = row.refer.is_some() && !row.flags.has(Flags::BY_HAND);
                match row.kind {
                    Kind::Asked => drop(listening.insert(row.step.clone())),
                    // Whoever found the event has taken the wait away.
                    Kind::Done if by_event => drop(listening.remove(&row.step)),
                    _ => {}
                }
            }
            for said in self.db.said.iter().filter(|s| s.n == row.n) {
                match serde_json::from_slice(&said.body).expect("readable") {
                    Said::Unlisten { steps: None } => listening.clear(),
                    Said::Unlisten { steps: Some(steps) } => {
                        for step in steps {
                            assert!(listening.remove(&step), "{step} is said once to wait no more");
                        }
                    }
                    _ => {}
                }
            }
        }
        let run = self.recovered();
        let waits = |s: &Step| {
            s.op == OpKind::Event && matches!(s.state, StepState::Asked { .. }) && !run.ended()
        };
        let waiting = run.steps.iter().filter(|(_, s)| waits(s)).map(|(id, _)| id.clone());
        assert_eq!(listening, waiting.collect::<HashSet<_>>());
    }

    /// Three attempts are three, unless a person was asked for in between.
    fn check_attempts(&self) {
        let mut tried: HashMap<&str, u32> = HashMap::new();
        for row in &self.db.rows {
            match row.kind {
                Kind::Retaken => drop(tried.remove(row.step.as_str())),
                Kind::Continued => tried.clear(),
                kind if kind.settles() => drop(tried.remove(row.step.as_str())),
                _ => {}
            }
            let asks = row.kind == Kind::Tried && row.due == Some(row.at);
            if row.kind == Kind::Tried && !asks {
                *tried.entry(&row.step).or_default() += 1;
            }
        }
        let most = self.policy.step.max_attempts - 1;
        assert!(tried.values().all(|n| *n <= most), "{tried:?}");
    }

    /// A new owner knows what this one knows.
    fn check_recovery(&self) {
        // Read from where its generation begins, or from the start, it is the same run.
        for base in [self.db.base, 0] {
            let mut other = self.recovered_from(base);
            if matches!(self.run.turn, Turn::Waiting { .. }) {
                // Only what an exchange has offered is not in the journal.
                other.offered = self.run.offered;
            }
            assert_eq!(Projection::of(&other, self), Projection::of(&self.run, self));
            assert_eq!(other.shown, self.db.journal());
        }
    }

    /// What is left of any run when it is erased can be read, is the same run, and stays so.
    fn check_erased(&self) {
        let at = self.run.last_at;
        let rows = &self.db.rows[self.db.base..];
        let erased = |rows: &[Row]| -> Vec<Row> {
            rows.iter().map(|r| r.erased(at).expect("a readable row")).collect()
        };
        let left = erased(rows);
        assert_eq!(erased(&left), left);
        let parked = self.db.wake != Wake::Hot;
        let run = Run::recover(self.run.id, 1, &left, parked, self.db.closing);
        let run = run.expect("readable rows");
        let shape = |run: &Run| {
            let mut steps: Vec<_> = run.steps.iter().map(|(id, s)| (id.clone(), s.op)).collect();
            steps.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            (run.n, run.seq, run.pending.clone(), steps, run.ended(), run.tags.clone())
        };
        assert_eq!(shape(&run), shape(&self.recovered()));
        // In text it has milliseconds.
        assert_eq!(run.created.erased_at.map(Timestamp::as_millis), Some(at.as_millis()));
        assert_eq!(run.created.input.get(), "null");
    }

    /// Something will wake the run, here and as the database sees it.
    fn check_wake(&self) {
        let (run, past) = (&self.run, self.env().past);
        let external = |tree: &Tree| {
            tree.steps().into_iter().any(|id| {
                run.steps.get(id).is_some_and(|s| {
                    let asked = matches!(s.state, StepState::Asked { .. });
                    (asked && s.op != OpKind::Sleep) || run.works.get(id).is_some()
                })
            })
        };
        let wake = run.next_wake(past);
        let needed = match &run.turn {
            Turn::Open { .. } => Some(past),
            Turn::Waiting { tree } => {
                let hope = wake.is_some() || external(tree) || run.paused.is_some();
                assert!(hope, "nothing will ever wake it: {tree:?} {:#?}", run.steps);
                wake
            }
            Turn::Due { .. } | Turn::Held { .. } => {
                assert!(wake.is_some() || run.paused.is_some(), "{:?}", run.turn);
                wake
            }
            Turn::Ended { .. } => None,
        };
        match (self.db.wake, needed) {
            (Wake::Hot, _) | (Wake::At(_) | Wake::Never, None) => {}
            (Wake::At(at), Some(needed)) => {
                assert!(at <= needed.max(past), "{at} is too late for {needed}");
            }
            (Wake::Never, Some(needed)) => panic!("parked for ever, but needed at {needed}"),
        }
        // Whoever comes after this memory finds what is out, and sends it again.
        let lost = match self.db.wake {
            Wake::Hot => false,
            Wake::At(at) => at > past,
            Wake::Never => true,
        };
        let working = run.works.out() > 0 && run.paused.is_none();
        assert!(!lost || !working, "an attempt is out, and nobody would look: {:?}", self.db.wake);
        if let Wake::At(at) = self.db.wake
            && !working
            && at <= past
            && !matches!(run.turn, Turn::Open { .. } | Turn::Held { .. })
        {
            let near = self.env().now + HORIZON;
            assert!(
                wake.is_some_and(|w| w <= near),
                "its alarm goes off for nothing, again and again"
            );
        }
    }
}
