//! `stepwell endpoint`: register the URLs that host functions, and look after them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::client::{Answer, Client, Request, document};
use super::deployment;
use super::failure::Failure;
use super::input;
use super::invocation;
use super::model;
use super::output::{Format, Output, plain};
use super::replay::Report;
use super::run::print_list;
use super::secret::Secret;
use super::wait::Limit;

/// How much longer than usual a registration may take that replays runs.
const REPLAYS: Duration = Duration::from_mins(30);

/// What can be done with endpoints. An endpoint is named by its name or id.
#[derive(Debug, Clone, Subcommand)]
pub enum EndpointCommand {
    /// Register the URL of a handler; says what the gateway found there.
    Register(Register),
    /// List the endpoints.
    List,
    /// Show an endpoint.
    Get {
        /// The endpoint.
        endpoint: String,
    },
    /// Change its name, its address or the headers that are sent to it.
    Set(Set),
    /// List its deployments, and the live runs that each has.
    Deployments {
        /// The endpoint.
        endpoint: String,
    },
    /// List the last invocations that went there, or show one with what went over the wire.
    Invocations {
        /// The endpoint.
        endpoint: String,
        /// The invocation.
        invocation: Option<String>,
    },
    /// Start no more runs there; those that are live go on.
    Drain {
        /// The endpoint.
        endpoint: String,
        /// Wait until none is live, or for so long.
        #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "forever")]
        wait: Option<Limit>,
    },
    /// Move the live runs that stay on a deployment to another.
    Repin {
        /// The endpoint.
        endpoint: String,
        /// The deployment that they leave.
        #[arg(long, value_name = "ID")]
        from: String,
        /// The deployment to go on with [default: the newest that has their function].
        #[arg(long, value_name = "ID")]
        to: Option<String>,
        /// Why, for the runs' history.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Retire the deployments that no live run needs.
    Prune {
        /// The endpoint.
        endpoint: String,
    },
    /// Remove an endpoint.
    Rm {
        /// The endpoint.
        endpoint: String,
        /// What becomes of its live runs.
        #[arg(long, value_enum)]
        runs: Option<Orphans>,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
    /// Ask the handler for its functions again.
    Sync {
        /// The endpoint.
        endpoint: String,
    },
    /// Make a new signing secret. The old one still signs for a while.
    RotateSecret {
        /// The endpoint.
        endpoint: String,
    },
    /// Call the handler and say what was seen, stage by stage.
    Test {
        /// The endpoint.
        endpoint: String,
    },
    /// Send it nothing: its runs are parked.
    Disable {
        /// The endpoint.
        endpoint: String,
    },
    /// Put it back into service: its runs go on, and new ones start.
    Enable {
        /// The endpoint.
        endpoint: String,
    },
}

/// `stepwell endpoint register`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Register {
    /// Where the handler answers.
    #[arg(required_unless_present = "pull")]
    address: Option<Url>,
    /// The handler cannot be called: it polls for its work. Needs --name and --function.
    #[arg(long, conflicts_with_all = ["address", "replay"], requires_all = ["name", "functions"])]
    pull: bool,
    /// Name of the endpoint [default: made of host and port].
    #[arg(long)]
    name: Option<String>,
    /// A header to send with every invocation; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = input::pair)]
    headers: Vec<(String, String)>,
    /// A function that the handler has; may be repeated. The handler is then not asked for them.
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// The signing secret (`whsec_…`) [default: a new one, shown once].
    #[arg(long, env = "STEPWELL_SIGNING_SECRET", hide_env_values = true)]
    secret: Option<Secret>,
    /// Do not ask the handler for its functions.
    #[arg(long)]
    no_discover: bool,
    /// Only try it and say what was found.
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: replay so many of the most recent runs of each function against it; exit
    /// code 1 if one diverges.
    #[arg(long, value_name = "N", requires = "dry_run")]
    replay: Option<u8>,
    /// Go on although a function that has live runs is dropped.
    #[arg(long)]
    force: bool,
}

/// `stepwell endpoint set`.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true, id = "change", args = ["name", "address", "headers", "without"])]
pub struct Set {
    /// The endpoint.
    endpoint: String,
    /// Its new name.
    #[arg(long)]
    name: Option<String>,
    /// Where the same handler is now; new code is registered instead.
    #[arg(long, value_name = "URL")]
    address: Option<Url>,
    /// A header to send with every invocation; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = input::pair)]
    headers: Vec<(String, String)>,
    /// A header to send no longer; may be repeated.
    #[arg(long = "without-header", value_name = "NAME")]
    without: Vec<String>,
}

/// What becomes of the live runs of an endpoint that is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Orphans {
    /// They are cancelled.
    Cancel,
    /// They wait.
    Park,
    /// They go on with another deployment that has the function.
    Repin,
}

#[derive(Serialize)]
struct Function {
    name: String,
}

#[derive(Serialize)]
struct Registration<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pull: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<Function>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discover: Option<bool>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<u8>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
}

/// An endpoint as the API lists it.
#[derive(Deserialize)]
struct Endpoint {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    url: Option<String>,
    #[serde(default, alias = "health", alias = "state")]
    status: Option<Box<RawValue>>,
    #[serde(default)]
    functions: Vec<Named>,
    #[serde(default)]
    draining: bool,
}

/// A function in a list: its name alone, or an object that has one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    Object { name: String },
}

pub(super) async fn execute(
    command: EndpointCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        EndpointCommand::Register(register) => self::register(register, client, out).await,
        EndpointCommand::List => {
            let page = client.list(&["endpoints"], &[], usize::MAX).await?;
            print_list(&page.data, out, &["NAME", "ID", "URL", "STATUS", "FUNCTIONS"], row)
        }
        EndpointCommand::Get { endpoint } => {
            let answer = client.send(Request::get(&["endpoints", &endpoint])).await?;
            print(&answer, out)
        }
        EndpointCommand::Set(set) => self::set(set, client, out).await,
        EndpointCommand::Deployments { endpoint } => deployment::list(&endpoint, client, out).await,
        EndpointCommand::Invocations { endpoint, invocation: None } => {
            invocation::list(&endpoint, client, out).await
        }
        EndpointCommand::Invocations { endpoint, invocation: Some(invocation) } => {
            invocation::show(&endpoint, &invocation, client, out).await
        }
        EndpointCommand::Drain { endpoint, wait } => {
            deployment::drain(&endpoint, wait, client, out).await
        }
        EndpointCommand::Repin { endpoint, from, to, reason } => {
            let places = (from.as_str(), to.as_deref());
            deployment::repin(&endpoint, places, reason.as_deref(), client, out).await
        }
        EndpointCommand::Prune { endpoint } => deployment::prune(&endpoint, client, out).await,
        EndpointCommand::Rm { endpoint, runs, yes } => {
            input::confirm(yes, &format!("Remove the endpoint {endpoint}?"))?;
            let path = ["endpoints", endpoint.as_str()];
            let word = runs.map(|runs| match runs {
                Orphans::Cancel => "cancel",
                Orphans::Park => "park",
                Orphans::Repin => "repin",
            });
            let query: Vec<_> = word.map(|word| ("runs", word.to_owned())).into_iter().collect();
            let request = Request::new(reqwest::Method::DELETE, &path).query(&query);
            client.send(request).await?;
            out.note(&format!("endpoint {endpoint} is removed"));
            Ok(())
        }
        EndpointCommand::Sync { endpoint } => post(&endpoint, "sync", client, out).await,
        EndpointCommand::Test { endpoint } => test(&endpoint, client, out).await,
        EndpointCommand::Disable { endpoint } => post(&endpoint, "disable", client, out).await,
        EndpointCommand::Enable { endpoint } => post(&endpoint, "enable", client, out).await,
        EndpointCommand::RotateSecret { endpoint } => {
            post(&endpoint, "rotate-secret", client, out).await?;
            out.note("Keep the secret now: it is not shown again.");
            Ok(())
        }
    }
}

async fn register(register: Register, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let url = register.address;
    let listed = !register.functions.is_empty();
    let body = Registration {
        name: register.name.or_else(|| url.as_ref().map(default_name)).unwrap_or_default(),
        url: url.as_ref().map(Url::as_str),
        pull: register.pull,
        secret: register.secret.as_ref().map(Secret::expose),
        headers: input::object(register.headers),
        functions: register.functions.into_iter().map(|name| Function { name }).collect(),
        discover: (register.no_discover || listed).then_some(false),
        dry_run: register.dry_run,
        replay: register.replay,
        force: register.force,
    };
    let request = Request::post(&["endpoints"], &body);
    let extra = register.replay.map_or(Duration::ZERO, |_| REPLAYS);
    let answer = client.send(Request { extra, ..request }).await?;
    print(&answer, out)?;
    if register.replay.is_some() { replayed(&answer, out) } else { Ok(()) }
}

async fn set(set: Set, client: &Client, out: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Patch<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<&'a str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, Option<String>>,
    }
    let given = set.headers.into_iter().map(|(name, value)| (name, Some(value)));
    let headers = given.chain(set.without.into_iter().map(|name| (name, None))).collect();
    let body =
        Patch { name: set.name.as_deref(), url: set.address.as_ref().map(Url::as_str), headers };
    let path = ["endpoints", set.endpoint.as_str()];
    let request = Request::post(&path, &body);
    let answer = client.send(Request { method: reqwest::Method::PATCH, ..request }).await?;
    print(&answer, out)
}

/// Prints what replays of recent runs came to; a failure if one diverged.
fn replayed(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Replayed {
        run: String,
        function: String,
        #[serde(flatten)]
        report: Report,
    }
    #[derive(Deserialize)]
    struct Replays {
        #[serde(default)]
        replays: Vec<Replayed>,
    }
    let Replays { replays } = answer.read()?;
    if out.format() == Format::Table {
        for replay in &replays {
            out.line("")?;
            out.line(&plain(&format!("{} ({})", replay.run, replay.function)))?;
            for line in replay.report.lines() {
                out.line(&plain(&format!("  {line}")))?;
            }
        }
    }
    replays.iter().try_for_each(|replay| replay.report.verdict())
}

/// Prints what a probe saw; a failure if a stage failed.
async fn test(endpoint: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Nothing {}
    #[derive(Deserialize)]
    struct Probe {
        ok: bool,
    }
    let path = ["endpoints", endpoint, "probe"];
    let answer = client.send(Request::post(&path, &Nothing {})).await?;
    let text = answer.text()?;
    if out.format().is_json() {
        out.json(text)?;
    } else {
        for line in model::probe_lines(text) {
            out.line(&plain(&line))?;
        }
    }
    let Probe { ok } = answer.read()?;
    if ok {
        Ok(())
    } else {
        Err(Failure::Unexpected("the handler did not answer as it should".to_owned()))
    }
}

async fn post(
    endpoint: &str,
    verb: &str,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Nothing {}
    let answer = client.send(Request::post(&["endpoints", endpoint, verb], &Nothing {})).await?;
    print(&answer, out)
}

/// `shop.example.com` and `localhost-3000`: a name that a person recognises.
fn default_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or("endpoint").trim_matches(['[', ']']).replace(':', "-");
    url.port().map_or_else(|| host.clone(), |port| format!("{host}-{port}"))
}

fn row(item: &str) -> Result<Vec<String>, Failure> {
    let endpoint: Endpoint = document(item)?;
    let functions: Vec<String> = endpoint
        .functions
        .into_iter()
        .map(|function| match function {
            Named::Name(name) | Named::Object { name } => name,
        })
        .collect();
    let mut status = endpoint.status.map_or_else(|| "-".to_owned(), |status| model::cell(&status));
    if endpoint.draining {
        status.push_str(", draining");
    }
    Ok(vec![
        endpoint.name,
        endpoint.id,
        endpoint.url.unwrap_or_else(|| "(pull)".to_owned()),
        status,
        functions.join(", "),
    ])
}

/// Prints what the API says of an endpoint: its fields, and below them what the probe found.
fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    let text = answer.text()?;
    if out.format().is_json() {
        return out.json(text);
    }
    let mut fields = model::fields(text);
    // A registration tells of the endpoint, its deployment and the probe together.
    if let Some(at) = fields.iter().position(|(name, value)| name == "endpoint" && value != "-") {
        let (_, endpoint) = fields.remove(at);
        fields.splice(..0, model::fields(&endpoint));
    }
    if out.format() == Format::Id {
        let id = fields.iter().find(|(name, _)| name == "id").map(|(_, id)| plain(id));
        return id.map_or(Ok(()), |id| out.line(&id));
    }
    let quiet = |name: &str, value: &str| {
        matches!(name, "probe" | "endpoint")
            || matches!(value, "-" | "[]")
            || value.starts_with('{')
    };
    let shown: Vec<_> = fields
        .iter()
        .filter(|(name, value)| !quiet(name, value))
        .map(|(name, value)| (name.as_str(), words(value)))
        .collect();
    out.fields(&shown)?;
    if let Some((_, probe)) = fields.iter().find(|(name, value)| name == "probe" && value != "-") {
        out.line("")?;
        for line in model::probe_lines(probe) {
            out.line(&plain(&line))?;
        }
    }
    Ok(())
}

/// A list of texts as people write one; anything else as it is.
fn words(value: &str) -> String {
    match serde_json::from_str::<Vec<String>>(value) {
        Ok(words) if value.starts_with('[') => words.join(", "),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_named_after_its_address() {
        for (url, name) in [
            ("http://localhost:3000/api/stepwell", "localhost-3000"),
            ("https://shop.example.com/x", "shop.example.com"),
            ("http://[::1]:3000/", "--1-3000"),
        ] {
            assert_eq!(default_name(&url.parse().unwrap()), name);
        }
    }
}
