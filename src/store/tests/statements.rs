//! Every statement is good SQL against the migrated schema, and the hot ones use indexes.

use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqlSafeStr as _};

use super::*;
use crate::store::retention as weeks;

const ALL: [(&str, &str); 277] = [
    ("accept", accept::ACCEPT),
    ("discard", accept::DISCARD),
    ("has message", accept::HAS_MESSAGE),
    ("answer", accept::ANSWER),
    ("reopen: done", reopen::DONE),
    ("reopen: erased", reopen::ERASED),
    ("reopen: key", reopen::KEY),
    ("reopen: row", reopen::ROW),
    ("reopen: row long", reopen::ROW_LONG),
    ("reopen: live", reopen::LIVE),
    ("reopen: gone", reopen::GONE),
    ("reopen: told", reopen::TOLD),
    ("reopen: listens", reopen::LISTENS),
    ("append single", append::SINGLE),
    ("append single long", append::SINGLE_LONG),
    ("append lean", append::LEAN),
    ("append lean long", append::LEAN_LONG),
    ("append full", append::FULL),
    ("append full long", append::FULL_LONG),
    ("append full over", append::FULL_OVER),
    ("create", create::CREATE),
    ("create keyed", create::CREATE_KEYED),
    ("create of objects", create::CREATE_OBJECT),
    ("known starts", batch::KNOWN_STARTS),
    ("any sql requests", sql::ANY),
    ("hold sql requests", sql::HOLD),
    ("take sql requests", sql::TAKE),
    ("sql starts to come", sql::TO_START),
    ("sql requests done", sql::DONE),
    ("sql requests later", sql::LATER),
    ("errors by the hour", errors::HOURLY),
    ("runs barred from locks", locks::BARRED),
    ("take locks", locks::TAKE),
    ("objects of locks", locks::OF_RUNS),
    ("states of locks", locks::STATES),
    ("who is before locks", locks::BEFORE),
    ("ensure objects", objects::ENSURE),
    ("lock objects", objects::LOCK),
    ("objects of runs", objects::OBJECTS_OF),
    ("lock runs of objects", objects::LOCK_RUNS),
    ("set fields", objects::SET),
    ("unset fields", objects::UNSET),
    ("release objects", objects::RELEASE),
    ("states", objects::STATE),
    ("holders", objects::HOLDERS),
    ("waiting for an object", objects::WAITING),
    ("clear object", objects::CLEAR),
    ("list objects", objects::LIST),
    ("standing", load::STANDING),
    ("rows", load::ROWS),
    ("rows long", load::ROWS_LONG),
    ("messages", load::MESSAGES),
    ("first row", load::FIRST_ROW),
    ("hot", takeover::HOT),
    ("parked", takeover::PARKED),
    ("gates", takeover::GATES),
    ("gated", takeover::GATED),
    ("inbox heads", takeover::INBOX_HEADS),
    ("bury", takeover::BURY),
    ("project", takeover::PROJECT),
    ("now", leases::NOW),
    ("tick", leases::TICK),
    ("claim", leases::CLAIM),
    ("release", leases::RELEASE),
    ("join", leases::JOIN),
    ("leave", leases::LEAVE),
    ("cluster secret", leases::SECRET),
    ("open circuits", health::OPEN),
    ("open circuit", health::TRIP),
    ("take probe", health::TAKE),
    ("probe failed", health::FAILED),
    ("close circuit", health::CLOSE),
    ("forget circuit", health::FORGET),
    ("live runs", census::LIVE),
    ("limit keys", permits::KEYS),
    ("limit lock", permits::LOCK),
    ("release permits", permits::RELEASE_PERMITS),
    ("ask", turns::ASK),
    ("grant", turns::GRANT),
    ("pace", turns::PACE),
    ("paced", permits::PACED),
    ("who waits", permits::WAITING),
    ("unseen grants", permits::UNSEEN),
    ("permit holders", permits::HOLDERS),
    ("unheard grants", permits::UNHEARD),
    ("permit ghosts", permits::GHOSTS),
    ("stuck limits", permits::STUCK),
    ("forget limit keys", limits::FORGET_KEYS),
    ("limits", limits::LIMITS),
    ("limit", limits::LIMIT),
    ("place in line", turns::PLACE),
    ("pause limit", limits::PAUSE_KEY),
    ("resume limit", limits::RESUME_KEY),
    ("take rate", limits::TAKE_RATE),
    ("rate next", limits::NEXT_AT),
    ("debounce", debounces::DEBOUNCE),
    ("debounced", debounces::DEBOUNCED),
    ("due debounces", debounces::DUE_DEBOUNCES),
    ("debounce done", debounces::DEBOUNCE_DONE),
    ("debounce later", debounces::DEBOUNCE_LATER),
    ("pause function", catalog::PAUSE_FUNCTION),
    ("resume function", catalog::RESUME_FUNCTION),
    ("set secret", secrets::SET),
    ("list secrets", secrets::LIST),
    ("secret value", secrets::VALUE),
    ("remove secret", secrets::REMOVE),
    ("create key", keys::CREATE),
    ("list keys", keys::LIST),
    ("find key", keys::FIND),
    ("find key by hash", keys::FIND_HASH),
    ("revoke key", keys::REVOKE),
    ("key used", keys::USED),
    ("journal page", journal::PAGE),
    ("journal page long", journal::PAGE_LONG),
    ("rows after", journal::AFTER),
    ("rows after long", journal::AFTER_LONG),
    ("value", journal::VALUE),
    ("value long", journal::VALUE_LONG),
    ("history", journal::HISTORY),
    ("logs", journal::LOGS),
    ("list", lists::LIST),
    ("list, oldest first", lists::LIST_OLDEST),
    ("list, last ended first", lists::LIST_LAST_ENDED),
    ("list, first ended first", lists::LIST_FIRST_ENDED),
    ("count", lists::COUNT),
    ("beyond", lists::BEYOND),
    ("beyond, oldest first", lists::BEYOND_OLDEST),
    ("beyond, last ended first", lists::BEYOND_LAST_ENDED),
    ("beyond, first ended first", lists::BEYOND_FIRST_ENDED),
    ("named", run_filters::NAMED),
    ("get", lists::GET),
    ("live of", lists::LIVE_OF),
    ("run of key", lists::RUN_OF_KEY),
    ("knows idem", lists::KNOWS_IDEM),
    ("catalog version", catalog::VERSION),
    ("ended runs", expiry::ENDED),
    ("ended runs of weeks", expiry::ENDED_BEFORE),
    ("expired: hold", expiry::HOLD),
    ("expired: left", expiry::LEFT),
    ("expired: by keys", expiry::BY_KEYS),
    ("expired: journal", expiry::ROWS[0]),
    ("expired: long journal", expiry::ROWS[1]),
    ("expired: generations", expiry::ROWS[2]),
    ("expired: history", expiry::ROWS[3]),
    ("expired: logs", expiry::ROWS[4]),
    ("expired: runs", expiry::ROWS[5]),
    ("namespaces", namespaces::ALL),
    ("namespace created", namespaces::CREATE),
    ("namespace changed", namespaces::UPDATE),
    ("namespace deleted", namespaces::DELETE),
    ("namespace in use", namespaces::HAS),
    ("namespace emptied: keys", namespaces::EMPTY[0]),
    ("namespace emptied: secrets", namespaces::EMPTY[1]),
    ("namespace emptied: objects", namespaces::EMPTY[2]),
    ("live runs of a namespace", namespaces::LIVE),
    ("endpoints", catalog::ENDPOINTS),
    ("secrets", catalog::SECRETS),
    ("deployments", catalog::DEPLOYMENTS),
    ("pruned", catalog::PRUNED),
    ("rehost", catalog::REHOST),
    ("population", deployments::POPULATION),
    ("needing", deployments::NEEDING),
    ("prune", deployments::PRUNE),
    ("functions", catalog::FUNCTIONS),
    ("bump", catalog::BUMP),
    ("update endpoint", catalog::UPDATE),
    ("delete endpoint", catalog::DELETE),
    ("unhost", catalog::UNHOST),
    ("lock endpoint", catalog::LOCK),
    ("rotate", catalog::ROTATE),
    ("endpoint exists", catalog::EXISTS),
    ("register endpoint", register::ENDPOINT),
    ("register secret", register::SECRET),
    ("register deployment", register::DEPLOYMENT),
    ("register moved", register::MOVED),
    ("register functions", register::FUNCTIONS),
    ("register dropped", register::DROPPED),
    ("schema exists", migrate::SCHEMA_EXISTS),
    ("table exists", migrate::TABLE_EXISTS),
    ("applied", migrate::APPLIED),
    ("posted", outbox::POSTED),
    ("hold", outbox::HOLD),
    ("lock runs", outbox::LOCK_RUNS),
    ("ended", outbox::ENDED),
    ("remove", outbox::REMOVE),
    ("put off", outbox::PUT_OFF),
    ("publish", events::PUBLISH),
    ("known events", events::KNOWN),
    ("events due", events::DUE),
    ("hold event", events::HOLD_EVENT),
    ("shapes", events::SHAPES),
    ("waiting", events::WAITING),
    ("take waits", events::TAKE_WAITS),
    ("take all waits", events::TAKE_ALL_WAITS),
    ("matched", events::MATCHED),
    ("routed", events::ROUTED),
    ("routed to", events::ROUTED_TO),
    ("listen", events::LISTEN),
    ("events since", events::SINCE),
    ("event", events::ONE),
    ("matches", events::MATCHES),
    ("events", events::EVENTS),
    ("create schedule", schedules::CREATE),
    ("schedule", schedules::GET),
    ("schedules", schedules::LIST),
    ("schedules due", schedules::DUE),
    ("hold free schedules", schedules::HOLD_FREE),
    ("hold schedules", schedules::HOLD),
    ("live of schedules", schedules::LIVE),
    ("turned schedules", schedules::TURNED),
    ("change schedule", schedules::CHANGE),
    ("touch schedule", schedules::TOUCH),
    ("delete schedule", schedules::DELETE),
    ("disown schedules", schedules::DISOWN),
    ("kinds of errors", errors::KINDS_OF),
    ("runs of errors", errors::RUNS_OF),
    ("functions of errors", errors::FUNCTIONS_OF),
    ("create bulk", bulk::CREATE),
    ("bulk", bulk::GET),
    ("bulk of request", bulk::OF_REQUEST),
    ("bulks", bulk::LIST),
    ("bulks due", bulk::DUE),
    ("claim bulk", bulk::CLAIM),
    ("plan bulk", bulk::PLAN),
    ("count bulk", bulk::COUNTED),
    ("put off bulk", bulk::LATER),
    ("abort bulk", bulk::ABORT),
    ("purge: ended", purge::ENDED),
    ("purge: tells", purge::TELLS),
    ("purge: key", purge::KEY),
    ("purge: journal", purge::ROWS[0]),
    ("purge: journal long", purge::ROWS[1]),
    ("purge: past generations", purge::ROWS[2]),
    ("purge: history", purge::ROWS[3]),
    ("purge: logs", purge::ROWS[4]),
    ("purge: run", purge::ROWS[5]),
    ("erase: ended", erase::ENDED),
    ("erase: read", erase::JOURNALS[0].0),
    ("erase: write", erase::JOURNALS[0].1),
    ("erase: read long", erase::JOURNALS[1].0),
    ("erase: write long", erase::JOURNALS[1].1),
    ("erase: history", erase::REST[0]),
    ("erase: logs", erase::REST[1]),
    ("erase: run", erase::REST[2]),
    ("erase: error", erase::REST[3]),
    ("erase: told", erase::TOLD),
    ("webhooks", webhooks::ALL),
    ("create webhook", webhooks::CREATE),
    ("update webhook", webhooks::UPDATE),
    ("switch webhook", webhooks::SWITCH),
    ("rotate webhook", webhooks::ROTATE),
    ("delete webhook", webhooks::DELETE),
    ("tell of endpoint", webhooks::TELL_OF_ENDPOINT),
    ("noteworthy", deliveries::NOTEWORTHY),
    ("add deliveries", deliveries::ADD),
    ("take deliveries", deliveries::TAKE),
    ("attempted", deliveries::ATTEMPTED),
    ("deliveries", deliveries::LIST),
    ("dead deliveries", deliveries::LIST_DEAD),
    ("delivery", deliveries::ONE),
    ("redeliver", deliveries::AGAIN),
    ("redeliver all", deliveries::ALL_AGAIN),
    ("trim deliveries", deliveries::TRIM),
    ("gather", gathers::GATHER),
    ("close a gather", gathers::CLOSE),
    ("remember a gathered start", gathers::REMEMBER),
    ("remembered", gathers::REMEMBERED),
    ("gather of a run", gathers::GATHER_OF),
    ("due gathers", gathers::DUE_GATHERS),
    ("gathered inputs", gathers::INPUTS),
    ("gathers done", gathers::GATHERS_DONE),
    ("gathers later", gathers::GATHERS_LATER),
    ("forget webhooks", deliveries::FORGET),
    ("note act", audits::NOTE),
    ("act came", audits::CAME),
    ("acts", audits::LIST),
    ("trim acts", audits::TRIM),
];

const RETENTION: [(&str, &str); 13] = [
    ("ensure", weeks::ENSURE),
    ("expired", weeks::EXPIRED),
    ("drop", weeks::DROP),
    ("move live", weeks::MOVE_LIVE),
    ("move done", weeks::MOVE_DONE),
    ("left", weeks::LEFT),
    ("trim long", weeks::TRIM_LONG),
    ("trim idem", weeks::TRIM_IDEM),
    ("trim generations", weeks::TRIM_GENERATIONS),
    ("trim keys", weeks::TRIM_KEYS),
    ("trim events", events::TRIM_EVENTS),
    ("trim bulks", bulk::TRIM),
    ("trim errors", errors::TRIM),
];

#[tokio::test]
async fn all_statements_prepare() {
    let db = TestDb::new().await;
    let mut lane = db.store.lane().await.unwrap();
    let audit = audit::ALWAYS.iter().chain(&audit::IDLE);
    for (name, sql) in ALL.iter().chain(&RETENTION).chain(audit) {
        if let Err(e) = (&mut lane.conn).prepare(sql.into_sql_str()).await {
            panic!("{name}: {e}");
        }
    }
}

/// The plan that a lane makes for a statement, once, for any batch.
async fn plan(lane: &mut Lane, sql: &str) -> String {
    let parameters = (1..=80).take_while(|n| sql.contains(&format!("${n}"))).count();
    let nulls = vec!["null"; parameters].join(",");
    (&mut lane.conn).execute(AssertSqlSafe(format!("prepare p as {sql}"))).await.unwrap();
    let explain = sqlx::raw_sql(AssertSqlSafe(format!("explain execute p({nulls})")));
    let lines = explain.fetch_all(&mut lane.conn).await.unwrap();
    (&mut lane.conn).execute("deallocate p").await.unwrap();
    lines.iter().map(|l| l.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_hot_statements_use_only_indexes() {
    let db = TestDb::new().await;
    let mut lane = db.store.lane().await.unwrap();
    let hot = [
        "accept",
        "discard",
        "append single long",
        "append lean",
        "append lean long",
        "append full",
        "append full long",
        "append full over",
        "create",
        "create keyed",
        "publish",
        "shapes",
        "waiting",
        "take waits",
    ];
    for (name, sql) in ALL.iter().filter(|(name, _)| hot.contains(name)) {
        let plan = plan(&mut lane, sql).await;
        assert!(!plan.contains("Seq Scan"), "{name}:\n{plan}");
        assert!(!plan.contains("Hash Join"), "{name}:\n{plan}");
        assert!(!plan.contains("Merge Join"), "{name}:\n{plan}");
    }
    // However many wait, whose turn it is costs the same.
    let lines = ["ask", "grant", "pace", "place in line"];
    for (name, sql) in ALL.iter().filter(|(name, _)| lines.contains(name)) {
        let plan = plan(&mut lane, sql).await;
        assert!(!plan.contains("Seq Scan"), "{name}:\n{plan}");
        assert!(plan.contains("permits_queue") || *name == "place in line", "{name}:\n{plan}");
        let turns = if *name == "grant" { "permits_ages" } else { "permits_turns" };
        assert!(plan.contains(turns) || *name == "pace", "{name}:\n{plan}");
    }
    let control = plan(&mut lane, "select * from run_active where fn = $1").await;
    assert!(control.contains("Seq Scan"), "the test would see one:\n{control}");
}

#[tokio::test]
async fn every_table_and_column_has_a_comment_and_few_indexes() {
    let bench = Bench::new().await;
    let bare = number(
        &bench,
        "select count(*) from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum >= 0
          where c.relnamespace = 'stepwell'::regnamespace and c.relkind in ('r', 'p')
            and not c.relispartition and c.relname <> '_sqlx_migrations' and not a.attisdropped
            and col_description(c.oid, a.attnum) is null",
    )
    .await;
    assert_eq!(bare, 0, "columns without a comment");
    let most = number(
        &bench,
        "select max(n) from (select count(*) n from pg_index i join pg_class c on c.oid = i.indrelid
          where c.relnamespace = 'stepwell'::regnamespace group by indrelid) x",
    )
    .await;
    assert!(most <= 6, "{most} indexes on one table");
}
