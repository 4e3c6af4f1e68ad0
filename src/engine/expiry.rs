//! How long ended runs are kept where a namespace or a function says less than the gateway does.
//!
//! Who is kept equally long is one group of a namespace. Each group has its walk along the ended runs
//! in the order in which they were created. A round goes on where the last one came to, an hour of
//! overlap for runs that took a while; once a day a walk begins anew, for runs that took longer.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::{Engine, Error, lock};
use crate::machine::{RunId, Timestamp};
use crate::store::{ENDED_PAGE, EndedRun};

/// Pages of one group in a round; what is left waits for the next.
const PAGES: u32 = 1_000;
/// Runs that took no longer than this are found in the round after their time is up …
const OVERLAP: Duration = Duration::from_hours(1);
/// … and all others when the walk begins anew.
const AGAIN: Duration = Duration::from_hours(24);

/// The runs of a function (none: of any) that ended in one of these ways.
type Which = (Option<i32>, Vec<i16>);
/// By namespace and how long they are kept.
type Groups = BTreeMap<(i32, Duration), Vec<Which>>;

/// How far the walks of this node have come.
#[derive(Debug, Default)]
pub(super) struct Walks(Mutex<BTreeMap<(i32, Duration), Walk>>);

/// A walk along the ended runs of a namespace.
#[derive(Debug, Clone)]
struct Walk {
    /// What it looks for.
    which: Vec<Which>,
    /// Since when.
    begun: Timestamp,
    /// The last run that was looked at.
    after: RunId,
    /// It has been at the end of the list.
    ended: bool,
}

impl Walk {
    fn new(which: &[Which], now: Timestamp) -> Self {
        let after = RunId::floor(Timestamp::from_micros(0));
        Self { which: which.to_vec(), begun: now, after, ended: false }
    }

    fn goes(&self, ended: &EndedRun, before: Timestamp) -> bool {
        let of = |(function, statuses): &Which| {
            function.is_none_or(|f| f == ended.function_id) && statuses.contains(&ended.status)
        };
        ended.ended_at < before && self.which.iter().any(of)
    }
}

impl Engine {
    /// One round: deletes ended runs whose time is up, a bounded number of each group. Returns how
    /// many went. By one node at a time.
    pub async fn expire_runs(&self) -> Result<u64, Error> {
        let groups = self.kept_shorter();
        lock(&self.0.walks.0).retain(|group, _| groups.contains_key(group));
        let mut gone = 0;
        for (group, which) in groups {
            gone += self.walk(group, &which).await?;
        }
        Ok(gone)
    }

    async fn walk(&self, group: (i32, Duration), which: &[Which]) -> Result<u64, Error> {
        let (ns, kept) = group;
        let now = self.clock().lower();
        let before = now - kept;
        let known = lock(&self.0.walks.0).get(&group).cloned();
        let goes_on = |w: &Walk| w.which == which && !(w.ended && w.begun + AGAIN <= now);
        let mut walk = known.filter(goes_on).unwrap_or_else(|| Walk::new(which, now));
        let mut gone = 0;
        for _ in 0..PAGES {
            let page = self.store().ended_runs(ns, walk.after, before).await?;
            let up: Vec<EndedRun> =
                page.iter().filter(|run| walk.goes(run, before)).copied().collect();
            if !up.is_empty() {
                let ns =
                    self.catalog().namespace(ns).ok_or_else(|| Error::busy("it was removed"))?;
                let up: Vec<_> = up.iter().map(|up| (ns.clone(), up.run)).collect();
                self.archive(&up).await?;
            }
            let went = self.store().expire_runs(ns, &up).await?;
            metrics::counter!("stepwell_runs_expired_total").increment(went);
            gone += went;
            if let Some(last) = page.last() {
                walk.after = last.run;
            }
            let at_the_end = page.len() < ENDED_PAGE;
            if at_the_end {
                walk.after = RunId::floor(before - OVERLAP);
                walk.ended = true;
            }
            lock(&self.0.walks.0).insert(group, walk.clone());
            if at_the_end {
                break;
            }
        }
        Ok(gone)
    }

    /// Whose runs are kept for a shorter time than the gateway keeps all.
    fn kept_shorter(&self) -> Groups {
        let catalog = self.catalog();
        let mut groups = Groups::new();
        for n in &catalog.recorded.namespaces {
            let of_all = n.settings.retention.by_status();
            for (status, kept) in of_all {
                if let Some(kept) = kept.filter(|kept| *kept < self.retention()) {
                    groups.entry((n.id, kept)).or_default().push((None, vec![status]));
                }
            }
            for function in catalog.functions(n.id) {
                let deployment = catalog.deployment(function.dep);
                let own = deployment.and_then(|d| d.retention(&function.name));
                let Some(own) = own.filter(|own| *own < self.retention()) else { continue };
                let longer = |kept: Option<Duration>| kept.is_none_or(|kept| own < kept);
                let statuses = of_all.iter().filter(|(_, kept)| longer(*kept)).map(|(s, _)| *s);
                let statuses: Vec<i16> = statuses.collect();
                if !statuses.is_empty() {
                    groups.entry((n.id, own)).or_default().push((Some(function.id), statuses));
                }
            }
        }
        for which in groups.values_mut() {
            which.sort();
        }
        groups
    }

    /// How long the gateway keeps ended runs of all.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.0.settings.retention
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::{Kept, Status};

    #[test]
    fn each_end_has_its_code() {
        let codes = Kept::default().by_status().map(|(code, _)| code);
        let ends = [
            Status::Completed,
            Status::Failed,
            Status::Cancelled,
            Status::TimedOut,
            Status::Terminated,
        ];
        assert_eq!(codes, ends.map(Status::code));
    }
}
