//! Pull endpoints: what would be posted to a handler is offered, and whoever polls takes it.
//!
//! An offer is an exchange like any other, but for how it gets there: it is opened only where
//! somebody polls who would take it, what brings its answer is a request too, and until then it is
//! in the memory of the node that drives its run and nowhere else.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::breaker::Breaker;
use super::functions::endpoint_row;
use super::{EndpointRef, Engine, Error, Namespace, lock};
use crate::machine::{Attention, EndpointId, InvocationId, Run, RunId};
use crate::outbound::{Failure, Patience, Reply};

/// What a pull endpoint has in place of a URL.
pub const PULL: &str = "pull:";
/// The most that one poll takes.
pub const MOST_TAKEN: usize = 100;
/// How long an offer waits, when whoever polled has gone, for the next.
const UNTAKEN: Duration = Duration::from_secs(5);
/// How long a poll that has something waits for more that is promised.
const LINGER: Duration = Duration::from_millis(10);
/// How long a poll that takes what there is waits for what is promised.
const HURRY: Duration = Duration::from_secs(1);
/// How long an answer may take to become durable before its sender is told that this is not known.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether this stands where another endpoint has its URL.
pub(super) fn is_pull(url: &str) -> bool {
    url == PULL
}

pub(super) fn pull_url() -> Url {
    PULL.parse().expect("a scheme and a colon are a URL")
}

/// An invocation that somebody takes.
#[derive(Debug, Clone)]
pub struct Handout {
    /// Its run.
    pub run: RunId,
    /// Its id.
    pub invocation: InvocationId,
    /// The headers that a handler would see, signature included.
    pub headers: HeaderMap,
    /// The document.
    pub body: Bytes,
    /// With which it is answered.
    pub token: String,
}

/// An exchange that is to be offered.
pub(super) struct NewOffer {
    pub(super) endpoint: i32,
    /// As whom the endpoint's breaker counts it; none: it does not.
    pub(super) counted: Option<RunId>,
    /// The epoch in its token.
    pub(super) epoch: i32,
    pub(super) handout: Handout,
}

/// What came of an offer.
pub(super) enum Offered {
    /// Whoever took it has answered.
    Reply(Reply),
    /// Whoever took it was silent for too long.
    Silent(Failure),
    /// Nobody took it.
    Untaken,
}

/// To be kept until what an answer leads to is with its run: then its sender waits for the commit.
pub(super) struct Telling {
    _sender: Option<oneshot::Sender<()>>,
}

/// An offer that nobody was given yet.
struct Offer {
    counted: Option<RunId>,
    handout: Handout,
    taken: oneshot::Sender<()>,
}

/// An answer that is waited for.
struct Awaited {
    run: RunId,
    epoch: i32,
    answer: oneshot::Sender<Reply>,
    /// Ends when what the answer leads to is with its run.
    applied: oneshot::Receiver<()>,
}

/// The offers of an endpoint, and who waits for them.
#[derive(Default)]
struct Desk {
    offers: VecDeque<Offer>,
    /// Polls that wait here, and those at other nodes that wait to hear of something here.
    polls: usize,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    desks: HashMap<i32, Desk>,
    awaited: HashMap<InvocationId, Awaited>,
}

/// The desks of all pull endpoints. Locked after the owner, never before.
#[derive(Default)]
pub(super) struct Desks(Mutex<State>);

impl Desks {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// How many poll an endpoint now.
    pub(super) fn polls(&self, endpoint: i32) -> usize {
        self.state().desks.get(&endpoint).map_or(0, |desk| desk.polls)
    }

    /// There may be something for those who wait.
    pub(super) fn tell(&self, endpoint: i32) {
        if let Some(desk) = self.state().desks.get(&endpoint) {
            desk.changed.notify_waiters();
        }
    }

    fn changed(&self, endpoint: i32) -> Arc<Notify> {
        Arc::clone(&self.state().desks.entry(endpoint).or_default().changed)
    }

    /// One more polls.
    fn arrive(&self, endpoint: i32) {
        self.state().desks.entry(endpoint).or_default().polls += 1;
        metrics::gauge!("stepwell_polls").increment(1.0);
    }

    /// One fewer.
    fn leave(&self, endpoint: i32) {
        let mut state = self.state();
        let desk = state.desks.entry(endpoint).or_default();
        desk.polls = desk.polls.saturating_sub(1);
        metrics::gauge!("stepwell_polls").decrement(1.0);
    }

    /// The next offer of an endpoint.
    fn next(&self, endpoint: i32) -> Option<Offer> {
        self.state().desks.get_mut(&endpoint)?.offers.pop_front()
    }

    fn has_offers(&self, endpoint: i32) -> bool {
        self.state().desks.get(&endpoint).is_some_and(|desk| !desk.offers.is_empty())
    }

    /// Offers that were not given away after all come before all others.
    fn put_back(&self, endpoint: i32, offers: Vec<Offer>) {
        let mut state = self.state();
        let desk = state.desks.entry(endpoint).or_default();
        for offer in offers.into_iter().rev() {
            desk.offers.push_front(offer);
        }
        desk.changed.notify_waiters();
    }
}

/// An offer that lasts as long as this.
struct Standing<'a> {
    desks: &'a Desks,
    endpoint: i32,
    invocation: InvocationId,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let mut state = self.desks.state();
        state.awaited.remove(&self.invocation);
        if let Some(desk) = state.desks.get_mut(&self.endpoint) {
            desk.offers.retain(|offer| offer.handout.invocation != self.invocation);
        }
    }
}

/// Somebody polls here, and would take some.
struct Seat<'a> {
    engine: &'a Engine,
    endpoint: i32,
    /// So many more.
    left: usize,
    held: Vec<Offer>,
}

impl<'a> Seat<'a> {
    fn take(engine: &'a Engine, endpoint: i32, most: usize) -> Self {
        engine.desks().arrive(endpoint);
        let mut owner = engine.owner();
        owner.breakers.entry(endpoint).or_default().want(most);
        engine.release(&mut owner, endpoint);
        Self { engine, endpoint, left: most, held: Vec::new() }
    }

    /// Takes what is offered. Returns how much more is on its way.
    fn gather(&mut self) -> usize {
        let mut owner = self.engine.owner();
        let breaker = owner.breakers.entry(self.endpoint).or_default();
        while self.left > 0
            && let Some(offer) = self.engine.desks().next(self.endpoint)
        {
            if let Some(who) = offer.counted {
                breaker.took(who);
            }
            breaker.want_no_more(1);
            self.left -= 1;
            self.held.push(offer);
        }
        breaker.promised()
    }

    /// Gives away what was taken, but for what was withdrawn meanwhile.
    fn deliver(mut self) -> Vec<Handout> {
        let held = std::mem::take(&mut self.held);
        let taken = held.into_iter().filter_map(|o| o.taken.send(()).is_ok().then_some(o.handout));
        taken.collect()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        {
            let mut owner = self.engine.owner();
            let breaker = owner.breakers.entry(self.endpoint).or_default();
            breaker.want_no_more(self.left);
            for who in held.iter().filter_map(|offer| offer.counted) {
                breaker.untook(who);
            }
        }
        if !held.is_empty() {
            self.engine.desks().put_back(self.endpoint, held);
        }
        self.engine.desks().leave(self.endpoint);
    }
}

/// Another node waits to hear of something here.
struct Ear<'a>(&'a Desks, i32);

impl Drop for Ear<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

impl Engine {
    pub(super) fn desks(&self) -> &Desks {
        &self.0.desks
    }

    /// Where the answer to an invocation is brought.
    #[must_use]
    pub fn answer_url(&self, run: RunId, invocation: InvocationId) -> String {
        format!("{}/v1/runs/{run}/answers/{invocation}", self.public_url())
    }

    /// Offers an exchange, and waits for its answer as long as `patience` lasts from when it was taken.
    pub(super) async fn offer(&self, new: NewOffer, patience: &Patience) -> (Offered, Telling) {
        let NewOffer { endpoint, counted, epoch, handout } = new;
        let (run, invocation) = (handout.run, handout.invocation);
        let (take, taken) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let (sender, applied) = oneshot::channel();
        let telling = Telling { _sender: Some(sender) };
        let _standing = Standing { desks: self.desks(), endpoint, invocation };
        {
            let mut state = self.desks().state();
            state.awaited.insert(invocation, Awaited { run, epoch, answer, applied });
            let desk = state.desks.entry(endpoint).or_default();
            desk.offers.push_back(Offer { counted, handout, taken: take });
            desk.changed.notify_waiters();
        }
        let offered = match timeout(UNTAKEN, taken).await {
            Ok(Ok(())) => match patience.over(answered).await {
                Ok(Ok(reply)) => Offered::Reply(reply),
                Ok(Err(_)) => Offered::Silent(Failure::Closed("nobody can answer".to_owned())),
                Err(silent) => Offered::Silent(silent),
            },
            _ => Offered::Untaken,
        };
        let outcome = match &offered {
            Offered::Reply(_) => "answered",
            Offered::Silent(_) => "silent",
            Offered::Untaken => "untaken",
        };
        metrics::counter!("stepwell_offers_total", "outcome" => outcome).increment(1);
        (offered, telling)
    }

    /// The number of a pull endpoint.
    fn pull_endpoint(&self, ns: &Namespace, endpoint: EndpointId) -> Result<Option<i32>, Error> {
        let catalog = self.catalog();
        match endpoint_row(&catalog, ns.id, &EndpointRef::Id(endpoint)) {
            Some(row) if is_pull(&row.url) => Ok(Some(row.id)),
            Some(row) => {
                let detail = format!(
                    "endpoint `{}` has a URL, to which invocations are posted: nobody can poll it",
                    row.name
                );
                Err(Error::Invalid("/pull".to_owned(), detail))
            }
            None => Ok(None),
        }
    }

    /// Takes up to `most` invocations of an endpoint from what this node drives, oldest first, and
    /// waits for the first; without `wait` it takes what there is. None if the endpoint is gone.
    pub async fn poll(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        most: usize,
        wait: Duration,
    ) -> Result<Option<Vec<Handout>>, Error> {
        let Some(endpoint) = self.pull_endpoint(ns, endpoint)? else { return Ok(None) };
        let changed = self.desks().changed(endpoint);
        let mut seat = Seat::take(self, endpoint, most);
        let hurry = wait.is_zero();
        let mut until = Instant::now() + if hurry { HURRY } else { wait };
        let mut lingers = false;
        loop {
            let mut told = pin!(changed.notified());
            told.as_mut().enable();
            let promised = seat.gather();
            let some = !seat.held.is_empty();
            if seat.left == 0 || (promised == 0 && (some || hurry)) || self.is_leaving() {
                break;
            }
            if some && !lingers {
                lingers = true;
                until = until.min(Instant::now() + LINGER);
            }
            if timeout_at(until, told).await.is_err() {
                seat.gather();
                break;
            }
        }
        Ok(Some(seat.deliver()))
    }

    /// Waits until there is something here for who polls at another node. None if the endpoint is
    /// gone.
    pub async fn hear_of_work(
        &self,
        ns: &Namespace,
        endpoint: EndpointId,
        wait: Duration,
    ) -> Result<Option<bool>, Error> {
        let Some(endpoint) = self.pull_endpoint(ns, endpoint)? else { return Ok(None) };
        let until = Instant::now() + wait;
        let changed = self.desks().changed(endpoint);
        self.desks().arrive(endpoint);
        let _ear = Ear(self.desks(), endpoint);
        loop {
            let mut told = pin!(changed.notified());
            told.as_mut().enable();
            if self.has_work(endpoint) {
                return Ok(Some(true));
            }
            if self.is_leaving() || timeout_at(until, told).await.is_err() {
                return Ok(Some(false));
            }
        }
    }

    fn is_leaving(&self) -> bool {
        self.owner().leaving
    }

    fn has_work(&self, endpoint: i32) -> bool {
        let kept = self.owner().breakers.get(&endpoint).is_some_and(Breaker::has_work);
        kept || self.desks().has_offers(endpoint)
    }

    /// The answer to an invocation that was taken. Returns when all that it leads to is durable.
    pub async fn bring_answer(
        &self,
        token: &str,
        run: RunId,
        invocation: InvocationId,
        reply: Reply,
    ) -> Result<(), Error> {
        let claims = self.keys().check(token, self.clock().lower()).map_err(|_| Error::BadToken)?;
        if claims.run != run {
            return Err(Error::BadToken);
        }
        let mut changes = self.changes(run);
        let awaited = {
            let mut state = self.desks().state();
            match state.awaited.get(&invocation) {
                Some(awaited) if awaited.run != run || awaited.epoch != claims.epoch => {
                    return Err(Error::BadToken);
                }
                Some(_) => state.awaited.remove(&invocation),
                None => None,
            }
        };
        let Some(awaited) = awaited else {
            let owner = self.owner();
            let holds = owner.lease_until > self.clock().mono();
            if !holds || owner.tenure(run.shard()).is_none() {
                return Err(Error::busy("this node does not drive the run; send it again"));
            }
            return Err(Error::StaleEpoch);
        };
        awaited.answer.send(reply).map_err(|_| Error::StaleEpoch)?;
        let durable = async {
            // It ends with the exchange, one way or the other.
            drop(awaited.applied.await);
            while self.owner().runs.get(&run).is_some_and(super::owner::Entry::is_busy) {
                drop(timeout(Duration::from_millis(200), changes.changed()).await);
            }
        };
        timeout(PATIENCE, durable).await.map_err(|_| {
            Error::busy("Postgres does not answer; whether this was recorded is not known")
        })
    }

    /// Why a run that is kept back waits, if it is because nobody polls its endpoint.
    pub(super) fn unpolled(&self, run: &Run) -> Option<Attention> {
        let (_, deployment) = self.catalog().deployment_for(run)?;
        let endpoint = &deployment.endpoint;
        (deployment.is_pull() && self.desks().polls(endpoint.id) == 0).then(|| {
            let detail = format!(
                "Nobody polls endpoint `{}` for work now. Start a worker, or wait until one that is \
                 busy asks again.",
                endpoint.name
            );
            Attention::new("no-worker", detail)
        })
    }
}
