//! Stepwell: durable functions over plain HTTP.
pub mod engine;
pub mod machine;
pub mod store;
