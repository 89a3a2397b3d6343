//! What the gates of a stack say of a request that nobody made.

use std::{
    convert::Infallible,
    error::Error as _,
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use http::{Request, Response, request::Parts};
use serde::Serialize;
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;

use super::Stack;
use crate::{
    audit::{Answer, AuditRecord, Rehearsal, Rehearsed, visible},
    denial::Stage,
    layer::route::{MatchRoute, Matched, RouteLayer},
    policy::{
        Decision, ExplainedError, Paint, PolicyBackend, PolicyError, PolicyExplanation, PolicyInput, Tone, plain,
    },
    route::{Route, RouteKey, fit},
    rules::{Rule, RuleTable},
};

impl Stack {
    /// Says what this stack answers to a request, and why: for an operator, never for the caller. No handler is called.
    ///
    /// The request goes through the gates that serve, in their order: what they would do to it is what they do. It is no dry run of the
    /// rest of the service, though: a policy server is asked, and keys are loaded, as for any request. Obligations are not carried out: one
    /// that has a handler counts as fulfilled. No audit record is written; the one that would have been is in the explanation, with
    /// `enforced: false`. Whoever lets operators ask over the network has to record that themselves.
    ///
    /// The route is the [`Route`] in the extensions, as the edge's `RouteLayer` left it there; without one, the row of the rules whose
    /// template fits the path best. That is a guess where the router knows templates that no row has:
    /// [`ExplainedRoute::guessed`] says so.
    ///
    /// The explanation holds no token and no header that the policy may not see. It holds what the policy may: keep it where audit records are
    /// kept.
    ///
    /// ```
    /// # use portcullis::{Issuer, Rules, Stack, audit, policy, rules::scopes, scope::all_of};
    /// # use portcullis::testing::TestIssuer;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let idp = TestIssuer::start().await;
    /// # let issuer = Issuer::rfc9068(idp.url(), "https://api.example");
    /// let rules = Rules::new().get("/jobs/{id}", scopes(all_of(["jobs:read"])));
    /// let stack = Stack::builder(issuer, rules, policy::deny_all(), audit::Tracing::new()).build()?;
    ///
    /// let (request, ()) = http::Request::get("/jobs/7").body(())?.into_parts();
    /// let explanation = stack.explain(request).await;
    /// assert_eq!(explanation.code, Some("credentials_missing"));
    /// assert!(explanation.to_string().contains("GET  /jobs/{id}"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain(&self, request: Parts) -> Explanation {
        let guessed = request.extensions.get::<Route>().is_none();
        let mut request = Request::from_parts(request, ());
        let rehearsal = Rehearsal::open(&self.audit, &mut request);
        let witness = Arc::new(Witness { backend: self.authorize.shared_backend(), seen: Mutex::default() });
        let gates = self.authorize.rehearsing(Arc::clone(&witness)).layer(service_fn(nothing));
        let gates = self.authenticate.layer(self.require_scope.layer(gates));
        let gates = RouteLayer::new(self.rules.clone(), Rows(self.rules.clone())).layer(gates);
        let answer = match gates.oneshot(request).await {
            Ok(response) => response.status().as_u16(),
            Err(never) => match never {},
        };
        let Rehearsed { record, reason, route } = rehearsal.end(Answer { http: answer, grpc: None });
        let Seen { input, error } = witness.take();
        let policy = match &input {
            Some(input) => explanations(self.authorize.shared_backend(), input.clone()).await,
            None => Vec::new(),
        };
        Explanation {
            allowed: reason.is_none(),
            stage: record.stage.unwrap_or(Stage::Route),
            code: reason.as_ref().map(|reason| reason.code()),
            cause: reason.as_ref().map(ToString::to_string),
            answer,
            route: route.map(|route| ExplainedRoute::of(&route, guessed)),
            input,
            policy_error: error,
            policy,
            record,
        }
    }
}

/// What a [`Stack`] answers to a request, and why. See [`Stack::explain`].
///
/// Its [`Display`](fmt::Display) form is for people and may change; the serialized one only grows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// True when the handler would be called.
    pub allowed: bool,
    /// The stage that refuses, or the last one that was passed.
    #[serde(serialize_with = "stage")]
    pub stage: Stage,
    /// The stable code of the reason for a refusal.
    pub code: Option<&'static str>,
    /// That reason in words.
    pub cause: Option<String>,
    /// The status that the caller would get over HTTP; 200 where the handler would give its own.
    pub answer: u16,
    /// The route, and what its rule demands. `None` when the request target is malformed.
    pub route: Option<ExplainedRoute>,
    /// What the policy is asked, where it is.
    pub input: Option<PolicyInput>,
    /// Why the policy gave no decision, where it gave none.
    pub policy_error: Option<ExplainedError>,
    /// Why the policy decides as it does; empty where it is not asked, and for backends that cannot tell.
    pub policy: Vec<PolicyExplanation>,
    /// The record that the request would leave. It was not written: `enforced` is false, and there is nothing sent.
    pub record: AuditRecord,
}

/// The route of an explained request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExplainedRoute {
    /// Method and template, or the gRPC method; `None` when no route matches.
    pub key: Option<String>,
    /// What the rule of the route demands; `None` when there is no rule, which refuses.
    pub demands: Option<String>,
    /// True when the route was found by the rules' templates and not by a router.
    pub guessed: bool,
}

impl ExplainedRoute {
    fn of(route: &Route, guessed: bool) -> Self {
        let demands = |rule: &Rule| {
            let tenant = rule.tenant_param().map(|name| format!("; the token's tenant must be {{{name}}}"));
            format!("{}{}", rule.demand(), tenant.unwrap_or_default())
        };
        Self { key: route.key().map(ToString::to_string), demands: route.rule().map(demands), guessed }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.text(&mut out, plain)?;
        f.write_str(out.trim_end())
    }
}

impl Explanation {
    fn text(&self, out: &mut String, paint: Paint) -> fmt::Result {
        let mut line =
            |name: &str, text: &str| writeln!(out, "  {}  {text}", paint(Tone::Quiet, &format!("{name:<9}")));
        let verdict = if self.allowed { paint(Tone::Good, "ADMITTED") } else { paint(Tone::Bad, "REFUSED") };
        let stage = self.stage.as_str();
        match (&self.cause, self.code) {
            (Some(cause), Some(code)) => {
                line("verdict", &format!("{verdict} by the stage `{stage}`: {} ({code})", visible(cause)))?;
            }
            _ => line("verdict", &verdict)?,
        }
        line("answer", &self.answer.to_string())?;
        if let Some(route) = &self.route {
            let key = route.key.as_deref().map_or_else(|| "no route matches".to_owned(), visible);
            line("route", &format!("{key}{}", if route.guessed { "  (by the rules' templates)" } else { "" }))?;
            line("demands", &route.demands.as_deref().map_or_else(|| "no rule: refused".to_owned(), visible))?;
        }
        let record = &self.record;
        match (record.principal, &record.claimed) {
            (Some(kind), _) => {
                let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                line("caller", &format!("{} {} at {}", kind.as_str(), of(&record.user_id), of(&record.issuer)))?;
                line("tenant", &of(&record.tenant))?;
                line("scope", &record.scope.join(" "))?;
            }
            (None, Some(claimed)) => {
                let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
                let said = format!("not verified; the token says {} at {}", of(&claimed.subject), of(&claimed.issuer));
                line("caller", &said)?;
            }
            (None, None) => line("caller", "nobody was authenticated")?,
        }
        match (&record.policy, &self.policy_error) {
            (Some(policy), _) => {
                let by = policy.decided_by.as_ref().map(|name| format!(", decided by {name}")).unwrap_or_default();
                let cached = if policy.cached { ", remembered from an earlier question" } else { "" };
                let reasons = policy.reasons.iter().map(|reason| format!(": {reason}")).collect::<String>();
                line(
                    "policy",
                    &format!("{}{reasons} (policy {}{by}{cached})", policy.effect.as_str(), policy.revision),
                )?;
            }
            (None, Some(error)) => line("policy", &format!("{} ({})", visible(&error.detail), error.code))?,
            (None, None) => line("policy", "not asked")?,
        }
        if let Some(input) = &self.input {
            let input = serde_json::to_string_pretty(input).map_err(|_| fmt::Error)?;
            writeln!(out, "\n{}", paint(Tone::Title, "What the policy is asked"))?;
            // The text was broken into lines by us: every other line end in it is escaped.
            for line in input.lines() {
                writeln!(out, "  {}", visible(line))?;
            }
        }
        for policy in &self.policy {
            write!(out, "\n{}", policy.text(paint))?;
        }
        Ok(())
    }
}

/// What stands in the place of the router and its handlers.
async fn nothing(_: Request<()>) -> Result<Response<()>, Infallible> {
    Ok(Response::new(()))
}

async fn explanations(backend: Arc<dyn PolicyBackend>, input: PolicyInput) -> Vec<PolicyExplanation> {
    // A backend that panics has no explanation.
    tokio::task::spawn_blocking(move || backend.explanations(&input)).await.unwrap_or_default()
}

/// Passes questions on to the policy, and keeps the last one.
struct Witness {
    backend: Arc<dyn PolicyBackend>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    input: Option<PolicyInput>,
    error: Option<ExplainedError>,
}

impl Witness {
    fn see(&self, input: &PolicyInput, outcome: &Result<Decision, PolicyError>) {
        let error = outcome.as_ref().err().map(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            ExplainedError { code: error.kind().code(), detail: format!("{error}{cause}") }
        });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { input: Some(input.clone()), error };
    }

    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl PolicyBackend for Witness {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        let outcome = Arc::clone(&self.backend).decide(input.clone()).await;
        self.see(&input, &outcome);
        outcome
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        let outcome = self.backend.decide_now(input)?;
        self.see(input, &outcome);
        Some(outcome)
    }
}

/// Finds a route where no router has: what an earlier layer left in the request, else the row whose template fits best.
#[derive(Clone)]
struct Rows(RuleTable);

impl MatchRoute for Rows {
    fn match_route(&self, parts: &mut Parts) -> Option<Matched> {
        if let Some(route) = parts.extensions.get::<Route>() {
            return Some(Matched::new(route.key()?.clone()).with_params(route.params().to_vec()));
        }
        let path = parts.uri.path();
        let grpc = RouteKey::Grpc { method: path.trim_start_matches('/').into() };
        if self.0.find(&grpc).is_some() {
            return Some(Matched::new(grpc));
        }
        // Whatever the method: a route that has rows for others only is refused for that.
        let fits = self.0.keys().filter_map(|key| match key {
            RouteKey::Http { template, .. } => Some((fit(template, path)?, template)),
            RouteKey::Grpc { .. } => None,
        });
        let ((_, params), template) = fits.max_by(|((a, _), _), ((b, _), _)| a.cmp(b))?;
        Some(
            Matched::new(RouteKey::Http { method: parts.method.clone(), template: Arc::clone(template) })
                .with_params(params),
        )
    }

    fn peer(&self, parts: &Parts) -> Option<SocketAddr> {
        parts.extensions.get::<Route>().and_then(Route::peer)
    }
}

fn stage<S: serde::Serializer>(stage: &Stage, serializer: S) -> Result<S::Ok, S::Error> {
    stage.as_str().serialize(serializer)
}
