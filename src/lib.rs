//! Stepwell: durable functions over plain HTTP.
pub mod api;
pub mod engine;
pub mod machine;
