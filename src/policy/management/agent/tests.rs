use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::Value;

use super::*;
use crate::{
    outbound::{Outbound, OutboundError},
    policy::{
        Effect, PolicyErrorKind,
        bundle::{Contents, Limits, RevisionRule, Verification, VerificationKey, VerificationKeys},
        management::{DecisionLog, Labels, Logged},
    },
    testing::{FrozenClock, policy_input},
    time::UnixTime,
};

/// What a path answers.
#[derive(Clone)]
enum Reply {
    Bundle {
        archive: Bytes,
        etag: &'static str,
        kind: &'static str,
    },
    Status(u16),
    Away,
    Panic,
    /// After so much time by the clock, what the other one says.
    After(Duration, Box<Reply>),
}

#[derive(Clone)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Default)]
struct Server {
    replies: Mutex<BTreeMap<String, Reply>>,
    seen: Mutex<Vec<Seen>>,
    clock: Mutex<Option<FrozenClock>>,
}

impl Server {
    fn serve(&self, name: &str, archive: Bytes, etag: &'static str) {
        self.reply(name, Reply::Bundle { archive, etag, kind: "application/gzip" });
    }

    fn reply(&self, name: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(format!("/bundles/{name}"), reply);
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `If-None-Match` and `Prefer` of the last request.
    fn last_asked(&self) -> (Option<String>, String) {
        let seen = self.seen();
        let headers = &seen.last().unwrap().headers;
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (text("if-none-match"), text("prefer").unwrap())
    }

    fn outbound(self: &Arc<Self>) -> Outbound {
        let server = Arc::clone(self);
        Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
            let server = Arc::clone(&server);
            async move {
                let path = request.uri().path().to_owned();
                let (head, body) = request.into_parts();
                let headers = head.headers.clone();
                server.seen.lock().unwrap().push(Seen { method: head.method, path: path.clone(), headers, body });
                let mut reply = server.replies.lock().unwrap().get(&path).cloned().unwrap_or(Reply::Status(404));
                if let Reply::After(time, then) = reply {
                    if let Some(clock) = &*server.clock.lock().unwrap() {
                        clock.advance(time);
                    }
                    reply = *then;
                }
                let mut answer = Response::new(Bytes::new());
                match reply {
                    Reply::Bundle { etag, .. }
                        if head.headers.get("if-none-match").is_some_and(|sent| sent == etag) =>
                    {
                        *answer.status_mut() = StatusCode::NOT_MODIFIED;
                    }
                    Reply::Bundle { archive, etag, kind } => {
                        answer.headers_mut().insert("etag", etag.parse().unwrap());
                        answer.headers_mut().insert("content-type", kind.parse().unwrap());
                        *answer.body_mut() = archive;
                    }
                    Reply::Status(status) => *answer.status_mut() = StatusCode::from_u16(status).unwrap(),
                    Reply::Panic => panic!("scripted"),
                    Reply::Away | Reply::After(..) => return Err(OutboundError::Connect("nobody there".into())),
                }
                Ok(answer)
            }
        }))
    }

    fn service(self: &Arc<Self>) -> Service {
        Service::builder("control", "https://control.example").with_outbound(self.outbound()).build().unwrap()
    }
}

fn pack(files: &[(&str, &str)]) -> Bytes {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap().into()
}

fn manifest(revision: &str, root: &str) -> String {
    format!(r#"{{"revision":"{revision}","roots":["{root}"]}}"#)
}

/// A bundle with the rule that decides.
fn rules(revision: &str, decision: &str) -> Bytes {
    let policy = format!("package authz\n\ndefault decision := false\n\ndecision if {decision}\n");
    pack(&[(".manifest", &manifest(revision, "authz")), ("authz/policy.rego", &policy)])
}

fn roles(revision: &str, data: &str) -> Bytes {
    pack(&[(".manifest", &manifest(revision, "roles")), ("roles/data.json", data)])
}

fn source(name: &str) -> BundleSource {
    BundleSource::new(name, Verification::forbidden()).with_polling(Polling::manual())
}

struct Stage {
    server: Arc<Server>,
    clock: FrozenClock,
    agent: Arc<BundleAgent>,
}

impl Stage {
    fn with(server: Arc<Server>, build: impl FnOnce(BundleAgentBuilder) -> BundleAgentBuilder) -> Self {
        let clock = FrozenClock::default();
        let mut builder = BundleAgent::builder(server.service());
        builder.jitter = || 0.5;
        let builder = build(builder.with_clock(clock.clone()));
        let engine = Rego::builder().with_time_limit(Duration::from_secs(1));
        Self { server, clock, agent: Arc::new(builder.start(engine).unwrap()) }
    }

    fn new(sources: impl IntoIterator<Item = BundleSource>) -> Self {
        Self::with(Arc::default(), |builder| sources.into_iter().fold(builder, BundleAgentBuilder::add_bundle))
    }

    /// The effect, or the kind of error.
    fn ask(&self) -> String {
        match self.agent.decide_now(&policy_input("GET", "/jobs")).unwrap() {
            Ok(decision) => format!("{:?} by {}", decision.effect(), decision.revision()),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    fn health(&self) -> String {
        self.agent.health().to_string()
    }

    fn status(&self, name: &str) -> BundleStatus {
        self.agent.statuses().into_iter().find(|status| status.name == name).unwrap()
    }

    /// Code and message.
    fn error(&self, name: &str) -> (&'static str, String) {
        self.status(name).error.map_or(("", String::new()), |error| (error.code, error.message))
    }
}

#[tokio::test]
async fn nothing_is_decided_before_every_bundle_has_come() {
    let stage = Stage::new([source("authz"), source("roles")]);
    assert_eq!(stage.ask(), "Unavailable");
    assert_eq!(stage.health(), "unavailable: not every bundle has come and been accepted yet");
    assert!(stage.agent.in_force().is_none() && stage.agent.backend().is_none());

    stage.server.serve("authz", rules("1", "input.subject.id in data.roles.all"), "\"a\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Unavailable");
    assert_eq!(stage.error("authz").0, "waiting");
    assert_eq!(stage.error("roles"), ("http", "the server answered 404 Not Found (service `control`)".to_owned()));
    assert!(stage.health().contains("`roles`"), "{}", stage.health());
    let error = stage.agent.ready(Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), PolicyErrorKind::Unavailable);

    stage.server.serve("roles", roles("1", r#"{"all":["alice"]}"#), "\"r\"");
    stage.agent.refresh().await;
    assert!(stage.agent.ready(Duration::ZERO).await.is_ok());
    assert_eq!((stage.ask().as_str(), stage.health().as_str()), ("Deny by authz=1,roles=1", "ready"));
    let decided = Arc::clone(&stage.agent).decide(policy_input("GET", "/jobs")).await.unwrap();
    assert_eq!(decided.effect(), Effect::Deny);
    let status = stage.status("authz");
    assert_eq!((status.active_revision.as_deref(), status.error), (Some("1"), None));
    assert_eq!((status.requests, status.activations, status.refusals), (2, 1, 0), "it waited, and was not sent again");
    assert_eq!(status.http_code, Some(304));
}

#[tokio::test]
async fn what_is_refused_replaces_nothing_and_is_told_with_its_place() {
    let keys = || {
        let secret = crate::key::SharedSecret::new("a secret of thirty-two characters").unwrap();
        Verification::required(VerificationKeys::new([VerificationKey::from_secret("k", secret).unwrap()]).unwrap())
    };
    let good = || rules("8", "true");
    let bomb = pack(&[("authz/data.json", &format!("\"{}\"", "a".repeat(4 << 20)))]);
    for (name, archive, code, why) in [
        ("no rule", rules("9", "1 == "), "module", "`authz/policy.rego` line 6"),
        ("recursion", rules("9", "decision"), "activation", "authz/authz/policy.rego:"),
        ("unknown function", rules("9", "http.send({})"), "activation", "authz/authz/policy.rego:"),
        ("an older one", rules("7", "true"), "revision", "`7` is older than the active `8`"),
        ("cut off", good().slice(..good().len() - 9), "archive", "ends too early"),
        ("a page", Bytes::from_static(b"<html><body>Sign in</body></html>"), "archive", "no gzip"),
        ("a bomb", bomb, "too_large", "with_ratio"),
        ("a delta", pack(&[("patch.json", "{\"data\":[]}")]), "unsupported", "`Prefer: modes=snapshot`"),
        ("signed", pack(&[(".signatures.json", "{}")]), "signature", "is signed"),
        (
            "no decision",
            pack(&[(".manifest", &manifest("9", "x")), ("x/a.rego", "package x")]),
            "activation",
            "decision",
        ),
    ] {
        let limits = Limits::default().with_ratio(50);
        let stage =
            Stage::new([source("authz").with_limits(limits).with_revision_rule(RevisionRule::growing_numbers())]);
        stage.server.serve("authz", good(), "\"8\"");
        stage.agent.refresh().await;
        assert_eq!(stage.ask(), "Allow by 8", "{name}");
        stage.server.serve("authz", archive, "\"9\"");
        for _ in 0..2 {
            stage.agent.refresh().await;
            assert_eq!(stage.ask(), "Allow by 8", "{name}");
            assert_eq!(stage.server.last_asked().0.as_deref(), Some("\"8\""), "{name}: the tag of what is in force");
        }
        let (found, message) = stage.error("authz");
        assert!(found == code && message.contains(why), "{name}: {found}: {message}");
        assert!(stage.health().starts_with("degraded: bundle `authz`"), "{name}: {}", stage.health());
        assert_eq!((stage.status("authz").refusals, stage.status("authz").activations), (2, 1), "{name}");
        stage.server.serve("authz", rules("10", "false"), "\"10\"");
        stage.agent.refresh().await;
        assert_eq!((stage.ask().as_str(), stage.health().as_str()), ("Deny by 10", "ready"), "{name}");
    }

    let stage = Stage::new([BundleSource::new("authz", keys()).with_polling(Polling::manual())]);
    stage.server.serve("authz", good(), "\"8\"");
    stage.agent.refresh().await;
    assert_eq!((stage.ask().as_str(), stage.error("authz").0), ("Unavailable", "signature"));
}

#[tokio::test]
async fn a_request_names_what_is_in_force_and_wants_snapshots() {
    let stage = Stage::new([source("authz")]);
    stage.server.serve("authz", rules("1", "true"), "W/\"1\"");
    stage.agent.refresh().await;
    assert_eq!(stage.server.last_asked(), (None, "modes=snapshot".to_owned()));
    stage.clock.advance(Duration::from_secs(90));
    stage.agent.refresh().await;
    assert_eq!(stage.server.last_asked(), (Some("W/\"1\"".to_owned()), "modes=snapshot".to_owned()));
    let status = stage.status("authz");
    let at = |seconds: u64| Some(UnixTime::from_secs(1_800_000_000 + seconds));
    assert_eq!((status.http_code, status.activations, status.size.is_some()), (Some(304), 1, true));
    assert_eq!((status.last_successful_activation, status.last_successful_download), (at(0), at(0)));
    assert_eq!((status.last_successful_request, status.last_request), (at(90), at(90)));

    // The same bundle under another tag is no other policy.
    let epoch = stage.agent.in_force().unwrap().epoch;
    stage.server.serve("authz", rules("1", "true"), "\"2\"");
    stage.agent.refresh().await;
    stage.agent.refresh().await;
    assert_eq!(stage.server.last_asked().0.as_deref(), Some("\"2\""));
    assert_eq!((stage.status("authz").activations, stage.agent.in_force().unwrap().epoch), (1, epoch));
}

#[tokio::test]
async fn what_is_no_answer_is_a_failure_that_leaves_everything_as_it_was() {
    let stage = Stage::new([source("authz").with_limits(Limits::default().with_compressed(400))]);
    stage.server.reply("authz", Reply::Status(304));
    stage.agent.refresh().await;
    assert!(stage.error("authz").1.contains("never sent"), "nothing is unchanged yet: {:?}", stage.error("authz"));
    stage.server.serve("authz", rules("1", "true"), "\"1\"");
    stage.agent.refresh().await;
    for (reply, code, why) in [
        (Reply::Away, "request", "could not connect (service `control`)"),
        (Reply::Status(301), "http", "301"),
        (Reply::Status(403), "http", "403"),
        (Reply::Status(500), "http", "500"),
        (Reply::Status(204), "http", "204"),
        (Reply::Bundle { archive: vec![0; 401].into(), etag: "\"x\"", kind: "x/y" }, "request", "400 bytes"),
    ] {
        stage.server.reply("authz", reply);
        stage.agent.refresh().await;
        let (found, message) = stage.error("authz");
        assert!(found == code && message.contains(why), "{why}: {found}: {message}");
        assert_eq!(stage.ask(), "Allow by 1", "{why}");
        assert_eq!(stage.server.last_asked().0.as_deref(), Some("\"1\""), "{why}");
        assert!(stage.health().starts_with("degraded"), "{why}");
    }
    assert_eq!((stage.status("authz").failed_requests, stage.status("authz").refusals), (7, 0));
}

#[tokio::test]
async fn bundles_that_overlap_fail_the_newcomer_and_the_others_serve_on() {
    let stage = Stage::new([source("authz"), source("roles")]);
    stage.server.serve("authz", rules("1", "true"), "\"1\"");
    stage.server.serve("roles", roles("1", "{}"), "\"1\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by authz=1,roles=1");
    stage.server.serve("roles", pack(&[(".manifest", &manifest("2", "authz/x"))]), "\"2\"");
    stage.server.serve("authz", rules("2", "false"), "\"2\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Deny by authz=2,roles=1");
    let (code, message) = stage.error("roles");
    assert!(code == "conflict" && message.contains("`authz/x` overlaps the root `authz`"), "{message}");
    assert_eq!(stage.error("authz").0, "");
}

#[tokio::test]
async fn bundles_that_were_changed_together_are_tried_together() {
    let stage = Stage::new([source("authz"), source("roles")]);
    let helper = |revision: &str, name: &str| {
        let text = format!("package roles\n\n{name}(x) := x\n");
        pack(&[(".manifest", &manifest(revision, "roles")), ("roles/f.rego", &text)])
    };
    stage.server.serve("authz", rules("1", "data.roles.one(true)"), "\"1\"");
    stage.server.serve("roles", helper("1", "one"), "\"1\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by authz=1,roles=1");
    stage.server.serve("authz", rules("2", "data.roles.two(true)"), "\"2\"");
    stage.agent.refresh().await;
    assert_eq!((stage.ask().as_str(), stage.error("authz").0), ("Allow by authz=1,roles=1", "activation"));
    stage.server.serve("roles", helper("2", "two"), "\"2\"");
    stage.server.reply("authz", Reply::Away);
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by authz=2,roles=2");
}

#[tokio::test]
async fn a_bundle_that_was_withdrawn_does_not_come_back_with_another() {
    let stage = Stage::new([source("authz"), source("roles")]);
    stage.server.serve("authz", rules("1", "true"), "\"1\"");
    stage.server.serve("roles", roles("1", "{}"), "\"1\"");
    stage.agent.refresh().await;
    stage.server.serve("authz", rules("2", "data.roles.f(true)"), "\"2\"");
    stage.agent.refresh().await;
    stage.server.serve("authz", rules("1", "true"), "\"1\"");
    stage.agent.refresh().await;
    assert_eq!(stage.health(), "ready", "the server has again what serves");
    let helper = |revision| {
        let text = "package roles\n\nf(x) := x\n";
        pack(&[(".manifest", &manifest(revision, "roles")), ("roles/f.rego", text)])
    };
    stage.server.serve("roles", helper("2"), "\"2\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by authz=1,roles=2");

    // The same where the server sends it anew.
    stage.server.serve("authz", rules("2", "data.roles.g(true)"), "\"2\"");
    stage.agent.refresh().await;
    assert_eq!(stage.error("authz").0, "activation");
    stage.server.serve("authz", rules("1", "true"), "\"1b\"");
    stage.agent.refresh().await;
    assert_eq!((stage.health().as_str(), stage.status("authz").http_code), ("ready", Some(200)));
    let helper = String::from("package roles\n\ng(x) := x\n");
    let helper = pack(&[(".manifest", &manifest("3", "roles")), ("roles/g.rego", &helper)]);
    stage.server.serve("roles", helper, "\"3\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by authz=1,roles=3");
}

#[tokio::test]
async fn a_bundle_may_come_from_elsewhere_and_a_tag_has_a_size() {
    let (server, store) = (Arc::<Server>::default(), Arc::<Server>::default());
    let elsewhere =
        Service::builder("store", "https://store.example/v1").with_outbound(store.outbound()).build().unwrap();
    let from = source("authz").with_service(elsewhere).with_resource("acme/authz.tar.gz?alt=media");
    let tag: &'static str = format!("\"{}\"", "x".repeat(1_022)).leak();
    let reply = |tag| Reply::Bundle { archive: rules("1", "true"), etag: tag, kind: "application/x-tar" };
    store.replies.lock().unwrap().insert("/v1/acme/authz.tar.gz".to_owned(), reply(tag));
    let stage = Stage::with(server, |builder| builder.add_bundle(from));
    stage.agent.refresh().await;
    assert_eq!((stage.ask().as_str(), store.seen().len()), ("Allow by 1", 1));
    assert!(stage.server.seen().is_empty());
    stage.agent.refresh().await;
    assert_eq!(store.last_asked().0.as_deref(), Some(tag));
    let longer: &'static str = format!("\"{}\"", "x".repeat(1_023)).leak();
    store.replies.lock().unwrap().insert("/v1/acme/authz.tar.gz".to_owned(), reply(longer));
    stage.agent.refresh().await;
    stage.agent.refresh().await;
    assert_eq!(store.last_asked().0, None);
    store.replies.lock().unwrap().clear();
    stage.agent.refresh().await;
    assert!(stage.error("authz").1.contains("(service `store`)"), "{}", stage.health());
    let shown = format!("{:?} {:?}", stage.agent, BundleAgent::builder(store.service()).add_bundle(source("roles")));
    assert!(shown.contains("\"authz\"") && shown.contains("\"roles\"") && shown.contains("\"control\""), "{shown}");
}

#[tokio::test]
async fn policies_see_what_they_are() {
    let stage = Stage::new([source("authz")]);
    let rule = r#"{
    data.system.bundles.authz.manifest.revision == "7"
    data.system.bundles.authz.manifest.roots == ["authz"]
    data.system.bundles.authz.etag == "\"e\""
}"#;
    stage.server.serve("authz", rules("7", rule), "\"e\"");
    stage.agent.refresh().await;
    assert_eq!(stage.ask(), "Allow by 7");
}

#[tokio::test]
async fn what_is_on_disk_decides_while_the_server_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let persistent = |server: &Arc<Server>, rule: RevisionRule| {
        Stage::with(Arc::clone(server), |builder| {
            builder.with_persistence(dir.path().join("state")).add_bundle(source("authz").with_revision_rule(rule))
        })
    };
    let server = Arc::<Server>::default();
    server.serve("authz", rules("9", "true"), "\"9\"");
    let stage = persistent(&server, RevisionRule::growing_numbers());
    stage.agent.refresh().await;
    let path = dir.path().join("state/bundles/authz/bundle.tar.gz");
    assert_eq!(fs::read(&path).unwrap(), rules("9", "true"), "as it came");
    #[cfg(unix)]
    for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700), (&dir.path().join("state"), 0o700)] {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }
    server.serve("authz", rules("10", "1 == "), "\"10\"");
    stage.agent.refresh().await;
    assert_eq!(fs::read(&path).unwrap(), rules("9", "true"), "what is refused is not kept");

    server.reply("authz", Reply::Away);
    let restarted = persistent(&server, RevisionRule::growing_numbers());
    restarted.agent.ready(Duration::from_secs(60)).await.unwrap();
    assert_eq!((restarted.ask().as_str(), restarted.health().as_str()), ("Allow by 9", "ready"));
    restarted.agent.refresh().await;
    assert!(restarted.health().starts_with("degraded"), "{}", restarted.health());
    assert_eq!(server.last_asked().0, None, "a tag is not believed over a restart");

    server.serve("authz", rules("8", "false"), "\"8\"");
    restarted.agent.refresh().await;
    assert_eq!((restarted.ask().as_str(), restarted.error("authz").0), ("Allow by 9", "revision"));

    // Whoever is quicker than the disk waits for it.
    let quick = persistent(&server, RevisionRule::growing_numbers());
    quick.agent.refresh().await;
    assert_eq!((quick.ask().as_str(), quick.error("authz").0), ("Allow by 9", "revision"));

    // What is broken is told, and nothing else; what comes takes its place.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let broken = persistent(&server, RevisionRule::any());
    broken.agent.ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(broken.health().contains("ends too early"), "{}", broken.health());
    broken.agent.refresh().await;
    assert_eq!((broken.ask().as_str(), broken.health().as_str()), ("Deny by 8", "ready"));
    assert_eq!(fs::read(&path).unwrap(), rules("8", "false"));

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    server.serve("authz", rules("11", "true"), "\"11\"");
    broken.agent.refresh().await;
    assert_eq!((broken.ask().as_str(), broken.status("authz").unsaved), ("Allow by 11", 1), "a disk stops nothing");
    fs::remove_dir(&path).unwrap();
    broken.agent.refresh().await;
    assert_eq!(fs::read(&path).unwrap(), rules("11", "true"), "what could not be kept is kept with the next answer");
}

#[cfg(unix)]
#[tokio::test]
async fn what_others_may_write_is_not_taken_from_disk() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bundles/authz");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("bundle.tar.gz"), rules("1", "true")).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let stage = Stage::with(Arc::default(), |builder| builder.with_persistence(dir.path()).add_bundle(source("authz")));
    stage.agent.ready(Duration::from_millis(50)).await.unwrap_err();
    assert!(stage.error("authz").1.contains("may be written by others"), "{:?}", stage.error("authz"));
}

#[tokio::test]
async fn a_policy_that_is_too_old_does_what_was_chosen() {
    let hour = Duration::from_hours(1);
    for (when, health, answer) in [
        (WhenStale::Degrade, "degraded: the policy is older than it may become: bundle", "Allow by 1"),
        (WhenStale::NotReady, "unavailable: the policy is older than it may become: bundle", "Allow by 1"),
        (WhenStale::Deny, "unavailable: the policy is older than it may become: bundle", "Unavailable"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::<Server>::default();
        let start = || {
            Stage::with(Arc::clone(&server), |builder| {
                builder
                    .with_persistence(dir.path().join("state"))
                    .with_max_staleness(hour, when)
                    .add_bundle(source("authz"))
            })
        };
        server.serve("authz", rules("1", "true"), "\"1\"");
        let stage = start();
        stage.agent.refresh().await;
        stage.clock.advance(hour);
        assert_eq!((stage.ask().as_str(), stage.health().as_str()), ("Allow by 1", "ready"));
        // An answer that nothing has changed begins the time anew, and a bundle that is refused does not.
        stage.agent.refresh().await;
        server.serve("authz", rules("2", "1 =="), "\"2\"");
        stage.clock.advance(hour / 2);
        stage.agent.refresh().await;
        stage.clock.advance(hour / 2);
        assert!(stage.health().starts_with("degraded: bundle"), "{}", stage.health());
        assert!(stage.agent.in_force().is_some());
        stage.clock.advance(Duration::from_millis(1));
        assert_eq!(stage.ask(), answer, "{when:?}");
        assert!(stage.health().starts_with(health), "{when:?}: {}", stage.health());
        assert_eq!(stage.agent.in_force().is_none(), when == WhenStale::Deny);
        let decided = Arc::clone(&stage.agent).decide(policy_input("GET", "/jobs")).await;
        assert_eq!(decided.is_err(), when == WhenStale::Deny);

        // A restart makes it no younger: the file says when it was confirmed.
        let restarted = start();
        restarted.clock.advance(hour + hour);
        let path = dir.path().join("state/bundles/authz/bundle.tar.gz");
        let confirmed = fs::metadata(&path).unwrap().modified().unwrap();
        let confirmed = confirmed.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(UnixTime::from_duration(confirmed), UnixTime::from_secs(1_800_003_600), "{when:?}");
        drop(restarted);
        let future = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_121);
        fs::File::open(&path).unwrap().set_modified(future).unwrap();
        let restarted = start();
        let patience = Duration::from_millis(if when == WhenStale::Deny { 50 } else { 60_000 });
        assert_eq!(restarted.agent.ready(patience).await.is_err(), when == WhenStale::Deny);
        assert_eq!(restarted.ask(), answer, "{when:?}: of a time that has not come nothing is known");
        server.serve("authz", rules("3", "false"), "\"3\"");
        restarted.agent.refresh().await;
        assert_eq!((restarted.ask().as_str(), restarted.health().as_str()), ("Deny by 3", "ready"));
    }
}

/// Time that passes when the test says so.
struct Pauses {
    asked: tokio::sync::mpsc::UnboundedReceiver<Duration>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Pauses {
    fn new(mut builder: BundleAgentBuilder) -> (Self, BundleAgentBuilder) {
        let (ask, asked) = tokio::sync::mpsc::unbounded_channel();
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let gate = Arc::clone(&permits);
        builder.sleep = Arc::new(move |time| -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
            let (ask, gate) = (ask.clone(), Arc::clone(&gate));
            Box::pin(async move {
                let _ = ask.send(time);
                gate.acquire().await.unwrap().forget();
            })
        });
        (Self { asked, permits }, builder)
    }

    /// How long, in milliseconds, the agent waits after the request that it makes now.
    async fn next(&mut self) -> u128 {
        self.asked.recv().await.unwrap().as_millis()
    }

    /// The same for the request after that.
    async fn after(&mut self) -> u128 {
        self.permits.add_permits(1);
        self.next().await
    }
}

#[tokio::test]
async fn bundles_are_asked_for_with_the_delays_of_open_policy_agent() {
    let server = Arc::<Server>::default();
    server.reply("authz", Reply::Status(500));
    let mut pauses = None;
    let stage = Stage::with(Arc::clone(&server), |builder| {
        let (own, builder) = Pauses::new(builder);
        pauses = Some(own);
        builder.add_bundle(BundleSource::new("authz", Verification::forbidden()))
    });
    let mut pauses = pauses.unwrap();
    assert_eq!(pauses.next().await, 0, "at once");
    assert_eq!([pauses.after().await, pauses.after().await, pauses.after().await], [160, 256, 409]);
    server.serve("authz", rules("1", "true"), "\"1\"");
    assert_eq!([pauses.after().await, pauses.after().await], [90_000, 90_000]);
    assert_eq!(stage.ask(), "Allow by 1");

    // What is refused for what it says comes again after the usual delay; what may be another's fault, soon.
    server.serve("authz", rules("2", "1 =="), "\"2\"");
    assert_eq!(pauses.after().await, 90_000);
    server.serve("authz", Bytes::from_static(b"cut off"), "\"2\"");
    assert_eq!([pauses.after().await, pauses.after().await], [0, 160]);
    server.reply("authz", Reply::Away);
    assert_eq!(pauses.after().await, 256);
    for _ in 0..20 {
        pauses.after().await;
    }
    assert_eq!(pauses.after().await, 120_000);
    server.serve("authz", rules("1", "true"), "\"1\"");
    assert_eq!(pauses.after().await, 90_000);
    server.reply("authz", Reply::Away);
    assert_eq!([pauses.after().await, pauses.after().await], [0, 160], "counted anew");
    server.reply("authz", Reply::Panic);
    assert_eq!(pauses.after().await, 256, "a panic ends one request");
    assert!(stage.error("authz").1.contains("given up"), "{}", stage.health());

    drop(stage);
    assert!(pauses.asked.recv().await.is_none(), "nobody asks for a backend that is gone");
}

#[tokio::test]
async fn a_server_that_keeps_requests_is_asked_again_at_once() {
    let server = Arc::<Server>::default();
    let bundle = |revision, etag, kind| Reply::Bundle { archive: rules(revision, "true"), etag, kind };
    let kept = |seconds, reply| Reply::After(Duration::from_secs(seconds), Box::new(reply));
    let long = "application/vnd.openpolicyagent.bundles";
    server.reply("authz", kept(0, bundle("1", "\"1\"", long)));
    let mut pauses = None;
    let stage = Stage::with(Arc::clone(&server), |builder| {
        let (own, builder) = Pauses::new(builder);
        pauses = Some(own);
        let polling = Polling::default().with_long_polling(Duration::from_secs(30));
        builder.add_bundle(BundleSource::new("authz", Verification::forbidden()).with_polling(polling))
    });
    *server.clock.lock().unwrap() = Some(stage.clock.clone());
    let mut pauses = pauses.unwrap();
    let wait = || server.last_asked().1;
    assert_eq!((pauses.next().await, wait().as_str()), (1_000, "modes=snapshot;wait=30"));
    server.reply("authz", kept(30, bundle("1", "\"1\"", long)));
    assert_eq!((pauses.after().await, stage.status("authz").http_code), (0, Some(304)));
    assert_eq!(server.last_asked(), (Some("\"1\"".to_owned()), "modes=snapshot;wait=30".to_owned()));
    server.reply("authz", kept(3, bundle("2", "\"2\"", long)));
    assert_eq!((pauses.after().await, stage.ask().as_str()), (0, "Allow by 2"));

    // One that answers at once, whatever it was asked, is asked once a second; and one whose bundle is refused, after the usual delay.
    server.reply("authz", bundle("2", "\"2\"", long));
    assert_eq!([pauses.after().await, pauses.after().await], [1_000, 1_000]);
    server.reply("authz", Reply::Bundle { archive: rules("3", "1 =="), etag: "\"3\"", kind: long });
    assert_eq!(pauses.after().await, 90_000);

    // One that no longer says that it keeps requests is no longer asked to.
    server.reply("authz", bundle("4", "\"4\"", "application/gzip"));
    assert_eq!((pauses.after().await, wait().as_str()), (90_000, "modes=snapshot;wait=30"));
    assert_eq!((pauses.after().await, wait().as_str()), (90_000, "modes=snapshot"));
}

#[tokio::test]
async fn the_control_plane_is_told_of_every_change_and_may_be_away() {
    let server = Arc::<Server>::default();
    let status = |partition: Option<&str>| {
        Stage::with(Arc::clone(&server), |builder| {
            let builder = builder.with_status(server.service()).with_labels(Labels::new().add("app", "orders"));
            let builder = partition.into_iter().fold(builder, BundleAgentBuilder::with_status_partition);
            builder.with_max_staleness(Duration::from_hours(1), WhenStale::Degrade).add_bundle(source("authz"))
        })
    };
    let told = |path: &'static str| {
        let seen = server.seen();
        let of = |seen: &Seen| serde_json::from_slice::<Value>(&seen.body).unwrap();
        seen.iter().filter(|seen| seen.path == path).map(of).collect::<Vec<_>>()
    };
    let stage = status(None);
    stage.agent.refresh().await;
    while stage.agent.status_metrics().failed == 0 {
        tokio::task::yield_now().await;
    }
    let message = told("/status").pop().unwrap();
    assert_eq!(message["labels"]["app"], "orders");
    assert_eq!(message["labels"]["id"].as_str().unwrap().len(), 36);
    assert_eq!(message["plugins"]["bundle"]["state"], "NOT_READY");
    let bundle = &message["bundles"]["authz"];
    assert_eq!((bundle["code"].as_str(), bundle["http_code"].as_u64()), (Some("bundle_error"), Some(404)));
    assert_eq!(bundle["last_request"], "2027-01-15T08:00:00.000Z");
    assert_eq!(bundle["last_successful_activation"], "0001-01-01T00:00:00Z");
    let first = server.seen().into_iter().find(|seen| seen.path == "/status").unwrap();
    assert_eq!((first.method, &first.headers["content-type"]), (Method::POST, &"application/json".parse().unwrap()));

    server.replies.lock().unwrap().insert("/status/eu".to_owned(), Reply::Status(204));
    server.serve("authz", rules("7", "true"), "\"1\"");
    let stage = status(Some("eu"));
    stage.agent.refresh().await;
    while !told("/status/eu").iter().any(|message| message["plugins"]["bundle"]["state"] == "OK") {
        tokio::task::yield_now().await;
    }
    while stage.agent.status_metrics().sent == 0 {
        tokio::task::yield_now().await;
    }
    let message = told("/status/eu").pop().unwrap();
    let bundle = &message["bundles"]["authz"];
    assert_eq!((bundle["name"].as_str(), bundle["active_revision"].as_str()), (Some("authz"), Some("7")));
    assert_eq!((bundle["type"].as_str(), bundle.get("code"), bundle.get("http_code")), (Some("snapshot"), None, None));
    assert_eq!(bundle["size"], rules("7", "true").len());
    stage.clock.advance(Duration::from_hours(2));
    stage.agent.refresh().await;
    while told("/status/eu").last().unwrap()["bundles"]["authz"]["last_request"] != "2027-01-15T10:00:00.000Z" {
        tokio::task::yield_now().await;
    }
    assert_eq!(told("/status/eu").pop().unwrap()["plugins"]["bundle"]["state"], "OK", "it was confirmed just now");
    server.reply("authz", Reply::Away);
    stage.clock.advance(Duration::from_hours(2));
    stage.agent.refresh().await;
    while told("/status/eu").last().unwrap()["plugins"]["bundle"]["state"] != "WARN" {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.agent.status_metrics().failed, 0);
}

#[tokio::test]
async fn bundles_say_what_of_a_decision_is_secret() {
    let server = Arc::<Server>::default();
    let bundle = |mask: &str| {
        let log = format!("package system.log\n\nmask contains {mask}\n");
        let manifest = r#"{"revision":"1","roots":["authz","system/log"]}"#;
        pack(&[(".manifest", manifest), ("a.rego", "package authz\n\ndecision := true\n"), ("log.rego", &log)])
    };
    server.serve("authz", bundle("\"/input/subject\""), "\"1\"");
    server.replies.lock().unwrap().insert("/logs".to_owned(), Reply::Status(204));
    let stage = Stage::with(Arc::clone(&server), |builder| builder.add_bundle(source("authz")));
    let log = DecisionLog::builder(server.service()).with_mask_of(Arc::clone(&stage.agent)).start().unwrap();
    let logged = Arc::new(Logged::new(Arc::clone(&stage.agent) as _, &log, "authz/decision"));
    let events = |count: u64| {
        let (log, logged, server) = (log.clone(), Arc::clone(&logged), Arc::clone(&server));
        async move {
            let _ = Arc::clone(&logged).decide(policy_input("GET", "/jobs")).await;
            log.flush(Duration::from_secs(60)).await.unwrap();
            let bodies = server.seen().into_iter().filter(|seen| seen.path == "/logs").map(|seen| seen.body);
            let events = bodies.flat_map(|body| {
                let mut text = Vec::new();
                std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
                serde_json::from_slice::<Vec<Value>>(&text).unwrap()
            });
            let events: Vec<_> = events.collect();
            assert_eq!(events.len() as u64, count);
            events.into_iter().next_back().unwrap()
        }
    };
    let before = events(1).await;
    assert!(before.get("input").is_none(), "nobody has said yet what is secret: {before}");
    stage.agent.refresh().await;
    let masked = events(2).await;
    assert_eq!(masked["erased"], serde_json::json!(["/input/subject"]));
    assert!(masked["input"].get("action").is_some() && masked["input"].get("subject").is_none(), "{masked}");
}

/// Decides nothing, and does what it is told.
struct Odd {
    panics: Arc<AtomicBool>,
    gate: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
}

impl BundleEngine for Odd {
    type Backend = crate::policy::Fixed;

    fn build(&self, contents: Contents) -> Result<Self::Backend, ConfigError> {
        let gate = self.gate.lock().unwrap().take();
        if let Some((reached, released)) = gate {
            reached.send(()).unwrap();
            released.recv().unwrap();
        }
        assert!(!self.panics.load(Ordering::SeqCst), "scripted");
        drop(contents);
        Ok(crate::policy::deny_all())
    }

    fn activate(&self, _: &Self::Backend, _: Contents) -> Result<(), ConfigError> {
        Ok(())
    }
}

#[tokio::test]
async fn an_engine_that_panics_has_refused() {
    let (server, panics) = (Arc::<Server>::default(), Arc::new(AtomicBool::new(true)));
    server.serve("authz", rules("1", "true"), "\"1\"");
    let engine = Odd { panics: Arc::clone(&panics), gate: Mutex::default() };
    let agent = BundleAgent::builder(server.service()).add_bundle(source("authz")).start(engine).unwrap();
    agent.refresh().await;
    assert_eq!(agent.statuses()[0].error.as_ref().unwrap().code, "activation");
    assert!(!agent.health().is_serving());
    panics.store(false, Ordering::SeqCst);
    agent.refresh().await;
    assert_eq!(agent.health(), Health::Ready);
}

#[tokio::test]
async fn a_refresh_that_nobody_waits_for_is_whole_all_the_same() {
    let server = Arc::<Server>::default();
    server.serve("authz", rules("1", "true"), "\"1\"");
    let ((reach, reached), (release, released)) = (mpsc::channel(), mpsc::channel());
    let engine = Odd { panics: Arc::default(), gate: Mutex::new(Some((reach, released))) };
    let agent = Arc::new(BundleAgent::builder(server.service()).add_bundle(source("authz")).start(engine).unwrap());
    let same = Arc::clone(&agent);
    let refreshing = tokio::spawn(async move { same.refresh().await });
    while reached.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    refreshing.abort();
    assert!(refreshing.await.unwrap_err().is_cancelled());
    release.send(()).unwrap();
    agent.ready(Duration::from_secs(60)).await.unwrap();
    agent.refresh().await;
    assert_eq!(server.last_asked().0.as_deref(), Some("\"1\""), "it is known to be in force");
    assert_eq!(agent.statuses()[0].activations, 1);
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_at_the_start() {
    type Change = fn(BundleAgentBuilder) -> BundleAgentBuilder;
    let minute = Duration::from_secs(60);
    let cases: [(&str, Change); 9] = [
        ("policy.bundles", |builder| builder),
        ("policy.bundles.name", |builder| builder.add_bundle(source("a/b"))),
        ("policy.bundles.name", |builder| builder.add_bundle(source(".."))),
        ("policy.bundles.name", |builder| builder.add_bundle(source("a")).add_bundle(source("a"))),
        ("policy.bundles.resource", |builder| builder.add_bundle(source("a").with_resource("/a"))),
        ("policy.bundles.polling", |builder| {
            builder.add_bundle(source("a").with_polling(Polling::between(Duration::ZERO, Duration::ZERO)))
        }),
        ("policy.bundles.max_staleness", |builder| {
            let polling = Polling::between(Duration::from_secs(1), Duration::from_secs(60));
            builder
                .with_max_staleness(Duration::from_secs(60), WhenStale::Deny)
                .add_bundle(source("a").with_polling(polling))
        }),
        ("policy.bundles.max_staleness", |builder| {
            builder.with_max_staleness(Duration::MAX, WhenStale::Deny).add_bundle(source("a"))
        }),
        ("policy.status.partition", |builder| {
            let service = Arc::<Server>::default().service();
            builder.with_status(service).with_status_partition("a/b").add_bundle(source("a"))
        }),
    ];
    for (field, change) in cases {
        let builder = change(BundleAgent::builder(Arc::<Server>::default().service()));
        assert_eq!(builder.start(Rego::builder()).unwrap_err().field(), field);
    }
    let builder = BundleAgent::builder(Arc::<Server>::default().service()).add_bundle(source("a"));
    let error = builder.clone().start(Rego::builder().with_time_limit(minute)).unwrap_err();
    assert_eq!(error.field(), "policy.rego.time_limit");
    let outside = std::thread::spawn(move || builder.start(Rego::builder()).unwrap_err()).join().unwrap();
    assert!(matches!(outside, ConfigError::NoRuntime { .. }), "{outside}");
}
