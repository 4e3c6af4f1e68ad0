//! `stepwell object`: the state of objects, and who has them.

use std::collections::BTreeMap;

use clap::Subcommand;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::client::{Answer, Client, Request, document};
use super::failure::Failure;
use super::input;
use super::model;
use super::output::{Format, Output};
use super::run::print_list;

/// What can be done with objects.
#[derive(Debug, Clone, Subcommand)]
pub enum ObjectCommand {
    /// Show an object: its state, the run that has it, and how many wait.
    Get {
        /// The function that it is of.
        function: String,
        /// Its key.
        key: String,
    },
    /// List the objects of a function that have a state.
    List {
        /// The function.
        function: String,
    },
    /// Replace the state of an object that no run has.
    Set {
        /// The function that it is of.
        function: String,
        /// Its key.
        key: String,
        /// All its fields, as a JSON object: text, `@file`, or `-` for standard input.
        #[arg(short = 'i', long = "state", value_name = "JSON")]
        state: String,
        /// Only if its state is at this version; left out: at the one that it is read at just before.
        #[arg(long, value_name = "VERSION")]
        if_match: Option<String>,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Deserialize)]
struct Object {
    function: String,
    key: String,
    state: BTreeMap<String, Box<RawValue>>,
    #[serde(default)]
    version: String,
    holder: Option<String>,
    #[serde(default)]
    waiting: u64,
}

#[derive(Deserialize)]
struct Listed {
    key: String,
    #[serde(default)]
    fields: u64,
    #[serde(default)]
    bytes: u64,
}

pub(super) async fn execute(
    command: ObjectCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        ObjectCommand::List { function } => {
            let page = client.list(&["objects", &function], &[], usize::MAX).await?;
            print_list(&page.data, out, &["KEY", "FIELDS", "BYTES"], |item| {
                let it: Listed = document(item)?;
                Ok(vec![it.key, it.fields.to_string(), it.bytes.to_string()])
            })
        }
        ObjectCommand::Get { function, key } => {
            let answer = client.send(Request::get(&["objects", &function, &key])).await?;
            print(&answer, out)
        }
        ObjectCommand::Set { function, key, state, if_match, yes } => {
            #[derive(Serialize)]
            struct Body {
                state: Box<RawValue>,
            }
            let body = Body { state: input::payload(&state)? };
            let path = ["objects", function.as_str(), key.as_str()];
            let version = match if_match {
                Some(version) => version,
                None => client.send(Request::get(&path)).await?.read::<Object>()?.version,
            };
            input::confirm(yes, &format!("Replace the state of {function} {key}?"))?;
            let version = match version.as_str() {
                "*" => version,
                bare => format!("\"{}\"", bare.trim_matches('"')),
            };
            let request = Request::post(&path, &body);
            let request = Request { method: Method::PUT, if_match: Some(&version), ..request };
            print(&client.send(request).await?, out)
        }
    }
}

fn print(answer: &Answer, out: &mut Output) -> Result<(), Failure> {
    if out.format().is_json() {
        return out.json(answer.text()?);
    }
    let it: Object = answer.read()?;
    if out.format() == Format::Id {
        return out.line(&it.key);
    }
    out.fields(&[
        ("function", it.function),
        ("key", it.key),
        ("version", it.version),
        ("holder", it.holder.unwrap_or_else(|| "nobody".to_owned())),
        ("waiting", it.waiting.to_string()),
    ])?;
    out.line("")?;
    let rows: Vec<Vec<String>> =
        it.state.into_iter().map(|(field, value)| vec![field, model::cell(&value)]).collect();
    out.table(&["FIELD", "VALUE"], &rows)
}
