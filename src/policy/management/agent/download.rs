//! One request for a bundle, and what its answer is.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, StatusCode,
    header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};

use super::source::Feed;
use crate::policy::management::ServiceError;

pub(super) enum Answer {
    /// What is there has the entity tag that was sent.
    NotModified,
    Bundle {
        archive: Bytes,
        etag: Option<HeaderValue>,
        keeps_requests: bool,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("the bundle could not be had: {0}")]
    Exchange(#[from] ServiceError),
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// Nothing can be unmodified of which we have nothing.
    #[error("the server answered that a bundle which it never sent is unchanged")]
    Nothing,
}

impl Feed {
    /// Asks for a bundle with another entity tag than this one. `wait` lets the server keep the request until it has one.
    pub(super) async fn download(
        &self,
        etag: Option<HeaderValue>,
        wait: Option<Duration>,
    ) -> Result<Answer, DownloadError> {
        let mut request = Request::new(Bytes::new());
        let is_conditional = etag.is_some();
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_NONE_MATCH, etag);
        }
        // Never deltas: they are not signed.
        let prefer = wait.map(|wait| format!("modes=snapshot;wait={}", wait.as_secs()));
        let prefer = prefer.and_then(|prefer| HeaderValue::try_from(prefer).ok());
        request.headers_mut().insert(PREFER, prefer.unwrap_or(HeaderValue::from_static("modes=snapshot")));
        let deadline = self.service.deadline() + wait.unwrap_or_default();
        let answer = self.service.send(&self.resource, request, deadline, self.limits.compressed()).await?;
        match answer.status() {
            StatusCode::OK => {
                let (head, archive) = answer.into_parts();
                let keeps_requests = head.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == BUNDLES);
                let etag = head.headers.get(ETAG).filter(|etag| (1..=MAX_ETAG).contains(&etag.len())).cloned();
                Ok(Answer::Bundle { archive, etag, keeps_requests })
            }
            StatusCode::NOT_MODIFIED if is_conditional => Ok(Answer::NotModified),
            StatusCode::NOT_MODIFIED => Err(DownloadError::Nothing),
            status => Err(DownloadError::Status(status)),
        }
    }
}

impl DownloadError {
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Status(status) => Some(*status),
            Self::Nothing => Some(StatusCode::NOT_MODIFIED),
            Self::Exchange(_) => None,
        }
    }
}

const PREFER: HeaderName = HeaderName::from_static("prefer");
const BUNDLES: &str = "application/vnd.openpolicyagent.bundles";
/// What is sent back with every request.
const MAX_ETAG: usize = 1_024;
