//! Errors by their kind: which runs are alike, how many there are, and what is done about all of them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, Handler};

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
