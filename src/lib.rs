//! Stepwell: durable functions over plain HTTP.
pub mod clock;
pub mod engine;
pub mod machine;
pub mod outbound;
pub mod protocol;
pub mod store;
pub mod telemetry;
