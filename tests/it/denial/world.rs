//! Services behind every kind of stack, on loopback.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::routing::get;
use http::StatusCode;
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    denial::{Profile, SignInRedirect},
    policy::{Opa, PolicyBackend},
    principal::TokenId,
    revocation::{Revocation, RevocationList},
    rules::{Access, optional, scopes},
    scope::all_of,
    testing::TestIssuer,
    time::{Clock as _, SystemClock},
    token::Tenants,
};
use tokio::task::JoinHandle;
use tonic::service::Routes;

use crate::support::{self, AUDIENCE, BySubject, Counter, Host};

/// The id of a token that was revoked.
pub const REVOKED: &str = "the-revoked-one";

pub const SIGN_IN: &str = "https://login.acme.example/authorize";

/// Services behind every kind of stack, and those who make tokens for them. All share one audit trail.
pub struct World {
    pub idp: TestIssuer,
    /// Signs, and is not configured anywhere.
    pub stranger: TestIssuer,
    /// Configured, and out of order.
    pub broken: TestIssuer,
    /// Configured for the organization `org_1` alone.
    pub organized: TestIssuer,
    pub stack: Stack,
    pub memory: Memory,
    pub handled: Counter,
    pub hosts: HashMap<(Server, Rulebook), Host>,
    _silent: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Server {
    Api,
    Browser,
    Grpc,
}

/// Whether some rule conceals its route, which changes what absent routes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rulebook {
    Open,
    Concealing,
}

impl World {
    pub async fn new() -> Self {
        let (idp, stranger, broken) = (TestIssuer::start().await, TestIssuer::start().await, TestIssuer::start().await);
        let organized = TestIssuer::builder().with_auth0_domain("acme.eu.auth0.com").start().await;
        broken.fail(StatusCode::INTERNAL_SERVER_ERROR);
        let (silent, guard) = support::silent_address().await;
        // Every call is to find out by itself.
        let opa = Opa::builder(format!("http://{silent}")).with_deadline(Duration::from_millis(50));
        let opa = opa.with_breaker(1_000, Duration::from_secs(1)).build().unwrap();
        let policy: Arc<dyn PolicyBackend> = Arc::new(BySubject::with_stalled(Arc::new(opa)));
        let (memory, handled) = (Memory::new(), Counter::default());
        let revocations = RevocationList::new();
        let revoked = Revocation::token_id(&idp.issuer_id(), &TokenId::new(REVOKED));
        revocations.revoke(&revoked, SystemClock.now()).unwrap();
        // Where alice's client alone may come in, with tokens of the last hour.
        let strict = Issuer::rfc9068(idp.url(), AUDIENCE).with_clients(["web"]).with_max_age(Duration::from_secs(3600));
        let members = Issuer::auth0("acme.eu.auth0.com", AUDIENCE)
            .with_tenants(Tenants::known(["org_1"]))
            .with_jwks_url(organized.jwks_url());
        let stack = Stack::builder(strict, http_rules(Rulebook::Open), policy, memory.clone())
            .add_issuer(Issuer::rfc9068(broken.url(), AUDIENCE))
            .add_issuer(members)
            .with_revocations(revocations)
            .build()
            .unwrap();

        let mut hosts = HashMap::new();
        for rulebook in [Rulebook::Open, Rulebook::Concealing] {
            let api = stack.sibling(http_rules(rulebook)).build().unwrap();
            hosts.insert((Server::Api, rulebook), Host::roomy(protect(router(&handled), api)).await);
            let profile = Profile::Browser(SignInRedirect::new(SIGN_IN).unwrap());
            let browser = stack.sibling(http_rules(rulebook)).with_profile(profile).build().unwrap();
            hosts.insert((Server::Browser, rulebook), Host::roomy(protect(router(&handled), browser)).await);
            let grpc = stack.sibling(grpc_rules(rulebook)).build().unwrap();
            let routes = Routes::new(support::GrpcService::new(handled.clone()));
            hosts.insert((Server::Grpc, rulebook), Host::tonic(portcullis::tonic::protect(routes, grpc)).await);
        }
        Self { idp, stranger, broken, organized, stack, memory, handled, hosts, _silent: guard }
    }
}

pub fn router(handled: &Counter) -> axum::Router {
    let handler = || {
        let handled = handled.clone();
        get(async move || handled.count())
    };
    let fallback = handled.clone();
    axum::Router::new()
        .route("/jobs", handler())
        .route("/jobs/{id}", handler())
        .route("/report", handler())
        .route("/members", handler())
        .route("/orgs/{org}", handler())
        .route("/forgotten", handler())
        .fallback(async move || fallback.count())
}

pub fn http_rules(rulebook: Rulebook) -> Rules {
    Rules::new()
        .get("/jobs", scopes(all_of(["jobs:read"])))
        .get("/jobs/{id}", scopes(all_of(["jobs:read"])))
        .get("/report", reports(rulebook))
        .get("/members", optional())
        .get("/orgs/{org}", scopes(all_of(["jobs:read"])).with_tenant_param("org"))
}

pub fn grpc_rules(rulebook: Rulebook) -> Rules {
    Rules::new()
        .grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"])))
        .grpc("jobs.v1.Jobs/Report", reports(rulebook))
        .grpc("jobs.v1.Jobs/Members", optional())
}

fn reports(rulebook: Rulebook) -> Access {
    let access = scopes(all_of(["reports:read"]));
    match rulebook {
        Rulebook::Open => access,
        Rulebook::Concealing => access.concealed(),
    }
}
