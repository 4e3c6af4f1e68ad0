//! Standard Webhooks `v1a`: the cluster signs with a key whose public half everybody may have.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// An ed25519 key. Cheap to clone.
#[derive(Clone)]
pub struct PublicSigner(Arc<Ed25519KeyPair>);

impl fmt::Debug for PublicSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A JSON Web Key Set (RFC 7517) of ed25519 keys (RFC 8037).
#[derive(Debug, Serialize)]
pub struct KeySet {
    keys: [Key; 1],
}

#[derive(Debug, Serialize)]
struct Key {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    r#use: &'static str,
    kid: String,
    x: String,
}

impl PublicSigner {
    /// The key of a seed.
    pub(super) fn of(seed: [u8; 32]) -> Self {
        Self(Arc::new(Ed25519KeyPair::from_seed_unchecked(&seed).expect("a seed has 32 bytes")))
    }

    /// One more signature for the `webhook-signature` header: over the same as `v1`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut signed = format!("{id}.{timestamp}.").into_bytes();
        signed.extend_from_slice(body);
        format!("v1a,{}", BASE64.encode(self.0.sign(&signed)))
    }

    /// What who verifies needs.
    #[must_use]
    pub fn key_set(&self) -> KeySet {
        let public = self.0.public_key().as_ref();
        KeySet {
            keys: [Key {
                kty: "OKP",
                crv: "Ed25519",
                alg: "EdDSA",
                r#use: "sig",
                kid: BASE64_URL.encode(&Sha256::digest(public)[..12]),
                x: BASE64_URL.encode(public),
            }],
        }
    }
}
