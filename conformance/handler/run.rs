//! A run as its function sees it: steps that are known, asked for or done, whatever carries them.

use serde_json::{Map, Value, json};

use super::way::{Way, client, line, post};

/// Why a function does not go on in this exchange.
pub(crate) enum Stop {
    /// This is to be said last.
    End(Value),
    /// All is said, or nobody listens any more.
    Leave,
}

pub(crate) struct Run {
    pub(crate) call: Value,
    pub(crate) steps: Map<String, Value>,
    /// It had better continue as new.
    pub(crate) long: bool,
    way: Way,
    /// What it is to do wrong.
    fault: String,
    /// The number of the last checkpoint or line.
    n: u32,
}

/// A step's value, or the error that it has settled as.
pub(crate) type Outcome = Result<Value, Value>;

impl Run {
    pub(crate) fn new(mut call: Value, fault: &str, way: Way) -> Self {
        let steps = call["steps"].take().as_object().cloned().unwrap_or_default();
        let long = call["journal"]["continue_suggested"] == true;
        Self { call, steps, long, way, fault: fault.to_owned(), n: 0 }
    }

    /// Whether this is what it is to do wrong.
    pub(crate) fn faulty(&self, fault: &str) -> bool {
        self.fault == fault
    }

    /// Fetches what the invocation does not show of its journal.
    pub(crate) async fn page(&mut self) -> Result<(), Stop> {
        let mut upto = self.call["journal"]["upto"].as_u64().unwrap_or_default();
        let mut more = self.call["journal"]["more"] == true;
        while more {
            let journal = self.call["links"]["journal"].as_str().unwrap_or_default();
            let page = format!("{journal}?after={upto}");
            let page = self.fetch(&page).await?;
            for step in page["data"].as_array().into_iter().flatten() {
                let id = step["id"].as_str().unwrap_or_default();
                self.steps.insert(id.to_owned(), step.clone());
                upto = upto.max(step["seq"].as_u64().unwrap_or_default());
            }
            more = page["upto"].as_u64().is_some_and(|all| upto < all);
        }
        Ok(())
    }

    async fn fetch(&mut self, url: &str) -> Result<Value, Stop> {
        let token = self.call["token"].as_str().unwrap_or_default();
        let answer = client().get(url).bearer_auth(token).send().await;
        let body = match answer {
            Ok(answer) if answer.status().is_success() => answer.bytes().await.ok(),
            _ => None,
        };
        body.and_then(|body| serde_json::from_slice(&body).ok()).ok_or(Stop::Leave)
    }

    /// The outcome of a step: recorded, or asked for and waited for.
    pub(crate) async fn ask(&mut self, op: Value) -> Result<Outcome, Stop> {
        self.step(op, |_| Ok(Value::Null)).await
    }

    /// The outcome of a `run` step: recorded, or what its body comes to.
    pub(crate) async fn run(&mut self, id: &str, value: Value) -> Result<Outcome, Stop> {
        self.step(json!({"op": "run", "id": id}), |_| Ok(value.clone())).await
    }

    /// The same with an op and a body that may fail.
    pub(crate) async fn step(
        &mut self,
        op: Value,
        mut body: impl FnMut(&Value) -> Outcome,
    ) -> Result<Outcome, Stop> {
        let id = op["id"].as_str().unwrap_or_default().to_owned();
        let works = op["op"] == "run";
        let mut again = self.faulty("runs-again") && works;
        loop {
            let known = self.steps.get(&id).filter(|_| !std::mem::take(&mut again));
            let Some(step) = known else {
                let mut op = op.clone();
                if works && self.call["invocation"]["reason"] != "replay" {
                    match body(&self.call) {
                        Ok(value) => op["value"] = value,
                        Err(error) => op["error"] = error,
                    }
                }
                self.say(vec![op], (!works).then(|| json!(id))).await?;
                continue;
            };
            if step["pending"] == true {
                self.say(vec![], Some(json!(id))).await?;
            } else if let Some(error) = step.get("error") {
                return Ok(Err(error.clone()));
            } else if step.get("ref").is_some() {
                let values = self.call["links"]["values"].as_str().unwrap_or_default();
                let value = format!("{values}{id}");
                return Ok(Ok(self.fetch(&value).await?));
            } else {
                return Ok(Ok(step["value"].clone()));
            }
        }
    }

    /// Says ops, and what is to be awaited. Returns where the exchange goes on: all of it is
    /// recorded then, but on `stream`, and what it came to is in the steps.
    pub(crate) async fn say(
        &mut self,
        ops: Vec<Value>,
        awaited: Option<Value>,
    ) -> Result<(), Stop> {
        let waits = awaited.is_some();
        let tree = awaited.clone().unwrap_or_default();
        let mut said = json!({"ops": ops});
        if let Some(tree) = awaited.filter(|_| self.fault != "drops-await") {
            said["await"] = tree;
        }
        match &mut self.way {
            Way::Respond => return Err(Stop::End(said)),
            Way::Stream(say) => {
                let say = say.clone();
                for op in &ops {
                    if !line(&say, op).await {
                        return Err(Stop::Leave);
                    }
                }
                // Whether there is another attempt only the gateway knows.
                if let Some(failed) = ops.iter().find(|op| op.get("error").is_some()) {
                    said = json!({"await": failed["id"]});
                } else if waits {
                    said = json!({"await": said["await"]});
                } else {
                    self.keep(&ops);
                    return Ok(());
                }
                return Err(Stop::End(said));
            }
            Way::Checkpoint | Way::Duplex { .. } => {}
        }
        self.keep(&ops);
        let told = self.report(said, waits).await?;
        self.merge(&told)?;
        // What had come already is in the acknowledgement, the rest in a line of its own.
        if waits
            && !self.satisfies(&tree)
            && let Way::Duplex { hear, .. } = &mut self.way
        {
            let told = hear.said().await.ok_or(Stop::Leave)?;
            self.merge(&told)?;
        }
        if waits && self.faulty("drops-await") {
            return Err(Stop::Leave);
        }
        Ok(())
    }

    /// What was done here, or asked for, is known before it is acknowledged.
    fn keep(&mut self, ops: &[Value]) {
        for op in ops {
            let Some(id) = op["id"].as_str() else { continue };
            let step = match op["op"].as_str() {
                Some("run") if op.get("error").is_none() => json!({"value": op["value"]}),
                Some("run" | "start") => continue,
                _ => json!({"pending": true}),
            };
            self.steps.insert(id.to_owned(), step);
        }
    }

    /// Whether what is awaited has come, as far as is known here.
    fn satisfies(&self, tree: &Value) -> bool {
        let step = |id: &str| self.steps.get(id);
        let failed =
            |t: &Value| t.as_str().and_then(step).is_some_and(|s| s.get("error").is_some());
        let all = |trees: &Vec<Value>| trees.iter().all(|t| self.satisfies(t));
        if let Some(trees) = tree["all"].as_array() {
            all(trees) || trees.iter().any(failed)
        } else if let Some(trees) = tree["any"].as_array() {
            trees.iter().any(|t| self.satisfies(t))
        } else if let Some(trees) = tree["settled"].as_array() {
            all(trees)
        } else {
            // One that is not there is to be tried again.
            tree.as_str().and_then(step).is_none_or(|step| step["pending"] != true)
        }
    }

    /// Says something under the next number; returns its acknowledgement.
    async fn report(&mut self, mut said: Value, waits: bool) -> Result<Value, Stop> {
        self.n += 1;
        said["n"] = self.n.into();
        match &mut self.way {
            Way::Duplex { say, hear } => {
                if !line(say, &said).await {
                    return Err(Stop::Leave);
                }
                if self.fault == "hasty" && !waits {
                    return Ok(Value::Null);
                }
                loop {
                    let told = hear.said().await.ok_or(Stop::Leave)?;
                    if told["ack"] == self.n {
                        return Ok(told);
                    }
                    heed(&told, &self.fault)?;
                }
            }
            _ => self.post(&said.to_string(), waits).await.ok_or(Stop::Leave),
        }
    }

    async fn post(&mut self, said: &str, waits: bool) -> Option<Value> {
        let mut url = self.call["links"]["checkpoint"].as_str().unwrap_or_default().to_owned();
        if waits && !self.faulty("drops-await") {
            url += "?wait=20s";
        }
        let token = self.call["token"].as_str().unwrap_or_default();
        post(&url, token, said, &self.fault).await
    }

    /// Takes in what an acknowledgement shows.
    fn merge(&mut self, told: &Value) -> Result<(), Stop> {
        for (id, step) in told["steps"].as_object().into_iter().flatten() {
            if step.is_null() {
                self.steps.remove(id);
            } else if !(self.faulty("own-outcome") && self.steps.contains_key(id)) {
                self.steps.insert(id.clone(), step.clone());
            }
        }
        self.long |= told["continue_suggested"] == true;
        heed(told, &self.fault)?;
        let cancelled = told.get("cancel").is_some_and(|cancel| !cancel.is_null());
        if cancelled && self.call["cancel"].is_null() {
            // It is invoked again with the cancel; nothing is recorded until then.
            return Err(Stop::Leave);
        }
        Ok(())
    }

    /// A sign of life, as the transport has it.
    pub(crate) async fn beat(&mut self) -> Result<(), Stop> {
        match &mut self.way {
            Way::Respond => Ok(()),
            Way::Stream(say) | Way::Duplex { say, .. } => {
                say.send("\n".into()).await.map_err(|_| Stop::Leave)
            }
            Way::Checkpoint => {
                let told = self.post("{}", false).await.ok_or(Stop::Leave)?;
                self.merge(&told)
            }
        }
    }

    /// Says how the turn ends; returns what the exchange is to be answered with, if not all is said.
    pub(crate) async fn end(mut self, end: Value) -> Option<Value> {
        match &self.way {
            Way::Respond => Some(end),
            // What ends a turn may be in a checkpoint, or be the answer.
            Way::Checkpoint if end.get("result").is_none() => Some(end),
            Way::Stream(say) => {
                line(say, &end).await;
                None
            }
            Way::Checkpoint | Way::Duplex { .. } => {
                // Whether it stood or not: there is no more to say.
                drop(self.report(end, false).await);
                self.leave().await;
                None
            }
        }
    }

    /// Nothing more is said. What the gateway says still is read, or a shared connection would keep
    /// it for ever.
    pub(crate) async fn leave(self) {
        if let Way::Duplex { say, mut hear } = self.way {
            drop(say);
            while hear.next().await.is_some() {}
        }
    }
}

/// Whether the gateway says that this is all.
fn heed(told: &Value, fault: &str) -> Result<(), Stop> {
    let suspends = told["suspend"] == true && fault != "stays";
    if suspends || told.get("problem").is_some() { Err(Stop::Leave) } else { Ok(()) }
}
