//! What a user asks of a schedule: which moments, and what to do at each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::cron::{Cron, split_zone};
use super::when::{When, zone_of};
use crate::machine::DeploymentId;
use crate::machine::id::ScheduleId;
use crate::machine::retry::RetrySpec;
use crate::machine::time::{Timestamp, duration};

/// How late a firing may be where nothing is said.
pub(super) const CATCHUP: Duration = Duration::from_hours(24);
/// The least that may be said: less than a node needs to take over from another would miss firings.
const LEAST_CATCHUP: Duration = Duration::from_secs(10);
/// The shortest interval.
const LEAST_EVERY: Duration = Duration::from_secs(1);
/// The most runs at once that can be asked for.
const MOST_RUNNING: u32 = 1_000;
/// The longest jitter.
const MOST_JITTER: Duration = Duration::from_hours(24);

/// What happens at a moment while as many runs of the schedule are live as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Nothing.
    #[default]
    Skip,
    /// One start waits; further ones are skipped.
    BufferOne,
    /// Every start waits its turn.
    BufferAll,
    /// The oldest run is cancelled, and the start waits for its end.
    CancelOther,
    /// The oldest run is terminated, and the start waits for its end.
    TerminateOther,
    /// The run starts beside the others.
    AllowAll,
}

impl Overlap {
    /// All of them, with their words.
    pub const WORDS: [(&'static str, Self); 6] = [
        ("skip", Self::Skip),
        ("buffer_one", Self::BufferOne),
        ("buffer_all", Self::BufferAll),
        ("cancel_other", Self::CancelOther),
        ("terminate_other", Self::TerminateOther),
        ("allow_all", Self::AllowAll),
    ];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, o)| *o == self).map_or("", |(word, _)| word)
    }
}

/// The rule of a schedule, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timing {
    /// What a clock shows somewhere.
    Cron {
        /// The expression, without a time zone.
        expression: String,
        /// An IANA name.
        time_zone: String,
    },
    /// So long after one another.
    Every {
        /// How long.
        #[serde(with = "duration")]
        every: Duration,
        /// What they are counted from.
        anchor: Timestamp,
    },
}

/// What the runs of a schedule are started with, beside their input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StartOptions {
    /// The key of all of them, in place of one that is made of schedule and moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Their tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// How long a run may wait for its first invocation.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub start_timeout: Option<Duration>,
    /// How long a run may take.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub run_timeout: Option<Duration>,
    /// The longest silence of an exchange.
    #[serde(skip_serializing_if = "Option::is_none", with = "duration::option")]
    pub invocation_timeout: Option<Duration>,
    /// The default policy of their steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// The deployment that they start on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
}

/// What a user asks of a schedule. Its JSON form is what is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Its rule.
    pub timing: Timing,
    /// Up to how much later than its moment a firing is, by the schedule's own chance.
    #[serde(default, with = "duration")]
    pub jitter: Duration,
    /// What happens while as many runs are live as may be.
    #[serde(default)]
    pub overlap: Overlap,
    /// How many runs may be live at once.
    #[serde(default = "one")]
    pub max_running: u32,
    /// A firing that is later than this is missed.
    #[serde(default = "catchup", with = "duration")]
    pub catchup_window: Duration,
    /// No moment is before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Timestamp>,
    /// No moment is after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    /// How many runs it starts by itself in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_actions: Option<u32>,
    /// It is paused when one of its runs fails.
    #[serde(default)]
    pub pause_on_failure: bool,
    /// What its runs are started with.
    #[serde(default)]
    pub start: StartOptions,
}

const fn one() -> u32 {
    1
}

const fn catchup() -> Duration {
    CATCHUP
}

/// What is wrong with a specification: the field, and why.
pub type Faulty = (&'static str, String);

impl Spec {
    /// A specification of this rule with the default of everything else.
    #[must_use]
    pub fn of(timing: Timing) -> Self {
        Self {
            timing,
            jitter: Duration::ZERO,
            overlap: Overlap::default(),
            max_running: 1,
            catchup_window: CATCHUP,
            start_at: None,
            end_at: None,
            limited_actions: None,
            pause_on_failure: false,
            start: StartOptions::default(),
        }
    }

    /// Counts its interval from where another counts its own.
    pub fn keep_anchor(&mut self, other: &Self) {
        if let (Timing::Every { anchor, .. }, Timing::Every { anchor: theirs, .. }) =
            (&mut self.timing, &other.timing)
        {
            *anchor = *theirs;
        }
    }

    /// Whether it has the same moments as another, which are due at the same time.
    #[must_use]
    pub fn same_times(&self, other: &Self) -> bool {
        self.timing == other.timing
            && self.jitter == other.jitter
            && self.start_at == other.start_at
            && self.end_at == other.end_at
    }

    /// Everything that is wrong with it.
    pub fn check(&self) -> Result<(), Vec<Faulty>> {
        let mut faults: Vec<Faulty> = Vec::new();
        faults.extend(self.timing.read().err());
        if self.jitter > MOST_JITTER {
            faults.push(("jitter", "must be at most 24 hours".to_owned()));
        }
        if !(1..=MOST_RUNNING).contains(&self.max_running) {
            faults.push(("max_running", format!("must be between 1 and {MOST_RUNNING}")));
        } else if self.overlap == Overlap::AllowAll && self.max_running != 1 {
            let detail = "has no meaning with `overlap` `allow_all`; `buffer_all` keeps to it";
            faults.push(("max_running", detail.to_owned()));
        }
        if self.catchup_window < LEAST_CATCHUP {
            faults.push(("catchup_window", "must be at least 10 seconds".to_owned()));
        }
        if self.limited_actions == Some(0) {
            faults.push(("limited_actions", "must be at least 1; to stop it, pause it".to_owned()));
        }
        if let (Some(start), Some(end)) = (self.start_at, self.end_at)
            && start > end
        {
            faults.push(("end_at", "is before `start_at`".to_owned()));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl Timing {
    /// The rule of an expression, which may begin with its time zone, and of a time zone beside it.
    pub fn cron(text: &str, zone: Option<&str>) -> Result<Self, Faulty> {
        let (own, expression) = split_zone(text);
        if let (Some(own), Some(zone)) = (own, zone)
            && own != zone
        {
            return Err(("time_zone", format!("is not the `{own}` that `cron` begins with")));
        }
        let timing = Self::Cron {
            expression: expression.to_owned(),
            time_zone: zone.or(own).unwrap_or("UTC").to_owned(),
        };
        match timing.read() {
            Err(("time_zone", detail)) if zone.is_none() => Err(("cron", detail)),
            Err(faulty) => Err(faulty),
            Ok(_) => Ok(timing),
        }
    }

    /// Ready for use.
    fn read(&self) -> Result<When, Faulty> {
        match self {
            Self::Cron { expression, time_zone } => {
                let cron = Cron::parse(expression).map_err(|detail| ("cron", detail))?;
                let zone = zone_of(time_zone).map_err(|detail| ("time_zone", detail))?;
                Ok(When::Cron { cron, zone })
            }
            Self::Every { every, .. } if *every < LEAST_EVERY => {
                Err(("every", "must be at least a second".to_owned()))
            }
            Self::Every { every, anchor } => Ok(When::Every { every: *every, anchor: *anchor }),
        }
    }
}

/// A specification, ready for use.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whose: jitter differs from schedule to schedule.
    pub id: ScheduleId,
    /// What was asked for.
    pub spec: Spec,
    when: When,
}

impl Plan {
    /// Reads a specification.
    pub fn of(id: ScheduleId, spec: Spec) -> Result<Self, Faulty> {
        let when = spec.timing.read()?;
        Ok(Self { id, spec, when })
    }

    /// The first moment after `after`.
    #[must_use]
    pub fn after(&self, after: Timestamp) -> Option<Timestamp> {
        let just_before = |at: Timestamp| Timestamp::from_micros(at.as_micros() - 1);
        let after = self.spec.start_at.map_or(after, |start| after.max(just_before(start)));
        let next = self.when.after(after)?;
        self.spec.end_at.is_none_or(|end| next <= end).then_some(next)
    }

    /// The first moment after `after`, whatever `start_at` and `end_at` say.
    #[must_use]
    pub(super) fn unbounded_after(&self, after: Timestamp) -> Option<Timestamp> {
        self.when.after(after)
    }

    /// When the firing of a moment is due: later by chance, which is always the same for it, but
    /// before the next moment, so that firings keep their order.
    #[must_use]
    pub fn fires_at(&self, moment: Timestamp) -> Timestamp {
        if self.spec.jitter.is_zero() {
            return moment;
        }
        let room = self.when.after(moment).map_or(Duration::MAX, |next| next.since(moment));
        let most = u64::try_from(self.spec.jitter.min(room).as_millis()).unwrap_or(u64::MAX);
        if most == 0 {
            return moment;
        }
        let mut hash = Sha256::new();
        hash.update(self.id.uuid().as_bytes());
        hash.update(moment.as_micros().to_be_bytes());
        let digest = hash.finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        moment + Duration::from_millis(u64::from_be_bytes(first) % most)
    }

    /// Coming moments after `after`, at most `count`, each with when its firing is due.
    #[must_use]
    pub fn coming(&self, after: Timestamp, count: usize) -> Vec<(Timestamp, Timestamp)> {
        let next = |at: &Timestamp| self.after(*at);
        let moments = std::iter::successors(self.after(after), next);
        moments.take(count).map(|moment| (moment, self.fires_at(moment))).collect()
    }
}
