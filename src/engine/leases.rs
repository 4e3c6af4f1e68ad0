//! Which shards this node drives: the tick once a second, claims, hand-over, take-over.

use std::time::Duration;

use super::owner::{HORIZON, Tenure, Unlisted};
use super::{Engine, Point, Route};
use crate::machine::{NodeId, RunId, Shard, Timestamp, id::GROUPS};
use crate::store::{NodeBeat, Projection, Tick};

/// How long a node may be silent before its runs are taken over.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// How often it says that it lives.
const BEAT: Duration = Duration::from_millis(750);
/// How much longer than its lease a node may be silent before another removes it.
const GRACE: Duration = Duration::from_millis(500);
/// How many runs one page of a take-over has.
const PAGE: i64 = 5_000;
/// How many groups one statement of a take-over walks: each gives up to a whole page to sort.
const GROUPS_AT_ONCE: usize = 16;

fn is_full(page: usize) -> bool {
    i64::try_from(page).is_ok_and(|n| n >= PAGE)
}

/// What a node knows of the cluster from its last tick.
#[derive(Debug, Default, Clone)]
pub(super) struct Cluster {
    /// Live nodes and where they are.
    nodes: Vec<(NodeId, String)>,
    /// Owner of each group.
    owners: Vec<Option<NodeId>>,
    /// The version of the catalog that the others may have.
    pub(super) config_version: i64,
}

impl Cluster {
    /// The live nodes, with how many groups each has.
    pub(super) fn shares(&self) -> Vec<(NodeId, usize)> {
        let groups = |id: NodeId| self.owners.iter().filter(|owner| **owner == Some(id)).count();
        self.nodes.iter().map(|(id, _)| (*id, groups(*id))).collect()
    }
}

impl Engine {
    /// Who drives a shard, as of the last tick.
    #[must_use]
    pub fn route(&self, shard: Shard) -> Route {
        let me = self.node();
        {
            let cluster = self.cluster();
            let Some(Some(owner)) = cluster.owners.get(usize::from(shard.group())).copied() else {
                return Route::Nobody;
            };
            if owner != me {
                let node = cluster.nodes.iter().find(|(id, _)| *id == owner);
                return node.map_or(Route::Nobody, |(_, address)| Route::Node(address.clone()));
            }
        }
        // It may have been given up since.
        let here = self.lease_holds() && self.owner().tenure(shard).is_some();
        if here { Route::Here } else { Route::Nobody }
    }

    /// Where the other live nodes are, as of the last tick.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let me = self.node();
        let cluster = self.cluster();
        cluster.nodes.iter().filter(|(id, _)| *id != me).map(|(_, at)| at.clone()).collect()
    }

    /// Runs until the node stops: beats, claims, takes over, hands over.
    pub(super) async fn keep_lease(&self) {
        let mut unbroken_since: Option<Duration> = None;
        let mut joined = false;
        while !self.has_left() {
            let begun = self.clock().mono();
            if !joined {
                match self.join().await {
                    Ok(()) => joined = true,
                    Err(error) => tracing::warn!(%error, "cannot join the cluster yet"),
                }
            }
            if joined {
                // Only who has been alive for a whole lease may say that others are dead: after an
                // outage of Postgres everybody is late.
                let reap = unbroken_since
                    .is_some_and(|since| begun.saturating_sub(since) > LEASE)
                    .then_some(GRACE);
                match self.store().tick(&self.beat(), reap).await {
                    Ok(tick) if tick.fenced => {
                        tracing::warn!(
                            "this node was declared dead; it drops its runs and joins anew"
                        );
                        self.drop_everything();
                        self.renew_node_id();
                        joined = false;
                        unbroken_since = None;
                        continue;
                    }
                    Ok(tick) => {
                        unbroken_since.get_or_insert(begun);
                        self.ticked(begun, tick).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "tick failed");
                        unbroken_since = None;
                        if error.is_unavailable() {
                            self.postgres_away(true);
                        }
                    }
                }
            }
            let spent = self.clock().mono().saturating_sub(begun);
            let rest = if joined { BEAT } else { BEAT / 4 }.saturating_sub(spent);
            tokio::time::sleep(rest).await;
        }
    }

    pub(super) fn beat(&self) -> NodeBeat {
        let leaving = self.owner().leaving;
        NodeBeat { id: self.node(), address: self.address().to_owned(), ttl: LEASE, leaving }
    }

    async fn join(&self) -> Result<(), crate::store::Error> {
        let before = self.clock().mono();
        let now = self.store().now().await?;
        self.clock().anchor(now, before);
        self.store().join(&self.beat()).await
    }

    async fn ticked(&self, begun: Duration, tick: Tick) {
        self.clock().anchor(tick.now, begun);
        self.postgres_away(false);
        let me = self.node();
        let lost: Vec<u8> = {
            let owner = self.owner();
            let had_lapsed = owner.lease_until <= begun && owner.lease_until > Duration::ZERO;
            if had_lapsed {
                tracing::warn!("the lease had passed; it holds again");
            }
            (0..=u8::MAX)
                .filter(|g| {
                    let (holder, term) = tick.groups[usize::from(*g)];
                    owner.tenures[usize::from(*g)]
                        .is_some_and(|t| holder != Some(me) || i64::from(t.term) != term)
                })
                .collect()
        };
        if !lost.is_empty() {
            tracing::warn!(groups = lost.len(), "lease groups went to other nodes");
            self.drop_groups(&lost);
        }
        {
            // Only now: what is left is this node's still.
            let mut owner = self.owner();
            owner.lease_until = begun + LEASE;
            if std::mem::take(&mut owner.missed) {
                let all: Vec<RunId> = owner.runs.keys().copied().collect();
                for run in all {
                    self.pump(&mut owner, run);
                }
            }
            self.release_what_can(&mut owner);
        }
        {
            let mut cluster = self.cluster();
            cluster.nodes.clone_from(&tick.nodes);
            cluster.owners = tick.groups.iter().map(|(owner, _)| *owner).collect();
            cluster.config_version = tick.config_version;
        }
        if tick.config_version != self.catalog().version {
            self.reload_catalog().await;
        }
        let alive = |node: NodeId| tick.nodes.iter().any(|(id, _)| *id == node);
        self.hear_circuits(&tick.circuits, alive, begun);
        self.balance(&tick).await;
        self.keep_gates();
        {
            let mut owner = self.owner();
            self.fetch_mail(&mut owner, tick.inboxes.iter().copied());
        }
        self.post(tick.outboxes.iter().copied());
        self.bury_dead_letters(&tick.inboxes);
        self.tell_lists().await;
        // Who waits here for what others drive, because they could not be asked, looks again.
        self.watchers().tell_all_but(&self.held());
        metrics::gauge!("stepwell_lease_groups").set(super::counted(self.held().len()));
        metrics::gauge!("stepwell_runs_in_memory").set(super::counted(self.owner().runs.len()));
    }

    /// Groups held now.
    pub(super) fn held(&self) -> Vec<i16> {
        let owner = self.owner();
        (0..).zip(&owner.tenures).filter(|(_, t)| t.is_some()).map(|(g, _)| g).collect()
    }

    /// Takes free groups up to a fair share, or gives some up.
    async fn balance(&self, tick: &Tick) {
        if self.owner().leaving {
            return;
        }
        let share = usize::from(GROUPS).div_ceil(tick.staying.max(1));
        let held = self.held();
        // Its own by the table and not in memory: it has just come back, or Postgres was away when
        // it let go of them. Nobody else may take them while this node lives.
        let me = self.node();
        let mut stray: Vec<(i16, i64)> = (0i16..)
            .zip(&tick.groups)
            .filter(|(g, (holder, _))| *holder == Some(me) && !held.contains(g))
            .map(|(g, (_, term))| (g, *term))
            .collect();
        let too_many = stray.split_off(stray.len().min(share.saturating_sub(held.len())));
        let too_many: Vec<i16> = too_many.into_iter().map(|(g, _)| g).collect();
        self.let_go_of(&too_many).await;
        if held.len() > share {
            self.hand_over(held.len() - share).await;
            return;
        }
        let is_live = |node: &NodeId| tick.nodes.iter().any(|(id, _)| id == node);
        let mut free: Vec<(i16, i64)> = (0i16..)
            .zip(&tick.groups)
            .filter(|(g, (holder, _))| {
                !held.contains(g) && holder.as_ref().is_none_or(|n| !is_live(n))
            })
            .map(|(g, (_, term))| (g, *term))
            .collect();
        // Before what nobody has: it would be lost to all.
        free.splice(0..0, stray);
        free.truncate(share - held.len());
        if free.is_empty() {
            return;
        }
        match self.store().claim(self.node(), &free).await {
            Ok(won) if won.is_empty() => {}
            Ok(won) => self.take_over(&won, tick.now),
            Err(error) => tracing::warn!(%error, "cannot claim lease groups"),
        }
    }

    /// These groups are this node's now.
    fn take_over(&self, won: &[(i16, i64)], since: Timestamp) {
        self.faults().reach(Point::LeaseClaimed);
        let groups: Vec<i16> = won.iter().map(|(g, _)| *g).collect();
        {
            let mut owner = self.owner();
            for (group, term) in won {
                let index = usize::try_from(*group).unwrap_or(0);
                let term = i32::try_from(*term).unwrap_or(i32::MAX);
                owner.tenures[index] = Some(Tenure { term, since });
            }
        }
        {
            let me = self.node();
            let mut cluster = self.cluster();
            for group in &groups {
                let index = usize::try_from(*group).unwrap_or(0);
                if let Some(slot) = cluster.owners.get_mut(index) {
                    *slot = Some(me);
                }
            }
        }
        // The next heartbeat does not wait for this.
        let engine = self.clone();
        self.spawn(async move { engine.look_around(groups).await });
    }

    /// Finds what is to be driven in new groups: what is hot, what is due soon, what has mail.
    async fn look_around(&self, groups: Vec<i16>) {
        let begun = self.clock().mono();
        let hot = self.find_hot(&groups).await;
        let parked = self.find_parked(&groups).await;
        let mail = self.store().inbox_heads(&groups, 100_000).await.unwrap_or_default();
        {
            let mut owner = self.owner();
            self.bring_in(&mut owner, mail);
        }
        self.find_gated(&groups).await;
        self.find_granted(&groups).await;
        metrics::histogram!("stepwell_takeover_seconds")
            .record(self.clock().mono().saturating_sub(begun).as_secs_f64());
        tracing::info!(
            groups = groups.len(),
            hot,
            parked,
            duration_ms = self.clock().mono().saturating_sub(begun).as_millis(),
            "took over lease groups"
        );
        self.watchers().tell_all();
    }

    async fn find_hot(&self, groups: &[i16]) -> usize {
        let mut count = 0;
        for some in groups.chunks(GROUPS_AT_ONCE) {
            let mut after = None;
            loop {
                let page = match self.store().hot_runs(some, after, PAGE).await {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read hot runs; trying again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        let held = self.held();
                        if some.iter().any(|group| held.contains(group)) {
                            continue;
                        }
                        break;
                    }
                };
                count += page.len();
                after = page.last().copied();
                let more = is_full(page.len());
                let mut owner = self.owner();
                self.bring_in(&mut owner, page);
                drop(owner);
                if !more {
                    break;
                }
            }
        }
        count
    }

    /// Parked runs that wake within the horizon: only their moments are kept.
    pub(super) async fn find_parked(&self, groups: &[i16]) -> usize {
        let until = self.clock().upper() + HORIZON + HORIZON / 2;
        let mut count = 0;
        for some in groups.chunks(GROUPS_AT_ONCE) {
            let mut after = None;
            loop {
                let page = match self.store().parked(some, until, after, PAGE).await {
                    Ok(page) => page,
                    Err(error) => {
                        tracing::warn!(%error, "cannot read parked runs; the next round will");
                        return count;
                    }
                };
                count += page.len();
                after = page.last().map(|(run, at)| (*at, *run));
                let more = is_full(page.len());
                let mut owner = self.owner();
                for (run, at) in page {
                    if !owner.runs.contains_key(&run) {
                        self.wake_at(&mut owner, at, super::owner::Wake::Run(run));
                    }
                }
                drop(owner);
                if !more {
                    break;
                }
            }
        }
        count
    }

    /// Looks for parked runs that come within the horizon, as long as the node lives.
    pub(super) async fn keep_horizon(&self) {
        let mut looked = self.clock().lower();
        loop {
            // By the cluster's time, for that is what the horizon is about; and by this node's, for
            // what was missed.
            let next = looked + HORIZON / 2;
            let reached = async {
                while self.clock().lower() < next {
                    self.clock().until(next).await;
                }
            };
            let _ = tokio::time::timeout(HORIZON / 2, reached).await;
            looked = self.clock().lower();
            let groups = self.held();
            self.find_parked(&groups).await;
            // Level-triggered: whatever was missed while Postgres was away is found here.
            self.find_hot(&groups).await;
            self.find_gated(&groups).await;
        }
    }

    /// Gives up to `count` groups to nodes that have less; only such where nothing is open.
    pub(super) async fn hand_over(&self, count: usize) {
        let (groups, kept): (Vec<i16>, Vec<u8>) = {
            let owner = self.owner();
            let busy: std::collections::HashSet<u8> = owner
                .runs
                .iter()
                .filter(|(_, e)| {
                    e.in_flight.is_some() || e.admitted.is_some() || e.run.works.out() > 0
                })
                .map(|(id, _)| id.shard().group())
                .collect();
            let held = (0u8..=u8::MAX).filter(|g| owner.tenures[usize::from(*g)].is_some());
            let (kept, free): (Vec<u8>, Vec<u8>) = held.partition(|g| busy.contains(g));
            let short = count.saturating_sub(free.len()).min(kept.len());
            (free.into_iter().take(count).map(i16::from).collect(), kept[..short].to_vec())
        };
        // What keeps the rest is asked to finish, so that the next round can have them.
        if !kept.is_empty() {
            self.ask_to_leave(|id| kept.contains(&id.shard().group()));
        }
        self.give_up(&groups).await;
    }

    /// Drops these groups from memory, then lets others have them.
    pub(super) async fn give_up(&self, groups: &[i16]) {
        if groups.is_empty() {
            return;
        }
        let dropped: Vec<u8> = groups.iter().filter_map(|g| u8::try_from(*g).ok()).collect();
        self.drop_groups(&dropped);
        self.faults().reach(Point::HandoverMid);
        self.let_go_of(groups).await;
    }

    /// Lets others have groups that are not in memory.
    async fn let_go_of(&self, groups: &[i16]) {
        if groups.is_empty() {
            return;
        }
        if let Err(error) = self.store().release(self.node(), groups).await {
            tracing::warn!(%error, "cannot release lease groups; the next round tries again");
        }
    }

    fn drop_groups(&self, groups: &[u8]) {
        let mut owner = self.owner();
        for group in groups {
            owner.tenures[usize::from(*group)] = None;
        }
        let gone: Vec<RunId> =
            owner.runs.keys().copied().filter(|id| owner.tenure(id.shard()).is_none()).collect();
        for id in gone {
            owner.forget(id);
            owner.unlisted.remove(&id);
        }
        drop(owner);
        self.watchers().tell_all();
    }

    pub(super) fn drop_everything(&self) {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        self.drop_groups(&all);
        self.owner().lease_until = Duration::ZERO;
    }

    /// Whether this node drives a group.
    pub(super) fn is_ours_group(&self, group: usize) -> bool {
        self.owner().tenures[group].is_some()
    }

    /// Whether this node may still speak for its runs.
    #[must_use]
    pub(super) fn lease_holds(&self) -> bool {
        self.owner().lease_until > self.clock().mono()
    }

    /// What is in the inbox of runs that have ended goes to their history.
    fn bury_dead_letters(&self, runs: &[RunId]) {
        if runs.is_empty() {
            return;
        }
        let (engine, runs) = (self.clone(), runs.to_vec());
        self.spawn(async move {
            if let Err(error) = engine.store().bury(&runs).await {
                tracing::warn!(%error, "messages of ended runs stay in the inbox for now");
            }
        });
    }

    /// Lists show a status that has lasted for a second, at most once a second for each run.
    async fn tell_lists(&self) {
        let now = self.clock().upper();
        let due: Vec<(RunId, Unlisted)> = {
            let mut owner = self.owner();
            let ids: Vec<RunId> = owner
                .unlisted
                .iter()
                .filter(|(_, u)| now.since(u.since) >= Duration::from_millis(500))
                .map(|(id, _)| *id)
                .take(5_000)
                .collect();
            ids.into_iter().filter_map(|id| Some((id, owner.unlisted.remove(&id)?))).collect()
        };
        for chunk in due.chunks(500) {
            let projections: Vec<Projection> = chunk
                .iter()
                .map(|(run, u)| Projection {
                    run: *run,
                    status: u.status.code(),
                    at: now,
                    attention: u.attention.clone().map(Into::into),
                    fingerprint: u.fingerprint,
                })
                .collect();
            if let Err(error) = self.store().project_status(&projections).await {
                tracing::warn!(%error, "lists trail");
                let mut owner = self.owner();
                for (run, unlisted) in chunk {
                    owner.unlisted.entry(*run).or_insert_with(|| unlisted.clone());
                }
            }
        }
    }
}
