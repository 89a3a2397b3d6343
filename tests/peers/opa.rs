//! `policy::Opa` against a real server, and against `policy::Rego` with the same policy.

mod bundle;
mod capabilities;
mod decision_log;
mod differential;
mod equality;
mod inputs;
mod management;
mod negation;
mod server;
#[cfg(feature = "cli")]
mod suites;
mod wasm;

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use portcullis::{
    health::Health,
    policy::{Decision, Effect, Opa, OpaBuilder, PolicyBackend as _, PolicyError, PolicyErrorKind, PolicyInput},
    testing::{FrozenClock, policy_input},
};

use self::server::{Certificates, Server, find, find_with_openssl};
use crate::{policy_dir, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("opa::the_example_policy_passes_its_own_tests", find, the_example_policy_passes_its_own_tests),
        trial("opa::it_allows_denies_and_says_nothing", find, it_allows_denies_and_says_nothing),
        trial("opa::a_builtin_that_fails_is_no_decision", find, a_builtin_that_fails_is_no_decision),
        trial("opa::a_unix_socket_is_a_server", find, a_unix_socket_is_a_server),
        trial("opa::the_bearer_token_is_what_opens_the_server", find, the_bearer_token_is_what_opens_the_server),
        trial("opa::https_needs_the_right_root", find_with_openssl, https_needs_the_right_root),
        trial("opa::a_client_certificate_is_an_identity", find_with_openssl, a_client_certificate_is_an_identity),
        trial(
            "opa::a_server_that_dies_is_unavailable_until_it_is_back",
            find,
            a_server_that_dies_is_unavailable_until_it_is_back,
        ),
        trial(
            "opa::a_server_that_stays_away_is_left_alone_until_it_is_back",
            find,
            a_server_that_stays_away_is_left_alone_until_it_is_back,
        ),
        trial(
            "opa::http2_without_tls_needs_a_server_that_speaks_it",
            find,
            http2_without_tls_needs_a_server_that_speaks_it,
        ),
        trial("opa::it_is_ready_once_the_bundles_are_there", find, it_is_ready_once_the_bundles_are_there),
        trial(
            "opa::the_canary_refuses_a_path_that_does_not_exist",
            find,
            the_canary_refuses_a_path_that_does_not_exist,
        ),
        trial(
            "opa::bundle_revision_and_decision_id_are_the_servers",
            find,
            bundle_revision_and_decision_id_are_the_servers,
        ),
        trial("opa::it_decides_what_rego_decides", find, equality::it_decides_what_rego_decides),
        trial(
            "opa::it_takes_and_refuses_what_the_server_does",
            find_with_openssl,
            management::it_takes_and_refuses_what_the_server_does,
        ),
        trial(
            "opa::the_negations_that_rego_refuses_are_those_that_opa_reads_otherwise",
            find,
            negation::the_negations_that_rego_refuses_are_those_that_opa_reads_otherwise,
        ),
        trial(
            "opa::the_capabilities_file_takes_what_rego_takes",
            find,
            capabilities::the_capabilities_file_takes_what_rego_takes,
        ),
        trial(
            "opa::what_rego_refuses_to_compile_opa_refuses_too",
            find,
            capabilities::what_rego_refuses_to_compile_opa_refuses_too,
        ),
        trial("opa::every_engine_decides_what_opa_decides", find, differential::every_engine_decides_what_opa_decides),
        trial(
            "opa::the_corpus_is_what_opa_takes_for_well_written",
            find,
            differential::the_corpus_is_what_opa_takes_for_well_written,
        ),
        trial("opa::decision_log::its_events_are_those_of_opa", find, decision_log::its_events_are_those_of_opa),
        #[cfg(feature = "cli")]
        trial("opa::the_command_runs_tests_as_opa_does", find, suites::the_command_runs_tests_as_opa_does),
        trial("opa::bundle::what_it_signs_is_read_here", find_with_openssl, bundle::what_it_signs_is_read_here),
        trial(
            "opa::bundle::it_hashes_documents_as_this_does",
            find_with_openssl,
            bundle::it_hashes_documents_as_this_does,
        ),
        trial(
            "opa::bundle::what_it_refuses_is_refused_here",
            find_with_openssl,
            bundle::what_it_refuses_is_refused_here,
        ),
    ]
}

/// A deadline that a busy machine keeps.
fn patient(url: &str) -> OpaBuilder {
    Opa::builder(url).with_deadline(Duration::from_secs(10))
}

fn alice(method: &str, template: &str, scopes: &[&str]) -> PolicyInput {
    let mut input = policy_input(method, template);
    input.subject.r#type = "user";
    input.subject.id = "auth0|alice".to_owned();
    input.subject.properties.scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    input
}

async fn ask(opa: &Arc<Opa>, input: PolicyInput) -> Result<Decision, PolicyError> {
    Arc::clone(opa).decide(input).await
}

async fn lists_jobs(opa: OpaBuilder) -> Result<Effect, PolicyErrorKind> {
    let opa = Arc::new(opa.build().unwrap());
    let decision = ask(&opa, alice("GET", "/jobs", &["jobs:read"])).await;
    decision.map(|decision| decision.effect()).map_err(|error| error.kind())
}

async fn the_example_policy_passes_its_own_tests(opa: PathBuf) {
    for arguments in [&["check", "--strict"][..], &["test", "--fail-on-empty"]] {
        let done = Command::new(&opa).args(arguments).arg(policy_dir()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{arguments:?}: {out}{err}");
    }
}

async fn it_allows_denies_and_says_nothing(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().ready().await;
    let example = Arc::new(patient(server.url()).build().unwrap());
    let allow = ask(&example, alice("GET", "/jobs", &["jobs:read"])).await.unwrap();
    assert_eq!((allow.effect(), allow.reasons()), (Effect::Allow, &["lists jobs".to_owned()][..]));
    assert!(allow.revision().as_str().starts_with("opa:1."), "{}", allow.revision());
    let deny = ask(&example, alice("POST", "/jobs", &["jobs:read"])).await.unwrap();
    assert_eq!((deny.effect(), deny.is_undefined()), (Effect::Deny, false));
    becomes(&example, |health| *health == Health::Ready).await;

    for elsewhere in ["authz/desicion", "auth/decision", "authz%2Fdecision"] {
        let opa = Arc::new(patient(server.url()).with_decision_path(elsewhere).build().unwrap());
        let decision = ask(&opa, alice("GET", "/jobs", &["jobs:read"])).await.unwrap();
        assert!(decision.is_undefined() && decision.effect() == Effect::Deny, "{elsewhere}");
    }
    // A package is an object of all its rules, whatever they are called; the compiler knows what is below a rule, and that is not.
    let at = |path| patient(server.url()).with_decision_path(path);
    assert_eq!(lists_jobs(at("authz")).await, Err(PolicyErrorKind::InvalidResult));
    assert_eq!(lists_jobs(at("authz/decision/more")).await, Err(PolicyErrorKind::Evaluation));
}

async fn a_builtin_that_fails_is_no_decision(opa: PathBuf) {
    let policy = "package authz\ndecision if not to_number(input.subject.id) == 7\n\
                  conflict := true if input.subject.id\nconflict := false if input.action.name\nshaky := \"true\"";
    let server = Server::start(&opa).with_policy("authz.rego", policy).ready().await;
    let at = |path| patient(server.url()).with_decision_path(path);
    assert_eq!(lists_jobs(at("authz/decision")).await, Err(PolicyErrorKind::Evaluation));
    assert_eq!(lists_jobs(at("authz/conflict")).await, Err(PolicyErrorKind::Evaluation));
    assert_eq!(lists_jobs(at("authz/shaky")).await, Err(PolicyErrorKind::InvalidResult));
}

async fn a_unix_socket_is_a_server(opa: PathBuf) {
    let server = Server::start(&opa).on_unix_socket().with_policy_dir().ready().await;
    assert!(server.url().starts_with("unix:///"));
    assert_eq!(lists_jobs(patient(server.url())).await, Ok(Effect::Allow));
}

async fn the_bearer_token_is_what_opens_the_server(opa: PathBuf) {
    let gate = "package system.authz\ndefault allow := false\nallow if input.identity == \"t0ken-for-tests\"";
    let server = Server::start(&opa)
        .with_policy_dir()
        .with_policy("gate.rego", gate)
        .with_arguments(&["--authentication=token", "--authorization=basic"])
        .ready()
        .await;
    let opa = || patient(server.url());
    assert_eq!(lists_jobs(opa().with_bearer("t0ken-for-tests")).await, Ok(Effect::Allow));
    for (name, refused) in [("none", opa()), ("another", opa().with_bearer("s3cr3t"))] {
        let refused = Arc::new(refused.build().unwrap());
        let error = ask(&refused, alice("GET", "/jobs", &["jobs:read"])).await.unwrap_err();
        assert_eq!(error.kind(), PolicyErrorKind::Unavailable, "{name}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("401") && cause.contains("with_bearer") && !cause.contains("s3cr3t"), "{cause}");
        becomes(&refused, |health| health.to_string().contains("401")).await;
        assert!(!refused.health().is_serving(), "{name}");
    }
}

async fn https_needs_the_right_root((opa, openssl): (PathBuf, PathBuf)) {
    let (ours, others) = (Certificates::make(&openssl), Certificates::make(&openssl));
    let server = Server::start(&opa).with_policy_dir().with_tls(&ours).ready().await;
    assert!(server.url().starts_with("https://"));
    assert_eq!(lists_jobs(patient(server.url()).with_roots(ours.ca())).await, Ok(Effect::Allow));
    let wrong = patient(server.url()).with_roots(others.ca());
    assert_eq!(lists_jobs(wrong).await, Err(PolicyErrorKind::Unavailable));
}

async fn a_client_certificate_is_an_identity((opa, openssl): (PathBuf, PathBuf)) {
    let certificates = Certificates::make(&openssl);
    let gate = "package system.authz\ndefault allow := false\nallow if input.identity == \"CN=portcullis\"";
    let server = Server::start(&opa)
        .with_policy_dir()
        .with_policy("gate.rego", gate)
        .with_tls(&certificates)
        .with_client_certificates(&certificates)
        .ready()
        .await;
    let stranger = || patient(server.url()).with_roots(certificates.ca());
    assert_eq!(lists_jobs(stranger().with_identity(certificates.client())).await, Ok(Effect::Allow));
    assert_eq!(lists_jobs(stranger()).await, Err(PolicyErrorKind::Unavailable));
}

async fn a_server_that_dies_is_unavailable_until_it_is_back(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().ready().await;
    let client = Arc::new(patient(server.url()).build_probed().await.unwrap());
    assert_eq!(client.health(), Health::Ready);
    let question = || alice("GET", "/jobs", &["jobs:read"]);
    assert_eq!(ask(&client, question()).await.unwrap().effect(), Effect::Allow);
    let port = server.kill();
    assert_eq!(ask(&client, question()).await.unwrap_err().kind(), PolicyErrorKind::Unavailable);
    becomes(&client, |health| !health.is_serving()).await;

    let _server = Server::start(&opa).with_policy_dir().on_port(port).ready().await;
    assert_eq!(ask(&client, question()).await.unwrap().effect(), Effect::Allow);
    assert_eq!(client.health(), Health::Ready);
}

async fn a_server_that_stays_away_is_left_alone_until_it_is_back(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().ready().await;
    let clock = FrozenClock::default();
    let builder = patient(server.url()).without_health_checks().with_clock(clock.clone());
    let client = Arc::new(builder.build_probed().await.unwrap());
    let port = server.kill();
    let cause = async || {
        let error = ask(&client, alice("GET", "/jobs", &["jobs:read"])).await.unwrap_err();
        assert_eq!(error.kind(), PolicyErrorKind::Unavailable);
        std::error::Error::source(&error).unwrap().to_string()
    };
    for _ in 0..5 {
        assert_eq!(cause().await, "could not connect");
    }
    assert!(cause().await.starts_with("not asked"));
    assert!(!client.health().is_serving());
    clock.advance(Duration::from_secs(1));
    assert_eq!(cause().await, "could not connect", "the probe");

    let _server = Server::start(&opa).with_policy_dir().on_port(port).ready().await;
    assert!(cause().await.starts_with("not asked"), "nobody knows yet");
    clock.advance(Duration::from_secs(2));
    for _ in 0..2 {
        let decision = ask(&client, alice("GET", "/jobs", &["jobs:read"])).await.unwrap();
        assert_eq!(decision.effect(), Effect::Allow);
    }
    assert_eq!(client.health(), Health::Ready);
}

async fn http2_without_tls_needs_a_server_that_speaks_it(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().with_arguments(&["--h2c"]).ready().await;
    assert_eq!(lists_jobs(patient(server.url()).with_http2_prior_knowledge()).await, Ok(Effect::Allow));
    assert_eq!(lists_jobs(patient(server.url())).await, Ok(Effect::Allow), "it speaks HTTP/1 as well");
    let old = Server::start(&opa).with_policy_dir().ready().await;
    let hurried = Opa::builder(old.url()).with_deadline(Duration::from_secs(2)).with_http2_prior_knowledge();
    let refused = lists_jobs(hurried).await;
    // It hangs up, or waits for the end of what it takes for a request.
    assert!(matches!(refused, Err(PolicyErrorKind::Unavailable | PolicyErrorKind::Timeout)), "{refused:?}");
}

async fn it_is_ready_once_the_bundles_are_there(opa: PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bundle.tar.gz");
    let built =
        Command::new(&opa).args(["build", "--bundle", "--output"]).args([&path, &policy_dir()]).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let published = Arc::new(AtomicBool::new(false));
    let store = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = store.local_addr().unwrap();
    let (is_published, bundle) = (Arc::clone(&published), std::fs::read(&path).unwrap());
    let router = axum::Router::new().fallback(async move || {
        if is_published.load(Ordering::Relaxed) { Ok(bundle) } else { Err(axum::http::StatusCode::NOT_FOUND) }
    });
    tokio::spawn(async move { axum::serve(store, router).await });

    let server = Server::start(&opa)
        .with_arguments(&[
            format!("--set=services.store.url=http://{address}"),
            "--set=bundles.authz.service=store".to_owned(),
            "--set=bundles.authz.resource=bundle.tar.gz".to_owned(),
            "--set=bundles.authz.polling.min_delay_seconds=1".to_owned(),
            "--set=bundles.authz.polling.max_delay_seconds=1".to_owned(),
        ])
        .ready()
        .await;
    let client = Arc::new(patient(server.url()).build_probed().await.unwrap());
    let health = client.health();
    assert!(!health.is_serving() && health.to_string().contains("bundles"), "{health}");
    let decision = ask(&client, alice("GET", "/jobs", &["jobs:read"])).await.unwrap();
    assert!(decision.is_undefined() && !client.health().is_serving());

    published.store(true, Ordering::Relaxed);
    becomes(&client, |health| *health == Health::Ready).await;
    let decision = ask(&client, alice("GET", "/jobs", &["jobs:read"])).await.unwrap();
    assert_eq!(decision.effect(), Effect::Allow);
}

async fn the_canary_refuses_a_path_that_does_not_exist(opa: PathBuf) {
    let server = Server::start(&opa).with_policy_dir().ready().await;
    let at = |path| patient(server.url()).with_decision_path(path).build_probed();
    assert_eq!(at("authz/decision").await.unwrap().health(), Health::Ready);
    for (wrong, remedy) in [
        ("authz/desicion", "default decision"),
        ("auth/decision", "default decision"),
        ("authz", "not its package"),
        ("authz/decision/more", "not its package"),
    ] {
        let error = at(wrong).await.expect_err(wrong).to_string();
        assert!(
            error.contains("policy.opa.decision_path") && error.contains(wrong) && error.contains(remedy),
            "{error}"
        );
    }
}

/// Waits until the health is so.
async fn becomes(opa: &Arc<Opa>, so: impl Fn(&Health) -> bool) {
    while !so(&opa.health()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn bundle_revision_and_decision_id_are_the_servers(opa: PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("bundle.tar.gz");
    let built = Command::new(&opa)
        .args(["build", "--bundle", "--revision", "r7", "--output"])
        .args([&bundle, &policy_dir()])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let server = Server::start(&opa)
        .with_bundle(&bundle)
        .with_arguments(&[
            "--set=decision_logs.console=true",
            "--set=decision_logs.request_context.http.headers={x-request-id}",
        ])
        .ready()
        .await;
    let client = Arc::new(patient(server.url()).build().unwrap());
    let mut question = alice("GET", "/jobs", &["jobs:read"]);
    question.context.request_id = "request-7".to_owned();
    let decision = ask(&client, question).await.unwrap();
    assert_eq!(decision.effect(), Effect::Allow);
    assert!(decision.revision().as_str().ends_with("bundle.tar.gz=r7"), "{}", decision.revision());
    let entry = server.log_line_with(decision.id().as_str()).await;
    assert!(entry.contains("request-7"), "{entry}");
}
