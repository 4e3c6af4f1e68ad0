//! A Postgres server of our own: started or adopted, and stopped when we stop.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::migrate::MigrateDatabase;
use sqlx::{Connection, PgConnection, Postgres};
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use url::form_urlencoded::byte_serialize;

use super::cluster::{Cluster, USER};
use super::data_dir::DataDir;
use super::error::{Doing, Error};
use super::find::{find_major, find_postgres};

/// The database that is made in it.
const DATABASE: &str = "stepwell";
/// How long a server may call itself ready without a socket that we can reach.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// How long the processes of a killed server may linger.
const LINGERING: Duration = Duration::from_secs(15);
/// How long an orderly stop may take before it is made immediate. Nothing is lost then: the next
/// start recovers from the log.
const ORDERLY_STOP: Duration = Duration::from_mins(1);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(20);
/// A log larger than this is put aside at the next start.
const LARGE_LOG: u64 = 10 << 20;

/// A private Postgres. It listens on a Unix socket only and its superuser has a random password.
///
/// [`stop`](Self::stop) it; dropping one asks the server to stop and does not wait for it to. After
/// a SIGKILL of this process it runs on, and the next start on the same data directory adopts it.
#[derive(Debug)]
pub struct PrivatePostgres {
    /// None once it is stopped.
    running: Option<Running>,
    url: String,
    major: u32,
}

#[derive(Debug)]
struct Running {
    dir: DataDir,
    cluster: Cluster,
    sockets: PathBuf,
    process: Process,
}

/// The server's process.
#[derive(Debug)]
enum Process {
    /// Started by us.
    Child(Child),
    /// Started by a process of ours that is gone.
    Adopted(i32),
}

/// What came of waiting for a server.
enum Came {
    Ready,
    Gone,
    Unreachable,
}

impl PrivatePostgres {
    /// Starts a server on the data directory's cluster, which is made if needed, or adopts the one
    /// that still runs there. Returns when it answers and has the database.
    pub async fn start(dir: DataDir) -> Result<Self, Error> {
        if !dir.is_kept() {
            sweep().await;
        }
        let cluster = Cluster::of(&dir)?;
        let (mut process, sockets) = loop {
            if let Some(adopted) = adopt(&cluster).await? {
                break adopted;
            }
            match launch(&cluster).await {
                // One that a process of ours was starting when it was killed came first.
                Err(Error::Start { .. }) if cluster.postmaster().is_some() => {}
                launched => break launched?,
            }
        };
        let url = url_of(&cluster, &sockets, DATABASE)?;
        if let Err(refused) = create_database(&url).await {
            process.stop(&cluster).await?;
            return Err(Error::Refused(Box::new(refused)));
        }
        let major = cluster.made_by().unwrap_or_default();
        Ok(Self { running: Some(Running { dir, cluster, sockets, process }), url, major })
    }

    /// The address of its database. It holds the password: do not print it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's major version, such as 15.
    #[must_use]
    pub const fn major(&self) -> u32 {
        self.major
    }

    /// The directory that it belongs to.
    #[must_use]
    pub fn data_dir(&self) -> &DataDir {
        &self.running().dir
    }

    /// The server's files, which are not always in the data directory.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.running().cluster.data()
    }

    /// The server's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.running().process.pid()
    }

    /// Resolves when the server ends without having been asked to, with the end of its log. May be
    /// dropped and called again.
    pub async fn died(&mut self) -> String {
        let running = self.running.as_mut().expect("only `stop` takes it, and that consumes us");
        while running.process.is_alive(&running.cluster) {
            sleep(Duration::from_millis(500)).await;
        }
        tail(&running.cluster.log(), 0)
    }

    /// Stops the server in an orderly way: open transactions are rolled back, connections closed.
    /// An ephemeral data directory is removed.
    pub async fn stop(mut self) -> Result<(), Error> {
        let mut running = self.running.take().expect("only `stop` takes it, and that consumes us");
        running.process.stop(&running.cluster).await?;
        running.cluster.close(running.dir, &running.sockets)
    }

    const fn running(&self) -> &Running {
        self.running.as_ref().expect("only `stop` takes it, and that consumes us")
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        if running.dir.is_kept() {
            running.process.signal(Signal::INT);
            return;
        }
        // Nothing in it matters, so this is fast, and what is left is swept up another time.
        running.process.signal(Signal::QUIT);
        let patience = std::time::Instant::now() + Duration::from_secs(2);
        while running.process.is_alive(&running.cluster) && std::time::Instant::now() < patience {
            std::thread::sleep(GLANCE);
        }
        if let Err(error) = running.cluster.close(running.dir, &running.sockets) {
            tracing::warn!("{error}");
        }
    }
}

impl Process {
    fn pid(&self) -> i32 {
        match self {
            Self::Child(child) => {
                child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default()
            }
            Self::Adopted(pid) => *pid,
        }
    }

    fn is_alive(&mut self, cluster: &Cluster) -> bool {
        match self {
            Self::Child(child) => matches!(child.try_wait(), Ok(None)),
            Self::Adopted(pid) => cluster.is_run_by(*pid),
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid())
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::debug!("signal to Postgres: {error}");
        }
    }

    async fn stop(&mut self, cluster: &Cluster) -> Result<(), Error> {
        for (signal, patience) in [(Signal::INT, ORDERLY_STOP), (Signal::QUIT, IMMEDIATE_STOP)] {
            if !self.is_alive(cluster) {
                return Ok(());
            }
            self.signal(signal);
            let until = Instant::now() + patience;
            while self.is_alive(cluster) && Instant::now() < until {
                sleep(GLANCE).await;
            }
        }
        if self.is_alive(cluster) { Err(Error::DoesNotStop(self.pid())) } else { Ok(()) }
    }
}

/// Takes over the server that a killed process of ours left running.
async fn adopt(cluster: &Cluster) -> Result<Option<(Process, PathBuf)>, Error> {
    let Some(found) = cluster.postmaster() else {
        return cluster.forget_dead_postmaster().await.map(|()| None);
    };
    let mut process = Process::Adopted(found.pid);
    let url = url_of(cluster, &found.sockets, "postgres")?;
    match wait_for(&url, &mut process, cluster).await? {
        Came::Ready => Ok(Some((process, found.sockets))),
        // It was on its way down.
        Came::Gone => Ok(None),
        // Somebody cleared the directory of its socket away.
        Came::Unreachable => process.stop(cluster).await.map(|()| None),
    }
}

/// Starts a server, after making the cluster if there is none.
async fn launch(cluster: &Cluster) -> Result<(Process, PathBuf), Error> {
    let postgres = if let Some(major) = cluster.made_by() {
        find_major(major, &cluster.data())?
    } else {
        let postgres = find_postgres()?;
        cluster.init(&postgres).await?;
        postgres
    };
    let sockets = cluster.configure()?;
    let url = url_of(cluster, &sockets, "postgres")?;
    let log = cluster.log();
    if fs::metadata(&log).is_ok_and(|found| found.len() > LARGE_LOG) {
        fs::rename(&log, log.with_extension("log.old")).doing("cannot rename", &log)?;
    }
    let until = Instant::now() + LINGERING;
    loop {
        let before = fs::metadata(&log).map_or(0, |found| found.len());
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.doing("cannot write", &log)?;
        let program = postgres.bin.join("postgres");
        let child = cluster
            .account()
            .command(&program)
            .arg("-D")
            .arg(cluster.data())
            .stdin(Stdio::null())
            .stdout(file.try_clone().doing("cannot use", &log)?)
            .stderr(file)
            // Ctrl-C in our terminal is for us: it ends Postgres when we say so.
            .process_group(0)
            .spawn()
            .doing("cannot run", &program)?;
        let mut process = Process::Child(child);
        let came = wait_for(&url, &mut process, cluster).await;
        if matches!(came, Ok(Came::Ready)) {
            return Ok((process, sockets));
        }
        process.stop(cluster).await?;
        let came = came?;
        let tail = tail(&log, before);
        let lingering = tail.contains("shared memory block") && tail.contains("still in use");
        if !(matches!(came, Came::Gone) && lingering && Instant::now() < until) {
            return Err(Error::Start { log, tail });
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until a server answers, through a recovery of any length.
async fn wait_for(url: &str, process: &mut Process, cluster: &Cluster) -> Result<Came, Error> {
    let mut unreachable_at = None;
    loop {
        if !process.is_alive(cluster) {
            return Ok(Came::Gone);
        }
        // What its file says costs nothing to ask; an early connection would be noted in its log.
        if cluster.postmaster().is_some_and(|found| found.ready) {
            match PgConnection::connect(url).await {
                Ok(connection) => {
                    connection.close().await.map_err(|error| Error::Refused(Box::new(error)))?;
                    return Ok(Came::Ready);
                }
                Err(sqlx::Error::Io(_)) => {
                    let at = *unreachable_at.get_or_insert(Instant::now() + UNREACHABLE_AFTER);
                    if Instant::now() > at {
                        return Ok(Came::Unreachable);
                    }
                }
                // It stops, or the sessions of our predecessor still fill it.
                Err(sqlx::Error::Database(said))
                    if matches!(said.code().as_deref(), Some("57P03" | "53300")) => {}
                Err(other) if process.is_alive(cluster) => {
                    return Err(Error::Refused(Box::new(other)));
                }
                Err(_) => return Ok(Came::Gone),
            }
        }
        sleep(GLANCE).await;
    }
}

/// Removes what ephemeral servers left whose owner was killed. What fails is left for next time.
async fn sweep() {
    for dir in DataDir::abandoned() {
        let path = dir.path().to_owned();
        if let Err(error) = clear(dir).await {
            tracing::debug!("cannot clear {}: {error}", path.display());
        }
    }
}

async fn clear(dir: DataDir) -> Result<(), Error> {
    let cluster = Cluster::of(&dir)?;
    let found = cluster.postmaster();
    if let Some(found) = &found {
        Process::Adopted(found.pid).stop(&cluster).await?;
    }
    let sockets = found.map_or_else(|| dir.path().join("run"), |found| found.sockets);
    cluster.close(dir, &sockets)
}

async fn create_database(url: &str) -> Result<(), sqlx::Error> {
    if Postgres::database_exists(url).await? {
        Ok(())
    } else {
        Postgres::create_database(url).await
    }
}

/// What sqlx and libpq take; nothing in it is left to `PG…` variables of the environment.
fn url_of(cluster: &Cluster, sockets: &Path, database: &str) -> Result<String, Error> {
    let host: String = byte_serialize(sockets.as_os_str().as_encoded_bytes()).collect();
    let password = cluster.password()?;
    Ok(format!(
        "postgres://{USER}:{password}@localhost:5432/{database}?host={host}&sslmode=disable"
    ))
}

/// The last lines of a log, of what was written after its first `from` bytes.
fn tail(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let text = String::from_utf8_lossy(&bytes[from..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
