//! Decision logs, uploaded by the server and by `Logged`, of the same decisions by the same policy.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::post};
use flate2::read::GzDecoder;
use portcullis::policy::{
    PolicyBackend, PolicyInput, Rego,
    management::{DecisionLog, Labels, Logged, Service},
};
use serde_json::{Value, json};

use super::{alice, equality::in_one_spelling, patient, server::Server};

pub(super) async fn its_events_are_those_of_opa(opa: PathBuf) {
    let collector = Collector::start().await;
    let server = Server::start(&opa)
        .with_policy("authz.rego", POLICY)
        .with_policy("log.rego", LOG)
        .with_arguments(&[
            &format!("--set=services.collector.url={}", collector.url),
            "--set=decision_logs.service=collector",
            "--set=decision_logs.partition_name=theirs",
            "--set=decision_logs.reporting.min_delay_seconds=1",
            "--set=decision_logs.reporting.max_delay_seconds=1",
            "--set=labels.app=orders",
        ])
        .ready()
        .await;
    let rego = Rego::builder().add_source("authz.rego", POLICY).add_source("log.rego", LOG);
    let rego = Arc::new(rego.with_time_limit(Duration::from_secs(1)).build().unwrap());
    let service = Service::builder("collector", &collector.url).build().unwrap();
    let log = DecisionLog::builder(service)
        .with_resource("logs/ours")
        .with_labels(Labels::new().add("app", "orders"))
        .with_mask(Arc::clone(&rego))
        .start()
        .unwrap();
    let path = rego.decision_path().to_owned();
    let theirs: Arc<dyn PolicyBackend> = Arc::new(patient(server.url()).build().unwrap());
    let ours: Arc<dyn PolicyBackend> = Arc::new(Logged::new(rego, &log, path));

    let mut asked = Vec::new();
    for (name, input) in questions() {
        let mut ids = Vec::new();
        for backend in [&theirs, &ours] {
            let decision = Arc::clone(backend).decide(input.clone()).await.unwrap();
            ids.push(decision.id().as_str().to_owned());
        }
        asked.push((name, ids));
    }
    log.flush(Duration::from_secs(10)).await.unwrap();
    // The last question is logged by both; what is missing then is missing.
    let (_, last) = asked.last().unwrap();
    let theirs = collector.until(&last[0]).await;
    let ours = collector.until(&last[1]).await;

    let mut equal = 0;
    for (name, ids) in &asked {
        let (their_event, our_event) = (theirs.get(&ids[0]), ours.get(&ids[1]));
        match *name {
            "left out" => assert_eq!((their_event, our_event), (None, None)),
            // Where the mask fails, the event is lost there, and kept here without what the mask was to hide.
            "wrong mask" => {
                assert_eq!(their_event, None);
                let event = our_event.unwrap();
                assert_eq!((event.get("input"), event.get("result")), (None, None));
                assert_eq!(event["erased"], json!(["/input", "/result"]));
            }
            _ => {
                let (their_event, our_event) = (their_event.expect(name), our_event.expect(name));
                assert_eq!(common(their_event), common(our_event), "{name}");
                same_types(their_event, our_event);
                equal += 1;
            }
        }
    }
    let metrics = log.metrics();
    assert_eq!((metrics.dropped_by_policy, metrics.mask_failures, metrics.lost()), (1, 1, 0));
    assert_eq!(equal, asked.len() - 2);
    eprintln!("opa and logged agree on {equal} events");
}

/// What both have to say alike.
fn common(event: &Value) -> Value {
    let mut common = BTreeMap::new();
    for name in ["path", "input", "result", "erased", "masked", "error", "trace_id"] {
        common.insert(name, event.get(name).cloned());
    }
    common.insert("app", event.pointer("/labels/app").cloned());
    in_one_spelling(common)
}

/// What differs in each event, but is of the same kind.
fn same_types(theirs: &Value, ours: &Value) {
    for event in [theirs, ours] {
        // A server that logs no requests does not count them.
        assert!(event.get("req_id").is_none_or(|number| number.as_u64().is_some()), "{event}");
        assert_eq!(event["labels"]["id"].as_str().map(str::len), Some(36), "{event}");
        assert!(event["labels"]["version"].is_string() && event["decision_id"].is_string(), "{event}");
        let timestamp = event["timestamp"].as_str().unwrap();
        assert!(timestamp.len() >= 20 && timestamp.as_bytes()[10] == b'T' && timestamp.ends_with('Z'), "{timestamp}");
        let metrics = event["metrics"].as_object().unwrap();
        assert!(metrics.iter().any(|(name, value)| name.ends_with("_ns") && value.is_u64()), "{event}");
    }
}

fn questions() -> Vec<(&'static str, PolicyInput)> {
    let claims = |value: Value| {
        let mut input = alice("GET", "/jobs", &["jobs:read", "jobs:write"]);
        input.subject.properties.claims = value.as_object().unwrap().clone();
        input
    };
    let named = |id: &str| {
        let mut input = alice("GET", "/jobs", &["jobs:read"]);
        input.subject.id = id.to_owned();
        input
    };
    vec![
        ("nothing masked", alice("GET", "/jobs", &["jobs:read"])),
        ("denied", alice("POST", "/jobs", &[])),
        ("undefined", named("nobody")),
        ("erased", claims(json!({"email": "alice@acme.example", "age": 7, "rate": 1.5}))),
        ("erased in an array", claims(json!({"phones": ["1", "2", "3"]}))),
        ("overwritten", claims(json!({"ssn": {"number": "078-05-1120"}}))),
        ("overwritten as a whole", claims(json!({"everything": true}))),
        ("the result", claims(json!({"note": "for alice"}))),
        ("not there", claims(json!({"absent": 1}))),
        ("left out", named("probe")),
        ("wrong mask", named("odd")),
        ("last", named("zoe")),
    ]
}

const POLICY: &str = r#"package authz

decision := {"allow": allowed, "reasons": ["because"], "note": note} if input.subject.id != "nobody"

default allowed := false

allowed if "jobs:read" in input.subject.properties.scopes

default note := ""

note := input.subject.properties.claims.note
"#;

const LOG: &str = r#"package system.log

claims := input.input.subject.properties.claims

at := "/input/subject/properties/claims"

mask contains concat("/", [at, "email"]) if claims.email

mask contains {"op": "remove", "path": concat("/", [at, "age"])} if claims.age

mask contains concat("/", [at, "phones", "1"]) if claims.phones

mask contains {"op": "upsert", "path": concat("/", [at, "ssn", "number"]), "value": "**"} if claims.ssn

mask contains {"op": "upsert", "path": concat("/", [at, "more", "deep"]), "value": {"made": [1]}} if claims.ssn

mask contains {"op": "upsert", "path": "/input", "value": {"user": input.input.subject.id}} if claims.everything

mask contains "/result/note" if input.result.note != ""

mask contains concat("/", [at, "elsewhere"]) if claims.absent

mask contains "/nd_builtin_cache" if claims.absent

mask contains "/labels/app" if input.input.subject.id == "odd"

drop if input.input.subject.id == "probe"
"#;

/// A service that takes decision logs, and reads them in one way, whoever sent them.
struct Collector {
    url: String,
    events: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl Collector {
    async fn start() -> Self {
        let events = Arc::new(Mutex::new(BTreeMap::new()));
        let kept = Arc::clone(&events);
        let take = async move |headers: HeaderMap, body: Bytes| {
            assert_eq!(headers["content-encoding"], "gzip");
            assert_eq!(headers["content-type"], "application/json");
            assert!(body.len() <= 32_768);
            let mut text = String::new();
            GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
            let chunk: Vec<Value> = serde_json::from_str(&text).unwrap();
            let mut events = kept.lock().unwrap_or_else(PoisonError::into_inner);
            events.extend(chunk.into_iter().map(|event| (event["decision_id"].as_str().unwrap().to_owned(), event)));
        };
        let router = Router::new().route("/logs/ours", post(take.clone())).route("/logs/theirs", post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, events }
    }

    /// What there is when this event has come.
    async fn until(&self, id: &str) -> BTreeMap<String, Value> {
        loop {
            let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if events.contains_key(id) {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
