//! The private Postgres of `stepwell dev`: kept, adopted, recovered, side by side, thrown away.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpgid, kill_process};
use sqlx::{Connection, PgConnection, Row};
use stepwell::dev::{DataDir, Error, PrivatePostgres};

/// A directory that another account can reach too.
fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

async fn start(dir: &Path) -> PrivatePostgres {
    PrivatePostgres::start(DataDir::open(dir).unwrap()).await.unwrap()
}

async fn note(postgres: &PrivatePostgres, text: &str) {
    let mut db = PgConnection::connect(postgres.url()).await.unwrap();
    sqlx::query("create table if not exists note (text text)").execute(&mut db).await.unwrap();
    sqlx::query("insert into note values ($1)").bind(text).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

async fn notes(postgres: &PrivatePostgres) -> Vec<String> {
    let mut db = PgConnection::connect(postgres.url()).await.unwrap();
    let rows = sqlx::query("select text from note order by 1").fetch_all(&mut db).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn setting(postgres: &PrivatePostgres, name: &str) -> String {
    let mut db = PgConnection::connect(postgres.url()).await.unwrap();
    let row = sqlx::query("select current_setting($1)").bind(name).fetch_one(&mut db).await;
    row.unwrap().get(0)
}

fn lives(pid: i32) -> bool {
    // One that is dead and not yet reaped has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// A process that starts a Postgres on `dir` and then only waits to be killed.
struct Owner(Child);

impl Owner {
    /// Gives it and its Postgres' process.
    fn start(dir: &str) -> (Self, i32) {
        let temp = tempfile::tempdir().unwrap();
        let said = temp.path().join("pid");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "owner_that_is_killed", "--nocapture"])
            .env("OWNER_DIR", dir)
            .env("OWNER_SAYS", &said)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let owner = Self(child);
        let until = Instant::now() + Duration::from_mins(1);
        loop {
            if let Ok(text) = fs::read_to_string(&said)
                && let Some(pid) = text.strip_suffix('\n')
            {
                return (owner, pid.parse().unwrap());
            }
            assert!(Instant::now() < until, "the owner has not started its Postgres");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
#[ignore = "a part of other tests, which run it in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "how those tests tell it where")]
async fn owner_that_is_killed() {
    let Ok(dir) = std::env::var("OWNER_DIR") else { return };
    let dir = match dir.as_str() {
        "ephemeral" => DataDir::ephemeral(),
        dir => DataDir::open(Path::new(dir)),
    };
    let postgres = PrivatePostgres::start(dir.unwrap()).await.unwrap();
    let says = PathBuf::from(std::env::var("OWNER_SAYS").unwrap());
    fs::write(says, format!("{}\n", postgres.pid())).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_is_in_it_is_kept() {
    let temp = open_dir();
    let dir = temp.path().join(".stepwell");
    let postgres = start(&dir).await;
    assert!(postgres.major() >= 12);
    assert_eq!(setting(&postgres, "fsync").await, "on");
    assert_eq!(setting(&postgres, "listen_addresses").await, "");
    assert_eq!(setting(&postgres, "server_encoding").await, "UTF8");
    note(&postgres, "first").await;
    let pid = postgres.pid();
    // Ctrl-C in a terminal goes to the whole group, and must not reach it.
    assert_ne!(getpgid(Pid::from_raw(pid)).unwrap(), getpgid(None).unwrap());
    assert!(postgres.files().starts_with(dir.canonicalize().unwrap()));
    postgres.stop().await.unwrap();
    assert!(!lives(pid));
    assert!(!dir.join("run").exists());

    let postgres = start(&dir).await;
    assert_eq!(notes(&postgres).await, ["first"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn it_recovers_when_it_was_killed() {
    let temp = open_dir();
    let mut postgres = start(temp.path()).await;
    note(&postgres, "before").await;
    kill(postgres.pid());
    postgres.died().await;
    drop(postgres);
    assert!(temp.path().join("postgres/postmaster.pid").exists());

    let postgres = start(temp.path()).await;
    assert_eq!(notes(&postgres).await, ["before"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn one_that_still_runs_is_adopted_and_stopped() {
    let temp = open_dir();
    let (owner, pid) = Owner::start(temp.path().to_str().unwrap());
    let refused = DataDir::open(temp.path()).unwrap_err();
    assert!(matches!(refused, Error::Held { .. }), "{refused}");
    owner.kill();
    assert!(lives(pid), "Postgres survives its owner");

    let postgres = start(temp.path()).await;
    assert_eq!(postgres.pid(), pid);
    note(&postgres, "adopted").await;
    postgres.stop().await.unwrap();
    assert!(!lives(pid));

    let postgres = start(temp.path()).await;
    assert_eq!(notes(&postgres).await, ["adopted"]);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_pid_file_that_names_something_else_is_no_obstacle() {
    let temp = open_dir();
    let postgres = start(temp.path()).await;
    note(&postgres, "kept").await;
    let path = postgres.files().join("postmaster.pid");
    let old = fs::read_to_string(&path).unwrap();
    postgres.stop().await.unwrap();
    // As after a restart of the machine: the number now belongs to a process that lives.
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let rest = old.split_once('\n').unwrap().1;
    fs::write(&path, format!("{}\n{rest}", other.id())).unwrap();

    let postgres = start(temp.path()).await;
    assert_eq!(notes(&postgres).await, ["kept"]);
    postgres.stop().await.unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn two_live_side_by_side() {
    let (one, two) = (open_dir(), open_dir());
    let (one, two) = tokio::join!(start(one.path()), start(two.path()));
    note(&one, "one").await;
    note(&two, "two").await;
    assert_eq!(notes(&one).await, ["one"]);
    assert_eq!(notes(&two).await, ["two"]);
    one.stop().await.unwrap();
    assert_eq!(notes(&two).await, ["two"]);
    two.stop().await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_will_do() {
    let temp = open_dir();
    let dir = temp.path().join("a directory, \"quoted\" and it's long ".repeat(4));
    let postgres = start(&dir).await;
    note(&postgres, "long").await;
    let sockets = setting(&postgres, "unix_socket_directories").await;
    postgres.stop().await.unwrap();
    let sockets = PathBuf::from(sockets.trim_matches('"'));
    assert!(sockets.starts_with(std::env::temp_dir()) && !sockets.exists(), "{sockets:?}");
}

#[tokio::test]
async fn quotes_and_spaces_in_a_path_will_do() {
    let temp = open_dir();
    let postgres = start(&temp.path().join("it's \"a\", \\b")).await;
    note(&postgres, "quoted").await;
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_postgres_cannot_reach_will_do() {
    let closed = open_dir();
    // As the home directory of root is.
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let postgres = start(&closed.path().join(".stepwell")).await;
    note(&postgres, "closed").await;
    let files = postgres.files();
    postgres.stop().await.unwrap();
    let postgres = start(&closed.path().join(".stepwell")).await;
    assert_eq!(postgres.files(), files);
    assert_eq!(notes(&postgres).await, ["closed"]);
    postgres.stop().await.unwrap();
    if !files.starts_with(closed.path()) {
        fs::remove_dir_all(files.parent().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn an_ephemeral_one_leaves_nothing() {
    let dir = DataDir::ephemeral().unwrap();
    let path = dir.path().to_owned();
    let postgres = PrivatePostgres::start(dir).await.unwrap();
    assert_eq!(setting(&postgres, "fsync").await, "off");
    let (pid, files) = (postgres.pid(), postgres.files());
    note(&postgres, "gone").await;
    postgres.stop().await.unwrap();
    assert!(!lives(pid) && !path.exists() && !files.exists());

    let dir = DataDir::ephemeral().unwrap();
    let path = dir.path().to_owned();
    let postgres = PrivatePostgres::start(dir).await.unwrap();
    let pid = postgres.pid();
    drop(postgres);
    assert!(!lives(pid) && !path.exists(), "dropped without a stop");
}

#[tokio::test]
async fn an_ephemeral_one_whose_owner_was_killed_is_swept_up_by_the_next() {
    let (owner, pid) = Owner::start("ephemeral");
    owner.kill();
    assert!(lives(pid));
    let postgres = PrivatePostgres::start(DataDir::ephemeral().unwrap()).await.unwrap();
    assert!(!lives(pid));
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_another_version_is_named() {
    let temp = open_dir();
    let postgres = start(temp.path()).await;
    let version = postgres.files().join("PG_VERSION");
    postgres.stop().await.unwrap();
    fs::write(version, "8\n").unwrap();
    let error = PrivatePostgres::start(DataDir::open(temp.path()).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("was made by Postgres 8"), "{error}");
}
