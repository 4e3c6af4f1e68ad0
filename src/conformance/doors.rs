//! Who is let in: checks of single calls, without a run.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use serde_json::json;

use super::stage::{Pace, Stage, now, signed, signed_at};
use super::{Seen, Wrong};
use crate::clock;
use crate::machine::InvocationId;
use crate::protocol::{self, Secret, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};

type Knocking<'a> = Pin<Box<dyn Future<Output = Seen> + 'a>>;

/// A check of single calls.
pub(super) struct Door {
    pub(super) name: &'static str,
    pub(super) rules: &'static [&'static str],
    pub(super) knock: fn(&Stage) -> Knocking<'_>,
}

pub(super) const DOORS: [Door; 5] = [
    Door { name: "manifest", rules: &["P2.6", "P8.1"], knock: |s| Box::pin(manifest(s)) },
    Door { name: "unsigned", rules: &["P2.2"], knock: |s| Box::pin(unsigned(s)) },
    Door { name: "tampered", rules: &["P2.2"], knock: |s| Box::pin(tampered(s)) },
    Door { name: "old and future", rules: &["P2.2"], knock: |s| Box::pin(out_of_time(s)) },
    Door { name: "rotation", rules: &["P2.2"], knock: |s| Box::pin(rotation(s)) },
];

fn fresh_id() -> String {
    InvocationId::new(now(), clock::chance()).to_string()
}

/// An invocation of `echo`, which a handler that lets it in would answer.
fn echo() -> Bytes {
    let body = json!({
        "protocol": 1, "type": "run", "function": "echo",
        "run": {"id": "run_00000000000000000000000000", "namespace": "conformance", "key": null,
                "generation": 1, "deployment": "dep_00000000000000000000000000",
                "created_at": "2026-11-23T09:00:00.000Z", "seed": "00", "parent": null, "tags": {},
                "idempotency_prefix": "run_00000000000000000000000000.1/"},
        "invocation": {"id": "inv_00000000000000000000000000", "epoch": 1, "attempt": 1,
                       "reason": "start", "transport": "respond", "budget_ms": 55000},
        "input": {"amount": 1999}, "steps": {}, "journal": {"upto": 0, "more": false}, "inbox": {},
        "object": null, "cancel": null, "links": {}, "token": "t"
    });
    body.to_string().into()
}

async fn manifest(stage: &Stage) -> Seen {
    let (first, second) = (stage.discover().await?, stage.discover().await?);
    if first.content_hash() != second.content_hash() {
        return Err("asked twice for its manifest, the handler gave two different ones".into());
    }
    first.check().map_err(|e| Wrong::from(e.to_string()))
}

async fn unsigned(stage: &Stage) -> Seen {
    let body = echo();
    let id = fresh_id();
    let good = signed(&id, &body, std::slice::from_ref(&stage.secret));
    for gone in [WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE] {
        let mut headers = good.clone();
        headers.remove(gone);
        stage.refuses(&format!("a call without {gone}"), headers, &body).await?;
    }
    for (what, signature) in [("an empty signature", ""), ("one of no known version", "v1,x v2,y")]
    {
        let mut headers = good.clone();
        headers.insert(WEBHOOK_SIGNATURE, signature.parse().expect("ASCII"));
        stage.refuses(&format!("a call with {what}"), headers, &body).await?;
    }
    let strange = Secret::generate();
    let headers = signed(&id, &body, &[strange]);
    stage.refuses("a call signed with another secret", headers, &body).await
}

async fn tampered(stage: &Stage) -> Seen {
    let body = echo();
    let id = fresh_id();
    let good = signed(&id, &body, std::slice::from_ref(&stage.secret));
    let text = String::from_utf8_lossy(&body).replace("1999", "1998");
    stage.refuses("a changed body", good.clone(), &Bytes::from(text)).await?;
    let mut spaced = body.to_vec();
    spaced.push(b' ');
    stage.refuses("a body with a space more", good.clone(), &spaced.into()).await?;
    let mut headers = good.clone();
    headers.insert(WEBHOOK_ID, fresh_id().parse().expect("ASCII"));
    stage.refuses("another webhook-id", headers, &body).await?;
    let mut headers = good;
    headers.insert(WEBHOOK_TIMESTAMP, (now().as_secs() - 60).into());
    stage.refuses("another webhook-timestamp", headers, &body).await
}

async fn out_of_time(stage: &Stage) -> Seen {
    let body = echo();
    for (what, by) in [("ten minutes old", -600), ("ten minutes ahead", 600)] {
        let secrets = std::slice::from_ref(&stage.secret);
        let headers = signed_at(now().as_secs() + by, &fresh_id(), &body, secrets);
        stage.refuses(&format!("a call that is {what}"), headers, &body).await?;
    }
    Ok(())
}

async fn rotation(stage: &Stage) -> Seen {
    let body = Bytes::from(protocol::write_discover());
    let other = Secret::generate();
    for secrets in [[other.clone(), stage.secret.clone()], [stage.secret.clone(), other]] {
        let headers = signed(&fresh_id(), &body, &secrets);
        let reply = stage.send(headers, &body, Pace::Whole).await?;
        if reply.status != 200 {
            let status = reply.status;
            return Err(format!(
                "a call with two signatures, one of them good, was answered {status}"
            )
            .into());
        }
    }
    Ok(())
}
