//! What is registered, ready for use: which deployment a run goes to, and what is in force there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::events::Triggers;
use super::{Engine, Error, Namespace};
use crate::machine::{
    DeploymentId, EndpointId, Matching, Policy, RetryPolicy, RetrySpec, Run, RunKind, Timestamp,
};
use crate::protocol::{
    CancelOn, Flow, FunctionSpec, LockSpec, Manifest, Secret, Transport, Versioning,
};
use crate::store::{self, NamespaceSettings};

/// The longest silence of an exchange, unless function or run say otherwise.
pub(super) const INVOCATION_TIMEOUT: Duration = Duration::from_mins(1);
/// Stands for the endpoint of runs whose function nobody hosts.
pub(super) const NO_ENDPOINT: i32 = 0;

/// An endpoint, as far as invocations need it.
#[derive(Debug)]
pub struct Endpoint {
    /// The number in other tables.
    pub id: i32,
    /// The id that users see.
    pub public: EndpointId,
    /// Its name.
    pub name: String,
    /// Extra headers of every invocation.
    pub headers: HeaderMap,
    /// Signing secrets, the newest first.
    secrets: Vec<Secret>,
    /// When all but the newest cease to sign.
    old_until: Option<Timestamp>,
    /// No invocation is sent.
    pub disabled: bool,
    /// No run is started.
    pub draining: bool,
    /// How many runs may be on their way to it at once, in the whole cluster.
    pub concurrency: Option<u32>,
}

impl Endpoint {
    /// The secrets that sign at a moment.
    #[must_use]
    pub fn signing(&self, now: Timestamp) -> &[Secret] {
        let newest = self.secrets.len().min(1);
        if self.old_until.is_some_and(|at| at <= now) {
            &self.secrets[..newest]
        } else {
            &self.secrets
        }
    }
}

/// A deployment, as far as invocations need it.
#[derive(Debug)]
pub struct Deployment {
    /// The number in the journal.
    pub id: i32,
    /// The id that users see.
    pub public: DeploymentId,
    /// Its endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Where invocations go.
    pub url: Url,
    /// Whether its handler can fetch pages and values.
    pub pages: bool,
    /// How much of a journal it takes inline, in bytes.
    pub max_inline_bytes: usize,
    /// What it said it has.
    pub manifest: Manifest,
    /// What its functions say about their flow, where they say something.
    flows: HashMap<String, Flow>,
    /// What cancels runs of its functions, where they name events.
    cancels: HashMap<String, Vec<CancelOn>>,
    /// The objects that runs of its functions have, where they name some.
    locks: HashMap<String, Vec<LockSpec>>,
}

impl Deployment {
    /// Whether its handler fetches its work.
    #[must_use]
    pub fn is_pull(&self) -> bool {
        super::pull::is_pull(self.url.as_str())
    }

    /// Whether it has this function.
    #[must_use]
    pub fn has(&self, function: &str) -> bool {
        self.manifest.function(function).is_some()
    }

    /// What a function says about its flow, if it says something.
    #[must_use]
    pub fn flow(&self, function: &str) -> Option<&Flow> {
        self.flows.get(function)
    }

    /// Whether a function gathers its starts.
    #[must_use]
    pub fn gathers(&self, function: &str) -> bool {
        self.flow(function).is_some_and(|flow| flow.gather.is_some())
    }

    /// The events that cancel runs of a function.
    #[must_use]
    pub fn cancel_on(&self, function: &str) -> &[CancelOn] {
        self.cancels.get(function).map_or(&[], Vec::as_slice)
    }

    /// The objects that runs of a function have to themselves.
    #[must_use]
    pub fn locks(&self, function: &str) -> &[LockSpec] {
        self.locks.get(function).map_or(&[], Vec::as_slice)
    }

    fn spec(&self, function: &str) -> Option<&FunctionSpec> {
        self.manifest.function(function)
    }

    /// How long ended runs of a function are kept, where it says so.
    #[must_use]
    pub fn retention(&self, function: &str) -> Option<Duration> {
        self.spec(function)?.retention
    }

    /// The longest silence of an exchange for a function.
    #[must_use]
    pub fn invocation_timeout(&self, function: &str) -> Duration {
        self.spec(function).and_then(|s| s.timeouts.invocation).unwrap_or(INVOCATION_TIMEOUT)
    }

    /// The best transport that it can do and that the gateway opens.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let can = |t: &Transport| !self.is_pull() && self.manifest.transports.contains(t);
        let best = [Transport::Duplex, Transport::Stream].into_iter().find(can);
        best.unwrap_or(Transport::Respond)
    }

    /// What the runs of a function are here.
    #[must_use]
    pub fn kind_of(&self, function: &str) -> Option<RunKind> {
        self.spec(function)?.run_kind()
    }

    /// The function whose objects a shared one reads.
    #[must_use]
    pub fn reads(&self, function: &str) -> Option<&str> {
        self.spec(function)?.object.as_deref()
    }

    /// Where the input of a plain function is posted.
    #[must_use]
    pub fn posted_at(&self, function: &str) -> Url {
        let path = self.spec(function).and_then(|s| s.path.as_deref());
        let url = path.and_then(|path| self.url.join(path).ok());
        url.filter(|url| url.origin() == self.url.origin()).unwrap_or_else(|| self.url.clone())
    }

    /// Whether a function here has this task, as far as the manifest says.
    #[must_use]
    pub fn may_have_task(&self, function: &str, task: &str) -> bool {
        self.spec(function).is_some_and(|s| s.may_have_task(task))
    }

    /// How long a run of a function may wait for its first invocation.
    #[must_use]
    pub fn start_timeout(&self, function: &str) -> Option<Duration> {
        self.spec(function).and_then(|s| s.timeouts.start)
    }

    /// How long a run of a function may take.
    #[must_use]
    pub fn run_timeout(&self, function: &str) -> Option<Duration> {
        self.spec(function).and_then(|s| s.timeouts.run)
    }
}

/// A function by name.
#[derive(Debug)]
pub struct Function {
    /// The number in runs.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// The deployment that new runs start on.
    pub dep: i32,
    /// Nothing of it is invoked.
    pub paused: bool,
}

/// Everything that is registered, at one version.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Grows with every change.
    pub version: i64,
    namespaces: HashMap<i32, Namespace>,
    /// Of those that may not have everything.
    settings: HashMap<i32, Arc<NamespaceSettings>>,
    functions: HashMap<(i32, String), Arc<Function>>,
    deployments: HashMap<i32, Arc<Deployment>>,
    by_public: HashMap<DeploymentId, i32>,
    triggers: Triggers,
    /// Some function or endpoint keeps runs back.
    limited: bool,
    /// As it is recorded, for lists.
    pub(super) recorded: store::Catalog,
}

impl Catalog {
    /// What the store has, ready for use.
    #[must_use]
    pub fn of(recorded: store::Catalog, _now: Timestamp) -> Self {
        let endpoints: HashMap<i32, Arc<Endpoint>> = recorded
            .endpoints
            .iter()
            .map(|e| {
                let secrets = e.secrets.iter().filter_map(|s| Secret::parse(s).ok()).collect();
                let endpoint = Endpoint {
                    id: e.id,
                    public: e.public,
                    name: e.name.clone(),
                    headers: header_map(&e.headers),
                    secrets,
                    old_until: e.old_until,
                    disabled: e.disabled,
                    draining: e.draining,
                    concurrency: e.concurrency,
                };
                (e.id, Arc::new(endpoint))
            })
            .collect();
        let mut catalog = Self { version: recorded.version, ..Self::default() };
        for n in &recorded.namespaces {
            let namespace = Namespace { id: n.id, name: n.name.clone() };
            catalog.namespaces.insert(n.id, namespace);
            if n.settings != NamespaceSettings::default() {
                catalog.settings.insert(n.id, Arc::new(n.settings.clone()));
            }
        }
        for d in &recorded.deployments {
            let Some(endpoint) = endpoints.get(&d.endpoint_id) else { continue };
            let manifest: Manifest = match serde_json::from_slice(&d.manifest) {
                Ok(manifest) => manifest,
                Err(error) => {
                    tracing::error!(deployment.id = %d.public, %error, "manifest cannot be read");
                    continue;
                }
            };
            let Ok(url) = d.url.parse() else {
                tracing::error!(deployment.id = %d.public, url = d.url, "not a URL");
                continue;
            };
            catalog.by_public.insert(d.public, d.id);
            // 0.1.0 kept whatever was there.
            let flow_of = |f: &FunctionSpec| f.flow().ok().map(|flow| (f.name.clone(), flow));
            let flows: HashMap<String, Flow> = manifest
                .functions
                .iter()
                .filter_map(flow_of)
                .filter(|(_, flow)| *flow != Flow::default())
                .collect();
            let cancels_of = |f: &FunctionSpec| f.cancel_on().ok().map(|all| (f.name.clone(), all));
            let cancels = manifest.functions.iter().filter_map(cancels_of);
            let cancels = cancels.filter(|(_, all)| !all.is_empty()).collect();
            let locks_of = |f: &FunctionSpec| f.locks().ok().map(|all| (f.name.clone(), all));
            let locks = manifest.functions.iter().filter_map(locks_of);
            let locks = locks.filter(|(_, all)| !all.is_empty()).collect();
            catalog.limited |=
                endpoint.concurrency.is_some() || flows.values().any(Flow::keeps_back);
            let deployment = Deployment {
                id: d.id,
                public: d.public,
                endpoint: Arc::clone(endpoint),
                url,
                pages: manifest.pages,
                max_inline_bytes: usize::try_from(manifest.max_inline_bytes).unwrap_or(usize::MAX),
                manifest,
                flows,
                cancels,
                locks,
            };
            catalog.deployments.insert(d.id, Arc::new(deployment));
        }
        for f in &recorded.functions {
            let Some((_, dep)) = f.hosted else { continue };
            let spec = catalog.deployments.get(&dep).and_then(|d| d.spec(&f.name));
            for trigger in spec.and_then(|s| s.event_triggers().ok()).unwrap_or_default() {
                let who = (f.name.clone(), trigger.matching);
                catalog.triggers.entry((f.ns, trigger.event)).or_default().push(who);
            }
            let function =
                Function { id: f.id, name: f.name.clone(), dep, paused: f.paused.is_some() };
            catalog.functions.insert((f.ns, f.name.clone()), Arc::new(function));
        }
        catalog.recorded = recorded;
        catalog
    }

    /// The function of this name, if an endpoint hosts it.
    #[must_use]
    pub fn function(&self, ns: i32, name: &str) -> Option<Arc<Function>> {
        self.functions.get(&(ns, name.to_owned())).cloned()
    }

    /// Whether any function or endpoint keeps runs back.
    pub(super) const fn has_limits(&self) -> bool {
        self.limited
    }

    /// The number of a function, hosted or not.
    pub(super) fn function_number(&self, ns: i32, name: &str) -> Option<i32> {
        let hosted = self.functions.get(&(ns, name.to_owned())).map(|f| f.id);
        let known = || self.recorded.functions.iter().find(|f| f.ns == ns && f.name == name);
        hosted.or_else(|| known().map(|f| f.id))
    }

    /// The longest silence of an exchange of a run.
    pub(super) fn silence_for(&self, run: &Run) -> Duration {
        let of_function = || {
            let (_, deployment) = self.deployment_for(run)?;
            Some(deployment.invocation_timeout(&run.created.function))
        };
        run.created.invocation_timeout.or_else(of_function).unwrap_or(INVOCATION_TIMEOUT)
    }

    /// All functions of a namespace that an endpoint hosts.
    pub fn functions(&self, ns: i32) -> impl Iterator<Item = &Arc<Function>> {
        self.functions.iter().filter(move |((of, _), _)| *of == ns).map(|(_, f)| f)
    }

    /// The functions that an event of a name may start, and what it must look like for that.
    pub(super) fn triggers(&self, ns: i32, event: &str) -> impl Iterator<Item = (&str, &Matching)> {
        let found = self.triggers.get(&(ns, event.to_owned()));
        found.into_iter().flatten().map(|(function, matching)| (function.as_str(), matching))
    }

    /// A deployment by its number.
    #[must_use]
    pub fn deployment(&self, id: i32) -> Option<Arc<Deployment>> {
        self.deployments.get(&id).cloned()
    }

    /// A deployment by the id that users see.
    #[must_use]
    pub fn deployment_named(&self, id: DeploymentId) -> Option<Arc<Deployment>> {
        self.deployment(*self.by_public.get(&id)?)
    }

    /// The id that users see of a deployment, also of one that is no more.
    #[must_use]
    pub fn public_of(&self, deployment: i32) -> Option<DeploymentId> {
        let live = self.deployment(deployment).map(|d| d.public);
        let pruned = &self.recorded.pruned;
        let gone = || Some(pruned[pruned.binary_search_by_key(&deployment, |d| d.0).ok()?].1);
        live.or_else(gone)
    }

    /// The name of a namespace.
    #[must_use]
    pub fn namespace(&self, id: i32) -> Option<Namespace> {
        self.namespaces.get(&id).cloned()
    }

    /// What a namespace may have, if that is not everything.
    pub(super) fn settings(&self, ns: i32) -> Option<&NamespaceSettings> {
        self.settings.get(&ns).map(Arc::as_ref)
    }

    /// A namespace by name.
    #[must_use]
    pub fn namespace_named(&self, name: &str) -> Option<Namespace> {
        self.namespaces.values().find(|n| n.name == name).cloned()
    }

    /// Where a run is to be invoked: where it was pinned by hand; on the deployment of its first
    /// invocation where the function says `pinned`; else on the newest that has the function.
    #[must_use]
    pub fn deployment_for(&self, run: &Run) -> Option<(Arc<Function>, Arc<Deployment>)> {
        let name = &run.created.function;
        let function = self.function(run.ns, name);
        let at = |id: i32| {
            let deployment = self.deployment(id)?;
            let here = || Arc::new(Function { id: 0, name: name.clone(), dep: id, paused: false });
            Some((function.clone().unwrap_or_else(here), deployment))
        };
        if let Some(pin) = run.pin {
            return at(pin);
        }
        let stays = self
            .deployment(run.dep)
            .and_then(|d| d.spec(name).map(|s| s.versioning == Versioning::Pinned))
            .unwrap_or(false);
        if stays && run.invoked {
            return at(run.dep);
        }
        at(function.as_ref()?.dep)
    }

    /// What is in force for a run: its own options over its function's over the defaults.
    #[must_use]
    pub fn policy_for(&self, run: &Run) -> Policy {
        let host = self.deployment_for(run);
        let spec = host.as_ref().and_then(|(_, d)| d.spec(&run.created.function));
        let over = |of: Option<RetrySpec>, base: &RetryPolicy| of.unwrap_or_default().over(base);
        let step = over(spec.and_then(|s| s.retry), &RetryPolicy::STEP);
        Policy {
            step: over(run.created.retry, &step),
            invocation: over(spec.and_then(|s| s.invocation_retry), &RetryPolicy::INVOCATION),
            run: over(spec.and_then(|s| s.run_retry), &RetryPolicy::RUN),
            strict: spec.is_some_and(|s| s.strict),
            listened: self.listened(run.ns, &run.created.function),
        }
    }
}

/// Registered headers; what is not a header was refused when it was registered.
pub(super) fn header_map(headers: &BTreeMap<String, String>) -> HeaderMap {
    let pairs = headers.iter().filter_map(|(name, value)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    });
    pairs.collect()
}

impl Engine {
    /// What is registered, including what another node registered a moment ago.
    pub(super) async fn fresh_catalog(&self) -> Result<Arc<Catalog>, Error> {
        if self.store().config_version().await? != self.catalog().version {
            self.reload_catalog().await;
        }
        Ok(self.catalog())
    }

    /// Reads what is registered anew, and lets runs go on that waited for it.
    pub(super) async fn reload_catalog(&self) {
        let recorded = match self.store().load_catalog().await {
            Ok(recorded) => recorded,
            Err(error) => {
                tracing::warn!(%error, "the catalog trails");
                return;
            }
        };
        let now = self.clock().upper();
        let old = self.catalog();
        self.set_catalog(Catalog::of(recorded, now));
        let catalog = self.catalog();
        let mut owner = self.owner();
        let ids: Vec<_> = owner.runs.keys().copied().collect();
        for id in ids {
            if let Some(entry) = owner.runs.get_mut(&id) {
                entry.policy = catalog.policy_for(&entry.run);
            }
        }
        for endpoint in &catalog.recorded.endpoints {
            let was = old.recorded.endpoints.iter().find(|e| e.id == endpoint.id);
            let breaker = owner.breakers.entry(endpoint.id).or_default();
            breaker.set_disabled(endpoint.disabled);
            if was.is_some_and(|e| e.version != endpoint.version) {
                breaker.forget(self.clock().mono());
            }
        }
        // Runs without a host are kept under a breaker that never closes by itself.
        owner.breakers.entry(NO_ENDPOINT).or_default();
        self.release_all(&mut owner);
        // Their limits may be others now.
        for id in std::mem::take(&mut owner.queued) {
            if let Some(entry) = owner.runs.get_mut(&id) {
                entry.queued = false;
                self.pump(&mut owner, id);
            }
        }
        self.hosts_changed(&mut owner, &old, &catalog);
    }
}
