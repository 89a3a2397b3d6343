//! A gate of [Tower](https://docs.rs/tower) layers for HTTP and gRPC services. Who calls is established from a signed token, what the
//! token allows and what policy allows are asked of each call anew, whoever is refused learns nothing from it, and every call
//! leaves one record. What no rule mentions is denied.
//!
//! # Quick start
//!
//! ```
//! use portcullis::{Issuer, Rules, Stack, audit, policy, rules::{public, scopes}, scope::all_of};
//!
//! # async fn list() {}
//! # async fn alive() {}
//! # #[cfg(all(feature = "axum", feature = "rego", feature = "remote-jwks"))]
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let issuer = Issuer::auth0("acme.eu.auth0.com", "https://api.acme.example");
//! let rules = Rules::new()
//!     .get("/jobs", scopes(all_of(["jobs:read"])))
//!     .get("/livez", public("liveness must survive an outage of everything else"));
//! let policy = policy::Rego::from_dir("policy")?;
//! let sink = audit::JsonLines::stdout();
//! let stack = Stack::builder(issuer, rules, policy, sink).build()?;
//!
//! let router = axum::Router::new()
//!     .route("/jobs", axum::routing::get(list))
//!     .route("/livez", axum::routing::get(alive));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! axum::serve(listener, portcullis::axum::protect(router, stack)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! `cargo run --example quickstart` shows all of it at work, with a test issuer and nothing else to install.
//!
//! # The picture
//!
//! ```text
//! Request ─ Route ─ bearer ─► AccessToken ─ Verifier (reads cached keys) ─► VerifiedToken ─► Principal
//!   ─ ScopeRequirement ─► PolicyInput ─ PolicyBackend ─► Decision ─ enforce ─► Permit ─► inner service
//! each step writes one fact ─► audit::Trail ─► AuditRecord ─► AuditSink          (also when the caller hangs up)
//! a step that refuses: Reason (kept inside, to the Trail) ─ one table ─► Denial (outside) ─► HTTP or gRPC response
//! ```
//!
//! Data moves forward only, as typed values in request extensions; the [`Trail`](audit::Trail) is the one thing that travels back.
//! A [`VerifiedToken`](token::VerifiedToken) comes only out of [`Verifier::verify`](token::Verifier::verify), a
//! [`Principal`](principal::Principal) only out of a check, a [`Permit`](policy::Permit) only out of
//! [`Decision::enforce`](policy::Decision::enforce): a gate forwards only with the proof of its own check in hand.
//!
//! # The stages
//!
//! | Stage | Asks | Reads | Writes | Seam |
//! | --- | --- | --- | --- | --- |
//! | [`layer::denial`] | what may the caller know? | [`Denial`](denial::Denial) | the response | [`RenderDenial`](denial::RenderDenial) |
//! | [`layer::audit`] | what happened? | [`Trail`](audit::Trail) | [`AuditRecord`](audit::AuditRecord) | [`AuditSink`](audit::AuditSink) |
//! | [`layer::route`] | which rule? | what the router matched | [`Route`](route::Route) | [`MatchRoute`](layer::route::MatchRoute) |
//! | [`layer::authenticate`] | who is it? | `Authorization` | [`Principal`](principal::Principal) | [`KeySource`](key::KeySource) |
//! | [`layer::require_scope`] | may this token? | [`Rule`](rules::Rule) | nothing | |
//! | [`layer::authorize`] | may this call? | [`PolicyInput`](policy::PolicyInput) | [`Permit`](policy::Permit) | [`PolicyBackend`](policy::PolicyBackend) |
//!
//! A [`RevocationList`](revocation::RevocationList) takes tokens back before they expire; authentication asks it last.
//! [`Stack`] puts them in order; `axum::protect` and `tonic::protect` put the stack around a service.
//!
//! # Features
//!
//! | Feature | What you get | Default |
//! | --- | --- | --- |
//! | `aws-lc-rs` | signatures verified with aws-lc-rs; wins when `rust-crypto` is on as well | yes |
//! | `rust-crypto` | signatures verified with the RustCrypto crates | |
//! | `axum` | the axum 0.8 edge | yes |
//! | `tonic` | the tonic 0.14 edge | |
//! | `rego` | `policy::Rego`: Rego in the process | yes |
//! | `bundles` | `policy::bundle`: Open Policy Agent's bundles, read and verified | |
//! | `opa` | `policy::Opa`: an Open Policy Agent server | |
//! | `opa-management` | `policy::BundleAgent`, decision logs, status: the management APIs of Open Policy Agent | |
//! | `opa-wasm` | `policy::Wasm`: policies that Open Policy Agent compiled, in the process | |
//! | `authzen` | `policy::AuthZen`: any OpenID AuthZEN 1.0 decision point | |
//! | `remote-jwks` | `key::Remote`: keys from discovery or a URL | yes |
//! | `jwks-client-rs` | `key::jwks_client_rs`: sources of that crate | |
//! | `mint` | `mint`: internal tokens that only narrow | |
//! | `outbound` | `outbound`: the HTTP client of the features that ask somebody else; they switch it on | yes |
//! | `full` | all of the above but `opa-wasm`, which brings a compiler | |
//! | `cli` | the command `portcullis`: explains, tests, lints and times policies | |
//! | `testing` | `testing`: issuer, clock, sink and conformance suites for tests | |
//!
//! The guide: [design](guide::design), [threat model](guide::threat_model), [attacks](guide::attacks), [operations](guide::operations).

#![warn(unreachable_pub)]

pub mod token;

pub mod key;

pub mod principal;

pub mod revocation;

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

#[cfg(feature = "outbound")]
pub mod outbound;

pub mod health;

pub mod time;

#[cfg(feature = "testing")]
pub mod testing;

pub mod guide;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;

mod complaint;
mod error;
mod json;
mod private_file;
mod random;

pub use error::ConfigError;
pub use layer::Stack;
pub use rules::Rules;
pub use token::Issuer;

#[cfg(all(doctest, feature = "axum", feature = "rego", feature = "remote-jwks"))]
#[doc = include_str!("../README.md")]
struct Readme;
