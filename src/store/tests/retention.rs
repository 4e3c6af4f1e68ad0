//! Weeks come and go, what lives stays; and the audit sees what is planted.

use sqlx::{AssertSqlSafe, Row as _};

use super::*;

const WEEK: Duration = Duration::from_hours(7 * 24);

#[tokio::test]
async fn partitions_are_made_ahead_once() {
    let b = Bench::new().await;
    assert_eq!(b.db.store.ensure_partitions(b.now).await, Ok(0), "the migration made them");
    assert_eq!(b.db.store.ensure_partitions(b.now + WEEK).await, Ok(4), "one week of each table");
}

#[tokio::test]
async fn a_week_is_dropped_and_its_survivors_are_carried_over() {
    let mut b = Bench::new().await;
    let store = b.db.store.clone();
    let present = b.now;
    b.now = present - WEEK;
    let (live, ended, late) = (b.start(3).await, b.start(600).await, b.start(4000).await);
    let old = b.now;
    let rows = vec![done(1, 1, "a", old)];
    for run in [live, ended, late] {
        assert!(b.append(run, rows.clone()).await);
    }
    assert!(b.append(ended, vec![end(2, 1, old)]).await);
    b.now = present;
    assert!(b.append(late, vec![end(2, 1, present)]).await);

    let none = store.drop_partitions(present - WEEK, present).await.unwrap();
    assert_eq!(none.partitions, Vec::<String>::new(), "the week has not passed");
    let dropped = store.drop_partitions(present, present).await.unwrap();
    assert_eq!(dropped.moved, 2, "{dropped:?}");
    assert_eq!(dropped.partitions.len(), 4, "{dropped:?}");

    assert_eq!(store.load(&[ended]).await, Ok(vec![]), "gone with its week");
    let loaded = b.load(live).await;
    assert_eq!(loaded.home, 1);
    let kinds: Vec<_> = loaded.rows.iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [Kind::Created, Kind::Done, Kind::Moved]);
    assert_eq!(loaded.rows[1].body.as_deref(), Some(&b"\"v\""[..]));
    let loaded = b.load(late).await;
    assert_eq!((loaded.home, loaded.rows.len(), loaded.ended), (1, 3, Some((100, present))));
    b.clean().await;

    // The run goes on in its new home, next to one in the old one.
    let other = b.start(5).await;
    let mut next = sealed(live, vec![done(3, 2, "b", present)]);
    next.home = 1;
    let batch = [next.clone(), sealed(other, vec![done(1, 1, "a", present)])];
    assert_eq!(b.lane.append(&batch).await, Ok(vec![true, true]));
    assert_eq!(b.lane.append(&[next]).await, Ok(vec![false]));
    let mut last = sealed(live, vec![end(4, 2, present)]);
    last.home = 1;
    assert!(b.seal(last).await);
    assert_eq!(store.journal_page(live, 1, 0, 0, 10).await.unwrap().len(), 2);
    b.clean().await;

    // With the week of its end it is gone from there too.
    let later = present + WEEK + WEEK;
    store.ensure_partitions(later).await.unwrap();
    store.drop_partitions(later, later).await.unwrap();
    assert_eq!(store.load(&[live, late]).await, Ok(vec![]));
    assert_eq!(number(&b, "select count(distinct run_id) from journal_long").await, 1);
    assert_eq!(b.load(other).await.home, 1, "this one still lives");
}

#[tokio::test]
async fn an_owner_that_did_not_hear_of_the_move_loses() {
    let mut b = Bench::new().await;
    let present = b.now;
    b.now = present - WEEK;
    let run = b.start(3).await;
    b.db.store.drop_partitions(present, present).await.unwrap();
    // Its week is gone: the append is refused, loudly, and so does not win.
    let stale = sealed(run, vec![done(1, 1, "a", present)]);
    assert!(b.lane.append(&[stale]).await.is_err());
    let home = |run, home| Sealed { home, ..sealed(run, vec![done(1, 1, "a", present)]) };
    assert_eq!(b.lane.append(&[home(run, 1)]).await, Ok(vec![false]), "`moved` has the position");
}

#[tokio::test]
async fn keys_that_have_served_are_trimmed() {
    let mut b = Bench::new().await;
    let mut starts = Vec::new();
    for key in ["ended", "live"] {
        let mut new = b.new_run(1);
        new.key = Some(NewKey { key: key.to_owned(), if_closed: IfClosed::Allow });
        let expires_at = b.now + Duration::from_secs(1);
        new.idem = Some(Idem { shard: Shard(1), key: key.to_owned(), hash: [1; 32], expires_at });
        starts.push(new);
    }
    b.lane.create(&starts).await.unwrap();
    let at = b.now;
    assert!(b.append(starts[0].run, vec![end(1, 0, at)]).await);
    let later = b.now + Duration::from_hours(1);
    let done = b.db.store.drop_partitions(later, later).await.unwrap();
    assert_eq!(done.rows, 2, "{done:?}");
    assert_eq!(number(&b, "select count(*) from idem where key = 'live'").await, 1);
    assert_eq!(number(&b, "select count(*) from run_keys where key = 'live'").await, 1);
}

/// A control of the audit itself: each planted fault is found by its rule, and by no other test's
/// luck.
#[tokio::test]
async fn the_audit_finds_what_is_planted() {
    let faults: [(&str, &'static str); 12] = [
        ("the log is dense", "delete from journal where n = 1"),
        ("a run is on the shard of its id", "update journal set shard = 9"),
        ("epochs never fall", "update journal set epoch = 0 where n = 2"),
        ("epochs never fall", "update journal set seq = 1 where n = 2"),
        ("a step settles once", "update journal set step = 'a'"),
        (
            "a message is used once",
            "update journal set ref = gen_random_uuid() where n = 1; \
          update journal set ref = (select ref from journal where n = 1) where n = 2",
        ),
        ("an end is last", "update journal set kind = 100 where n = 1"),
        ("a run in the journal is live or ended", "delete from run_active"),
        ("a live run has a journal", "delete from journal"),
        (
            "positions in the inbox",
            "insert into inbox select run_id, gen_random_uuid(), now(), 9, 1, shard, 1, 'x', null from run_active",
        ),
        (
            "messages in the journal were counted",
            "update journal set ref = gen_random_uuid() where n = 2",
        ),
        ("a live run holds its key", "update run_active set key = 'k'"),
    ];
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let at = b.now;
    assert!(b.append(run, vec![done(1, 1, "a", at), done(2, 2, "b", at)]).await);
    b.clean().await;
    for (rule, fault) in faults {
        sqlx::raw_sql(
            "create table if not exists kept_j as table journal;
                       create table if not exists kept_a as table run_active",
        )
        .execute(&b.db.store.pool)
        .await
        .unwrap();
        sqlx::raw_sql(fault).execute(&b.db.store.pool).await.unwrap();
        let found = b.db.store.audit().await.unwrap();
        assert!(found.iter().any(|f| f.rule.starts_with(rule)), "{rule}: {fault}: {found:?}");
        sqlx::raw_sql(
            "delete from journal; delete from run_active; delete from inbox;
                       insert into journal select * from kept_j;
                       insert into run_active select * from kept_a",
        )
        .execute(&b.db.store.pool)
        .await
        .unwrap();
        b.clean().await;
    }
    let signal = b.signal(run);
    b.lane.accept(&[signal]).await.unwrap();
    assert_eq!(b.db.store.audit_idle().await.unwrap().len(), 1);
}

#[tokio::test]
async fn expired_runs_go_once_and_whole_and_those_that_changed_stay() {
    let mut b = Bench::new().await;
    let store = b.db.store.clone();
    let mut runs = Vec::new();
    for shard in 0..250 {
        let run = b.start(shard * 16).await;
        let at = b.now;
        assert!(b.append(run, vec![done(1, 1, "a", at), end(2, 1, at)]).await);
        runs.push(run);
    }
    let live = b.start(9).await;
    let later = b.now + Duration::from_secs(1);
    let none = (Timestamp::from_micros(0), RunId::floor(Timestamp::from_micros(0)));
    let found = store.ended_runs(NS, none, later).await.unwrap();
    assert_eq!(found.iter().map(|r| r.run).collect::<Vec<_>>(), runs);
    let page = store.ended_runs(NS, (found[247].ended_at, runs[247]), later).await;
    assert_eq!(page.unwrap(), found[248..]);
    let page = store.ended_runs(NS, none, found[4].ended_at).await;
    assert!(page.unwrap().iter().all(|run| run.ended_at < found[4].ended_at));
    assert_eq!(store.ended_runs(NS + 1, none, later).await, Ok(vec![]));

    // Of another namespace; rewound and ended again since it was found; telling of its end.
    assert_eq!(store.expire_runs(NS + 1, &found).await, Ok(Expired::default()));
    let mut page = found.clone();
    page[3].ended_at = page[3].ended_at - Duration::from_millis(1);
    sqlx::query(
        "insert into outbox (run_id, at, n, ns, k, shard, kind) values ($1, now(), 2, 1, 0, $2, 9)",
    )
    .bind(runs[7].uuid())
    .bind(runs[7].shard().column())
    .execute(&store.pool)
    .await
    .unwrap();
    // Two nodes at once, each of which believes that it is to do it.
    let (one, two) = tokio::join!(store.expire_runs(NS, &page), store.expire_runs(NS, &page));
    assert_eq!(one.unwrap().gone + two.unwrap().gone, 248);
    // Of those that stay, the one that has others to tell is as it was found.
    let left = Expired { gone: 0, left: vec![found[7]] };
    assert_eq!(store.expire_runs(NS, &page).await, Ok(left));
    let kept = store.ended_runs(NS, none, later).await.unwrap();
    assert_eq!(kept, [found[3], found[7]]);
    assert_eq!(number(&b, "select count(distinct run_id) from journal").await, 3);
    assert_eq!(b.load(live).await.rows.len(), 1);
    b.clean().await;
}

#[tokio::test]
async fn a_page_of_ends_is_read_by_their_index_from_its_week_on() {
    let b = Bench::new().await;
    let mut conn = b.db.store.pool.acquire().await.unwrap();
    let all = format!(
        "set enable_seqscan = off; set plan_cache_mode = force_generic_plan; prepare p as {};
         explain (analyze, costs off, timing off, summary off)
         execute p(1, now(), '00000000-0000-0000-0000-000000000000', now() + interval '1 day', 500)",
        expiry::ENDED
    );
    let lines = sqlx::raw_sql(AssertSqlSafe(all)).fetch_all(&mut *conn).await.unwrap();
    sqlx::raw_sql("deallocate p; reset enable_seqscan; reset plan_cache_mode")
        .execute(&mut *conn)
        .await
        .unwrap();
    let plan = lines.iter().map(|l| l.get::<String, _>(0)).collect::<Vec<_>>().join("\n");
    assert!(plan.contains("_ns_ended_at_run_id_idx") && plan.contains("Append"), "{plan}");
    assert!(!plan.contains("Sort") && !plan.contains("Merge Append"), "{plan}");
    assert!(plan.contains("Subplans Removed"), "the weeks before are left out: {plan}");
}
