use portcullis::testing::{TestIssuer, TestToken};

use super::{Expected, Notebook, Paper, Stop};
use crate::story::AUDIENCE;

/// Who turns up on the tour, with their tokens.
pub struct Callers {
    alice: TestToken,
    machine: TestToken,
    agent: TestToken,
    admin: TestToken,
    expired: TestToken,
    forged: TestToken,
    elsewhere: TestToken,
}

impl Callers {
    pub fn of(idp: &TestIssuer) -> Self {
        let token = || idp.token().audience(AUDIENCE).expires_in(3600);
        let alice = || token().subject("auth0|alice").client("web").scope("jobs:read jobs:write");
        Self {
            alice: alice().mint(),
            machine: token().machine("scheduler").scope("jobs:read jobs:write").mint(),
            agent: alice().scope("jobs:read").actor("agent-7").mint(),
            admin: token().subject("auth0|root").client("web").scope("reports:read").mint(),
            expired: alice().expired().mint(),
            forged: alice().tampered().mint(),
            elsewhere: alice().audience("https://other.acme.example").mint(),
        }
    }
}

const fn allowed(status: u16) -> Expected {
    Expected { status, decision: "allow", reason: "" }
}

const fn refused(status: u16, reason: &'static str) -> Expected {
    Expected { status, decision: "deny", reason }
}

/// The tour itself.
#[rustfmt::skip]
pub fn stops(callers: &Callers) -> Vec<Stop> {
    let stop = |title, caller, token: Option<&TestToken>, method, path, expected| Stop {
        title, caller, method, path, authorization: token.map(TestToken::bearer), headers: &[], body: None, expected,
    };
    let Callers { alice, machine, agent, admin, expired, forged, elsewhere } = callers;
    vec![
        stop("a user lists jobs", "alice, with jobs:read", Some(alice), "GET", "/jobs", allowed(200)),
        stop("a user reads one", "alice", Some(alice), "GET", "/jobs/1", allowed(200)),
        stop("a user reads somebody else's", "alice; the job is bob's", Some(alice), "GET", "/jobs/2", refused(403, "policy_denied")),
        Stop { body: Some(r#"{"title":"Oil the hinges"}"#), ..stop("a machine creates one", "scheduler, with jobs:write", Some(machine), "POST", "/jobs", allowed(201)) },
        stop("an agent acts for a user", "agent-7 for alice", Some(agent), "GET", "/jobs", allowed(200)),
        Stop { body: Some("{}"), ..stop("an agent oversteps its scope", "agent-7 for alice, without jobs:write", Some(agent), "POST", "/jobs", refused(403, "scope_insufficient")) },
        stop("an administrator reads the report", "root, with reports:read", Some(admin), "GET", "/admin/report", allowed(200)),
        stop("a user looks for the report", "alice; the report is concealed", Some(alice), "GET", "/admin/report", refused(404, "scope_insufficient")),
        stop("a user looks for what does not exist", "alice; the same answer", Some(alice), "GET", "/no-such-route", refused(404, "route_unknown")),
        stop("a user finds a forgotten route", "alice; nobody wrote a rule for it", Some(alice), "GET", "/forgotten", refused(404, "rule_missing")),
        stop("no token", "a stranger", None, "GET", "/jobs", refused(401, "credentials_missing")),
        stop("no token, no route", "a stranger with a wordlist", None, "DELETE", "/no-such-route", refused(401, "credentials_missing")),
        stop("an expired token", "alice, an hour late", Some(expired), "GET", "/jobs", refused(401, "token_expired")),
        stop("a forged token", "somebody who changed a claim", Some(forged), "GET", "/jobs", refused(401, "token_signature")),
        stop("a token for somebody else", "alice, at the wrong service", Some(elsewhere), "GET", "/jobs", refused(401, "token_audience")),
        Stop { authorization: Some("Bearer not a token".into()), ..stop("credentials that cannot be read", "a broken client", None, "GET", "/jobs", refused(400, "credentials_illegal_byte")) },
        stop("liveness is public", "a load balancer", None, "GET", "/livez", allowed(200)),
        Stop { headers: &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("accept", "text/html")], ..stop("a browser opens the page", "a person, not signed in", None, "GET", "/", refused(303, "credentials_missing")) },
        Stop { headers: &[("sec-fetch-mode", "cors"), ("accept", "*/*")], ..stop("a script fetches the page", "no redirect for scripts", None, "GET", "/", refused(401, "credentials_missing")) },
    ]
}

/// Says what to try, and prints each audit record as it comes, until Ctrl-C.
pub async fn keep_serving(base: &str, callers: &Callers, notebook: &Notebook, paper: &Paper) -> std::io::Result<()> {
    // In files that are gone with this process: a token on a terminal ends up in its scroll-back.
    let folder = tempfile::Builder::new().prefix("portcullis-").tempdir()?;
    for (who, token) in [("alice", &callers.alice), ("agent", &callers.agent), ("admin", &callers.admin)] {
        std::fs::write(folder.path().join(who), format!("Authorization: {}", token.bearer()))?;
    }
    paper.headline("Your turn (Ctrl-C ends it)");
    paper.line("The tokens are the test issuer's: good for an hour, at this address, and nowhere else.");
    paper.line("");
    for (who, request) in [
        ("alice", "/jobs"),
        ("alice", "/jobs/2"),
        ("agent", "/jobs -d '{}'"),
        ("admin", "/admin/report"),
        ("alice", "/admin/report"),
        ("", "/jobs"),
        ("", "/livez"),
    ] {
        let header = if who.is_empty() { String::new() } else { format!("-H @{} ", folder.path().join(who).display()) };
        paper.line(&format!("curl -i {header}{base}{request}"));
    }
    paper.line("");
    paper.line("Each request leaves its audit record here:");
    notebook.print_live(paper);
    tokio::signal::ctrl_c().await
}
