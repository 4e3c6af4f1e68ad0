//! A real handler that remembers everything: what each invocation showed, what it ran and when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Steps of the function `work`, in order; `go` is a signal, `nap` a sleep.
const STEPS: [&str; 7] = ["one", "two", "nap", "three", "go", "four", "five"];

/// One execution of a step's body.
#[derive(Debug, Clone)]
pub struct Execution {
    pub run: String,
    pub step: String,
    /// Microseconds of the Unix epoch when it began.
    pub at: i64,
    /// What it returned: different every time.
    pub value: u64,
}

/// The law of prefixes: all journals ever shown of a run are prefixes of one another.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// By run, the settled steps of the longest journal shown so far, in order of `seq`.
    journals: HashMap<String, Vec<(i64, String, String)>>,
    epochs: HashMap<String, Vec<i64>>,
    pub faults: Vec<String>,
}

impl Prefixes {
    /// An invocation shows this.
    pub fn show(&mut self, it: &Value) {
        let run = it["run"]["id"].as_str().unwrap_or("?").to_owned();
        let steps = it["steps"].as_object().cloned().unwrap_or_default();
        let mut shown: Vec<(i64, String, String)> = steps
            .iter()
            .filter_map(|(id, s)| {
                let outcome = format!("{:?}{:?}", s.get("value"), s.get("error"));
                Some((s.get("seq")?.as_i64()?, id.clone(), outcome))
            })
            .collect();
        shown.sort();
        for (i, (seq, id, _)) in shown.iter().enumerate() {
            if *seq != i as i64 + 1 {
                self.faults.push(format!("{run}: seq {seq} of {id} at place {}", i + 1));
            }
        }
        let epoch = it["invocation"]["epoch"].as_i64().unwrap_or(-1);
        let epochs = self.epochs.entry(run.clone()).or_default();
        if epochs.contains(&epoch) {
            self.faults.push(format!("{run}: epoch {epoch} in two exchanges"));
        } else {
            epochs.push(epoch);
        }
        // Invocations may overlap for a moment when a node was taken for dead, so an older one may
        // arrive later.
        let longest = self.journals.entry(run.clone()).or_default();
        let common = longest.len().min(shown.len());
        if longest[..common] != shown[..common] {
            let fault = format!("{run}: {shown:?} and {longest:?} are no prefixes of one another");
            self.faults.push(fault);
        } else if shown.len() > longest.len() {
            self.journals.insert(run, shown);
        }
    }

    /// The steps of the longest journal shown of a run, in order.
    pub fn longest(&self, run: &str) -> Vec<String> {
        let longest = self.journals.get(run).map(Vec::as_slice).unwrap_or_default();
        longest.iter().map(|(_, id, _)| id.clone()).collect()
    }
}

#[derive(Debug, Default)]
pub struct Seen {
    executions: Vec<Execution>,
    prefixes: Prefixes,
    invocations: u64,
}

/// The handler's memory.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    pub seen: Arc<Mutex<Seen>>,
    /// Per thousand invocations, how many answer 500 although the work was done.
    pub lost_answers: u64,
}

impl Oracle {
    /// Serves it; the URL.
    pub async fn serve(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let app =
            axum::Router::new().route("/", axum::routing::post(invoked)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    pub fn executions(&self) -> Vec<Execution> {
        self.seen.lock().expect("no panic").executions.clone()
    }

    pub fn invocations(&self) -> u64 {
        self.seen.lock().expect("no panic").invocations
    }

    /// What was wrong with what the gateway showed.
    pub fn faults(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").prefixes.faults.clone()
    }

    fn look(&self, it: &Value) -> Value {
        let run = it["run"]["id"].as_str().unwrap_or("?").to_owned();
        let steps = it["steps"].as_object().cloned().unwrap_or_default();
        let mut seen = self.seen.lock().expect("no panic");
        seen.invocations += 1;
        seen.prefixes.show(it);
        let settled = |id: &str| steps.get(id).is_some_and(|s| s.get("seq").is_some());
        let Some(next) = STEPS.iter().find(|id| !settled(id)) else {
            return json!({"result": {"steps": STEPS.len()}});
        };
        if steps.contains_key(*next) {
            return json!({"await": next});
        }
        match *next {
            "nap" => json!({"ops": [{"op": "sleep", "id": "nap", "for": "30ms"}]}),
            "go" => json!({"ops": [{"op": "signal", "id": "go", "name": "go"}]}),
            step => {
                let value: u64 = rand::random::<u64>() >> 12;
                let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later");
                let at = i64::try_from(at.as_micros()).expect("it is not that late");
                seen.executions.push(Execution { run, step: step.to_owned(), at, value });
                json!({"ops": [{"op": "run", "id": step, "value": value}]})
            }
        }
    }
}

async fn invoked(State(oracle): State<Oracle>, body: Bytes) -> Response {
    let Ok(it) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let answer = oracle.look(&it);
    if rand::random::<u64>() % 1_000 < oracle.lost_answers {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    axum::Json(answer).into_response()
}
