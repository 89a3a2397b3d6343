//! Longer texts: why the crate is as it is, what it defends against, and how to run it.

#[doc = include_str!("design.md")]
pub mod design {}

#[doc = include_str!("threat-model.md")]
pub mod threat_model {}

#[doc = include_str!("attacks.md")]
pub mod attacks {}

#[doc = include_str!("operations.md")]
pub mod operations {}
