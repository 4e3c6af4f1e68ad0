//! Tests from outside: real processes, real HTTP, real Postgres.
#![expect(unreachable_pub, reason = "one binary of tests")]
#![expect(clippy::panic, reason = "a test that fails panics")]
#![expect(clippy::disallowed_methods, reason = "processes are watched by the real clock")]
#![expect(clippy::print_stderr, reason = "figures are for who runs a test by hand")]
#![expect(clippy::pedantic, reason = "what tests count and cast is small")]

mod acts;
mod archive;
mod audit;
mod auth;
mod bad_input;
mod batches;
mod bucket;
mod bulk;
mod callbacks;
mod calls;
mod chaos;
mod checkpoints;
mod children;
mod circuits;
mod cluster;
mod compaction;
mod conformance;
mod costs;
mod documented;
mod endpoints;
mod ends;
mod erase;
mod errors;
mod events;
mod expiry;
mod fairness;
mod families;
mod faults;
mod flow;
mod gateway;
mod gathers;
mod generations;
mod idempotency;
mod imports;
mod invocations;
mod jwt;
mod lines;
mod load;
mod locks;
mod matrix;
mod metrics;
mod namespaces;
mod objects;
mod oracle;
mod outage;
mod outputs;
mod plain;
mod proxy;
mod pull;
mod queries;
mod races;
mod rates;
mod replay;
mod runs;
mod schedules;
mod signals;
mod sql;
mod steps;
mod strict;
mod takeover;
mod talker;
mod tasks;
mod traces;
mod transfers;
mod transports;
mod two_nodes;
mod updates;
mod versions;
mod watchdog;
mod watching;
mod ways_out;
mod webhooks;
mod zombie;

/// A client for the tests' own calls, to be finished with what a test needs.
fn http_client() -> reqwest::ClientBuilder {
    // Another test of this process may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
}
