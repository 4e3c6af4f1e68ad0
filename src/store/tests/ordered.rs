//! Lists in each of their orders: by starts and by ends, from either side.

use sqlx::{AssertSqlSafe, Row as _};

use super::*;

/// Runs of which some live and the others ended, in another order than they were started, over three
/// weeks and several at one moment: their ids, with their ends.
async fn some(b: &mut Bench) -> Vec<(RunId, Option<Timestamp>)> {
    let mut all = Vec::new();
    for i in 0..24 {
        let name = if i % 7 == 0 { "c7" } else { "c8" };
        let tags = Some(format!(r#"{{"customer":"{name}"}}"#));
        let new = NewRun { tags, ..b.new_run(i * 5) };
        all.push((new.run, None));
        b.lane.create(&[new]).await.unwrap();
    }
    for i in (0..all.len()).filter(|i| i % 4 != 3) {
        let i = i * 7 % all.len();
        if all[i].1.is_none() && i % 4 != 3 {
            let at = b.now;
            assert!(b.append(all[i].0, vec![end(1, 0, at)]).await);
            all[i].1 = Some(at);
        }
        if i % 3 == 0 {
            b.tick(Duration::from_hours(30));
        }
    }
    all
}

/// What a list has in this order.
fn ordered(all: &[(RunId, Option<Timestamp>)], sort: RunSort) -> Vec<RunId> {
    let mut all: Vec<_> = all.iter().filter(|run| !sort.by_end() || run.1.is_some()).collect();
    all.sort_by_key(|(run, ended)| if sort.by_end() { (*ended, *run) } else { (None, *run) });
    if matches!(sort, RunSort::Newest | RunSort::LastEnded) {
        all.reverse();
    }
    all.into_iter().map(|run| run.0).collect()
}

const ALL: [RunSort; 4] =
    [RunSort::Newest, RunSort::Oldest, RunSort::LastEnded, RunSort::FirstEnded];

#[tokio::test]
async fn pages_follow_each_other_in_each_order() {
    let mut b = Bench::new().await;
    let all = some(&mut b).await;
    let moments: Vec<Timestamp> = all.iter().filter_map(|run| run.1).collect();
    let distinct: std::collections::BTreeSet<_> = moments.iter().collect();
    assert!(distinct.len() < moments.len(), "some ended at one moment");
    for sort in ALL {
        for (windows, tags) in [(None, 0), (Some([4_i64, 3]), 2)] {
            let tags =
                ["c7", "c8"][..tags].iter().map(|v| ("customer".to_owned(), (*v).to_owned()));
            let tags: Vec<_> = tags.collect();
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let tags = tags.clone();
                let page = RunFilter { ns: NS, tags, sort, cursor, limit: 5, ..Default::default() };
                let found = match windows {
                    Some(windows) => b.db.store.list_runs_by(&page, &windows).await.unwrap(),
                    None => b.db.store.list_runs(&page).await.unwrap(),
                };
                let last = found.runs.last().map(|r| sort.place(r.run, r.ended_at));
                cursor = if found.runs.len() == 5 { last } else { found.looked_to };
                seen.extend(found.runs.iter().map(|r| r.run));
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, ordered(&all, sort), "{sort} {windows:?}");
        }
    }
    b.clean().await;
}

#[tokio::test]
async fn moments_of_ends_leave_live_runs_out() {
    let mut b = Bench::new().await;
    let all = some(&mut b).await;
    let mut ends: Vec<Timestamp> = all.iter().filter_map(|run| run.1).collect();
    ends.sort();
    let (after, before) = (ends[4], ends[9]);
    for sort in ALL {
        for (ended_after, ended_before) in
            [(Some(after), None), (None, Some(before)), (Some(after), Some(before))]
        {
            let within = |at: Timestamp| {
                ended_after.is_none_or(|a| at >= a) && ended_before.is_none_or(|b| at < b)
            };
            let some: Vec<_> =
                all.iter().filter(|run| run.1.is_some_and(within)).copied().collect();
            let filter = RunFilter {
                ns: NS,
                ended_after,
                ended_before,
                sort,
                limit: 50,
                ..Default::default()
            };
            let found = b.db.store.list_runs(&filter).await.unwrap().runs;
            let found: Vec<RunId> = found.into_iter().map(|r| r.run).collect();
            assert_eq!(found, ordered(&some, sort), "{sort}");
            let count = b.db.store.count_runs(&filter).await.unwrap();
            assert_eq!(
                (count.count, count.exact),
                (i64::try_from(some.len()).unwrap(), true),
                "{sort}"
            );
        }
        let filter = RunFilter { ns: NS, sort, limit: 50, ..Default::default() };
        let count = b.db.store.count_runs(&filter).await.unwrap();
        let expected = i64::try_from(ordered(&all, sort).len()).unwrap();
        assert_eq!(count.count, expected, "{sort}");
    }
    b.clean().await;
}

/// The plan of a list as it is made for its values.
async fn plan(b: &Bench, sql: &str) -> String {
    let (from, end) = if sql == lists::LIST_LAST_ENDED {
        ("'ffffffff-ffff-ffff-ffff-ffffffffffff'", "'infinity'")
    } else {
        ("'00000000-0000-0000-0000-000000000000'", "'-infinity'")
    };
    let mut conn = b.db.store.pool.acquire().await.unwrap();
    let values: Vec<&str> = (1..=29)
        .map(|n| match n {
            1 => "1",
            2 => from,
            14 => "50",
            28 => end,
            _ => "null",
        })
        .collect();
    let all = format!(
        "set enable_seqscan = off; prepare p as {sql}; explain execute p({})",
        values.join(",")
    );
    let lines = sqlx::raw_sql(AssertSqlSafe(all)).fetch_all(&mut *conn).await.unwrap();
    sqlx::raw_sql("deallocate p; reset enable_seqscan").execute(&mut *conn).await.unwrap();
    lines.iter().map(|l| l.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn ends_are_read_in_order_week_by_week() {
    let b = Bench::new().await;
    for sql in [lists::LIST_LAST_ENDED, lists::LIST_FIRST_ENDED] {
        let plan = plan(&b, sql).await;
        assert!(plan.contains("_ns_ended_at_run_id_idx"), "{plan}");
        assert!(!plan.contains("Merge Append") && plan.contains("Append"), "{plan}");
        // What is sorted is a page, if anything: never all that has ended.
        let sorted =
            plan.find("Sort Key").is_some_and(|at| plan.find("Limit").is_none_or(|l| l > at));
        assert!(!sorted, "{plan}");
    }
}
