//! Many starts in one transaction: each is started or refused by itself.
//!
//! They go through a lane of their own, so that no other start waits behind a thousand. What a run of
//! the same key makes of a start (an answer with that run, a signal to it) follows the transaction.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;

use super::lanes::Request;
use super::{Engine, Error, Idempotency, IfRunning, Point, Start, Started};
use crate::machine::RunId;
use crate::store::{self, CreateOutcome, Lane, LimitKey, NewRun};

/// The most starts of one batch.
pub const MOST_STARTS: usize = 1_000;
/// How many runs that have a key already are looked at, at a time.
const AT_A_TIME: usize = 16;

/// Runs that are to be started in one transaction.
#[derive(Debug)]
pub(super) struct Batch(Vec<NewRun>);

impl Request for Batch {
    type Outcome = Vec<CreateOutcome>;
    const BEFORE: Point = Point::CreateBefore;
    const AFTER: Point = Point::CreateAfter;

    async fn write(lane: &mut Lane, batch: &[Self]) -> store::Result<Vec<Self::Outcome>> {
        let mut all = Vec::with_capacity(batch.len());
        for Self(news) in batch {
            all.push(lane.create_batch(news).await?);
        }
        Ok(all)
    }

    async fn decided(
        engine: &Engine,
        batch: &[Self],
        outcomes: Vec<Self::Outcome>,
        sure: bool,
    ) -> store::Result<Vec<Self::Outcome>> {
        for (Self(news), outcomes) in batch.iter().zip(&outcomes) {
            engine.created(news, outcomes, sure);
        }
        Ok(outcomes)
    }

    fn refused(&self, engine: &Engine) {
        let mut owner = engine.owner();
        for new in &self.0 {
            owner.lent.remove(&new.run);
        }
    }
}

impl Engine {
    /// Starts many runs, each with its place in the request. When this returns, those that were not
    /// refused are durable. Outcomes are in the order of `starts`. An error is about all of them, and then nothing was started.
    ///
    /// A repeat with the same idempotency key answers with the runs of the first time, and tries again
    /// what was refused then.
    pub async fn start_batch(
        &self,
        mut starts: Vec<(usize, Start)>,
        idempotency: Option<&Idempotency>,
    ) -> Result<Vec<Result<Started, Error>>, Error> {
        self.admit()?;
        let unknown = |(_, start): &(usize, Start)| {
            self.catalog().function(start.namespace.id, &start.function).is_none()
        };
        if starts.iter().any(unknown) {
            // Another node may have registered it a moment ago.
            self.fresh_catalog().await?;
        }
        let mut outcomes: Vec<Option<Result<Started, Error>>> = Vec::new();
        let (mut places, mut news) = (Vec::new(), Vec::new());
        let mut over = HashMap::new();
        for (i, (place, start)) in starts.iter_mut().enumerate() {
            start.idempotency = idempotency
                .map(|all| Idempotency { key: format!("{} #{place}", all.key), hash: all.hash });
            outcomes.push(match self.of_batch(*place, start, &mut over).await {
                Ok(new) => {
                    places.push(i);
                    news.push(new);
                    None
                }
                Err(error @ Error::Unavailable { .. }) => {
                    self.unlend_all(&news);
                    return Err(error);
                }
                Err(error) => Some(Err(error)),
            });
        }
        let runs: Vec<RunId> = news.iter().map(|new| new.run).collect();
        let created =
            if news.is_empty() { Vec::new() } else { self.create_all(Batch(news)).await? };
        if created.contains(&CreateOutcome::IdemReused) {
            return Err(Error::IdempotencyKeyReused);
        }
        // Those whose key somebody has, by who has it: in their order, because of their signals.
        let mut held: HashMap<RunId, Vec<(usize, Option<i16>)>> = HashMap::new();
        for ((i, run), outcome) in places.into_iter().zip(runs).zip(created) {
            outcomes[i] = match outcome {
                CreateOutcome::IdemSame(run) => Some(Ok(Started::Replayed(run))),
                CreateOutcome::KeyHeld { run, status } => {
                    held.entry(run).or_default().push((i, status));
                    None
                }
                _ => Some(Ok(Started::New(run))),
            };
        }
        let starts = &starts;
        let settled = futures::stream::iter(held)
            .map(|(run, those)| async move {
                let mut told = Vec::with_capacity(those.len());
                for (i, status) in those {
                    told.push((i, self.key_was_held(&starts[i].1, run, status).await));
                }
                told
            })
            .buffer_unordered(AT_A_TIME)
            .collect::<Vec<_>>()
            .await;
        for (i, outcome) in settled.into_iter().flatten() {
            outcomes[i] = Some(outcome);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn key_was_held(
        &self,
        start: &Start,
        run: RunId,
        status: Option<i16>,
    ) -> Result<Started, Error> {
        match self.key_held(start, run, status).await? {
            Some(started) => Ok(started),
            // It has ended meanwhile: the key is free.
            None => self.start(start.clone()).await,
        }
    }

    /// The run of one start of a batch, or why it is not started. `over` are rates that the batch has
    /// used up.
    async fn of_batch(
        &self,
        place: usize,
        start: &mut Start,
        over: &mut HashMap<LimitKey, Duration>,
    ) -> Result<NewRun, Error> {
        let refused = |field: &str, why: &str| {
            Error::Invalid(format!("#/runs/{place}/{field}"), why.to_owned())
        };
        let waits = |mode| matches!(mode, IfRunning::CancelExisting | IfRunning::TerminateExisting);
        if waits(start.if_running) {
            let why =
                "waits for the end of another run, which a batch does not; start it by itself";
            return Err(refused("if_running", why));
        }
        let flow = self.flow_of(start);
        let mut within = None;
        if let Some((function, flow)) = &flow {
            Self::make_single(start, flow);
            if waits(start.if_running) {
                let why = "is a singleton that cancels the older run, and a batch waits for no end; \
                           start it by itself";
                return Err(refused("function", why));
            }
            if flow.debounce.is_some() {
                return Err(refused("function", "is debounced; start it by itself"));
            }
            if flow.gather.is_some() {
                return Err(refused("function", "gathers its starts; start it by itself"));
            }
            within = Self::rate_of(*function, flow, start);
        }
        // Without a key it can be here: that of the batch says nothing of where its runs are.
        let own = start.key.is_none().then(|| {
            let shard = self.shard_of(&start.namespace.name, &start.function, None, None);
            (RunId::on_shard(self.clock().upper(), shard, crate::clock::chance()), None)
        });
        let new = self.new_run_of(start, None, own)?;
        let mut admitted = self.admits(start, &new).await;
        if let Some(within) = within.filter(|_| admitted.is_ok()) {
            admitted = match over.get(&within.at) {
                Some(&retry_after) if start.idempotency.is_none() => {
                    Err(Error::RateLimited { function: start.function.clone(), retry_after })
                }
                _ => self.is_within(start, &new, &within).await,
            };
            if let Err(Error::RateLimited { retry_after, .. }) = &admitted {
                over.insert(within.at, *retry_after);
            }
        }
        match admitted {
            Ok(()) => Ok(new),
            Err(error) => {
                self.owner().lent.remove(&new.run);
                Err(error)
            }
        }
    }

    fn unlend_all(&self, news: &[NewRun]) {
        let mut owner = self.owner();
        for new in news {
            owner.lent.remove(&new.run);
        }
    }
}
