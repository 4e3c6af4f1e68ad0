//! `stepwell key`: make, list and revoke API keys.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::input;
use super::model;
use super::output::{Format, Output};
use super::run::print_list;
use super::secret::Secret;

/// What can be done with API keys.
#[derive(Debug, Clone, Subcommand)]
pub enum KeyCommand {
    /// Make a key. It is shown this once.
    Create(KeyCreate),
    /// List the keys, without their secrets.
    List {
        /// Of this namespace.
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
    },
    /// Revoke a key, by its id or name.
    Revoke {
        /// The key.
        key: String,
        /// Of this namespace.
        #[arg(long, value_name = "NAME")]
        namespace: Option<String>,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
}

/// `stepwell key create`.
#[derive(Debug, Clone, Args)]
pub struct KeyCreate {
    /// What it is for; shown wherever somebody acts with it.
    #[arg(long)]
    pub name: String,
    /// What it may do; may be repeated.
    #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = SCOPES)]
    pub scopes: Vec<String>,
    /// The namespace that it opens [default: that of the key that makes it, or `default`].
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Write it straight into this database: for the first key, which no key can be asked for.
    #[arg(long, value_name = "URL")]
    pub database_url: Option<Secret>,
}

/// The scopes there are.
const SCOPES: [&str; 7] = [
    "runs:read",
    "runs:write",
    "signals:write",
    "endpoints:write",
    "schedules:write",
    "admin",
    "endpoints:poll",
];

/// A key as the API lists it.
#[derive(Deserialize)]
struct Key {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    last_used_at: Option<String>,
    #[serde(default)]
    revoked_at: Option<String>,
}

pub(super) async fn execute(
    command: KeyCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        KeyCommand::Create(create) => self::create(create, client, out).await,
        KeyCommand::List { namespace } => {
            let page = client.list(&["keys"], &of(namespace), usize::MAX).await?;
            let heads = ["ID", "NAME", "SCOPES", "CREATED", "LAST USED", "REVOKED"];
            print_list(&page.data, out, &heads, |item| {
                let key: Key = document(item)?;
                let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
                Ok(vec![
                    key.id,
                    key.name,
                    key.scopes.join(" "),
                    or_dash(key.created_at),
                    or_dash(key.last_used_at),
                    or_dash(key.revoked_at),
                ])
            })
        }
        KeyCommand::Revoke { key, namespace, yes } => {
            input::confirm(yes, &format!("Revoke the key {key}?"))?;
            let query = of(namespace);
            let id = resolve(client, &key, &query).await?;
            let path = ["keys", id.as_str()];
            let request = Request::new(reqwest::Method::DELETE, &path);
            client.send(Request { query: &query, ..request }).await?;
            out.note(&format!("key {id} is revoked"));
            Ok(())
        }
    }
}

async fn create(create: KeyCreate, client: &Client, out: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        name: &'a str,
        scopes: &'a [String],
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<&'a str>,
    }
    if create.database_url.is_some() {
        let text = "--database-url makes the key without a gateway; it was sent to one";
        return Err(Failure::Usage(text.to_owned()));
    }
    let namespace = create.namespace.as_deref();
    let body = Body { name: &create.name, scopes: &create.scopes, namespace };
    let answer = client.send(Request::post(&["keys"], &body)).await?;
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&answer.read::<Key>()?.id),
        Format::Table => {
            let fields = model::fields(answer.text()?);
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            out.fields(&fields)?;
            out.note("Keep the key now: it is not shown again.");
            Ok(())
        }
    }
}

/// The query that asks for a namespace.
fn of(namespace: Option<String>) -> Vec<(&'static str, String)> {
    namespace.map(|name| ("namespace", name)).into_iter().collect()
}

/// The id of a live key that is named by id or name.
async fn resolve(
    client: &Client,
    text: &str,
    query: &[(&'static str, String)],
) -> Result<String, Failure> {
    if text.parse::<crate::machine::KeyId>().is_ok() {
        return Ok(text.to_owned());
    }
    let mut found = Vec::new();
    for item in client.list(&["keys"], query, usize::MAX).await?.data {
        let key: Key = document(item.get())?;
        if key.name == text && key.revoked_at.is_none() {
            found.push(key.id);
        }
    }
    match found.len() {
        0 => Err(Failure::NotFound(format!("there is no key {text}"))),
        1 => Ok(found.remove(0)),
        _ => Err(Failure::Usage(format!("several keys are named {text}: {}", found.join(", ")))),
    }
}
