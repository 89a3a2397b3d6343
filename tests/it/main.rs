//! Integration tests, one module per behaviour.
//!
//! That what must not compile does not (a `VerifiedToken`, a `Principal` or a `Permit` made elsewhere than in its check, a route
//! added after `protect`) is shown by `compile_fail` doctests, each with its error code, beside the types themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod attacks;

mod audit;

mod authenticate;

mod authzen;

#[cfg(feature = "cli")]
mod cli;

mod conformance;

mod denial;

mod examples;

mod mutations;

mod policy;

mod properties;

mod recipes;

mod revocation;

mod scope;

mod stack;

mod support;

mod vectors;

mod wire;
