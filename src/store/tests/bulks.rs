//! Acts on many runs, as rows: who has a page, and who counts it.

use super::*;

fn new(b: &Bench) -> BulkRow {
    BulkRow {
        id: BulkId::on_shard(b.now, Shard(3), 1),
        ns: NS,
        status: BulkStatus::Running,
        action: "pause".to_owned(),
        rate: 10,
        created_by: "ann".to_owned(),
        ended_by: None,
        created_at: b.now,
        updated_at: b.now,
        ended_at: None,
        before: b.now,
        claim: 0,
        cursor: None,
        page: None,
        page_to: None,
        expected: RunCount { count: 2, exact: true },
        counts: BulkCounts::default(),
        request_key: Some("k".to_owned()),
        request_hash: [7; 32],
        spec: Bytes::from_static(b"{}"),
        reasons: Bytes::from_static(b"[]"),
    }
}

#[tokio::test]
async fn only_the_last_claim_of_a_page_counts_it() {
    let mut b = Bench::new().await;
    let (one, two) = (b.start(1).await, b.start(2).await);
    let row = new(&b);
    let store = b.db.store.clone();
    assert!(store.create_bulk(&row).await.unwrap());
    // The same request again makes nothing.
    let again = BulkRow { id: BulkId::on_shard(b.now, Shard(4), 2), ..row.clone() };
    assert!(!store.create_bulk(&again).await.unwrap());
    assert_eq!(store.bulk_of_request(NS, "k").await.unwrap().unwrap().id, row.id);
    let later = b.now + Duration::from_secs(5);
    let slow = store.claim_bulk(row.id, b.now, later).await.unwrap().unwrap();
    assert_eq!(slow.page, None);
    assert_eq!(store.claim_bulk(row.id, b.now, later).await.unwrap(), None);
    assert!(store.plan_bulk(&slow, &[two, one], Some(one)).await.unwrap());
    // Nothing is heard of who has it: another is at the same page.
    let next = later + Duration::from_secs(5);
    let quick = store.claim_bulk(row.id, later, next).await.unwrap().unwrap();
    assert_eq!((quick.page.clone(), quick.page_to), (Some(vec![two, one]), Some(one)));
    assert!(!store.plan_bulk(&slow, &[one], None).await.unwrap());
    let page = BulkCounts { matched: 2, done: 1, skipped: 1, failed: 0 };
    assert!(!store.count_bulk(&slow, later, &page, b"[1]", next).await.unwrap());
    assert!(store.count_bulk(&quick, later, &page, b"[2]", next).await.unwrap());
    let stands = store.bulk(NS, row.id).await.unwrap().unwrap();
    assert_eq!((stands.counts, stands.cursor, stands.page), (page, Some(one), None));
    assert_eq!(&stands.reasons[..], b"[2]");
    // One that is aborted while a page is under way counts that page, and stays aborted.
    let last =
        store.claim_bulk(row.id, next, next + Duration::from_secs(5)).await.unwrap().unwrap();
    assert!(store.plan_bulk(&last, &[one], None).await.unwrap());
    assert!(store.abort_bulk(NS, row.id, "bob", next).await.unwrap());
    assert!(!store.abort_bulk(NS, row.id, "bob", next).await.unwrap());
    assert!(store.count_bulk(&last, next, &page, b"[2]", next).await.unwrap());
    let stands = store.bulk(NS, row.id).await.unwrap().unwrap();
    assert_eq!((stands.status, stands.counts.matched), (BulkStatus::Aborted, 4));
    assert_eq!((stands.ended_by.as_deref(), stands.ended_at), (Some("bob"), Some(next)));
    let far = next + Duration::from_hours(1);
    assert_eq!(store.claim_bulk(row.id, far, far).await.unwrap(), None);
    assert_eq!(store.due_bulks(&[0], far, far, 9).await.unwrap(), vec![]);
    assert_eq!(store.bulk(NS + 1, row.id).await.unwrap(), None);
}

#[tokio::test]
async fn nothing_is_left_of_a_run_that_is_purged() {
    let mut b = Bench::new().await;
    let (live, ended) = (b.start(1).await, b.start(2).await);
    let at = b.now;
    assert!(b.append(ended, vec![end(1, 0, at)]).await);
    let store = b.db.store.clone();
    assert_eq!(store.purge(NS, live).await.unwrap(), Purged::NotEnded);
    assert_eq!(store.purge(NS + 1, ended).await.unwrap(), Purged::NotEnded);
    assert_eq!(store.purge(NS, ended).await.unwrap(), Purged::Done);
    assert_eq!(store.purge(NS, ended).await.unwrap(), Purged::NotEnded);
    for sql in [
        "select count(*) from journal where shard = 2",
        "select count(*) from history where shard = 2",
        "select count(*) from run_done",
    ] {
        assert_eq!(number(&b, sql).await, 0, "{sql}");
    }
    b.clean().await;
}
