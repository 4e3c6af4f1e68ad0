//! Events: accepted in one commit, then routed, whatever dies in between: they start functions that
//! have a trigger for them, and reach the steps that wait for them, each once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use super::admission::Within;
use super::faults::Point;
use super::lanes::Line;
use super::{Engine, Error, IfRunning, Namespace, Start, lock};
use crate::machine::{
    Act, CANCEL_GRACE, EventId, Matched, Matching, Message, MessageId, MessageKind, RunId, Shard,
    Timestamp, cancelling, is_cancelling, to_bytes,
};
use crate::protocol::{CancelOn, Flow};
use crate::store::{
    self, Accept, Accepted, CreateOutcome, Debounced, NewEvent, NewGathered, NewRun, Wait,
};
pub use crate::store::{EventFilter, EventMatch, EventRow, MatchCount, Published};

/// How long who has accepted an event has to route it before others do, in milliseconds.
pub(super) const PATIENCE: i32 = 3_000;
/// How often events that nobody routes are looked for.
const SEARCH: Duration = Duration::from_secs(1);
/// How many of them are found at once.
const FOUND: i64 = 200;
/// How many waits one transaction reaches.
const PAGE: usize = 200;
/// How long to wait before a routing that Postgres gave up is tried again.
const BUSY: Duration = Duration::from_millis(20);
/// How often who waits for an event to be routed looks whether another node has done it.
const ROUTED_ELSEWHERE: Duration = Duration::from_millis(500);

/// What an event is to start.
struct Triggered {
    what: What,
    /// Unless it comes too soon.
    within: Option<Within>,
    /// What of the run that has its key.
    cancels: IfRunning,
}

enum What {
    Run(Box<NewRun>),
    Later(Debounced),
    Among(Box<NewGathered>),
}

impl Triggered {
    fn run(&self) -> Option<RunId> {
        match &self.what {
            What::Run(new) => Some(new.run),
            What::Later(_) | What::Among(_) => None,
        }
    }
}

/// Events that this node routes.
#[derive(Debug, Default)]
pub(super) struct Router {
    waiting: Mutex<BTreeSet<EventId>>,
    nudge: Notify,
    /// Told when events have been routed here.
    routed: Notify,
    /// When the last event was published here, in microseconds.
    last: AtomicI64,
}

impl Router {
    /// The moment of an event that is published now: later than that of every event that was
    /// published here before, so that those of a list have an order too.
    fn stamp(&self, now: Timestamp) -> Timestamp {
        let now = now.as_micros();
        let next = |last: i64| now.max(last.saturating_add(1));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| Some(next(l)));
        Timestamp::from_micros(next(last.unwrap_or_default()))
    }
}

/// An event to be published.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Who publishes it.
    pub source: String,
    /// What the source calls it; none: it is new whatever comes.
    pub source_id: Option<String>,
    /// When it happened.
    pub happened_at: Option<Timestamp>,
    /// JSON.
    pub data: Bytes,
}

/// An event as handlers are shown it: as a step's value and as an input.
#[derive(Serialize)]
struct Shown<'a> {
    id: EventId,
    name: &'a str,
    source: &'a str,
    source_id: &'a str,
    time: Timestamp,
    data: &'a RawValue,
}

/// An event as handlers are shown it.
pub(super) fn shown(event: &EventRow) -> Bytes {
    let data = serde_json::from_slice(&event.data).unwrap_or(RawValue::NULL);
    to_bytes(&Shown {
        id: event.id,
        name: &event.name,
        source: &event.source,
        source_id: &event.source_id,
        time: event.happened_at.unwrap_or(event.published_at),
        data,
    })
}

/// What an event and one that claims to be the same must have in common.
fn hash(name: &str, data: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([0]);
    hash.update(data);
    hash.finalize().into()
}

impl Engine {
    /// Publishes events. When this returns, they are durable; routing follows. In the order of
    /// `events`: the event, whether it is new, and whether one that is not had the same content.
    pub async fn publish(
        &self,
        ns: &Namespace,
        events: Vec<Event>,
    ) -> Result<Vec<Published>, Error> {
        self.admit()?;
        let new: Vec<NewEvent> =
            events.into_iter().map(|event| self.new_event(ns, event)).collect();
        let published = self.store().publish(&new, PATIENCE).await?;
        let fresh = published.iter().filter(|p| matches!(p, Published::New(_))).count();
        metrics::counter!("stepwell_events_published_total").increment(fresh as u64);
        self.send_on(published.iter().filter_map(|p| match p {
            Published::New(id) => Some(*id),
            Published::Known(..) => None,
        }));
        Ok(published)
    }

    /// An event of this namespace with an identity.
    pub(super) fn new_event(&self, ns: &Namespace, event: Event) -> NewEvent {
        let Event { name, source, source_id, happened_at, data } = event;
        let (now, chance) = (self.clock().upper(), crate::clock::chance());
        let now = self.router().stamp(now);
        let source_id = source_id.unwrap_or_else(|| format!("{chance:032x}"));
        let id = EventId::of_source(&ns.name, &source, &source_id, now, chance);
        let hash = hash(&name, &data);
        NewEvent {
            id,
            ns: ns.id,
            name,
            source,
            source_id,
            hash,
            happened_at,
            published_at: now,
            data,
        }
    }

    /// An event and whether it is routed.
    pub async fn event(&self, ns: &Namespace, id: EventId) -> Result<EventRow, Error> {
        self.store().event(ns.id, id).await?.ok_or(Error::EventNotFound(id))
    }

    /// What an event came to, from `after` on.
    pub async fn event_matches(
        &self,
        id: EventId,
        after: Option<(RunId, String)>,
        limit: usize,
    ) -> Result<Vec<EventMatch>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(self.store().event_matches(id, after, limit).await?)
    }

    /// Events of a namespace, new to old, without their data.
    pub async fn events(
        &self,
        ns: &Namespace,
        filter: &EventFilter,
    ) -> Result<Vec<EventRow>, Error> {
        Ok(self.store().events(ns.id, filter).await?)
    }

    /// Returns when an event is routed, or the time is up.
    pub async fn wait_routed(
        &self,
        ns: &Namespace,
        id: EventId,
        at_most: Duration,
    ) -> Result<(), Error> {
        let until = self.clock().mono() + at_most;
        loop {
            let routed = self.router().routed.notified();
            let left = until.saturating_sub(self.clock().mono());
            if self.event(ns, id).await?.routed || left.is_zero() {
                return Ok(());
            }
            let _ = tokio::time::timeout(left.min(ROUTED_ELSEWHERE), routed).await;
        }
    }

    /// These events are to be routed.
    pub(super) fn send_on(&self, events: impl IntoIterator<Item = EventId>) {
        let mut waiting = lock(&self.router().waiting);
        waiting.extend(events);
        if !waiting.is_empty() {
            self.router().nudge.notify_one();
        }
    }

    /// Routes, as long as the node lives.
    pub(super) async fn keep_events(&self) {
        let mut line = Line::new(self.clone());
        let mut searched = self.clock().mono();
        loop {
            let next = lock(&self.router().waiting).pop_first();
            let Some(event) = next else {
                let nudged = self.router().nudge.notified();
                let quiet = tokio::time::timeout(SEARCH, nudged).await.is_err();
                let now = self.clock().mono();
                if quiet || now.saturating_sub(searched) >= SEARCH {
                    searched = now;
                    // Level-triggered: whoever accepted them may be dead.
                    match self.store().unrouted(FOUND).await {
                        Ok(found) => self.send_on(found),
                        Err(error) => tracing::debug!(%error, "cannot look for events yet"),
                    }
                }
                continue;
            };
            match self.route_some(&mut line, event).await {
                Ok(true) => {
                    metrics::counter!("stepwell_events_routed_total").increment(1);
                    self.router().routed.notify_waiters();
                }
                Ok(false) => self.send_on([event]),
                Err(error) if error.is_unavailable() => {
                    line.lost(&error).await;
                    self.send_on([event]);
                }
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(BUSY).await;
                    self.send_on([event]);
                }
                Err(error) => {
                    // It is found again by the search, so that others go first.
                    tracing::error!(event.id = %event, %error, "an event cannot be routed");
                }
            }
        }
    }

    /// Routes an event a page further, in one transaction. Returns whether it is done here.
    async fn route_some(&self, line: &mut Line, id: EventId) -> store::Result<bool> {
        let Some((mut delivery, queued)) = line.get().await.routing(id).await? else {
            return Ok(true);
        };
        let event = queued.event;
        let all = if queued.reached.is_none() { self.triggered(&event).await } else { Vec::new() };
        let lent: Vec<RunId> = all.iter().filter_map(Triggered::run).collect();
        let now = self.clock().upper();
        let mut news: Vec<NewRun> = Vec::new();
        let mut in_the_way: Vec<RunId> = Vec::new();
        let done = async {
            let mut reached: Vec<(RunId, String)> = Vec::new();
            let mut cancels: HashMap<RunId, IfRunning> = HashMap::new();
            for one in all {
                if let Some(within) = &one.within
                    && !within.take(&mut delivery, event.ns, now).await?
                {
                    metrics::counter!("stepwell_starts_refused_total").increment(1);
                    continue;
                }
                match one.what {
                    What::Later(kept) => {
                        reached.push((delivery.debounce(&kept).await?, String::new()));
                    }
                    What::Among(new) => {
                        reached.push((delivery.gather(&new).await?, String::new()));
                    }
                    What::Run(new) => {
                        cancels.insert(new.run, one.cancels);
                        news.push(*new);
                    }
                }
            }
            let shapes = delivery.shapes(event.ns, &event.name).await?;
            let hashes: Vec<(String, [u8; 16])> = shapes
                .into_iter()
                .filter_map(|paths| event.hash_at(&paths).map(|hash| (paths, hash)))
                .collect();
            let limit = i64::try_from(PAGE).unwrap_or(i64::MAX);
            let waits = if hashes.is_empty() {
                Vec::new()
            } else {
                delivery.waiting(&event, &hashes, queued.reached.as_ref(), limit).await?
            };
            let runs: Vec<RunId> = waits.iter().map(|(run, _)| *run).collect();
            delivery.lock(&news, &runs).await?;
            let taken = delivery.take_waits(&waits).await?;
            let created = delivery.create(&news).await?;
            for (new, outcome) in news.iter().zip(&created) {
                match outcome {
                    CreateOutcome::KeyHeld { run, .. }
                        if cancels.get(&new.run) == Some(&IfRunning::CancelExisting) =>
                    {
                        in_the_way.push(*run);
                    }
                    CreateOutcome::KeyHeld { .. } => {}
                    _ => reached.push((new.run, String::new())),
                }
            }
            if !in_the_way.is_empty() {
                // Nothing of it, until they have ended.
                return Ok((Vec::new(), Vec::new(), Vec::new(), true));
            }
            let accepts: Vec<Accept> =
                taken.iter().map(|(run, step)| self.matched(&event, *run, step)).collect();
            let accepted = delivery.accept(&accepts).await?;
            reached.extend(
                taken
                    .iter()
                    .zip(&accepted)
                    .filter(|(_, a)| !matches!(a, Accepted::Gone))
                    .map(|(one, _)| one.clone()),
            );
            delivery.matched(event.id, &reached).await?;
            let more = waits.last().filter(|_| waits.len() == PAGE);
            delivery.routed(event.id, more).await?;
            self.faults().reach(Point::RouteBefore);
            delivery.commit().await?;
            self.faults().reach(Point::RouteAfter);
            Ok::<_, store::Error>((created, accepts, accepted, more.is_none()))
        }
        .await;
        match done {
            Ok(_) if !in_the_way.is_empty() => {
                self.owner().lent.retain(|run, _| !lent.contains(run));
                self.make_way(&event, in_the_way);
                Ok(true)
            }
            Ok((created, accepts, accepted, to_the_end)) => {
                self.owner()
                    .lent
                    .retain(|run, _| !lent.contains(run) || news.iter().any(|new| new.run == *run));
                self.created(&news, &created, true);
                self.accepted(&accepts, &accepted);
                Ok(to_the_end)
            }
            Err(error) => {
                self.unlend(&lent, &error);
                Err(error)
            }
        }
    }

    /// Cancels the runs that are to give way to what an event starts; then it is routed again.
    fn make_way(&self, event: &EventRow, runs: Vec<RunId>) {
        let (engine, ns, id) = (self.clone(), event.ns, event.id);
        self.spawn(async move {
            let Some(namespace) = engine.catalog().namespace(ns) else { return };
            for run in runs {
                let act = Act {
                    by: format!("event {id}"),
                    reason: Some("an event starts a newer run in its place".to_owned()),
                    ..Act::default()
                };
                let patience = CANCEL_GRACE + BUSY;
                let cancelled = engine.act(&namespace, run, MessageKind::Cancel, act, None).await;
                if cancelled.is_ok() {
                    // Should it take longer, the search finds the event again.
                    let _ = engine.wait_end(&namespace, run, patience).await;
                }
            }
            engine.send_on([id]);
        });
    }

    /// The message by which a step hears of an event, or the run that it is cancelled by it.
    pub(super) fn matched(&self, event: &EventRow, run: RunId, step: &str) -> Accept {
        let id = MessageId::of_event(event.id, run, step);
        let at = self.clock().upper();
        let (kind, name, body) = if is_cancelling(step) {
            let by = format!("event {}", event.id);
            let reason = Some(format!("the event {} cancels it", event.name));
            let act = Act { by, reason, ..Act::default() };
            (MessageKind::Cancel, String::new(), to_bytes(&act))
        } else {
            (MessageKind::EventMatched, step.to_owned(), shown(event))
        };
        let message = Message { pos: 0, id, kind, name, body, at, generation: None };
        Accept { run, ns: event.ns, message, idem: None }
    }

    /// The runs that an event starts.
    async fn triggered(&self, event: &EventRow) -> Vec<Triggered> {
        let catalog = match self.fresh_catalog().await {
            Ok(catalog) => catalog,
            Err(_) => self.catalog(),
        };
        let Some(namespace) = catalog.namespace(event.ns) else { return Vec::new() };
        let Ok(data) = serde_json::from_slice(&event.data) else { return Vec::new() };
        let matched = Matched { source: &event.source, data };
        let mut functions: Vec<&str> = catalog
            .triggers(event.ns, &event.name)
            .filter(|(_, matching)| matching.holds(matched))
            .map(|(function, _)| function)
            .collect();
        functions.sort_unstable();
        functions.dedup();
        let input = serde_json::from_slice::<Box<RawValue>>(&shown(event));
        let input = input.unwrap_or_else(|_| RawValue::NULL.to_owned());
        let mut all = Vec::new();
        for function in functions {
            if let Ok(Some(over)) = self.beyond_quotas(&namespace).await {
                tracing::warn!(event.id = %event.id, function, over, "not started by an event");
                continue;
            }
            let by = format!("event {}", event.id);
            let mut start = Start::new(namespace.clone(), function.to_owned(), input.clone(), by);
            let flow = self.flow_of(&start);
            let mut within = None;
            if let Some((id, flow)) = &flow {
                Self::make_single(&mut start, flow);
                within = Self::rate_of(*id, flow, &start);
            }
            let what = if let Some((id, Flow { debounce: Some(debounce), .. })) = &flow {
                self.debounced(*id, debounce, &start).map(What::Later)
            } else if let Some((id, Flow { gather: Some(gather), .. })) = &flow {
                self.to_gather(*id, gather, &start).map(|new| What::Among(Box::new(new)))
            } else {
                let shard = start.key.as_deref();
                let shard = shard.map(|key| Shard::of_key(&namespace.name, function, key));
                let run = RunId::of_event(event.id, function, event.published_at, shard);
                self.new_run_of(&start, None, Some((run, None))).map(|n| What::Run(Box::new(n)))
            };
            match what {
                Ok(what) => all.push(Triggered { what, within, cancels: start.if_running }),
                Err(error) => {
                    tracing::warn!(event.id = %event.id, function, %error, "not started by an event");
                }
            }
        }
        all
    }

    /// What a transaction of the outbox does for a step that waits: the wait is there already, and
    /// the first event since that it was asked for is found.
    pub(super) async fn caught_up(
        &self,
        delivery: &mut store::Delivery<'_>,
        wait: &Wait,
    ) -> store::Result<Option<(EventId, Accept)>> {
        let Some(event) = delivery.first_since(wait).await? else { return Ok(None) };
        let taken = delivery.take_waits(&[(wait.run, wait.step.clone())]).await?;
        // Whoever was faster has delivered.
        Ok((!taken.is_empty()).then(|| (event.id, self.matched(&event, wait.run, &wait.step))))
    }
}

/// The waits of a run of a namespace that events cancel, from a moment on, as its input has it.
pub(super) fn cancels(
    all: &[CancelOn],
    (run, ns): (RunId, i32),
    input: &RawValue,
    since: Timestamp,
) -> Vec<Wait> {
    let wait = |(index, on): (usize, &CancelOn)| {
        Some(Wait {
            run,
            step: cancelling(index),
            ns,
            event: on.event().to_owned(),
            matching: on.of(input)?,
            since,
            taken: Vec::new(),
        })
    };
    all.iter().enumerate().filter_map(wait).collect()
}

/// Which functions of which namespaces an event starts, by its name.
pub(super) type Triggers = HashMap<(i32, String), Vec<(String, Matching)>>;
