//! Queries: a handler is asked about a run, and nothing is recorded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::attempts::TASK_EPOCH;
use super::catalog::Deployment;
use super::exchange::budget_of;
use super::invocation::Frame;
use super::pull::{Handout, NewOffer, Offered};
use super::{Engine, Error, Namespace};
use crate::machine::{InvocationId, Run, RunId};
use crate::protocol::{self, Query};

/// The longest silence of a handler that is asked.
const SILENCE: Duration = Duration::from_secs(30);

/// A query that is ready to be sent.
struct Question {
    deployment: Arc<Deployment>,
    invocation: InvocationId,
    body: Bytes,
}

impl Engine {
    /// What a run's handler answers to a query, JSON. The run may be live or ended, and is not
    /// touched: it is asked with what is recorded when this is called.
    pub async fn query(
        &self,
        ns: &Namespace,
        run: RunId,
        name: &str,
        args: &[u8],
    ) -> Result<Bytes, Error> {
        let asked = self.with_run(ns, run, |run| self.question(run, Query { name, args }));
        let Question { deployment, invocation, body } = asked.await??;
        let failed = |detail: String| Error::QueryFailed(run, detail);
        let (endpoint, id) = (&deployment.endpoint, invocation.to_string());
        let headers =
            self.signed(&endpoint.headers, endpoint.signing(self.now()), &id, &body, None);
        let reply = if deployment.is_pull() {
            let until = self.now() + SILENCE * 2;
            let token = self.keys().mint(run, TASK_EPOCH, until);
            let handout = Handout { run, invocation, headers, body, token };
            let (endpoint, epoch) = (endpoint.id, TASK_EPOCH);
            let offer = NewOffer { endpoint, counted: None, epoch, handout };
            match self.offer(offer, &SILENCE.into()).await.0 {
                Offered::Reply(reply) => Ok(reply),
                Offered::Silent(failure) => Err(failure.to_string()),
                Offered::Untaken => {
                    Err(format!("nobody polls endpoint `{}`", deployment.endpoint.name))
                }
            }
        } else {
            let sent =
                self.client().post(&deployment.url, headers, body, SILENCE, protocol::MAX_ANSWER);
            sent.await.map_err(|failure| failure.to_string())
        };
        let reply = reply.map_err(failed)?;
        if reply.status != 200 {
            let head = String::from_utf8_lossy(&reply.body[..reply.body.len().min(200)]);
            return Err(failed(format!("it answered {}: {head}", reply.status)));
        }
        let limits = self.limits();
        protocol::parse_query_answer(&reply.body, limits).map_err(|e| failed(e.to_string()))
    }

    fn question(&self, run: &Run, query: Query<'_>) -> Result<Question, Error> {
        let function = &run.created.function;
        if run.is_plain() {
            let detail = "it is of a plain function, which knows nothing of runs";
            return Err(Error::QueryFailed(run.id, detail.to_owned()));
        }
        let catalog = self.catalog();
        let (_, deployment) =
            catalog.deployment_for(run).ok_or_else(|| Error::FunctionNotFound(function.clone()))?;
        let (settled, upto) = run.shown.within(deployment.max_inline_bytes);
        if (upto < run.seq || run.shown.has_refs) && !deployment.pages {
            let detail = "its journal is too long to be sent at once, and the deployment does not \
                          say `\"pages\": true`";
            return Err(Error::QueryFailed(run.id, detail.to_owned()));
        }
        let now = self.clock().upper();
        let invocation = InvocationId::new(now, crate::clock::chance());
        let token = self.keys().mint(run.id, TASK_EPOCH, now + SILENCE * 2);
        let body = self.invocation(
            run,
            &Frame {
                deployment: deployment.public,
                turn: protocol::Turn {
                    id: invocation,
                    epoch: run.epoch,
                    attempt: 1,
                    // Whoever sees it must not run the bodies of steps.
                    reason: "replay",
                    transport: "respond",
                    budget_ms: u64::try_from(budget_of(SILENCE).as_millis()).unwrap_or(u64::MAX),
                },
                settled,
                upto,
                past: self.clock().lower(),
                token: &token,
                query: Some(query),
            },
        );
        Ok(Question { deployment, invocation, body: body.into() })
    }
}
