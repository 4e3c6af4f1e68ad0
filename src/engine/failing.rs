//! What the engine says where it cannot do what it is asked.

use std::time::Duration;

use super::Error;
use crate::store;

impl Error {
    /// The node cannot do it now.
    pub(crate) fn busy(detail: &str) -> Self {
        Self::Unavailable { detail: detail.to_owned(), retry_after: Duration::from_secs(1) }
    }

    pub(crate) fn stopping() -> Self {
        Self::busy("this node is stopping")
    }

    pub(crate) fn corrupt(detail: &str) -> Self {
        tracing::error!(detail, "unreadable data");
        Self::Internal
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        if error.is_transient() {
            return Self::busy("Postgres is away or busy");
        }
        tracing::error!(%error, "the store refused");
        Self::Internal
    }
}
