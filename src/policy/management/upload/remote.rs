use async_trait::async_trait;
use bytes::Bytes;
use http::{
    Method, Request,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
};

use super::{Destination, UploadError};
use crate::policy::management::{Resource, Service};

/// A resource of a service that takes gzipped JSON arrays by `POST`.
pub(crate) struct Remote {
    pub(crate) service: Service,
    pub(crate) resource: Resource,
}

#[async_trait]
impl Destination for Remote {
    async fn take(&self, chunk: Bytes) -> Result<(), UploadError> {
        let mut request = Request::new(chunk);
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let name = self.service.name();
        let failed = |why: String| UploadError(format!("the service `{name}` {why}"));
        let answer = self.service.send(&self.resource, request, self.service.deadline(), MAX_ANSWER).await;
        let status = answer.map_err(|error| failed(format!("took nothing: {error}")))?.status();
        if status.is_success() {
            return Ok(());
        }
        let remedy = match status.as_u16() {
            401 | 403 => ": check its credential",
            404 | 405 => ": check address and resource",
            413 => ": lower the upload limit",
            _ => "",
        };
        Err(failed(format!("answered {status}{remedy}")))
    }
}

/// Nothing of it is read.
const MAX_ANSWER: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::Response;

    use super::*;
    use crate::outbound::Outbound;

    #[tokio::test]
    async fn a_chunk_is_posted_as_it_is_and_anything_but_a_success_is_an_error() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let outbound = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
            let status = request.body()[0];
            log.lock().unwrap().push(request);
            async move { Ok(Response::builder().status(200 + u16::from(status)).body(Bytes::new()).unwrap()) }
        }));
        let service = Service::builder("logs", "https://a.example/v1").with_bearer("s3cr3t").with_outbound(outbound);
        let service = service.build().unwrap();
        let resource = service.resource("r", "logs/part").unwrap();
        let remote = Remote { service, resource };
        for (more, said) in [
            (0, None),
            (4, None),
            (102, Some("answered 302")),
            (201, Some("credential")),
            (204, Some("address and resource")),
            (213, Some("limit")),
        ] {
            let taken = remote.take(Bytes::copy_from_slice(&[more])).await;
            assert_eq!(taken.is_ok(), said.is_none(), "{more}");
            let text = taken.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(text.contains(said.unwrap_or_default()) && !text.contains("s3cr3t"), "{text}");
        }
        let first = seen.lock().unwrap().remove(0);
        assert_eq!((first.method(), first.uri().to_string()), (&Method::POST, "https://a.example/v1/logs/part".into()));
        assert_eq!(first.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(first.headers()[CONTENT_TYPE], "application/json");
    }
}
