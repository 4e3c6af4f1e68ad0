//! Asks a handler what it hosts, and tells stage by stage what was seen and how to mend it.

use std::time::Duration;

use axum::http::HeaderMap;
use url::Url;

use super::{Engine, ProbeStage};
use crate::machine::InvocationId;
use crate::outbound::{Failure, Probe};
use crate::protocol::{self, Manifest, Secret};

/// How long a handler may take to say what it hosts.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a probe came to.
#[derive(Debug)]
pub(super) struct Asked {
    /// `dns`, `connect`, `tls`, `status`, `signature`, `functions`.
    pub(super) stages: Vec<ProbeStage>,
    /// What the handler hosts, where it said so.
    pub(super) manifest: Option<Manifest>,
    /// The handler has an address that must not be called: why, and what to do.
    pub(super) blocked: Option<String>,
}

impl Engine {
    /// Sends a signed `discover` to a handler.
    pub(super) async fn discover(
        &self,
        url: &Url,
        headers: &HeaderMap,
        secrets: &[Secret],
    ) -> Asked {
        let now = self.clock().upper();
        let id = InvocationId::new(now, crate::clock::chance()).to_string();
        let body = protocol::write_discover();
        let headers = self.signed(headers, secrets, &id, &body, None);
        let probe = self.client().probe(url, headers, body.into(), PATIENCE).await;
        let mut asked = Asked::of(&probe);
        let reply = probe.reply.as_ref();
        asked.stages.push(signature_stage(reply.map(|r| r.status)));
        let read = reply.filter(|r| r.status == 200).map(|r| Manifest::parse(&r.body));
        let (stage, manifest) = match read {
            None => (unseen("functions", "the handler did not say"), None),
            Some(Ok(manifest)) => {
                let names: Vec<&str> = manifest.functions.iter().map(|f| &*f.name).collect();
                (passed("functions", names.join(", ")), Some(manifest))
            }
            Some(Err(error)) => (
                failed(
                    "functions",
                    format!("the answer to `discover` is no manifest: {error}"),
                    "answer `{\"type\": \"discover\"}` with `{\"protocol\": [1, 1], \"functions\": \
                     [{\"name\": …}]}`, or list the functions in the registration",
                ),
                None,
            ),
        };
        asked.stages.push(stage);
        asked.manifest = manifest;
        asked
    }

    /// Looks whether somebody polls for work, for a handler that fetches it.
    pub(super) fn look_for_polls(polls: usize, functions: &[&str]) -> Asked {
        let stage = match polls {
            0 => unseen("poll", "nobody polls for work yet"),
            1 => passed("poll", "one poll waits for work".to_owned()),
            n => passed("poll", format!("{n} polls wait for work")),
        };
        let listed = format!("{} (as listed in the registration)", functions.join(", "));
        let stages = vec![stage, passed("functions", listed)];
        Asked { stages, manifest: None, blocked: None }
    }

    /// Looks whether somebody listens there, for a handler whose functions are known.
    pub(super) async fn look_for(&self, url: &Url, functions: &[&str]) -> Asked {
        let probe = self.client().probe_connect(url).await;
        let mut asked = Asked::of(&probe);
        asked.stages.push(unseen("signature", "not tried"));
        let listed = format!("{} (as listed in the registration)", functions.join(", "));
        asked.stages.push(passed("functions", listed));
        asked
    }
}

impl Asked {
    fn of(probe: &Probe) -> Self {
        let stages = probe
            .stages
            .iter()
            // The form of the URL was checked before anybody was called.
            .filter(|s| s.name != "url" || s.ok == Some(false))
            .map(|s| ProbeStage {
                name: s.name.to_owned(),
                ok: s.ok,
                detail: s.detail.clone(),
                fix: s.fix.clone(),
            })
            .collect();
        let blocked = match &probe.failure {
            Some(Failure::Blocked(blocked)) => Some(format!("{blocked}; {}", blocked.fix())),
            _ => None,
        };
        Self { stages, manifest: None, blocked }
    }
}

fn signature_stage(status: Option<u16>) -> ProbeStage {
    match status {
        Some(401 | 403) => failed(
            "signature",
            "the handler refused the call".to_owned(),
            "give the handler this endpoint's signing secret (`whsec_…`), and let it verify the \
             raw body",
        ),
        Some(200..=299) => {
            passed("signature", "the call was signed, and the handler took it".to_owned())
        }
        _ => unseen("signature", "not reached"),
    }
}

fn passed(name: &str, detail: String) -> ProbeStage {
    ProbeStage { name: name.to_owned(), ok: Some(true), detail, fix: None }
}

pub(super) fn failed(name: &str, detail: String, fix: &str) -> ProbeStage {
    ProbeStage { name: name.to_owned(), ok: Some(false), detail, fix: Some(fix.to_owned()) }
}

fn unseen(name: &str, detail: &str) -> ProbeStage {
    ProbeStage { name: name.to_owned(), ok: None, detail: detail.to_owned(), fix: None }
}
