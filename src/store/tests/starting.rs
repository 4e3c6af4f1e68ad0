//! Starts: keys, idempotency, and first messages.

use super::*;

fn keyed(b: &mut Bench, key: &str, if_closed: IfClosed) -> NewRun {
    let new = b.new_run(Shard::of_key("default", "checkout", key).0);
    NewRun { key: Some(NewKey { key: key.to_owned(), if_closed }), ..new }
}

fn idem(b: &Bench, key: &str, hash: u8) -> Idem {
    Idem {
        shard: Shard::of_idempotency_key("default", key),
        key: key.to_owned(),
        hash: [hash; 32],
        expires_at: b.now + Duration::from_hours(1),
    }
}

async fn create(b: &mut Bench, new: &NewRun) -> CreateOutcome {
    b.lane.create(std::slice::from_ref(new)).await.unwrap()[0]
}

#[tokio::test]
async fn a_start_is_all_there_and_repeating_it_is_harmless() {
    let mut b = Bench::new().await;
    let mut new = b.new_run(20);
    let at = b.now + Duration::from_mins(5);
    new.wake_at = Some(at);
    new.tags = Some(r#"{"customer":"c7"}"#.to_owned());
    new.messages = vec![b.message(MessageKind::New, ""), b.message(MessageKind::Signal, "go")];
    for _ in 0..2 {
        assert_eq!(create(&mut b, &new).await, CreateOutcome::Created);
    }
    let loaded = b.load(new.run).await;
    assert_eq!((loaded.ns, loaded.function_id, loaded.home), (NS, b.function, 0));
    assert_eq!((loaded.generation, loaded.base_n, loaded.inbox), (1, 0, 2));
    assert_eq!((loaded.parked, loaded.ended, loaded.created_at), (Some(at), None, new.row.at));
    assert_eq!(loaded.rows, vec![new.row.clone()]);
    let told: Vec<_> = loaded.messages.iter().map(|m| (m.pos, m.kind)).collect();
    assert_eq!(told, [(1, MessageKind::New), (2, MessageKind::Signal)]);
    let unknown = b.run_id(20);
    assert_eq!(b.db.store.load(&[unknown]).await, Ok(vec![]));
    b.clean().await;
}

#[tokio::test]
async fn a_key_has_one_live_run_and_passes_on_as_it_was_asked() {
    let mut b = Bench::new().await;
    let first = keyed(&mut b, "order-42", IfClosed::Allow);
    assert_eq!(create(&mut b, &first).await, CreateOutcome::Created);
    assert_eq!(create(&mut b, &first).await, CreateOutcome::Created, "the same call again");
    let second = keyed(&mut b, "order-42", IfClosed::Allow);
    let plain = b.new_run(1);
    let held = CreateOutcome::KeyHeld { run: first.run, status: None };
    assert_eq!(
        b.lane.create(&[plain.clone(), second.clone()]).await,
        Ok(vec![CreateOutcome::Created, held])
    );
    assert_eq!(b.db.store.load(&[second.run]).await, Ok(vec![]), "a refused start leaves nothing");

    let at = b.now;
    assert!(b.append(first.run, vec![end(1, 0, at)]).await);
    let shard = first.run.shard();
    let now_held = b.db.store.run_of_key(NS, b.function, shard, "order-42").await;
    assert_eq!(now_held, Ok(Some((first.run, Some(100)))));
    let ended = CreateOutcome::KeyHeld { run: first.run, status: Some(100) };
    let reject = keyed(&mut b, "order-42", IfClosed::Reject);
    assert_eq!(create(&mut b, &reject).await, ended);
    let failed_only = keyed(&mut b, "order-42", IfClosed::AllowIfFailed);
    assert_eq!(create(&mut b, &failed_only).await, ended, "it completed");
    assert_eq!(create(&mut b, &second).await, CreateOutcome::Created);

    let failed = row(1, Kind::EndFailed, at).flagged(Flags::GATED).with_body(b"{}");
    assert!(b.append(second.run, vec![failed]).await);
    assert_eq!(create(&mut b, &failed_only).await, CreateOutcome::Created);
    b.clean().await;
}

#[tokio::test]
async fn the_same_request_is_the_same_run() {
    let mut b = Bench::new().await;
    let with = |b: &mut Bench, hash| {
        let new = b.new_run(Shard::of_idempotency_key("default", "k").0);
        NewRun { idem: Some(idem(b, "k", hash)), ..new }
    };
    let first = with(&mut b, 1);
    assert_eq!(create(&mut b, &first).await, CreateOutcome::Created);
    let again = with(&mut b, 1);
    assert_eq!(create(&mut b, &again).await, CreateOutcome::IdemSame(first.run));
    let reused = with(&mut b, 2);
    assert_eq!(create(&mut b, &reused).await, CreateOutcome::IdemReused);
    assert_eq!(create(&mut b, &first).await, CreateOutcome::Created, "the same call again");

    // Past its time the key is kept while the run lives, then it is free.
    b.tick(Duration::from_hours(2));
    let late = with(&mut b, 1);
    assert_eq!(create(&mut b, &late).await, CreateOutcome::IdemSame(first.run));
    let at = b.now;
    assert!(b.append(first.run, vec![end(1, 0, at)]).await);
    let fresh = with(&mut b, 9);
    assert_eq!(create(&mut b, &fresh).await, CreateOutcome::Created);
    b.clean().await;
}

#[tokio::test]
async fn a_start_with_both_keys_takes_neither_by_halves() {
    let mut b = Bench::new().await;
    let holder = keyed(&mut b, "order-1", IfClosed::Allow);
    create(&mut b, &holder).await;
    let mut new = keyed(&mut b, "order-1", IfClosed::Allow);
    new.idem = Some(idem(&b, "k", 1));
    let held = CreateOutcome::KeyHeld { run: holder.run, status: None };
    assert_eq!(create(&mut b, &new).await, held);
    assert_eq!(number(&b, "select count(*) from idem").await, 0, "refused: the key is still free");
    b.clean().await;
}

#[tokio::test]
async fn two_starts_of_one_request_in_a_batch_are_refused_and_can_be_halved() {
    let mut b = Bench::new().await;
    let mut two = [keyed(&mut b, "k", IfClosed::Allow), keyed(&mut b, "k", IfClosed::Allow)];
    for new in &mut two {
        new.key = None;
        new.idem = Some(idem(&b, "k", 1));
    }
    let error = b.lane.create(&two).await.unwrap_err();
    assert!(error.blames_batch(), "{error}");
    assert_eq!(create(&mut b, &two[0]).await, CreateOutcome::Created);
    assert_eq!(create(&mut b, &two[1]).await, CreateOutcome::IdemSame(two[0].run));
    b.clean().await;
}

/// Eight lanes start the same request at once, with and without a run key and events that cancel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_starts_of_one_request_make_one_run() {
    let mut b = Bench::new().await;
    for round in 0..20 {
        let key = format!("r{round}");
        let mut starts = Vec::new();
        for _ in 0..8 {
            let mut new = keyed(&mut b, &key, IfClosed::Allow);
            if round % 2 == 0 {
                new.key = None;
            }
            if round % 4 >= 2 {
                new.waits = vec![Wait {
                    run: new.run,
                    step: crate::machine::cancelling(0),
                    ns: NS,
                    event: "order.cancelled".to_owned(),
                    matching: crate::machine::Matching::default(),
                    since: b.now,
                    taken: Vec::new(),
                }];
            }
            new.idem = Some(idem(&b, &key, 1));
            let mut lane = b.db.store.lane().await.unwrap();
            starts.push(tokio::spawn(async move { (new.run, lane.create(&[new]).await) }));
        }
        let (mut created, mut same) = (Vec::new(), Vec::new());
        for start in starts {
            match start.await.unwrap() {
                (run, Ok(told)) if told == [CreateOutcome::Created] => created.push(run),
                (_, Ok(told)) => match told[0] {
                    CreateOutcome::IdemSame(run) => same.push(run),
                    other => panic!("{other:?}"),
                },
                (_, Err(e)) => panic!("{e}"),
            }
        }
        assert_eq!((created.len(), same.len()), (1, 7), "round {round}");
        assert!(same.iter().all(|run| *run == created[0]));
    }
    b.clean().await;
}
