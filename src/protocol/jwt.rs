//! JSON Web Tokens of an issuer elsewhere, verified. What a key is decides the algorithm, within those
//! that are pinned; what a token says of itself only chooses among them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest token that is looked at.
const MAX_TOKEN: usize = 16 << 10;
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 100;
/// The shortest secret that signs tokens, in bytes.
pub const MIN_JWT_SECRET: usize = 32;

/// An algorithm that may be pinned. There is no `none`, and there will not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: who verifies could sign, too.
    Hs256,
    /// RSA (PKCS #1 v1.5) with SHA-256, of 2,048 bits at least.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// The word in a token's header.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.word() == word)
    }
}

/// Why a token is refused, for who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadJwt {
    /// It is none, or one that nobody here can read.
    #[error("the token is not a JWT that can be read: {0}")]
    Malformed(&'static str),
    /// Its algorithm is not pinned.
    #[error("the token's algorithm is not one that is taken here")]
    Algorithm,
    /// No key of this id, or none for its algorithm, is known.
    #[error("the token is signed by a key that is not known here")]
    UnknownKey,
    /// It is not signed by the key that it names.
    #[error("the token's signature is not valid")]
    Signature,
    /// A claim is missing or not as it must be.
    #[error("the token's claim `{0}` {1}")]
    Claim(String, &'static str),
}

/// What a key is: each is good for one algorithm.
#[derive(Clone)]
enum Material {
    Secret(ring::hmac::Key),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// A key that verifies tokens.
#[derive(Clone)]
pub struct JwtKey {
    id: Option<String>,
    material: Material,
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key as a set has it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

impl Jwk {
    /// The key, if it is one that verifies tokens here. A set has no secrets: one that is in it is
    /// known to everybody.
    fn key(self) -> Option<JwtKey> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: &Option<String>| BASE64URL.decode(text.as_deref()?).ok();
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: bytes(&self.n)?, e: bytes(&self.e)? },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                (x.len() == 32 && y.len() == 32).then_some(())?;
                Material::P256([&[4], x.as_slice(), y.as_slice()].concat())
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(&self.x)?),
            _ => return None,
        };
        let key = JwtKey { id: self.kid, material };
        // What it says that it is for must be what it is for.
        self.alg.is_none_or(|alg| alg == key.algorithm().word()).then_some(key)
    }
}

impl JwtKey {
    /// The key of a shared secret.
    pub fn secret(secret: &[u8]) -> Result<Self, &'static str> {
        if secret.len() < MIN_JWT_SECRET {
            return Err("must have at least 32 bytes");
        }
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        Ok(Self { id: None, material: Material::Secret(key) })
    }

    /// The keys of a set (JWKS) that verify tokens here; others are passed over.
    pub fn of_set(document: &[u8]) -> Result<Vec<Self>, &'static str> {
        let Jwks { keys } = serde_json::from_slice(document).map_err(|_| "is not a JWKS")?;
        let jwk = |value| serde_json::from_value::<Jwk>(value).ok()?.key();
        let keys: Vec<Self> = keys.into_iter().take(MAX_KEYS).filter_map(jwk).collect();
        if keys.is_empty() { Err("has no key of a kind that is known here") } else { Ok(keys) }
    }

    /// What it is good for, and nothing else.
    #[must_use]
    pub const fn algorithm(&self) -> JwtAlgorithm {
        match self.material {
            Material::Secret(_) => JwtAlgorithm::Hs256,
            Material::Rsa { .. } => JwtAlgorithm::Rs256,
            Material::P256(_) => JwtAlgorithm::Es256,
            Material::Ed25519(_) => JwtAlgorithm::EdDsa,
        }
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => ring::hmac::verify(key, signed, signature).is_ok(),
            Material::Rsa { n, e } => signature::RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
                .is_ok(),
            Material::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(signed, signature)
                .is_ok(),
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok()
            }
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// What must be understood by who reads it: nothing of it is.
    #[serde(default)]
    crit: Option<Value>,
}

/// What a token says, once its signature was found good.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtClaims(Map<String, Value>);

/// Whether a credential has the form of a token: two dots, and the beginning of a JSON object.
#[must_use]
pub fn looks_like_jwt(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|b| *b == b'.').count() == 2
}

/// Verifies the signature of a token by one of these keys, with one of these algorithms.
pub fn verify_jwt(
    token: &str,
    keys: &[JwtKey],
    pinned: &[JwtAlgorithm],
) -> Result<JwtClaims, BadJwt> {
    if token.len() > MAX_TOKEN {
        return Err(BadJwt::Malformed("it is too long"));
    }
    let mut parts = token.split('.');
    let (Some(head), Some(body), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(BadJwt::Malformed("it has not three parts"));
    };
    let decode = |part: &str| {
        BASE64URL.decode(part).map_err(|_| BadJwt::Malformed("a part is no base64url"))
    };
    let header: Header = serde_json::from_slice(&decode(head)?)
        .map_err(|_| BadJwt::Malformed("its header is no JSON object with an `alg`"))?;
    if header.crit.is_some() {
        return Err(BadJwt::Malformed("its header has `crit`"));
    }
    let algorithm = JwtAlgorithm::from_word(&header.alg).ok_or(BadJwt::Algorithm)?;
    if !pinned.contains(&algorithm) {
        return Err(BadJwt::Algorithm);
    }
    let named = |key: &&JwtKey| match (&header.kid, &key.id) {
        (Some(wanted), Some(id)) => wanted == id,
        _ => true,
    };
    let fits: Vec<&JwtKey> =
        keys.iter().filter(|key| key.algorithm() == algorithm).filter(named).collect();
    if fits.is_empty() {
        return Err(BadJwt::UnknownKey);
    }
    let (signed, signature) = (&token[..head.len() + 1 + body.len()], decode(signature)?);
    if !fits.iter().any(|key| key.verifies(signed.as_bytes(), &signature)) {
        return Err(BadJwt::Signature);
    }
    serde_json::from_slice(&decode(body)?)
        .map(JwtClaims)
        .map_err(|_| BadJwt::Malformed("its claims are no JSON object"))
}

impl JwtClaims {
    /// Checks by whom it is, for whom, and when it holds. `now` is in Unix seconds.
    pub fn check(
        &self,
        issuer: &str,
        audience: &str,
        leeway: Duration,
        now: i64,
    ) -> Result<(), BadJwt> {
        let bad = |claim: &str, why| Err(BadJwt::Claim(claim.to_owned(), why));
        match self.0.get("iss") {
            Some(Value::String(by)) if by == issuer => {}
            Some(_) => return bad("iss", "names another issuer"),
            None => return bad("iss", "is missing"),
        }
        let is_us = |v: &Value| v.as_str() == Some(audience);
        match self.0.get("aud") {
            Some(Value::Array(all)) if all.iter().any(is_us) => {}
            Some(one) if is_us(one) => {}
            Some(_) => return bad("aud", "does not name this gateway"),
            None => return bad("aud", "is missing"),
        }
        #[expect(clippy::cast_precision_loss, reason = "seconds of our time are exact")]
        let (now, leeway) = (now as f64, leeway.as_secs_f64());
        match self.0.get("exp").map(Value::as_f64) {
            Some(Some(until)) if now < until + leeway => {}
            Some(Some(_)) => return bad("exp", "is in the past: the token has expired"),
            Some(None) => return bad("exp", "is not a number"),
            None => return bad("exp", "is missing"),
        }
        match self.0.get("nbf").map(Value::as_f64) {
            None => {}
            Some(Some(from)) if from <= now + leeway => {}
            Some(Some(_)) => return bad("nbf", "is in the future: the token is not valid yet"),
            Some(None) => return bad("nbf", "is not a number"),
        }
        Ok(())
    }

    /// A claim that is a text, not empty and not longer than 256 bytes.
    pub fn text(&self, claim: &str) -> Result<&str, BadJwt> {
        let bad = |why| BadJwt::Claim(claim.to_owned(), why);
        match self.0.get(claim) {
            Some(Value::String(text))
                if (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) =>
            {
                Ok(text)
            }
            Some(_) => Err(bad("is not a text of 1 to 256 bytes")),
            None => Err(bad("is missing")),
        }
    }

    /// The words of a claim: a list of texts, or one text with blanks between them; none where it is
    /// missing.
    #[must_use]
    pub fn words(&self, claim: &str) -> Vec<&str> {
        match self.0.get(claim) {
            Some(Value::String(text)) => text.split_ascii_whitespace().collect(),
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
