//! Floor 2: the only place where the machine meets the store and the handlers.

mod types;

pub use types::*;
