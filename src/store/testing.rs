//! Databases for tests: one throw-away cluster a process, one database a test.
//!
//! With `STEPWELL_TEST_DATABASE_URL` the databases are made on that server instead; its role must
//! be allowed to create databases.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::sync::OnceCell;

use super::Store;
use crate::machine::RunId;

/// A migrated database of its own, dropped when this is.
#[derive(Debug)]
pub struct TestDb {
    /// Its URL.
    pub url: String,
    /// Connected to it.
    pub store: Store,
    name: String,
}

/// The server and the migrated database that all others are copies of.
#[derive(Debug)]
struct Server {
    /// URL without the database's name.
    base: String,
    template: String,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

impl TestDb {
    /// A new database. The first call of a process takes about two seconds, others milliseconds.
    ///
    /// # Panics
    /// If there is no Postgres to be had: without one there is nothing to test.
    pub async fn new() -> Self {
        let server = SERVER.get_or_init(Server::start).await;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepwell_test_{}_{n}", std::process::id());
        let mut admin = server.admin().await;
        execute(&mut admin, format!("drop database if exists {name} with (force)")).await;
        execute(&mut admin, format!("create database {name} template {}", server.template)).await;
        admin.close().await.expect("the connection was good a moment ago");
        let url = server.url(&name);
        let store = Store::connect(&url, 8).await.expect("the database was just made");
        Self { url, store, name }
    }
}

impl TestDb {
    /// Removes every node, as if all had been silent for long enough.
    ///
    /// # Panics
    /// If the database is gone.
    pub async fn forget_nodes(&self) {
        let gone = sqlx::query("delete from nodes").execute(&self.store.pool).await;
        gone.expect("the database is there");
    }

    /// One number from the tables, for what nobody tells.
    ///
    /// # Panics
    /// If the statement does not give one.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let number = sqlx::query_scalar(sql).fetch_one(&self.store.pool).await;
        number.expect("the statement gives a number")
    }
}

impl TestDb {
    /// All that the tables have been told by a run and about it.
    ///
    /// # Panics
    /// If the database is gone.
    pub async fn said_of(&self, run: RunId) -> Vec<String> {
        let said = sqlx::query_scalar(
            "select encode(body, 'escape') from journal where run_id = $1 and body is not null
union all select encode(body, 'escape') from journal_long where run_id = $1 and body is not null
union all select encode(data, 'escape') from history where run_id = $1
union all select message || coalesce(encode(fields, 'escape'), '') from logs where run_id = $1
union all select encode(custom_status, 'escape') from run_done where run_id = $1 and custom_status is not null",
        );
        said.bind(run.uuid()).fetch_all(&self.store.pool).await.expect("the database is there")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let Some(server) = SERVER.get() else { return };
        let name = std::mem::take(&mut self.name);
        // On a thread of its own: the test's runtime cannot be waited on from here.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                let mut admin = server.admin().await;
                execute(&mut admin, format!("drop database if exists {name} with (force)")).await;
            });
        });
        // A panic in there must not hide why the test failed.
        drop(dropping.join());
    }
}

impl Server {
    async fn start() -> Self {
        let given = std::env::var_os("STEPWELL_TEST_DATABASE_URL");
        let base = match given.and_then(|url| url.into_string().ok()) {
            Some(url) => url,
            None => tokio::task::spawn_blocking(start_cluster).await.expect("it does not panic"),
        };
        // Processes that share a server share the template of the same migrations.
        let text = Store::migrate_print(0);
        let template = format!("stepwell_template_{:08x}", crc32fast::hash(text.as_bytes()));
        let server = Self { base, template };
        let mut admin = server.admin().await;
        execute(&mut admin, "select pg_advisory_lock(7783001)".to_owned()).await;
        let exists: bool =
            sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
                .bind(&server.template)
                .fetch_one(&mut admin)
                .await
                .expect("the catalog can be read");
        if !exists {
            // Under another name until it is complete, so that a killed process leaves no half one.
            let draft = format!("{}_draft", server.template);
            execute(&mut admin, format!("drop database if exists {draft} with (force)")).await;
            execute(&mut admin, format!("create database {draft}")).await;
            let store = Store::connect(&server.url(&draft), 1).await.expect("it was just made");
            store.migrate_up().await.expect("the migrations apply to an empty database");
            store.close().await;
            let rename = format!("alter database {draft} rename to {}", server.template);
            execute(&mut admin, rename).await;
        }
        admin.close().await.expect("the connection was good a moment ago");
        server
    }

    fn url(&self, database: &str) -> String {
        let mut url: url::Url = self.base.parse().expect("a Postgres URL");
        url.set_path(database);
        url.into()
    }

    async fn admin(&self) -> PgConnection {
        let options: PgConnectOptions = self.url("postgres").parse().expect("a Postgres URL");
        options.connect().await.expect("the test server answers")
    }
}

async fn execute(conn: &mut PgConnection, sql: String) {
    let what = sql.clone();
    let done = sqlx::query(AssertSqlSafe(sql)).execute(conn).await;
    done.unwrap_or_else(|e| fail(&format!("{what}: {e}")));
}

#[expect(clippy::panic, reason = "without a database there is nothing to test")]
fn fail(what: &str) -> ! {
    panic!("{what}")
}

/// Runs as long as its standard input is open, which is as long as this process lives, however it
/// ends; then it stops Postgres and removes everything.
const GUARD: &str = r#"
set -u
"$1/postgres" -D "$2/data" -k "$2" -h 127.0.0.1 -p "$3" -F -c max_connections=200 \
  -c synchronous_commit=off -c full_page_writes=off -c shared_buffers=64MB -c autovacuum=off \
  -c wal_level=minimal -c max_wal_senders=0 \
  >"$2/log" 2>&1 </dev/null &
pid=$!
cat >/dev/null
kill -QUIT "$pid"
wait "$pid"
rm -rf "$2"
"#;

/// Starts a private cluster and returns its URL. It ends with this process.
fn start_cluster() -> String {
    let bin = find_postgres().unwrap_or_else(|| {
        fail("no Postgres found: install postgresql, or set STEPWELL_TEST_DATABASE_URL")
    });
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("stepwell-test-{}-{n}", std::process::id()));
    let as_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let command = |program: &Path| {
        let mut command = if as_root {
            // Postgres refuses to run as root.
            let mut c = Command::new("setpriv");
            c.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            c
        } else {
            Command::new(program)
        };
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command
    };
    let run = |mut c: Command| {
        let out = c.stdout(Stdio::piped()).output();
        match out {
            Ok(out) if out.status.success() => {}
            other => fail(&format!("{c:?}: {other:?}")),
        }
    };
    let mut mkdir = command(Path::new("mkdir"));
    mkdir.arg("-m").arg("700").arg(&dir);
    run(mkdir);
    let mut initdb = command(&bin.join("initdb"));
    initdb.args(["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]);
    initdb.arg(dir.join("data"));
    run(initdb);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .unwrap_or_else(|e| fail(&format!("no free port: {e}")))
        .port();
    let mut guard = command(Path::new("sh"));
    guard.args(["-c", GUARD, "sh"]).arg(&bin).arg(&dir).arg(port.to_string());
    // Its own group: a Ctrl-C at the terminal reaches the tests, and through them the guard.
    let mut guard = guard
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| fail(&format!("cannot start Postgres: {e}")));
    let hold = guard.stdin.take();
    // Waits for ever, holding the pipe open; ends when Postgres could not start.
    std::thread::spawn(move || {
        let _hold = hold;
        guard.wait()
    });
    let log = dir.join("log");
    for _ in 0..600 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() && ready(&command, &bin, port)
        {
            return format!("postgres://postgres@127.0.0.1:{port}/postgres");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    fail(&format!("Postgres did not start: {}", std::fs::read_to_string(log).unwrap_or_default()))
}

fn ready(command: &dyn Fn(&Path) -> Command, bin: &Path, port: u16) -> bool {
    let mut c = command(&bin.join("pg_isready"));
    c.args(["-q", "-h", "127.0.0.1", "-p"]).arg(port.to_string());
    c.status().is_ok_and(|s| s.success())
}

/// The newest Postgres of this machine: the directory of its programs.
fn find_postgres() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|dir| dir.join("initdb").exists())
    };
    found.pop().map(|(_, bin)| bin).or_else(on_path)
}
