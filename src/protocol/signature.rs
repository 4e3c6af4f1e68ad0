//! Standard Webhooks `v1`: signs what is sent to handlers, and verifies it for tests and the CLI.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
/// How far the clocks of two sides may be apart, in seconds.
const TOLERANCE: u64 = 300;

/// A signing secret: 24 to 64 random bytes, `whsec_` and base64 as text.
#[derive(Clone)]
pub struct Secret {
    key: Vec<u8>,
    /// Keyed once, cloned for each signature.
    mac: Hmac<Sha256>,
}

/// A text that is not a signing secret. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` and the base64 of 24 to 64 random bytes")]
pub struct BadSecret;

impl Secret {
    /// A new secret of 32 random bytes.
    #[must_use]
    pub fn generate() -> Self {
        Self::of(rand::random::<[u8; 32]>().to_vec())
    }

    fn of(key: Vec<u8>) -> Self {
        let mac = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { key, mac }
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let key = text.strip_prefix(PREFIX).ok_or(BadSecret)?;
        let key = BASE64.decode(key).map_err(|_| BadSecret)?;
        if !(24..=64).contains(&key.len()) {
            return Err(BadSecret);
        }
        Ok(Self::of(key))
    }

    /// The text form, for the one time that it is shown and for the database.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64.encode(&self.key))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The `webhook-signature` header: one signature per live secret, so that a handler may hold the old
/// or the new one during rotation. `timestamp` is in Unix seconds; `id` must not contain a dot.
#[must_use]
pub fn sign(id: &str, timestamp: i64, body: &[u8], secrets: &[Secret]) -> String {
    debug_assert!(!id.contains('.'), "a dot would make the signed content ambiguous");
    let timestamp = timestamp.to_string();
    let mut header = String::with_capacity(secrets.len() * 48);
    for secret in secrets {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        let mac = secret.mac(id, &timestamp, body).finalize().into_bytes();
        BASE64.encode_string(mac, &mut header);
    }
    header
}

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The timestamp is no number, or more than five minutes away.
    #[error("the webhook-timestamp is not within five minutes of now")]
    Timestamp,
    /// No signature in the header fits one of the secrets.
    #[error("no webhook-signature fits")]
    Signature,
}

/// Verifies the three headers over a body, as a handler would. `now` is in Unix seconds.
pub fn verify(
    id: &str,
    timestamp: &str,
    header: &str,
    body: &[u8],
    secrets: &[Secret],
    now: i64,
) -> Result<(), Unverified> {
    let at: i64 = timestamp.parse().map_err(|_| Unverified::Timestamp)?;
    if now.abs_diff(at) > TOLERANCE {
        return Err(Unverified::Timestamp);
    }
    let given = header.split(' ').filter_map(|s| BASE64.decode(s.strip_prefix("v1,")?).ok());
    for given in given {
        for secret in secrets {
            // Compares in constant time.
            if secret.mac(id, timestamp, body).verify_slice(&given).is_ok() {
                return Ok(());
            }
        }
    }
    Err(Unverified::Signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;

    fn verified(header: &str, body: &[u8], secrets: &[Secret], now: i64) -> bool {
        verify(ID, &AT.to_string(), header, body, secrets, now).is_ok()
    }

    // P2.2
    #[test]
    fn the_specifications_own_example() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let header = sign(ID, AT, BODY, std::slice::from_ref(&secret));
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(secret.reveal(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    }

    #[test]
    fn every_changed_byte_is_rejected() {
        let secrets = [Secret::generate()];
        let header = sign(ID, AT, BODY, &secrets);
        assert!(verified(&header, BODY, &secrets, AT));
        for i in 0..BODY.len() {
            let mut body = BODY.to_vec();
            body[i] ^= 1;
            assert!(!verified(&header, &body, &secrets, AT), "byte {i}");
        }
        assert!(verify("msg_x", &AT.to_string(), &header, BODY, &secrets, AT).is_err());
        assert!(!verified(&header, BODY, &[Secret::generate()], AT));
        assert!(!verified("", BODY, &secrets, AT));
        assert!(!verified(&header.replace("v1,", "v2,"), BODY, &secrets, AT));
    }

    // P2.2
    #[test]
    fn rotation_works_with_either_secret() {
        let (old, new) = (Secret::generate(), Secret::generate());
        let header = sign(ID, AT, BODY, &[new.clone(), old.clone()]);
        assert!(verified(&header, BODY, std::slice::from_ref(&old), AT));
        assert!(verified(&header, BODY, std::slice::from_ref(&new), AT));
        assert!(!verified(&sign(ID, AT, BODY, &[new]), BODY, &[old], AT));
    }

    #[test]
    fn five_minutes_is_the_limit() {
        let secrets = [Secret::generate()];
        let header = sign(ID, AT, BODY, &secrets);
        for (now, ok) in [(AT - 300, true), (AT + 300, true), (AT - 301, false), (AT + 301, false)]
        {
            assert_eq!(verified(&header, BODY, &secrets, now), ok, "{}", now - AT);
        }
        assert_eq!(verify(ID, "soon", &header, BODY, &secrets, AT), Err(Unverified::Timestamp));
    }

    #[test]
    fn secrets_are_not_shown_and_not_short() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "***");
        assert!(Secret::parse(&secret.reveal()).is_ok());
        let of = |n: usize| format!("whsec_{}", BASE64.encode(vec![7; n]));
        assert!(Secret::parse(&of(24)).is_ok() && Secret::parse(&of(64)).is_ok());
        for bad in
            [of(23), of(65), "whsec_***".to_owned(), "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()]
        {
            assert_eq!(Secret::parse(&bad).err(), Some(BadSecret));
        }
    }
}
