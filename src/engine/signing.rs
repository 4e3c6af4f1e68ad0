//! The headers of every request to a handler: its endpoint's own, and what shows that it is ours.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::Engine;
use crate::protocol::{self, Secret};
use crate::telemetry::Context;

impl Engine {
    /// The public keys with which handlers may verify `v1a` signatures.
    #[must_use]
    pub fn key_set(&self) -> protocol::KeySet {
        self.keys().public().key_set()
    }

    /// The headers of a request with this id and body, signed for now: the endpoint's own, and over
    /// them those of the protocol.
    pub(super) fn signed(
        &self,
        own: &HeaderMap,
        secrets: &[Secret],
        id: &str,
        body: &[u8],
        trace: Option<&Context>,
    ) -> HeaderMap {
        let seconds = self.clock().upper().as_secs();
        let signature = self.signature(id, seconds, body, secrets);
        let trace = trace.map(|trace| ("traceparent", trace.to_string()));
        let ours = [
            ("content-type", "application/json".to_owned()),
            (protocol::WEBHOOK_ID, id.to_owned()),
            (protocol::WEBHOOK_TIMESTAMP, seconds.to_string()),
            (protocol::WEBHOOK_SIGNATURE, signature),
            (protocol::PROTOCOL_HEADER, "1".to_owned()),
        ];
        let mut headers = own.clone();
        for (name, value) in ours.into_iter().chain(trace) {
            let value = HeaderValue::try_from(value).expect("ids, digits and base64 are ASCII");
            headers.insert(HeaderName::from_static(name), value);
        }
        headers
    }

    fn signature(&self, id: &str, timestamp: i64, body: &[u8], secrets: &[Secret]) -> String {
        let mut header = protocol::sign(id, timestamp, body, secrets);
        if self.0.settings.sign_publicly {
            if !header.is_empty() {
                header.push(' ');
            }
            header.push_str(&self.keys().public().sign(id, timestamp, body));
        }
        header
    }
}
