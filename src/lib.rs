//! Stepwell: durable functions over plain HTTP.
pub mod machine;
