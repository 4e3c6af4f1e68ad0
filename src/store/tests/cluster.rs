//! Nodes and leases, take-over, the tick, circuit breakers.

use super::*;
use crate::machine::NodeId;

fn node(b: &mut Bench, ttl: Duration) -> NodeBeat {
    let id = NodeId::new(b.now, b.chance());
    NodeBeat {
        id,
        address: format!("http://127.0.0.1:{}", 8000 + b.chance % 1000),
        ttl,
        leaving: false,
    }
}

const TTL: Duration = Duration::from_mins(1);

#[tokio::test]
async fn claims_raise_the_term_and_only_free_groups_are_claimed() {
    let mut b = Bench::new().await;
    let (one, two) = (node(&mut b, TTL), node(&mut b, TTL));
    let store = b.db.store.clone();
    assert_eq!(store.claim(one.id, &[(1, 0)]).await, Ok(vec![]), "no member, no claim");
    store.join(&one).await.unwrap();
    store.join(&two).await.unwrap();
    assert_eq!(store.claim(one.id, &[(0, 0), (1, 0), (2, 0)]).await.unwrap().len(), 3);
    assert_eq!(store.claim(two.id, &[(1, 1)]).await, Ok(vec![]), "owned");
    store.release(one.id, &[1]).await.unwrap();
    store.release(two.id, &[0]).await.unwrap();
    assert_eq!(store.claim(two.id, &[(1, 0)]).await, Ok(vec![]), "a term of the past");
    assert_eq!(store.claim(two.id, &[(0, 1), (1, 1)]).await, Ok(vec![(1, 2)]));
    let tick = store.tick(&two, None).await.unwrap();
    assert_eq!(tick.groups.len(), 256);
    assert_eq!(
        tick.groups[..4],
        [(Some(one.id), 1), (Some(two.id), 2), (Some(one.id), 1), (None, 0)]
    );
    assert_eq!(tick.nodes.len(), 2);
    assert!(!tick.fenced && tick.reaped == 0 && tick.level == 1);
    store.leave(one.id).await.unwrap();
    let tick = store.tick(&two, None).await.unwrap();
    assert_eq!(tick.groups[0], (None, 1));
    assert_eq!(tick.nodes, vec![(two.id, two.address.clone())]);
}

#[tokio::test]
async fn a_silent_node_is_reaped_fenced_and_its_groups_are_free() {
    let mut b = Bench::new().await;
    let (dead, alive) = (node(&mut b, Duration::ZERO), node(&mut b, TTL));
    let store = b.db.store.clone();
    store.join(&dead).await.unwrap();
    store.join(&alive).await.unwrap();
    store.claim(dead.id, &[(7, 0)]).await.unwrap();
    let grace = Duration::from_hours(1);
    assert_eq!(store.tick(&alive, Some(grace)).await.unwrap().reaped, 0, "within the grace");
    assert_eq!(store.tick(&alive, None).await.unwrap().reaped, 0);
    assert_eq!(store.claim(alive.id, &[(7, 1)]).await, Ok(vec![]), "not reaped: not free");
    assert!(!store.tick(&dead, None).await.unwrap().fenced, "late, but nobody has reaped it");
    assert_eq!(store.tick(&alive, Some(Duration::ZERO)).await.unwrap().reaped, 1);
    assert!(store.tick(&dead, None).await.unwrap().fenced);
    assert_eq!(store.claim(alive.id, &[(7, 1)]).await, Ok(vec![(7, 2)]));
    assert_eq!(store.claim(dead.id, &[(8, 0)]).await, Ok(vec![]), "fenced");
}

#[tokio::test]
async fn of_many_claimers_one_has_each_group() {
    let mut b = Bench::new().await;
    let all: Vec<(i16, i64)> = (0..256).map(|g| (g, 0)).collect();
    let mut claims = Vec::new();
    for _ in 0..4 {
        let (node, store, all) = (node(&mut b, TTL), b.db.store.clone(), all.clone());
        store.join(&node).await.unwrap();
        claims.push(tokio::spawn(async move { store.claim(node.id, &all).await }));
    }
    let mut taken = Vec::new();
    for claim in claims {
        taken.extend(claim.await.unwrap().unwrap());
    }
    taken.sort_unstable();
    assert_eq!(taken, (0..256).map(|g| (g, 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn take_over_pages_through_hot_runs_timers_and_inboxes() {
    let mut b = Bench::new().await;
    let store = b.db.store.clone();
    let me = node(&mut b, TTL);
    store.join(&me).await.unwrap();
    store.claim(me.id, &[(0, 0), (1, 0)]).await.unwrap();
    let mut hot = Vec::new();
    for shard in [0, 15, 16, 31, 32] {
        hot.push(b.start(shard).await);
    }
    let mut parked = Vec::new();
    for i in 0..5u16 {
        let at = b.now + Duration::from_secs(60 - u64::from(i));
        let new = NewRun { wake_at: Some(at), ..b.new_run(i * 8) };
        b.lane.create(std::slice::from_ref(&new)).await.unwrap();
        if i < 4 {
            parked.insert(0, (new.run, at));
        }
    }
    let first = store.hot_runs(&[0, 1], None, 3).await.unwrap();
    assert_eq!(first, hot[..3]);
    assert_eq!(store.hot_runs(&[0, 1], first.last().copied(), 3).await, Ok(vec![hot[3]]));
    let until = b.now + TTL;
    let first = store.parked(&[1, 0], until, None, 3).await.unwrap();
    assert_eq!(first, parked[..3]);
    let (run, at) = first[2];
    assert_eq!(store.parked(&[1, 0], until, Some((at, run)), 3).await, Ok(parked[3..].to_vec()));

    for run in [hot[3], hot[0], hot[4], hot[0]] {
        let signal = b.signal(run);
        b.lane.accept(&[signal]).await.unwrap();
    }
    assert_eq!(store.inbox_heads(&[0, 1], 10).await, Ok(vec![hot[0], hot[3]]));
    assert_eq!(store.tick(&me, None).await.unwrap().inboxes, vec![hot[0], hot[3]]);
}

#[tokio::test]
async fn a_status_is_projected_and_an_older_one_does_not_come_back() {
    let mut b = Bench::new().await;
    let run = b.start(0).await;
    let at = b.tick(Duration::from_secs(1));
    let attention = Some(Bytes::from_static(b"{\"code\":\"mismatch\"}"));
    let new = Projection { run, status: 6, at, attention, fingerprint: None };
    let old =
        Projection { status: 3, at: at - Duration::from_millis(1), attention: None, ..new.clone() };
    b.db.store.project_status(std::slice::from_ref(&new)).await.unwrap();
    b.db.store.project_status(&[old]).await.unwrap();
    let listed = b.db.store.get_run(NS, run).await.unwrap().unwrap();
    assert_eq!((listed.status, listed.attention), (6, new.attention));
}

#[tokio::test]
async fn one_prober_of_many_has_the_probe() {
    let b = Bench::new().await;
    let store = &b.db.store;
    let node = |n| NodeBeat {
        id: NodeId::new(b.now, n),
        address: String::new(),
        ttl: TTL,
        leaving: false,
    };
    store.join(&node(1)).await.unwrap();
    store.join(&node(2)).await.unwrap();
    let at = |seconds| b.now + Duration::from_secs(seconds);
    let ticket = |n, seconds| Ticket { by: node(n).id, at: at(seconds) };
    assert_eq!(store.open_circuits().await, Ok(vec![]));
    assert_eq!(store.open_circuit(1, "refused", b.now, at(1)).await, Ok(true));
    assert_eq!(store.open_circuit(1, "later", at(1), at(2)).await, Ok(false), "it is open already");
    let row = Health {
        endpoint_id: 1,
        failures: 0,
        detail: "refused".to_owned(),
        opened_at: b.now,
        next_probe_at: at(1),
        probe_by: None,
    };
    assert_eq!(store.open_circuits().await, Ok(vec![row.clone()]));
    assert_eq!(store.take_probe(1, at(1), ticket(1, 3)).await, Ok(true));
    assert_eq!(store.take_probe(1, at(1), ticket(2, 4)).await, Ok(false), "another was first");
    assert_eq!(store.take_probe(1, at(3), ticket(2, 4)).await, Ok(false), "it is out");
    let seen = store.tick(&node(2), None).await.unwrap().circuits;
    let taken = Health { next_probe_at: at(3), probe_by: Some(node(1).id), ..row };
    assert_eq!(seen, [taken]);
    assert_eq!(store.probe_failed(1, ticket(2, 4), 1, "410", at(9)).await, Ok(false));
    assert_eq!(store.probe_failed(1, ticket(1, 3), 1, "410", at(9)).await, Ok(true));
    assert_eq!(store.take_probe(1, at(9), ticket(1, 11)).await, Ok(true));
    store.leave(node(1).id).await.unwrap();
    assert_eq!(store.take_probe(1, at(11), ticket(2, 12)).await, Ok(true), "the first is dead");
    assert_eq!(store.close_circuit(1, ticket(1, 11)).await, Ok(false));
    assert_eq!(store.close_circuit(1, ticket(2, 12)).await, Ok(true));
    assert_eq!(store.open_circuits().await, Ok(vec![]));
    assert_eq!(store.open_circuit(1, "again", at(20), at(21)).await, Ok(true));
}

#[tokio::test]
async fn a_gate_is_there_as_long_as_the_run_is_parked_at_it() {
    let mut b = Bench::new().await;
    let groups: Vec<i16> = (0..256).collect();
    let mut runs = Vec::new();
    for shard in [3, 500, 4095] {
        let run = b.start(shard).await;
        let rows = vec![row(1, Kind::Noted, b.now).with_body(b"{}").flagged(Flags::PARK)];
        let gate = Some(if shard == 500 { -7 } else { 12 });
        let append = Append { rows, gate, ..Append::default() };
        assert!(b.seal(Sealed { run, ns: NS, home: 0, append }).await);
        assert_eq!((b.load(run).await.gate, b.load(run).await.parked.is_some()), (gate, true));
        runs.push(run);
    }
    let store = b.db.store.clone();
    assert_eq!(store.gates(&groups).await, Ok(vec![-7, 12]));
    assert_eq!(store.gates(&[31]).await, Ok(vec![-7]));
    let mut at_12 = vec![runs[0], runs[2]];
    at_12.sort_unstable();
    assert_eq!(store.gated_runs(&groups, 12, None, 9).await, Ok(at_12.clone()));
    assert_eq!(store.gated_runs(&groups, 12, Some(at_12[0]), 9).await, Ok(vec![at_12[1]]));
    // A row that leaves the run where it is leaves the gate too; one that wakes it opens it.
    assert!(b.append(runs[0], vec![done(2, 1, "a", b.now)]).await);
    assert_eq!(b.load(runs[0]).await.gate, Some(12));
    assert!(b.append(runs[0], vec![done(3, 2, "b", b.now).flagged(Flags::HOT)]).await);
    assert_eq!((b.load(runs[0]).await.gate, b.load(runs[0]).await.parked), (None, None));
    let parked = row(2, Kind::Waits, b.now).with_body(b"\"a\"").flagged(Flags::PARK);
    assert!(b.append(runs[1], vec![parked]).await);
    assert_eq!(b.load(runs[1]).await.gate, None);
    assert_eq!(store.gates(&groups).await, Ok(vec![12]));
    b.clean().await;
}

#[tokio::test]
async fn the_cluster_has_one_secret() {
    let b = Bench::new().await;
    let secret = b.db.store.cluster_secret().await.unwrap();
    assert_eq!(b.db.store.cluster_secret().await, Ok(secret));
    assert_ne!(secret, [0; 32]);
}
