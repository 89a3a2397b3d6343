//! The `portcullis` command, as it is installed.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/policy");

fn portcullis(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that is not understood reads nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Exit code, standard output and standard error.
fn run(arguments: &[&str], input: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = portcullis(arguments, input);
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const CAROL: [&str; 8] =
    ["--path", "/jobs/3", "--route", "/jobs/{id}", "--subject", "auth0|carol", "--scope", "jobs:read"];

#[test]
fn explain_names_the_rule_the_condition_and_the_line_as_text_and_as_json() {
    let explain = |format: &str| {
        let arguments = [&["policy", "explain", POLICY, "--format", format][..], &CAROL].concat();
        let (code, out, err) = run(&arguments, "");
        assert_eq!((code, &*err), (0, ""), "{out}");
        out
    };
    let text = explain("text");
    for words in [
        "DENY  data.authz.decision\n",
        "no rule allows it",
        "line 27 does not hold: data.jobs[",
        "✗ ",
        "operation  = \"read\"",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "{text}");
    let explanation = json(&explain("json"));
    assert_eq!(
        (&explanation["effect"], &explanation["decision_path"]),
        (&json!("deny"), &json!("data.authz.decision"))
    );
    assert!(explanation["revision"].as_str().unwrap().starts_with("sha256:"));
    let operation = explanation["rules"].as_array().unwrap().iter().find(|rule| rule["path"] == "data.authz.operation");
    assert_eq!(operation.unwrap()["value"], "read");
    // Not to a terminal: JSON without being asked.
    assert_eq!(json(&explain("auto")), explanation);
}

#[test]
fn explain_reads_what_decision_logs_hold() {
    let event = |id: &str, method: &str, allow: bool| {
        let input = json!({
            "subject": {"id": "auth0|alice", "type": "user", "properties": {"scopes": ["jobs:read"], "actor": []}},
            "action": {"name": method},
            "resource": {"id": "/jobs", "properties": {"params": {}}},
        });
        json!({"decision_id": id, "path": "authz/decision", "input": input, "result": {"allow": allow}, "erased": ["/input/context"]})
            .to_string()
    };
    let log = format!("{}\n{}\n", event("a1", "GET", true), event("b2", "POST", true));
    let ask = |more: &[&str]| run(&[&["policy", "explain", POLICY, "--input", "-"][..], more].concat(), &log);
    let (code, out, _) = ask(&["--decision-id", "a1"]);
    let explanation = json(&out);
    assert_eq!((code, &explanation["effect"], &explanation["recorded"]["agrees"]), (0, &json!("allow"), &json!(true)));
    assert_eq!(explanation["recorded"]["masked"], json!(["/input/context"]));
    let (code, out, _) = ask(&["--decision-id", "b2", "--format", "text"]);
    assert!(code == 0 && out.contains("not the effect of now"), "{out}");
    let (code, out, err) = ask(&[]);
    assert!(code == 2 && out.is_empty() && err.contains("a1, b2"), "{err}");
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    let arguments = |color: &'static str| ["policy", "lint", POLICY, "--format", "text", "--color", color];
    assert!(run(&arguments("always"), "").1.contains("\u{1b}["));
    for color in ["auto", "never"] {
        assert_eq!(run(&arguments(color), "").1, "nothing was found\n");
    }
}

#[test]
fn test_runs_the_tests_and_says_where_they_fail() {
    let (code, out, _) = run(&["policy", "test", POLICY, "--format", "text", "-v"], "");
    assert!(code == 0 && out.contains("6 of 6 tests passed") && out.contains("PASS   line 13 "), "{out}");
    let (_, out, _) = run(&["policy", "test", POLICY, "--run", "grpc|reports"], "");
    assert_eq!(json(&out)["passed"], 2);

    let tests = "package authz_test\n\nimport data.authz\n\ntest_right if authz.decision with input.user as \"ada\"\n\n\
                 test_wrong if {\n\tauthz.decision with input as {\"user\": \"ada\"}\n\tauthz.decision with input as {\"user\": \"bob\"}\n}\n\n\
                 test_error if to_number(\"x\") == 1\n\ntodo_test_later if false\n";
    let policy = "package authz\n\ndefault decision := false\n\ndecision if input.user in data.readers\n";
    let directory =
        directory(&[("authz.rego", policy), ("authz_test.rego", tests), ("data.json", "{\"readers\": [\"ada\"]}")]);
    let path = directory.path().to_str().unwrap();
    let (code, out, _) = run(&["policy", "test", path, "--format", "text"], "");
    assert_eq!(code, 1, "{out}");
    for words in [
        "FAIL   line 7",
        "line 9     does not hold: authz.decision with",
        "ERROR  line 12",
        "SKIP ",
        "1 of 4 tests passed, 1 failed, 1 in error, 1 skipped",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert!(!out.contains("test_right"), "{out}");
    // Tests are never part of what serves: neither `lint` nor `explain` knows of them.
    let (code, out, _) = run(&["policy", "explain", path, "--decision-path", "data.authz_test.test_right"], "");
    assert!(code == 1 && out.is_empty(), "{out}");
    assert_eq!(run(&["policy", "test", path, "--run", "no_such"], "").0, 1);
}

#[test]
fn lint_says_everything_with_its_place() {
    let policy = "package authz\n\ndecision if not startswith(input.a, \"b\")\n\nlater := time.now_ns()\n";
    let directory = directory(&[("authz.rego", policy)]);
    let path = directory.path().to_str().unwrap();
    let (code, out, _) = run(&["policy", "lint", path], "");
    let report = json(&out);
    assert_eq!((code, &report["errors"]), (1, &json!(2)));
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["kind"], &finding["line"], &finding["severity"]),
        (&json!("parity"), &json!(3), &json!("error"))
    );
    let relaxed = ["policy", "lint", path, "--relax-parity", "--clock-and-chance", "--format", "text"];
    let (code, out, _) = run(&relaxed, "");
    assert!(code == 0 && out.contains("authz.rego:3:13: warning[parity]") && out.ends_with("1 warning\n"), "{out}");
    assert_eq!(run(&[&relaxed[..], &["--deny-warnings"]].concat(), "").0, 1);
    assert_eq!(run(&["policy", "lint", POLICY], "").0, 0);
}

#[test]
fn bench_measures_on_one_thread_and_on_several() {
    let arguments = [&["policy", "bench", POLICY, "--count", "20", "--threads", "2"][..], &CAROL].concat();
    let (code, out, _) = run(&arguments, "");
    let report = json(&out);
    assert_eq!((code, &report["undecided"]), (0, &json!(0)), "{out}");
    let runs: Vec<_> =
        report["runs"].as_array().unwrap().iter().map(|run| (&run["threads"], &run["decisions"])).collect();
    assert_eq!(runs, [(&json!(1), &json!(20)), (&json!(2), &json!(40))]);
    for run in report["runs"].as_array().unwrap() {
        assert!(run["p50_ns"].as_u64() > Some(0) && run["p50_ns"].as_u64() <= run["max_ns"].as_u64());
    }
}

#[test]
fn what_is_not_understood_is_two_and_what_cannot_be_done_is_one() {
    for (arguments, code) in [
        (&["policy", "explain"][..], 2),
        (&["policy", "explain", POLICY, "--input", "-", "--path", "/"], 2),
        (&["policy", "explain", POLICY, "--route", "/jobs/{id}"], 2),
        (&["policy", "explain", "/no/such/directory"], 1),
        (&["policy", "explain", POLICY, "--decision-path", "data.authz.nothing"], 1),
        (&["policy", "explain", POLICY, "--input", "/no/such/file"], 1),
        (&["policy", "test", POLICY, "--run", "("], 2),
        (&["policy", "bench", POLICY, "--seconds", "0"], 2),
        (&["policy"], 2),
        (&["--help"], 0),
        (&["policy", "lint", "--help"], 0),
    ] {
        let (actual, out, err) = run(arguments, "");
        assert_eq!(actual, code, "{arguments:?}: {out}{err}");
        assert_eq!(out.is_empty(), code != 0, "{arguments:?}: {out}");
    }
}
