//! Which moments there are: tables of the rules, and a clock that is watched minute by minute.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use proptest::prelude::*;

use crate::machine::schedule::{Cron, Plan, Spec, Timing};
use crate::machine::{ScheduleId, Timestamp};

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn plan(timing: Timing) -> Plan {
    let id = ScheduleId::anywhere(at("2026-01-01T00:00:00Z"), 7);
    Plan::of(id, Spec::of(timing)).expect("a plan")
}

fn cron(text: &str) -> Plan {
    plan(Timing::cron(text, None).expect("an expression"))
}

/// The first moments after one, in UTC without date's year and seconds.
fn first(text: &str, after: &str, count: usize) -> Vec<String> {
    let coming = cron(text).coming(at(after), count);
    coming.iter().map(|(at, _)| at.to_string()[5..16].to_owned()).collect()
}

#[test]
fn expressions_are_read_as_posix_says() {
    for (text, expected) in [
        ("0 9 * * *", vec!["11-26T09:00", "11-27T09:00"]),
        ("*/20 9-10 * * *", vec!["11-26T09:00", "11-26T09:20", "11-26T09:40", "11-26T10:00"]),
        ("5/25 * * * *", vec!["11-26T00:05", "11-26T00:30", "11-26T00:55", "11-26T01:05"]),
        ("0 0 1 JAN,jul *", vec!["01-01T00:00", "07-01T00:00"]),
        // Both fields of days: one of them is enough. 2026-11-27 is a Friday.
        ("0 0 28 * FRI", vec!["11-27T00:00", "11-28T00:00", "12-04T00:00"]),
        ("0 0 * * 7", vec!["11-29T00:00", "12-06T00:00"]),
        ("0 0 * * sun-tue", vec!["11-29T00:00", "11-30T00:00", "12-01T00:00", "12-06T00:00"]),
        ("0 0 29 2 *", vec!["02-29T00:00", "02-29T00:00"]),
        ("0 0 31 * *", vec!["12-31T00:00", "01-31T00:00", "03-31T00:00"]),
        ("@weekly", vec!["11-29T00:00"]),
        ("@hourly", vec!["11-26T00:00", "11-26T01:00"]),
        ("TZ=Asia/Kathmandu 0 9 * * *", vec!["11-26T03:15"]),
        ("CRON_TZ=America/New_York 0 9 * * *", vec!["11-26T14:00"]),
    ] {
        assert_eq!(first(text, "2026-11-25T23:59:59Z", expected.len()), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_of_the_field() {
    for (text, said) in [
        ("", "has 0 fields"),
        ("0 9 * *", "has 4 fields"),
        ("0 0 9 * * *", "seconds are not supported"),
        ("60 * * * *", "minute: 60 is not between 0 and 59"),
        ("* 24 * * *", "hour: 24 is not between 0 and 23"),
        ("* * 0 * *", "day of month: 0 is not between 1 and 31"),
        ("* * * 13 *", "month: 13 is not between 1 and 12"),
        ("* * * * 8", "day of week: 8 is not between 0 and 7"),
        ("* * * MAI *", "month: `MAI` is no number from 1 to 12 or a name from JAN to DEC"),
        ("* * L * *", "`L`, `W` and `#` are not supported"),
        ("* 22-2 * * *", "hour: `22-2` runs backwards"),
        ("*/0 * * * *", "minute: `/0` is no step"),
        ("1,,2 * * * *", "minute: is empty between commas"),
        ("+1 * * * *", "minute: `+1` is no number"),
        ("0 0 30 2 *", "day of month: no such day"),
        ("@every 5m", "use `every`"),
        ("@reboot", "`@reboot` is not known"),
    ] {
        let refused = Cron::parse(text).expect_err(text);
        assert!(refused.contains(said), "{text}: {refused}");
    }
    let (field, detail) = Timing::cron("TZ=Mars/Olympus 0 9 * * *", None).expect_err("no zone");
    assert_eq!((field, detail.contains("Mars/Olympus")), ("cron", true));
    let (field, _) = Timing::cron("0 9 * * *", Some("Europe/Pariss")).expect_err("no zone");
    assert_eq!(field, "time_zone");
    assert!(Timing::cron("TZ=UTC 0 9 * * *", Some("Europe/Paris")).is_err());
}

// P8.15
#[test]
fn where_clocks_are_changed_the_rule_is_literal() {
    // The gap of 2026-03-29 in Paris: 02:00 to 03:00 is left out, at 01:00 UTC.
    let spring = "2026-03-28T12:00:00Z";
    for (text, expected) in [
        ("TZ=Europe/Paris 30 2 * * *", vec!["03-29T01:00", "03-30T00:30"]),
        // Times that are left out come to one firing, and to the one that is there anyway.
        ("TZ=Europe/Paris 0,30 2 * * *", vec!["03-29T01:00", "03-30T00:00", "03-30T00:30"]),
        ("TZ=Europe/Paris 0 2,3 * * *", vec!["03-29T01:00", "03-30T00:00", "03-30T01:00"]),
        ("TZ=Europe/Paris 30 1,3 * * *", vec!["03-29T00:30", "03-29T01:30"]),
        // Every hour that passes: none is left out, none is made up.
        ("TZ=Europe/Paris 30 * 29 3 *", vec!["03-28T23:30", "03-29T00:30", "03-29T01:30"]),
    ] {
        assert_eq!(first(text, spring, expected.len()), expected, "{text}");
    }
    // The overlap of 2026-10-25: 02:00 to 03:00 is shown twice, from 00:00 to 02:00 UTC.
    let autumn = "2026-10-24T12:00:00Z";
    for (text, expected) in [
        ("TZ=Europe/Paris 30 2 * * *", vec!["10-25T00:30", "10-26T01:30"]),
        ("TZ=Europe/Paris 0 2,3 * * *", vec!["10-25T00:00", "10-25T02:00", "10-26T01:00"]),
        ("TZ=Europe/Paris 30 * * * *", vec!["10-24T12:30", "10-24T13:30"]),
    ] {
        assert_eq!(first(text, autumn, expected.len()), expected, "{text}");
    }
    let of_day = |text: &str, from: &str, to: &str| {
        let moments = cron(text).coming(at(from), 200);
        moments.iter().filter(|(moment, _)| *moment <= at(to)).count()
    };
    // A day of 25 hours, a day of 23, and one whose clocks go by half an hour.
    let quarters = "TZ=Europe/Paris */15 * * * *";
    assert_eq!(of_day(quarters, "2026-10-24T21:59:00Z", "2026-10-25T22:59:00Z"), 100);
    assert_eq!(of_day(quarters, "2026-03-28T22:59:00Z", "2026-03-29T21:59:00Z"), 92);
    let lord_howe = "TZ=Australia/Lord_Howe */15 * * * *";
    assert_eq!(of_day(lord_howe, "2026-04-04T12:59:00Z", "2026-04-05T13:29:00Z"), 98);
    // Apia left out a whole day, 2011-12-30.
    let apia = first("TZ=Pacific/Apia 0 9 * * *", "2011-12-29T12:00:00Z", 3);
    assert_eq!(apia, ["12-29T19:00", "12-30T10:00", "12-30T19:00"]);
}

#[test]
fn intervals_are_counted_from_their_anchor() {
    let anchor = at("2026-11-26T00:00:30Z");
    let every = plan(Timing::Every { every: Duration::from_secs(90), anchor });
    let coming = |from: &str| every.after(at(from)).map(|t| t.to_string());
    assert_eq!(coming("2026-11-26T00:00:00Z").as_deref(), Some("2026-11-26T00:02:00.000Z"));
    assert_eq!(coming("2026-11-26T00:02:00Z").as_deref(), Some("2026-11-26T00:03:30.000Z"));
    assert_eq!(coming("2025-01-01T00:00:00Z").as_deref(), Some("2026-11-26T00:02:00.000Z"));
}

#[test]
fn moments_keep_to_their_bounds() {
    let timing = Timing::cron("0 * * * *", None).expect("an expression");
    let spec = Spec {
        start_at: Some(at("2026-11-26T10:00:00Z")),
        end_at: Some(at("2026-11-26T11:00:00Z")),
        ..Spec::of(timing)
    };
    let id = ScheduleId::anywhere(at("2026-01-01T00:00:00Z"), 7);
    let plan = Plan::of(id, spec).expect("a plan");
    let coming: Vec<String> =
        plan.coming(at("2026-01-01T00:00:00Z"), 9).iter().map(|(t, _)| t.to_string()).collect();
    assert_eq!(coming, ["2026-11-26T10:00:00.000Z", "2026-11-26T11:00:00.000Z"]);
}

/// A field of an expression, and what it stands for.
fn field(low: u8, high: u8) -> impl Strategy<Value = (String, Vec<u8>)> {
    let all: Vec<u8> = (low..=high).collect();
    prop_oneof![
        3 => Just(("*".to_owned(), all)),
        2 => (low..=high).prop_map(|n| (n.to_string(), vec![n])),
        1 => (low..=high, low..=high).prop_map(|(a, b)| {
            let (a, b) = (a.min(b), a.max(b));
            (format!("{a}-{b}"), (a..=b).collect())
        }),
        1 => (1u8..=20).prop_map(move |step| {
            let values = (low..=high).step_by(usize::from(step)).collect();
            (format!("{low}-{high}/{step}"), values)
        }),
        1 => (low..=high, low..=high).prop_map(|(a, b)| (format!("{a},{b}"), vec![a, b])),
    ]
}

#[derive(Debug, Clone)]
struct Expression {
    text: String,
    sets: [Vec<u8>; 5],
    any_day: (bool, bool),
}

fn expression() -> impl Strategy<Value = Expression> {
    let any = |low: u8, high: u8| Just(("*".to_owned(), (low..=high).collect::<Vec<u8>>()));
    // At night, when clocks are changed, on each day; and anything.
    let fields = prop_oneof![
        (field(0, 59), field(0, 4), any(1, 31), any(1, 12), any(0, 6)),
        (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)),
    ];
    fields.prop_map(|(minute, hour, day, month, weekday)| {
        let text = [&minute.0, &hour.0, &day.0, &month.0, &weekday.0].map(String::as_str);
        // What stands for some hours elsewhere stands for all of them here.
        let every = hour.0 == "*";
        Expression {
            text: text.join(" "),
            any_day: (day.0 == "*", weekday.0 == "*"),
            sets: [
                minute.1,
                if every { (0..=23).collect() } else { hour.1 },
                day.1,
                month.1,
                weekday.1,
            ],
        }
    })
}

impl Expression {
    fn matches(&self, at: DateTime) -> bool {
        let has = |set: usize, value: i8| self.sets[set].contains(&value.unsigned_abs());
        let day = has(2, at.day());
        let weekday = has(4, at.weekday().to_sunday_zero_offset());
        let right_day = match self.any_day {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        has(0, at.minute()) && has(1, at.hour()) && has(3, at.month()) && right_day
    }

    /// Somebody watches a clock, minute by minute, and notes when it is time.
    fn watched(&self, zone: &TimeZone, after: i64, minutes: i64) -> Vec<i64> {
        let every_hour = self.sets[1].len() == 24;
        let shown = |minute: i64| {
            let instant = jiff::Timestamp::from_second(minute * 60).expect("a time");
            zone.to_datetime(instant)
        };
        let mut found = Vec::new();
        // From long before, so that times that were shown already are known.
        let mut latest = shown(after - 2_000);
        for minute in after - 1_999..=after + minutes {
            let now = shown(minute);
            let time = if every_hour {
                self.matches(now)
            } else {
                let mut any = false;
                while latest < now {
                    latest = latest.checked_add(jiff::Span::new().minutes(1)).expect("a time");
                    any |= self.matches(latest);
                }
                any
            };
            if time && minute > after {
                found.push(minute);
            }
        }
        found
    }
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/St_Johns",
    "Africa/Casablanca",
    "America/Santiago",
    "Asia/Kathmandu",
];

/// A day or two before clocks are changed in 2026.
const CHANGES: [(&str, i64); 9] = [
    ("Europe/Paris", 451),
    ("Europe/Paris", 661),
    ("America/New_York", 430),
    ("America/New_York", 668),
    ("Australia/Lord_Howe", 458),
    ("Australia/Lord_Howe", 640),
    ("America/St_Johns", 668),
    ("Africa/Casablanca", 445),
    ("America/Santiago", 457),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    // P8.15
    #[test]
    fn moments_are_those_that_a_watched_clock_shows(
        expression in expression(),
        // Around changes of the clocks as often as anywhere.
        (zone, day) in prop_oneof![
            (proptest::sample::select(&ZONES[..]), 0i64..3_000),
            proptest::sample::select(&CHANGES[..]),
        ],
        minute in 0i64..1_440,
    ) {
        prop_assume!(Cron::parse(&expression.text).is_ok());
        let zoned = TimeZone::get(zone).expect("a zone");
        // 2025-01-01 is day 0.
        let after = (1_735_689_600 / 60) + day * 1_440 + minute;
        let horizon = 3 * 1_440;
        let watched = expression.watched(&zoned, after, horizon);
        let timing = Timing::cron(&expression.text, Some(zone)).expect("an expression");
        let plan = plan(timing);
        let mut got = Vec::new();
        let mut from = Timestamp::from_micros(after * 60_000_000);
        let last = Timestamp::from_micros((after + horizon) * 60_000_000);
        while let Some(next) = plan.after(from).filter(|next| *next <= last) {
            prop_assert!(next > from);
            got.push(next.as_micros() / 60_000_000);
            from = next;
            if got.len() > 40 {
                break;
            }
        }
        let watched: Vec<i64> = watched.into_iter().take(got.len().max(41)).collect();
        prop_assert_eq!(&got[..], &watched[..got.len().min(watched.len())], "{}", expression.text);
        prop_assert!(got.len() > 40 || got.len() == watched.len(), "{}", expression.text);
    }

    #[test]
    fn jitter_keeps_the_order_and_is_the_same_for_whoever_asks(
        jitter in 0u64..7_200,
        every in 1u64..7_200,
        chance in any::<u128>(),
    ) {
        let anchor = at("2026-11-26T00:00:00Z");
        let timing = Timing::Every { every: Duration::from_secs(every), anchor };
        let spec = Spec { jitter: Duration::from_secs(jitter), ..Spec::of(timing) };
        let id = ScheduleId::anywhere(anchor, chance);
        let (one, two) = (Plan::of(id, spec.clone()), Plan::of(id, spec));
        let (one, two) = (one.expect("a plan"), two.expect("a plan"));
        let coming = one.coming(anchor, 20);
        prop_assert_eq!(&coming, &two.coming(anchor, 20));
        for pair in coming.windows(2) {
            let ((moment, fires), (next, _)) = (pair[0], pair[1]);
            prop_assert!(moment <= fires && fires < next);
            prop_assert!(fires.since(moment) <= Duration::from_secs(jitter));
        }
    }
}
