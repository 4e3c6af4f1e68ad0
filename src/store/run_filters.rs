//! Which runs: what a list, a count and an act on many may ask for, in the words of the database.

use std::collections::BTreeMap;

use sqlx::postgres::{PgArguments, PgBindIterExt as _};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::Store;
use super::error::Result;
use super::ranges::Bound;
use super::run_sort::{RunPlace, RunSort};
use super::wire::Ts;
use crate::machine::{RunId, ScheduleId, Timestamp};

/// Which runs: a run must match every field that is not empty, and one of its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// The namespace.
    pub ns: i32,
    /// Status codes.
    pub status: Vec<i16>,
    /// Function names.
    pub functions: Vec<String>,
    /// Run keys.
    pub keys: Vec<String>,
    /// Tags: different names must all match, of one name one value.
    pub tags: Vec<(String, String)>,
    /// Tags that are numbers or moments: all must be in range.
    pub ranges: Vec<Bound>,
    /// Deployments that the run was started on (or ended on).
    pub deployments: Vec<i32>,
    /// Created at or after.
    pub started_after: Option<Timestamp>,
    /// Created before.
    pub started_before: Option<Timestamp>,
    /// The run that started them.
    pub parent: Option<RunId>,
    /// The schedule that started them.
    pub schedule: Option<ScheduleId>,
    /// These very runs.
    pub runs: Vec<RunId>,
    /// Kinds of errors that they failed or are paused by.
    pub fingerprints: Vec<uuid::Uuid>,
    /// Text in key, function or tags; case does not count. A run's whole id is that run, and those
    /// that have it as their key.
    pub q: Option<String>,
    /// Ended at or after; a live run has not.
    pub ended_after: Option<Timestamp>,
    /// Ended before; a live run has not.
    pub ended_before: Option<Timestamp>,
    /// In which order.
    pub sort: RunSort,
    /// The last run of the page before.
    pub cursor: Option<RunPlace>,
    /// How many at most.
    pub limit: i64,
}

impl RunFilter {
    /// From which end on: a list in the order of ends has none but ended runs.
    pub(super) fn ended_after(&self) -> Option<Timestamp> {
        self.ended_after.or_else(|| self.sort.by_end().then(Timestamp::default))
    }
}

/// What all runs of a list have in common. An id holds its time of creation, so that the moments are a
/// range of ids.
macro_rules! range {
    () => {
        "ns = $1
     and run_id >= run_floor(greatest($3::timestamptz, '1970-01-02') - interval '1 minute')
     and run_id < run_floor(least($4::timestamptz, '9999-01-01') + interval '1 minute')"
    };
}

/// Both halves walk an index of theirs in the order of the list, or take what another index has
/// if that is little. Filters that are not given fold away, since plans are made for the values; so
/// does the half that has no run of the statuses asked for.
macro_rules! filters {
    (
        $half:literal, of_schedule: $of_schedule:literal, of_keys: $of_keys:literal,
        of_key: $of_key:literal, ended_at: $ended_at:literal
    ) => {
        concat!(
            range!(),
            " and ",
            $half,
            "
     and ($3::timestamptz is null or created_at >= $3)
     and ($4::timestamptz is null or created_at < $4)
     and ($5::int2[] is null or status = any($5))
     and ($6::int4[] is null or fn = any($6))
     and ($7::text[] is null or key = any($7) and ",
            $of_keys,
            ")
     and ($8::int4[] is null or dep = any($8))
     and ($15::uuid is null or parent = $15 and coalesce(parent, schedule) = $15)
     and ($19::uuid is null or schedule = $19 and ",
            $of_schedule,
            ")
     and ($21::uuid[] is null or fingerprint = any($21))
     and ($20::uuid[] is null or run_id = any($20))
     and ($9::text is null or tags @> $9::jsonb)
     and ($10::text[] is null or not exists (
           select from unnest($10::text[]) as w(name) where not exists (
             select from unnest($10::text[], $11::text[]) as p(name, value)
              where p.name = w.name and tags ->> p.name = p.value)))
     and ($22::text[] is null or not exists (
           select from unnest($22::text[], $23::int2[], $24::text[], $25::text[]) as r(name, side, number, moment)
            where (case
              when r.number is not null and tags ->> r.name ~ '^-?[0-9]{1,30}([.][0-9]{1,30})?$'
                then case r.side when 0 then (tags ->> r.name)::numeric < r.number::numeric
                                 when 1 then (tags ->> r.name)::numeric <= r.number::numeric
                                 when 2 then (tags ->> r.name)::numeric > r.number::numeric
                                 else (tags ->> r.name)::numeric >= r.number::numeric end
              when r.moment is not null
                   and tags ->> r.name ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?Z)?$'
                then case r.side when 0 then rtrim(tags ->> r.name, 'Z') collate \"C\" < r.moment
                                 when 1 then rtrim(tags ->> r.name, 'Z') collate \"C\" <= r.moment
                                 when 2 then rtrim(tags ->> r.name, 'Z') collate \"C\" > r.moment
                                 else rtrim(tags ->> r.name, 'Z') collate \"C\" >= r.moment end
              end) is not true))
     and ($26::timestamptz is null or ",
            $ended_at,
            " >= $26)
     and ($27::timestamptz is null or ",
            $ended_at,
            " < $27)
     and ($13::uuid is null or run_id = $13 or key = $12 and ",
            $of_key,
            ")
     and ($13::uuid is not null or $12::text is null or strpos(lower(key), $12) > 0
          or fn = any($17::int4[])
          or (strpos(lower(tags::text), $18) > 0 and exists (
                select from jsonb_each_text(tags) t
                 where strpos(lower(t.key || ':' || t.value), $12) > 0)))"
        )
    };
}

/// Those of `run_active` …
macro_rules! live {
    () => {
        filters!(
            "($5::int2[] is null or 100 > any($5))
     and ($21::uuid[] is null or array_remove(array[schedule, fingerprint], null) && $21)",
            of_schedule: "array_remove(array[schedule, fingerprint], null) @> array[$19::uuid]",
            of_keys: "true",
            of_key: "true",
            ended_at: "null::timestamptz"
        )
    };
}

/// … and of `run_done`, each as its own indexes have them.
macro_rules! ended {
    () => {
        filters!(
            "($5::int2[] is null or 100 <= any($5))
     and ($6::int4[] is null or status = any(coalesce($5, '{100,101,102,103,104}')))",
            of_schedule: "coalesce(parent, schedule) = $19",
            of_keys: "array_remove(array[key], null) && $7",
            of_key: "array_remove(array[key], null) @> array[$12::text]",
            ended_at: "ended_at"
        )
    };
}

pub(super) use {ended, filters, live, range};

/// Functions by their names, and those that have a text in it.
pub(super) const NAMED: &str = "select id, name = any($2::text[]) as named,
       coalesce(strpos(lower(name), $3) > 0, false) as found from functions
 where ns = $1 and (name = any($2::text[]) or strpos(lower(name), $3) > 0)";

/// None where there is nothing to filter by.
fn given<T>(values: &[T]) -> Option<&[T]> {
    (!values.is_empty()).then_some(values)
}

/// A filter with what is looked up once for it.
pub(super) struct Asked<'a> {
    pub(super) filter: &'a RunFilter,
    /// The numbers of its functions.
    functions: Vec<i32>,
    /// Its text, a run's id as it is and else in small letters.
    q: Option<String>,
    /// The run that its text is the id of.
    q_run: Option<RunId>,
    /// The functions that have its text in their name.
    q_functions: Vec<i32>,
}

impl Asked<'_> {
    /// Whether no function has what is asked for.
    pub(super) const fn is_nobody(&self) -> bool {
        let f = self.filter;
        self.functions.is_empty() && !(f.functions.is_empty() && f.fingerprints.is_empty())
    }

    /// Whether no index helps.
    pub(super) fn looks_at_all(&self) -> bool {
        let f = self.filter;
        let many = f.tags.iter().any(|(n, v)| f.tags.iter().any(|(m, w)| m == n && w != v));
        let searched = self.q.is_some() && self.q_run.is_none();
        searched || many || !f.deployments.is_empty() || !f.ranges.is_empty()
    }
}

/// The longest part of a text that is whole in the name or in the value of each tag that has the
/// text in `name:value`, as JSON writes it.
fn part_in_tags(q: &str) -> String {
    let longest = q.split(':').max_by_key(|part| part.len()).unwrap_or_default();
    longest.replace('\\', "\\\\").replace('"', "\\\"")
}

impl Store {
    /// Looks up what a filter names.
    pub(super) async fn asked<'a>(&self, filter: &'a RunFilter) -> Result<Asked<'a>> {
        let q = filter.q.as_deref().map(str::trim).filter(|q| !q.is_empty());
        let q_run = q.and_then(|q| q.parse::<RunId>().ok());
        let q = q.map(|q| if q_run.is_some() { q.to_owned() } else { q.to_lowercase() });
        let (mut functions, mut q_functions) = (Vec::new(), Vec::new());
        if !filter.functions.is_empty() || (q.is_some() && q_run.is_none()) {
            let named = sqlx::query(NAMED).bind(filter.ns).bind(&filter.functions);
            for row in named.bind(q.as_deref()).fetch_all(&self.pool).await? {
                let id = row.try_get("id")?;
                if row.try_get("named")? {
                    functions.push(id);
                }
                if row.try_get("found")? {
                    q_functions.push(id);
                }
            }
        }
        if !filter.fingerprints.is_empty() {
            // A kind of error is of one function, by which its index begins.
            let mut of = self.functions_of_errors(filter.ns, &filter.fingerprints).await?;
            if !filter.functions.is_empty() {
                of.retain(|function| functions.contains(function));
            }
            functions = of;
        }
        Ok(Asked { filter, functions, q, q_run, q_functions })
    }

    /// A statement about the runs of a filter with all that it asks for.
    pub(super) fn bound<'q>(
        sql: &'static str,
        asked: &'q Asked<'_>,
        from: Option<RunPlace>,
        to: Option<RunPlace>,
        limit: i64,
    ) -> Query<'q, Postgres, PgArguments> {
        let filter = asked.filter;
        // Tags with one value can use their index, the others are compared one by one.
        let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &filter.tags {
            by_name.entry(name).or_default().push(value);
        }
        let one: BTreeMap<&str, &str> =
            by_name.iter().filter(|(_, v)| v.len() == 1).map(|(n, v)| (*n, v[0])).collect();
        let one = (!one.is_empty())
            .then(|| serde_json::to_string(&one).expect("a map of strings is JSON"));
        let many: Vec<(&str, &str)> = by_name
            .iter()
            .filter(|(_, v)| v.len() > 1)
            .flat_map(|(n, v)| v.iter().map(|v| (*n, *v)))
            .collect();
        let names: Vec<&str> = many.iter().map(|m| m.0).collect();
        let ranged: Vec<&str> = filter.ranges.iter().map(|r| r.name.as_str()).collect();
        let runs: Vec<uuid::Uuid> = filter.runs.iter().map(|run| run.uuid()).collect();
        sqlx::query(sql)
            .bind(filter.ns)
            .bind(from.map_or_else(|| filter.sort.beginning().0, |at| at.run.uuid()))
            .bind(filter.started_after.map(Ts))
            .bind(filter.started_before.map(Ts))
            .bind(given(&filter.status))
            .bind(given(&asked.functions))
            .bind(given(&filter.keys))
            .bind(given(&filter.deployments))
            .bind(one)
            .bind(given(&names))
            .bind(many.iter().map(|m| m.1).bind_iter())
            .bind(asked.q.as_deref())
            .bind(asked.q_run.map(RunId::uuid))
            .bind(limit)
            .bind(filter.parent.map(RunId::uuid))
            .bind(to.map(|at| at.run.uuid()))
            .bind(&asked.q_functions)
            .bind(asked.q.as_deref().map(part_in_tags))
            .bind(filter.schedule.map(ScheduleId::uuid))
            .bind(given(&runs))
            .bind(given(&filter.fingerprints))
            .bind(given(&ranged))
            .bind(filter.ranges.iter().map(|r| r.range as i16).bind_iter())
            .bind(filter.ranges.iter().map(|r| r.number.as_deref()).bind_iter())
            .bind(filter.ranges.iter().map(|r| r.moment.as_deref()).bind_iter())
            .bind(filter.ended_after().map(Ts))
            .bind(filter.ended_before.map(Ts))
    }
}
