//! `stepwell limit`: who is on its way through a limit and who waits, and pauses of single keys.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::output::Output;
use super::run::print_list;

/// What can be done with limits.
#[derive(Debug, Clone, Subcommand)]
pub enum LimitCommand {
    /// List the limits that are in use, each at each value of its key.
    List {
        /// Of this function alone.
        #[arg(long)]
        function: Option<String>,
        /// At this value of their key alone.
        #[arg(long)]
        value: Option<String>,
        /// Only where runs wait, or that are paused.
        #[arg(long)]
        waiting: bool,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Let nobody through at one value of a limit's key; who is on the way goes on.
    Pause {
        /// Which limit.
        #[command(flatten)]
        which: Which,
        /// Why, for who meets it.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let runs through again.
    Resume {
        /// Which limit.
        #[command(flatten)]
        which: Which,
    },
}

/// Which limit.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Which {
    /// The function that has it.
    function: String,
    /// The path of its key, such as `input.tenant`.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The value at that path.
    #[arg(long, requires = "key")]
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
}

#[derive(Deserialize)]
struct Limit {
    #[serde(default)]
    kind: String,
    function: Option<String>,
    endpoint: Option<String>,
    key: Option<String>,
    value: Option<String>,
    #[serde(rename = "limit")]
    most: Option<u32>,
    period: Option<String>,
    fair: Option<String>,
    #[serde(default)]
    running: u64,
    #[serde(default)]
    queued: u64,
    paused: Option<Pause>,
}

#[derive(Deserialize)]
struct Pause {
    reason: Option<String>,
}

const COLUMNS: [&str; 7] = ["OF", "LIMIT", "KEY", "MOST", "RUNNING", "QUEUED", "PAUSED"];

fn row(limit: Limit) -> Vec<String> {
    let most = limit.most.map_or_else(|| "none".to_owned(), |n| n.to_string());
    vec![
        limit.function.or(limit.endpoint.map(|e| format!("endpoint {e}"))).unwrap_or_default(),
        limit.kind,
        limit
            .key
            .map_or_else(String::new, |key| format!("{key} = {}", limit.value.unwrap_or_default())),
        limit.period.map_or(most.clone(), |period| format!("{most} in {period}"))
            + &limit.fair.map_or_else(String::new, |path| format!(", fair by {path}")),
        limit.running.to_string(),
        limit.queued.to_string(),
        limit.paused.map_or_else(String::new, |p| p.reason.unwrap_or_else(|| "yes".to_owned())),
    ]
}

pub(super) async fn execute(
    command: LimitCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let answer = match command {
        LimitCommand::List { function, value, waiting, limit } => {
            let waiting = waiting.then(|| "true".to_owned());
            let given = [("function", function), ("value", value), ("waiting", waiting)];
            let query: Vec<(&str, String)> =
                given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let page = client.list(&["limits"], &query, limit).await?;
            return print_list(&page.data, out, &COLUMNS, |item| Ok(row(document(item)?)));
        }
        LimitCommand::Pause { which, reason } => {
            #[derive(Serialize)]
            struct Body {
                #[serde(flatten)]
                which: Which,
                #[serde(skip_serializing_if = "Option::is_none")]
                reason: Option<String>,
            }
            client.send(Request::post(&["limits", "pause"], &Body { which, reason })).await?
        }
        LimitCommand::Resume { which } => {
            client.send(Request::post(&["limits", "resume"], &which)).await?
        }
    };
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    out.table(&COLUMNS, &[row(answer.read()?)])
}
