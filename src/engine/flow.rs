//! Runs pass the limits of their function and endpoint one after the other before they are invoked.
//!
//! A run asks the first limit that has not let it through, and waits; who decides is the database,
//! for all nodes. Limits with a key come before those without, so that of a busy key no more wait at
//! a common limit than the key's own limit lets through: others are not kept from it. And since
//! everybody asks in this order, nobody waits in a circle.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use super::barriers::Barrier;
use super::lanes::Line;
use super::owner::{Entry, Owner, Wake};
use super::{Engine, Point, lock};
use crate::machine::{Attention, Env, Run, RunId, Timestamp, Turn};
use crate::store::{self, Ask, Granted, LimitKey, Most, Passed, Release};

/// The gate of runs that wait for a limit out of memory: no endpoint or function has this number.
pub(super) const LIMIT_GATE: i64 = 1 << 40;
/// The most asks and releases of one transaction.
const BATCH: usize = 500;
/// A run that waits for less than this stays in memory.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many runs leave memory with one tick at most.
const MOST_LEAVING: usize = 4_000;
/// How often grants are looked for that another node gave to runs of this one.
const LOOK: Duration = Duration::from_millis(250);
/// How often slots are looked for that nobody gave back, grants that nobody heard of, and keys that
/// nobody looks after.
const SWEEP: Duration = Duration::from_secs(3);
/// How long to wait before a transaction that Postgres gave up is tried again.
const BUSY: Duration = Duration::from_millis(10);
/// A limit that no longer exists lets everybody through.
const GONE: Most = Most::Slots(100_000);

/// What is to be said to the database, in order.
#[derive(Debug, Clone)]
enum Word {
    Ask(Ask),
    Release(Release),
}

/// What is said in one transaction: first all releases.
#[derive(Debug, Default)]
struct Said {
    asks: Vec<Ask>,
    releases: Vec<Release>,
}

/// The limits, as this node talks to them.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    words: Mutex<VecDeque<Word>>,
    nudge: Notify,
}

impl Turnstile {
    fn say(&self, word: Word) {
        lock(&self.words).push_back(word);
        self.nudge.notify_one();
    }

    /// What can be said at once: no release of what is asked for with it.
    fn take(&self) -> Said {
        let mut words = lock(&self.words);
        let mut said = Said::default();
        let mut asked: HashSet<RunId> = HashSet::new();
        while said.asks.len() + said.releases.len() < BATCH {
            match words.front() {
                Some(Word::Release(Release { run: Some(run), .. })) if asked.contains(run) => break,
                None => break,
                Some(_) => {}
            }
            match words.pop_front() {
                Some(Word::Ask(ask)) => {
                    asked.insert(ask.run);
                    said.asks.push(ask);
                }
                Some(Word::Release(release)) => said.releases.push(release),
                None => break,
            }
        }
        said
    }

    /// It was not heard: first of all again.
    fn put_back(&self, said: Said) {
        let mut words = lock(&self.words);
        for ask in said.asks.into_iter().rev() {
            words.push_front(Word::Ask(ask));
        }
        for release in said.releases.into_iter().rev() {
            words.push_front(Word::Release(release));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Before,
    Asked,
    Through,
}

/// A run's way through its limits.
#[derive(Debug)]
pub(super) struct Way {
    /// Of what is registered, when it was found.
    version: i64,
    /// Of the run.
    generation: i32,
    barriers: Vec<(Barrier, Standing)>,
    since: Timestamp,
    /// What the last node left open may go on until then.
    clear_at: Timestamp,
}

impl Way {
    fn waits(&self) -> bool {
        self.barriers.iter().any(|(_, standing)| *standing == Standing::Asked)
    }
}

impl Engine {
    /// Whether its limits let a run go on now; else it waits for them.
    pub(super) fn may_pass(&self, owner: &mut Owner, id: RunId, env: &Env<'_>) -> bool {
        let catalog = self.catalog();
        let Some(entry) = owner.runs.get_mut(&id) else { return false };
        if entry.way.is_none() && !catalog.is_limited(&entry.run) {
            return true;
        }
        let generation = entry.run.generation;
        let current = |way: &Way| way.version == catalog.version && way.generation == generation;
        if !entry.way.as_deref().is_some_and(current) {
            self.find_way(entry, catalog.version);
        }
        let Some(way) = entry.way.as_deref_mut() else { return true };
        let next = way.barriers.iter_mut().find(|(_, standing)| *standing != Standing::Through);
        let Some((barrier, standing)) = next else {
            let clear = way.clear_at;
            if clear > env.past {
                self.wake_at(owner, clear, Wake::Run(id));
            }
            return clear <= env.past;
        };
        if *standing == Standing::Before {
            *standing = Standing::Asked;
            way.since = env.past;
            self.turnstile().say(Word::Ask(Ask {
                at: barrier.at.clone(),
                most: barrier.most,
                ns: entry.run.ns,
                run: id,
                priority: entry.run.created.priority,
                fair: barrier.fair.clone(),
                born: entry.run.created_at,
                whole: barrier.whole,
            }));
        }
        if !entry.queued {
            entry.queued = true;
            owner.queued.push_back(id);
        }
        false
    }

    /// Finds the limits that are on a run's way now. What it has passed of them it keeps.
    fn find_way(&self, entry: &mut Entry, version: i64) {
        let old = entry.way.take();
        let (since, clear_at) =
            old.as_ref().map_or_else(Default::default, |w| (w.since, w.clear_at));
        let mut before = old.map(|way| way.barriers).unwrap_or_default();
        let barriers: Vec<(Barrier, Standing)> = self
            .catalog()
            .barriers(&entry.run)
            .into_iter()
            .map(|barrier| {
                let known = before.iter().position(|(b, _)| b.at == barrier.at);
                let standing = known.map_or(Standing::Before, |i| before.swap_remove(i).1);
                (barrier, standing)
            })
            .collect();
        for (barrier, standing) in before {
            self.give_up_place(&entry.run, barrier, standing);
        }
        entry.way = (!barriers.is_empty()).then(|| {
            let generation = entry.run.generation;
            Box::new(Way { version, generation, barriers, since, clear_at })
        });
        entry.queued = entry.way.as_deref().is_some_and(Way::waits);
    }

    fn give_up_place(&self, run: &Run, barrier: Barrier, standing: Standing) {
        if standing == Standing::Before {
            return;
        }
        let Barrier { at, most, .. } = barrier;
        let node = Some(self.node());
        let release = Release { at, most, ns: run.ns, run: Some(run.id), node };
        self.turnstile().say(Word::Release(release));
    }

    /// Nothing of a run is on its way now: what it passed for that it gives back.
    pub(super) fn give_back(&self, entry: &mut Entry, env: &Env<'_>) {
        let Some(way) = entry.way.as_deref_mut() else { return };
        let idle = !matches!(entry.run.turn, Turn::Open { .. } | Turn::Held { .. });
        let wants = entry.run.wants_exchange(env.past)
            || entry.run.works.out() > 0
            || !entry.run.attempts_due(env.past, entry.run.n).is_empty();
        if !idle || wants {
            return;
        }
        for (barrier, standing) in &mut way.barriers {
            let keeps = barrier.whole && *standing == Standing::Through;
            if !keeps && *standing != Standing::Before {
                let before = std::mem::replace(standing, Standing::Before);
                self.give_up_place(&entry.run, barrier.clone(), before);
            }
        }
        entry.queued = false;
        // It has begun: a throttle is for starts.
        way.barriers.retain(|(b, s)| *s == Standing::Through || matches!(b.most, Most::Slots(_)));
        if way.barriers.iter().all(|(_, standing)| *standing == Standing::Before) {
            entry.way = None;
        }
    }

    /// A run has ended: it needs nothing any more.
    pub(super) fn give_all_back(&self, entry: &mut Entry) {
        let run = &entry.run;
        let places: Vec<LimitKey> = match entry.way.take() {
            Some(way) => way.barriers.into_iter().map(|(barrier, _)| barrier.at).collect(),
            None => self.catalog().barriers(run).into_iter().map(|barrier| barrier.at).collect(),
        };
        for at in places {
            let most = self.catalog().most_of(&at).unwrap_or(GONE);
            let release = Release { at, most, ns: run.ns, run: Some(run.id), node: None };
            self.turnstile().say(Word::Release(release));
        }
    }

    /// With every tick: runs that wait for long leave memory.
    pub(super) fn send_off_queued(&self, owner: &mut Owner) {
        let mut left = std::collections::VecDeque::new();
        let mut most = MOST_LEAVING;
        for id in std::mem::take(&mut owner.queued) {
            let Some(entry) = owner.runs.get(&id).filter(|entry| entry.queued) else { continue };
            let since = entry.way.as_deref().map_or(Timestamp::default(), |way| way.since);
            if most == 0 || self.clock().lower().since(since) < PATIENCE {
                left.push_back(id);
            } else if self.leaves_queue(owner, id) {
                most -= 1;
            } else {
                left.push_back(id);
            }
        }
        left.append(&mut owner.queued);
        owner.queued = left;
    }

    /// Lets a run that waits leave memory, now or when what parks it is recorded.
    fn leaves_queue(&self, owner: &mut Owner, id: RunId) -> bool {
        let Some(entry) = owner.runs.get_mut(&id) else { return true };
        let asked = entry.way.as_deref().is_some_and(Way::waits);
        if !asked || entry.in_flight.is_some() || entry.telling || !entry.queue.is_empty() {
            return false;
        }
        let policy = entry.policy.clone();
        let env = self.env(&policy);
        let why = Attention::new("limit-reached", "It waits for a limit of its function.");
        if !entry.run.park_at_gate(LIMIT_GATE, why, &env) {
            return false;
        }
        if self.record(entry, id) {
            // With the next tick, when that is recorded.
            return false;
        }
        let wake = entry.run.next_wake(env.past).filter(|at| *at > env.past);
        self.leave_memory(owner, id, wake, &env);
        true
    }

    /// These runs were let through.
    fn granted(&self, granted: Vec<Granted>) {
        let mut owner = self.owner();
        let past = self.clock().lower();
        let mut absent = Vec::new();
        for Granted { at, run: id, from_another } in granted {
            let Some(entry) = owner.runs.get_mut(&id) else {
                if owner.tenure(id.shard()).is_some() {
                    absent.push(id);
                }
                continue;
            };
            let silence = self.catalog().silence_for(&entry.run);
            let way = entry.way.as_deref_mut();
            let place = way.and_then(|way| {
                let i =
                    way.barriers.iter().position(|(b, s)| b.at == at && *s != Standing::Before)?;
                Some((way, i))
            });
            let Some((way, i)) = place else {
                // It no longer wants it.
                let most = self.catalog().most_of(&at).unwrap_or(GONE);
                let (ns, node) = (entry.run.ns, Some(self.node()));
                let release = Release { at, most, ns, run: Some(id), node };
                self.turnstile().say(Word::Release(release));
                continue;
            };
            let (barrier, standing) = &mut way.barriers[i];
            *standing = Standing::Through;
            if from_another && barrier.strict {
                way.clear_at = past + silence;
            }
            metrics::histogram!("stepwell_limit_wait_seconds")
                .record(past.since(way.since).as_secs_f64());
            entry.queued = false;
            self.pump(&mut owner, id);
        }
        self.bring_in(&mut owner, absent);
    }

    /// Whoever waits there is looked at again.
    pub(super) fn look_at_limit(&self, at: LimitKey, ns: i32) {
        let most = self.catalog().most_of(&at).unwrap_or(GONE);
        self.turnstile().say(Word::Release(Release { at, most, ns, run: None, node: None }));
    }

    /// Talks to the limits, as long as the node lives.
    pub(super) async fn keep_flow(&self) {
        let mut line = Line::new(self.clone());
        let mut later: BTreeSet<(Timestamp, LimitKey)> = BTreeSet::new();
        let (mut looked, mut swept) = (self.clock().mono(), self.clock().mono());
        loop {
            let now = self.clock().mono();
            let any = self.catalog().has_limits();
            if any && now.saturating_sub(looked) >= LOOK {
                looked = now;
                self.look_for_grants(&mut line).await;
            }
            if any && now.saturating_sub(swept) >= SWEEP {
                swept = now;
                self.sweep(&mut line).await;
            }
            while let Some((at, key)) = later.first().cloned() {
                if at > self.clock().lower() {
                    break;
                }
                later.pop_first();
                // Its namespace is that of its row.
                self.look_at_limit(key, 0);
            }
            let said = self.turnstile().take();
            if said.asks.is_empty() && said.releases.is_empty() {
                let next = later.first().map(|(at, _)| *at);
                let due = async {
                    match next {
                        Some(at) => self.clock().until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.turnstile().nudge.notified() => {}
                    () = due => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
                continue;
            }
            self.faults().reach(Point::PassBefore);
            let (node, held, now) = (self.node(), self.held(), self.clock().upper());
            let lane = line.get().await;
            match lane.pass(&said.releases, &said.asks, node, &held, now).await {
                Ok(Passed { granted, later: at }) => {
                    self.faults().reach(Point::PassAfter);
                    metrics::counter!("stepwell_limit_grants_total")
                        .increment(granted.len() as u64);
                    later.extend(at.into_iter().map(|(key, at)| (at, key)));
                    self.granted(granted);
                }
                Err(error) if error.is_unavailable() => {
                    self.turnstile().put_back(said);
                    line.lost(&error).await;
                }
                Err(error) if error.is_transient() => {
                    self.turnstile().put_back(said);
                    tokio::time::sleep(BUSY).await;
                }
                Err(error) => {
                    // Runs ask again when they are looked at again; slots are swept.
                    tracing::error!(%error, "limits could not be asked");
                    self.ask_again(&said.asks);
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// What was asked for these runs was not heard.
    fn ask_again(&self, asks: &[Ask]) {
        let mut owner = self.owner();
        for ask in asks {
            let Some(entry) = owner.runs.get_mut(&ask.run) else { continue };
            if let Some(way) = entry.way.as_deref_mut() {
                for (barrier, standing) in &mut way.barriers {
                    if barrier.at == ask.at && *standing == Standing::Asked {
                        *standing = Standing::Before;
                    }
                }
            }
            entry.queued = false;
            self.pump(&mut owner, ask.run);
        }
    }

    /// Grants that other nodes gave to runs of this one.
    async fn look_for_grants(&self, line: &mut Line) {
        let held = self.held();
        if held.is_empty() {
            return;
        }
        match line.get().await.unseen(&held).await {
            Ok(granted) => self.granted(granted),
            Err(error) => self.trouble(line, &error).await,
        }
    }

    /// Level-triggered: slots that nobody gave back, and keys whose looker-after has died.
    async fn sweep(&self, line: &mut Line) {
        let held = self.held();
        if held.is_empty() {
            return;
        }
        match line.get().await.ghosts(&held, LIMIT_GATE).await {
            Ok(ghosts) => {
                let owner = self.owner();
                let absent = |run: &RunId| {
                    owner.tenure(run.shard()).is_some()
                        && !owner.runs.contains_key(run)
                        && !owner.loading.contains_key(run)
                };
                for (at, run, ns, node) in ghosts.into_iter().filter(|g| absent(&g.1)) {
                    let most = self.catalog().most_of(&at).unwrap_or(GONE);
                    let release = Release { at, most, ns, run: Some(run), node: Some(node) };
                    self.turnstile().say(Word::Release(release));
                }
            }
            Err(error) => return self.trouble(line, &error).await,
        }
        // A transaction may have been committed whose answer was lost with its connection.
        match line.get().await.unheard(&held, LIMIT_GATE).await {
            Ok(runs) => {
                let mut owner = self.owner();
                self.bring_in(&mut owner, runs);
            }
            Err(error) => return self.trouble(line, &error).await,
        }
        if !self.is_ours_group(0) {
            return;
        }
        match line.get().await.stuck().await {
            Ok(keys) => keys.into_iter().for_each(|(key, ns)| self.look_at_limit(key, ns)),
            Err(error) => self.trouble(line, &error).await,
        }
    }

    async fn trouble(&self, line: &mut Line, error: &store::Error) {
        if error.is_unavailable() {
            line.lost(error).await;
        } else {
            tracing::warn!(%error, "limits are looked at again soon");
        }
    }

    /// Runs of new groups that were let through and may not know of it.
    pub(super) async fn find_granted(&self, groups: &[i16]) {
        if !self.catalog().has_limits() {
            return;
        }
        match self.store().holders(groups).await {
            Ok(runs) => {
                let mut owner = self.owner();
                self.bring_in(&mut owner, runs);
            }
            Err(error) => tracing::warn!(%error, "cannot read who was let through"),
        }
    }

    /// What a run waits for at the limits of its function, in words.
    pub(super) async fn why_queued(&self, run: RunId, ways: Vec<Barrier>) -> Option<Attention> {
        for barrier in ways {
            let place = self.store().place_in_line(&barrier.at, run).await.ok().flatten();
            let Some(place) = place else { continue };
            let before = match place.before {
                0 => "it is the next".to_owned(),
                1 => "one run goes before it".to_owned(),
                n if n >= store::COUNTED => format!("more than {n} runs go before it"),
                n => format!("{n} runs go before it"),
            };
            let words = &barrier.words;
            let state = match (place.paused, barrier.most) {
                (true, _) => format!("{words} is paused"),
                (_, Most::Slots(most)) => {
                    format!("{} of {most} slots of {words} are taken", place.running)
                }
                (_, Most::Pace { .. }) => format!("{words} lets no more through yet"),
            };
            let code = if place.paused { "limit-paused" } else { "limit-reached" };
            return Some(Attention {
                limit: Some(Box::new(self.held_at(&barrier.at, place.before.unsigned_abs()))),
                ..Attention::new(code, format!("{}; {before}.", capital(&state)))
            });
        }
        None
    }
}

fn capital(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
