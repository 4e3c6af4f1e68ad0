//! Ended runs as JSON Lines in a folder, written before their rows go.
//!
//! A line is the document of an export. It is on disk before its run is deleted, so a crash in
//! between writes it twice rather than never: `run.id` says which lines are one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::{Engine, Error, Namespace, lock};
use crate::machine::{RunId, Timestamp};
use crate::store::EndedRun;

/// Writes the document of a run, piece by piece.
pub type Documents = fn(Engine, Namespace, RunId) -> BoxStream<'static, Result<Bytes, Error>>;

/// How long a round may be at weeks that are to go; what is left waits for the next.
const AT_WEEKS: Duration = Duration::from_mins(4);
/// Bytes that are written at once.
const AT_ONCE: usize = 1 << 20;

/// Where ended runs are written to, if anywhere.
#[derive(Default)]
pub(super) struct Archive {
    folder: Option<PathBuf>,
    documents: OnceLock<Documents>,
    weeks: Mutex<Weeks>,
}

/// How far the weeks that are to go are written.
#[derive(Debug, Clone, Copy, Default)]
struct Weeks {
    /// All that end before this Monday.
    before: Option<Timestamp>,
    /// The last run that was written.
    after: Option<RunId>,
    /// All of them are.
    whole: bool,
}

impl Archive {
    pub(super) fn of(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), ..Self::default() }
    }
}

/// Whether a folder can be written to.
pub async fn check_archive(folder: &Path) -> std::io::Result<()> {
    let probe = folder.join(format!(".probe-{}", std::process::id()));
    let mut file = File::create(&probe).await?;
    file.write_all(b"\n").await?;
    file.sync_all().await?;
    drop(file);
    tokio::fs::remove_file(&probe).await
}

/// Lines are added to a file of the day and the node.
struct Lines {
    file: File,
    folder: PathBuf,
    /// Where the last whole line ends.
    whole: u64,
}

impl Lines {
    async fn open(folder: &Path, name: &str) -> std::io::Result<Self> {
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).append(true).read(true);
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(folder.join(name)).await?;
        let mut whole = file.metadata().await?.len();
        if whole > 0 {
            let mut last = [0];
            file.seek(std::io::SeekFrom::Start(whole - 1)).await?;
            file.read_exact(&mut last).await?;
            if last != *b"\n" {
                // Somebody died while writing: that line is nobody's.
                file.write_all(b"\n").await?;
                whole += 1;
            }
        }
        Ok(Self { file, folder: folder.to_owned(), whole })
    }

    /// Adds a document; what is begun of one that breaks off is taken back. Returns whether there is
    /// such a run.
    async fn add(
        &mut self,
        mut document: BoxStream<'static, Result<Bytes, Error>>,
    ) -> Result<bool, Error> {
        let (mut held, mut length) = (Vec::new(), 0);
        while let Some(part) = document.next().await {
            let part = match part {
                Ok(part) => part,
                Err(error) => {
                    self.file
                        .set_len(self.whole)
                        .await
                        .map_err(|e| unwritable(&self.folder, &e))?;
                    return match error {
                        Error::RunNotFound(_) => Ok(false),
                        error => Err(error),
                    };
                }
            };
            // A line's end in JSON is white space, for in strings it is escaped.
            held.extend(part.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
            if held.len() >= AT_ONCE {
                length += self.write(&mut held).await?;
            }
        }
        held.push(b'\n');
        length += self.write(&mut held).await?;
        self.whole += length;
        Ok(true)
    }

    async fn write(&mut self, held: &mut Vec<u8>) -> Result<u64, Error> {
        let written = self.file.write_all(held).await;
        written.map_err(|e| unwritable(&self.folder, &e))?;
        let length = held.len() as u64;
        held.clear();
        Ok(length)
    }

    /// On disk, with its name.
    async fn close(mut self) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        File::open(&self.folder).await?.sync_all().await
    }
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable {
        detail: format!("the archive {} cannot be written: {error}", folder.display()),
        retry_after: Duration::from_mins(10),
    }
}

impl Engine {
    /// Says how documents are written. Before that, nothing is archived, and so nothing goes.
    pub fn archive_as(&self, documents: Documents) {
        // The first one stays: they all write the same.
        let _known = self.0.archive.documents.set(documents);
    }

    /// Writes runs to the archive, if there is one. Returns when they are on disk.
    pub(super) async fn archive(&self, runs: &[(Namespace, RunId)]) -> Result<(), Error> {
        let Some(folder) = self.0.archive.folder.as_deref() else { return Ok(()) };
        if runs.is_empty() {
            return Ok(());
        }
        let written = self.archive_to(folder, runs).await;
        if written.is_err() {
            metrics::counter!("stepwell_archive_failures_total").increment(1);
        }
        metrics::counter!("stepwell_runs_archived_total").increment(written?);
        Ok(())
    }

    async fn archive_to(&self, folder: &Path, runs: &[(Namespace, RunId)]) -> Result<u64, Error> {
        let Some(documents) = self.0.archive.documents.get() else {
            return Err(Error::busy("this node cannot write documents yet"));
        };
        let day: String = self.clock().lower().to_string().chars().take(10).collect();
        let name = format!("runs-{day}-{}.jsonl", self.node());
        let failed = |e: std::io::Error| unwritable(folder, &e);
        let mut lines = Lines::open(folder, &name).await.map_err(failed)?;
        let mut written = 0;
        for (ns, run) in runs {
            let document = documents(self.clone(), ns.clone(), *run);
            written += u64::from(lines.add(document).await?);
        }
        lines.close().await.map_err(failed)?;
        Ok(written)
    }

    /// Writes what ended before the week of a moment, as far as a round comes. Returns whether all of
    /// it is in the archive, so that those weeks may go; without an archive, nothing is to be in it.
    pub(super) async fn archive_weeks(&self, older_than: Timestamp) -> Result<bool, Error> {
        if self.0.archive.folder.is_none() {
            return Ok(true);
        }
        let before = older_than.monday();
        let known = *lock(&self.0.archive.weeks);
        let fresh = Weeks { before: Some(before), ..Weeks::default() };
        let mut weeks = if known.before == Some(before) { known } else { fresh };
        let until = self.clock().mono() + AT_WEEKS;
        while !weeks.whole && self.clock().mono() < until {
            let page = self.store().ended_before(before, weeks.after).await?;
            self.archive(&self.of_namespaces(&page)).await?;
            weeks.whole = page.is_empty();
            weeks.after = page.last().map(|(_, run)| run.run).or(weeks.after);
            *lock(&self.0.archive.weeks) = weeks;
        }
        Ok(weeks.whole)
    }

    /// Those whose namespace is still there: of the others nobody may read anything.
    fn of_namespaces(&self, page: &[(i32, EndedRun)]) -> Vec<(Namespace, RunId)> {
        let catalog = self.catalog();
        let named = page.iter().filter_map(|(ns, run)| Some((catalog.namespace(*ns)?, run.run)));
        named.collect()
    }
}
