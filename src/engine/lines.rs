//! Exchanges that are spoken line by line: `duplex` both ways, `stream` by the handler alone.
//!
//! A line becomes a checkpoint and is acknowledged as one (`checkpoint.rs`); what is here is the
//! talking: keep-alive, silence, back-pressure, and the way back to `respond` where something
//! between the gateway and the handler does not let lines through.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::acknowledgement::problem_line;
use super::checkpoint::Who;
use super::exchange::Ready;
use super::owner::Owner;
use super::{DeploymentView, Engine, Error};
use crate::machine::{Answer, Attention, Fault, Terminal};
use crate::outbound::{Failure, LineReceiver, LineSender, Opened, Patience, Reply};
use crate::protocol::{self, BadAnswer, Transport};

/// How long a handler may take to begin its answer; a duplex handler sends its head at once.
const OPENING: Duration = Duration::from_secs(10);
/// How often an empty line says that the gateway is there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long the handler may take to close its side once the gateway has closed its own.
const CLOSING: Duration = Duration::from_secs(5);
/// How long the last word of an exchange may take to become durable.
const LAST_WORD: Duration = Duration::from_secs(10);
/// Parts of a stream that may be on their way to the database at a time.
const ON_THEIR_WAY: usize = 64;
/// How long lines are not tried again at first, and at most.
const FALL_BACK: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// What an exchange over lines came to.
pub(super) enum Came {
    /// It was answered as a whole, or failed before its first line.
    Reply(Result<Reply, Failure>),
    /// The same of a plain function.
    Posted(Result<Reply, Failure>),
    /// Lines do not get through to this deployment.
    Unfit(String),
    /// It was offered, and nobody has taken it.
    Untaken,
    /// It has ended; what its lines say is with the run.
    Spoken {
        /// What it means for the run, beyond what the lines said.
        fault: Option<Fault>,
        /// How it ended.
        detail: String,
    },
}

/// Why a deployment is not spoken to by lines for a while.
#[derive(Debug, Clone)]
pub(super) struct Fallback {
    /// Monotonic time.
    pub(super) until: Duration,
    wait: Duration,
    /// What happened.
    pub(super) detail: String,
}

/// The gateway's side of an exchange that is open. When it is gone the exchange has heard all.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) sender: LineSender,
    closed: Arc<Notify>,
    /// Nobody hears what is said on it: only that it is said.
    pub(super) deaf: bool,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.closed.notify_one();
    }
}

impl Engine {
    /// The transport to use for a deployment now.
    pub(super) fn transport_of(
        owner: &mut Owner,
        id: i32,
        best: Transport,
        now: Duration,
    ) -> Transport {
        if best != Transport::Duplex {
            return best;
        }
        match owner.fallbacks.get_mut(&id) {
            Some(fallback) if fallback.until > now => Transport::Respond,
            Some(fallback) => {
                // One goes ahead and looks.
                fallback.until = now + OPENING;
                best
            }
            None => best,
        }
    }

    /// A deployment with the transport that this node uses for it now.
    pub(super) fn with_transport(&self, id: i32, view: DeploymentView) -> DeploymentView {
        let best = self.catalog().deployment(id).map_or(Transport::Respond, |d| d.transport());
        let now = self.clock().mono();
        let owner = self.owner();
        let fallback = owner.fallbacks.get(&id).filter(|f| f.until > now);
        let used = if fallback.is_some() { Transport::Respond } else { best };
        DeploymentView {
            transport: used.word().to_owned(),
            fallback: fallback.map(|f| f.detail.clone()),
            ..view
        }
    }

    /// Lines do not get through: `respond` is used for a while.
    pub(super) fn fall_back(owner: &mut Owner, id: i32, detail: &str, now: Duration) {
        let (first, longest) = FALL_BACK;
        let wait = owner.fallbacks.get(&id).map_or(first, |f| (f.wait * 2).min(longest));
        // Many find out at once: it is one finding.
        let known = owner.fallbacks.get(&id).is_some_and(|f| f.until > now + OPENING);
        if !known {
            tracing::warn!(deployment = id, detail, "lines do not get through; using `respond`");
            metrics::counter!("stepwell_transport_fallbacks_total").increment(1);
            let fallback = Fallback { until: now + wait, wait, detail: detail.to_owned() };
            owner.fallbacks.insert(id, fallback);
        }
    }

    /// An exchange over `duplex`.
    pub(super) async fn duplex(&self, ready: &Ready, headers: HeaderMap) -> Came {
        let mut first = Vec::with_capacity(ready.body.len() + 1);
        first.extend_from_slice(&ready.body);
        first.push(b'\n');
        let patience = OPENING.min(ready.silence);
        match self.client().open(&ready.deployment.url, headers, first.into(), patience).await {
            Ok((sender, Opened::Lines(receiver))) => self.converse(ready, sender, receiver).await,
            Ok((_, Opened::Reply(reply)))
                if matches!(reply.status, 411 | 421 | 426 | 501 | 505) =>
            {
                Came::Unfit(format!("it was answered with {}", reply.status))
            }
            Ok((_, Opened::Reply(reply))) => Came::Reply(Ok(reply)),
            Err(failure) if failure.is_unfit() => Came::Unfit(failure.to_string()),
            Err(failure) => Came::Reply(Err(failure)),
        }
    }

    /// An exchange over `stream`.
    pub(super) async fn stream(&self, ready: &Ready, headers: HeaderMap) -> Came {
        let patience = Patience::with(ready.silence, Arc::clone(&ready.life));
        let (url, body) = (&ready.deployment.url, ready.body.clone());
        match self.client().listen(url, headers, body, patience).await {
            Ok(Opened::Lines(receiver)) => self.take_stream(ready, receiver).await,
            Ok(Opened::Reply(reply)) => Came::Reply(Ok(reply)),
            Err(failure) => Came::Reply(Err(failure)),
        }
    }

    async fn converse(&self, ready: &Ready, sender: LineSender, mut from: LineReceiver) -> Came {
        let closed = Arc::new(Notify::new());
        let line = Line { sender: sender.clone(), closed: Arc::clone(&closed), deaf: false };
        if !self.attach(ready, line) {
            return gone(&sender);
        }
        let mut first = true;
        loop {
            let keep_alive = || drop(sender.try_send(Bytes::from_static(b"\n")));
            let line = match next(&mut from, ready.silence, keep_alive).await {
                Ok(Some(line)) => line,
                Ok(None) => return spoken("the stream ended without a terminal line"),
                Err(failure) if first && failure.is_unfit() => {
                    return Came::Unfit(failure.to_string());
                }
                Err(failure) => return cut(&failure),
            };
            if std::mem::take(&mut first) {
                self.owner().fallbacks.remove(&ready.deployment.id);
            }
            let (n, answer) = match protocol::parse_report(&line, self.limits()) {
                Ok(None) => {
                    ready.life.sign();
                    continue;
                }
                Ok(Some(said)) => said,
                Err(error) => {
                    let detail = format!("malformed line: {error}");
                    let _ = sender.try_send(problem_line(&Error::Invalid(String::new(), detail)));
                    return refused(&error);
                }
            };
            let ends = ends_turn(&answer, true);
            let waits = matches!(answer.terminal, Some(Terminal::Await(_)));
            // What is said is acknowledged, so there must be room; who does not read is not heard.
            let room = if waits { 2 } else { 1 };
            let mut permits = Vec::with_capacity(room);
            for _ in 0..room {
                match timeout(ready.silence, sender.clone().reserve_owned()).await {
                    Ok(Ok(permit)) => permits.push(permit),
                    Ok(Err(_)) => return spoken("the connection was closed"),
                    Err(_) => return spoken("the handler does not read what it is sent"),
                }
            }
            let push = if waits { permits.pop() } else { None };
            let Some(permit) = permits.pop() else { return gone(&sender) };
            if !self.say_line(ready, n, answer, true, Who::Line { permit, push }) {
                return gone(&sender);
            }
            if ends {
                drop(sender);
                let _ = timeout(LAST_WORD, closed.notified()).await;
                let _ = timeout(CLOSING, until_end(&mut from)).await;
                return spoken("the stream ended");
            }
        }
    }

    async fn take_stream(&self, ready: &Ready, mut from: LineReceiver) -> Came {
        let closed = Arc::new(Notify::new());
        let (sender, mut recorded) = mpsc::channel(ON_THEIR_WAY);
        let line = Line { sender: sender.clone(), closed: Arc::clone(&closed), deaf: true };
        if !self.attach(ready, line) {
            return spoken("the exchange was over");
        }
        let mut n = 0;
        loop {
            let line = match next(&mut from, ready.silence, || {}).await {
                Ok(Some(line)) => line,
                Ok(None) => return spoken("the stream ended without a terminal line"),
                Err(failure) => return cut(&failure),
            };
            let answer = match protocol::parse_stream_line(&line, self.limits()) {
                Ok(None) => continue,
                Ok(Some(answer)) => answer,
                Err(error) => return refused(&error),
            };
            n += 1;
            let ends = ends_turn(&answer, false);
            // Nobody hears these acknowledgements: they only say that there is room again.
            let permit = loop {
                tokio::select! {
                    // Also where the run has left this node, and with it what nobody recorded.
                    permit = sender.clone().reserve_owned() => match permit {
                        Ok(permit) => break permit,
                        Err(_) => return spoken("the exchange was over"),
                    },
                    _ = recorded.recv() => {}
                }
            };
            if !self.say_line(ready, n, answer, false, Who::Line { permit, push: None }) {
                return spoken("a line was refused");
            }
            if ends {
                let _ = timeout(LAST_WORD, closed.notified()).await;
                return spoken("the stream ended");
            }
        }
    }
}

/// Whether a line ends the turn.
fn ends_turn(answer: &Answer, stays: bool) -> bool {
    match &answer.terminal {
        None => false,
        Some(Terminal::Await(_)) => !stays,
        Some(_) => true,
    }
}

fn spoken(detail: &str) -> Came {
    Came::Spoken { fault: None, detail: detail.to_owned() }
}

fn cut(failure: &Failure) -> Came {
    match failure {
        Failure::TooLarge(_) => {
            let detail = format!("Nothing of the line was recorded: {failure}.");
            let fault = Fault::Pause(Attention::new("answer-limit", &*detail));
            Came::Spoken { fault: Some(fault), detail }
        }
        _ => Came::Spoken { fault: None, detail: failure.to_string() },
    }
}

fn refused(error: &BadAnswer) -> Came {
    let fault = if error.is_limit() {
        let detail = format!("Nothing of the line was recorded: {error}.");
        Fault::Pause(Attention::new("answer-limit", detail))
    } else {
        let detail = format!("malformed line: {error}");
        Fault::Retry { detail, status: Some(200), after: None }
    };
    Came::Spoken { fault: Some(fault), detail: format!("malformed line: {error}") }
}

/// The run is not driven here any more, or the exchange is over.
fn gone(sender: &LineSender) -> Came {
    let _ = sender.try_send(problem_line(&Error::StaleEpoch));
    spoken("the exchange was over")
}

/// The next line; silence for too long is a failure.
async fn next(
    from: &mut LineReceiver,
    silence: Duration,
    keep_alive: impl Fn(),
) -> Result<Option<Bytes>, Failure> {
    let beat = KEEP_ALIVE.min(silence / 4);
    let mut quiet = Duration::ZERO;
    loop {
        if let Some(next) = from.next_within(beat, silence).await {
            return next;
        }
        quiet += beat;
        if quiet >= silence {
            return Err(Failure::Silence(silence));
        }
        keep_alive();
    }
}

async fn until_end(from: &mut LineReceiver) {
    while let Ok(Some(_)) = from.next().await {}
}
