//! What a handler's answer means for its run.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::apply::{Env, Fault, NO_PROGRESS, REFUSED_ENDS, Seen};
use super::body::{Attention, Noted, Tried, to_bytes};
use super::draft::Draft;
use super::op::{Again, Answer, Ask, Moment, Op, Outcome, StepError, Terminal};
use super::retry::RetrySpec;
use super::row::{Flags, Kind, LogLine, OpKind};
use super::run::{End, Reason, Run, Turn};
use super::step::StepState;
use super::time::Timestamp;
use super::tree::{Standing, Tree};

/// What the ops of an answer did.
#[derive(Default)]
pub(super) struct Did {
    /// A step settled, or an at-most-once step began: the handler has something new to see.
    pub(super) settled: bool,
    /// Something was recorded: the answer made progress.
    pub(super) recorded: bool,
    /// A step's error asks for a person.
    pub(super) pause: Option<Attention>,
}

impl Run {
    /// Records an answer: all of it, or only why it cannot be.
    pub(super) fn answered(&mut self, answer: Answer, ms: i32, seen: Seen, env: &Env<'_>) {
        let objection = self.objection(&answer, env).or_else(|| self.other_input(&answer, env));
        if let Some(attention) = objection {
            self.pause(&attention, env, Flags::HANDLER | Flags::END);
            return;
        }
        if let Some(detail) = self.malformed(&answer) {
            self.faulted(Fault::Retry { detail, status: Some(200), after: None }, env);
            return;
        }
        self.faults = 0;
        let Answer { ops, terminal } = answer;
        let first_row = self.next.rows.len();
        let mut did = Did::default();
        let hashes = self.fresh_hashes(&ops, env);
        for op in ops {
            self.op(op, &mut did, env);
        }
        self.keep_hashes(hashes, env);
        self.end_turn(terminal, ms, seen, did, first_row, env);
    }

    /// What makes an answer malformed that only the run can tell: it awaits a step that nobody
    /// asked for.
    #[must_use]
    pub fn malformed(&self, answer: &Answer) -> Option<String> {
        let Some(Terminal::Await(tree)) = &answer.terminal else { return None };
        let asked = |id: &str| answer.ops.iter().any(|op| op.step() == Some(id));
        let unknown = tree.steps().into_iter().find(|id| !self.knows(id) && !asked(id))?;
        Some(format!(
            "malformed answer: `await` names step `{unknown}`, which is neither in the journal \
             nor asked for in this answer"
        ))
    }

    fn knows(&self, id: &str) -> bool {
        self.steps.contains_key(id)
    }

    /// Why nothing of the answer may be recorded: a step that changes its kind, or a limit.
    pub(super) fn objection(&self, answer: &Answer, env: &Env<'_>) -> Option<Attention> {
        let mut fresh: HashMap<&str, OpKind> = HashMap::new();
        let mut bytes = self.shown.bytes;
        for op in &answer.ops {
            let (Some(id), Some(kind)) = (op.step(), op_kind(op)) else { continue };
            let known = self.steps.get(id).map(|s| s.op).or_else(|| fresh.get(id).copied());
            match known {
                Some(was) if was != kind => {
                    return Some(Attention {
                        expected: Some(format!("{} {id}", was.word()).into()),
                        got: Some(format!("{} {id}", kind.word()).into()),
                        ..Attention::new(
                            "mismatch",
                            format!(
                                "Step `{id}` is recorded as `{}`, and the handler now says `{}`. \
                                 Nothing of its answer was recorded. Give the changed step a new \
                                 id, or go back to the code that began this run, then resume it.",
                                was.word(),
                                kind.word()
                            ),
                        )
                    });
                }
                Some(_) => {}
                None => {
                    fresh.insert(id, kind);
                }
            }
            let size = match op {
                Op::Run { outcome: Outcome::Value(value), .. }
                | Op::Scope { value, .. }
                | Op::Reply { answer: value, .. } => Some(value.len()),
                Op::Run { outcome: Outcome::Error(error), .. } => Some(error.to_bytes().len()),
                _ => None,
            };
            if let Some(size) = size
                && self.standing(id) == Standing::Pending
            {
                bytes += size;
                if size > env.limits.value_bytes {
                    return Some(Attention::new(
                        "value-limit",
                        format!(
                            "Step `{id}` has a value of {size} bytes, over the limit of {}. Keep \
                             it elsewhere and return a reference.",
                            env.limits.value_bytes
                        ),
                    ));
                }
            }
        }
        let steps = self.steps.len() + fresh.len();
        if !fresh.is_empty() && steps > env.limits.steps {
            return Some(Attention::new(
                "journal-limit",
                format!(
                    "The run would have {steps} steps, over the limit of {}.",
                    env.limits.steps
                ),
            ));
        }
        // A journal that signals have filled can still wait and end.
        if bytes > env.limits.journal_bytes.max(self.shown.bytes) {
            return Some(Attention::new(
                "journal-limit",
                format!(
                    "The journal would have {bytes} bytes, over the limit of {}.",
                    env.limits.journal_bytes
                ),
            ));
        }
        self.state_objection(answer, env).or_else(|| self.circle_objection(answer))
    }

    pub(super) fn op(&mut self, op: Op, did: &mut Did, env: &Env<'_>) {
        match op {
            Op::Run { id, outcome, ms, retry, .. } => {
                let state = self.steps.get(&id).map(|s| &s.state);
                if let Some(StepState::Settled { seq, .. }) = state {
                    self.heard.again.push(*seq);
                }
                if matches!(state, Some(StepState::Settled { .. } | StepState::Closed)) {
                    return; // The first recorded outcome wins.
                }
                did.recorded = true;
                match outcome {
                    Outcome::Value(value) => {
                        did.settled = true;
                        Draft::new(Kind::Done, Flags::HANDLER)
                            .step(&id, OpKind::Run)
                            .body(value)
                            .ms(ms)
                            .put(self, env.now);
                        self.heard.own.push(self.seq);
                    }
                    Outcome::Error(error) => self.step_error(&id, error, ms, retry, did, env),
                }
            }
            Op::Start { id } => {
                let startable = match self.steps.get(&id).map(|s| &s.state) {
                    None => true,
                    // The next attempt of a step that failed is licensed anew.
                    Some(StepState::Trying { due, .. }) => *due <= env.now,
                    Some(_) => false,
                };
                if startable {
                    (did.recorded, did.settled) = (true, true);
                    Draft::new(Kind::Begun, Flags::HANDLER)
                        .step(&id, OpKind::Run)
                        .put(self, env.now);
                }
            }
            Op::Ask { id, ask, raw } => {
                if let Some(step) = self.steps.get(&id) {
                    if let StepState::Settled { seq, .. } = step.state {
                        self.heard.again.push(seq);
                    }
                    return;
                }
                did.recorded = true;
                self.ask(&id, &ask, raw, env);
                // What had come before it was asked for has settled it.
                did.settled |= self.standing(&id) != Standing::Pending;
            }
            Op::Scope { id, value } => {
                if !self.knows(&id) {
                    (did.recorded, did.settled) = (true, true);
                    self.close_scope(&id, value, env);
                }
            }
            Op::Reply { id, update, answer } => {
                if !self.knows(&id) {
                    (did.recorded, did.settled) = (true, true);
                    self.reply(&id, update, answer, env);
                }
            }
            Op::Compact(state) => self.compact(&state, did, env),
            Op::Status(value) => {
                let now = (value.as_ref() != b"null").then(|| value.clone());
                if now != self.custom_status {
                    let status = String::from_utf8(value.to_vec()).ok();
                    let raw = status.and_then(|s| serde_json::value::RawValue::from_string(s).ok());
                    self.noted(&Noted { status: raw, ..Noted::default() }, env);
                }
            }
            Op::Tags(change) => {
                let mut tags = self.tags.clone();
                for (name, value) in change {
                    match value {
                        Some(value) => tags.insert(name, value),
                        None => tags.remove(&name),
                    };
                }
                if tags != self.tags {
                    self.noted(&Noted { tags: Some(tags), ..Noted::default() }, env);
                }
            }
            Op::Set { object, field, value } => {
                self.set_field(object.as_ref(), &field, value.as_ref(), env);
            }
            Op::Chunk { stream, data } => {
                let (level, message) = ("info".to_owned(), String::new());
                let (fields, stream) = (Some(data), Some(stream));
                self.log(LogLine { at: env.now, level, message, fields, stream });
            }
            Op::Log { level, message, fields } => {
                self.log(LogLine { at: env.now, level, message, fields, stream: None });
            }
        }
    }

    /// Lines and chunks are known by their time and their place within one append.
    fn log(&mut self, line: LogLine) {
        if self.next.logs.is_empty() {
            self.last_log = line.at.max(self.last_log + Duration::from_micros(1));
        }
        self.next.logs.push(LogLine { at: self.last_log, ..line });
    }

    fn noted(&mut self, noted: &Noted, env: &Env<'_>) {
        Draft::new(Kind::Noted, Flags::HANDLER).body(to_bytes(noted)).put(self, env.now);
        self.project_attributes();
    }

    fn step_error(
        &mut self,
        id: &str,
        mut error: StepError,
        ms: i32,
        retry: Option<RetrySpec>,
        did: &mut Did,
        env: &Env<'_>,
    ) {
        let known = self.steps.get(id);
        let attempt = known.map_or(0, |s| s.attempts) + 1;
        let first = known.and_then(|s| s.first).unwrap_or(env.now);
        error.attempts = Some(attempt);
        let policy = retry.unwrap_or_default().over(&env.policy.step);
        let asked = error.after_ms.map(std::time::Duration::from_millis);
        let next = match error.retry {
            Again::Never => None,
            Again::Pause => Some(env.now),
            Again::Default => policy.next(attempt, first, env.now, asked, env.jitter),
        };
        let Some(due) = next else {
            did.settled = true;
            Draft::new(Kind::Failed, Flags::HANDLER)
                .step(id, OpKind::Run)
                .body(error.to_bytes())
                .ms(ms)
                .put(self, env.now);
            return;
        };
        if error.retry == Again::Pause {
            did.pause = Some(Attention::new(
                "step-asks",
                format!("Step `{id}` asks for a person: {}: {}", error.kind, error.message),
            ));
        }
        Draft::new(Kind::Tried, Flags::HANDLER)
            .step(id, OpKind::Run)
            .due(Some(due))
            .body(tried(attempt, first, &error))
            .ms(ms)
            .put(self, env.now);
        self.heard.trying.push(id.to_owned());
    }

    fn ask(&mut self, id: &str, ask: &Ask, raw: Bytes, env: &Env<'_>) {
        let (op, due) = match ask {
            Ask::Other(errand) => return self.send_out(id, errand, raw, env),
            Ask::Sleep(Moment::For(length)) => (OpKind::Sleep, Some(env.now + *length)),
            Ask::Sleep(Moment::Until(at)) => (OpKind::Sleep, Some(*at)),
            Ask::Signal { timeout, .. } => (OpKind::Signal, timeout.map(|t| env.now + t)),
            Ask::Callback { timeout, heartbeat } => {
                (OpKind::Callback, timeout.iter().chain(heartbeat).min().map(|t| env.now + *t))
            }
            Ask::Work { op, retry } => (*op, super::attempts::deadline(*retry, env)),
        };
        Draft::new(Kind::Asked, Flags::HANDLER).step(id, op).due(due).body(raw).put(self, env.now);
        match ask {
            Ask::Sleep(_) | Ask::Other(_) | Ask::Work { .. } => {}
            Ask::Signal { name, .. } => self.take_buffered(id, op, name, Flags::HANDLER, env),
            Ask::Callback { .. } => self.take_buffered(id, op, id, Flags::HANDLER, env),
        }
    }

    pub(super) fn end_turn(
        &mut self,
        terminal: Option<Terminal>,
        ms: i32,
        seen: Seen,
        did: Did,
        first_row: usize,
        env: &Env<'_>,
    ) {
        let again = Turn::Due { reason: Reason::Yield, not_before: env.past };
        let end = match terminal {
            Some(Terminal::Result(output)) => {
                let kind = if seen.cancel { Kind::Cancelled } else { Kind::Completed };
                Some(End { kind, body: Some(output), holdable: true, ms })
            }
            Some(Terminal::Error(error)) if seen.cancel => Some(End {
                kind: Kind::Cancelled,
                body: Some(error.to_bytes()),
                holdable: true,
                ms,
            }),
            Some(Terminal::Error(error)) => match self.failed(error, ms, env) {
                Some(end) => Some(end),
                None => return self.after_turn(env),
            },
            Some(Terminal::Continue(input)) => {
                Some(End { kind: Kind::Continued, body: Some(input), holdable: true, ms })
            }
            Some(Terminal::Yield) => {
                self.turn = again;
                None
            }
            Some(Terminal::Await(tree)) => {
                self.turn = Turn::Waiting { tree };
                None
            }
            None if did.settled || self.pending.is_empty() => {
                self.turn = again;
                None
            }
            None => {
                self.turn = Turn::Waiting { tree: any_of(self.pending.values().cloned()) };
                None
            }
        };
        if let Some(end) = end {
            self.idle = 0;
            if seen.signals || self.refused >= REFUSED_ENDS || self.is_plain() {
                self.end(end, env);
            } else {
                self.refuse_end(env);
                self.mark_end(first_row);
                self.after_turn(env);
            }
            return;
        }
        if self.closing || self.refused > 0 {
            // It was let know of the signals and does not end after all: it accepts again.
            self.refused = 0;
            self.closing = false;
        }
        if let Some(attention) = did.pause {
            self.pause(&attention, env, Flags::HANDLER | Flags::END);
            return;
        }
        if self.has_begun() {
            // Only the next epoch may report what was begun, and a later one settles it as
            // interrupted: either way it must come.
            self.turn = Turn::Due { reason: Reason::Yield, not_before: env.past };
        }
        self.suspend(&did, env);
        self.mark_end(first_row);
        self.after_turn(env);
    }

    /// What is recorded of a turn that goes on: the tree, or that nothing moves.
    pub(super) fn suspend(&mut self, did: &Did, env: &Env<'_>) {
        let at_once = match &self.turn {
            Turn::Waiting { tree } => self.goes_on(tree, env.past).is_some(),
            _ => true,
        };
        self.looked = env.past;
        if did.recorded {
            self.idle = 0;
        } else if at_once {
            self.idle += 1;
            if self.idle >= NO_PROGRESS {
                self.idle = 0;
                self.pause(
                    &Attention::new(
                        "no-progress",
                        "Three answers in a row recorded nothing, asked for nothing new and \
                         wanted to be invoked again at once. Look at how the handler finds its \
                         steps in `steps`, then resume the run.",
                    ),
                    env,
                    Flags::HANDLER | Flags::END,
                );
                return;
            }
        } else {
            self.idle = 0;
        }
        if let Turn::Waiting { tree } = &self.turn {
            if at_once {
                self.turn = Turn::Due { reason: Reason::Progress, not_before: env.past };
                return;
            }
            let body = to_bytes(tree);
            let wake = self.next_wake(env.past);
            let far = wake.is_none_or(|at| at > env.now + env.horizon);
            let park = far && !self.wants_signs_of_life() && !self.works_on(env.now + env.horizon);
            let flags = if park { Flags::HANDLER | Flags::PARK } else { Flags::HANDLER };
            Draft::new(Kind::Waits, flags).due(wake).body(body).put(self, env.now);
        }
    }

    /// Whether an at-most-once step has begun and is not settled.
    fn has_begun(&self) -> bool {
        let mut pending = self.pending.values().filter_map(|id| self.steps.get(id));
        pending.any(|s| matches!(s.state, StepState::Begun { .. }))
    }

    /// The last row of an answer that is followed by another invocation says so.
    fn mark_end(&mut self, first_row: usize) {
        if !matches!(self.turn, Turn::Due { .. }) {
            return;
        }
        if let Some(last) = self.next.rows[first_row..].last_mut()
            && last.flags.has(Flags::HANDLER)
        {
            last.flags.set(Flags::END);
        }
    }

    pub(super) fn after_turn(&mut self, env: &Env<'_>) {
        if self.next.rows.is_empty() && !self.next.logs.is_empty() {
            // Log lines travel with an append; a turn that only logs needs a row to carry them.
            Draft::new(Kind::Noted, 0).body(to_bytes(&Noted::default())).put(self, env.now);
        }
    }

    /// The run's code failed: another try by the run's policy, or the end.
    fn failed(&mut self, mut error: StepError, ms: i32, env: &Env<'_>) -> Option<End> {
        self.failures += 1;
        error.attempts = Some(self.failures);
        let asked = error.after_ms.map(std::time::Duration::from_millis);
        let next = match error.retry {
            Again::Never => None,
            Again::Pause => Some(env.now),
            Again::Default => {
                env.policy.run.next(self.failures, self.created_at, env.now, asked, env.jitter)
            }
        };
        let Some(at) = next else {
            return Some(End {
                kind: Kind::EndFailed,
                body: Some(error.to_bytes()),
                holdable: true,
                ms,
            });
        };
        let detail = format!("{}: {}", error.kind, error.message);
        if error.retry == Again::Pause {
            self.pause(
                &Attention::new("run-asks", format!("The run asks for a person: {detail}")),
                env,
                Flags::HANDLER | Flags::END,
            );
            return None;
        }
        let mut body = self.faulted_now(&detail);
        body.faults = 0;
        let (at, park) = self.alarm_at(at, env);
        let flags = Flags::HANDLER | park;
        Draft::new(Kind::Fault, flags).due(Some(at)).body(to_bytes(&body)).put(self, env.now);
        None
    }
}

impl Op {
    /// The kind of the step that it is about, if any.
    #[must_use]
    pub const fn kind(&self) -> Option<OpKind> {
        op_kind(self)
    }
}

const fn op_kind(op: &Op) -> Option<OpKind> {
    match op {
        Op::Run { .. } | Op::Start { .. } => Some(OpKind::Run),
        Op::Ask { ask, .. } => Some(match ask {
            Ask::Sleep(_) => OpKind::Sleep,
            Ask::Signal { .. } => OpKind::Signal,
            Ask::Callback { .. } => OpKind::Callback,
            Ask::Other(errand) => errand.op(),
            Ask::Work { op, .. } => *op,
        }),
        Op::Scope { .. } => Some(OpKind::Scope),
        Op::Reply { .. } => Some(OpKind::Reply),
        Op::Compact(_)
        | Op::Status(_)
        | Op::Tags(_)
        | Op::Set { .. }
        | Op::Chunk { .. }
        | Op::Log { .. } => None,
    }
}

/// Body of a `tried` row.
pub(super) fn tried(attempt: u32, first: Timestamp, error: &StepError) -> Bytes {
    let error = serde_json::value::to_raw_value(error).expect("strings and raw JSON serialise");
    to_bytes(&Tried { attempt, first, error })
}

/// `await any` of everything that is pending.
fn any_of(pending: impl Iterator<Item = String>) -> Tree {
    Tree::Any(pending.map(Tree::Step).collect())
}
