//! An inner service for the tests of the layers: it remembers what it was given, and that it was ready.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::Full;
use tower_service::Service;

use crate::{
    principal::{Authentication, IssuerId, Principal, PrincipalKind, Proof, Subject, TenantId, Thumbprint},
    scope::Scope,
};

pub(crate) type Body = Full<Bytes>;

/// Panics when it is called without having been polled ready itself: clones start out unready.
pub(crate) struct Probe {
    ready: bool,
    behaviour: Behaviour,
    seen: Arc<Seen>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Answer,
    Fail,
    Hang,
    NeverReady,
    PanicInCall,
    PanicInPoll,
}

#[derive(Default)]
struct Seen {
    calls: AtomicUsize,
    dropped: AtomicUsize,
    last: Mutex<Option<Parts>>,
}

impl Probe {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self { ready: false, behaviour, seen: Arc::default() }
    }

    pub(crate) fn answering() -> Self {
        Self::new(Behaviour::Answer)
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::Relaxed)
    }

    /// How many of its futures were dropped.
    pub(crate) fn dropped(&self) -> usize {
        self.seen.dropped.load(Ordering::Relaxed)
    }

    /// The head of the last request that reached it.
    pub(crate) fn last(&self) -> Parts {
        self.seen.last.lock().unwrap().take().expect("no request reached the inner service")
    }
}

impl Clone for Probe {
    fn clone(&self) -> Self {
        Self { ready: false, behaviour: self.behaviour, seen: Arc::clone(&self.seen) }
    }
}

impl Service<Request<()>> for Probe {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self.behaviour {
            Behaviour::NeverReady => Poll::Pending,
            Behaviour::Fail if self.calls() > 0 => Poll::Ready(Err("not ready")),
            _ => {
                self.ready = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    fn call(&mut self, request: Request<()>) -> Answer {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        assert!(self.behaviour != Behaviour::PanicInCall, "panic in call");
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        *self.seen.last.lock().unwrap() = Some(request.into_parts().0);
        Answer { behaviour: self.behaviour, seen: Arc::clone(&self.seen) }
    }
}

pub(crate) struct Answer {
    behaviour: Behaviour,
    seen: Arc<Seen>,
}

impl Future for Answer {
    type Output = Result<Response<Body>, &'static str>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match self.behaviour {
            Behaviour::Fail => Poll::Ready(Err("inner error")),
            Behaviour::Hang => Poll::Pending,
            Behaviour::PanicInPoll => panic!("panic in poll"),
            _ => Poll::Ready(Ok(Response::builder()
                .header("x-request-id", "forged")
                .header("x-inner", "1")
                .body(Body::from("from inside"))
                .unwrap())),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.seen.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// One request through the service, which must answer without waiting.
pub(crate) fn send<S, B>(service: &mut S, request: Request<()>) -> Result<Response<B>, S::Error>
where
    S: Service<Request<()>, Response = Response<B>>,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(service.poll_ready(&mut context), Poll::Ready(Ok(()))));
    match std::pin::pin!(service.call(request)).poll(&mut context) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("the service waits"),
    }
}

/// What every layer owes Tower: readiness and errors pass through, and dropping the future drops the inner one.
pub(crate) fn assert_tower_contract<S, B>(wrap: impl Fn(Probe) -> S, request: impl Fn() -> Request<()>)
where
    S: Service<Request<()>, Response = Response<B>, Error = &'static str> + Clone,
{
    let mut context = Context::from_waker(Waker::noop());
    assert!(wrap(Probe::new(Behaviour::NeverReady)).poll_ready(&mut context).is_pending());

    let probe = Probe::new(Behaviour::Fail);
    let mut service = wrap(probe.clone());
    assert_eq!(send(&mut service, request()).err(), Some("inner error"));
    assert!(matches!(service.poll_ready(&mut context), Poll::Ready(Err("not ready"))));

    let probe = Probe::answering();
    let mut service = wrap(probe.clone());
    for calls in 1..=3 {
        assert!(send(&mut service, request()).is_ok());
        assert!(send(&mut service.clone(), request()).is_ok());
        assert_eq!(probe.calls(), 2 * calls);
    }

    let probe = Probe::new(Behaviour::Hang);
    let mut service = wrap(probe.clone());
    assert!(service.poll_ready(&mut context).is_ready());
    {
        let mut future = std::pin::pin!(service.call(request()));
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert_eq!((probe.calls(), probe.dropped()), (1, 0));
    }
    assert_eq!(probe.dropped(), 1);
}

/// Keeps `Ready` futures nameable in tests that need an inner service without state.
pub(crate) fn answered<B>(response: Response<B>) -> Ready<Result<Response<B>, &'static str>> {
    ready(Ok(response))
}

/// Somebody with a verified token of this scope.
pub(crate) fn principal(scope: &str) -> Principal {
    tenant_principal(scope, None)
}

pub(crate) fn tenant_principal(scope: &str, tenant: Option<&str>) -> Principal {
    Principal::from_check(crate::principal::Parts {
        kind: PrincipalKind::Client,
        issuer: Some(IssuerId::new("https://id.example")),
        subject: Some(Subject::new("someone")),
        user_id: None,
        client: None,
        tenant: tenant.map(TenantId::new),
        scope: Scope::parse(scope).unwrap(),
        permissions: Vec::new(),
        roles: Vec::new(),
        actors: Vec::new(),
        confirmation: None,
        authentication: Authentication::default(),
        proof: Proof::Token(Thumbprint::new("thumbprint")),
    })
}
