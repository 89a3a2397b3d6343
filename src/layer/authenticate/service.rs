use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header::AUTHORIZATION};
use tower_service::Service;

use super::{ResponseFuture, future::Verifying};
use crate::{
    audit::Trail,
    denial::Reason,
    layer::refuse,
    policy::Permit,
    principal::Principal,
    route::Route,
    rules::{Demand, PublicAccess},
    time::Clock,
    token::{AccessToken, Refused, VerifiedToken, Verifier},
};

/// Demands a bearer token that verifies. See the [module docs](super).
#[derive(Clone)]
pub struct Authenticate<S> {
    inner: S,
    verifier: Verifier,
    clock: Arc<dyn Clock>,
}

impl<S> Authenticate<S> {
    pub(super) const fn new(inner: S, verifier: Verifier, clock: Arc<dyn Clock>) -> Self {
        Self { inner, verifier, clock }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Authenticate<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
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
        let route = request.extensions().get::<Route>().cloned();
        let pass = Pass { inner, request, trail, route };
        match Credentials::of(&pass.request, pass.route.as_ref()) {
            Ok(Credentials::NotRead(public)) => pass.forward(Proof::Public(public)),
            Ok(Credentials::Absent(anonymous)) => pass.forward(Proof::Anonymous(anonymous)),
            Ok(Credentials::Token(token)) => {
                let now = self.clock.now();
                match self.verifier.answer_now(&token, now) {
                    Some(outcome) => pass.settle(outcome),
                    None => ResponseFuture::verifying(pass, Verifying::new(self.verifier.clone(), token, now)),
                }
            }
            Err(reason) => pass.refuse(&reason),
        }
    }
}

/// What a request shows for itself.
enum Credentials {
    NotRead(PublicAccess),
    Absent(Principal),
    Token(AccessToken),
}

impl Credentials {
    fn of<B>(request: &Request<B>, route: Option<&Route>) -> Result<Self, Reason> {
        let rule = route.and_then(Route::rule);
        if let Some(public) = rule.and_then(|rule| rule.public_access()) {
            return Ok(Self::NotRead(public));
        }
        match AccessToken::from_headers(request.headers()) {
            Ok(Some(token)) => Ok(Self::Token(token)),
            Ok(None) if rule.is_some_and(|rule| *rule.demand() == Demand::Optional) => {
                Ok(Self::Absent(Principal::anonymous()))
            }
            // Also where no route or no rule matched: who may not ask learns nothing about routes.
            Ok(None) => Err(Reason::MissingCredentials),
            Err(error) => Err(Reason::MalformedCredentials(error)),
        }
    }
}

/// What lets a request pass: nothing else opens [`Pass::forward`].
enum Proof {
    Public(PublicAccess),
    Anonymous(Principal),
    Verified(VerifiedToken),
}

/// A request at the gate, and the service behind it.
pub(super) struct Pass<S, B> {
    inner: S,
    request: Request<B>,
    trail: Trail,
    route: Option<Route>,
}

impl<S, ReqBody, ResBody> Pass<S, ReqBody>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: Default,
{
    pub(super) fn settle(self, outcome: Result<VerifiedToken, Refused>) -> ResponseFuture<S, ReqBody> {
        match outcome {
            Ok(token) => self.forward(Proof::Verified(token)),
            Err(Refused { error, claimed }) => {
                self.trail.presented(claimed);
                self.refuse(&Reason::Token(error))
            }
        }
    }

    fn forward(mut self, proof: Proof) -> ResponseFuture<S, ReqBody> {
        let recorded = match &proof {
            Proof::Public(PublicAccess { .. }) => self.trail.public(),
            Proof::Anonymous(principal) => self.trail.authenticated(principal, None),
            Proof::Verified(token) => self.trail.authenticated(token.principal(), Some(token)),
        };
        if let Err(reason) = recorded {
            return self.refuse(&reason);
        }
        // What stood here before was put there by an outer stack: it proves nothing about this one.
        let extensions = self.request.extensions_mut();
        extensions.remove::<Principal>();
        extensions.remove::<VerifiedToken>();
        extensions.remove::<Permit>();
        extensions.remove::<PublicAccess>();
        match proof {
            Proof::Public(public) => {
                extensions.insert(public);
            }
            Proof::Anonymous(principal) => {
                extensions.insert(principal);
            }
            Proof::Verified(token) => {
                extensions.insert(token.principal().clone());
                extensions.insert(token);
            }
        }
        // A handler that prints its request prints `Sensitive` instead of the token.
        for (name, value) in self.request.headers_mut() {
            if *name == AUTHORIZATION {
                value.set_sensitive(true);
            }
        }
        ResponseFuture::forwarding(self.inner.call(self.request))
    }

    fn refuse(&self, reason: &Reason) -> ResponseFuture<S, ReqBody> {
        ResponseFuture::refused(refuse(reason, self.route.as_ref(), &self.trail))
    }
}

impl<S: fmt::Debug> fmt::Debug for Authenticate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticate").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Waker, time::Duration};

    use http::{HeaderValue, Method, StatusCode};
    use serde_json::{Value, json};
    use tokio::sync::Semaphore;
    use tower_layer::Layer as _;

    use super::*;
    use crate::{
        denial::{Class, Denial},
        key::{KeyError, KeySource, LoadRequest, LoadedKeys},
        layer::{
            AuthenticateLayer,
            probe::{Behaviour, Probe, assert_tower_contract, principal, send},
        },
        route::RouteKey,
        rules::{Rules, optional, policy_only, public},
        time::UnixTime,
        token::{
            Issuer,
            test_tokens::{NOW, now, public_keys, token},
        },
    };

    const UNSENT: Option<Class> = Some(Class::Unauthenticated { credentials_sent: false });
    const SENT: Option<Class> = Some(Class::Unauthenticated { credentials_sent: true });

    struct Frozen;

    impl Clock for Frozen {
        fn now(&self) -> UnixTime {
            now()
        }
    }

    fn issuer() -> Issuer {
        Issuer::oauth("https://id.example", "https://api.example")
    }

    fn layer() -> AuthenticateLayer {
        let verifier = Verifier::builder(issuer().with_keys(public_keys())).build().unwrap();
        AuthenticateLayer::new(verifier).with_clock(Frozen)
    }

    fn bearer(changes: Value) -> String {
        let claims = json!({"iss": "https://id.example", "aud": "https://api.example", "sub": "ada", "exp": NOW + 60, "iat": NOW});
        let token = token(&crate::token::test_tokens::with(&claims, changes));
        format!("Bearer {}", std::str::from_utf8(token.as_bytes()).unwrap())
    }

    fn good() -> String {
        bearer(json!({}))
    }

    fn request(template: &str, authorization: &[&str]) -> Request<()> {
        let rules = Rules::new()
            .get("/jobs", policy_only())
            .get("/optional", optional())
            .get("/public", public("test"))
            .into_table()
            .unwrap();
        let mut request = Request::new(());
        match template {
            "no route" => {}
            "" => drop(request.extensions_mut().insert(Route::unmatched(&rules))),
            _ => {
                let key = RouteKey::Http { method: Method::GET, template: template.into() };
                request.extensions_mut().insert(Route::matched(&rules, key));
            }
        }
        for line in authorization {
            request.headers_mut().append(AUTHORIZATION, HeaderValue::try_from(*line).unwrap());
        }
        request
    }

    #[test]
    fn the_layer_keeps_the_tower_contract() {
        let authorization = good();
        assert_tower_contract(|probe| layer().layer(probe), || request("/jobs", &[&authorization]));
    }

    #[test]
    fn the_rule_says_whether_a_token_is_read_and_demanded() {
        let (good, expired) = (good(), bearer(json!({"exp": NOW - 60})));
        let cases: [(&str, &str, &[&str], Option<Class>); 15] = [
            ("good", "/jobs", &[&good], None),
            ("absent", "/jobs", &[], UNSENT),
            ("expired", "/jobs", &[&expired], SENT),
            ("no form of token", "/jobs", &["Bearer x"], SENT),
            ("malformed", "/jobs", &["Bearer a,b"], Some(Class::Malformed)),
            ("twice", "/jobs", &[&good, &good], Some(Class::Malformed)),
            ("optional, good", "/optional", &[&good], None),
            ("optional, absent", "/optional", &[], None),
            ("optional, expired", "/optional", &[&expired], SENT),
            ("optional, twice", "/optional", &[&good, &good], Some(Class::Malformed)),
            ("public, twice", "/public", &["Bearer a,b", &expired], None),
            ("no rule, absent", "/unlisted", &[], UNSENT),
            ("unmatched, absent", "", &[], UNSENT),
            ("without rules, absent", "no route", &[], UNSENT),
            ("without rules, good", "no route", &[&good], None),
        ];
        for (name, template, authorization, refused) in cases {
            let probe = Probe::answering();
            let response = send(&mut layer().layer(probe.clone()), request(template, authorization)).unwrap();
            assert_eq!(response.extensions().get::<Denial>().map(Denial::class), refused, "{name}");
            assert_eq!(response.status(), refused.map_or(StatusCode::OK, Class::http_status), "{name}");
            assert_eq!(probe.calls(), usize::from(refused.is_none()), "{name}");
        }
    }

    #[test]
    fn what_an_outer_layer_left_in_the_request_proves_nothing() {
        let verified = {
            let probe = Probe::answering();
            send(&mut layer().layer(probe.clone()), request("/jobs", &[&good()])).unwrap();
            probe.last().extensions.remove::<VerifiedToken>().unwrap()
        };
        let permit = crate::policy::Decision::allow(crate::policy::PolicyRevision::new("r")).enforce(|_| true).unwrap();
        for (template, authorization, subject, has_token) in [
            ("/jobs", vec![good()], Some(Some("ada")), true),
            ("/optional", vec![], Some(None), false),
            ("/public", vec![good()], None, false),
        ] {
            let probe = Probe::answering();
            let mut request = request(template, &authorization.iter().map(String::as_str).collect::<Vec<_>>());
            request.extensions_mut().insert(principal("everything"));
            request.extensions_mut().insert(verified.clone());
            request.extensions_mut().insert(permit.clone());
            send(&mut layer().layer(probe.clone()), request).unwrap();
            let seen = probe.last().extensions;
            let actual = seen.get::<Principal>().map(|principal| principal.subject().map(|subject| subject.as_str()));
            assert_eq!(actual, subject, "{template}");
            assert_eq!(seen.get::<VerifiedToken>().is_some(), has_token, "{template}");
            assert!(seen.get::<Permit>().is_none(), "{template}");
        }
    }

    #[test]
    fn a_handler_that_prints_its_request_prints_no_token() {
        for template in ["/jobs", "/public"] {
            let probe = Probe::answering();
            send(&mut layer().layer(probe.clone()), request(template, &[&good()])).unwrap();
            let headers = probe.last().headers;
            assert!(headers.contains_key(AUTHORIZATION));
            assert!(!format!("{headers:?}").contains("eyJ"), "{template}");
        }
    }

    /// Keys that come when the test says so.
    struct Slow(Arc<Semaphore>, bool);

    #[async_trait::async_trait]
    impl KeySource for Slow {
        async fn load(self: Arc<Self>, _: LoadRequest) -> Result<LoadedKeys, KeyError> {
            self.0.acquire().await.map_err(KeyError::unavailable)?.forget();
            if self.1 { Ok(LoadedKeys::new(public_keys())) } else { Err(KeyError::unavailable("down")) }
        }
    }

    #[tokio::test]
    async fn a_request_waits_for_keys_and_no_longer_than_its_caller() {
        for (comes, refused) in [(true, None), (false, Some(Class::Unavailable))] {
            let gate = Arc::new(Semaphore::new(0));
            let slow = issuer().with_key_source(Slow(Arc::clone(&gate), comes));
            let layer = AuthenticateLayer::new(Verifier::builder(slow).build().unwrap()).with_clock(Frozen);
            let probe = Probe::new(Behaviour::Answer);
            let mut service = layer.layer(probe.clone());
            let mut context = Context::from_waker(Waker::noop());

            assert!(Service::<Request<()>>::poll_ready(&mut service, &mut context).is_ready());
            {
                let mut hung_up = pin!(service.call(request("/jobs", &[&good()])));
                assert!(hung_up.as_mut().poll(&mut context).is_pending());
            }
            assert!(Service::<Request<()>>::poll_ready(&mut service, &mut context).is_ready());
            let waiting = service.call(request("/jobs", &[&good()]));
            gate.add_permits(1);
            let response = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
            assert_eq!(response.extensions().get::<Denial>().map(Denial::class), refused);
            assert_eq!(probe.calls(), usize::from(refused.is_none()));
        }
    }
}
