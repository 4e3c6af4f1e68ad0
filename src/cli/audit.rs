//! `stepwell audit`: who did what.

use clap::Args;
use serde::Deserialize;

use super::client::{Client, document};
use super::failure::Failure;
use super::output::Output;
use super::run::print_list;

/// `stepwell audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// Of this API key, subject of a JWT (`jwt:ann`) or `local`.
    #[arg(long)]
    by: Option<String>,
    /// Of this operation, such as `POST /v1/keys`.
    #[arg(long)]
    action: Option<String>,
    /// Whose path begins so, such as `/v1/endpoints/shop`.
    #[arg(long)]
    target: Option<String>,
    /// From this moment on.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this moment.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

/// An entry as the API shows it.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    at: String,
    #[serde(default)]
    by: String,
    from: Option<String>,
    #[serde(default)]
    action: String,
    #[serde(default)]
    target: String,
    status: Option<u16>,
    code: Option<String>,
    reason: Option<String>,
}

const COLUMNS: [&str; 6] = ["AT", "BY", "FROM", "WHAT", "RESULT", "REASON"];

fn row(entry: Entry) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let method = entry.action.split(' ').next().unwrap_or_default().to_owned();
    let result = entry.status.map_or_else(|| "not known".to_owned(), |status| status.to_string());
    vec![
        entry.at,
        entry.by,
        or_dash(entry.from),
        format!("{method} {}", entry.target),
        entry.code.map_or(result.clone(), |code| format!("{result} {code}")),
        or_dash(entry.reason),
    ]
}

pub(super) async fn execute(
    args: AuditArgs,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let AuditArgs { by, action, target, since, until, limit } = args;
    let given =
        [("by", by), ("action", action), ("target", target), ("since", since), ("until", until)];
    let query: Vec<(&str, String)> =
        given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let page = client.list(&["audit"], &query, limit).await?;
    print_list(&page.data, out, &COLUMNS, |item| Ok(row(document(item)?)))
}
