//! `stepwell schedule`: what starts runs by itself.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::{Format, Output};
use super::run::print_list;

/// What can be done with schedules. A schedule is named by its name or id.
#[derive(Debug, Clone, Subcommand)]
pub enum ScheduleCommand {
    /// Create a schedule; it needs --cron or --every.
    Create {
        /// Its name.
        name: String,
        /// The function whose runs it starts.
        function: String,
        /// What it is to be.
        #[command(flatten)]
        rule: Rule,
        /// Begin paused.
        #[arg(long)]
        paused: bool,
        /// Why it is paused.
        #[arg(long, requires = "paused")]
        note: Option<String>,
    },
    /// Change what is given, and leave the rest.
    Update {
        /// The schedule.
        schedule: String,
        /// Another name.
        #[arg(long)]
        name: Option<String>,
        /// Another function.
        #[arg(long)]
        function: Option<String>,
        /// What it is to be.
        #[command(flatten)]
        rule: Rule,
    },
    /// List the schedules.
    List {
        /// Only those of this function; may be given more than once.
        #[arg(long)]
        function: Vec<String>,
        /// Only those with this in their name or function.
        #[arg(short, long)]
        query: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show a schedule, its coming moments and what became of the last ones.
    Get {
        /// The schedule.
        schedule: String,
    },
    /// Start nothing by itself any more; moments go by.
    Pause {
        /// The schedule.
        schedule: String,
        /// Why.
        #[arg(long)]
        note: Option<String>,
    },
    /// Go on; moments that have gone by meanwhile stay without a run.
    Resume {
        /// The schedule.
        schedule: String,
    },
    /// Start a run now, also while it is paused.
    Trigger {
        /// The schedule.
        schedule: String,
        /// In place of its own policy.
        #[arg(long, value_enum)]
        overlap: Option<Overlap>,
    },
    /// Fire moments of the past that have had no run.
    Backfill {
        /// The schedule.
        schedule: String,
        /// The first moment that may be fired, RFC 3339.
        #[arg(long, value_name = "TIME")]
        start: String,
        /// The last moment that may be fired, RFC 3339.
        #[arg(long, value_name = "TIME")]
        end: String,
        /// All at once, and not one after another.
        #[arg(long)]
        at_once: bool,
        /// Also moments that have had a run.
        #[arg(long)]
        again: bool,
    },
    /// List the moments that are to come.
    Next {
        /// The schedule.
        schedule: String,
        /// How many.
        #[arg(long, default_value_t = 10)]
        limit: usize,
    },
    /// Remove a schedule; its live runs go on.
    #[command(alias = "delete")]
    Rm {
        /// The schedule.
        schedule: String,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
}

/// What happens while as many runs are live as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// Nothing.
    Skip,
    /// One start waits.
    BufferOne,
    /// Every start waits its turn.
    BufferAll,
    /// The oldest run is cancelled.
    CancelOther,
    /// The oldest run is terminated.
    TerminateOther,
    /// The run starts beside the others.
    AllowAll,
}

/// The rule of a schedule and its policies.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Rule {
    /// Minute, hour, day of month, month, day of week; may begin with `TZ=Europe/Paris `.
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    /// Whose clocks --cron is about [default: UTC].
    #[arg(long, value_name = "ZONE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    /// So long after one another, from now on.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    /// The input of its runs: JSON text, `@file`, or `-` for standard input.
    #[arg(short, long, value_name = "JSON")]
    #[serde(skip)]
    input: Option<String>,
    /// Up to how much later than its moment a firing is.
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    jitter: Option<String>,
    /// What happens while --max-running runs are live [default: skip].
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap: Option<Overlap>,
    /// How many runs may be live at once [default: 1].
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_running: Option<u32>,
    /// A firing that is later than this is missed [default: 1d].
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    catchup_window: Option<String>,
    /// No moment is before this, RFC 3339.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    start_at: Option<String>,
    /// No moment is after this, RFC 3339.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    end_at: Option<String>,
    /// How many runs it starts by itself in all.
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_actions: Option<u32>,
    /// Pause it when one of its runs fails or times out.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_on_failure: Option<bool>,
    /// The key of its runs, for functions of kind `object`.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// A tag of its runs; may be repeated.
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = input::pair)]
    #[serde(skip)]
    tags: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<&'a str>,
    #[serde(flatten)]
    rule: &'a Rule,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

impl Body<'_> {
    /// JSON, with the input byte for byte: what is flattened passes through a tree of values.
    fn with_input(&self) -> Result<Box<RawValue>, Failure> {
        let rest = serde_json::to_string(self).expect("texts and numbers serialise");
        let Some(input) = &self.rule.input else { return Ok(raw(rest)) };
        let input = input::payload(input)?;
        let members = &rest[1..rest.len() - 1];
        let comma = if members.is_empty() { "" } else { "," };
        Ok(raw(format!("{{\"input\":{}{comma}{members}}}", input.get())))
    }
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("it is made of JSON")
}

#[derive(Deserialize)]
struct Schedule {
    id: String,
    name: String,
    function: String,
    state: String,
    cron: Option<String>,
    time_zone: Option<String>,
    every: Option<String>,
    overlap: String,
    max_running: u32,
    jitter: String,
    catchup_window: String,
    remaining_actions: Option<u32>,
    paused: Option<Paused>,
    #[serde(default)]
    next: Vec<Moment>,
    #[serde(default)]
    recent: Vec<Recent>,
    waiting: usize,
    counts: Counts,
}

#[derive(Deserialize)]
struct Paused {
    at: String,
    by: String,
    note: Option<String>,
}

#[derive(Deserialize)]
struct Moment {
    time: String,
    fires_at: String,
}

#[derive(Deserialize)]
struct Coming {
    data: Vec<Moment>,
}

#[derive(Deserialize)]
struct Recent {
    time: String,
    #[serde(flatten)]
    came: Came,
}

#[derive(Deserialize)]
struct Came {
    outcome: String,
    reason: Option<String>,
    run: Option<String>,
    run_status: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    started: u64,
    missed: u64,
    skipped: BTreeMap<String, u64>,
}

impl Came {
    fn in_words(&self) -> String {
        let more = [&self.reason, &self.run, &self.run_status];
        let more = more.into_iter().flatten().map(String::as_str);
        std::iter::once(self.outcome.as_str()).chain(more).collect::<Vec<_>>().join(" ")
    }
}

impl Schedule {
    fn rule(&self) -> String {
        match (&self.cron, &self.every) {
            (Some(cron), _) => format!("{cron} {}", self.time_zone.as_deref().unwrap_or("UTC")),
            (None, every) => format!("every {}", every.as_deref().unwrap_or_default()),
        }
    }
}

pub(super) async fn execute(
    command: ScheduleCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        ScheduleCommand::Create { name, function, rule, paused, note } => {
            let body = Body {
                name: Some(&name),
                function: Some(&function),
                tags: input::object(rule.tags.clone()),
                rule: &rule,
                paused: paused.then_some(true),
                note: note.as_deref(),
            };
            let body = body.with_input()?;
            print(&client.send(Request::post(&["schedules"], &body)).await?, out)
        }
        ScheduleCommand::Update { schedule, name, function, rule } => {
            let body = Body {
                name: name.as_deref(),
                function: function.as_deref(),
                tags: input::object(rule.tags.clone()),
                rule: &rule,
                paused: None,
                note: None,
            };
            let body = body.with_input()?;
            let path = ["schedules", schedule.as_str()];
            let mut request = Request::post(&path, &body);
            request.method = reqwest::Method::PATCH;
            print(&client.send(request).await?, out)
        }
        ScheduleCommand::List { function, query, limit } => {
            let functions = function.into_iter().map(|f| ("function", f));
            let query: Vec<_> = functions.chain(query.map(|q| ("q", q))).collect();
            let page = client.list(&["schedules"], &query, limit).await?;
            let heads = ["ID", "NAME", "FUNCTION", "STATE", "RULE", "NEXT", "LAST"];
            print_list(&page.data, out, &heads, row)
        }
        ScheduleCommand::Get { schedule } => {
            print(&client.send(Request::get(&["schedules", &schedule])).await?, out)
        }
        ScheduleCommand::Pause { schedule, note } => {
            let body = note.map(|note| BTreeMap::from([("note", note)])).unwrap_or_default();
            act(&schedule, "pause", &body, client, out).await
        }
        ScheduleCommand::Resume { schedule } => {
            act(&schedule, "resume", &BTreeMap::<&str, &str>::new(), client, out).await
        }
        ScheduleCommand::Trigger { schedule, overlap } => {
            let body = overlap.map(|o| BTreeMap::from([("overlap", o)])).unwrap_or_default();
            let path = ["schedules", schedule.as_str(), "trigger"];
            let answer = client.send(Request::post(&path, &body)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let came: Came = answer.read()?;
            if out.format() == Format::Id {
                return came.run.map_or(Ok(()), |run| out.line(&run));
            }
            out.line(&came.in_words())
        }
        ScheduleCommand::Backfill { schedule, start, end, at_once, again } => {
            #[derive(Serialize)]
            struct Range {
                start: String,
                end: String,
                overlap: &'static str,
                again: bool,
            }
            let overlap = if at_once { "allow_all" } else { "buffer_all" };
            act(&schedule, "backfill", &Range { start, end, overlap, again }, client, out).await
        }
        ScheduleCommand::Next { schedule, limit } => {
            let query = [("limit", limit.to_string())];
            let path = ["schedules", schedule.as_str(), "next"];
            let answer = client.send(Request::get(&path).query(&query)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let coming: Coming = answer.read()?;
            let rows: Vec<_> = coming.data.into_iter().map(|m| vec![m.time, m.fires_at]).collect();
            out.table(&["TIME", "FIRES AT"], &rows)
        }
        ScheduleCommand::Rm { schedule, yes } => {
            input::confirm(yes, &format!("Remove the schedule {schedule}?"))?;
            let path = ["schedules", schedule.as_str()];
            client.send(Request::new(reqwest::Method::DELETE, &path)).await?;
            out.note(&format!("schedule {schedule} is removed"));
            Ok(())
        }
    }
}

async fn act(
    schedule: &str,
    what: &str,
    body: &impl Serialize,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    print(&client.send(Request::post(&["schedules", schedule, what], body)).await?, out)
}

fn row(item: &str) -> Result<Vec<String>, Failure> {
    let s: Schedule = document(item)?;
    let next = s.next.first().filter(|_| s.state == "active").map(|m| m.fires_at.clone());
    let last = s.recent.first().map(|r| r.came.in_words());
    let rule = s.rule();
    Ok(vec![
        s.id,
        s.name,
        s.function,
        s.state,
        rule,
        next.unwrap_or_default(),
        last.unwrap_or_default(),
    ])
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let s: Schedule = answer.read()?;
    if out.format() == Format::Id {
        return out.line(&s.id);
    }
    let state = match &s.paused {
        None => s.state.clone(),
        Some(paused) => {
            let note = paused.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
            format!("paused since {} by {}{note}", paused.at, paused.by)
        }
    };
    let skipped = s.counts.skipped.iter().map(|(why, n)| format!(", {n} {why}"));
    let counts = format!(
        "{} started, {} missed{}; {} waiting",
        s.counts.started,
        s.counts.missed,
        skipped.collect::<String>(),
        s.waiting
    );
    let mut fields = vec![
        ("id", s.id.clone()),
        ("name", s.name.clone()),
        ("function", s.function.clone()),
        ("state", state),
        ("rule", s.rule()),
        ("jitter", s.jitter.clone()),
        ("overlap", format!("{}, {} at once", s.overlap, s.max_running)),
        ("catches up", s.catchup_window.clone()),
        ("so far", counts),
    ];
    if let Some(left) = s.remaining_actions {
        fields.push(("left", left.to_string()));
    }
    out.fields(&fields)?;
    for moment in &s.next {
        out.line(&format!("next  {}", moment.fires_at))?;
    }
    for recent in &s.recent {
        out.line(&format!("was   {}  {}", recent.time, recent.came.in_words()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, ClientCommand, Command};
    use super::*;

    #[test]
    fn an_input_is_sent_as_it_is_beside_what_is_flat_and_what_is_not() {
        let body = |arguments: &[&str]| {
            let all = ["stepwell", "schedule", "create", "s", "f"].iter().chain(arguments);
            let cli = Cli::read(all).expect("arguments");
            let Command::Client(ClientCommand::Schedule(ScheduleCommand::Create { rule, .. })) =
                cli.command
            else {
                panic!("another command");
            };
            let tags = input::object(rule.tags.clone());
            let body = Body {
                name: Some("s"),
                function: None,
                rule: &rule,
                tags,
                paused: None,
                note: None,
            };
            body.with_input().expect("a body").get().to_owned()
        };
        let input = "{\"n\": 3544790567247868102,  \"f\": 1.0}";
        let all = ["--every", "5m", "--tag", "a=b", "--overlap", "buffer-one", "--input", input];
        assert_eq!(
            body(&all),
            format!(
                "{{\"input\":{input},\"name\":\"s\",\"every\":\"5m\",\"overlap\":\"buffer_one\",\
                 \"tags\":{{\"a\":\"b\"}}}}"
            )
        );
        assert_eq!(body(&["--cron", "@daily"]), "{\"name\":\"s\",\"cron\":\"@daily\"}");
    }
}
