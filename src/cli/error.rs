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
        /// That are `open`, `resolved` or `ignored`; may be repeated.
        #[arg(long = "state", value_name = "STATE")]
        states: Vec<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show a kind of error.
    Get {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// Resolve a kind of error: it is open again once a run fails or pauses by it after that.
    Resolve {
        /// Its fingerprint.
        fingerprint: String,
        /// Why, for who looks at it.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Ignore a kind of error until it is reopened.
    Ignore {
        /// Its fingerprint.
        fingerprint: String,
        /// Why, for who looks at it.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Reopen a kind of error that is resolved or ignored.
    Reopen {
        /// Its fingerprint.
        fingerprint: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: Option<String>,
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
    #[serde(default)]
    state: String,
    resolved_at: Option<String>,
    resolved_by: Option<String>,
    ignored_at: Option<String>,
    ignored_by: Option<String>,
    reason: Option<String>,
    returned_at: Option<String>,
}

impl Kind {
    /// What people made of it, and whether it came back after that.
    fn state_in_words(&self) -> String {
        let by =
            |by: &Option<String>| by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        let why = self.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        match (&self.returned_at, &self.resolved_at, &self.ignored_at) {
            (Some(returned), Some(at), _) => {
                let by = by(&self.resolved_by);
                format!("{}: came back at {returned}, was resolved at {at}{by}{why}", self.state)
            }
            (_, Some(at), _) => format!("{} since {at}{}{why}", self.state, by(&self.resolved_by)),
            (.., Some(at)) => format!("{} since {at}{}{why}", self.state, by(&self.ignored_by)),
            _ => self.state.clone(),
        }
    }
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
        ErrorCommand::List { functions, statuses, states, limit } => {
            let functions = functions.into_iter().map(|name| ("function", name));
            let statuses = statuses.into_iter().map(|status| ("status", status));
            let states = states.into_iter().map(|state| ("state", state));
            let query: Vec<(&str, String)> = functions.chain(statuses).chain(states).collect();
            let page = client.list(&["errors"], &query, limit).await?;
            if out.format() == Format::Id {
                for item in &page.data {
                    let kind: Kind = document(item.get())?;
                    out.line(&plain(&kind.fingerprint))?;
                }
                return Ok(());
            }
            let heads = ["FINGERPRINT", "STATE", "RUNS", "FUNCTION", "STEP", "ERROR", "LAST SEEN"];
            super::run::print_list(&page.data, out, &heads, |item| {
                let kind: Kind = document(item)?;
                let step = kind.step.unwrap_or_else(|| "-".to_owned());
                let error = format!("{}: {}", kind.code, kind.message);
                let runs = kind.count.in_words();
                let state =
                    if kind.returned_at.is_some() { "came back".to_owned() } else { kind.state };
                Ok(vec![kind.fingerprint, state, runs, kind.function, step, error, kind.last_seen])
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
                    let state = kind.state_in_words();
                    let mut fields = vec![
                        ("error", kind.fingerprint),
                        ("state", state),
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
        ErrorCommand::Resolve { fingerprint, reason } => {
            act(&fingerprint, "resolve", reason, client, out).await
        }
        ErrorCommand::Ignore { fingerprint, reason } => {
            act(&fingerprint, "ignore", reason, client, out).await
        }
        ErrorCommand::Reopen { fingerprint, reason } => {
            act(&fingerprint, "reopen", reason, client, out).await
        }
    }
}

async fn act(
    fingerprint: &str,
    act: &str,
    reason: Option<String>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let body = serde_json::json!({"reason": reason});
    let answer = client.send(Request::post(&["errors", fingerprint, act], &body)).await?;
    let kind: Kind = answer.read()?;
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&plain(&kind.fingerprint)),
        Format::Table => {
            out.fields(&[("state", kind.state_in_words()), ("error", kind.fingerprint)])
        }
    }
}
