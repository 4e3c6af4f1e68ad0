//! One run that is played against the handler: the gateway's machine, a journal in memory, a clock
//! that is moved by hand, and something that goes wrong at every exchange.

mod exchange;
mod talk;
mod written;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::links::{Entry, Shelf};
use super::modes::Mode;
use super::stage::{Stage, now};
use super::{Seen, Wrong};
use crate::clock;
use crate::machine::{
    self, Act, Answer, Cause, Env, Fault, Flags, INLINE_VALUE, Kind, Limits, Message, MessageId,
    MessageKind, OpKind, Policy, Row, Run, RunId, Settlement, Timestamp, Turn,
};
use crate::protocol::Transport;
use exchange::Open;

/// An exchange, and all that the handler has said in it.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) invocation: Value,
    id: String,
    body: Bytes,
    pub(super) answer: Value,
    /// Checkpoints or lines.
    pub(super) reports: usize,
    /// Signs of life that are nothing else.
    pub(super) beats: usize,
    /// It was answered with 202, and went on.
    pub(super) held: bool,
}

/// How far the clock is moved beyond what is due.
const TICK: Duration = Duration::from_millis(1);
/// No run of the suite needs more exchanges.
const MOST_EXCHANGES: usize = 200;

pub(super) struct Play<'a> {
    stage: &'a Stage,
    transport: Transport,
    mode: Mode,
    run: Run,
    rows: Vec<Row>,
    clock: Timestamp,
    policy: Policy,
    pub(super) limits: Limits,
    callback_secret: String,
    /// How much of the journal is sent inline.
    pub(super) inline: usize,
    pub(super) exchanges: Vec<Exchange>,
    /// The one that goes on.
    open: Option<Open>,
    /// What comes in while the next exchange is open.
    meanwhile: Vec<Message>,
    accepted: i32,
    sent: Option<i32>,
    /// The journal that the last invocation showed.
    shown: Vec<u8>,
}

impl<'a> Play<'a> {
    pub(super) fn begin(
        stage: &'a Stage,
        function: &str,
        (transport, mode): (Transport, Mode),
        input: &Value,
    ) -> Self {
        let clock = now();
        let created = json!({
            "function": function,
            "namespace": "conformance",
            "input": input,
            "seed": format!("{:032x}", clock::chance()),
            "tags": {"suite": "conformance", "transport": transport.word()},
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
        let talks = transport == Transport::Checkpoint;
        *stage.links.shelf() = Shelf { run: id.to_string(), talks, ..Shelf::default() };
        Self {
            stage,
            transport,
            mode,
            run,
            rows: vec![row],
            clock,
            policy: Policy::default(),
            limits: Limits::default(),
            callback_secret: format!("{:032x}", clock::chance()),
            inline: 1 << 20,
            exchanges: vec![],
            open: None,
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
            self.record();
            if self.open.is_some() {
                if !self.hear().await? {
                    return Ok(());
                }
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

    /// What was decided is recorded: from now on it may be shown.
    fn record(&mut self) {
        while let Some(append) = self.run.seal() {
            for row in append.rows {
                if row.kind == Kind::Continued {
                    // A generation begins: what was shown before is not a part of it.
                    self.rows.clear();
                    self.shown.clear();
                    self.callback_secret = format!("{:032x}", clock::chance());
                }
                self.rows.push(row);
            }
        }
        self.stage.links.shelf().entries = self.entries();
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
        let message = self.act(MessageKind::Cancel, Some(reason.to_owned()));
        self.tell(message);
    }

    pub(super) fn resume(&mut self) {
        let message = self.act(MessageKind::Resume, None);
        self.tell(message);
    }

    /// A cancel that is accepted while the next exchange is open.
    pub(super) fn cancel_meanwhile(&mut self, reason: &str) {
        let message = self.act(MessageKind::Cancel, Some(reason.to_owned()));
        self.meanwhile.push(message);
    }

    /// An operator ends the run while the next exchange is open.
    pub(super) fn terminate_meanwhile(&mut self) {
        let message = self.act(MessageKind::Terminate, None);
        self.meanwhile.push(message);
    }

    /// Somebody settles a step by hand while the next exchange is open.
    pub(super) fn settled_meanwhile(&mut self, step: &str, value: &Value) {
        let outcome = serde_json::value::to_raw_value(value).expect("a value is JSON");
        let settlement = Settlement {
            by: "conformance".to_owned(),
            reason: None,
            op: Some(OpKind::Run as u8),
            copied: false,
            ok: true,
            outcome,
        };
        let body = serde_json::to_string(&settlement).expect("a settlement is JSON");
        let message = self.message(MessageKind::StepSettled, step, body);
        self.meanwhile.push(message);
    }

    fn act(&mut self, kind: MessageKind, reason: Option<String>) -> Message {
        let act = Act { by: "conformance".to_owned(), reason, ..Act::default() };
        let body = serde_json::to_string(&act).expect("an act is JSON");
        self.message(kind, "", body)
    }

    fn fault(&mut self, epoch: i32, detail: &str) {
        let fault = Fault::Retry { detail: detail.to_owned(), status: None, after: None };
        self.cause(Cause::Faulted { epoch, fault });
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

    // --- beside the run --------------------------------------------------------------------------

    /// What the handler answers to this run with a reason of one's own; nothing is recorded.
    pub(super) async fn ask(&mut self, reason: &str) -> Result<Answer, Wrong> {
        let (id, body) = self.write(1, reason)?;
        let reply = self.stage.call(&id, &body).await?;
        self.read(&reply)
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
        let within = self.open.as_ref().is_some_and(Open::waits);
        match self.run.turn {
            Turn::Waiting { .. } if self.run.paused.is_none() => Ok(()),
            Turn::Open { .. } | Turn::Held { .. } if within => Ok(()),
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

    /// The value that is recorded of a step; null where there is none.
    pub(super) fn recorded(&self, id: &str) -> Value {
        let row = self.rows.iter().find(|row| row.kind == Kind::Done && row.step == id);
        let body = row.and_then(|row| row.body.as_ref());
        body.and_then(|body| read_json(body).ok()).unwrap_or_default()
    }

    /// Failed attempts of a step that had others after them.
    pub(super) fn tried(&self, id: &str) -> usize {
        self.rows.iter().filter(|row| row.kind == Kind::Tried && row.step == id).count()
    }

    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    pub(super) const fn transport(&self) -> Transport {
        self.transport
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
