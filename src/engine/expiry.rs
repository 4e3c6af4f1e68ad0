//! How long ended runs are kept where a namespace or a function says less than the gateway does.
//!
//! Who is kept equally long is one group of a namespace. Each group has its walk along the ended runs
//! in the order of their ends, up to those whose time is not up yet: what it has passed it does not
//! see again, whether it went or is kept for longer. It begins anew when what it looks for changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use super::{Engine, Error, lock};
use crate::machine::{RunId, Timestamp};
use crate::store::{ENDED_PAGE, EndedRun};

/// Pages of one group in a round; what is left waits for the next.
const PAGES: u32 = 1_000;
/// An end has its moment before it is recorded, and may be recorded late, as after an outage. Nobody
/// keeps runs for less than an hour, so a walk is at least that far behind; a moment is walked over
/// in two rounds and this much longer nevertheless.
const OVERLAP: Duration = Duration::from_mins(10);
/// Runs of a group that could not go. With more of them the walk stays where it is.
const LEFT: usize = 10_000;

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
    /// The last end that was looked at.
    after: (Timestamp, RunId),
    /// All ends before this moment had been looked at when a round came to its end last.
    whole: Option<Timestamp>,
    /// Whose time is up, in the archive if there is one, but they could not go: they have others to
    /// tell yet, or somebody held them.
    left: BTreeSet<EndedRun>,
}

/// Before all that ended at a moment.
fn beginning(at: Timestamp) -> (Timestamp, RunId) {
    (at, RunId::floor(Timestamp::from_micros(0)))
}

impl Walk {
    fn new(which: &[Which]) -> Self {
        let after = beginning(Timestamp::from_micros(0));
        Self { which: which.to_vec(), after, whole: None, left: BTreeSet::new() }
    }

    /// Whether a run is one that it looks for, and has not found yet.
    fn wants(&self, ended: &EndedRun) -> bool {
        let of = |(function, statuses): &Which| {
            function.is_none_or(|f| f == ended.function_id) && statuses.contains(&ended.status)
        };
        self.which.iter().any(of) && !self.left.contains(ended)
    }

    /// All that ended before a moment has been looked at. The next round begins a little before the
    /// moment of the round before this one.
    fn rests(&mut self, before: Timestamp) {
        let last = self.whole.replace(before).unwrap_or(before);
        self.after = beginning(last.min(before) - OVERLAP);
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
        let before = self.clock().lower() - kept;
        let known = lock(&self.0.walks.0).get(&group).cloned();
        let mut walk = known.filter(|w| w.which == which).unwrap_or_else(|| Walk::new(which));
        let left: Vec<EndedRun> = std::mem::take(&mut walk.left).into_iter().collect();
        let mut gone = self.expire(ns, &left, &mut walk).await?;
        lock(&self.0.walks.0).insert(group, walk.clone());
        for _ in 0..PAGES {
            if walk.left.len() >= LEFT {
                tracing::warn!(ns, ?kept, "too many ended runs have others to tell yet");
                break;
            }
            let page = self.store().ended_runs(ns, walk.after, before).await?;
            let up: Vec<EndedRun> = page.iter().filter(|run| walk.wants(run)).copied().collect();
            if !up.is_empty() {
                let ns =
                    self.catalog().namespace(ns).ok_or_else(|| Error::busy("it was removed"))?;
                let up: Vec<_> = up.iter().map(|up| (ns.clone(), up.run)).collect();
                self.archive(&up).await?;
            }
            gone += self.expire(ns, &up, &mut walk).await?;
            if let Some(last) = page.last() {
                walk.after = (last.ended_at, last.run);
            }
            let at_the_end = page.len() < ENDED_PAGE;
            if at_the_end {
                walk.rests(before);
            }
            lock(&self.0.walks.0).insert(group, walk.clone());
            if at_the_end {
                break;
            }
        }
        Ok(gone)
    }

    /// Deletes runs whose time is up. Those that cannot go are tried again in the next round.
    async fn expire(&self, ns: i32, up: &[EndedRun], walk: &mut Walk) -> Result<u64, Error> {
        let expired = self.store().expire_runs(ns, up).await?;
        metrics::counter!("stepwell_runs_expired_total").increment(expired.gone);
        walk.left.extend(expired.left);
        Ok(expired.gone)
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
