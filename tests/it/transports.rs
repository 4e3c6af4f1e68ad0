//! One program over each transport: the same journal and the same outcome (`docs/protocol.md`
//! section 4), and a long run on each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use crate::gateway::{Gateway, SECRET};
use crate::talker::{Lines, Talker};

const ALL: [&str; 4] = ["respond", "checkpoint", "duplex", "stream"];

/// A statement of a durable function.
#[derive(Debug, Clone)]
enum Stmt {
    /// Work that gives a value.
    Value(u64),
    /// Work that fails so many times; three are all that it has.
    Fails(u64),
    Sleep(u64),
    /// A signal that never comes, and its time-out.
    Expires(u64),
    /// All of these; none of them fails.
    All(Vec<Stmt>),
    /// Whatever becomes of these.
    Settled(Vec<Stmt>),
}

/// Chance that is the same on every machine.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn leaf(&mut self, fails: bool) -> Stmt {
        match self.below(if fails { 4 } else { 2 }) {
            0 => Stmt::Value(self.below(1000)),
            1 => Stmt::Sleep(10 + self.below(80)),
            2 => Stmt::Fails(1 + self.below(4)),
            _ => Stmt::Expires(10 + self.below(80)),
        }
    }

    fn program(&mut self) -> Vec<Stmt> {
        let statement = |c: &mut Self| match c.below(6) {
            0 => {
                let n = 1 + c.below(4);
                Stmt::All((0..n).map(|_| c.leaf(false)).collect())
            }
            1 => {
                let n = 1 + c.below(4);
                // An attempt that is due ends a wait by itself, so attempts are made one by one.
                let one = |c: &mut Self| match c.leaf(true) {
                    Stmt::Fails(n) => Stmt::Value(n),
                    other => other,
                };
                Stmt::Settled((0..n).map(|_| one(c)).collect())
            }
            _ => c.leaf(true),
        };
        (0..3 + self.below(6)).map(|_| statement(self)).collect()
    }
}

/// What a function says: ops, and how it ends its turn.
struct Said {
    ops: Vec<Value>,
    end: (&'static str, Value),
}

/// Runs of programs, with the attempts that each has made.
#[derive(Clone, Default)]
struct Player {
    programs: Arc<Vec<Vec<Stmt>>>,
    attempts: Arc<Mutex<HashMap<String, u64>>>,
}

impl Player {
    fn settled(steps: &Map<String, Value>, id: &str) -> bool {
        steps.get(id).is_some_and(|s| s.get("seq").is_some())
    }

    /// From the top, as an SDK does.
    fn play(&self, it: &Value, steps: &Map<String, Value>) -> Said {
        let program = &self.programs[it["input"].as_u64().expect("a number") as usize];
        let run = it["run"]["id"].as_str().expect("an id");
        let mut ops = Vec::new();
        for (n, stmt) in program.iter().enumerate() {
            let id = format!("s{n}");
            let of = match stmt {
                Stmt::All(of) | Stmt::Settled(of) => of.clone(),
                leaf => vec![leaf.clone()],
            };
            let mut pending = Vec::new();
            let mut names = Vec::new();
            for (k, leaf) in of.iter().enumerate() {
                let id = if of.len() > 1 { format!("{id}/{k}") } else { id.clone() };
                names.push(id.clone());
                if Self::settled(steps, &id) {
                    continue;
                }
                let asked = steps.get(&id).is_some_and(|s| !s.is_null());
                let op = match leaf {
                    Stmt::Value(value) => {
                        ops.push(json!({"op": "run", "id": id, "value": value}));
                        continue;
                    }
                    Stmt::Fails(times) if !asked => {
                        let mut attempts = self.attempts.lock().expect("no panic");
                        let made = attempts.entry(format!("{run}/{id}")).or_default();
                        *made += 1;
                        if *made > *times {
                            ops.push(json!({"op": "run", "id": id, "value": *made}));
                            continue;
                        }
                        let retry =
                            json!({"max_attempts": 3, "initial": "20ms", "factor": 1, "jitter": 0});
                        json!({"op": "run", "id": id, "error": {"type": "Boom", "message": id}, "retry": retry})
                    }
                    Stmt::Sleep(ms) => json!({"op": "sleep", "id": id, "for": format!("{ms}ms")}),
                    Stmt::Expires(ms) => {
                        json!({"op": "signal", "id": id, "name": "never", "timeout": format!("{ms}ms")})
                    }
                    _ => Value::Null,
                };
                if !asked {
                    ops.push(op);
                }
                pending.push(id);
            }
            if !pending.is_empty() {
                let tree = match stmt {
                    Stmt::All(_) => json!({"all": names}),
                    Stmt::Settled(_) => json!({"settled": names}),
                    _ => json!(names[0]),
                };
                return Said { ops, end: ("await", tree) };
            }
        }
        Said { ops, end: ("result", json!("end")) }
    }

    /// One checkpoint or line for each op, or for some of very many; the last says how the turn ends.
    fn parts(said: Said, n: &mut u64) -> Vec<Value> {
        let mut parts: Vec<Value> = Vec::new();
        let some = if said.ops.len() > 1000 { 50 } else { 1 };
        for ops in said.ops.chunks(some) {
            *n += 1;
            parts.push(json!({"n": n, "ops": ops}));
        }
        if parts.is_empty() {
            *n += 1;
            parts.push(json!({"n": n}));
        }
        let (name, value) = said.end;
        parts.last_mut().expect("one")[name] = value;
        parts
    }

    async fn duplex(self, it: Value, mut lines: Lines) {
        let mut steps = it["steps"].as_object().expect("steps").clone();
        let mut n = 0;
        loop {
            let said = self.play(&it, &steps);
            let (waits, own) = (said.end.0 == "await", said.ops.clone());
            for part in Self::parts(said, &mut n) {
                let mut told = lines.ask(part).await;
                // What settles meanwhile may be told first.
                while told["ack"].is_null() && told["steps"].is_object() {
                    merge(&mut steps, &told);
                    told = lines.hear().await.unwrap_or_default();
                }
                assert!(told["ack"].is_u64(), "{told}");
                merge(&mut steps, &told);
            }
            for op in own.iter().filter(|op| op.get("value").is_some()) {
                let id = op["id"].as_str().expect("an id");
                if !Self::settled(&steps, id) {
                    steps.insert(
                        id.to_owned(),
                        json!({"seq": 0, "op": "run", "value": op["value"]}),
                    );
                }
            }
            if !waits {
                return;
            }
            // What it waits for may have come with the acknowledgement.
            if self.waits(&it, &steps) {
                let Some(news) = lines.hear().await else { return };
                merge(&mut steps, &news);
            }
        }
    }

    /// Whether the function can go on, without going on.
    fn waits(&self, it: &Value, steps: &Map<String, Value>) -> bool {
        let attempts = self.attempts.lock().expect("no panic").clone();
        let said = self.play(it, steps);
        *self.attempts.lock().expect("no panic") = attempts;
        said.ops.is_empty() && said.end.0 == "await"
    }

    async fn stream(self, it: Value, mut lines: Lines) {
        let said = self.play(&it, it["steps"].as_object().expect("steps"));
        for op in said.ops {
            lines.say(op).await;
        }
        let (name, value) = said.end;
        lines.say(json!({name: value})).await;
    }

    async fn checkpoint(self, it: Value) {
        let http = crate::http_client().no_proxy().build().expect("a client can be made");
        let url = format!("{}?wait=20s", it["links"]["checkpoint"].as_str().expect("a link"));
        let mut steps = it["steps"].as_object().expect("steps").clone();
        let mut n = 0;
        loop {
            let said = self.play(&it, &steps);
            let ends = said.end.0 == "result";
            for part in Self::parts(said, &mut n) {
                let sent = http.post(&url).bearer_auth(it["token"].as_str().expect("a token"));
                let sent = sent.header("content-type", "application/json").body(part.to_string());
                let answer = sent.send().await.expect("an answer");
                let status = answer.status();
                let text = answer.text().await.expect("text");
                assert_eq!(status, 200, "{part}: {text}");
                merge(&mut steps, &serde_json::from_str(&text).expect("JSON"));
            }
            if ends {
                return;
            }
        }
    }
}

fn merge(steps: &mut Map<String, Value>, told: &Value) {
    for (id, step) in told["steps"].as_object().into_iter().flatten() {
        steps.insert(id.clone(), step.clone());
    }
}

/// A server for the transports that are answered as a whole.
async fn whole(player: Player, checkpoints: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let answer = move |_: HeaderMap, body: Bytes| {
        let player = player.clone();
        async move {
            let it: Value = serde_json::from_slice(&body).expect("JSON");
            if checkpoints {
                tokio::spawn(player.checkpoint(it));
                return StatusCode::ACCEPTED.into_response();
            }
            let said = player.play(&it, it["steps"].as_object().expect("steps"));
            let (name, value) = said.end;
            Json(json!({"ops": said.ops, name: value})).into_response()
        }
    };
    let app =
        axum::Router::new().fallback(answer).layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

/// The function `f-<transport>` of a handler on each transport.
async fn handlers(g: &Gateway, player: &Player) {
    for transport in ALL {
        let p = player.clone();
        let url = match transport {
            "respond" => whole(p, false).await,
            "checkpoint" => whole(p, true).await,
            "duplex" => Talker::serve(move |it, lines| p.clone().duplex(it, lines)).await.url,
            _ => Talker::serve(move |it, lines| p.clone().stream(it, lines)).await.url,
        };
        let body = json!({"name": transport, "url": url, "secret": SECRET, "discover": false,
            "functions": [{"name": format!("f-{transport}")}], "transports": [transport], "pages": true});
        g.post("/v1/endpoints", body).await;
    }
}

/// What a journal says, but for its times and so for the order of what settles by time: one op a
/// line asks at other moments than all in one answer.
async fn told(g: &Gateway, run: &str) -> Vec<Value> {
    let fields = ["id", "op", "value", "error", "attempts"];
    let entry = |s: &Value| fields.iter().map(|f| s[f].clone()).collect();
    let mut told: Vec<Value> = g.journal(run).await.iter().map(entry).collect();
    told.sort_by_key(|entry| entry[0].to_string());
    told
}

// P4.3, P4.4, P4.6, P4.7
#[tokio::test]
async fn a_program_has_the_same_journal_on_every_transport() {
    let mut chance = Chance(20_261_125);
    let programs: Vec<Vec<Stmt>> = (0..24).map(|_| chance.program()).collect();
    let g = Gateway::start().await;
    let player = Player { programs: Arc::new(programs.clone()), ..Player::default() };
    handlers(&g, &player).await;
    let mut runs: Vec<Vec<String>> = Vec::new();
    for n in 0..programs.len() {
        let mut of = Vec::new();
        for transport in ALL {
            of.push(g.run(&format!("f-{transport}"), json!({"input": n})).await);
        }
        runs.push(of);
    }
    for (n, of) in runs.iter().enumerate() {
        let mut journals = Vec::new();
        for (run, transport) in of.iter().zip(ALL) {
            let what = format!("program {n} ends over {transport}: {:?}", programs[n]);
            g.eventually(&what, async |g| {
                g.advance(Duration::from_millis(20));
                !g.get(&format!("/v1/runs/{run}")).await["ended_at"].is_null()
            })
            .await;
            let view = g.get(&format!("/v1/runs/{run}")).await;
            journals.push((view["status"].clone(), view["output"].clone(), told(&g, run).await));
        }
        for (transport, journal) in ALL.iter().zip(&journals) {
            assert_eq!(journal, &journals[0], "program {n} over {transport}: {:?}", programs[n]);
        }
        assert_eq!(journals[0].0, "completed");
    }
    g.close().await;
}

#[tokio::test]
async fn ten_thousand_steps_work_on_each_transport() {
    let g = Gateway::start().await;
    let program = (0..10_000).map(Stmt::Value).collect();
    let player = Player { programs: Arc::new(vec![program]), ..Player::default() };
    for transport in ["duplex", "stream"] {
        let t = Talker::serve(move |_, mut lines| async move {
            // Lines are not waited for one by one: what has come is recorded together.
            let mut unread = 0;
            for n in 1..=10_000 {
                let op = json!({"op": "run", "id": format!("s{n}"), "value": n});
                let end = n == 10_000;
                if transport == "stream" {
                    lines.say(op).await;
                    if end {
                        lines.say(json!({"result": n})).await;
                    }
                    continue;
                }
                let mut line = json!({"n": n, "ops": [op]});
                if end {
                    line["result"] = json!(n);
                }
                lines.say(line).await;
                unread += 1;
                while unread > 32 || (end && unread > 0) {
                    assert!(lines.hear().await.is_some_and(|told| told["ack"].is_u64()));
                    unread -= 1;
                }
            }
        })
        .await;
        let body = json!({"name": transport, "url": t.url, "secret": SECRET, "discover": false,
            "functions": [{"name": transport}], "transports": [transport], "pages": true});
        g.post("/v1/endpoints", body).await;
    }
    for checkpoints in [false, true] {
        let url = whole(player.clone(), checkpoints).await;
        let name = if checkpoints { "checkpoint" } else { "respond" };
        let body = json!({"name": name, "url": url, "secret": SECRET, "discover": false,
            "functions": [{"name": name}], "transports": [name], "pages": true});
        g.post("/v1/endpoints", body).await;
    }
    for transport in ALL {
        let begun = Instant::now();
        let run = g.run(transport, json!({"input": 0})).await;
        let path = format!("/v1/runs/{run}");
        while g.get(&path).await["ended_at"].is_null() {
            assert!(begun.elapsed() < Duration::from_mins(5), "{transport} takes too long");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let view = g.get(&path).await;
        assert_eq!(
            (&view["status"], &view["steps"]["settled"]),
            (&json!("completed"), &json!(10_000)),
            "{transport}"
        );
        assert_eq!(view["invocations"], 1, "{transport}");
        eprintln!("10,000 steps over {transport}: {:?}", begun.elapsed());
    }
    g.close().await;
}
