//! Tests of the machine: its table of edges, its laws, and the protocol's rules one by one.

mod edges;
mod fixtures;
mod handwriting;
mod imported;
mod laws;
mod programs;
mod properties;
mod scenarios;
