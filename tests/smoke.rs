//! smoke
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
use std::collections::BTreeMap;
use std::time::Duration;
use stepwell::clock::Clock;
use stepwell::engine::*;
use stepwell::machine::*;

#[tokio::test]
async fn order() {
    tracing_subscriber::fmt().with_env_filter("info,stepwell=debug").init();
    let db = stepwell::store::testing::TestDb::new().await;
    // handler
    let app = axum::Router::new().route("/", axum::routing::post(|body: axum::body::Bytes| async move {
        let v: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let steps = v["steps"].as_object().unwrap();
        eprintln!("INV epoch {} reason {} attempt {} steps {}", v["invocation"]["epoch"], v["invocation"]["reason"], v["invocation"]["attempt"], v["steps"]);
        let done = |id: &str| steps.get(id).is_some_and(|s| s.get("value").is_some());
        let r = if !done("charge") { serde_json::json!({"ops":[{"op":"run","id":"charge","value":{"id":"ch_9"}}]}) }
        else if !done("pack") {
            static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            if steps.get("pack").is_some_and(|s| s.get("pending").is_some()) { serde_json::json!({"await":"pack"}) }
            else if N.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2 { serde_json::json!({"ops":[{"op":"run","id":"pack","error":{"type":"Busy","message":"no box"}, "retry": {"initial":"50ms"}}]}) }
            else { serde_json::json!({"ops":[{"op":"run","id":"pack","value":true}]}) } }
        else if !done("approved") { serde_json::json!({"ops":[{"op":"signal","id":"approved","name":"approved","timeout":"1h"}]}) }
        else if !done("cool") { serde_json::json!({"ops":[{"op":"sleep","id":"cool","for":"300ms"}]}) }
        else if !done("ship") { serde_json::json!({"ops":[{"op":"run","id":"ship","value":"t1"}]}) }
        else { serde_json::json!({"result": {"ok": true}}) };
        axum::Json(r)
    }));
    let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", l.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(l, app).await.unwrap() });
    let manifest = serde_json::json!({"protocol":[1,1],"functions":[{"name":"order"}]});
    db.store
        .register(&stepwell::store::Registration {
            ns: 1,
            name: "shop".into(),
            url,
            headers: BTreeMap::new(),
            manifest: serde_json::to_vec(&manifest).unwrap(),
            functions: vec!["order".into()],
            endpoint: EndpointId::new(Timestamp::default(), 1),
            deployment: DeploymentId::new(Timestamp::default(), 2),
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into(),
        })
        .await
        .unwrap();
    let engine = Engine::begin(
        db.store.clone(),
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
    let ns = Namespace { id: 1, name: "default".into() };
    let start = Start {
        namespace: ns.clone(),
        function: "order".into(),
        input: serde_json::value::RawValue::from_string("{\"order\":42}".into()).unwrap(),
        key: Some("o1".into()),
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
    let t = std::time::Instant::now();
    let run = engine.start(start.clone()).await.unwrap().run();
    eprintln!("started {run} {:?}", t.elapsed());
    loop {
        let v = engine.view(&ns, run).await.unwrap();
        eprintln!("{:?} {:?} {:?}", v.status, v.waiting_for, v.attention);
        if v.status == Status::Waiting {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    engine
        .signal(&ns, run, "approved", bytes::Bytes::from_static(b"{\"by\":\"me\"}"), None, "local")
        .await
        .unwrap();
    let v = engine.wait_end(&ns, run, Duration::from_secs(10)).await.unwrap();
    eprintln!("{v:?} {:?}", t.elapsed());
    assert_eq!(v.status, Status::Completed);
    let e = engine.start(Start { if_closed: IfClosed::Reject, ..start }).await;
    eprintln!("{e:?}");
    let f = db.store.audit().await.unwrap();
    eprintln!("{f:?}");
    assert!(f.is_empty());
    engine.leave(Duration::from_secs(1)).await;
}
