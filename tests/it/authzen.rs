//! A decision point that speaks OpenID AuthZEN 1.0, and the decisions that the working group publishes for one, through `AuthZen`.
//!
//! The tables are facts from <https://github.com/openid/authzen>: the fixture of the certification scenario
//! (`certification/authorization-api-1_0-scenario.md`), the decisions of the Todo interoperability scenario
//! (`interop/authzen-todo-backend/test`), and those of the API gateway scenario (`interop/authzen-api-gateways/test-harness/test`). The server
//! decides by rules of its own, and knows none of the tables.

use std::sync::{Arc, Mutex, OnceLock};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use portcullis::{
    Issuer, Rules, Stack,
    audit::Memory,
    axum::protect,
    policy::{
        AuthZen, Decision, Effect, PolicyBackend, PolicyInput,
        authzen::{AuthZenBuilder, Evaluation, Semantic},
    },
    rules::policy_only,
    testing::{TestIssuer, policy_input},
};
use serde_json::{Map, Value, json};

use crate::support::{AUDIENCE, Host, PATIENCE, only_record, send};

#[derive(Default)]
struct Seen {
    url: OnceLock<String>,
    bodies: Mutex<Vec<Value>>,
}

struct Pdp {
    host: Host,
    seen: Arc<Seen>,
}

type Answer = Result<(HeaderMap, Json<Value>), StatusCode>;

impl Pdp {
    /// With or without the Access Evaluations API.
    async fn start(boxcars: bool) -> Self {
        let seen = Arc::new(Seen::default());
        let metadata = async move |State(seen): State<Arc<Seen>>| {
            let url = seen.url.get().unwrap();
            let mut metadata = json!({
                "policy_decision_point": url,
                "access_evaluation_endpoint": format!("{url}/one"),
                "search_subject_endpoint": format!("{url}/access/v1/search/subject"),
                "capabilities": [],
            });
            if boxcars {
                metadata["access_evaluations_endpoint"] = format!("{url}/many").into();
            }
            Json(metadata)
        };
        let router = Router::new()
            .route("/.well-known/authzen-configuration", get(metadata))
            .route("/one", post(one))
            .route("/many", post(many))
            .with_state(Arc::clone(&seen));
        let host = Host::router(router).await;
        seen.url.set(format!("http://{}", host.address)).unwrap();
        Self { host, seen }
    }

    fn builder(&self) -> AuthZenBuilder {
        AuthZen::builder(format!("http://{}", self.host.address)).with_bearer("pep-1").with_deadline(PATIENCE)
    }

    async fn backend(&self, mapping: fn(&PolicyInput) -> Evaluation) -> Arc<AuthZen> {
        Arc::new(self.builder().with_mapping(mapping).build_probed().await.unwrap())
    }
}

async fn one(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: axum::body::Bytes) -> Answer {
    let question = question(&seen, &headers, &body)?;
    let decision = decide(&question).ok_or(StatusCode::BAD_REQUEST)?;
    Ok((echo(&headers), Json(decision)))
}

async fn many(State(seen): State<Arc<Seen>>, headers: HeaderMap, body: axum::body::Bytes) -> Answer {
    let questions = question(&seen, &headers, &body)?;
    let stop = match questions["options"]["evaluations_semantic"].as_str() {
        Some("execute_all") => None,
        Some("deny_on_first_deny") => Some(false),
        Some("permit_on_first_permit") => Some(true),
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    let mut results = Vec::new();
    for question in questions["evaluations"].as_array().ok_or(StatusCode::BAD_REQUEST)? {
        let decision = decide(question).unwrap_or(json!({"decision": false, "context": {"error": {"status": 400}}}));
        results.push(decision.clone());
        if decision["decision"].as_bool() == stop {
            break;
        }
    }
    Ok((echo(&headers), Json(json!({"evaluations": results}))))
}

/// As strict as a certified decision point: the credential, the content type, and no null anywhere.
fn question(seen: &Seen, headers: &HeaderMap, body: &[u8]) -> Result<Value, StatusCode> {
    fn has_null_member(value: &Value) -> bool {
        match value {
            Value::Object(members) => members.values().any(|value| value.is_null() || has_null_member(value)),
            Value::Array(items) => items.iter().any(has_null_member),
            _ => false,
        }
    }
    if headers.get("authorization").is_none_or(|credential| credential != "Bearer pep-1") {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let question: Value = serde_json::from_slice(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    if headers.get("content-type").is_none_or(|kind| kind != "application/json") || has_null_member(&question) {
        return Err(StatusCode::BAD_REQUEST);
    }
    seen.bodies.lock().unwrap().push(question.clone());
    Ok(question)
}

fn echo(headers: &HeaderMap) -> HeaderMap {
    let id = headers.get("x-request-id").map(|id| ("x-request-id".parse().unwrap(), id.clone()));
    HeaderMap::from_iter(id)
}

/// `None` for a question that is not one.
fn decide(question: &Value) -> Option<Value> {
    let (subject, action, resource) = (&question["subject"], &question["action"], &question["resource"]);
    let (kind, id) = (subject["type"].as_str()?, subject["id"].as_str()?);
    let name = action["name"].as_str()?;
    let (what, which) = (resource["type"].as_str()?, resource["id"].as_str()?);
    for properties in
        [subject.get("properties"), action.get("properties"), resource.get("properties"), question.get("context")]
    {
        if properties.is_some_and(|properties| !properties.is_object()) {
            return None;
        }
    }
    let roles = |person: &str| match person {
        "rick" => &["admin", "evil_genius"][..],
        "morty" | "summer" => &["editor"],
        _ => &["viewer"],
    };
    let decision = match (kind, what) {
        ("user", "record") => {
            let is_admin = subject["properties"]["role"] == "admin";
            let is_archived = resource["properties"]["status"] == "archived";
            match name {
                "read" => true,
                "write" => {
                    if is_archived {
                        is_admin
                    } else {
                        id == "alice"
                    }
                }
                "delete" => id == "alice" && which == "record-1" && action["properties"]["soft"] == true,
                _ => false,
            }
        }
        ("user", "todo" | "user") => {
            let person = person(id)?;
            let owns = resource["properties"]["ownerID"].as_str() == Some(person.mail);
            let has = |role| roles(person.name).contains(&role);
            match name {
                "can_read_user" | "can_read_todos" => true,
                "can_create_todo" => has("admin") || has("editor"),
                "can_update_todo" => has("evil_genius") || has("editor") && owns,
                "can_delete_todo" => has("admin") || has("editor") && owns,
                _ => false,
            }
        }
        ("identity", "route") => {
            let person = person(id)?;
            match (name, which) {
                ("GET", "/users/{userId}" | "/todos") => true,
                ("POST", "/todos") | ("PUT" | "DELETE", "/todos/{todoId}") => !roles(person.name).contains(&"viewer"),
                ("GET", "/reports") => {
                    let obligations = json!([{"type": "step-up", "id": "obl-1", "acr_value": "urn:example:loa:3"}]);
                    return Some(json!({"decision": true, "context": {"obligations": obligations}}));
                }
                _ => false,
            }
        }
        _ => false,
    };
    Some(if decision {
        json!({"decision": true})
    } else {
        json!({"decision": false, "context": {"reason_admin": {"403": "no rule"}}})
    })
}

struct Person {
    name: &'static str,
    /// As the scenario's login names them.
    id: String,
    mail: &'static str,
}

fn people() -> [Person; 5] {
    let all = [
        ("rick", "A", "rick@the-citadel.com"),
        ("morty", "E", "morty@the-citadel.com"),
        ("summer", "I", "summer@the-smiths.com"),
        ("beth", "M", "beth@the-smiths.com"),
        ("jerry", "Q", "jerry@the-smiths.com"),
    ];
    all.map(|(name, letter, mail)| {
        let id = format!("CiRmZD{letter}2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs");
        Person { name, id, mail }
    })
}

fn person(id: &str) -> Option<Person> {
    people().into_iter().find(|person| person.id == id)
}

fn effect(allowed: bool) -> Effect {
    if allowed { Effect::Allow } else { Effect::Deny }
}

fn effects(decisions: &[Decision]) -> Vec<Effect> {
    decisions.iter().map(Decision::effect).collect()
}

/// A question of the scenarios as the input of a service would carry it: what is known of subject and resource stands where this crate
/// puts it, and [`named`] brings it to where the scenarios want it.
fn input(subject: &str, action: &str, resource: (&str, &str)) -> PolicyInput {
    let mut input = policy_input("GET", "/");
    input.subject.r#type = "user";
    subject.clone_into(&mut input.subject.id);
    action.clone_into(&mut input.action.name);
    resource.0.clone_into(&mut input.resource.r#type);
    resource.1.clone_into(&mut input.resource.id);
    input.context.request_id = "r-1".to_owned();
    input
}

fn named(input: &PolicyInput) -> Evaluation {
    let mut evaluation = Evaluation::of(input);
    evaluation.subject.properties.clone_from(&input.subject.properties.claims);
    evaluation.action.properties.clone_from(&input.context.attributes);
    evaluation.resource.properties.clone_from(&input.resource.properties.attributes);
    evaluation
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

/// The eight decisions that the certification demands.
fn certification() -> Vec<(&'static str, PolicyInput, bool)> {
    let on = |subject, action, record| input(subject, action, ("record", record));
    let with = |mut input: PolicyInput, subject: Value, action: Value, resource: Value| {
        input.subject.properties.claims = map(subject);
        input.context.attributes = map(action);
        input.resource.properties.attributes = map(resource);
        input
    };
    let archived = || json!({"status": "archived"});
    let none = || json!({});
    vec![
        ("alice reads", on("alice", "read", "record-1"), true),
        ("alice writes", on("alice", "write", "record-1"), true),
        ("bob reads", on("bob", "read", "record-1"), true),
        ("bob writes", on("bob", "write", "record-1"), false),
        ("alice writes an archived one", with(on("alice", "write", "record-2"), none(), none(), archived()), false),
        (
            "an admin writes an archived one",
            with(on("bob", "write", "record-2"), json!({"role": "admin", "left": null}), none(), archived()),
            true,
        ),
        ("alice deletes softly", with(on("alice", "delete", "record-1"), none(), json!({"soft": true}), none()), true),
        (
            "alice deletes for good",
            with(on("alice", "delete", "record-1"), none(), json!({"soft": false}), none()),
            false,
        ),
    ]
}

/// The decisions of the Todo scenario: for each person, whether they may do what is named to what is theirs and to what is Rick's.
fn todo() -> Vec<(String, PolicyInput, bool)> {
    const TODO: &str = "7240d0db-8ff0-41ec-98b2-34a096273b9f";
    let mut cases = Vec::new();
    // Read a user, read todos, create one; update and delete Rick's; update and delete one's own.
    for (name, allowed) in [
        ("rick", [true, true, true, true, true, true, true]),
        ("morty", [true, true, true, false, false, true, true]),
        ("summer", [true, true, true, false, false, true, true]),
        ("beth", [true, true, false, false, false, false, false]),
        ("jerry", [true, true, false, false, false, false, false]),
    ] {
        let who = people().into_iter().find(|person| person.name == name).unwrap();
        // Rick's second update and delete are of what is Morty's.
        let own = if name == "rick" { "morty@the-citadel.com" } else { who.mail };
        let asked = [
            ("can_read_user", ("user", "beth@the-smiths.com"), None),
            ("can_read_todos", ("todo", "todo-1"), None),
            ("can_create_todo", ("todo", "todo-1"), None),
            ("can_update_todo", ("todo", TODO), Some("rick@the-citadel.com")),
            ("can_delete_todo", ("todo", TODO), Some("rick@the-citadel.com")),
            ("can_update_todo", ("todo", TODO), Some(own)),
            ("can_delete_todo", ("todo", TODO), Some(own)),
        ];
        for ((action, resource, owner), allowed) in asked.into_iter().zip(allowed) {
            let mut input = input(&who.id, action, resource);
            if let Some(owner) = owner {
                input.resource.properties.attributes = map(json!({"ownerID": owner}));
            }
            cases.push((format!("{name} {action} {owner:?}"), input, allowed));
        }
        cases.push((
            format!("{name} can_read_user self"),
            self::input(&who.id, "can_read_user", ("user", who.mail)),
            true,
        ));
    }
    cases
}

/// The decisions of the API gateway scenario.
fn gateway() -> Vec<(String, PolicyInput, bool)> {
    let mut cases = Vec::new();
    for who in people() {
        for (method, template) in [
            ("GET", "/users/{userId}"),
            ("GET", "/todos"),
            ("POST", "/todos"),
            ("PUT", "/todos/{todoId}"),
            ("DELETE", "/todos/{todoId}"),
        ] {
            let mut input = policy_input(method, template);
            input.subject.r#type = "user";
            input.subject.properties.subject.clone_from(&who.id);
            let allowed = method == "GET" || !["beth", "jerry"].contains(&who.name);
            cases.push((format!("{} {method} {template}", who.name), input, allowed));
        }
    }
    cases
}

async fn all_hold(mapping: fn(&PolicyInput) -> Evaluation, cases: Vec<(String, PolicyInput, bool)>) {
    for boxcars in [true, false] {
        let pdp = Pdp::start(boxcars).await;
        let backend = pdp.backend(mapping).await;
        for (name, input, allowed) in &cases {
            let decision = Arc::clone(&backend).decide(input.clone()).await.unwrap();
            assert_eq!(decision.effect(), effect(*allowed), "{name}");
            assert_eq!(decision.reasons().is_empty(), *allowed, "{name}");
        }
        let asked = std::mem::take(&mut *pdp.seen.bodies.lock().unwrap()).len();
        assert_eq!(asked, cases.len());

        let inputs: Vec<_> = cases.iter().map(|(_, input, _)| input.clone()).collect();
        let expected: Vec<_> = cases.iter().map(|(.., allowed)| effect(*allowed)).collect();
        let up_to = |last| {
            let stop = expected.iter().position(|effect| *effect == last);
            expected[..stop.map_or(expected.len(), |stop| stop + 1)].to_vec()
        };
        for (semantic, expected) in [
            (Semantic::ExecuteAll, expected.clone()),
            (Semantic::DenyOnFirstDeny, up_to(Effect::Deny)),
            (Semantic::PermitOnFirstPermit, up_to(Effect::Allow)),
        ] {
            let decisions = backend.evaluations(&inputs, semantic).await.unwrap();
            assert_eq!(effects(&decisions), expected, "{semantic:?}");
            let asked = std::mem::take(&mut *pdp.seen.bodies.lock().unwrap()).len();
            assert_eq!(asked, if boxcars { 1 } else { expected.len() }, "{semantic:?}");
        }
    }
}

#[tokio::test]
async fn the_decisions_of_the_certification_scenario_hold() {
    let cases: Vec<_> =
        certification().into_iter().map(|(name, input, allowed)| (name.to_owned(), input, allowed)).collect();
    assert_eq!(cases.len(), 8);
    all_hold(named, cases).await;
}

#[tokio::test]
async fn the_decisions_of_the_todo_scenario_hold() {
    let cases = todo();
    assert_eq!(cases.len(), 40);
    all_hold(named, cases).await;
}

#[tokio::test]
async fn the_decisions_of_the_gateway_scenario_hold() {
    let cases = gateway();
    assert_eq!((cases.len(), cases.iter().filter(|(.., allowed)| !allowed).count()), (25, 6));
    all_hold(Evaluation::gateway, cases).await;
}

#[tokio::test]
async fn the_boxcars_of_the_todo_scenario_hold() {
    let pdp = Pdp::start(true).await;
    let backend = pdp.backend(named).await;
    for (name, own, expected) in [
        ("rick", "jerry@the-smiths.com", [true, true]),
        ("morty", "morty@the-citadel.com", [false, true]),
        ("jerry", "jerry@the-smiths.com", [false, false]),
    ] {
        let who = people().into_iter().find(|person| person.name == name).unwrap();
        let questions = ["rick@the-citadel.com", own].map(|owner| {
            let mut input = input(&who.id, "can_update_todo", ("todo", "7240d0db-8ff0-41ec-98b2-34a096273b9f"));
            input.resource.properties.attributes = map(json!({"ownerID": owner}));
            input
        });
        let decisions = backend.evaluations(&questions, Semantic::ExecuteAll).await.unwrap();
        assert_eq!(effects(&decisions), expected.map(effect), "{name}");
    }
}

#[tokio::test]
async fn a_decision_point_decides_in_front_of_a_service() {
    let pdp = Pdp::start(true).await;
    let idp = TestIssuer::start().await;
    for (who, path, fulfils, status, reason) in [
        ("rick", "/todos", false, 200, Value::Null),
        ("jerry", "/todos/7", false, 403, "policy_denied".into()),
        ("rick", "/todos/7", false, 200, Value::Null),
        ("rick", "/reports", false, 403, "policy_obligation_unfulfilled".into()),
        ("rick", "/reports", true, 200, Value::Null),
        ("nobody", "/todos", false, 503, "policy_evaluation_error".into()),
    ] {
        let memory = Memory::new();
        let rules = Rules::new()
            .get("/todos", policy_only())
            .put("/todos/{todoId}", policy_only().with_action("todo.update"))
            .get("/reports", policy_only());
        let backend = pdp.backend(Evaluation::gateway).await;
        let stack = Stack::builder(Issuer::rfc9068(idp.url(), AUDIENCE), rules, backend, memory.clone());
        let stack = if fulfils {
            stack.with_obligation("step-up", |obligation: &portcullis::policy::Obligation| {
                obligation.properties["acr_value"] == "urn:example:loa:3"
            })
        } else {
            stack
        };
        let stack = stack.build().unwrap();
        let router = Router::new()
            .route("/todos", get(async || "todos"))
            .route("/todos/{todoId}", axum::routing::put(async || "a todo"))
            .route("/reports", get(async || "reports"));
        let service = protect(router, stack.clone());
        let id =
            people().into_iter().find(|person| person.name == who).map_or_else(|| who.to_owned(), |person| person.id);
        let method = if path == "/todos/7" { "PUT" } else { "GET" };
        let request = axum::extract::Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", idp.token().subject(&id).client("web").mint().bearer());
        let response = send(service, request.body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(response.status(), status, "{who} {path}");
        let record = only_record(&stack, &memory).await;
        assert_eq!(record["reason"], reason, "{who} {path}");
        let body = pdp.seen.bodies.lock().unwrap().pop().unwrap();
        assert_eq!(body["subject"]["id"], id);
        if status != 503 {
            let url = format!("authzen:http://{}", pdp.host.address);
            assert_eq!(record["policy"]["revision"], url, "{record:#}");
        }
    }
}

#[tokio::test]
async fn a_credential_that_is_not_accepted_is_no_decision() {
    let pdp = Pdp::start(true).await;
    let backend = Arc::new(pdp.builder().with_bearer("pep-2").build_probed().await.unwrap());
    let input = input("alice", "read", ("record", "record-1"));
    let error = Arc::clone(&backend).decide(input.clone()).await.unwrap_err();
    assert_eq!(error.kind(), portcullis::policy::PolicyErrorKind::Unavailable);
    let error = backend.evaluations(&[input], Semantic::PermitOnFirstPermit).await.unwrap_err();
    assert_eq!(error.kind(), portcullis::policy::PolicyErrorKind::Unavailable);
}
