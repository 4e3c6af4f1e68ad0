//! `stepwell endpoint deployments`, `drain`, `repin`, `prune`: old versions, until nothing needs them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::output::{Format, Output};
use super::run::print_list;
use super::wait::{Limit, Outage};

/// Between two looks at what is left.
const PAUSE: Duration = Duration::from_secs(1);
/// How much longer than usual moving many runs may take.
const MOVES: Duration = Duration::from_mins(10);

/// A deployment as the API lists it.
#[derive(Deserialize)]
struct Deployment {
    id: String,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    current: bool,
    #[serde(default)]
    runs: Option<Runs>,
    #[serde(default)]
    drained: bool,
    #[serde(default)]
    created_at: String,
}

#[derive(Default, Deserialize)]
struct Runs {
    live: u64,
    pinned: u64,
    running: u64,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Repin<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Lists the deployments of an endpoint with the live runs that each has.
pub(super) async fn list(endpoint: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let page = client.list(&["endpoints", endpoint, "deployments"], &[], usize::MAX).await?;
    let heads = ["ID", "VERSION", "STATE", "LIVE", "PINNED", "RUNNING", "URL", "CREATED"];
    print_list(&page.data, out, &heads, row)
}

fn row(item: &str) -> Result<Vec<String>, Failure> {
    let d: Deployment = document(item)?;
    let state = match (d.current, d.drained) {
        (true, _) => "current",
        (false, true) => "drained",
        (false, false) => "in use",
    };
    let count =
        |of: fn(&Runs) -> u64| d.runs.as_ref().map_or("-".to_owned(), |r| of(r).to_string());
    let version = d.version.clone().unwrap_or_else(|| "-".to_owned());
    let (live, pinned, running) = (count(|r| r.live), count(|r| r.pinned), count(|r| r.running));
    Ok(vec![
        d.id,
        version,
        state.to_owned(),
        live,
        pinned,
        running,
        d.url.unwrap_or_else(|| "(pull)".to_owned()),
        d.created_at,
    ])
}

/// Starts no more runs at an endpoint, and waits until the live ones have ended if asked to.
pub(super) async fn drain(
    endpoint: &str,
    wait: Option<Limit>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    client.send(Request::post(&["endpoints", endpoint, "drain"], &Nothing {})).await?;
    let begun = Instant::now();
    let (mut outage, mut told) = (Outage::default(), None);
    loop {
        let listed = client.list(&["endpoints", endpoint, "deployments"], &[], usize::MAX).await;
        let page = match listed {
            Ok(page) => {
                outage.over();
                Some(page)
            }
            Err(failure) if wait.is_some() => outage.bear(failure).map(|_| None)?,
            Err(failure) => return Err(failure),
        };
        if let Some(page) = page {
            let items = page.data.iter().map(|item| document::<Deployment>(item.get()));
            let items = items.collect::<Result<Vec<_>, _>>()?;
            let live: u64 = items.iter().filter_map(|d| d.runs.as_ref()).map(|r| r.live).sum();
            if told != Some(live) {
                out.note(&format!("endpoint {endpoint} takes no new runs; {live} are live"));
                told = Some(live);
            }
            if live == 0 || wait.is_none() {
                return Ok(());
            }
        }
        if let Some(Limit::Some(most)) = wait
            && begun.elapsed() >= most
        {
            let left = told.unwrap_or(0);
            return Err(Failure::TimedOut(format!("{left} runs are live at {endpoint} still")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Moves the runs that stay on a deployment.
pub(super) async fn repin(
    endpoint: &str,
    (from, to): (&str, Option<&str>),
    reason: Option<&str>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Repinned {
        moved: u64,
        left: u64,
    }
    let path = ["endpoints", endpoint, "deployments", from, "repin"];
    let request = Request::post(&path, &Repin { deployment: to, reason });
    let answer = client.send(Request { extra: MOVES, ..request }).await?;
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let Repinned { moved, left } = answer.read()?;
    out.note(&format!("{moved} runs move to another deployment, {left} stay on {from}"));
    Ok(())
}

/// Retires the deployments that nothing needs.
pub(super) async fn prune(
    endpoint: &str,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Pruned {
        pruned: Vec<String>,
    }
    let answer = client.send(Request::post(&["endpoints", endpoint, "prune"], &Nothing {})).await?;
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let Pruned { pruned } = answer.read()?;
    for id in &pruned {
        out.line(id)?;
    }
    if out.format() == Format::Table {
        out.note(&format!("{} deployments of {endpoint} are pruned", pruned.len()));
    }
    Ok(())
}
