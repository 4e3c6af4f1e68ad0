//! Versions that outlive deploys: which live runs need which deployment, moving runs from one to
//! another, and the end of deployments that nobody needs any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::catalog::Catalog;
use super::endpoints::hosted_by;
use super::functions::{current_deployment, deployment_view, endpoint_row, manifest_of};
use super::{EndpointRef, EndpointView, Engine, Error, Namespace, RunView, Status};
use crate::machine::{
    Act, DeploymentId, EndpointId, Message, MessageKind, RunId, Timestamp, to_bytes,
};
use crate::protocol::Versioning;
use crate::store::{self, Accepted, Needing, Resident};

/// How many runs are read at once where all are to be moved.
const PAGE: i64 = 1_000;
/// How long moving runs waits to see them moved, once all were told.
const PATIENCE: Duration = Duration::from_secs(10);

/// One immutable registration of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentView {
    /// Its id.
    pub id: DeploymentId,
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// The URL at that time.
    pub url: String,
    /// What the manifest says the SDK is.
    pub sdk: Option<String>,
    /// The handler's own version, such as a commit.
    pub version: Option<String>,
    /// The transports it can do.
    pub transports: Vec<String>,
    /// The one that this node uses now.
    pub transport: String,
    /// Why it is not the best of them, if it is not.
    pub fallback: Option<String>,
    /// Whether it can page.
    pub pages: bool,
    /// Names of its functions.
    pub functions: Vec<String>,
    /// Whether it is the endpoint's newest.
    pub current: bool,
    /// The live runs that it has, where that was asked for.
    pub runs: Option<RunsOn>,
    /// Nothing needs it any more: it can be switched off, and pruned.
    pub drained: bool,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// The live runs that a deployment has: those that were last invoked there, or are pinned to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunsOn {
    /// All of them.
    pub live: u64,
    /// Of these, those that stay there; the others go on with the newest.
    pub pinned: u64,
    /// Of these, those with an exchange that is open there; may trail by a second.
    pub running: u64,
}

impl RunsOn {
    /// Whether one of them cannot do without the deployment.
    #[must_use]
    pub const fn needed(self) -> bool {
        self.pinned > 0 || self.running > 0
    }
}

/// What became of the runs that were to move to another deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repinned {
    /// So many were told to.
    pub moved: u64,
    /// So many have stayed: no deployment that was asked for has their function, or they were not
    /// seen to move yet.
    pub left: u64,
}

impl Engine {
    /// The deployments of an endpoint, new to old, with the live runs that each has; none of an
    /// endpoint that is not there.
    pub async fn deployments(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
    ) -> Result<Vec<DeploymentView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = endpoint_row(&catalog, ns.id, &EndpointRef::Id(endpoint));
        let Some(e) = found else { return Ok(Vec::new()) };
        let runs = self.runs_on(ns, &catalog, e.id).await?;
        let current = current_deployment(&catalog, e.id).map(|d| d.id);
        let view = |d: &store::Deployment| {
            let view = deployment_view(d, e.public, current == Some(d.id));
            let runs = runs.get(&d.id).copied().unwrap_or_default();
            let drained = current != Some(d.id) && !runs.needed() && !hosts(&catalog, d.id);
            self.with_transport(d.id, DeploymentView { runs: Some(runs), drained, ..view })
        };
        let of_it = catalog.recorded.deployments.iter().rev().filter(|d| d.endpoint_id == e.id);
        Ok(of_it.map(view).collect())
    }

    /// Starts no more runs at an endpoint; those that are live go on. None if it is gone.
    pub async fn drain_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        by: &str,
    ) -> Result<Option<EndpointView>, Error> {
        let change = store::EndpointChange { draining: Some(true), ..Default::default() };
        self.switch(ns, endpoint, &change, by).await
    }

    /// Retires the deployments of an endpoint that no live run needs; which they were.
    pub async fn prune_endpoint(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        by: &str,
    ) -> Result<Vec<DeploymentId>, Error> {
        let drained: BTreeSet<DeploymentId> = self
            .deployments(ns, endpoint)
            .await?
            .into_iter()
            .filter_map(|d| d.drained.then_some(d.id))
            .collect();
        let catalog = self.catalog();
        let rows = catalog.recorded.deployments.iter().filter(|d| drained.contains(&d.public));
        let numbers: BTreeMap<i32, DeploymentId> = rows.map(|d| (d.id, d.public)).collect();
        let asked: Vec<i32> = numbers.keys().copied().collect();
        let gone = self.store().prune_deployments(&asked).await?;
        if !gone.is_empty() {
            self.reload_catalog().await;
        }
        let gone: Vec<DeploymentId> =
            gone.iter().filter_map(|dep| numbers.get(dep).copied()).collect();
        tracing::info!(endpoint.id = %endpoint, by, pruned = gone.len(), "deployments pruned");
        Ok(gone)
    }

    /// Puts a run on a deployment, from its next invocation on: the one that is named, or the
    /// newest that has its function. It stays there.
    pub async fn repin_run(
        &self,
        ns: &Namespace,
        run: RunId,
        to: Option<DeploymentId>,
        act: Act,
    ) -> Result<RunView, Error> {
        let view = self.view(ns, run).await?;
        if view.status.ended() {
            let detail = "it has ended; nothing of it is invoked any more".to_owned();
            return Err(Error::InvalidState { run, status: view.status, detail });
        }
        let catalog = self.fresh_catalog().await?;
        let target = match to {
            Some(id) => target(&catalog, id, &view.function)?,
            None => {
                catalog
                    .function(ns.id, &view.function)
                    .ok_or_else(|| Error::FunctionNotFound(view.function.clone()))?
                    .dep
            }
        };
        let act = Act { deployment: Some(target), ..act };
        self.do_to(ns, run, MessageKind::Repinned, "", to_bytes(&act)).await
    }

    /// Puts every live run that stays on a deployment on another: the one that is named, or the
    /// newest that has the run's function. None if the endpoint has no such deployment.
    pub async fn repin_all(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        from: DeploymentId,
        to: Option<DeploymentId>,
        act: &Act,
    ) -> Result<Option<Repinned>, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = endpoint_row(&catalog, ns.id, &EndpointRef::Id(endpoint));
        let is_it = |d: &&store::Deployment| d.public == from;
        let dep = catalog.recorded.deployments.iter().find(is_it);
        let Some(dep) = dep.filter(|d| found.is_some_and(|e| e.id == d.endpoint_id)) else {
            return Ok(None);
        };
        if to == Some(from) {
            let detail = "is the deployment that the runs are to leave".to_owned();
            return Err(Error::Invalid("/deployment".to_owned(), detail));
        }
        let named = match to {
            Some(id) => {
                let found = catalog.deployment_named(id).filter(|d| self.in_ns(d.endpoint.id, ns));
                Some(found.ok_or(Error::DeploymentNotFound(id))?)
            }
            None => None,
        };
        let stay = needing(ns, &catalog, &[dep.id]);
        let functions: HashMap<i32, &str> =
            catalog.recorded.functions.iter().map(|f| (f.id, f.name.as_str())).collect();
        let target = |resident: Resident| {
            let function = *functions.get(&resident.function_id)?;
            let target = match &named {
                Some(named) => named.has(function).then_some(named.id),
                None => catalog.function(ns.id, function).map(|f| f.dep),
            };
            target.filter(|target| *target != dep.id)
        };
        let told = self.repin_these(ns, &stay, target, act).await?;
        let left = self.left_after(&stay, told.left).await?;
        let moved = told.moved;
        tracing::info!(deployment.id = %from, by = act.by, moved, left, "runs re-pinned");
        Ok(Some(Repinned { moved, left }))
    }

    /// Tells every run of a kind to go on with the deployment that `target` names; how many were
    /// told, and how many have no target.
    pub(super) async fn repin_these(
        &self,
        ns: &Namespace,
        which: &Needing,
        target: impl Fn(Resident) -> Option<i32> + Send + Sync,
        act: &Act,
    ) -> Result<Repinned, Error> {
        let (mut so_far, mut after) = (Repinned { moved: 0, left: 0 }, None);
        loop {
            let page =
                self.store().needing(&Needing { after, limit: PAGE, ..which.clone() }).await?;
            let mut told: Vec<(RunId, Message)> = Vec::with_capacity(page.len());
            for resident in &page {
                let Some(dep) = target(*resident) else {
                    so_far.left += 1;
                    continue;
                };
                let act = Act { deployment: Some(dep), ..act.clone() };
                let message = self.message(MessageKind::Repinned, "", to_bytes(&act));
                told.push((resident.run, message));
            }
            let told = told.into_iter().map(|(run, m)| self.deliver(run, ns.id, m, None));
            for outcome in futures::future::join_all(told).await {
                // One that has ended meanwhile needs no deployment.
                so_far.moved += u64::from(matches!(outcome?, Accepted::At(_)));
            }
            after = page.last().map(|r| r.run);
            if i64::try_from(page.len()).is_ok_and(|n| n < PAGE) {
                return Ok(so_far);
            }
        }
    }

    /// How many are still there, when all that were told have moved or the patience is over.
    async fn left_after(&self, which: &Needing, stranded: u64) -> Result<u64, Error> {
        let mut left = self.count(which).await?;
        let until = self.clock().mono() + PATIENCE;
        while left > stranded && self.clock().mono() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = self.count(which).await?;
        }
        Ok(left)
    }

    async fn count(&self, which: &Needing) -> Result<u64, Error> {
        let (mut count, mut after) = (0, None);
        loop {
            let page =
                self.store().needing(&Needing { after, limit: PAGE, ..which.clone() }).await?;
            count += page.len() as u64;
            after = page.last().map(|r| r.run);
            if i64::try_from(page.len()).is_ok_and(|n| n < PAGE) {
                return Ok(count);
            }
        }
    }

    /// What live runs an endpoint's deployments have.
    async fn runs_on(
        &self,
        ns: &Namespace,
        catalog: &Catalog,
        endpoint: i32,
    ) -> Result<HashMap<i32, RunsOn>, Error> {
        let deps = deployments_of(catalog, endpoint);
        let stay: BTreeSet<(i32, i32)> = pinned_pairs(ns, catalog, &deps).into_iter().collect();
        let mut all: HashMap<i32, RunsOn> = HashMap::new();
        for some in self.store().population(ns.id, &deps).await? {
            let on = all.entry(some.dep).or_default();
            let runs = u64::try_from(some.runs).unwrap_or(0);
            let invoked = some.status != Status::Scheduled.code();
            on.live += runs;
            if some.pinned || invoked && stay.contains(&(some.dep, some.function_id)) {
                on.pinned += runs;
            }
            if some.status == Status::Running.code() {
                on.running += runs;
            }
        }
        Ok(all)
    }

    fn in_ns(&self, endpoint: i32, ns: &Namespace) -> bool {
        let catalog = self.catalog();
        catalog.recorded.endpoints.iter().any(|e| e.id == endpoint && e.ns == ns.id)
    }
}

/// The runs that stay on these deployments.
pub(super) fn needing(ns: &Namespace, catalog: &Catalog, deployments: &[i32]) -> Needing {
    Needing {
        ns: ns.id,
        deployments: deployments.to_vec(),
        pinned: pinned_pairs(ns, catalog, deployments),
        ..Needing::default()
    }
}

/// The runs that cannot go on without an endpoint: of the functions that it hosts, and those that
/// stay on one of its deployments.
pub(super) fn needing_endpoint(ns: &Namespace, catalog: &Catalog, endpoint: i32) -> Needing {
    let functions = hosted_by(catalog, endpoint).into_iter().map(|f| f.0).collect();
    Needing { functions, ..needing(ns, catalog, &deployments_of(catalog, endpoint)) }
}

/// The numbers of an endpoint's deployments.
fn deployments_of(catalog: &Catalog, endpoint: i32) -> Vec<i32> {
    let all = catalog.recorded.deployments.iter();
    all.filter(|d| d.endpoint_id == endpoint).map(|d| d.id).collect()
}

/// Deployments and functions whose runs stay on the deployment of their first invocation.
fn pinned_pairs(ns: &Namespace, catalog: &Catalog, deployments: &[i32]) -> Vec<(i32, i32)> {
    let mut pairs = Vec::new();
    let rows = catalog.recorded.deployments.iter().filter(|d| deployments.contains(&d.id));
    for (dep, manifest) in rows.filter_map(|d| Some((d.id, manifest_of(d)?))) {
        for spec in manifest.functions.iter().filter(|f| f.versioning == Versioning::Pinned) {
            let mut functions = catalog.recorded.functions.iter();
            let function = functions.find(|f| f.ns == ns.id && f.name == spec.name);
            pairs.extend(function.map(|f| (dep, f.id)));
        }
    }
    pairs
}

/// Whether new runs of some function start on a deployment.
fn hosts(catalog: &Catalog, deployment: i32) -> bool {
    catalog.recorded.functions.iter().any(|f| f.hosted.is_some_and(|(_, dep)| dep == deployment))
}

/// The number of a deployment that has a function.
fn target(catalog: &Catalog, id: DeploymentId, function: &str) -> Result<i32, Error> {
    let found = catalog.deployment_named(id).filter(|d| d.has(function));
    Ok(found.ok_or(Error::DeploymentNotFound(id))?.id)
}
