//! Attempts of tasks and calls: what the machine says is due goes out, what comes back is a cause.
//!
//! An attempt has nothing to do with the turn of its run: many are out at once, and the handler's
//! function is not invoked for them.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::json;

use super::Engine;
use super::breaker::{Breaker, Health};
use super::catalog::Deployment;
use super::exchange::BUDGET_MARGIN;
use super::owner::Owner;
use super::pull::{Handout, NewOffer, Offered, Telling};
use super::recent::{self, Invoked};
use crate::machine::{
    Again, AttemptDue, AttemptEnd, Cause, Env, HistoryEntry, InvocationId, OpKind, Outcome, RunId,
    StepError,
};
use crate::outbound::{Failure, Reply};
use crate::protocol::{self, TaskInvocation};
use crate::telemetry::{self, Context, Span};

/// How much of a failed answer's body is kept with the error.
const KEPT_HEAD: usize = 4 << 10;
/// How long to wait before an op that cannot be read is read again.
const AGAIN: Duration = Duration::from_millis(500);
/// The epoch in the tokens of tasks: no exchange has it, so nothing can be recorded with it.
pub(super) const TASK_EPOCH: i32 = 0;

/// An attempt that goes out.
pub(super) struct Job {
    pub(super) run: RunId,
    pub(super) ns: i32,
    pub(super) generation: i32,
    pub(super) step: String,
    pub(super) op: OpKind,
    pub(super) attempt: u32,
    /// Its own time-out, where the op says one.
    pub(super) timeout: Option<Duration>,
    home: i16,
    /// The row that has the op.
    n: i32,
    raw: Option<Bytes>,
    beat: Option<Bytes>,
    function: String,
    namespace: String,
    key: Option<String>,
    /// The longest silence of an exchange of this run.
    pub(super) silence: Duration,
    pub(super) trace: Context,
    parent: String,
}

/// What an attempt came to.
pub(super) struct Came {
    pub(super) end: AttemptEnd,
    /// What it says about the endpoint.
    health: Health,
    /// The gateway's own error: while the circuit is open it is the endpoint's, not the step's.
    ours: bool,
    /// What was wrong with the exchange itself.
    fault: Option<String>,
}

impl Came {
    const fn answered(end: AttemptEnd) -> Self {
        Self { end, health: Health::Answered, ours: false, fault: None }
    }

    fn failed(error: StepError, health: Health) -> Self {
        let fault = Some(error.message.clone());
        Self { end: AttemptEnd::Failed(error), health, ours: true, fault }
    }

    /// It was answered with something that is no answer.
    fn unreadable(error: StepError) -> Self {
        Self { health: Health::Answered, ours: false, ..Self::failed(error, Health::Answered) }
    }

    fn unhealthy(detail: String) -> Self {
        let fault = Some(detail.clone());
        let health = Health::Unhealthy(detail);
        Self { end: AttemptEnd::Unburnt, health, ours: true, fault }
    }
}

impl Engine {
    /// Begins the attempts that are due, as far as what asked for them is committed.
    pub(super) fn begin_attempts(&self, owner: &mut Owner, id: RunId, env: &Env<'_>) {
        let Some(entry) = owner.runs.get(&id) else { return };
        if owner.leaving || entry.run.works.is_empty() {
            return;
        }
        let before = entry.run.next.rows.first().map_or(entry.run.n, |row| row.n);
        let due = entry.run.attempts_due(env.past, before);
        if due.is_empty() || !self.may_pass(owner, id, env) {
            return;
        }
        for due in due {
            match due.op {
                OpKind::Call => self.begin_call(owner, id, &due),
                _ => self.begin_task(owner, id, &due, env),
            }
        }
    }

    /// Begins an attempt of a task, if its endpoint's breaker permits.
    fn begin_task(&self, owner: &mut Owner, id: RunId, due: &AttemptDue, env: &Env<'_>) {
        let Some(entry) = owner.runs.get_mut(&id).filter(|e| !e.gated_work) else { return };
        let host = self.catalog().deployment_for(&entry.run);
        let Some((_, deployment)) = host.filter(|(function, _)| !function.paused) else {
            // The function is gone: what is due stays so until something is registered.
            entry.gated_work = true;
            owner.breakers.entry(super::catalog::NO_ENDPOINT).or_default().gate(id);
            return;
        };
        let Some(work) = entry.run.works.get(&due.step) else { return };
        let task = work.terms.task.clone().unwrap_or_default();
        if !deployment.may_have_task(&entry.run.created.function, &task) {
            let detail = format!(
                "the function `{}` lists no task `{task}` in its manifest",
                entry.run.created.function
            );
            let error = StepError::of_gateway("task-not-found", detail);
            let cause = Cause::AttemptEnded {
                step: due.step.clone(),
                attempt: due.attempt,
                end: AttemptEnd::Failed(error),
                ms: 0,
            };
            self.apply(entry, cause, env);
            return;
        }
        let invocation = InvocationId::new(env.now, crate::clock::chance());
        let admitted = self.let_through(owner, &deployment, known_as(invocation), id);
        let Some(entry) = owner.runs.get_mut(&id) else { return };
        if !admitted {
            entry.gated_work = true;
            return;
        }
        let silence = deployment.invocation_timeout(&entry.run.created.function);
        let Some(job) = job(entry, due, silence) else { return };
        entry.run.attempt_out(&due.step);
        let engine = self.clone();
        self.spawn(async move { engine.task(job, deployment, invocation).await });
    }

    /// The op that a step's attempts carry out, as it was recorded.
    pub(super) async fn op_of(&self, job: &Job) -> Bytes {
        if let Some(raw) = &job.raw {
            return raw.clone();
        }
        loop {
            match self.store().value(job.run, job.home, job.n).await {
                Ok(op) => return op.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(run.id = %job.run, %error, "cannot read a step's op yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn task(&self, job: Job, deployment: Arc<Deployment>, invocation: InvocationId) {
        let op = self.op_of(&job).await;
        let begun = self.clock().mono();
        let begun_at = self.clock().upper();
        let silence = job.timeout.unwrap_or(job.silence);
        let budget = silence.saturating_sub(BUDGET_MARGIN).max(silence / 2);
        let token =
            self.keys().mint(job.run, TASK_EPOCH, begun_at + silence + Duration::from_hours(1));
        let body = protocol::write_task(&TaskInvocation {
            function: &job.function,
            run: job.run,
            namespace: &job.namespace,
            key: job.key.as_deref(),
            generation: job.generation,
            invocation,
            attempt: job.attempt,
            budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
            step: &job.step,
            op: &op,
            heartbeat: job.beat.as_deref(),
            base: self.public_url(),
            callback_secret: &self.keys().callback_secret(job.run, job.generation),
            token: &token,
        });
        // Whoever brings an answer is told when what it led to is recorded.
        let mut telling = None;
        let mut invoked = None;
        let came = match body {
            Ok(body) => {
                let body = Bytes::from(body);
                let (id, endpoint) = (invocation.to_string(), &deployment.endpoint);
                let secrets = endpoint.signing(begun_at);
                let headers = self.signed(&endpoint.headers, secrets, &id, &body, Some(&job.trace));
                let mut sent = Invoked::sent(
                    invocation,
                    begun_at,
                    job.run,
                    &job.function,
                    &deployment,
                    &headers,
                    &body,
                );
                let reply = if deployment.is_pull() {
                    let offer =
                        self.offer_task(&job, &deployment, invocation, headers, body, silence);
                    let (offered, told) = offer.await;
                    telling = Some(told);
                    match offered {
                        Offered::Reply(reply) => Some(Ok(reply)),
                        Offered::Silent(failure) => Some(Err(failure)),
                        Offered::Untaken => None,
                    }
                } else {
                    Some(self.send_task(&job, &deployment, headers, body, silence).await)
                };
                match reply {
                    Some(reply) => {
                        if let Ok(reply) = &reply {
                            sent.answered(reply);
                        }
                        invoked = Some(sent);
                        self.read_task(reply)
                    }
                    None => Came {
                        end: AttemptEnd::Unburnt,
                        health: Health::Unknown,
                        ours: true,
                        fault: None,
                    },
                }
            }
            Err(error) => {
                let error = StepError::of_gateway("malformed-op", error.to_string());
                Came { health: Health::Unknown, ..Came::answered(AttemptEnd::Failed(error)) }
            }
        };
        let took = self.clock().mono().saturating_sub(begun);
        let id = invocation.to_string();
        told(&job, &came.end, took, &id);
        telemetry::span(|| Span {
            context: job.trace.clone(),
            parent: Some(job.parent.clone()),
            name: format!("task {}", job.step),
            client: true,
            begun: begun_at,
            took,
            attributes: vec![
                ("run.id", job.run.to_string()),
                ("invocation.id", id),
                ("step.attempt", job.attempt.to_string()),
                ("endpoint", deployment.endpoint.name.clone()),
            ],
            error: match &came.end {
                AttemptEnd::Failed(error) => Some(format!("{}: {}", error.kind, error.message)),
                _ => None,
            },
        });
        if let Some(mut invoked) = invoked {
            invoked.took = took;
            invoked.step = Some(job.step.clone());
            invoked.outcome = match &came.end {
                _ if came.fault.is_some() => recent::FAILED,
                AttemptEnd::Held => "held",
                _ => "answered",
            };
            invoked.detail.clone_from(&came.fault);
            self.recent().note(deployment.endpoint.id, invoked);
        }
        self.task_over(&job, deployment.endpoint.id, invocation, came, took);
        drop(telling);
    }

    /// Offers an attempt to whoever polls.
    async fn offer_task(
        &self,
        job: &Job,
        deployment: &Deployment,
        invocation: InvocationId,
        headers: HeaderMap,
        body: Bytes,
        silence: Duration,
    ) -> (Offered, Telling) {
        let now = self.clock().upper();
        let handout = Handout {
            run: job.run,
            invocation,
            headers,
            body,
            token: self.keys().mint(job.run, TASK_EPOCH, now + silence + Duration::from_hours(1)),
        };
        let offer = NewOffer {
            endpoint: deployment.endpoint.id,
            counted: Some(known_as(invocation)),
            epoch: TASK_EPOCH,
            handout,
        };
        self.offer(offer, &silence.into()).await
    }

    async fn send_task(
        &self,
        job: &Job,
        deployment: &Deployment,
        headers: HeaderMap,
        body: Bytes,
        silence: Duration,
    ) -> Result<Reply, Failure> {
        let post =
            self.client().post(&deployment.url, headers, body, silence, protocol::MAX_ANSWER);
        match job.timeout {
            // An attempt's time-out is over all of it, however slowly the answer trickles in.
            Some(most) => {
                tokio::time::timeout(most, post).await.unwrap_or(Err(Failure::Silence(most)))
            }
            None => post.await,
        }
    }

    /// What the reply means for the step and for the endpoint.
    fn read_task(&self, reply: Result<Reply, Failure>) -> Came {
        let again = |kind: &str, detail: &str| StepError {
            retry: Again::Default,
            ..StepError::of_gateway(kind, detail)
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                let detail = failure.to_string();
                return match failure {
                    Failure::TooLarge(_) => {
                        Came::unreadable(StepError::of_gateway("value-limit", detail))
                    }
                    _ if failure.is_unhealthy() => Came::unhealthy(detail),
                    _ if failure.is_connect() => {
                        Came::failed(again("no-answer", &detail), Health::Suspicious(detail))
                    }
                    Failure::Silence(_) => {
                        Came::failed(again("timed-out", &detail), Health::Silent(detail))
                    }
                    _ => Came::failed(again("no-answer", &detail), Health::Silent(detail)),
                };
            }
        };
        match reply.status {
            200 => match protocol::parse_task_answer(&reply.body, self.limits()) {
                Ok(Outcome::Value(value)) => Came::answered(AttemptEnd::Value(value)),
                Ok(Outcome::Error(error)) => Came::answered(AttemptEnd::Failed(error)),
                Err(error) if error.is_limit() => {
                    Came::unreadable(StepError::of_gateway("value-limit", error.to_string()))
                }
                Err(error) => Came::unreadable(again("malformed-answer", &error.to_string())),
            },
            202 => Came::answered(AttemptEnd::Held),
            status @ (401 | 403 | 404 | 410) => {
                Came::unhealthy(format!("the handler answered {status} to a task"))
            }
            status => {
                let detail = format!("the handler answered {status}");
                let head = &reply.body[..reply.body.len().min(KEPT_HEAD)];
                let data = json!({"status": status, "body": String::from_utf8_lossy(head)});
                let after = reply.retry_delay(self.clock().upper());
                let error = StepError {
                    data: serde_json::value::to_raw_value(&data).ok(),
                    after_ms: after.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
                    ..again("http-status", &detail)
                };
                let health = if matches!(status, 502..=504) {
                    Health::Suspicious(detail)
                } else {
                    Health::Answered
                };
                Came::failed(error, health)
            }
        }
    }

    fn task_over(
        &self,
        job: &Job,
        endpoint: i32,
        invocation: InvocationId,
        came: Came,
        took: Duration,
    ) {
        if self.halted() {
            return;
        }
        let mut owner = self.owner();
        let past = self.clock().lower();
        if let Some(breaker) = owner.breakers.get_mut(&endpoint)
            && breaker.ended(known_as(invocation), &came.health, past)
        {
            self.circuit_changed(&mut owner, endpoint);
        }
        let parks = owner.breakers.get(&endpoint).is_some_and(Breaker::parks);
        let end = if parks && came.ours { AttemptEnd::Unburnt } else { came.end };
        self.attempt_over(&mut owner, job, end, took);
        self.release(&mut owner, endpoint);
    }

    /// The run hears how its attempt came out.
    pub(super) fn attempt_over(
        &self,
        owner: &mut Owner,
        job: &Job,
        end: AttemptEnd,
        took: Duration,
    ) {
        let ms = i32::try_from(took.as_millis()).unwrap_or(i32::MAX);
        let entry = owner.runs.get_mut(&job.run);
        if let Some(entry) = entry.filter(|e| e.run.generation == job.generation) {
            let (step, attempt) = (job.step.clone(), job.attempt);
            entry.queue.push_back(Cause::AttemptEnded { step, attempt, end, ms });
            self.pump(owner, job.run);
        } else if owner.tenure(job.run.shard()).is_some() && !owner.loading.contains_key(&job.run) {
            // It has ended meanwhile: people are to know that the work was done all the same.
            let entry = HistoryEntry {
                at: self.clock().upper(),
                epoch: 0,
                what: "attempt.late".to_owned(),
                by: "gateway".to_owned(),
                data: late(&job.step, job.attempt),
            };
            let (engine, run, ns) = (self.clone(), job.run, job.ns);
            self.spawn(async move {
                if let Err(error) = engine.store().add_history(run, ns, &[entry]).await {
                    tracing::warn!(run.id = %run, %error, "a history entry is lost");
                }
            });
        }
    }
}

/// For metrics and logs.
pub(super) fn told(job: &Job, end: &AttemptEnd, took: Duration, id: &str) {
    let outcome = match end {
        AttemptEnd::Value(_) => "value",
        AttemptEnd::Failed(_) => "failed",
        AttemptEnd::Held => "accepted",
        AttemptEnd::Unburnt => "unhealthy",
    };
    let op = job.op.word();
    metrics::counter!("stepwell_attempts_total", "op" => op, "outcome" => outcome).increment(1);
    metrics::histogram!("stepwell_attempt_seconds", "op" => op).record(took.as_secs_f64());
    tracing::debug!(
        run.id = %job.run,
        step = job.step,
        op,
        attempt = job.attempt,
        invocation.id = id,
        outcome,
        "attempt ended"
    );
}

/// A breaker knows exchanges by their runs; of a run's attempts many are open at once, so that each
/// is known by its own id.
fn known_as(invocation: InvocationId) -> RunId {
    RunId::from(invocation.uuid())
}

/// What the history says of an attempt that came too late.
pub(super) fn late(step: &str, attempt: u32) -> Bytes {
    crate::machine::to_bytes(&json!({
        "step": step,
        "attempt": attempt,
        "detail": "the attempt ended when its step was not waiting for it any more; nothing of it was recorded",
    }))
}

/// What an attempt needs to know of its run.
pub(super) fn job(entry: &super::owner::Entry, due: &AttemptDue, silence: Duration) -> Option<Job> {
    let run = &entry.run;
    let work = run.works.get(&due.step)?;
    let started_in = run.created.traceparent.as_deref().and_then(Context::parse);
    let above = Context::of_run(run.id, started_in.as_ref());
    Some(Job {
        run: run.id,
        ns: run.ns,
        generation: run.generation,
        step: due.step.clone(),
        op: due.op,
        attempt: due.attempt,
        timeout: work.terms.timeout,
        home: run.home,
        n: work.n,
        raw: work.raw.clone(),
        beat: work.beat.clone(),
        function: run.created.function.clone(),
        namespace: run.created.namespace.clone(),
        key: run.created.key.clone(),
        silence: run.created.invocation_timeout.unwrap_or(silence),
        trace: above.child(crate::clock::chance()),
        parent: above.span,
    })
}
