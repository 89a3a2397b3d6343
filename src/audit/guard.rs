use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body::Body;

use super::{
    Answer, Audit, Kind, Outcome, Phase,
    trail::{Ending, Shared},
};
use crate::denial::Denial;

/// Sees to it that a request leaves its record, however it ends. It exists before anything inside runs, goes along first in the
/// future and later in the body, and what was not said before is said when it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    trail: Arc<Shared>,
    phase: Phase,
    /// True while code of the inside runs. It stays true only when that code did not come back: it panicked.
    inside: bool,
    is_head: bool,
    answered: Option<Answer>,
    /// The length of the body, where it is known.
    length: Option<u64>,
    bytes: u64,
    complete: bool,
    failed: bool,
    written: Written,
}

/// What was written so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    /// The `request` record of a stream, whose end is to come.
    Head,
    Everything,
}

impl Guard {
    /// Puts a new trail into the request, and stands guard over it.
    pub(crate) fn new<B>(audit: &Audit, request: &mut Request<B>) -> Self {
        Self {
            is_head: request.method() == Method::HEAD,
            trail: Shared::open(audit, request),
            phase: Phase::Call,
            inside: false,
            answered: None,
            length: None,
            bytes: 0,
            complete: false,
            failed: false,
            written: Written::Nothing,
        }
    }

    /// Runs code of the inside. Should it panic, the guard knows when it is dropped, whoever catches the panic.
    pub(crate) fn watch<T>(&mut self, phase: Phase, inside: impl FnOnce() -> T) -> T {
        self.phase = phase;
        self.inside = true;
        let result = inside();
        self.inside = false;
        result
    }

    /// The inner call came back with a future that nobody polled yet.
    pub(crate) fn called(&mut self) {
        self.phase = Phase::Unpolled;
    }

    /// The head of the response is there. A response whose length nobody knows may stay open for days: its `request` record is
    /// written now.
    pub(crate) fn answered<B: Body>(&mut self, response: &Response<B>) {
        let status = response.status();
        self.answered = Some(Answer { http: status.as_u16(), grpc: grpc_status(response.headers()) });
        let (ended, size) =
            self.watch(Phase::Body, || (response.body().is_end_stream(), response.body().size_hint().exact()));
        let bodyless = self.is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // A refusal has no body yet: what it is rendered as is known when this one is dropped, so it is not written before.
        let refused = response.extensions().get::<Denial>().is_some();
        self.complete = ended || bodyless || refused;
        self.length = content_length(response.headers()).or(size);
        if self.complete || self.length.is_some() {
            self.trail.expect_no_end();
        } else {
            self.trail.emit(Kind::Request, Ending { outcome: None, phase: None, answered: self.answered, bytes: 0 });
            self.written = Written::Head;
        }
    }

    /// The inside gave a chunk of the body away.
    pub(crate) fn data(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// The inside gave the trailers away, which are always the end of a body.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(answered) = &mut self.answered {
            answered.grpc = grpc_status(trailers).or(answered.grpc);
        }
        self.complete = true;
    }

    /// The inside says that nothing more comes.
    pub(crate) fn ended(&mut self) {
        self.complete = true;
    }

    /// The inside gave an error instead of a response, or of the rest of one.
    pub(crate) fn failed(&mut self) {
        self.failed = true;
    }

    /// Writes what is still to be written.
    pub(crate) fn finish(&mut self) {
        let kind = match self.written {
            Written::Nothing => Kind::Request,
            Written::Head => Kind::End,
            Written::Everything => return,
        };
        self.written = Written::Everything;
        let outcome = if self.inside {
            Outcome::Panicked
        } else if !self.failed && (self.complete || (self.length == Some(self.bytes))) {
            Outcome::Complete
        } else {
            Outcome::Aborted
        };
        let phase = (outcome != Outcome::Complete).then_some(self.phase);
        let ending = Ending { outcome: Some(outcome), phase, answered: self.answered, bytes: self.bytes };
        self.trail.emit(kind, ending);
        self.trail.close();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.finish();
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
