//! Credentials that the gateway makes and checks itself: invocation tokens, callback secrets, calls
//! between nodes, API keys. Compared in constant time; none of them prints itself.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::public_key::PublicSigner;
use crate::machine::{KeyId, RunId, Timestamp};

/// How far the clocks of two nodes may be apart, in seconds.
const TOLERANCE: u64 = 300;
const MAC: usize = 32;
const TOKEN: usize = 16 + 4 + 8;
const CALLBACK: usize = 16 + 4;

/// What all nodes of one cluster share: 32 random bytes.
#[derive(Clone)]
pub struct ClusterSecret([u8; 32]);

impl ClusterSecret {
    /// The secret of these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The bytes, to keep them.
    #[must_use]
    pub const fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The keys that are derived from the cluster's secret, one for each purpose. Cheap to clone.
#[derive(Clone)]
pub struct ClusterKeys {
    token: Hmac<Sha256>,
    callback: Hmac<Sha256>,
    node: Hmac<Sha256>,
    public: PublicSigner,
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a valid invocation token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenClaims {
    /// The run.
    pub run: RunId,
    /// The epoch that it is valid for.
    pub epoch: i32,
    /// Valid until then, to the second.
    pub expires: Timestamp,
}

/// Why a token, a callback secret or a node's signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not made by this cluster, or changed.
    #[error("the credential is not valid")]
    Invalid,
    /// Made by this cluster, and too old (or, between nodes, from the future).
    #[error("the credential has expired")]
    Expired,
}

/// What one node says to another, as far as its signature covers it.
#[derive(Debug, Clone, Copy)]
pub struct NodeRequest<'a> {
    /// Such as `forward` or `poke`.
    pub purpose: &'a str,
    /// When it was sent, in Unix seconds.
    pub timestamp: i64,
    /// The HTTP method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// SHA-256 of the body.
    pub body_hash: [u8; 32],
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl ClusterKeys {
    /// Derives the keys.
    #[must_use]
    pub fn derive(secret: &ClusterSecret) -> Self {
        let seed = |purpose: &[u8]| keyed(&secret.0).chain_update(purpose).finalize().into_bytes();
        let key = |purpose: &[u8]| keyed(&seed(purpose));
        Self {
            token: key(b"stepwell invocation token 1"),
            callback: key(b"stepwell callback secret 1"),
            node: key(b"stepwell node request 1"),
            public: PublicSigner::of(seed(b"stepwell public signature 1").into()),
        }
    }

    /// What signs for those who have no secret, as `v1a`.
    #[must_use]
    pub const fn public(&self) -> &PublicSigner {
        &self.public
    }

    /// A bearer token for the links of one invocation: 80 characters, URL-safe.
    #[must_use]
    pub fn mint(&self, run: RunId, epoch: i32, expires: Timestamp) -> String {
        let mut claims = [0u8; TOKEN];
        claims[..16].copy_from_slice(run.uuid().as_bytes());
        claims[16..20].copy_from_slice(&epoch.to_be_bytes());
        claims[20..].copy_from_slice(&expires.as_secs().to_be_bytes());
        seal::<TOKEN>(&self.token, &claims)
    }

    /// Reads an invocation token.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<TokenClaims, BadToken> {
        let claims = open::<TOKEN>(&self.token, token)?;
        let expires = i64::from_be_bytes(part(&claims, 20));
        if now.as_secs() > expires {
            return Err(BadToken::Expired);
        }
        Ok(TokenClaims {
            run: RunId::from(Uuid::from_bytes(part(&claims, 0))),
            epoch: i32::from_be_bytes(part(&claims, 16)),
            expires: Timestamp::from_micros(expires.saturating_mul(1_000_000)),
        })
    }

    /// The secret in the callback address of one generation of a run: 70 characters, URL-safe. Holds
    /// both, so that it needs no table; valid as long as the generation, always the same.
    #[must_use]
    pub fn callback_secret(&self, run: RunId, generation: i32) -> String {
        let mut claims = [0u8; CALLBACK];
        claims[..16].copy_from_slice(run.uuid().as_bytes());
        claims[16..].copy_from_slice(&generation.to_be_bytes());
        seal::<CALLBACK>(&self.callback, &claims)
    }

    /// Reads a callback secret: the run and the generation.
    pub fn parse_callback_secret(&self, secret: &str) -> Result<(RunId, i32), BadToken> {
        let claims = open::<CALLBACK>(&self.callback, secret)?;
        let run = RunId::from(Uuid::from_bytes(part(&claims, 0)));
        Ok((run, i32::from_be_bytes(part(&claims, 16))))
    }

    /// The signature of a call to another node, for a header.
    #[must_use]
    pub fn node_signature(&self, request: &NodeRequest<'_>) -> String {
        BASE64URL.encode(self.node_mac(request).finalize().into_bytes())
    }

    /// Whether a call comes from a node of this cluster and is at most five minutes old. `now` is in
    /// Unix seconds. A call can be repeated within that time, so it must be harmless when repeated.
    pub fn check_node(
        &self,
        request: &NodeRequest<'_>,
        signature: &str,
        now: i64,
    ) -> Result<(), BadToken> {
        let given = BASE64URL.decode(signature).map_err(|_| BadToken::Invalid)?;
        self.node_mac(request).verify_slice(&given).map_err(|_| BadToken::Invalid)?;
        if now.abs_diff(request.timestamp) > TOLERANCE {
            return Err(BadToken::Expired);
        }
        Ok(())
    }

    fn node_mac(&self, request: &NodeRequest<'_>) -> Hmac<Sha256> {
        let mut mac = self.node.clone();
        for part in [request.purpose, request.method, request.path] {
            // Lengths keep the parts apart, whatever is in them.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac.update(&request.timestamp.to_be_bytes());
        mac.update(&request.body_hash);
        mac
    }
}

fn seal<const N: usize>(key: &Hmac<Sha256>, claims: &[u8; N]) -> String {
    let mut bytes = [0u8; TOKEN + MAC];
    bytes[..N].copy_from_slice(claims);
    bytes[N..N + MAC].copy_from_slice(&key.clone().chain_update(claims).finalize().into_bytes());
    BASE64URL.encode(&bytes[..N + MAC])
}

fn open<const N: usize>(key: &Hmac<Sha256>, text: &str) -> Result<[u8; N], BadToken> {
    let mut bytes = [0u8; TOKEN + MAC];
    // A text that is too long for the buffer is refused unread.
    let size = BASE64URL.decode_slice(text, &mut bytes).map_err(|_| BadToken::Invalid)?;
    if size != N + MAC {
        return Err(BadToken::Invalid);
    }
    let (claims, mac) = bytes[..size].split_at(N);
    key.clone().chain_update(claims).verify_slice(mac).map_err(|_| BadToken::Invalid)?;
    Ok(part(claims, 0))
}

/// `N` bytes from `at` on.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("callers stay within the bytes")
}

/// What the database keeps of an API key: the SHA-256 of its secret. No `==`: see
/// [`KeyHash::matches`].
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// From the database.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For the database.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether both are the same, in constant time.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// An API key as it was presented, `sw_<env>_<id>_<secret>_<checksum>`, taken apart.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Such as `live` or `dev`.
    pub env: String,
    /// What it is looked up by.
    pub id: KeyId,
    /// What is compared.
    pub hash: KeyHash,
}

/// A text that is not an API key, told without asking the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not an API key: `sw_`, environment, id, secret and checksum")]
pub struct BadKey;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Base62 digits of 128 bits.
const ID_DIGITS: usize = 22;
/// Base62 digits of the secret: more than 256 bits.
const SECRET_DIGITS: usize = 43;
/// Base62 digits of a CRC-32.
const CRC_DIGITS: usize = 6;

impl ApiKey {
    /// A new key: the text that is shown once, and what is kept of it. `env` is 1 to 16 lower-case
    /// letters or digits.
    pub fn generate(env: &str, id: KeyId) -> Result<(String, Self), BadKey> {
        if !valid_env(env) {
            return Err(BadKey);
        }
        let secret: String = (0..SECRET_DIGITS)
            .map(|_| char::from(BASE62[rand::random_range(0..BASE62.len())]))
            .collect();
        let mut text = format!("sw_{env}_{}_{secret}", base62::<ID_DIGITS>(id.uuid().as_u128()));
        let crc = base62::<CRC_DIGITS>(u128::from(crc32fast::hash(text.as_bytes())));
        text.push('_');
        text.push_str(&crc);
        Ok((text, Self { env: env.to_owned(), id, hash: hash(&secret) }))
    }

    /// Takes a key apart. A typo or a cut-off key fails here, by its checksum.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let (signed, crc) = text.rsplit_once('_').ok_or(BadKey)?;
        if base62::<CRC_DIGITS>(u128::from(crc32fast::hash(signed.as_bytes()))) != crc {
            return Err(BadKey);
        }
        let mut parts = signed.strip_prefix("sw_").ok_or(BadKey)?.split('_');
        let (Some(env), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadKey);
        };
        if !valid_env(env) || id.len() != ID_DIGITS || secret.len() != SECRET_DIGITS {
            return Err(BadKey);
        }
        let id = KeyId::from(Uuid::from_u128(from_base62(id).ok_or(BadKey)?));
        Ok(Self { env: env.to_owned(), id, hash: hash(secret) })
    }
}

fn valid_env(env: &str) -> bool {
    (1..=16).contains(&env.len())
        && env.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn hash(secret: &str) -> KeyHash {
    KeyHash(Sha256::digest(secret.as_bytes()).into())
}

fn base62<const N: usize>(mut value: u128) -> String {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[usize::try_from(value % 62).expect("less than 62")];
        value /= 62;
    }
    digits.iter().map(|d| char::from(*d)).collect()
}

fn from_base62(text: &str) -> Option<u128> {
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = BASE62.iter().position(|b| *b == byte)?;
        value.checked_mul(62)?.checked_add(digit as u128)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

    fn keys() -> ClusterKeys {
        ClusterKeys::derive(&ClusterSecret::new([7; 32]))
    }

    fn run(chance: u128) -> RunId {
        RunId::new(NOW, chance)
    }

    /// All texts that differ from a credential in one character.
    fn forgeries(text: &str) -> impl Iterator<Item = String> {
        (0..text.len()).map(move |i| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            String::from_utf8(bytes).expect("ASCII")
        })
    }

    // P2.17
    #[test]
    fn a_token_is_good_for_its_run_and_epoch_until_it_expires() {
        let expires = NOW + std::time::Duration::from_mins(1);
        let token = keys().mint(run(1), 7, expires);
        assert_eq!(token.len(), 80);
        let claims = TokenClaims { run: run(1), epoch: 7, expires };
        assert_eq!(keys().check(&token, NOW), Ok(claims));
        assert_eq!(keys().check(&token, expires), Ok(claims));
        let late = expires + std::time::Duration::from_secs(1);
        assert_eq!(keys().check(&token, late), Err(BadToken::Expired));
        for forged in forgeries(&token) {
            assert_eq!(keys().check(&forged, NOW), Err(BadToken::Invalid), "{forged}");
        }
        let others = ClusterKeys::derive(&ClusterSecret::generate());
        assert_eq!(others.check(&token, NOW), Err(BadToken::Invalid));
        for bad in ["", "x", &token[..79], &format!("{token}AAAA"), &"A".repeat(10_000)] {
            assert_eq!(keys().check(bad, NOW), Err(BadToken::Invalid), "{bad}");
        }
    }

    // P2.24
    #[test]
    fn a_callback_secret_holds_run_and_generation() {
        let secret = keys().callback_secret(run(2), 3);
        assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(keys().parse_callback_secret(&secret), Ok((run(2), 3)));
        assert_ne!(secret, keys().callback_secret(run(2), 4));
        assert_ne!(secret, keys().callback_secret(run(3), 3));
        for forged in forgeries(&secret) {
            assert_eq!(keys().parse_callback_secret(&forged), Err(BadToken::Invalid));
        }
        // A token is no callback secret, nor the other way about.
        let token = keys().mint(run(2), 3, NOW);
        assert!(keys().parse_callback_secret(&token).is_err());
        assert!(keys().check(&secret, NOW).is_err());
    }

    #[test]
    fn nodes_know_each_other() {
        let at = NOW.as_secs();
        let request = NodeRequest {
            purpose: "forward",
            timestamp: at,
            method: "POST",
            path: "/v1/runs?x=1",
            body_hash: [1; 32],
        };
        let signature = keys().node_signature(&request);
        assert_eq!(keys().check_node(&request, &signature, at + 300), Ok(()));
        assert_eq!(keys().check_node(&request, &signature, at + 301), Err(BadToken::Expired));
        assert_eq!(keys().check_node(&request, &signature, at - 301), Err(BadToken::Expired));
        for changed in [
            NodeRequest { purpose: "poke", ..request },
            NodeRequest { timestamp: at + 1, ..request },
            NodeRequest { method: "GET", ..request },
            NodeRequest { path: "/v1/runs?x=2", ..request },
            NodeRequest { body_hash: [2; 32], ..request },
            // Moved from one part to the next.
            NodeRequest { method: "POST/", path: "v1/runs?x=1", ..request },
        ] {
            assert_eq!(keys().check_node(&changed, &signature, at), Err(BadToken::Invalid));
        }
        assert!(keys().check_node(&request, "", at).is_err());
    }

    #[test]
    fn api_keys_round_trip_and_typos_fail_offline() {
        let id = KeyId::new(NOW, 5);
        let (text, kept) = ApiKey::generate("live", id).expect("a key");
        assert_eq!(text.len(), "sw_live_".len() + 22 + 1 + 43 + 1 + 6);
        let read = ApiKey::parse(&text).expect("a key");
        assert_eq!((read.env.as_str(), read.id), ("live", id));
        assert!(read.hash.matches(&kept.hash));
        for forged in forgeries(&text) {
            assert!(ApiKey::parse(&forged).is_err(), "{forged}");
        }
        let (_, another) = ApiKey::generate("live", id).expect("a key");
        assert!(!read.hash.matches(&another.hash));
        for bad in ["", "sw_live", "sw_live_x_y_z", &text[..text.len() - 1]] {
            assert!(ApiKey::parse(bad).is_err(), "{bad}");
        }
        assert!(ApiKey::generate("Live", id).is_err() && ApiKey::generate("", id).is_err());
        assert!(!format!("{kept:?}{:?}", keys()).contains("KeyHash("));
        let largest = KeyId::from(Uuid::from_u128(u128::MAX));
        let (text, _) = ApiKey::generate("dev", largest).expect("a key");
        assert_eq!(ApiKey::parse(&text).expect("a key").id, largest);
    }
}
