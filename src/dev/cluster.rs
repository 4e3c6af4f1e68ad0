//! The files of a private Postgres cluster: where they are, how they are made, who runs on them.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::account::Account;
use super::data_dir::{self, DataDir, Lock};
use super::error::{Doing, Error};
use super::find::Installation;

/// The superuser of the cluster.
pub(super) const USER: &str = "stepwell";

/// In the data directory: names the directory of a cluster that had to be put elsewhere.
const ELSEWHERE: &str = "postgres-at";

/// Where clusters go whose data directory Postgres' account cannot reach.
const SHARED_STATE: &str = "/var/lib/stepwell";

/// The longest path of a Unix socket on all systems is 103 bytes; the socket's own name takes 15.
const MAX_SOCKET_DIR: usize = 103 - "/.s.PGSQL.5432".len();

/// What is ours in the server's configuration. It is written anew at each start and wins over
/// `postgresql.conf`; `alter system` wins over it.
const SETTINGS: &str = "\
listen_addresses = ''
port = 5432
unix_socket_permissions = 0700
max_connections = 60
shared_buffers = 256MB
wal_buffers = 16MB
wal_compression = on
max_wal_size = 4GB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
synchronous_commit = on
autovacuum_naptime = 10s
vacuum_cost_limit = 2000
idle_in_transaction_session_timeout = 5s
jit = off
random_page_cost = 1.1
track_io_timing = on
log_lock_waits = on
logging_collector = off
";

/// A cluster's place, and the account that it belongs to.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Where the cluster, its password, log and (if the path is short enough) socket are.
    base: PathBuf,
    account: Account,
    kept: bool,
    /// Held where `base` is not the data directory: that one may have been copied.
    _lock: Option<Lock>,
}

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Postmaster {
    /// Its process.
    pub(super) pid: i32,
    /// Where its socket is.
    pub(super) sockets: PathBuf,
    /// Whether it says that it takes connections.
    pub(super) ready: bool,
}

impl Cluster {
    /// The cluster of a data directory; there may be no files yet.
    pub(super) fn of(dir: &DataDir) -> Result<Self, Error> {
        let remembered = dir.path().join(ELSEWHERE);
        if let Ok(base) = fs::read_to_string(&remembered) {
            let base = PathBuf::from(base);
            if !base.join("postgres").exists() {
                tracing::warn!("{} is gone: beginning with an empty database", base.display());
            }
            return Self::elsewhere(base, dir.is_kept());
        }
        let account = Account::of(&dir.path().join("postgres"))?;
        if account.can_reach(dir.path()) {
            return Ok(Self {
                base: dir.path().to_owned(),
                account,
                kept: dir.is_kept(),
                _lock: None,
            });
        }
        let base = Path::new(SHARED_STATE).join(format!("{:016x}", rand::random::<u64>()));
        data_dir::write_private(&remembered, &base.to_string_lossy())?;
        Self::elsewhere(base, dir.is_kept())
    }

    fn elsewhere(base: PathBuf, kept: bool) -> Result<Self, Error> {
        if let Some(parent) = base.parent() {
            data_dir::make(parent)?;
        }
        data_dir::make(&base)?;
        let lock = Lock::take(&base)?;
        let account = Account::of(&base.join("postgres"))?;
        Ok(Self { base, account, kept, _lock: Some(lock) })
    }

    /// The server's files.
    pub(super) fn data(&self) -> PathBuf {
        self.base.join("postgres")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.base.join("postgres.log")
    }

    /// The superuser's password.
    pub(super) fn password(&self) -> Result<String, Error> {
        let secret = data_dir::secret_in(&self.base, "postgres-password")?;
        Ok(URL_SAFE_NO_PAD.encode(secret))
    }

    /// Under which its processes run.
    pub(super) const fn account(&self) -> Account {
        self.account
    }

    /// The major version that made it; none if there is nothing yet.
    pub(super) fn made_by(&self) -> Option<u32> {
        fs::read_to_string(self.data().join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Makes the files. They appear under their name only when they are whole, so that a kill in
    /// the middle leaves nothing that looks like a cluster.
    pub(super) async fn init(&self, postgres: &Installation) -> Result<(), Error> {
        for entry in fs::read_dir(&self.base).doing("cannot read", &self.base)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("postgres.new-") {
                fs::remove_dir_all(entry.path()).doing("cannot remove", &entry.path())?;
            }
        }
        let new = self.base.join(format!("postgres.new-{:08x}", rand::random::<u32>()));
        self.make_private(&new)?;
        let password = self.base.join("postgres-password.init");
        data_dir::write_private(&password, &self.password()?)?;
        self.account.own(&password).doing("cannot give away", &password)?;

        let mut initdb = self.account.command(&postgres.bin.join("initdb"));
        initdb.args(["--encoding=UTF8", "--locale=C", "--data-checksums"]);
        initdb.args(["--auth=scram-sha-256", "--username", USER]);
        initdb.arg("--pwfile").arg(&password).arg("--pgdata").arg(&new);
        if !self.kept {
            initdb.arg("--no-sync");
        }
        let program = postgres.bin.join("initdb");
        let output = initdb.stdin(Stdio::null()).output().await.doing("cannot run", &program)?;
        fs::remove_file(&password).doing("cannot remove", &password)?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            fs::remove_dir_all(&new).doing("cannot remove", &new)?;
            return Err(Error::Init(String::from_utf8_lossy(&said).trim().to_owned()));
        }
        let conf = new.join("postgresql.conf");
        let text = fs::read_to_string(&conf).doing("cannot read", &conf)?;
        fs::write(&conf, format!("{text}\ninclude 'stepwell.conf'\n"))
            .doing("cannot write", &conf)?;
        fs::rename(&new, self.data()).doing("cannot create", &self.data())?;
        fs::File::open(&self.base).and_then(|dir| dir.sync_all()).doing("cannot sync", &self.base)
    }

    /// Writes our part of the configuration and makes the directory for the socket, which it
    /// gives.
    pub(super) fn configure(&self) -> Result<PathBuf, Error> {
        let sockets = self.sockets();
        if sockets.exists() {
            let found = fs::symlink_metadata(&sockets).doing("cannot read", &sockets)?;
            if !found.is_dir() || found.uid() != self.account.uid() {
                return Err(Error::NotOurs(sockets));
            }
            fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700))
                .doing("cannot close", &sockets)?;
        } else {
            self.make_private(&sockets)?;
        }
        let conf = self.data().join("stepwell.conf");
        let durable = if self.kept { "on" } else { "off" };
        // A list of names within a string: quotes are doubled for each of the two.
        let quoted = sockets.to_string_lossy().replace('\\', r"\\");
        let quoted = quoted.replace('"', "\"\"").replace('\'', "''");
        let text = format!(
            "# Written by stepwell at each start; use `alter system` for changes of your own.\n\
             {SETTINGS}unix_socket_directories = '\"{quoted}\"'\n\
             fsync = {durable}\nfull_page_writes = {durable}\n"
        );
        data_dir::write_private(&conf, &text)?;
        self.account.own(&conf).doing("cannot give away", &conf)?;
        Ok(sockets)
    }

    /// Near the cluster; where the path would be too long for a socket, in the directory for
    /// temporary files.
    fn sockets(&self) -> PathBuf {
        let near = self.base.join("run");
        if near.as_os_str().len() <= MAX_SOCKET_DIR {
            return near;
        }
        let digest = Sha256::digest(self.base.as_os_str().as_encoded_bytes());
        let name = URL_SAFE_NO_PAD.encode(&digest[..9]);
        std::env::temp_dir().join(format!("stepwell-{name}"))
    }

    fn make_private(&self, path: &Path) -> Result<(), Error> {
        DirBuilder::new().mode(0o700).create(path).doing("cannot create", path)?;
        self.account.own(path).doing("cannot give away", path)
    }

    /// The server that runs on these files, whoever started it.
    pub(super) fn postmaster(&self) -> Option<Postmaster> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.parse().ok().filter(|pid| self.is_run_by(*pid))?;
        // Process, directory, start, port, directory of the socket, address, memory, status.
        let sockets = lines.nth(3).map_or_else(|| self.sockets(), PathBuf::from);
        let ready = lines.nth(2).is_some_and(|status| status.trim() == "ready");
        Some(Postmaster { pid, sockets, ready })
    }

    /// Removes a file that names a server and is not true.
    ///
    /// It survives a SIGKILL of the server, and its process number may by now be that of something
    /// else, which would keep Postgres from starting. (Should processes of the old server still be
    /// there, Postgres sees its shared memory in use.)
    pub(super) async fn forget_dead_postmaster(&self) -> Result<(), Error> {
        let path = self.pid_file();
        let Ok(before) = fs::read(&path) else { return Ok(()) };
        // Unless a server that is just starting is about to write it.
        tokio::time::sleep(Duration::from_millis(200)).await;
        if self.postmaster().is_none() && fs::read(&path).is_ok_and(|after| after == before) {
            fs::remove_file(&path).doing("cannot remove", &path)?;
        }
        Ok(())
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// Whether a process is a server on these files.
    pub(super) fn is_run_by(&self, pid: i32) -> bool {
        let data = self.data();
        let data = data.as_os_str().as_encoded_bytes();
        if let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) {
            // A server that is dead and not yet reaped has no arguments left.
            return arguments.split(|byte| *byte == 0).any(|argument| argument == data);
        }
        if Path::new("/proc/self").exists() {
            return false;
        }
        let ps = std::process::Command::new("ps")
            .args(["-o", "command=", "-p"])
            .arg(pid.to_string())
            .output();
        ps.is_ok_and(|ps| ps.stdout.windows(data.len()).any(|part| part == data))
    }

    /// Cleans up after an orderly stop; what is not kept goes away altogether.
    pub(super) fn close(self, dir: DataDir, sockets: &Path) -> Result<(), Error> {
        if sockets.exists() {
            fs::remove_dir_all(sockets).doing("cannot remove", sockets)?;
        }
        if !self.kept {
            for path in [self.base.as_path(), dir.path()] {
                if path.exists() {
                    remove_all(path).doing("cannot remove", path)?;
                }
            }
        }
        drop(dir);
        Ok(())
    }
}

/// How often a directory is emptied to which processes of Postgres may still add.
const EMPTIED: u32 = 40;

/// Removes a directory. Processes of a server may outlive their postmaster by a moment and write
/// one more file: then the directory is not empty, though all that was there is gone.
fn remove_all(path: &Path) -> std::io::Result<()> {
    for _ in 1..EMPTIED {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    fs::remove_dir_all(path)
}
