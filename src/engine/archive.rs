//! Ended runs as JSON Lines, written before their rows go: to a folder, or to a bucket.
//!
//! A line is the document of an export. It is in the archive before its run is deleted, so a crash in
//! between writes it twice rather than never: `run.id` says which lines are one.

mod bucket;
mod folder;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::{Engine, Error, Namespace, lock};
use crate::machine::{NodeId, RunId, Timestamp};
use crate::store::EndedRun;

/// Writes the document of a run, piece by piece.
pub type Documents = fn(Engine, Namespace, RunId) -> BoxStream<'static, Result<Bytes, Error>>;

/// How long a round may be at weeks that are to go; what is left waits for the next.
const AT_WEEKS: Duration = Duration::from_mins(4);

/// What may not be: why not, in words for who looks after the gateway.
type Written<'a, T = ()> = BoxFuture<'a, Result<T, String>>;

/// A kind of place that runs are written to.
trait Place: Send + Sync {
    /// How it is called, as a URL or a path.
    fn name(&self) -> &str;
    /// Writes something there, to see whether it can be done.
    fn check(&self) -> Written<'_>;
    /// Begins a sheet of a day (`2026-11-26`) by a node.
    fn begin<'a>(&'a self, day: &'a str, node: NodeId) -> Written<'a, Box<dyn Sheet>>;
}

/// Lines that are being written. What holds when it is closed is what had whole lines.
trait Sheet: Send {
    /// Adds to the line at hand.
    fn write<'a>(&'a mut self, part: &'a [u8]) -> Written<'a>;
    /// The line at hand is whole.
    fn line_ends(&mut self);
    /// Takes back what is there of the line at hand.
    fn take_back(&mut self) -> Written<'_>;
    /// Returns when all lines are durable.
    fn close(self: Box<Self>) -> Written<'static>;
    /// Takes back the line at hand, for the document broke off. Lines that are whole may stay.
    fn give_up(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Where ended runs are written to.
#[derive(Clone)]
pub struct ArchivePlace(Arc<dyn Place>);

impl std::fmt::Debug for ArchivePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not what it is made of: credentials are in that.
        f.debug_tuple("ArchivePlace").field(&self.0.name()).finish()
    }
}

impl ArchivePlace {
    /// A folder of this machine.
    #[must_use]
    pub fn folder(folder: PathBuf) -> Self {
        Self(Arc::new(folder::Folder::new(folder)))
    }

    /// A bucket of a store that speaks S3; objects are named `PREFIX/DAY/…`. Where the store is and
    /// who asks it is in variables of the environment that begin with `AWS_`; others are passed over.
    ///
    /// # Errors
    ///
    /// In words, if these variables do not go together.
    pub fn bucket(
        bucket: &str,
        prefix: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, String> {
        Ok(Self(Arc::new(bucket::Bucket::new(bucket, prefix, environment)?)))
    }

    /// Writes something there, to see whether it can be done.
    ///
    /// # Errors
    ///
    /// In words that say what is wrong and name the place.
    pub async fn check(&self) -> Result<(), String> {
        self.0.check().await.map_err(|why| unwritable(self, &why))
    }

    /// How it is called, as a URL or a path.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

fn unwritable(place: &ArchivePlace, why: &str) -> String {
    format!("the archive {} cannot be written: {why}", place.name())
}

/// Where ended runs are written to, if anywhere.
#[derive(Default)]
pub(super) struct Archive {
    place: Option<ArchivePlace>,
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
    pub(super) fn at(place: Option<ArchivePlace>) -> Self {
        Self { place, ..Self::default() }
    }
}

/// Why a line was not added.
enum Broken {
    /// The archive's own fault.
    Archive(String),
    /// The document's.
    Document(Error),
}

/// Adds a document. Returns whether there is such a run; of one that goes meanwhile nothing is left.
async fn add(
    sheet: &mut dyn Sheet,
    mut document: BoxStream<'static, Result<Bytes, Error>>,
) -> Result<bool, Broken> {
    let mut line = Vec::new();
    while let Some(part) = document.next().await {
        let part = match part {
            Ok(part) => part,
            Err(Error::RunNotFound(_)) => {
                sheet.take_back().await.map_err(Broken::Archive)?;
                return Ok(false);
            }
            Err(error) => return Err(Broken::Document(error)),
        };
        // A line's end in JSON is white space, for in strings it is escaped.
        line.extend(part.iter().map(|b| if matches!(b, b'\n' | b'\r') { b' ' } else { *b }));
        sheet.write(&line).await.map_err(Broken::Archive)?;
        line.clear();
    }
    sheet.write(b"\n").await.map_err(Broken::Archive)?;
    sheet.line_ends();
    Ok(true)
}

impl Engine {
    /// Says how documents are written. Before that, nothing is archived, and so nothing goes.
    pub fn archive_as(&self, documents: Documents) {
        // The first one stays: they all write the same.
        let _known = self.0.archive.documents.set(documents);
    }

    /// Writes runs to the archive, if there is one. Returns when they are durable.
    pub(super) async fn archive(&self, runs: &[(Namespace, RunId)]) -> Result<(), Error> {
        let Some(place) = self.0.archive.place.as_ref() else { return Ok(()) };
        if runs.is_empty() {
            return Ok(());
        }
        let written = self.archive_to(place, runs).await;
        if written.is_err() {
            metrics::counter!("stepwell_archive_failures_total").increment(1);
        }
        let written = written.map_err(|broken| match broken {
            Broken::Document(error) => error,
            Broken::Archive(why) => Error::Unavailable {
                detail: unwritable(place, &why),
                retry_after: Duration::from_mins(10),
            },
        })?;
        metrics::counter!("stepwell_runs_archived_total").increment(written);
        Ok(())
    }

    async fn archive_to(
        &self,
        place: &ArchivePlace,
        runs: &[(Namespace, RunId)],
    ) -> Result<u64, Broken> {
        let Some(documents) = self.0.archive.documents.get() else {
            return Err(Broken::Document(Error::busy("this node cannot write documents yet")));
        };
        let day: String = self.clock().lower().to_string().chars().take(10).collect();
        let mut sheet = place.0.begin(&day, self.node()).await.map_err(Broken::Archive)?;
        let mut written = 0;
        for (ns, run) in runs {
            match add(&mut *sheet, documents(self.clone(), ns.clone(), *run)).await {
                Ok(there) => written += u64::from(there),
                Err(broken) => {
                    sheet.give_up().await;
                    return Err(broken);
                }
            }
        }
        sheet.close().await.map_err(Broken::Archive)?;
        Ok(written)
    }

    /// Writes what ended before the week of a moment, as far as a round comes. Returns whether all of
    /// it is in the archive, so that those weeks may go; without an archive, nothing is to be in it.
    pub(super) async fn archive_weeks(&self, older_than: Timestamp) -> Result<bool, Error> {
        if self.0.archive.place.is_none() {
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
