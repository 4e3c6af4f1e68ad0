//! Tests from outside: real processes, real HTTP, real Postgres.
#![expect(missing_docs, reason = "tests")]
#![expect(clippy::panic, reason = "a test that fails panics")]

mod chaos;
mod cluster;
mod oracle;
