//! `stepwell error`: what runs failed or paused by, those that are alike as one.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Deserialize;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::output::{Format, Output, plain};

/// What can be asked about errors.
#[derive(Debug, Clone, Subcommand)]
pub enum ErrorCommand {
    /// List kinds of errors, the last seen first.
    List {
        /// Of this function; may be repeated.
        #[arg(long = "function", value_name = "NAME")]
        functions: Vec<String>,
        /// That a run in this status has (`failed`, `timed_out`, `paused`); may be repeated.
        #[arg(long = "status", value_name = "STATUS")]
        statuses: Vec<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show a kind of error.
    Get {
        /// Its fingerprint.
        fingerprint: String,
    },
}

#[derive(Deserialize)]
struct Kind {
    fingerprint: String,
    function: String,
    step: Option<String>,
    code: String,
    message: String,
    example: String,
    count: Count,
    #[serde(default)]
    by_status: BTreeMap<String, u64>,
    first_seen: String,
    last_seen: String,
    run: String,
    #[serde(default)]
    deployments: Vec<String>,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
    exact: bool,
}

impl Count {
    fn in_words(&self) -> String {
        if self.exact { self.count.to_string() } else { format!("{}+", self.count) }
    }
}

pub(super) async fn execute(
    command: ErrorCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        ErrorCommand::List { functions, statuses, limit } => {
            let functions = functions.into_iter().map(|name| ("function", name));
            let statuses = statuses.into_iter().map(|status| ("status", status));
            let query: Vec<(&str, String)> = functions.chain(statuses).collect();
            let page = client.list(&["errors"], &query, limit).await?;
            if out.format() == Format::Id {
                for item in &page.data {
                    let kind: Kind = document(item.get())?;
                    out.line(&plain(&kind.fingerprint))?;
                }
                return Ok(());
            }
            let heads = ["FINGERPRINT", "RUNS", "FUNCTION", "STEP", "ERROR", "LAST SEEN"];
            super::run::print_list(&page.data, out, &heads, |item| {
                let kind: Kind = document(item)?;
                let step = kind.step.unwrap_or_else(|| "-".to_owned());
                let error = format!("{}: {}", kind.code, kind.message);
                let runs = kind.count.in_words();
                Ok(vec![kind.fingerprint, runs, kind.function, step, error, kind.last_seen])
            })
        }
        ErrorCommand::Get { fingerprint } => {
            let answer = client.send(Request::get(&["errors", &fingerprint])).await?;
            let kind: Kind = answer.read()?;
            match out.format() {
                Format::Json | Format::Jsonl => out.json(answer.text()?),
                Format::Id => out.line(&plain(&kind.fingerprint)),
                Format::Table => {
                    let runs: Vec<String> =
                        kind.by_status.iter().map(|(status, n)| format!("{n} {status}")).collect();
                    let mut fields = vec![
                        ("error", kind.fingerprint),
                        ("function", kind.function),
                        ("code", kind.code),
                        ("message", kind.message),
                        ("example", kind.example),
                        ("runs", format!("{} ({})", kind.count.in_words(), runs.join(", "))),
                        ("first seen", kind.first_seen),
                        ("last seen", format!("{} in {}", kind.last_seen, kind.run)),
                    ];
                    fields.extend(kind.step.map(|step| ("step", step)));
                    fields.extend(kind.deployments.into_iter().map(|dep| ("deployment", dep)));
                    out.fields(&fields)
                }
            }
        }
    }
}
