//! A TCP proxy in front of Postgres that goes away, falls silent, or cuts a connection at the moment
//! when Postgres has committed and its answer is on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// How a proxy behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Bytes pass.
    Open = 0,
    /// Connections are closed, new ones too.
    Refusing = 1,
    /// Connections stay, and nothing passes.
    Silent = 2,
}

#[derive(Debug, Default)]
struct State {
    mood: AtomicU8,
    changed: Notify,
    /// How many answers of lanes are yet to be cut off.
    cuts: AtomicI64,
    /// Of a thousand answers, how many are cut off while there are cuts.
    per_mille: AtomicU64,
    done: AtomicU64,
}

/// The proxy.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// The database's URL, by way of the proxy.
    pub url: String,
    state: Arc<State>,
}

impl Proxy {
    /// In front of the server of a database's URL.
    pub async fn before(database: &str) -> Self {
        let mut url: url::Url = database.parse().expect("a URL");
        let port = url.port().unwrap_or(5432);
        let server = format!("{}:{port}", url.host_str().unwrap_or("127.0.0.1"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(listener.local_addr().expect("bound").port())).expect("a port");
        // The first packet is to say who comes.
        url.set_query(Some("sslmode=disable"));
        let state = Arc::new(State::default());
        let proxy = Self { url: url.to_string(), state: state.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, server.clone(), state.clone()));
            }
        });
        proxy
    }

    pub fn set(&self, mood: Mood) {
        self.state.mood.store(mood as u8, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }

    /// Cuts off the next `count` answers to statements of lanes.
    pub fn cut(&self, count: i64) {
        self.cut_some(count, 1_000);
    }

    /// Cuts off `count` answers to statements of lanes, and lets others pass between them.
    pub fn cut_some(&self, count: i64, per_mille: u64) {
        self.state.per_mille.store(per_mille, Ordering::SeqCst);
        self.state.cuts.store(count, Ordering::SeqCst);
    }

    /// How many answers were cut off.
    pub fn cuts(&self) -> u64 {
        self.state.done.load(Ordering::SeqCst)
    }
}

impl State {
    fn mood(&self) -> Mood {
        match self.mood.load(Ordering::SeqCst) {
            1 => Mood::Refusing,
            2 => Mood::Silent,
            _ => Mood::Open,
        }
    }

    /// Returns when bytes may pass; false: the connection is to be closed.
    async fn may_pass(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            match self.mood() {
                Mood::Open => return true,
                Mood::Refusing => return false,
                Mood::Silent => changed.await,
            }
        }
    }

    /// Returns when connections are to be closed.
    async fn refusing(&self) {
        loop {
            let changed = self.changed.notified();
            if self.mood() == Mood::Refusing {
                return;
            }
            changed.await;
        }
    }

    fn takes_a_cut(&self) -> bool {
        let chosen = rand::random::<u64>() % 1_000 < self.per_mille.load(Ordering::SeqCst);
        chosen && self.cuts.fetch_sub(1, Ordering::SeqCst) > 0
    }
}

async fn connection(client: TcpStream, server: String, state: Arc<State>) {
    let closing = state.clone();
    let passing = async move {
        if !state.may_pass().await {
            return;
        }
        let Ok(server) = TcpStream::connect(server).await else { return };
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        // The first packet says who it is.
        let mut first = vec![0; 8 << 10];
        let Ok(length) = from_client.read(&mut first).await else { return };
        let lane = first[..length].windows(13).any(|w| w == b"stepwell lane");
        if to_server.write_all(&first[..length]).await.is_err() {
            return;
        }
        tokio::select! {
            () = pass(from_client, to_server, &state, false) => {}
            () = pass(from_server, to_client, &state, lane) => {}
        }
    };
    tokio::select! {
        () = passing => {}
        () = closing.refusing() => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, cuts: bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer).await {
        if length == 0 || !state.may_pass().await {
            return;
        }
        let bytes = &buffer[..length];
        if cuts && is_committed(bytes) && state.takes_a_cut() {
            state.done.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Whether Postgres says that a statement is complete and no transaction is open: it is committed.
fn is_committed(bytes: &[u8]) -> bool {
    bytes.ends_with(b"Z\0\0\0\x05I") && bytes.windows(7).any(|w| w == b"SELECT ")
}
