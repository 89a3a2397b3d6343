//! Backends made of backends.

mod all_of;
mod cached;
mod projection;
mod shadow;
mod standby;

pub use all_of::AllOf;
pub use cached::{CacheMetrics, Cached, CachedBuilder};
pub use shadow::{Shadow, ShadowBuilder, ShadowDifference, ShadowMetrics};
pub use standby::Standby;
