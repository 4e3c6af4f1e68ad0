//! Changes of what is registered: register, sync, delete, secrets, on and off. Own changes are read
//! back before a call returns; other nodes see them with their next tick.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use futures::StreamExt as _;
use url::Url;

use super::catalog::{Catalog, header_map};
use super::functions::{current_deployment, deployment_view, endpoint_row, manifest_of};
use super::probe::{Asked, failed};
use super::{
    Deleted, EndpointRef, EndpointView, Engine, Error, FunctionSpec, Namespace, ProbeStage,
    RegisterOutcome, Registered, Registration, Rotated, RunsPolicy, Versioning,
};
use crate::machine::{Act, DeploymentId, EndpointId, MessageKind, RetrySpec, RunId, to_bytes};
use crate::protocol::{self, Manifest, Secret, Timeouts, Transport};
use crate::store;

/// How long the secret before a rotation signs too.
const ROTATION_GRACE: Duration = Duration::from_hours(24);
/// How many runs are named where they are in the way.
const SHOWN_RUNS: i64 = 20;
/// How many runs one delete cancels at most; more are cancelled by their deadline only.
const MOST_CANCELLED: i64 = 100_000;
/// How long a delete waits for its cancelled runs, while their handler can still be called.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Headers that the gateway sets itself, or that belong to the connection.
const RESERVED: [&str; 12] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "stepwell-protocol",
    "te",
    "traceparent",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// What is to be registered, checked.
struct Plan<'a> {
    ns: &'a Namespace,
    name: &'a str,
    url: String,
    headers: BTreeMap<String, String>,
    manifest: Manifest,
    probe: Vec<ProbeStage>,
    /// The secret that the caller brought.
    given: Option<String>,
    /// The secret of a new endpoint.
    secret: String,
    by: &'a str,
}

impl Engine {
    /// Registers an endpoint by name. A handler that does not answer is no obstacle where its
    /// functions are listed: the probe tells of it.
    pub async fn register_endpoint(
        &self,
        ns: &Namespace,
        registration: Registration,
    ) -> Result<RegisterOutcome, Error> {
        let r = registration;
        let url = self.handler_url(&r.url)?;
        check_headers(&r.headers)?;
        let given = r.secret.as_deref().map(parse_secret).transpose()?;
        let listed = match &r.functions {
            Some(functions) => Some(listed(functions, &r)?),
            None => None,
        };
        self.reload_catalog().await;
        let existing =
            endpoint_row(&self.catalog(), ns.id, &EndpointRef::Name(r.name.clone())).cloned();
        let secret = given.clone().unwrap_or_else(Secret::generate);
        let mut secrets: Vec<Secret> = existing.iter().flat_map(secrets_of).collect();
        if given.is_some() || secrets.is_empty() {
            secrets.insert(0, secret.clone());
        }
        let headers = header_map(&r.headers);
        let (asked, manifest) = match listed {
            Some(manifest) if !r.discover => {
                let names: Vec<&str> = manifest.functions.iter().map(|f| &*f.name).collect();
                (self.look_for(&url, &names).await, Some(manifest))
            }
            listed => {
                let mut asked = self.discover(&url, &headers, &secrets).await;
                let manifest =
                    asked.manifest.take().filter(|said| has_all(said, listed, &mut asked));
                (asked, manifest)
            }
        };
        if let Some(blocked) = asked.blocked {
            return Err(Error::Invalid("/url".to_owned(), blocked));
        }
        let Some(manifest) = manifest else {
            return Ok(if r.dry_run {
                RegisterOutcome::DryRun(asked.stages, Vec::new())
            } else {
                RegisterOutcome::ProbeFailed(asked.stages)
            });
        };
        if let Some(existing) = existing.filter(|_| !r.force)
            && let Some((functions, runs)) = self.dropped(&existing, &manifest).await?
        {
            return Ok(RegisterOutcome::DropsFunctions(functions, runs));
        }
        if r.dry_run {
            let most = usize::from(r.replay);
            let replayed = match most {
                0 => Vec::new(),
                most => self.replay_recent(ns, &manifest, (&url, &headers, &secrets), most).await?,
            };
            return Ok(RegisterOutcome::DryRun(asked.stages, replayed));
        }
        let plan = Plan {
            ns,
            name: &r.name,
            url: url.into(),
            headers: r.headers,
            manifest,
            probe: asked.stages,
            given: given.map(|s| s.reveal()),
            secret: secret.reveal(),
            by: &r.by,
        };
        Ok(RegisterOutcome::Registered(Box::new(self.carry_out(plan).await?)))
    }

    /// Asks the handler for its manifest again; none if the endpoint is gone.
    pub async fn sync_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        force: bool,
        by: &str,
    ) -> Result<Option<RegisterOutcome>, Error> {
        let Some(row) = self.row(ns, endpoint).await else { return Ok(None) };
        let registration = Registration {
            name: row.name,
            url: row.url,
            secret: None,
            headers: row.headers,
            functions: None,
            transports: Vec::new(),
            pages: false,
            max_inline_bytes: None,
            discover: true,
            dry_run: false,
            replay: 0,
            force,
            by: by.to_owned(),
        };
        self.register_endpoint(ns, registration).await.map(Some)
    }

    /// Deletes an endpoint, if it still has `version` where one is named. Its live runs need a
    /// policy.
    pub async fn delete_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        version: Option<i64>,
        runs: Option<RunsPolicy>,
        by: &str,
    ) -> Result<Deleted, Error> {
        let Some(row) = self.row(ns, endpoint).await else { return Ok(Deleted::Stale) };
        if version.is_some_and(|v| v != i64::from(row.version)) {
            return Ok(Deleted::Stale);
        }
        let catalog = self.catalog();
        let functions = hosted_by(&catalog, row.id);
        let ids: Vec<i32> = functions.iter().map(|f| f.0).collect();
        let live = self.store().live_runs_of(&ids, SHOWN_RUNS).await?;
        match runs {
            None if !live.is_empty() => return Ok(Deleted::InUse(live)),
            None | Some(RunsPolicy::Park) => {}
            Some(RunsPolicy::Cancel) => self.cancel_all(ns, &ids, by).await?,
            Some(RunsPolicy::Repin) => self.repin(ns, &catalog, &row, &functions).await?,
        }
        let version = version.and_then(|v| i32::try_from(v).ok());
        let deleted = self.store().delete_endpoint(ns.id, endpoint, version).await?;
        self.reload_catalog().await;
        if !deleted {
            return Ok(Deleted::Stale);
        }
        tracing::info!(endpoint.id = %endpoint, name = row.name, by, policy = ?runs, "endpoint deleted");
        Ok(Deleted::Done)
    }

    /// A new signing secret, the given one or one of the gateway's; the old one signs too for a
    /// day. None if the endpoint is gone.
    pub async fn rotate_secret(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        secret: Option<String>,
        by: &str,
    ) -> Result<Option<Rotated>, Error> {
        let secret = match secret {
            Some(text) => parse_secret(&text)?,
            None => Secret::generate(),
        };
        let secret = secret.reveal();
        let old_until = self.clock().upper() + ROTATION_GRACE;
        if !self.store().rotate_secret(ns.id, endpoint, &secret, old_until).await? {
            return Ok(None);
        }
        tracing::info!(endpoint.id = %endpoint, by, "signing secret rotated");
        let view = self.view_anew(ns, endpoint).await;
        Ok(view.map(|endpoint| Rotated { endpoint, secret, old_until }))
    }

    /// Sends nothing to an endpoint until it is enabled; its runs are parked. None if it is gone.
    pub async fn disable_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        self.switch(ns, endpoint, true, by).await
    }

    /// Lets an endpoint's runs go on; none if it is gone.
    pub async fn enable_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        self.switch(ns, endpoint, false, by).await
    }

    /// Calls the handler and tells what was seen; none if the endpoint is gone.
    pub async fn probe_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
    ) -> Result<Option<Vec<ProbeStage>>, Error> {
        let catalog = self.catalog();
        let Some(row) = endpoint_row(&catalog, ns.id, &EndpointRef::Id(endpoint)) else {
            return Ok(None);
        };
        let url = self.handler_url(&row.url)?;
        let headers = header_map(&row.headers);
        let secrets: Vec<Secret> = secrets_of(row).collect();
        let mut asked = self.discover(&url, &headers, &secrets).await;
        let registered = current_deployment(&catalog, row.id).and_then(manifest_of);
        if let Some(said) = asked.manifest.take()
            && registered.is_some_and(|r| r.content_hash() != said.content_hash())
            && let Some(stage) = asked.stages.last_mut()
        {
            stage.fix = Some("this is not what is registered: sync the endpoint".to_owned());
        }
        Ok(Some(asked.stages))
    }

    // --- parts ---------------------------------------------------------------------------------

    pub(super) fn handler_url(&self, text: &str) -> Result<Url, Error> {
        let guard = self.client().guard();
        guard.url(text).map_err(|b| Error::Invalid("/url".to_owned(), format!("{b}; {}", b.fix())))
    }

    /// The endpoint as it is recorded at this moment.
    async fn row(&self, ns: &Namespace, endpoint: EndpointId) -> Option<store::Endpoint> {
        self.reload_catalog().await;
        endpoint_row(&self.catalog(), ns.id, &EndpointRef::Id(endpoint)).cloned()
    }

    async fn view_anew(&self, ns: &Namespace, endpoint: EndpointId) -> Option<EndpointView> {
        let row = self.row(ns, endpoint).await?;
        Some(self.endpoint_view(&self.catalog(), &row))
    }

    async fn switch(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        disabled: bool,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        let Some(row) = self.row(ns, endpoint).await else { return Ok(None) };
        if row.disabled != disabled {
            let change = store::EndpointChange { disabled: Some(disabled), ..Default::default() };
            self.store().update_endpoint(ns.id, endpoint, None, &change).await?;
            tracing::info!(endpoint.id = %endpoint, by, disabled, "endpoint switched");
        }
        Ok(self.view_anew(ns, endpoint).await)
    }

    /// Functions of the endpoint that the manifest no longer has and that have live runs.
    async fn dropped(
        &self,
        endpoint: &store::Endpoint,
        manifest: &Manifest,
    ) -> Result<Option<(Vec<String>, Vec<RunId>)>, Error> {
        let catalog = self.catalog();
        let (mut names, mut runs) = (Vec::new(), Vec::new());
        for (id, name) in hosted_by(&catalog, endpoint.id) {
            if manifest.function(&name).is_some() {
                continue;
            }
            let live = self.store().live_runs_of(&[id], SHOWN_RUNS).await?;
            if !live.is_empty() {
                names.push(name);
                let room = usize::try_from(SHOWN_RUNS).unwrap_or(usize::MAX) - runs.len();
                runs.extend(live.into_iter().take(room));
            }
        }
        Ok((!names.is_empty()).then_some((names, runs)))
    }

    /// Records what is new of a plan; the same content again changes nothing.
    async fn carry_out(&self, plan: Plan<'_>) -> Result<Registered, Error> {
        let Plan { ns, name, url, headers, manifest, probe, given, secret, by } = plan;
        let catalog = self.catalog();
        let by_name = EndpointRef::Name(name.to_owned());
        let existing = endpoint_row(&catalog, ns.id, &by_name);
        let hash = manifest.content_hash();
        let mut created = false;
        let same = |d: &&store::Deployment| {
            d.url == url && manifest_of(d).is_some_and(|m| m.content_hash() == hash)
        };
        let unchanged = existing.is_some_and(|e| {
            let hosted = hosted_by(&catalog, e.id);
            e.url == url
                && e.headers == headers
                && current_deployment(&catalog, e.id).as_ref().is_some_and(same)
                && manifest.functions.iter().all(|f| hosted.iter().any(|(_, name)| *name == f.name))
        });
        if !unchanged {
            // Going back to what was there before is going back to its deployment.
            let before = catalog.recorded.deployments.iter();
            let before =
                before.filter(|d| existing.is_some_and(|e| e.id == d.endpoint_id)).find(same);
            let stored =
                before.map_or_else(|| to_bytes(&manifest).to_vec(), |d| d.manifest.to_vec());
            let now = self.clock().upper();
            let registered = self
                .store()
                .register(&store::Registration {
                    ns: ns.id,
                    name: name.to_owned(),
                    url,
                    headers,
                    manifest: stored,
                    functions: manifest.functions.iter().map(|f| f.name.clone()).collect(),
                    endpoint: EndpointId::new(now, crate::clock::chance()),
                    deployment: DeploymentId::new(now, crate::clock::chance()),
                    secret: secret.clone(),
                })
                .await?;
            created = registered.new_endpoint;
            tracing::info!(
                endpoint.id = %registered.endpoint,
                deployment.id = %registered.deployment,
                name,
                by,
                new_endpoint = created,
                new_deployment = registered.new_deployment,
                moved = ?registered.moved,
                "endpoint registered"
            );
            self.reload_catalog().await;
        }
        let mut catalog = self.catalog();
        let find = |catalog: &Catalog| endpoint_row(catalog, ns.id, &by_name).cloned();
        let gone = || Error::busy("the endpoint was deleted at the same time; try again");
        let mut row = find(&catalog).ok_or_else(gone)?;
        if let Some(given) = &given
            && row.secrets.first() != Some(given)
        {
            let until = self.clock().upper() + ROTATION_GRACE;
            self.store().rotate_secret(ns.id, row.public, given, until).await?;
            self.reload_catalog().await;
            catalog = self.catalog();
            row = find(&catalog).ok_or_else(gone)?;
        }
        let current = current_deployment(&catalog, row.id).ok_or_else(gone)?;
        Ok(Registered {
            endpoint: self.endpoint_view(&catalog, &row),
            deployment: self.with_transport(current.id, deployment_view(current, row.public, true)),
            secret: (created && given.is_none()).then_some(secret),
            probe,
            created,
        })
    }

    /// Cancels all live runs of functions, and waits a while for their handlers to compensate.
    async fn cancel_all(&self, ns: &Namespace, functions: &[i32], by: &str) -> Result<(), Error> {
        let runs = self.store().live_runs_of(functions, MOST_CANCELLED).await?;
        let act = Act {
            by: by.to_owned(),
            reason: Some("its endpoint is deleted".to_owned()),
            ..Act::default()
        };
        let body = to_bytes(&act);
        let sent = futures::stream::iter(runs).map(|run| {
            let message = self.message(MessageKind::Cancel, "", body.clone());
            self.deliver(run, ns.id, message, None)
        });
        let mut sent = sent.buffer_unordered(256);
        while let Some(outcome) = sent.next().await {
            // A run that has ended or is ending needs no cancel.
            outcome?;
        }
        let until = self.clock().mono() + CANCEL_PATIENCE;
        while self.clock().mono() < until {
            if self.store().live_runs_of(functions, 1).await?.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Lets another endpoint host the functions of one that is about to go: one whose current
    /// deployment has them all and that would not take functions of a third.
    async fn repin(
        &self,
        ns: &Namespace,
        catalog: &Catalog,
        leaving: &store::Endpoint,
        functions: &[(i32, String)],
    ) -> Result<(), Error> {
        let fits = |e: &&store::Endpoint| {
            let manifest = current_deployment(catalog, e.id).and_then(manifest_of);
            e.ns == ns.id
                && e.id != leaving.id
                && manifest.is_some_and(|m| {
                    let hosted = hosted_by(catalog, e.id);
                    let ours = |name: &str| functions.iter().any(|(_, n)| n == name);
                    functions.iter().all(|(_, name)| m.function(name).is_some())
                        && m.functions.iter().all(|f| {
                            ours(&f.name)
                                || hosted.iter().any(|(_, name)| *name == f.name)
                                || catalog.function(ns.id, &f.name).is_none()
                        })
                })
        };
        let heir = catalog.recorded.endpoints.iter().find(fits);
        let Some((heir, deployment)) =
            heir.and_then(|e| Some((e, current_deployment(catalog, e.id)?)))
        else {
            let names: Vec<&str> = functions.iter().map(|(_, name)| &**name).collect();
            let detail = format!(
                "no other endpoint has {}; register one that has, or choose `cancel` or `park`",
                names.join(", ")
            );
            return Err(Error::Invalid("/runs".to_owned(), detail));
        };
        let manifest = manifest_of(deployment).map(|m| m.functions).unwrap_or_default();
        let now = self.clock().upper();
        self.store()
            .register(&store::Registration {
                ns: ns.id,
                name: heir.name.clone(),
                url: heir.url.clone(),
                headers: heir.headers.clone(),
                manifest: deployment.manifest.to_vec(),
                functions: manifest.into_iter().map(|f| f.name).collect(),
                endpoint: EndpointId::new(now, crate::clock::chance()),
                deployment: DeploymentId::new(now, crate::clock::chance()),
                secret: Secret::generate().reveal(),
            })
            .await?;
        Ok(())
    }
}

/// Functions that an endpoint hosts: number and name.
fn hosted_by(catalog: &Catalog, endpoint: i32) -> Vec<(i32, String)> {
    let functions = catalog.recorded.functions.iter();
    let hosted = functions.filter(|f| f.hosted.is_some_and(|(e, _)| e == endpoint));
    hosted.map(|f| (f.id, f.name.clone())).collect()
}

fn secrets_of(endpoint: &store::Endpoint) -> impl Iterator<Item = Secret> {
    endpoint.secrets.iter().filter_map(|s| Secret::parse(s).ok())
}

pub(super) fn parse_secret(text: &str) -> Result<Secret, Error> {
    Secret::parse(text).map_err(|e| Error::Invalid("/secret".to_owned(), e.to_string()))
}

pub(super) fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in headers {
        let wrong = |why: &str| {
            let pointer = format!("/headers/{}", name.replace('~', "~0").replace('/', "~1"));
            Err(Error::Invalid(pointer, why.to_owned()))
        };
        if HeaderName::try_from(name.as_str()).is_err() {
            return wrong("is not the name of a header");
        }
        if RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
            return wrong("is set by the gateway itself");
        }
        if HeaderValue::try_from(value.as_str()).is_err() {
            return wrong("has characters that a header cannot have");
        }
    }
    Ok(())
}

/// Whether the handler said everything that the registration lists; notes it where it did not.
fn has_all(said: &Manifest, listed: Option<Manifest>, asked: &mut Asked) -> bool {
    let listed = listed.map(|m| m.functions).unwrap_or_default();
    let missing: Vec<&str> =
        listed.iter().map(|f| &*f.name).filter(|name| said.function(name).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    if let Some(stage) = asked.stages.last_mut() {
        *stage = failed(
            "functions",
            format!(
                "the handler does not have {}, which the registration lists",
                missing.join(", ")
            ),
            "correct the list, or leave it out: the handler says what it has",
        );
    }
    false
}

/// The manifest of a registration that lists its functions.
fn listed(functions: &[FunctionSpec], r: &Registration) -> Result<Manifest, Error> {
    let given = |retry: RetrySpec| (retry != RetrySpec::default()).then_some(retry);
    let functions = functions
        .iter()
        .map(|f| protocol::FunctionSpec {
            retry: given(f.retry),
            invocation_retry: given(f.invocation_retry),
            run_retry: given(f.run_retry),
            timeouts: Timeouts { run: f.run_timeout, invocation: f.invocation_timeout },
            versioning: match f.versioning {
                Versioning::Latest => protocol::Versioning::Latest,
                Versioning::Pinned => protocol::Versioning::Pinned,
            },
            tasks: f.tasks.as_ref().and_then(|all| serde_json::value::to_raw_value(all).ok()),
            ..protocol::FunctionSpec::named(&f.name)
        })
        .collect();
    let mut manifest = Manifest::listed(functions);
    for (i, word) in r.transports.iter().enumerate() {
        let transport: Transport = serde_json::from_value(word.as_str().into()).map_err(|_| {
            let detail = format!("{word:?} is none of respond, stream, checkpoint, duplex");
            Error::Invalid(format!("/transports/{i}"), detail)
        })?;
        if !manifest.transports.contains(&transport) {
            manifest.transports.push(transport);
        }
    }
    manifest.pages = r.pages;
    if let Some(bytes) = r.max_inline_bytes {
        manifest.max_inline_bytes = bytes.into();
    }
    manifest.check().map_err(|e| Error::Invalid(e.pointer, e.detail))?;
    Ok(manifest)
}
