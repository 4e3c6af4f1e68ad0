//! Starts, signals and events from a user's own transaction.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use stepwell::engine::{CRASH_AT, Point};

use crate::cluster::Cluster;
use crate::gateway::{Gateway, Handler, settled};

const PAGE: &str = include_str!("../../docs/sql.md");

pub async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("the database is there")
}

pub async fn run_sql(conn: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The one text that a statement gives.
pub async fn text(conn: &mut PgConnection, sql: &str) -> String {
    let row = conn.fetch_one(AssertSqlSafe(sql.to_owned())).await;
    row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
}

/// The SQLSTATE, message and detail with which a statement is refused.
async fn refused(conn: &mut PgConnection, sql: &str) -> (String, String, String) {
    let error = conn.execute(AssertSqlSafe(sql.to_owned())).await.expect_err(sql);
    let error = error.into_database_error().expect("Postgres says so");
    let code = error.code().unwrap_or_default().into_owned();
    let detail = error
        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .and_then(|e| e.detail())
        .unwrap_or_default()
        .to_owned();
    (code, error.message().to_owned(), detail)
}

/// Ends when it is told to.
async fn waiter() -> Handler {
    Handler::serve(|it| {
        if settled(it, "go") {
            json!({"result": [it["input"], it["steps"]["go"]["value"]]})
        } else {
            json!({"ops": [{"op": "signal", "id": "go", "name": "go"}], "await": "go"})
        }
    })
    .await
}

fn blocks(page: &str) -> Vec<&str> {
    page.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_about_sql_does_what_it_says_with_its_grants_alone() {
    let g = Gateway::start().await;
    let handler = Handler::serve(|it| {
        if settled(it, "p") || it["function"] == "mail" {
            json!({"result": it["input"]})
        } else {
            json!({"ops": [{"op": "signal", "id": "p", "name": "paid"}], "await": "p"})
        }
    })
    .await;
    let mail = json!({"name": "mail", "triggers": [{"event": "order.created"}]});
    g.register(&handler, json!(["checkout", mail])).await;
    let [grants, example] = blocks(PAGE)[..] else { panic!("grants and an example") };
    let mut owner = connect(&g.db.url).await;
    run_sql(&mut owner, grants).await;
    run_sql(
        &mut owner,
        "create table public.orders (id bigint, total numeric); grant all on public.orders to shop",
    )
    .await;
    let mut shop = connect(&g.db.url).await;
    run_sql(&mut shop, "set role shop; set search_path = public").await;
    run_sql(&mut shop, example).await;
    let listed = async |function: &str| {
        let runs = g.get(&format!("/v1/runs?function={function}&status=completed")).await;
        runs["data"].as_array().expect("a list").clone()
    };
    g.eventually("both have run", async |_| {
        listed("checkout").await.len() == 1 && listed("mail").await.len() == 1
    })
    .await;
    let run = &listed("checkout").await[0];
    assert_eq!((&run["key"], &run["tags"]), (&json!("order-42"), &json!({"customer": "c7"})));
    let again = "select stepwell.publish_event('order.created', '1', id => 'order-42')";
    let event = text(&mut shop, again).await;
    let event = g.get(&format!("/v1/events/{event}")).await;
    assert_eq!((&event["data"], &event["source"]), (&json!({"order": 42}), &json!("sql")));
    // Nothing but those functions.
    for sql in [
        "select * from stepwell.sql_requests",
        "select * from stepwell.journal",
        "delete from stepwell.run_keys",
        "insert into stepwell.sql_requests (id, kind, ns, by, name, body) values (gen_random_uuid(), 1, 1, 'x', 'checkout', '1')",
        "select stepwell.sql_id(0)",
    ] {
        assert_eq!(refused(&mut shop, sql).await.0, "42501", "{sql}");
    }
    assert_eq!(g.db.number("select count(*) from sql_requests").await, 0);
    g.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_never_happened_and_an_open_transaction_keeps_nobody() {
    let g = Gateway::start().await;
    let handler = waiter().await;
    g.register(&handler, json!(["f", {"name": "account", "kind": "object"}])).await;
    let (mut one, mut two) = (connect(&g.db.url).await, connect(&g.db.url).await);
    // The first to call is the last to commit, and asked for a key that another has by then.
    run_sql(&mut one, "begin").await;
    let open = text(
        &mut one,
        r#"select stepwell.start_run('f', '{"n": 3544790567247868102,  "f": 1.0}')"#,
    )
    .await;
    let loser = text(&mut one, "select stepwell.start_run('f', key => 'k')").await;
    run_sql(&mut two, "begin").await;
    let never = text(&mut two, "select stepwell.start_run('f')").await;
    let lost = text(&mut two, &format!("select stepwell.send_signal('{never}', 'go')")).await;
    assert_eq!(lost, never);
    run_sql(&mut two, "rollback").await;
    let mut done = Vec::new();
    for n in 0..3 {
        let run = text(&mut two, &format!("select stepwell.start_run('f', '{n}')")).await;
        text(&mut two, &format!("select stepwell.send_signal('{run}', 'go', '[{n}]')")).await;
        done.push(run);
    }
    let there = async |run: &str| g.call("GET", &format!("/v1/runs/{run}"), None).await.0 == 200;
    for (n, run) in done.iter().enumerate() {
        g.eventually("it starts", async |_| there(run).await).await;
        assert_eq!(g.status(run, "completed").await["output"], json!([n, [n]]));
    }
    let winner =
        text(&mut two, "select stepwell.start_run('f', key => 'k', delay => '1h', priority => 3)")
            .await;
    g.eventually("it starts", async |_| there(&winner).await).await;
    g.status(&winner, "scheduled").await;
    assert!(!there(&open).await && !there(&never).await);
    // Who has the key can be seen now.
    let (code, message, detail) =
        refused(&mut two, "select stepwell.start_run('f', key => 'k')").await;
    assert_eq!((code.as_str(), detail.as_str()), ("SW409", winner.as_str()), "{message}");
    // Signals in the order of their calls, to a run that is started with them.
    let many = (0..20).map(|n| format!("select stepwell.send_signal('{open}', 'go', '{n}');"));
    run_sql(&mut one, &many.collect::<String>()).await;
    run_sql(&mut one, "commit").await;
    g.eventually("it starts", async |_| there(&open).await).await;
    let view = g.status(&open, "completed").await;
    assert_eq!(view["output"][1], 0);
    let (_, _, raw) = g.raw("GET", &format!("/v1/runs/{open}"), &[], None).await;
    let raw = String::from_utf8(raw.to_vec()).expect("UTF-8");
    assert!(raw.contains(r#"{"n": 3544790567247868102,  "f": 1.0}"#), "{raw}");
    let signals = g.get(&format!("/v1/runs/{open}/signals")).await;
    assert_eq!(signals["data"].as_array().map(Vec::len), Some(20), "{signals}");
    let view = g.status(&loser, "failed").await;
    assert_eq!(
        (&view["error"]["type"], &view["error"]["data"]["run"]),
        (&json!("duplicate-key"), &json!(winner))
    );
    assert_eq!(view["key"], "k");
    // A second start of one transaction is in its own way.
    run_sql(&mut one, "begin; select stepwell.start_run('f', key => 'twice')").await;
    let second = text(&mut one, "select stepwell.start_run('f', key => 'twice')").await;
    run_sql(&mut one, "commit").await;
    g.eventually("it is there", async |_| there(&second).await).await;
    g.status(&second, "failed").await;
    // Of an object there may be many, and what is no object's start says so.
    let first = text(&mut one, "select stepwell.start_run('account', key => 'ann')").await;
    let next = text(&mut one, "select stepwell.start_run('account', key => 'ann')").await;
    let odd = text(&mut one, "select stepwell.start_run('account')").await;
    g.eventually("they are there", async |_| there(&odd).await).await;
    assert_eq!(g.status(&odd, "failed").await["error"]["type"], "start-refused");
    for run in [&first, &next] {
        g.status(run, "waiting").await;
        text(&mut one, "select stepwell.send_signal_to_key('account', 'ann', 'go')").await;
        g.status(run, "completed").await;
    }
    // What comes too late is told to the run.
    run_sql(&mut one, "begin").await;
    let late = g.run("f", json!({})).await;
    g.status(&late, "waiting").await;
    text(&mut one, &format!("select stepwell.send_signal('{late}', 'more')")).await;
    g.signal(&late, "go", json!(1)).await;
    g.status(&late, "completed").await;
    run_sql(&mut one, "commit").await;
    let history = format!("/v1/runs/{late}/history");
    g.eventually("it is told", async |g| g.get(&history).await.to_string().contains("signal.late"))
        .await;
    for (sql, code) in [
        ("select stepwell.start_run('nobody')", "SW404"),
        ("select stepwell.start_run('f', namespace => 'nowhere')", "SW404"),
        ("select stepwell.start_run('f', key => '')", "22023"),
        ("select stepwell.start_run('f', tags => '[1]')", "22023"),
        ("select stepwell.start_run('f', priority => 101)", "22023"),
        ("select stepwell.start_run('f', delay => '1h', start_at => now())", "22023"),
        ("select stepwell.start_run('f', to_json(repeat('x', 1048577)))", "22023"),
        ("select stepwell.send_signal('run_1', 'go')", "22023"),
        ("select stepwell.send_signal('run_01k9c3v5h2e8x8p0m4s6t7w9yz', 'go')", "SW410"),
        ("select stepwell.send_signal_to_key('f', 'nobody', 'go')", "SW404"),
        ("select stepwell.publish_event('')", "22023"),
    ] {
        assert_eq!(refused(&mut one, sql).await.0, code, "{sql}");
    }
    g.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_between_taking_and_starting_loses_and_doubles_nothing() {
    let handler = waiter().await;
    let mut cluster = Cluster::start(2).await;
    cluster.register(&handler.url, &["f"]).await;
    let mut conn = connect(&cluster.db.url).await;
    let mut runs: Vec<String> = Vec::new();
    for point in [Point::SqlBefore, Point::SqlAfter] {
        cluster.nodes[0].kill();
        cluster.nodes[0].start_with(&[(CRASH_AT, &format!("{}:2", point.word()))]);
        cluster.ready(&cluster.nodes[0].url.clone()).await;
        let begun = std::time::Instant::now();
        while cluster.nodes[0].runs() {
            assert!(begun.elapsed() < Duration::from_mins(1), "{} is never reached", point.word());
            run_sql(&mut conn, "begin").await;
            for _ in 0..2 {
                let run = text(&mut conn, "select stepwell.start_run('f')").await;
                text(&mut conn, &format!("select stepwell.send_signal('{run}', 'go', '1')")).await;
                runs.push(run);
            }
            run_sql(&mut conn, "commit").await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cluster.nodes[0].kill();
    }
    for run in &runs {
        let view: Value = cluster.status(1, run, "completed").await;
        assert_eq!(view["output"], json!([null, 1]));
        let signals = cluster.call(1, "GET", &format!("/v1/runs/{run}/signals"), None).await.1;
        assert_eq!(signals["data"].as_array().map(Vec::len), Some(1), "{signals}");
    }
    assert_eq!(
        cluster.db.number("select count(*) from journal where n = 0").await,
        i64::try_from(runs.len()).expect("few")
    );
    assert_eq!(cluster.db.number("select count(*) from sql_requests").await, 0);
    assert_eq!(cluster.audit().await, Vec::<String>::new());
}
