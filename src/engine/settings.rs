//! How a node is set up, as far as it is not in the database.

use std::time::Duration;

use super::{ArchivePlace, Faults, JwtSettings};
use crate::machine::Limits;

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where handlers and callers reach the gateway, without a slash at the end.
    pub public_url: String,
    /// Where the other nodes reach this one.
    pub address: String,
    /// Whether calls to handlers are signed with the cluster's public key too (`v1a`).
    pub sign_publicly: bool,
    /// Limits of runs.
    pub limits: Limits,
    /// How long ended runs are kept; whole weeks are dropped when all of them is older.
    pub retention: Duration,
    /// Where ended runs are written to before they go.
    pub archive: Option<ArchivePlace>,
    /// Whose JWTs are taken beside API keys; none: nobody's.
    pub jwt: Option<JwtSettings>,
    /// What a test has armed; nothing in operation.
    pub faults: Faults,
}
