//! Group commit: each lane takes all that is pending, records it in one statement, and tells.
//!
//! There is no batching window: the commit in flight is the window. A statement that Postgres
//! refuses is bisected, so that one poison item fails alone; a lost connection repeats the same
//! batch on a new one, which every statement bears (a repeat loses, and the loser looks again).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Engine;
use crate::machine::Sealed;
use crate::store::{self, Accept, Accepted, CreateOutcome, Lane, NewRun};

/// The most items of one statement.
const BATCH: usize = 512;
/// Bodies over this go through a lane of their own, so that they hold up nobody.
const BULKY: usize = 1 << 20;
/// How long to wait before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(200);

/// The lanes of a node.
#[derive(Debug)]
pub(super) struct Lanes {
    append: mpsc::UnboundedSender<Arc<Sealed>>,
    bulky: mpsc::UnboundedSender<Arc<Sealed>>,
    create: mpsc::UnboundedSender<Creation>,
    accept: mpsc::UnboundedSender<Acceptance>,
}

/// A run to be created, and who waits for it.
pub(super) struct Creation {
    pub(super) new: NewRun,
    pub(super) tell: oneshot::Sender<Result<CreateOutcome, store::Error>>,
}

/// A message to be accepted, and who waits for it.
pub(super) struct Acceptance {
    pub(super) accept: Accept,
    pub(super) tell: oneshot::Sender<Result<Accepted, store::Error>>,
}

impl Lanes {
    /// Starts the lanes as tasks of the engine.
    pub(super) fn start() -> (Self, Receivers) {
        let (append, appends) = mpsc::unbounded_channel();
        let (bulky, bulkies) = mpsc::unbounded_channel();
        let (create, creates) = mpsc::unbounded_channel();
        let (accept, accepts) = mpsc::unbounded_channel();
        (Self { append, bulky, create, accept }, Receivers { appends, bulkies, creates, accepts })
    }

    /// Records an append; the engine hears of it in `committed`.
    pub(super) fn append(&self, sealed: Arc<Sealed>) {
        let bytes: usize =
            sealed.append.rows.iter().map(|r| r.body.as_ref().map_or(0, bytes::Bytes::len)).sum();
        let lane = if bytes > BULKY { &self.bulky } else { &self.append };
        // The receivers live as long as the engine.
        let _ = lane.send(sealed);
    }

    pub(super) fn create(&self, creation: Creation) {
        let _ = self.create.send(creation);
    }

    pub(super) fn accept(&self, acceptance: Acceptance) {
        let _ = self.accept.send(acceptance);
    }
}

/// The other ends of the lanes.
pub(super) struct Receivers {
    appends: mpsc::UnboundedReceiver<Arc<Sealed>>,
    bulkies: mpsc::UnboundedReceiver<Arc<Sealed>>,
    creates: mpsc::UnboundedReceiver<Creation>,
    accepts: mpsc::UnboundedReceiver<Acceptance>,
}

impl Receivers {
    pub(super) fn run(self, engine: &Engine) {
        engine.spawn(appends(engine.clone(), self.appends));
        engine.spawn(appends(engine.clone(), self.bulkies));
        engine.spawn(creates(engine.clone(), self.creates));
        engine.spawn(accepts(engine.clone(), self.accepts));
    }
}

/// A connection that is made anew when it is lost.
struct Line {
    engine: Engine,
    lane: Option<Lane>,
}

impl Line {
    async fn get(&mut self) -> &mut Lane {
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

    /// Whether the batch is to be repeated as it is.
    async fn lost(&mut self, error: &store::Error) -> bool {
        if error.is_unavailable() {
            self.lane = None;
            tokio::time::sleep(RECONNECT).await;
            return true;
        }
        if error.is_transient() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return true;
        }
        false
    }
}

async fn appends(engine: Engine, mut queue: mpsc::UnboundedReceiver<Arc<Sealed>>) {
    let mut line = Line { engine: engine.clone(), lane: None };
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        // What a node records after its lease has passed would only be lost work: another node
        // may have the run. The head row would refuse it in any case.
        if !engine.lease_holds() {
            engine.lease_passed();
            batch.clear();
            continue;
        }
        metrics::histogram!("stepwell_lane_batch_appends").record(super::counted(batch.len()));
        let mut parts = vec![std::mem::take(&mut batch)];
        while let Some(mut part) = parts.pop() {
            match line.get().await.append(&part).await {
                Ok(won) => engine.committed(&part, &won),
                Err(error) if line.lost(&error).await => {
                    if engine.lease_holds() {
                        parts.push(part);
                    } else {
                        engine.lease_passed();
                    }
                }
                Err(error) if part.len() == 1 => {
                    engine.unrecordable(&part[0], &error.to_string());
                }
                Err(error) => {
                    tracing::warn!(%error, appends = part.len(), "Postgres refused a batch; bisecting");
                    let half = part.split_off(part.len() / 2);
                    parts.push(half);
                    parts.push(part);
                }
            }
        }
        batch = Vec::with_capacity(BATCH);
    }
}

async fn creates(engine: Engine, mut queue: mpsc::UnboundedReceiver<Creation>) {
    let mut line = Line { engine: engine.clone(), lane: None };
    let mut waiting: Vec<Creation> = Vec::new();
    loop {
        if waiting.is_empty() && queue.recv_many(&mut waiting, BATCH).await == 0 {
            return;
        }
        // No two of one batch may be after the same key: the later waits for the next batch.
        let mut keys = std::collections::HashSet::new();
        let (batch, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut waiting).into_iter().partition(|c| {
                let run_key = c.new.key.as_ref().map(|k| (0, c.new.function_id, k.key.clone()));
                let idem = c.new.idem.as_ref().map(|i| (1, c.new.ns, i.key.clone()));
                let fresh = run_key.iter().chain(&idem).all(|k| !keys.contains(k));
                keys.extend(run_key.into_iter().chain(idem));
                fresh
            });
        waiting = later;
        let (news, tells): (Vec<NewRun>, Vec<_>) =
            batch.into_iter().map(|c| (c.new, c.tell)).unzip();
        let mut parts = vec![(news, tells)];
        while let Some((news, mut tells)) = parts.pop() {
            match line.get().await.create(&news).await {
                Ok(outcomes) => {
                    engine.created(&news, &outcomes);
                    for (tell, outcome) in tells.into_iter().zip(outcomes) {
                        let _ = tell.send(Ok(outcome));
                    }
                }
                Err(error) if line.lost(&error).await => {
                    // Who does not wait any longer is created all the same: it may have been.
                    parts.push((news, tells));
                }
                Err(error) if news.len() == 1 => {
                    if let Some(tell) = tells.pop() {
                        let _ = tell.send(Err(error));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "Postgres refused a batch of starts; bisecting");
                    let mut news = news;
                    let half = news.split_off(news.len() / 2);
                    let other = tells.split_off(tells.len() / 2);
                    parts.push((half, other));
                    parts.push((news, tells));
                }
            }
        }
    }
}

async fn accepts(engine: Engine, mut queue: mpsc::UnboundedReceiver<Acceptance>) {
    let mut line = Line { engine: engine.clone(), lane: None };
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let (messages, tells): (Vec<Accept>, Vec<_>) =
            batch.drain(..).map(|a: Acceptance| (a.accept, a.tell)).unzip();
        let mut parts = vec![(messages, tells)];
        while let Some((mut messages, mut tells)) = parts.pop() {
            match line.get().await.accept(&messages).await {
                Ok(outcomes) => {
                    engine.accepted(&messages, &outcomes);
                    for (tell, outcome) in tells.into_iter().zip(outcomes) {
                        let _ = tell.send(Ok(outcome));
                    }
                }
                Err(error) if line.lost(&error).await => parts.push((messages, tells)),
                Err(error) if messages.len() == 1 => {
                    if let Some(tell) = tells.pop() {
                        let _ = tell.send(Err(error));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "Postgres refused a batch of messages; bisecting");
                    let half = messages.split_off(messages.len() / 2);
                    let other = tells.split_off(tells.len() / 2);
                    parts.push((half, other));
                    parts.push((messages, tells));
                }
            }
        }
    }
}
