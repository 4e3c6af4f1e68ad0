//! The only source of time and chance: cluster time as an interval, and a clock that tests drive.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::machine::Timestamp;

/// Cluster time: what Postgres' `now()` says, known to an interval.
///
/// Deadlines are computed from [`Clock::upper`] and fired by [`Clock::lower`], so nothing is early
/// on any node, whatever its own clock says.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Mutex<Source>,
    /// The beginning of this process's monotonic time.
    born: Instant,
    /// Told when a manual clock moves or an anchor changes.
    moved: Notify,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// Postgres said `now` to a request sent at `sent` and answered at `replied` (monotonic).
    Anchored { now: Timestamp, sent: Duration, replied: Duration },
    /// A test says what time it is.
    Manual(Timestamp),
}

impl Clock {
    /// A clock that runs by this machine until it is anchored to Postgres.
    #[must_use]
    pub fn system() -> Self {
        let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
        Self::of(Source::Anchored { now, sent: Duration::ZERO, replied: Duration::ZERO })
    }

    /// A clock that stands still until it is told to move.
    #[must_use]
    pub fn manual(now: Timestamp) -> Self {
        Self::of(Source::Manual(now))
    }

    fn of(source: Source) -> Self {
        let inner =
            Inner { source: Mutex::new(source), born: Instant::now(), moved: Notify::new() };
        Self(Arc::new(inner))
    }

    fn source(&self) -> Source {
        *self.0.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Monotonic time of this process.
    #[must_use]
    pub fn mono(&self) -> Duration {
        self.0.born.elapsed()
    }

    /// A moment that never goes back, as cluster time does where Postgres answered late: for what
    /// this process measures and keeps to itself. It means nothing to others.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        match self.source() {
            Source::Anchored { .. } => Timestamp::from_micros(0) + self.mono(),
            Source::Manual(now) => now,
        }
    }

    /// Postgres said `now` to a request sent at `sent` (from [`Clock::mono`]) and just answered.
    pub fn anchor(&self, now: Timestamp, sent: Duration) {
        let replied = self.mono();
        let mut source = self.0.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Source::Anchored { .. } = *source {
            *source = Source::Anchored { now, sent, replied };
            drop(source);
            self.0.moved.notify_waiters();
        }
    }

    /// Not earlier than the true cluster time.
    #[must_use]
    pub fn upper(&self) -> Timestamp {
        match self.source() {
            Source::Anchored { now, sent, .. } => now + self.mono().saturating_sub(sent),
            Source::Manual(now) => now,
        }
    }

    /// Not later than the true cluster time.
    #[must_use]
    pub fn lower(&self) -> Timestamp {
        match self.source() {
            Source::Anchored { now, replied, .. } => now + self.mono().saturating_sub(replied),
            Source::Manual(now) => now,
        }
    }

    /// Moves a manual clock forward; does nothing to another.
    pub fn advance(&self, by: Duration) {
        let mut source = self.0.source.lock().unwrap_or_else(PoisonError::into_inner);
        if let Source::Manual(now) = &mut *source {
            *now = *now + by;
        }
        drop(source);
        self.0.moved.notify_waiters();
    }

    /// Returns when [`Clock::lower`] has reached `at`, or when the clock was moved or anchored.
    pub async fn until(&self, at: Timestamp) {
        let moved = self.0.moved.notified();
        let now = self.lower();
        if now >= at {
            return;
        }
        match self.source() {
            Source::Anchored { .. } => {
                // An anchor may only move time by fractions of a second; look again by then.
                let left = at.since(now).min(Duration::from_hours(1));
                let _ = tokio::time::timeout(left + Duration::from_micros(200), moved).await;
            }
            Source::Manual(_) => moved.await,
        }
    }
}

/// Chance: 128 bits.
#[must_use]
pub fn chance() -> u128 {
    rand::random()
}

/// Chance in [0, 1).
#[must_use]
pub fn jitter() -> f64 {
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchored_clock_is_an_interval_around_the_answer() {
        let clock = Clock::system();
        let now = Timestamp::from_micros(1_000_000_000_000);
        let sent = clock.mono();
        std::hint::black_box(clock.upper());
        clock.anchor(now, sent);
        assert!(clock.lower() >= now && clock.upper() >= clock.lower());
    }

    #[test]
    fn what_is_steady_does_not_go_back_with_an_anchor() {
        let clock = Clock::system();
        let (late, true_now) = (Timestamp::from_micros(9_000_000), Timestamp::from_micros(0));
        clock.anchor(late, clock.mono());
        let (upper, steady) = (clock.upper(), clock.steady());
        clock.anchor(true_now, clock.mono());
        assert!(clock.upper() < upper && clock.steady() >= steady);
    }

    #[tokio::test]
    async fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let at = Timestamp::from_micros(5_000_000);
        let waiter = tokio::spawn({
            let clock = clock.clone();
            async move {
                while clock.lower() < at {
                    clock.until(at).await;
                }
            }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.upper(), Timestamp::from_micros(2_000_000));
        assert!(!waiter.is_finished());
        clock.advance(Duration::from_secs(3));
        waiter.await.expect("the waiter ends");
    }
}
