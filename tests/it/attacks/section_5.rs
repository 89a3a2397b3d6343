//! Path, host and route: whoever reads a request target differently from the router opens a door.

use std::{sync::Arc, time::Duration};

use http::{Method, Request};
use portcullis::{
    ConfigError, Rules, Stack,
    audit::Memory,
    outbound::OutboundBuilder,
    policy::{self, PolicyBackend},
    rules::{Access, optional, policy_only, public, scopes},
    scope::{all_of, any_of},
    testing::{Answer, StubBackend, TestIssuer, TestToken},
};
use tokio::{net::TcpStream, time::timeout};
use tonic::service::Routes;

use super::{Guarded, Jobs, Seen, issuer, raw_h2};
use crate::{
    support::{AUDIENCE, Log, PATIENCE},
    wire::{self, Ask},
};

#[tokio::test]
async fn t_073_dot_segments_never_select_another_rule_than_the_handler() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for dots in ["..", "%2e%2e", "%2E%2e", ".%2E", "%2e."] {
        for target in [
            format!("/files/{dots}/admin"),
            format!("/files/x/{dots}/{dots}/admin"),
            format!("/livez/{dots}/admin"),
            format!("/jobs/{dots}"),
            format!("/{dots}/admin"),
            format!("/admin/{dots}/jobs"),
        ] {
            for token in [Some(&mallory), None] {
                house.get(&target, token).await.assert_refused(400, "target_dot_segment", &target);
                house.h2_get(&target, token).await.assert_refused(400, "target_dot_segment", &target);
            }
        }
    }
    for target in ["/files/./x", "/jobs/.", "/jobs/%2E", "/./admin"] {
        house.get(target, Some(&mallory)).await.assert_refused(400, "target_dot_segment", target);
    }
    // Names that merely have dots in them are names.
    for target in ["/files/...", "/files/.hidden", "/files/a..b", "/files/x../y"] {
        house.get(target, Some(&mallory)).await.assert_ran("/files/{*path}", target);
    }
}

#[tokio::test]
async fn t_074_encoded_separators_are_refused_and_other_encodings_name_one_handler() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    let refused = [
        ("/files%2Fx", "target_separator"),
        ("/files/a%2Fb", "target_separator"),
        ("/files/a%2fb", "target_separator"),
        ("/jobs/..%2fadmin", "target_separator"),
        ("/jobs/%2e%2e%2fadmin", "target_separator"),
        ("/jobs%2Fadmin", "target_separator"),
        ("/jobs/%5Cadmin", "target_separator"),
        ("/jobs/%5cadmin", "target_separator"),
        // Overlong forms are not UTF-8.
        ("/jobs/%C0%AFadmin", "target_encoding"),
        ("/jobs/%E0%80%AF", "target_encoding"),
        ("/jobs/%c0%ae%c0%ae", "target_encoding"),
        ("/jobs/%u002f", "target_encoding"),
        ("/jobs/%", "target_encoding"),
        ("/jobs/%2", "target_encoding"),
        ("/jobs/%%32%66", "target_encoding"),
    ];
    for (target, reason) in refused {
        house.get(target, Some(&mallory)).await.assert_refused(400, reason, target);
        house.get(target, None).await.assert_refused(400, reason, target);
        house.h2_get(target, Some(&mallory)).await.assert_refused(400, reason, target);
    }
    // Encoded twice is decoded once: a name with a percent sign in it, for rule and handler alike.
    for (target, handler) in [
        ("/jobs/%252F", "/jobs/{id}"),
        ("/jobs/%252e%252e", "/jobs/{id}"),
        ("/files/%252e%252e/admin", "/files/{*path}"),
        ("/jobs/%C3%A9", "/jobs/{id}"),
    ] {
        house.get(target, Some(&mallory)).await.assert_ran(handler, target);
    }
    // An encoded letter makes another path, for rule and handler alike.
    for target in ["/%6Aobs", "/%61dmin", "/%6civez"] {
        house.get(target, Some(&mallory)).await.assert_refused(403, "route_unknown", target);
    }
    let raw_backslash = house.get(r"/jobs/..\admin", Some(&mallory)).await;
    raw_backslash.assert_refused(400, "target_separator", "a backslash as it is");
}

/// hyper takes a fragment off before anybody sees it (it is not refused with 400): rule and handler then agree on the rest.
#[tokio::test]
async fn t_075_a_fragment_in_the_target_moves_neither_rule_nor_handler() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for (target, handler) in [
        ("/jobs#/admin", "/jobs"),
        ("/jobs#", "/jobs"),
        ("/jobs?a=b#/../admin", "/jobs"),
        ("/jobs/1#?x", "/jobs/{id}"),
        ("/files/a#%2f", "/files/{*path}"),
    ] {
        house.get(target, Some(&mallory)).await.assert_ran(handler, target);
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
        house.h2_get(target, Some(&mallory)).await.assert_ran(handler, target);
    }
    for target in ["/admin#/jobs", "/admin?#/livez", "/admin#?/jobs/1"] {
        house.get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
        house.h2_get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
    }
    house.get("#/jobs", Some(&mallory)).await.assert_never_came("nothing but a fragment");
    // What is encoded is no fragment.
    house.get("/jobs/%23x", Some(&mallory)).await.assert_ran("/jobs/{id}", "an encoded number sign");
}

#[tokio::test]
async fn t_076_doubled_slashes_never_find_a_laxer_rule() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for target in
        ["//jobs", "/jobs//1", "//admin", "/jobs//", "//jobs/1", "///", "//", "//livez", "/livez//", "/jobs/1/"]
    {
        house.get(target, Some(&mallory)).await.assert_refused(403, "route_unknown", target);
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
    }
    // A wildcard takes what is after it as it is.
    for target in ["/files//admin", "/files/a//b", "/files///"] {
        house.get(target, Some(&mallory)).await.assert_ran("/files/{*path}", target);
    }
    for target in ["/admin//jobs", "/admin///livez"] {
        house.get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
    }
}

#[tokio::test]
async fn t_077_trailing_slash_question_mark_and_empty_query_do_not_change_the_rule() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for (target, handler) in
        [("/jobs?", "/jobs"), ("/jobs??", "/jobs"), ("/jobs?=&", "/jobs"), ("/jobs/1?", "/jobs/{id}")]
    {
        house.get(target, Some(&mallory)).await.assert_ran(handler, target);
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
    }
    for target in ["/admin?", "/admin??", "/admin?=", "/admin/x?"] {
        house.get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
    }
    // axum holds a path with a trailing slash for another one; no rule is lent to it.
    for target in ["/jobs/", "/jobs/?", "/admin/", "/admin/?", "/livez/"] {
        house.get(target, Some(&mallory)).await.assert_refused(403, "route_unknown", target);
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
    }
}

#[tokio::test]
async fn t_078_query_text_takes_no_part_in_matching() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for target in
        ["/admin?/livez", "/admin?x=/jobs", "/admin?/../jobs", "/admin?%2Flivez", "/admin?path=/livez&route=%2Fjobs"]
    {
        house.get(target, None).await.assert_refused(401, "credentials_missing", target);
        house.get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
    }
    for target in ["/livez?/admin", "/livez?/../admin", "/livez?%2e%2e%2fadmin;%00"] {
        house.get(target, None).await.assert_ran("/livez", target);
    }
    house.get("/jobs?/admin", Some(&mallory)).await.assert_ran("/jobs", "a path in the query");
}

#[tokio::test]
async fn t_079_host_and_scheme_compare_without_case_trailing_dot_and_default_port() {
    let policy = Arc::new(StubBackend::new(Answer::Allow));
    let backend: Arc<dyn PolicyBackend> = policy.clone();
    let rules = Rules::new().get("/jobs", policy_only());
    let house = Guarded::axum_asking(backend, rules, |ran| ran.router(["/jobs"])).await;
    let mallory = house.mallory();
    let same = [
        ("/jobs", "api.acme.example"),
        ("/jobs", "API.Acme.EXAMPLE"),
        ("/jobs", "api.acme.example."),
        ("/jobs", "api.acme.example:80"),
        ("/jobs", "Api.Acme.Example.:80"),
        ("http://API.acme.example/jobs", "api.acme.example:80"),
        ("HTTP://api.acme.example.:80/jobs", "API.ACME.EXAMPLE"),
    ];
    for (target, host) in same {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n");
        house.raw(head.as_bytes(), Some(&mallory)).await.assert_ran("/jobs", &head);
        assert_eq!(policy.inputs().last().unwrap().context.host, "api.acme.example", "{head}");
    }
    let other = "GET /jobs HTTP/1.1\r\nhost: api.acme.example:8080\r\n";
    house.raw(other.as_bytes(), Some(&mallory)).await.assert_ran("/jobs", other);
    assert_eq!(policy.inputs().last().unwrap().context.host, "api.acme.example:8080");
}

#[tokio::test]
async fn t_080_semicolons_and_control_characters_are_refused() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for target in [
        "/jobs;x=y",
        "/jobs;/admin",
        "/jobs/1;v=2",
        "/jobs/%3B",
        "/jobs/%3b..",
        "/files/a;/../admin",
        "/jobs/%00",
        "/admin%00",
        "/jobs/%0A",
        "/jobs/%0d%0aset-cookie:x",
        "/jobs/%09",
        "/jobs/%1f",
        "/jobs/%7F",
        "/jobs/%C2%85",
        "/files/x%00.txt",
    ] {
        let reason =
            if target.contains("..") && !target.contains("%3b..") { "target_dot_segment" } else { "target_control" };
        for token in [Some(&mallory), None] {
            let seen = house.get(target, token).await;
            // Of two faults in one target either may be named.
            let reason = if seen.reason() == "target_control" { "target_control" } else { reason };
            seen.assert_refused(400, reason, target);
        }
    }
    for raw in [&b"/jobs/\0"[..], b"/jobs/\x01", b"/jobs/\x7f", b"/jobs/\t1", b"/jobs/\r1"] {
        house.get(raw, Some(&mallory)).await.assert_never_came(raw);
        house.get(raw, None).await.assert_never_came(raw);
    }
}

#[tokio::test]
async fn t_081_nothing_in_a_rule_is_a_pattern() {
    // Literal names, and beside each what it would match if it were a pattern, under another rule.
    let literal = ["/v1.0/jobs", "/a+b", "/x(y)", "/[ab]", "/files/x*.txt", "/^jobs$", "/a|b", "/jobs.*"];
    let neighbours = ["/v1x0/jobs", "/aab", "/xy", "/a", "/files/xx.txt", "/jobs", "/b", "/jobs.json"];
    let rules = literal.into_iter().fold(Rules::new(), |rules, template| rules.get(template, policy_only()));
    let rules = neighbours.into_iter().fold(rules, |rules, template| rules.get(template, scopes(all_of(["admin"]))));
    let house = Guarded::axum(rules, |ran| ran.router(literal).merge(ran.router(neighbours))).await;
    let mallory = house.mallory();
    for target in literal {
        house.get(target, Some(&mallory)).await.assert_ran(target, target);
    }
    for target in neighbours {
        house.get(target, Some(&mallory)).await.assert_refused(403, "scope_insufficient", target);
    }
}

mod t_082 {
    use super::*;

    /// What somebody might write to let a nested service through.
    const SVC_ROWS: [&str; 3] = ["/svc/{*path}", "/svc/jobs", "/svc/{*__private__axum_nest_tail_param}"];

    async fn built() -> Guarded {
        let rules = Rules::new()
            .get("/jobs", policy_only())
            .get("/api/jobs/{id}", policy_only())
            .get("/api/v2/{tenant}/jobs", policy_only())
            .get("/merged", policy_only())
            .get("/api/jobs", scopes(all_of(["admin"])));
        let rules = SVC_ROWS.into_iter().fold(rules, |rules, row| rules.get(row, policy_only()));
        Guarded::axum(rules, |ran| {
            let v2 = axum::Router::new().route("/{tenant}/jobs", ran.handler("/api/v2/{tenant}/jobs"));
            let api = axum::Router::new()
                .route("/jobs/{id}", ran.handler("/api/jobs/{id}"))
                .route("/jobs", ran.handler("/api/jobs"))
                .nest("/v2", v2)
                .fallback_service(ran.handler::<()>("the fallback of a nested router"));
            let service = axum::Router::new().route("/jobs", ran.handler("a route below nest_service"));
            ran.router(["/jobs"])
                .merge(ran.router(["/merged"]))
                .nest("/api", api)
                .nest_service("/svc", service)
                .fallback_service(ran.handler::<()>("the fallback"))
        })
        .await
    }

    #[tokio::test]
    async fn t_082_the_rule_key_is_the_matched_template_also_under_nest_and_merge() {
        let (house, anyone) = (built().await, "");
        let token = house.token(anyone);
        for (target, handler) in [
            ("/jobs", "/jobs"),
            ("/api/jobs/7", "/api/jobs/{id}"),
            ("/api/v2/acme/jobs", "/api/v2/{tenant}/jobs"),
            ("/merged", "/merged"),
        ] {
            house.get(target, Some(&token)).await.assert_ran(handler, target);
        }
        // The last part of the path is that of a laxer row; the key is the whole template.
        house.get("/api/jobs", Some(&token)).await.assert_refused(403, "scope_insufficient", "/api/jobs");
    }

    #[tokio::test]
    async fn t_082_without_a_matched_template_nothing_runs() {
        let house = built().await;
        let token = house.token("admin");
        for target in ["/nowhere", "/api/nowhere", "/api/v2/nowhere", "/api", "/svc/jobs", "/svc/nowhere", "*"] {
            let seen = house.get(target, Some(&token)).await;
            seen.assert_refused(403, "route_unknown", target);
            assert!(seen.record["route"]["template"].is_null(), "{seen:?}");
            house.get(target, None).await.assert_refused(401, "credentials_missing", target);
        }
        // The root of a service that was nested without its routes does have a name, and nobody gave that name a rule.
        for target in ["/svc", "/svc/"] {
            house.get(target, Some(&token)).await.assert_refused(403, "rule_missing", target);
        }
    }

    #[tokio::test]
    async fn t_082_the_method_is_part_of_the_key() {
        let house = built().await;
        let token = house.token("admin");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "Get", "GETS", "PROPFIND"] {
            let head = format!("{method} /jobs HTTP/1.1\r\nhost: a\r\n");
            house.raw(head.as_bytes(), Some(&token)).await.assert_refused(403, "rule_missing", method);
            house.raw(head.as_bytes(), None).await.assert_refused(401, "credentials_missing", method);
        }
        // What a client says in headers about its method changes nothing.
        for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
            let head = format!("POST /jobs HTTP/1.1\r\nhost: a\r\n{name}: GET\r\n");
            house.raw(head.as_bytes(), Some(&token)).await.assert_refused(403, "rule_missing", name);
        }
        let head = "HEAD /jobs HTTP/1.1\r\nhost: a\r\n";
        house.raw(head.as_bytes(), Some(&token)).await.assert_ran("/jobs", head);
    }
}

#[tokio::test]
async fn t_083_a_grpc_path_that_is_not_exactly_service_and_method_is_denied() {
    let rules =
        Rules::new().grpc("jobs.v1.Jobs/List", policy_only()).grpc("jobs.v1.Jobs/Create", scopes(all_of(["admin"])));
    let house = Guarded::tonic(rules, |ran| Routes::new(Jobs(ran.clone()))).await;
    let mallory = house.mallory();
    let malformed: [&[u8]; 20] = [
        b"jobs.v1.Jobs/List",
        b"jobs.v1.Jobs/Create",
        b"/jobs.v1.Jobs/List/",
        b"/jobs.v1.Jobs/List/Create",
        b"//jobs.v1.Jobs/List",
        b"/jobs.v1.Jobs//List",
        b"/jobs.v1.Jobs/",
        b"/jobs.v1.Jobs",
        b"/",
        b"",
        b"*",
        b"/jobs.v1.Jobs/%4Cist",
        b"/jobs.v1.Jobs/Lis%74",
        b"/jobs.v1%2EJobs/List",
        b"/jobs.v1.Jobs%2FList",
        b"/jobs.v1.Jobs/List%00",
        b"/jobs.v1.Jobs/List;x",
        b"/jobs.v1.Jobs/../jobs.v1.Jobs/List",
        b"/jobs.v1.Jobs/List\0",
        b"http://a/jobs.v1.Jobs/List",
    ];
    let mut refused_by_us = 0;
    let grpc: [(&[u8], &[u8]); 2] = [(b"content-type", b"application/grpc"), (b"te", b"trailers")];
    for path in malformed {
        for token in [Some(&mallory), None] {
            let seen = house.h2_raw("POST", path, &grpc, token).await;
            assert!(seen.ran.is_empty(), "{:?}: {seen:?}", path.escape_ascii().to_string());
            // Some of them are no requests to the HTTP server already.
            if !seen.record.is_null() {
                refused_by_us += 1;
                let code = seen.record["sent"]["grpc"].as_u64().unwrap();
                let expected: &[u64] = if token.is_some() { &[3, 7] } else { &[3, 16] };
                assert!(expected.contains(&code), "{:?}: {seen:?}", path.escape_ascii().to_string());
                assert!(seen.record["route"]["template"].is_null(), "named like a method: {seen:?}");
            }
        }
    }
    assert!(refused_by_us >= 20, "most of these reach us: {refused_by_us}");
    for path in
        ["/jobs.v1.jobs/List", "/jobs.v1.Jobs/list", "/jobs.v1.Jobs/Lis", "/jobs.v1.Jobs/ListAll", "/v1.Jobs/List"]
    {
        let seen = house.h2_raw("POST", path.as_bytes(), &grpc, Some(&mallory)).await;
        assert_eq!(
            (seen.reason(), seen.ran.len()),
            ("rule_missing", 0),
            "a name that is almost the right one: {seen:?}"
        );
    }

    house
        .h2_raw("POST", b"/jobs.v1.Jobs/List", &grpc, Some(&mallory))
        .await
        .assert_ran("jobs.v1.Jobs/List", "the path itself");
    house
        .h2_raw("POST", b"/jobs.v1.Jobs/List?x", &grpc, Some(&mallory))
        .await
        .assert_ran("jobs.v1.Jobs/List", "with a query");
    let create = house.h2_raw("POST", b"/jobs.v1.Jobs/Create", &grpc, Some(&mallory)).await;
    assert_eq!((create.reason(), create.ran.len()), ("scope_insufficient", 0), "{create:?}");
    // The content type says how a refusal is written, and nothing about which rule it is.
    let disguised =
        house.h2_raw("POST", b"/jobs.v1.Jobs/Create", &[(b"content-type", b"application/json")], Some(&mallory)).await;
    assert_eq!((disguised.reason(), disguised.ran.len()), ("scope_insufficient", 0), "{disguised:?}");
}

#[tokio::test]
async fn t_084_a_rule_element_that_cannot_be_understood_keeps_the_stack_from_being_built() {
    let idp = TestIssuer::start().await;
    let build = |rules: Rules| Stack::builder(issuer(&idp), rules, policy::deny_all(), Memory::new()).build();
    let on = |template: &str, access: Access| Rules::new().get("/fine", policy_only()).get(template, access);
    let grpc = |method: &str| Rules::new().get("/fine", policy_only()).grpc(method, policy_only());
    let odd = [
        ("a scope with a space", on("/a", scopes(all_of(["jobs:read jobs:write"])))),
        ("an empty scope", on("/a", scopes(any_of([""])))),
        ("a scope with a quote", on("/a", scopes(all_of(["jobs\"read"])))),
        ("a scope with a control character", on("/a", scopes(all_of(["jobs\n"])))),
        ("no scope at all", on("/a", scopes(all_of::<&str>([])))),
        ("a template without a slash", on("a", policy_only())),
        ("an empty template", on("", policy_only())),
        ("a template with a query", on("/a?b", policy_only())),
        ("a template with a fragment", on("/a#b", policy_only())),
        ("a template with a control character", on("/a\n", policy_only())),
        ("a public wildcard", on("/{*all}", public("everything"))),
        ("a public parameter", on("/a/{id}", public("everything"))),
        ("public for no reason", on("/a", public("  "))),
        ("public and concealed", on("/a", public("x").concealed())),
        ("a route with two rules", on("/fine", optional())),
        ("a gRPC method with a slash in front", grpc("/jobs.v1.Jobs/List")),
        ("a gRPC service alone", grpc("jobs.v1.Jobs")),
        ("a gRPC wildcard", grpc("jobs.v1.Jobs/*")),
        ("a gRPC pattern", grpc("jobs.v1.*/List")),
        ("a gRPC method with a segment more", grpc("jobs.v1.Jobs/List/x")),
        ("an empty gRPC method", grpc("")),
    ];
    for (name, rules) in odd {
        match build(rules) {
            Err(error @ ConfigError::Invalid { .. }) => assert_eq!(error.field(), "rules[1]", "{name}: {error}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(build(Rules::new().get("/fine", policy_only())).is_ok());
}

#[tokio::test]
async fn t_085_two_authorities_are_refused() {
    let house = Guarded::house().await;
    let mallory = house.mallory();
    for head in [
        "GET http://api.acme.example/jobs HTTP/1.1\r\nhost: evil.example\r\n",
        "GET http://api.acme.example/jobs HTTP/1.1\r\nhost: api.acme.example:8080\r\n",
        "GET http://user@api.acme.example/jobs HTTP/1.1\r\nhost: api.acme.example\r\n",
        "GET /jobs HTTP/1.1\r\nhost: api.acme.example\r\nhost: evil.example\r\n",
        "GET /jobs HTTP/1.1\r\nhost: api.acme.example\r\nHost: api.acme.example\r\n",
        "GET /jobs HTTP/1.1\r\nhost: api.acme.example\r\nHOST: \r\n",
    ] {
        for token in [Some(&mallory), None] {
            house.raw(head.as_bytes(), token).await.assert_refused(400, "target_authority", head);
        }
    }
    let two_names = house.h2_raw("GET", b"/jobs", &[(b"host", b"evil.example")], Some(&mallory)).await;
    assert_eq!(
        (two_names.reason(), &two_names.record["sent"]["http"]),
        ("target_authority", &400.into()),
        "{two_names:?}"
    );
    let one_name = house.h2_raw("GET", b"/jobs", &[(b"host", b"API.acme.example:80")], Some(&mallory)).await;
    one_name.assert_ran("/jobs", "the same authority, spelled in two ways");
    // Forwarded names are not names of ours: they change nothing.
    let head = "GET /jobs HTTP/1.1\r\nhost: a\r\nx-forwarded-host: evil.example\r\nforwarded: host=evil.example\r\n";
    house.raw(head.as_bytes(), Some(&mallory)).await.assert_ran("/jobs", head);
}

#[tokio::test]
async fn t_086_health_and_reflection_are_denied_unless_listed() {
    async fn serve(rules: Rules) -> Guarded {
        let (_, health) = tonic_health::server::health_reporter();
        Guarded::tonic(rules, |ran| Routes::new(Jobs(ran.clone())).add_service(health)).await
    }
    const NAMES: [&str; 5] = [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers",
    ];
    let jobs = || Rules::new().grpc("jobs.v1.Jobs/List", policy_only());

    let house = serve(jobs()).await;
    let mallory = house.mallory();
    for name in NAMES {
        assert_eq!(house.grpc(name, Some(&mallory)).await, (Some(7), "rule_missing".into()), "{name}");
        assert_eq!(house.grpc(name, None).await, (Some(16), "credentials_missing".into()), "{name}");
    }
    // Listed, it answers: to holders of a token, or, for a reason, to everybody. The other method stays shut.
    let house = serve(jobs().grpc("grpc.health.v1.Health/Check", public("the balancer asks"))).await;
    assert_eq!(house.grpc(NAMES[0], None).await, (Some(0), String::new()));
    assert_eq!(house.grpc(NAMES[1], None).await, (Some(16), "credentials_missing".into()));
}

#[tokio::test]
async fn t_087_without_credentials_an_unknown_path_answers_like_a_known_one() {
    let house = Guarded::house().await;
    let mut answers = Vec::new();
    for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
        for target in ["/jobs", "/jobs/1", "/admin", "/nowhere", "/admin/nowhere", "/livez/nowhere", "/files/a/b"] {
            let ask = Ask::new(method.clone(), target);
            answers.push((
                format!("{ask:?}"),
                wire::http1(house.host.address, &ask).await.canonical,
                wire::http2(house.host.address, &ask).await.canonical,
            ));
        }
    }
    let (_, http1, http2) = answers[0].clone();
    assert!(http1.starts_with("HTTP/1.1 401"), "{http1}");
    for (ask, one, two) in answers {
        assert_eq!((one, two), (http1.clone(), http2.clone()), "{ask}");
    }
    assert!(house.ran.take().is_empty());

    // With a valid token too: absent, forgotten and forbidden are one answer.
    let mallory = house.mallory();
    let mut refusals = Vec::new();
    for (method, target) in
        [(Method::GET, "/admin"), (Method::GET, "/nowhere"), (Method::POST, "/jobs"), (Method::GET, "/admin/x")]
    {
        let ask = Ask::new(method, target).bearer(mallory.as_str());
        refusals.push((format!("{ask:?}"), wire::http1(house.host.address, &ask).await.canonical));
    }
    let forbidden = refusals[0].1.clone();
    assert!(forbidden.starts_with("HTTP/1.1 403"), "{forbidden}");
    for (ask, answer) in refusals {
        assert_eq!(answer, forbidden, "{ask}");
    }
}

#[tokio::test]
async fn t_088_a_forgotten_route_is_denied_recorded_and_warned_about_once() {
    const TEMPLATES: [&str; 3] = ["/t088-listed", "/t088-forgotten", "/t088-forgotten/{id}"];
    let log = Log::default();
    let _kept = log.keep();
    let rules = Rules::new().get("/t088-listed", policy_only());
    let house = Guarded::axum(rules, |ran| ran.router(TEMPLATES)).await;
    let mallory = house.mallory();
    house.get("/t088-forgotten", None).await.assert_refused(401, "credentials_missing", "asking without a token");
    for _ in 0..3 {
        for (target, template) in [
            ("/t088-forgotten", TEMPLATES[1]),
            ("/t088-forgotten/1", TEMPLATES[2]),
            ("/t088-forgotten/2", TEMPLATES[2]),
        ] {
            let seen = house.get(target, Some(&mallory)).await;
            seen.assert_refused(403, "rule_missing", target);
            assert_eq!(seen.record["route"]["template"], template);
            assert!(seen.record["route"]["rule"].is_null(), "{seen:?}");
        }
    }
    house.get("/t088-listed", Some(&mallory)).await.assert_ran("/t088-listed", "the listed one");
    house.get("/t088-absent", Some(&mallory)).await.assert_refused(403, "route_unknown", "an absent one");

    let warnings: Vec<_> =
        log.text().lines().filter(|line| line.contains("WARN") && line.contains("t088")).map(str::to_owned).collect();
    for template in &TEMPLATES[1..] {
        let named = |line: &&String| line.trim_end_matches('"').ends_with(&format!("GET  {template}"));
        assert_eq!(warnings.iter().filter(named).count(), 1, "{template}: {warnings:#?}");
    }
    assert_eq!(warnings.len(), 2, "{warnings:#?}");
}

mod t_089 {
    use super::*;

    #[tokio::test]
    async fn t_089_a_policy_that_cannot_be_read_is_a_start_error() {
        let empty = tempfile::tempdir().unwrap();
        let broken = tempfile::tempdir().unwrap();
        std::fs::write(broken.path().join("authz.rego"), "package authz\nallow if {").unwrap();
        for directory in [empty.path().join("nowhere"), empty.path().to_owned(), broken.path().to_owned()] {
            let error = portcullis::policy::Rego::from_dir(&directory).unwrap_err();
            assert!(error.field().starts_with("policy"), "{directory:?}: {error}");
        }
    }

    #[test]
    fn t_089_trust_anchors_and_certificates_that_cannot_be_used_are_start_errors() {
        let client = || OutboundBuilder::new(Duration::from_secs(1), 1024);
        for odd in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"] {
            assert!(client().with_roots(odd).build().is_err(), "roots: {odd:?}");
            assert!(client().with_identity(odd).build().is_err(), "identity: {odd:?}");
        }
        // Nothing is trusted in their place: the same client with the system's anchors does build.
        assert!(client().build().is_ok());
    }

    #[cfg(feature = "opa")]
    #[test]
    fn t_089_a_policy_server_that_could_not_be_trusted_is_a_start_error() {
        for url in ["http://opa.acme.example:8181", "ftp://opa.acme.example", "opa.acme.example", ""] {
            assert!(policy::Opa::builder(url).build().is_err(), "{url:?}");
        }
        let opa = || policy::Opa::builder("https://opa.acme.example");
        for odd in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"] {
            assert!(opa().with_roots(odd).build().is_err(), "roots: {odd:?}");
            assert!(opa().with_identity(odd).build().is_err(), "identity: {odd:?}");
        }
        for odd in ["", " ", "two words", "line\nbreak"] {
            assert!(opa().with_bearer(odd).build().is_err(), "bearer: {odd:?}");
        }
        // Certificates where there is no TLS would protect nothing.
        assert!(policy::Opa::builder("http://127.0.0.1:8181").with_roots("x").build().is_err());
        assert!(opa().build().is_ok());
    }

    #[test]
    fn t_089_no_runtime_is_a_start_error() {
        let rules = Rules::new().get("/jobs", policy_only());
        let issuer = portcullis::Issuer::rfc9068("https://idp.example", AUDIENCE);
        let error = Stack::builder(issuer, rules, policy::deny_all(), Memory::new()).build().unwrap_err();
        assert!(matches!(error, ConfigError::NoRuntime { .. }), "{error}");
    }

    #[tokio::test]
    async fn t_089_an_issuer_without_trustworthy_keys_is_a_start_error() {
        let rules = || Rules::new().get("/jobs", policy_only());
        for (url, audience) in [
            ("http://idp.example", AUDIENCE),
            ("ftp://idp.example", AUDIENCE),
            ("idp.example", AUDIENCE),
            ("", AUDIENCE),
            ("https://idp.example", ""),
            ("https://idp.example", " "),
        ] {
            let issuer = portcullis::Issuer::rfc9068(url, audience);
            let built = Stack::builder(issuer, rules(), policy::deny_all(), Memory::new()).build();
            assert!(
                matches!(built, Err(ConfigError::Invalid { .. } | ConfigError::Missing { .. })),
                "{url:?} {audience:?}: {built:?}"
            );
        }
    }

    #[tokio::test]
    async fn t_089_keys_that_never_come_keep_the_gate_shut() {
        let house = Guarded::house().await;
        house.idp.fail(http::StatusCode::INTERNAL_SERVER_ERROR);
        let mallory = house.mallory();
        // No key was ever loaded: an outage, not a bad token, and not an open door.
        let seen = house.get("/jobs", Some(&mallory)).await;
        assert!(
            seen.ran.is_empty() && matches!(seen.status, Some(503)) && seen.reason() == "keys_unavailable",
            "{seen:?}"
        );
    }
}

impl Guarded {
    /// `GET` on a target of any bytes over HTTP/2.
    async fn h2_get(&self, target: &str, token: Option<&TestToken>) -> Seen {
        self.h2_raw("GET", target.as_bytes(), &[], token).await
    }

    /// One request whose status is taken from the record, because the raw client reads frames and no header block.
    async fn h2_raw(&self, method: &str, path: &[u8], fields: &[(&[u8], &[u8])], token: Option<&TestToken>) -> Seen {
        let bearer = token.map(TestToken::bearer);
        let mut block: Vec<(&[u8], &[u8])> = vec![
            (b":method", method.as_bytes()),
            (b":scheme", b"http"),
            (b":authority", b"api.acme.example"),
            (b":path", path),
        ];
        block.extend(bearer.as_ref().map(|bearer| (&b"authorization"[..], bearer.as_bytes())));
        block.extend(fields);
        let before = self.records.records().len();
        let end = raw_h2::send(self.host.address, &block).await;
        let about = path.escape_ascii().to_string();
        let mut seen = self.seen(None, before, end == raw_h2::End::Answered, &about).await;
        seen.status = seen.record["sent"]["http"].as_u64().and_then(|status| status.try_into().ok());
        seen
    }

    /// A gRPC call: the code that came, and the reason in the record.
    async fn grpc(&self, path: &str, token: Option<&TestToken>) -> (Option<u8>, String) {
        let before = self.records.records().len();
        let mut request = Request::post(format!("http://api.acme.example{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", token.bearer());
        }
        let exchange = async {
            let stream = TcpStream::connect(self.host.address).await.unwrap();
            let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            let (response, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
            // Refused already, perhaps.
            let _ = body.send_data(bytes::Bytes::from_static(&[0, 0, 0, 0, 0]), true);
            let (head, mut incoming) = response.await.unwrap().into_parts();
            let mut trailers = None;
            if !incoming.is_end_stream() {
                while let Some(chunk) = incoming.data().await {
                    let _ = incoming.flow_control().release_capacity(chunk.unwrap().len());
                }
                trailers = incoming.trailers().await.unwrap();
            }
            driver.abort();
            let code = |headers: &http::HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
            code(&head.headers).or_else(|| code(&trailers?))
        };
        let code: Option<u8> = timeout(PATIENCE, exchange).await.expect("an answer in time");
        let records = self.records_since_heads(before, path).await;
        (code, records["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// The `request` record of the one request after the first `before` records; its `end` may follow.
    async fn records_since_heads(&self, before: usize, about: &str) -> serde_json::Value {
        let heads = || {
            let records =
                self.records.records().into_iter().skip(before).map(|record| serde_json::to_value(record).unwrap());
            records.filter(|record| record["kind"] == "request").collect::<Vec<_>>()
        };
        super::eventually(|| !heads().is_empty(), about).await;
        let heads = heads();
        assert_eq!(heads.len(), 1, "{about}: {heads:?}");
        heads.into_iter().next().unwrap_or_default()
    }
}
