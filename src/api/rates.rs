//! How many requests one caller may send to this node: token buckets in memory.
//!
//! Counted are requests with a credential of their own, by it, and those without a valid one, by the
//! address that they come from. Not counted are what a handler sends for the run that it has been
//! given (the gateway itself decides how many of those there are, and a refused checkpoint would
//! hurt the run), what another node passes on (it has counted it), and who is let in without a key
//! on this machine.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::ApiState;
use super::auth::{Checked, bearer, check, is_api_key};
use super::catalogue::Code;
use super::problem::Problem;
use crate::engine::NODE_HEADER;
use crate::machine::{Allowance, Bucket, Taken, Timestamp};

/// Callers that are remembered, of each kind. Who comes when none of them can be forgotten shares a
/// bucket with all that come then.
const MOST: usize = 50_000;
/// Full buckets are forgotten at most so often.
const SWEPT: Duration = Duration::from_secs(1);
/// The bucket of those for whom there is no room.
const CROWD: u64 = 0;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// What one caller may send to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// With one API key, as one subject of JWTs, or to one callback address; none: any number.
    pub key: Option<Allowance>,
    /// Without a valid credential, from one address; none: any number.
    pub address: Option<Allowance>,
}

/// The buckets of all callers.
#[derive(Debug, Default)]
pub(super) struct Rates {
    limits: RateLimits,
    hasher: RandomState,
    keys: Buckets,
    addresses: Buckets,
}

#[derive(Debug, Default)]
struct Buckets(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    buckets: HashMap<u64, Bucket>,
    swept: Option<Timestamp>,
}

impl Buckets {
    fn with<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, of: u64, allowance: Allowance, now: Timestamp) -> Taken {
        self.with(|kept| {
            let has_room = kept.buckets.contains_key(&of) || kept.make_room(now);
            let bucket = kept.buckets.entry(if has_room { of } else { CROWD }).or_default();
            allowance.take(bucket, now)
        })
    }

    fn peek(&self, of: u64) -> Option<Bucket> {
        self.with(|kept| kept.buckets.get(&of).copied())
    }
}

impl Kept {
    /// Whether one more can be remembered.
    fn make_room(&mut self, now: Timestamp) -> bool {
        if self.buckets.len() < MOST {
            return true;
        }
        if self.swept.is_none_or(|at| now.since(at) >= SWEPT) {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        self.buckets.len() < MOST
    }
}

impl Rates {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    fn id(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// One more of this address, unless it has sent too many.
    fn count_address(&self, parts: &Peer, now: Timestamp) -> Result<(), Problem> {
        let (Some(allowance), Some(address)) = (self.limits.address, parts.0) else {
            return Ok(());
        };
        let taken = self.addresses.take(self.id(address), allowance, now);
        if taken.granted { Ok(()) } else { Err(too_many("address", allowance, taken)) }
    }

    /// Refuses an address that has sent too many, without counting one more.
    fn look_at_address(&self, peer: &Peer, now: Timestamp) -> Result<(), Problem> {
        let (Some(allowance), Some(address)) = (self.limits.address, peer.0) else { return Ok(()) };
        match self.addresses.peek(self.id(address)) {
            Some(mut bucket) if allowance.is_used_up(bucket, now) => {
                Err(too_many("address", allowance, allowance.take(&mut bucket, now)))
            }
            _ => Ok(()),
        }
    }
}

/// Where a request comes from: of IPv6 the network, which is what one has.
struct Peer(Option<IpAddr>);

impl Peer {
    fn of(parts: &Parts) -> Self {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Self(peer.map(|ConnectInfo(peer)| match peer.ip().to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64))),
            v4 @ IpAddr::V4(_) => v4,
        }))
    }
}

/// By what a request is counted.
enum Counted {
    /// By a credential, and by its namespace.
    Key(u64, Option<i32>),
    /// By nothing, unless it turns out that its credential opens nothing.
    Not,
}

/// Goes around every call under `/v1`: finds out who calls, and counts.
pub(super) async fn bounded(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let now = state.engine.steady();
    let (mut parts, body) = request.into_parts();
    let peer = Peer::of(&parts);
    let counted = counted(&state, &mut parts, &peer, now).await;
    let mut taken = Vec::new();
    if let Ok(Counted::Key(of, ns)) = counted {
        let key = state.rates.limits.key.map(|a| (a, state.rates.keys.take(of, a, now)));
        taken.extend(key.map(|(allowance, key)| ("key", allowance, key)));
        // A key that has sent too much takes nothing from the others of its namespace.
        if let Some(ns) = ns
            && taken.iter().all(|(.., key)| key.granted)
        {
            let all = state.engine.take_request(ns, now);
            taken.extend(all.map(|(allowance, all)| ("namespace", allowance, all)));
        }
    }
    let refused = taken.iter().find(|(.., taken)| !taken.granted);
    let mut response = match (counted, refused) {
        (Err(problem), _) => problem.into_response(),
        (_, Some((by, allowance, taken))) => too_many(by, *allowance, *taken).into_response(),
        _ => next.run(Request::from_parts(parts, body)).await,
    };
    if response.status() == StatusCode::UNAUTHORIZED
        && let Err(problem) = state.rates.count_address(&peer, now)
    {
        response = problem.into_response();
    }
    tell(&mut response, &taken);
    response
}

async fn counted(
    state: &ApiState,
    parts: &mut Parts,
    peer: &Peer,
    now: Timestamp,
) -> Result<Counted, Problem> {
    if parts.headers.contains_key(NODE_HEADER) {
        return Ok(Counted::Not);
    }
    let rates = &state.rates;
    if let Some(secret) = parts.uri.path().strip_prefix("/v1/callbacks/") {
        // The address is the credential.
        let secret = secret.split('/').next().unwrap_or_default();
        return match state.engine.called_back(secret) {
            Some(run) => Ok(Counted::Key(rates.id(run.uuid()), None)),
            None => rates.count_address(peer, now).map(|()| Counted::Not),
        };
    }
    let shown = bearer(&parts.headers)?.map(|token| (rates.id(token), is_api_key(token)));
    // Looking an unknown key up costs a query: not for an address that has shown too many wrong ones.
    if let Some((of, true)) = shown
        && rates.keys.peek(of).is_none()
    {
        rates.look_at_address(peer, now)?;
    }
    let checked = check(state, parts).await?;
    let counted = match (&checked, shown) {
        (Checked::Caller(caller), Some((of, true))) => Counted::Key(of, Some(caller.namespace.id)),
        // A JWT is short-lived: its subject is who calls.
        (Checked::Caller(caller), Some(_)) => {
            let ns = caller.namespace.id;
            Counted::Key(rates.id((ns, &caller.by)), Some(ns))
        }
        (Checked::Caller(_), None) | (Checked::Token(_), _) => Counted::Not,
    };
    parts.extensions.insert(checked);
    Ok(counted)
}

fn too_many(by: &'static str, allowance: Allowance, taken: Taken) -> Problem {
    metrics::counter!("stepwell_requests_refused_total", "by" => by).increment(1);
    let who = match by {
        "key" => "This credential",
        "namespace" => "All credentials of this namespace together",
        _ => "This address, without a valid credential,",
    };
    let detail = format!(
        "{who} may send {} requests in {} s to one node.",
        allowance.count(),
        allowance.period().as_secs()
    );
    Problem::new(Code::TooManyRequests, detail).retry_after(taken.next)
}

/// Writes down what may still be sent: draft-ietf-httpapi-ratelimit-headers.
fn tell(response: &mut Response, taken: &[(&str, Allowance, Taken)]) {
    if taken.is_empty() {
        return;
    }
    let seconds = |d: Duration| d.as_secs() + u64::from(d.subsec_nanos() > 0);
    let policy = |(by, allowance, _): &(&str, Allowance, Taken)| {
        format!("\"{by}\";q={};w={}", allowance.count(), allowance.period().as_secs())
    };
    let left = |(by, _, taken): &(&str, Allowance, Taken)| {
        format!("\"{by}\";r={};t={}", taken.left, seconds(taken.full_in))
    };
    let policies: Vec<String> = taken.iter().map(policy).collect();
    let left: Vec<String> = taken.iter().map(left).collect();
    for (name, items) in [(POLICY, policies), (LEFT, left)] {
        let value = HeaderValue::try_from(items.join(", ")).expect("words and digits");
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_nobody_goes_uncounted() {
        let buckets = Buckets::default();
        let allowance: Allowance = "2/10s".parse().expect("it is one");
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        for of in 1..=MOST as u64 {
            assert!(buckets.take(of, allowance, at(0)).granted);
        }
        // The crowd has one bucket.
        let granted = (0..10).filter(|n| buckets.take(u64::MAX - n, allowance, at(1)).granted);
        assert_eq!(granted.count(), 2);
        assert_eq!(buckets.with(|kept| kept.buckets.len()), MOST + 1);
        // Who is known is not part of it.
        assert!(buckets.take(7, allowance, at(1)).granted);
        assert!(!buckets.take(7, allowance, at(1)).granted);
        // Those that have not come for long are forgotten.
        assert!(buckets.take(u64::MAX, allowance, at(9)).granted);
        assert!(buckets.with(|kept| kept.buckets.len()) < 10);
    }

    #[test]
    fn an_address_is_a_network_of_ipv6() {
        let peer = |address: &str| {
            let mut parts = Request::new(axum::body::Body::empty()).into_parts().0;
            let address: SocketAddr = address.parse().expect("an address");
            parts.extensions.insert(ConnectInfo(address));
            Peer::of(&parts).0
        };
        assert_eq!(peer("[2001:db8:1:2:3::4]:1"), peer("[2001:db8:1:2:ffff::1]:9"));
        assert_ne!(peer("[2001:db8:1:2::4]:1"), peer("[2001:db8:1:3::4]:1"));
        assert_eq!(peer("192.0.2.7:1"), peer("[::ffff:192.0.2.7]:2"));
        assert_ne!(peer("192.0.2.7:1"), peer("192.0.2.8:1"));
    }
}
