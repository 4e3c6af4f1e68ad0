//! What a schedule is created and changed with.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::fields::Fields;
use super::start::{RetryRequest, TimeoutsRequest, some_tags as tags};
use crate::engine::{NewSchedule, SchedulePatch, ScheduleView};
use crate::machine::Timestamp;
use crate::machine::schedule::{Overlap, Spec, Timing};

/// The longest name.
const MAX_NAME: usize = 128;
/// The longest note.
const MAX_NOTE: usize = 1_000;

macro_rules! request {
    ($(#[$doc:meta])* $name:ident { $($own:tt)* }) => {
        $(#[$doc])*
        #[derive(ToSchema)]
        #[expect(dead_code, reason = "describes what `read` reads")]
        pub(super) struct $name {
            $($own)*
            /// The function whose runs it starts.
            #[schema(max_length = 256, min_length = 1)]
            function: String,
            /// Any JSON up to 1 MiB: the input of its runs, passed on byte for byte. Left out: null.
            #[schema(value_type = serde_json::Value, required = false)]
            input: serde_json::Value,
            /// Minute, hour, day of month, month, day of week; or `@daily` and the like. May begin with
            /// `TZ=Europe/Paris `.
            #[schema(max_length = 256, example = "0 9 * * 1-5")]
            cron: Option<String>,
            /// Whose clocks `cron` is about: an IANA name. `UTC` if left out.
            #[schema(max_length = 64, example = "Europe/Paris")]
            time_zone: Option<String>,
            /// In place of `cron`: so long after one another, at least a second.
            #[schema(example = "15m")]
            every: Option<String>,
            /// What the moments of `every` are counted from; when the schedule was created, if left out.
            #[schema(format = DateTime)]
            anchor: Option<String>,
            /// Each firing is later than its moment by up to this, always the same for a moment, and before
            /// the next one.
            #[schema(example = "5m")]
            jitter: Option<String>,
            /// What happens at a moment while `max_running` runs are live: `skip` (the default),
            /// `buffer_one`, `buffer_all`, `cancel_other`, `terminate_other`, `allow_all`.
            #[schema(pattern = "^(skip|buffer_one|buffer_all|cancel_other|terminate_other|allow_all)$")]
            overlap: Option<String>,
            /// How many of its runs may be live at once; 1 if left out.
            #[schema(minimum = 1, maximum = 1000)]
            max_running: Option<u32>,
            /// A firing that is later than this is missed; a day if left out, at least 10 s.
            #[schema(example = "1h")]
            catchup_window: Option<String>,
            /// No moment is before this.
            #[schema(format = DateTime)]
            start_at: Option<String>,
            /// No moment is after this.
            #[schema(format = DateTime)]
            end_at: Option<String>,
            /// How many runs it starts by itself in all.
            #[schema(minimum = 1)]
            limited_actions: Option<u32>,
            /// It is paused when one of its runs fails or times out.
            pause_on_failure: Option<bool>,
            /// The key of its runs: for functions of kind `object`, whose object it is. Left out, each run
        /// has a key made of schedule and moment.
        #[schema(max_length = 256, min_length = 1)]
        key: Option<String>,
        /// Up to 32 searchable tags of its runs.
            tags: Option<BTreeMap<String, String>>,
            timeouts: Option<TimeoutsRequest>,
            /// Default policy of its runs' steps, over the function's.
            retry: Option<RetryRequest>,
            /// The deployment to run on (`dep_…`), instead of the newest.
            version: Option<String>,
            /// It begins paused.
            paused: Option<bool>,
            /// Why it is paused.
            #[schema(max_length = 1000)]
            note: Option<String>,
        }
    };
}

request! {
    /// A schedule. It has a `cron` or an `every`.
    ScheduleRequest {
        /// Names the schedule in its namespace.
        #[schema(max_length = 128, min_length = 1, example = "nightly-report")]
        name: String,
    }
}

request! {
    /// The whole of a schedule but its name.
    PutScheduleRequest {}
}

/// A change of a schedule: what is left out stays, what is null has its default.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what `read_patch` reads")]
pub(super) struct PatchScheduleRequest {
    #[schema(max_length = 128, min_length = 1)]
    name: Option<String>,
    #[schema(max_length = 256, min_length = 1)]
    function: Option<String>,
    #[schema(value_type = serde_json::Value, required = false)]
    input: serde_json::Value,
    #[schema(max_length = 256)]
    cron: Option<String>,
    #[schema(max_length = 64)]
    time_zone: Option<String>,
    every: Option<String>,
    #[schema(format = DateTime)]
    anchor: Option<String>,
    jitter: Option<String>,
    #[schema(pattern = "^(skip|buffer_one|buffer_all|cancel_other|terminate_other|allow_all)$")]
    overlap: Option<String>,
    #[schema(minimum = 1, maximum = 1000)]
    max_running: Option<u32>,
    catchup_window: Option<String>,
    #[schema(format = DateTime)]
    start_at: Option<String>,
    #[schema(format = DateTime)]
    end_at: Option<String>,
    #[schema(minimum = 1)]
    limited_actions: Option<u32>,
    pause_on_failure: Option<bool>,
    #[schema(max_length = 256, min_length = 1)]
    key: Option<String>,
    tags: Option<BTreeMap<String, String>>,
    timeouts: Option<TimeoutsRequest>,
    retry: Option<RetryRequest>,
    version: Option<String>,
}

/// A schedule's name.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    super::fields::plain_text(name, MAX_NAME)?;
    if name.contains('/') {
        return Err("must not have a slash".to_owned());
    }
    Ok(())
}

/// Why: a note.
pub(super) fn note(f: &mut Fields<'_>) -> Option<String> {
    f.text("note", MAX_NOTE)
}

/// A schedule that is to be, under this name or the one that it gives.
pub(super) fn read(f: &mut Fields<'_>, named: Option<&str>, now: Timestamp) -> NewSchedule {
    let name = if let Some(name) = named {
        Some(name.to_owned())
    } else {
        let name = f.parsed("name", |text| check_name(text).map(|()| text.to_owned()));
        f.need("name", name)
    };
    let function = f.text("function", 256);
    let function = f.need("function", function).unwrap_or_default();
    let (timing, anchored) = timing(f, None, now);
    let spec = spec(f, timing, None);
    let paused = f.value::<bool>("paused").unwrap_or(false);
    let note = note(f);
    if note.is_some() && !paused {
        f.fault("note", "has no meaning unless `paused`");
    }
    NewSchedule {
        name: name.unwrap_or_default(),
        function,
        spec,
        anchored,
        input: f.payload("input").map_or_else(null, bytes),
        paused,
        note,
    }
}

/// A change of a schedule as it stands.
pub(super) fn read_patch(f: &mut Fields<'_>, view: &ScheduleView, now: Timestamp) -> SchedulePatch {
    let before = &view.plan.spec;
    let (timing, _) = timing(f, Some(&before.timing), now);
    let spec = spec(f, timing, Some(before));
    SchedulePatch {
        name: f.parsed("name", |text| check_name(text).map(|()| text.to_owned())),
        function: f.text("function", 256),
        spec: (spec != *before).then_some(spec),
        input: f.payload("input").map(bytes),
    }
}

fn null() -> Bytes {
    Bytes::from_static(b"null")
}

fn bytes(raw: &RawValue) -> Bytes {
    Bytes::from(raw.get().to_owned())
}

/// The rule, and whether its anchor was given. Without one there is a fault, and any rule.
fn timing(f: &mut Fields<'_>, before: Option<&Timing>, now: Timestamp) -> (Timing, bool) {
    let cron: Option<String> = f.value("cron");
    let zone: Option<String> = f.value("time_zone");
    let (every, anchor) = (f.duration("every"), f.moment("anchor"));
    let any = Timing::Every { every: std::time::Duration::from_hours(1), anchor: now };
    if cron.is_some() && every.is_some() {
        f.fault("every", "is given beside `cron`; one of them is enough");
        return (any, false);
    }
    let was_cron = matches!(before, Some(Timing::Cron { .. }));
    let was_every = matches!(before, Some(Timing::Every { .. }));
    let is_cron = cron.is_some() || (was_cron && every.is_none());
    let is_every = every.is_some() || (was_every && cron.is_none());
    if !is_cron && zone.is_some() {
        f.fault("time_zone", "has no meaning without `cron`");
    }
    if !is_every && anchor.is_some() {
        f.fault("anchor", "has no meaning without `every`");
    }
    let timing = match (before, cron, every) {
        // The time zone stays as it was, unless the expression brings its own.
        (Some(Timing::Cron { time_zone, .. }), Some(cron), _)
            if zone.is_none() && !f.is_null("time_zone") && !cron.contains('=') =>
        {
            Timing::cron(&cron, Some(time_zone))
        }
        (_, Some(cron), _) => Timing::cron(&cron, zone.as_deref()),
        (Some(Timing::Cron { expression, .. }), None, None) if zone.is_some() => {
            Timing::cron(expression, zone.as_deref())
        }
        (Some(Timing::Every { every, .. }), None, None) if anchor.is_some() => {
            Ok(Timing::Every { every: *every, anchor: anchor.unwrap_or(now) })
        }
        (Some(before), None, None) => Ok(before.clone()),
        (Some(Timing::Every { anchor: was, .. }), None, Some(every)) => {
            Ok(Timing::Every { every, anchor: anchor.unwrap_or(*was) })
        }
        (_, None, Some(every)) => Ok(Timing::Every { every, anchor: anchor.unwrap_or(now) }),
        (None, None, None) => {
            if f.is_sound("cron") && f.is_sound("every") {
                f.fault("cron", "is needed, or `every`");
            }
            return (any, false);
        }
    };
    match timing {
        Ok(timing) => (timing, anchor.is_some()),
        Err((field, detail)) => {
            f.fault(field, detail);
            (any, false)
        }
    }
}

/// The rest of a specification: what is not given is as before, what is null has its default.
fn spec(f: &mut Fields<'_>, timing: Timing, before: Option<&Spec>) -> Spec {
    let defaults = Spec::of(timing.clone());
    let before = before.cloned().unwrap_or_else(|| defaults.clone());
    let mut spec = Spec { timing, ..before };
    macro_rules! set {
        ($name:literal, $field:expr, $default:expr, $read:expr) => {
            if f.is_null($name) {
                $field = $default;
            } else if let Some(value) = $read {
                $field = value;
            }
        };
    }
    set!("jitter", spec.jitter, defaults.jitter, f.duration("jitter"));
    set!("overlap", spec.overlap, defaults.overlap, f.word("overlap", &Overlap::WORDS));
    set!("max_running", spec.max_running, 1, f.value("max_running"));
    set!(
        "catchup_window",
        spec.catchup_window,
        defaults.catchup_window,
        f.duration("catchup_window")
    );
    set!("start_at", spec.start_at, None, f.moment("start_at").map(Some));
    set!("end_at", spec.end_at, None, f.moment("end_at").map(Some));
    set!("limited_actions", spec.limited_actions, None, f.value("limited_actions").map(Some));
    set!("pause_on_failure", spec.pause_on_failure, false, f.value("pause_on_failure"));
    let start = &mut spec.start;
    set!("key", start.key, None, f.text("key", 256).map(Some));
    set!("tags", start.tags, BTreeMap::new(), tags(f));
    if f.is_null("timeouts") {
        (start.start_timeout, start.run_timeout, start.invocation_timeout) = (None, None, None);
    } else if let Some((wait, run, invocation)) =
        f.object("timeouts", |f| (f.duration("start"), f.duration("run"), f.duration("invocation")))
    {
        (start.start_timeout, start.run_timeout, start.invocation_timeout) =
            (wait, run, invocation);
    }
    set!("retry", start.retry, None, f.retry("retry").map(Some));
    set!(
        "version",
        start.deployment,
        None,
        f.parsed("version", |text| text.parse().map_err(|e| format!("{e}"))).map(Some)
    );
    if let Err(faults) = spec.check() {
        for (field, detail) in faults {
            f.fault(field, detail);
        }
    }
    spec
}
