//! A signal that meets the end of its run is in the run's history, or it was refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use serde_json::value::RawValue;
use stepwell::engine::{Error, Namespace, Start, Wrong};
use stepwell::machine::{Kind, RunId};

use crate::gateway::{Gateway, Handler, settled};

/// How often a signal and an end meet.
const ENDS: usize = 10_000;

fn start() -> Start {
    Start::new(
        Namespace { id: 1, name: "default".to_owned() },
        "ends".to_owned(),
        RawValue::NULL.to_owned(),
        "test".to_owned(),
    )
}

// P3.16, P3.18, P9.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_at_the_end_is_in_the_history_or_was_refused_ten_thousand_times() {
    let gateway = Gateway::start().await;
    assert_eq!(lost_at_the_end(&gateway, ENDS).await, Vec::<String>::new());
    gateway.close().await;
}

/// The control: what looks for lost signals finds those of an engine whose ends are not gated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_whose_ends_are_not_gated_is_found_to_lose_signals() {
    let gateway = Gateway::doing(Wrong::EndUngated).await;
    assert_ne!(lost_at_the_end(&gateway, ENDS / 10).await, Vec::<String>::new());
}

/// Lets so many signals meet the ends of their runs; those that were accepted and are in no
/// history.
async fn lost_at_the_end(gateway: &Gateway, ends: usize) -> Vec<String> {
    // Some take one more step on their way, so that ends come at different moments.
    let handler = Handler::serve(|it| {
        let odd = it["run"]["id"].as_str().is_some_and(|id| id.as_bytes()[id.len() - 1] % 2 == 1);
        if odd && !settled(it, "one") {
            json!({"ops": [{"op": "run", "id": "one", "value": 1}]})
        } else {
            json!({"result": null})
        }
    })
    .await;
    gateway.register(&handler, json!(["ends"])).await;
    let (accepted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let begun = std::time::Instant::now();
    let one = async |i: usize| {
        let run = gateway.engine.start(start()).await.expect("it starts").run();
        let mut sent = Vec::new();
        // Until the run takes no more: every one meets its end, however fast this machine is.
        for n in 0.. {
            // Ends come some time after their starts, so signals must too.
            tokio::time::sleep(Duration::from_millis(rand::random::<u64>() % 20)).await;
            let payload = format!("\"{i}-{n}\"");
            let ns = Namespace { id: 1, name: "default".to_owned() };
            let body = Bytes::from(payload.clone());
            match gateway.engine.signal(&ns, run, "late", body, None, "test").await {
                Ok(_) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    sent.push(payload);
                }
                Err(Error::RunEnded(_) | Error::RunEnding(_)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => panic!("{run}: {error}"),
            }
        }
        (run, sent)
    };
    let sent: Vec<(RunId, Vec<String>)> =
        futures::stream::iter(0..ends).map(one).buffer_unordered(64).collect().await;
    let (accepted, refused) = (accepted.into_inner(), refused.into_inner());
    eprintln!("{ends} signals in {:?}: {accepted} accepted, {refused} refused", begun.elapsed());
    assert!(accepted > ends / 20, "hardly any met a live run: {accepted}");
    assert!(refused > ends / 20, "hardly any met an end: {refused}");
    let check = async |(run, sent): (RunId, Vec<String>)| {
        let rows = loop {
            let rows = gateway.db.store.rows_after(run, 0, -1, 1_000).await.expect("its journal");
            if rows.last().is_some_and(|r| r.kind == Kind::Completed) {
                break rows;
            }
            assert!(begun.elapsed() < Duration::from_mins(5), "{run} does not end: {rows:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let kept: Vec<String> = rows
            .iter()
            .filter(|r| r.kind == Kind::Arrived && r.step == "late")
            .map(|r| String::from_utf8_lossy(r.body.as_deref().unwrap_or_default()).into_owned())
            .collect();
        (kept != sent).then(|| format!("{run}: sent {sent:?}, kept {kept:?}"))
    };
    let lost: Vec<Option<String>> =
        futures::stream::iter(sent).map(check).buffer_unordered(8).collect().await;
    lost.into_iter().flatten().collect()
}
