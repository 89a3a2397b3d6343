use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tower_service::Service;

use super::{
    ResponseFuture,
    enforce::{Enforcement, guarded},
};
use crate::{
    audit::Trail,
    denial::Reason,
    layer::{refuse, rule::RuleMet},
    policy::{Decision, Permit, PolicyBackend, PolicyError},
    principal::Principal,
    route::Route,
    rules::PublicAccess,
};

/// Demands a permit of the policy. See the [module docs](super).
pub struct Authorize<S, P: ?Sized> {
    inner: S,
    backend: Arc<P>,
    enforcement: Arc<Enforcement>,
}

impl<S, P: ?Sized> Authorize<S, P> {
    pub(super) const fn new(inner: S, backend: Arc<P>, enforcement: Arc<Enforcement>) -> Self {
        Self { inner, backend, enforcement }
    }
}

impl<S, P, ReqBody, ResBody> Service<Request<ReqBody>> for Authorize<S, P>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    P: PolicyBackend + ?Sized,
    ResBody: Default,
{
    type Response = Response<ResBody>;
    type Error = S::Error;
    type Future = ResponseFuture<S, ReqBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let clone = self.inner.clone(); // `self.inner` is the one that was polled ready, so the clone stays behind
        let inner = mem::replace(&mut self.inner, clone);
        let trail = Trail::of(&request);
        let pass = Pass { inner, request, trail, enforcement: Arc::clone(&self.enforcement) };
        let input = match pass.enforcement.check_rule(&pass.request) {
            Ok(RuleMet::Public(public)) => return pass.forward(Proof::Public(public)),
            Ok(RuleMet::Scope(_) | RuleMet::ScopeAndTenant(..) | RuleMet::PolicyDecides(_)) => {
                pass.enforcement.question(&pass.request)
            }
            Err(reason) => Err(reason),
        };
        let input = match input {
            Ok(input) => input,
            Err(reason) => return pass.refuse(&reason),
        };
        match guarded(|| self.backend.decide_now(&input)) {
            Ok(Some(outcome)) => pass.settle(outcome),
            Ok(None) => match guarded(|| Arc::clone(&self.backend).decide(input)) {
                Ok(deciding) => ResponseFuture::deciding(pass, deciding),
                Err(panicked) => pass.settle(Err(panicked)),
            },
            Err(panicked) => pass.settle(Err(panicked)),
        }
    }
}

/// What lets a request pass: nothing else opens [`Pass::forward`].
enum Proof {
    Public(PublicAccess),
    Permitted(Permit),
}

/// A request at the gate, and the service behind it.
pub(super) struct Pass<S, B> {
    inner: S,
    request: Request<B>,
    trail: Trail,
    enforcement: Arc<Enforcement>,
}

impl<S, ReqBody, ResBody> Pass<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Default,
{
    pub(super) fn settle(self, outcome: Result<Decision, PolicyError>) -> ResponseFuture<S, ReqBody> {
        match self.enforcement.enforce(outcome, &self.trail) {
            Ok(permit) => self.forward(Proof::Permitted(permit)),
            Err(Reason::Policy(refusal)) if self.is_anonymous() => self.refuse(&Reason::Anonymous(refusal)),
            Err(reason) => self.refuse(&reason),
        }
    }

    fn is_anonymous(&self) -> bool {
        self.request.extensions().get::<Principal>().is_some_and(Principal::is_anonymous)
    }

    fn forward(mut self, proof: Proof) -> ResponseFuture<S, ReqBody> {
        let extensions = self.request.extensions_mut();
        match proof {
            Proof::Public(_) => drop(extensions.remove::<Permit>()),
            Proof::Permitted(permit) => drop(extensions.insert(permit)),
        }
        self.trail.admitted();
        ResponseFuture::forwarding(self.inner.call(self.request))
    }

    fn refuse(&self, reason: &Reason) -> ResponseFuture<S, ReqBody> {
        let route = self.request.extensions().get::<Route>();
        ResponseFuture::refused(refuse(reason, route, &self.trail))
    }
}

impl<S: Clone, P: ?Sized> Clone for Authorize<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            backend: Arc::clone(&self.backend),
            enforcement: Arc::clone(&self.enforcement),
        }
    }
}

impl<S: fmt::Debug, P: ?Sized> fmt::Debug for Authorize<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Future, pending, poll_fn},
        pin::{Pin, pin},
        sync::Mutex,
        task::Waker,
        time::Duration,
    };

    use http::{Method, StatusCode};
    use serde_json::Map;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{
        denial::{Class, Denial, Protocol, RequestContext},
        layer::{
            AuthorizeLayer,
            probe::{Behaviour, Probe, assert_tower_contract, principal, send},
        },
        policy::{Obligation, PolicyInput, PolicyRevision, dangerous_allow_all, deny_all},
        principal::Principal,
        route::RouteKey,
        rules::{Rules, policy_only, public, scopes},
        scope::all_of,
        time::{Clock, UnixTime},
    };

    type Deciding = Pin<Box<dyn Future<Output = Result<Decision, PolicyError>> + Send>>;

    /// A backend of two closures: at once, and later.
    struct Stub<N, L>(N, L);

    impl<N, L> PolicyBackend for Stub<N, L>
    where
        N: Fn(&PolicyInput) -> Option<Result<Decision, PolicyError>> + Send + Sync + 'static,
        L: Fn(PolicyInput) -> Deciding + Send + Sync + 'static,
    {
        fn decide<'a>(
            self: Arc<Self>,
            input: PolicyInput,
        ) -> Pin<Box<dyn Future<Output = Result<Decision, PolicyError>> + Send + 'a>>
        where
            Self: 'a,
        {
            (self.1)(input)
        }

        fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
            (self.0)(input)
        }
    }

    fn now(
        decide: impl Fn(&PolicyInput) -> Result<Decision, PolicyError> + Send + Sync + 'static,
    ) -> Arc<dyn PolicyBackend> {
        Arc::new(Stub(move |input: &PolicyInput| Some(decide(input)), |_| -> Deciding { panic!("answered at once") }))
    }

    fn later(decide: impl Fn(PolicyInput) -> Deciding + Send + Sync + 'static) -> Arc<dyn PolicyBackend> {
        Arc::new(Stub(|_: &PolicyInput| None, decide))
    }

    fn allow() -> Decision {
        Decision::allow(PolicyRevision::new("r1"))
    }

    fn request(template: &str, principal: Option<Principal>) -> Request<()> {
        let rules = Rules::new()
            .get("/jobs", policy_only())
            .get("/scoped", scopes(all_of(["jobs:read"])))
            .get("/public", public("test"))
            .get("/hidden", policy_only().concealed())
            .into_table()
            .unwrap();
        let key = RouteKey::Http { method: Method::GET, template: template.into() };
        let mut request = Request::new(());
        request.extensions_mut().insert(Route::matched(&rules, key));
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        request
    }

    fn ask(backend: &Arc<dyn PolicyBackend>, request: Request<()>) -> (Option<Class>, usize) {
        ask_layer(&AuthorizeLayer::new(Arc::clone(backend)), request)
    }

    fn ask_layer(layer: &AuthorizeLayer<dyn PolicyBackend>, request: Request<()>) -> (Option<Class>, usize) {
        let probe = Probe::answering();
        let response = send(&mut layer.layer(probe.clone()), request).unwrap();
        let class = response.extensions().get::<Denial>().map(Denial::class);
        assert_eq!(response.status(), class.map_or(StatusCode::OK, Class::http_status));
        (class, probe.calls())
    }

    #[test]
    fn the_layer_keeps_the_tower_contract() {
        let at_once = AuthorizeLayer::new(Arc::new(dangerous_allow_all()));
        assert_tower_contract(|probe| at_once.layer(probe), || request("/jobs", Some(principal(""))));
        let waiting = AuthorizeLayer::new(later(|_| Box::pin(async { Ok(allow()) })));
        assert_tower_contract(|probe| waiting.layer(probe), || request("/jobs", Some(principal(""))));
    }

    #[test]
    fn only_an_allow_reaches_the_handler_and_it_finds_the_permit() {
        let probe = Probe::answering();
        let layer = AuthorizeLayer::new(Arc::new(dangerous_allow_all()));
        send(&mut layer.layer(probe.clone()), request("/jobs", Some(principal("")))).unwrap();
        assert_eq!(probe.last().extensions.get::<Permit>().unwrap().revision().as_str(), "dangerous_allow_all");
        let denials: [(&str, Arc<dyn PolicyBackend>, &str, Class); 6] = [
            ("deny", Arc::new(deny_all()), "/jobs", Class::Forbidden),
            ("deny, concealed", Arc::new(deny_all()), "/hidden", Class::Concealed),
            ("undefined", now(|_| Ok(Decision::undefined(PolicyRevision::new("r")))), "/hidden", Class::Concealed),
            ("unreachable", now(|_| Err(PolicyError::unavailable("down"))), "/jobs", Class::Unavailable),
            ("no decision", now(|_| Err(PolicyError::invalid_result("null"))), "/hidden", Class::Unavailable),
            (
                "too slow",
                later(|_| Box::pin(async { Err(PolicyError::timeout("250 ms")) })),
                "/jobs",
                Class::Unavailable,
            ),
        ];
        for (name, backend, template, class) in denials {
            assert_eq!(ask(&backend, request(template, Some(principal("")))), (Some(class), 0), "{name}");
        }
    }

    #[test]
    fn a_public_route_lives_without_principal_and_policy() {
        let backend = now(|_| panic!("asked about a public route"));
        assert_eq!(ask(&backend, request("/public", None)), (None, 1));
    }

    #[test]
    fn what_an_earlier_layer_owes_is_demanded_before_the_policy() {
        let backend = now(|_| panic!("asked too early"));
        let mut without_route = request("/jobs", Some(principal("")));
        without_route.extensions_mut().remove::<Route>();
        let cases = [
            ("no RouteLayer", without_route, Class::Internal),
            ("no AuthenticateLayer", request("/jobs", None), Class::Internal),
            ("no rule", request("/unlisted", Some(principal("jobs:read"))), Class::Concealed),
            ("no RequireScopeLayer", request("/scoped", Some(principal("jobs:write"))), Class::Forbidden),
        ];
        for (name, request, class) in cases {
            assert_eq!(ask(&backend, request), (Some(class), 0), "{name}");
        }
    }

    #[test]
    fn a_panicking_backend_is_an_internal_error_wherever_it_panics() {
        let backends = [
            ("decide_now", now(|_| panic!("now"))),
            ("decide", later(|_| panic!("making the future"))),
            ("the future", later(|_| Box::pin(async { panic!("polling it") }))),
        ];
        for (name, backend) in backends {
            assert_eq!(ask(&backend, request("/jobs", Some(principal("")))), (Some(Class::Internal), 0), "{name}");
        }
    }

    #[test]
    fn an_allow_holds_only_with_every_obligation_fulfilled() {
        let backend = now(|_| Ok(allow().add_obligation("notify", Map::new()).add_obligation("mask", Map::new())));
        let layer = AuthorizeLayer::new(backend).with_obligation("notify", |obligation| &*obligation.id == "notify");
        let cases = [
            ("no handler", layer.clone(), Some(Class::Forbidden)),
            ("not fulfilled", layer.clone().with_obligation("mask", |_| false), Some(Class::Forbidden)),
            (
                "panics",
                layer.clone().with_obligation("mask", |_: &Obligation| panic!("handler")),
                Some(Class::Internal),
            ),
            ("fulfilled", layer.with_obligation("mask", |_| true), None),
        ];
        for (name, layer, class) in cases {
            let calls = usize::from(class.is_none());
            assert_eq!(ask_layer(&layer, request("/jobs", Some(principal("")))), (class, calls), "{name}");
        }
    }

    #[test]
    fn enrichments_add_to_the_question_one_after_the_other() {
        let backend = now(|input| {
            let seen = (&input.context.attributes, &input.resource.properties.attributes, &*input.action.name);
            let owner = serde_json::json!({"owner": "ada", "of": "GET /jobs"});
            let expected =
                (owner.as_object().unwrap(), &Map::from_iter([("tier".to_owned(), "gold".into())]), "jobs.list");
            Ok(if seen == expected { allow() } else { Decision::deny(PolicyRevision::new("r1")) })
        });
        let layer = AuthorizeLayer::new(backend)
            .add_enrichment(|head, input| {
                let owner = head.headers().get("x-owner").ok_or("no owner")?.to_str()?;
                input.context.attributes.insert("owner".to_owned(), owner.into());
                Ok(())
            })
            .add_enrichment(|head, input| {
                assert!(input.context.attributes.contains_key("owner"));
                let route = head.extensions().get::<Route>().and_then(Route::key).ok_or("no route")?;
                input
                    .context
                    .attributes
                    .insert("of".to_owned(), format!("{} {}", head.method(), route.template()).into());
                Ok(())
            });
        let rule = policy_only().with_action("jobs.list").add_attribute("tier", "gold");
        let rules = Rules::new().get("/jobs", rule).into_table().unwrap();
        let mut request = request("/jobs", Some(principal("")));
        let key = RouteKey::Http { method: Method::GET, template: "/jobs".into() };
        request.extensions_mut().insert(Route::matched(&rules, key));
        request.headers_mut().insert("x-owner", "ada".parse().unwrap());
        assert_eq!(ask_layer(&layer, request), (None, 1));
    }

    #[test]
    fn half_a_question_is_not_asked() {
        let layer = AuthorizeLayer::new(now(|_| panic!("asked with half a question")));
        let failing = layer.clone().add_enrichment(|_, _| Err("the database is away".into()));
        let panicking = layer.add_enrichment(|_, _| panic!("a bug"));
        let ask = |layer| ask_layer(&layer, request("/jobs", Some(principal(""))));
        assert_eq!(ask(failing), (Some(Class::Unavailable), 0));
        assert_eq!(ask(panicking), (Some(Class::Internal), 0));
    }

    #[test]
    fn a_caller_that_hangs_up_while_the_policy_decides_reaches_nobody() {
        let dropped = Arc::new(Mutex::new(false));
        struct Flag(Arc<Mutex<bool>>);
        impl Drop for Flag {
            fn drop(&mut self) {
                *self.0.lock().unwrap() = true;
            }
        }
        let flag = Arc::clone(&dropped);
        let backend = later(move |_| {
            let flag = Flag(Arc::clone(&flag));
            Box::pin(async move {
                let _flag = flag;
                pending().await
            })
        });
        let probe = Probe::new(Behaviour::Answer);
        let mut service = AuthorizeLayer::new(backend).layer(probe.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert!(Service::<Request<()>>::poll_ready(&mut service, &mut context).is_ready());
        {
            let mut future = pin!(service.call(request("/jobs", Some(principal("")))));
            assert!(future.as_mut().poll(&mut context).is_pending());
        }
        assert!(*dropped.lock().unwrap());
        assert_eq!(probe.calls(), 0);
    }

    #[test]
    fn a_decision_that_comes_later_is_carried_out_with_the_ready_service() {
        let backend = later(|_| {
            let mut turns = 2;
            Box::pin(poll_fn(move |_| {
                turns -= 1;
                if turns == 0 { Poll::Ready(Ok(allow())) } else { Poll::Pending }
            }))
        });
        let probe = Probe::answering();
        let mut service = AuthorizeLayer::new(backend).layer(probe.clone());
        let mut context = Context::from_waker(Waker::noop());
        assert!(Service::<Request<()>>::poll_ready(&mut service, &mut context).is_ready());
        let mut future = pin!(service.call(request("/jobs", Some(principal("")))));
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
        assert_eq!(probe.calls(), 1);
    }

    #[test]
    fn the_question_holds_ids_time_and_named_headers_and_no_credentials() {
        struct Noon;
        impl Clock for Noon {
            fn now(&self) -> UnixTime {
                UnixTime::from_duration(Duration::from_nanos(1_800_000_000_000_000_007))
            }
        }
        let seen = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&seen);
        let backend = now(move |input| {
            *keep.lock().unwrap() = Some(input.clone());
            Ok(allow())
        });
        let layer = AuthorizeLayer::new(backend).with_clock(Noon).with_input_headers(["x-tier"]).unwrap();
        let mut request = request("/jobs", Some(principal("")));
        let context = RequestContext::new(Protocol::Http, Method::GET);
        request.extensions_mut().insert(context.clone());
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (name, value) in [("authorization", "Bearer s3cret"), ("x-tier", "gold"), ("traceparent", trace)] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(ask_layer(&layer, request), (None, 1));
        let input = seen.lock().unwrap().take().unwrap();
        assert_eq!(input.context.request_id, context.request_id().as_str());
        assert_eq!(input.context.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(input.context.time_ns, 1_800_000_000_000_000_007);
        assert_eq!(input.context.headers["x-tier"], ["gold"]);
        assert!(!serde_json::to_string(&input).unwrap().contains("s3cret"));
    }
}
