//! What `stepwell dev` says when it is ready: what is where, and what is kept.

use std::fmt;
use std::path::Path;

/// What is where. Its text has no line end; `{:#}` makes it bold where that helps.
#[derive(Debug, Clone, Copy)]
pub struct Banner<'a> {
    /// Ours.
    pub version: &'a str,
    /// Such as `http://127.0.0.1:8484`.
    pub address: &'a str,
    /// The database.
    pub database: Database<'a>,
}

/// Where the data are.
#[derive(Debug, Clone, Copy)]
pub enum Database<'a> {
    /// A private Postgres.
    Private {
        /// Its major version.
        major: u32,
        /// The data directory as the user gave it.
        dir: &'a Path,
        /// The server's files; shown where they are not in the data directory.
        files: &'a Path,
        /// Whether they outlive us.
        kept: bool,
    },
    /// One that the user gave, by its address.
    Given(&'a str),
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, address, database } = self;
        let (bold, plain) = if f.alternate() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        writeln!(f, "  {bold}stepwell {version}{plain}   dev server, not for production")?;
        writeln!(f, "  API        {address}   no key needed on loopback")?;
        writeln!(f, "  Dashboard  {address}/")?;
        writeln!(f, "  Docs       {address}/docs")?;
        write!(f, "  Database   {database}")
    }
}

impl fmt::Display for Database<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private { major, kept: false, .. } => {
                write!(f, "private Postgres {major} (ephemeral: thrown away when this ends)")
            }
            Self::Private { major, dir, files, kept: true } => {
                write!(f, "private Postgres {major} in {}", dir.display())?;
                let inside = dir.canonicalize().is_ok_and(|dir| files.starts_with(dir));
                if !inside {
                    write!(f, ", its files in {}", files.display())?;
                }
                write!(f, " (kept; --ephemeral for one that is thrown away)")
            }
            Self::Given(url) => match url::Url::parse(url) {
                // Neither user nor password, nor what else may be in its options.
                Ok(url) => {
                    let host = url.host_str().filter(|host| !host.is_empty());
                    let host = host.map_or_else(|| "a local socket".to_owned(), str::to_owned);
                    write!(f, "{} on {host}, from --database-url", url.path().trim_matches('/'))
                }
                Err(_) => write!(f, "from --database-url"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_kept_and_where() {
        let temp = tempfile::tempdir().unwrap();
        let files = temp.path().canonicalize().unwrap().join("postgres");
        let banner = |files, kept| Banner {
            version: "0.1.0",
            address: "http://127.0.0.1:8484",
            database: Database::Private { major: 15, dir: temp.path(), files, kept },
        };
        let text = banner(&files, true).to_string();
        assert!(text.contains("API        http://127.0.0.1:8484 "), "{text}");
        assert!(text.contains("Docs       http://127.0.0.1:8484/docs"), "{text}");
        assert!(text.contains("(kept; --ephemeral") && !text.contains("its files"), "{text}");
        let text = banner(Path::new("/var/lib/stepwell/1/postgres"), true).to_string();
        assert!(text.contains("its files in /var/lib/stepwell/1/postgres"), "{text}");
        assert!(banner(&files, false).to_string().contains("thrown away when"));
        assert!(format!("{:#}", banner(&files, true)).contains("\x1b[1mstepwell"));
    }

    #[test]
    fn it_does_not_show_a_password() {
        let given = |url| Database::Given(url).to_string();
        let text = given("postgres://me:secret@db.example/orders?password=secret");
        assert_eq!(text, "orders on db.example, from --database-url");
        assert_eq!(given("host=x password=secret"), "from --database-url");
    }
}
