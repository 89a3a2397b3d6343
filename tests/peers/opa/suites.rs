use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::policy_dir;

/// `portcullis policy test` says of each test what `opa test` says; it is only stricter where a built-in function fails.
pub(super) async fn the_command_runs_tests_as_opa_does(opa: PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in
        [("policy.rego", POLICY), ("data.json", "{\"readers\": [\"ada\"], \"limit\": 3}"), ("policy_test.rego", TESTS)]
    {
        fs::write(directory.path().join(name), text).unwrap();
    }
    for (directory, least) in [(policy_dir(), 6), (directory.path().to_owned(), 20)] {
        let (theirs, ours) = (of_opa(&opa, &directory), of_the_command(&directory));
        assert!(theirs.len() >= least, "{theirs:?}");
        assert_eq!(ours, theirs, "{}", directory.display());
    }
}

/// By name, package and line: the words of both sides for "passed", "failed" and "skipped", an error being a failure.
type Verdicts = BTreeMap<(String, String, u64), &'static str>;

fn of_opa(opa: &Path, directory: &Path) -> Verdicts {
    let done = Command::new(opa).args(["test", "--format", "json"]).arg(directory).output().unwrap();
    let tests: Vec<Value> = serde_json::from_slice(&done.stdout).unwrap();
    let verdict = |test: &Value| {
        let says = |name: &str| !matches!(&test[name], Value::Null | Value::Bool(false));
        if says("skip") {
            "skip"
        } else if says("fail") || says("error") {
            "fail"
        } else {
            "pass"
        }
    };
    tests.iter().map(|test| (key(test, &test["location"]["row"]), verdict(test))).collect()
}

fn of_the_command(directory: &Path) -> Verdicts {
    let done = Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["policy", "test"]).arg(directory).output().unwrap();
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    let verdict = |test: &Value| match test["result"].as_str().unwrap() {
        "pass" => "pass",
        "fail" | "error" => "fail",
        "skip" => "skip",
        other => panic!("{other}"),
    };
    report["tests"].as_array().unwrap().iter().map(|test| (key(test, &test["line"]), verdict(test))).collect()
}

fn key(test: &Value, line: &Value) -> (String, String, u64) {
    let text = |name: &str| test[name].as_str().unwrap().to_owned();
    (text("package"), text("name"), line.as_u64().unwrap())
}

const POLICY: &str = "package authz

default decision := false

decision if {
	input.user in data.readers
	data.limit > 2
}

named(name) if name == \"ada\"
";

const TESTS: &str = r#"package authz_test

import data.authz

test_reader_is_allowed if authz.decision with input as {"user": "ada"}

test_others_are_not if not authz.decision with input as {"user": "bob"}

test_data_can_be_replaced if {
	not authz.decision with input as {"user": "ada"} with data.readers as []
	not authz.decision with input as {"user": "ada"} with data.limit as 1
	authz.decision with input.user as "ada"
}

test_wrong if {
	some user in ["ada", "bob"]
	authz.decision with input as {"user": user}
	user == "bob"
}

test_false := false

test_number := 3

test_text := "x"

test_null := null

test_empty_object := {}

test_list := [1]

test_set contains "a" if true

test_undefined := data.absent

test_twice if true

test_twice if false

test_error if to_number("x") == 1

test_conflict := 1 if true

test_conflict := 2 if true

todo_test_later if false

test_else := false if false
else := true

test_named if authz.named("ada")

test_input_is_absent if not input

test_cases[name] if {
	some name, case in {
		"first": {"user": "ada", "allowed": true},
		"second": {"user": "bob", "allowed": false},
	}
	result := authz.decision with input as {"user": case.user}
	result == case.allowed
}

test_cases_of_which_one_fails[name] if {
	some name, case in {
		"first": {"user": "ada", "allowed": true},
		"second": {"user": "bob", "allowed": true},
	}
	result := authz.decision with input as {"user": case.user}
	result == case.allowed
}

test_function(x) if x

not_a_test if false
"#;
