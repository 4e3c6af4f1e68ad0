//! The directory that `stepwell dev` keeps its things in, held by one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{Doing, Error};

/// How the directories of `--ephemeral` are named under the system's directory for such.
const EPHEMERAL: &str = "stepwell-ephemeral-";

/// A data directory that this process holds; the hold ends with the value, or with the process,
/// however that ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Lock,
    kept: bool,
}

impl DataDir {
    /// Makes the directory if needed and takes it; [`Error::Held`] says who has it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        make(path)?;
        let path = path.canonicalize().doing("cannot use", path)?;
        let lock = Lock::take(&path)?;
        // So that a data directory in a project's tree is not committed by accident.
        let ignore = path.join(".gitignore");
        if !ignore.exists() {
            fs::write(&ignore, "*\n").doing("cannot write", &ignore)?;
        }
        Ok(Self { path, lock, kept: true })
    }

    /// Makes a directory that goes away again when Postgres is stopped.
    pub fn ephemeral() -> Result<Self, Error> {
        let temp = std::env::temp_dir();
        let temp = temp.canonicalize().doing("cannot use", &temp)?;
        // It gets its real name once it is locked: whoever looks for abandoned ones must not find
        // it before.
        let name = format!("{:016x}", rand::random::<u64>());
        let new = temp.join(format!(".stepwell-new-{name}"));
        make(&new)?;
        let lock = Lock::take(&new)?;
        let path = temp.join(format!("{EPHEMERAL}{name}"));
        fs::rename(&new, &path).doing("cannot create", &path)?;
        Ok(Self { path, lock, kept: false })
    }

    /// The ephemeral directories that killed processes of ours left behind, now held by us.
    pub(super) fn abandoned() -> Vec<Self> {
        let temp = std::env::temp_dir();
        let Ok(temp) = temp.canonicalize() else { return Vec::new() };
        let ours = rustix::process::geteuid().as_raw();
        fs::read_dir(temp)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(EPHEMERAL))
            .filter(|entry| {
                entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == ours)
            })
            .filter_map(|entry| {
                let path = entry.path();
                Some(Self { lock: Lock::take(&path).ok()?, path, kept: false })
            })
            .collect()
    }

    /// Where it is; absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it outlives this process.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.kept
    }

    /// Says where we can be reached, for whoever finds the directory held.
    pub fn announce(&self, address: &str) -> Result<(), Error> {
        self.lock.write(&format!("{} at {address}", holder()))
    }

    /// 32 random bytes under a name: made once, kept in a file that only we can read.
    pub fn secret(&self, name: &str) -> Result<[u8; 32], Error> {
        secret_in(&self.path, name)
    }

    /// The signing secret (`whsec_…`) for a handler that is run as a child; the same each time.
    pub fn signing_secret(&self) -> Result<String, Error> {
        Ok(format!("whsec_{}", STANDARD.encode(self.secret("signing-secret")?)))
    }
}

/// Like [`DataDir::secret`], in a directory that we hold.
pub(super) fn secret_in(dir: &Path, name: &str) -> Result<[u8; 32], Error> {
    let path = dir.join(name);
    if let Ok(text) = fs::read_to_string(&path)
        && let Ok(bytes) = STANDARD.decode(text.trim())
        && let Ok(secret) = bytes.try_into()
    {
        return Ok(secret);
    }
    let secret: [u8; 32] = rand::random();
    let new = dir.join(format!("{name}.new"));
    write_private(&new, &STANDARD.encode(secret))?;
    fs::rename(&new, &path).doing("cannot create", &path)?;
    Ok(secret)
}

/// Writes a file that only its owner can read, in place of one that may be there.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    if let Err(source) = fs::remove_file(path)
        && source.kind() != std::io::ErrorKind::NotFound
    {
        return Err(source).doing("cannot replace", path);
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .doing("cannot write", path)
}

/// Makes a directory that others may pass through and not list where we are root (Postgres then
/// runs under another account), and not even that otherwise.
pub(super) fn make(path: &Path) -> Result<(), Error> {
    if path.exists() {
        return Ok(());
    }
    let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        // Whatever the umask is.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .doing("cannot create", path)
}

/// A lock file, locked. The system lets go of it when the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Locks `dir`, or says who has.
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing("cannot open", &path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).doing("cannot read", &path)?;
                if holder.is_empty() {
                    "another process".clone_into(&mut holder);
                }
                return Err(Error::Held { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(source).doing("cannot lock", &path),
        }
        let lock = Self { file, path };
        lock.write(&holder())?;
        Ok(lock)
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        use std::os::unix::fs::FileExt;
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all_at(text.as_bytes(), 0))
            .doing("cannot write", &self.path)
    }
}

fn holder() -> String {
    format!("stepwell (process {})", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_hears_who_holds_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("deep/data");
        let first = DataDir::open(&dir).unwrap();
        first.announce("http://127.0.0.1:8484").unwrap();
        let refused = DataDir::open(&dir).unwrap_err().to_string();
        assert!(refused.contains("at http://127.0.0.1:8484"), "{refused}");
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        DataDir::open(&dir).unwrap();
    }

    #[test]
    fn a_secret_is_made_once_and_read_by_nobody_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        let secret = dir.secret("some").unwrap();
        assert_eq!(dir.secret("some").unwrap(), secret);
        assert_ne!(dir.secret("other").unwrap(), secret);
        assert_eq!(fs::metadata(temp.path().join("some")).unwrap().mode() & 0o777, 0o600);
        assert!(dir.signing_secret().unwrap().starts_with("whsec_"));
    }
}
