//! How an exchange can fail, told apart by type and never by text.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::guard::Blocked;
use super::resolve::Unresolved;

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The address must not be called.
    #[error("{0}")]
    Blocked(Blocked),
    /// The name leads nowhere.
    #[error("the name {host} was not found: {detail}")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver says.
        detail: String,
    },
    /// No connection.
    #[error("no connection: {detail}")]
    Connect {
        /// Which error of the operating system, such as connection refused.
        kind: io::ErrorKind,
        /// In words.
        detail: String,
    },
    /// No connection (with TLS, where there is TLS) in time.
    #[error("no connection within {}", seconds(*.0))]
    ConnectTimeout(Duration),
    /// A connection, but no TLS: the certificate, the name in it, or no TLS at all.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// Nothing came for so long.
    #[error("the handler was silent for {}", seconds(*.0))]
    Silence(Duration),
    /// The body is over the limit, which is given.
    #[error("the answer is over the limit of {0} bytes")]
    TooLarge(usize),
    /// The connection broke before the answer was complete.
    #[error("the connection was closed before the answer was complete: {0}")]
    Closed(String),
    /// What came is not HTTP.
    #[error("the answer is not HTTP: {0}")]
    NotHttp(String),
    /// The answer sends us somewhere else. It is not followed.
    #[error("the answer is a redirect ({status}), which is not followed")]
    Redirect {
        /// 301 to 308.
        status: u16,
        /// Where to.
        location: Option<String>,
    },
}

fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs_f64())
}

/// How far an exchange came before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// The URL was not even tried.
    Nothing,
    /// The URL is fine, the name was looked up.
    Dns,
    /// There was an address to connect to.
    Connect,
    /// There was a connection.
    Tls,
    /// There was somebody to talk to.
    Exchange,
}

impl Failure {
    /// The stage that failed.
    #[must_use]
    pub const fn stage(&self) -> Reached {
        match self {
            Self::Blocked(Blocked::Address { .. } | Blocked::Own { .. }) | Self::Dns { .. } => {
                Reached::Dns
            }
            Self::Blocked(_) => Reached::Nothing,
            Self::Connect { .. } | Self::ConnectTimeout(_) => Reached::Connect,
            Self::Tls(_) => Reached::Tls,
            _ => Reached::Exchange,
        }
    }

    /// Whether there was no connection: a fault of the endpoint as a whole, not of one run.
    #[must_use]
    pub const fn is_connect(&self) -> bool {
        matches!(self, Self::Dns { .. } | Self::Connect { .. } | Self::ConnectTimeout(_))
    }

    /// Whether something between us and the handler, or the handler's server, may be unfit for
    /// lines: there is somebody, but no HTTP/2, or nothing comes through.
    #[must_use]
    pub const fn is_unfit(&self) -> bool {
        matches!(
            self,
            Self::Connect { kind: io::ErrorKind::Other, .. }
                | Self::Closed(_)
                | Self::NotHttp(_)
                | Self::Silence(_)
        )
    }

    /// Whether the endpoint is unhealthy by this alone, as by a 404: TLS, or an address that must
    /// not be called.
    #[must_use]
    pub const fn is_unhealthy(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::Blocked(_) | Self::Redirect { .. })
    }

    /// A short word for metrics and history, such as `connect`.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Blocked(_) => "blocked",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout(_) => "connect-timeout",
            Self::Tls(_) => "tls",
            Self::Silence(_) => "silence",
            Self::TooLarge(_) => "too-large",
            Self::Closed(_) => "closed",
            Self::NotHttp(_) => "not-http",
            Self::Redirect { .. } => "redirect",
        }
    }

    /// Finds in the causes of the HTTP client's error what has a type of its own.
    pub(super) fn of(error: &reqwest::Error, host: &str, connect_timeout: Duration) -> Self {
        let mut found = None;
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(told) = told(e, host) {
                // The innermost knows best.
                found = Some(told);
            }
            cause = e.source();
        }
        match found {
            Some(told @ (Self::Blocked(_) | Self::Dns { .. } | Self::Tls(_))) => told,
            _ if error.is_connect() && error.is_timeout() => Self::ConnectTimeout(connect_timeout),
            Some(told @ Self::Connect { .. }) if error.is_connect() => told,
            _ if error.is_connect() => {
                Self::Connect { kind: io::ErrorKind::Other, detail: innermost(error) }
            }
            Some(told @ Self::NotHttp(_)) => told,
            _ => Self::Closed(innermost(error)),
        }
    }
}

/// What one cause says, if it is of a type that tells.
fn told(e: &(dyn Error + 'static), host: &str) -> Option<Failure> {
    if let Some(unresolved) = e.downcast_ref::<Unresolved>() {
        return Some(match unresolved {
            Unresolved::Blocked(blocked) => Failure::Blocked(blocked.clone()),
            Unresolved::Unknown(detail) => {
                Failure::Dns { host: host.to_owned(), detail: detail.clone() }
            }
        });
    }
    if let Some(tls) = e.downcast_ref::<rustls::Error>() {
        return Some(Failure::Tls(tls.to_string()));
    }
    if let Some(io) = e.downcast_ref::<io::Error>() {
        // An error inside of an `io::Error` is not among its sources.
        let inner = io.get_ref().and_then(|inner| told(inner, host));
        let outer = || Failure::Connect { kind: io.kind(), detail: io.to_string() };
        return Some(inner.unwrap_or_else(outer));
    }
    let http = e.downcast_ref::<hyper::Error>()?;
    http.is_parse().then(|| Failure::NotHttp(http.to_string()))
}

fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
