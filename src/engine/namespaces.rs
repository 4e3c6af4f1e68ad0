//! Namespaces: who may have which, what each may have and do.
//!
//! Who has `admin` in the namespace `default` looks after all of them; everybody else has the one of
//! their credential.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::pull::is_pull;
use super::{Caller, Engine, Error, Namespace, Scope};
use crate::machine::{Allowance, Bucket, Taken, Timestamp};
use crate::store::{NamespaceRemoved, NamespaceRow, NamespaceSettings};

/// The namespace that is always there, and whose admins look after all.
pub(super) const DEFAULT: &str = "default";
/// The most namespaces.
const MOST: usize = 1_000;
/// Live runs are counted anew at most so often while there is room, …
const COUNTED: Duration = Duration::from_secs(1);
/// … and while there is none.
const COUNTED_FULL: Duration = Duration::from_millis(250);
/// How many times its quota of live runs a namespace may have by what it has in hand.
const IN_HAND: u64 = 2;
/// When to try again where ends of runs have to make room.
const ROOM_SOON: Duration = Duration::from_secs(1);

/// What this node knows of how namespaces use what they may.
#[derive(Debug, Default)]
pub(super) struct Quotas(Mutex<HashMap<i32, Used>>);

#[derive(Debug, Clone, Copy, Default)]
struct Used {
    starts: Bucket,
    requests: Bucket,
    /// Live runs when they were counted last, in monotonic time, and what was let through since.
    counted: Option<(Duration, u64)>,
    since: u64,
}

impl Quotas {
    fn with<T>(&self, ns: i32, look: impl FnOnce(&mut Used) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(all.entry(ns).or_default())
    }
}

impl Used {
    /// Whether one more live run fits, as far as that is known.
    fn admit(&mut self, most: u64, now: Duration) -> Option<bool> {
        let (read, count) = self.counted?;
        let age = now.saturating_sub(read);
        if count + self.since < most {
            self.since += 1;
            (age < COUNTED).then_some(true)
        } else {
            (age < COUNTED_FULL).then_some(false)
        }
    }
}

/// A namespace, with how many runs live in it.
#[derive(Debug, Clone)]
pub struct NamespaceView {
    /// As it is recorded.
    pub row: NamespaceRow,
    /// Its live runs, up to 10,000 or what it may have.
    pub live_runs: u64,
}

impl Caller {
    /// Whether it looks after all namespaces.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.namespace.name == DEFAULT && self.scopes.allow(Scope::Admin)
    }
}

impl Engine {
    /// The namespaces that a caller may know of: all, or its own.
    pub async fn namespaces(&self, caller: &Caller) -> Result<Vec<NamespaceRow>, Error> {
        let mut all = self.fresh_catalog().await?.recorded.namespaces.clone();
        all.retain(|n| caller.is_operator() || n.id == caller.namespace.id);
        Ok(all)
    }

    /// One of them, by its name.
    pub async fn namespace(&self, caller: &Caller, name: &str) -> Result<NamespaceView, Error> {
        let row = self.namespaces(caller).await?.into_iter().find(|n| n.name == name);
        let row = row.ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))?;
        let most = row.settings.live_runs.map_or(10_000, |n| i64::from(n).max(10_000));
        let live_runs = self.store().living_in(row.id, most).await?;
        Ok(NamespaceView { row, live_runs })
    }

    /// The namespace that a caller means by a name: its own, or any if it looks after all.
    pub async fn namespace_of(
        &self,
        caller: &Caller,
        name: Option<&str>,
    ) -> Result<Namespace, Error> {
        match name {
            None => Ok(caller.namespace.clone()),
            Some(name) if name == caller.namespace.name => Ok(caller.namespace.clone()),
            Some(name) => {
                let view = self.namespace(caller, name).await?;
                Ok(Namespace { id: view.row.id, name: view.row.name })
            }
        }
    }

    /// Makes a namespace. Whether it is new: one that is just the same is no error.
    pub async fn create_namespace(
        &self,
        name: &str,
        settings: NamespaceSettings,
        by: &str,
    ) -> Result<(NamespaceRow, bool), Error> {
        let known = self.fresh_catalog().await?.recorded.namespaces.clone();
        if let Some(there) = known.iter().find(|n| n.name == name) {
            return if there.settings == settings {
                Ok((there.clone(), false))
            } else {
                Err(Error::NamespaceExists(name.to_owned()))
            };
        }
        if known.len() >= MOST {
            let detail = format!("there are {MOST} namespaces, which is the limit");
            return Err(Error::Invalid(String::new(), detail));
        }
        let made = self.store().create_namespace(name, &settings).await?;
        let made = made.ok_or_else(|| Error::NamespaceExists(name.to_owned()))?;
        self.reload_catalog().await;
        tracing::info!(namespace = name, by, "namespace created");
        Ok((made, true))
    }

    /// Changes what a namespace may have and do, if it is still at its version. Hosts that are in
    /// use stay allowed, or their endpoints and webhooks have to go first.
    pub async fn change_namespace(
        &self,
        it: &NamespaceRow,
        settings: NamespaceSettings,
        by: &str,
    ) -> Result<NamespaceRow, Error> {
        if let Some(hosts) = &settings.hosts {
            let catalog = self.catalog();
            let recorded = &catalog.recorded;
            let endpoints = recorded.endpoints.iter().filter(|e| e.ns == it.id);
            let webhooks = recorded.webhooks.iter().filter(|w| w.ns == it.id);
            let used = (endpoints.map(|e| ("endpoint", &e.name, &e.url)))
                .chain(webhooks.map(|w| ("webhook", &w.spec.name, &w.spec.url)));
            for (kind, name, url) in used {
                // Nobody is called at a pull endpoint.
                if !is_pull(url) && url.parse().is_ok_and(|url| !allows(hosts, &url)) {
                    let detail = format!(
                        "the {kind} `{name}` is at {url}, which none of these allows; change or \
                         remove it first"
                    );
                    return Err(Error::Invalid("/hosts".to_owned(), detail));
                }
            }
        }
        let changed = self.store().update_namespace(it.id, it.version, &settings).await?;
        let changed = changed.ok_or(Error::NamespaceStale)?;
        self.reload_catalog().await;
        tracing::info!(namespace = it.name, by, "namespace changed");
        Ok(changed)
    }

    /// Removes a namespace that has nothing that goes on.
    pub async fn remove_namespace(&self, it: &NamespaceRow, by: &str) -> Result<(), Error> {
        if it.name == DEFAULT {
            return Err(Error::NamespaceInUse(it.name.clone(), "the operators".to_owned()));
        }
        match self.store().remove_namespace(it.id, it.version).await? {
            NamespaceRemoved::Done => {}
            NamespaceRemoved::Has(what) => {
                return Err(Error::NamespaceInUse(it.name.clone(), what));
            }
            NamespaceRemoved::Stale => return Err(Error::NamespaceStale),
        }
        self.reload_catalog().await;
        tracing::info!(namespace = it.name, by, "namespace removed");
        Ok(())
    }

    // --- quotas --------------------------------------------------------------------------------

    /// One request more of a namespace, if it has an allowance for requests.
    #[must_use]
    pub fn take_request(&self, ns: i32, now: Timestamp) -> Option<(Allowance, Taken)> {
        let allowance = self.catalog().settings(ns)?.requests?;
        let taken = self.quotas().with(ns, |used| allowance.take(&mut used.requests, now));
        Some((allowance, taken))
    }

    /// One start more of a namespace, if its quotas allow it.
    pub(super) async fn within_quotas(&self, ns: &Namespace) -> Result<(), Error> {
        let catalog = self.catalog();
        let Some(settings) = catalog.settings(ns.id) else { return Ok(()) };
        let over = |quota: &'static str, of: String, retry_after| {
            metrics::counter!("stepwell_quota_refusals_total", "quota" => quota).increment(1);
            Error::QuotaExceeded { namespace: ns.name.clone(), quota, of, retry_after }
        };
        if let Some(most) = settings.live_runs.map(u64::from)
            && !self.has_room(ns.id, most, 1).await?
        {
            return Err(over("live_runs", most.to_string(), ROOM_SOON));
        }
        if let Some(allowance) = settings.starts {
            let now = self.clock().steady();
            let taken = self.quotas().with(ns.id, |used| allowance.take(&mut used.starts, now));
            if !taken.granted {
                self.quotas().with(ns.id, |used| used.since = used.since.saturating_sub(1));
                return Err(over("starts", allowance.to_string(), taken.next));
            }
        }
        Ok(())
    }

    /// The same for what a namespace has in hand already: children of its runs, firings of its schedules,
    /// what its events start. That goes on beyond the quota, but not without an end: a run that starts
    /// itself twice would otherwise have all of the cluster. None: there is room; else what there is not.
    pub(super) async fn beyond_quotas(&self, ns: &Namespace) -> Result<Option<String>, Error> {
        let most = self.catalog().settings(ns.id).and_then(|s| s.live_runs).map(u64::from);
        let Some(most) = most else { return Ok(None) };
        if self.has_room(ns.id, most, IN_HAND).await? {
            return Ok(None);
        }
        metrics::counter!("stepwell_quota_refusals_total", "quota" => "in_hand").increment(1);
        Ok(Some(format!(
            "the namespace `{}` has {IN_HAND} times its quota of {most} live runs",
            ns.name
        )))
    }

    /// Whether one more live run is within so many times a quota.
    async fn has_room(&self, ns: i32, quota: u64, times: u64) -> Result<bool, Error> {
        let most = quota * times;
        let now = self.clock().mono();
        if let Some(known) = self.quotas().with(ns, |used| used.admit(most, now)) {
            return Ok(known);
        }
        let up_to = i64::try_from(quota * IN_HAND).unwrap_or(i64::MAX);
        let count = self.store().living_in(ns, up_to).await?;
        let now = self.clock().mono();
        Ok(self.quotas().with(ns, |used| {
            (used.counted, used.since) = (Some((now, count)), 0);
            used.admit(most, now).unwrap_or_default()
        }))
    }

    /// Refuses an address that a namespace may not have.
    pub(super) fn allowed_host(&self, ns: i32, url: &Url) -> Result<(), String> {
        let catalog = self.catalog();
        let hosts = catalog.settings(ns).and_then(|s| s.hosts.as_ref());
        match hosts {
            Some(hosts) if !allows(hosts, url) => {
                let host = url.host_str().unwrap_or_default();
                let known = hosts.join(", ");
                Err(format!("{host} is not among the hosts of this namespace: {known}"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether one of these hosts is that of a URL. `*.example.com` are all below it.
fn allows(hosts: &[String], url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_end_matches('.');
    hosts.iter().any(|pattern| match pattern.strip_prefix('*') {
        Some(below) => host.len() > below.len() && host.ends_with(below),
        None => host == pattern,
    })
}

/// A host as it is compared, or what is wrong with it.
pub fn host_pattern(text: &str) -> Result<String, String> {
    let wrong = || {
        "must be a host such as `api.example.com`, `*.example.com` or `10.0.0.7`, without port and path".to_owned()
    };
    let (star, name) = match text.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", text),
    };
    let url: Url = format!("http://{name}/").parse().map_err(|_| wrong())?;
    let host = url.host_str().ok_or_else(wrong)?;
    let whole = url.port().is_none() && url.path() == "/" && url.username().is_empty();
    let plain = whole && url.query().is_none() && !name.contains(['/', '@', ':', '?', '#'])
        || name.starts_with('[') && whole;
    if !plain
        || host.contains('*')
        || (!star.is_empty() && host.parse::<std::net::IpAddr>().is_ok())
    {
        return Err(wrong());
    }
    Ok(format!("{star}{}", host.trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_compared_as_urls_have_them() {
        for (given, kept) in [
            ("api.example.com", "api.example.com"),
            ("API.Example.com.", "api.example.com"),
            ("*.example.com", "*.example.com"),
            ("10.0.0.7", "10.0.0.7"),
            ("0x0a000007", "10.0.0.7"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(host_pattern(given).as_deref(), Ok(kept), "{given}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "a/b",
            "a:80",
            "http://a",
            "u@a",
            "a?b",
            "*.10.0.0.7",
            "a.*.b",
            "*.*.b",
            "a b",
        ] {
            assert!(host_pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_for_all_below_and_not_for_a_longer_name() {
        let hosts = ["*.example.com".to_owned(), "one.test".to_owned()];
        let allowed = |url: &str| allows(&hosts, &url.parse().expect("a URL"));
        for yes in [
            "https://a.example.com/x",
            "http://b.a.example.com:8080",
            "https://one.test",
            "https://ONE.test./",
        ] {
            assert!(allowed(yes), "{yes}");
        }
        for no in [
            "https://example.com",
            "https://badexample.com",
            "https://a.one.test",
            "https://one.test.evil.org",
            "https://a.example.com.evil.org",
        ] {
            assert!(!allowed(no), "{no}");
        }
    }

    #[test]
    fn room_is_counted_between_two_looks() {
        let mut used = Used { counted: Some((Duration::ZERO, 3)), ..Used::default() };
        let at = Duration::from_millis;
        assert_eq!(used.admit(5, at(10)), Some(true));
        assert_eq!(used.admit(5, at(20)), Some(true));
        assert_eq!(used.admit(5, at(30)), Some(false));
        assert_eq!(used.admit(5, at(300)), None, "some may have ended");
        assert_eq!(used.admit(9, at(2_000)), None, "others may have started some");
    }
}
