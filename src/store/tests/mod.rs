//! What the store promises, on a real Postgres.

mod bulks;
mod cluster;
mod fairness;
mod generations;
mod ordered;
mod reading;
mod recording;
mod retention;
mod starting;
mod statements;

use bytes::Bytes;
use uuid::Uuid;

use super::testing::TestDb;
use super::*;
use crate::machine::{
    Append, BulkId, DeploymentId, EndpointId, Flags, Kind, Message, MessageId, MessageKind, OpKind,
    Row, RunId, Sealed, Shard, Timestamp,
};

/// A database with one function, a lane, and a clock that only the test moves.
struct Bench {
    db: TestDb,
    lane: Lane,
    now: Timestamp,
    function: i32,
    dep: i32,
    chance: u128,
}

const NS: i32 = 1;

impl Bench {
    async fn new() -> Self {
        let db = TestDb::new().await;
        let lane = db.store.lane().await.unwrap();
        let now = db.store.now().await.unwrap();
        let registered = db.store.register(&registration("shop", &["checkout"])).await.unwrap();
        let catalog = db.store.load_catalog().await.unwrap();
        let function = catalog.functions[0].id;
        Self { db, lane, now, function, dep: registered.deployment_id, chance: 7 }
    }

    fn chance(&mut self) -> u128 {
        self.chance = self.chance.wrapping_mul(0xda94_2042_e4dd_58b5).wrapping_add(99);
        self.chance
    }

    fn tick(&mut self, d: Duration) -> Timestamp {
        self.now = self.now + d;
        self.now
    }

    fn run_id(&mut self, shard: u16) -> RunId {
        let at = self.tick(Duration::from_millis(1));
        RunId::on_shard(at, Shard(shard), self.chance())
    }

    fn new_run(&mut self, shard: u16) -> NewRun {
        let run = self.run_id(shard);
        let first = row(0, Kind::Created, self.now).with_body(b"{}");
        NewRun {
            run,
            ns: NS,
            function_id: self.function,
            dep: self.dep,
            pinned: false,
            status: 2,
            row: first.with(|r| (r.dep, r.ms) = (self.dep, 0)),
            wake_at: None,
            key: None,
            idem: None,
            object: None,
            locks: Vec::new(),
            tags: None,
            schedule: None,
            waits: Vec::new(),
            messages: Vec::new(),
        }
    }

    /// A live run on a shard.
    async fn start(&mut self, shard: u16) -> RunId {
        let new = self.new_run(shard);
        assert_eq!(
            self.lane.create(std::slice::from_ref(&new)).await,
            Ok(vec![CreateOutcome::Created])
        );
        new.run
    }

    async fn append(&mut self, run: RunId, rows: Vec<Row>) -> bool {
        self.seal(sealed(run, rows)).await
    }

    async fn seal(&mut self, sealed: Sealed) -> bool {
        self.lane.append(&[sealed]).await.unwrap()[0]
    }

    async fn load(&self, run: RunId) -> Loaded {
        self.db.store.load(&[run]).await.unwrap().remove(0)
    }

    fn message(&mut self, kind: MessageKind, name: &str) -> Message {
        let id = MessageId::new(self.now, self.chance());
        let body = Bytes::from_static(b"{\"by\":\"ann\"}");
        let (name, at) = (name.to_owned(), self.now);
        Message { pos: 0, id, kind, name, body, at, generation: None }
    }

    fn signal(&mut self, run: RunId) -> Accept {
        let message = self.message(MessageKind::Signal, "approved");
        Accept { run, ns: NS, message, idem: None }
    }

    async fn clean(&self) {
        assert_eq!(self.db.store.audit().await, Ok(vec![]));
    }
}

fn registration(name: &str, functions: &[&str]) -> Registration {
    let mut hash = 0xcbf2_9ce4_8422_2325_u128;
    for byte in name.bytes().chain(functions.iter().flat_map(|f| f.bytes())) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let at = Timestamp::from_micros(1_800_000_000_000_000);
    Registration {
        ns: NS,
        name: name.to_owned(),
        url: "http://127.0.0.1:3000/".to_owned(),
        headers: [("x-team".to_owned(), "orders".to_owned())].into(),
        manifest: serde_json::to_vec(functions).unwrap(),
        functions: functions.iter().map(|f| (*f).to_owned()).collect(),
        schedules: Vec::new(),
        endpoint: EndpointId::new(at, hash),
        deployment: DeploymentId::new(at, hash),
        secret: "whsec_first".to_owned(),
    }
}

fn row(n: i32, kind: Kind, at: Timestamp) -> Row {
    Row {
        n,
        kind,
        flags: Flags::of(OpKind::Run),
        seq: 0,
        epoch: 1,
        cp: 0,
        ms: 3,
        dep: 0,
        at,
        due: None,
        refer: None,
        step: String::new(),
        body: None,
        pos: 0,
    }
}

/// Rows written as what is special about them.
trait Special: Sized {
    fn with(self, change: impl FnOnce(&mut Row)) -> Row;

    fn with_body(self, body: &'static [u8]) -> Row {
        self.with(|r| r.body = Some(Bytes::from_static(body)))
    }

    fn flagged(self, bits: i16) -> Row {
        self.with(|r| r.flags.set(bits))
    }
}

impl Special for Row {
    fn with(mut self, change: impl FnOnce(&mut Row)) -> Row {
        change(&mut self);
        self
    }
}

fn done(n: i32, seq: i32, step: &str, at: Timestamp) -> Row {
    row(n, Kind::Done, at).with_body(b"\"v\"").with(|r| {
        r.seq = seq;
        r.step = step.to_owned();
    })
}

fn end(n: i32, seq: i32, at: Timestamp) -> Row {
    row(n, Kind::Completed, at).with_body(b"42").flagged(Flags::GATED).with(|r| r.seq = seq)
}

fn sealed(run: RunId, rows: Vec<Row>) -> Sealed {
    Sealed { run, ns: NS, home: 0, append: Append { rows, ..Append::default() } }
}

/// One number from the database, for what no function of the store tells.
async fn number(bench: &Bench, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&bench.db.store.pool).await.unwrap()
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}
