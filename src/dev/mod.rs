//! What `stepwell dev` brings along: a private Postgres, the user's handler as a child,
//! a demo function, a banner.
//!
//! In the order of use: [`DataDir::open`] (or [`DataDir::ephemeral`]) takes the directory and its
//! lock, [`PrivatePostgres::start`] gives a database, [`Banner`] says what is where, [`Handler`]
//! runs the user's command. At the end [`Handler::stop`], then [`PrivatePostgres::stop`].

mod account;
mod banner;
mod cluster;
mod data_dir;
mod demo;
mod error;
mod find;
mod handler;
mod postgres;

pub use banner::{Banner, Database};
pub use data_dir::DataDir;
pub use demo::DemoHandler;
pub use error::Error;
pub use find::{Installation, find_postgres};
pub use handler::Handler;
pub use postgres::PrivatePostgres;

/// Resolves when the process is asked to end: by Ctrl-C, SIGTERM or a closed terminal.
///
/// From the first call on these signals no longer end the process by themselves.
pub async fn asked_to_end() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    })
}
