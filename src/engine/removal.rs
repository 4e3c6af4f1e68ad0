//! An endpoint is taken away: what becomes of its functions and of the runs that need it.

use std::time::Duration;

use futures::StreamExt as _;

use super::catalog::Catalog;
use super::deployments::needing_endpoint;
use super::endpoints::{SHOWN_RUNS, hosted_by};
use super::functions::{current_deployment, manifest_of};
use super::{Deleted, Engine, Error, Namespace, RunsPolicy};
use crate::machine::{Act, DeploymentId, EndpointId, MessageKind, to_bytes};
use crate::protocol::Secret;
use crate::store::{self, Needing};

/// How many runs one delete cancels at most; more are cancelled by their deadline only.
const MOST_CANCELLED: i64 = 100_000;
/// How long a delete waits for its cancelled runs, while their handler can still be called.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
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
        let needing = Needing { limit: SHOWN_RUNS, ..needing_endpoint(ns, &catalog, row.id) };
        let live = self.store().needing(&needing).await?;
        match runs {
            None if !live.is_empty() => {
                return Ok(Deleted::InUse(live.into_iter().map(|r| r.run).collect()));
            }
            None | Some(RunsPolicy::Park) => {}
            Some(RunsPolicy::Cancel) => self.cancel_all(ns, &needing, by).await?,
            Some(RunsPolicy::Repin) => self.repin(ns, &catalog, &row, by).await?,
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

    // --- parts ---------------------------------------------------------------------------------

    /// Cancels all live runs that need an endpoint, and waits a while for their handlers to
    /// compensate.
    async fn cancel_all(&self, ns: &Namespace, which: &Needing, by: &str) -> Result<(), Error> {
        let all = Needing { limit: MOST_CANCELLED, ..which.clone() };
        let runs = self.store().needing(&all).await?;
        let act = Act {
            by: by.to_owned(),
            reason: Some("its endpoint is deleted".to_owned()),
            ..Act::default()
        };
        let body = to_bytes(&act);
        let sent = futures::stream::iter(runs).map(|resident| {
            let message = self.message(MessageKind::Cancel, "", body.clone());
            self.deliver(resident.run, ns.id, message, None)
        });
        let mut sent = sent.buffer_unordered(256);
        while let Some(outcome) = sent.next().await {
            // A run that has ended or is ending needs no cancel.
            outcome?;
        }
        let until = self.clock().mono() + CANCEL_PATIENCE;
        while self.clock().mono() < until {
            if self.store().needing(&Needing { limit: 1, ..which.clone() }).await?.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Lets others have what an endpoint has that is about to go: its functions, and the runs that
    /// stay on its deployments.
    async fn repin(
        &self,
        ns: &Namespace,
        catalog: &Catalog,
        leaving: &store::Endpoint,
        by: &str,
    ) -> Result<(), Error> {
        let functions = hosted_by(catalog, leaving.id);
        if !functions.is_empty() {
            self.find_heir(ns, catalog, leaving, &functions).await?;
            self.reload_catalog().await;
        }
        let catalog = self.catalog();
        let bound = Needing { functions: Vec::new(), ..needing_endpoint(ns, &catalog, leaving.id) };
        let newest = |resident: store::Resident| {
            let mut rows = catalog.recorded.functions.iter();
            let (endpoint, dep) = rows.find(|f| f.id == resident.function_id)?.hosted?;
            (endpoint != leaving.id).then_some(dep)
        };
        let reason = Some("its endpoint is deleted".to_owned());
        let act = Act { by: by.to_owned(), reason, ..Act::default() };
        self.repin_these(ns, &bound, newest, &act).await?;
        Ok(())
    }

    /// Lets another endpoint host the functions of one that is about to go: one whose current
    /// deployment has them all and that would not take functions of a third.
    async fn find_heir(
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
                schedules: self.schedules_of(ns, &manifest, "gateway"),
                functions: manifest.into_iter().map(|f| f.name).collect(),
                endpoint: EndpointId::new(now, crate::clock::chance()),
                deployment: DeploymentId::new(now, crate::clock::chance()),
                secret: Secret::generate().reveal(),
            })
            .await?;
        Ok(())
    }
}
