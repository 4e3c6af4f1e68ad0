//! `stepwell webhook`: who is told of what, and what became of it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::input;
use super::model;
use super::output::{Format, Output};
use super::run::print_list;
use super::secret::Secret;

/// What can be done with webhooks.
#[derive(Debug, Clone, Subcommand)]
pub enum WebhookCommand {
    /// List the webhooks.
    List,
    /// Create a webhook. Its signing secret is shown this once.
    Create(Create),
    /// Show a webhook.
    Get {
        /// Its id or name.
        webhook: String,
    },
    /// Turn a webhook on.
    Enable {
        /// Its id or name.
        webhook: String,
    },
    /// Turn a webhook off: nothing is recorded for it, and what is on its way waits.
    Disable {
        /// Its id or name.
        webhook: String,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete a webhook, with what is on its way to it.
    #[command(alias = "delete")]
    Rm {
        /// Its id or name.
        webhook: String,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
    /// A new signing secret; the old one signs too for a day.
    Rotate {
        /// Its id or name.
        webhook: String,
    },
    /// Send a webhook something that means nothing, and say what came of it.
    Test {
        /// Its id or name.
        webhook: String,
    },
    /// List what a webhook was told, or is to be told, the newest first.
    Deliveries {
        /// Its id or name, or `on-complete`: what starts of runs have asked for.
        webhook: String,
        /// `pending`, `delivered` or `dead`.
        #[arg(long)]
        status: Option<String>,
        /// Of this event alone.
        #[arg(long)]
        event: Option<String>,
        /// About this run alone.
        #[arg(long)]
        run: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Begin deliveries anew: one, or all that were given up.
    Redeliver {
        /// Its id or name, or `on-complete`.
        webhook: String,
        /// The delivery (`msg_…`); left out: all that are dead.
        delivery: Option<String>,
    },
}

/// `stepwell webhook create`.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Create {
    /// Its name.
    name: String,
    /// Where it is told.
    #[arg(id = "receiver", value_name = "URL")]
    #[serde(rename = "url")]
    receiver: String,
    /// Of this event, such as `run.failed`; may be repeated [default: all].
    #[arg(long = "event", value_name = "EVENT")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<String>,
    /// Of the runs of this function; may be repeated [default: all].
    #[arg(long = "function", value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<String>,
    /// Outputs and errors go with it.
    #[arg(long)]
    payloads: bool,
    /// A header to send with every delivery; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = input::pair)]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_object")]
    headers: Vec<(String, String)>,
    /// The signing secret (`whsec_…`) [default: a new one, shown once].
    #[arg(long, env = "STEPWELL_WEBHOOK_SECRET", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "exposed")]
    secret: Option<Secret>,
}

fn as_object<S: serde::Serializer>(pairs: &[(String, String)], s: S) -> Result<S::Ok, S::Error> {
    pairs.iter().cloned().collect::<BTreeMap<_, _>>().serialize(s)
}

#[expect(clippy::ref_option, reason = "serde asks for it so")]
fn exposed<S: serde::Serializer>(secret: &Option<Secret>, s: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(s)
}

/// A webhook as the API shows it.
#[derive(Deserialize)]
struct Webhook {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    url: String,
    events: Option<Vec<String>>,
    functions: Option<Vec<String>>,
    #[serde(default)]
    enabled: bool,
}

/// A delivery as the API shows it.
#[derive(Deserialize)]
struct Delivery {
    id: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    at: String,
    run: Option<String>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    attempts: u32,
    last_attempt: Option<LastAttempt>,
    next_attempt_at: Option<String>,
}

#[derive(Deserialize)]
struct LastAttempt {
    #[serde(default)]
    detail: String,
}

const WEBHOOKS: [&str; 6] = ["ID", "NAME", "URL", "EVENTS", "FUNCTIONS", "ENABLED"];
const DELIVERIES: [&str; 8] =
    ["ID", "EVENT", "RUN", "AT", "STATUS", "ATTEMPTS", "LAST ATTEMPT", "NEXT"];
/// How long a test is watched.
const WATCHED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);

fn all_or(names: Option<Vec<String>>) -> String {
    names.map_or_else(|| "all".to_owned(), |names| names.join(" "))
}

fn webhook_row(w: Webhook) -> Vec<String> {
    let enabled = if w.enabled { "yes" } else { "no" };
    vec![w.id, w.name, w.url, all_or(w.events), all_or(w.functions), enabled.to_owned()]
}

fn delivery_row(d: Delivery) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        d.id,
        d.event,
        or_dash(d.run),
        d.at,
        d.status,
        d.attempts.to_string(),
        or_dash(d.last_attempt.map(|a| a.detail)),
        or_dash(d.next_attempt_at),
    ]
}

fn print_fields(answer: &Answer, note: Option<&str>, out: &mut Output) -> Result<(), Failure> {
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&answer.read::<Webhook>()?.id),
        Format::Table => {
            let fields = model::fields(answer.text()?);
            let fields: Vec<_> =
                fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            out.fields(&fields)?;
            if let Some(note) = note {
                out.note(note);
            }
            Ok(())
        }
    }
}

fn print_delivery(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    match out.format() {
        Format::Json | Format::Jsonl => out.json(answer.text()?),
        Format::Id => out.line(&answer.read::<Delivery>()?.id),
        Format::Table => out.table(&DELIVERIES, &[delivery_row(answer.read()?)]),
    }
}

pub(super) async fn execute(
    command: WebhookCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        WebhookCommand::List => {
            let page = client.list(&["webhooks"], &[], usize::MAX).await?;
            print_list(&page.data, out, &WEBHOOKS, |item| Ok(webhook_row(document(item)?)))
        }
        WebhookCommand::Create(create) => {
            let answer = client.send(Request::post(&["webhooks"], &create)).await?;
            let note = "Keep the secret now: it is not shown again.";
            print_fields(&answer, (answer.status == 201).then_some(note), out)
        }
        WebhookCommand::Get { webhook } => {
            print_fields(&client.send(Request::get(&["webhooks", &webhook])).await?, None, out)
        }
        WebhookCommand::Enable { webhook } => switch(&webhook, true, None, client, out).await,
        WebhookCommand::Disable { webhook, reason } => {
            switch(&webhook, false, reason.as_deref(), client, out).await
        }
        WebhookCommand::Rm { webhook, yes } => {
            input::confirm(yes, &format!("Delete the webhook {webhook}?"))?;
            client.send(Request::new(Method::DELETE, &["webhooks", &webhook])).await?;
            out.note(&format!("webhook {webhook} is deleted"));
            Ok(())
        }
        WebhookCommand::Rotate { webhook } => {
            #[derive(Deserialize)]
            struct Rotated {
                secret: String,
                old_until: String,
            }
            let path = ["webhooks", webhook.as_str(), "rotate-secret"];
            let answer = client.send(Request::new(Method::POST, &path)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let rotated: Rotated = answer.read()?;
            out.line(&rotated.secret)?;
            out.note(&format!("the old secret signs too until {}", rotated.old_until));
            Ok(())
        }
        WebhookCommand::Test { webhook } => test(&webhook, client, out).await,
        WebhookCommand::Deliveries { webhook, status, event, run, limit } => {
            let given = [("status", status), ("event", event), ("run", run)];
            let query: Vec<(&str, String)> =
                given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let page = client.list(&["webhooks", &webhook, "deliveries"], &query, limit).await?;
            print_list(&page.data, out, &DELIVERIES, |item| Ok(delivery_row(document(item)?)))
        }
        WebhookCommand::Redeliver { webhook, delivery: Some(delivery) } => {
            let path = ["webhooks", webhook.as_str(), "deliveries", &delivery, "redeliver"];
            print_delivery(&client.send(Request::new(Method::POST, &path)).await?, out)
        }
        WebhookCommand::Redeliver { webhook, delivery: None } => {
            #[derive(Deserialize)]
            struct Redelivered {
                redelivered: u64,
                more: bool,
            }
            let path = ["webhooks", webhook.as_str(), "redeliver"];
            let answer = client.send(Request::new(Method::POST, &path)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let done: Redelivered = answer.read()?;
            let more = if done.more { "; there may be more" } else { "" };
            out.note(&format!("{} deliveries are begun anew{more}", done.redelivered));
            Ok(())
        }
    }
}

async fn switch(
    webhook: &str,
    enabled: bool,
    reason: Option<&str>,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Body<'a> {
        enabled: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    }
    let path = ["webhooks", webhook];
    let body = Request::post(&path, &Body { enabled, reason }).body;
    let answer = client.send(Request { body, ..Request::new(Method::PATCH, &path) }).await?;
    print_fields(&answer, None, out)
}

async fn test(webhook: &str, client: &Client, out: &mut Output) -> Result<(), Failure> {
    let begun = Instant::now();
    let path = ["webhooks", webhook, "test"];
    let mut answer = client.send(Request::new(Method::POST, &path)).await?;
    let id = answer.read::<Delivery>()?.id;
    let path = ["webhooks", webhook, "deliveries", id.as_str()];
    let delivery = loop {
        let delivery: Delivery = answer.read()?;
        if delivery.last_attempt.is_some() || begun.elapsed() > WATCHED {
            break delivery;
        }
        tokio::time::sleep(LOOK).await;
        answer = client.send(Request::get(&path)).await?;
    };
    print_delivery(&answer, out)?;
    if delivery.status == "delivered" {
        return Ok(());
    }
    let why = delivery.last_attempt.map_or_else(|| "nothing was sent yet".to_owned(), |a| a.detail);
    Err(Failure::Unexpected(format!("the webhook {webhook} was not told: {why}")))
}
