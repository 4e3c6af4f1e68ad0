//! Who may ask: API keys, and the other nodes of the cluster.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Caller, Engine, Error, Forwarded, KeyRow, NODE_HEADER, Namespace, Scope, Scopes};
use crate::machine::{KeyId, Timestamp};
use crate::protocol::{ApiKey, KeyHash, NodeRequest};
use crate::store::{self, NewApiKey, Store};

/// The environment in the text of a key.
const ENVIRONMENT: &str = "live";
/// How long a key is believed without asking the database: so long a key that was revoked on
/// another node may still work on this one.
const BELIEVED: Duration = Duration::from_secs(30);
/// A key's last use is noted at most so often.
const NOTED: Duration = Duration::from_mins(1);
/// Keys that are remembered; over that, all are forgotten and asked for again.
const REMEMBERED: usize = 10_000;

/// What this node remembers of API keys.
#[derive(Debug, Default)]
pub(super) struct Keys(Mutex<HashMap<KeyId, Known>>);

#[derive(Debug, Clone)]
struct Known {
    /// None: there is no such key.
    key: Option<store::ApiKey>,
    /// When it was read, in monotonic time.
    read: Duration,
    /// When its use was noted last, in monotonic time.
    noted: Option<Duration>,
}

impl Keys {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<KeyId, Known>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key, if it was read not too long ago.
    fn recall(&self, id: KeyId, now: Duration) -> Option<Known> {
        self.with(|keys| keys.get(&id).filter(|k| now.saturating_sub(k.read) < BELIEVED).cloned())
    }

    fn remember(&self, id: KeyId, key: Option<store::ApiKey>, now: Duration) {
        self.with(|keys| {
            if keys.len() >= REMEMBERED {
                keys.clear();
            }
            let noted = keys.get(&id).and_then(|k| k.noted);
            keys.insert(id, Known { key, read: now, noted });
        });
    }

    fn forget(&self, id: KeyId) {
        self.with(|keys| keys.remove(&id));
    }

    /// Whether this use is to be noted.
    fn is_due(&self, id: KeyId, now: Duration) -> bool {
        self.with(|keys| {
            let Some(known) = keys.get_mut(&id) else { return false };
            let due = known.noted.is_none_or(|at| now.saturating_sub(at) >= NOTED);
            if due {
                known.noted = Some(now);
            }
            due
        })
    }
}

/// A caller as one node tells it to another.
#[derive(Serialize, Deserialize)]
struct Vouched {
    ns: i32,
    name: String,
    by: String,
    scopes: u8,
}

impl Engine {
    /// A new API key of a namespace, and its text, which is shown this once.
    pub async fn create_key(
        &self,
        ns: &Namespace,
        name: &str,
        scopes: Scopes,
        by: &str,
    ) -> Result<(KeyRow, String), Error> {
        let now = self.clock().upper();
        let (key, text) = new_key(self.store(), ns, name, scopes, now).await?;
        tracing::info!(key.id = %key.id, name, by, "API key created");
        Ok((key, text))
    }

    /// All API keys of a namespace by id, revoked ones too.
    pub async fn list_keys(&self, ns: &Namespace) -> Result<Vec<KeyRow>, Error> {
        let keys = self.store().list_keys(Some(ns.id)).await?;
        let mut rows: Vec<KeyRow> = keys.into_iter().map(|key| row(ns, key)).collect();
        rows.sort_by_key(|k| k.id);
        Ok(rows)
    }

    /// Revokes a key: here at once, on other nodes within half a minute. Whether there was such a
    /// key; a second revocation changes nothing.
    pub async fn revoke_key(&self, ns: &Namespace, key: KeyId, by: &str) -> Result<bool, Error> {
        let found = self.store().revoke_key(key, Some(ns.id)).await?;
        self.api_keys().forget(key);
        if found {
            tracing::info!(key.id = %key, by, "API key revoked");
        }
        Ok(found)
    }

    /// Whom an API key stands for; none if it is not valid.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Caller>, Error> {
        // A typo does not reach the database.
        let Ok(presented) = ApiKey::parse(key) else { return Ok(None) };
        let mono = self.clock().mono();
        let known = if let Some(known) = self.api_keys().recall(presented.id, mono) {
            known.key
        } else {
            let read = self.store().find_key(presented.id).await?;
            self.api_keys().remember(presented.id, read.clone(), mono);
            read
        };
        let now = self.clock().upper();
        let valid = |k: &store::ApiKey| {
            // Compared in constant time, and first.
            KeyHash::new(k.hash).matches(&presented.hash)
                && k.revoked_at.is_none()
                && k.expires_at.is_none_or(|at| at > now)
        };
        let Some(key) = known.filter(valid) else { return Ok(None) };
        let catalog = self.catalog();
        let namespace = match key.ns {
            Some(id) => catalog.namespace(id),
            None => catalog.namespace_named("default"),
        };
        let Some(namespace) = namespace else { return Ok(None) };
        if self.api_keys().is_due(key.id, mono) {
            let (engine, id) = (self.clone(), key.id);
            self.spawn(async move {
                if let Err(error) = engine.store().key_used(id, now).await {
                    tracing::debug!(key.id = %id, %error, "the use of an API key is not noted");
                }
            });
        }
        let scopes = scopes_of(&key.scopes);
        Ok(Some(Caller { namespace, by: key.name, scopes }))
    }

    /// Headers that authenticate a request to another node, [`NODE_HEADER`] among them. `path` has
    /// the query. They hold for five minutes, for this very request.
    #[must_use]
    pub fn node_headers(
        &self,
        caller: Option<&Caller>,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Vec<(HeaderName, HeaderValue)> {
        let vouched = caller.map_or_else(String::new, |c| {
            let vouched = Vouched {
                ns: c.namespace.id,
                name: c.namespace.name.clone(),
                by: c.by.clone(),
                scopes: c.scopes.0,
            };
            BASE64URL.encode(crate::machine::to_bytes(&vouched))
        });
        let at = self.clock().upper().as_secs();
        let signature =
            self.keys().node_signature(&request(&purpose(&vouched), at, method, path, body));
        let mut value = HeaderValue::try_from(format!("{at}.{vouched}.{signature}"))
            .expect("digits, dots and base64 can stand in a header");
        value.set_sensitive(true);
        vec![(HeaderName::from_static(NODE_HEADER), value)]
    }

    /// Checks a request from another node; none if it is not authentic.
    #[must_use]
    pub fn check_node(
        &self,
        headers: &HeaderMap,
        method: &Method,
        path: &str,
        body: &[u8],
    ) -> Option<Forwarded> {
        let mut named = headers.get_all(NODE_HEADER).iter();
        let (Some(value), None) = (named.next(), named.next()) else { return None };
        let mut parts = value.to_str().ok()?.splitn(3, '.');
        let (at, vouched, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let at: i64 = at.parse().ok()?;
        let now = self.clock().upper().as_secs();
        let purpose = purpose(vouched);
        self.keys().check_node(&request(&purpose, at, method, path, body), signature, now).ok()?;
        if vouched.is_empty() {
            return Some(Forwarded { caller: None });
        }
        let vouched: Vouched = serde_json::from_slice(&BASE64URL.decode(vouched).ok()?).ok()?;
        let caller = Caller {
            namespace: Namespace { id: vouched.ns, name: vouched.name },
            by: vouched.by,
            scopes: Scopes(vouched.scopes),
        };
        Some(Forwarded { caller: Some(caller) })
    }

    /// Prometheus text; empty where metrics were not installed.
    #[must_use]
    #[expect(clippy::unused_self, reason = "the API asks the engine, whose metrics they are")]
    pub fn metrics(&self) -> String {
        crate::telemetry::metrics()
    }
}

/// A key of the namespace `default`, made straight in the database: for the command line, where no
/// node runs yet.
pub async fn bootstrap_key(
    store: &Store,
    name: &str,
    scopes: Scopes,
) -> Result<(KeyRow, String), Error> {
    bootstrap_key_in(store, super::namespaces::DEFAULT, name, scopes).await
}

/// The same for another namespace.
pub async fn bootstrap_key_in(
    store: &Store,
    namespace: &str,
    name: &str,
    scopes: Scopes,
) -> Result<(KeyRow, String), Error> {
    let namespaces = store.load_catalog().await?.namespaces;
    let ns = namespaces.into_iter().find(|n| n.name == namespace);
    let ns = ns.ok_or_else(|| Error::NamespaceNotFound(namespace.to_owned()))?;
    let now = store.now().await?;
    new_key(store, &Namespace { id: ns.id, name: ns.name }, name, scopes, now).await
}

async fn new_key(
    store: &Store,
    ns: &Namespace,
    name: &str,
    scopes: Scopes,
    now: Timestamp,
) -> Result<(KeyRow, String), Error> {
    let id = KeyId::new(now, crate::clock::chance());
    let (text, made) = ApiKey::generate(ENVIRONMENT, id).expect("the environment is a word");
    let kept = NewApiKey {
        id,
        ns: Some(ns.id),
        name: name.to_owned(),
        hash: *made.hash.as_bytes(),
        scopes: scopes.iter().map(|s| s.word().to_owned()).collect(),
        expires_at: None,
    };
    Ok((row(ns, store.create_key(&kept).await?), text))
}

fn row(ns: &Namespace, key: store::ApiKey) -> KeyRow {
    KeyRow {
        id: key.id,
        namespace: ns.name.clone(),
        name: key.name,
        scopes: scopes_of(&key.scopes),
        created_at: key.created_at,
        last_used_at: key.last_used_at,
        revoked_at: key.revoked_at,
    }
}

/// Words that this version does not know allow nothing.
fn scopes_of(words: &[String]) -> Scopes {
    words.iter().filter_map(|word| Scope::from_word(word)).collect()
}

/// What a node's signature is for: also the caller that it vouches for.
fn purpose(vouched: &str) -> String {
    format!("forward {vouched}")
}

fn request<'a>(
    purpose: &'a str,
    timestamp: i64,
    method: &'a Method,
    path: &'a str,
    body: &[u8],
) -> NodeRequest<'a> {
    let body_hash = Sha256::digest(body).into();
    NodeRequest { purpose, timestamp, method: method.as_str(), path, body_hash }
}
