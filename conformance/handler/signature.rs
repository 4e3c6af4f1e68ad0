//! Standard Webhooks: HMAC-SHA256 over the body as it came.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// How far a signature's time may be off, in seconds.
const TOLERANCE: u64 = 300;

pub(crate) fn is_good(secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (id, at) = (header("webhook-id"), header("webhook-timestamp"));
    #[expect(clippy::disallowed_methods, reason = "a handler has its own clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if at.parse::<u64>().is_ok_and(|at| at.abs_diff(now) <= TOLERANCE)
        && let Some(key) = secret.strip_prefix("whsec_").and_then(|key| STANDARD.decode(key).ok())
    {
        let signatures = header("webhook-signature").split(' ');
        let theirs = signatures.filter_map(|s| STANDARD.decode(s.strip_prefix("v1,")?).ok());
        return theirs.into_iter().any(|theirs| {
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return false };
            for part in [id.as_bytes(), b".", at.as_bytes(), b".", body] {
                mac.update(part);
            }
            // In constant time.
            mac.verify_slice(&theirs).is_ok()
        });
    }
    false
}
