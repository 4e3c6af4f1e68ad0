//! Floor 1: the wire between the gateway and a handler (`docs/protocol.md`): JSON in both directions,
//! signatures, tokens. Knows the machine's words and no I/O.

mod acknowledgement;
mod answer;
mod await_tree;
mod call;
mod errand;
mod flow;
mod form;
mod jwt;
mod kinds;
mod locks;
mod manifest;
mod mask;
mod names;
mod op;
mod public_key;
mod request;
mod showing;
mod signature;
mod subscription;
mod task;
mod token;

pub use acknowledgement::{Acknowledgement, on_one_line, write_acknowledgement, write_cancel_line};
pub use answer::{
    BadAnswer, MAX_ANSWER, MAX_INPUT, MAX_OPS, parse_answer, parse_query_answer, parse_report,
    parse_stream_line,
};
pub use call::{Call, HeaderText, SecretRef, write_call_value, write_plain_result};
pub use flow::{Concurrency, Debounce, Flow, Gather, Per, Rate, Singleton, Stays};
pub use form::{MAX_DEPTH, too_deep};
pub use jwt::{
    BadJwt, JwtAlgorithm, JwtClaims, JwtKey, MIN_JWT_SECRET, looks_like_jwt, verify_jwt,
};
pub use locks::{LockSpec, MOST_LOCKS};
pub use manifest::{
    BadManifest, FunctionSpec, LEAST_RETENTION, Manifest, Timeouts, Transport, Versioning,
};
pub use mask::masked;
pub use names::{valid_key, valid_name, valid_step_id, valid_tag};
pub use public_key::{KeySet, PublicSigner};
pub use request::{
    CancelNotice, Invocation, Links, Pending, Query, RunHead, Settled, Turn, push_settled,
    write_discover, write_invocation, write_state,
};
pub use showing::{acknowledge, cancel_of, inbox_of, pending_of};
pub use signature::{BadSecret, Secret, Unverified, sign, verify};
pub use subscription::{CancelOn, CronTrigger, Trigger};
pub use task::{TaskInvocation, parse_task_answer, task_name, write_task};
pub use token::{
    ApiKey, BadKey, BadToken, ClusterKeys, ClusterSecret, KeyHash, NodeRequest, TokenClaims,
};

/// The protocol's version that this gateway speaks.
pub const VERSION: u32 = 1;

/// Header of every call to a handler: the protocol's version.
pub const PROTOCOL_HEADER: &str = "stepwell-protocol";
/// Header of invocations over lines: `stream` or `duplex`.
pub const TRANSPORT_HEADER: &str = "stepwell-transport";
/// Header of every call to a handler: one id per exchange, never repeated.
pub const WEBHOOK_ID: &str = "webhook-id";
/// Header of every call to a handler: Unix seconds.
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// Header of every call to a handler: one signature per live secret.
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
