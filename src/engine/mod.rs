//! Floor 2: the only place where the machine meets the store and the handlers.

mod shapes;
mod stub;
mod types;

pub use shapes::*;
pub use stub::{Changes, Engine};
pub use types::*;
