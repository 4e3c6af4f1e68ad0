//! What an act on many runs does to one of them: the same as a single act, and once however often.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::faults::Point;
use super::messages::changes_it;
use super::{Engine, Error, Idempotency, Namespace, Rerun, Status};
use crate::machine::{Act, BulkId, DeploymentId, Kind, MessageId, MessageKind, RunId, to_bytes};
use crate::store::{Accepted, Purged};

/// Reasons that are told apart; what comes later is counted with the last of its outcome.
const REASONS: usize = 20;

/// What is done to each run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum BulkAction {
    /// It is cancelled, and has so long to compensate.
    Cancel {
        /// In milliseconds; none: as long as usual.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
    /// It ends; its handler is not asked.
    Terminate,
    /// It is not invoked any more.
    Pause,
    /// It goes on.
    Resume {
        /// On this deployment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deployment: Option<DeploymentId>,
    },
    /// What waits for its next attempt is tried now.
    RetryNow,
    /// A new run does it again.
    Rerun {
        /// Steps before this one are copied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from_step: Option<String>,
        /// On this deployment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deployment: Option<DeploymentId>,
        /// Whether signals that no copied step took are there again.
        #[serde(default)]
        keep_signals: bool,
    },
    /// It goes on after its failure.
    Rewind,
    /// It gets a signal.
    Signal {
        /// The signal's name.
        name: String,
        /// Byte for byte.
        payload: Box<RawValue>,
    },
    /// It is deleted, if it has ended.
    Delete,
    /// What was said to it and by it is erased, if it has ended.
    Erase,
}

impl BulkAction {
    /// The words of all.
    pub const WORDS: [&str; 10] = [
        "cancel",
        "terminate",
        "pause",
        "resume",
        "retry-now",
        "rerun",
        "rewind",
        "signal",
        "delete",
        "erase",
    ];

    /// The word in JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "cancel",
            Self::Terminate => "terminate",
            Self::Pause => "pause",
            Self::Resume { .. } => "resume",
            Self::RetryNow => "retry-now",
            Self::Rerun { .. } => "rerun",
            Self::Rewind => "rewind",
            Self::Signal { .. } => "signal",
            Self::Delete => "delete",
            Self::Erase => "erase",
        }
    }
}

/// Why runs were not acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkReason {
    /// Whether the act failed; else there was nothing to do.
    pub failed: bool,
    /// The code of the problem that a single act would have been answered with.
    pub code: String,
    /// In words.
    pub detail: String,
    /// How many runs.
    pub count: u64,
    /// The first of them.
    pub run: RunId,
}

/// What came of an act on one run.
#[derive(Debug)]
pub(super) enum Acted {
    /// It was acted on, now or when this page was done before.
    Done,
    /// Its state left nothing to do.
    Skipped(Error),
    /// The act failed.
    Failed(Error),
}

/// What is done, by whom and why.
pub(super) struct Acting {
    ns: Namespace,
    bulk: BulkId,
    pub(super) action: BulkAction,
    by: String,
    /// With the name of the act, so that a run's history leads to it.
    reason: String,
    /// Whether the page may have been acted on before.
    again: bool,
}

impl Acting {
    pub(super) fn new(
        ns: Namespace,
        bulk: BulkId,
        action: BulkAction,
        by: String,
        reason: Option<String>,
        again: bool,
    ) -> Self {
        let reason =
            reason.map_or_else(|| format!("bulk {bulk}"), |why| format!("{why} (bulk {bulk})"));
        Self { ns, bulk, action, by, reason, again }
    }

    fn act(&self) -> Act {
        Act { by: self.by.clone(), reason: Some(self.reason.clone()), ..Act::default() }
    }
}

/// Adds what came of a run to the reasons, if it was not acted on.
pub(super) fn add_reason(reasons: &mut Vec<BulkReason>, run: RunId, acted: Acted) {
    let (failed, error) = match acted {
        Acted::Done => return,
        Acted::Skipped(error) => (false, error),
        Acted::Failed(error) => (true, error),
    };
    let code = code_of(&error);
    // What names the run itself is told apart by the code alone.
    let detail = match &error {
        Error::InvalidState { status, detail, .. } => format!("{}: {detail}", status.word()),
        other => other.to_string(),
    };
    let told_apart = matches!(error, Error::InvalidState { .. });
    let same = |r: &&mut BulkReason| {
        r.failed == failed && r.code == code && (!told_apart || r.detail == detail)
    };
    if let Some(known) = reasons.iter_mut().find(same) {
        known.count += 1;
    } else if reasons.len() < REASONS {
        reasons.push(BulkReason { failed, code: code.to_owned(), detail, count: 1, run });
    } else if let Some(last) = reasons.iter_mut().rfind(|r| r.failed == failed) {
        last.count += 1;
    }
}

/// The code of the problem that an error is answered with.
#[must_use]
pub fn code_of(error: &Error) -> &'static str {
    match error {
        Error::InvalidState { .. } => "invalid-state",
        Error::RunNotFound(_) => "run-not-found",
        Error::RunEnded(_) => "run-ended",
        Error::RunEnding(_) => "run-ending",
        Error::RunExists { .. } => "run-exists",
        Error::StepNotFound(..) => "step-not-found",
        Error::FunctionNotFound(_) => "function-not-found",
        Error::DeploymentNotFound(_) => "deployment-not-found",
        Error::EndpointDraining { .. } => "endpoint-draining",
        Error::TooManySignals { .. } => "too-many-signals",
        Error::Invalid(..) => "invalid-request",
        Error::TooLarge(_) => "payload-too-large",
        Error::ObjectBusy { .. } => "object-busy",
        Error::RateLimited { .. } => "rate-limited",
        Error::QuotaExceeded { .. } => "quota-exceeded",
        Error::Unavailable { .. } => "unavailable",
        _ => "internal",
    }
}

impl Engine {
    /// Acts on one run. An error says that it could not be reached, and that nothing is known.
    pub(super) async fn act_in_bulk(&self, acting: &Acting, run: RunId) -> Result<Acted, Error> {
        let acted = self.act_once(acting, run).await;
        self.faults().reach(Point::BulkActed);
        match acted {
            Ok(()) => Ok(Acted::Done),
            Err(error @ Error::Unavailable { .. }) => Err(error),
            Err(
                error @ (Error::InvalidState { .. }
                | Error::RunNotFound(_)
                | Error::RunEnded(_)
                | Error::RunEnding(_)
                | Error::RunExists { .. }),
            ) => Ok(Acted::Skipped(error)),
            Err(error) => Ok(Acted::Failed(error)),
        }
    }

    async fn act_once(&self, acting: &Acting, run: RunId) -> Result<(), Error> {
        let act = acting.act();
        match &acting.action {
            BulkAction::Cancel { grace_ms } => {
                let act = Act { grace_ms: *grace_ms, ..act };
                self.tell_once(acting, run, MessageKind::Cancel, act, None).await
            }
            BulkAction::Terminate => {
                self.tell_once(acting, run, MessageKind::Terminate, act, None).await
            }
            BulkAction::Pause => self.tell_once(acting, run, MessageKind::Pause, act, None).await,
            BulkAction::Resume { deployment } => {
                self.tell_once(acting, run, MessageKind::Resume, act, *deployment).await
            }
            BulkAction::RetryNow => {
                let act = Act { hurry: true, ..act };
                self.tell_once(acting, run, MessageKind::RetryNow, act, None).await
            }
            BulkAction::Rerun { from_step, deployment, keep_signals } => {
                let how = Rerun {
                    from_step: from_step.clone(),
                    deployment: *deployment,
                    keep_signals: *keep_signals,
                    idempotency: Some(Idempotency {
                        key: format!("bulk {} {run}", acting.bulk),
                        hash: Sha256::digest(b"bulk").into(),
                    }),
                    by: format!("{} (bulk {})", acting.by, acting.bulk),
                    ..Rerun::default()
                };
                self.rerun(&acting.ns, run, how).await.map(drop)
            }
            BulkAction::Rewind => {
                if acting.again && self.was_rewound(acting, run).await? {
                    return Ok(());
                }
                self.rewind(&acting.ns, run, act).await.map(drop)
            }
            BulkAction::Signal { name, payload } => {
                let body = Bytes::from(payload.get().to_owned());
                let mut message = self.message(MessageKind::Signal, name, body);
                message.id = MessageId::of_bulk(acting.bulk, run);
                if acting.again && self.store().has_message(run, message.id).await? {
                    return Ok(());
                }
                self.send(&acting.ns, run, message, None).await.map(drop)
            }
            BulkAction::Erase => self.erase(&acting.ns, run, act).await.map(drop),
            BulkAction::Delete => match self.purge(&acting.ns, run).await {
                Err(Error::RunNotFound(_)) if acting.again => Ok(()),
                done => done,
            },
        }
    }

    /// Sends a run an operator's act, whose id follows from what it is part of.
    async fn tell_once(
        &self,
        acting: &Acting,
        run: RunId,
        kind: MessageKind,
        act: Act,
        deployment: Option<DeploymentId>,
    ) -> Result<(), Error> {
        let ns = &acting.ns;
        let id = MessageId::of_bulk(acting.bulk, run);
        if acting.again && self.store().has_message(run, id).await? {
            return Ok(());
        }
        let view = self.view(ns, run).await?;
        if !changes_it(&view, kind)? {
            return Ok(());
        }
        let act = Act { deployment: self.deployment_for(&view, deployment)?, ..act };
        let mut message = self.message(kind, "", to_bytes(&act));
        message.id = id;
        match self.deliver(run, ns.id, message, None).await? {
            Accepted::Closing => Err(Error::RunEnding(run)),
            Accepted::Gone => Err(Error::RunEnded(run)),
            _ => Ok(()),
        }
    }

    /// Whether a run has been rewound by this very act.
    async fn was_rewound(&self, acting: &Acting, run: RunId) -> Result<bool, Error> {
        let loaded = self.store().load(&[run]).await?.into_iter().next();
        let loaded = loaded.filter(|l| l.ns == acting.ns.id).ok_or(Error::RunNotFound(run))?;
        Ok(loaded.rows.iter().filter(|row| row.kind == Kind::Reopened).any(|row| {
            let act = serde_json::from_slice::<Act>(row.body.as_deref().unwrap_or_default());
            act.is_ok_and(|act| act.reason.as_ref() == Some(&acting.reason))
        }))
    }

    /// Deletes an ended run: its journal, its history, and what lists show of it.
    pub async fn purge(&self, ns: &Namespace, run: RunId) -> Result<(), Error> {
        self.admit()?;
        match self.store().purge(ns.id, run).await? {
            Purged::Done => {
                tracing::info!(run.id = %run, "an ended run is deleted");
                Ok(())
            }
            Purged::Telling => Err(Error::busy("others are being told of the run's end")),
            Purged::NotEnded => {
                let status = self.view(ns, run).await?.status;
                let detail = if status == Status::Scheduled {
                    "it has not begun; terminate it first"
                } else {
                    "only a run that has ended can be deleted"
                };
                Err(Error::InvalidState { run, status, detail: detail.to_owned() })
            }
        }
    }
}
