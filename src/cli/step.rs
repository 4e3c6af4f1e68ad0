//! `stepwell step`: settle a step by hand, or hurry it.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;

use super::client::{Client, Request};
use super::failure::Failure;
use super::input;
use super::model::Run;
use super::output::{Format, Output};
use super::run::resolve;

/// What an operator can do with one step of a run.
#[derive(Debug, Clone, Subcommand)]
pub enum StepCommand {
    /// Give a pending step a value.
    Complete {
        /// Which.
        #[command(flatten)]
        step: Which,
        /// The value: JSON text, `@file`, or `-` for standard input; null if left out.
        #[arg(short, long, value_name = "JSON")]
        input: Option<String>,
        /// Also if no handler has asked for the step yet.
        #[arg(long)]
        unasked: bool,
    },
    /// Let a pending step fail for good.
    Fail {
        /// Which.
        #[command(flatten)]
        step: Which,
        /// The kind of error.
        #[arg(long = "type", value_name = "TYPE", default_value = "Error")]
        kind: String,
        /// What to say about it.
        #[arg(long, default_value = "failed by an operator")]
        message: String,
        /// Also if no handler has asked for the step yet.
        #[arg(long)]
        unasked: bool,
    },
    /// Try a step at once, or take its failure back while its run is paused.
    RetryNow {
        /// Which.
        #[command(flatten)]
        step: Which,
    },
}

/// A step of a run.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The run: its id or a unique beginning of it.
    run: String,
    /// The step's id.
    step: String,
    /// Why; kept in the run's history.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Serialize)]
struct StepError {
    r#type: String,
    message: String,
}

#[derive(Serialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<StepError>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unasked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) async fn execute(
    command: StepCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let (verb, which, value, error, unasked) = match command {
        StepCommand::Complete { step, input, unasked } => {
            let value = input::payload_or_null(input.as_deref())?;
            ("complete", step, Some(value), None, unasked)
        }
        StepCommand::Fail { step, kind, message, unasked } => {
            ("fail", step, None, Some(StepError { r#type: kind, message }), unasked)
        }
        StepCommand::RetryNow { step } => ("retry-now", step, None, None, false),
    };
    let Which { run, step, reason } = which;
    let id = resolve(client, &run).await?;
    let path = ["runs", id.as_str(), "steps", step.as_str(), verb];
    let body = Body { value, error, unasked, reason };
    let answer = client.send(Request::post(&path, &body)).await?;
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&id),
        Format::Table => {
            let run: Run = answer.read()?;
            out.note(&format!("{verb} accepted for step {step}: run {id} is {}", run.status));
            Ok(())
        }
    }
}
