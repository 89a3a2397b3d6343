//! The service of the story: jobs that people and machines work on, a report for few, a page for browsers.

use axum::{Json, Router, extract::Path, http::StatusCode, response::Html, routing::get};
use portcullis::{
    Rules,
    principal::Principal,
    rules::{policy_only, public, scopes},
    scope::all_of,
};
use serde_json::{Value, json};

/// What the API's tokens must be for.
pub const AUDIENCE: &str = "https://api.acme.example";

/// What each route of the API demands. A route that is missing here is denied.
pub fn api_rules() -> Rules {
    Rules::new()
        .get("/jobs", scopes(all_of(["jobs:read"])))
        .get("/jobs/{id}", scopes(all_of(["jobs:read"])))
        .post("/jobs", scopes(all_of(["jobs:write"])))
        .get("/admin/report", scopes(all_of(["reports:read"])).concealed())
        .get("/livez", public("liveness must survive an outage of everything else"))
}

/// The API itself: plain axum, which knows nothing of tokens.
pub fn api() -> Router {
    Router::new()
        .route("/jobs", get(list).post(create))
        .route("/jobs/{id}", get(read))
        .route("/admin/report", get(report))
        .route("/livez", get(async || "alive"))
        .route("/forgotten", get(async || "a route that nobody wrote a rule for"))
}

/// What the page for browsers demands.
pub fn page_rules() -> Rules {
    Rules::new().get("/", policy_only())
}

/// The page for browsers.
pub fn page() -> Router {
    Router::new().route("/", get(async || Html("<!doctype html><title>Jobs</title><h1>Your jobs</h1>")))
}

async fn list(caller: Principal) -> Json<Value> {
    let subject = caller.subject().map(|subject| subject.as_str());
    Json(
        json!({ "jobs": [1, 2], "for": subject, "acting": caller.actors().iter().map(|actor| actor.subject.as_str()).collect::<Vec<_>>() }),
    )
}

async fn read(Path(id): Path<u64>) -> Json<Value> {
    Json(json!({ "id": id, "title": "Mend the gate" }))
}

async fn create(caller: Principal, Json(job): Json<Value>) -> (StatusCode, Json<Value>) {
    (
        StatusCode::CREATED,
        Json(json!({ "id": 3, "title": job.get("title"), "by": caller.client().map(|client| client.as_str()) })),
    )
}

async fn report() -> Json<Value> {
    Json(json!({ "jobs": 2, "open": 1 }))
}
