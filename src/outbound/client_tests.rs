//! The client against real servers: what it sends, what it refuses, how it tells failures apart.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PATIENT: Duration = Duration::from_secs(30);

/// A server that gives every request the same bytes and remembers what it got.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

/// What a server does after its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Keep,
    Close,
    Hang,
}

impl Server {
    async fn start(reply: impl Into<Vec<u8>>, then: Then) -> Self {
        Self::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), reply, then).await
    }

    async fn on(at: SocketAddr, reply: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind(at).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = Self { address, connections: Arc::default(), requests: Arc::default() };
        let (it, reply) = (server.clone(), reply.into());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                it.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(it.clone().answer(stream, reply.clone(), then));
            }
        });
        server
    }

    async fn answer(self, mut stream: TcpStream, reply: Vec<u8>, then: Then) {
        while let Some(request) = read_request(&mut stream).await {
            self.requests.lock().expect("no panics").push(request);
            if stream.write_all(&reply).await.is_err() || then == Then::Close {
                return;
            }
            if then == Then::Hang {
                std::future::pending::<()>().await;
            }
        }
    }

    fn url(&self) -> Url {
        self.url_of("http", "127.0.0.1")
    }

    fn url_of(&self, scheme: &str, host: &str) -> Url {
        let text = format!("{scheme}://{host}:{}/hook", self.address.port());
        Url::parse(&text).expect("a URL")
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// The first byte of a TLS handshake, to which a server without TLS says what servers say.
const TLS_GREETING: u8 = 0x16;

/// Head and body of a request with a `content-length`; none at the end of the stream.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
        got.extend_from_slice(&piece[..n]);
        if got[0] == TLS_GREETING {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            return None;
        }
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|l| l.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if body.len() >= length {
                return Some(text);
            }
        }
    }
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut reply =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
    reply.extend_from_slice(body);
    reply
}

/// Names with fixed addresses; those with several lists take turns.
struct Names {
    known: HashMap<&'static str, Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Lookup for Names {
    fn lookup(&self, host: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let turn = self.asked.fetch_add(1, Ordering::SeqCst);
        let found = self.known.get(host).map(|lists| lists[turn % lists.len()].clone());
        Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
    }
}

fn names(known: &[(&'static str, &[&[&str]])]) -> Arc<Names> {
    let ip = |text: &&str| text.parse().expect("an address");
    let known = known
        .iter()
        .map(|(name, lists)| (*name, lists.iter().map(|l| l.iter().map(ip).collect()).collect()))
        .collect();
    Arc::new(Names { known, asked: AtomicUsize::new(0) })
}

fn dev() -> Client {
    Client::new(Guard::dev()).expect("a client")
}

async fn post(client: &Client, url: &Url) -> Result<Reply, Failure> {
    client.post(url, HeaderMap::new(), Bytes::from_static(b"{}"), PATIENT, MAX_BODY).await
}

#[tokio::test]
async fn sends_exactly_what_it_is_given_on_a_kept_connection() {
    let server = Server::start(ok(b"{\"result\":1}"), Then::Keep).await;
    let client = dev();
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("webhook-id"), HeaderValue::from_static("inv_1")),
    ]);
    for _ in 0..3 {
        let body = Bytes::from_static("{\"a\":  \"ä\"}".as_bytes());
        let reply = client.post(&server.url(), headers.clone(), body, PATIENT, MAX_BODY).await;
        assert_eq!(&reply.expect("a reply").body[..], b"{\"result\":1}");
    }
    assert_eq!(server.connections(), 1);
    let requests = server.requests.lock().expect("no panics");
    let (head, body) = requests[0].split_once("\r\n\r\n").expect("head and body");
    assert_eq!(body, "{\"a\":  \"ä\"}");
    assert!(
        head.starts_with("POST /hook HTTP/1.1\r\n") && head.contains("webhook-id: inv_1"),
        "{head}"
    );
    assert!(!head.to_lowercase().contains("accept-encoding"), "{head}");
}

#[tokio::test]
async fn bodies_are_bounded() {
    let client = dev();
    let post = async |server: &Server, max| {
        let body = Bytes::new();
        client.post(&server.url(), HeaderMap::new(), body, PATIENT, max).await
    };
    let long = vec![b'x'; 300_000];
    let server = Server::start(ok(&long), Then::Keep).await;
    assert_eq!(post(&server, 300_000).await.expect("within the limit").body, long);
    assert_eq!(post(&server, 299_999).await, Err(Failure::TooLarge(299_999)));
    // Without a length, and without an end.
    let mut endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..20 {
        endless.extend_from_slice(b"1000\r\n");
        endless.extend_from_slice(&[b'x'; 0x1000]);
        endless.extend_from_slice(b"\r\n");
    }
    let server = Server::start(endless.clone(), Then::Hang).await;
    assert_eq!(post(&server, 50_000).await, Err(Failure::TooLarge(50_000)));
    endless.extend_from_slice(b"0\r\n\r\n");
    let server = Server::start(endless, Then::Keep).await;
    assert_eq!(post(&server, MAX_BODY).await.expect("complete").body.len(), 20 * 0x1000);
    let mut failed = b"HTTP/1.1 500 Oops\r\ncontent-length: 300000\r\n\r\n".to_vec();
    failed.extend_from_slice(&long);
    let server = Server::start(failed, Then::Keep).await;
    let reply = post(&server, 10).await.expect("a reply");
    assert_eq!((reply.status, reply.body.len()), (500, MAX_OTHER_BODY));
    let zipped = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b";
    let server = Server::start(*zipped, Then::Keep).await;
    assert_eq!(&post(&server, 10).await.expect("not unpacked").body[..], b"\x1f\x8b");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let canary = Server::start(ok(b"{}"), Then::Keep).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}", canary.url());
        let reply =
            format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let server = Server::start(reply, Then::Keep).await;
        let said = post(&dev(), &server.url()).await.expect_err("a redirect");
        assert_eq!(said, Failure::Redirect { status, location: Some(location) });
    }
    assert_eq!(canary.connections(), 0);
}

// P3.32
#[tokio::test]
async fn silence_is_bounded_and_length_is_not() {
    let post = async |server: &Server, silence| {
        dev().post(&server.url(), HeaderMap::new(), Bytes::new(), silence, MAX_BODY).await
    };
    let short = Duration::from_millis(150);
    for reply in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"] {
        let server = Server::start(reply, Then::Hang).await;
        assert_eq!(post(&server, short).await, Err(Failure::Silence(short)), "{reply:?}");
    }
    // A byte each tenth of a second, for longer than the silence that is allowed.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_request(&mut stream).await.expect("a request");
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n";
        stream.write_all(head).await.expect("a reader");
        for _ in 0..15 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(b"x").await.expect("a reader");
        }
    });
    let slow = Server { address, connections: Arc::default(), requests: Arc::default() };
    let reply = post(&slow, Duration::from_secs(1)).await.expect("slow, not silent");
    assert_eq!(reply.body.len(), 15);
}

#[tokio::test]
async fn failures_are_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = gone.local_addr().expect("bound").port();
    drop(gone);
    let refused = Url::parse(&format!("http://127.0.0.1:{port}/")).expect("a URL");
    let said = post(&dev(), &refused).await.expect_err("refused");
    assert!(
        matches!(said, Failure::Connect { kind: io::ErrorKind::ConnectionRefused, .. }),
        "{said:?}"
    );
    assert!(said.is_connect() && !said.is_unhealthy());
    let no_tls = Server::start(ok(b"{}"), Then::Keep).await;
    let said = post(&dev(), &no_tls.url_of("https", "127.0.0.1")).await.expect_err("no TLS");
    assert!(matches!(said, Failure::Tls(_)) && said.is_unhealthy(), "{said:?}");
    for (reply, word) in [
        ("", "closed"),
        ("HTTP/1.1 200 OK\r\nconte", "closed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "closed"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not-http"),
        ("HTTP/1.1 99999 ?\r\n\r\n", "not-http"),
    ] {
        let server = Server::start(reply, Then::Close).await;
        let said = post(&dev(), &server.url()).await.expect_err("no reply");
        assert_eq!(said.word(), word, "{reply:?}: {said:?}");
    }
    let client =
        Client::with_lookup(Guard::dev(), names(&[("empty.test", &[&[]])])).expect("a client");
    for name in ["unknown.test", "empty.test"] {
        let url = Url::parse(&format!("http://{name}/")).expect("a URL");
        let said = post(&client, &url).await.expect_err("no address");
        assert!(matches!(&said, Failure::Dns { host, .. } if host == name), "{said:?}");
    }
}

#[tokio::test]
async fn names_lead_only_where_addresses_may() {
    let server = Server::start(ok(b"{}"), Then::Close).await;
    let known = names(&[
        ("localhost", &[&["127.0.0.1"]]),
        ("app.localhost", &[&["::1", "127.0.0.1"]]),
        ("127-0-0-1.nip.test", &[&["127.0.0.1"]]),
        ("metadata.google.internal", &[&["169.254.169.254"]]),
        ("mapped.test", &[&["::ffff:127.0.0.1"]]),
        ("mixed.test", &[&["169.254.169.254", "127.0.0.1"]]),
    ]);
    let guard = Guard { allow_http: true, ..Guard::default() };
    let strict = Client::with_lookup(guard, known.clone()).expect("a client");
    for name in known.known.keys() {
        let said = post(&strict, &server.url_of("http", name)).await.expect_err("blocked");
        assert!(matches!(said, Failure::Blocked(Blocked::Address { .. })), "{name}: {said:?}");
    }
    let said =
        post(&strict, &server.url_of("http", "localhost.")).await.expect_err("blocked or unknown");
    assert!(matches!(said, Failure::Blocked(_) | Failure::Dns { .. }), "{said:?}");
    assert_eq!(server.connections(), 0);
    let dev = Client::with_lookup(Guard::dev(), known.clone()).expect("a client");
    for name in ["localhost", "mixed.test"] {
        assert_eq!(post(&dev, &server.url_of("http", name)).await.expect(name).status, 200);
    }
    let said = post(&dev, &server.url_of("http", "metadata.google.internal")).await;
    assert!(matches!(said, Err(Failure::Blocked(_))), "{said:?}");
    // A name of this machine with a port of the gateway's own.
    let guard = Guard { own_ports: vec![server.address.port()], ..Guard::dev() };
    let house = Client::with_lookup(guard, known).expect("a client");
    let before = server.connections();
    let said = post(&house, &server.url_of("http", "localhost")).await.expect_err("blocked");
    assert!(matches!(said, Failure::Blocked(Blocked::Own { .. })), "{said:?}");
    assert_eq!(server.connections(), before);
}

/// The whole of 127/8 is this machine, so two of its addresses can play the public and the private
/// one: the first is listed as allowed, the second is not.
#[tokio::test]
async fn a_name_that_changes_its_mind_never_reaches_a_blocked_address() {
    let good = Server::on(SocketAddr::from(([127, 0, 0, 2], 0)), ok(b"{}"), Then::Close).await;
    let canary_at = SocketAddr::from(([127, 0, 0, 1], good.address.port()));
    let canary = Server::on(canary_at, ok(b"{}"), Then::Close).await;
    let known = names(&[("rebind.test", &[&["127.0.0.2"], &["127.0.0.1"]])]);
    let allow = vec!["127.0.0.2".parse().expect("a range")];
    let guard = Guard { allow_http: true, allow, ..Guard::default() };
    let client = Client::with_lookup(guard, known.clone()).expect("a client");
    let url = good.url_of("http", "rebind.test");
    let (mut answered, mut blocked) = (0, 0);
    for _ in 0..1000 {
        match post(&client, &url).await {
            Ok(_) => answered += 1,
            Err(Failure::Blocked(_)) => blocked += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(answered > 100 && blocked > 100, "{answered} answered, {blocked} blocked");
    assert_eq!(canary.connections(), 0);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now: Timestamp = "2026-11-23T09:00:00Z".parse().expect("a time");
    let delay = |text: Option<&str>| {
        let text = text.map(|t| (RETRY_AFTER, t.try_into().expect("ASCII")));
        let headers = HeaderMap::from_iter(text);
        Reply { status: 503, headers, body: Bytes::new() }.retry_delay(now)
    };
    assert_eq!(delay(None), None);
    assert_eq!(delay(Some("120")), Some(Duration::from_mins(2)));
    assert_eq!(delay(Some("Mon, 23 Nov 2026 09:01:00 GMT")), Some(Duration::from_mins(1)));
    assert_eq!(delay(Some("Mon, 23 Nov 2026 08:00:00 GMT")), Some(Duration::ZERO));
    assert_eq!(delay(Some("99999999999")), Some(MAX_RETRY_AFTER));
    for odd in ["soon", "-1", "1.5", ""] {
        assert_eq!(delay(Some(odd)), None, "{odd}");
    }
}

/// The stages that were good, the one that failed, and its fix.
fn seen(probe: &Probe) -> (Vec<&'static str>, Option<&'static str>, String) {
    let good = probe.stages.iter().filter(|s| s.ok == Some(true)).map(|s| s.name).collect();
    let failed = probe.failed();
    let fix = failed.and_then(|s| s.fix.clone()).unwrap_or_default();
    (good, failed.map(|s| s.name), fix)
}

#[tokio::test]
async fn a_probe_says_how_far_it_came_and_how_to_mend_it() {
    let known = names(&[("good.test", &[&["127.0.0.1"]]), ("meta.test", &[&["169.254.169.254"]])]);
    let client = Client::with_lookup(Guard::dev(), known).expect("a client");
    let probe = async |url: &Url| client.probe(url, HeaderMap::new(), Bytes::new(), PATIENT).await;
    let good = Server::start(ok(b"{}"), Then::Keep).await;
    let found = probe(&good.url_of("http", "good.test")).await;
    assert!(found.ok() && found.reply.is_some());
    assert_eq!(seen(&found), (vec!["url", "dns", "connect", "status"], None, String::new()));
    assert_eq!(found.stages[1].detail, "127.0.0.1");
    assert_eq!(found.stages[3].detail, "plain http");
    let found = client.probe_connect(&good.url()).await;
    assert_eq!(seen(&found).0, ["url", "dns", "connect"]);
    let missing = Server::start("HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", Then::Keep).await;
    let (stages, failed, fix) = seen(&probe(&missing.url()).await);
    assert_eq!((stages, failed), (vec!["url", "dns", "connect"], Some("status")));
    assert!(fix.contains("path"), "{fix}");
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = gone.local_addr().expect("bound").port();
    drop(gone);
    let refused = Url::parse(&format!("http://127.0.0.1:{port}/")).expect("a URL");
    for found in [probe(&refused).await, client.probe_connect(&refused).await] {
        let (stages, failed, fix) = seen(&found);
        assert_eq!((stages, failed), (vec!["url", "dns"], Some("connect")));
        assert!(fix.contains(&format!("http://host.docker.internal:{port}")), "{fix}");
    }
    for (url, good, failed) in [
        ("http://nowhere.test/", vec!["url"], "dns"),
        ("http://meta.test/", vec!["url"], "dns"),
        ("http://user@good.test/", vec![], "url"),
        (good.url_of("https", "good.test").as_str(), vec!["url", "dns", "connect"], "tls"),
    ] {
        let found = probe(&Url::parse(url).expect("a URL")).await;
        assert_eq!((seen(&found).0, seen(&found).1), (good, Some(failed)), "{url}: {found:?}");
        assert!(!found.ok() && found.failed().is_some_and(|s| s.fix.is_some()), "{url}");
    }
}
