//! `stepwell apply`: makes endpoints and schedules what a file says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::{Format, Output, Tone};
use super::settled::{Difference, differences};

/// What a schedule is where the file says nothing: as `PUT /v1/schedules/{name}` has it.
const DEFAULTS: [(&str, &str); 16] = [
    ("input", "null"),
    ("cron", "null"),
    ("time_zone", "null"),
    ("every", "null"),
    ("jitter", "\"0s\""),
    ("overlap", "\"skip\""),
    ("max_running", "1"),
    ("catchup_window", "\"1d\""),
    ("start_at", "null"),
    ("end_at", "null"),
    ("limited_actions", "null"),
    ("pause_on_failure", "false"),
    ("key", "null"),
    ("tags", "{}"),
    ("timeouts", "null"),
    ("retry", "null"),
];
/// What else a schedule in a file may say: it is not compared where it is not said.
const MORE: [&str; 2] = ["anchor", "version"];

/// `stepwell apply`.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// YAML or JSON; `-` for standard input.
    #[arg(short, long, value_name = "FILE", default_value = "stepwell.yaml")]
    file: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    diff: bool,
    /// Remove what the file does not have, of each kind that it has a list of.
    #[arg(long)]
    prune: bool,
    /// Do not ask whether you are sure to remove something.
    #[arg(short, long)]
    yes: bool,
}

/// What a file may have. Items are as the API takes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    endpoints: Option<Vec<Map<String, Value>>>,
    schedules: Option<Vec<Map<String, Value>>>,
}

/// What is made of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Created,
    Changed,
    Unchanged,
    Removed,
}

#[derive(Debug, Serialize)]
struct Done {
    kind: &'static str,
    name: String,
    change: Change,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<Difference>,
}

pub(super) async fn execute(args: Apply, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let wanted = read(&args.file)?;
    let mut all = Vec::new();
    // Functions have to be there before schedules of them.
    for endpoint in wanted.endpoints.iter().flatten() {
        let done = apply_endpoint(endpoint, args.diff, client).await?;
        say(&done, out)?;
        all.push(done);
    }
    for schedule in wanted.schedules.iter().flatten() {
        let done = apply_schedule(schedule, args.diff, client).await?;
        say(&done, out)?;
        all.push(done);
    }
    if args.prune {
        prune(&args, &wanted, &mut all, client, out).await?;
    }
    if out.format().is_json() {
        out.json(&serde_json::to_string(&all).expect("texts serialise"))?;
    }
    let count = |change| all.iter().filter(|done| done.change == change).count();
    let would = if args.diff { "would be " } else { "" };
    out.note(&format!(
        "{would}{} created, {} changed, {} removed; {} as they are",
        count(Change::Created),
        count(Change::Changed),
        count(Change::Removed),
        count(Change::Unchanged),
    ));
    Ok(())
}

fn read(file: &std::path::Path) -> Result<Wanted, Failure> {
    let shown = file.display();
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?
    };
    parse(&text).map_err(|why| Failure::Usage(format!("{shown}: {why}")))
}

/// Reads a file's text. The error says what is wrong.
fn parse(text: &str) -> Result<Wanted, String> {
    let mut value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    from_environment(&mut value)?;
    let wanted: Wanted = serde_json::from_value(value)
        .map_err(|e| format!("{e}; a file has `endpoints` and `schedules`, lists of objects"))?;
    for (kind, items) in [("endpoints", &wanted.endpoints), ("schedules", &wanted.schedules)] {
        let mut names = BTreeSet::new();
        for (index, item) in items.iter().flatten().enumerate() {
            let name = name_of(item).ok_or_else(|| format!("{kind}[{index}] has no `name`"))?;
            if !names.insert(name) {
                return Err(format!("two of the {kind} have the name {name:?}"));
            }
        }
    }
    let allowed = |field: &&String| {
        matches!(field.as_str(), "name" | "function")
            || MORE.contains(&field.as_str())
            || DEFAULTS.iter().any(|(known, _)| known == *field)
    };
    for item in wanted.schedules.iter().flatten() {
        if let Some(field) = item.keys().find(|field| !allowed(field)) {
            let name = name_of(item).unwrap_or_default();
            return Err(format!(
                "the schedule {name:?} has the field `{field}`, which schedules in a file have not"
            ));
        }
    }
    Ok(wanted)
}

fn name_of(item: &Map<String, Value>) -> Option<&str> {
    item.get("name")?.as_str().filter(|name| !name.is_empty())
}

/// Puts the values of environment variables where a text is `${NAME}` and nothing else.
#[expect(clippy::disallowed_methods, reason = "the file says which variable; clap cannot know it")]
fn from_environment(value: &mut Value) -> Result<(), String> {
    match value {
        Value::String(text) => {
            let name = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            if let Some(name) = name {
                let found = std::env::var(name);
                *text = found.map_err(|_| format!("there is no environment variable {name}"))?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(from_environment),
        Value::Object(fields) => fields.values_mut().try_for_each(from_environment),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// What is there under a name, if something is.
async fn found(client: &Client, kind: &str, name: &str) -> Result<Option<Value>, Failure> {
    match client.send(Request::get(&[kind, name])).await {
        Ok(answer) => answer.read().map(Some),
        Err(Failure::Problem(problem)) if problem.status == 404 => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn apply_endpoint(
    wanted: &Map<String, Value>,
    diff: bool,
    client: &Client,
) -> Result<Done, Failure> {
    #[derive(Deserialize)]
    struct Registered {
        change: Option<Change>,
    }
    let name = name_of(wanted).unwrap_or_default().to_owned();
    let mut asked = wanted.clone();
    // A registration is about the handler; this is about the endpoint.
    let concurrency = asked.remove("concurrency");
    let before = found(client, "endpoints", &name).await?;
    asked.insert("dry_run".to_owned(), json!(diff));
    let answer = client.send(Request::post(&["endpoints"], &asked)).await?;
    let Registered { change } = answer.read()?;
    let mut done =
        Done { kind: "endpoint", name, change: change.unwrap_or(Change::Changed), fields: vec![] };
    let empty = Value::Null;
    let has = before.as_ref().unwrap_or(&empty);
    if done.change == Change::Changed {
        let url = asked.get("url").map(|url| ("url", url.clone()));
        done.fields = differences(url, has);
        done.fields.extend(functions(&asked, has));
    }
    if let Some(wanted) = concurrency {
        let other = differences([("concurrency", wanted.clone())], has);
        if !other.is_empty() && !diff {
            let path = ["endpoints", done.name.as_str()];
            let patch = Request::post(&path, &json!({"concurrency": wanted}));
            client.send(Request { method: Method::PATCH, ..patch }).await?;
        }
        if !other.is_empty() && done.change == Change::Unchanged {
            done.change = Change::Changed;
        }
        done.fields.extend(other);
    }
    if done.change == Change::Created {
        done.fields.clear();
    }
    Ok(done)
}

/// Which functions come and go, where the file lists them.
fn functions(wanted: &Map<String, Value>, has: &Value) -> Option<Difference> {
    let names = |of: &Value| -> BTreeSet<String> {
        let all = of.as_array().into_iter().flatten();
        let name =
            |one: &Value| one.as_str().or_else(|| one.get("name")?.as_str()).map(str::to_owned);
        all.filter_map(name).collect()
    };
    let (wanted, has) = (names(wanted.get("functions")?), names(has.get("functions")?));
    (wanted != has).then(|| Difference::new("functions", json!(has), json!(wanted)))
}

async fn apply_schedule(
    wanted: &Map<String, Value>,
    diff: bool,
    client: &Client,
) -> Result<Done, Failure> {
    let name = name_of(wanted).unwrap_or_default().to_owned();
    let mut whole = wanted.clone();
    whole.remove("name");
    let before = found(client, "schedules", &name).await?;
    let (change, fields) = match &before {
        None => (Change::Created, Vec::new()),
        Some(has) => {
            let fields = differences(settings(&whole), has);
            let change = if fields.is_empty() { Change::Unchanged } else { Change::Changed };
            (change, fields)
        }
    };
    if !diff && change != Change::Unchanged {
        let path = ["schedules", name.as_str()];
        let put = Request::post(&path, &whole);
        client.send(Request { method: Method::PUT, ..put }).await?;
    }
    Ok(Done { kind: "schedule", name, change, fields })
}

/// Every setting of a schedule, those that have their defaults too.
fn settings(wanted: &Map<String, Value>) -> BTreeMap<&str, Value> {
    let default = |(field, json): (&'static str, &str)| {
        (field, serde_json::from_str(json).expect("defaults are JSON"))
    };
    let mut all: BTreeMap<&str, Value> = DEFAULTS.into_iter().map(default).collect();
    all.extend(wanted.iter().map(|(field, value)| (field.as_str(), value.clone())));
    if let Some(cron) = wanted.get("cron").and_then(Value::as_str) {
        // The gateway keeps the zone by itself, and says UTC where there is none.
        let zone = cron.trim_start().strip_prefix("TZ=").and_then(|rest| rest.split_once(' '));
        if let Some((zone, cron)) = zone {
            all.insert("time_zone", json!(zone));
            all.insert("cron", json!(cron.trim_start()));
        } else if all.get("time_zone") == Some(&Value::Null) {
            all.insert("time_zone", json!("UTC"));
        }
    }
    all
}

/// Removes what the file does not have.
async fn prune(
    args: &Apply,
    wanted: &Wanted,
    all: &mut Vec<Done>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Item {
        name: String,
        /// It belongs to the registration of a function.
        #[serde(default)]
        owned: bool,
    }
    let mut gone = Vec::new();
    // Schedules first: they start runs at endpoints.
    for (kind, path, items) in
        [("schedule", "schedules", &wanted.schedules), ("endpoint", "endpoints", &wanted.endpoints)]
    {
        let Some(items) = items else { continue };
        let kept: BTreeSet<&str> = items.iter().filter_map(name_of).collect();
        for item in client.list(&[path], &[], usize::MAX).await?.data {
            let Item { name, owned } = document(item.get())?;
            if !owned && !kept.contains(name.as_str()) {
                gone.push((path, Done { kind, name, change: Change::Removed, fields: vec![] }));
            }
        }
    }
    if !args.diff && !gone.is_empty() {
        let names: Vec<String> =
            gone.iter().map(|(_, done)| format!("{} {}", done.kind, done.name)).collect();
        input::confirm(args.yes, &format!("Remove {}?", names.join(", ")))?;
    }
    for (path, done) in gone {
        if !args.diff {
            client.send(Request::new(Method::DELETE, &[path, done.name.as_str()])).await?;
        }
        say(&done, out)?;
        all.push(done);
    }
    Ok(())
}

fn say(done: &Done, out: &mut Output) -> Result<(), Failure> {
    match out.format() {
        Format::Json | Format::Jsonl => return Ok(()),
        Format::Id => return out.line(&done.name),
        Format::Table => {}
    }
    let (sign, tone) = match done.change {
        Change::Created => ("+", Tone::Good),
        Change::Changed => ("~", Tone::Warn),
        Change::Unchanged => ("=", Tone::Faint),
        Change::Removed => ("-", Tone::Bad),
    };
    let line = format!("{sign} {:<9} {}", done.kind, super::output::plain(&done.name));
    let line = out.paint(tone, &line);
    out.line(&line)?;
    for field in &done.fields {
        out.line(&format!("    {field}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_and_what_is_wrong_with_it_is_named() {
        let wanted = parse(
            "endpoints:\n- name: shop\n  url: http://127.0.0.1:3000/\nschedules:\n- name: a\n  \
             function: f\n  every: 15m\n  input: {n: 3544790567247868102}\n",
        );
        let wanted = wanted.expect("fine");
        let schedule = &wanted.schedules.expect("a list")[0];
        assert_eq!(schedule["input"]["n"], 3_544_790_567_247_868_102_u64);
        for (text, said) in [
            ("endpoint: []", "endpoint"),
            ("schedules: [{function: f}]", "schedules[0] has no `name`"),
            ("schedules: [{name: a}, {name: a}]", "two of the schedules"),
            ("schedules: [{name: a, function: f, overlaps: skip}]", "`overlaps`"),
            ("endpoints: [{name: a, secret: '${STEPWELL_NO_SUCH_VARIABLE}'}]", "NO_SUCH_VARIABLE"),
            ("endpoints: [", "line"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_a_zone_may_stand_in_the_expression() {
        let wanted = json!({"function": "f", "cron": "TZ=Europe/Paris 0 9 * * *"});
        let all = settings(wanted.as_object().expect("an object"));
        assert_eq!(
            (&all["time_zone"], &all["cron"]),
            (&json!("Europe/Paris"), &json!("0 9 * * *"))
        );
        assert_eq!(all["overlap"], "skip");
        let wanted = json!({"function": "f", "cron": "0 9 * * *"});
        assert_eq!(settings(wanted.as_object().expect("an object"))["time_zone"], "UTC");
    }
}
