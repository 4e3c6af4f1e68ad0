//! A generation begins in `journal_long`, whoever comes late is refused, and old ones go.

use super::*;

/// What ends a generation and begins the next: at position `n`.
fn continued(n: i32, at: Timestamp) -> Row {
    row(n, Kind::Continued, at).with_body(b"{}").flagged(Flags::HANDLER)
}

fn moved(n: i32, seq: i32, at: Timestamp) -> Row {
    row(n, Kind::Moved, at).with(|r| r.seq = seq)
}

impl Bench {
    /// A run in its second generation, which begins at position 3.
    async fn continued(&mut self, shard: u16) -> RunId {
        let run = self.start(shard).await;
        let rows = vec![
            done(1, 1, "a", self.now).flagged(Flags::GATED),
            moved(2, 1, self.now),
            continued(3, self.now),
        ];
        assert!(self.append(run, rows).await);
        run
    }

    async fn append_long(&mut self, run: RunId, rows: Vec<Row>) -> bool {
        self.seal(Sealed { home: 1, ..sealed(run, rows) }).await
    }
}

#[tokio::test]
async fn a_generation_begins_in_journal_long_in_the_transaction_that_ends_the_one_before() {
    let mut b = Bench::new().await;
    let run = b.continued(9).await;
    let loaded = b.load(run).await;
    assert_eq!((loaded.generation, loaded.base_n, loaded.home), (2, 3, 1));
    assert_eq!(loaded.rows.iter().map(|r| r.n).collect::<Vec<_>>(), [3]);
    assert_eq!(number(&b, "select count(*) from journal").await, 3);
    let place = b.db.store.place(run).await.unwrap().expect("it is there");
    assert_eq!((place.home, place.generation, place.gen_n), (1, 2, 3));
    assert!(b.append_long(run, vec![done(4, 1, "a", b.now)]).await);
    let page = b.db.store.journal_page(run, 1, 3, 0, 10).await.unwrap();
    assert_eq!(page.iter().map(|e| (e.row.n, e.row.seq)).collect::<Vec<_>>(), [(4, 1)]);
    assert_eq!(b.db.store.rows_of_step(run, &place, "a").await.unwrap().len(), 1);
    // The history has both generations in one order.
    let happened = b.db.store.happened(run, 1, 0, 100, 100).await.unwrap();
    assert_eq!(happened.rows.iter().map(|r| r.n).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    // It ends like any other, and its last generation is what is read of it.
    assert!(b.append_long(run, vec![end(5, 1, b.now)]).await);
    let place = b.db.store.place(run).await.unwrap().expect("it is there");
    assert_eq!((place.home, place.generation, place.gen_n), (1, 2, 3));
    b.clean().await;
}

#[tokio::test]
async fn it_begins_only_if_every_accepted_message_was_drained() {
    let mut b = Bench::new().await;
    let run = b.start(9).await;
    let signal = b.signal(run);
    b.lane.accept(&[signal]).await.unwrap();
    let rows = vec![moved(1, 0, b.now).flagged(Flags::GATED), continued(2, b.now)];
    assert!(!b.append(run, rows.clone()).await);
    assert_eq!(number(&b, "select count(*) from journal_long").await, 0);
    let mut sealed = sealed(run, rows);
    sealed.append.drained = 1;
    assert!(b.seal(sealed).await);
    assert_eq!(b.load(run).await.generation, 2);
}

#[tokio::test]
async fn who_did_not_hear_of_it_loses_before_and_after_the_old_rows_are_gone() {
    let mut b = Bench::new().await;
    let run = b.continued(9).await;
    let at = b.now;
    // Of the first generation: whatever position, it is taken.
    for n in 1..=2 {
        assert!(!b.append(run, vec![done(n, 1, "z", at)]).await, "{n}");
        assert!(!b.append(run, vec![done(n, 1, "z", at), end(n + 1, 1, at)]).await, "{n}");
    }
    // Of the second: its rows go when the third has been there for long.
    assert!(b.append_long(run, vec![done(4, 1, "a", at), done(5, 2, "b", at)]).await);
    assert!(b.append_long(run, vec![continued(6, at).flagged(Flags::GATED)]).await);
    let later = at + Duration::from_hours(2);
    assert_eq!(b.db.store.trim_generations(at).await, Ok(0));
    assert_eq!(b.db.store.trim_generations(later).await, Ok(1));
    assert_eq!(number(&b, "select min(n)::bigint from journal_long").await, 6);
    for n in 3..=6 {
        let single = vec![done(n, 1, "z", at)];
        let lean = vec![done(n, 1, "z", at), done(n + 1, 2, "y", at)];
        let full = vec![done(n, 1, "z", at), end(n + 1, 1, at)];
        for rows in [single, lean, full] {
            assert!(!b.append_long(run, rows).await, "{n}");
        }
    }
    assert_eq!(b.load(run).await.ended, None, "nothing was ended by it");
    assert!(b.append_long(run, vec![done(7, 1, "z", at)]).await, "who has heard of it goes on");
    b.clean().await;
}

// P2.24
#[tokio::test]
async fn a_callback_of_a_generation_that_is_over_is_not_accepted() {
    let mut b = Bench::new().await;
    let (run, other) = (b.continued(9).await, b.start(10).await);
    let mut of = |run, generation| {
        let message = b.message(MessageKind::CallbackValue, "c");
        let message = Message { generation: Some(generation), ..message };
        Accept { run, ns: NS, message, idem: None }
    };
    let batch = [of(run, 1), of(run, 2), of(other, 1), of(run, 3)];
    let expected =
        [Accepted::OtherGeneration, Accepted::At(1), Accepted::At(1), Accepted::OtherGeneration];
    assert_eq!(b.lane.accept(&batch).await, Ok(expected.to_vec()));
    assert_eq!(b.load(run).await.messages[0].generation, Some(2));
}

#[tokio::test]
async fn the_week_of_birth_of_a_run_that_continued_is_dropped_without_a_look_at_it() {
    let week = Duration::from_hours(7 * 24);
    let mut b = Bench::new().await;
    let present = b.now;
    b.now = present - week;
    let run = b.continued(9).await;
    b.now = present;
    let dropped = b.db.store.drop_partitions(present, present).await.unwrap();
    assert_eq!((dropped.moved, dropped.partitions.len()), (0, 4), "{dropped:?}");
    assert!(b.append_long(run, vec![done(4, 1, "a", present)]).await);
    assert_eq!(b.load(run).await.rows.len(), 2);
    let happened = b.db.store.happened(run, 1, 0, 100, 100).await.unwrap();
    assert_eq!(happened.rows.iter().map(|r| r.n).collect::<Vec<_>>(), [3, 4]);
    b.clean().await;
}
