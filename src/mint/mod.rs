//! Internal tokens: short-lived, for one audience, and never more than the token that they are made from.
//!
//! A service that calls another one does not pass its caller's token on. It hands that token's [`VerifiedToken`] to its
//! [`Minter`] and gets a token of the trust domain's own issuer, which the [`Signer`] signs. In order, a minter
//!
//! 1. takes verified tokens only, and refuses one that is bound to a key (`cnf`) or has expired, leeway or not;
//! 2. refuses a chain of more than five actors, with the calling service put on the outside
//!    ([RFC 8693 §4.1](https://www.rfc-editor.org/rfc/rfc8693#section-4.1));
//! 3. grants the scope that is both asked for and held by the source, and refuses when nothing is left;
//! 4. ends the token's life after what was asked for, five minutes, or the source's end, whichever comes first;
//! 5. writes the claims: a fresh `jti`, the source's `txn` or a fresh one, and those that the caller adds, none of which can
//!    stand for a claim that identifies or entitles somebody.
//!
//! It does not ask a policy whether the call may happen: that is for the service that receives the token, as for every call.
//! Permissions, roles and other entitlements of the source are not passed on: what is not scope is not granted.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use portcullis::{
//!     key::Algorithm,
//!     mint::{LocalSigner, MintRequest, Minter},
//!     principal::{Actor, Audience, IssuerId, Subject},
//!     scope::Scope,
//!     testing::TestIssuer,
//!     time::{Clock, SystemClock},
//!     token::{Issuer, Verifier},
//! };
//!
//! // What the gateway verified, as `AuthenticateLayer` would have done.
//! let outside = TestIssuer::start().await;
//! let verifier = Verifier::builder(Issuer::rfc9068(outside.url(), TestIssuer::AUDIENCE).with_keys(outside.key_set())).build()?;
//! let now = SystemClock.now();
//! let source = verifier.verify(&outside.token().scope("jobs:read jobs:write").mint().access_token(), now).await?;
//!
//! let signer = Arc::new(LocalSigner::generate(Algorithm::Ed25519)?);
//! let gateway = Actor::new(Subject::new("gateway"));
//! let minter = Minter::builder(IssuerId::new("https://internal.example"), gateway, signer).build()?;
//!
//! let wanted = Scope::parse("jobs:read jobs:admin")?;
//! let minted = minter.mint(&source, MintRequest::new(Audience::new("orders"), wanted), now).await?;
//! assert_eq!(minted.scope(), &Scope::parse("jobs:read")?);
//! assert!(minted.expires_at() <= source.expires_at());
//! let header = format!("Bearer {}", minted.expose());
//! # assert_eq!(header.split('.').count(), 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })
//! # .unwrap();
//! ```
//!
//! [`VerifiedToken`]: crate::token::VerifiedToken

mod claims;
mod jwk;
mod local;
mod minter;
mod signer;

pub use jwk::PublicJwk;
pub use local::LocalSigner;
pub use minter::{MintError, MintRequest, MintedToken, Minter, MinterBuilder};
pub use signer::{SignError, SignErrorKind, SignRequest, Signature, Signer};
