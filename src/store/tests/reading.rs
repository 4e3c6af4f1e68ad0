//! Lists, journals, the catalog, API keys.

use super::*;
use crate::machine::KeyId;

fn filter() -> RunFilter {
    RunFilter { ns: NS, limit: 50, ..RunFilter::default() }
}

async fn list(b: &Bench, filter: RunFilter) -> Vec<RunId> {
    b.db.store.list_runs(&filter).await.unwrap().runs.into_iter().map(|r| r.run).collect()
}

#[tokio::test]
async fn pages_go_down_over_live_and_ended_runs_without_gaps() {
    let mut b = Bench::new().await;
    let mut all = Vec::new();
    for i in 0..25 {
        let run = b.start(i * 7).await;
        let at = b.now;
        if i % 3 == 0 {
            assert!(b.append(run, vec![end(1, 0, at)]).await);
        }
        all.insert(0, run);
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = list(&b, RunFilter { cursor, limit: 7, ..filter() }).await;
        cursor = page.last().map(|run| RunSort::Newest.place(*run, None));
        seen.extend(page);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    assert_eq!(list(&b, RunFilter { ns: 2, ..filter() }).await, vec![]);
}

#[tokio::test]
async fn what_has_no_index_is_looked_for_so_far_at_a_time() {
    let mut b = Bench::new().await;
    let mut wanted = Vec::new();
    for i in 0..30 {
        let name = if i % 7 == 0 { "c7" } else { "other" };
        let tags = Some(format!(r#"{{"customer":"{name}"}}"#));
        let new = NewRun { tags, ..b.new_run(i) };
        let run = new.run;
        b.lane.create(&[new]).await.unwrap();
        b.tick(Duration::from_secs(1));
        let at = b.now;
        if i % 2 == 0 {
            assert!(b.append(run, vec![end(1, 0, at)]).await);
        }
        if name == "c7" {
            wanted.insert(0, run);
        }
    }
    let mut seen = Vec::new();
    let mut looks = Vec::new();
    let mut cursor = None;
    loop {
        let q = Some("customer:c7".to_owned());
        let page = RunFilter { q, cursor, limit: 2, ..filter() };
        let found = b.db.store.list_runs_by(&page, &[2, 6]).await.unwrap();
        looks.push(found.runs.len());
        seen.extend(found.runs.iter().map(|r| r.run));
        let full = found.runs.len() == 2;
        let last = seen.last().map(|run| RunSort::Newest.place(*run, None));
        cursor = if full { last } else { found.looked_to };
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, wanted);
    assert!(looks.len() > 3 && looks.iter().all(|found| *found <= 2), "{looks:?}");
    // An index needs no such look, and neither does the end of all runs.
    let tag = vec![("customer".to_owned(), "c7".to_owned())];
    let found = b.db.store.list_runs_by(&RunFilter { tags: tag, ..filter() }, &[2]).await.unwrap();
    assert_eq!((found.runs.len(), found.looked_to), (wanted.len(), None));
    let q = RunFilter { q: Some("c7".to_owned()), ..filter() };
    let found = b.db.store.list_runs_by(&q, &[100]).await.unwrap();
    assert_eq!((found.runs.len(), found.looked_to), (wanted.len(), None));
    b.clean().await;
}

#[tokio::test]
async fn each_filter_leaves_out_what_it_should() {
    let mut b = Bench::new().await;
    b.db.store.register(&registration("mail", &["send_mail"])).await.unwrap();
    let catalog = b.db.store.load_catalog().await.unwrap();
    let mail = catalog.functions.iter().find(|f| f.name == "send_mail").unwrap();
    let mut new = b.new_run(1);
    new.tags =
        Some(r#"{"customer":"c7","vip":"yes","amount":"150.5","due":"2026-12-01"}"#.to_owned());
    let tagged = new.run;
    let keyed = NewRun {
        key: Some(NewKey { key: "Order-42".to_owned(), if_closed: IfClosed::Allow }),
        tags: Some(r#"{"customer":"c8","amount":"99","due":"soon"}"#.to_owned()),
        ..b.new_run(2)
    };
    let middle = b.tick(Duration::from_secs(10));
    let other = NewRun { function_id: mail.id, dep: mail.hosted.unwrap().1, ..b.new_run(3) };
    let (dep, key, other_run) = (other.dep, keyed.run, other.run);
    b.lane.create(&[new, keyed, other]).await.unwrap();
    let at = b.now;
    assert!(b.append(key, vec![end(1, 0, at)]).await);

    let tag = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
    };
    let q = |text: &str| RunFilter { q: Some(text.to_owned()), ..filter() };
    let tags = |pairs: &[(&str, &str)]| RunFilter { tags: tag(pairs), ..filter() };
    let ranges = |all: &[(&str, Range, &str)]| RunFilter {
        ranges: all.iter().map(|(name, range, value)| Bound::new(name, *range, value)).collect(),
        ..filter()
    };
    let cases = [
        ("status", RunFilter { status: vec![100], ..filter() }, vec![key]),
        ("statuses", RunFilter { status: vec![100, 2], ..filter() }, vec![other_run, key, tagged]),
        (
            "function",
            RunFilter { functions: vec!["send_mail".to_owned()], ..filter() },
            vec![other_run],
        ),
        ("no function", RunFilter { functions: vec!["x".to_owned()], ..filter() }, vec![]),
        ("key", RunFilter { keys: vec!["Order-42".to_owned()], ..filter() }, vec![key]),
        ("deployment", RunFilter { deployments: vec![dep], ..filter() }, vec![other_run]),
        ("after", RunFilter { started_after: Some(middle), ..filter() }, vec![other_run]),
        ("before", RunFilter { started_before: Some(middle), ..filter() }, vec![key, tagged]),
        ("tag", tags(&[("customer", "c7")]), vec![tagged]),
        ("tag of one name: or", tags(&[("customer", "c7"), ("customer", "c8")]), vec![key, tagged]),
        ("tags of two names: and", tags(&[("customer", "c8"), ("vip", "yes")]), vec![]),
        ("both", tags(&[("customer", "c8"), ("customer", "c7"), ("vip", "yes")]), vec![tagged]),
        ("over", ranges(&[("amount", Range::Above, "99")]), vec![tagged]),
        ("from", ranges(&[("amount", Range::From, "99.00")]), vec![key, tagged]),
        (
            "between",
            ranges(&[("amount", Range::From, "9"), ("amount", Range::Below, "100")]),
            vec![key],
        ),
        ("by a day", ranges(&[("due", Range::Below, "2026-12-01T00:00:01Z")]), vec![tagged]),
        ("not before", ranges(&[("due", Range::Above, "2026-12-01")]), vec![]),
        ("no number", ranges(&[("customer", Range::From, "0")]), vec![]),
        ("q key", q("order-4"), vec![key]),
        ("q function", q("SEND"), vec![other_run]),
        ("q tag", q("customer:c7"), vec![tagged]),
        ("q over the joint", q("MER:C"), vec![key, tagged]),
        ("q in a part of a tag alone", q("vip"), vec![tagged]),
        ("q with JSON's own signs", q(r#"er": "c"#), vec![]),
        ("q id", q(&tagged.to_string()), vec![tagged]),
        ("q is no pattern", q("%"), vec![]),
    ];
    for (name, filter, expected) in cases {
        assert_eq!(list(&b, filter).await, expected, "{name}");
    }
    assert_eq!(b.db.store.live_runs_of(&[mail.id], 10).await, Ok(vec![other_run]));
    assert_eq!(b.db.store.get_run(2, tagged).await, Ok(None), "another namespace");
    b.clean().await;
}

#[tokio::test]
async fn a_journal_is_read_in_pages_with_attempts_and_values() {
    let mut b = Bench::new().await;
    let run = b.start(1).await;
    let at = b.now;
    let step = |row: Row, step: &str, seq| {
        row.with(|r| {
            r.step = step.to_owned();
            r.seq = seq;
        })
    };
    let rows = vec![
        step(row(1, Kind::Tried, at), "charge", 0),
        step(row(2, Kind::Asked, at), "approval", 0),
        step(row(3, Kind::Tried, at), "charge", 0),
        done(4, 1, "charge", at),
        step(row(5, Kind::Failed, at), "approval", 2).with_body(b"{}"),
    ];
    assert!(b.append(run, rows).await);
    let store = &b.db.store;
    let page = store.journal_page(run, 0, 0, 0, 10).await.unwrap();
    let told: Vec<_> =
        page.iter().map(|e| (e.row.seq, e.row.step.as_str(), e.attempts, e.asked_at)).collect();
    assert_eq!(told, [(1, "charge", 3, None), (2, "approval", 1, Some(at))]);
    assert_eq!(store.journal_page(run, 0, 0, 1, 10).await.unwrap()[0].row.seq, 2);
    assert_eq!(store.journal_page(run, 0, 0, 2, 10).await, Ok(vec![]));
    assert_eq!(store.journal_page(run, 1, 0, 0, 10).await, Ok(vec![]), "not in journal_long");
    let ns: Vec<i32> = store.rows_after(run, 0, 2, 2).await.unwrap().iter().map(|r| r.n).collect();
    assert_eq!(ns, [3, 4]);
    assert_eq!(store.value(run, 0, 4).await, Ok(Some(Bytes::from_static(b"\"v\""))));
    assert_eq!(store.value(run, 0, 1).await, Ok(None));
    sqlx::query("update journal set body = '\\x07aa' where n = 4")
        .execute(&store.pool)
        .await
        .unwrap();
    assert!(matches!(store.value(run, 0, 4).await, Err(Error::Corrupt(_))));
    assert!(matches!(store.load(&[run]).await, Err(Error::Corrupt(_))));
}

#[tokio::test]
async fn an_endpoint_is_registered_changed_rotated_and_deleted() {
    let b = Bench::new().await;
    let store = &b.db.store;
    let first = store.load_catalog().await.unwrap();
    let shop = first.endpoints[0].clone();
    assert_eq!((shop.name.as_str(), shop.version), ("shop", 1));
    assert_eq!(shop.secrets, ["whsec_first"]);
    assert_eq!(shop.headers["x-team"], "orders");
    assert_eq!(first.functions[0].hosted, Some((shop.id, b.dep)));
    assert_eq!(first.deployments[0].manifest, Bytes::from_static(b"[\"checkout\"]"));
    assert_eq!(first.namespaces[0].name, "default");

    let again = store.register(&registration("shop", &["checkout"])).await.unwrap();
    assert_eq!((again.deployment_id, again.version), (b.dep, 2));
    let mut next = registration("shop", &["refund"]);
    next.endpoint = EndpointId::new(b.now, 1);
    let next = store.register(&next).await.unwrap();
    assert!(!next.new_endpoint && next.new_deployment);
    let catalog = store.load_catalog().await.unwrap();
    assert_eq!(catalog.version, first.version + 2);
    assert_eq!(catalog.endpoints[0].public, shop.public);
    assert_eq!(catalog.endpoints[0].secrets, ["whsec_first"]);
    let hosted: Vec<_> =
        catalog.functions.iter().map(|f| (f.name.as_str(), f.hosted.map(|h| h.1))).collect();
    assert_eq!(hosted, [("checkout", None), ("refund", Some(next.deployment_id))]);
    let moved = store.register(&registration("other", &["refund"])).await.unwrap();
    assert_eq!(moved.moved, ["refund"]);

    let change = EndpointChange { disabled: Some(true), ..EndpointChange::default() };
    assert_eq!(store.update_endpoint(NS, shop.public, Some(1), &change).await, Ok(None));
    assert_eq!(store.update_endpoint(NS, shop.public, Some(3), &change).await, Ok(Some(4)));
    assert_eq!(store.update_endpoint(2, shop.public, None, &change).await, Ok(None));
    let grace = b.now + Duration::from_hours(24);
    for secret in ["whsec_second", "whsec_third"] {
        assert_eq!(store.rotate_secret(NS, shop.public, secret, grace).await, Ok(true));
    }
    let catalog = store.load_catalog().await.unwrap();
    assert!(catalog.endpoints[0].disabled);
    assert_eq!(catalog.endpoints[0].url, shop.url);
    assert_eq!(catalog.endpoints[0].secrets, ["whsec_third", "whsec_second"], "two at most");

    assert_eq!(store.delete_endpoint(NS, shop.public, Some(1)).await, Ok(false));
    assert_eq!(store.endpoint_version(NS, shop.public).await, Ok(Some(4)));
    assert_eq!(store.delete_endpoint(NS, shop.public, Some(4)).await, Ok(true));
    assert_eq!(store.endpoint_version(NS, shop.public).await, Ok(None));
    let catalog = store.load_catalog().await.unwrap();
    assert_eq!(catalog.endpoints.len(), 1, "the other one");
    assert_eq!(catalog.deployments.len(), 1, "of the other one");
    assert_eq!(catalog.pruned.len(), 2, "they stay known");
    let reborn = registration("shop", &["checkout"]);
    let reborn = Registration {
        endpoint: EndpointId::new(b.now, 2),
        deployment: DeploymentId::new(b.now, 2),
        ..reborn
    };
    assert!(store.register(&reborn).await.unwrap().new_endpoint, "the name is free again");
}

#[tokio::test]
async fn api_keys_are_found_used_and_revoked() {
    let b = Bench::new().await;
    let store = &b.db.store;
    let new = NewApiKey {
        id: KeyId::new(b.now, 1),
        ns: Some(NS),
        name: "ci".to_owned(),
        hash: [7; 32],
        scopes: vec!["runs:read".to_owned(), "runs:write".to_owned()],
        expires_at: None,
    };
    let key = store.create_key(&new).await.unwrap();
    assert_eq!((key.id, key.scopes.len(), key.expires_at), (new.id, 2, None));
    assert_eq!(store.find_key(new.id).await, Ok(Some(key.clone())));
    assert_eq!(store.find_key_by_hash(&[7; 32]).await, Ok(Some(key.clone())));
    assert_eq!(store.find_key_by_hash(&[8; 32]).await, Ok(None));
    store.key_used(new.id, b.now).await.unwrap();
    store.key_used(new.id, b.now + Duration::from_secs(5)).await.unwrap();
    let used = store.list_keys(Some(NS)).await.unwrap();
    assert_eq!(used[0].last_used_at, Some(b.now), "at most once a minute");
    assert_eq!(store.list_keys(Some(2)).await, Ok(vec![]));
    assert_eq!(store.revoke_key(new.id, Some(2)).await, Ok(false));
    assert_eq!(store.revoke_key(new.id, Some(NS)).await, Ok(true));
    let revoked = store.find_key(new.id).await.unwrap().unwrap().revoked_at;
    assert!(revoked.is_some());
    assert_eq!(store.revoke_key(new.id, None).await, Ok(true));
    assert_eq!(store.find_key(new.id).await.unwrap().unwrap().revoked_at, revoked);
    assert!(store.create_key(&new).await.unwrap_err().blames_batch());
}
