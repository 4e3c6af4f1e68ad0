//! A folder of ended runs: lines are added to a file of the day and the node.

use std::io;
use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::{Place, Sheet, Written};
use crate::machine::NodeId;

/// Bytes that are written at once.
const AT_ONCE: usize = 1 << 20;

/// A folder of this machine.
pub(super) struct Folder {
    path: PathBuf,
    name: String,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), path }
    }

    async fn probe(&self) -> io::Result<()> {
        let probe = self.path.join(format!(".probe-{}", std::process::id()));
        let mut file = File::create(&probe).await?;
        file.write_all(b"\n").await?;
        file.sync_all().await?;
        drop(file);
        tokio::fs::remove_file(&probe).await
    }
}

impl Place for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Written<'_> {
        let advice = |e| format!("{e}; make the folder, and let this user write in it");
        async move { self.probe().await.map_err(advice) }.boxed()
    }

    fn begin<'a>(&'a self, day: &'a str, node: NodeId) -> Written<'a, Box<dyn Sheet>> {
        async move {
            let lines = Lines::open(&self.path, &format!("runs-{day}-{node}.jsonl")).await;
            Ok(Box::new(lines.map_err(words)?) as Box<dyn Sheet>)
        }
        .boxed()
    }
}

/// A file that lines are added to.
struct Lines {
    file: File,
    folder: PathBuf,
    /// What is still to be written.
    held: Vec<u8>,
    /// Where it goes to.
    length: u64,
    /// Where the last whole line ends.
    whole: u64,
}

impl Lines {
    async fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).append(true).read(true);
        #[cfg(unix)]
        options.mode(0o600);
        let mut file = options.open(folder.join(name)).await?;
        let mut whole = file.metadata().await?.len();
        if whole > 0 {
            let mut last = [0];
            file.seek(io::SeekFrom::Start(whole - 1)).await?;
            file.read_exact(&mut last).await?;
            if last != *b"\n" {
                // Somebody died while writing: that line is nobody's.
                file.write_all(b"\n").await?;
                whole += 1;
            }
        }
        let folder = folder.to_owned();
        Ok(Self { file, folder, held: Vec::new(), length: whole, whole })
    }

    async fn write_held(&mut self) -> io::Result<()> {
        self.file.write_all(&self.held).await?;
        self.length += self.held.len() as u64;
        self.held.clear();
        Ok(())
    }

    async fn cut(&mut self) -> io::Result<()> {
        if self.whole < self.length {
            self.held.clear();
            self.file.flush().await?;
            self.file.set_len(self.whole).await?;
            self.length = self.whole;
        } else {
            let kept = usize::try_from(self.whole - self.length).unwrap_or(usize::MAX);
            self.held.truncate(kept);
        }
        Ok(())
    }

    /// On disk, with its name.
    async fn sync(&mut self) -> io::Result<()> {
        self.write_held().await?;
        self.file.flush().await?;
        self.file.sync_all().await?;
        File::open(&self.folder).await?.sync_all().await
    }
}

impl Sheet for Lines {
    fn write<'a>(&'a mut self, part: &'a [u8]) -> Written<'a> {
        async move {
            self.held.extend_from_slice(part);
            if self.held.len() >= AT_ONCE {
                self.write_held().await.map_err(words)?;
            }
            Ok(())
        }
        .boxed()
    }

    fn line_ends(&mut self) {
        self.whole = self.length + self.held.len() as u64;
    }

    fn take_back(&mut self) -> Written<'_> {
        async move { self.cut().await.map_err(words) }.boxed()
    }

    fn close(mut self: Box<Self>) -> Written<'static> {
        async move { self.sync().await.map_err(words) }.boxed()
    }

    fn give_up(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            // A line that stays cut off is closed by who opens the file next.
            drop(self.cut().await);
        }
        .boxed()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn words(error: io::Error) -> String {
    error.to_string()
}
