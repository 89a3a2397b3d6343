//! The kill switch: tokens that are refused although they have not expired.
//!
//! A signed token is good until it expires, whatever has happened since. A [`RevocationList`] takes it back: by the token's own id or
//! its thumbprint, or everything that a subject, a client or a session was issued *before* a point in time, so that whoever signs
//! in again is let in again; of a subject or client also that in which it is the current actor.
//! [`VerifierBuilder::with_revocations`](crate::token::VerifierBuilder::with_revocations) and
//! [`StackBuilder::with_revocations`](crate::layer::StackBuilder::with_revocations) put it to work: it is asked on every request, after
//! everything else about the token was accepted, and of tokens whose verification is remembered too. A revocation holds for the next
//! request that comes; an answer that is being streamed is not cut off.
//!
//! # What it holds
//!
//! * Every revocation has an end, after which it is forgotten: when each token that it concerns has expired. It is derived from the
//!   longest life of a token ([`with_max_lifetime`](RevocationListBuilder::with_max_lifetime)) unless it is named.
//! * At most [`capacity`](RevocationList::capacity) revocations. A full list refuses new ones with [`RevocationError::Full`] and
//!   drops none: what was revoked stays revoked, and whoever revokes learns that it did not happen.
//! * Digests. What was revoked cannot be read out of a list, and `Debug` shows counts.
//!
//! A list lives in the process: it is empty after a restart, and every replica has its own. What must survive is fed from the
//! outside: see [`RevocationFeed`].
//!
//! ```
//! use portcullis::revocation::{Revocation, RevocationError, RevocationList};
//! use portcullis::token::{Issuer, TokenError, Verifier};
//! # use portcullis::{testing::TestIssuer, time::{Clock, SystemClock, UnixTime}};
//! # use std::time::Duration;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (idp, now) = (TestIssuer::start().await, SystemClock.now());
//! let revocations = RevocationList::builder().with_capacity(2).build()?;
//! let issuer = Issuer::rfc9068(idp.url(), TestIssuer::AUDIENCE).with_keys(idp.key_set());
//! let verifier = Verifier::builder(issuer).with_revocations(revocations.clone()).build()?;
//!
//! // One token, whatever it is called.
//! let stolen = idp.token().mint().access_token();
//! let verified = verifier.verify(&stolen, now).await?;
//! revocations.revoke(&Revocation::thumbprint(verified.thumbprint()), now)?;
//! assert_eq!(verifier.verify(&stolen, now).await.err(), Some(TokenError::Revoked));
//!
//! // Whatever Alice was issued until now; what she is issued from now on is good.
//! let alice = verified.principal().subject().unwrap();
//! revocations.revoke(&Revocation::subject(verified.issuer(), alice, now), now)?;
//! let issued_at = |at: UnixTime| idp.token().claim("iat", at.as_secs()).mint().access_token();
//! let (before, after) = (issued_at(now.saturating_sub(Duration::from_secs(9))), issued_at(now.saturating_add(Duration::from_secs(9))));
//! assert_eq!(verifier.verify(&before, now).await.err(), Some(TokenError::Revoked));
//! assert!(verifier.verify(&after, now).await.is_ok());
//!
//! // Full is an error, and nothing is dropped for the newcomer.
//! let client = verified.principal().client().unwrap();
//! let refused = revocations.revoke(&Revocation::client(verified.issuer(), client, now), now);
//! assert_eq!(refused, Err(RevocationError::Full { capacity: 2 }));
//! assert_eq!(verifier.verify(&stolen, now).await.err(), Some(TokenError::Revoked));
//! # Ok(())
//! # }
//! ```

mod document;
mod entry;
mod error;
mod feed;
mod list;
mod table;

pub(crate) use entry::Presented;
pub use entry::Revocation;
pub use error::RevocationError;
pub use feed::RevocationFeed;
pub use list::{RevocationList, RevocationListBuilder};
