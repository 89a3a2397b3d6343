use std::{
    io::Read as _,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{Request, Response};
use serde_json::{Value, json};

use super::*;
use crate::{
    ConfigError,
    health::Health,
    outbound::Outbound,
    policy::{DecisionId, Effect, PolicyBackend, PolicyErrorKind, Rego, management::Labels},
    testing::{Answer, FrozenClock, StubBackend, policy_input},
};

/// The service: keeps what it is sent, and answers with a status.
#[derive(Clone)]
struct Collector(Arc<Mutex<Kept>>);

/// The status, the events, and all of their text.
type Kept = (u16, Vec<Value>, Vec<u8>);

impl Collector {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((200, Vec::new(), Vec::new()))))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log(&self) -> DecisionLogBuilder {
        let collector = self.clone();
        let outbound = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
            assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/logs"));
            let mut text = Vec::new();
            GzDecoder::new(&**request.body()).read_to_end(&mut text).unwrap();
            let status = collector.with(|(status, events, raw)| {
                if *status == 200 {
                    events.extend(serde_json::from_slice::<Vec<Value>>(&text).unwrap());
                    raw.extend(text);
                }
                *status
            });
            async move { Ok(Response::builder().status(status).body(Bytes::new()).unwrap()) }
        }));
        let service = Service::builder("logs", "https://a.example").with_outbound(outbound).build().unwrap();
        DecisionLog::builder(service).with_random(|| 0.5).with_clock(FrozenClock::default())
    }

    fn events(&self) -> Vec<Value> {
        self.with(|(_, events, _)| std::mem::take(events))
    }
}

fn stub(answer: Answer) -> Arc<StubBackend> {
    Arc::new(StubBackend::new(answer).answering_at_once())
}

/// A backend that decides by `authz`, and masks by `log`.
fn rego(log: &str) -> Arc<Rego> {
    let rego = Rego::builder()
        .add_source("authz.rego", "package authz\ndecision := {\"allow\": true, \"note\": \"s3cr3t\"}")
        .add_source("log.rego", format!("package system.log\n{log}"))
        .with_time_limit(Duration::from_secs(1));
    Arc::new(rego.build().unwrap())
}

fn question(id: &str) -> PolicyInput {
    let mut input = policy_input("GET", "/jobs");
    input.subject.id = id.to_owned();
    input
}

fn ask(backend: impl PolicyBackend, log: &DecisionLog, id: &str) -> Result<Decision, PolicyError> {
    Logged::new(Arc::new(backend), log, "data.authz.decision").decide_now(&question(id)).unwrap()
}

async fn sent(log: &DecisionLog, collector: &Collector) -> Vec<Value> {
    log.flush(Duration::from_secs(5)).await.unwrap();
    collector.events()
}

#[tokio::test(start_paused = true)]
async fn every_outcome_is_logged_and_is_the_backends_own() {
    let collector = Collector::new();
    let log = collector.log().with_labels(Labels::new().add("app", "orders")).start().unwrap();
    let cases = [
        (Answer::Allow, Some(json!({"allow": true})), None),
        (Answer::Deny, Some(json!({"allow": false})), None),
        (Answer::Undefined, None, None),
        (Answer::Result(json!({"allow": true, "extra": 1})), Some(json!({"allow": true, "extra": 1})), None),
        (Answer::Error(PolicyErrorKind::Timeout), None, Some("policy_timeout")),
    ];
    for (answer, result, error) in cases {
        for at_once in [true, false] {
            let name = format!("{answer:?}, at once: {at_once}");
            let logged = Arc::new(Logged::new(stub(answer.clone()), &log, "/authz/decision"));
            let outcome = if at_once {
                logged.decide_now(&question("alice")).unwrap()
            } else {
                Arc::clone(&logged).decide(question("alice")).await
            };
            let event = sent(&log, &collector).await.pop().unwrap();
            assert_eq!(event.get("result"), result.as_ref(), "{name}");
            assert_eq!(event.pointer("/error/code").and_then(Value::as_str), error, "{name}");
            match outcome {
                Ok(decision) => assert_eq!(event["decision_id"], decision.id().as_str(), "{name}"),
                Err(failed) => assert_eq!((Some(failed.kind().code()), error.is_some()), (error, true), "{name}"),
            }
            assert_eq!((&event["path"], &event["labels"]["app"]), (&json!("authz/decision"), &json!("orders")));
            assert_eq!(event["input"], serde_json::to_value(question("alice")).unwrap());
        }
    }
    let metrics = log.metrics();
    assert_eq!((metrics.decisions, metrics.uploaded, metrics.lost()), (10, 10, 0));
}

/// Takes three milliseconds, which is wrong.
struct Slow(FrozenClock);

#[async_trait::async_trait]
impl PolicyBackend for Slow {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        self.decide_now(&input).unwrap()
    }

    fn decide_now(&self, _: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        self.0.advance(Duration::from_millis(3));
        Some(Ok(Decision::allow(crate::policy::PolicyRevision::new("slow"))))
    }

    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        Err(ConfigError::missing("slow", "make it quicker"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_timed_from_its_question_on() {
    let (collector, clock) = (Collector::new(), FrozenClock::default());
    let log = collector.log().with_clock(clock.clone()).start().unwrap();
    let logged = Arc::new(Logged::new(Arc::new(Slow(clock)), &log, "p"));
    assert!(logged.decide_now(&question("alice")).unwrap().is_ok());
    assert!(Arc::clone(&logged).decide(question("bob")).await.is_ok());
    for event in sent(&log, &collector).await {
        assert_eq!(event["metrics"]["timer_portcullis_decision_ns"], 3_000_000, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_but_the_decisions_passes_through() {
    let log = Collector::new().log().start().unwrap();
    let rego = rego("");
    let logged = Arc::new(Logged::new(Arc::clone(&rego) as Arc<dyn PolicyBackend>, &log, rego.decision_path()));
    assert_eq!((logged.in_force(), logged.health()), (rego.in_force(), Health::Ready));
    assert!(Arc::clone(&logged).preflight().await.is_ok());
    let unfit = Logged::new(Arc::new(Slow(FrozenClock::default())), &log, "p");
    assert!(Arc::new(unfit).preflight().await.is_err());
    let waiting = Logged::new(Arc::new(StubBackend::new(Answer::Allow)), &log, "p");
    assert!(waiting.decide_now(&question("alice")).is_none());
    assert_eq!(log.metrics().decisions, 0, "what was not decided is no decision");
}

#[tokio::test(start_paused = true)]
async fn the_policy_says_what_is_erased_overwritten_and_left_out() {
    let collector = Collector::new();
    let rego = rego(
        r#"mask contains "/input/subject/id" if input.path == "authz/decision"
        mask contains {"op": "upsert", "path": "/result/note", "value": "**"} if input.result.note
        mask contains "/input/absent"
        drop if input.input.subject.id == "probe""#,
    );
    let log = collector.log().with_mask(Arc::clone(&rego)).add_erased("/input/context").start().unwrap();
    for id in ["alice", "probe"] {
        assert_eq!(ask(Arc::clone(&rego), &log, id).unwrap().effect(), Effect::Allow);
    }
    let events = sent(&log, &collector).await;
    let [event] = &events[..] else { panic!("one event: {events:?}") };
    assert_eq!(event["erased"], json!(["/input/context", "/input/subject/id"]));
    assert_eq!(event["masked"], json!(["/result/note"]));
    assert_eq!(event["result"], json!({"allow": true, "note": "**"}));
    assert_eq!((event["input"].get("context"), event["input"]["subject"].get("id")), (None, None));
    assert_eq!(event["input"]["action"]["name"], "GET");
    assert_eq!((log.metrics().dropped_by_policy, log.metrics().lost()), (1, 0));
}

/// A mask that fails must not show what it was to hide, nor hide that there was a decision.
#[tokio::test(start_paused = true)]
async fn where_masking_fails_the_event_is_kept_without_input_and_result() {
    for (name, rules) in [
        ("an error", "mask contains \"/input/x\" if 1 / count(object.get(input, \"absent\", [])) == 1"),
        ("no set", "mask := \"/input\""),
        ("another place", "mask contains \"/labels/id\""),
        ("no rule", "mask contains 7"),
        ("no op", "mask contains {\"path\": \"/input\"}"),
        ("an object", "mask[\"/input\"] := true"),
        ("a drop that is no boolean", "drop := \"yes\""),
        ("a drop with an error", "drop if 1 / count(object.get(input, \"absent\", [])) == 1"),
    ] {
        let collector = Collector::new();
        let rego = rego(rules);
        let log = collector.log().with_mask(Arc::clone(&rego)).start().unwrap();
        let decision = ask(Arc::clone(&rego), &log, "s3cr3t").unwrap();
        let event = sent(&log, &collector).await.pop().unwrap();
        assert_eq!((event.get("input"), event.get("result")), (None, None), "{name}");
        assert_eq!(event["erased"], json!(["/input", "/result"]), "{name}");
        assert_eq!(event["decision_id"], decision.id().as_str(), "{name}");
        assert!(!event.to_string().contains("s3cr3t"), "{name}");
        assert_eq!((log.metrics().mask_failures, log.metrics().lost()), (1, 0), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_masked_stands_neither_in_the_buffer_nor_in_what_is_printed() {
    let collector = Collector::new();
    let log = collector.log().add_erased("/input/subject/id").start().unwrap();
    let logged = Logged::new(stub(Answer::Error(PolicyErrorKind::Evaluation)), &log, "p");
    let _ = logged.decide_now(&question("s3cr3t")).unwrap();
    assert_eq!(log.metrics().waiting, 1);
    assert!(!format!("{log:?} {logged:?}").contains("s3cr3t"));
    log.flush(Duration::from_secs(5)).await.unwrap();
    collector.with(|(_, _, raw)| assert!(!raw.is_empty() && !String::from_utf8_lossy(raw).contains("s3cr3t")));
}

#[tokio::test]
async fn an_address_that_a_policy_masks_stands_nowhere_in_the_event() {
    for (mask, told) in
        [("mask contains \"/input/context/peer\"", false), ("mask contains \"/result\"", true), ("mask := 7", false)]
    {
        let collector = Collector::new();
        let log = collector.log().with_mask(rego(mask)).start().unwrap();
        let mut input = question("alice");
        input.context.peer.ip = "203.0.113.7".to_owned();
        let _ = Logged::new(stub(Answer::Allow), &log, "p").decide_now(&input).unwrap();
        log.flush(Duration::from_secs(5)).await.unwrap();
        let raw = collector.with(|(_, _, raw)| String::from_utf8(std::mem::take(raw)).unwrap());
        assert_eq!(raw.contains("203.0.113.7"), told, "{mask}: {raw}");
        assert_eq!(raw.contains("requested_by"), told, "{mask}: {raw}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_log_that_is_behind() {
    let collector = Collector::new();
    let log = collector.log().with_buffer(64 << 20, 10_000).start().unwrap();
    // The task that masks has no turn meanwhile.
    for _ in 0..QUEUE + 7 {
        assert_eq!(ask(stub(Answer::Allow), &log, "alice").unwrap().effect(), Effect::Allow);
    }
    assert_eq!((log.metrics().left_out, log.metrics().waiting), (7, QUEUE));
    assert_eq!(sent(&log, &collector).await.len(), QUEUE);
    let metrics = log.metrics();
    assert_eq!(
        (metrics.decisions, metrics.uploaded, metrics.lost(), metrics.waiting),
        (QUEUE as u64 + 7, QUEUE as u64, 7, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_nothing_costs_the_oldest_events_and_no_request() {
    let collector = Collector::new();
    collector.with(|(status, ..)| *status = 500);
    let log = collector.log().with_buffer(1 << 20, 3).start().unwrap();
    for id in ["a", "b", "c", "d", "e"] {
        assert_eq!(ask(stub(Answer::Allow), &log, id).unwrap().effect(), Effect::Allow);
    }
    let unsent = log.flush(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((unsent.left(), log.metrics().overflowed, log.metrics().is_failing), (3, 2, true));
    // And one more that is never masked.
    log.0.tally.waiting.fetch_add(1, Ordering::Relaxed);
    assert_eq!(log.flush(Duration::from_secs(1)).await.unwrap_err().left(), 4);
    log.0.tally.waiting.fetch_sub(1, Ordering::Relaxed);
    collector.with(|(status, ..)| *status = 200);
    let ids: Vec<_> =
        sent(&log, &collector).await.iter().map(|event| event["input"]["subject"]["id"].clone()).collect();
    assert_eq!(ids, ["c", "d", "e"]);
    assert_eq!((log.metrics().lost(), log.metrics().uploaded, log.metrics().is_failing), (2, 3, false));
}

#[tokio::test(start_paused = true)]
async fn decisions_beyond_the_rate_are_answered_and_not_logged() {
    let (collector, clock) = (Collector::new(), FrozenClock::default());
    let log = collector.log().with_clock(clock.clone()).with_max_decisions_per_second(2).start().unwrap();
    for _ in 0..2 {
        (0..5).for_each(|_| assert!(ask(stub(Answer::Allow), &log, "alice").is_ok()));
        clock.advance(Duration::from_secs(1));
    }
    let events = sent(&log, &collector).await;
    assert_eq!((events.len(), log.metrics().rate_limited), (4, 6));
    assert_eq!(
        (&events[0]["timestamp"], &events[3]["timestamp"]),
        (&json!("2027-01-15T08:00:00Z"), &json!("2027-01-15T08:00:01Z"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_larger_than_a_chunk_is_sent_without_input_and_result() {
    let collector = Collector::new();
    let log = collector.log().with_upload_limit(1024).start().unwrap();
    let noise: String = (0..400).map(|_| DecisionId::random().to_string()).collect();
    for id in ["alice", &noise, "bob"] {
        let _ = ask(stub(Answer::Allow), &log, id).unwrap();
    }
    let events = sent(&log, &collector).await;
    let has_input: Vec<_> = events.iter().map(|event| event.get("input").is_some()).collect();
    assert_eq!((has_input, log.metrics().cut, log.metrics().lost()), (vec![true, false, true], 1, 0));
    assert_eq!(events[1]["erased"], json!(["/input", "/result"]));
}

#[tokio::test(start_paused = true)]
async fn events_go_out_by_themselves_and_the_tasks_end_with_the_log() {
    let collector = Collector::new();
    let log = collector.log().start().unwrap();
    let _ = ask(stub(Answer::Allow), &log, "alice").unwrap();
    tokio::time::sleep(Duration::from_secs(451)).await;
    assert_eq!(collector.events().len(), 1);
    let (uploader, tally) = (Arc::downgrade(&log.0.uploader), Arc::downgrade(&log.0.tally));
    drop(log);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(uploader.upgrade().is_none() && tally.upgrade().is_none());
}

#[tokio::test]
async fn what_cannot_be_right_is_refused() {
    type Change = fn(DecisionLogBuilder) -> DecisionLogBuilder;
    let good: [Change; 4] = [
        |b| b.with_upload_delay(Duration::from_millis(10), Duration::from_millis(10)),
        |b| b.with_upload_delay(Duration::from_secs(1), Duration::from_secs(86_400)),
        |b| b.with_upload_limit(16 << 20).with_buffer(16 << 20, 1),
        |b| b.with_upload_limit(1024).with_buffer(65_536, 10_000_000),
    ];
    for (number, change) in good.into_iter().enumerate() {
        assert!(change(Collector::new().log()).start().is_ok(), "{number}");
    }
    let cases: [(&str, Change); 13] = [
        ("resource", |b| b.with_resource("../logs")),
        ("erased", |b| b.add_erased("/labels/app")),
        ("erased", |b| b.add_erased("input")),
        ("upload_limit", |b| b.with_upload_limit(1023)),
        ("upload_limit", |b| b.with_upload_limit((16 << 20) + 1)),
        ("buffer_bytes", |b| b.with_buffer(65_535, 1)),
        ("buffer_bytes", |b| b.with_upload_limit(1 << 20).with_buffer(65_536, 1)),
        ("buffer_events", |b| b.with_buffer(65_536, 0)),
        ("max_decisions_per_second", |b| b.with_max_decisions_per_second(0)),
        ("upload_delay", |b| b.with_upload_delay(Duration::from_secs(2), Duration::from_secs(1))),
        ("upload_delay", |b| b.with_upload_delay(Duration::ZERO, Duration::from_secs(1))),
        ("upload_delay", |b| b.with_upload_delay(Duration::from_secs(1), Duration::from_secs(86_401))),
        ("buffer_bytes", |b| b.with_buffer((1 << 30) + 1, 1)),
    ];
    for (field, change) in cases {
        let error = change(Collector::new().log()).start().unwrap_err();
        assert_eq!(error.field(), format!("policy.decision_log.{field}"), "{error}");
    }
}

#[test]
fn outside_a_runtime_there_is_no_log() {
    let refused = Collector::new().log().start();
    assert!(matches!(refused, Err(ConfigError::NoRuntime { part: "policy.decision_log" })));
}
