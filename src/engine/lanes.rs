//! Group commit: each lane takes all that is pending, records it in one statement, and tells.
//!
//! There is no batching window: the commit in flight is the window. A statement that Postgres
//! refuses is bisected, so that one poison item fails alone; so is one that runs into somebody's
//! lock, so that it waits alone. A lost connection repeats the same batch on a new one, which every
//! statement bears (a repeat loses, and the loser looks again).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::batch::Batch;
use super::{Engine, Error, Point, Wrong};
use crate::machine::{RunId, Sealed};
use crate::store::{self, Accept, Accepted, CreateOutcome, Lane, NewRun};

/// The most items of one statement.
const BATCH: usize = 512;
/// Bodies over this go through a lane of their own, so that they hold up nobody.
const BULKY: usize = 1 << 20;
/// How long to wait before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(200);
/// How long to wait before a statement that Postgres gave up is tried again.
const BUSY: Duration = Duration::from_millis(20);
/// How often something that waits for a lock, alone, is tried before its caller is told.
const BUSY_TRIES: u32 = 10;
/// How often a node whose lease has passed looks whether it holds again.
const LAPSED: Duration = Duration::from_millis(20);
/// How long a caller waits for what Postgres makes of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks meanwhile whether Postgres is away.
const GLANCE: Duration = Duration::from_millis(250);

/// The lanes of a node.
#[derive(Debug)]
pub(super) struct Lanes {
    append: mpsc::UnboundedSender<Arc<Sealed>>,
    bulky: mpsc::UnboundedSender<Arc<Sealed>>,
    create: mpsc::UnboundedSender<Pending<NewRun>>,
    batch: mpsc::UnboundedSender<Pending<Batch>>,
    accept: mpsc::UnboundedSender<Pending<Accept>>,
    discard: mpsc::UnboundedSender<(RunId, i32)>,
}

/// What callers ask a lane to record, and wait for.
pub(super) trait Request: Sized + Send + Sync + 'static {
    /// What becomes of it.
    type Outcome: Send;
    /// A batch is about to be recorded.
    const BEFORE: Point;
    /// A batch was recorded.
    const AFTER: Point;

    /// Records a batch in one statement.
    fn write(
        lane: &mut Lane,
        batch: &[Self],
    ) -> impl Future<Output = store::Result<Vec<Self::Outcome>>> + Send;

    /// A batch has been decided. Not `sure`: it was recorded more than once, because a connection
    /// was lost, and anything may have happened between.
    fn decided(
        engine: &Engine,
        batch: &[Self],
        outcomes: Vec<Self::Outcome>,
        sure: bool,
    ) -> impl Future<Output = store::Result<Vec<Self::Outcome>>> + Send;

    /// It was not recorded.
    fn refused(&self, engine: &Engine);
}

/// A request, and who waits for it.
#[derive(Debug)]
struct Pending<T: Request> {
    what: T,
    tell: oneshot::Sender<store::Result<T::Outcome>>,
}

impl Lanes {
    /// Starts the lanes as tasks of the engine.
    pub(super) fn start() -> (Self, Receivers) {
        let (append, appends) = mpsc::unbounded_channel();
        let (bulky, bulkies) = mpsc::unbounded_channel();
        let (create, creates) = mpsc::unbounded_channel();
        let (batch, batches) = mpsc::unbounded_channel();
        let (accept, accepts) = mpsc::unbounded_channel();
        let (discard, discards) = mpsc::unbounded_channel();
        (
            Self { append, bulky, create, batch, accept, discard },
            Receivers { appends, bulkies, creates, batches, accepts, discards },
        )
    }

    /// Records an append; the engine hears of it in `committed`.
    pub(super) fn append(&self, sealed: Arc<Sealed>) {
        let bytes: usize =
            sealed.append.rows.iter().map(|r| r.body.as_ref().map_or(0, bytes::Bytes::len)).sum();
        let lane = if bytes > BULKY { &self.bulky } else { &self.append };
        // The receivers live as long as the engine.
        let _ = lane.send(sealed);
    }

    /// Takes messages out of inboxes that repeat what was drained before.
    pub(super) fn discard(&self, repeats: impl Iterator<Item = (RunId, i32)>) {
        for repeat in repeats {
            let _ = self.discard.send(repeat);
        }
    }

    /// Accepts a message that nobody waits for.
    pub(super) fn post(&self, accept: Accept) {
        let _ = self.accept.send(Pending { what: accept, tell: oneshot::channel().0 });
    }
}

impl Engine {
    /// Creates a run.
    pub(super) async fn create(&self, new: NewRun) -> Result<CreateOutcome, Error> {
        self.ask(&self.lanes().create, new).await
    }

    /// Creates many runs in one transaction.
    pub(super) async fn create_all(&self, batch: Batch) -> Result<Vec<CreateOutcome>, Error> {
        self.ask(&self.lanes().batch, batch).await
    }

    /// Accepts a message.
    pub(super) async fn accept(&self, accept: Accept) -> Result<Accepted, Error> {
        self.ask(&self.lanes().accept, accept).await
    }

    async fn ask<T: Request>(
        &self,
        lane: &mpsc::UnboundedSender<Pending<T>>,
        what: T,
    ) -> Result<T::Outcome, Error> {
        self.admit()?;
        let (tell, mut told) = oneshot::channel();
        let _ = lane.send(Pending { what, tell });
        let until = self.clock().mono() + PATIENCE;
        loop {
            match tokio::time::timeout(GLANCE, &mut told).await {
                Ok(Ok(outcome)) => return Ok(outcome?),
                Ok(Err(_)) => return Err(Error::stopping()),
                Err(_) if self.admit().is_err() || self.clock().mono() >= until => {
                    return Err(Error::busy(
                        "Postgres does not answer; whether this was recorded is not known. Send \
                         it again with the same idempotency key",
                    ));
                }
                Err(_) => {}
            }
        }
    }
}

/// The other ends of the lanes.
pub(super) struct Receivers {
    appends: mpsc::UnboundedReceiver<Arc<Sealed>>,
    bulkies: mpsc::UnboundedReceiver<Arc<Sealed>>,
    creates: mpsc::UnboundedReceiver<Pending<NewRun>>,
    batches: mpsc::UnboundedReceiver<Pending<Batch>>,
    accepts: mpsc::UnboundedReceiver<Pending<Accept>>,
    discards: mpsc::UnboundedReceiver<(RunId, i32)>,
}

impl Receivers {
    pub(super) fn run(self, engine: &Engine) {
        engine.spawn(appends(engine.clone(), self.appends));
        engine.spawn(appends(engine.clone(), self.bulkies));
        engine.spawn(creates(engine.clone(), self.creates));
        engine.spawn(batches(engine.clone(), self.batches));
        engine.spawn(accepts(engine.clone(), self.accepts));
        engine.spawn(discards(engine.clone(), self.discards));
    }
}

/// A connection that is made anew when it is lost.
pub(super) struct Line {
    engine: Engine,
    lane: Option<Lane>,
}

impl Line {
    pub(super) const fn new(engine: Engine) -> Self {
        Self { engine, lane: None }
    }

    pub(super) async fn get(&mut self) -> &mut Lane {
        let lane = match self.lane.take() {
            Some(lane) => lane,
            None => self.open().await,
        };
        self.lane.insert(lane)
    }

    async fn open(&self) -> Lane {
        loop {
            match self.engine.store().lane().await {
                Ok(lane) => {
                    self.engine.postgres_away(false);
                    return lane;
                }
                Err(error) => {
                    tracing::warn!(%error, "Postgres is away; trying again");
                    self.engine.postgres_away(true);
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    /// The connection is gone, and whether it took the last batch along is not known.
    pub(super) async fn lost(&mut self, error: &store::Error) {
        tracing::warn!(%error, "a lane lost its connection");
        self.lane = None;
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn appends(engine: Engine, mut queue: mpsc::UnboundedReceiver<Arc<Sealed>>) {
    let mut line = Line::new(engine.clone());
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        metrics::histogram!("stepwell_lane_batch_appends").record(super::counted(batch.len()));
        // With each part: whether a connection was lost while it was being recorded.
        let mut parts = vec![(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)), false)];
        while let Some((part, repeated)) = parts.pop() {
            let connected = line.get().await;
            let mut part = engine.in_force(part).await;
            if part.is_empty() {
                continue;
            }
            if engine.faults().does(Wrong::ShownBeforeWritten) {
                engine.committed(&part, &vec![true; part.len()]);
                tokio::time::sleep(BUSY).await;
            }
            engine.faults().reach(Point::FlushBefore);
            match append(connected, &part, repeated).await {
                Ok((won, next)) => {
                    engine.faults().reach(Point::FlushAfter);
                    engine.committed(&part, &won);
                    engine.have_turns(next);
                }
                Err(error) if error.is_unavailable() => {
                    line.lost(&error).await;
                    parts.push((part, true));
                }
                Err(error) if part.len() == 1 && error.is_transient() => {
                    // It goes to the end of the queue, so that it holds up nobody.
                    tracing::warn!(run.id = %part[0].run, %error, "an append has to wait");
                    tokio::time::sleep(BUSY).await;
                    for append in part {
                        engine.lanes().append(append);
                    }
                }
                Err(error) if part.len() == 1 => {
                    engine.unrecordable(&part[0], &error.to_string());
                }
                Err(error) => {
                    tracing::warn!(%error, appends = part.len(), "Postgres refused a batch; bisecting");
                    let half = part.split_off(part.len() / 2);
                    parts.extend([(half, repeated), (part, repeated)]);
                }
            }
        }
    }
}

/// Records a batch. What a repeat loses to its own rows, whose acknowledgement went with the
/// connection, has won. Returns too whose turn it is now to have an object.
async fn append(
    lane: &mut Lane,
    part: &[Arc<Sealed>],
    repeated: bool,
) -> store::Result<(Vec<bool>, Vec<RunId>)> {
    let (mut won, next) = lane.append_and_free(part).await?;
    if repeated {
        for (sealed, won) in part.iter().zip(&mut won).filter(|(_, won)| !**won) {
            *won = lane.is_recorded(sealed).await?;
        }
    }
    Ok((won, next))
}

impl Engine {
    /// What of a batch is still to be recorded: by a node whose lease holds, for runs that it has
    /// not dropped meanwhile. What a node records after its lease has passed would only be lost
    /// work, for another node may have the run, and then the head row refuses it.
    async fn in_force(&self, mut batch: Vec<Arc<Sealed>>) -> Vec<Arc<Sealed>> {
        while !self.lease_holds() {
            tokio::time::sleep(LAPSED).await;
        }
        let owner = self.owner();
        batch.retain(|sealed| {
            let in_flight = owner.runs.get(&sealed.run).and_then(|e| e.in_flight.as_ref());
            in_flight.is_some_and(|append| Arc::ptr_eq(append, sealed))
        });
        batch
    }
}

/// Repeats are no hurry and no promise: what stays is found and thrown away again.
async fn discards(engine: Engine, mut queue: mpsc::UnboundedReceiver<(RunId, i32)>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = engine.store().discard(&batch).await {
            tracing::warn!(%error, repeats = batch.len(), "repeated messages stay in inboxes");
        }
        batch.clear();
    }
}

async fn creates(engine: Engine, mut queue: mpsc::UnboundedReceiver<Pending<NewRun>>) {
    let mut line = Line::new(engine.clone());
    let mut waiting: Vec<Pending<NewRun>> = Vec::new();
    loop {
        if waiting.is_empty() && queue.recv_many(&mut waiting, BATCH).await == 0 {
            return;
        }
        // No two of one batch may be after the same key: the later waits for the next batch.
        let mut keys = std::collections::HashSet::new();
        let (batch, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut waiting).into_iter().partition(|p| {
                let new = &p.what;
                // Of an object there may be many: they have an order.
                let key = new.key.as_ref().filter(|_| new.object.is_none());
                let run_key = key.map(|k| (0, new.function_id, k.key.clone()));
                let idem = new.idem.as_ref().map(|i| (1, new.ns, i.key.clone()));
                let fresh = run_key.iter().chain(&idem).all(|k| !keys.contains(k));
                keys.extend(run_key.into_iter().chain(idem));
                fresh
            });
        waiting = later;
        record(&engine, &mut line, batch).await;
    }
}

async fn batches(engine: Engine, mut queue: mpsc::UnboundedReceiver<Pending<Batch>>) {
    let mut line = Line::new(engine.clone());
    while let Some(one) = queue.recv().await {
        record(&engine, &mut line, vec![one]).await;
    }
}

async fn accepts(engine: Engine, mut queue: mpsc::UnboundedReceiver<Pending<Accept>>) {
    let mut line = Line::new(engine.clone());
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        record(&engine, &mut line, std::mem::take(&mut batch)).await;
    }
}

/// A part of a batch of requests.
struct Part<T: Request> {
    whats: Vec<T>,
    tells: Vec<oneshot::Sender<store::Result<T::Outcome>>>,
    /// A connection was lost while it was being recorded.
    repeated: bool,
    /// How often it was given up because of somebody's lock.
    busy: u32,
}

async fn record<T: Request>(engine: &Engine, line: &mut Line, batch: Vec<Pending<T>>) {
    let (whats, tells): (Vec<T>, Vec<_>) = batch.into_iter().map(|p| (p.what, p.tell)).unzip();
    let mut parts = vec![Part { whats, tells, repeated: false, busy: 0 }];
    while let Some(mut part) = parts.pop() {
        let connected = line.get().await;
        engine.faults().reach(T::BEFORE);
        let written = T::write(connected, &part.whats).await;
        engine.faults().reach(T::AFTER);
        let written = match written {
            Ok(outcomes) => T::decided(engine, &part.whats, outcomes, !part.repeated).await,
            Err(error) => Err(error),
        };
        match written {
            Ok(outcomes) => {
                for (tell, outcome) in part.tells.into_iter().zip(outcomes) {
                    let _ = tell.send(Ok(outcome));
                }
            }
            // Who does not wait any longer is recorded all the same: it may have been.
            Err(error) if error.is_unavailable() => {
                line.lost(&error).await;
                parts.push(Part { repeated: true, ..part });
            }
            Err(error) if part.whats.len() == 1 => {
                if error.is_transient() && part.busy < BUSY_TRIES {
                    tokio::time::sleep(BUSY).await;
                    // Behind the others of its batch.
                    parts.insert(0, Part { busy: part.busy + 1, ..part });
                    continue;
                }
                part.whats.iter().for_each(|what| what.refused(engine));
                part.tells.into_iter().for_each(|tell| drop(tell.send(Err(error.clone()))));
            }
            Err(error) => {
                tracing::warn!(%error, requests = part.whats.len(), "Postgres refused a batch; bisecting");
                let half = part.whats.len() / 2;
                let (whats, tells) = (part.whats.split_off(half), part.tells.split_off(half));
                let (repeated, busy) = (part.repeated, part.busy);
                parts.extend([Part { whats, tells, repeated, busy }, part]);
            }
        }
    }
}

impl Request for NewRun {
    type Outcome = CreateOutcome;
    const BEFORE: Point = Point::CreateBefore;
    const AFTER: Point = Point::CreateAfter;

    async fn write(lane: &mut Lane, batch: &[Self]) -> store::Result<Vec<CreateOutcome>> {
        lane.create(batch).await
    }

    async fn decided(
        engine: &Engine,
        batch: &[Self],
        outcomes: Vec<CreateOutcome>,
        sure: bool,
    ) -> store::Result<Vec<CreateOutcome>> {
        engine.created(batch, &outcomes, sure);
        Ok(outcomes)
    }

    fn refused(&self, engine: &Engine) {
        engine.owner().lent.remove(&self.run);
    }
}

impl Request for Accept {
    type Outcome = Accepted;
    const BEFORE: Point = Point::AcceptBefore;
    const AFTER: Point = Point::AcceptAfter;

    async fn write(lane: &mut Lane, batch: &[Self]) -> store::Result<Vec<Accepted>> {
        lane.accept(batch).await
    }

    async fn decided(
        engine: &Engine,
        batch: &[Self],
        mut outcomes: Vec<Accepted>,
        sure: bool,
    ) -> store::Result<Vec<Accepted>> {
        engine.accepted(batch, &outcomes);
        if !sure {
            // What the first time accepted may have closed or ended the run since.
            for (accept, outcome) in batch.iter().zip(&mut outcomes) {
                if matches!(outcome, Accepted::Gone | Accepted::Closing | Accepted::OtherGeneration)
                    && engine.store().has_message(accept.run, accept.message.id).await?
                {
                    *outcome = Accepted::Repeat;
                }
            }
        }
        Ok(outcomes)
    }

    fn refused(&self, _: &Engine) {}
}
