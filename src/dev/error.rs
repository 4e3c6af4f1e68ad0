//! What can go wrong around a private Postgres, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

/// How to install Postgres, one line for each family of systems.
const INSTALL: &str = "\
  Debian, Ubuntu   sudo apt-get install postgresql
  Fedora, RHEL     sudo dnf install postgresql-server
  macOS            brew install postgresql@17
or give a database of your own with --database-url";

/// Why `stepwell dev` cannot have its surroundings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no Postgres on this machine.
    #[error("no Postgres was found on this machine. Install it:\n{INSTALL}")]
    NotFound,
    /// There is one, and not of the version that made the cluster.
    #[error(
        "{} was made by Postgres {made_by}, and only {found} is here. \
         Install Postgres {made_by}, or move that directory away to begin anew",
        dir.display()
    )]
    OtherVersion {
        /// The cluster.
        dir: PathBuf,
        /// Its major version.
        made_by: u32,
        /// What is installed, such as `17, 16`.
        found: String,
    },
    /// Another process works on this data directory.
    #[error(
        "{} is in use by {holder}. Stop it, or choose another --data-dir (and --port)",
        dir.display()
    )]
    Held {
        /// The data directory.
        dir: PathBuf,
        /// What the holder wrote about itself.
        holder: String,
    },
    /// We are root, which Postgres refuses, and found no other account.
    #[error(
        "Postgres does not run as root, and there is neither an account `postgres` nor `nobody` \
         to run it as: start stepwell as a normal user, or give a --database-url"
    )]
    NoAccount,
    /// A directory for sockets belongs to somebody else.
    #[error("{} is not a directory of ours: remove it", .0.display())]
    NotOurs(PathBuf),
    /// `initdb` failed.
    #[error("initdb failed:\n{0}")]
    Init(String),
    /// Postgres ended at once, or could not be reached.
    #[error("Postgres did not start; the end of {} says:\n{tail}", log.display())]
    Start {
        /// Its log.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// Postgres runs and refuses us.
    #[error("the private Postgres refuses the connection: {0}")]
    Refused(#[source] Box<sqlx::Error>),
    /// It did not end, even after an immediate shutdown was asked for.
    #[error("Postgres (process {0}) does not stop")]
    DoesNotStop(i32),
    /// The user's handler could not be run.
    #[error("cannot run `{command}`: {source}")]
    Handler {
        /// As it was given.
        command: String,
        /// Why.
        source: io::Error,
    },
    /// A file or directory could not be used.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was tried, such as `cannot create`.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Adds to an I/O error what was tried, and on what.
pub(super) trait Doing<T> {
    /// `doing` reads like `cannot create`.
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::File { doing, path: path.to_owned(), source })
    }
}
