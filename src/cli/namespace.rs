//! `stepwell namespace`: what tenants may have and do.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::input;
use super::model;
use super::output::{Format, Output};
use super::run::print_list;

/// What can be done with namespaces.
#[derive(Debug, Clone, Subcommand)]
pub enum NamespaceCommand {
    /// List the namespaces.
    List,
    /// Make a namespace.
    Create {
        /// Its name.
        name: String,
        /// What it may have.
        #[command(flatten)]
        may: May,
    },
    /// Show a namespace, with how many runs live in it.
    Get {
        /// Its name.
        name: String,
    },
    /// Change what a namespace may have; what is not named stays.
    Set {
        /// Its name.
        name: String,
        /// What it may have.
        #[command(flatten)]
        may: May,
    },
    /// Delete a namespace that has nothing any more that goes on.
    #[command(alias = "delete")]
    Rm {
        /// Its name.
        name: String,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
}

/// What a namespace may have.
#[derive(Debug, Clone, Args)]
pub struct May {
    /// Live runs at most; `off` for any number.
    #[arg(long, value_name = "N")]
    live_runs: Option<String>,
    /// Starts at one node, such as `100/10s`; `off` for any number.
    #[arg(long, value_name = "N/PERIOD")]
    starts: Option<String>,
    /// Requests at one node, such as `1000/1s`; `off` for any number.
    #[arg(long, value_name = "N/PERIOD")]
    requests: Option<String>,
    /// A host of its handlers, webhooks and calls, such as `*.example.com`; may be repeated; `any`.
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// How long ended runs are kept, `7d`, or by how they ended, `completed=1d`; may be repeated; `off`.
    #[arg(long = "keep", value_name = "[STATUS=]DURATION")]
    keep: Vec<String>,
}

/// How a run may end.
const ENDS: [&str; 5] = ["completed", "failed", "cancelled", "timed_out", "terminated"];

/// What is sent of it: null is no limit.
#[derive(Default, Serialize)]
#[expect(clippy::option_option, reason = "left alone, anywhere, and a list are three things")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    limits: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Option<&'a [String]>>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    retention: serde_json::Map<String, serde_json::Value>,
}

impl May {
    fn body<'a>(&'a self, name: Option<&'a str>) -> Result<Body<'a>, Failure> {
        let mut body = Body { name, ..Body::default() };
        let mut limit = |name: &str, given: Option<serde_json::Value>| {
            if let Some(value) = given {
                body.limits.insert(name.to_owned(), value);
            }
        };
        let live_runs = match self.live_runs.as_deref() {
            None => None,
            Some("off") => Some(serde_json::Value::Null),
            Some(text) => Some(text.parse::<u32>().map(Into::into).map_err(|_| {
                Failure::Usage(format!("--live-runs must be a number or `off`, not {text}"))
            })?),
        };
        limit("live_runs", live_runs);
        for (name, given) in [("starts", &self.starts), ("requests", &self.requests)] {
            let text = |text: &str| match text {
                "off" => serde_json::Value::Null,
                text => text.into(),
            };
            limit(name, given.as_deref().map(text));
        }
        for keep in &self.keep {
            let (statuses, kept) = match keep.split_once('=') {
                Some((status, kept)) => (vec![status], kept),
                None => (ENDS.to_vec(), keep.as_str()),
            };
            let value = match kept {
                "off" => serde_json::Value::Null,
                text => text.into(),
            };
            for status in statuses {
                body.retention.insert(status.to_owned(), value.clone());
            }
        }
        body.hosts = match self.hosts.as_slice() {
            [] => None,
            [any] if any == "any" => Some(None),
            hosts => Some(Some(hosts)),
        };
        Ok(body)
    }
}

/// A namespace as the API shows it.
#[derive(Deserialize)]
struct Namespace {
    name: String,
    limits: Limits,
    hosts: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Limits {
    live_runs: Option<u32>,
    starts: Option<String>,
    requests: Option<String>,
}

const HEADS: [&str; 5] = ["NAME", "LIVE RUNS", "STARTS", "REQUESTS", "HOSTS"];

fn row(n: Namespace) -> Vec<String> {
    let or_any = |text: Option<String>| text.unwrap_or_else(|| "any".to_owned());
    vec![
        n.name,
        or_any(n.limits.live_runs.map(|most| most.to_string())),
        or_any(n.limits.starts),
        or_any(n.limits.requests),
        or_any(n.hosts.map(|hosts| hosts.join(" "))),
    ]
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&answer.read::<Namespace>()?.name),
        Format::Table => {
            let fields = model::fields(answer.text()?);
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            out.fields(&fields)
        }
    }
}

pub(super) async fn execute(
    command: NamespaceCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        NamespaceCommand::List => {
            let page = client.list(&["namespaces"], &[], usize::MAX).await?;
            print_list(&page.data, out, &HEADS, |item| Ok(row(document(item)?)))
        }
        NamespaceCommand::Create { name, may } => {
            let body = may.body(Some(&name))?;
            print(&client.send(Request::post(&["namespaces"], &body)).await?, out)
        }
        NamespaceCommand::Get { name } => {
            print(&client.send(Request::get(&["namespaces", &name])).await?, out)
        }
        NamespaceCommand::Set { name, may } => {
            let path = ["namespaces", name.as_str()];
            let body = Request::post(&path, &may.body(None)?).body;
            let request = Request { body, ..Request::new(Method::PATCH, &path) };
            print(&client.send(request).await?, out)
        }
        NamespaceCommand::Rm { name, yes } => {
            input::confirm(yes, &format!("Delete the namespace {name}?"))?;
            client.send(Request::new(Method::DELETE, &["namespaces", &name])).await?;
            out.note(&format!("namespace {name} is deleted"));
            Ok(())
        }
    }
}
