//! When the server counts as ready, and what the canary finds.

use super::*;
use crate::ConfigError;

/// A server with an answer for `/health?bundles` and one for questions, which can be changed.
struct Changing {
    url: String,
    answers: Arc<std::sync::Mutex<(Vec<u8>, Vec<u8>)>>,
    requests: mpsc::UnboundedReceiver<String>,
    _task: JoinSet<()>,
}

impl Changing {
    async fn start(health: Vec<u8>, decision: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(std::sync::Mutex::new((health, decision)));
        let (log, requests) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        let script = Arc::clone(&answers);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let (mut head, mut line) = (String::new(), String::new());
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
                    head += &std::mem::take(&mut line);
                }
                let length = head
                    .to_ascii_lowercase()
                    .split("content-length: ")
                    .nth(1)
                    .map(|rest| rest.lines().next().unwrap().parse::<usize>().unwrap());
                let mut body = vec![0; length.unwrap_or_default()];
                stream.read_exact(&mut body).await.unwrap();
                let answer = {
                    let script = script.lock().unwrap();
                    if head.starts_with("GET ") { script.0.clone() } else { script.1.clone() }
                };
                let _ = log.send(head + std::str::from_utf8(&body).unwrap());
                let _ = stream.write_all(&answer).await;
            }
        });
        Self { url, answers, requests, _task: task }
    }

    fn opa(&self) -> OpaBuilder {
        let interval = Duration::from_millis(100);
        Opa::builder(&self.url).with_deadline(Duration::from_secs(10)).with_health_interval(interval)
    }
}

fn closing(status: &str, body: &str) -> Vec<u8> {
    let text = http(status, "application/json", body);
    String::from_utf8(text).unwrap().replacen("\r\n", "\r\nconnection: close\r\n", 1).into_bytes()
}

fn fine(body: &str) -> Vec<u8> {
    closing("200 OK", body)
}

async fn until(opa: &Arc<Opa>, is_it: impl Fn(&Health) -> bool) -> Health {
    let waiting = async {
        loop {
            let health = opa.health();
            if is_it(&health) {
                return health;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the health changes")
}

#[tokio::test]
async fn it_is_ready_once_every_bundle_is_there_and_no_request_waits_for_that() {
    let mut server = Changing::start(closing("500 Internal Server Error", "{}"), fine(r#"{"result": true}"#)).await;
    let opa = Arc::new(server.opa().with_bearer("t0ken").build().unwrap());
    assert!(server.requests.try_recv().is_err(), "`build` asks nobody");
    assert_eq!(opa.health(), Health::Unavailable("not asked yet".into()));
    let health = until(&opa, |health| health.to_string().contains("bundles")).await;
    assert!(!health.is_serving(), "{health}");
    let check = server.requests.recv().await.unwrap();
    assert!(check.starts_with("GET /health?bundles HTTP/1.1\r\n") && check.contains("Bearer t0ken"), "{check}");
    assert_eq!(effect(&opa).await, Ok(Effect::Allow));
    assert!(!opa.health().is_serving());

    server.answers.lock().unwrap().0 = fine("{}");
    until(&opa, |health| *health == Health::Ready).await;
    server.answers.lock().unwrap().0 = closing("404 Not Found", "{}");
    let lost = until(&opa, |health| !health.is_serving()).await;
    assert!(lost.to_string().contains("404"), "{lost}");
}

#[tokio::test]
async fn checks_end_with_the_backend_and_need_a_runtime() {
    let server = Changing::start(fine("{}"), fine("{}")).await;
    let opa = Arc::new(server.opa().build().unwrap());
    let elsewhere = std::thread::spawn({
        let opa = Arc::clone(&opa);
        move || opa.health()
    });
    assert!(!elsewhere.join().unwrap().is_serving());
    until(&opa, |health| *health == Health::Ready).await;
    let alive = Arc::downgrade(&opa.server);
    drop(opa);
    while alive.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_check_is_made_early_when_a_call_fails_and_a_passed_one_lets_a_probe_through() {
    let server = Changing::start(fine("{}"), closing("503 Unavailable", "{}")).await;
    let long = Duration::from_secs(30);
    let opa = server.opa().with_breaker(1, long).with_clock(FrozenClock::default()).build().unwrap();
    let opa = Arc::new(opa);
    until(&opa, |health| *health == Health::Ready).await;
    assert_eq!(effect(&opa).await, Err(PolicyErrorKind::Unavailable));
    server.answers.lock().unwrap().1 = fine(r#"{"result": true}"#);
    // The clock stands still: without the check the cool-down would never end.
    until(&opa, |health| matches!(health, Health::Degraded(_))).await;
    assert_eq!(effect(&opa).await, Ok(Effect::Allow));
    assert_eq!(opa.health(), Health::Ready);
}

async fn probed(decision: Vec<u8>) -> Result<Opa, ConfigError> {
    let server = Changing::start(fine("{}"), decision).await;
    server.opa().with_decision_path("authz/desicion").build_probed().await
}

#[tokio::test]
async fn the_canary_refuses_a_path_without_a_decision_and_takes_any_decision() {
    for good in [r#"{"result": true}"#, r#"{"result": false}"#, r#"{"result": {"allow": false}}"#] {
        assert_eq!(probed(fine(good)).await.unwrap().server.condition().health(), Health::Ready, "{good}");
    }
    let bad = [
        ("undefined", fine("{}"), "default decision"),
        ("a package", fine(r#"{"result": {"decision": {}, "other": 1}}"#), "not its package"),
        ("a page", http("200 OK", "text/html", "<html>"), "not its package"),
        ("an error", closing("500 Internal Server Error", r#"{"code": "internal_error"}"#), "not its package"),
    ];
    for (name, answer, remedy) in bad {
        let error = probed(answer).await.expect_err(name);
        assert_eq!(error.field(), "policy.opa.decision_path", "{name}");
        assert!(error.to_string().contains("authz/desicion") && error.to_string().contains(remedy), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_no_error_and_the_canary_is_made_up_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let opa = Opa::builder(format!("http://{free}")).build_probed().await.unwrap();
    let health = opa.health();
    assert!(!health.is_serving() && health.to_string().contains("could not connect"), "{health}");
    assert_eq!(effect(&Arc::new(opa)).await, Err(PolicyErrorKind::Unavailable));

    let mut server = Changing::start(closing("500 Internal Server Error", "{}"), fine("{}")).await;
    let opa = Arc::new(server.opa().build_probed().await.unwrap());
    server.requests.recv().await.unwrap();
    assert!(!opa.health().is_serving());
    // Ready now, and the decision path turns out to be wrong.
    server.answers.lock().unwrap().0 = fine("{}");
    let wrong = until(&opa, |health| health.to_string().contains("policy.opa.decision_path")).await;
    assert!(!wrong.is_serving());
    // The operator mends the policy.
    server.answers.lock().unwrap().1 = fine(r#"{"result": false}"#);
    until(&opa, |health| *health == Health::Ready).await;
}

#[tokio::test]
async fn the_canary_is_a_whole_question_about_nobody() {
    let mut server = Changing::start(fine("{}"), fine(r#"{"result": false}"#)).await;
    let opa = Arc::new(server.opa().build().unwrap());
    Arc::clone(&opa).preflight().await.unwrap();
    server.requests.recv().await.unwrap();
    let asked = server.requests.recv().await.unwrap();
    assert!(asked.contains("x-request-id: portcullis-canary\r\n"), "{asked}");
    let body: serde_json::Value = serde_json::from_str(&asked[asked.find('{').unwrap()..]).unwrap();
    let mut expected = policy_input("GET", "/");
    expected.resource.properties.path = Vec::new();
    expected.context.request_id = "portcullis-canary".to_owned();
    assert_eq!(body["input"], serde_json::to_value(expected).unwrap());
}
