//! Errors by their kind: which runs are alike, how many there are, and what is done about all of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::store::ErrorMark;
use tokio::sync::Semaphore;

use crate::gateway::{Answer, Gateway, Handler};
use crate::namespaces::{operator, tenant};

async fn errors(g: &Gateway, query: &str) -> Vec<Value> {
    g.get(&format!("/v1/errors?{query}")).await["data"].as_array().expect("a list").clone()
}

fn ids(page: &Value) -> Vec<String> {
    let runs = page["data"].as_array().expect("a list").iter();
    runs.map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_fail_alike_are_one_error_and_are_rewound_together() {
    let g = Gateway::start().await;
    // Orders over 100 are declined by a step, the others ask for a person; 0 is well.
    let script = |it: &Value| {
        let order = it["input"]["order"].as_i64().unwrap_or_default();
        match order {
            0 => json!({"result": "paid"}),
            1..=100 => json!({"ops": [{"op": "run", "id": "odd",
                "error": {"type": "Ask", "message": format!("order {order}?"), "retry": "pause"}}]}),
            _ if it["steps"]["charge"].is_null() => json!({"ops": [{"op": "run", "id": "charge",
                "error": {"type": "Declined", "message": "no", "retry": "never"}}]}),
            _ => json!({"error": {"type": "Declined",
                "message": format!("card {} of order 'o-{order}' was declined", order * 7)}}),
        }
    };
    let handler = Handler::serve(script).await;
    g.register(&handler, json!(["checkout", "refund"])).await;
    let (mut declined, mut asking) = (Vec::new(), Vec::new());
    for order in 101..104 {
        declined.push(g.run("checkout", json!({"input": {"order": order}})).await);
        asking.push(g.run("checkout", json!({"input": {"order": order - 100}})).await);
        g.status(declined.last().expect("one"), "failed").await;
        g.advance(Duration::from_secs(1));
    }
    let well = g.run("checkout", json!({"input": {"order": 0}})).await;
    let other = g.run("refund", json!({"input": {"order": 200}})).await;
    g.status(&well, "completed").await;
    g.status(&other, "failed").await;
    // What a person pauses has no error.
    for run in &asking {
        g.status(run, "paused").await;
    }
    // Lists trail by up to a second.
    g.eventually("three kinds, with all their runs", async |g| {
        g.advance(Duration::from_millis(300));
        let all = errors(g, "").await;
        all.len() == 3
            && all.iter().map(|e| e["count"]["count"].as_i64().unwrap_or(0)).sum::<i64>() == 7
    })
    .await;
    let of = errors(&g, "function=checkout&status=failed").await;
    assert_eq!(of.len(), 1, "{of:?}");
    let kind = &of[0];
    assert_eq!(
        (&kind["step"], &kind["code"], &kind["message"]),
        (&json!("charge"), &json!("Declined"), &json!("card <n> of order <text> was declined")),
        "{kind}"
    );
    assert_eq!(kind["example"], json!("card 707 of order 'o-101' was declined"), "{kind}");
    assert_eq!(
        (&kind["count"], &kind["by_status"]),
        (&json!({"count": 3, "exact": true}), &json!({"failed": 3})),
        "{kind}"
    );
    assert_eq!(kind["run"], json!(declined[2]), "{kind}");
    assert!(kind["first_seen"].as_str() < kind["last_seen"].as_str(), "{kind}");
    assert_eq!(kind["deployments"].as_array().map(Vec::len), Some(1), "{kind}");
    let hours: Vec<i64> =
        kind["hourly"].as_array().expect("hours").iter().filter_map(Value::as_i64).collect();
    assert_eq!((hours.len(), hours[23], hours.iter().sum::<i64>()), (24, 3, 3), "{kind}");
    let paused = errors(&g, "status=paused").await;
    assert_eq!(paused[0]["hourly"][23], 3, "{paused:?}");
    assert_eq!(
        (paused.len(), &paused[0]["step"], &paused[0]["by_status"]),
        (1, &json!("odd"), &json!({"paused": 3})),
        "{paused:?}"
    );
    // A kind is read by its fingerprint, and so are its runs.
    let print = kind["fingerprint"].as_str().expect("a fingerprint").to_owned();
    assert_eq!(g.get(&format!("/v1/errors/{print}")).await, *kind);
    let mut runs = ids(&g.get(&format!("/v1/runs?fingerprint={print}")).await);
    runs.reverse();
    assert_eq!(runs, declined);
    let page = g
        .get(&format!("/v1/runs?fingerprint={}", paused[0]["fingerprint"].as_str().expect("one")))
        .await;
    let mut runs = ids(&page);
    runs.reverse();
    assert_eq!(runs, asking);
    assert_eq!(page["data"][0]["fingerprint"], paused[0]["fingerprint"]);
    // Pages follow each other.
    let first = g.get("/v1/errors?limit=2").await;
    let next = first["next_cursor"].as_str().expect("there is more");
    let rest = g.get(&format!("/v1/errors?limit=2&cursor={next}")).await;
    let mut seen: Vec<String> = [first, rest]
        .iter()
        .flat_map(|page| page["data"].as_array().expect("a list").clone())
        .map(|kind| kind["fingerprint"].as_str().expect("one").to_owned())
        .collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3);
    // Mended: the runs of that kind go on, and no other.
    handler.now(|_| json!({"result": "paid after all"}));
    g.advance(Duration::from_millis(2));
    let ask = json!({"filter": {"fingerprint": print}, "action": "rewind"});
    let bulk = g.post("/v1/bulk", ask).await;
    for run in &declined {
        g.eventually("it goes on", async |g| {
            g.get(&format!("/v1/runs/{run}")).await["status"] == "completed"
        })
        .await;
    }
    assert_eq!(
        g.get(&format!("/v1/bulk/{}", bulk["id"].as_str().expect("an id"))).await["expected"]["count"],
        3
    );
    let (status, code, _) = g.refused("GET", &format!("/v1/errors/{print}"), None).await;
    assert_eq!((status, code.as_str()), (404, "error-not-found"));
    assert_eq!(g.get(&format!("/v1/runs/{other}")).await["status"], "failed");
    // Who goes on after a pause has no error any more.
    g.post(&format!("/v1/runs/{}/resume", asking[0]), json!({})).await;
    g.eventually("one less", async |g| {
        g.advance(Duration::from_millis(300));
        errors(g, "status=paused").await[0]["count"]["count"] == 2
    })
    .await;
    g.close().await;
}

fn print(kind: &Value) -> String {
    kind["fingerprint"].as_str().expect("a fingerprint").to_owned()
}

/// The codes of those that are listed, in the order of the alphabet.
async fn codes(g: &Gateway, query: &str) -> Vec<String> {
    let kinds = errors(g, query).await;
    let mut codes: Vec<String> =
        kinds.iter().map(|kind| kind["code"].as_str().expect("a code").to_owned()).collect();
    codes.sort_unstable();
    codes
}

/// Fails by what its input says, or pauses by it.
fn as_told(it: &Value) -> Value {
    let (code, odd) = (&it["input"]["code"], it["input"]["odd"] == true);
    if odd {
        return json!({"ops": [{"op": "run", "id": "odd",
            "error": {"type": code, "message": "no", "retry": "pause"}}]});
    }
    json!({"error": {"type": code, "message": "no"}})
}

/// A run that fails or pauses by this error.
async fn fails(g: &Gateway, code: &str, odd: bool) -> String {
    let run = g.run("f", json!({"input": {"code": code, "odd": odd}})).await;
    g.status(&run, if odd { "paused" } else { "failed" }).await;
    run
}

async fn kind_of(g: &Gateway, code: &str) -> Value {
    g.eventually("it is listed", async |g| {
        g.advance(Duration::from_millis(300));
        codes(g, "").await.iter().any(|it| it == code)
    })
    .await;
    let kinds = errors(g, "").await;
    kinds.into_iter().find(|kind| kind["code"] == code).expect("it is listed")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_resolved_is_open_again_once_it_comes_back() {
    let g = Gateway::start().await;
    let handler = Handler::serve(as_told).await;
    g.register(&handler, json!(["f"])).await;
    fails(&g, "Declined", false).await;
    fails(&g, "Lost", false).await;
    let odd = fails(&g, "Odd", true).await;
    // This one began before all that follows, and fails behind it.
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    handler
        .now(move |_| Answer::held(&held, json!({"error": {"type": "Declined", "message": "no"}})));
    let slow = g.run("f", json!({"input": {}})).await;
    g.invoked(&handler, handler.count().max(4)).await;
    g.advance(Duration::from_secs(1));

    let odd_at = format!("/v1/errors/{}", print(&kind_of(&g, "step-asks").await));
    let kind = kind_of(&g, "Declined").await;
    let nobody = Value::Null;
    for none in ["resolved_at", "resolved_by", "ignored_at", "ignored_by", "reason", "returned_at"]
    {
        assert_eq!(kind[none], nobody, "{none}: {kind}");
    }
    assert_eq!(kind["state"], "open", "{kind}");
    let at = format!("/v1/errors/{}", print(&kind));
    let resolved = g.post(&format!("{at}/resolve"), json!({"reason": "mended in 2.4.1"})).await;
    assert_eq!(
        (
            &resolved["state"],
            &resolved["reason"],
            &resolved["returned_at"],
            &resolved["count"]["count"]
        ),
        (&json!("resolved"), &json!("mended in 2.4.1"), &nobody, &json!(1)),
        "{resolved}"
    );
    assert!(resolved["last_seen"].as_str() < resolved["resolved_at"].as_str(), "{resolved}");
    assert!(resolved["resolved_by"].is_string() && resolved["ignored_at"].is_null(), "{resolved}");
    assert_eq!(g.get(&at).await, resolved);
    assert_eq!(codes(&g, "state=resolved").await, ["Declined"]);
    assert_eq!(codes(&g, "state=open").await, ["Lost", "step-asks"]);
    assert_eq!(codes(&g, "state=resolved&state=open").await, ["Declined", "Lost", "step-asks"]);
    // Once more is no other moment; who did it last says why.
    g.advance(Duration::from_secs(1));
    let again = g.post(&format!("{at}/resolve"), json!({})).await;
    assert_eq!((&again["resolved_at"], &again["reason"]), (&resolved["resolved_at"], &nobody));
    // Another error of the function is another kind.
    g.advance(Duration::from_secs(1));
    handler.now(as_told);
    fails(&g, "Lost", false).await;
    assert_eq!(g.get(&at).await["state"], "resolved");

    // A run that began before it was resolved has it: it is back, though the run is not the newest.
    g.advance(Duration::from_secs(1));
    gate.add_permits(1);
    let end = g.status(&slow, "failed").await;
    let back = g.get(&at).await;
    assert_eq!(
        (&back["state"], &back["returned_at"], &back["resolved_at"], &back["count"]["count"]),
        (&json!("open"), &end["ended_at"], &resolved["resolved_at"], &json!(2)),
        "{back}"
    );
    assert_eq!(codes(&g, "state=open").await, ["Declined", "Lost", "step-asks"]);
    // The first that came back says since when.
    g.advance(Duration::from_secs(1));
    fails(&g, "Declined", false).await;
    assert_eq!(g.get(&at).await["returned_at"], back["returned_at"]);
    // Reopened, it is as if nobody had resolved it; resolved, what came before does not count.
    let open = g.post(&format!("{at}/reopen"), json!({"reason": "not at all"})).await;
    assert_eq!((&open["state"], &open["resolved_at"]), (&json!("open"), &nobody), "{open}");
    assert_eq!((&open["returned_at"], &open["reason"]), (&nobody, &nobody), "{open}");
    g.advance(Duration::from_secs(1));
    let anew = g.post(&format!("{at}/resolve"), json!({})).await;
    assert_eq!((&anew["state"], &anew["returned_at"]), (&json!("resolved"), &nobody), "{anew}");
    assert!(anew["resolved_at"].as_str() > resolved["resolved_at"].as_str(), "{anew}");

    // What pauses comes back like what fails: the same run, resumed, is paused by it again.
    g.post(&format!("{odd_at}/resolve"), json!({})).await;
    g.advance(Duration::from_secs(1));
    g.post(&format!("/v1/runs/{odd}/resume"), json!({})).await;
    g.eventually("it is back", async |g| {
        g.advance(Duration::from_millis(300));
        g.call("GET", &odd_at, None).await.1["returned_at"].is_string()
    })
    .await;
    g.eventually("and listed", async |g| {
        g.advance(Duration::from_millis(300));
        g.call("GET", &odd_at, None).await.1["state"] == "open"
    })
    .await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ignored_stays_so_and_what_is_marked_outlives_its_runs() {
    let g = Gateway::start().await;
    let handler = Handler::serve(as_told).await;
    g.register(&handler, json!(["f"])).await;
    let mut runs = Vec::new();
    for code in ["Noise", "Mended", "Plain"] {
        runs.push(fails(&g, code, false).await);
    }
    let noise = format!("/v1/errors/{}", print(&kind_of(&g, "Noise").await));
    let mended = format!("/v1/errors/{}", print(&kind_of(&g, "Mended").await));
    let plain = format!("/v1/errors/{}", print(&kind_of(&g, "Plain").await));
    let ignored = g.post(&format!("{noise}/ignore"), json!({"reason": "known"})).await;
    assert_eq!(
        (&ignored["state"], &ignored["reason"], &ignored["resolved_at"]),
        (&json!("ignored"), &json!("known"), &Value::Null),
        "{ignored}"
    );
    assert!(ignored["ignored_at"].is_string() && ignored["ignored_by"].is_string(), "{ignored}");
    g.post(&format!("{mended}/resolve"), json!({})).await;
    g.post(&format!("{plain}/reopen"), json!({})).await;
    g.advance(Duration::from_secs(1));
    runs.push(fails(&g, "Noise", false).await);
    let still = g.get(&noise).await;
    assert_eq!((&still["state"], &still["returned_at"]), (&json!("ignored"), &Value::Null));
    assert_eq!(codes(&g, "state=ignored").await, ["Noise"]);
    assert_eq!(codes(&g, "state=open&function=f").await, ["Plain"]);

    // A run that failed before a kind was resolved does not bring it back, though it is recorded later.
    let which = print(&still).parse().expect("a UUID");
    let at = g.engine.now() + Duration::from_mins(1);
    let mark = ErrorMark { state: 1, at, by: "ahead", reason: None };
    assert!(g.db.store.mark_error(1, which, mark).await.expect("it is there"));
    runs.push(fails(&g, "Noise", false).await);
    assert_eq!(g.get(&noise).await["state"], "resolved");
    g.post(&format!("{noise}/ignore"), json!({"reason": "known"})).await;

    // Without a run there is nothing to see or to act on; what was made of them is kept.
    for run in &runs {
        assert_eq!(g.call("DELETE", &format!("/v1/runs/{run}"), None).await.0, 204, "{run}");
    }
    g.advance(Duration::from_secs(1));
    g.db.store.trim(g.engine.now(), g.engine.now()).await.expect("what is old goes");
    for at in [&noise, &mended, &plain] {
        assert_eq!(g.refused("GET", at, None).await.1, "error-not-found");
        let act = format!("{at}/ignore");
        assert_eq!(g.refused("POST", &act, Some(json!({}))).await.1, "error-not-found");
    }
    for code in ["Noise", "Mended", "Plain"] {
        fails(&g, code, false).await;
    }
    kind_of(&g, "Plain").await;
    assert_eq!(g.get(&noise).await["state"], "ignored");
    let back = g.get(&mended).await;
    assert_eq!(back["state"], "open", "{back}");
    assert!(back["resolved_at"].as_str() < back["returned_at"].as_str(), "{back}");
    let anew = g.get(&plain).await;
    assert!(
        anew["first_seen"].as_str() > back["first_seen"].as_str(),
        "forgotten meanwhile: {anew}"
    );
    let open = g.post(&format!("{noise}/reopen"), json!({})).await;
    assert_eq!((&open["state"], &open["ignored_at"]), (&json!("open"), &Value::Null));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_on_errors_say_what_is_wrong_with_them_and_stay_in_their_namespace() {
    let g = Gateway::closed().await;
    let root = operator(&g).await;
    let handler = Handler::serve(as_told).await;
    let endpoint =
        json!({"name": "e", "url": handler.url, "functions": [{"name": "f"}], "discover": false});
    let mut tenants = Vec::new();
    for name in ["shop", "other"] {
        root.done("POST", "/v1/namespaces", json!({"name": name})).await;
        let tenant = tenant(&root, name).await;
        tenant.done("POST", "/v1/endpoints", endpoint.clone()).await;
        tenants.push(tenant);
    }
    // Alike in both, so that the fingerprint is the same.
    let failing = json!({"input": {"code": "Declined"}});
    for tenant in &tenants {
        tenant.done("POST", "/v1/functions/f/runs?wait=20s", failing.clone()).await;
    }
    let at = |rest: &str, print: &str| format!("/v1/errors/{print}{rest}");
    let [shop, other] = &tenants[..] else { panic!("two") };
    let list = shop.done("GET", "/v1/errors", Value::Null).await;
    let kind = print(&list["data"][0]);
    g.advance(Duration::from_secs(1));
    shop.done("POST", &at("/resolve", &kind), json!({"reason": "mended"})).await;
    g.advance(Duration::from_secs(1));
    other.done("POST", "/v1/functions/f/runs?wait=20s", failing.clone()).await;
    assert_eq!(shop.done("GET", &at("", &kind), Value::Null).await["state"], "resolved");
    let theirs = other.done("GET", &at("", &kind), Value::Null).await;
    assert_eq!((&theirs["state"], &theirs["returned_at"]), (&json!("open"), &Value::Null));
    other.done("POST", &at("/ignore", &kind), json!({})).await;
    shop.done("POST", "/v1/functions/f/runs?wait=20s", failing).await;
    let ours = shop.done("GET", &at("", &kind), Value::Null).await;
    assert!(ours["state"] == "open" && ours["returned_at"].is_string(), "{ours}");
    assert_eq!(other.done("GET", &at("", &kind), Value::Null).await["state"], "ignored");

    // Who did it and why is in the log of the namespace.
    let log = shop
        .done("GET", "/v1/audit?action=POST%20/v1/errors/%7Bfingerprint%7D/resolve", Value::Null)
        .await;
    assert_eq!(log["data"].as_array().map(Vec::len), Some(1), "{log}");
    assert_eq!(
        (&log["data"][0]["reason"], &log["data"][0]["status"]),
        (&json!("mended"), &json!(200)),
        "{log}"
    );
    assert_eq!(log["data"][0]["by"], ours["resolved_by"], "{log}");

    // What is wrong is said.
    let unknown = "00000000000000000000000000000000";
    for act in ["/resolve", "/ignore", "/reopen"] {
        for what in [unknown, "nonsense"] {
            let (status, code) = shop.refused("POST", &at(act, what), json!({})).await;
            assert_eq!((status, code.as_str()), (404, "error-not-found"), "{act} {what}");
        }
        let long = json!({"reason": "x".repeat(1025)});
        let (status, code) = shop.refused("POST", &at(act, &kind), long).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{act}");
    }
    let (status, code) = shop.refused("GET", "/v1/errors?state=closed", Value::Null).await;
    assert_eq!((status, code.as_str()), (400, "invalid-query"));
    let reader = json!({"name": "reader", "scopes": ["runs:read"]});
    let reader = shop.done("POST", "/v1/keys", reader).await;
    let bearer = format!("Bearer {}", reader["secret"].as_str().expect("a key"));
    let headers = [("authorization", bearer.as_str())];
    let path = at("/resolve", &kind);
    assert_eq!(g.raw("POST", &path, &headers, Some("{}".to_owned())).await.0, 403);
    assert_eq!(g.raw("GET", &at("", &kind), &headers, None).await.0, 200);

    // With the namespace goes what was made of its errors: they are kept no longer than its runs.
    other.done("DELETE", "/v1/endpoints/e", Value::Null).await;
    root.done("DELETE", "/v1/namespaces/other", Value::Null).await;
    assert_eq!(g.db.number("select count(*) from stepwell.errors where state = 2").await, 0);
    g.close().await;
}
