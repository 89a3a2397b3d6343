//! The quick start: an API and a page behind the whole stack, with a tour of what they answer.
//!
//! `cargo run --example quickstart` takes the tour and then keeps serving; `-- --once` stops after it, and exits 1 when
//! an answer was not the announced one.

mod story;
mod tour;

use std::{process::ExitCode, sync::Arc, time::Duration};

use portcullis::{
    Issuer, Stack,
    axum::protect,
    denial::{Profile, SignInRedirect},
    policy::{PolicyBackend, Rego},
    testing::TestIssuer,
};
use tokio::net::TcpListener;
use tour::{Callers, Notebook, Paper};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let once = std::env::args().any(|argument| argument == "--once");
    let idp = TestIssuer::start().await;
    let notebook = Notebook::default();
    let policy: Arc<dyn PolicyBackend> = Arc::new(
        Rego::builder()
            .add_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy"))?
            // The default of 10 ms is for optimised builds.
            .with_time_limit(Duration::from_secs(1))
            .build()?,
    );

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
    api.audit().flush(Duration::from_secs(2)).await?;
    Ok(if as_announced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
