//! Updates: signals with an answer, and who waits for it.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Engine, Error, Idempotency, Namespace, Signalled};
use crate::machine::{MessageId, MessageKind, Run, RunId, StepError, UpdateId, to_bytes};

/// How long who waits looks at a run that changes all the time before it looks again.
const PAUSE: Duration = Duration::from_millis(20);
/// How often it looks at a run that another node may have changed.
const ELSEWHERE: Duration = Duration::from_millis(500);

/// What has become of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Waiting,
    /// It was answered with this, JSON.
    Value(Bytes),
    /// It was answered with this error, or will never be.
    Error(Bytes),
}

/// An answer as it is recorded.
#[derive(Deserialize)]
struct Recorded<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

impl Engine {
    /// Sends an update to a run. When this returns, it is durable and has its place in the run's
    /// order. `own`: what its sender calls it; the same again is the same update.
    pub async fn send_update(
        &self,
        ns: &Namespace,
        run: RunId,
        name: &str,
        payload: &[u8],
        own: Option<&str>,
        idempotency: Option<Idempotency>,
    ) -> Result<(UpdateId, Signalled), Error> {
        let key = idempotency.as_ref().map(|i| i.key.as_str());
        let id = match own.or(key) {
            Some(own) => UpdateId::of_sender(run, name, own),
            None => UpdateId::new(self.clock().upper(), crate::clock::chance()),
        };
        let mut body = format!("{{\"update\":\"{id}\",\"payload\":").into_bytes();
        body.extend_from_slice(payload);
        body.push(b'}');
        let mut message = self.message(MessageKind::Signal, name, body.into());
        message.id = MessageId::from(id.uuid());
        let idem = idempotency.map(|i| self.idem_at(run, i));
        Ok((id, self.send(ns, run, message, idem).await?))
    }

    /// What has become of an update: at once, or when it is answered, the run has ended or the time
    /// is up.
    pub async fn answer(
        &self,
        ns: &Namespace,
        run: RunId,
        update: UpdateId,
        at_most: Duration,
    ) -> Result<Answer, Error> {
        let until = self.clock().mono() + at_most;
        // Watched before it is read: what is committed in between wakes us.
        let mut changes = self.changes(run);
        loop {
            // The run first: if it has ended, what is read after it is complete.
            let ended = self.with_run(ns, run, Run::ended).await?;
            if let Some((_, recorded)) = self.store().answer(run, update).await? {
                return Ok(told(&recorded));
            }
            if ended || at_most.is_zero() {
                let known = self.store().has_message(run, MessageId::from(update.uuid())).await?;
                return match (known, ended) {
                    (false, _) => Err(Error::UpdateNotFound(update)),
                    (true, false) => Ok(Answer::Waiting),
                    (true, true) => {
                        let error = StepError::of_gateway(
                            "run-ended",
                            "the run has ended and has not answered",
                        );
                        Ok(Answer::Error(to_bytes(&error)))
                    }
                };
            }
            let left = until.saturating_sub(self.clock().mono());
            if left.is_zero() {
                return Ok(Answer::Waiting);
            }
            let _ = tokio::time::timeout(left.min(ELSEWHERE), changes.changed()).await;
            tokio::time::sleep(PAUSE.min(left)).await;
        }
    }
}

fn told(recorded: &Bytes) -> Answer {
    let slice = |raw: &RawValue| recorded.slice_ref(raw.get().as_bytes());
    match serde_json::from_slice(recorded) {
        Ok(Recorded { error: Some(error), .. }) => Answer::Error(slice(error)),
        Ok(Recorded { value: Some(value), .. }) => Answer::Value(slice(value)),
        _ => Answer::Value(Bytes::from_static(b"null")),
    }
}
