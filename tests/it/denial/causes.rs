//! The ways to be refused, each with what the caller may know and what the audit record says.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    testing::{TestToken, TokenBuilder},
    time::{Clock, SystemClock},
};
use serde_json::json;

use super::{
    golden::Class,
    world::{REVOKED, Rulebook, World},
};
use crate::support::alice;

/// One way to be refused.
pub struct Cause {
    pub name: &'static str,
    pub class: Class,
    /// `reason` of the audit record.
    pub reason: &'static str,
    pub authorization: Vec<Vec<u8>>,
    pub rulebook: Rulebook,
    pub http: &'static [Place],
    pub grpc: &'static [Place],
}

pub type Place = (&'static str, &'static str);

/// Known and unknown routes, right and wrong methods.
const ANYWHERE: &[Place] = &[
    ("GET", "/jobs"),
    ("HEAD", "/jobs"),
    ("DELETE", "/jobs"),
    ("OPTIONS", "/jobs"),
    ("GET", "/jobs/7?expand=lines"),
    ("GET", "/forgotten"),
    ("GET", "/report"),
    ("GET", "/no-such-route"),
    ("HEAD", "/no-such-route"),
    ("PUT", "/no-such-route"),
];

const ANYWHERE_GRPC: &[Place] = &[
    ("POST", "/jobs.v1.Jobs/List"),
    ("GET", "/jobs.v1.Jobs/List"),
    ("POST", "/jobs.v1.Jobs/Report"),
    ("POST", "/jobs.v1.Jobs/Nothing"),
    ("POST", "/no.such.Service/List"),
    ("POST", "/no-such-route"),
];

const JOBS: &[Place] = &[("GET", "/jobs"), ("HEAD", "/jobs"), ("GET", "/jobs/7")];

const JOBS_GRPC: &[Place] = &[("POST", "/jobs.v1.Jobs/List")];

const REPORT: &[Place] = &[("GET", "/report"), ("HEAD", "/report")];

const REPORT_GRPC: &[Place] = &[("POST", "/jobs.v1.Jobs/Report")];

const MEMBERS: &[Place] = &[("GET", "/members"), ("HEAD", "/members")];
const MEMBERS_GRPC: &[Place] = &[("POST", "/jobs.v1.Jobs/Members")];
/// A gRPC method has no path parameter.
const TENANT: &[Place] = &[("GET", "/orgs/acme"), ("HEAD", "/orgs/acme")];
const UNKNOWN: &[Place] =
    &[("GET", "/no-such-route"), ("HEAD", "/no-such-route"), ("PUT", "/no-such-route"), ("OPTIONS", "/no/such/route")];
const UNKNOWN_GRPC: &[Place] = &[("POST", "/no-such-route"), ("GET", "/a/b/c"), ("POST", "/jobs.v1.Jobs/List/")];

const NO_RULE: &[Place] =
    &[("GET", "/forgotten"), ("HEAD", "/forgotten"), ("POST", "/jobs"), ("DELETE", "/jobs"), ("OPTIONS", "/report")];
const NO_RULE_GRPC: &[Place] = &[("POST", "/jobs.v1.Jobs/Nothing"), ("POST", "/no.such.Service/List")];

/// The refusals. Each row: what is sent, what the caller may know of it, what the audit record says of it.
pub fn causes(world: &World) -> Vec<Cause> {
    let row = |name, class, reason, authorization: Vec<Vec<u8>>, http, grpc| Cause {
        name,
        class,
        reason,
        authorization,
        rulebook: Rulebook::Open,
        http,
        grpc,
    };
    let anywhere = |name, class, reason, lines: &[&[u8]]| {
        row(name, class, reason, lines.iter().map(|line| line.to_vec()).collect(), ANYWHERE, ANYWHERE_GRPC)
    };
    let good = || alice(&world.idp);
    let token = |name, reason, token: TestToken| {
        row(name, Class::InvalidToken, reason, vec![token.bearer().into_bytes()], ANYWHERE, ANYWHERE_GRPC)
    };
    let bearer = |token: TokenBuilder| vec![token.mint().bearer().into_bytes()];
    let named = |subject: &str| bearer(good().subject(subject));
    let by_policy = |class, reason, subject: &'static str| row(subject, class, reason, named(subject), JOBS, JOBS_GRPC);
    let concealed = |cause: Cause| Cause { class: Class::Concealed, rulebook: Rulebook::Concealing, ..cause };

    let compact = good().mint();
    let [header, claims, signature] = <[&str; 3]>::try_from(compact.as_str().split('.').collect::<Vec<_>>()).unwrap();
    let json_form = json!({ "protected": header, "payload": claims, "signature": signature }).to_string();
    let lines = |value: String| vec![value.into_bytes()];
    use Class::*;

    let mut causes = vec![
        anywhere("nothing", NoCredentials, "credentials_missing", &[]),
        anywhere("Basic", NoCredentials, "credentials_missing", &[b"Basic Zm9vOmJhcg=="]),
        anywhere("DPoP", NoCredentials, "credentials_missing", &[b"DPoP a.b.c"]),
        row("nothing, where members may", NoCredentials, "policy_denied", vec![], MEMBERS, MEMBERS_GRPC),
        anywhere("Bearer alone", Malformed, "credentials_empty", &[b"Bearer"]),
        anywhere("Bearer and a space", Malformed, "credentials_empty", &[b"Bearer "]),
        anywhere("two lines", Malformed, "credentials_repeated", &[b"Bearer a.b.c", b"Bearer d.e.f"]),
        anywhere("Basic and Bearer", Malformed, "credentials_repeated", &[b"Basic Zm9v", compact.bearer().as_bytes()]),
        anywhere("comma list", Malformed, "credentials_list", &[b"Bearer a.b.c, Bearer d.e.f"]),
        anywhere("tab", Malformed, "credentials_spacing", &[b"Bearer\ta.b.c"]),
        anywhere("two spaces", Malformed, "credentials_spacing", &[b"Bearer  a.b.c"]),
        anywhere("non-ASCII", Malformed, "credentials_illegal_byte", &[b"Bearer a\xe9b\xff.c.d"]),
        anywhere("JSON serialization", Malformed, "credentials_list", &[format!("Bearer {json_form}").as_bytes()]),
        row(
            "two segments",
            InvalidToken,
            "token_malformed",
            lines(format!("Bearer {header}.{claims}")),
            ANYWHERE,
            ANYWHERE_GRPC,
        ),
        row(
            "five segments",
            InvalidToken,
            "token_malformed",
            lines(format!("Bearer {header}.{claims}.{signature}.{claims}.{signature}")),
            ANYWHERE,
            ANYWHERE_GRPC,
        ),
        row(
            "encoded JSON serialization",
            InvalidToken,
            "token_malformed",
            lines(format!("Bearer {}", URL_SAFE_NO_PAD.encode(&json_form))),
            ANYWHERE,
            ANYWHERE_GRPC,
        ),
        token("alg none", "token_algorithm", good().header("alg", "none").signature([]).mint()),
        token("alg none with a signature", "token_algorithm", good().header("alg", "none").mint()),
        token("alg HS256", "token_algorithm", good().header("alg", "HS256").mint()),
        token("unknown kid", "token_unknown_key", good().kid("no-such-key").mint()),
        token("tampered", "token_signature", good().tampered().mint()),
        token("key of another issuer", "token_signature", good().signed_by(&world.stranger).mint()),
        token("crit", "token_header_parameter", good().header("crit", json!(["exp"])).mint()),
        token("b64", "token_header_parameter", good().header("b64", false).mint()),
        token("expired", "token_expired", good().expired().mint()),
        token(
            "not yet valid",
            "token_not_yet_valid",
            good().claim("nbf", 4_000_000_000_u64).claim("exp", 4_000_000_300_u64).mint(),
        ),
        token("no exp", "token_claim_missing", good().without("exp").mint()),
        token("no aud", "token_claim_missing", good().without("aud").mint()),
        token("no sub", "token_claim_missing", good().without("sub").mint()),
        token("no client_id", "token_claim_missing", good().without("client_id").mint()),
        token("no iss", "token_issuer", good().without("iss").mint()),
        token("another iss", "token_issuer", world.stranger.token().mint()),
        token("another aud", "token_audience", good().audience("https://other.example").mint()),
        token("another client", "token_client", good().client("other").mint()),
        token("another tenant", "token_tenant", world.organized.token().claim("org_id", "org_2").mint()),
        token("an ID token", "token_wrong_kind", good().claim("nonce", "n").mint()),
        token("too old", "token_too_old", good().claim("iat", SystemClock.now().as_secs() - 7200).mint()),
        token("issued in the future", "token_issued_in_future", good().claim("iat", 4_000_000_000_u64).mint()),
        token("lives for too long", "token_lifetime", good().claim("exp", 4_000_000_000_u64).mint()),
        token("a claim of another type", "token_claim_malformed", good().claim("exp", "soon").mint()),
        token("another typ", "token_type", good().typ("JWT").mint()),
        token(
            "bound to a key",
            "token_bound",
            good().claim("cnf", json!({ "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" })).mint(),
        ),
        token("revoked", "token_revoked", good().claim("jti", REVOKED).mint()),
        token("oversize", "token_too_long", good().claim("padding", "x".repeat(20_000)).mint()),
        row("keys unavailable", Unavailable, "keys_unavailable", bearer(world.broken.token()), ANYWHERE, ANYWHERE_GRPC),
        row("scope missing", Forbidden, "scope_insufficient", bearer(good().without("scope")), JOBS, JOBS_GRPC),
        row("scope of another route", Forbidden, "scope_insufficient", bearer(good()), REPORT, REPORT_GRPC),
        row("no tenant, where the path names one", Forbidden, "tenant_mismatch", bearer(good()), TENANT, &[]),
        by_policy(Forbidden, "policy_denied", "denied"),
        by_policy(Forbidden, "policy_undefined", "undefined"),
        by_policy(Forbidden, "policy_obligation_unfulfilled", "obliged"),
        by_policy(Unavailable, "policy_unavailable", "unreachable"),
        by_policy(Unavailable, "policy_overloaded", "overloaded"),
        by_policy(Unavailable, "policy_evaluation_error", "failing"),
        by_policy(Unavailable, "policy_invalid_result", "odd"),
        by_policy(Unavailable, "policy_timeout", "stalled"),
        by_policy(Internal, "policy_panicked", "panicking"),
        row("no rule", Forbidden, "rule_missing", bearer(good()), NO_RULE, NO_RULE_GRPC),
        row("unknown route", Forbidden, "route_unknown", bearer(good()), UNKNOWN, UNKNOWN_GRPC),
        concealed(row(
            "concealed: scope missing",
            Concealed,
            "scope_insufficient",
            bearer(good()),
            REPORT,
            REPORT_GRPC,
        )),
        concealed(row(
            "concealed: policy denies",
            Concealed,
            "policy_denied",
            bearer(good().subject("denied").scope("reports:read")),
            REPORT,
            REPORT_GRPC,
        )),
        concealed(row("concealed: no rule", Concealed, "rule_missing", bearer(good()), NO_RULE, NO_RULE_GRPC)),
        concealed(row("concealed: unknown route", Concealed, "route_unknown", bearer(good()), UNKNOWN, UNKNOWN_GRPC)),
    ];
    // A concealing rulebook changes nothing for those who are not authenticated, nor on routes that it does not conceal.
    causes.push(Cause {
        rulebook: Rulebook::Concealing,
        ..anywhere("concealed: nothing", NoCredentials, "credentials_missing", &[])
    });
    causes.push(Cause {
        rulebook: Rulebook::Concealing,
        ..token("concealed: expired", "token_expired", good().expired().mint())
    });
    causes.push(Cause { rulebook: Rulebook::Concealing, ..by_policy(Forbidden, "policy_denied", "denied") });
    // A target that could mean two things is refused whatever comes with it.
    for authorization in [vec![], bearer(good()), lines("Bearer a.b".into())] {
        let target = |reason, http, grpc| row("malformed target", Malformed, reason, authorization.clone(), http, grpc);
        causes.push(target(
            "target_dot_segment",
            &[("GET", "/jobs/%2e%2e/report")],
            &[("POST", "/jobs.v1.Jobs/%2e%2e/List")],
        ));
        causes.push(target(
            "target_separator",
            &[("GET", "/jobs/a%2Fb"), ("DELETE", "/no%5csuch")],
            &[("POST", "/jobs.v1.Jobs%2FList")],
        ));
        causes.push(target(
            "target_control",
            &[("GET", "/jobs;v=1"), ("GET", "/jobs/%00")],
            &[("POST", "/jobs.v1.Jobs/List;v=1")],
        ));
        causes.push(target(
            "target_encoding",
            &[("HEAD", "/jobs/%zz"), ("GET", "/jobs/%c0%af")],
            &[("POST", "/jobs.v1.Jobs/%ff")],
        ));
    }
    causes
}
