//! What the policy servers that are asked over HTTP share: how they are reached, what bounds a call, and what is known of them.

mod breaker;
mod condition;
mod link;
mod permits;
#[cfg(test)]
pub(super) mod script;
mod settings;
mod watch;

pub(super) use condition::Condition;
pub(super) use link::{Link, MAX_REPLY, is_json};
pub(super) use settings::{Secret, Settings};
pub(super) use watch::{Checked, Watch, check_interval};
