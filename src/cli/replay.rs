//! `stepwell run replay`: new code held against a recorded run, from an export on this machine or
//! through the gateway.

use std::io::Read as _;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Global;
use super::client::{Client, Request, document};
use super::failure::Failure;
use super::output::{Format, Output, plain};
use super::run::resolve;
use super::secret::Secret;
use crate::machine::{Limits, Timestamp};
use crate::outbound::{self, Guard};
use crate::protocol;
use crate::replay::{Recorded, Replay};

/// The longest silence of one exchange.
const SILENCE: Duration = Duration::from_secs(30);
/// How much longer than usual the gateway may take.
const EXTRA: Duration = Duration::from_secs(150);

/// `stepwell run replay`.
#[derive(Debug, Clone, Args)]
pub struct RunReplay {
    /// An export (`stepwell run export ID > run.json`), `-` for one on standard input, or a run.
    what: String,
    /// Where the new code answers [default, for an export: the address given as --url].
    #[arg(long, value_name = "URL")]
    candidate: Option<Url>,
    /// The signing secret (`whsec_…`) that the new code knows.
    #[arg(long, env = "STEPWELL_SIGNING_SECRET", hide_env_values = true)]
    secret: Option<Secret>,
}

/// What a replay came to, as the API and this machine tell it.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    divergence: Option<Divergence>,
    #[serde(default)]
    inserted: Vec<String>,
    #[serde(default)]
    removed: Vec<String>,
    #[serde(default)]
    stopped: Option<String>,
    #[serde(default)]
    invocations: u64,
}

#[derive(Debug, Deserialize)]
struct Divergence {
    step: Option<String>,
    expected: String,
    got: String,
}

impl Report {
    /// What is to be said of it, a line each; the first divergence last.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (what, steps) in [("inserted", &self.inserted), ("removed", &self.removed)] {
            if !steps.is_empty() {
                lines.push(format!("{what}: {}", steps.join(", ")));
            }
        }
        lines.extend(self.stopped.as_ref().map(|why| format!("stopped: {why}")));
        match &self.divergence {
            None => lines.push(format!("no divergence in {} invocations", self.invocations)),
            Some(d) => {
                let at = d.step.as_ref().map_or_else(String::new, |s| format!(" at step {s}"));
                lines.push(format!("divergence{at}"));
                lines.push(format!("  expected  {}", d.expected));
                lines.push(format!("  got       {}", d.got));
            }
        }
        lines
    }

    /// A failure if the new code diverges.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match &self.divergence {
            None => Ok(()),
            Some(_) => Err(Failure::Diverged("the new code does not do what was done".to_owned())),
        }
    }
}

pub(super) async fn execute(
    replay: RunReplay,
    global: &Global,
    out: &mut Output,
) -> Result<(), Failure> {
    let file = replay.what == "-" || std::path::Path::new(&replay.what).is_file();
    let text = if file {
        let candidate = replay.candidate.unwrap_or_else(|| global.url.clone());
        let export = read(&replay.what)?;
        here(&export, &candidate, replay.secret.as_ref()).await?
    } else {
        let Some(candidate) = replay.candidate else {
            return Err(Failure::Usage(format!(
                "{} is no file; to replay a run through the gateway, say with --candidate where \
                 the new code is",
                replay.what
            )));
        };
        let client = Client::new(&global.url, global.api_key.as_ref(), global.timeout)?;
        through_the_gateway(&client, &replay.what, &candidate, replay.secret.as_ref()).await?
    };
    let report: Report = document(&text)?;
    if out.format().is_json() {
        out.json(&text)?;
    } else if out.format() == Format::Table {
        for line in report.lines() {
            out.line(&plain(&line))?;
        }
    }
    report.verdict()
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    if path == "-" {
        std::io::stdin().read_to_end(&mut text)?;
    } else {
        text = std::fs::read(path)?;
    }
    Ok(text)
}

/// Drives the new code from this machine: it may be anywhere that this machine may call.
async fn here(export: &[u8], candidate: &Url, secret: Option<&Secret>) -> Result<String, Failure> {
    let recorded = Recorded::from_export(export).map_err(|e| Failure::Usage(e.to_string()))?;
    let secrets: Vec<protocol::Secret> = secret
        .map(|s| protocol::Secret::parse(s.expose()))
        .transpose()
        .map_err(|e| Failure::Usage(e.to_string()))?
        .into_iter()
        .collect();
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = outbound::Client::new(Guard::dev())
        .map_err(|error| Failure::Unexpected(format!("no HTTP client: {error}")))?;
    let mut replay = Replay::new(recorded);
    let report = loop {
        let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
        let (id, body) = replay.invocation("http://replay.invalid", now, crate::clock::chance());
        let headers = signed(&secrets, &id.to_string(), now, &body);
        let sent = client.post(candidate, headers, body, SILENCE, protocol::MAX_ANSWER).await;
        let answer = match sent {
            Ok(reply) if reply.status == 200 => reply.body,
            Ok(reply) => break replay.broken(&format!("status {}", reply.status)),
            Err(failure) => break replay.broken(&failure.to_string()),
        };
        if let Some(report) = replay.answered(&answer, &Limits::default()) {
            break report;
        }
    };
    Ok(serde_json::to_string(&report).expect("texts and numbers serialise"))
}

fn signed(secrets: &[protocol::Secret], id: &str, now: Timestamp, body: &Bytes) -> HeaderMap {
    let signature = protocol::sign(id, now.as_secs(), body, secrets);
    let seconds = now.as_secs().to_string();
    let headers = [
        ("content-type", "application/json"),
        (protocol::WEBHOOK_ID, id),
        (protocol::WEBHOOK_TIMESTAMP, &*seconds),
        (protocol::WEBHOOK_SIGNATURE, &*signature),
        (protocol::PROTOCOL_HEADER, "1"),
    ];
    let value = |text: &str| HeaderValue::from_str(text).expect("ids, digits and base64 are ASCII");
    headers.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
}

async fn through_the_gateway(
    client: &Client,
    run: &str,
    candidate: &Url,
    secret: Option<&Secret>,
) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        url: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        secret: Option<&'a str>,
    }
    let id = resolve(client, run).await?;
    let path = ["runs", id.as_str(), "replay"];
    let body = Body { url: candidate.as_str(), secret: secret.map(Secret::expose) };
    let request = Request { extra: EXTRA, ..Request::post(&path, &body) };
    let answer = client.send(request).await?;
    answer.text().map(str::to_owned)
}
