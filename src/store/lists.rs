//! Lists of runs: one statement over live and ended ones, newest first.

use std::collections::BTreeMap;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgBindIterExt as _, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use super::Store;
use super::error::{Error, Result};
use super::ranges::Bound;
use super::wire::{self, Ts};
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
    /// The last run of the page before.
    pub cursor: Option<RunId>,
    /// How many at most.
    pub limit: i64,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRun {
    /// Which.
    pub run: RunId,
    /// Its function's number.
    pub function_id: i32,
    /// Its function's name.
    pub function: String,
    /// The deployment that it was started on, for an ended one that it ended on; 0: none.
    pub dep: i32,
    /// Its key.
    pub key: Option<String>,
    /// From 1.
    pub generation: i32,
    /// Its status' code, for a live run at most a second late.
    pub status: i16,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Why it does not move, JSON.
    pub attention: Option<Bytes>,
    /// What its handler said last, JSON.
    pub custom_status: Option<Bytes>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The run that started it.
    pub parent: Option<RunId>,
    /// The schedule that started it.
    pub schedule: Option<ScheduleId>,
    /// The kind of error that it failed or is paused by.
    pub fingerprint: Option<uuid::Uuid>,
}

/// A number of runs, counted no further than to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunCount {
    /// How many there are, at least.
    pub count: i64,
    /// Whether there are no more.
    pub exact: bool,
}

/// What one look at the runs came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunsFound {
    /// Newest first.
    pub runs: Vec<ListedRun>,
    /// How far back was looked, where it was not to the limit or the end.
    pub looked_to: Option<RunId>,
}

/// How many runs are looked at for what has no index, one after the other: little for what is
/// common, and no more than a database does in half a second.
const LOOK: [i64; 2] = [10_000, 200_000];

/// The range of ids that the cursor and the moments leave: an id holds its time of creation.
macro_rules! range {
    () => {
        "ns = $1 and run_id < $2
     and run_id >= run_floor(greatest($3::timestamptz, '1970-01-02') - interval '1 minute')
     and run_id < run_floor(least($4::timestamptz, '9999-01-01') + interval '1 minute')"
    };
}

/// Both halves walk their (ns, run id) index down from the cursor, or take what another index has
/// if that is little. Filters that are not given fold away, since plans are made for the values; so
/// does the half that has no run of the statuses asked for.
macro_rules! filters {
    ($half:literal, $of_schedule:literal) => {
        concat!(
            range!(),
            " and ",
            $half,
            "
     and ($16::uuid is null or run_id >= $16)
     and ($3::timestamptz is null or created_at >= $3)
     and ($4::timestamptz is null or created_at < $4)
     and ($5::int2[] is null or status = any($5))
     and ($6::int4[] is null or fn = any($6))
     and ($7::text[] is null or key = any($7))
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
     and ($13::uuid is null or run_id = $13 or key = $12)
     and ($13::uuid is not null or $12::text is null or strpos(lower(key), $12) > 0
          or fn = any($17::int4[])
          or (strpos(lower(tags::text), $18) > 0 and exists (
                select from jsonb_each_text(tags) t
                 where strpos(lower(t.key || ':' || t.value), $12) > 0)))
   order by run_id desc limit $14"
        )
    };
}

/// Those of `run_active` …
macro_rules! live {
    () => {
        filters!(
            "($5::int2[] is null or 100 > any($5))
     and ($21::uuid[] is null or array_remove(array[schedule, fingerprint], null) && $21)",
            "array_remove(array[schedule, fingerprint], null) @> array[$19::uuid]"
        )
    };
}

/// … and of `run_done`, each as its own indexes have them.
macro_rules! ended {
    () => {
        filters!(
            "($5::int2[] is null or 100 <= any($5))
     and ($6::int4[] is null or status = any(coalesce($5, '{100,101,102,103,104}')))",
            "coalesce(parent, schedule) = $19"
        )
    };
}

pub(super) const LIST: &str = concat!(
    "select x.*, x.tags::text as tags_text, f.name as function from (
  (select run_id, fn, dep, key, generation, status, created_at, null::timestamptz as ended_at,
          attention, custom_status, tags, parent, schedule, fingerprint
     from run_active where ",
    live!(),
    ")
  union all
  (select run_id, fn, dep, key, generation, status, created_at,
          coalesce(was_ended_at, ended_at), null, custom_status, tags, parent, schedule, fingerprint
     from run_done where ",
    ended!(),
    ")) x
  join functions f on f.id = x.fn order by x.run_id desc limit $14"
);

/// How many a list would have, at most so many of each half.
pub(super) const COUNT: &str = concat!(
    "select count(*) from (
  (select run_id from run_active where ",
    live!(),
    ")
  union all
  (select run_id from run_done where ",
    ended!(),
    ")) x"
);

/// The run that is so many below the cursor, from the indexes alone.
pub(super) const BELOW: &str = concat!(
    "select run_id from (
  (select run_id from run_active where ",
    range!(),
    " order by run_id desc limit $5)
  union all
  (select run_id from run_done where ",
    range!(),
    " order by run_id desc limit $5)) x
  order by run_id desc offset $5 - 1 limit 1"
);

/// Functions by their names, and those that have a text in it.
pub(super) const NAMED: &str = "select id, name = any($2::text[]) as named,
       coalesce(strpos(lower(name), $3) > 0, false) as found from functions
 where ns = $1 and (name = any($2::text[]) or strpos(lower(name), $3) > 0)";

pub(super) const GET: &str = "select x.*, x.tags::text as tags_text, f.name as function from (
  select run_id, ns, fn, dep, key, generation, status, created_at, null::timestamptz as ended_at,
         attention, custom_status, tags, parent, schedule, fingerprint
    from run_active where shard = $1 and run_id = $2
  union all
  select run_id, ns, fn, dep, key, generation, status, created_at,
         coalesce(was_ended_at, ended_at), null, custom_status, tags, parent, schedule, fingerprint
    from run_done where shard = $1 and run_id = $2) x
  join functions f on f.id = x.fn where x.ns = $3";

pub(super) const LIVE_OF: &str =
    "select run_id from run_active where fn = any($1::int4[]) order by run_id limit $2";

pub(super) const RUN_OF_KEY: &str = "select run_id, status from run_keys
 where shard = $1 and ns = $2 and fn = $3 and key = $4";

pub(super) const KNOWS_IDEM: &str = "select exists (select from idem
 where shard = $1 and ns = $2 and key = $3 and expires_at > now())";

/// None where there is nothing to filter by.
fn given<T>(values: &[T]) -> Option<&[T]> {
    (!values.is_empty()).then_some(values)
}

fn listed(row: &PgRow) -> Result<ListedRun> {
    let tags: Option<&str> = row.try_get("tags_text")?;
    let tags = tags.map(serde_json::from_str).transpose();
    Ok(ListedRun {
        run: wire::run_id(row)?,
        function_id: row.try_get("fn")?,
        function: row.try_get("function")?,
        dep: row.try_get("dep")?,
        key: row.try_get("key")?,
        generation: row.try_get("generation")?,
        status: row.try_get("status")?,
        created_at: wire::at(row, "created_at")?,
        ended_at: wire::maybe_at(row, "ended_at")?,
        attention: wire::body(row, "attention")?,
        custom_status: wire::body(row, "custom_status")?,
        parent: row.try_get::<Option<uuid::Uuid>, _>("parent")?.map(RunId::from),
        schedule: row.try_get::<Option<uuid::Uuid>, _>("schedule")?.map(ScheduleId::from),
        fingerprint: row.try_get("fingerprint")?,
        tags: tags.map_err(|e| Error::corrupt(format!("tags: {e}")))?.unwrap_or_default(),
    })
}

/// A filter with what is looked up once for it.
struct Asked<'a> {
    filter: &'a RunFilter,
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
    const fn is_nobody(&self) -> bool {
        let f = self.filter;
        self.functions.is_empty() && !(f.functions.is_empty() && f.fingerprints.is_empty())
    }

    /// Whether no index helps.
    fn looks_at_all(&self) -> bool {
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
    /// A page of runs, newest first. For what no index has, it looks at so many runs only and says
    /// how far that was.
    pub async fn list_runs(&self, filter: &RunFilter) -> Result<RunsFound> {
        self.list_runs_by(filter, &LOOK).await
    }

    /// The same, where it looks at `windows` runs one after the other.
    pub(super) async fn list_runs_by(
        &self,
        filter: &RunFilter,
        windows: &[i64],
    ) -> Result<RunsFound> {
        let asked = self.asked(filter).await?;
        if asked.is_nobody() {
            return Ok(RunsFound::default());
        }
        if !asked.looks_at_all() {
            let runs = self.runs_between(&asked, filter.cursor, None, filter.limit).await?;
            return Ok(RunsFound { runs, looked_to: None });
        }
        let (mut runs, mut from) = (Vec::new(), filter.cursor);
        for window in windows {
            let to = self.run_below(filter, from, *window).await?;
            let room = filter.limit - i64::try_from(runs.len()).unwrap_or(i64::MAX);
            runs.extend(self.runs_between(&asked, from, to, room).await?);
            let full = i64::try_from(runs.len()).is_ok_and(|found| found >= filter.limit);
            if full || to.is_none() {
                return Ok(RunsFound { runs, looked_to: None });
            }
            from = to;
        }
        Ok(RunsFound { runs, looked_to: from })
    }

    async fn asked<'a>(&self, filter: &'a RunFilter) -> Result<Asked<'a>> {
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

    async fn run_below(
        &self,
        filter: &RunFilter,
        from: Option<RunId>,
        so_many: i64,
    ) -> Result<Option<RunId>> {
        let row = sqlx::query(BELOW)
            .bind(filter.ns)
            .bind(from.map_or(uuid::Uuid::max(), RunId::uuid))
            .bind(filter.started_after.map(Ts))
            .bind(filter.started_before.map(Ts))
            .bind(so_many)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(wire::run_id).transpose()
    }

    /// How many runs a list would have, counted to `filter.limit`, and for what no index has over so
    /// many runs only.
    pub async fn count_runs(&self, filter: &RunFilter) -> Result<RunCount> {
        let asked = self.asked(filter).await?;
        if asked.is_nobody() {
            return Ok(RunCount { count: 0, exact: true });
        }
        let to = if asked.looks_at_all() {
            self.run_below(filter, filter.cursor, LOOK.iter().sum()).await?
        } else {
            None
        };
        // One more tells whether there are more.
        let query = Self::bound(COUNT, &asked, filter.cursor, to, filter.limit.saturating_add(1));
        let found: i64 = query.fetch_one(&self.pool).await?.try_get(0)?;
        Ok(RunCount {
            count: found.min(filter.limit),
            exact: found <= filter.limit && to.is_none(),
        })
    }

    /// Runs below `from`, and not below `to`.
    async fn runs_between(
        &self,
        asked: &Asked<'_>,
        from: Option<RunId>,
        to: Option<RunId>,
        limit: i64,
    ) -> Result<Vec<ListedRun>> {
        let rows = Self::bound(LIST, asked, from, to, limit).fetch_all(&self.pool).await?;
        rows.iter().map(listed).collect()
    }

    /// A statement about the runs of a filter with all that it asks for.
    fn bound<'q>(
        sql: &'static str,
        asked: &'q Asked<'_>,
        from: Option<RunId>,
        to: Option<RunId>,
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
            .bind(from.map_or(uuid::Uuid::max(), RunId::uuid))
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
            .bind(to.map(RunId::uuid))
            .bind(&asked.q_functions)
            .bind(asked.q.as_deref().map(part_in_tags))
            .bind(filter.schedule.map(ScheduleId::uuid))
            .bind(given(&runs))
            .bind(given(&filter.fingerprints))
            .bind(given(&ranged))
            .bind(filter.ranges.iter().map(|r| r.range as i16).bind_iter())
            .bind(filter.ranges.iter().map(|r| r.number.as_deref()).bind_iter())
            .bind(filter.ranges.iter().map(|r| r.moment.as_deref()).bind_iter())
    }

    /// One run as lists show it, live or ended, if it is in this namespace.
    pub async fn get_run(&self, ns: i32, run: RunId) -> Result<Option<ListedRun>> {
        let row = sqlx::query(GET)
            .bind(run.shard().column())
            .bind(run.uuid())
            .bind(ns)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(listed).transpose()
    }

    /// Live runs of functions, oldest first.
    pub async fn live_runs_of(&self, functions: &[i32], limit: i64) -> Result<Vec<RunId>> {
        let rows = sqlx::query(LIVE_OF).bind(functions).bind(limit);
        rows.fetch_all(&self.pool).await?.iter().map(wire::run_id).collect()
    }

    /// Whether a request with this idempotency key was accepted.
    pub async fn knows_idem(&self, ns: i32, idem: &super::Idem) -> Result<bool> {
        let query = sqlx::query_scalar(KNOWS_IDEM).bind(idem.shard.column()).bind(ns);
        Ok(query.bind(idem.key.as_str()).fetch_one(&self.pool).await?)
    }

    /// Who has a run key, and how it ended (none: it lives).
    pub async fn run_of_key(
        &self,
        ns: i32,
        function: i32,
        shard: crate::machine::Shard,
        key: &str,
    ) -> Result<Option<(RunId, Option<i16>)>> {
        let row = sqlx::query(RUN_OF_KEY)
            .bind(shard.column())
            .bind(ns)
            .bind(function)
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok((wire::run_id(&row)?, row.try_get("status")?))).transpose()
    }
}
