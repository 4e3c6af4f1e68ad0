//! Tries a handler's URL stage by stage and says in words how to mend what fails.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::{Host, Url};

use super::resolve::{Unresolved, resolve};
use super::{CONNECT_TIMEOUT, Client, Failure, MAX_BODY, Reached, Reply};

/// One stage of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// `url`, `dns`, `connect`, `tls` or `status`.
    #[serde(rename = "stage")]
    pub name: &'static str,
    /// Whether it went well; none if it was not reached or does not apply.
    pub ok: Option<bool>,
    /// What was seen.
    pub detail: String,
    /// For a failure: what to do about it.
    pub fix: Option<String>,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// All stages, in order.
    pub stages: Vec<Stage>,
    /// What came back, whatever its status.
    pub reply: Option<Reply>,
    /// Why nothing came back.
    pub failure: Option<Failure>,
}

impl Probe {
    /// Whether no stage failed.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.stages.iter().all(|stage| stage.ok != Some(false))
    }

    /// The first stage that failed.
    #[must_use]
    pub fn failed(&self) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.ok == Some(false))
    }
}

impl Client {
    /// Posts to a handler as [`Client::post`] does, and tells the stages apart.
    pub async fn probe(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
        silence: Duration,
    ) -> Probe {
        let addresses = match self.guard().check(url) {
            Ok(()) => self.addresses(url).await,
            Err(blocked) => Err(Failure::Blocked(blocked)),
        };
        match addresses {
            Err(failure) => Self::report(url, "", Err(failure)),
            Ok(seen) => {
                let outcome = self.post(url, headers, body, silence, MAX_BODY).await;
                Self::report(url, &seen, outcome.map(Some))
            }
        }
    }

    /// Only looks whether somebody listens there; sends nothing. TLS and status are not tried.
    pub async fn probe_connect(&self, url: &Url) -> Probe {
        match self.connect(url).await {
            Ok(seen) => Self::report(url, &seen, Ok(None)),
            Err((seen, failure)) => Self::report(url, &seen, Err(failure)),
        }
    }

    async fn connect(&self, url: &Url) -> Result<String, (String, Failure)> {
        let early = |failure| (String::new(), failure);
        self.guard().check(url).map_err(Failure::Blocked).map_err(early)?;
        let found = self.allowed(url).await.map_err(early)?;
        let seen = list(&found);
        let port = url.port_or_known_default().unwrap_or(80);
        let targets: Vec<_> = found.into_iter().map(|ip| (ip, port).into()).collect();
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&*targets)).await {
            Ok(Ok(_)) => Ok(seen),
            Ok(Err(e)) => Err((seen, Failure::Connect { kind: e.kind(), detail: e.to_string() })),
            Err(_) => Err((seen, Failure::ConnectTimeout(CONNECT_TIMEOUT))),
        }
    }

    async fn addresses(&self, url: &Url) -> Result<String, Failure> {
        self.allowed(url).await.map(|found| list(&found))
    }

    async fn allowed(&self, url: &Url) -> Result<Vec<std::net::IpAddr>, Failure> {
        match url.host() {
            Some(Host::Ipv4(ip)) => Ok(vec![ip.into()]),
            Some(Host::Ipv6(ip)) => Ok(vec![ip.into()]),
            _ => {
                let host = url.host_str().unwrap_or_default();
                let own = self.guard.is_own(url);
                let found =
                    timeout(CONNECT_TIMEOUT, resolve(&self.guard, &*self.lookup, host, own));
                match found.await {
                    Err(_) => {
                        let detail = "no answer in time".to_owned();
                        Err(Failure::Dns { host: host.to_owned(), detail })
                    }
                    Ok(Ok(found)) => Ok(found),
                    Ok(Err(Unresolved::Blocked(blocked))) => Err(Failure::Blocked(blocked)),
                    Ok(Err(Unresolved::Unknown(detail))) => {
                        Err(Failure::Dns { host: host.to_owned(), detail })
                    }
                }
            }
        }
    }

    fn report(url: &Url, seen: &str, outcome: Result<Option<Reply>, Failure>) -> Probe {
        let reached = outcome.as_ref().err().map_or(Reached::Exchange, Failure::stage);
        let (reply, failure) = match outcome {
            Ok(reply) => (reply, None),
            Err(failure) => (None, Some(failure)),
        };
        let tls = url.scheme() == "https";
        let spoke = reply.is_some() || (failure.is_some() && reached == Reached::Exchange);
        let mut stages = Vec::with_capacity(5);
        for (stage, own, good, tried) in [
            ("url", Reached::Nothing, url.as_str(), true),
            ("dns", Reached::Dns, seen, true),
            ("connect", Reached::Connect, "connected", true),
            (
                "tls",
                Reached::Tls,
                "a trusted certificate",
                tls && (spoke || reached == Reached::Tls),
            ),
        ] {
            stages.push(match &failure {
                Some(failure) if reached == own => {
                    failed(stage, failure.to_string(), fix(failure, url))
                }
                _ if reached < own => unseen(stage, "not reached"),
                _ if !tried => unseen(stage, if tls { "not tried" } else { "plain http" }),
                _ => Stage { name: stage, ok: Some(true), detail: good.to_owned(), fix: None },
            });
        }
        stages.push(match (&reply, &failure) {
            (Some(reply), _) => status(reply.status),
            (None, Some(failure)) if reached == Reached::Exchange => {
                failed("status", failure.to_string(), fix(failure, url))
            }
            (None, Some(_)) => unseen("status", "not reached"),
            (None, None) => unseen("status", "not tried"),
        });
        Probe { stages, reply, failure }
    }
}

fn list(found: &[std::net::IpAddr]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn unseen(stage: &'static str, detail: &str) -> Stage {
    Stage { name: stage, ok: None, detail: detail.to_owned(), fix: None }
}

fn failed(stage: &'static str, detail: String, fix: String) -> Stage {
    Stage { name: stage, ok: Some(false), detail, fix: Some(fix) }
}

fn status(status: u16) -> Stage {
    let fix = match status {
        200..=299 => None,
        401 | 403 => {
            Some("the handler refused the call: does it have this endpoint's signing secret?")
        }
        404 | 410 => Some("there is a server, but nothing at this path: check the path of the URL"),
        405 => Some("the handler must accept POST at this URL"),
        413 => {
            Some("the server in front of the handler refuses bodies of this size: raise its limit")
        }
        415 => Some("the handler must accept content-type application/json"),
        429 => Some("the handler or a proxy in front of it limits the rate: try again later"),
        502..=504 => Some("a proxy answers, but the handler behind it does not: is it running?"),
        500..=599 => Some("the handler failed: look at its log"),
        _ => Some("a handler answers 200 with a JSON object"),
    };
    match fix {
        None => Stage { name: "status", ok: Some(true), detail: status.to_string(), fix: None },
        Some(fix) => failed("status", status.to_string(), fix.to_owned()),
    }
}

/// What to do about a failure.
fn fix(failure: &Failure, url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or(80);
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match failure {
        Failure::Blocked(blocked) => blocked.fix().to_owned(),
        Failure::Dns { host, .. } => {
            format!("check the spelling of {host}, and that the gateway's machine can resolve it")
        }
        Failure::Connect { kind: io::ErrorKind::ConnectionRefused, .. } if here => format!(
            "nothing listens on port {port}: is the handler running? If the gateway runs in a \
             container, use http://host.docker.internal:{port}"
        ),
        Failure::Connect { kind: io::ErrorKind::ConnectionRefused, .. } => format!(
            "nothing listens on port {port} there: is the handler running, on all addresses and not \
             only on 127.0.0.1?"
        ),
        Failure::Connect { .. } | Failure::ConnectTimeout(_) => {
            "the machine does not answer: check address, port and firewalls in between".to_owned()
        }
        Failure::Tls(_) => "the certificate must be valid for this name and issued by an authority \
             that the gateway's machine trusts (package ca-certificates); a server without TLS needs \
             an http:// URL"
            .to_owned(),
        Failure::Silence(_) => {
            "the handler took the call and did not answer: does it answer `discover` at once?".to_owned()
        }
        Failure::TooLarge(_) => "answer with a smaller body".to_owned(),
        Failure::Closed(_) => {
            "the handler closed the connection without an answer: look at its log; a server that \
             expects TLS needs an https:// URL"
                .to_owned()
        }
        Failure::NotHttp(_) => {
            format!("something other than an HTTP server listens on port {port}; a server that expects \
                     TLS needs an https:// URL")
        }
        Failure::Redirect { location: Some(location), .. } => {
            let target: String = location.chars().filter(|c| !c.is_control()).take(200).collect();
            format!("register the address that it redirects to: {target}")
        }
        Failure::Redirect { .. } => "register the address that it redirects to".to_owned(),
    }
}
