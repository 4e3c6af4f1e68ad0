//! `stepwell conformance`: tests any handler against the protocol, without a gateway.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use url::Url;

use super::Global;
use super::failure::Failure;
use super::output::{Output, Tone, plain};
use super::secret::Secret;
use crate::conformance::{self, Options, Report, Status, TransportLine};
use crate::protocol;

/// `stepwell conformance`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "The handler is at --url. What it must offer: conformance/README.md.")]
pub struct ConformanceArgs {
    /// The signing secret that the handler has.
    #[arg(long, env = "STEPWELL_SIGNING_SECRET", hide_env_values = true, value_name = "WHSEC")]
    pub secret: Secret,
    /// What to test it on: respond, checkpoint, stream, duplex, with commas between them.
    ///
    /// All but `respond` must be named by its manifest.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "respond")]
    pub transports: Vec<Transport>,
    /// Where the suite takes checkpoints and serves values and pages of journals.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// How the handler reaches that address, where it is not the address itself.
    #[arg(long, value_name = "URL")]
    pub public_url: Option<Url>,
    /// Only checks whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
}

/// A transport, as it is named in manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// One request, one answer.
    Respond,
    /// The answer comes line by line.
    Stream,
    /// The handler calls the gateway in between.
    Checkpoint,
    /// Lines in both directions.
    Duplex,
}

impl From<Transport> for protocol::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Respond => Self::Respond,
            Transport::Stream => Self::Stream,
            Transport::Checkpoint => Self::Checkpoint,
            Transport::Duplex => Self::Duplex,
        }
    }
}

pub(super) async fn execute(
    global: &Global,
    args: ConformanceArgs,
    out: &mut Output,
) -> Result<(), Failure> {
    let secret = protocol::Secret::parse(args.secret.expose())
        .map_err(|e| Failure::Usage(format!("--secret: {e}")))?;
    let options = Options {
        url: global.url.clone(),
        secret,
        transports: args.transports.into_iter().map(Into::into).collect(),
        listen: args.listen,
        public_url: args.public_url,
        silence: global.timeout,
        only: args.only,
    };
    let report = conformance::run(options).await.map_err(|error| match error {
        conformance::Error::Transport(said) => Failure::Usage(said),
        other => Failure::Unexpected(other.to_string()),
    })?;
    print(&report, out)?;
    if report.ok {
        return Ok(());
    }
    Err(Failure::Unexpected(format!("{} does not keep the protocol", report.url)))
}

fn print(report: &Report, out: &mut Output) -> Result<(), Failure> {
    if out.format().is_json() {
        return out.json(&serde_json::to_string(report).expect("a report is JSON"));
    }
    let word = |status| match status {
        Status::Passed => out.paint(Tone::Good, "passed"),
        Status::Failed => out.paint(Tone::Bad, "FAILED"),
        Status::Skipped => out.paint(Tone::Warn, "not made"),
    };
    let mut lines = vec![format!("{:7} {:8} CHECKS", "RULE", "RESULT")];
    for rule in &report.rules {
        let pad = " ".repeat(8 - if rule.status == Status::Skipped { 8 } else { 6 });
        lines.push(format!("{:7} {}{pad} {}", rule.rule, word(rule.status), rule.checks));
    }
    let mut told = std::collections::BTreeSet::new();
    for detail in report.rules.iter().flat_map(|rule| &rule.details) {
        if told.insert(detail) {
            lines.push(format!("- {}", plain(detail)));
        }
    }
    if report.transports.len() > 1 {
        lines.extend(report.transports.iter().map(TransportLine::summary));
    }
    lines.push(report.summary());
    out.line(&lines.join("\n"))
}
