//! Stepwell: durable functions over plain HTTP.
pub mod dev;
pub mod engine;
pub mod machine;
