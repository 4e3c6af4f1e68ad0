//! One run that is played against the handler: the gateway's machine, a journal in memory, a clock
//! that is moved by hand, and something that goes wrong at every exchange.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::links::{Entry, Shelf};
use super::stage::{Pace, Stage, now};
use super::{Seen, Wrong};
use crate::clock;
use crate::machine::{
    self, Act, Answer, Cause, DeploymentId, Env, Fault, Flags, INLINE_VALUE, InvocationId, Kind,
    Limits, Message, MessageId, MessageKind, Op, Policy, Row, Run, RunId, StepState, Timestamp,
    Turn,
};
use crate::protocol::{self, CancelNotice, Invocation, Links, Pending, RunHead};

/// What goes wrong at every exchange of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    Plain,
    /// Each answer is lost, and the invocation repeated with the same journal.
    Lost,
    /// After each exchange the one before it is delivered once more, late.
    Stale,
    /// Each body arrives in pieces, with pauses.
    Slow,
    /// Each body breaks off half-way, and the invocation is repeated.
    Cut,
}

impl Mode {
    /// How it is told in reports.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Lost => " (each answer lost)",
            Self::Stale => " (old invocations repeated)",
            Self::Slow => " (slow bodies)",
            Self::Cut => " (bodies cut off)",
        }
    }
}

/// An exchange that is over.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) invocation: Value,
    id: String,
    body: Bytes,
    pub(super) answer: Value,
}

/// How far the clock is moved beyond what is due.
const TICK: Duration = Duration::from_millis(1);
/// No run of the suite needs more exchanges.
const MOST_EXCHANGES: usize = 200;

pub(super) struct Play<'a> {
    stage: &'a Stage,
    mode: Mode,
    run: Run,
    rows: Vec<Row>,
    clock: Timestamp,
    policy: Policy,
    limits: Limits,
    callback_secret: String,
    /// How much of the journal is sent inline.
    pub(super) inline: usize,
    pub(super) exchanges: Vec<Exchange>,
    /// What comes in while the next exchange is open.
    meanwhile: Vec<Message>,
    accepted: i32,
    sent: Option<i32>,
    /// The journal that the last invocation showed.
    shown: Vec<u8>,
}

impl<'a> Play<'a> {
    pub(super) fn begin(stage: &'a Stage, function: &str, mode: Mode, input: &Value) -> Self {
        let clock = now();
        let created = json!({
            "function": function,
            "namespace": "conformance",
            "input": input,
            "seed": format!("{:032x}", clock::chance()),
            "tags": {"suite": "conformance"},
            "by": "conformance",
        });
        let row = Row {
            n: 0,
            kind: Kind::Created,
            flags: Flags(0),
            seq: 0,
            epoch: 1,
            cp: 0,
            ms: 0,
            dep: 1,
            at: clock,
            due: None,
            refer: None,
            step: String::new(),
            body: Some(machine::to_bytes(&created)),
            pos: 0,
        };
        let id = RunId::new(clock, clock::chance());
        let run = Run::of_created(id, 1, &row).expect("the row was made here");
        *stage.links.shelf() = Shelf { run: id.to_string(), ..Shelf::default() };
        Self {
            stage,
            mode,
            run,
            rows: vec![row],
            clock,
            policy: Policy::default(),
            limits: Limits::default(),
            callback_secret: format!("{:032x}", clock::chance()),
            inline: 1 << 20,
            exchanges: vec![],
            meanwhile: vec![],
            accepted: 0,
            sent: None,
            shown: vec![],
        }
    }

    /// Drives the run until it has ended, is paused, or waits for something from outside.
    pub(super) async fn go(&mut self) -> Seen {
        loop {
            let (policy, limits) = (self.policy.clone(), self.limits);
            let env = self.env(&policy, &limits);
            self.run.settle_down(&env);
            if let Some(append) = self.run.seal() {
                self.rows.extend(append.rows);
                continue;
            }
            match self.run.turn {
                Turn::Open { epoch, .. } if self.sent != Some(epoch) => {
                    self.sent = Some(epoch);
                    self.exchange(epoch).await?;
                }
                Turn::Due { .. } if self.run.paused.is_none() => {
                    if self.run.wants_exchange(self.clock) {
                        self.cause(Cause::Free { dep: 1 });
                    } else {
                        self.wait();
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn env<'e>(&self, policy: &'e Policy, limits: &'e Limits) -> Env<'e> {
        // The clock is ours, and nothing is parked: the suite has it all in memory.
        let horizon = Duration::from_hours(24 * 365);
        Env { now: self.clock, past: self.clock, jitter: 0.0, policy, limits, horizon }
    }

    fn cause(&mut self, cause: Cause) {
        let (policy, limits) = (self.policy.clone(), self.limits);
        let env = self.env(&policy, &limits);
        // What is refused changes nothing; the suite looks at what became of the run.
        let _: Result<(), machine::Refusal> = self.run.apply(cause, &env);
    }

    /// Moves the clock to what is due next.
    pub(super) fn wait(&mut self) {
        let next = self.run.next_wake(self.clock).unwrap_or(self.clock);
        self.clock = self.clock.max(next) + TICK;
        self.cause(Cause::Tick);
    }

    // --- what comes from outside -----------------------------------------------------------------

    fn message(&mut self, kind: MessageKind, name: &str, body: String) -> Message {
        self.accepted += 1;
        let id = MessageId::new(self.clock, clock::chance());
        let (pos, name, body) = (self.accepted, name.to_owned(), Bytes::from(body));
        Message { pos, id, kind, name, body, at: self.clock, generation: None }
    }

    fn tell(&mut self, message: Message) {
        self.cause(Cause::Drained(vec![message]));
    }

    pub(super) fn signal(&mut self, name: &str, payload: &Value) {
        let message = self.message(MessageKind::Signal, name, payload.to_string());
        self.tell(message);
    }

    /// A signal that is accepted while the next exchange is open.
    pub(super) fn signal_meanwhile(&mut self, name: &str, payload: &Value) {
        let message = self.message(MessageKind::Signal, name, payload.to_string());
        self.meanwhile.push(message);
    }

    /// Settles a callback: with a value, or with an error.
    pub(super) fn callback(&mut self, step: &str, outcome: Result<Value, Value>) {
        let (kind, body) = match outcome {
            Ok(value) => (MessageKind::CallbackValue, value),
            Err(error) => (MessageKind::CallbackError, error),
        };
        let message = self.message(kind, step, body.to_string());
        self.tell(message);
    }

    pub(super) fn cancel(&mut self, reason: &str) {
        self.act(MessageKind::Cancel, Some(reason.to_owned()));
    }

    pub(super) fn resume(&mut self) {
        self.act(MessageKind::Resume, None);
    }

    fn act(&mut self, kind: MessageKind, reason: Option<String>) {
        let act = Act { by: "conformance".to_owned(), reason, ..Act::default() };
        let body = serde_json::to_string(&act).expect("an act is JSON");
        let message = self.message(kind, "", body);
        self.tell(message);
    }

    // --- one exchange ----------------------------------------------------------------------------

    async fn exchange(&mut self, epoch: i32) -> Seen {
        if self.exchanges.len() >= MOST_EXCHANGES {
            return Err(format!("no end after {MOST_EXCHANGES} invocations").into());
        }
        let reason = match self.run.turn {
            Turn::Open { reason, .. } => reason.word(),
            _ => "progress",
        };
        let (id, body) = self.write(epoch, reason)?;
        let repeats = self.exchanges.last().filter(|_| self.run.faults > 0).cloned();
        let pace = match self.mode {
            Mode::Slow => Pace::Slow,
            Mode::Cut if repeats.is_none() => Pace::Cut,
            _ => Pace::Whole,
        };
        if pace == Pace::Cut {
            // Whatever it says to half a request, it is not the answer to the whole one.
            let _: Result<super::stage::Reply, Wrong> = self.stage.call_at(&id, &body, pace).await;
            let invocation = read_json(&body)?;
            self.exchanges.push(Exchange { invocation, id, body, answer: Value::Null });
            self.fault(epoch, "the body was cut off");
            return Ok(());
        }
        let reply = self.stage.call_at(&id, &body, pace).await?;
        let answer = self.read(&reply, &body)?;
        let said = read_json(&reply.body)?;
        let exchange = Exchange { invocation: read_json(&body)?, id, body, answer: said };
        if self.mode == Mode::Lost {
            match &repeats {
                None => {
                    self.exchanges.push(exchange);
                    self.fault(epoch, "the answer was lost");
                    return Ok(());
                }
                // A licence to run once does not outlive its epoch: then other steps are shown.
                Some(first) if first.invocation["steps"] == exchange.invocation["steps"] => {
                    same("repeated with the same journal", first, &exchange.answer)?;
                }
                Some(_) => {}
            }
        }
        let before = self.exchanges.last().cloned();
        self.exchanges.push(exchange);
        for message in std::mem::take(&mut self.meanwhile) {
            self.tell(message);
        }
        if let Some(said) = self.run.malformed(&answer) {
            return Err(said.into());
        }
        self.cause(Cause::Answered { epoch, answer, ms: 1 });
        if let Some(code) = self.run.paused.as_ref().map(|a| &*a.code)
            && matches!(code, "mismatch" | "no-progress" | "journal-limit")
        {
            let attention = self.run.paused.clone().expect("it was looked at");
            return Err(format!("the run is paused: {code}: {}", attention.detail).into());
        }
        if self.mode == Mode::Stale
            && let Some(old) = before
        {
            let reply = self.stage.call(&old.id, &old.body).await?;
            same("of an old epoch, delivered late", &old, &read_json(&reply.body)?)?;
        }
        Ok(())
    }

    fn fault(&mut self, epoch: i32, detail: &str) {
        let fault = Fault::Retry { detail: detail.to_owned(), status: None, after: None };
        self.cause(Cause::Faulted { epoch, fault });
    }

    /// Writes the invocation of an epoch, and has its links ready.
    fn write(&mut self, epoch: i32, reason: &str) -> Result<(String, Bytes), Wrong> {
        let run = &self.run;
        let (settled, upto) = run.shown.within(self.inline);
        if !settled.starts_with(&self.shown) && !self.shown.starts_with(settled) {
            return Err("the suite itself is wrong: a journal is no prefix of the next".into());
        }
        let token = format!("{:032x}", clock::chance());
        let pending: Vec<Pending<'_>> =
            run.pending.values().filter_map(|id| self.pending(id)).collect();
        let inbox: Vec<(&str, u32)> =
            run.inbox().map(|(name, n)| (name, u32::try_from(n).unwrap_or(u32::MAX))).collect();
        let invocation = InvocationId::new(now(), clock::chance());
        let body = protocol::write_invocation(&Invocation {
            function: &run.created.function,
            query: None,
            run: RunHead {
                id: run.id,
                namespace: &run.created.namespace,
                key: None,
                generation: run.generation,
                deployment: DeploymentId::new(run.created_at, 1),
                created_at: run.created_at,
                seed: &run.created.seed,
                tags: &run.tags,
                parent: None,
            },
            turn: protocol::Turn {
                id: invocation,
                epoch,
                attempt: run.faults + 1,
                reason,
                transport: "respond",
                budget_ms: 55_000,
            },
            input: run.created.input.get().as_bytes(),
            state: run.state.as_deref(),
            settled,
            pending: &pending,
            upto,
            more: upto < run.seq,
            long: false,
            inbox: &inbox,
            cancel: run
                .cancel
                .as_ref()
                .map(|c| CancelNotice { reason: c.reason.as_deref(), deadline: c.deadline }),
            links: Links { base: self.stage.links.base(), callback_secret: &self.callback_secret },
            token: &token,
        });
        self.shown = settled.to_vec();
        let mut shelf = self.stage.links.shelf();
        shelf.token = token;
        shelf.entries = self.entries();
        Ok((invocation.to_string(), body.into()))
    }

    fn pending<'s>(&'s self, id: &'s str) -> Option<Pending<'s>> {
        let step = self.run.steps.get(id)?;
        let mut shown = Pending { id, op: step.op, started: false, retry: None };
        match &step.state {
            StepState::Trying { due, .. } if *due <= self.clock && !step.op.is_work() => {
                return None;
            }
            StepState::Trying { due, error, .. } => {
                shown.retry = Some((step.attempts, error, *due));
            }
            StepState::Begun { .. } => shown.started = true,
            StepState::Asked { .. } | StepState::Settled { .. } | StepState::Closed => {}
        }
        Some(shown)
    }

    fn entries(&self) -> Vec<Entry> {
        let settled = self.rows.iter().filter(|row| row.kind.settles());
        let entry = |row: &Row| Entry {
            id: row.step.clone(),
            op: row.flags.op().map_or("run", machine::OpKind::word),
            ok: row.kind == Kind::Done,
            body: row.body.clone().filter(|b| !b.is_empty()).unwrap_or(Bytes::from_static(b"null")),
        };
        settled.map(entry).collect()
    }

    /// Reads an answer as the gateway does, and looks whether it did what it must not.
    fn read(&self, reply: &super::stage::Reply, sent: &Bytes) -> Result<Answer, Wrong> {
        if reply.status != 200 {
            let head = String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]);
            return Err(format!("the handler answered {}: {head}", reply.status).into());
        }
        let answer = protocol::parse_answer(&reply.body, &self.limits)
            .map_err(|e| Wrong::from(format!("malformed answer: {e}")))?;
        let shown = read_json(sent)?;
        for op in &answer.ops {
            let Op::Run { id, .. } = op else { continue };
            if self.run.standing(id) != machine::Standing::Pending {
                return Err(format!("step {id:?} is recorded and was run again").into());
            }
            if !shown["steps"][id]["next_attempt_at"].is_null() {
                return Err(format!("step {id:?} waits for its next attempt and was run").into());
            }
        }
        Ok(answer)
    }

    // --- beside the run --------------------------------------------------------------------------

    /// What the handler answers to this run with a reason of one's own; nothing is recorded.
    pub(super) async fn ask(&mut self, reason: &str) -> Result<Answer, Wrong> {
        let (id, body) = self.write(1, reason)?;
        let reply = self.stage.call(&id, &body).await?;
        self.read(&reply, &body)
    }

    // --- what became of it -----------------------------------------------------------------------

    /// What must be true of every run in the end, whatever it is about.
    pub(super) fn laws(&self) -> Seen {
        let refused = self.stage.links.shelf().refused.clone();
        if let Some(refused) = refused.first() {
            return Err(refused.clone().into());
        }
        let mut settled = HashSet::new();
        for row in self.rows.iter().filter(|row| row.kind.settles()) {
            if !settled.insert(&row.step) {
                return Err(format!("step {:?} is settled twice", row.step).into());
            }
        }
        Ok(())
    }

    /// The output of a run that must have completed.
    pub(super) fn output(&self) -> Result<Value, Wrong> {
        match &self.run.turn {
            Turn::Ended { kind: Kind::Completed, body, .. } => {
                read_json(body.as_ref().unwrap_or(&Bytes::from_static(b"null")))
            }
            _ => Err(self.standing("it should have completed")),
        }
    }

    /// The error of a run that must have failed, or have been cancelled.
    pub(super) fn error(&self, kind: Kind) -> Result<Value, Wrong> {
        match &self.run.turn {
            Turn::Ended { kind: ended, body, .. } if *ended == kind => {
                read_json(body.as_ref().unwrap_or(&Bytes::from_static(b"null")))
            }
            _ => Err(self.standing(&format!("it should have ended as {kind:?}"))),
        }
    }

    /// Fails unless the run waits for something from outside.
    pub(super) fn waits(&self) -> Seen {
        match self.run.turn {
            Turn::Waiting { .. } if self.run.paused.is_none() => Ok(()),
            _ => Err(self.standing("it should be waiting")),
        }
    }

    /// Fails unless the run is paused for this reason.
    pub(super) fn paused(&self, code: &str) -> Seen {
        match &self.run.paused {
            Some(attention) if attention.code == code => Ok(()),
            _ => Err(self.standing(&format!("it should be paused as {code}"))),
        }
    }

    fn standing(&self, expected: &str) -> Wrong {
        let stands = match (&self.run.paused, &self.run.turn) {
            (Some(attention), _) => format!("is paused: {}: {}", attention.code, attention.detail),
            (None, Turn::Ended { kind, body, .. }) => {
                let body = body.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
                format!("ended as {kind:?} with {}", body.unwrap_or_default())
            }
            (None, Turn::Waiting { tree }) => {
                format!("waits for {}", serde_json::to_string(tree).unwrap_or_default())
            }
            (None, turn) => format!("is {turn:?}"),
        };
        let last = self.exchanges.last().map(|e| e.answer.to_string()).unwrap_or_default();
        let last: String = last.chars().take(300).collect();
        format!("{expected}, and {stands} (last answer: {last})").into()
    }

    /// The settled steps in commit order: id and whether with a value.
    pub(super) fn journal(&self) -> Vec<(&str, bool)> {
        let settled = self.rows.iter().filter(|row| row.kind.settles());
        settled.map(|row| (row.step.as_str(), row.kind == Kind::Done)).collect()
    }

    /// Failed attempts of a step that had others after them.
    pub(super) fn tried(&self, id: &str) -> usize {
        self.rows.iter().filter(|row| row.kind == Kind::Tried && row.step == id).count()
    }

    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn callback_address(&self, step: &str) -> String {
        format!("{}/v1/callbacks/{}/{step}", self.stage.links.base(), self.callback_secret)
    }

    /// Values and pages that the handler fetched.
    pub(super) fn fetched(&self) -> (usize, usize) {
        let shelf = self.stage.links.shelf();
        (shelf.values, shelf.pages)
    }
}

/// Fails unless two answers ask for the same.
fn same(what: &str, first: &Exchange, second: &Value) -> Seen {
    let (first, second) = (asked(&first.answer), asked(second));
    if first == second {
        return Ok(());
    }
    Err(format!("an invocation {what} was answered otherwise: first {first}, then {second}").into())
}

/// An answer without what may differ from one time to the next.
fn asked(answer: &Value) -> Value {
    let mut answer = answer.clone();
    if let Some(ops) = answer.get_mut("ops").and_then(Value::as_array_mut) {
        for op in ops.iter_mut().filter_map(Value::as_object_mut) {
            op.remove("ms");
            op.remove("attempt");
        }
    }
    answer
}

fn read_json(body: &Bytes) -> Result<Value, Wrong> {
    serde_json::from_slice(body).map_err(|e| format!("not JSON: {e}").into())
}

/// The size over which a value is shown as a reference.
pub(super) const BIG: usize = INLINE_VALUE + 10_000;
