//! The command line: the whole tree of commands, and those that talk to a gateway over its REST API.
//!
//! `dev`, `serve`, `migrate`, `doctor` and `openapi` are only described here; they need the floors
//! above. Everything else is a client: it knows the API's documents and nothing of the engine.
//! Standard output carries data, standard error everything else.

mod apply;
mod ask;
mod audit;
mod batch;
mod bulk;
mod client;
mod conformance;
mod deployment;
mod endpoint;
mod error;
mod event;
mod failure;
mod function;
mod import;
mod input;
mod invocation;
mod json_text;
mod jwt;
mod key;
mod limit;
mod model;
mod namespace;
mod object;
mod output;
mod replay;
mod rerun;
mod run;
mod run_id;
mod schedule;
mod secret;
mod server;
mod settled;
mod signal;
mod sse;
mod step;
mod trace;
mod tree;
mod vault;
mod wait;
mod webhook;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use url::Url;

use crate::machine::time::parse_duration;

use client::Client;
use failure::Failure;
use output::Output;

pub use apply::Apply;
pub use audit::AuditArgs;
pub use bulk::BulkCommand;
pub use conformance::{ConformanceArgs, Transport};
pub use endpoint::EndpointCommand;
pub use error::ErrorCommand;
pub use event::EventCommand;
pub use failure::exit;
pub use function::FunctionCommand;
pub use jwt::{Algorithm, JwtArgs};
pub use key::{KeyCommand, KeyCreate};
pub use limit::LimitCommand;
pub use namespace::NamespaceCommand;
pub use object::ObjectCommand;
pub use output::{Color, Format};
pub use replay::RunReplay;
pub use run::RunCommand;
pub use schedule::ScheduleCommand;
pub use secret::Secret;
pub use server::{
    ArchiveUrl, Database, DevArgs, DoctorArgs, LogFormat, MigrateAction, MigrateArgs, OpenapiArgs,
    ServeArgs,
};
pub use signal::SignalCommand;
pub use step::StepCommand;
pub use vault::SecretCommand;
pub use webhook::WebhookCommand;

/// `stepwell`: durable functions over plain HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "stepwell",
    version,
    about = "Durable functions over plain HTTP: one binary, one Postgres",
    infer_subcommands = true,
    propagate_version = false,
    after_help = "Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 not allowed, 5 conflict, \
                  6 timed out waiting, 10 the awaited run did not complete."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the process's arguments and environment; on a fault clap's error, which knows its
    /// exit code (2, or 0 for `--help`).
    pub fn read<I, T>(args: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<OsString> + Clone,
    {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(args)?;
        let cli = Self::from_arg_matches(&matches)?;
        let server = !matches!(cli.command, Command::Client(_));
        if server && matches.value_source("url") == Some(ValueSource::CommandLine) {
            return Err(command.error(
                clap::error::ErrorKind::ArgumentConflict,
                "--url is the address of a running gateway and means nothing to this command; \
                 to register a handler with `dev`, use -u or --endpoint",
            ));
        }
        let handler = matches!(cli.command, Command::Client(ClientCommand::Conformance(_)));
        if handler && matches.value_source("url") != Some(ValueSource::CommandLine) {
            return Err(command.error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "conformance needs --url, the address of the handler that it is to test",
            ));
        }
        Ok(cli)
    }
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// How to print: tables for people, or JSON, one JSON document a line, or ids alone.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Address of the gateway.
    #[arg(long, global = true, env = "STEPWELL_URL", default_value = "http://127.0.0.1:8484")]
    pub url: Url,
    /// API key; none is needed by `stepwell dev` on loopback.
    #[arg(
        long,
        global = true,
        env = "STEPWELL_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub api_key: Option<Secret>,
    /// How long one request may take; waiting for a run has its own limit.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// Any text here switches colours off (<https://no-color.org>).
    #[arg(long, global = true, env = "NO_COLOR", hide = true, num_args = 0..=1, default_missing_value = "1")]
    pub no_color: Option<OsString>,
    /// Say nothing on standard error but errors.
    #[arg(long, global = true)]
    pub quiet: bool,
}

/// Everything that the binary can do.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a gateway for development, with a Postgres of its own.
    Dev(DevArgs),
    /// Run a gateway for production.
    Serve(ServeArgs),
    /// Bring the database to this version's schema.
    Migrate(MigrateArgs),
    /// Check the database and say what is wrong.
    Doctor(DoctorArgs),
    /// Print the OpenAPI document.
    Openapi(OpenapiArgs),
    /// A command for a running gateway.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The commands that [`run_client`] carries out.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Register and look at the URLs that host functions.
    #[command(subcommand, arg_required_else_help = true)]
    Endpoint(EndpointCommand),
    /// Make endpoints and schedules what a file says.
    Apply(Apply),
    /// Start runs, look at them, and act on them.
    #[command(subcommand, arg_required_else_help = true)]
    Run(RunCommand),
    /// Act on many runs at once: all that a query finds.
    #[command(subcommand, arg_required_else_help = true)]
    Bulk(BulkCommand),
    /// See what runs failed or paused by, those that are alike as one.
    #[command(subcommand, arg_required_else_help = true)]
    Error(ErrorCommand),
    /// Settle a step of a run by hand, or hurry it.
    #[command(subcommand, arg_required_else_help = true)]
    Step(StepCommand),
    /// Look at the functions that endpoints host.
    #[command(subcommand, arg_required_else_help = true)]
    Function(FunctionCommand),
    /// Look at the state of objects, and write it by hand.
    #[command(subcommand, arg_required_else_help = true)]
    Object(ObjectCommand),
    /// See who is on its way through a limit and who waits; pause single keys.
    #[command(subcommand, arg_required_else_help = true)]
    Limit(LimitCommand),
    /// Tell others what happens to runs and endpoints, and see what became of it.
    #[command(subcommand, arg_required_else_help = true)]
    Webhook(WebhookCommand),
    /// Publish events, and see what became of them.
    #[command(subcommand, arg_required_else_help = true)]
    Event(EventCommand),
    /// Start runs by themselves: at times, or so long after one another.
    #[command(subcommand, arg_required_else_help = true)]
    Schedule(ScheduleCommand),
    /// Send signals to runs.
    #[command(subcommand, arg_required_else_help = true)]
    Signal(SignalCommand),
    /// Say what tenants may have and do.
    #[command(subcommand, arg_required_else_help = true)]
    Namespace(NamespaceCommand),
    /// Make and revoke API keys.
    #[command(subcommand, arg_required_else_help = true)]
    Key(KeyCommand),
    /// See who did what.
    Audit(AuditArgs),
    /// Set and remove the secrets that calls are made with.
    #[command(subcommand, arg_required_else_help = true)]
    Secret(SecretCommand),
    /// Test a handler, at --url, against the protocol; no gateway is needed.
    Conformance(ConformanceArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the version.
    Version {
        /// As JSON, with the versions of the handler protocol.
        #[arg(long)]
        json: bool,
    },
}

/// Carries out a client command and reports on standard output and standard error. Never ends the
/// process by itself; the exit codes are those of [`exit`].
pub async fn run_client(global: &Global, command: ClientCommand) -> ExitCode {
    let mut out = Output::of_process(global);
    let done = execute(global, command, &mut out).await;
    ExitCode::from(report(done, &mut out))
}

/// The exit code of a command's end; an error is written to standard error first.
fn report(done: Result<(), Failure>, out: &mut Output) -> u8 {
    let Err(failure) = done else { return exit::OK };
    if !failure.is_broken_pipe() {
        out.error(&failure);
    }
    failure.exit_code()
}

async fn execute(global: &Global, command: ClientCommand, out: &mut Output) -> Result<(), Failure> {
    let connect = || Client::new(&global.url, global.api_key.as_ref(), global.timeout);
    match command {
        ClientCommand::Apply(args) => apply::execute(args, &connect()?, out).await,
        ClientCommand::Endpoint(command) => endpoint::execute(command, &connect()?, out).await,
        ClientCommand::Run(RunCommand::Replay(replay)) => {
            replay::execute(replay, global, out).await
        }
        ClientCommand::Step(command) => step::execute(command, &connect()?, out).await,
        ClientCommand::Function(command) => function::execute(command, &connect()?, out).await,
        ClientCommand::Run(command) => run::execute(command, &connect()?, out).await,
        ClientCommand::Bulk(command) => bulk::execute(command, &connect()?, out).await,
        ClientCommand::Error(command) => error::execute(command, &connect()?, out).await,
        ClientCommand::Object(command) => object::execute(command, &connect()?, out).await,
        ClientCommand::Limit(command) => limit::execute(command, &connect()?, out).await,
        ClientCommand::Namespace(command) => namespace::execute(command, &connect()?, out).await,
        ClientCommand::Webhook(command) => webhook::execute(command, &connect()?, out).await,
        ClientCommand::Event(command) => event::execute(command, &connect()?, out).await,
        ClientCommand::Schedule(command) => schedule::execute(command, &connect()?, out).await,
        ClientCommand::Signal(command) => signal::execute(command, &connect()?, out).await,
        ClientCommand::Key(command) => key::execute(command, &connect()?, out).await,
        ClientCommand::Audit(args) => audit::execute(args, &connect()?, out).await,
        ClientCommand::Secret(command) => vault::execute(command, &connect()?, out).await,
        ClientCommand::Conformance(args) => conformance::execute(global, args, out).await,
        ClientCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stepwell", &mut script);
            out.bytes(&script)
        }
        ClientCommand::Version { json } => version(json, out),
    }
}

fn version(json: bool, out: &mut Output) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if json || out.format().is_json() {
        out.json(&format!(r#"{{"name":"stepwell","version":"{version}","protocol":[1,1]}}"#))
    } else {
        out.line(&format!("stepwell {version}"))
    }
}
