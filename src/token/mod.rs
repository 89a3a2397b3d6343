//! From the bytes of a header to a token whose every claim may be believed.
//!
//! [`AccessToken::from_headers`] finds the bearer token, [`Verifier::verify`] checks it: form, issuer, algorithm, key, signature,
//! and then the claims. What comes out is a [`VerifiedToken`]; there is no other way to one. Works without HTTP and without Tower.
//! What is signed and no access token (a security event, a webhook, a bundle) is for [`jws::verify`], which the verifier stands on.

mod bearer;
mod candidate;
mod claims;
mod directory;
mod error;
mod issuer;
pub mod jws;
mod reader;
mod resolve;
#[cfg(test)]
pub(crate) mod test_tokens;
mod trusted;
mod validate;
mod verified;
mod verifier;

pub use bearer::{AccessToken, BearerError};
pub use claims::{Claimed, Claims, ClaimsError};
pub use error::TokenError;
pub use issuer::{Issuer, Permissions, Tenants};
pub use resolve::{ResolveError, ResolveIssuer, ResolveRequest, ResolvedIssuers, ResolvedMetrics};
pub use verified::VerifiedToken;
pub(crate) use verifier::Refused;
pub use verifier::{Verifier, VerifierBuilder};
