//! Appends and accepts: what wins, what loses, and that nothing is done by halves.

use super::Accepted::{At, Gone, Repeat};
use super::*;
use crate::machine::{Attributes, HistoryEntry, LogLine, LogPart};

#[tokio::test]
async fn the_first_at_a_position_wins_and_the_loser_leaves_nothing() {
    let mut b = Bench::new().await;
    let run = b.start(5).await;
    let other = b.start(5).await;
    let at = b.now;
    assert!(b.append(run, vec![done(1, 1, "a", at), done(2, 2, "b", at)]).await);
    // A stale owner with a longer append from the same position, next to one that may win.
    let stale = sealed(run, vec![done(1, 1, "x", at), done(2, 2, "y", at), done(3, 3, "z", at)]);
    let fine = sealed(other, vec![done(1, 1, "a", at)]);
    assert_eq!(b.lane.append(&[stale, fine]).await, Ok(vec![false, true]));
    let loaded = b.load(run).await;
    assert_eq!(loaded.rows.iter().map(|r| r.step.as_str()).collect::<Vec<_>>(), ["", "a", "b"]);
    assert_eq!(loaded.rows[1].body.as_deref(), Some(&b"\"v\""[..]));
    assert_eq!(b.load(other).await.rows.len(), 2);
    b.clean().await;
}

#[tokio::test]
async fn both_statements_do_the_same_with_plain_rows() {
    let mut b = Bench::new().await;
    let (lean, full) = (b.start(1).await, b.start(2).await);
    let at = b.now;
    let rows = |b: &Bench| {
        vec![
            row(1, Kind::Asked, at).with(|r| {
                r.due = Some(at + Duration::from_secs(9));
                r.refer = Some(uuid(77));
                r.step = "s".to_owned();
                r.flags = Flags::of(OpKind::Callback);
                r.dep = b.dep;
                r.cp = 4;
            }),
            done(2, 1, "t", at),
        ]
    };
    assert!(b.append(lean, rows(&b)).await);
    assert_eq!(b.lane.append_full(&[sealed(full, rows(&b))]).await, Ok(vec![true]));
    let stored = b.load(lean).await.rows[1..].to_vec();
    assert_eq!(stored, rows(&b));
    assert_eq!(b.load(full).await.rows[1..], stored);
}

#[tokio::test]
async fn a_clash_behind_a_head_that_won_is_loud_and_tears_nothing() {
    let mut b = Bench::new().await;
    let run = b.start(3).await;
    let at = b.now;
    assert!(b.append(run, vec![done(2, 1, "gap", at)]).await, "a bug, planted");
    let rows = vec![done(1, 1, "a", at), done(2, 2, "b", at)];
    let error = b.lane.append(&[sealed(run, rows)]).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict { constraint, .. } if constraint.contains("journal")));
    assert!(error.blames_batch());
    assert_eq!(b.load(run).await.rows.len(), 2, "row 1 was taken back with the statement");
}

#[tokio::test]
async fn an_end_loses_to_a_message_that_it_has_not_seen_and_wins_when_it_was_drained() {
    let mut b = Bench::new().await;
    let run = b.start(9).await;
    let signal = b.signal(run);
    assert_eq!(b.lane.accept(std::slice::from_ref(&signal)).await, Ok(vec![Accepted::At(1)]));
    let at = b.now;
    assert!(!b.append(run, vec![end(1, 0, at)]).await, "drained 0 of 1");
    let loaded = b.load(run).await;
    assert_eq!((loaded.inbox, loaded.messages.len(), loaded.ended), (1, 1, None));
    assert_eq!(loaded.messages[0], Message { pos: 1, ..signal.message.clone() });

    let took = row(1, Kind::Arrived, at).with(|r| {
        r.step = "approved".to_owned();
        r.refer = Some(signal.message.id.uuid());
        r.pos = 1;
    });
    assert!(b.append(run, vec![took]).await);
    assert_eq!(b.load(run).await.messages, vec![]);
    let mut last = sealed(run, vec![end(2, 0, at)]);
    last.append.drained = 1;
    assert!(b.seal(last).await);
    let loaded = b.load(run).await;
    assert_eq!(loaded.ended, Some((100, at)));
    assert_eq!(loaded.rows.last().unwrap().body.as_deref(), Some(&b"42"[..]));
    assert_eq!(b.lane.accept(&[signal]).await, Ok(vec![Accepted::Gone]));
    assert_eq!(b.db.store.audit_idle().await, Ok(vec![]));
    b.clean().await;
}

#[tokio::test]
async fn a_terminate_ends_whatever_has_come_and_the_rest_is_buried_in_the_history() {
    let mut b = Bench::new().await;
    let run = b.start(9).await;
    let signal = b.signal(run);
    b.lane.accept(&[signal]).await.unwrap();
    let at = b.now;
    let kind = row(1, Kind::Terminated, at).flagged(Flags::GATED);
    let mut last = sealed(run, vec![kind]);
    last.append.drained = -1;
    assert!(b.seal(last).await);
    assert_eq!(b.db.store.inbox_heads(&[0], 10).await, Ok(vec![run]));
    let live = b.start(9).await;
    let to_live = b.signal(live);
    b.lane.accept(&[to_live]).await.unwrap();
    assert_eq!(b.db.store.bury(&[run, live]).await, Ok(1), "a live run's inbox is left alone");
    let history = b.db.store.history(run, 10).await.unwrap();
    assert_eq!(history[0].what, "message.untaken");
    let data: serde_json::Value = serde_json::from_slice(&history[0].data).unwrap();
    assert_eq!(data["name"], "approved");
    assert_eq!(b.db.store.inbox_heads(&[0], 10).await, Ok(vec![live]));
}

#[tokio::test]
async fn parking_waking_and_closing_are_rows() {
    let mut b = Bench::new().await;
    let run = b.start(16).await;
    let (at, due) = (b.now, b.now + Duration::from_hours(1));
    assert_eq!(b.db.store.hot_runs(&[0, 1], None, 10).await, Ok(vec![run]));
    let park = row(1, Kind::Waits, at).flagged(Flags::PARK).with(|r| r.due = Some(due));
    assert!(b.append(run, vec![park]).await);
    assert_eq!(b.load(run).await.parked, Some(due));
    assert_eq!(b.db.store.hot_runs(&[1], None, 10).await, Ok(vec![]));
    assert_eq!(b.db.store.parked(&[1], due, None, 10).await, Ok(vec![(run, due)]));
    assert_eq!(b.db.store.parked(&[1], due, Some((due, run)), 10).await, Ok(vec![]));
    assert_eq!(b.db.store.parked(&[1], at, None, 10).await, Ok(vec![]));

    // The last flag of an append counts; for ever is infinity.
    let hot = row(2, Kind::Fault, at).flagged(Flags::HOT);
    let park = row(3, Kind::Waits, at).flagged(Flags::PARK);
    assert!(b.append(run, vec![hot, park]).await);
    assert_eq!(b.load(run).await.parked, Some(Timestamp::from_micros(i64::MAX)));

    let closing = row(4, Kind::Claimed, at).flagged(Flags::HOT | Flags::CLOSING);
    assert!(b.append(run, vec![closing]).await);
    let loaded = b.load(run).await;
    assert_eq!((loaded.parked, loaded.closing), (None, true));
    let signal = b.signal(run);
    assert_eq!(b.lane.accept(std::slice::from_ref(&signal)).await, Ok(vec![Accepted::Closing]));
    assert!(b.append(run, vec![row(5, Kind::Fault, at).flagged(Flags::HOT)]).await);
    assert_eq!(b.lane.accept(&[signal]).await, Ok(vec![Accepted::At(1)]));
    b.clean().await;
}

#[tokio::test]
async fn attributes_logs_and_history_come_with_the_rows_that_won_only() {
    let mut b = Bench::new().await;
    let run = b.start(4).await;
    let at = b.now;
    let with = |rows, status: &'static [u8]| {
        let mut s = sealed(run, rows);
        s.append.attributes = Some(Attributes {
            tags: r#"{"customer":"c7"}"#.to_owned(),
            custom_status: Some(Bytes::from_static(status)),
        });
        s.append.logs = vec![LogLine {
            stream: None,
            at,
            level: "info".to_owned(),
            message: "packed".to_owned(),
            fields: Some(Bytes::from_static(b"{\"n\":1}")),
        }];
        s.append.history = vec![HistoryEntry {
            at,
            epoch: 1,
            what: "invocation.failed".to_owned(),
            by: "gateway".to_owned(),
            data: Bytes::from_static(b"{}"),
        }];
        s
    };
    assert!(b.seal(with(vec![done(1, 1, "a", at)], b"\"packing\"")).await);
    assert!(!b.seal(with(vec![done(1, 1, "b", at)], b"\"stale\"")).await);
    let listed = b.db.store.get_run(NS, run).await.unwrap().unwrap();
    assert_eq!(listed.custom_status.as_deref(), Some(&b"\"packing\""[..]));
    assert_eq!(listed.tags["customer"], "c7");
    let logs = b.db.store.logs(run, LogPart::All, None, 10).await.unwrap();
    assert_eq!(logs.len(), 1);
    assert_eq!(logs[0].line.fields.as_deref(), Some(&b"{\"n\":1}"[..]));
    assert_eq!(b.db.store.logs(run, LogPart::All, Some((at, logs[0].k)), 10).await, Ok(vec![]));
    assert_eq!(b.db.store.history(run, 10).await.unwrap().len(), 1);

    // With the end they go to the ended run; where it says nothing, they stay.
    let mut last = with(vec![done(2, 2, "b", at), end(3, 2, at)], b"\"done\"");
    last.append.rows[0].flags.set(Flags::GATED);
    assert!(b.seal(last).await);
    let listed = b.db.store.get_run(NS, run).await.unwrap().unwrap();
    assert_eq!((listed.status, listed.ended_at), (100, Some(at)));
    assert_eq!(listed.custom_status.as_deref(), Some(&b"\"done\""[..]));
    assert_eq!(listed.tags["customer"], "c7");
    b.clean().await;
}

#[tokio::test]
async fn messages_keep_their_order_and_count_once() {
    let mut b = Bench::new().await;
    let (one, two, unknown) = (b.start(7).await, b.start(8).await, b.run_id(7));
    let batch: Vec<Accept> =
        [one, two, one, unknown, one].into_iter().map(|run| b.signal(run)).collect();
    let told = b.lane.accept(&batch).await.unwrap();
    assert_eq!(told, [At(1), At(1), At(2), Gone, At(3)]);
    assert_eq!(
        b.lane.accept(&batch[..3]).await,
        Ok(vec![Repeat, Repeat, Repeat]),
        "a lost connection's repeat"
    );
    let loaded = b.load(one).await;
    assert_eq!(loaded.inbox, 3, "repeats are not counted");
    let ids: Vec<_> = loaded.messages.iter().map(|m| m.id).collect();
    assert_eq!(ids, [batch[0].message.id, batch[2].message.id, batch[4].message.id]);
    let of_both = b.db.store.messages(&[one, two]).await.unwrap();
    assert_eq!(of_both.len(), 4);

    let fresh = b.signal(one);
    assert_eq!(b.lane.accept(&[batch[0].clone(), fresh]).await, Ok(vec![Repeat, At(5)]));
    b.db.store.discard(&[(one, 1), (one, 2), (one, 3)]).await.unwrap();
    assert_eq!(b.load(one).await.messages.len(), 1);
    let foreign = Accept { ns: 2, ..b.signal(two) };
    assert_eq!(b.lane.accept(&[foreign]).await, Ok(vec![Gone]), "another namespace's run");
    b.clean().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_message() {
    let mut b = Bench::new().await;
    let run = b.start(7).await;
    let idem = |hash: u8, expires_at| Idem {
        shard: Shard(7),
        key: "POST /v1/runs/x/signals/approved k1".to_owned(),
        hash: [hash; 32],
        expires_at,
    };
    let later = b.now + Duration::from_hours(1);
    let first = Accept { idem: Some(idem(1, later)), ..b.signal(run) };
    let again = Accept { idem: Some(idem(1, later)), ..b.signal(run) };
    let other = Accept { idem: Some(idem(2, later)), ..b.signal(run) };
    assert_eq!(b.lane.accept(std::slice::from_ref(&first)).await, Ok(vec![Accepted::At(1)]));
    let same = Accepted::IdemSame(first.message.id);
    assert_eq!(b.lane.accept(&[again]).await, Ok(vec![same]));
    assert_eq!(b.lane.accept(&[other]).await, Ok(vec![Accepted::IdemReused]));
    assert_eq!(b.lane.accept(&[first]).await, Ok(vec![Accepted::Repeat]));
    b.tick(Duration::from_hours(2));
    let expired = Accept { idem: Some(idem(2, b.now)), ..b.signal(run) };
    assert_eq!(b.lane.accept(&[expired]).await, Ok(vec![Accepted::At(2)]), "the key has expired");
    b.clean().await;
}

#[tokio::test]
async fn a_poison_row_is_told_from_a_lost_connection() {
    let mut b = Bench::new().await;
    let (good, bad) = (b.start(1).await, b.start(2).await);
    let at = b.now;
    let poison = sealed(bad, vec![done(1, 1, "a\0b", at)]);
    let fine = sealed(good, vec![done(1, 1, "a", at)]);
    let error = b.lane.append(&[fine.clone(), poison.clone()]).await.unwrap_err();
    assert!(error.blames_batch() && !error.is_transient(), "{error}");
    assert_eq!(b.lane.append(&[fine]).await, Ok(vec![true]), "the lane goes on");
    assert!(b.lane.append(&[poison]).await.unwrap_err().blames_batch());

    let far = b.now + Duration::from_hours(24 * 365);
    let no_week = RunId::on_shard(far, Shard(1), 5);
    let error = b.lane.append(&[sealed(no_week, vec![done(1, 1, "a", far)])]).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "no partition: {error}");

    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
                  where application_name = 'stepwell lane' and datname = current_database()",
    )
    .execute(&b.db.store.pool)
    .await
    .unwrap();
    let next = sealed(good, vec![done(2, 2, "b", at)]);
    let error = b.lane.append(std::slice::from_ref(&next)).await.unwrap_err();
    assert!(error.is_unavailable() && !error.blames_batch(), "{error}");
    b.lane = b.db.store.lane().await.unwrap();
    assert_eq!(b.lane.append(std::slice::from_ref(&next)).await, Ok(vec![true]));
    // The answer to that was lost: the same again loses, and to itself.
    assert_eq!(b.lane.append(std::slice::from_ref(&next)).await, Ok(vec![false]));
    assert_eq!(b.lane.is_recorded(&next).await, Ok(true));
    let mut others = next.clone();
    others.append.rows[0].epoch += 1;
    assert_eq!(b.lane.is_recorded(&others).await, Ok(false), "another owner wrote that");
    let ahead = sealed(good, vec![done(3, 3, "c", at)]);
    assert_eq!(b.lane.is_recorded(&ahead).await, Ok(false));
}

#[tokio::test]
async fn a_lock_that_is_held_makes_a_lane_busy_not_stuck() {
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let mut tx = b.db.store.pool.begin().await.unwrap();
    sqlx::query("select from run_active for update").execute(&mut *tx).await.unwrap();
    let signal = b.signal(run);
    let error = b.lane.accept(std::slice::from_ref(&signal)).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.is_transient(), "{error}");
    tx.rollback().await.unwrap();
    assert_eq!(b.lane.accept(&[signal]).await, Ok(vec![Accepted::At(1)]));
}

/// Until a lane waits for a lock.
async fn somebody_waits(b: &Bench) {
    let waiting = "select count(*) from pg_stat_activity
        where application_name = 'stepwell lane' and wait_event_type = 'Lock'
          and datname = current_database()";
    while number(b, waiting).await == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_end_that_waited_for_an_accept_sees_its_message() {
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let mut tx = b.db.store.pool.begin().await.unwrap();
    sqlx::query("update run_active set inbox = 1").execute(&mut *tx).await.unwrap();
    let mut lane = b.db.store.lane().await.unwrap();
    let last = sealed(run, vec![end(1, 0, b.now)]);
    let ending = tokio::spawn(async move { lane.append(&[last]).await });
    somebody_waits(&b).await;
    tx.commit().await.unwrap();
    assert_eq!(ending.await.unwrap(), Ok(vec![false]));
}

#[tokio::test]
async fn an_end_that_waited_for_a_projection_wins() {
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let mut tx = b.db.store.pool.begin().await.unwrap();
    sqlx::query("update run_active set status = 3").execute(&mut *tx).await.unwrap();
    let mut lane = b.db.store.lane().await.unwrap();
    let last = sealed(run, vec![end(1, 0, b.now)]);
    let ending = tokio::spawn(async move { lane.append(&[last]).await });
    somebody_waits(&b).await;
    tx.commit().await.unwrap();
    assert_eq!(ending.await.unwrap(), Ok(vec![true]));
    assert_eq!(b.load(run).await.ended.map(|e| e.0), Some(100));
    b.clean().await;
}

#[tokio::test]
async fn an_accept_that_waited_for_another_comes_after_it() {
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let mut tx = b.db.store.pool.begin().await.unwrap();
    sqlx::query("update run_active set inbox = 1").execute(&mut *tx).await.unwrap();
    let mut lane = b.db.store.lane().await.unwrap();
    let signal = b.signal(run);
    let accepting = tokio::spawn(async move { lane.accept(&[signal]).await });
    somebody_waits(&b).await;
    tx.commit().await.unwrap();
    assert_eq!(accepting.await.unwrap(), Ok(vec![At(2)]));
    assert_eq!(b.load(run).await.inbox, 2);
}

/// An accept and an end race for the same run: either the message is in the inbox and the end
/// lost, or the end won and the message was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_never_lost_between_accept_and_end() {
    let mut b = Bench::new().await;
    let mut other = b.db.store.lane().await.unwrap();
    let (mut ended, mut kept) = (0, 0);
    for i in 0..100 {
        let run = b.start(i).await;
        let signal = b.signal(run);
        let last = sealed(run, vec![end(1, 0, b.now)]);
        let last = [last];
        let signal = [signal];
        let (won, told) = tokio::join!(b.lane.append(&last), other.accept(&signal));
        match (won.unwrap()[0], told.unwrap()[0]) {
            (true, Accepted::Gone) => ended += 1,
            (false, Accepted::At(1)) => kept += 1,
            unexpected => panic!("round {i}: {unexpected:?}"),
        }
    }
    assert_eq!(ended + kept, 100);
    b.clean().await;
}
