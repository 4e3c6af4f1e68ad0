//! The circuit breaker of an endpoint: closed, open with one probe at a time, then a ramp.

use std::collections::VecDeque;
use std::time::Duration;

use crate::machine::{RunId, Timestamp};

/// Gateway-like failures in a row that open a circuit.
const OPEN_AFTER: u32 = 5;
/// The first wait before a probe.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between probes.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Exchanges that one endpoint may have open on one node.
pub(super) const MOST_OPEN: usize = 1_024;
/// How many exchanges a circuit that has just closed may have open at first; doubled by successes.
const RAMP: usize = 4;

/// How an endpoint's circuit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Circuit {
    /// All is well.
    Closed,
    /// Nothing but probes goes out.
    Open {
        /// Since when.
        since: Timestamp,
        /// What happened.
        detail: String,
        /// When the next probe goes out.
        next_probe_at: Timestamp,
        /// The wait that led to it.
        wait: Duration,
        /// A probe is under way.
        probing: bool,
    },
    /// An operator disabled the endpoint.
    Disabled,
}

/// One endpoint, as this node sees it.
#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
    /// Failures in a row.
    failures: u32,
    /// Exchanges open now.
    open: usize,
    /// How many may be open now.
    most: usize,
    /// Runs that want an exchange and are kept from it, in order.
    gated: VecDeque<RunId>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            circuit: Circuit::Closed,
            failures: 0,
            open: 0,
            most: MOST_OPEN,
            gated: VecDeque::new(),
        }
    }
}

/// How an exchange ended, as far as the endpoint's health goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered, well or badly.
    Answered,
    /// Connect error, 502, 503 or 504.
    Suspicious(String),
    /// 401, 403, 404, 410 or a TLS failure.
    Unhealthy(String),
    /// No answer came. It may be the run's fault: it opens no circuit, and closes none.
    Silent(String),
    /// Says nothing about the endpoint.
    Unknown,
}

impl Breaker {
    /// Whether an exchange may be opened now; it then counts as open.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        match &mut self.circuit {
            Circuit::Closed if self.open < self.most => {}
            Circuit::Open { next_probe_at, probing, .. } if !*probing && *next_probe_at <= now => {
                *probing = true;
            }
            _ => return false,
        }
        self.open += 1;
        true
    }

    /// Keeps a run until [`Breaker::released`] hands it out.
    pub(super) fn gate(&mut self, run: RunId) {
        self.gated.push_back(run);
    }

    /// Whether runs are kept because of the endpoint's health (and not because it is busy).
    #[must_use]
    pub(super) const fn parks(&self) -> bool {
        !matches!(self.circuit, Circuit::Closed)
    }

    /// How the circuit stands.
    #[must_use]
    pub(super) const fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// An exchange has ended. Returns true if the circuit has just opened or closed.
    pub(super) fn ended(&mut self, health: &Health, now: Timestamp) -> bool {
        self.open = self.open.saturating_sub(1);
        let (fatal, detail) = match health {
            Health::Silent(detail) => {
                self.probe_failed(detail, now);
                return false;
            }
            Health::Unknown => {
                if let Circuit::Open { probing, .. } = &mut self.circuit {
                    *probing = false;
                }
                return false;
            }
            Health::Answered => {
                self.failures = 0;
                if let Circuit::Open { .. } = self.circuit {
                    self.circuit = Circuit::Closed;
                    self.most = RAMP;
                    return true;
                }
                self.most = (self.most * 2).min(MOST_OPEN);
                return false;
            }
            Health::Suspicious(detail) => (false, detail),
            Health::Unhealthy(detail) => (true, detail),
        };
        self.failures += 1;
        match &mut self.circuit {
            Circuit::Open { .. } => {
                self.probe_failed(detail, now);
                false
            }
            Circuit::Closed if fatal || self.failures >= OPEN_AFTER => {
                self.circuit = Circuit::Open {
                    since: now,
                    detail: detail.clone(),
                    next_probe_at: now + FIRST_WAIT,
                    wait: FIRST_WAIT,
                    probing: false,
                };
                true
            }
            Circuit::Closed | Circuit::Disabled => false,
        }
    }

    /// If a probe is under way, it has failed: the next one goes out later.
    fn probe_failed(&mut self, why: &str, now: Timestamp) {
        if let Circuit::Open { detail, next_probe_at, wait, probing, .. } = &mut self.circuit
            && *probing
        {
            *wait = (*wait * 2).min(LONGEST_WAIT);
            *next_probe_at = now + *wait;
            *probing = false;
            why.clone_into(detail);
        }
    }

    /// An operator disables or enables the endpoint, or it was registered anew.
    pub(super) fn set_disabled(&mut self, disabled: bool) {
        if disabled {
            self.circuit = Circuit::Disabled;
        } else if self.circuit == Circuit::Disabled {
            self.circuit = Circuit::Closed;
            self.most = RAMP;
        }
    }

    /// The endpoint was registered or changed: what was learnt of it is forgotten.
    pub(super) fn forget(&mut self) {
        if matches!(self.circuit, Circuit::Open { .. }) {
            self.circuit = Circuit::Closed;
            self.most = RAMP;
        }
        self.failures = 0;
    }

    /// Runs that may try again now.
    pub(super) fn released(&mut self, now: Timestamp) -> Vec<RunId> {
        let room = match &self.circuit {
            Circuit::Closed => self.most.saturating_sub(self.open),
            Circuit::Open { next_probe_at, probing, .. } => {
                usize::from(!*probing && *next_probe_at <= now)
            }
            Circuit::Disabled => 0,
        };
        let room = room.min(self.gated.len());
        self.gated.drain(..room).collect()
    }

    /// How many runs are kept.
    #[must_use]
    pub(super) fn waiting(&self) -> usize {
        self.gated.len()
    }

    /// All runs that are kept, whatever the circuit says.
    pub(super) fn take_gated(&mut self) -> VecDeque<RunId> {
        std::mem::take(&mut self.gated)
    }

    /// When something is to be done without an exchange ending first.
    #[must_use]
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        match &self.circuit {
            Circuit::Open { next_probe_at, probing: false, .. } if !self.gated.is_empty() => {
                Some(*next_probe_at)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Shard;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_micros(secs * 1_000_000)
    }

    fn run(n: u128) -> RunId {
        RunId::on_shard(at(0), Shard(1), n)
    }

    #[test]
    fn five_gateway_failures_open_it_and_one_success_between_them_does_not() {
        let mut b = Breaker::default();
        let bad = Health::Suspicious("connection refused".to_owned());
        for _ in 0..4 {
            assert!(b.admit(at(0)) && !b.ended(&bad, at(0)));
        }
        assert!(b.admit(at(0)) && !b.ended(&Health::Answered, at(0)));
        for i in 0..5 {
            assert!(b.admit(at(0)));
            assert_eq!(b.ended(&bad, at(0)), i == 4);
        }
        assert!(!b.admit(at(0)) && b.parks());
    }

    #[test]
    fn an_open_circuit_lets_one_probe_out_at_a_time_and_closes_with_a_ramp() {
        let mut b = Breaker::default();
        assert!(b.admit(at(0)) && b.ended(&Health::Unhealthy("410".to_owned()), at(0)));
        for n in 0..20 {
            b.gate(run(n));
        }
        assert!(b.released(at(0)).is_empty());
        assert_eq!(b.next_wake(), Some(at(1)));
        assert_eq!(b.released(at(1)), [run(0)]);
        assert!(b.admit(at(1)));
        assert!(b.released(at(9)).is_empty() && !b.admit(at(9)), "one probe at a time");
        assert!(!b.ended(&Health::Unhealthy("410".to_owned()), at(1)));
        b.gate(run(0));
        assert_eq!(b.next_wake(), Some(at(3)), "the wait doubles");
        assert_eq!(b.released(at(3)).len(), 1);
        assert!(b.admit(at(3)) && b.ended(&Health::Answered, at(3)));
        assert_eq!(b.released(at(3)).len(), RAMP);
    }
}
