//! `stepwell run`: start runs, look at them, act on them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::value::RawValue;

use super::ask::{self, RunQuery, RunUpdate};
use super::batch;
use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::import::{self, RunImport};
use super::input;
use super::model::{Entry, Page, Run, cell, error_line};
use super::output::{Format, Output, plain};
use super::replay::RunReplay;
use super::rerun::{self, RunRerun};
pub(super) use super::run_id::resolve;
use super::trace;
use super::tree;
use super::wait::{self, Limit};
use crate::machine::time::{Timestamp, format_duration, parse_duration};

/// What can be done with runs. A run is named by its id or a unique beginning of it.
#[derive(Debug, Clone, Subcommand)]
pub enum RunCommand {
    /// Start a run of a function.
    Start(RunStart),
    /// List runs, newest first unless `--sort` says otherwise.
    List(RunList),
    /// Show a run and its steps.
    Show {
        /// The run.
        run: String,
        /// Stay and show what happens until it ends.
        #[arg(long)]
        follow: bool,
    },
    /// Show a run without its steps.
    Get {
        /// The run.
        run: String,
    },
    /// Follow a run's steps live until it ends.
    Trace {
        /// The run.
        run: String,
    },
    /// Print the output of a run that has completed.
    Result {
        /// The run.
        run: String,
        /// Wait for its end, or for so long.
        #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "forever")]
        wait: Option<Limit>,
    },
    /// Ask the run to end; its handler may compensate first.
    Cancel(Act),
    /// End the run now; its handler is not asked.
    Terminate {
        /// Which, and why.
        #[command(flatten)]
        act: Act,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
    /// Stop invoking the run.
    Pause(Act),
    /// Let a paused run go on.
    Resume {
        /// Which, and why.
        #[command(flatten)]
        act: Act,
        /// Go on with this deployment.
        #[arg(long, value_name = "ID")]
        deployment: Option<String>,
    },
    /// Put the run on another deployment, from its next invocation on; it stays there.
    Repin {
        /// Which, and why.
        #[command(flatten)]
        act: Act,
        /// The deployment [default: the newest that has its function].
        #[arg(long, value_name = "ID")]
        deployment: Option<String>,
    },
    /// Do at once what waits for its next attempt.
    RetryNow(Act),
    /// Let a run that has failed go on under its id: failed steps run again, the others stay.
    Rewind(Act),
    /// Erase the payloads of a run that has ended; what happened stays.
    Erase {
        /// Which, and why.
        #[command(flatten)]
        act: Act,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
    /// Start a new run that does this one again.
    Rerun(RunRerun),
    /// Send an update to a run, and print what it answers.
    Update(RunUpdate),
    /// Ask a run's handler about the run, and print what it answers.
    Query(RunQuery),
    /// Print everything about a run as one JSON document.
    Export {
        /// The run.
        run: String,
    },
    /// Import runs that ended elsewhere from the documents of their exports, or from an archive.
    Import(RunImport),
    /// Hold new code against a recorded run; exit code 1 if it does something else.
    Replay(RunReplay),
}

/// `stepwell run start`.
#[derive(Debug, Clone, Args)]
pub struct RunStart {
    /// Name of the function.
    #[arg(required_unless_present = "batch")]
    function: Option<String>,
    /// Start what this file says, or `-` for standard input: a JSON object a line, with `function` and
    /// all that a start takes.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["function", "input", "key", "delay", "at", "tags", "wait", "follow"]
    )]
    batch: Option<String>,
    /// JSON text, `@file`, or `-` for standard input; null if left out.
    #[arg(short, long, value_name = "JSON")]
    input: Option<String>,
    /// At most one live run of the function has this key.
    #[arg(long)]
    key: Option<String>,
    /// What to do if a run with the key is live.
    #[arg(long, value_enum, requires = "key")]
    if_running: Option<IfRunning>,
    /// What to do if a run with the key has ended.
    #[arg(long, value_enum, requires = "key")]
    if_closed: Option<IfClosed>,
    /// Begin after this long.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Begin at this moment, RFC 3339.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// A tag to find it by; may be repeated.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = input::pair)]
    tags: Vec<(String, String)>,
    /// Repeating the command with this key starts nothing new.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for its end, or for so long, and print its output.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "forever")]
    wait: Option<Limit>,
    /// Follow its steps live until it ends.
    #[arg(long, conflicts_with = "wait")]
    follow: bool,
}

/// `stepwell run list`.
#[derive(Debug, Clone, Args)]
pub struct RunList {
    /// Whose id, key, function or tag has this text.
    #[arg(short, long, value_name = "TEXT")]
    query: Option<String>,
    /// In this status; may be repeated.
    #[arg(long = "status", value_name = "STATUS")]
    statuses: Vec<String>,
    /// Of this function; may be repeated.
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// With this key.
    #[arg(long)]
    key: Option<String>,
    /// With this tag, or one in a range (`amount>100`, `due<=2026-12-01`); may be repeated.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = input::tag_test)]
    tags: Vec<String>,
    /// Started no longer ago than this.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Ended at this moment or later, RFC 3339.
    #[arg(long, value_name = "TIME")]
    ended_after: Option<Timestamp>,
    /// Ended before this moment, RFC 3339.
    #[arg(long, value_name = "TIME")]
    ended_before: Option<Timestamp>,
    /// In which order; by their ends there are ended runs alone.
    #[arg(long, value_name = "ORDER", value_parser = ["-started", "started", "-ended", "ended"], allow_hyphen_values = true)]
    sort: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// An act on a run.
#[derive(Debug, Clone, Args)]
pub struct Act {
    /// The run.
    run: String,
    /// Why; kept in the run's history.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum IfRunning {
    Fail,
    UseExisting,
    CancelExisting,
    TerminateExisting,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum IfClosed {
    Allow,
    AllowIfFailed,
    Reject,
}

pub(super) async fn execute(
    command: RunCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        RunCommand::Start(start) => self::start(start, client, out).await,
        RunCommand::List(list) => self::list(list, client, out).await,
        RunCommand::Show { run, follow } => {
            let id = resolve(client, &run).await?;
            if follow && !out.format().is_json() {
                return followed(client, &id, out).await;
            }
            show(&id, client, out).await
        }
        RunCommand::Get { run } => {
            let id = resolve(client, &run).await?;
            let answer = client.send(Request::get(&["runs", &id])).await?;
            print(&answer, out)
        }
        RunCommand::Trace { run } => {
            let id = resolve(client, &run).await?;
            followed(client, &id, out).await
        }
        RunCommand::Result { run, wait } => {
            let id = resolve(client, &run).await?;
            if let Some(limit) = wait {
                wait::until_ended(client, &id, limit).await?;
            }
            result(&id, client, out).await
        }
        RunCommand::Cancel(act) => self::act("cancel", act, None, client, out).await,
        RunCommand::Terminate { act, yes } => {
            input::confirm(yes, &format!("Terminate run {} without asking its handler?", act.run))?;
            self::act("terminate", act, None, client, out).await
        }
        RunCommand::Pause(act) => self::act("pause", act, None, client, out).await,
        RunCommand::Resume { act, deployment } => {
            self::act("resume", act, deployment, client, out).await
        }
        RunCommand::Repin { act, deployment } => {
            self::act("repin", act, deployment, client, out).await
        }
        RunCommand::RetryNow(act) => self::act("retry-now", act, None, client, out).await,
        RunCommand::Rewind(act) => self::act("rewind", act, None, client, out).await,
        RunCommand::Erase { act, yes } => {
            input::confirm(yes, &format!("Erase the payloads of run {} for good?", act.run))?;
            self::act("erase", act, None, client, out).await
        }
        RunCommand::Rerun(rerun) => rerun::execute(rerun, client, out).await,
        RunCommand::Update(update) => ask::update(update, client, out).await,
        RunCommand::Query(query) => ask::query(query, client, out).await,
        RunCommand::Export { run } => {
            let id = resolve(client, &run).await?;
            let answer = client.send(Request::get(&["runs", &id, "export"])).await?;
            out.bytes(&answer.body)
        }
        RunCommand::Import(import) => import::execute(import, client, out).await,
        RunCommand::Replay(_) => {
            Err(Failure::Unexpected("a replay is no request to the gateway".to_owned()))
        }
    }
}

async fn start(start: RunStart, client: &Client, out: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        input: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        if_running: Option<IfRunning>,
        #[serde(skip_serializing_if = "Option::is_none")]
        if_closed: Option<IfClosed>,
        #[serde(skip_serializing_if = "Option::is_none")]
        delay: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        start_at: Option<Timestamp>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        tags: BTreeMap<String, String>,
    }
    if let Some(file) = &start.batch {
        return batch::start(file, start.idempotency_key.as_deref(), client, out).await;
    }
    let input = input::payload_or_null(start.input.as_deref())?;
    let body = Body {
        input: &input,
        key: start.key.as_deref(),
        if_running: start.if_running,
        if_closed: start.if_closed,
        delay: start.delay.map(format_duration),
        start_at: start.at,
        tags: input::object(start.tags),
    };
    let path = ["functions", start.function.as_deref().unwrap_or_default(), "runs"];
    let request = Request {
        idempotency_key: start.idempotency_key.as_deref(),
        ..Request::post(&path, &body)
    };
    let answer = client.send(request).await?;
    let run: Run = answer.read()?;
    if start.follow {
        return followed(client, &run.id, out).await;
    }
    let Some(limit) = start.wait else { return print(&answer, out) };
    if out.format() == Format::Table {
        out.note(&format!("{} started", run.id));
    }
    let (run, answer) = wait::until_ended(client, &run.id, limit).await?;
    if out.format() != Format::Table {
        print(&answer, out)?;
    } else if run.completed() {
        result(&run.id, client, out).await?;
    }
    wait::verdict(&run)
}

/// Follows the run; a failure if it ended otherwise than completed. Ctrl-C is no failure.
async fn followed(client: &Client, id: &str, out: &mut Output) -> Result<(), Failure> {
    let ended = trace::follow(client, id, out).await?;
    if ended.is_none() {
        out.note(&format!("run {id} goes on"));
    }
    ended.as_ref().map_or(Ok(()), wait::verdict)
}

async fn list(list: RunList, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let mut query = Vec::new();
    query.extend(list.query.map(|text| ("q", text)));
    query.extend(list.statuses.into_iter().map(|status| ("status", status)));
    query.extend(list.functions.into_iter().map(|function| ("function", function)));
    query.extend(list.key.map(|key| ("key", key)));
    query.extend(list.tags.into_iter().map(|tag| ("tag", tag)));
    if let Some(since) = list.since {
        let now = Timestamp::from_micros(jiff::Timestamp::now().as_microsecond());
        query.push(("started_after", (now - since).to_string()));
    }
    query.extend(list.ended_after.map(|at| ("ended_after", at.to_string())));
    query.extend(list.ended_before.map(|at| ("ended_before", at.to_string())));
    let by_end = list.sort.as_deref().is_some_and(|sort| sort.ends_with("ended"));
    query.extend(list.sort.map(|sort| ("sort", sort)));
    let most = if list.all { usize::MAX } else { list.limit as usize };
    let page = client.list(&["runs"], &query, most).await?;
    print_list(
        &page.data,
        out,
        &["ID", "STATUS", "FUNCTION", "KEY", if by_end { "ENDED" } else { "CREATED" }, "ATTENTION"],
        |item| {
            let run: Run = document(item)?;
            let why = run.attention.map_or_else(|| "-".to_owned(), |a| a.code);
            let key = run.key.unwrap_or_else(|| "-".to_owned());
            let at = if by_end { run.ended_at } else { run.created_at };
            let at = at.unwrap_or_else(|| "-".to_owned());
            Ok(vec![run.id, run.status, run.function, key, at, why])
        },
    )?;
    if page.next_cursor.is_some() {
        out.note(&format!("There are more than these {}: --all or --limit.", page.data.len()));
    }
    Ok(())
}

/// Prints the items of a list in the format asked for.
pub(super) fn print_list(
    items: &[Box<RawValue>],
    out: &mut Output,
    heads: &[&str],
    row: impl Fn(&str) -> Result<Vec<String>, Failure>,
) -> Result<(), Failure> {
    /// Functions, secrets and objects are known by other words.
    #[derive(serde::Deserialize)]
    struct Named {
        id: Option<String>,
        name: Option<String>,
        key: Option<String>,
    }
    match out.format() {
        Format::Json => {
            let texts: Vec<&str> = items.iter().map(|item| item.get()).collect();
            out.json(&format!("[{}]", texts.join(",")))
        }
        Format::Jsonl => items.iter().try_for_each(|item| out.json(item.get())),
        Format::Id => items.iter().try_for_each(|item| {
            let named: Named = document(item.get())?;
            let known = named.id.or(named.name).or(named.key).unwrap_or_default();
            out.line(&plain(&known))
        }),
        Format::Table => {
            let rows = items.iter().map(|item| row(item.get())).collect::<Result<Vec<_>, _>>()?;
            out.table(heads, &rows)
        }
    }
}

/// Prints a run without its steps.
pub(super) fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    let run: Run = answer.read()?;
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&plain(&run.id)),
        Format::Table => out.fields(&fields(&run)),
    }
}

/// What a person wants to know of a run, the empty left out.
fn fields(run: &Run) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("run", run.id.clone()),
        ("function", run.function.clone()),
        ("status", run.status.clone()),
    ];
    let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    add(
        "attention",
        run.attention.as_ref().map(|a| {
            let next = a.next_attempt_at.as_ref().map(|at| format!("; next attempt {at}"));
            let differ = match (&a.expected, &a.got) {
                (Some(expected), Some(got)) => format!(" (expected {expected}, got {got})"),
                _ => String::new(),
            };
            format!("{}: {}{differ}{}", a.code, a.detail, next.unwrap_or_default())
        }),
    );
    for waiting in &run.waiting_for {
        let name = waiting.name.as_ref().map(|n| format!(" `{n}`")).unwrap_or_default();
        let until = waiting.until.as_ref().map(|u| format!(" until {u}")).unwrap_or_default();
        add("waits for", Some(format!("{} ({}{name}){until}", waiting.step, waiting.op)));
    }
    add("key", run.key.clone());
    add("generation", (run.generation > 1).then(|| run.generation.to_string()));
    add("deployment", run.deployment.clone());
    add("created", run.created_at.clone());
    add("started", run.started_at.clone());
    add("ended", run.ended_at.clone());
    add("took", run.took().map(tree::duration));
    let steps = format!("{} settled, {} pending", run.steps.settled, run.steps.pending);
    add("steps", Some(steps));
    add("invocations", Some(run.invocations.to_string()));
    let tags: Vec<String> =
        run.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    add("tags", (!tags.is_empty()).then(|| tags.join(" ")));
    add("says", run.custom_status.as_ref().map(|status| cell(status)));
    add("error", run.error.as_ref().map(|error| error_line(error)));
    add("input", run.input.as_ref().map(|input| cell(input)));
    add("output", run.output.as_ref().map(|output| cell(output)));
    fields
}

async fn show(id: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let answer = client.send(Request::get(&["runs", id])).await?;
    if out.format() == Format::Id {
        return print(&answer, out);
    }
    let journal = journal(client, id, 0).await?;
    if out.format().is_json() {
        let steps: Vec<&str> = journal.iter().map(|item| item.get()).collect();
        return out.json(&format!(
            r#"{{"run":{},"journal":[{}]}}"#,
            answer.text()?,
            steps.join(",")
        ));
    }
    print(&answer, out)?;
    if journal.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let run: Run = answer.read()?;
    let rows = journal.iter().map(|item| {
        let entry: Entry = document(item.get())?;
        let (glyph, _, detail) = tree::describe(&entry, tree::waiting(&run, &entry));
        let seq = entry.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        let at = entry.settled_at.unwrap_or_else(|| "-".to_owned());
        let value = match (&entry.value, &entry.by_ref) {
            (Some(value), _) => cell(value),
            (None, Some(by_ref)) => format!("({} bytes)", by_ref.bytes),
            (None, None) => "-".to_owned(),
        };
        Ok(vec![entry.id, seq, format!("{glyph} {detail}"), at, value])
    });
    let rows = rows.collect::<Result<Vec<_>, Failure>>()?;
    out.table(&["STEP", "SEQ", "OUTCOME", "SETTLED", "VALUE"], &rows)
}

/// The settled steps after `after` in commit order, then the pending ones.
pub(super) async fn journal(
    client: &Client,
    id: &str,
    after: u64,
) -> Result<Vec<Box<RawValue>>, Failure> {
    let mut all = Vec::new();
    let mut after = after.to_string();
    loop {
        let query = [("after", after), ("limit", "200".to_owned())];
        let path = ["runs", id, "journal"];
        let page: Page = client.send(Request::get(&path).query(&query)).await?.read()?;
        all.extend(page.data);
        match page.next_cursor {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}

/// Prints the bare output, byte for byte in every format.
async fn result(id: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let answer = client.send(Request::get(&["runs", id, "result"])).await?;
    if answer.status == 202 {
        return Err(Failure::TimedOut(format!("run {id} has not ended yet; --wait waits for it")));
    }
    out.bytes(&answer.body)?;
    if answer.body.ends_with(b"\n") { Ok(()) } else { out.bytes(b"\n") }
}

async fn act(
    verb: &str,
    act: Act,
    deployment: Option<String>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body {
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        deployment: Option<String>,
    }
    let id = resolve(client, &act.run).await?;
    let path = ["runs", id.as_str(), verb];
    let body = Body { reason: act.reason, deployment };
    let answer = client.send(Request::post(&path, &body)).await?;
    let run = answer.read::<Run>().ok();
    match (out.format(), run) {
        (Format::Json | Format::Jsonl, Some(_)) => out.json(answer.text()?),
        (Format::Id, _) => out.line(&id),
        (_, Some(run)) => {
            out.note(&format!("{verb} accepted: run {id} is {}", run.status));
            Ok(())
        }
        (_, None) => {
            out.note(&format!("{verb} accepted for run {id}"));
            Ok(())
        }
    }
}
