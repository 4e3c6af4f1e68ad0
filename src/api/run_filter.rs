//! Which runs, as a query string and the body of an act on many ask for them: one piece of code.

use std::fmt;
use std::str::FromStr;

use utoipa::ToSchema;

use super::fields::Fields;
use super::page;
use super::request::{Params, text};
use crate::engine::{RunFilter, RunPlace, RunSort};
use crate::machine::{BadId, RunId, Timestamp};

/// The most runs that one request may name.
const MOST_RUNS: usize = 1000;
/// The year 9999, in microseconds: no run ends later.
const LATEST: i64 = 253_370_764_800_000_000;

/// Where criteria are read from.
trait Criteria {
    /// Every value of one that may be there several times.
    fn each<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T>;
    /// The value of one that may be there once.
    fn single<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T>;
    /// That something is wrong with one.
    fn wrong(&mut self, name: &str, detail: String);
}

impl Criteria for Params {
    fn each<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.all(name, parse)
    }
    fn single<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.one(name, parse)
    }
    fn wrong(&mut self, name: &str, detail: String) {
        self.fault(name, detail);
    }
}

impl Criteria for Fields<'_> {
    fn each<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.texts(name, parse)
    }
    fn single<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.parsed(name, parse)
    }
    fn wrong(&mut self, name: &str, detail: String) {
        self.fault(name, detail);
    }
}

fn id<T: std::str::FromStr<Err = BadId>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: BadId| e.to_string())
}

fn read(c: &mut impl Criteria) -> RunFilter {
    let filter = RunFilter {
        statuses: c.each("status", str::parse),
        functions: c.each("function", text),
        keys: c.each("key", text),
        tags: c.each("tag", |tag| text(tag)?.parse()),
        deployments: c.each("deployment", id),
        started_after: c.single("started_after", str::parse),
        started_before: c.single("started_before", str::parse),
        ended_after: c.single("ended_after", str::parse),
        ended_before: c.single("ended_before", str::parse),
        parent: c.single("parent", id),
        schedule: c.single("schedule", id),
        runs: c.each("run", id),
        fingerprints: c.each("fingerprint", str::parse),
        q: c.single("q", text),
        ..RunFilter::default()
    };
    if filter.runs.len() > MOST_RUNS {
        c.wrong("run", format!("names {} runs; the limit is {MOST_RUNS}", filter.runs.len()));
    }
    filter
}

/// Which runs a query string asks for, in which order, and from where on.
pub(super) fn of_query(params: &mut Params) -> RunFilter {
    let filter = read(params);
    let sort = params.one("sort", str::parse).unwrap_or_default();
    let cursor: Option<Cursor> = page::cursor(params);
    if let Some(cursor) = cursor.filter(|cursor| cursor.sort != sort) {
        let detail = format!(
            "is of a list with `sort={}`; ask for the first page of this one, without a cursor",
            cursor.sort
        );
        params.fault("cursor", detail);
    }
    RunFilter { limit: params.limit(), sort, after: cursor.map(|at| at.place), ..filter }
}

/// Where a page ended, in a list of this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    sort: RunSort,
    place: RunPlace,
}

impl Cursor {
    pub(super) const fn new(sort: RunSort, place: RunPlace) -> Self {
        Self { sort, place }
    }
}

/// In the usual order a run's id; else with the order, and with the end in microseconds.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sort, place: RunPlace { run, ended_at } } = self;
        match (sort, ended_at) {
            (RunSort::Newest, _) => write!(f, "{run}"),
            (_, Some(at)) => write!(f, "{sort} {run} {}", at.as_micros()),
            (_, None) => write!(f, "{sort} {run}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let run = |text: &str| text.parse::<RunId>().map_err(|_| ());
        let (sort, run, ended_at) = match words[..] {
            [id] => (RunSort::Newest, run(id)?, None),
            [sort, id] => (sort.parse().map_err(|_| ())?, run(id)?, None),
            [sort, id, at] => {
                let at = at.parse().ok().filter(|at| (0..=LATEST).contains(at)).ok_or(())?;
                (sort.parse().map_err(|_| ())?, run(id)?, Some(Timestamp::from_micros(at)))
            }
            _ => return Err(()),
        };
        if sort.by_end() != ended_at.is_some() {
            return Err(());
        }
        Ok(Self { sort, place: RunPlace { run, ended_at } })
    }
}

/// Which runs. At least one criterion, or `all`; different ones mean and, several values of one
/// mean or. Each is what `GET /v1/runs` has under its name: a text, or a list of them.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read")]
pub(super) struct BulkFilterRequest {
    /// Every run of the namespace; stands alone.
    all: Option<bool>,
    status: Option<Vec<String>>,
    function: Option<Vec<String>>,
    key: Option<Vec<String>>,
    /// `name:value`, or a range: `name>value`, with `>`, `>=`, `<` or `<=`.
    tag: Option<Vec<String>>,
    deployment: Option<Vec<String>>,
    #[schema(format = DateTime)]
    started_after: Option<String>,
    #[schema(format = DateTime)]
    started_before: Option<String>,
    /// A live run has not ended.
    #[schema(format = DateTime)]
    ended_after: Option<String>,
    #[schema(format = DateTime)]
    ended_before: Option<String>,
    parent: Option<String>,
    schedule: Option<String>,
    /// These very runs.
    #[schema(max_items = 1000)]
    run: Option<Vec<String>>,
    /// The kind of error that they failed or are paused by.
    fingerprint: Option<Vec<String>>,
    q: Option<String>,
}

/// Which runs the `filter` of a body asks for. That all runs are meant has to be said.
pub(super) fn of_body(f: &mut Fields<'_>) -> Option<RunFilter> {
    let filter = f.object("filter", |f| {
        let all = f.value("all").unwrap_or(false);
        let filter = read(f);
        if all && !filter.is_empty() {
            f.fault("all", "means every run, so nothing else can be asked for beside it");
        }
        if !all && filter.is_empty() && f.is_faultless() {
            f.fault(
                "all",
                "the filter asks for nothing; to act on every run of the namespace, say \
                 `\"all\": true`",
            );
        }
        filter
    });
    f.need("filter", filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_in_which_order_it_is() {
        let run = RunId::new(Timestamp::from_micros(0), 1);
        let at = Some(Timestamp::from_micros(1_700_000_000_000_001));
        for (sort, ended_at) in [
            (RunSort::Newest, None),
            (RunSort::Oldest, None),
            (RunSort::LastEnded, at),
            (RunSort::FirstEnded, at),
        ] {
            let cursor = Cursor::new(sort, sort.place(run, at));
            assert_eq!(cursor.place.ended_at, ended_at);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        let bad = ["", "-ended", "x", "-ended 1 x", "by-mood run_01jd0000000000000000000000"];
        let far = format!("-ended {run} 9223372036854775807");
        for text in bad.into_iter().chain([far.as_str(), &format!("ended {run}")]) {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
