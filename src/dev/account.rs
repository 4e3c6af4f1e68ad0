//! The account that a private Postgres runs under: our own, or another one where we are root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use tokio::process::Command;

use super::error::Error;

/// An account by its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    /// Whether it is another one than ours.
    other: bool,
}

impl Account {
    /// The one for a cluster at `cluster`, which may not exist yet.
    ///
    /// Postgres refuses root. So root becomes the owner of the cluster, if there is one already,
    /// and else `postgres` or `nobody`.
    pub(super) fn of(cluster: &Path) -> Result<Self, Error> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        if uid != 0 {
            return Ok(Self { uid, gid, other: false });
        }
        if let Ok(found) = fs::metadata(cluster)
            && found.uid() != 0
        {
            return Ok(Self { uid: found.uid(), gid: found.gid(), other: true });
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = ["postgres", "_postgres", "nobody"]
            .into_iter()
            .find_map(|name| ids_of(name, &passwd))
            .ok_or(Error::NoAccount)?;
        Ok(Self { uid, gid, other: true })
    }

    /// Its number.
    pub(super) const fn uid(self) -> u32 {
        self.uid
    }

    /// A command that runs under it, in `/` and with a clean environment, so that neither the
    /// user's `PGDATA` nor an unreadable working directory can disturb it.
    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if self.other {
            // The standard library drops root's supplementary groups along with it.
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives it a file or directory that we made.
    pub(super) fn own(self, path: &Path) -> io::Result<()> {
        if self.other { chown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }

    /// Whether it can get to `dir` and pass through it.
    pub(super) fn can_reach(self, dir: &Path) -> bool {
        dir.ancestors().all(|dir| {
            fs::metadata(dir).is_ok_and(|found| {
                let bit = if found.uid() == self.uid {
                    0o100
                } else if found.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                found.mode() & bit != 0
            })
        })
    }
}

/// The user and group numbers of `name` in the text of `/etc/passwd`.
fn ids_of(name: &str, passwd: &str) -> Option<(u32, u32)> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn finds_an_account_by_its_whole_name() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(ids_of("postgres", passwd), Some((101, 104)));
        assert_eq!(ids_of("nobody", passwd), None);
    }

    #[test]
    fn a_closed_ancestor_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        let inner = closed.join("inner");
        fs::create_dir_all(&inner).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account { uid: 4_000_001, gid: 4_000_001, other: true };
        assert!(stranger.can_reach(dir.path()));
        assert!(!stranger.can_reach(&inner));
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.can_reach(&inner));
    }
}
