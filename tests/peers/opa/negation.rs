use std::{path::PathBuf, sync::Arc};

use portcullis::{
    policy::{PolicyBackend as _, Rego},
    testing::policy_input,
};

use super::{ask, patient, server::Server};

/// The list by which policies are refused when they are loaded is right about both engines. When this fails for a line, one of them
/// changed its mind.
pub(super) async fn the_negations_that_rego_refuses_are_those_that_opa_reads_otherwise(opa: PathBuf) {
    let rules = include_str!("../../../src/policy/rego/negations.rego").strip_prefix("package authz\n").unwrap();
    let (negations, memberships) = (
        include_str!("../../../src/policy/rego/negations.txt"),
        include_str!("../../../src/policy/rego/memberships.txt"),
    );
    let cases = negations.lines().chain(memberships.lines()).filter(|line| !line.starts_with('#'));
    let cases: Vec<_> = cases.map(|line| line.split_once(' ').unwrap()).enumerate().collect();
    let mut start = Server::start(&opa);
    let policy = |number: usize, body: &str| format!("package case{number}\n{rules}decision if {body}");
    for (number, (_, body)) in &cases {
        start = start.with_policy(&format!("case{number}.rego"), &policy(*number, body.trim()));
    }
    let server = start.ready().await;
    for (number, (meaning, body)) in &cases {
        let theirs = patient(server.url()).with_decision_path(format!("case{number}/decision")).build().unwrap();
        let theirs = ask(&Arc::new(theirs), policy_input("GET", "/jobs")).await.expect(body);
        let ours = Rego::builder()
            .add_source("case.rego", policy(*number, body.trim()))
            .with_decision_path(format!("data.case{number}.decision"))
            .dangerous_relax_parity()
            .build()
            .unwrap();
        let ours = ours.decide_now(&policy_input("GET", "/jobs")).unwrap().expect(body);
        let expected = (*meaning == "differ", false);
        assert_eq!((theirs.is_undefined(), ours.is_undefined()), expected, "{meaning} {body}");
    }
    let differing = cases.iter().filter(|(_, (meaning, _))| *meaning == "differ").count();
    assert!(differing >= 20 && cases.len() - differing >= 20, "{differing} of {}", cases.len());
}
