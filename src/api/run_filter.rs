//! Which runs, as a query string and the body of an act on many ask for them: one piece of code.

use utoipa::ToSchema;

use super::fields::Fields;
use super::request::{Params, text};
use crate::engine::RunFilter;
use crate::machine::BadId;

/// The most runs that one request may name.
const MOST_RUNS: usize = 1000;

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

/// Which runs a query string asks for.
pub(super) fn of_query(params: &mut Params) -> RunFilter {
    read(params)
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
