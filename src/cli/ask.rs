//! `stepwell run update` and `run query`: what a run is told and asked, and what it answers.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Client, Request};
use super::failure::Failure;
use super::input;
use super::output::Output;
use super::run::resolve;
use crate::machine::time::parse_duration;

/// `stepwell run update`.
#[derive(Debug, Clone, Args)]
pub struct RunUpdate {
    /// The run.
    run: String,
    /// The name that the run asks for.
    name: String,
    /// The payload: JSON text, `@file`, or `-` for standard input; null if left out.
    #[arg(short, long, value_name = "JSON")]
    input: Option<String>,
    /// What you call it: the same again is the same update, and has the same answer.
    #[arg(long)]
    id: Option<String>,
    /// How long to wait for the answer; 0s: not at all.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
}

/// `stepwell run query`.
#[derive(Debug, Clone, Args)]
pub struct RunQuery {
    /// The run, live or ended.
    run: String,
    /// What is asked.
    name: String,
    /// The arguments: JSON text, `@file`, or `-` for standard input; null if left out.
    #[arg(short, long, value_name = "JSON")]
    input: Option<String>,
}

pub(super) async fn update(
    update: RunUpdate,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        payload: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
    }
    #[derive(Deserialize)]
    struct Answered {
        id: String,
        #[serde(default)]
        value: Option<Box<RawValue>>,
        #[serde(default)]
        error: Option<Box<RawValue>>,
    }
    let payload = input::payload_or_null(update.input.as_deref())?;
    let run = resolve(client, &update.run).await?;
    let path = ["runs", run.as_str(), "updates", update.name.as_str()];
    let query = [("wait", format!("{}ms", update.wait.as_millis()))];
    let query = if update.wait.is_zero() { &query[..0] } else { &query[..] };
    let body = Body { payload: &payload, id: update.id.as_deref() };
    let request = Request { extra: update.wait, ..Request::post(&path, &body).query(query) };
    let answer = client.send(request).await?;
    let said: Answered = answer.read()?;
    let in_full = out.format().is_json();
    if in_full {
        out.json(answer.text()?)?;
    }
    if let Some(error) = said.error {
        return Err(Failure::RunFailed(format!("update `{}`: {}", update.name, error.get())));
    }
    if answer.status == 202 {
        out.note(&format!("update {} is recorded", said.id));
        return if update.wait.is_zero() {
            Ok(())
        } else {
            Err(Failure::TimedOut(format!("the run has not answered update {} yet", said.id)))
        };
    }
    if in_full { Ok(()) } else { out.line(said.value.as_deref().unwrap_or(RawValue::NULL).get()) }
}

pub(super) async fn query(
    query: RunQuery,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        args: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Answered {
        result: Box<RawValue>,
    }
    let args = input::payload_or_null(query.input.as_deref())?;
    let run = resolve(client, &query.run).await?;
    let path = ["runs", run.as_str(), "queries", query.name.as_str()];
    let answer = client.send(Request::post(&path, &Body { args: &args })).await?;
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let Answered { result } = answer.read()?;
    out.line(result.get())
}
