//! The last invocations of each endpoint, as this node sent them: what went over the wire, for people
//! who look why a handler does not do what they think, and how many there were and how long they took.
//!
//! It is in memory alone and costs the database nothing; a node that stops forgets it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;

use super::breaker::Breaker;
use super::catalog::Deployment;
use super::functions::endpoint_row;
use super::{EndpointRef, Engine, Error, Namespace, lock};
use crate::machine::{DeploymentId, EndpointId, InvocationId, RunId, Timestamp};
use crate::outbound::Reply;
use crate::protocol::Transport;
use crate::telemetry::{bounds, series::INVOCATION_SECONDS};

/// So many of the last invocations of an endpoint are known, and of those that failed so many more.
pub const LAST: usize = 100;
/// So much of a body is kept.
const HEAD: usize = 8 << 10;
/// Bodies are kept for so long: they may have personal data.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// So much of all bodies together; what comes when it is full is known without its body.
const MOST_BYTES: usize = 64 << 20;
/// Of so many endpoints; who was called longest ago is forgotten first.
const MOST_ENDPOINTS: usize = 1_000;
/// Minutes that are counted.
const MINUTES: usize = 60;
/// How long a minute is counted.
const KEPT_MINUTES: Duration = Duration::from_mins(MINUTES as u64);
const MINUTE: Duration = Duration::from_mins(1);

/// The outcome of an invocation that failed.
pub(super) const FAILED: &str = "failed";

/// Headers whose values are not kept, beside those of the endpoint's own.
const SECRET: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];
/// What stands in their place.
const HIDDEN: &str = "(hidden)";

/// Headers, length and head of a request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its headers.
    pub headers: HeaderMap,
    /// How long its body was, in bytes; of a failed answer's as much as was read.
    pub bytes: usize,
    /// The first [`HEAD`] bytes of it; none: not kept.
    pub head: Option<Bytes>,
}

impl Part {
    /// What is kept of it. `secret`: names of headers whose values are not.
    fn new<'a>(
        headers: &HeaderMap,
        secret: impl IntoIterator<Item = &'a HeaderName>,
        body: &[u8],
    ) -> Self {
        let mut headers = headers.clone();
        for name in secret.into_iter().chain(&SECRET) {
            if headers.contains_key(name) {
                headers.insert(name, HeaderValue::from_static(HIDDEN));
            }
        }
        // A copy: a slice would keep the whole of it in memory.
        let head = Bytes::copy_from_slice(&body[..body.len().min(HEAD)]);
        Self { headers, bytes: body.len(), head: Some(head) }
    }

    fn kept(&self) -> usize {
        self.head.as_ref().map_or(0, Bytes::len)
    }
}

/// One invocation that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoked {
    /// Its id.
    pub id: InvocationId,
    /// When it was sent.
    pub at: Timestamp,
    /// How long it took, until its answer was read.
    pub took: Duration,
    /// The run.
    pub run: RunId,
    /// Its function.
    pub function: String,
    /// Of a task's attempt: its step.
    pub step: Option<String>,
    /// The deployment that it went to.
    pub deployment: DeploymentId,
    /// How it was spoken.
    pub transport: &'static str,
    /// The status of the answer; none: there was none.
    pub status: Option<u16>,
    /// `answered`, `held` or `failed`.
    pub outcome: &'static str,
    /// Why it failed.
    pub detail: Option<String>,
    /// What was sent.
    pub request: Part,
    /// What came back; none: nothing, or line by line.
    pub answer: Option<Part>,
}

/// The invocations of one minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minute {
    /// When it began.
    pub at: Timestamp,
    /// All of them.
    pub invocations: u64,
    /// Those that failed.
    pub failed: u64,
    /// How many took how long: those within each of [`times`] alone, and last those over all.
    pub took: Vec<u64>,
}

/// The upper bounds of [`Minute::took`], in seconds.
#[must_use]
pub fn times() -> &'static [f64] {
    bounds(INVOCATION_SECONDS)
}

/// What this node knows of an endpoint's invocations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recent {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// The last ones in the order of their ends, newest first: at most [`LAST`], and before them at
    /// most [`LAST`] that failed.
    pub last: Vec<Arc<Invoked>>,
    /// The minutes of the last hour that had any, oldest first.
    pub minutes: Vec<Minute>,
    /// How many are out.
    pub open: usize,
}

/// The invocations of all endpoints, by the numbers of endpoints.
#[derive(Default)]
pub(super) struct Invocations(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    endpoints: HashMap<i32, Ring>,
    /// Bytes of bodies.
    kept: usize,
    /// When old bodies were last thrown away.
    swept: Timestamp,
}

#[derive(Default)]
struct Ring {
    /// Oldest first.
    last: VecDeque<Arc<Invoked>>,
    /// Those before them that failed: among many that went well they are what people look for.
    failed: VecDeque<Arc<Invoked>>,
    minutes: VecDeque<Minute>,
}

impl Invocations {
    /// One is over.
    pub(super) fn note(&self, endpoint: i32, invoked: Invoked) {
        lock(&self.0).note(endpoint, invoked);
    }

    fn of(&self, endpoint: i32, now: Timestamp) -> (Vec<Arc<Invoked>>, Vec<Minute>) {
        let mut memory = lock(&self.0);
        memory.sweep(now);
        let Some(ring) = memory.endpoints.get_mut(&endpoint) else { return Default::default() };
        ring.minutes.retain(|minute| minute.at + KEPT_MINUTES > now);
        let last = ring.failed.iter().chain(&ring.last).rev().cloned().collect();
        (last, ring.minutes.iter().cloned().collect())
    }
}

impl Memory {
    fn note(&mut self, endpoint: i32, mut invoked: Invoked) {
        self.sweep(invoked.at);
        if !self.endpoints.contains_key(&endpoint) && self.endpoints.len() >= MOST_ENDPOINTS {
            self.forget_quietest();
        }
        let parts = std::iter::once(&mut invoked.request).chain(&mut invoked.answer);
        for part in parts {
            if self.kept + part.kept() > MOST_BYTES {
                part.head = None;
            }
            self.kept += part.kept();
        }
        let ring = self.endpoints.entry(endpoint).or_default();
        ring.count(&invoked);
        ring.last.push_back(Arc::new(invoked));
        if let Some(gone) = ring.make_room() {
            self.kept -= gone.kept();
        }
    }

    fn forget_quietest(&mut self) {
        let last = |ring: &Ring| ring.last.back().map(|invoked| invoked.at);
        let quietest = self.endpoints.iter().min_by_key(|(_, ring)| last(ring)).map(|(id, _)| *id);
        if let Some(ring) = quietest.and_then(|id| self.endpoints.remove(&id)) {
            self.kept -= ring.failed.iter().chain(&ring.last).map(|i| i.kept()).sum::<usize>();
        }
    }

    /// Throws old bodies away, at most once in a minute.
    fn sweep(&mut self, now: Timestamp) {
        if now < self.swept + MINUTE {
            return;
        }
        self.swept = now;
        let old = |invoked: &&mut Arc<Invoked>| invoked.at + KEPT_FOR <= now;
        for ring in self.endpoints.values_mut() {
            let all = ring.failed.iter_mut().chain(&mut ring.last);
            for invoked in all.filter(old) {
                if invoked.kept() > 0 {
                    self.kept -= invoked.kept();
                    Arc::make_mut(invoked).forget();
                }
            }
        }
    }
}

impl Ring {
    /// Takes the oldest away, if there are too many.
    fn make_room(&mut self) -> Option<Arc<Invoked>> {
        if self.last.len() <= LAST {
            return None;
        }
        let oldest = self.last.pop_front()?;
        if oldest.outcome != FAILED {
            return Some(oldest);
        }
        self.failed.push_back(oldest);
        if self.failed.len() > LAST { self.failed.pop_front() } else { None }
    }

    fn count(&mut self, invoked: &Invoked) {
        let step = i64::try_from(MINUTE.as_micros()).unwrap_or(i64::MAX);
        let at = Timestamp::from_micros(invoked.at.as_micros().div_euclid(step) * step);
        // Those that took long come after others that began later.
        let place = self.minutes.iter().rposition(|minute| minute.at <= at);
        let place = match place {
            Some(place) if self.minutes[place].at == at => place,
            before => {
                let place = before.map_or(0, |before| before + 1);
                let took = vec![0; times().len() + 1];
                self.minutes.insert(place, Minute { at, invocations: 0, failed: 0, took });
                place
            }
        };
        let minute = &mut self.minutes[place];
        minute.invocations += 1;
        minute.failed += u64::from(invoked.outcome == FAILED);
        let seconds = invoked.took.as_secs_f64();
        minute.took[times().partition_point(|bound| *bound < seconds)] += 1;
        if self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
    }
}

impl Invoked {
    /// One that goes out now. How it came out is said later.
    pub(super) fn sent(
        id: InvocationId,
        at: Timestamp,
        run: RunId,
        function: &str,
        to: &Deployment,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Self {
        Self {
            id,
            at,
            took: Duration::ZERO,
            run,
            function: function.to_owned(),
            step: None,
            deployment: to.public,
            transport: Transport::Respond.word(),
            status: None,
            outcome: FAILED,
            detail: None,
            request: Part::new(headers, to.endpoint.headers.keys(), body),
            answer: None,
        }
    }

    /// What it was answered with.
    pub(super) fn answered(&mut self, reply: &Reply) {
        self.status = Some(reply.status);
        self.answer = Some(Part::new(&reply.headers, [], &reply.body));
    }

    fn kept(&self) -> usize {
        self.request.kept() + self.answer.as_ref().map_or(0, Part::kept)
    }

    fn forget(&mut self) {
        self.request.head = None;
        if let Some(answer) = &mut self.answer {
            answer.head = None;
        }
    }
}

impl Engine {
    /// What this node knows of the last invocations of an endpoint; none: there is no such endpoint.
    pub async fn invocations(
        &self,
        ns: &Namespace,
        endpoint: &EndpointRef,
    ) -> Result<Option<Recent>, Error> {
        let catalog = self.fresh_catalog().await?;
        let Some(e) = endpoint_row(&catalog, ns.id, endpoint) else { return Ok(None) };
        let (last, minutes) = self.recent().of(e.id, self.clock().lower());
        let open = self.owner().breakers.get(&e.id).map_or(0, Breaker::open);
        Ok(Some(Recent { endpoint: e.public, last, minutes, open }))
    }
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
