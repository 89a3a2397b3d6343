use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    policy::{Effect, InputFormat, PolicyErrorKind},
    revocation::RevocationList,
    testing::policy_input,
};

fn build(text: &str) -> Result<Rego, ConfigError> {
    patient(text).build()
}

/// With a time limit that a busy machine keeps.
fn patient(text: &str) -> RegoBuilder {
    Rego::builder().with_policies(policy(text)).with_time_limit(Duration::from_secs(1))
}

fn policy(text: &str) -> PolicySet {
    PolicySet::new().add_source("authz.rego", format!("package authz\n{text}"))
}

fn refused(text: &str) -> String {
    build(text).unwrap_err().to_string()
}

fn ask(rego: &Rego, subject: &str) -> Result<Decision, PolicyErrorKind> {
    let mut input = policy_input("GET", "/jobs");
    input.subject.id = subject.to_owned();
    rego.decide_now(&input).unwrap().map_err(|error| error.kind())
}

#[test]
fn true_allows_false_denies_and_undefined_is_told_apart() {
    let rego = build("decision := input.subject.id == \"alice\" if input.subject.id != \"nobody\"").unwrap();
    assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
    let denied = ask(&rego, "bob").unwrap();
    assert_eq!((denied.effect(), denied.is_undefined()), (Effect::Deny, false));
    let undefined = ask(&rego, "nobody").unwrap();
    assert_eq!((undefined.effect(), undefined.is_undefined()), (Effect::Deny, true));
    assert_eq!(undefined.revision(), &rego.revision());
    assert_eq!(rego.decision_path(), "data.authz.decision");
}

#[test]
fn an_object_carries_reasons_obligations_and_advice() {
    let rego = build(
        r#"decision := {"allow": true, "reasons": {"b", "a"}, "obligations": [{"id": "mask", "n": 1}], "advice": [{"id": "cache"}]}"#,
    );
    let decision = ask(&rego.unwrap(), "alice").unwrap();
    assert_eq!(decision.reasons(), ["a", "b"]);
    assert_eq!((&*decision.obligations()[0].id, &decision.obligations()[0].properties["n"]), ("mask", &json!(1)));
    assert_eq!(&*decision.advice()[0].id, "cache");
}

#[test]
fn the_functions_that_are_replaced_give_what_open_policy_agent_gives() {
    for (held, value) in [
        (r#"count("a\u00e9b")"#, "3"),
        (r#"indexof("a\u00e9b", "b")"#, "2"),
        (r#"indexof("abc", "x")"#, "-1"),
        (r#"indexof_n("aaa", "aa")"#, "[0, 1]"),
        (r#"lower("A\u03a3")"#, r#""a\u03c3""#),
        (r#"upper("\u00dfa")"#, r#""\u00dfA""#),
        (r#"net.cidr_contains("10.0.0.0/8", "::ffff:10.1.2.3")"#, "true"),
        (r#"net.cidr_contains("10.0.0.0/8", "11.0.0.1")"#, "false"),
        (r#"net.cidr_is_valid("10.0.0.0/8")"#, "true"),
        (r#"net.cidr_is_valid("010.0.0.0/8")"#, "false"),
        (r#"time.parse_rfc3339_ns("1970-01-01T00:00:01Z")"#, "1000000000"),
        (r#"to_number("7")"#, "7"),
    ] {
        let rego = build(&format!("decision if {held} == {value}")).unwrap_or_else(|error| panic!("{held}: {error}"));
        assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow, "{held}");
    }
}

#[test]
fn what_is_no_decision_is_an_error() {
    for (policy, kind) in [
        ("decision := \"true\" if known", PolicyErrorKind::InvalidResult),
        ("decision := {} if known", PolicyErrorKind::InvalidResult),
        ("decision := to_number(input.subject.id) == 1 if known", PolicyErrorKind::Evaluation),
        ("decision if { known; not n == 1 }\nn := to_number(input.subject.id)", PolicyErrorKind::Evaluation),
        ("decision := x if { known; some x in [true, false] }", PolicyErrorKind::Evaluation),
    ] {
        let policy = format!("{policy}\nknown if input.subject.id != \"\"");
        assert_eq!(ask(&build(&policy).unwrap(), "abc").unwrap_err(), kind, "{policy}");
    }
}

#[test]
fn an_evaluation_error_names_the_place_and_quotes_no_input() {
    let rego = build("decision := to_number(input.subject.id) == 1 if input.subject.id != \"\"").unwrap();
    let mut input = policy_input("GET", "/jobs");
    input.subject.id = "s3cr3t".to_owned();
    let error = rego.decide_now(&input).unwrap().unwrap_err();
    assert!(!format!("{error:?}").contains("s3cr3t"), "{error:?}");
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "the evaluation failed at authz.rego:2:22");
}

#[test]
fn what_an_error_left_behind_takes_no_part_in_the_next_decision() {
    let policy = "default forbidden := false\n\
        forbidden if { walk(input.resource.properties.query, [_, v]); v == \"drop\" }\n\
        forbidden if { walk(input.resource.properties.query, [_, v]); is_string(v); to_number(v) > 100 }\n\
        decision := {\"allow\": true} if forbidden == false";
    // Not about time: on a busy machine one of so many evaluations can take longer than the default limit.
    let builder = Rego::builder().add_source("authz.rego", format!("package authz\n{policy}"));
    let rego = builder.with_time_limit(Duration::from_secs(1)).build().unwrap();
    let ask = |value: &str| {
        let mut input = policy_input("GET", "/jobs");
        input.resource.properties.query.insert("n".to_owned(), vec![value.to_owned()]);
        rego.decide_now(&input).unwrap().map(|decision| decision.effect())
    };
    assert_eq!(ask("7").unwrap(), Effect::Allow);
    // More often than there are engines, so that each of them has met the error.
    for _ in 0..64 {
        assert!(ask("text").is_err());
    }
    for _ in 0..64 {
        assert_eq!(ask("101").unwrap(), Effect::Deny);
    }
}

#[test]
fn an_evaluation_that_takes_too_long_is_no_decision() {
    let slow = "package authz\nbig := numbers.range(1, 400 * count(input.subject.id))\ndecision if count([1 | some a in big; some b in big; a == b]) > 0";
    let rego =
        Rego::builder().add_source("authz.rego", slow).with_time_limit(Duration::from_millis(1)).build().unwrap();
    assert_eq!(ask(&rego, "alice").unwrap_err(), PolicyErrorKind::Timeout);
    // In a function the engine turns the error into a text.
    let slow = "package authz\nf(big) := count([1 | some a in big; some b in big; a == b])\ndecision if f(numbers.range(1, 400 * count(input.subject.id))) > 0";
    let rego =
        Rego::builder().add_source("authz.rego", slow).with_time_limit(Duration::from_millis(1)).build().unwrap();
    assert_eq!(ask(&rego, "alice").unwrap_err(), PolicyErrorKind::Timeout);
}

#[test]
fn a_panic_of_the_engine_costs_one_decision_and_no_more() {
    let text = "package authz\ndecision if { n := trim_prefix(input.subject.id, \"b\"); input.subject.id != \"\"; strings.count(\"abc\", n) >= 0 }";
    let builder = Rego::builder().add_source("authz.rego", text).with_time_limit(Duration::from_secs(1));
    let rego = builder.dangerous_relax_parity().build().unwrap();
    for _ in 0..3 * rego.current.load().engines() {
        assert_eq!(ask(&rego, "b").unwrap_err(), PolicyErrorKind::Panicked);
        assert_eq!(ask(&rego, "a").unwrap().effect(), Effect::Allow);
    }
}

#[test]
fn more_askers_than_engines_all_get_the_answer_for_their_own_input() {
    let rego = build("decision := {\"allow\": true, \"reasons\": [input.subject.id]}").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 * rego.current.load().engines() + 2 {
            let rego = &rego;
            scope.spawn(move || {
                for round in 0..50 {
                    let id = format!("{thread}-{round}");
                    assert_eq!(ask(rego, &id).unwrap().reasons(), [id]);
                }
            });
        }
    });
}

#[test]
fn data_is_merged_and_found_where_its_directory_says() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("authz.rego", "package authz\ndecision := data.teams.north[input.subject.id] == data.wanted");
    write("data.json", r#"{"wanted": 12345678901234567890}"#);
    write("teams/north/data.json", r#"{"alice": 12345678901234567890, "bob": 12345678901234567891}"#);
    let rego = Rego::from_dir(dir.path()).unwrap();
    assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
    assert_eq!(ask(&rego, "bob").unwrap().effect(), Effect::Deny);
    let files = Rego::from_files([dir.path().join("authz.rego")]).unwrap();
    assert!(ask(&files, "alice").unwrap().is_undefined());
    assert_ne!(files.revision(), rego.revision());
}

#[test]
fn the_builder_names_field_value_and_remedy() {
    let allow = || Rego::builder().add_source("authz.rego", "package authz\ndecision := true");
    for (what, builder, expected) in [
        ("nothing", Rego::builder(), "`policy.rego.source` is missing"),
        (
            "unknown rule",
            allow().with_decision_path("data.authz.nope"),
            "`policy.rego.decision_path` is \"data.authz.nope\": name a rule of the policy: `data.authz.decision`",
        ),
        ("a package", allow().with_decision_path("data.authz"), "write it like `data.authz.decision`"),
        ("no path", allow().with_decision_path(""), "write it like"),
        ("slashes", allow().with_decision_path("authz/decision"), "write it like"),
        ("empty step", allow().with_decision_path("data.authz..decision"), "write it like"),
        ("no time", allow().with_time_limit(Duration::ZERO), "`policy.rego.time_limit` is \"0ns\""),
        ("too much time", allow().with_time_limit(Duration::from_secs(2)), "at most 1s"),
        ("data", allow().add_data(&json!([1])), "`policy.rego.data` (data) cannot be used"),
        ("data twice", allow().add_data(&json!({"a": 1})).add_data(&json!({"a": 2})), "contradicts no other data"),
        ("data over rule", allow().add_data(&json!({"authz": {"decision": true}})), "is in the data document too"),
        ("data under package", allow().add_data(&json!({"authz": true})), "is in the data document too"),
        ("parse", allow().add_source("b.rego", "package b\n\nx := {"), "`policy.rego.source` (b.rego:3:"),
        ("file", allow().add_source("b.rego", "no policy"), "b.rego:1:"),
    ] {
        let message = builder.build().unwrap_err().to_string();
        assert!(message.contains(expected), "{what}: {message}");
    }
}

#[test]
fn data_feed_the_revocations_or_there_is_no_engine() {
    let list = RevocationList::builder().with_capacity(2).build().unwrap();
    let build = |data: serde_json::Value| {
        let builder = Rego::builder().add_source("authz.rego", "package authz\ndecision := true").add_data(&data);
        builder.with_revocations(list.feed("policy")).build().map(drop).map_err(|error| format!("{error:?}"))
    };
    let of = |subjects: &[&str]| {
        let entry = |name| json!({"issuer": "i", "subject": name, "not_before": 4_000_000_000_u64});
        json!({"portcullis": {"revocations": {"entries": subjects.iter().map(entry).collect::<Vec<_>>()}}})
    };
    build(of(&["a", "b"])).unwrap();
    assert_eq!(list.len(), 2);
    for (data, expected) in [
        (of(&["a", "b", "canary"]), "Full"),
        (of(&[" "]), "index: 0, field: \"subject\""),
        (json!({"portcullis": {"revocations": ["canary"]}}), "no JSON object"),
        (json!({"portcullis": "canary"}), "policy.rego.revocations"),
    ] {
        let error = build(data).unwrap_err();
        assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        assert_eq!(list.len(), 2, "a wrong document changes nothing");
    }
    build(json!({"portcullis": {"other": 1}})).unwrap();
    assert_eq!(list.len(), 2, "no document, no change");
    build(of(&["c"])).unwrap();
    assert_eq!(list.len(), 1, "a newer document replaces the earlier one");
    build(of(&[])).unwrap();
    assert!(list.is_empty());
}

#[test]
fn a_program_that_cannot_survive_a_panic_is_refused_unless_relaxed_by_name() {
    let builder = || {
        let mut builder = Rego::builder().add_source("a", "package authz\ndecision := true");
        builder.unwinds = false;
        builder
    };
    assert!(builder().build().unwrap_err().to_string().contains("dangerous_allow_panic_abort"));
    assert!(builder().dangerous_allow_panic_abort().build().is_ok());
}

#[test]
fn recursion_is_refused_with_its_way() {
    for (policy, way) in [
        ("decision if f(1)\nf(x) if f(x - 1)", "data.authz.f → data.authz.f"),
        ("decision if f(1)\nf(x) if g(x)\ng(x) if f(x)", "data.authz.f → data.authz.g → data.authz.f"),
        ("decision if other\nother if decision", "data.authz.decision → data.authz.other → data.authz.decision"),
        ("decision if f(1)\nf(x) if r[x]\nr[x] if { x := 1; f(x) }", "→ data.authz.r →"),
        ("decision if data.authz.f(1)\nf(x) if count([y | y := data.authz.f(x)]) > 0", "data.authz.f → data.authz.f"),
        ("decision if count(data) > 0", "data.authz.decision → data.authz.decision"),
        ("decision if data.authz[input.subject.id]", "data.authz.decision → data.authz.decision"),
        ("import data.authz as me\ndecision if me.decision", "data.authz.decision → data.authz.decision"),
        (
            "decision if every x in [1] { g(x) }\ng(x) if not h(x)\nh(x) := g(x)",
            "data.authz.g → data.authz.h → data.authz.g",
        ),
        (
            "decision := x if { true } else := y if { y := decision; x := y }",
            "data.authz.decision → data.authz.decision",
        ),
        ("decision := true if input.x with input.x as decision", "data.authz.decision → data.authz.decision"),
        ("m.a.b := m.a.c\nm.a.c := m.a\ndecision := true", "data.authz.m.a.b → data.authz.m.a.c → data.authz.m.a.b"),
    ] {
        let message = refused(policy);
        assert!(message.contains("break the recursion") && message.contains(way), "{policy}: {message}");
    }
}

#[test]
fn what_looks_like_recursion_but_is_none_is_taken() {
    for policy in [
        "decision := x if { decision := true; x := decision }",
        "decision if f(1)\nf(decision) if decision == 1",
        "decision if every decision in [true] { decision }",
        "decision if a.b\na.b if a.c\na.c := true",
        "decision if input.decision\nx if decision",
    ] {
        assert!(build(policy).is_ok(), "{policy}: {}", refused(policy));
    }
}

#[test]
fn a_function_that_does_not_exist_is_refused_where_it_is_called() {
    for (policy, name) in [
        ("decision if io.jwt.decode(\"x\")", "`io.jwt.decode`"),
        ("decision if nope(1)", "`nope`"),
        ("decision := true\nunused if data.other.f(1)", "`data.other.f`"),
        ("import data.other\ndecision if other.f(1)", "`data.other.f`"),
        ("decision if http.send({\"url\": \"https://x\"})", "`http.send`"),
        ("decision := [f | f := opa.runtime()]", "`opa.runtime`"),
    ] {
        let message = refused(policy);
        assert!(message.contains(name) && message.contains("authz.rego:"), "{policy}: {message}");
    }
}

#[test]
fn negations_that_open_policy_agent_reads_otherwise_are_refused_unless_relaxed_by_name() {
    let rules = include_str!("negations.rego").strip_prefix("package authz\n").unwrap();
    let cases = include_str!("negations.txt").lines().filter(|line| !line.starts_with('#'));
    for (meaning, body) in cases.map(|line| line.split_once(' ').unwrap()) {
        let text = format!("{rules}decision if {}", body.trim());
        if meaning == "agree" {
            assert!(build(&text).is_ok(), "{body}: {}", refused(&text));
            continue;
        }
        assert!(refused(&text).contains("here `not` is true"), "{body}");
        let relaxed = Rego::builder().add_source("a", format!("package authz\n{text}")).dangerous_relax_parity();
        assert!(relaxed.build().is_ok(), "{body}");
        let imported = format!("import future.keywords.not\n{text}");
        assert!(build(&imported).is_ok(), "{body}: {}", refused(&imported));
    }
}

#[test]
fn uses_of_in_that_open_policy_agent_reads_otherwise_are_refused_unless_relaxed_by_name() {
    let rules = include_str!("negations.rego").strip_prefix("package authz\n").unwrap();
    let cases = include_str!("memberships.txt").lines().filter(|line| !line.starts_with('#'));
    for (meaning, body) in cases.map(|line| line.split_once(' ').unwrap()) {
        let text = format!("{rules}decision if {}", body.trim());
        assert_eq!(build(&text).is_ok(), meaning == "agree", "{body}");
        if meaning == "differ" {
            assert!(refused(&text).contains("here `in` has a value"), "{body}: {}", refused(&text));
        }
        let rego = patient(&text).dangerous_relax_parity().build().unwrap();
        assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow, "{body}");
    }
}

#[test]
fn a_variable_that_only_a_negation_knows_is_refused_as_open_policy_agent_does() {
    for (policy, name) in [
        ("decision if { some x; not startswith(x, \"a\") }", "`x`"),
        ("decision if { some x; not x }", "`x`"),
        ("decision if { some x; count([1 | not x == 1]) == 1 }", "`x`"),
        ("decision if { some x; every y in [1] { not x == y } }", "`x`"),
        ("decision if not input.xs[_] == 1", "`_`"),
        ("decision if not input.xs[i] == 1", "`i`"),
        ("decision if { not input.xs[i] == 1; not input.ys[i] == 1 }", "`i`"),
    ] {
        for text in [policy.to_owned(), format!("import future.keywords.not\n{policy}")] {
            let message = refused(&text);
            assert!(message.contains(&format!("{name} has no value")), "{text}: {message}");
        }
    }
    for policy in [
        "decision if { some x; input.xs[x]; not x == 1 }",
        "decision if { some x in input.xs; not x == 1 }",
        "decision if { some k, _ in input.xs; not k == 1 }",
        "decision if { x = 1; not x == 2 }",
        "decision if { [x, _] = input.xs; not x == 2 }",
        "decision if { input.xs[i] == 1; not input.ys[i] == 1 }",
        "decision if every i, x in input.xs { not x == i }",
        "f(x, [y]) if { not x == y }\ndecision if f(1, [2])",
        "decision if { x := 1; count([y | some y in [1]; not y == x]) == 0 }",
        "decision if not count([y | some y in input.xs]) == 1",
    ] {
        assert!(build(policy).is_ok(), "{policy}: {}", refused(policy));
    }
}

#[test]
fn other_known_differences_are_refused_too() {
    for (policy, expected) in [
        ("decision if strings.count(\"a\", \"a\") == 1", "`strings.count`"),
        ("decision if urlquery.decode(input.subject.id) == \"%zz\"", "`urlquery.decode`"),
        ("decision if { v := input.subject.id; not semver.is_valid(v) }", "`semver.is_valid`"),
        ("decision if time.parse_ns(\"2006-01-02\", input.subject.id) > 0", "`time.parse_ns`"),
        ("decision if glob.match(\"user:*\", [\":\"], input.subject.id)", "knows these delimiters"),
        ("decision if glob.match(\"a*\", [\"/\", \".\"], input.subject.id)", "knows these delimiters"),
        ("d := [\":\"]\ndecision if glob.match(\"a*\", d, input.subject.id)", "knows these delimiters"),
        ("decision if glob.match(\"[^a]b\", [], input.subject.id)", "`?` and `[`"),
        ("decision if regex.match(`^\\w+$`, input.subject.id)", "write `[0-9A-Za-z_]`"),
        ("decision if regex.match(\"^\\\\w+$\", input.subject.id)", "write `[0-9A-Za-z_]`"),
        ("decision if regex.match(data.pattern, input.subject.id)", "has to be a literal"),
        ("decision if regex.replace(input.subject.id, `\\d`, \"\") == \"\"", "write `[0-9]`"),
        ("decision if sprintf(\"%8s\", [input.subject.id]) == \"a\"", "`sprintf`"),
        ("decision if sprintf(input.subject.id, [1]) == \"a\"", "`sprintf`"),
        ("decision if count(\"a\") == 2 with count as 2", "`with` replaces a function"),
        ("f(_) := 1\ng(_) := 2\ndecision if f(1) == 2 with f as g", "`with` replaces a function"),
        ("decision if x with input.y as input.z\nx := input.y", "the value after `as`"),
        ("decision if known == false\nknown := 1 in data.xs", "here `in` has a value"),
    ] {
        assert!(refused(policy).contains(expected), "{policy}: {}", refused(policy));
    }
    for policy in [
        "decision if glob.match(data.patterns[_], [\"/\"], input.subject.id)",
        "decision if glob.match(\"*.example\", [], input.subject.id)",
        "decision if regex.match(`^[0-9]+$`, input.subject.id)",
        "decision if sprintf(\"%s:%d\", [input.subject.id, 1]) == \"a:1\"",
        "decision if input.x in data.xs",
        "decision if input.k, 1 in data.xs",
        "decision if some x in data.xs",
        "decision if { x := input.x; (x in [1]) == false }",
        "decision := 1 in [1, 2]",
        "decision if count([x | some x in input.xs; x in data.xs]) == 1",
    ] {
        assert!(build(policy).is_ok(), "{policy}: {}", refused(policy));
    }
    assert!(build("decision if x with input.y as 1\nx := input.y").is_ok());
    assert!(build("decision if x with data.y as {\"z\": 1}\nx := data.y.z").is_ok());
}

#[test]
fn a_new_policy_decides_from_the_next_request_on_and_each_decision_names_its_own() {
    let rego = build("decision := false").unwrap();
    let first = rego.revision();
    assert_eq!(ask(&rego, "alice").unwrap().revision(), &first);
    let second = rego.activate(policy("decision := true").with_revision("r2")).unwrap();
    assert_eq!((second.as_str(), rego.revision().as_str()), ("r2", "r2"));
    let decision = ask(&rego, "alice").unwrap();
    assert_eq!((decision.effect(), decision.revision().as_str()), (Effect::Allow, "r2"));
    // Data come with the policy: those of the one before are gone.
    let data = json!({"readers": {"alice": true}});
    rego.activate(policy("decision := data.readers[input.subject.id]").add_data(&data)).unwrap();
    assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
    rego.activate(policy("decision := data.readers[input.subject.id]")).unwrap();
    assert!(ask(&rego, "alice").unwrap().is_undefined());
}

#[test]
fn a_policy_that_is_refused_replaces_nothing_and_the_error_says_where() {
    let rego = build("decision := {\"allow\": false, \"reasons\": [\"good\"]}").unwrap();
    let good = rego.revision();
    for (what, broken, expected) in [
        ("nothing", PolicySet::new(), "at least one module"),
        ("parse", policy("decision := {"), "authz.rego:2:"),
        ("recursion", policy("decision if decision"), "authz.rego:2:1\": break the recursion"),
        ("builtin", policy("decision if io.jwt.decode(\"x\")"), "there is no function `io.jwt.decode`"),
        ("parity", policy("decision if not startswith(input.x, \"a\")"), "authz.rego:2:"),
        ("rule elsewhere", policy("decided := true"), "name a rule of the policy"),
        ("data", policy("decision := true").add_data(&json!([])), "`policy.rego.data`"),
        ("error", policy("decision := to_number(input.subject.id) == 1"), "failed at authz.rego:2:22"),
        ("conflict", policy("decision := x if some x in [true, false]"), "failed at authz.rego:2:"),
        ("no decision", policy("decision := \"true\""), "the policy result is not a decision"),
    ] {
        let error = rego.activate(broken.with_revision("broken")).unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        assert_eq!(rego.revision(), good, "{what}");
        let decision = ask(&rego, "alice").unwrap();
        assert_eq!((decision.reasons(), decision.revision()), (&["good".to_owned()][..], &good), "{what}");
        let health = rego.health();
        assert!(health.is_serving() && health.to_string().contains(expected), "{what}: {health}");
        assert!(health.to_string().contains(good.as_str()), "{what}: {health}");
    }
    rego.activate(policy("decision := true")).unwrap();
    assert_eq!(rego.health(), Health::Ready);
}

#[test]
fn a_decision_is_never_that_of_two_policies() {
    let version = |number: u32| {
        let text = "decision := {\"allow\": true, \"reasons\": [data.left, data.right]}";
        let data = json!({"left": number.to_string(), "right": number.to_string()});
        policy(text).add_data(&data).with_revision(number.to_string())
    };
    for threads in [None, Some(2)] {
        let builder = Rego::builder().with_policies(version(0)).with_time_limit(Duration::from_secs(1));
        let builder = threads.map_or(builder.clone(), |threads| builder.with_threads(threads));
        let rego = Arc::new(builder.build().unwrap());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let rego = &rego;
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                    for _ in 0..300 {
                        let decide = Arc::clone(rego).decide(policy_input("GET", "/jobs"));
                        let decision = runtime.block_on(decide).unwrap();
                        let revision = decision.revision().as_str().to_owned();
                        assert_eq!(decision.reasons(), [revision.clone(), revision]);
                    }
                });
            }
            for number in 1..=20 {
                rego.activate(version(number)).unwrap();
            }
        });
        assert_eq!(rego.revision().as_str(), "20");
    }
}

#[test]
fn a_request_that_holds_the_old_policy_is_not_the_one_to_free_it() {
    let rego = build("decision := true").unwrap();
    let old = rego.current.load_full();
    rego.activate(policy("decision := false")).unwrap();
    // Ours, and that of the thread that frees it, which waits for ours.
    assert_eq!(Arc::strong_count(&old), 2);
}

#[test]
fn revocations_follow_every_policy_that_is_accepted_and_no_other() {
    let list = RevocationList::builder().with_capacity(2).build().unwrap();
    let of = |subjects: &[&str]| {
        let entry = |name| json!({"issuer": "i", "subject": name, "not_before": 4_000_000_000_u64});
        json!({"portcullis": {"revocations": {"entries": subjects.iter().map(entry).collect::<Vec<_>>()}}})
    };
    let rego = patient("decision := true").with_revocations(list.feed("policy")).build().unwrap();
    assert!(list.is_empty());
    rego.activate(policy("decision := true").add_data(&of(&["a", "b"]))).unwrap();
    assert_eq!(list.len(), 2);
    let serving = rego.revision();

    rego.activate(policy("decision := to_number(\"\")").add_data(&of(&[]))).unwrap_err();
    assert_eq!(list.len(), 2, "what is refused takes nothing back");
    let error = rego.activate(policy("decision := false").add_data(&of(&["a", "b", "c"]))).unwrap_err();
    assert_eq!((error.field(), list.len()), ("policy.rego.revocations", 2));
    assert_eq!((rego.revision(), ask(&rego, "alice").unwrap().effect()), (serving, Effect::Allow));

    rego.activate(policy("decision := true").add_data(&of(&["c"]))).unwrap();
    assert_eq!(list.len(), 1);
}

#[test]
fn the_canary_is_every_policys_first_question_and_can_be_another_one() {
    let text = "decision := to_number(input.subject.id) == 7";
    let error = refused(text);
    assert!(error.contains("make it decide about the canary") && error.contains("authz.rego:2:22"), "{error}");
    let mut canary = policy_input("GET", "/jobs");
    canary.subject.id = "7".to_owned();
    let rego = patient(text).with_canary(canary).build().unwrap();
    assert_eq!(ask(&rego, "7").unwrap().effect(), Effect::Allow);
    assert!(rego.activate(policy("decision := input.subject.id + 1")).is_err());
    assert!(build("decision if input.subject.id == \"alice\"").is_ok(), "undefined is a decision");
}

#[test]
fn a_policy_that_makes_the_engine_panic_at_once_is_refused() {
    let text = "decision if strings.count(\"abc\", input.subject.id) >= 0";
    let error = patient(text).dangerous_relax_parity().build().unwrap_err();
    assert!(error.to_string().contains("the policy engine panicked"), "{error}");
}

#[test]
fn a_policy_that_does_not_end_is_refused_when_it_is_loaded() {
    let text = "big := numbers.range(1, 100000)\ndecision if count([1 | some a in big; some b in big; a == b]) > 0";
    let error = refused(text);
    assert!(error.contains("no result within 1s"), "{error}");
}

#[tokio::test]
async fn threads_of_their_own_decide_what_the_callers_thread_would() {
    let text = "decision := {\"allow\": true, \"reasons\": [input.subject.id]}";
    let rego = Arc::new(patient(text).with_threads(2).build().unwrap());
    assert!(rego.decide_now(&policy_input("GET", "/jobs")).is_none());
    assert_eq!(rego.current.load().engines(), 2);
    let ask = |id: String| {
        let mut input = policy_input("GET", "/jobs");
        input.subject.id = id;
        tokio::spawn(Arc::clone(&rego).decide(input))
    };
    let asked: Vec<_> = (0..64).map(|number| ask(number.to_string())).collect();
    for (number, decided) in asked.into_iter().enumerate() {
        assert_eq!(decided.await.unwrap().unwrap().reasons(), [number.to_string()]);
    }
    rego.activate(policy("decision := false")).unwrap();
    assert_eq!(ask("alice".to_owned()).await.unwrap().unwrap().effect(), Effect::Deny);
}

#[tokio::test]
async fn a_caller_is_answered_in_time_although_one_step_of_the_evaluation_takes_longer() {
    // One call of a built-in function, which nothing can interrupt.
    let text = "decision if count(numbers.range(1, 50000 * count(input.subject.id))) > 0";
    let rego = Arc::new(patient(text).with_threads(1).with_time_limit(Duration::from_millis(1)).build().unwrap());
    let mut input = policy_input("GET", "/jobs");
    input.subject.id = "alice".to_owned();
    assert_eq!(Arc::clone(&rego).decide(input).await.unwrap_err().kind(), PolicyErrorKind::Timeout);
}

#[test]
fn the_time_limit_covers_the_waiting_for_a_thread() {
    let rego = build("decision := true").unwrap();
    let limit = Duration::from_millis(10);
    let asked = Instant::now().checked_sub(limit).unwrap();
    let late = rego.current.load().decide(&policy_input("GET", "/jobs"), asked, limit);
    assert_eq!(late.unwrap_err().kind(), PolicyErrorKind::Timeout);
}

#[test]
fn a_number_of_threads_outside_its_bounds_is_refused() {
    for threads in [0, 65] {
        let error = patient("decision := true").with_threads(threads).build().unwrap_err();
        assert_eq!(error.to_string(), format!("`policy.rego.threads` is \"{threads}\": choose 1 to 64"));
    }
}

#[test]
fn what_open_policy_agent_does_not_compile_is_refused() {
    for case in include_str!("compile.txt").lines().filter(|line| !line.starts_with('#')) {
        let (verdict, text) = case.split_once(' ').unwrap();
        let text = text.trim().replace("\\n", "\n");
        match patient(&text).with_clock_and_chance().build() {
            Ok(rego) => {
                assert_eq!(verdict, "taken", "{text}");
                assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow, "{text}");
            }
            Err(error) => {
                assert_eq!(verdict, "refused", "{text}: {error}");
                assert!(error.to_string().contains("authz.rego:"), "{text}: {error}");
            }
        }
    }
}

#[test]
fn a_wrong_number_of_arguments_and_a_contradiction_are_named() {
    for (policy, expected) in [
        ("decision if startswith(\"a\")", "`startswith` is given 1 argument: it takes 2"),
        ("decision := f(1, 1)\nf(x) := x", "`data.authz.f` is given 2 arguments: it takes 1"),
        ("decision := true\ns contains 1\ns := {2}", "`data.authz.s` is a value and a set: rename all but one"),
        (
            "decision := true\ndefault f(_, _) := 1\nf(_) := 2",
            "is a function of 1 argument and a function of 2 arguments",
        ),
        ("decision := true\ndefault r := 1\ndefault r := 2", "`data.authz.r` has 2 defaults: leave one"),
        ("decision := true\nf() := 1", "`data.authz.f` takes no argument"),
        ("decision := true\nr := 1\nr.a := 2", "`data.authz.r` is defined whole, and so is `data.authz.r.a`"),
    ] {
        assert!(refused(policy).contains(expected), "{policy}: {}", refused(policy));
    }
    let below = patient("decision := true").add_source("below.rego", "package authz.decision.more");
    let message = below.build().unwrap_err().to_string();
    assert!(message.contains("`data.authz.decision` is defined whole"), "{message}");
}

#[test]
fn what_a_policy_reads_of_the_input_is_known() {
    let cases = [
        ("decision := true", ""),
        ("decision if input.subject.id == \"a\"", "subject.id"),
        ("decision if input[\"subject\"].properties.scopes[_] == \"a\"", "subject.properties.scopes"),
        ("decision if input.subject[input.action.name] == 1", "action.name, subject"),
        ("decision if { x := \"subject\"; input[x] == 1 }", "everything"),
        ("decision if { i := input; i.subject.id == \"a\" }", "everything"),
        ("decision if { s := input.subject; s.id == \"a\" }", "subject"),
        ("decision if { {\"id\": r} := input.subject; r == \"a\" }\nr if input.action.name == \"GET\"", "subject"),
        ("decision if f(input.action)\nf(a) if a.name == \"GET\"", "action"),
        ("decision if f(1)\nf(_) if input.action.name == \"GET\"", "action.name"),
        ("decision if data.roles[input.subject.id][_] == input.resource.id", "resource.id, subject.id"),
        (
            "decision if some role in roles\nroles contains input.subject.properties.roles[_]",
            "subject.properties.roles",
        ),
        ("decision if count({x | some x in input.context.headers}) > 0", "context.headers"),
        ("decision if every k, v in input.resource.properties.params { k == v }", "resource.properties.params"),
        (
            "decision := {\"allow\": allow, \"reasons\": reasons}\ndefault allow := false\nallow if not blocked\n\
          blocked if input.subject.id == \"b\"\nreasons := [r | r := input.action.name]",
            "action.name, subject.id",
        ),
        (
            "decision if ok\nok if input.subject.id == \"a\"\nelse := true if input.action.name == \"GET\"",
            "action.name, subject.id",
        ),
        (
            "decision if { r := input.resource.id; x with input.subject as {\"id\": r} }\nx if input.subject.id",
            "resource.id, subject.id",
        ),
        ("decision if { [p, _] := walk(input.resource); count(p) > 0 }", "resource"),
        ("decision := true\nunreached if input.context.request_id == \"r\"", ""),
        ("decision if input.context.time_ns > 0", "context.time_ns"),
        ("decision if time.now_ns() > 0", "more than the input"),
        ("decision if late\nlate if time.clock(now)[0] > 12\nnow := time.now_ns()", "more than the input"),
        ("decision := true\nunreached if time.now_ns() > 0", ""),
    ];
    for (policy, expected) in cases {
        let rego = patient(policy).with_clock_and_chance().build().unwrap_or_else(|error| panic!("{policy}: {error}"));
        assert_eq!(rego.in_force().unwrap().reads.to_string(), expected, "{policy}");
    }
    let imported =
        "package authz\n\nimport input.subject as s\nimport data.lib\n\ndecision if { s.id == \"a\"; lib.ok }";
    let lib = "package lib\n\nok if input.action.name == \"GET\"";
    let builder = || Rego::builder().add_source("authz.rego", imported).add_source("lib.rego", lib);
    let reads = |builder: RegoBuilder| builder.build().unwrap().in_force().unwrap().reads.to_string();
    assert_eq!(reads(builder()), "action.name, subject.id");
    assert_eq!(reads(builder().with_input_format(InputFormat::Envoy)), "everything");
}

#[test]
fn each_policy_that_comes_to_serve_has_an_epoch_of_its_own() {
    let rego = build("decision := true").unwrap();
    let first = rego.in_force().unwrap();
    let set = PolicySet::new().add_source("authz.rego", "package authz\n\ndecision := true");
    rego.activate(set.with_revision(first.revision.as_str())).unwrap();
    let second = rego.in_force().unwrap();
    assert_eq!(first.revision, second.revision);
    assert!(second.epoch > first.epoch);
}

#[test]
fn a_policy_that_was_written_for_envoy_is_understood() {
    let policy = "decision if { input.attributes.request.http.method == \"GET\"; input.parsed_path[0] == \"jobs\" }";
    let source = format!("package authz\n{policy}");
    let builder = || Rego::builder().add_source("authz.rego", source.clone()).with_time_limit(Duration::from_secs(1));
    assert!(ask(&builder().build().unwrap(), "alice").unwrap().is_undefined());
    let rego = builder().with_input_format(InputFormat::Envoy).build().unwrap();
    assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
}

#[test]
fn the_clock_and_chance_are_to_be_allowed_by_name() {
    for call in ["time.now_ns() > 0", "rand.intn(\"s\", 2) == 0", "uuid.rfc4122(\"k\") != \"\""] {
        // Wherever it stands: what is not reached today may be tomorrow.
        for text in [format!("decision if {call}"), format!("decision := true\nother if {call}")] {
            assert!(refused(&text).contains("`with_clock_and_chance`"), "{text}: {}", refused(&text));
            assert!(patient(&text).dangerous_relax_parity().build().is_err(), "{text}: another matter");
            assert!(patient(&text).with_clock_and_chance().build().is_ok(), "{text}");
        }
    }
    let rego = patient("decision if time.now_ns() > 0").with_clock_and_chance().build().unwrap();
    assert_eq!(ask(&rego, "alice").unwrap().effect(), Effect::Allow);
}

#[cfg(feature = "opa-management")]
#[test]
fn another_rule_is_asked_for_by_its_path_and_what_is_not_one_is_not_taken_for_nothing() {
    let rego = patient("decision := true")
        .add_source(
            "log.rego",
            r#"package system.log
            mask contains "/input/password" if input.input.password
            drop if input.path == "health"
            fails := 1 / input.zero
            named["a"] := 1
            varying[name] := 1 if some name in input.names"#,
        )
        .add_data(&json!({"system": {"more": {"mask": ["/input"]}}}))
        .build()
        .unwrap();
    let ask = |path: &str, input: serde_json::Value| {
        rego.evaluate(path, &input.to_string(), Duration::from_secs(1)).map_err(|error| error.kind())
    };
    for _ in 0..2 {
        assert_eq!(
            ask("data.system.log.mask", json!({"input": {"password": 1}})),
            Ok(Some(json!(["/input/password"])))
        );
        assert_eq!(ask("data.system.log.mask", json!({})), Ok(Some(json!([]))));
        assert_eq!(ask("data.system.log.drop", json!({"path": "health"})), Ok(Some(json!(true))));
        assert_eq!(ask("data.system.log.drop", json!({"path": "jobs"})), Ok(None));
        assert_eq!(ask("data.system.log.absent", json!({})), Ok(None));
        for near in ["fails", "named", "varying", "named.a.b"] {
            let asked = ask(&format!("data.system.log.{near}"), json!({"zero": 0, "names": ["x"]}));
            assert_eq!(asked, Err(PolicyErrorKind::Evaluation), "{near}");
        }
        assert_eq!(ask("data.system.more.mask", json!({})), Err(PolicyErrorKind::Evaluation));
        assert_eq!(ask("data.system.log", json!({})), Err(PolicyErrorKind::Evaluation));
        assert_eq!(super::tests::ask(&rego, "alice").unwrap().effect(), Effect::Allow);
    }
}
