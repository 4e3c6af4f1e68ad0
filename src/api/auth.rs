//! Who calls: API keys and their scopes, nodes of the same cluster, handlers, and people on this machine.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::ApiState;
use super::catalogue::Code;
use super::problem::Problem;
use crate::engine::{Caller, Error, Forwarded, JwtRefused, Namespace, Scope};
use crate::machine::RunId;

/// What an API key begins with; another bearer token is a handler's.
const KEY_PREFIX: &str = "sw_";

/// The credential of a request was checked, or none was sent where none is needed.
#[derive(Clone)]
pub(super) enum Checked {
    /// It stands for this caller.
    Caller(Caller),
    /// It is a handler's token; what it may read is checked where it is used.
    Token(String),
}

/// Finds out who calls. A forwarded request was checked before, by what is in its extensions.
pub(super) async fn check(state: &ApiState, parts: &Parts) -> Result<Checked, Problem> {
    if let Some(checked) = parts.extensions.get::<Checked>() {
        return Ok(checked.clone());
    }
    let bearer = bearer(&parts.headers)?;
    if let Some(Forwarded { caller: Some(caller) }) = parts.extensions.get::<Forwarded>() {
        return Ok(Checked::Caller(caller.clone()));
    }
    match bearer {
        Some(token) if is_api_key(token) => {
            let caller = state.engine.authenticate(token).await?;
            caller.map(Checked::Caller).ok_or_else(|| {
                Problem::new(Code::Unauthenticated, "The API key is not valid, or no longer.")
            })
        }
        Some(token) if state.engine.takes_jwt(token) => {
            state.engine.authenticate_jwt(token).await.map(Checked::Caller).map_err(|e| match e {
                JwtRefused::Keys => {
                    Error::busy("the keys of the token's issuer cannot be read").into()
                }
                refused => Problem::new(Code::Unauthenticated, format!("Not let in: {refused}.")),
            })
        }
        Some(token) => Ok(Checked::Token(token.to_owned())),
        None => match &state.local {
            Some(local) if from_this_machine(parts) => {
                same_site(parts)?;
                Ok(Checked::Caller(local.clone()))
            }
            _ => Err(Problem::new(
                Code::Unauthenticated,
                "Send an API key: `Authorization: Bearer sw_…`.",
            )),
        },
    }
}

/// Whether a bearer token has the form of an API key.
pub(super) fn is_api_key(token: &str) -> bool {
    token.starts_with(KEY_PREFIX)
}

pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.filter(|t| !t.is_empty()).map(Some).ok_or_else(|| {
        Problem::new(Code::Unauthenticated, "The header `Authorization` has to be `Bearer sw_…`.")
    })
}

/// Whether the peer is this machine itself and no proxy stands between.
fn from_this_machine(parts: &Parts) -> bool {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback())
        && !parts.headers.contains_key("forwarded")
        && !parts.headers.contains_key("x-forwarded-for")
}

/// Refuses what a browser sends for another site: without a key, being on this machine is the only
/// credential, and any page that is open in the browser has it too.
fn same_site(parts: &Parts) -> Result<(), Problem> {
    let header = |name| parts.headers.get(name).and_then(|v: &header::HeaderValue| v.to_str().ok());
    let host = parts.uri.authority().map(axum::http::uri::Authority::as_str);
    let host = host.or_else(|| header("host")).unwrap_or_default();
    let refuse = |why: &str| Err(Problem::new(Code::CrossOrigin, why));
    if !is_loopback_name(host) {
        return refuse("Without an API key the server has to be addressed as `localhost`.");
    }
    if header("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return refuse("The request comes from a page of another site.");
    }
    match header("origin") {
        Some(origin) if origin.split_once("://").map(|(_, at)| at) != Some(host) => {
            refuse("The request comes from a page of another origin.")
        }
        _ => Ok(()),
    }
}

/// Whether `host[:port]` can only be this machine, whatever a name server says.
fn is_loopback_name(host: &str) -> bool {
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else { return false };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name.ends_with(".localhost")
        || literal.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

async fn allowed(state: &ApiState, parts: &Parts, scope: Scope) -> Result<Caller, Problem> {
    match check(state, parts).await? {
        Checked::Caller(caller) if caller.scopes.allow(scope) => Ok(caller),
        Checked::Caller(_) => Err(Problem::new(
            Code::MissingScope,
            format!("This needs the scope `{}`.", scope.word()),
        )
        .with("scope", scope.word())),
        Checked::Token(_) => {
            Err(Problem::new(Code::Unauthenticated, "This needs an API key (`sw_…`)."))
        }
    }
}

macro_rules! callers {
    ($($(#[$doc:meta])* $name:ident = $scope:ident;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name(pub(super) Caller);

        impl FromRequestParts<ApiState> for $name {
            type Rejection = Problem;
            async fn from_request_parts(
                parts: &mut Parts,
                state: &ApiState,
            ) -> Result<Self, Problem> {
                allowed(state, parts, Scope::$scope).await.map(Self)
            }
        }
    )*};
}

callers! {
    /// A caller who may read.
    Reader = RunsRead;
    /// A caller who may start runs and act on them.
    Operator = RunsWrite;
    /// A caller who may send signals.
    Sender = SignalsWrite;
    /// A caller who may change endpoints.
    Deployer = EndpointsWrite;
    /// A caller who may change schedules.
    Scheduler = SchedulesWrite;
    /// A caller who may poll for work.
    Worker = EndpointsPoll;
    /// A caller who may do everything.
    Admin = Admin;
}

/// The handler of a run, by the token of its invocation.
pub(super) struct Handling(Checked);

impl FromRequestParts<ApiState> for Handling {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        check(state, parts).await.map(Self)
    }
}

impl Handling {
    /// The token, if it is one.
    pub(super) fn token(self) -> Result<String, Problem> {
        match self.0 {
            Checked::Token(token) => Ok(token),
            Checked::Caller(_) => Err(Problem::new(
                Code::InvalidToken,
                "This is for handlers: send the `token` of the invocation as bearer token.",
            )),
        }
    }
}

/// A caller who may read, or the handler of a run, which may read that run.
pub(super) struct Insider(Checked);

impl FromRequestParts<ApiState> for Insider {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match check(state, parts).await? {
            token @ Checked::Token(_) => Ok(Self(token)),
            Checked::Caller(_) => {
                allowed(state, parts, Scope::RunsRead).await.map(|c| Self(Checked::Caller(c)))
            }
        }
    }
}

impl Insider {
    /// The namespace in which `run` may be read.
    pub(super) async fn of(self, state: &ApiState, run: RunId) -> Result<Namespace, Problem> {
        match self.0 {
            Checked::Caller(caller) => Ok(caller.namespace),
            Checked::Token(token) => Ok(state.engine.handler(&token, run).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_this_machine() {
        for name in [
            "localhost",
            "localhost:8484",
            "127.0.0.1:1",
            "127.8.8.8",
            "[::1]:80",
            "a.localhost",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1",
            "xlocalhost",
        ] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let parts = |headers: &[(&str, &str)]| {
            let mut request = axum::http::Request::builder().uri("/v1/runs");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(()).expect("a request").into_parts().0
        };
        let host = ("host", "localhost:8484");
        assert!(same_site(&parts(&[host])).is_ok());
        assert!(
            same_site(&parts(&[
                host,
                ("origin", "http://localhost:8484"),
                ("sec-fetch-site", "same-origin")
            ]))
            .is_ok()
        );
        for bad in [
            vec![host, ("origin", "https://evil.example")],
            vec![host, ("origin", "null")],
            vec![host, ("origin", "http://localhost:3000")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![("host", "evil.example:8484")],
            vec![],
        ] {
            assert!(same_site(&parts(&bad)).is_err(), "{bad:?}");
        }
    }
}
