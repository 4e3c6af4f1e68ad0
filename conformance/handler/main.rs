//! The functions of the conformance suite on all four transports, in Rust.
//!
//! ```sh
//! PORT=3000 STEPWELL_SIGNING_SECRET=whsec_… cargo run --example conformance_handler
//! ```
//!
//! `FAULT` names something that it is to do wrong, so that the suite can be seen to find it.

#[path = "serve.rs"]
mod serve;

use serve::{Handler, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let variable = |name: &str| std::env::var_os(name).and_then(|value| value.into_string().ok());
    let port = variable("PORT").and_then(|port| port.parse().ok()).unwrap_or(3000);
    let secret = variable("STEPWELL_SIGNING_SECRET").unwrap_or_default();
    let fault = variable("FAULT").unwrap_or_default();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    serve(listener, Handler { secret, fault }).await
}
