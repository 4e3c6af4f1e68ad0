//! The ways out of a pause or a failure: settle or hurry one step, rewind the run, run it again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::erase::still_known;
use super::events::cancels;
use super::import::ended_here;
use super::objects::Parts;
use super::start::{DoneAgain, Mail};
use super::{Engine, Error, Idempotency, Namespace, RunView, Start, Started, Status};
use crate::machine::{
    Act, Cause, DeploymentId, Flags, Kind, MessageKind, OpKind, Policy, Row, Run, RunId, Sealed,
    Settlement, StepState, to_bytes,
};
use crate::store::{Accepted, Loaded, Reopened};

/// How long an act waits to be seen taken.
const COURTESY: Duration = Duration::from_secs(2);
/// What may be done about a step that is not there.
const UNASKED: &str = ". To settle a step before its handler asks for it, say `\"unasked\": true`";

/// An outcome that an operator gives a step.
#[derive(Debug, Clone)]
pub struct ByHand {
    /// The step.
    pub step: String,
    /// Whether it is a value.
    pub ok: bool,
    /// The value or the step error, byte for byte.
    pub outcome: Box<RawValue>,
    /// Also if no handler has asked for it yet: then it is a `run` step.
    pub unasked: bool,
    /// Who.
    pub by: String,
    /// Why, if they said.
    pub reason: Option<String>,
}

/// How a run is done again.
#[derive(Debug, Clone, Default)]
pub struct Rerun {
    /// Steps that settled before this one are copied; none: none of them.
    pub from_step: Option<String>,
    /// In place of the input.
    pub input: Option<Box<RawValue>>,
    /// Values in place of what steps had recorded, or before they are asked for.
    pub edits: BTreeMap<String, Box<RawValue>>,
    /// The deployment to run on.
    pub deployment: Option<DeploymentId>,
    /// Whether signals that no copied step took are there again.
    pub keep_signals: bool,
    /// The idempotency key, if one was sent.
    pub idempotency: Option<Idempotency>,
    /// Who.
    pub by: String,
    /// W3C trace context of the request.
    pub traceparent: Option<String>,
}

/// How a step stands for an operator.
enum Stands {
    Unknown,
    Pending { trying: bool },
    Settled { n: i32, ok: bool },
}

impl Engine {
    /// Gives a step an outcome. When this returns, it is durable, and seen taken if that was quick.
    pub async fn settle_step(
        &self,
        ns: &Namespace,
        run: RunId,
        by_hand: ByHand,
    ) -> Result<RunView, Error> {
        let ByHand { step, ok, outcome, unasked, by, reason } = by_hand;
        let (size, limit) = (outcome.get().len(), self.limits().value_bytes);
        if size > limit {
            let detail = format!("the outcome has {size} bytes, over the limit of {limit}");
            return Err(Error::TooLarge(detail));
        }
        self.not_ended(ns, run).await?;
        match self.stands(ns, run, &step).await?.1 {
            Stands::Unknown if !unasked => return Err(Error::StepNotFound(run, step, UNASKED)),
            Stands::Settled { n, ok: was } => {
                self.same_outcome(ns, run, &step, (n, was), (ok, &outcome)).await?;
                return self.view(ns, run).await;
            }
            Stands::Unknown | Stands::Pending { .. } => {}
        }
        let settlement = Settlement {
            by,
            reason,
            op: unasked.then_some(OpKind::Run as u8),
            copied: false,
            ok,
            outcome,
        };
        let view =
            self.do_to(ns, run, MessageKind::StepSettled, &step, to_bytes(&settlement)).await?;
        // Two that come at once: the order of the run's inbox decides, and the loser is told.
        if let Stands::Settled { n, ok: was } = self.stands(ns, run, &step).await?.1 {
            self.same_outcome(ns, run, &step, (n, was), (ok, &settlement.outcome)).await?;
        }
        Ok(view)
    }

    /// Tries a step now that waits for its next attempt, or takes the failure of one back while
    /// the run is paused.
    pub async fn hurry_step(
        &self,
        ns: &Namespace,
        run: RunId,
        step: &str,
        act: Act,
    ) -> Result<RunView, Error> {
        self.not_ended(ns, run).await?;
        let (status, stands) = self.stands(ns, run, step).await?;
        let refused = |detail: &str| {
            Err(Error::InvalidState { run, status, detail: format!("step `{step}` {detail}") })
        };
        match stands {
            Stands::Unknown => return Err(Error::StepNotFound(run, step.to_owned(), "")),
            Stands::Pending { trying: false } => {
                return refused("waits for no attempt; complete it or fail it instead");
            }
            Stands::Settled { ok: true, .. } => return refused("has a value, which stays"),
            Stands::Settled { ok: false, .. } if status != Status::Paused => {
                return refused(
                    "has failed, which its handler may act on already; pause the run first",
                );
            }
            Stands::Settled { .. } | Stands::Pending { .. } => {}
        }
        let act = Act { hurry: true, ..act };
        self.do_to(ns, run, MessageKind::StepHurried, step, to_bytes(&act)).await
    }

    /// Lets a run that has failed go on: failed steps are taken back, the others stay.
    pub async fn rewind(&self, ns: &Namespace, run: RunId, act: Act) -> Result<RunView, Error> {
        self.admit()?;
        let loaded = self.loaded(ns, run).await?;
        let status = match loaded.ended {
            Some((code, _)) => Status::from_code(code).unwrap_or(Status::Failed),
            None => self.view(ns, run).await?.status,
        };
        if !matches!(status, Status::Failed | Status::TimedOut | Status::Terminated) {
            let detail = if status.ended() {
                "only a run that failed, timed out or was terminated can be rewound; start it \
                 again with `rerun`"
            } else {
                "it has not ended; only a run that has failed can be rewound"
            };
            return Err(Error::InvalidState { run, status, detail: detail.to_owned() });
        }
        let parked = loaded.parked.is_some();
        let mut it = Run::recover(run, loaded.ns, &loaded.rows, parked, false)
            .map_err(|e| Error::corrupt(&e.to_string()))?;
        still_known(&it)?;
        ended_here(&it)?;
        it.home = loaded.home;
        let policy = Policy::default();
        let env = self.env(&policy);
        // It has as long as it had at first.
        let deadline = it.allowed.map(|allowed| env.now + allowed);
        let reopened = Cause::Reopened { act, deadline };
        let rows = it.apply(reopened, &env).ok().and_then(|()| it.seal());
        let append = rows.ok_or_else(|| Error::corrupt("an ended run does not reopen"))?;
        let sealed = Sealed { run, ns: loaded.ns, home: loaded.home, append };
        let taken = it.taken();
        let message = self.message(MessageKind::New, "", Bytes::new());
        let Parts { object, locks } = self.part_again(&it)?;
        let locks: Vec<_> = locks.into_iter().map(|(_, place)| place).collect();
        // As it was registered when the run was started.
        let first = loaded.rows.first().map(|row| row.dep);
        let deployment = first.and_then(|dep| self.catalog().deployment(dep));
        let waits = match deployment.filter(|_| it.created.cancel_on) {
            Some(deployment) => {
                let on = deployment.cancel_on(&it.created.function);
                cancels(on, (run, loaded.ns), &it.created.input, self.clock().lower())
            }
            None => Vec::new(),
        };
        match self.store().reopen(&sealed, taken, &message, object, &locks, &waits).await? {
            Reopened::Done => {}
            Reopened::Lost => {
                let status = self.view(ns, run).await?.status;
                let detail = "it was rewound or erased at the same time".to_owned();
                return Err(Error::InvalidState { run, status, detail });
            }
            Reopened::KeyHeld(holder) => {
                let status = self.view(ns, holder).await.map_or(Status::Queued, |v| v.status);
                let key = it.created.key.clone().unwrap_or_default();
                return Err(Error::RunExists { run: holder, key, status });
            }
        }
        self.watchers().reopened(run);
        self.bring_in(&mut self.owner(), [run]);
        self.view(ns, run).await
    }

    /// Starts a new run of the same function that takes over what is wanted of this one.
    pub async fn rerun(&self, ns: &Namespace, run: RunId, how: Rerun) -> Result<Started, Error> {
        self.admit()?;
        let loaded = self.loaded(ns, run).await?;
        let it = Run::recover(run, loaded.ns, &loaded.rows, false, false)
            .map_err(|e| Error::corrupt(&e.to_string()))?;
        if how.input.is_none() || how.from_step.is_some() {
            still_known(&it)?;
        }
        if loaded.rows.iter().any(|r| r.kind == Kind::Compacted) && how.from_step.is_some() {
            let detail = "the run's journal is compacted; its steps are not there any more";
            return Err(Error::Invalid("/from_step".to_owned(), detail.to_owned()));
        }
        let recorded = Recorded::of(&loaded.rows, &it);
        let (mail, copies) = recorded.taken_over(&it, &how, self.limits().value_bytes)?;
        let created = &it.created;
        let start = Start {
            key: created.key.clone(),
            tags: created.tags.clone(),
            priority: it.created.priority,
            start_timeout: it.created.start_within,
            run_timeout: it.allowed,
            invocation_timeout: created.invocation_timeout,
            retry: created.retry,
            on_complete: created.on_complete.clone(),
            deployment: how.deployment,
            idempotency: how.idempotency,
            traceparent: how.traceparent,
            ..Start::new(
                ns.clone(),
                created.function.clone(),
                how.input.clone().unwrap_or_else(|| created.input.clone()),
                how.by,
            )
        };
        let seed = copies.then(|| created.seed.clone());
        self.start_with(start, Some(&DoneAgain { of: run, seed, mail })).await
    }

    // --- parts ---------------------------------------------------------------------------------

    async fn loaded(&self, ns: &Namespace, run: RunId) -> Result<Loaded, Error> {
        let loaded = self.store().load(&[run]).await?.into_iter().next();
        loaded.filter(|l| l.ns == ns.id).ok_or(Error::RunNotFound(run))
    }

    async fn not_ended(&self, ns: &Namespace, run: RunId) -> Result<(), Error> {
        let status = self.view(ns, run).await?.status;
        if status.ended() {
            let detail = "it has ended; rewind it or start it again with `rerun`".to_owned();
            return Err(Error::InvalidState { run, status, detail });
        }
        Ok(())
    }

    async fn stands(
        &self,
        ns: &Namespace,
        run: RunId,
        step: &str,
    ) -> Result<(Status, Stands), Error> {
        let status = self.view(ns, run).await?.status;
        let stands = self
            .with_run(ns, run, |run| match run.steps.get(step).map(|s| &s.state) {
                None => Stands::Unknown,
                Some(StepState::Settled { n, ok, .. }) => Stands::Settled { n: *n, ok: *ok },
                Some(state) => {
                    Stands::Pending { trying: matches!(state, StepState::Trying { .. }) }
                }
            })
            .await?;
        Ok((status, stands))
    }

    /// What is recorded of a step is what an operator wants it to be, or the problem.
    async fn same_outcome(
        &self,
        ns: &Namespace,
        run: RunId,
        step: &str,
        (n, was): (i32, bool),
        (ok, outcome): (bool, &RawValue),
    ) -> Result<(), Error> {
        let place = self.place(ns, run).await?;
        let recorded = self.store().value(run, place.home, n).await?.unwrap_or_default();
        if was == ok && recorded == outcome.get().as_bytes() {
            return Ok(());
        }
        Err(Error::AlreadySettled { step: step.to_owned(), ok: was, recorded })
    }

    /// Sends a run an operator's act about a step or about itself.
    pub(super) async fn do_to(
        &self,
        ns: &Namespace,
        run: RunId,
        kind: MessageKind,
        name: &str,
        body: Bytes,
    ) -> Result<RunView, Error> {
        let message = self.message(kind, name, body);
        let id = message.id;
        let mut changes = self.changes(run);
        match self.deliver(run, ns.id, message, None).await? {
            Accepted::Closing => return Err(Error::RunEnding(run)),
            Accepted::Gone => return Err(Error::RunEnded(run)),
            _ => {}
        }
        // It is durable. Seeing it taken is a courtesy, which must not take long.
        let taken = self.taken(run, id, &mut changes);
        let _ = tokio::time::timeout(COURTESY, taken).await;
        if let Some(view) = changes.ended() {
            return Ok((*view).clone());
        }
        self.view(ns, run).await
    }
}

/// A step as a journal has it.
struct Outcome {
    step: String,
    op: OpKind,
    ok: bool,
    body: Bytes,
    message: Option<Uuid>,
}

/// What a run has recorded that another may take over.
struct Recorded {
    /// In commit order.
    settled: Vec<Outcome>,
    /// In the order of their acceptance: message, name and payload.
    signals: Vec<(Uuid, String, Bytes)>,
}

impl Recorded {
    fn of(rows: &[Row], run: &Run) -> Self {
        let arrived: HashMap<Uuid, &Row> = rows
            .iter()
            .filter(|r| r.kind == Kind::Arrived)
            .filter_map(|r| Some((r.refer?, r)))
            .collect();
        let body = |row: &Row| match row.refer.and_then(|id| arrived.get(&id)) {
            Some(from) if row.flags.has(Flags::REF) => from.body.clone().unwrap_or_default(),
            _ => row.body.clone().unwrap_or_default(),
        };
        let (mut settled, mut signals) =
            (Vec::<Outcome>::new(), Vec::<(Uuid, String, Bytes)>::new());
        let mut asked: HashMap<&str, String> = HashMap::new();
        let name_of = |row: &Row| {
            #[derive(serde::Deserialize)]
            struct Named {
                name: Option<String>,
            }
            serde_json::from_slice::<Named>(row.body.as_deref().unwrap_or_default()).ok()?.name
        };
        for row in rows {
            let op = row.flags.op().unwrap_or_default();
            match row.kind {
                Kind::Asked if op == OpKind::Signal => {
                    asked.extend(name_of(row).map(|name| (row.step.as_str(), name)));
                }
                Kind::Arrived if op == OpKind::Signal => {
                    if let Some(id) = row.refer.filter(|id| signals.iter().all(|s| s.0 != *id)) {
                        signals.push((id, row.step.clone(), body(row)));
                    }
                }
                Kind::Done | Kind::Failed => {
                    let (step, ok) = (row.step.clone(), row.kind == Kind::Done);
                    if op == OpKind::Signal
                        && ok
                        && !row.flags.has(Flags::BY_HAND)
                        && let Some(id) = row.refer.filter(|id| !arrived.contains_key(id))
                        && let Some(name) = asked.get(step.as_str())
                    {
                        signals.push((id, name.clone(), body(row)));
                    }
                    settled.push(Outcome { step, op, ok, body: body(row), message: row.refer });
                }
                Kind::Retaken => settled.retain(|s| s.step != row.step),
                Kind::Continued => settled.clear(),
                _ => {}
            }
        }
        settled.retain(|s| run.steps.contains_key(&s.step));
        Self { settled, signals }
    }

    /// The messages by which a new run has it, and whether steps are among them.
    fn taken_over(
        mut self,
        run: &Run,
        how: &Rerun,
        limit: usize,
    ) -> Result<(Vec<Mail>, bool), Error> {
        let copied = match &how.from_step {
            None => 0,
            Some(from) => match self.settled.iter().position(|s| s.step == *from) {
                Some(at) => at,
                None if run.steps.contains_key(from) => self.settled.len(),
                None => {
                    let detail = format!("run {} has no step `{from}`", run.id);
                    return Err(Error::Invalid("/from_step".to_owned(), detail));
                }
            },
        };
        self.settled.truncate(copied);
        for (step, value) in &how.edits {
            if value.get().len() > limit {
                let (pointer, bytes) = (escaped(step), value.get().len());
                let detail = format!("has {bytes} bytes, over the limit of {limit}");
                return Err(Error::Invalid(format!("/edits/{pointer}"), detail));
            }
            let body = Bytes::from(value.get().to_owned());
            if let Some(settled) = self.settled.iter_mut().find(|s| s.step == *step) {
                (settled.ok, settled.body) = (true, body);
            } else {
                let op = run.steps.get(step).map_or(OpKind::Run, |s| s.op);
                let step = step.clone();
                self.settled.push(Outcome { step, op, ok: true, body, message: None });
            }
        }
        let taken: HashSet<Uuid> = self.settled.iter().filter_map(|s| s.message).collect();
        let copies = !self.settled.is_empty();
        let steps = self.settled.into_iter().map(|s| {
            let text = String::from_utf8_lossy(&s.body).into_owned();
            let outcome = RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
            let settlement = Settlement {
                by: how.by.clone(),
                reason: None,
                op: Some(s.op as u8),
                copied: true,
                ok: s.ok,
                outcome,
            };
            (MessageKind::StepSettled, s.step, to_bytes(&settlement))
        });
        let mut mail: Vec<_> = steps.collect();
        if how.keep_signals {
            let left = self.signals.into_iter().filter(|(id, ..)| !taken.contains(id));
            mail.extend(left.map(|(_, name, payload)| (MessageKind::Signal, name, payload)));
        }
        Ok((mail, copies))
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
