//! tmp
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use stepwell::clock::Clock;
use stepwell::engine::*;
use stepwell::machine::*;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let n: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let conc: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let db = std::env::var("DATABASE_URL").unwrap();
    let store = stepwell::store::Store::connect(&db, 8).await.unwrap();
    store.migrate_up().await.unwrap();
    let manifest = serde_json::json!({"protocol":[1,1],"functions":[{"name":"steps"}]});
    store
        .register(&stepwell::store::Registration {
            ns: 1,
            name: "shop".into(),
            url: "http://127.0.0.1:8586/".into(),
            headers: BTreeMap::new(),
            manifest: serde_json::to_vec(&manifest).unwrap(),
            functions: vec!["steps".into()],
            endpoint: EndpointId::new(Timestamp::default(), 1),
            deployment: DeploymentId::new(Timestamp::default(), 2),
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        })
        .await
        .unwrap();
    let engine = Engine::begin(
        store.clone(),
        Clock::system(),
        stepwell::outbound::Client::new(stepwell::outbound::Guard::dev()).unwrap(),
        Settings {
            public_url: "http://127.0.0.1:1".into(),
            address: "http://127.0.0.1:1".into(),
            limits: Limits::default(),
            retention: Duration::from_secs(86400 * 30),
        },
    )
    .await
    .unwrap();
    while engine.ready().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let ns = Namespace { id: 1, name: "default".into() };
    let t = Instant::now();
    let stop = t + Duration::from_secs(5);
    let tasks: Vec<_> = (0..conc)
        .map(|_| {
            let engine = engine.clone();
            let ns = ns.clone();
            tokio::spawn(async move {
                let mut c = 0u64;
                while Instant::now() < stop {
                    let start = Start {
                        namespace: ns.clone(),
                        function: "steps".into(),
                        input: serde_json::value::RawValue::from_string(n.to_string()).unwrap(),
                        key: None,
                        if_running: IfRunning::Fail,
                        if_closed: IfClosed::Allow,
                        start_at: None,
                        tags: BTreeMap::new(),
                        run_timeout: None,
                        invocation_timeout: None,
                        retry: None,
                        deployment: None,
                        signal: None,
                        idempotency: None,
                        by: "local".into(),
                        traceparent: None,
                    };
                    let run = engine.start(start).await.unwrap().run();
                    let v = engine.wait_end(&ns, run, Duration::from_secs(30)).await.unwrap();
                    assert_eq!(v.status, Status::Completed);
                    c += 1;
                }
                c
            })
        })
        .collect();
    let mut total = 0;
    for t in tasks {
        total += t.await.unwrap();
    }
    let s = t.elapsed().as_secs_f64();
    println!(
        "N={n} c={conc}: {:.0} runs/s {:.0} steps/s",
        total as f64 / s,
        total as f64 * n as f64 / s
    );
    engine.leave(Duration::from_secs(1)).await;
}
