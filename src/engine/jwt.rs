//! Callers who come with a JWT of an issuer elsewhere: its keys, kept and read anew, and what its claims
//! stand for.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, Method};
use url::Url;

use super::{Caller, Engine, Scope, Scopes, lock};
use crate::machine::Timestamp;
use crate::outbound::{self, Client, Guard};
use crate::protocol::{BadJwt, JwtAlgorithm, JwtClaims, JwtKey, looks_like_jwt, verify_jwt};

/// Keys are read anew when they are so old.
const FRESH: Duration = Duration::from_mins(10);
/// Where they cannot be read anew, old ones are believed so long.
const BELIEVED: Duration = Duration::from_hours(24);
/// They are read at most so often, whatever tokens name.
const SELDOM: Duration = Duration::from_secs(10);
/// How long reading them may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest set of keys.
const MAX_SET: usize = 1 << 20;

/// Where the keys come from.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    /// A secret that is shared with the issuer.
    Secret(JwtKey),
    /// A set of public keys (JWKS) at this address.
    Url(Url),
    /// The same in a file.
    File(PathBuf),
}

/// Whose tokens are taken, and what their claims mean.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or contain.
    pub audience: String,
    /// The algorithms that are taken.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Where the keys come from.
    pub keys: JwtKeys,
    /// The claim that names the namespace; none: it is `default`.
    pub namespace_claim: Option<String>,
    /// The claim that has the scopes.
    pub scopes_claim: String,
    /// How far the clocks of issuer and gateway may be apart.
    pub leeway: Duration,
}

impl JwtSettings {
    /// Refuses what would not be safe: an algorithm that no key here is for, keys over plain HTTP.
    pub fn check(&self) -> Result<(), String> {
        if self.issuer.is_empty() || self.audience.is_empty() {
            return Err("issuer and audience of tokens must not be empty".to_owned());
        }
        if self.algorithms.is_empty() {
            return Err("at least one algorithm of tokens must be taken".to_owned());
        }
        let symmetric = matches!(self.keys, JwtKeys::Secret(_));
        for algorithm in &self.algorithms {
            if (*algorithm == JwtAlgorithm::Hs256) != symmetric {
                let word = algorithm.word();
                return Err(if symmetric {
                    format!(
                        "{word} needs public keys, and a secret is given: only HS256 goes with it"
                    )
                } else {
                    format!("{word} needs a secret, and public keys are given: never both")
                });
            }
        }
        if let JwtKeys::Url(url) = &self.keys {
            let local = url.host_str().is_some_and(|host| {
                host == "localhost"
                    || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            });
            if url.scheme() != "https" && !(url.scheme() == "http" && local) {
                return Err(format!("{url}: keys of tokens are read over https alone"));
            }
        }
        Ok(())
    }
}

/// Why somebody with a token is not let in.
#[derive(Debug, thiserror::Error)]
pub enum JwtRefused {
    /// The token is at fault.
    #[error(transparent)]
    Bad(#[from] BadJwt),
    /// It names a namespace that is not there.
    #[error("the token's namespace is not there")]
    Namespace,
    /// The keys cannot be had.
    #[error("the keys of the tokens' issuer cannot be read at the moment")]
    Keys,
}

/// The keys that are known, and when they were read.
#[derive(Debug, Clone, Default)]
struct Known {
    keys: Arc<Vec<JwtKey>>,
    /// When they were read.
    read: Option<Timestamp>,
    /// When that was last tried.
    tried: Option<Timestamp>,
}

/// What this node knows of the tokens' issuer.
pub(super) struct Tokens {
    client: Client,
    known: Mutex<Known>,
    /// One reads, the others wait for what comes of it.
    reading: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// What is known at first: nothing. Who set the address of the keys is trusted with where it is.
    pub(super) fn new() -> Option<Self> {
        let guard = Guard {
            allow_http: true,
            allow_loopback: true,
            allow_private: true,
            ..Guard::default()
        };
        let client = Client::new(guard).ok()?;
        Some(Self { client, known: Mutex::default(), reading: tokio::sync::Mutex::default() })
    }
}

impl Engine {
    /// Whether a credential is to be taken as a token of an issuer elsewhere.
    #[must_use]
    pub fn takes_jwt(&self, token: &str) -> bool {
        self.0.settings.jwt.is_some() && self.0.tokens.is_some() && looks_like_jwt(token)
    }

    /// Whom a token stands for.
    pub async fn authenticate_jwt(&self, token: &str) -> Result<Caller, JwtRefused> {
        let (Some(settings), Some(tokens)) = (&self.0.settings.jwt, &self.0.tokens) else {
            return Err(JwtRefused::Keys);
        };
        let claims = self.verified(settings, tokens, token).await?;
        let now = self.clock().upper().as_secs();
        claims.check(&settings.issuer, &settings.audience, settings.leeway, now)?;
        let subject = claims.text("sub")?;
        let name = match &settings.namespace_claim {
            Some(claim) => claims.text(claim)?,
            None => "default",
        };
        let namespace = self.catalog().namespace_named(name).ok_or(JwtRefused::Namespace)?;
        let words = claims.words(&settings.scopes_claim);
        let scopes: Scopes = words.into_iter().filter_map(Scope::from_word).collect();
        Ok(Caller { namespace, by: format!("jwt:{subject}"), scopes })
    }

    async fn verified(
        &self,
        settings: &JwtSettings,
        tokens: &Tokens,
        token: &str,
    ) -> Result<JwtClaims, JwtRefused> {
        let pinned = &settings.algorithms;
        if let JwtKeys::Secret(key) = &settings.keys {
            return Ok(verify_jwt(token, std::slice::from_ref(key), pinned)?);
        }
        let known = self.keys_of(settings, tokens, |_| false).await?;
        match verify_jwt(token, &known, pinned) {
            // The issuer may have changed its keys.
            Err(BadJwt::UnknownKey) => {
                let unknown = |keys: &[JwtKey]| {
                    matches!(verify_jwt(token, keys, pinned), Err(BadJwt::UnknownKey))
                };
                let known = self.keys_of(settings, tokens, unknown).await?;
                Ok(verify_jwt(token, &known, pinned)?)
            }
            verified => Ok(verified?),
        }
    }

    /// The issuer's keys, read anew if they are old or `lacking`, but seldom.
    async fn keys_of(
        &self,
        settings: &JwtSettings,
        tokens: &Tokens,
        lacking: impl Fn(&[JwtKey]) -> bool,
    ) -> Result<Arc<Vec<JwtKey>>, JwtRefused> {
        let wanted = |known: &Known, now: Timestamp| {
            let old = known.read.is_none_or(|at| now.since(at) >= FRESH);
            let tried = known.tried.is_some_and(|at| now.since(at) < SELDOM);
            (old || lacking(&known.keys)) && !tried
        };
        let known = lock(&tokens.known).clone();
        if wanted(&known, self.clock().upper()) {
            let _reading = tokens.reading.lock().await;
            let now = self.clock().upper();
            // Somebody else may have read them meanwhile.
            if wanted(&lock(&tokens.known).clone(), now) {
                lock(&tokens.known).tried = Some(now);
                match self.read_keys(settings, tokens).await {
                    Ok(keys) => {
                        let mut known = lock(&tokens.known);
                        known.keys = Arc::new(keys);
                        known.read = Some(now);
                    }
                    Err(why) => tracing::warn!(why, "the keys of tokens cannot be read anew"),
                }
            }
        }
        let known = lock(&tokens.known).clone();
        let now = self.clock().upper();
        match known.read {
            Some(at) if now.since(at) < BELIEVED => Ok(known.keys),
            _ => Err(JwtRefused::Keys),
        }
    }

    async fn read_keys(
        &self,
        settings: &JwtSettings,
        tokens: &Tokens,
    ) -> Result<Vec<JwtKey>, String> {
        let document = match &settings.keys {
            JwtKeys::Secret(key) => return Ok(vec![key.clone()]),
            JwtKeys::File(path) => {
                let read = tokio::fs::read(path).await;
                read.map_err(|e| format!("{}: {e}", path.display()))?.into()
            }
            JwtKeys::Url(url) => {
                let (method, headers) = (Method::GET, HeaderMap::new());
                let request = outbound::Request { method, url: url.clone(), headers, body: None };
                let answer = tokens.client.call(request, PATIENCE, MAX_SET).await;
                let answer = answer.map_err(|e| format!("{url}: {e}"))?;
                if answer.status != 200 {
                    return Err(format!("{url} answered {}", answer.status));
                }
                answer.body
            }
        };
        JwtKey::of_set(&document).map_err(|why| format!("what is there {why}"))
    }
}
