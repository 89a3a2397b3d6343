//! The quick start with one change: a real Open Policy Agent decides, over REST.
//!
//! `cargo run --features opa --example opa_server` starts `opa` itself when it is on `PATH` (or in `target/tools`). To use one that is
//! running, with the policy of `examples/policy`, give its address: `-- http://127.0.0.1:8181`. `-- --once` stops after the tour.

#[path = "tour/opa.rs"]
mod opa;
mod story;
mod tour;

use std::{process::ExitCode, sync::Arc};

use portcullis::{
    Issuer, Stack,
    axum::protect,
    denial::{Profile, SignInRedirect},
    policy::{Opa, PolicyBackend},
    testing::TestIssuer,
};
use tokio::net::TcpListener;
use tour::{Callers, Notebook, Paper};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let once = std::env::args().any(|argument| argument == "--once");
    let idp = TestIssuer::start().await;
    let notebook = Notebook::default();
    let Some(server) = opa::Server::find().await? else {
        println!("{}", opa::how_to_start());
        return Ok(ExitCode::from(2));
    };
    let policy: Arc<dyn PolicyBackend> =
        Arc::new(Opa::builder(server.url()).with_decision_path("authz/decision").build()?);

    let issuer = Issuer::rfc9068(idp.url(), story::AUDIENCE);
    let api = Stack::builder(issuer, story::api_rules(), Arc::clone(&policy), notebook.clone())
        .with_service("jobs")
        .build()?;
    // The page is for people: its refusals are pages and redirects. It shares the API's verifier and audit trail.
    let sign_in = SignInRedirect::new("https://login.acme.example/authorize")?;
    let page = api.sibling(story::page_rules()).with_profile(Profile::Browser(sign_in)).build()?;

    let paper = Paper::stdout();
    paper.headline("The rules");
    for line in api.report().to_string().lines() {
        paper.line(line);
    }
    let app = axum::Router::new()
        .route_service("/", protect(story::page(), page))
        .fallback_service(protect(story::api(), api.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let callers = Callers::of(&idp);
    let as_announced = tour::walk(&base, &tour::stops(&callers), &notebook, &paper).await?;
    if !once {
        tour::keep_serving(&base, &callers, &notebook, &paper).await?;
    }
    server.abort();
    api.audit().flush(std::time::Duration::from_secs(2)).await?;
    Ok(if as_announced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
