//! Stepwell: durable functions over plain HTTP.
pub mod cli;
pub mod clock;
pub mod dev;
pub mod engine;
pub mod machine;
pub mod store;
