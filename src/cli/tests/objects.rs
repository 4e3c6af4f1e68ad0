//! `stepwell object`: what is written is what was seen.

use super::*;

#[tokio::test]
async fn an_object_is_written_at_the_version_that_was_read() {
    let (url, seen) = gateway(|uri, _| match uri.split('?').next()? {
        "/v1/objects/account/a%2F1" => Some(json(
            200,
            r#"{"function": "account", "key": "a/1", "state": {"n": 1.0}, "version": "3f", "holder": null, "waiting": 0}"#,
        )),
        _ => Some(json(200, r#"{"data": [{"key": "a/1", "fields": 1, "bytes": 4}], "next_cursor": null}"#)),
    })
    .await;
    let (exit, out, err) = run(&url, "object get account a/1").await;
    assert!(exit == exit::OK && out.contains("1.0") && out.contains("nobody"), "{out}{err}");
    let (exit, out, err) = run(&url, "object list account").await;
    assert!(exit == exit::OK && out.contains("a/1"), "{out}{err}");
    for (args, version) in
        [("--yes", "\"3f\""), ("--if-match 7 --yes", "\"7\""), ("--if-match * -y", "*")]
    {
        let (exit, _, err) = run(&url, &format!("object set account a/1 -i {{}} {args}")).await;
        assert_eq!(exit, exit::OK, "{err}");
        let seen = seen.lock().unwrap();
        let put = seen.last().unwrap();
        assert_eq!((&put.method, put.body.as_str()), (&Method::PUT, r#"{"state":{}}"#));
        assert_eq!(put.if_match.as_deref(), Some(version));
    }
    let (exit, _, err) = run(&url, "object set account a/1 -i {oops --yes").await;
    assert!(exit == exit::USAGE && err.contains("JSON"), "{err}");
}
