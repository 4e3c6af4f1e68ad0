//! `stepwell event`: publish events, and see what became of them.

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::{Format, Output};
use super::run::print_list;

/// What can be done with events.
#[derive(Debug, Clone, Subcommand)]
pub enum EventCommand {
    /// Publish an event.
    Send {
        /// Its name, such as `order.paid`.
        name: String,
        /// Its data: JSON text, `@file`, or `-` for standard input; null if left out.
        #[arg(short, long, value_name = "JSON")]
        input: Option<String>,
        /// What the source calls it: the same source and id is published once.
        #[arg(long)]
        id: Option<String>,
        /// Who publishes it; `api` if left out.
        #[arg(long)]
        source: Option<String>,
    },
    /// List events, new to old.
    List {
        /// Only events of this name; may be given more than once.
        #[arg(long)]
        name: Vec<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show an event and what it came to.
    Show {
        /// Its id (`evt_…`).
        id: String,
    },
}

#[derive(Serialize)]
struct Body<'a> {
    name: &'a str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
}

#[derive(Deserialize)]
struct Event {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    published_at: String,
    #[serde(default)]
    routed: bool,
    #[serde(default)]
    replayed: bool,
    #[serde(default)]
    matched: Option<Count>,
    #[serde(default)]
    matches: Vec<Match>,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
    exact: bool,
}

#[derive(Deserialize)]
struct Match {
    run: String,
    step: Option<String>,
    #[serde(default)]
    did: String,
    at: String,
}

pub(super) async fn execute(
    command: EventCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        EventCommand::Send { name, input, id, source } => {
            let data = input::payload_or_null(input.as_deref())?;
            let (id, source) = (id.as_deref(), source.as_deref());
            let body = Body { name: &name, data: &data, id, source };
            let answer = client.send(Request::post(&["events"], &body)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let event: Event = document(answer.text()?)?;
            if out.format() == Format::Id {
                return out.line(&event.id);
            }
            let again = if event.replayed { "; it had been published before" } else { "" };
            out.note(&format!("event {} accepted{again}", event.id));
            Ok(())
        }
        EventCommand::List { name, limit } => {
            let query: Vec<(&str, String)> = name.into_iter().map(|n| ("name", n)).collect();
            let page = client.list(&["events"], &query, limit).await?;
            print_list(
                &page.data,
                out,
                &["ID", "NAME", "SOURCE", "PUBLISHED", "ROUTED", "RUNS"],
                row,
            )
        }
        EventCommand::Show { id } => {
            let answer = client.send(Request::get(&["events", &id])).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let event: Event = document(answer.text()?)?;
            if out.format() == Format::Id {
                return out.line(&event.id);
            }
            out.line(&format!("{}  {}  from {}", event.id, event.name, event.source))?;
            let routed = if event.routed { "routed" } else { "on its way" };
            out.line(&format!("published {}, {routed}", event.published_at))?;
            for m in event.matches {
                let what = m.step.map_or(m.did, |step| format!("step {step}"));
                out.line(&format!("  {}  {}  {what}", m.at, m.run))?;
            }
            Ok(())
        }
    }
}

fn row(item: &str) -> Result<Vec<String>, Failure> {
    let event: Event = document(item)?;
    let routed = if event.routed { "yes" } else { "no" };
    let runs = event.matched.map_or_else(String::new, |runs| {
        format!("{}{}", runs.count, if runs.exact { "" } else { "+" })
    });
    Ok(vec![event.id, event.name, event.source, event.published_at, routed.to_owned(), runs])
}
