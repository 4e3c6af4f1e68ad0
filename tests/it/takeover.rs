//! A hundred thousand parked runs change hands without being read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use stepwell::machine::{
    Append, Created, Flags, Kind, OpKind, Row, RunId, RunKind, Sealed, Shard, Timestamp, Tree,
    to_bytes,
};
use stepwell::store::{NewRun, Store};

use crate::cluster::Cluster;
use crate::gateway::{Handler, settled};

const RUNS: u32 = 100_000;
/// Of these, so many have a timer that comes soon.
const TIMED: u32 = 5_000;
const BATCH: usize = 500;

/// What a run waits for.
#[derive(Clone, Copy)]
enum For {
    Signal,
    Until(Timestamp),
}

fn row(n: i32, kind: Kind, at: Timestamp) -> Row {
    Row {
        n,
        kind,
        flags: Flags::default(),
        seq: 0,
        epoch: 1,
        cp: 0,
        ms: 0,
        dep: 0,
        at,
        due: None,
        refer: None,
        step: String::new(),
        body: None,
        pos: 0,
    }
}

/// A population of parked runs, recorded as a gateway records them.
struct Population {
    now: Timestamp,
    function_id: i32,
    dep: i32,
}

impl Population {
    fn created(&self, i: u32) -> NewRun {
        // Spread over all shards.
        let shard = Shard(u16::try_from(i % 4_096).expect("there are 4096 shards"));
        let run = RunId::on_shard(self.now, shard, u128::from(i));
        let created = Created {
            function: "waits".to_owned(),
            kind: RunKind::Function,
            namespace: "default".to_owned(),
            key: None,
            locks: Vec::new(),
            input: RawValue::from_string(format!("{{\"n\":{i}}}")).expect("JSON"),
            seed: format!("{i:032x}"),
            start_at: None,
            tags: BTreeMap::new(),
            priority: 0,
            start_within: None,
            invocation_timeout: None,
            retry: None,
            pin: None,
            traceparent: None,
            rerun_of: None,
            by: "test".to_owned(),
            parent: None,
            cancel_on: false,
            schedule: None,
            on_complete: Vec::new(),
            erased_at: None,
            imported: None,
        };
        let body = Some(to_bytes(&created));
        NewRun {
            run,
            ns: 1,
            function_id: self.function_id,
            dep: self.dep,
            pinned: false,
            status: 3,
            row: Row { body, dep: self.dep, ..row(0, Kind::Created, self.now) },
            wake_at: None,
            key: None,
            idem: None,
            object: None,
            locks: Vec::new(),
            tags: None,
            schedule: None,
            waits: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// Its answer to the first invocation: it asks, and waits.
    fn parked(&self, run: RunId, on: For) -> Sealed {
        let (op, step, ask, due) = match on {
            For::Signal => {
                (OpKind::Signal, "go", json!({"op": "signal", "id": "go", "name": "go"}), None)
            }
            For::Until(at) => (
                OpKind::Sleep,
                "nap",
                json!({"op": "sleep", "id": "nap", "until": at.to_string()}),
                Some(at),
            ),
        };
        let mut asked = row(1, Kind::Asked, self.now);
        asked.flags.set(Flags::of(op).0 | Flags::HANDLER);
        (asked.step, asked.due) = (step.to_owned(), due);
        asked.body = Some(to_bytes(&ask));
        let mut waits = row(2, Kind::Waits, self.now);
        waits.flags.set(Flags::HANDLER | Flags::PARK);
        (waits.due, waits.body) = (due, Some(to_bytes(&Tree::Step(step.to_owned()))));
        let mut rows = vec![asked, waits];
        rows.iter_mut().for_each(|r| r.dep = self.dep);
        Sealed { run, ns: 1, home: 0, append: Append { rows, ..Append::default() } }
    }

    /// Records all of them; what the last one of each kind is.
    async fn settle(&self, store: &Store) -> (RunId, RunId) {
        let mut lane = store.lane().await.expect("a lane");
        let numbers: Vec<u32> = (0..RUNS).collect();
        let (mut signalled, mut timed) = (None, None);
        for some in numbers.chunks(BATCH) {
            let news: Vec<NewRun> = some.iter().map(|i| self.created(*i)).collect();
            lane.create(&news).await.expect("they are created");
            let parked: Vec<Sealed> = some
                .iter()
                .zip(&news)
                .map(|(i, new)| {
                    // The first of them soon, the others within the horizon or a little beyond.
                    let after = Duration::from_millis(12_000 + u64::from(*i) * 10);
                    let on = if *i < TIMED { For::Until(self.now + after) } else { For::Signal };
                    match on {
                        For::Until(_) => timed = timed.or(Some(new.run)),
                        For::Signal => signalled = Some(new.run),
                    }
                    self.parked(new.run, on)
                })
                .collect();
            let won = lane.append(&parked).await.expect("they are parked");
            assert!(won.iter().all(|won| *won));
        }
        (signalled.expect("there are some"), timed.expect("there are some"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_parked_runs_change_hands_without_being_read() {
    let handler = Handler::serve(|it| {
        let woken = settled(it, "go") || settled(it, "nap");
        if woken { json!({"result": it["input"]["n"]}) } else { json!({"result": "too early"}) }
    })
    .await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["waits"]).await;
    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    let store = &cluster.db.store;
    let catalog = store.load_catalog().await.expect("the catalog can be read");
    let now = store.now().await.expect("Postgres has a time");
    let (function_id, dep) = (catalog.functions[0].id, catalog.deployments[0].id);
    let begun = Instant::now();
    let (signalled, timed) = Population { now, function_id, dep }.settle(store).await;
    eprintln!("{RUNS} parked runs were recorded in {:?}", begun.elapsed());
    cluster.nodes[0].start();
    cluster.ready(&cluster.nodes[0].url).await;
    cluster
        .eventually("it has taken all groups over", async || {
            cluster.metric(0, "stepwell_lease_groups").await as u64 == 256
                && cluster.metric(0, "stepwell_takeover_seconds_count").await > 0.0
        })
        .await;
    let seconds = cluster.metric(0, "stepwell_takeover_seconds_sum").await;
    let in_memory = cluster.metric(0, "stepwell_runs_in_memory").await;
    eprintln!("they were taken over in {seconds} s, with {in_memory} runs in memory");
    // Those whose moment has come by now are another matter.
    let due = store.now().await.expect("Postgres has a time").since(now).as_millis();
    let due = due.saturating_sub(11_000) as f64 / 10.0;
    assert!(in_memory <= due + 1.0, "{in_memory} runs were loaded, {due} are due");
    let run = signalled.to_string();
    let path = format!("/v1/runs/{run}/signals/go");
    let (status, answer) = cluster.call(0, "POST", &path, Some(&json!({}))).await;
    assert_eq!(status, 202, "{answer}");
    let view = cluster.status(0, &run, "completed").await;
    assert_eq!(view["output"], RUNS - 1);
    let view = cluster.status(0, &timed.to_string(), "completed").await;
    assert_eq!(view["output"], 0);
    assert!(handler.invocations().iter().all(|it| it["steps"] != json!({})));
}
