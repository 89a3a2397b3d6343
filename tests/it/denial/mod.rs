//! What a caller sees of a refusal, byte for byte, over real sockets; and what the audit record says of the same request.
//!
//! The texts in [`golden`] are the contract: whoever changes one of them changes what strangers can learn.

mod causes;

mod golden;

mod world;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use portcullis::{
    Issuer, Stack,
    audit::Audit,
    axum::protect,
    denial::Disclosure,
    testing::{TestIssuer, TokenBuilder},
};
use serde_json::json;

use self::{
    causes::{Cause, Place, causes},
    golden::{Class, Protocol},
    world::{Rulebook, SIGN_IN, Server, World, http_rules, router},
};
use crate::{
    support::{self, AUDIENCE, BySubject, Counter, Host, alice, records},
    wire::{self, Answer, Ask},
};

#[tokio::test]
async fn refusals_of_a_class_are_the_same_bytes_and_the_record_names_the_cause() {
    let world = World::new().await;
    let causes = causes(&world);
    let mut asked = Vec::new();
    let mut classes = std::collections::HashSet::new();
    for cause in &causes {
        for protocol in Protocol::ALL {
            let places = if protocol == Protocol::Grpc { cause.grpc } else { cause.http };
            for place in places {
                let answer = exchange(&world, cause, protocol, *place).await;
                let at = format!("{} × {protocol:?} × {} {}", cause.name, place.0, place.1);
                assert_eq!(answer.canonical, expected(cause.class, protocol, *place), "{at}");
                classes.insert((cause.class, protocol));
                asked.push((answer.request_id(), cause, at));
            }
        }
    }

    assert_eq!(world.handled.total(), 0, "a refused request reached a handler");
    let records = records(&world.stack, &world.memory).await;
    assert_eq!(records.len(), asked.len(), "one record for each request");
    let by_id: HashMap<_, _> = records.iter().map(|record| (record["request_id"].as_str().unwrap(), record)).collect();
    for (id, cause, at) in &asked {
        let record = by_id.get(id.as_str()).unwrap_or_else(|| panic!("no record of {at}"));
        assert_eq!((&record["kind"], &record["reason"]), (&json!("request"), &json!(cause.reason)), "{at}");
        let decision = if matches!(cause.class, Class::Unavailable | Class::Internal) { "error" } else { "deny" };
        assert_eq!((&record["decision"], &record["outcome"]), (&json!(decision), &json!("complete")), "{at}");
    }
    let every = Class::ALL.len() * Protocol::ALL.len();
    assert_eq!(classes.len(), every, "a class was not met over some protocol");
    println!(
        "{} causes × {} protocols = {} exchanges, {} classes, {} goldens",
        causes.len(),
        Protocol::ALL.len(),
        asked.len(),
        Class::ALL.len(),
        golden::distinct(),
    );
}

async fn exchange(world: &World, cause: &Cause, protocol: Protocol, (method, target): Place) -> Answer {
    let authorization =
        |value: &Vec<u8>| (HeaderName::from_static("authorization"), HeaderValue::from_bytes(value).unwrap());
    let ask = Ask::new(Method::from_bytes(method.as_bytes()).unwrap(), target)
        .headers(cause.authorization.iter().map(authorization));
    let host = |server| world.hosts[&(server, cause.rulebook)].address;
    match protocol {
        Protocol::Http1 => wire::http1(host(Server::Api), &ask).await,
        Protocol::Http2 => wire::http2(host(Server::Api), &ask).await,
        Protocol::Grpc => {
            wire::grpc(host(Server::Grpc), &ask.header("content-type", "application/grpc").header("te", "trailers"))
                .await
        }
        Protocol::BrowserScript => {
            wire::http1(host(Server::Browser), &ask.header("sec-fetch-mode", "cors").header("sec-fetch-dest", "empty"))
                .await
        }
        Protocol::BrowserNavigation => {
            let ask = ask
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "document")
                .header("accept", "text/html");
            wire::http1(host(Server::Browser), &ask).await
        }
    }
}

/// The golden of the class, for this request: without the body for `HEAD`, with the way back for a redirect.
fn expected(class: Class, protocol: Protocol, (method, target): Place) -> String {
    let navigates = matches!(method, "GET" | "HEAD");
    let protocol = match protocol {
        // Only a navigation that reads may be sent elsewhere.
        Protocol::BrowserNavigation if !navigates => Protocol::BrowserScript,
        other => other,
    };
    let golden = match golden::text(class, protocol) {
        golden::REDIRECT if method == "HEAD" => golden::REDIRECT_OF_HEAD,
        golden => golden,
    };
    let text = golden.trim_start_matches('\n').replace("{target}", &target.replace('?', "%3F").replace('=', "%3D"));
    if method != "HEAD" {
        return text;
    }
    let (head, _) = text.split_once("\n\n").unwrap();
    format!("{}\n\n", head.replace("[HEADERS+END_HEADERS, DATA+END_STREAM]", "[HEADERS+END_STREAM+END_HEADERS]"))
}

#[tokio::test]
async fn a_real_grpc_client_gets_the_code_of_the_class() {
    let world = World::new().await;
    let address = world.hosts[&(Server::Grpc, Rulebook::Concealing)].address;
    let channel = support::channel(address).await;
    let good = || alice(&world.idp);
    let cases = [
        ("List", None, tonic::Code::Unauthenticated),
        ("Nothing", None, tonic::Code::Unauthenticated),
        ("List", Some(good().expired().mint().bearer()), tonic::Code::Unauthenticated),
        ("List", Some("Bearer not a token".to_owned()), tonic::Code::InvalidArgument),
        ("List", Some(good().subject("denied").mint().bearer()), tonic::Code::PermissionDenied),
        ("Report", Some(good().mint().bearer()), tonic::Code::NotFound),
        ("Nothing", Some(good().mint().bearer()), tonic::Code::NotFound),
        ("List", Some(good().subject("unreachable").mint().bearer()), tonic::Code::Unavailable),
        ("List", Some(good().subject("panicking").mint().bearer()), tonic::Code::Internal),
    ];
    for (method, bearer, code) in cases {
        let status =
            support::unary(channel.clone(), &format!("/jobs.v1.Jobs/{method}"), bearer.as_deref()).await.unwrap_err();
        assert_eq!(status.code(), code, "{method} {status:?}");
    }
    assert!(support::unary(channel, "/jobs.v1.Jobs/List", Some(&good().mint().bearer())).await.is_ok());
}

#[tokio::test]
async fn only_guided_disclosure_names_the_missing_scope() {
    let world = World::new().await;
    let guided = world.stack.sibling(http_rules(Rulebook::Open)).with_disclosure(Disclosure::Guided).build().unwrap();
    let host = Host::axum(protect(router(&world.handled), guided)).await;
    let ask = |token: TokenBuilder| Ask::get("/report").bearer(token.mint().as_str());
    let lacking = wire::http1(host.address, &ask(alice(&world.idp))).await;
    assert_eq!(
        lacking.header("www-authenticate"),
        r#"Bearer realm="api", error="insufficient_scope", scope="reports:read""#
    );
    let denied = wire::http1(host.address, &ask(alice(&world.idp).subject("denied").scope("reports:read"))).await;
    assert_eq!((denied.status, denied.header("www-authenticate")), (403, ""));
}

#[tokio::test]
async fn a_redirect_comes_back_to_this_origin_or_nowhere() {
    let world = World::new().await;
    let address = world.hosts[&(Server::Browser, Rulebook::Open)].address;
    let cases = [
        ("/jobs", Some("/jobs")),
        ("/jobs?page=2&sort=a", Some("/jobs%3Fpage%3D2%26sort%3Da")),
        ("//evil.example/jobs", None),
        ("/jobs?access_token=s3cret", None),
    ];
    for (target, back) in cases {
        let navigation = Ask::get(target).header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document");
        let answer = wire::http1(address, &navigation).await;
        let location = back.map_or_else(|| SIGN_IN.to_owned(), |back| format!("{SIGN_IN}?return_to={back}"));
        assert_eq!((answer.status, answer.header("location")), (303, location.as_str()), "{target}");
        assert!(!answer.canonical.contains("s3cret"), "{target}");
    }
}

#[tokio::test]
async fn a_full_audit_trail_looks_like_any_other_outage() {
    let idp = TestIssuer::start().await;
    let (sink, handled) = (support::SharedSink::default(), Counter::default());
    let audit = Audit::builder(Arc::new(sink.clone())).with_capacity(8).start().unwrap();
    let builder = Stack::builder(
        Issuer::rfc9068(idp.url(), AUDIENCE),
        http_rules(Rulebook::Open),
        BySubject::new(),
        sink.clone(),
    );
    let stack = builder.with_audit(audit).build().unwrap();
    let host = Host::axum(protect(router(&handled), stack.clone())).await;
    let token = alice(&idp).mint();
    let ask = Ask::get("/jobs").bearer(token.as_str());
    sink.0.stall(true);
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(wire::http1(host.address, &ask).await);
    }
    let place = ("GET", "/jobs");
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    assert!(!refused.is_empty());
    for answer in refused {
        assert_eq!(answer.canonical, expected(Class::Unavailable, Protocol::Http1, place));
    }
    let answer = wire::http2(host.address, &ask).await;
    assert_eq!(answer.canonical, expected(Class::Unavailable, Protocol::Http2, place));
    assert_eq!(handled.total(), answers.iter().filter(|answer| answer.status == 200).count());
}
