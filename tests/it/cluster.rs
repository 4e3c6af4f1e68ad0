//! A cluster of real `stepwell serve` processes on one database, to be killed, stopped and started.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepwell::engine::Scopes;
use stepwell::machine::Row;
use stepwell::store::testing::TestDb;

use crate::watchdog::Watched;

/// One node: a process.
pub struct Node {
    pub url: String,
    port: u16,
    child: Option<Child>,
    database: String,
}

impl Node {
    fn new(database: &str) -> Self {
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        Self { url, port, child: None, database: database.to_owned() }
    }

    /// Starts the process; it may take a while until it serves.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with these variables of the environment.
    pub fn start_with(&mut self, variables: &[(&str, &str)]) {
        let log = std::env::var_os("STEPWELL_TEST_LOG").map_or_else(Stdio::null, |dir| {
            let path = std::path::Path::new(&dir).join(format!("node-{}.log", self.port));
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.expect("the log directory exists").into()
        });
        let child = Command::new(env!("CARGO_BIN_EXE_stepwell"))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", self.port)])
            .args(["--log", "text", "--log-filter", "info"])
            .arg("--dangerous-allow-private-endpoints")
            .env("DATABASE_URL", &self.database)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary was built with the tests");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is our child");
            child.wait().expect("it is our child");
        }
    }

    /// SIGSTOP, SIGCONT or SIGTERM by name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill is there").success(), "{name} to {pid}");
    }

    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let begun = Instant::now();
        loop {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("it is our child") {
                self.child = None;
                return status;
            }
            assert!(begun.elapsed() < Duration::from_mins(2), "{} does not end", self.url);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Some nodes on one database, an API key, and a client.
pub struct Cluster {
    pub db: TestDb,
    pub nodes: Vec<Node>,
    pub http: reqwest::Client,
    pub key: String,
    _watched: Watched,
}

impl Cluster {
    pub async fn start(nodes: usize) -> Self {
        let db = TestDb::new().await;
        let url = db.url.clone();
        Self::on(db, &url, nodes).await
    }

    /// The same with these variables in the environment of each node.
    pub async fn start_with(nodes: usize, variables: &[(&str, &str)]) -> Self {
        let db = TestDb::new().await;
        let url = db.url.clone();
        Self::set_up(db, &url, nodes, variables).await
    }

    /// The nodes reach the database at `url`, such as through a proxy.
    pub async fn on(db: TestDb, url: &str, nodes: usize) -> Self {
        Self::set_up(db, url, nodes, &[]).await
    }

    async fn set_up(db: TestDb, url: &str, nodes: usize, variables: &[(&str, &str)]) -> Self {
        let key = stepwell::engine::bootstrap_key(&db.store, "test", Scopes::ALL).await;
        let (_, key) = key.expect("a key can be made");
        let mut nodes: Vec<Node> = (0..nodes).map(|_| Node::new(url)).collect();
        for node in &mut nodes {
            node.start_with(variables);
        }
        let http = crate::http_client()
            .no_proxy()
            .timeout(Duration::from_secs(40))
            .build()
            .expect("a client can be made");
        let cluster = Self { db, nodes, http, key, _watched: Watched::new() };
        for node in &cluster.nodes {
            cluster.ready(&node.url).await;
        }
        cluster
    }

    /// Waits until a node serves.
    pub async fn ready(&self, url: &str) {
        let begun = Instant::now();
        loop {
            let answer = self.http.get(format!("{url}/readyz")).send().await;
            if answer.is_ok_and(|a| a.status() == 200) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_mins(2), "{url} does not become ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A request; the status and the JSON of the answer. None if the connection failed.
    pub async fn try_call(
        &self,
        node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
        idempotency: Option<&str>,
    ) -> Option<(u16, Value)> {
        let method = method.parse().expect("a method");
        let url = format!("{}{path}", self.nodes[node].url);
        let mut request = self.http.request(method, url).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        if let Some(key) = idempotency {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&text).unwrap_or(Value::Null)))
    }

    /// The same where the connection must not fail.
    pub async fn call(
        &self,
        node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> (u16, Value) {
        let answer = self.try_call(node, method, path, body, None).await;
        answer.unwrap_or_else(|| panic!("{method} {path}: no answer from node {node}"))
    }

    /// Registers a handler with these functions.
    pub async fn register(&self, url: &str, functions: &[&str]) {
        let functions = functions.iter().map(|name| json!({"name": name})).collect();
        self.register_functions(url, functions).await;
    }

    /// The same for functions with more than a name.
    pub async fn register_functions(&self, url: &str, functions: Vec<Value>) {
        let body = json!({"name": "test", "url": url, "functions": functions, "discover": false});
        let (status, answer) = self.call(0, "POST", "/v1/endpoints", Some(&body)).await;
        assert_eq!(status, 201, "{answer}");
    }

    /// Waits until every group is driven, and no node drives more than its share.
    pub async fn balanced(&self) {
        let share = 256_usize.div_ceil(self.nodes.len());
        self.eventually("every node has its share", async || {
            let mut all = 0;
            for node in 0..self.nodes.len() {
                let groups = self.metric(node, "stepwell_lease_groups").await as usize;
                if groups > share {
                    return false;
                }
                all += groups;
            }
            all == 256
        })
        .await;
    }

    /// A metric of a node, summed up; 0 if it has none.
    pub async fn metric(&self, node: usize, name: &str) -> f64 {
        self.try_metric(node, name).await.expect("the node answers")
    }

    /// The same of a node that may not answer.
    pub async fn try_metric(&self, node: usize, name: &str) -> Option<f64> {
        let sent = self.http.get(format!("{}/metrics", self.nodes[node].url)).send().await;
        let text = sent.ok()?.text().await.ok()?;
        let of = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        };
        Some(text.lines().filter_map(of).sum())
    }

    /// Waits for a condition that something in the background will bring about.
    pub async fn eventually(&self, what: &str, holds: impl AsyncFn() -> bool) {
        self.within(Duration::from_mins(2), what, holds).await;
    }

    /// The same for what may take longer.
    pub async fn within(&self, most: Duration, what: &str, holds: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < most, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The run when it has this status, asked at a node.
    pub async fn status(&self, node: usize, run: &str, status: &str) -> Value {
        let path = format!("/v1/runs/{run}");
        let begun = Instant::now();
        loop {
            let view = self.try_call(node, "GET", &path, None, None).await;
            if let Some((_, view)) = view.as_ref().filter(|(_, view)| view["status"] == status) {
                return view.clone();
            }
            assert!(begun.elapsed() < Duration::from_mins(2), "never {status}: {view:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts a run at a node; its id.
    pub async fn run(&self, node: usize, function: &str, body: &Value) -> String {
        let path = format!("/v1/functions/{function}/runs");
        let (status, run) = self.call(node, "POST", &path, Some(body)).await;
        assert_eq!(status, 202, "{run}");
        run["id"].as_str().unwrap_or_else(|| panic!("no id in {run}")).to_owned()
    }

    /// The rows of a run's journal.
    pub async fn rows(&self, run: &str) -> Vec<Row> {
        let id = run.parse().expect("the gateway's own id");
        self.db.store.rows_after(id, 0, -1, 10_000).await.expect("the journal can be read")
    }

    /// The broken invariants of the data.
    pub async fn audit(&self) -> Vec<String> {
        let findings = self.db.store.audit().await.expect("the audit can be read");
        findings.iter().map(|f| format!("{f:?}")).collect()
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
