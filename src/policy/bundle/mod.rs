//! Bundles of Open Policy Agent: policies and data in one file, built and signed elsewhere.
//!
//! [`Bundle::read`] takes the bytes of [a bundle](https://www.openpolicyagent.org/docs/management-bundles), however they came, and gives
//! one that is whole, verified and consistent, or a [`BundleError`] that says what is wrong, where, and what to do. [`Contents::of`] puts
//! one or several together for a policy. Nothing here touches a file or the network.
//!
//! # What is checked
//!
//! In this order, and the first fault is the one that is reported:
//!
//! 1. The archive: one gzip member with nothing after it, a tar with its end, within all [`Limits`]; files and directories alone, no links;
//!    paths in UTF-8 without `..`, none twice. A leading `/` or `./` is taken off.
//! 2. That nothing is in it that Open Policy Agent reads and this crate does not: a delta (`patch.json`), `data.yaml`, a second manifest.
//! 3. The signature, as [`Verification`] asks for it ([signing](https://www.openpolicyagent.org/docs/management-bundles#signing)): exactly
//!    one, by the configured key and that key's algorithm, for the configured scope, over exactly the files that are there, each
//!    by a hash of SHA-256 or more.
//! 4. The manifest: roots that do not overlap, Rego of version 1.
//! 5. Data and modules: JSON without repeated members and at most 64 levels deep; no path twice; every package and every value under a
//!    root; no value where a package is.
//! 6. With [`Contents::of`]: that no root of one bundle overlaps a root of another. With [`RevisionRule`]: that the revision does not go
//!    back.
//!
//! What it leaves to whoever loads the policy: whether the policy is sound, and whether a rule has the name of a value in the data.
//!
//! # Stricter than Open Policy Agent
//!
//! There a bundle without a signature is accepted unless a key *id* is configured, and a delta is never verified; here
//! [`Verification::required`] means every bundle. There MD5 will do for a hash. There repeated members of a document, and what comes after it, are
//! passed over.
//!
//! ```
//! use portcullis::{
//!     key::Algorithm,
//!     policy::bundle::{Bundle, BundleErrorKind, Limits, Verification, VerificationKey, VerificationKeys},
//! };
//!
//! let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
//! let key = VerificationKey::from_pem("release", pem, Algorithm::Ed25519)?;
//! let verification = Verification::required(VerificationKeys::new([key])?);
//!
//! let error = Bundle::read("authz", b"not an archive", &verification, &Limits::default()).unwrap_err();
//! assert_eq!(error.kind(), BundleErrorKind::Archive);
//! # Ok::<(), portcullis::ConfigError>(())
//! ```

mod archive;
mod canonical;
mod content;
mod error;
mod keys;
mod limits;
mod manifest;
mod package;
mod read;
mod revision;
mod signature;
mod text;

#[cfg(test)]
mod tests;

pub use error::{BundleError, BundleErrorKind};
pub use keys::{VerificationKey, VerificationKeys};
pub use limits::Limits;
pub use manifest::{Manifest, Root, WasmEntry};
pub use read::{Bundle, CompiledModule, Contents};
pub use revision::RevisionRule;
pub use signature::Verification;
