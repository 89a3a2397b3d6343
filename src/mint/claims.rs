use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{MintError, MintRequest};
use crate::{
    principal::{Actor, IssuerId, PrincipalKind, TokenId},
    scope::Scope,
    time::UnixTime,
    token::VerifiedToken,
};

/// What minting takes from a source token.
pub(super) struct Source<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) subject: &'a str,
    pub(super) kind: PrincipalKind,
    pub(super) client: Option<&'a str>,
    pub(super) scope: &'a Scope,
    pub(super) actors: &'a [Actor],
    pub(super) is_bound: bool,
    pub(super) expires_at: UnixTime,
    pub(super) claims: &'a Map<String, Value>,
}

impl<'a> Source<'a> {
    pub(super) fn of(token: &'a VerifiedToken) -> Result<Self, MintError> {
        let principal = token.principal();
        Ok(Self {
            issuer: token.issuer(),
            subject: principal.subject().ok_or(MintError::SourceClaim("sub"))?.as_str(),
            kind: principal.kind(),
            client: principal.client().map(|client| client.as_str()),
            scope: principal.scope(),
            actors: principal.actors(),
            is_bound: principal.confirmation().is_some(),
            expires_at: token.expires_at(),
            claims: token.claims(),
        })
    }
}

/// Who mints.
#[derive(Clone, Debug)]
pub(super) struct Mint {
    pub(super) issuer: IssuerId,
    pub(super) service: Actor,
    pub(super) max_lifetime: Duration,
}

/// The claims set of a new token, and of it what its maker wants to know.
#[derive(Debug)]
pub(super) struct Narrowed {
    pub(super) claims: Map<String, Value>,
    pub(super) token_id: TokenId,
    pub(super) transaction_id: String,
    pub(super) scope: Scope,
    pub(super) expires_at: UnixTime,
}

impl Mint {
    /// Makes the claims of a token that grants no more than its source. Pure but for the fresh ids.
    pub(super) fn narrow(
        &self,
        source: &Source<'_>,
        request: &MintRequest,
        now: UnixTime,
    ) -> Result<Narrowed, MintError> {
        // A bound token is worthless without its key; an unbound child of it would set the thief free (RFC 7800 §3).
        if source.is_bound {
            return Err(MintError::SourceBound);
        }
        if request.audience.as_str().is_empty() {
            return Err(MintError::Audience);
        }
        if let Some(name) = request.claims.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(MintError::ReservedClaim(name.clone()));
        }
        let expires_at = self.expiry(source, request, now)?;
        let scope = request.scope.intersection(source.scope);
        if scope.is_empty() {
            return Err(MintError::NoScope);
        }
        let act = self.act(source)?;
        let token_id = crate::random::hex_128().as_str().to_owned();
        let transaction_id = match source.claims.get("txn") {
            None => crate::random::hex_128().as_str().to_owned(),
            Some(Value::String(txn)) if !txn.is_empty() => txn.clone(),
            Some(_) => return Err(MintError::SourceClaim("txn")),
        };

        // The caller's claims first: should one of them ever slip through the check above, it is overwritten.
        let mut claims = request.claims.clone();
        let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        set("iss", json!(self.issuer));
        set("sub", json!(source.subject));
        set("aud", json!(request.audience));
        set("iat", json!(now.as_secs()));
        set("nbf", json!(now.as_secs()));
        set("exp", json!(expires_at.as_secs()));
        set("jti", json!(token_id));
        set("txn", json!(transaction_id));
        set("scope", json!(scope.to_string()));
        set("act", act);
        set("client_id", json!(self.client_id(source)));
        set("sub_id", self.subject_id(source));
        set("sub_profile", json!(profile(source.kind)));
        Ok(Narrowed { claims, token_id: TokenId::new(token_id), transaction_id, scope, expires_at })
    }

    fn expiry(&self, source: &Source<'_>, request: &MintRequest, now: UnixTime) -> Result<UnixTime, MintError> {
        if source.expires_at.as_secs() <= now.as_secs() {
            return Err(MintError::SourceExpired);
        }
        let asked = request.lifetime.unwrap_or(self.max_lifetime).min(self.max_lifetime);
        if asked < Duration::from_secs(1) {
            return Err(MintError::Lifetime);
        }
        // `iat` is written in whole seconds, so the life is counted from there: it is never longer than asked.
        let end = UnixTime::from_secs(now.as_secs()).saturating_add(asked).min(source.expires_at);
        Ok(UnixTime::from_secs(end.as_secs()))
    }

    /// The chain of actors: this service outside, those before it inside.
    fn act(&self, source: &Source<'_>) -> Result<Value, MintError> {
        if source.actors.len() >= MAX_ACTORS {
            return Err(MintError::TooManyActors);
        }
        let mut chain = Value::Null;
        for actor in source.actors.iter().rev() {
            // A name without an issuer belongs to the issuer that wrote it, which is about to change.
            let issuer = actor.issuer.as_ref().or(Some(source.issuer)).filter(|issuer| **issuer != self.issuer);
            chain = link(actor, issuer, chain);
        }
        Ok(link(&self.service, self.service.issuer.as_ref(), chain))
    }

    /// The subject beside the issuer that knows it: two issuers may use the same `sub` for two people
    /// ([RFC 9493 §3.2.3](https://www.rfc-editor.org/rfc/rfc9493#section-3.2.3)).
    fn subject_id(&self, source: &Source<'_>) -> Value {
        match source.claims.get("sub_id") {
            Some(earlier) if *source.issuer == self.issuer => earlier.clone(),
            _ => json!({"format": "iss_sub", "iss": source.issuer, "sub": source.subject}),
        }
    }

    /// The client that began the chain; the calling service stands in `act`.
    fn client_id<'a>(&'a self, source: &Source<'a>) -> &'a str {
        match source.kind {
            // RFC 9068 §5: a receiver tells a machine from a user by `sub` and `client_id` being the same.
            PrincipalKind::Client | PrincipalKind::Workload => source.subject,
            PrincipalKind::User | PrincipalKind::Agent | PrincipalKind::Anonymous => {
                let service =
                    self.service.client.as_ref().map_or(self.service.subject.as_str(), |client| client.as_str());
                source.client.unwrap_or(service)
            }
        }
    }
}

fn link(actor: &Actor, issuer: Option<&IssuerId>, inner: Value) -> Value {
    let mut act = Map::new();
    act.insert("sub".to_owned(), json!(actor.subject));
    if let Some(issuer) = issuer {
        act.insert("iss".to_owned(), json!(issuer));
    }
    if let Some(client) = &actor.client {
        act.insert("client_id".to_owned(), json!(client));
    }
    if !inner.is_null() {
        act.insert("act".to_owned(), inner);
    }
    Value::Object(act)
}

/// What kind of party the subject is, in the words that Auth0 uses: a machine must not turn into a user on the way.
const fn profile(kind: PrincipalKind) -> &'static str {
    match kind {
        PrincipalKind::User => "user",
        PrincipalKind::Agent => "ai_agent",
        PrincipalKind::Client | PrincipalKind::Workload => "service",
        PrincipalKind::Anonymous => "anonymous",
    }
}

/// As at Auth0. A longer chain is a loop or a mistake.
pub(super) const MAX_ACTORS: usize = 5;

/// Claims that identify, entitle or limit somebody, here or at some issuer, or tell another kind of token.
#[rustfmt::skip]
const RESERVED: [&str; 55] = [
    "acr", "act", "actort", "amr", "appid", "at_hash", "ath", "aud", "auth_time", "authorization_details", "azp",
    "c_hash", "cid", "client_id", "client_profile", "cnf", "entitlements", "events", "exp", "groups", "gty", "htm",
    "htu", "iat", "idtyp", "iss", "jti", "may_act", "nbf", "nonce", "oid", "org_id", "org_name", "permissions",
    "rctx", "realm_access", "req_wl", "resource_access", "roles", "s_hash", "scope", "scp", "sid", "sub", "sub_id",
    "sub_profile", "tctx", "tid", "token_introspection", "token_use", "txn", "typ", "uid", "username", "wids",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::principal::{Audience, ClientId, Subject};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn gateway() -> Mint {
        Mint {
            issuer: IssuerId::new("https://internal.example"),
            service: Actor::new(Subject::new("gateway")),
            max_lifetime: Duration::from_secs(300),
        }
    }

    /// The facts of a source token, to be changed by each test.
    struct Facts {
        issuer: IssuerId,
        subject: &'static str,
        kind: PrincipalKind,
        client: Option<&'static str>,
        scope: Scope,
        actors: Vec<Actor>,
        is_bound: bool,
        expires_at: UnixTime,
        claims: Map<String, Value>,
    }

    impl Facts {
        fn new() -> Self {
            Self {
                issuer: IssuerId::new("https://tenant.auth0.example/"),
                subject: "auth0|alice",
                kind: PrincipalKind::User,
                client: Some("web"),
                scope: Scope::parse("jobs:read jobs:write").unwrap(),
                actors: Vec::new(),
                is_bound: false,
                expires_at: UnixTime::from_secs(NOW.as_secs() + 3600),
                claims: Map::new(),
            }
        }

        fn narrow(&self, request: &MintRequest) -> Result<Narrowed, MintError> {
            let source = Source {
                issuer: &self.issuer,
                subject: self.subject,
                kind: self.kind,
                client: self.client,
                scope: &self.scope,
                actors: &self.actors,
                is_bound: self.is_bound,
                expires_at: self.expires_at,
                claims: &self.claims,
            };
            gateway().narrow(&source, request, NOW)
        }
    }

    fn reading() -> MintRequest {
        MintRequest::new(Audience::new("orders"), Scope::parse("jobs:read").unwrap())
    }

    #[test]
    fn the_claims_are_those_of_an_access_token_of_our_own() {
        let minted = Facts::new().narrow(&reading().add_claim("order", json!(7))).unwrap();
        let expected = json!({
            "iss": "https://internal.example", "sub": "auth0|alice", "aud": "orders", "client_id": "web", "scope": "jobs:read",
            "iat": 1_800_000_000, "nbf": 1_800_000_000, "exp": 1_800_000_300, "order": 7,
            "jti": minted.token_id, "txn": minted.transaction_id, "act": {"sub": "gateway"}, "sub_profile": "user",
            "sub_id": {"format": "iss_sub", "iss": "https://tenant.auth0.example/", "sub": "auth0|alice"},
        });
        assert_eq!(Value::Object(minted.claims), expected);
    }

    #[test]
    fn what_kind_of_party_the_subject_is_stays_visible() {
        let table = [
            ("a user", PrincipalKind::User, "auth0|alice", Some("web"), "web", "user"),
            ("a user of an unknown client", PrincipalKind::User, "auth0|alice", None, "gateway", "user"),
            ("an agent", PrincipalKind::Agent, "auth0|alice", Some("agent-app"), "agent-app", "ai_agent"),
            ("a client", PrincipalKind::Client, "batch@clients", Some("batch"), "batch@clients", "service"),
            ("a workload", PrincipalKind::Workload, "spiffe://a/b", None, "spiffe://a/b", "service"),
        ];
        for (name, kind, subject, client, client_id, profile) in table {
            let facts = Facts { kind, subject, client, ..Facts::new() };
            let claims = facts.narrow(&reading()).unwrap().claims;
            assert_eq!((&claims["client_id"], &claims["sub_profile"]), (&json!(client_id), &json!(profile)), "{name}");
        }
    }

    #[test]
    fn an_extra_claim_cannot_replace_a_registered_one() {
        // attacks.md T-040.
        for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "act", "cnf", "permissions", "client_id"]
        {
            let refused = Facts::new().narrow(&reading().add_claim(name, json!("mine"))).unwrap_err();
            assert!(matches!(&refused, MintError::ReservedClaim(claim) if claim == name), "{name}: {refused}");
        }
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn what_must_not_be_minted_from_is_refused_by_name() {
        type Change = fn(&mut Facts, &mut MintRequest);
        let table: [(&str, Change, &str); 9] = [
            ("bound to a key", |facts, _| facts.is_bound = true, "mint_source_bound"),
            ("expired", |facts, _| facts.expires_at = NOW, "mint_source_expired"),
            ("no common scope", |facts, _| facts.scope = Scope::parse("jobs:write").unwrap(), "mint_no_scope"),
            ("a source without scope", |facts, _| facts.scope = Scope::default(), "mint_no_scope"),
            ("nothing asked for", |_, request| request.scope = Scope::default(), "mint_no_scope"),
            ("no audience", |_, request| request.audience = Audience::new(""), "mint_audience"),
            ("no life", |_, request| request.lifetime = Some(Duration::ZERO), "mint_lifetime"),
            ("an odd `txn`", |facts, _| drop(facts.claims.insert("txn".into(), json!(7))), "mint_source_claim"),
            ("five actors", |facts, _| facts.actors = vec![Actor::new(Subject::new("a")); 5], "mint_too_many_actors"),
        ];
        for (name, change, code) in table {
            let (mut facts, mut request) = (Facts::new(), reading());
            change(&mut facts, &mut request);
            assert_eq!(facts.narrow(&request).unwrap_err().code(), code, "{name}");
        }
    }

    #[test]
    fn the_calling_service_stands_outside_of_the_actors_before_it() {
        let mut facts = Facts::new();
        let mut agent = Actor::new(Subject::new("agent"));
        agent.client = Some(ClientId::new("agent-app"));
        let mut inner = Actor::new(Subject::new("scheduler"));
        inner.issuer = Some(IssuerId::new("https://internal.example"));
        facts.actors = vec![agent, inner];
        assert_eq!(
            facts.narrow(&reading()).unwrap().claims["act"],
            json!({"sub": "gateway", "act": {
                "sub": "agent", "client_id": "agent-app", "iss": "https://tenant.auth0.example/", "act": {"sub": "scheduler"}}})
        );
    }

    #[test]
    fn the_transaction_and_the_first_issuer_are_kept_from_hop_to_hop() {
        let mut facts = Facts::new();
        facts.issuer = IssuerId::new("https://internal.example");
        let origin = json!({"format": "iss_sub", "iss": "https://tenant.auth0.example/", "sub": "auth0|alice"});
        facts.claims.insert("txn".into(), json!("t-1"));
        facts.claims.insert("sub_id".into(), origin.clone());
        let minted = facts.narrow(&reading()).unwrap();
        assert_eq!((&minted.claims["txn"], &minted.claims["sub_id"]), (&json!("t-1"), &origin));
    }

    #[test]
    fn a_foreign_issuer_cannot_say_whom_another_issuer_means() {
        let mut facts = Facts::new();
        facts
            .claims
            .insert("sub_id".into(), json!({"format": "iss_sub", "iss": "https://other.example", "sub": "root"}));
        assert_eq!(facts.narrow(&reading()).unwrap().claims["sub_id"]["iss"], "https://tenant.auth0.example/");
    }

    fn scopes() -> impl Strategy<Value = Scope> {
        prop::collection::vec("[a-c]{1,2}", 0..6).prop_map(|words| Scope::parse(&words.join(" ")).unwrap())
    }

    proptest! {
        /// attacks.md T-113.
        #[test]
        fn a_minted_token_never_grants_more_or_lives_longer_than_its_source(
            held in scopes(),
            asked in scopes(),
            rest_ms in 0_u64..1_000_000,
            life_ms in prop::option::of(0_u64..1_000_000),
            actors in 0_usize..8,
        ) {
            let mut facts = Facts::new();
            facts.scope = held.clone();
            facts.expires_at = NOW.saturating_add(Duration::from_millis(rest_ms));
            facts.actors = vec![Actor::new(Subject::new("a")); actors];
            let mut request = reading();
            request.scope = asked.clone();
            request.lifetime = life_ms.map(Duration::from_millis);

            let possible = held.iter().any(|word| asked.contains(word.as_str()))
                && rest_ms >= 1000 && life_ms.is_none_or(|life| life >= 1000) && actors < 5;
            match facts.narrow(&request) {
                Ok(minted) => {
                    prop_assert!(possible);
                    prop_assert!(minted.scope.is_subset(&held) && minted.scope.is_subset(&asked) && !minted.scope.is_empty());
                    prop_assert_eq!(Scope::parse(minted.claims["scope"].as_str().unwrap()), Ok(minted.scope));
                    let end = UnixTime::from_secs(minted.claims["exp"].as_u64().unwrap());
                    let life = request.lifetime.unwrap_or(Duration::MAX).min(Duration::from_secs(300));
                    prop_assert!(end > NOW && end <= facts.expires_at && end <= NOW.saturating_add(life));
                    prop_assert_eq!(&minted.claims["aud"], "orders");
                }
                Err(_) => prop_assert!(!possible),
            }
        }
    }
}
