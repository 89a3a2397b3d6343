use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use portcullis::policy::Rego;
use serde_json::Value;

use crate::policy_dir;

/// What the crate ships for authors of policies does what it is for, and says what this version of the server says.
pub(super) async fn the_capabilities_file_takes_what_rego_takes(opa: PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("capabilities.json");
    fs::write(&file, Rego::CAPABILITIES).unwrap();
    let check = |policy: &Path| {
        let check = ["check", "--strict", "--capabilities"];
        let done = Command::new(&opa).args(check).args([&file, policy]).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (accepted, output) = check(&policy_dir());
    assert!(accepted, "{output}");
    for (body, expected) in [
        ("io.jwt.decode(\"x\")", "undefined function io.jwt.decode"),
        ("http.send({})", "undefined function http.send"),
        ("strings.count(\"a\", \"a\") == 1", "undefined function strings.count"),
        ("$\"{1}\" == \"1\"", "template strings are not supported"),
    ] {
        let policy = format!("package authz\n\ndecision if {body}");
        let path = directory.path().join("policy.rego");
        fs::write(&path, &policy).unwrap();
        let (accepted, output) = check(&path);
        assert!(!accepted && output.contains(expected), "{body}: {output}");
        assert!(Rego::from_source("policy.rego", policy, Rego::DEFAULT_DECISION_PATH).is_err(), "{body}");
    }

    let done = Command::new(&opa).args(["capabilities", "--current"]).output().unwrap();
    let (theirs, ours): (Value, Value) =
        (serde_json::from_slice(&done.stdout).unwrap(), serde_json::from_str(Rego::CAPABILITIES).unwrap());
    for builtin in ours["builtins"].as_array().unwrap() {
        let theirs = theirs["builtins"].as_array().unwrap().iter().find(|other| other["name"] == builtin["name"]);
        let mut theirs = theirs.unwrap_or_else(|| panic!("no {}", builtin["name"])).clone();
        leave_out_prose(&mut theirs);
        assert_eq!(&theirs, builtin);
    }
}

/// What a policy may not look like is what the server does not compile, and what it compiles is taken, as far as these cases go.
pub(super) async fn what_rego_refuses_to_compile_opa_refuses_too(opa: PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.rego");
    for case in include_str!("../../../src/policy/rego/compile.txt").lines().filter(|line| !line.starts_with('#')) {
        let (verdict, policy) = case.split_once(' ').unwrap();
        fs::write(&path, format!("package authz\n{}", policy.trim().replace("\\n", "\n"))).unwrap();
        let done = Command::new(&opa).arg("check").arg(&path).output().unwrap();
        let output = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.success(), verdict == "taken", "{policy}: {output}");
    }
}

fn leave_out_prose(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|name, value| !matches!(name.as_str(), "description" | "categories") || value.is_object());
            members.values_mut().for_each(leave_out_prose);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_prose),
        _ => {}
    }
}
