//! One invocation: what is sent, what comes back, and what that means for run and endpoint.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use url::Url;

use super::breaker::{Breaker, Health};
use super::calls::IDEMPOTENCY_KEY;
use super::catalog::Deployment;
use super::invocation::Frame;
use super::lines::Came;
use super::owner::Owner;
use super::pull::{Handout, NewOffer, Offered, Telling};
use super::recent::{self, Invoked};
use super::{Engine, Point};
use crate::machine::{Again, Attention, Cause, Fault, InvocationId, Run, RunId, RunKind, Turn};
use crate::outbound::{Failure, Life, Patience, Reply};
use crate::protocol::{self, Transport};
use crate::telemetry::{self, Context, Span};

/// How long a handler may work on one answer, less this, is its budget.
pub(super) const BUDGET_MARGIN: Duration = Duration::from_secs(5);
/// The inline budget is never lowered under this.
const INLINE_FLOOR: usize = 64 << 10;
/// How much of a failed answer's body is kept.
pub(super) const KEPT_HEAD: usize = 64 << 10;

/// An exchange that is ready to be sent.
pub(super) struct Ready {
    pub(super) run: RunId,
    function: String,
    pub(super) epoch: i32,
    transport: Transport,
    invocation: InvocationId,
    pub(super) deployment: Arc<Deployment>,
    pub(super) body: Bytes,
    /// The `seq` of the last settled step that it shows.
    upto: i32,
    pub(super) silence: Duration,
    /// Where the input of a plain function is posted; none: the handler speaks the protocol.
    pub(super) plain: Option<Url>,
    /// Signs of life that the handler gives by checkpoints.
    pub(super) life: Arc<Life>,
    /// The span of this exchange, and the run's above it.
    trace: Context,
    parent: String,
}

/// What an exchange came to.
pub(super) struct Ended {
    pub(super) cause: Cause,
    pub(super) health: Health,
    /// For the history, where it failed.
    pub(super) failure: Option<Bytes>,
    /// The head of an answer that seems to be well-formed.
    pub(super) head: Bytes,
}

impl Engine {
    /// Sends the exchange that the run's turn has opened; its rows are committed.
    pub(super) fn send_exchange(&self, owner: &mut Owner, id: RunId) {
        match self.prepare(owner, id) {
            Ok(ready) => {
                if let Some(entry) = owner.runs.get_mut(&id) {
                    entry.silence = ready.silence;
                    entry.run.talk.told = ready.upto;
                }
                // Not raced against the stop of the node, as other tasks are: this is the hot path.
                let engine = self.clone();
                tokio::spawn(async move { engine.exchange(ready).await });
            }
            Err((epoch, fault)) => {
                if let Some(entry) = owner.runs.get_mut(&id) {
                    if let Some(endpoint) = entry.admitted.take()
                        && let Some(breaker) = owner.breakers.get_mut(&endpoint)
                    {
                        breaker.ended(id, &Health::Unknown, self.clock().lower());
                    }
                    entry.queue.push_back(Cause::Faulted { epoch, fault });
                }
                self.pump(owner, id);
            }
        }
    }

    /// Writes the invocation of an open turn.
    fn prepare(&self, owner: &mut Owner, id: RunId) -> Result<Ready, (i32, Fault)> {
        let dep = owner.runs.get(&id).map_or(0, |e| e.run.dep);
        let best = self.catalog().deployment(dep).map_or(Transport::Respond, |d| d.transport());
        let transport = Self::transport_of(owner, dep, best, self.clock().mono());
        let Some(entry) = owner.runs.get(&id) else { return Err((0, Fault::Again)) };
        let run = &entry.run;
        let Turn::Open { epoch, reason, .. } = run.turn else { return Err((0, Fault::Again)) };
        let catalog = self.catalog();
        let Some(deployment) = catalog.deployment(run.dep) else {
            return Err((epoch, Fault::Again));
        };
        let function = &run.created.function;
        let silence = run
            .created
            .invocation_timeout
            .unwrap_or_else(|| deployment.invocation_timeout(function));
        if let Some(kind) = deployment.kind_of(function).filter(|k| *k != run.created.kind) {
            return Err((epoch, Fault::Pause(changed_kind(run, kind))));
        }
        let started_in = run.created.traceparent.as_deref().and_then(Context::parse);
        let above = Context::of_run(id, started_in.as_ref());
        let now = self.clock().upper();
        let invocation = InvocationId::new(now, crate::clock::chance());
        let trace = above.child(crate::clock::chance());
        if run.is_plain() {
            return Ok(Ready {
                run: id,
                function: function.clone(),
                epoch,
                transport: Transport::Respond,
                invocation,
                plain: Some(deployment.posted_at(function)),
                deployment,
                body: Bytes::from(run.created.input.get().to_owned()),
                upto: 0,
                silence,
                life: Arc::clone(&entry.life),
                trace,
                parent: above.span,
            });
        }
        let budget =
            owner.budgets.get(&deployment.id).copied().unwrap_or(deployment.max_inline_bytes);
        let (settled, upto) = run.shown.within(budget);
        let more = upto < run.seq;
        if (more || run.shown.has_refs) && !deployment.pages {
            let detail = format!(
                "The journal has {} bytes{}, and this deployment does not say `\"pages\": true`. \
                 Let its handler fetch values and pages, register it so, then resume the run.",
                run.shown.bytes,
                if run.shown.has_refs { " with a value over 32 KiB" } else { "" }
            );
            return Err((epoch, Fault::Pause(Attention::new("needs-pages", detail))));
        }
        let past = self.clock().lower();
        let budget = budget_of(silence);
        let token = self.keys().mint(id, epoch, now + silence + Duration::from_hours(1));
        let body = self.invocation(
            run,
            &Frame {
                deployment: deployment.public,
                turn: protocol::Turn {
                    id: invocation,
                    epoch,
                    attempt: run.faults + 1,
                    reason: reason.word(),
                    transport: transport.word(),
                    budget_ms: u64::try_from(budget.as_millis()).unwrap_or(u64::MAX),
                },
                settled,
                upto,
                past,
                token: &token,
                query: None,
            },
        );
        Ok(Ready {
            run: id,
            function: function.clone(),
            epoch,
            transport,
            invocation,
            plain: None,
            deployment,
            body: if transport == Transport::Respond {
                body.into()
            } else {
                protocol::on_one_line(body).into()
            },
            upto,
            silence,
            life: Arc::clone(&entry.life),
            trace,
            parent: above.span,
        })
    }

    async fn exchange(&self, ready: Ready) {
        let begun = self.clock().mono();
        let begun_at = self.clock().upper();
        let invocation = ready.invocation.to_string();
        let endpoint = &ready.deployment.endpoint;
        let secrets = endpoint.signing(begun_at);
        let mut headers =
            self.signed(&endpoint.headers, secrets, &invocation, &ready.body, Some(&ready.trace));
        if ready.transport == Transport::Duplex {
            let kind = HeaderValue::from_static("application/x-ndjson");
            headers.insert(header::CONTENT_TYPE, kind);
        }
        let sent = ready.body.len();
        self.faults().reach(Point::InvokeBefore);
        let word = ready.transport.word();
        if ready.transport != Transport::Respond {
            let name = HeaderName::from_static(protocol::TRANSPORT_HEADER);
            headers.insert(name, HeaderValue::from_static(word));
        }
        if ready.plain.is_some()
            && let Ok(key) = HeaderValue::try_from(ready.run.to_string())
        {
            headers.insert(IDEMPOTENCY_KEY, key);
        }
        let mut invoked = Invoked::sent(
            ready.invocation,
            begun_at,
            ready.run,
            &ready.function,
            &ready.deployment,
            &headers,
            &ready.body,
        );
        invoked.transport = word;
        metrics::counter!("stepwell_invocation_sent_bytes_total", "transport" => word)
            .increment(sent as u64);
        // Whoever brings an answer is told when what it led to is recorded.
        let mut telling = None;
        let came = match ready.transport {
            _ if ready.deployment.is_pull() => {
                let (came, told) = self.offer_exchange(&ready, headers).await;
                telling = Some(told);
                came
            }
            _ if ready.plain.is_some() => self.post_plain(&ready, headers).await,
            Transport::Duplex => self.duplex(&ready, headers).await,
            Transport::Stream => self.stream(&ready, headers).await,
            Transport::Respond | Transport::Checkpoint => Came::Reply(
                self.client()
                    .post(
                        &ready.deployment.url,
                        headers,
                        ready.body.clone(),
                        Patience::with(ready.silence, Arc::clone(&ready.life)),
                        protocol::MAX_ANSWER,
                    )
                    .await,
            ),
        };
        self.faults().reach(Point::InvokeAfter);
        match &came {
            Came::Reply(Ok(reply)) | Came::Posted(Ok(reply)) => invoked.answered(reply),
            Came::Spoken { .. } => invoked.status = Some(200),
            Came::Reply(Err(_)) | Came::Posted(Err(_)) | Came::Unfit(_) | Came::Untaken => {}
        }
        let went = !matches!(came, Came::Untaken);
        let took = self.clock().mono().saturating_sub(begun);
        let ms = i32::try_from(took.as_millis()).unwrap_or(i32::MAX);
        let ended = match came {
            Came::Reply(reply) => self.read(&ready, reply, ms),
            Came::Posted(reply) => self.read_posted(&ready, reply, ms),
            Came::Unfit(detail) => self.unfit(&ready, &detail, ms),
            Came::Untaken => untaken(&ready),
            Came::Spoken { fault, detail } => parted(&ready, fault, detail, ms),
        };
        let outcome = match &ended.cause {
            Cause::Answered { .. } | Cause::Left { .. } => "answered",
            Cause::Held { .. } => "held",
            _ => "failed",
        };
        metrics::counter!("stepwell_invocations_total", "outcome" => outcome).increment(1);
        metrics::histogram!("stepwell_invocation_seconds").record(took.as_secs_f64());
        tracing::debug!(
            run.id = %ready.run,
            invocation.id = %invocation,
            epoch = ready.epoch,
            duration_ms = ms,
            outcome,
            trace = %ready.trace,
            "invocation ended"
        );
        telemetry::span(|| Span {
            context: ready.trace.clone(),
            parent: Some(ready.parent.clone()),
            name: format!("invocation {}", ready.function),
            client: true,
            begun: begun_at,
            took,
            attributes: vec![
                ("run.id", ready.run.to_string()),
                ("invocation.id", invocation),
                ("deployment.id", ready.deployment.public.to_string()),
                ("epoch", ready.epoch.to_string()),
                ("endpoint", endpoint.name.clone()),
            ],
            error: match &ended.cause {
                Cause::Faulted { fault, .. } => Some(told(fault)),
                _ => None,
            },
        });
        invoked.took = took;
        self.exchange_ended(&ready, ended, went.then_some(invoked));
        drop(telling);
    }

    /// Offers an exchange to whoever polls.
    async fn offer_exchange(&self, ready: &Ready, headers: HeaderMap) -> (Came, Telling) {
        let until = self.clock().upper() + ready.silence + Duration::from_hours(1);
        let offer = NewOffer {
            endpoint: ready.deployment.endpoint.id,
            counted: Some(ready.run),
            epoch: ready.epoch,
            handout: Handout {
                run: ready.run,
                invocation: ready.invocation,
                headers,
                body: ready.body.clone(),
                token: self.keys().mint(ready.run, ready.epoch, until),
            },
        };
        let patience = Patience::with(ready.silence, Arc::clone(&ready.life));
        let (offered, telling) = self.offer(offer, &patience).await;
        let came = match offered {
            Offered::Reply(reply) => Came::Reply(Ok(reply)),
            Offered::Silent(failure) => Came::Reply(Err(failure)),
            Offered::Untaken => Came::Untaken,
        };
        (came, telling)
    }

    fn exchange_ended(&self, ready: &Ready, mut ended: Ended, invoked: Option<Invoked>) {
        if self.halted() {
            return;
        }
        let mut owner = self.owner();
        let (past, now) = (self.clock().lower(), self.clock().upper());
        let endpoint = ready.deployment.endpoint.id;
        // A run that has left this memory gave its place at the breaker back when it left.
        let Some(entry) = owner.runs.get_mut(&ready.run) else { return };
        let counted = entry.admitted == Some(endpoint) && entry.sent == ready.epoch;
        let own_word = entry.talk.as_ref().is_some_and(|t| t.over && t.is_of(ready.epoch));
        match &ended.cause {
            Cause::Answered { epoch, answer, ms } => {
                if let Some(detail) = entry.run.malformed(answer) {
                    ended.failure = Some(told_of(ready, Some(200), &detail, &ended.head, *ms));
                    let fault = Fault::Retry { detail, status: Some(200), after: None };
                    ended.cause = Cause::Faulted { epoch: *epoch, fault };
                }
            }
            // A checkpoint has said how it ends.
            _ if own_word => ended.failure = None,
            Cause::Left { .. } => entry.parting = ended.failure.take(),
            // Whoever stands between may have cut off a handler that was waiting. What it has said
            // before may not have been applied yet, so the run is asked when it has.
            Cause::Faulted { epoch, fault: Fault::Retry { status: None, detail, .. } }
                if entry.talk.as_ref().is_some_and(|t| t.is_of(*epoch)) =>
            {
                entry.parting = ended.failure.take();
                ended.cause = Cause::Left { epoch: *epoch, detail: detail.clone() };
            }
            _ => {}
        }
        if let Some(mut invoked) = invoked {
            (invoked.outcome, invoked.detail) = match &ended.cause {
                Cause::Faulted { fault, .. } => (recent::FAILED, Some(told(fault))),
                Cause::Held { .. } => ("held", None),
                _ => ("answered", None),
            };
            self.recent().note(endpoint, invoked);
        }
        if let Some(data) = ended.failure {
            entry.run.note(now, ready.epoch, "invocation.failed", "gateway", data);
        }
        if counted {
            entry.admitted = None;
        }
        if counted
            && let Some(breaker) = owner.breakers.get_mut(&endpoint)
            && breaker.ended(ready.run, &ended.health, past)
        {
            self.circuit_changed(&mut owner, endpoint);
        }
        let parks = owner.breakers.get(&endpoint).is_some_and(Breaker::parks);
        if let Some(entry) = owner.runs.get_mut(&ready.run) {
            entry.queue.push_back(if parks { unburnt(ended.cause) } else { ended.cause });
        }
        self.pump(&mut owner, ready.run);
        self.release(&mut owner, endpoint);
    }

    /// What the reply means for the run and for the endpoint.
    fn read(&self, ready: &Ready, reply: Result<Reply, Failure>, ms: i32) -> Ended {
        let epoch = ready.epoch;
        let fault = |fault: Fault, health: Health, failure: Option<Bytes>| Ended {
            cause: Cause::Faulted { epoch, fault },
            health,
            failure,
            head: Bytes::new(),
        };
        let went = |cause: Cause| Ended {
            cause,
            health: Health::Answered,
            failure: None,
            head: Bytes::new(),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(failure) => {
                let detail = failure.to_string();
                let kept = Some(told_of(ready, None, &detail, &[], ms));
                let retry = Fault::Retry { detail: detail.clone(), status: None, after: None };
                return match failure {
                    Failure::TooLarge(_) => {
                        let detail = format!("Nothing of the answer was recorded: {detail}.");
                        let attention = Attention::new("answer-limit", detail);
                        fault(Fault::Pause(attention), Health::Answered, kept)
                    }
                    _ if failure.is_unhealthy() => fault(
                        Fault::Unhealthy { detail: detail.clone() },
                        Health::Unhealthy(detail),
                        kept,
                    ),
                    _ if failure.is_connect() => fault(retry, Health::Suspicious(detail), kept),
                    _ => fault(retry, Health::Silent(detail), kept),
                };
            }
        };
        let status = reply.status;
        let head = &reply.body[..reply.body.len().min(KEPT_HEAD)];
        let kept = |detail: &str| Some(told_of(ready, Some(status), detail, head, ms));
        match status {
            200 if reply.body.iter().all(u8::is_ascii_whitespace) => {
                let detail = "malformed answer: the answer is empty; a JSON object was expected";
                parted(ready, None, detail.to_owned(), ms)
            }
            202 => went(Cause::Held { epoch, lease: ready.silence }),
            200 => match protocol::parse_answer(&reply.body, self.limits()) {
                Ok(answer) => Ended {
                    cause: Cause::Answered { epoch, answer, ms },
                    health: Health::Answered,
                    failure: None,
                    head: reply.body.slice(..head.len()),
                },
                Err(error) if error.is_limit() => {
                    let detail = format!("Nothing of the answer was recorded: {error}.");
                    let attention = Attention::new("answer-limit", &*detail);
                    fault(Fault::Pause(attention), Health::Answered, kept(&detail))
                }
                Err(error) => {
                    let detail = format!("malformed answer: {error}");
                    let kept = kept(&detail);
                    let retry = Fault::Retry { detail, status: Some(200), after: None };
                    fault(retry, Health::Answered, kept)
                }
            },
            401 | 403 | 404 | 410 => {
                let detail = format!("the handler answered {status}");
                let kept = kept(&detail);
                fault(Fault::Unhealthy { detail: detail.clone() }, Health::Unhealthy(detail), kept)
            }
            413 => {
                let detail = "the handler answered 413: the invocation is too large for it";
                let kept = kept(detail);
                if self.lower_budget(&ready.deployment, ready.body.len()) {
                    fault(Fault::Again, Health::Answered, kept)
                } else {
                    let detail = "The handler answers 413 although the journal is sent in pages of 64 KiB. Raise its limit for request bodies, then resume the run.";
                    fault(
                        Fault::Pause(Attention::new("inline-floor", detail)),
                        Health::Answered,
                        kept,
                    )
                }
            }
            _ => {
                let detail = format!("the handler answered {status}");
                let kept = kept(&detail);
                let after = reply.retry_delay(self.clock().upper());
                let health = if matches!(status, 502..=504) {
                    Health::Suspicious(detail.clone())
                } else {
                    Health::Answered
                };
                fault(Fault::Retry { detail, status: Some(status), after }, health, kept)
            }
        }
    }

    /// Lines do not get through: the exchange is repeated without them, and costs no attempt.
    fn unfit(&self, ready: &Ready, detail: &str, ms: i32) -> Ended {
        let now = self.clock().mono();
        Self::fall_back(&mut self.owner(), ready.deployment.id, detail, now);
        let detail = format!("lines do not get through, going on with `respond`: {detail}");
        Ended {
            cause: Cause::Faulted { epoch: ready.epoch, fault: Fault::Again },
            health: Health::Unknown,
            failure: Some(told_of(ready, None, &detail, &[], ms)),
            head: Bytes::new(),
        }
    }

    /// Lowers the inline budget of a deployment; false if it is at the floor.
    fn lower_budget(&self, deployment: &Deployment, sent: usize) -> bool {
        let mut owner = self.owner();
        let budget = owner.budgets.entry(deployment.id).or_insert(deployment.max_inline_bytes);
        if *budget <= INLINE_FLOOR {
            return false;
        }
        *budget = (sent.min(*budget) / 2).max(INLINE_FLOOR);
        tracing::info!(deployment.id = %deployment.public, budget, "inline budget lowered after a 413");
        true
    }
}

/// An exchange that has ended, and what was said in it is with the run.
fn parted(ready: &Ready, fault: Option<Fault>, detail: String, ms: i32) -> Ended {
    let epoch = ready.epoch;
    let failure = Some(told_of(ready, Some(200), &detail, &[], ms));
    let cause = match fault {
        Some(fault) => Cause::Faulted { epoch, fault },
        None => Cause::Left { epoch, detail },
    };
    Ended { cause, health: Health::Answered, failure, head: Bytes::new() }
}

/// Whoever polled when the exchange was opened has gone: that costs the run nothing.
fn untaken(ready: &Ready) -> Ended {
    let detail = "nobody came for it".to_owned();
    let fault = Fault::Unhealthy { detail };
    Ended {
        cause: Cause::Faulted { epoch: ready.epoch, fault },
        health: Health::Unknown,
        failure: None,
        head: Bytes::new(),
    }
}

/// The deployment has made something else of the function since the run was started.
fn changed_kind(run: &Run, kind: RunKind) -> Attention {
    let (function, was) = (&run.created.function, run.created.kind);
    let detail = format!(
        "The run was started when `{function}` was of kind `{}`, and its deployment says that it is \
         `{}`. Resume it on a deployment where it is what it was, or end it.",
        was.word(),
        kind.word()
    );
    Attention {
        expected: Some(was.word().into()),
        got: Some(kind.word().into()),
        ..Attention::new("kind-changed", detail)
    }
}

/// How long a handler should work on one answer, if an exchange may be silent for so long.
pub(super) fn budget_of(silence: Duration) -> Duration {
    silence.saturating_sub(BUDGET_MARGIN).max(silence / 2)
}

/// A failed exchange for the history.
pub(super) fn told_of(
    ready: &Ready,
    status: Option<u16>,
    detail: &str,
    head: &[u8],
    ms: i32,
) -> Bytes {
    let data = serde_json::json!({
        "invocation": ready.invocation,
        "deployment": ready.deployment.public,
        "status": status,
        "detail": detail,
        "duration_ms": ms,
        "body": String::from_utf8_lossy(head),
    });
    crate::machine::to_bytes(&data)
}

/// While the circuit is open, a failure is the endpoint's and costs its run no attempt.
fn unburnt(cause: Cause) -> Cause {
    match cause {
        Cause::Faulted { epoch, fault: Fault::Retry { detail, .. } } => {
            Cause::Faulted { epoch, fault: Fault::Unhealthy { detail } }
        }
        Cause::Faulted { epoch, fault: Fault::Post { error, .. } }
            if error.retry == Again::Default =>
        {
            Cause::Faulted { epoch, fault: Fault::Unhealthy { detail: error.message } }
        }
        other => other,
    }
}

/// A fault in words.
fn told(fault: &Fault) -> String {
    match fault {
        Fault::Retry { detail, .. } | Fault::Unhealthy { detail } => detail.clone(),
        Fault::Pause(attention) => attention.detail.clone(),
        Fault::Post { error, .. } => error.message.clone(),
        Fault::Again => "to be repeated".to_owned(),
    }
}
