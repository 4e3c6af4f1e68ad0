//! Tests from outside: real processes, real HTTP, real Postgres.
#![expect(unreachable_pub, reason = "one binary of tests")]
#![expect(missing_docs, reason = "tests")]
#![expect(clippy::panic, reason = "a test that fails panics")]

mod chaos;
mod cluster;
mod oracle;
