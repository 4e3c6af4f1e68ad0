//! The circuit of an endpoint: closed, open with one probe at a time in the whole cluster, a ramp.
//!
//! Each node decides by what it sees of its own exchanges and acts on it at once. What the others
//! must know goes through a row of the database, as [`Word`]s in order; what they did is heard with
//! every tick. Nothing is said while all is well.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crate::machine::{NodeId, RunId, Timestamp};
use crate::store::{self, Ticket};

/// Gateway-like failures in a row that open a circuit.
const OPEN_AFTER: u32 = 5;
/// The first wait before a probe.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between probes.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Exchanges that one endpoint may have open on one node.
pub(super) const MOST_OPEN: usize = 1_024;
/// How many exchanges a circuit that has just closed may have open at first; doubled by successes.
pub(super) const RAMP: usize = 4;

/// How an endpoint's circuit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Circuit {
    /// All is well.
    Closed,
    /// Nothing but a probe goes out.
    Open(Outage),
    /// An operator disabled the endpoint.
    Disabled,
}

/// An endpoint is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    /// Since when.
    pub(super) since: Timestamp,
    /// What happened last.
    pub(super) detail: String,
    /// When the next probe goes out, from whichever node.
    pub(super) next_probe_at: Timestamp,
    /// Probes that failed.
    failed: u32,
    /// `next_probe_at` as the row has it.
    read: Timestamp,
    probe: Probe,
}

/// Who has the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// Nobody: who compares first when its time has come.
    Free,
    /// This node has asked for it.
    Asked,
    /// This node, with this run once it has one.
    Ours { ticket: Ticket, run: Option<RunId> },
    /// Another node.
    Theirs,
}

/// What this node says to the others, by a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// The circuit is open.
    Opened { detail: String, since: Timestamp, next_probe_at: Timestamp },
    /// The probe is wanted.
    Ask { read: Timestamp, at: Timestamp },
    /// The probe failed, or was not needed.
    Failed { ticket: Ticket, failed: u32, detail: String, next_probe_at: Timestamp },
    /// The probe went well.
    Closed { ticket: Ticket },
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
    /// How many exchanges those who poll would take; none: invocations are posted there.
    wanted: Option<usize>,
    /// Of the open exchanges, those that somebody who polled has taken.
    taken: HashSet<RunId>,
    /// Runs that want an exchange and are kept from it, in order.
    gated: VecDeque<RunId>,
    /// What the others have not been told.
    words: VecDeque<Word>,
    /// One of the words is on its way.
    speaking: bool,
    /// What was learnt is void, since this many times.
    forgotten: u32,
    /// Monotonic time until which this node knows better than a tick.
    heard: Duration,
    /// Nobody here wants to be the probe until then.
    nobody_until: Timestamp,
    /// The last run that was fetched to be the probe.
    pub(super) fetched: Option<RunId>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            circuit: Circuit::Closed,
            failures: 0,
            open: 0,
            most: MOST_OPEN,
            wanted: None,
            taken: HashSet::new(),
            gated: VecDeque::new(),
            words: VecDeque::new(),
            speaking: false,
            forgotten: 0,
            heard: Duration::ZERO,
            nobody_until: Timestamp::default(),
            fetched: None,
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

/// The wait after so many failed probes.
fn wait(failed: u32) -> Duration {
    (FIRST_WAIT * 2_u32.pow(failed.min(10))).min(LONGEST_WAIT)
}

impl Breaker {
    /// Whether an exchange of this run may be opened now; it then counts as open.
    pub(super) fn admit(&mut self, who: RunId) -> bool {
        if self.seats() == 0 {
            return false;
        }
        match &mut self.circuit {
            Circuit::Closed if self.open < self.most => {}
            Circuit::Open(Outage { probe: Probe::Ours { run: run @ None, .. }, .. }) => {
                *run = Some(who);
            }
            _ => return false,
        }
        self.open += 1;
        true
    }

    /// How many exchanges are open.
    #[must_use]
    pub(super) const fn open(&self) -> usize {
        self.open
    }

    /// Keeps a run until [`Breaker::released`] hands it out.
    pub(super) fn gate(&mut self, run: RunId) {
        self.gated.push_back(run);
        self.nobody_until = Timestamp::default();
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

    /// An exchange of this run has ended. Returns true if the circuit has just opened or closed.
    pub(super) fn ended(&mut self, who: RunId, health: &Health, now: Timestamp) -> bool {
        self.open = self.open.saturating_sub(1);
        self.taken.remove(&who);
        match &mut self.circuit {
            Circuit::Open(Outage { probe: Probe::Ours { ticket, run: Some(run) }, .. })
                if *run == who =>
            {
                let ticket = *ticket;
                self.probed(ticket, health, now)
            }
            // What was sent before it opened says nothing new.
            Circuit::Open(_) | Circuit::Disabled => false,
            Circuit::Closed => self.answered(health, now),
        }
    }

    fn answered(&mut self, health: &Health, now: Timestamp) -> bool {
        let (fatal, detail) = match health {
            Health::Silent(_) | Health::Unknown => return false,
            Health::Answered => {
                self.failures = 0;
                self.most = (self.most * 2).min(MOST_OPEN);
                return false;
            }
            Health::Suspicious(detail) => (false, detail),
            Health::Unhealthy(detail) => (true, detail),
        };
        self.failures += 1;
        if !fatal && self.failures < OPEN_AFTER {
            return false;
        }
        let next_probe_at = now + FIRST_WAIT;
        self.circuit = Circuit::Open(Outage {
            since: now,
            detail: detail.clone(),
            next_probe_at,
            failed: 0,
            read: next_probe_at,
            probe: Probe::Free,
        });
        let detail = detail.clone();
        self.words.push_back(Word::Opened { detail, since: now, next_probe_at });
        true
    }

    /// What came of this node's probe.
    fn probed(&mut self, ticket: Ticket, health: &Health, now: Timestamp) -> bool {
        let Circuit::Open(outage) = &mut self.circuit else { return false };
        match health {
            Health::Answered => {
                self.words.push_back(Word::Closed { ticket });
                self.close();
                return true;
            }
            Health::Suspicious(why) | Health::Unhealthy(why) | Health::Silent(why) => {
                outage.failed += 1;
                why.clone_into(&mut outage.detail);
                outage.next_probe_at = now + wait(outage.failed);
            }
            Health::Unknown => outage.next_probe_at = now,
        }
        self.hand_back(ticket);
        false
    }

    fn hand_back(&mut self, ticket: Ticket) {
        let Circuit::Open(outage) = &mut self.circuit else { return };
        outage.read = outage.next_probe_at;
        outage.probe = Probe::Free;
        self.words.push_back(Word::Failed {
            ticket,
            failed: outage.failed,
            detail: outage.detail.clone(),
            next_probe_at: outage.next_probe_at,
        });
    }

    fn close(&mut self) {
        self.circuit = Circuit::Closed;
        self.most = RAMP;
        self.failures = 0;
        self.fetched = None;
    }

    // --- the probe -----------------------------------------------------------------------------

    /// Whether this node should try to get the probe.
    #[must_use]
    pub(super) fn probe_due(&self, now: Timestamp) -> bool {
        self.next_wake().is_some_and(|at| at <= now)
    }

    /// Asks for the probe, as soon as the words before it are spoken.
    pub(super) fn ask(&mut self, now: Timestamp) {
        let Circuit::Open(outage) = &mut self.circuit else { return };
        let at = now + wait(outage.failed + 1);
        outage.probe = Probe::Asked;
        self.words.push_back(Word::Ask { read: outage.read, at });
    }

    /// Nobody here wants to be the probe: looks again after a while.
    pub(super) fn nobody(&mut self, now: Timestamp) {
        if let Circuit::Open(outage) = &self.circuit {
            self.nobody_until = now + wait(outage.failed);
        }
    }

    /// Gives a probe back that no run has taken. Returns false if there is none.
    pub(super) fn give_back(&mut self, now: Timestamp) -> bool {
        let Circuit::Open(outage) = &mut self.circuit else { return false };
        let Probe::Ours { ticket, run: None } = outage.probe else { return false };
        outage.next_probe_at = now + FIRST_WAIT;
        self.hand_back(ticket);
        true
    }

    /// When something is to be done without an exchange ending first.
    #[must_use]
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        match &self.circuit {
            Circuit::Open(Outage { next_probe_at, probe: Probe::Free, .. })
                if !self.speaking && self.words.is_empty() =>
            {
                Some((*next_probe_at).max(self.nobody_until))
            }
            _ => None,
        }
    }

    // --- the others ----------------------------------------------------------------------------

    /// The next word to be spoken, and what to tell with its answer.
    pub(super) fn next_word(&mut self) -> Option<(Word, u32)> {
        if self.speaking {
            return None;
        }
        let word = self.words.front()?.clone();
        self.speaking = true;
        Some((word, self.forgotten))
    }

    /// A word was spoken: whether the row was as it expected, or an error, which makes it be
    /// spoken again.
    pub(super) fn spoken(
        &mut self,
        word: &Word,
        forgotten: u32,
        took: Option<bool>,
        by: NodeId,
        mono: Duration,
    ) {
        self.speaking = false;
        let Some(took) = took else { return };
        // What a tick has seen that began before this is older.
        self.heard = mono;
        if forgotten != self.forgotten {
            return;
        }
        self.words.pop_front();
        if let (Word::Ask { at, .. }, Circuit::Open(outage)) = (word, &mut self.circuit)
            && outage.probe == Probe::Asked
        {
            // Where another was faster, the next tick tells of it.
            outage.probe = Probe::Theirs;
            if took {
                outage.probe = Probe::Ours { ticket: Ticket { by, at: *at }, run: None };
                (outage.next_probe_at, outage.read) = (*at, *at);
            }
        }
    }

    /// What a tick that began at `begun` has seen of the row. Returns true if the circuit has
    /// opened or closed by it.
    pub(super) fn hear(
        &mut self,
        row: Option<&store::Health>,
        me: NodeId,
        alive: impl Fn(NodeId) -> bool,
        begun: Duration,
    ) -> bool {
        if self.speaking || !self.words.is_empty() || self.heard > begun {
            return false;
        }
        let was = match &self.circuit {
            Circuit::Disabled => return false,
            Circuit::Closed => None,
            Circuit::Open(outage) => Some(outage.probe),
        };
        let Some(row) = row else {
            if was.is_some() {
                self.close();
            }
            return was.is_some();
        };
        let ours = match was {
            Some(probe @ Probe::Ours { ticket, .. })
                if row.probe_by == Some(ticket.by) && row.next_probe_at == ticket.at =>
            {
                Some(probe)
            }
            _ => None,
        };
        // A probe whose answer this node does not know of, or whose node is gone, is nobody's.
        let theirs = row.probe_by.is_some_and(|by| by != me && alive(by));
        let orphan = row.probe_by.is_some_and(|by| by != me && !alive(by));
        self.circuit = Circuit::Open(Outage {
            since: row.opened_at,
            detail: row.detail.clone(),
            next_probe_at: if orphan { row.opened_at } else { row.next_probe_at },
            failed: row.failures,
            read: row.next_probe_at,
            probe: ours.unwrap_or(if theirs { Probe::Theirs } else { Probe::Free }),
        });
        was.is_none()
    }

    // --- what operators do ---------------------------------------------------------------------

    /// An operator disables or enables the endpoint, or it was registered anew.
    pub(super) fn set_disabled(&mut self, disabled: bool) {
        if disabled {
            if self.circuit != Circuit::Disabled {
                self.circuit = Circuit::Disabled;
                self.words.clear();
                self.forgotten += 1;
            }
        } else if self.circuit == Circuit::Disabled {
            self.close();
        }
    }

    /// The endpoint was registered or changed: what was learnt of it is forgotten, here and, by
    /// whoever changed it, in the row.
    pub(super) fn forget(&mut self, mono: Duration) {
        if matches!(self.circuit, Circuit::Open(_)) {
            self.close();
        }
        self.failures = 0;
        self.words.clear();
        self.forgotten += 1;
        self.heard = mono;
    }

    // --- runs that are kept --------------------------------------------------------------------

    /// Runs that may try again now.
    pub(super) fn released(&mut self) -> Vec<RunId> {
        let room = self.room().min(self.seats()).min(self.gated.len());
        self.gated.drain(..room).collect()
    }

    /// How many exchanges may be opened, as far as the endpoint's health goes.
    fn room(&self) -> usize {
        match &self.circuit {
            Circuit::Closed => self.most.saturating_sub(self.open),
            Circuit::Open(Outage { probe: Probe::Ours { run: None, .. }, .. }) => 1,
            Circuit::Open(_) | Circuit::Disabled => 0,
        }
    }

    // --- those who poll ------------------------------------------------------------------------

    /// Its exchanges are not posted: one is opened only where somebody polls who would take it.
    pub(super) fn pulled(&mut self) {
        self.wanted.get_or_insert(0);
    }

    /// Somebody polls who would take so many.
    pub(super) fn want(&mut self, many: usize) {
        *self.wanted.get_or_insert(0) += many;
    }

    /// So many are wanted no longer.
    pub(super) fn want_no_more(&mut self, many: usize) {
        let wanted = self.wanted.get_or_insert(0);
        *wanted = wanted.saturating_sub(many);
    }

    /// This exchange was taken; it is open until it has ended.
    pub(super) fn took(&mut self, who: RunId) {
        self.taken.insert(who);
    }

    /// This exchange was not taken after all.
    pub(super) fn untook(&mut self, who: RunId) {
        self.taken.remove(&who);
    }

    /// Exchanges that were opened for those who poll, and that nobody has taken yet.
    #[must_use]
    pub(super) fn promised(&self) -> usize {
        self.open.saturating_sub(self.taken.len())
    }

    /// How many more may be promised.
    fn seats(&self) -> usize {
        self.wanted.map_or(usize::MAX, |wanted| wanted.saturating_sub(self.promised()))
    }

    /// Whether there is something for one more who polls.
    #[must_use]
    pub(super) fn has_work(&self) -> bool {
        !self.gated.is_empty() && self.room() > 0
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

    /// Keeps these before all others.
    pub(super) fn keep(&mut self, mut runs: VecDeque<RunId>) {
        runs.append(&mut self.gated);
        self.gated = runs;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
