use http::HeaderValue;

use crate::time::UnixTime;

/// What is known of one bundle. Numbers, and texts for operators: nothing in it is secret.
///
/// | Watch | Because |
/// | --- | --- |
/// | `error` | the newest bundle is refused, or cannot be had: what serves is older than what was published |
/// | `last_successful_request` falling behind | changes of the policy do not arrive |
/// | `active_revision` differing between replicas | they decide differently |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleStatus {
    /// Its configured name.
    pub name: String,
    /// The revision that decides; `None` before there is one.
    pub active_revision: Option<String>,
    /// When that was put in force.
    pub last_successful_activation: Option<UnixTime>,
    /// When a bundle came that could be read and verified.
    pub last_successful_download: Option<UnixTime>,
    /// When the server last sent a bundle, or said that there is no newer one.
    pub last_successful_request: Option<UnixTime>,
    /// When the server was last asked.
    pub last_request: Option<UnixTime>,
    /// How large the last bundle was that came, in bytes as it is sent.
    pub size: Option<usize>,
    /// The status of the last answer; `None` when there was none.
    pub http_code: Option<u16>,
    /// What is wrong, until it no longer is.
    pub error: Option<BundleFailure>,
    /// Requests so far.
    pub requests: u64,
    /// Requests so far without an answer, or with one that is no bundle.
    pub failed_requests: u64,
    /// Bundles put in force so far.
    pub activations: u64,
    /// Bundles refused so far.
    pub refusals: u64,
    /// Bundles that could not be kept on disk so far.
    pub unsaved: u64,
}

/// Why a bundle is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BundleFailure {
    /// The stable name: `request` without an answer, `http` for one that is no bundle, `disk`, `waiting` for the other bundles, `activation` for
    /// what the policy engine refuses, else that of the [`BundleErrorKind`](crate::policy::bundle::BundleErrorKind).
    pub code: &'static str,
    /// What is wrong, in which file and line, and what to do. For operators.
    pub message: String,
}

/// A status, and what the next request needs.
pub(super) struct Record {
    pub(super) status: BundleStatus,
    /// Of the bundle that is in force, or of one that waits for others.
    pub(super) etag: Option<HeaderValue>,
    /// The server keeps requests until it has something new.
    pub(super) keeps_requests: bool,
    /// When the server last confirmed what is in force, in milliseconds on the steady clock.
    pub(super) confirmed: Option<i64>,
    /// What was said in the log last.
    logged: Option<BundleFailure>,
}

impl Record {
    pub(super) fn new(name: &str, keeps_requests: bool) -> Self {
        let status = BundleStatus {
            name: name.to_owned(),
            active_revision: None,
            last_successful_activation: None,
            last_successful_download: None,
            last_successful_request: None,
            last_request: None,
            size: None,
            http_code: None,
            error: None,
            requests: 0,
            failed_requests: 0,
            activations: 0,
            refusals: 0,
            unsaved: 0,
        };
        Self { status, etag: None, keeps_requests, confirmed: None, logged: None }
    }

    /// Notes what is wrong. A line in the log for each change, not for each repetition.
    pub(super) fn failed(&mut self, code: &'static str, mut message: String) {
        // The bundle's author has a part in it.
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let failure = BundleFailure { code, message };
        if self.logged.as_ref() != Some(&failure) {
            tracing::warn!(
                bundle = self.status.name,
                code,
                serving = self.status.active_revision,
                "a bundle is not in force: {}",
                failure.message
            );
            self.logged = Some(failure.clone());
        }
        self.status.error = Some(failure);
    }

    pub(super) fn recovered(&mut self) {
        if self.status.error.take().is_some() && self.logged.take().is_some() {
            tracing::info!(bundle = self.status.name, "the bundle is as it should be again");
        }
    }
}

const MAX_MESSAGE: usize = 2_048;
