//! `stepwell bulk`: act on all runs that a query finds.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::{Format, Output, plain};
use super::run::print_list;

/// What can be done with many runs at once.
#[derive(Debug, Clone, Subcommand)]
pub enum BulkCommand {
    /// Ask runs to end; their handlers may compensate first.
    Cancel {
        /// Which, and how.
        #[command(flatten)]
        act: Act,
        /// How long handlers may compensate.
        #[arg(long, value_name = "DURATION")]
        grace: Option<String>,
    },
    /// End runs now; their handlers are not asked.
    Terminate(Act),
    /// Stop invoking runs.
    Pause(Act),
    /// Let paused runs go on.
    Resume {
        /// Which, and how.
        #[command(flatten)]
        act: Act,
        /// Go on with this deployment.
        #[arg(long, value_name = "ID")]
        deployment: Option<String>,
    },
    /// Do at once what waits for its next attempt.
    RetryNow(Act),
    /// Start new runs that do these again.
    Rerun {
        /// Which, and how.
        #[command(flatten)]
        act: Act,
        /// Copy the steps that settled before this one.
        #[arg(long, value_name = "STEP")]
        from_step: Option<String>,
        /// The deployment to run on.
        #[arg(long, value_name = "ID")]
        deployment: Option<String>,
        /// Let signals be there again that no copied step took.
        #[arg(long)]
        keep_signals: bool,
    },
    /// Let runs that have failed go on under their ids.
    Rewind(Act),
    /// Send a signal to runs.
    Signal {
        /// The signal's name.
        name: String,
        /// Which, and how.
        #[command(flatten)]
        act: Act,
        /// The payload: JSON text, `@file`, or `-` for standard input; null if left out.
        #[arg(short, long, value_name = "JSON")]
        input: Option<String>,
    },
    /// Delete runs that have ended.
    Delete(Act),
    /// Erase the payloads of runs that have ended.
    Erase(Act),
    /// List what was asked for, new to old.
    List {
        /// In this status (`running`, `completed`, `aborted`); may be repeated.
        #[arg(long = "status", value_name = "STATUS")]
        statuses: Vec<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show how far one has come.
    Get {
        /// Its id.
        bulk: String,
    },
    /// Stop one: runs that it has not come to are left alone.
    Abort {
        /// Its id.
        bulk: String,
    },
}

/// Which runs, and how they are acted on.
#[derive(Debug, Clone, Args)]
pub struct Act {
    /// Which runs, as `GET /v1/runs` is asked: `status=failed&function=checkout&tag=customer:c7`.
    #[arg(short, long, value_name = "QUERY", required_unless_present = "all")]
    query: Option<String>,
    /// Every run of the namespace.
    #[arg(long, conflicts_with = "query")]
    all: bool,
    /// Do nothing; say how many runs match, and show the newest.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask whether you are sure.
    #[arg(short, long)]
    yes: bool,
    /// How many runs a second at most [default: 100].
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Why; kept in the runs' histories.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    filter: Filter,
    action: &'a str,
    #[serde(flatten)]
    options: &'a Options,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// What an action is given, but for a signal.
#[derive(Default, Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    grace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_signals: Option<bool>,
}

/// A filter as the API takes it: what may be there several times is a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Filter {
    All { all: bool },
    These(BTreeMap<String, Criterion>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Criterion {
    One(String),
    Several(Vec<String>),
}

impl Act {
    fn filter(&self) -> Filter {
        if self.all {
            return Filter::All { all: true };
        }
        let query = self.query.as_deref().unwrap_or_default();
        let mut these: BTreeMap<String, Criterion> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.trim_start_matches('?').as_bytes()) {
            let value = value.into_owned();
            match these.remove(name.as_ref()) {
                None => these.insert(name.into_owned(), Criterion::One(value)),
                Some(Criterion::One(first)) => {
                    these.insert(name.into_owned(), Criterion::Several(vec![first, value]))
                }
                Some(Criterion::Several(mut values)) => {
                    values.push(value);
                    these.insert(name.into_owned(), Criterion::Several(values))
                }
            };
        }
        Filter::These(these)
    }
}

#[derive(Deserialize)]
struct Bulk {
    id: String,
    status: String,
    action: String,
    expected: Count,
    matched: u64,
    done: u64,
    skipped: u64,
    failed: u64,
    by: String,
    created_at: String,
    ended_at: Option<String>,
    ended_by: Option<String>,
    reason: Option<String>,
    rate: u32,
    #[serde(default)]
    reasons: Vec<Reason>,
}

#[derive(Deserialize)]
struct Count {
    count: u64,
    exact: bool,
}

#[derive(Deserialize)]
struct Reason {
    outcome: String,
    code: String,
    detail: String,
    count: u64,
    run: String,
}

#[derive(Deserialize)]
struct DryRun {
    expected: Count,
    sample: Vec<Box<RawValue>>,
}

/// A run that would be acted on.
#[derive(Deserialize)]
struct Sampled {
    id: String,
    status: String,
    function: String,
    key: Option<String>,
}

impl Count {
    fn in_words(&self) -> String {
        if self.exact { self.count.to_string() } else { format!("more than {}", self.count) }
    }
}

pub(super) async fn execute(
    command: BulkCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let none = Options::default();
    match command {
        BulkCommand::Cancel { act, grace } => {
            begin("cancel", &act, &Options { grace, ..none }, None, client, out).await
        }
        BulkCommand::Terminate(act) => begin("terminate", &act, &none, None, client, out).await,
        BulkCommand::Pause(act) => begin("pause", &act, &none, None, client, out).await,
        BulkCommand::Resume { act, deployment } => {
            begin("resume", &act, &Options { deployment, ..none }, None, client, out).await
        }
        BulkCommand::RetryNow(act) => begin("retry-now", &act, &none, None, client, out).await,
        BulkCommand::Rerun { act, from_step, deployment, keep_signals } => {
            let keep_signals = keep_signals.then_some(true);
            let options = Options { deployment, from_step, keep_signals, ..none };
            begin("rerun", &act, &options, None, client, out).await
        }
        BulkCommand::Rewind(act) => begin("rewind", &act, &none, None, client, out).await,
        BulkCommand::Signal { name, act, input } => {
            let payload = input::payload_or_null(input.as_deref())?;
            let name = serde_json::to_string(&name).expect("a text is JSON");
            let signal = format!("{{\"name\":{name},\"payload\":{}}}", payload.get());
            begin("signal", &act, &none, Some(&signal), client, out).await
        }
        BulkCommand::Delete(act) => begin("delete", &act, &none, None, client, out).await,
        BulkCommand::Erase(act) => begin("erase", &act, &none, None, client, out).await,
        BulkCommand::List { statuses, limit } => {
            let query: Vec<(&str, String)> =
                statuses.into_iter().map(|status| ("status", status)).collect();
            let page = client.list(&["bulk"], &query, limit).await?;
            let heads = [
                "ID", "STATUS", "ACTION", "EXPECTED", "DONE", "SKIPPED", "FAILED", "BY", "CREATED",
            ];
            print_list(&page.data, out, &heads, |item| {
                let bulk: Bulk = document(item)?;
                let number = |n: u64| n.to_string();
                let expected = bulk.expected.in_words();
                let (done, skipped) = (number(bulk.done), number(bulk.skipped));
                let failed = number(bulk.failed);
                Ok(vec![
                    bulk.id,
                    bulk.status,
                    bulk.action,
                    expected,
                    done,
                    skipped,
                    failed,
                    bulk.by,
                    bulk.created_at,
                ])
            })
        }
        BulkCommand::Get { bulk } => {
            print(&client.send(Request::get(&["bulk", &bulk])).await?, out)
        }
        BulkCommand::Abort { bulk } => {
            print(&client.send(Request::post(&["bulk", &bulk, "abort"], &none)).await?, out)
        }
    }
}

/// The request's body; a signal goes in byte for byte.
fn written(body: &Body<'_>, signal: Option<&str>) -> Box<RawValue> {
    let mut text = serde_json::to_string(body).expect("texts and numbers serialise");
    if let Some(signal) = signal {
        text.pop();
        text.push_str(",\"signal\":");
        text.push_str(signal);
        text.push('}');
    }
    RawValue::from_string(text).expect("it is made of JSON")
}

async fn begin(
    action: &str,
    act: &Act,
    options: &Options,
    signal: Option<&str>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    let body = |dry_run| {
        let reason = act.reason.as_deref();
        let body = Body { filter: act.filter(), action, options, rate: act.rate, reason, dry_run };
        written(&body, signal)
    };
    let foresee = async || client.send(Request::post(&["bulk"], &body(true))).await;
    if act.dry_run {
        let answer = foresee().await?;
        return foreseen(action, &answer, out);
    }
    if !act.yes {
        let foreseen: DryRun = foresee().await?.read()?;
        let question = format!("{action}: {} runs. Go on?", foreseen.expected.in_words());
        input::confirm(false, &question)?;
    }
    print(&client.send(Request::post(&["bulk"], &body(false))).await?, out)
}

fn foreseen(action: &str, answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let dry: DryRun = answer.read()?;
    out.note(&format!("{action}: {} runs match", dry.expected.in_words()));
    print_list(&dry.sample, out, &["ID", "STATUS", "FUNCTION", "KEY"], |item| {
        let run: Sampled = document(item)?;
        Ok(vec![run.id, run.status, run.function, run.key.unwrap_or_else(|| "-".to_owned())])
    })
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    let bulk: Bulk = answer.read()?;
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&plain(&bulk.id)),
        Format::Table => {
            let ended = bulk.ended_at.map(|at| match &bulk.ended_by {
                Some(by) => format!("{at} by {by}"),
                None => at,
            });
            let mut fields = vec![
                ("bulk", bulk.id),
                ("action", bulk.action),
                ("status", bulk.status),
                ("asked for", format!("{} by {}", bulk.created_at, bulk.by)),
            ];
            fields.extend(ended.map(|ended| ("ended", ended)));
            fields.extend(bulk.reason.map(|reason| ("reason", reason)));
            fields.push(("rate", format!("{} runs a second", bulk.rate)));
            fields.push(("expected", format!("{} runs", bulk.expected.in_words())));
            fields.push(("come to", bulk.matched.to_string()));
            fields.push(("done", bulk.done.to_string()));
            fields.push(("skipped", bulk.skipped.to_string()));
            fields.push(("failed", bulk.failed.to_string()));
            for why in bulk.reasons {
                let Reason { outcome, code, detail, count, run } = why;
                fields.push(("", format!("{count} {outcome}: {code}: {detail} ({run})")));
            }
            out.fields(&fields)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_filter_and_a_signal_stays_as_it_is() {
        let act = Act {
            query: Some("?status=failed&status=timed_out&tag=a:b%20c&function=f".to_owned()),
            all: false,
            dry_run: false,
            yes: true,
            rate: Some(5),
            reason: None,
        };
        let options = Options::default();
        let body = Body {
            filter: act.filter(),
            action: "signal",
            options: &options,
            rate: act.rate,
            reason: None,
            dry_run: false,
        };
        let text = written(&body, Some(r#"{"name":"n","payload":{"n": 1.0}}"#));
        assert_eq!(
            text.get(),
            r#"{"filter":{"function":"f","status":["failed","timed_out"],"tag":"a:b c"},"action":"signal","rate":5,"signal":{"name":"n","payload":{"n": 1.0}}}"#
        );
    }
}
