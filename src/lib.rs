//! Stepwell: durable functions over plain HTTP.
//!
//! A tour, floor by floor, each using only what stands below it:
//!
//! - floor 0: [`machine`] decides what happens to a run, [`clock`] says what time it is;
//! - floor 1: [`protocol`] is the wire to handlers, [`store`] is Postgres, [`outbound`] is HTTP to
//!   strangers;
//! - floor 2: [`engine`] is the only place where the machine meets store and handlers;
//! - floor 3: [`api`] speaks HTTP with customers;
//! - beside them: [`cli`] talks to a running gateway, [`conformance`] tests handlers, [`dev`] brings
//!   a private Postgres, [`app`] puts it all together; [`fuzz`] has what fuzzers call.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod conformance;
pub mod dev;
pub mod engine;
pub mod fuzz;
pub mod machine;
pub mod outbound;
pub mod protocol;
pub mod store;
pub mod telemetry;
