//! Schedules: what they start, when, and what they do when runs overlap, nodes die, people step in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stepwell::engine::{CRASH_AT, Point};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;
use crate::gateway::{Answer, Gateway, Handler, moment};

const MINUTE: Duration = Duration::from_secs(60);

async fn create(g: &Gateway, schedule: Value) -> Value {
    let (status, made) = g.call("POST", "/v1/schedules", Some(schedule)).await;
    assert_eq!(status, 201, "{made}");
    made
}

async fn schedule(g: &Gateway, name: &str) -> Value {
    g.get(&format!("/v1/schedules/{name}")).await
}

/// Waits until so many moments of a schedule have come to something; the schedule.
async fn settled(g: &Gateway, name: &str, moments: u64) -> Value {
    g.eventually(&format!("{moments} moments of {name}"), async |g| {
        decided(&schedule(g, name).await) >= moments
    })
    .await;
    let at = schedule(g, name).await;
    assert_eq!(decided(&at), moments, "{at}");
    at
}

fn decided(at: &Value) -> u64 {
    let counts = &at["counts"];
    let skipped = counts["skipped"].as_object().expect("an object").values();
    let skipped: u64 = skipped.filter_map(Value::as_u64).sum();
    let number = |v: &Value| v.as_u64().expect("a number");
    number(&counts["started"]) + number(&counts["missed"]) + skipped + number(&at["waiting"])
}

/// What became of the last moments, the oldest first: `started`, or why not.
fn outcomes(at: &Value) -> Vec<String> {
    let recent = at["recent"].as_array().expect("a list").iter().rev();
    let word = |r: &Value| {
        let reason = r["reason"].as_str().or(r["outcome"].as_str());
        reason.expect("an outcome").to_owned()
    };
    recent.map(word).collect()
}

async fn runs(g: &Gateway, at: &Value) -> Vec<Value> {
    let page = g.get(&format!("/v1/runs?schedule={}", at["id"].as_str().expect("an id"))).await;
    let mut runs = page["data"].as_array().expect("a list").clone();
    runs.reverse();
    runs
}

async fn done(g: &Gateway, at: &Value, count: usize) -> Vec<Value> {
    g.eventually("all runs have ended", async |g| {
        let runs = runs(g, at).await;
        runs.len() == count && runs.iter().all(|r| !r["ended_at"].is_null())
    })
    .await;
    runs(g, at).await
}

/// A handler that answers with what its run knows of its schedule.
async fn echo() -> Handler {
    Handler::serve(|it| json!({"result": {"input": it["input"], "of": it["run"]["schedule"]}}))
        .await
}

/// A handler whose runs end when the gate has a permit for them.
async fn gated() -> (Handler, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let own = Arc::clone(&gate);
    let handler = Handler::serve(move |_| Answer::held(&own, json!({"result": null}))).await;
    (handler, gate)
}

// P2.32
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_starts_runs_and_tells_them_what_they_are_for() {
    let g = Gateway::start().await;
    let handler = echo().await;
    g.register(&handler, json!(["report"])).await;
    let made = create(
        &g,
        json!({"name": "minutely", "function": "report", "every": "1m",
            "input": {"n": 3_544_790_567_247_868_102_i64}, "tags": {"team": "a"}}),
    )
    .await;
    assert_eq!((&made["state"], &made["overlap"]), (&json!("active"), &json!("skip")), "{made}");
    let next: Vec<&Value> = made["next"].as_array().expect("a list").iter().collect();
    assert_eq!((next.len(), &next[0]["time"]), (5, &json!(g.moment(60))), "{made}");
    g.advance(Duration::from_millis(59_999));
    g.advance(Duration::from_millis(1));
    let first = done(&g, &made, 1).await[0].clone();
    settled(&g, "minutely", 1).await;
    let view = g.get(&format!("/v1/runs/{}", first["id"].as_str().expect("an id"))).await;
    let id = made["id"].as_str().expect("an id");
    assert_eq!(view["key"], json!(format!("{id}/{}", g.moment(60))), "{view}");
    let of =
        json!({"id": id, "name": "minutely", "time": g.moment(60), "by": "schedule", "last": null});
    assert_eq!(view["schedule"], of, "{view}");
    assert_eq!(
        view["output"],
        json!({"input": {"n": 3_544_790_567_247_868_102_i64}, "of": of}),
        "{view}"
    );
    assert_eq!((&view["tags"]["team"], &first["schedule"]), (&json!("a"), &json!(id)), "{first}");

    // The next one is told what the last one came to.
    g.eventually("the end is known", async |g| !schedule(g, "minutely").await["last"].is_null())
        .await;
    g.advance(MINUTE);
    let second = done(&g, &made, 2).await[1].clone();
    let view = g.get(&format!("/v1/runs/{}", second["id"].as_str().expect("an id"))).await;
    let passed = &view["schedule"]["last"];
    assert_eq!((&passed["run"], &passed["output"]["of"]), (&first["id"], &of), "{view}");
    let at = settled(&g, "minutely", 2).await;
    g.eventually("it knows both ends", async |g| {
        let at = schedule(g, "minutely").await;
        at["recent"]
            .as_array()
            .is_some_and(|all| all.iter().all(|r| r["run_status"] == "completed"))
    })
    .await;
    assert_eq!(outcomes(&at), ["started", "started"]);
    assert_eq!(at["next"][0]["time"], json!(g.moment(180)), "{at}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_does_what_it_says_where_runs_overlap() {
    for (overlap, moments, by_then) in [
        ("skip", 3, vec!["started", "overlap", "overlap"]),
        ("buffer_one", 3, vec!["started", "waiting", "buffer-full"]),
        ("buffer_all", 3, vec!["started", "waiting", "waiting"]),
        ("cancel_other", 3, vec!["started", "replaced", "waiting"]),
        ("terminate_other", 1, vec!["started"]),
        ("allow_all", 3, vec!["started", "started", "started"]),
    ] {
        let g = Gateway::start().await;
        let (handler, gate) = gated().await;
        g.register(&handler, json!(["f"])).await;
        // Who is cancelled has 30 s to compensate: the third moment comes before they are over.
        let pace: u64 = if overlap == "cancel_other" { 20 } else { 60 };
        let every = format!("{pace}s");
        let mut made = json!({"name": "s", "function": "f", "every": every, "overlap": overlap});
        if overlap == "cancel_other" {
            made["end_at"] = json!(g.moment(3 * pace));
        }
        let made = create(&g, made).await;
        for n in 1..=moments {
            g.advance(Duration::from_secs(pace));
            settled(&g, "s", n).await;
            if n == 1 {
                g.invoked(&handler, 1).await;
            }
        }
        let at = schedule(&g, "s").await;
        assert_eq!(outcomes(&at), by_then, "{overlap}: {at}");
        let statuses = |runs: &[Value]| -> Vec<String> {
            runs.iter().map(|r| r["status"].as_str().unwrap_or_default().to_owned()).collect()
        };
        match overlap {
            "skip" => {
                gate.add_permits(1);
                assert_eq!(statuses(&done(&g, &made, 1).await), ["completed"]);
                g.eventually("the end is known", async |g| {
                    schedule(g, "s").await["running"] == json!([])
                })
                .await;
                gate.add_permits(1);
                g.advance(MINUTE);
                done(&g, &made, 2).await;
            }
            "buffer_one" => {
                gate.add_permits(2);
                done(&g, &made, 2).await;
                assert_eq!(schedule(&g, "s").await["waiting"], 0);
            }
            "buffer_all" => {
                gate.add_permits(3);
                let runs = done(&g, &made, 3).await;
                let one_by_one = runs
                    .windows(2)
                    .all(|w| moment(&w[0]["ended_at"]) <= moment(&w[1]["created_at"]));
                assert!(one_by_one, "{runs:?}");
            }
            "cancel_other" => {
                // The handler, which knows nothing of the cancel, answers.
                handler.now(|it| {
                    let cancelled = json!({"error": {"type": "cancelled", "message": "so"}});
                    if it["cancel"].is_null() { json!({"result": 1}) } else { cancelled }
                });
                gate.add_permits(1);
                // No further moment comes, however long it takes.
                g.eventually("the first is over", async |g| {
                    g.advance(Duration::from_secs(31));
                    statuses(&runs(g, &made).await).first().is_some_and(|s| s == "cancelled")
                })
                .await;
                let runs = done(&g, &made, 2).await;
                let ended = statuses(&runs);
                assert_eq!(ended[1], "completed", "{runs:?}");
                assert_eq!(
                    runs[1]["key"].as_str().map(|k| k.ends_with(&g.moment(3 * pace))),
                    Some(true)
                );
            }
            "terminate_other" => {
                g.advance(MINUTE);
                g.eventually("the first is terminated", async |g| {
                    statuses(&runs(g, &made).await).first().is_some_and(|s| s == "terminated")
                })
                .await;
                gate.add_permits(9);
                let runs = done(&g, &made, 2).await;
                assert_eq!(statuses(&runs), ["terminated", "completed"]);
            }
            _ => {
                gate.add_permits(3);
                done(&g, &made, 3).await;
            }
        }
        g.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_due_while_nobody_was_there_is_caught_up_with_inside_the_window() {
    let g = Gateway::start().await;
    let handler = echo().await;
    g.register(&handler, json!(["f"])).await;
    let made = create(
        &g,
        json!({"name": "s", "function": "f", "every": "1m", "overlap": "allow_all",
            "catchup_window": "150s"}),
    )
    .await;
    let (clock, begun) = (g.clock.clone(), g.moment(0));
    let db = g.kill().await;
    // Nobody for five minutes: 1 and 2 are too late by then, 3 to 5 are not.
    clock.advance(5 * MINUTE);
    let g = Gateway::at(db, stepwell::machine::Limits::default(), clock).await;
    let runs = done(&g, &made, 3).await;
    let id = made["id"].as_str().expect("an id");
    let begun: stepwell::machine::Timestamp = begun.parse().expect("a time");
    let keys: Vec<String> = (3..=5u32).map(|n| format!("{id}/{}", begun + n * MINUTE)).collect();
    let mut got: Vec<&str> = runs.iter().filter_map(|r| r["key"].as_str()).collect();
    // Of one millisecond, their ids have no order.
    got.sort_unstable();
    assert_eq!(got, keys);
    let at = settled(&g, "s", 5).await;
    assert_eq!((&at["counts"]["missed"], &at["counts"]["started"]), (&json!(2), &json!(3)), "{at}");
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_pause_resume_trigger_and_backfill() {
    let g = Gateway::start().await;
    let handler = echo().await;
    g.register(&handler, json!(["f"])).await;
    let made = create(&g, json!({"name": "s", "function": "f", "every": "1m"})).await;
    let paused = g.post("/v1/schedules/s/pause", json!({"note": "a holiday"})).await;
    assert_eq!(
        (&paused["state"], &paused["paused"]["note"]),
        (&json!("paused"), &json!("a holiday"))
    );
    g.advance(3 * MINUTE);
    let triggered = g.post("/v1/schedules/s/trigger", json!({})).await;
    assert_eq!(triggered["outcome"], "started", "{triggered}");
    let run = g.status(triggered["run"].as_str().expect("a run"), "completed").await;
    assert_eq!(run["schedule"]["by"], "trigger", "{run}");
    g.eventually("the end is known", async |g| schedule(g, "s").await["running"] == json!([]))
        .await;
    let resumed = g.post("/v1/schedules/s/resume", json!({})).await;
    assert_eq!(
        (&resumed["state"], &resumed["next"][0]["time"]),
        (&json!("active"), &json!(g.moment(240)))
    );
    done(&g, &made, 1).await;
    g.advance(MINUTE);
    done(&g, &made, 2).await;

    // What went by while it was paused, and once more the one that has had a run, which it is not.
    let range = json!({"start": g.moment(60), "end": g.moment(240)});
    let (status, begun) = g.call("POST", "/v1/schedules/s/backfill", Some(range.clone())).await;
    assert_eq!(status, 202, "{begun}");
    let runs = done(&g, &made, 5).await;
    // Of one millisecond, their ids have no order.
    let keys = runs.iter().filter_map(|r| r["key"].as_str()?.split_once('/')).map(|(_, m)| m);
    let mut moments: Vec<&str> = keys.filter(|m| !m.starts_with("trigger/")).collect();
    moments.sort_unstable();
    assert_eq!(moments, [60, 120, 180, 240].map(|n| g.moment(n)));
    g.eventually("the backfill is over", async |g| {
        schedule(g, "s").await["backfills"] == json!([])
    })
    .await;
    let at = schedule(&g, "s").await;
    assert_eq!(at["counts"], json!({"started": 5, "missed": 0, "skipped": {"already": 1}}), "{at}");
    let again = json!({"start": g.moment(240), "end": g.moment(240), "again": true});
    g.post("/v1/schedules/s/backfill", again).await;
    done(&g, &made, 6).await;
    for wrong in [
        json!({"start": g.moment(60), "end": g.moment(10_000)}),
        json!({"start": g.moment(60), "end": g.moment(0)}),
        json!({"start": g.moment(60)}),
        json!({"start": g.moment(60), "end": g.moment(60), "overlap": "skip"}),
    ] {
        let (status, ..) = g.refused("POST", "/v1/schedules/s/backfill", Some(wrong)).await;
        assert_eq!(status, 422);
    }
    let (status, _) = g.call("DELETE", "/v1/schedules/s", None).await;
    assert_eq!(status, 204);
    let (status, code, _) = g.refused("GET", "/v1/schedules/s", None).await;
    assert_eq!((status, code.as_str()), (404, "schedule-not-found"));
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_ends_by_its_limit_and_pauses_when_a_run_fails() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if it["run"]["schedule"]["name"] == "fails" {
            json!({"error": {"type": "Boom", "message": "it broke", "retry": "never"}})
        } else {
            json!({"result": 1})
        }
    })
    .await;
    g.register(&handler, json!(["f"])).await;
    let limited = json!({"name": "twice", "function": "f", "every": "1m", "limited_actions": 2});
    let limited = create(&g, limited).await;
    let fails = json!({"name": "fails", "function": "f", "every": "1m", "pause_on_failure": true});
    let fails = create(&g, fails).await;
    for n in 1..=4 {
        g.advance(MINUTE);
        let due = n.min(2);
        done(&g, &limited, due).await;
        g.eventually("the ends are known", async |g| {
            let ends = |at: &Value| at["running"] == json!([]) && !at["last"].is_null();
            ends(&schedule(g, "twice").await) && ends(&schedule(g, "fails").await)
        })
        .await;
    }
    let at = schedule(&g, "twice").await;
    assert_eq!((&at["state"], &at["remaining_actions"]), (&json!("finished"), &json!(0)), "{at}");
    let at = schedule(&g, "fails").await;
    let note = at["paused"]["note"].as_str().expect("a note");
    assert!(note.contains("failed: Boom: it broke"), "{at}");
    assert_eq!((&at["paused"]["by"], &at["last"]["status"]), (&json!("gateway"), &json!("failed")));
    done(&g, &fails, 1).await;
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_changed_by_version_and_what_is_wrong_is_named() {
    let g = Gateway::start().await;
    let handler = echo().await;
    g.register(&handler, json!(["f"])).await;
    let body = json!({"name": "s", "function": "f", "cron": "TZ=Europe/Paris 0 9 * * 1-5"});
    let made = create(&g, body.clone()).await;
    assert_eq!(
        (&made["cron"], &made["time_zone"]),
        (&json!("0 9 * * 1-5"), &json!("Europe/Paris"))
    );
    // Again is once; another of the name is refused.
    let (status, same) = g.call("POST", "/v1/schedules", Some(body.clone())).await;
    assert_eq!((status, &same["id"]), (200, &made["id"]), "{same}");
    let mut other = body.clone();
    other["jitter"] = json!("1m");
    let (status, code, problem) = g.refused("POST", "/v1/schedules", Some(other)).await;
    assert_eq!(
        (status, code.as_str(), &problem["schedule"]),
        (409, "schedule-exists", &made["id"])
    );

    let change = Some(json!({"jitter": "5m", "overlap": "buffer_one"}).to_string());
    let stale = [("if-match", "\"7\"")];
    let (status, ..) = g.raw("PATCH", "/v1/schedules/s", &stale, change.clone()).await;
    assert_eq!(status, 412);
    let fresh = [("if-match", "\"1\"")];
    let (status, headers, _) = g.raw("PATCH", "/v1/schedules/s", &fresh, change).await;
    assert_eq!((status, headers["etag"].to_str().expect("text")), (200, "\"2\""));
    let (_, at) = g.call("PATCH", "/v1/schedules/s", Some(json!({"jitter": null}))).await;
    assert_eq!(
        (&at["jitter"], &at["overlap"], &at["cron"]),
        (&json!("0s"), &json!("buffer_one"), &made["cron"])
    );
    let (_, at) = g.call("PATCH", "/v1/schedules/s", Some(json!({"every": "1h"}))).await;
    assert_eq!((&at["cron"], &at["every"]), (&Value::Null, &json!("3600s")), "{at}");
    // The whole of it, under its name; and one that was not there.
    let whole = json!({"function": "f", "cron": "@daily", "time_zone": "America/New_York"});
    let (status, at) = g.call("PUT", "/v1/schedules/s", Some(whole.clone())).await;
    assert_eq!((status, &at["overlap"], &at["id"]), (200, &json!("skip"), &made["id"]), "{at}");
    // Another hour in the same zone, until the zone is taken away.
    for (change, zone) in [
        (json!({"cron": "0 5 * * *"}), "America/New_York"),
        (json!({"cron": "TZ=Asia/Tokyo 0 5 * * *"}), "Asia/Tokyo"),
        (json!({"cron": "0 6 * * *", "time_zone": null}), "UTC"),
    ] {
        let (status, at) = g.call("PATCH", "/v1/schedules/s", Some(change)).await;
        assert_eq!((status, &at["time_zone"]), (200, &json!(zone)), "{at}");
    }
    g.advance(Duration::from_millis(1));
    let (status, new) = g.call("PUT", "/v1/schedules/t", Some(whole)).await;
    assert_eq!((status, &new["name"]), (201, &json!("t")));
    let page = g.get("/v1/schedules?limit=1").await;
    assert_eq!(page["data"][0]["name"], "s", "{page}");
    let cursor = page["next_cursor"].as_str().expect("there is more");
    let page = g.get(&format!("/v1/schedules?limit=1&cursor={cursor}")).await;
    assert_eq!((&page["data"][0]["name"], &page["next_cursor"]), (&json!("t"), &Value::Null));
    assert_eq!(g.get("/v1/schedules?q=T").await["data"].as_array().map(Vec::len), Some(1));
    let coming = g.get("/v1/schedules/t/next?limit=3&after=2026-03-07T12:00:00Z").await;
    let times: Vec<&Value> =
        coming["data"].as_array().expect("a list").iter().map(|m| &m["time"]).collect();
    assert_eq!(
        times,
        ["2026-03-08T05:00:00.000Z", "2026-03-09T04:00:00.000Z", "2026-03-10T04:00:00.000Z"]
    );

    for (wrong, pointer, said) in [
        (json!({"cron": "61 * * * *"}), "#/cron", "minute: 61 is not between 0 and 59"),
        (json!({"cron": "0 0 9 * * *"}), "#/cron", "seconds"),
        (json!({"cron": "0 9 * * *", "time_zone": "Paris"}), "#/time_zone", "`Paris`"),
        (json!({"cron": "0 9 * * *", "every": "1m"}), "#/every", "one of them"),
        (json!({}), "#/cron", "is needed"),
        (json!({"every": "10ms"}), "#/every", "a second"),
        (json!({"every": "1m", "time_zone": "UTC"}), "#/time_zone", "no meaning"),
        (json!({"every": "1m", "overlap": "queue"}), "#/overlap", "`buffer_one`"),
        (
            json!({"every": "1m", "overlap": "allow_all", "max_running": 2}),
            "#/max_running",
            "allow_all",
        ),
        (json!({"every": "1m", "catchup_window": "1s"}), "#/catchup_window", "10 seconds"),
        (json!({"every": "1m", "limited_actions": 0}), "#/limited_actions", "at least 1"),
        (json!({"every": "1m", "catchup": "1h"}), "#/catchup", "unknown field"),
        (json!({"every": "1m", "note": "x"}), "#/note", "paused"),
    ] {
        let mut body = json!({"name": "w", "function": "f"});
        body.as_object_mut()
            .expect("an object")
            .extend(wrong.as_object().expect("an object").clone());
        let (status, code, problem) = g.refused("POST", "/v1/schedules", Some(body)).await;
        assert_eq!((status, code.as_str()), (422, "invalid-request"), "{problem}");
        let fault = &problem["errors"][0];
        assert_eq!(fault["pointer"], pointer, "{problem}");
        assert!(fault["detail"].as_str().is_some_and(|d| d.contains(said)), "{problem}");
    }
    let nobody = json!({"name": "w", "function": "nobody", "every": "1m"});
    let (status, code, _) = g.refused("POST", "/v1/schedules", Some(nobody)).await;
    assert_eq!((status, code.as_str()), (404, "function-not-found"));
    g.close().await;
}

// P9.4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_the_moment_of_firing_doubles_and_loses_nothing() {
    for point in [Point::FireBefore, Point::FireAfter] {
        let handler = Handler::serve(|it| json!({"result": it["run"]["schedule"]["time"]})).await;
        let mut cluster = Cluster::start(2).await;
        cluster.register(&handler.url, &["f"]).await;
        cluster.balanced().await;
        for n in 0..6 {
            let body = json!({"name": format!("s{n}"), "function": "f", "every": "1s",
                "overlap": "allow_all", "limited_actions": 12});
            let (status, made) = cluster.call(1, "POST", "/v1/schedules", Some(&body)).await;
            assert_eq!(status, 201, "{made}");
        }
        cluster.nodes[0].kill();
        cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:3", point.word()))]);
        cluster
            .eventually("all have fired", async || {
                cluster.db.number("select count(*) from run_done").await >= 72
            })
            .await;
        cluster.nodes[0].kill();
        let mut of: BTreeMap<String, u32> = BTreeMap::new();
        for n in 0..6 {
            let path = format!("/v1/schedules/s{n}");
            let (_, at) = cluster.call(1, "GET", &path, None).await;
            let id = at["id"].as_str().expect("an id").to_owned();
            let path = format!("/v1/runs?limit=200&schedule={id}");
            let (_, page) = cluster.call(1, "GET", &path, None).await;
            let runs = page["data"].as_array().expect("a list");
            assert_eq!((runs.len(), &at["counts"]["missed"]), (12, &json!(0)), "{at}");
            // A moment each second, from the first on, each once.
            let mut moments: Vec<i64> = runs
                .iter()
                .map(|r| {
                    let key = r["key"].as_str().expect("a key");
                    *of.entry(key.to_owned()).or_default() += 1;
                    moment(&json!(key.split('/').nth(1).expect("a moment"))).as_millis()
                })
                .collect();
            moments.sort_unstable();
            assert!(moments.windows(2).all(|w| w[1] - w[0] == 1_000), "{moments:?}");
        }
        assert!(of.values().all(|n| *n == 1), "{of:?}");
        assert_eq!(cluster.audit().await, Vec::<String>::new());
    }
}

// P8.16
#[tokio::test(flavor = "multi_thread")]
async fn a_cron_trigger_is_a_schedule_of_the_registration() {
    let g = Gateway::start().await;
    let handler = echo().await;
    let with = |triggers: Value| json!([{"name": "f", "triggers": triggers}, {"name": "other"}]);
    let quarter = json!({"cron": "*/15 * * * *", "overlap": "allow_all", "input": {"n": 1.0}});
    let daily = json!({"cron": "TZ=Europe/Paris 0 9 * * *"});
    g.register(&handler, with(json!([quarter, daily]))).await;
    let names = async |g: &Gateway| -> Vec<(String, String)> {
        let page = g.get("/v1/schedules?function=f").await;
        let list = page["data"].as_array().expect("a list").clone();
        let text = |v: &Value| v.as_str().expect("a text").to_owned();
        list.iter().map(|s| (text(&s["name"]), text(&s["cron"]))).collect()
    };
    let both = names(&g).await;
    assert_eq!(both.len(), 2, "{both:?}");
    let (name, _) =
        both.iter().find(|(_, cron)| cron.starts_with('*')).expect("the quarter").clone();
    let path = format!("/v1/schedules/{name}");
    let at = g.get(&path).await;
    assert_eq!((&at["owned"], &at["input"]), (&json!(true), &json!({"n": 1.0})), "{at}");
    for (method, body) in [("PATCH", json!({"jitter": "1m"})), ("DELETE", json!({}))] {
        let (status, code, _) = g.refused(method, &path, Some(body)).await;
        assert_eq!((status, code.as_str()), (409, "schedule-owned"));
    }
    g.advance(15 * MINUTE);
    let run = done(&g, &at, 1).await[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(g.get(&format!("/v1/runs/{run}")).await["output"]["input"], json!({"n": 1.0}));
    // The same again, and with one more function: it is what it was, with what has come of it.
    g.register(&handler, json!([{"name": "f", "triggers": [quarter]}, {"name": "third"}])).await;
    let one = names(&g).await;
    assert_eq!(one.iter().map(|(n, _)| n).collect::<Vec<_>>(), [&name], "the daily one is gone");
    let at = g.get(&path).await;
    assert_eq!(at["counts"]["started"], 1, "{at}");
    let wrong = json!({"name": "test", "url": handler.url, "discover": false,
        "functions": [{"name": "f", "triggers": [{"cron": "0 25 * * *"}]}]});
    let (status, _, problem) = g.refused("POST", "/v1/endpoints", Some(wrong)).await;
    let detail = problem["errors"][0]["detail"].as_str().unwrap_or_default();
    assert_eq!((status, detail.contains("25 is not between 0 and 23")), (422, true), "{problem}");
    let (status, _) = g.call("DELETE", "/v1/endpoints/test?runs=cancel", None).await;
    assert_eq!((status, names(&g).await.len()), (204, 0));
    g.close().await;
}

/// The example of `docs/schedules.md`, as it stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_page_is_true() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/schedules.md"));
    let page = page.expect("the page");
    let mut blocks = page.split("```json\n").skip(1).map(|rest| {
        let json = rest.split("```").next().expect("a block");
        serde_json::from_str::<Value>(json).expect("JSON")
    });
    let (body, times) = (blocks.next().expect("the body"), blocks.next().expect("the times"));
    let g = Gateway::start().await;
    let handler = echo().await;
    g.register(&handler, json!(["report"])).await;
    create(&g, body).await;
    let coming =
        g.get("/v1/schedules/morning-report/next?limit=3&after=2026-03-27T12:00:00Z").await;
    let got: Vec<&Value> =
        coming["data"].as_array().expect("a list").iter().map(|m| &m["time"]).collect();
    assert_eq!(json!(got), times);
    for m in coming["data"].as_array().expect("a list") {
        let late = moment(&m["fires_at"]).since(moment(&m["time"]));
        assert!(late < 5 * MINUTE, "{m}");
    }
    g.close().await;
}
