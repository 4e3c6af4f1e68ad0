//! The `stepwell` binary: reads the command, starts the runtime, gives the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use stepwell::cli::{self, Cli, ClientCommand, Command, KeyCommand, LogFormat};
use stepwell::{api, app, telemetry};

/// Half of what the system's allocator costs on the hot path (bench/README.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Where nobody reads it there is nobody to tell.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match runtime(&cli.command) {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => failed(&error.into()),
    }
}

/// One thread drives everything: wake-ups between threads cost more than they gain (docs/adr/003).
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let threads = match command {
        Command::Serve(args) => args.threads.map_or(1, std::num::NonZero::get),
        _ => 1,
    };
    let mut builder = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

async fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Dev(args) => {
            log(args.log, &args.log_filter);
            app::dev(args).await
        }
        Command::Serve(args) => {
            log(args.log, &args.log_filter);
            if let Some(collector) = &args.otlp_endpoint {
                telemetry::install_traces(collector);
            }
            app::serve(args).await
        }
        Command::Migrate(args) => app::migrate(args.action).await,
        Command::Doctor(args) => app::doctor(args).await,
        Command::Openapi(args) => {
            let text = if args.json { api::openapi_json() } else { api::openapi() };
            std::io::stdout().write_all(text.as_bytes()).map_err(Into::into)
        }
        Command::Client(ClientCommand::Key(KeyCommand::Create(key)))
            if key.database_url.is_some() =>
        {
            app::first_key(&key).await
        }
        Command::Client(command) => return cli::run_client(&cli.global, command).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn log(format: LogFormat, filter: &str) {
    let format = match format {
        LogFormat::Json => telemetry::LogFormat::Json,
        LogFormat::Text => telemetry::LogFormat::Text,
    };
    if !telemetry::install_logs(format, filter) {
        drop(writeln!(
            std::io::stderr(),
            "stepwell: `{filter}` is no log filter; nothing is logged"
        ));
    }
    telemetry::install_metrics();
}

fn failed(error: &anyhow::Error) -> ExitCode {
    drop(writeln!(std::io::stderr(), "stepwell: {error:#}"));
    ExitCode::FAILURE
}
