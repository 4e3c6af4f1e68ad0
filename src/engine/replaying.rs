//! Replays: candidate code is driven against recorded runs, signed and guarded like every call.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use url::Url;

use super::catalog::header_map;
use super::erase::still_known;
use super::{Engine, Error, Namespace, RunFilter};
use crate::machine::{RunId, RunKind};
use crate::protocol::{self, FunctionSpec, Manifest, Secret};
use crate::replay::{End, Recorded, Replay, Report, Step};

/// The longest silence of one exchange of a replay.
const SILENCE: Duration = Duration::from_secs(30);
/// How long one replay may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Entries of a journal that are read at once.
const PAGE: usize = 200;

/// Code to hold against a recorded run.
#[derive(Debug, Clone, Default)]
pub struct Candidate {
    /// Where it is.
    pub url: String,
    /// What its calls are signed with; none: the secrets of the run's own endpoint.
    pub secret: Option<String>,
    /// Extra request headers. Those of the run's own endpoint are not sent: they may be secrets,
    /// and this may be another place.
    pub headers: BTreeMap<String, String>,
}

/// What a replay of one of the most recent runs of a function came to.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The run.
    pub run: RunId,
    /// Its function.
    pub function: String,
    /// What came of it.
    pub report: Report,
}

/// What a replay needs beside what is shown of a run.
#[derive(Debug, Clone)]
pub struct Origin {
    /// A handler's deterministic source of chance.
    pub seed: String,
    /// What it was to its function.
    pub kind: RunKind,
    /// The run that started it, and the step that did.
    pub parent: Option<(RunId, String)>,
    /// The input hashes of the steps of a strict function.
    pub hashes: BTreeMap<String, String>,
}

impl Engine {
    /// Drives candidate code against a recorded run. Nothing is recorded.
    pub async fn replay(
        &self,
        ns: &Namespace,
        run: RunId,
        candidate: Candidate,
    ) -> Result<Report, Error> {
        let url = self.handler_url(ns, &candidate.url)?;
        super::endpoints::check_headers(&candidate.headers)?;
        let given = candidate.secret.as_deref().map(super::endpoints::parse_secret).transpose()?;
        let recorded = self.recorded(ns, run).await?;
        let catalog = self.fresh_catalog().await?;
        let host = recorded.deployment.and_then(|id| catalog.deployment_named(id));
        let endpoint = host.as_ref().map(|d| &d.endpoint);
        let headers = header_map(&candidate.headers);
        let secrets: Vec<Secret> = match given {
            Some(secret) => vec![secret],
            None => endpoint.map_or_else(Vec::new, |e| e.signing(self.now()).to_vec()),
        };
        self.drive(&url, &headers, &secrets, recorded).await
    }

    /// The same for the most recent runs of each function of a deployment that may go live.
    pub(super) async fn replay_recent(
        &self,
        ns: &Namespace,
        manifest: &Manifest,
        (url, headers, secrets): (&Url, &HeaderMap, &[Secret]),
        most: usize,
    ) -> Result<Vec<Replayed>, Error> {
        let mut replayed = Vec::new();
        let driven = |f: &&FunctionSpec| f.run_kind() == Some(RunKind::Function);
        for function in manifest.functions.iter().filter(driven) {
            let filter = RunFilter {
                functions: vec![function.name.clone()],
                limit: most,
                ..RunFilter::default()
            };
            for listed in self.list(ns, filter).await?.runs {
                let recorded = match self.recorded(ns, listed.id).await {
                    Ok(recorded) => recorded,
                    // It has been purged since, or its function was another kind then.
                    Err(Error::RunNotFound(_) | Error::InvalidState { .. }) => continue,
                    Err(error) => return Err(error),
                };
                let report = self.drive(url, headers, secrets, recorded).await?;
                replayed.push(Replayed { run: listed.id, function: function.name.clone(), report });
            }
        }
        Ok(replayed)
    }

    /// What a replay needs beside what is shown of a run, for its export.
    pub async fn origin(&self, ns: &Namespace, run: RunId) -> Result<Origin, Error> {
        self.with_run(ns, run, |run| Origin {
            seed: run.created.seed.clone(),
            kind: run.created.kind,
            parent: run.created.parent.as_ref().map(|p| (p.run, p.step.clone())),
            hashes: run.input_hashes().clone(),
        })
        .await
    }

    // --- parts ---------------------------------------------------------------------------------

    async fn recorded(&self, ns: &Namespace, run: RunId) -> Result<Recorded, Error> {
        let view = self.view(ns, run).await?;
        self.with_run(ns, run, still_known).await??;
        let (kind, locks) =
            self.with_run(ns, run, |run| (run.created.kind, !run.created.locks.is_empty())).await?;
        if kind != RunKind::Function || locks {
            let detail = if kind == RunKind::Plain {
                "it is of a plain function, whose input is posted: there is nothing to hold code \
                 against"
            } else {
                "it has objects, and what those were before the run is not recorded"
            };
            return Err(Error::InvalidState {
                run,
                status: view.status,
                detail: detail.to_owned(),
            });
        }
        let Origin { seed, parent, hashes, .. } = self.origin(ns, run).await?;
        let mut steps = Vec::new();
        let mut after = 0;
        loop {
            let page = self.journal(ns, run, after, PAGE).await?;
            let last = page.entries.iter().filter_map(|e| e.seq).max();
            steps.extend(page.entries.into_iter().map(|e| {
                let or_null = |body: Option<Bytes>| {
                    body.filter(|b| !b.is_empty()).unwrap_or_else(|| Bytes::from_static(b"null"))
                };
                let outcome = e.seq.map(|seq| match e.error {
                    Some(error) => (seq, false, error),
                    None => (seq, true, or_null(e.value)),
                });
                Step { id: e.id, op: e.op, outcome }
            }));
            match last {
                Some(seq) if seq < page.upto => after = seq,
                _ => break,
            }
        }
        Ok(Recorded {
            run,
            namespace: view.namespace,
            function: view.function,
            key: view.key,
            generation: view.generation,
            deployment: view.deployment,
            created_at: view.created_at,
            seed,
            parent,
            schedule: view.schedule,
            hashes,
            tags: view.tags,
            input: view.input.unwrap_or_else(|| Bytes::from_static(b"null")),
            steps,
            end: End::of(view.status.word(), view.output, view.error),
        })
    }

    /// The report of a replay, or what keeps the gateway from calling the candidate at all.
    async fn drive(
        &self,
        url: &Url,
        headers: &HeaderMap,
        secrets: &[Secret],
        recorded: Recorded,
    ) -> Result<Report, Error> {
        let mut replay = Replay::new(recorded);
        let until = self.clock().mono() + PATIENCE;
        loop {
            if self.clock().mono() >= until {
                let why = format!("the replay took longer than {} s", PATIENCE.as_secs());
                return Ok(replay.given_up(&why));
            }
            let now = self.clock().upper();
            let (id, body) = replay.invocation(self.public_url(), now, crate::clock::chance());
            let headers = self.signed(headers, secrets, &id.to_string(), &body, None);
            let sent = self.client().post(url, headers, body, SILENCE, protocol::MAX_ANSWER).await;
            let answer = match sent {
                Ok(reply) if reply.status == 200 => reply.body,
                Ok(reply) => return Ok(replay.broken(&format!("status {}", reply.status))),
                Err(crate::outbound::Failure::Blocked(blocked)) => {
                    let detail = format!("{blocked}; {}", blocked.fix());
                    return Err(Error::Invalid("/url".to_owned(), detail));
                }
                Err(failure) => return Ok(replay.broken(&failure.to_string())),
            };
            if let Some(report) = replay.answered(&answer, self.limits()) {
                return Ok(report);
            }
        }
    }
}
