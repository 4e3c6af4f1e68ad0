//! `stepwell run rerun`: a new run that does another one again.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::{Client, Request};
use super::failure::Failure;
use super::input;
use super::output::Output;
use super::run::{print, resolve};

/// `stepwell run rerun`.
#[derive(Debug, Clone, Args)]
pub struct RunRerun {
    /// The run.
    run: String,
    /// Copy what settled before this step, and go on from there.
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    /// Another input: JSON text, `@file`, or `-` for standard input.
    #[arg(short, long, value_name = "JSON")]
    input: Option<String>,
    /// A value in place of what a step had recorded; may be repeated.
    #[arg(long = "edit", value_name = "STEP=JSON", value_parser = input::pair)]
    edits: Vec<(String, String)>,
    /// Run on this deployment.
    #[arg(long, value_name = "ID")]
    deployment: Option<String>,
    /// Send the signals that no copied step took again.
    #[arg(long)]
    keep_signals: bool,
    /// Repeating the command with this key starts nothing new.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) async fn execute(
    rerun: RunRerun,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        from_step: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<Box<RawValue>>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        edits: BTreeMap<&'a str, Box<RawValue>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        deployment: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        keep_signals: bool,
    }
    let mut edits = BTreeMap::new();
    for (step, value) in &rerun.edits {
        edits.insert(step.as_str(), input::payload(value)?);
    }
    let body = Body {
        from_step: rerun.from.as_deref(),
        input: rerun.input.as_deref().map(input::payload).transpose()?,
        edits,
        deployment: rerun.deployment.as_deref(),
        keep_signals: rerun.keep_signals,
    };
    let id = resolve(client, &rerun.run).await?;
    let path = ["runs", id.as_str(), "rerun"];
    let request = Request {
        idempotency_key: rerun.idempotency_key.as_deref(),
        ..Request::post(&path, &body)
    };
    print(&client.send(request).await?, out)
}
