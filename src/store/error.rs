//! What can go wrong between here and Postgres, sorted by what the caller may do about it.

use std::borrow::Cow;

/// An error of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection is lost or cannot be had. Whether a statement under way took effect is not
    /// known: repeat it on a new connection, all statements of the store bear that.
    #[error("Postgres is not available: {0}")]
    Unavailable(String),
    /// Postgres gave the statement up (lock, deadlock, time-out). It had no effect: try it again.
    #[error("Postgres was busy: {0}")]
    Busy(String),
    /// A constraint refused the statement. It had no effect.
    #[error("constraint `{constraint}`: {message}")]
    Conflict {
        /// The constraint's name; for a not-null column, the column's.
        constraint: String,
        /// What Postgres says.
        message: String,
    },
    /// Postgres refused the statement or a value in it. It had no effect.
    #[error("Postgres refused a statement ({code}): {message}")]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What Postgres says.
        message: String,
    },
    /// A row is not as this version can read it.
    #[error("unreadable data: {0}")]
    Corrupt(String),
    /// The migrations do not fit the database.
    #[error("migration: {0}")]
    Migration(String),
}

/// What the store's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the connection is gone, so that a lane must be opened anew and the same batch be
    /// repeated on it.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the same statement may well succeed at the next try.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy(_))
    }

    /// Whether something in the batch itself is to blame, so that halving the batch finds it.
    #[must_use]
    pub const fn blames_batch(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Refused { .. })
    }

    /// Nothing was heard for so long that the connection is as good as lost.
    pub(super) fn silent() -> Self {
        Self::Unavailable("Postgres does not answer".to_owned())
    }

    /// A column that does not hold what it should.
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
}

impl From<sqlx::Error> for Error {
    fn from(e: sqlx::Error) -> Self {
        match e {
            sqlx::Error::Database(db) => of_database(db.as_ref()),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::ColumnIndexOutOfBounds { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => Self::Corrupt(e.to_string()),
            sqlx::Error::Encode(_) => {
                Self::Refused { code: "22000".to_owned(), message: e.to_string() }
            }
            sqlx::Error::Migrate(e) => Self::Migration(e.to_string()),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

fn of_database(db: &(dyn sqlx::error::DatabaseError + 'static)) -> Error {
    let code = db.code().unwrap_or(Cow::Borrowed(""));
    let message = db.message().to_owned();
    match code.as_ref() {
        "40001" | "40P01" | "55P03" | "57014" => Error::Busy(message),
        // A standby after a failover, a full disk, no memory, no free slot: nothing of ours.
        "25006" | "57P01" | "57P02" | "57P03" | "57P05" => Error::Unavailable(message),
        c if c.starts_with("08") || c.starts_with("53") || c.starts_with("58") => {
            Error::Unavailable(message)
        }
        // A row that fits no partition is a 23514 without a constraint's name.
        c if c.starts_with("23") => {
            let column = db
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .and_then(sqlx::postgres::PgDatabaseError::column);
            let constraint = db.constraint().or(column).unwrap_or_default().to_owned();
            Error::Conflict { constraint, message }
        }
        c => Error::Refused { code: c.to_owned(), message },
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(e: sqlx::migrate::MigrateError) -> Self {
        match e {
            sqlx::migrate::MigrateError::Execute(e) => e.into(),
            other => Self::Migration(other.to_string()),
        }
    }
}
