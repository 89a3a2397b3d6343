//! Configurations that are refused, and how.

use std::{sync::Arc, time::Duration};

use portcullis::{
    ConfigError, Issuer, Rules, Stack,
    audit::{Audit, Memory},
    denial::SignInRedirect,
    key::Remote,
    policy::{self, Opa, Rego},
    rules::{optional, policy_only, public, scopes},
    scope::all_of,
    testing::TestIssuer,
    token::{Tenants, Verifier},
};

use crate::support::AUDIENCE;

/// Name, outcome, field, and what the text holds of value and remedy.
type Case<'a> = (&'static str, Result<(), ConfigError>, &'static str, &'a str, &'static str);

#[tokio::test]
async fn a_wrong_configuration_names_field_value_and_remedy() {
    let idp = TestIssuer::start().await;
    let good = || Issuer::rfc9068(idp.url(), AUDIENCE);
    let build = |issuer: Issuer, rules: Rules| Stack::builder(issuer, rules, policy::deny_all(), Memory::new());
    let stack = |issuer: Issuer, rules: Rules| build(issuer, rules).build().map(drop);
    let module = "package authz\n\nimport rego.v1\n\ndefault decision := false\n";
    let missing = std::env::temp_dir().join("portcullis-no-such-directory");
    let cases: Vec<Case<'_>> = vec![
        (
            "no audience",
            stack(Issuer::rfc9068(idp.url(), ""), Rules::new()),
            "issuer.audience",
            "\"\"",
            "identifier of this API",
        ),
        (
            "blank audience",
            stack(Issuer::auth0("acme.eu.auth0.com", "  "), Rules::new()),
            "issuer.audience",
            "\"  \"",
            "identifier of this API",
        ),
        (
            "leeway over the cap",
            stack(good().with_leeway(Duration::from_secs(300)), Rules::new()),
            "issuer.leeway",
            "300s",
            "at most 120 s",
        ),
        (
            "no lifetime",
            stack(good().with_max_lifetime(Duration::ZERO), Rules::new()),
            "issuer.max_lifetime",
            "0ns",
            "how long a token may live",
        ),
        (
            "a lifetime over a day",
            stack(good().with_max_lifetime(Duration::from_secs(90_000)), Rules::new()),
            "issuer.max_lifetime",
            "90000s",
            "dangerous_max_lifetime",
        ),
        (
            "no age",
            stack(good().with_max_age(Duration::ZERO), Rules::new()),
            "issuer.max_age",
            "0ns",
            "how old a token may be",
        ),
        (
            "no client at Cognito",
            stack(Issuer::cognito::<&str>("eu-west-1", "eu-west-1_AbC", []), Rules::new()),
            "issuer.clients",
            "[]",
            "at least one",
        ),
        (
            "tenants of an issuer without",
            stack(good().with_tenants(Tenants::known(["acme"])), Rules::new()),
            "issuer.tenants",
            "acme",
            "leave `with_tenants` out",
        ),
        (
            "Okta's org server",
            stack(Issuer::okta("https://acme.okta.com", AUDIENCE), Rules::new()),
            "issuer.url",
            "https://acme.okta.com",
            "custom authorization server",
        ),
        (
            "every tenant of Entra",
            stack(Issuer::entra("common", AUDIENCE), Rules::new()),
            "issuer.tenant",
            "common",
            "a GUID in lower case",
        ),
        (
            "Keycloak's account audience",
            stack(Issuer::keycloak("https://sso.example/realms/acme", "account"), Rules::new()),
            "issuer.audience",
            "account",
            "audience mapper",
        ),
        (
            "GitHub's default audience",
            stack(Issuer::github_actions("https://github.com/acme"), Rules::new()),
            "issuer.audience",
            "https://github.com/acme",
            "this API's own",
        ),
        (
            "Kubernetes without keys",
            stack(Issuer::kubernetes("https://kubernetes.default.svc", AUDIENCE), Rules::new()),
            "issuer.keys",
            "missing",
            "with_key_source",
        ),
        (
            "http issuer",
            stack(Issuer::rfc9068("http://login.example", AUDIENCE), Rules::new()),
            "issuer.url",
            "http://login.example",
            "use https",
        ),
        (
            "no algorithm",
            stack(good().with_algorithms([]), Rules::new()),
            "issuer.algorithms",
            "[]",
            "at least one algorithm",
        ),
        (
            "Auth0 URL for a domain",
            stack(Issuer::auth0("https://acme.eu.auth0.com/", AUDIENCE), Rules::new()),
            "issuer.domain",
            "https://acme",
            "bare domain",
        ),
        (
            "an issuer twice",
            build(good(), Rules::new()).add_issuer(good()).build().map(drop),
            "issuer.url",
            idp.url(),
            "once",
        ),
        (
            "http key set",
            stack(good().with_jwks_url("http://login.example/jwks"), Rules::new()),
            "key.remote.url",
            "http://login.example/jwks",
            "https",
        ),
        (
            "http key source",
            Remote::url("http://login.example/jwks").build().map(drop),
            "key.remote.url",
            "http://login.example/jwks",
            "https",
        ),
        (
            "empty scope requirement",
            stack(good(), Rules::new().get("/jobs", scopes(all_of::<&str>([])))),
            "rules[0]",
            "/jobs",
            "policy_only",
        ),
        (
            "odd scope word",
            stack(good(), Rules::new().get("/jobs", scopes(all_of(["a b"])))),
            "rules[0]",
            "/jobs",
            "scope token",
        ),
        (
            "wildcard public route",
            stack(good(), Rules::new().get("/ok", policy_only()).get("/{*all}", public("x"))),
            "rules[1]",
            "/{*all}",
            "exact route",
        ),
        (
            "public without a reason",
            stack(good(), Rules::new().get("/livez", public(""))),
            "rules[0]",
            "/livez",
            "reason",
        ),
        (
            "two rows",
            stack(good(), Rules::new().get("/a", policy_only()).get("/a", optional())),
            "rules[1]",
            "/a",
            "two rows",
        ),
        (
            "template without a slash",
            stack(good(), Rules::new().get("jobs", policy_only())),
            "rules[0]",
            "jobs",
            "starts with `/`",
        ),
        (
            "odd gRPC method",
            stack(good(), Rules::new().grpc("/jobs.v1.Jobs/List", policy_only())),
            "rules[0]",
            "/jobs.v1.Jobs/List",
            "package.Service/Method",
        ),
        (
            "blank realm",
            build(good(), Rules::new()).with_realm("").build().map(drop),
            "realm",
            "\"\"",
            "printable ASCII",
        ),
        (
            "realm with a quote",
            build(good(), Rules::new()).with_realm("a\"b").build().map(drop),
            "realm",
            "a\\\"b",
            "without quote",
        ),
        (
            "a header that carries credentials",
            build(good(), Rules::new()).with_input_headers(["cookie"]).build().map(drop),
            "policy.input_headers",
            "cookie",
            "credentials",
        ),
        (
            "unknown entry point",
            Rego::from_source("authz.rego", module, "data.authz.decided").map(drop),
            "policy.rego.decision_path",
            "data.authz.decided",
            "name a rule of the policy: `data.authz.decision`",
        ),
        (
            "no such policy directory",
            Rego::from_dir(&missing).map(drop),
            "policy.rego.directory",
            "portcullis-no-such-directory",
            "make it a directory that this process may read",
        ),
        (
            "a policy that cannot be parsed",
            Rego::from_source("authz.rego", "package authz\n\nallow if {", "data.authz.allow").map(drop),
            "policy.rego.source",
            "authz.rego:3:",
            "mend the policy: ",
        ),
        (
            "plain http to another machine's OPA",
            Opa::builder("http://opa.example:8181").build().map(drop),
            "policy.opa.url",
            "http://opa.example:8181",
            "https",
        ),
        (
            "sign-in over http",
            SignInRedirect::new("http://login.example/").map(drop),
            "sign_in.url",
            "http://login.example/",
            "https",
        ),
        (
            "token size",
            Verifier::builder(good()).with_max_token_size(10).build().map(drop),
            "verifier.max_token_size",
            "10",
            "1024",
        ),
        (
            "audit capacity",
            Audit::builder(Arc::new(Memory::new())).with_capacity(0).start().map(drop),
            "audit.capacity",
            "0",
            "8 to",
        ),
    ];
    for (name, result, field, value, remedy) in cases {
        let error = result.expect_err(name);
        let text = error.to_string();
        assert_eq!(error.field(), field, "{name}: {text}");
        assert!(text.contains(&format!("`{field}`")), "{name}: {text}");
        assert!(text.contains(value), "{name}: no value in {text}");
        assert!(text.contains(remedy) && text.split(": ").count() > 1, "{name}: no remedy in {text}");
    }
}

#[test]
fn a_stack_outside_a_runtime_is_an_error_and_not_a_panic() {
    let keys = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { TestIssuer::start().await.key_set() })
    };
    let fixed = Issuer::rfc9068("https://login.example", AUDIENCE).with_keys(keys);
    let remote = Issuer::rfc9068("https://login.example", AUDIENCE);
    for issuer in [fixed, remote] {
        let error = Stack::builder(issuer, Rules::new(), policy::deny_all(), Memory::new()).build().unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntime { .. }), "{error}");
        assert!(error.to_string().contains("#[tokio::main]"), "{error}");
    }
}
