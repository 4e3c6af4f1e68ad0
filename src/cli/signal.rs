//! `stepwell signal`: send signals to runs, and see what became of them.

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::{Format, Output};
use super::run::{print_list, resolve};

/// What can be done with signals.
#[derive(Debug, Clone, Subcommand)]
pub enum SignalCommand {
    /// Send a signal to a run.
    Send {
        /// The run: its id or a unique beginning of it.
        run: String,
        /// The signal's name.
        name: String,
        /// The payload: JSON text, `@file`, or `-` for standard input; null if left out.
        #[arg(short, long, value_name = "JSON")]
        input: Option<String>,
        /// Repeating the command with this key sends nothing new.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List a run's signals: waiting, taken, untaken at the end.
    List {
        /// The run: its id or a unique beginning of it.
        run: String,
    },
}

pub(super) async fn execute(
    command: SignalCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        payload: &'a RawValue,
    }
    match command {
        SignalCommand::Send { run, name, input, idempotency_key } => {
            let payload = input::payload_or_null(input.as_deref())?;
            let id = resolve(client, &run).await?;
            let path = ["runs", id.as_str(), "signals", name.as_str()];
            let request = Request {
                idempotency_key: idempotency_key.as_deref(),
                ..Request::post(&path, &Body { payload: &payload })
            };
            let answer = client.send(request).await?;
            if out.format().is_json() && !answer.body.is_empty() {
                return out.json(answer.text()?);
            }
            if out.format() == Format::Id {
                return out.line(&id);
            }
            out.note(&format!("signal `{name}` accepted for run {id}"));
            Ok(())
        }
        SignalCommand::List { run } => {
            let id = resolve(client, &run).await?;
            let page = client.list(&["runs", &id, "signals"], &[], usize::MAX).await?;
            print_list(&page.data, out, &["NAME", "STATE", "STEP", "AT", "BYTES"], row)
        }
    }
}

fn row(item: &str) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Signal {
        name: String,
        #[serde(default)]
        state: String,
        #[serde(default)]
        step: Option<String>,
        #[serde(default)]
        at: String,
        #[serde(default)]
        bytes: u64,
    }
    let signal: Signal = document(item)?;
    let step = signal.step.unwrap_or_else(|| "-".to_owned());
    Ok(vec![signal.name, signal.state, step, signal.at, signal.bytes.to_string()])
}
