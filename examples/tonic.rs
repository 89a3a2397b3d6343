//! The quick start with one change: gRPC. A tonic service behind the whole stack, and a tour of what it answers.
//!
//! `cargo run --features tonic --example tonic`; `-- --once` stops after the tour.

#[path = "story/grpc.rs"]
mod grpc;

use std::{process::ExitCode, time::Duration};

use grpc::{Job, JobList, Jobs};
use portcullis::{
    Issuer, Rules, Stack,
    audit::{Memory, Verdict},
    policy::Rego,
    rules::scopes,
    scope::all_of,
    testing::{TestIssuer, TestToken},
    tonic::protect,
};
use tokio::net::TcpListener;
use tonic::{
    Code, Request,
    service::Routes,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

const AUDIENCE: &str = "https://api.acme.example";

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let once = std::env::args().any(|argument| argument == "--once");
    let idp = TestIssuer::start().await;
    let records = Memory::default();
    let issuer = Issuer::rfc9068(idp.url(), AUDIENCE);
    let rules = Rules::new()
        .grpc("jobs.v1.Jobs/List", scopes(all_of(["jobs:read"])))
        .grpc("jobs.v1.Jobs/Create", scopes(all_of(["jobs:write"])));
    let policy = Rego::builder()
        .add_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy"))?
        // The default of 10 ms is for optimised builds.
        .with_time_limit(Duration::from_secs(1))
        .build()?;
    let stack = Stack::builder(issuer, rules, policy, records.clone()).with_service("jobs").build()?;
    println!("{}", stack.report());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = protect(Routes::new(Jobs), stack.clone());
    let server = tokio::spawn(Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)));

    let token = || idp.token().audience(AUDIENCE).subject("auth0|alice").client("web").scope("jobs:read");
    let (alice, expired) = (token().mint(), token().expired().mint());
    let machine = token().machine("scheduler").scope("jobs:read jobs:write").mint();
    let agent = token().actor("agent-7").mint();
    let tour = [
        ("a user lists jobs", Some(&alice), "List", Code::Ok),
        ("a machine creates one", Some(&machine), "Create", Code::Ok),
        ("an agent acts for a user", Some(&agent), "List", Code::Ok),
        ("an agent oversteps its scope", Some(&agent), "Create", Code::PermissionDenied),
        ("a method without a rule", Some(&machine), "Purge", Code::PermissionDenied),
        ("a method that does not exist", Some(&machine), "Nothing", Code::PermissionDenied),
        ("the same without a token", None, "Nothing", Code::Unauthenticated),
        ("an expired token", Some(&expired), "List", Code::Unauthenticated),
    ];
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut as_announced = true;
    println!("{:<30} {:<8} {:<18} {:<18} audit", "", "method", "announced", "answered");
    for (title, token, method, expected) in tour {
        let answered = call(channel.clone(), token, method).await;
        stack.audit().flush(Duration::from_secs(2)).await?;
        let audit = records.records().pop().map_or_else(String::new, |record| {
            format!("{} {}", record.decision.map_or("-", Verdict::as_str), record.reason.unwrap_or("-"))
        });
        println!("{title:<30} {method:<8} {:<18} {:<18} {audit}", format!("{expected:?}"), format!("{answered:?}"));
        as_announced &= answered == expected;
    }
    if !once {
        println!("\nServing on {address}: try grpcurl, or any client, until Ctrl-C.");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    Ok(if as_announced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn call(channel: Channel, token: Option<&TestToken>, method: &str) -> Code {
    let mut client = tonic::client::Grpc::new(channel);
    let mut request = Request::new(Job { id: 1, title: String::new() });
    if let Some(Ok(bearer)) = token.map(|token| token.bearer().parse()) {
        request.metadata_mut().insert("authorization", bearer);
    }
    let Ok(path) = format!("/jobs.v1.Jobs/{method}").parse() else { return Code::Internal };
    if client.ready().await.is_err() {
        return Code::Unavailable;
    }
    match client.unary::<Job, JobList, _>(request, path, ProstCodec::default()).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}
