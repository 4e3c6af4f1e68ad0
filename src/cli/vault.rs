//! `stepwell secret`: set, list and remove the secrets that calls are made with.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::client::{Client, Request, document};
use super::failure::Failure;
use super::input;
use super::output::Output;
use super::run::print_list;

/// What can be done with secrets.
#[derive(Debug, Clone, Subcommand)]
pub enum SecretCommand {
    /// Set a secret; its value is read from standard input, so that no history of a shell has it.
    Set {
        /// How ops refer to it.
        name: String,
        /// Read the value from this file instead.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List the names of secrets.
    List,
    /// Remove a secret.
    Rm {
        /// Its name.
        name: String,
        /// Do not ask whether you are sure.
        #[arg(short, long)]
        yes: bool,
    },
}

/// A secret as the API lists it.
#[derive(Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    updated_at: String,
}

pub(super) async fn execute(
    command: SecretCommand,
    client: &Client,
    out: &mut Output,
) -> Result<(), Failure> {
    match command {
        SecretCommand::Set { name, file } => {
            #[derive(Serialize)]
            struct Body<'a> {
                name: &'a str,
                value: &'a str,
            }
            let value = value(&name, file.as_deref(), out)?;
            let body = Body { name: &name, value: &value };
            let answer = client.send(Request::post(&["secrets"], &body)).await?;
            if out.format().is_json() {
                return out.json(answer.text()?);
            }
            out.note(&format!("secret {name} is set"));
            Ok(())
        }
        SecretCommand::List => {
            let page = client.list(&["secrets"], &[], usize::MAX).await?;
            print_list(&page.data, out, &["NAME", "CREATED", "SET"], |item| {
                let it: Listed = document(item)?;
                Ok(vec![it.name, it.created_at, it.updated_at])
            })
        }
        SecretCommand::Rm { name, yes } => {
            input::confirm(yes, &format!("Remove the secret {name}?"))?;
            let path = ["secrets", name.as_str()];
            client.send(Request::new(reqwest::Method::DELETE, &path)).await?;
            out.note(&format!("secret {name} is removed"));
            Ok(())
        }
    }
}

/// The value in a file or on standard input; one line end after it is the terminal's or the file's.
fn value(name: &str, file: Option<&Path>, out: &mut Output) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if let Some(file) = file {
        std::fs::read_to_string(file).map(|all| text = all)
    } else {
        let mut stdin = std::io::stdin();
        if stdin.is_terminal() {
            out.note(&format!("type or paste the value of {name}, then end with Ctrl-D"));
        }
        stdin.read_to_string(&mut text).map(|_| ())
    };
    let from = file.map_or("standard input".to_owned(), |f| f.display().to_string());
    read.map_err(|error| Failure::Usage(format!("cannot read {from}: {error}")))?;
    let value = text.strip_suffix('\n').unwrap_or(&text);
    Ok(value.strip_suffix('\r').unwrap_or(value).to_owned())
}
