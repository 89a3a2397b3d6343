//! A gate of [Tower](https://docs.rs/tower) layers for HTTP and gRPC services.

#![warn(unreachable_pub)]

pub mod token;

pub mod key;

pub mod principal;

pub mod scope;

pub mod rules;

pub mod route;

pub mod policy;

#[cfg(feature = "mint")]
pub mod mint;

pub mod denial;

pub mod audit;

pub mod layer;

#[cfg(feature = "axum")]
pub mod axum;

#[cfg(feature = "tonic")]
pub mod tonic;

#[cfg(any(feature = "opa", feature = "remote-jwks"))]
pub mod outbound;

pub mod health;

pub mod time;

#[cfg(feature = "testing")]
pub mod testing;

mod error;
mod json;
mod random;

pub use error::ConfigError;
pub use layer::Stack;
pub use rules::Rules;
pub use token::Issuer;
