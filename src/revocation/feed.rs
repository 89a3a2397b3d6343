use std::{fmt, sync::Arc};

use super::{RevocationError, RevocationList, document};
use crate::time::UnixTime;

/// A source of revocations beside [`RevocationList::revoke`]: a document that replaces the one before it.
///
/// For whoever distributes revocations to all replicas, with policy data for instance: `policy::RegoBuilder::with_revocations` takes
/// them out of the data document of the policy.
///
/// The document is a JSON object with the member `entries`, a list of objects. Each has exactly one of `token_id`, `thumbprint`,
/// `subject`, `client` and `session`, and beside it `issuer` (not with `thumbprint`, which names a token by itself). The last three have
/// `not_before`, and may have `end`, which is derived otherwise; the first two must have `end`. `subject` is a `sub` or a user id, as
/// with [`Revocation::subject`](super::Revocation::subject). Times are whole seconds since the epoch.
/// A member that is not known is an error, as is one that stands twice.
///
/// ```
/// use portcullis::{revocation::RevocationList, time::UnixTime};
///
/// let (revocations, now) = (RevocationList::new(), UnixTime::from_secs(1_800_000_000));
/// let feed = revocations.feed("incidents");
/// let document = br#"{"entries": [
///     {"issuer": "https://login.example/", "subject": "auth0|mallory", "not_before": 1800000000},
///     {"issuer": "https://login.example/", "token_id": "b3f1", "end": 1800003600}
/// ]}"#;
/// assert_eq!(feed.replace(document, now), Ok(2));
///
/// let error = feed.replace(br#"{"entries": [{"issuer": "https://login.example/", "subject": "auth0|mallory"}]}"#, now).unwrap_err();
/// assert_eq!(error.to_string(), "entry 0: `not_before` is missing");
/// assert_eq!(revocations.len(), 2, "a wrong document changes nothing");
/// ```
#[derive(Clone)]
pub struct RevocationFeed {
    list: RevocationList,
    name: Arc<str>,
}

impl RevocationFeed {
    pub(super) const fn new(list: RevocationList, name: Arc<str>) -> Self {
        Self { list, name }
    }

    /// Puts the entries of the document in the place of those of the last one, in one step for whoever looks up. Entries that have ended
    /// are left out. How many are live.
    ///
    /// # Errors
    ///
    /// [`RevocationError`] when the document is not well formed, or its entries do not all fit beside those of the list's other sources;
    /// the entries of the last one then stay.
    pub fn replace(&self, document: &[u8], now: UnixTime) -> Result<usize, RevocationError> {
        self.list.replace(&self.name, &document::parse(document)?, now)
    }

    /// The list that is fed.
    #[must_use]
    pub const fn list(&self) -> &RevocationList {
        &self.list
    }
}

impl fmt::Debug for RevocationFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationFeed").field("name", &self.name).field("list", &self.list).finish()
    }
}
