//! Changes of what is registered: register, sync, change, secrets, on and off. Own changes are read
//! back before a call returns; other nodes see them with their next tick.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use url::Url;

use super::catalog::{Catalog, header_map};
use super::functions::{current_deployment, deployment_view, endpoint_row, manifest_of};
use super::listed::listed;
use super::probe::{Asked, failed};
use super::pull::{is_pull, pull_url};
use super::{
    Change, EndpointPatch, EndpointRef, EndpointView, Engine, Error, Namespace, Patched,
    ProbeStage, RegisterOutcome, Registered, Registration, Rotated,
};
use crate::machine::{DeploymentId, EndpointId, RunId, to_bytes};
use crate::protocol::{Manifest, Secret};
use crate::store;

/// How long the secret before a rotation signs too.
pub(super) const ROTATION_GRACE: Duration = Duration::from_hours(24);
/// How many runs are named where they are in the way.
pub(super) const SHOWN_RUNS: i64 = 20;
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

impl Registration {
    /// Of a handler that says itself what it has, and nothing but what is needed.
    #[must_use]
    pub const fn discovered(name: String, url: String, secret: Option<String>, by: String) -> Self {
        Self {
            name,
            url,
            secret,
            headers: BTreeMap::new(),
            functions: None,
            transports: Vec::new(),
            pages: false,
            max_inline_bytes: None,
            discover: true,
            dry_run: false,
            replay: 0,
            force: false,
            by,
        }
    }
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
        let pull = is_pull(&r.url);
        let url = if pull { pull_url() } else { self.handler_url(ns, &r.url)? };
        check_headers(&r.headers)?;
        let given = r.secret.as_deref().map(parse_secret).transpose()?;
        let listed = match &r.functions {
            Some(functions) => Some(listed(functions, &r)?),
            None => None,
        };
        self.reload_catalog().await;
        let existing =
            endpoint_row(&self.catalog(), ns.id, &EndpointRef::Name(r.name.clone())).cloned();
        if let Some(existing) = existing.as_ref().filter(|e| is_pull(&e.url) != pull) {
            let (is, not) = if pull { ("a URL", "pull") } else { ("pull", "a URL") };
            let detail = format!(
                "endpoint `{}` was registered with {is}, and cannot have {not}: delete it, or take another name",
                existing.name
            );
            return Err(Error::Invalid(if pull { "/pull" } else { "/url" }.to_owned(), detail));
        }
        let secret = given.clone().unwrap_or_else(Secret::generate);
        let mut secrets: Vec<Secret> = existing.iter().flat_map(secrets_of).collect();
        if given.is_some() || secrets.is_empty() {
            secrets.insert(0, secret.clone());
        }
        let headers = header_map(&r.headers);
        let (asked, manifest) = match listed {
            Some(manifest) if !r.discover => {
                let names: Vec<&str> = manifest.functions.iter().map(|f| &*f.name).collect();
                let asked = if pull {
                    let polls = existing.as_ref().map_or(0, |e| self.desks().polls(e.id));
                    Self::look_for_polls(polls, &names)
                } else {
                    self.look_for(&url, &names).await
                };
                (asked, Some(manifest))
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
                RegisterOutcome::DryRun(asked.stages, None, Vec::new())
            } else {
                RegisterOutcome::ProbeFailed(asked.stages)
            });
        };
        if let Some(existing) = existing.filter(|_| !r.force)
            && let Some((functions, runs)) = self.dropped(&existing, &manifest).await?
        {
            return Ok(RegisterOutcome::DropsFunctions(functions, runs));
        }
        let mut replayed = Vec::new();
        if r.dry_run && r.replay > 0 {
            let (most, whom) = (usize::from(r.replay), (&url, &headers, &*secrets));
            replayed = self.replay_recent(ns, &manifest, whom, most).await?;
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
        if r.dry_run {
            let change = change(&self.catalog(), &plan);
            return Ok(RegisterOutcome::DryRun(plan.probe, Some(change), replayed));
        }
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
        if is_pull(&row.url) {
            let detail = "its handler fetches its work and cannot be asked; register its functions";
            return Err(Error::Invalid("/pull".to_owned(), detail.to_owned()));
        }
        let said = Registration::discovered(row.name, row.url, None, by.to_owned());
        let registration = Registration { headers: row.headers, force, ..said };
        self.register_endpoint(ns, registration).await.map(Some)
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
        let change = store::EndpointChange { disabled: Some(true), ..Default::default() };
        self.switch(ns, endpoint, &change, by).await
    }

    /// Lets an endpoint's runs go on, and new ones start there; none if it is gone.
    pub async fn enable_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        let (disabled, draining) = (Some(false), Some(false));
        let change = store::EndpointChange { disabled, draining, ..Default::default() };
        self.switch(ns, endpoint, &change, by).await
    }

    /// Changes what is said of an endpoint, if it still has `version`. Another URL is a new
    /// deployment with the same functions.
    pub async fn patch_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        version: Option<i64>,
        patch: EndpointPatch,
        by: &str,
    ) -> Result<Patched, Error> {
        let Some(row) = self.row(ns, endpoint).await else { return Ok(Patched::Stale) };
        if version.is_some_and(|v| v != i64::from(row.version)) {
            return Ok(Patched::Stale);
        }
        let mut headers = row.headers.clone();
        for (name, value) in patch.headers {
            match value {
                Some(value) => headers.insert(name, value),
                None => headers.remove(&name),
            };
        }
        check_headers(&headers)?;
        if patch.url.is_some() && is_pull(&row.url) {
            let detail = "is none of a pull endpoint's: register another one with the URL";
            return Err(Error::Invalid("/url".to_owned(), detail.to_owned()));
        }
        let address = match patch.url {
            Some(url) => Some(self.handler_url(ns, &url)?.into()).filter(|url| *url != row.url),
            None => None,
        };
        let catalog = self.catalog();
        let manifest = || Some(current_deployment(&catalog, row.id)?.manifest.to_vec());
        let now = self.clock().upper();
        let change = store::EndpointChange {
            name: patch.name.filter(|name| *name != row.name),
            address: address.map(|url| store::Address {
                url,
                manifest: manifest().unwrap_or_default(),
                deployment: DeploymentId::new(now, crate::clock::chance()),
            }),
            headers: (headers != row.headers).then_some(headers),
            concurrency: patch.concurrency.filter(|most| *most != row.concurrency),
            ..store::EndpointChange::default()
        };
        if change != store::EndpointChange::default() {
            let updated =
                self.store().update_endpoint(ns.id, endpoint, Some(row.version), &change).await;
            match updated {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Patched::Stale),
                Err(store::Error::Conflict { constraint, .. })
                    if constraint == "endpoints_name" =>
                {
                    let detail = "is the name of another endpoint".to_owned();
                    return Err(Error::Invalid("/name".to_owned(), detail));
                }
                Err(error) => return Err(error.into()),
            }
            let (renamed, moved) = (&change.name, change.address.map(|a| a.url));
            tracing::info!(endpoint.id = %endpoint, by, ?renamed, ?moved, "endpoint changed");
        }
        let view = self.view_anew(ns, endpoint).await;
        Ok(view.map_or(Patched::Stale, |view| Patched::Done(Box::new(view))))
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
        let registered = current_deployment(&catalog, row.id).and_then(manifest_of);
        if is_pull(&row.url) {
            let functions = registered.map(|m| m.functions).unwrap_or_default();
            let names: Vec<&str> = functions.iter().map(|f| &*f.name).collect();
            return Ok(Some(Self::look_for_polls(self.desks().polls(row.id), &names).stages));
        }
        let url = self.handler_url(ns, &row.url)?;
        let headers = header_map(&row.headers);
        let secrets: Vec<Secret> = secrets_of(row).collect();
        let mut asked = self.discover(&url, &headers, &secrets).await;
        if let Some(said) = asked.manifest.take()
            && registered.is_some_and(|r| r.content_hash() != said.content_hash())
            && let Some(stage) = asked.stages.last_mut()
        {
            stage.fix = Some("this is not what is registered: sync the endpoint".to_owned());
        }
        Ok(Some(asked.stages))
    }

    // --- parts ---------------------------------------------------------------------------------

    pub(super) fn handler_url(&self, ns: &Namespace, text: &str) -> Result<Url, Error> {
        let guard = self.client().guard();
        let refused = |detail| Error::Invalid("/url".to_owned(), detail);
        let url = guard.url(text).map_err(|b| refused(format!("{b}; {}", b.fix())))?;
        self.allowed_host(ns.id, &url).map_err(refused)?;
        Ok(url)
    }

    /// The endpoint as it is recorded at this moment.
    pub(super) async fn row(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
    ) -> Option<store::Endpoint> {
        self.reload_catalog().await;
        endpoint_row(&self.catalog(), ns.id, &EndpointRef::Id(endpoint)).cloned()
    }

    async fn view_anew(&self, ns: &Namespace, endpoint: EndpointId) -> Option<EndpointView> {
        let row = self.row(ns, endpoint).await?;
        Some(self.endpoint_view(&self.catalog(), &row))
    }

    pub(super) async fn switch(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        change: &store::EndpointChange,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        let Some(row) = self.row(ns, endpoint).await else { return Ok(None) };
        let (disabled, draining) =
            (change.disabled.unwrap_or(row.disabled), change.draining.unwrap_or(row.draining));
        if (row.disabled, row.draining) != (disabled, draining) {
            self.store().update_endpoint(ns.id, endpoint, None, change).await?;
            tracing::info!(endpoint.id = %endpoint, by, disabled, draining, "endpoint switched");
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
        let mut change = change(&self.catalog(), &plan);
        let Plan { ns, name, url, headers, manifest, probe, given, secret, by } = plan;
        let catalog = self.catalog();
        let by_name = EndpointRef::Name(name.to_owned());
        let existing = endpoint_row(&catalog, ns.id, &by_name);
        if change == Change::Unchanged {
            self.keep_schedules_of(ns, &manifest.functions, by).await?;
        } else {
            // Going back to what was there before is going back to its deployment.
            let before = catalog.recorded.deployments.iter();
            let hash = manifest.content_hash();
            let before = before
                .filter(|d| existing.is_some_and(|e| e.id == d.endpoint_id))
                .find(|d| is_of(d, &url, &hash));
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
                    schedules: self.schedules_of(ns, &manifest.functions, by),
                    endpoint: EndpointId::new(now, crate::clock::chance()),
                    deployment: DeploymentId::new(now, crate::clock::chance()),
                    secret: secret.clone(),
                })
                .await?;
            if registered.new_endpoint {
                change = Change::Created;
            }
            tracing::info!(
                endpoint.id = %registered.endpoint,
                deployment.id = %registered.deployment,
                name,
                by,
                new_endpoint = registered.new_endpoint,
                new_deployment = registered.new_deployment,
                moved = ?registered.moved,
                "endpoint registered"
            );
            self.reload_catalog().await;
            self.nudge_schedules();
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
            if change == Change::Unchanged {
                change = Change::Changed;
            }
            self.reload_catalog().await;
            catalog = self.catalog();
            row = find(&catalog).ok_or_else(gone)?;
        }
        let current = current_deployment(&catalog, row.id).ok_or_else(gone)?;
        Ok(Registered {
            endpoint: self.endpoint_view(&catalog, &row),
            deployment: self.with_transport(current.id, deployment_view(current, row.public, true)),
            secret: (change == Change::Created && given.is_none()).then_some(secret),
            probe,
            change,
        })
    }
}

/// Functions that an endpoint hosts: number and name.
pub(super) fn hosted_by(catalog: &Catalog, endpoint: i32) -> Vec<(i32, String)> {
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
/// What carrying out a plan makes of its endpoint.
fn change(catalog: &Catalog, plan: &Plan<'_>) -> Change {
    let by_name = EndpointRef::Name(plan.name.to_owned());
    let Some(existing) = endpoint_row(catalog, plan.ns.id, &by_name) else {
        return Change::Created;
    };
    let hosted = hosted_by(catalog, existing.id);
    let hash = plan.manifest.content_hash();
    let same = existing.url == plan.url
        && existing.headers == plan.headers
        && current_deployment(catalog, existing.id).is_some_and(|d| is_of(d, &plan.url, &hash))
        && plan.manifest.functions.iter().all(|f| hosted.iter().any(|(_, name)| *name == f.name));
    if same { Change::Unchanged } else { Change::Changed }
}

/// Whether a deployment is at this address and has this manifest.
fn is_of(deployment: &store::Deployment, url: &str, hash: &[u8; 32]) -> bool {
    deployment.url == url && manifest_of(deployment).is_some_and(|m| m.content_hash() == *hash)
}

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
