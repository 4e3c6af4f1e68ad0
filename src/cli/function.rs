//! `stepwell function`: the functions that endpoints host.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::model;
use super::output::{Format, Output};
use super::run::print_list;

/// What can be done with functions.
#[derive(Debug, Clone, Subcommand)]
pub enum FunctionCommand {
    /// List the functions.
    List,
    /// Show a function: every setting in force, and where it comes from.
    Get {
        /// Its name.
        function: String,
    },
    /// Invoke no run of a function; starts are taken and wait.
    Pause {
        /// Its name.
        function: String,
        /// Why, for who meets it.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let the runs of a function go on.
    Resume {
        /// Its name.
        function: String,
    },
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    endpoint_name: String,
    #[serde(default)]
    deployment: String,
    #[serde(default)]
    settings: Vec<Setting>,
    paused: Option<Pause>,
}

#[derive(Deserialize)]
struct Pause {
    #[serde(default)]
    at: String,
    #[serde(default)]
    by: String,
    reason: Option<String>,
}

impl Pause {
    fn words(&self) -> String {
        let why = self.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        format!("since {} by {}{why}", self.at, self.by)
    }
}

#[derive(Deserialize)]
struct Setting {
    name: String,
    value: Box<RawValue>,
    #[serde(default)]
    source: String,
}

pub(super) async fn execute(
    command: FunctionCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        FunctionCommand::List => {
            let page = client.list(&["functions"], &[], usize::MAX).await?;
            print_list(&page.data, out, &["NAME", "ENDPOINT", "DEPLOYMENT", "PAUSED"], |item| {
                let function: Function = document(item)?;
                let paused = function.paused.as_ref().map_or_else(String::new, Pause::words);
                Ok(vec![function.name, function.endpoint_name, function.deployment, paused])
            })
        }
        FunctionCommand::Get { function } => {
            let answer = client.send(Request::get(&["functions", &function])).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            let function: Function = answer.read()?;
            if out.format() == Format::Id {
                return out.line(&function.name);
            }
            out.fields(&[
                ("name", function.name),
                ("kind", function.kind),
                ("endpoint", function.endpoint_name),
                ("deployment", function.deployment),
                ("paused", function.paused.as_ref().map_or_else(|| "no".to_owned(), Pause::words)),
            ])?;
            out.line("")?;
            let rows: Vec<Vec<String>> = function
                .settings
                .into_iter()
                .map(|s| vec![s.name, model::cell(&s.value), s.source])
                .collect();
            out.table(&["SETTING", "VALUE", "FROM"], &rows)
        }
        FunctionCommand::Pause { function, reason } => {
            let body = serde_json::json!({"reason": reason});
            let path = ["functions", &function, "pause"];
            let answer = client.send(Request::post(&path, &body)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            out.note(&format!(
                "{function} is paused: `stepwell function resume {function}` ends it"
            ));
            Ok(())
        }
        FunctionCommand::Resume { function } => {
            let path = ["functions", &function, "resume"];
            let answer = client.send(Request::post(&path, &serde_json::json!({}))).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            out.note(&format!("{function} goes on"));
            Ok(())
        }
    }
}
