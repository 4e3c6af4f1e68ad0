//! Finds a Postgres server on this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::Error;

/// Where packages put servers: a directory, the beginning of an entry's name there, and the way
/// from the entry to its programs. Newest version first within each.
const PLACES: [(&str, &str, &str); 6] = [
    ("usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("usr", "pgsql-", "bin"),                   // Fedora and RHEL, from the project
    ("opt/homebrew/opt", "postgresql@", "bin"), // macOS, Apple silicon
    ("usr/local/opt", "postgresql@", "bin"),    // macOS, Intel
    ("home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"), // Homebrew on Linux
    ("Applications/Postgres.app/Contents/Versions", "", "bin"), // macOS, Postgres.app
];

/// A Postgres server: its programs and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The directory of `initdb` and `postgres`.
    pub bin: PathBuf,
    /// Its major version, such as 15.
    pub major: u32,
}

/// Finds a server: on the `PATH`, else the newest where packages put them, else where `pg_config`
/// says.
///
/// [`Error::NotFound`] says how to install one.
pub fn find_postgres() -> Result<Installation, Error> {
    all().into_iter().next().ok_or(Error::NotFound)
}

/// Finds the server that made the cluster at `dir`: one cannot open the files of another version.
pub(super) fn find_major(major: u32, dir: &Path) -> Result<Installation, Error> {
    let all = all();
    if all.is_empty() {
        return Err(Error::NotFound);
    }
    let found = all.iter().map(|one| one.major.to_string()).collect::<Vec<_>>().join(", ");
    all.into_iter().find(|one| one.major == major).ok_or_else(|| Error::OtherVersion {
        dir: dir.to_owned(),
        made_by: major,
        found,
    })
}

fn all() -> Vec<Installation> {
    search(&std::env::var_os("PATH").unwrap_or_default(), Path::new("/"))
}

/// All servers, best first, given a `PATH` and the root of the file system.
fn search(path: &OsStr, root: &Path) -> Vec<Installation> {
    let mut dirs: Vec<PathBuf> = std::env::split_paths(path).collect();
    for (parent, prefix, bin) in PLACES {
        let mut entries: Vec<(u32, PathBuf)> = std::fs::read_dir(root.join(parent))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let version = entry.file_name().to_str()?.strip_prefix(prefix)?.to_owned();
                Some((leading_number(&version)?, entry.path().join(bin)))
            })
            .collect();
        entries.sort();
        dirs.extend(entries.into_iter().rev().map(|(_, dir)| dir));
    }
    dirs.extend(std::env::split_paths(path).find_map(|dir| said_by(&dir.join("pg_config"))));
    let mut found: Vec<Installation> = dirs.into_iter().filter_map(|bin| look(&bin)).collect();
    let mut seen = Vec::new();
    found.retain(|one| {
        let new = !seen.contains(&one.bin);
        seen.push(one.bin.clone());
        new
    });
    found
}

/// The server in a directory, if there is a whole one.
fn look(bin: &Path) -> Option<Installation> {
    if !bin.join("initdb").is_file() {
        return None;
    }
    // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
    let said = output(Command::new(bin.join("postgres")).arg("--version"))?;
    let major = leading_number(said.split_whitespace().nth(2)?)?;
    Some(Installation { bin: bin.to_owned(), major })
}

fn said_by(pg_config: &Path) -> Option<PathBuf> {
    output(Command::new(pg_config).arg("--bindir")).map(|dir| PathBuf::from(dir.trim()))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn server(bin: &Path, version: &str) {
        fs::create_dir_all(bin).unwrap();
        fs::write(bin.join("initdb"), "").unwrap();
        script(&bin.join("postgres"), &format!("echo 'postgres (PostgreSQL) {version} (Some)'"));
    }

    fn script(path: &Path, text: &str) {
        fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn none_is_told_with_the_three_install_lines() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(search(root.path().as_os_str(), root.path()), []);
        let text = Error::NotFound.to_string();
        for line in ["apt-get install postgresql", "dnf install postgresql-server", "brew install"]
        {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn the_path_comes_first_then_the_newest_then_pg_config() {
        let root = tempfile::tempdir().unwrap();
        let at = |dir: &str| root.path().join(dir);
        server(&at("usr/lib/postgresql/9.6/bin"), "9.6.24");
        server(&at("usr/lib/postgresql/15/bin"), "15.18");
        server(&at("usr/lib/postgresql/17/bin"), "17beta1");
        server(&at("own"), "16.2");
        server(&at("odd"), "14.1");
        fs::create_dir_all(at("usr/lib/postgresql/18/bin")).unwrap(); // clients only
        script(&at("own/pg_config"), &format!("echo {}", at("odd").display()));
        let found = search(at("own").as_os_str(), root.path());
        assert_eq!(found.iter().map(|one| one.major).collect::<Vec<_>>(), [16, 17, 15, 9, 14]);
        assert_eq!(found[0].bin, at("own"));
        assert_eq!(found[4].bin, at("odd"));
    }
}
