//! The manifest of an endpoint whose functions are listed in its registration.

use serde_json::value::RawValue;

use super::{Error, FunctionSpec, Registration, Versioning};
use crate::machine::RetrySpec;
use crate::protocol::{self, Manifest, Timeouts, Transport};

/// JSON that the API has read.
fn raw(json: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(json).ok()
}

/// The manifest of a registration that lists its functions.
pub(super) fn listed(functions: &[FunctionSpec], r: &Registration) -> Result<Manifest, Error> {
    let given = |retry: RetrySpec| (retry != RetrySpec::default()).then_some(retry);
    let functions = functions
        .iter()
        .map(|f| protocol::FunctionSpec {
            kind: f.kind.word().to_owned(),
            path: f.path.clone(),
            shared: f.shared,
            object: f.object.clone(),
            retry: given(f.retry),
            invocation_retry: given(f.invocation_retry),
            run_retry: given(f.run_retry),
            timeouts: Timeouts {
                start: f.start_timeout,
                run: f.run_timeout,
                invocation: f.invocation_timeout,
            },
            retention: f.retention,
            versioning: match f.versioning {
                Versioning::Latest => protocol::Versioning::Latest,
                Versioning::Pinned => protocol::Versioning::Pinned,
            },
            tasks: f.tasks.as_ref().and_then(|all| serde_json::value::to_raw_value(all).ok()),
            strict: f.strict,
            input_schema: f.input_schema.as_deref().and_then(raw),
            triggers: f.triggers.as_deref().and_then(raw),
            concurrency: f.concurrency.as_deref().and_then(raw),
            throttle: f.throttle.as_deref().and_then(raw),
            rate_limit: f.rate_limit.as_deref().and_then(raw),
            debounce: f.debounce.as_deref().and_then(raw),
            singleton: f.singleton.as_deref().and_then(raw),
            gather: f.gather.as_deref().and_then(raw),
            locks: f.locks.as_deref().and_then(raw),
            cancel_on: f.cancel_on.as_deref().and_then(raw),
            ..protocol::FunctionSpec::named(&f.name)
        })
        .collect();
    let mut manifest = Manifest::listed(functions);
    for (i, word) in r.transports.iter().enumerate() {
        let transport: Transport = serde_json::from_value(word.as_str().into()).map_err(|_| {
            let detail = format!("{word:?} is none of respond, stream, checkpoint, duplex");
            Error::Invalid(format!("/transports/{i}"), detail)
        })?;
        if !manifest.transports.contains(&transport) {
            manifest.transports.push(transport);
        }
    }
    manifest.pages = r.pages;
    if let Some(bytes) = r.max_inline_bytes {
        manifest.max_inline_bytes = bytes.into();
    }
    manifest.check().map_err(|e| Error::Invalid(e.pointer, e.detail))?;
    Ok(manifest)
}
