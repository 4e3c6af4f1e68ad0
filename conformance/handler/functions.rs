//! The functions that the suite drives, as `conformance/README.md` describes them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::run::{Outcome, Run, Stop};

pub(crate) const NAMES: [&str; 19] = [
    "echo",
    "facts",
    "three-steps",
    "names",
    "refuse",
    "tell",
    "fail",
    "once",
    "nap",
    "signals",
    "callback",
    "parallel",
    "compensate",
    "big",
    "many",
    "count",
    "chain",
    "beat",
    "held",
];

/// By run, how often the body of `fail` ran.
static TRIES: LazyLock<Mutex<HashMap<String, u64>>> = LazyLock::new(Mutex::default);

pub(crate) async fn play(run: &mut Run) -> Result<Value, Stop> {
    let input = run.call["input"].clone();
    match run.call["function"].as_str().unwrap_or_default() {
        "echo" => Ok(input),
        "facts" => {
            let it = &run.call["run"];
            let key = format!("{}pay", it["idempotency_prefix"].as_str().unwrap_or_default());
            Ok(json!({"seed": it["seed"], "created_at": it["created_at"], "key": key}))
        }
        "three-steps" => {
            let mut values = vec![];
            let mut last = input["n"].as_i64().unwrap_or_default();
            for id in ["a", "b", "c"] {
                let value = value_of(run.run(id, json!(last + 1)).await?)?;
                last = value.as_i64().unwrap_or_default();
                values.push(value);
            }
            Ok(json!(values))
        }
        "names" => {
            let mut values = vec![];
            for id in ["constructor", "__proto__", "größe/名", "a b%c?d#e", "map/3", "name#2"] {
                values.push(value_of(run.run(id, json!(id)).await?)?);
            }
            Ok(json!(values))
        }
        "refuse" => Err(Stop::End(json!({
            "error": {"type": "Refused", "message": "as asked", "data": {"n": 1}}
        }))),
        "tell" => {
            if !run.steps.contains_key("work") {
                let ops = vec![
                    json!({"op": "status", "value": {"at": "work"}}),
                    json!({"op": "tags", "value": {"stage": "one"}}),
                    json!({"op": "log", "level": "info", "message": "hello", "fields": {"n": 1}}),
                    json!({"op": "run", "id": "work", "value": 1}),
                ];
                run.say(ops, None).await?;
            }
            Ok(Value::Null)
        }
        "fail" => fail(run, &input).await,
        "once" => once(run).await,
        "nap" => {
            let op = json!({"op": "sleep", "id": "nap", "for": input["for"]});
            value_of(run.ask(op).await?)?;
            Ok(json!("awake"))
        }
        "signals" => {
            let mut taken = vec![];
            for (id, name) in [("a/1", "a"), ("a/2", "a"), ("b", "b")] {
                let timeout = &input["timeout"];
                let op = json!({"op": "signal", "id": id, "name": name, "timeout": timeout});
                taken.push(run.ask(op).await?.unwrap_or_else(|error| error["type"].clone()));
            }
            Ok(json!(taken))
        }
        "callback" => {
            let address = run.call["links"]["callback"].as_str().unwrap_or_default();
            let address = json!(format!("{address}approval"));
            value_of(run.run("told", address).await?)?;
            let timeout = &input["timeout"];
            let op = json!({"op": "callback", "id": "approval", "timeout": timeout});
            Ok(caught(run.ask(op).await?))
        }
        "parallel" => parallel(run, input["mode"].as_str().unwrap_or_default()).await,
        "compensate" => {
            value_of(run.run("reserve", Value::Null).await?)?;
            if run.call["cancel"].is_null() {
                value_of(run.ask(json!({"op": "signal", "id": "wait", "name": "never"})).await?)?;
            }
            value_of(run.run("release", Value::Null).await?)?;
            Err(Stop::End(json!({"error": {"type": "Cancelled", "message": "as asked"}})))
        }
        "big" => {
            let length = input["bytes"].as_u64().and_then(|n| usize::try_from(n).ok());
            let blob = json!("x".repeat(length.unwrap_or_default()));
            let blob = value_of(run.run("blob", blob).await?)?;
            let size = blob.as_str().unwrap_or_default().chars().count();
            value_of(run.run("size", json!(size)).await?)
        }
        "many" => {
            let mut sum = 0;
            for n in 1..=input["count"].as_i64().unwrap_or_default() {
                let value = value_of(run.run(&format!("s/{n}"), json!(n)).await?)?;
                sum += value.as_i64().unwrap_or_default();
            }
            Ok(json!(sum))
        }
        "count" => count(run, &input).await,
        "chain" => chain(run, &input).await,
        "beat" => {
            if !run.faulty("silent") {
                run.beat().await?;
                run.beat().await?;
            }
            value_of(run.run("work", json!(1)).await?)?;
            Ok(Value::Null)
        }
        _ => {
            value_of(run.run("work", json!(1)).await?)?;
            Ok(json!("done"))
        }
    }
}

/// The value of a step that is not expected to fail.
fn value_of(outcome: Outcome) -> Result<Value, Stop> {
    outcome.map_err(|error| Stop::End(json!({"error": error})))
}

fn caught(outcome: Outcome) -> Value {
    match outcome {
        Ok(value) => json!({"value": value}),
        Err(error) => json!({"caught": error["type"]}),
    }
}

async fn fail(run: &mut Run, input: &Value) -> Result<Value, Stop> {
    let most = input.get("max_attempts").cloned().unwrap_or(json!(10));
    let policy = json!({"max_attempts": most, "initial": "1s"});
    let op = json!({"op": "run", "id": "work", "retry": policy});
    let times = input["times"].as_u64().unwrap_or_default();
    let worked = run.step(op, |call| {
        let id = call["run"]["id"].as_str().unwrap_or_default().to_owned();
        let mut tries = TRIES.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = tries.entry(id).or_default();
        *tries += 1;
        if *tries > times {
            return Ok(json!("worked"));
        }
        let mut error = json!({"type": "Broken", "message": "on purpose"});
        for name in ["retry", "after_ms"] {
            if let Some(asked) = input.get(name) {
                error[name] = asked.clone();
            }
        }
        Err(error)
    });
    match worked.await? {
        Ok(value) => Ok(json!({"value": value})),
        Err(error) => {
            value_of(run.run("undo", Value::Null).await?)?;
            Ok(json!({"caught": error["type"], "attempts": error["attempts"]}))
        }
    }
}

/// Runs once at most: its beginning is recorded before it runs.
async fn once(run: &mut Run) -> Result<Value, Stop> {
    let charge = json!({"op": "run", "id": "charge", "value": "charged"});
    let begun = run.steps.get("charge").is_some_and(|step| step["started"] == true);
    if !run.steps.contains_key("charge") {
        run.say(vec![json!({"op": "start", "id": "charge"})], None).await?;
        run.say(vec![charge], None).await?;
    } else if begun {
        run.say(vec![charge], None).await?;
    }
    Ok(caught(run.ask(json!({"op": "run", "id": "charge"})).await?))
}

async fn parallel(run: &mut Run, mode: &str) -> Result<Value, Stop> {
    const IDS: [&str; 3] = ["p/1", "p/2", "p/3"];
    loop {
        let settled: Vec<(&str, &Value)> = IDS
            .into_iter()
            .filter_map(|id| Some((id, run.steps.get(id)?)))
            .filter(|(_, step)| step["pending"] != true)
            .collect();
        let failed = settled.iter().any(|(_, step)| step.get("error").is_some());
        let enough = match mode {
            "any" => !settled.is_empty(),
            "all" => settled.len() == IDS.len() || failed,
            _ => settled.len() == IDS.len(),
        };
        if enough {
            let outcomes = settled.into_iter().map(|(id, step)| {
                let outcome = match step.get("error") {
                    Some(error) => json!({"error": error["type"]}),
                    None => step["value"].clone(),
                };
                (id[2..].to_owned(), outcome)
            });
            return Ok(Value::Object(outcomes.collect::<Map<_, _>>()));
        }
        let new = IDS.iter().filter(|id| !run.steps.contains_key(**id));
        let ops: Vec<Value> = new.map(|id| json!({"op": "callback", "id": id})).collect();
        run.say(ops, Some(json!({mode: IDS}))).await?;
    }
}

async fn count(run: &mut Run, input: &Value) -> Result<Value, Stop> {
    let prefix = run.call["run"]["idempotency_prefix"].as_str().unwrap_or_default();
    let tick = json!(format!("{prefix}tick"));
    let tick = value_of(run.run("tick", tick).await?)?;
    let mut seen = input["seen"].as_array().cloned().unwrap_or_default();
    seen.push(tick);
    let left = input["left"].as_i64().unwrap_or_default();
    if left == 0 {
        return Ok(json!(seen));
    }
    if run.faulty("forgets-input") {
        return Err(Stop::End(json!({"continue": {}})));
    }
    Err(Stop::End(json!({"continue": {"input": {"left": left - 1, "seen": seen}}})))
}

async fn chain(run: &mut Run, input: &Value) -> Result<Value, Stop> {
    let number = |name: &str| input[name].as_i64().unwrap_or_default();
    let mut sum = number("sum");
    for k in number("from")..=number("to") {
        let id = format!("s/{k}");
        if run.long && !run.faulty("never-long") && !run.steps.contains_key(&id) {
            let next = json!({"from": k, "to": input["to"], "sum": sum});
            return Err(Stop::End(json!({"continue": {"input": next}})));
        }
        let value = value_of(run.run(&id, json!(k)).await?)?;
        sum += value.as_i64().unwrap_or_default();
    }
    Ok(json!(sum))
}
