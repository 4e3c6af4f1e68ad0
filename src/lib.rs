//! Stepwell: durable functions over plain HTTP.
pub mod cli;
pub mod engine;
pub mod machine;
