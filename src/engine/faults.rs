//! Named points at which a test lets this process die, and named wrongs that a test lets it do, so
//! that what checks the engine can be seen to fail. Release builds know none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where a process can be made to die by its own `SIGKILL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A batch of starts is about to be recorded.
    CreateBefore,
    /// A batch of starts is recorded, and nobody was told.
    CreateAfter,
    /// A batch of messages is about to be recorded.
    AcceptBefore,
    /// A batch of messages is recorded, and nobody was told.
    AcceptAfter,
    /// An exchange is about to be sent; its rows are recorded.
    InvokeBefore,
    /// A handler has answered, and nothing was made of it.
    InvokeAfter,
    /// A batch of appends is about to be recorded.
    FlushBefore,
    /// A batch of appends is recorded, and nobody was told.
    FlushAfter,
    /// The end of a run is recorded, and nobody was told.
    EndAfter,
    /// The moment of a run has come, and nothing was done about it.
    TimerFire,
    /// Lease groups were claimed, and nothing was read of them.
    LeaseClaimed,
    /// Groups were dropped from memory, and not given back.
    HandoverMid,
    /// What runs have said is about to be delivered.
    DeliverBefore,
    /// What runs have said is delivered, and nobody was told.
    DeliverAfter,
    /// An event is about to reach some of those who are to have it.
    RouteBefore,
    /// An event has reached them, and nobody was told.
    RouteAfter,
    /// Schedules are about to be fired.
    FireBefore,
    /// Schedules were fired, and nobody was told.
    FireAfter,
    /// Runs are about to ask limits, or to give back what they had of them.
    PassBefore,
    /// Limits have let runs through, and nobody was told.
    PassAfter,
    /// What transactions of users have asked for is about to be done.
    SqlBefore,
    /// It is done, and nobody was told.
    SqlAfter,
    /// A run was acted on as one of many, and that was not counted.
    BulkActed,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::CreateBefore,
        Self::CreateAfter,
        Self::AcceptBefore,
        Self::AcceptAfter,
        Self::InvokeBefore,
        Self::InvokeAfter,
        Self::FlushBefore,
        Self::FlushAfter,
        Self::EndAfter,
        Self::TimerFire,
        Self::LeaseClaimed,
        Self::HandoverMid,
        Self::DeliverBefore,
        Self::DeliverAfter,
        Self::RouteBefore,
        Self::RouteAfter,
        Self::FireBefore,
        Self::FireAfter,
        Self::PassBefore,
        Self::PassAfter,
        Self::SqlBefore,
        Self::SqlAfter,
        Self::BulkActed,
    ];

    /// As [`CRASH_AT`] names it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::CreateBefore => "create.before",
            Self::CreateAfter => "create.after",
            Self::AcceptBefore => "accept.before",
            Self::AcceptAfter => "accept.after",
            Self::InvokeBefore => "invoke.before",
            Self::InvokeAfter => "invoke.after",
            Self::FlushBefore => "flush.before",
            Self::FlushAfter => "flush.after",
            Self::EndAfter => "end.after",
            Self::TimerFire => "timer.fire",
            Self::LeaseClaimed => "lease.claimed",
            Self::HandoverMid => "handover.mid",
            Self::DeliverBefore => "deliver.before",
            Self::DeliverAfter => "deliver.after",
            Self::RouteBefore => "route.before",
            Self::RouteAfter => "route.after",
            Self::FireBefore => "fire.before",
            Self::FireAfter => "fire.after",
            Self::PassBefore => "pass.before",
            Self::PassAfter => "pass.after",
            Self::SqlBefore => "sql.before",
            Self::SqlAfter => "sql.after",
            Self::BulkActed => "bulk.acted",
        }
    }
}

/// What an engine can be made to do against its promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// What is decided is shown before it is recorded.
    ShownBeforeWritten,
    /// A new owner goes on with the epoch of the last row, as if epochs were never lent.
    EpochFromTheLastRow,
    /// A run ends whatever messages were accepted.
    EndUngated,
}

impl Wrong {
    /// As [`DO_WRONG`] names it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::ShownBeforeWritten => "shown-before-written",
            Self::EpochFromTheLastRow => "epoch-from-the-last-row",
            Self::EndUngated => "end-ungated",
        }
    }
}

/// Environment variable of debug builds: `flush.after:3` dies when that point is reached the third
/// time.
pub const CRASH_AT: &str = "STEPWELL_CRASH_AT";
/// Environment variable of debug builds: the word of a [`Wrong`].
pub const DO_WRONG: &str = "STEPWELL_DO_WRONG";

/// What a test has armed; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    crash: Option<(Point, Arc<AtomicU32>)>,
    wrong: Option<Wrong>,
}

impl Faults {
    /// What the environment asks for; nothing in a release build.
    #[must_use]
    pub fn armed() -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        let told = |name| std::env::var_os(name).and_then(|text| text.into_string().ok());
        let crash = told(CRASH_AT).and_then(|text| {
            let (word, times) = text.rsplit_once(':')?;
            let point = Point::ALL.into_iter().find(|p| p.word() == word)?;
            Some((point, Arc::new(AtomicU32::new(times.parse().ok()?))))
        });
        let all = [Wrong::ShownBeforeWritten, Wrong::EpochFromTheLastRow, Wrong::EndUngated];
        let wrong = told(DO_WRONG).and_then(|text| all.into_iter().find(|w| w.word() == text));
        Self { crash, wrong }
    }

    /// Does this wrong from now on.
    #[must_use]
    pub fn doing(wrong: Wrong) -> Self {
        Self { crash: None, wrong: Some(wrong) }
    }

    /// The process has come to this point: it dies here if that was asked for.
    pub(super) fn reach(&self, point: Point) {
        if let Some((armed, left)) = &self.crash
            && *armed == point
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let me = rustix::process::getpid();
            let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        }
    }

    /// Whether this wrong is to be done.
    pub(super) fn does(&self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }
}
