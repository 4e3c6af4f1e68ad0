//! The conformance suite: plays the gateway to any handler and says which rules of the protocol it
//! keeps. What the handler must offer is described in `conformance/README.md`.
//!
//! Nothing is stored and no time passes: each run is the gateway's own machine with its journal in
//! memory and a clock that is moved by hand. What reaches the handler is what a gateway sends.

mod cases;
mod doors;
mod generations;
mod links;
mod modes;
mod play;
mod report;
mod stage;
mod talks;

use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use crate::protocol::{Manifest, Secret, Transport};

pub use report::{Report, RuleLine, Status, TransportLine, Verdict};

use cases::{CASES, Case};
use doors::DOORS;
use generations::GENERATIONS;
use modes::Mode;
use play::Play;
use report::Check;
use stage::Stage;
use talks::TALKS;

/// What to test, and how to be reached meanwhile.
#[derive(Debug, Clone)]
pub struct Options {
    /// The handler.
    pub url: Url,
    /// Its signing secret.
    pub secret: Secret,
    /// What to test it on; those that its manifest does not name are refused.
    pub transports: Vec<Transport>,
    /// Where the suite takes checkpoints and serves values and pages.
    pub listen: SocketAddr,
    /// How the handler reaches that, where it is not the address itself.
    pub public_url: Option<Url>,
    /// The longest silence of an exchange.
    pub silence: Duration,
    /// Only cases whose name has this in it.
    pub only: Option<String>,
}

/// Why there is no report at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The suite could not begin to listen.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The handler does not answer, or not with a manifest.
    #[error("{0}")]
    Handler(String),
    /// The handler does not speak this transport.
    #[error("{0}")]
    Transport(String),
}

/// Why a check failed: what was seen, in words.
#[derive(Debug, Clone)]
pub(crate) struct Wrong(String);

impl<T: Into<String>> From<T> for Wrong {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// Whether a handler did what it should.
pub(crate) type Seen = Result<(), Wrong>;

/// Tests a handler.
pub async fn run(options: Options) -> Result<Report, Error> {
    let stage = Stage::set(&options).await?;
    let manifest = stage.discover().await.map_err(|Wrong(said)| Error::Handler(said))?;
    for transport in &options.transports {
        if *transport != Transport::Respond && !manifest.transports.contains(transport) {
            let (name, named) = (transport.word(), &manifest.transports);
            let named: Vec<&str> = named.iter().map(|t| t.word()).collect();
            return Err(Error::Transport(format!(
                "the handler's manifest does not name the transport `{name}`; its `transports` are \
                 {}",
                named.join(", ")
            )));
        }
    }
    let wanted = |name: &str| options.only.as_deref().is_none_or(|part| name.contains(part));
    let mut checks = vec![];
    for door in DOORS.iter().filter(|door| wanted(door.name)) {
        let verdict = Verdict::of((door.knock)(&stage).await);
        checks.push(Check { name: door.name, played: None, rules: door.rules, verdict });
    }
    let mut transports = options.transports.clone();
    transports.sort_unstable();
    transports.dedup();
    for on in transports {
        let cases = CASES.iter().chain(&TALKS).chain(&GENERATIONS);
        for case in cases.filter(|case| case.on.contains(&on) && wanted(case.name)) {
            for mode in case.spread.modes(on) {
                let verdict = one(&stage, &manifest, case, (on, *mode)).await;
                let played = Some((on, *mode));
                checks.push(Check { name: case.name, played, rules: case.rules, verdict });
            }
        }
    }
    Ok(Report::new(options.url.to_string(), &checks))
}

async fn one(
    stage: &Stage,
    manifest: &Manifest,
    case: &Case,
    played: (Transport, Mode),
) -> Verdict {
    if !manifest.functions.iter().any(|f| f.name == case.function) {
        return Verdict::Failed(format!("the manifest has no function `{}`", case.function));
    }
    if case.pages && !manifest.pages {
        return Verdict::Skipped("the manifest does not say `\"pages\": true`".to_owned());
    }
    let mut play = Play::begin(stage, case.function, played, &(case.input)());
    let seen = (case.play)(&mut play).await.and_then(|()| play.laws());
    Verdict::of(seen)
}
