//! Limits as people see and handle them: who runs, who waits, pauses of functions and single keys.

use std::time::Duration;

use super::barriers::rule;
use super::{Engine, Error, FunctionView, Namespace};
use crate::machine::{HeldAt, Timestamp};
use crate::protocol::Per;
use crate::store::LimitRow;
pub use crate::store::{LimitKey, LimitOf};

/// Since when, by whom and why something is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedView {
    /// Since when.
    pub at: Timestamp,
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

impl PausedView {
    pub(super) fn of((at, by, reason): (Timestamp, String, Option<String>)) -> Self {
        Self { at, by, reason }
    }
}

/// A limit at one value of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitView {
    /// Which; for the next page.
    pub at: LimitKey,
    /// `concurrency`, `throttle` or `rate_limit`.
    pub kind: &'static str,
    /// The function whose limit it is.
    pub function: Option<String>,
    /// The endpoint whose limit it is.
    pub endpoint: Option<String>,
    /// The path of its key.
    pub key: Option<String>,
    /// The value at that path.
    pub value: Option<String>,
    /// How many; none: the limit is no more.
    pub limit: Option<u32>,
    /// The path whose values take turns among runs that wait.
    pub fair: Option<String>,
    /// What a slot covers.
    pub per: Option<&'static str>,
    /// In which time.
    pub period: Option<Duration>,
    /// Runs that it lets through now.
    pub running: u64,
    /// Runs that wait; counted up to 10,000.
    pub queued: u64,
    /// Nobody is let through.
    pub paused: Option<PausedView>,
}

/// Which limit of a function, at which value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitName {
    /// The function.
    pub function: String,
    /// The path of the limit's key; none: the limit without a key.
    pub key: Option<String>,
    /// The value at that path.
    pub value: Option<String>,
}

impl Engine {
    /// Limits at the values of their keys that are in use, after `after`; `waiting`: only where runs
    /// wait or nobody is let through.
    pub async fn limits_of(
        &self,
        ns: &Namespace,
        function: Option<&str>,
        value: Option<&str>,
        waiting: bool,
        after: Option<&LimitKey>,
        limit: usize,
    ) -> Result<Vec<LimitView>, Error> {
        let catalog = self.fresh_catalog().await?;
        let id = match function {
            Some(name) => Some(
                catalog
                    .function_number(ns.id, name)
                    .ok_or_else(|| Error::FunctionNotFound(name.to_owned()))?,
            ),
            None => None,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.store().limits(ns.id, after, id, value, waiting, limit).await?;
        Ok(rows.into_iter().map(|row| self.limit_view(row)).collect())
    }

    fn limit_view(&self, row: LimitRow) -> LimitView {
        let catalog = self.catalog();
        let (word, path) =
            row.at.rule.split_once(' ').map_or((row.at.rule.as_str(), None), |(w, p)| (w, Some(p)));
        let kind = match word {
            "throttle" => "throttle",
            "rate" => "rate_limit",
            _ => "concurrency",
        };
        let (mut function, mut endpoint, mut per, mut limit, mut period) =
            (None, None, None, None, None);
        let mut fair = None;
        match row.at.of {
            LimitOf::Endpoint(id) => {
                let found = catalog.recorded.endpoints.iter().find(|e| e.id == id);
                endpoint = found.map(|e| e.name.clone());
                limit = found.and_then(|e| e.concurrency);
                per = Some("invocation");
            }
            LimitOf::Function(id) => {
                let found = catalog.recorded.function(id);
                function = found.map(|f| f.name.clone());
                let deployment =
                    found.and_then(|f| f.hosted).and_then(|(_, d)| catalog.deployment(d));
                let flow = deployment.as_ref().zip(function.as_ref()).and_then(|(d, f)| d.flow(f));
                if let Some(flow) = flow {
                    let rate = match kind {
                        "throttle" => flow.throttle.as_ref(),
                        "rate_limit" => flow.rate_limit.as_ref(),
                        _ => None,
                    };
                    let rate = rate.filter(|r| rule(word, r.key.as_ref()) == row.at.rule);
                    limit = rate.map(|r| r.limit);
                    period = rate.map(|r| r.period);
                    fair = rate.and_then(|r| r.fair.as_ref()).map(|p| p.as_str().to_owned());
                    let mut all = flow.concurrency.iter();
                    let slots = all.find(|c| rule("concurrency", c.key.as_ref()) == row.at.rule);
                    if let Some(slots) = slots {
                        limit = Some(slots.limit);
                        fair = slots.fair.as_ref().map(|p| p.as_str().to_owned());
                        per = Some(match slots.per {
                            Per::Invocation => "invocation",
                            Per::Run => "run",
                        });
                    }
                }
            }
        }
        LimitView {
            kind,
            function,
            endpoint,
            key: path.map(str::to_owned),
            value: path.map(|_| row.at.key.clone()),
            limit,
            fair,
            per,
            period,
            running: row.running.unsigned_abs(),
            queued: row.queued.unsigned_abs(),
            paused: row.paused.map(PausedView::of),
            at: row.at,
        }
    }

    /// The limit by its names, for who waits there.
    pub(super) fn held_at(&self, at: &LimitKey, before: u64) -> HeldAt {
        let none = LimitRow { at: at.clone(), running: 0, queued: 0, paused: None };
        let LimitView { kind, function, endpoint, key, value, .. } = self.limit_view(none);
        HeldAt { kind: kind.to_owned(), function, endpoint, key, value, before }
    }

    /// The limit of that name.
    fn named(&self, ns: &Namespace, name: &LimitName) -> Result<LimitKey, Error> {
        let catalog = self.catalog();
        let function = catalog
            .function(ns.id, &name.function)
            .ok_or_else(|| Error::FunctionNotFound(name.function.clone()))?;
        let invalid = |field: &str, detail: String| Error::Invalid(format!("/{field}"), detail);
        let deployment = catalog.deployment(function.dep);
        let flow = deployment.as_ref().and_then(|d| d.flow(&name.function));
        let mut limits = flow.into_iter().flat_map(|f| &f.concurrency);
        let wanted = name.key.as_deref();
        let found = limits.find(|c| c.key.as_ref().map(crate::machine::Path::as_str) == wanted);
        let Some(found) = found else {
            let detail = match wanted {
                Some(path) => {
                    format!("`{}` has no concurrency with the key `{path}`", name.function)
                }
                None => format!(
                    "`{}` has no concurrency without a key; name the key, or pause the function",
                    name.function
                ),
            };
            return Err(invalid("key", detail));
        };
        match (wanted, &name.value) {
            (Some(_), None) => {
                return Err(invalid("value", "is needed: which value of the key?".to_owned()));
            }
            (None, Some(_)) => {
                return Err(invalid("value", "has no meaning without a `key`".to_owned()));
            }
            _ => {}
        }
        Ok(LimitKey {
            of: LimitOf::Function(function.id),
            rule: rule("concurrency", found.key.as_ref()),
            key: name.value.clone().unwrap_or_default(),
        })
    }

    async fn limit_at(&self, ns: &Namespace, at: &LimitKey) -> Result<LimitView, Error> {
        let none = LimitRow { at: at.clone(), running: 0, queued: 0, paused: None };
        Ok(self.limit_view(self.store().limit(ns.id, at).await?.unwrap_or(none)))
    }

    /// Lets nobody through at one value of a limit's key; who is on the way goes on.
    pub async fn pause_limit(
        &self,
        ns: &Namespace,
        name: &LimitName,
        by: &str,
        reason: Option<&str>,
    ) -> Result<LimitView, Error> {
        self.fresh_catalog().await?;
        let at = self.named(ns, name)?;
        self.store().pause_limit(ns.id, &at, by, reason).await?;
        tracing::info!(
            function = name.function,
            key = at.key,
            by,
            reason,
            "a key of a limit is paused"
        );
        self.limit_at(ns, &at).await
    }

    /// Lets runs through again.
    pub async fn resume_limit(
        &self,
        ns: &Namespace,
        name: &LimitName,
        by: &str,
    ) -> Result<LimitView, Error> {
        self.fresh_catalog().await?;
        let at = self.named(ns, name)?;
        if self.store().resume_limit(&at).await? {
            tracing::info!(function = name.function, key = at.key, by, "a key of a limit goes on");
        }
        self.look_at_limit(at.clone(), ns.id);
        self.limit_at(ns, &at).await
    }

    /// Invokes no run of a function from now on; exchanges that are open go on.
    pub async fn pause_function(
        &self,
        ns: &Namespace,
        name: &str,
        by: &str,
        reason: Option<&str>,
    ) -> Result<FunctionView, Error> {
        let id = self.number_of(ns, name).await?;
        self.store().pause_function(id, by, reason).await?;
        tracing::info!(function = name, by, reason, "function paused");
        self.changed_function(ns, name).await
    }

    /// Lets the runs of a function go on.
    pub async fn resume_function(
        &self,
        ns: &Namespace,
        name: &str,
        by: &str,
        reason: Option<&str>,
    ) -> Result<FunctionView, Error> {
        let id = self.number_of(ns, name).await?;
        self.store().resume_function(id).await?;
        tracing::info!(function = name, by, reason, "function resumed");
        self.changed_function(ns, name).await
    }

    async fn number_of(&self, ns: &Namespace, name: &str) -> Result<i32, Error> {
        let catalog = self.fresh_catalog().await?;
        let found = catalog.function(ns.id, name).map(|f| f.id);
        found.ok_or_else(|| Error::FunctionNotFound(name.to_owned()))
    }

    async fn changed_function(&self, ns: &Namespace, name: &str) -> Result<FunctionView, Error> {
        self.reload_catalog().await;
        let found = self.function(ns, name).await?;
        found.ok_or_else(|| Error::FunctionNotFound(name.to_owned()))
    }
}
