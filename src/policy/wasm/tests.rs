use std::{error::Error as _, thread};

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::{
    policy::{
        Effect, PolicyErrorKind,
        bundle::{CompiledModule, Contents},
    },
    testing::policy_input,
};

const EXAMPLE: &str = include_str!("example.wat");

/// The example with something else in some places.
fn module(changes: &[(&str, &str)]) -> Vec<u8> {
    let text = changes.iter().fold(EXAMPLE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    });
    wat::parse_str(text).unwrap()
}

/// Does something else when it is asked about somebody with a long name.
fn faulty(fault: &str, more: &str) -> Vec<u8> {
    let faulty = format!("(local $end i32) (if (i32.gt_u (local.get $length) (i32.const 3000)) (then {fault}))");
    module(&[
        ("(local $end i32)", &faulty),
        ("(func (export \"builtins\")", &format!("{more} (func (export \"builtins\")")),
    ])
}

fn builder(module: impl Into<Bytes>) -> WasmBuilder {
    // The default is for machines that do nothing else.
    Wasm::builder().with_policy(CompiledPolicy::new(module)).with_time_limit(std::time::Duration::from_millis(200))
}

fn refused(builder: WasmBuilder) -> String {
    let error = builder.build().unwrap_err();
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    format!("{error} {cause}")
}

fn ask(wasm: &Wasm, method: &str) -> Result<Decision, PolicyError> {
    wasm.decide_now(&policy_input(method, "/jobs")).unwrap()
}

fn ask_at_length(wasm: &Wasm) -> Result<Decision, PolicyError> {
    let mut input = policy_input("GET", "/jobs");
    input.subject.id = "x".repeat(4000);
    wasm.decide_now(&input).unwrap()
}

#[test]
fn it_decides_by_the_entry_point() {
    let wasm = builder(module(&[])).build().unwrap();
    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
    let deny = ask(&wasm, "POST").unwrap();
    assert_eq!((deny.effect(), deny.is_undefined(), deny.reasons()), (Effect::Deny, false, &["no GET".to_owned()][..]));
    assert_eq!(deny.revision(), &wasm.revision());
    assert!(wasm.revision().as_str().starts_with("sha256:"));
    let in_force = wasm.in_force().unwrap();
    assert_eq!((&in_force.revision, in_force.reads), (&wasm.revision(), crate::policy::Reads::everything()));
    let debug = format!("{wasm:?} {:?}", builder(module(&[])));
    assert!(debug.contains("data.authz.decision") && debug.contains("policy.wasm"), "{debug}");
}

#[test]
fn a_module_that_is_no_policy_is_refused_with_the_cause() {
    let whole = module(&[]);
    let import = "(import \"env\" \"memory\" (memory 2))";
    let eval = "(func (export \"opa_eval\")";
    for (name, module, words) in [
        ("nothing", Vec::new(), "mend the module"),
        ("no names", wat::parse_str("(module)").unwrap(), "does not name its functions"),
        ("another network", module(&[("$malloc (export", "$opa_cidr_contains (export")]), "`net.cidr_contains`"),
        ("garbage", b"\0asm garbage".to_vec(), "mend the module"),
        ("the text form", EXAMPLE.into(), "mend the module"),
        ("cut off", whole[..whole.len() / 2].to_vec(), "mend the module"),
        ("a byte less", whole[..whole.len() - 1].to_vec(), "mend the module"),
        ("a component", wat::parse_str("(component)").unwrap(), "mend the module"),
        ("an empty module", wat::parse_str("(module (func $f))").unwrap(), "imports no memory"),
        ("abi 2", module(&[("abi_version\") i32 (i32.const 1)", "abi_version\") i32 (i32.const 2)")]), "version 2.2"),
        (
            "abi 1.1",
            module(&[("minor_version\") i32 (i32.const 2)", "minor_version\") i32 (i32.const 1)")]),
            "version 1.1",
        ),
        ("no abi", module(&[("opa_wasm_abi_version", "other")]), "does not say"),
        (
            "abi as a float",
            module(&[("abi_version\") i32 (i32.const 1)", "abi_version\") f32 (f32.const 1)")]),
            "does not say",
        ),
        ("no eval", module(&[("\"opa_eval\"", "\"other\"")]), "no function `opa_eval`"),
        ("no malloc", module(&[("\"opa_malloc\"", "\"other\"")]), "no function `opa_malloc`"),
        (
            "eval of another form",
            module(&[(eval, "(func (export \"opa_eval\") (param i64)")]),
            "no function `opa_eval`",
        ),
        (
            "a system interface",
            module(&[(
                import,
                &format!("{import} (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32)))"),
            )]),
            "`wasi_snapshot_preview1.fd_write`",
        ),
        (
            "an import of another kind",
            module(&[(import, &format!("{import} (import \"env\" \"opa_println\" (global i32))"))]),
            "`env.opa_println`",
        ),
        (
            "an import of another form",
            module(&[("(func $abort (param i32))", "(func $abort (param i64))")]),
            "mend the module",
        ),
        ("a second memory", module(&[("(global $heap", "(memory 1) (global $heap")]), "mend the module"),
        ("a wide memory", module(&[("(memory 2)", "(memory i64 2)")]), "mend the module"),
        ("too much memory", module(&[("(memory 2)", "(memory 3000)")]), "with_memory_limit"),
        (
            "vectors",
            module(&[(eval, "(func (drop (v128.const i64x2 0 0))) (func (export \"opa_eval\")")]),
            "mend the module",
        ),
        (
            "unknown functions",
            module(&[("\"{}\\00\"", "\"{\\\"http.send\\\":0,\\\"time.now_ns\\\":1}\\00\"")]),
            "do without `http.send`, `time.now_ns`",
        ),
        ("a table that is none", module(&[("\"{}\\00\"", "\"[]\\00\"")]), "`builtins` gives is no table"),
        ("a table outside", module(&[("(i32.const 256))\n", "(i32.const -1))\n")]), "outside of its memory"),
        ("no entry point", module(&[("authz/decision\\\"", "authz/allow\\\"")]), "`data.authz.allow`"),
        ("no entry points", module(&[("{\\\"authz/decision\\\":0}", "{}")]), "it has none"),
        (
            "data that it cannot read",
            module(&[(
                "\"opa_json_parse\") (param i32 i32) (result i32) (local.get 0)",
                "\"opa_json_parse\") (param i32 i32) (result i32) (i32.const 0)",
            )]),
            "cannot read the data",
        ),
        (
            "trap at the start",
            module(&[(eval, "(func $start (unreachable)) (start $start) (func (export \"opa_eval\")")]),
            "trapped",
        ),
        (
            "gives up at the start",
            module(&[(eval, "(func $start (call $abort (i32.const 64))) (start $start) (func (export \"opa_eval\")")]),
            "gave up",
        ),
        ("no answer to the canary", module(&[("{{\\\"result\\\":true}}", "{{\\\"result\\\":null}}")]), "canary"),
    ] {
        let error = refused(builder(module));
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn a_module_that_does_not_end_while_it_is_loaded_is_refused() {
    let ever = "(loop $ever (br $ever))";
    for (name, module) in [
        (
            "start",
            module(&[(
                "(func (export \"opa_eval\")",
                &format!("(func $start {ever}) (start $start) (func (export \"opa_eval\")"),
            )]),
        ),
        (
            "table",
            module(&[(
                "(func (export \"entrypoints\") (result i32)",
                &format!("(func (export \"entrypoints\") (result i32) {ever}"),
            )]),
        ),
        (
            "data",
            module(&[(
                "\"opa_json_parse\") (param i32 i32) (result i32)",
                &format!("\"opa_json_parse\") (param i32 i32) (result i32) {ever}"),
            )]),
        ),
    ] {
        let mut builder = builder(module);
        builder.patience = std::time::Duration::from_millis(50);
        let error = refused(builder);
        assert!(error.contains("did not end in time"), "{name}: {error}");
    }
}

#[test]
fn whatever_an_evaluation_does_is_no_decision_and_the_next_one_is_decided() {
    let deep = "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))";
    let long = "(local.set $end (i32.const 65536)) (loop $fill (i32.store8 (local.get $end) (i32.const 32)) \
                (local.set $end (i32.add (local.get $end) (i32.const 1))) (br_if $fill (i32.lt_u (local.get $end) (i32.const 131072)))) \
                (drop (memory.grow (i32.const 1))) (return (i32.const 65530))";
    let open = "(i32.store8 (i32.const 131071) (i32.const 32)) (return (i32.const 131071))";
    let bomb = "(loop $ever (drop (call $malloc (i32.const 1000000))) (br $ever))";
    for (name, fault, more, kind) in [
        ("endless", "(loop $ever (br $ever))", "", PolicyErrorKind::Timeout),
        ("trap", "(unreachable)", "", PolicyErrorKind::Evaluation),
        ("outside", "(drop (i32.load (i32.const -4)))", "", PolicyErrorKind::Evaluation),
        ("memory bomb", bomb, "", PolicyErrorKind::Evaluation),
        ("stack overflow", "(drop (call $deep (i32.const 0)))", deep, PolicyErrorKind::Evaluation),
        ("gives up", "(call $abort (i32.const 64))", "", PolicyErrorKind::Evaluation),
        ("gives up nowhere", "(call $abort (i32.const -1))", "", PolicyErrorKind::Evaluation),
        (
            "undeclared function",
            "(drop (call $builtin1 (i32.const 0) (i32.const 0) (i32.const 64)))",
            "",
            PolicyErrorKind::Evaluation,
        ),
        ("result outside", "(return (i32.const -1))", "", PolicyErrorKind::InvalidResult),
        ("result without end", open, "", PolicyErrorKind::InvalidResult),
        ("huge result", long, "", PolicyErrorKind::InvalidResult),
    ] {
        let wasm = builder(faulty(fault, more)).with_instances(1).with_memory_limit(4 << 20).build().unwrap();
        for _ in 0..2 {
            let error = ask_at_length(&wasm).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {:?}", error.source());
            assert!(!format!("{:?}", error.source()).contains("xxx"), "{name}");
            assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow, "{name}");
        }
    }
}

#[test]
fn a_result_that_is_none_is_no_decision() {
    let result = |text: &str| {
        let more = format!("(data (i32.const 1024) \"{}\\00\")", text.replace('"', "\\\""));
        let wasm = builder(faulty("(return (i32.const 1024))", &more)).with_instances(1).build().unwrap();
        ask_at_length(&wasm)
    };
    for text in [
        "",
        "true",
        "{true}",
        "{null}",
        "{}",
        "[]",
        r#"{"result":true}"#,
        r#"[{"result":true}]"#,
        r#"{{"result":true}"#,
        r#"{{"result":true}}}"#,
        r#"{{"result":true},{"result":true}}"#,
        r#"{{"result":true,"more":1}}"#,
        r#"{{"result":false,"result":true}}"#,
        r#"{{"result":{"allow":false,"allow":true}}}"#,
        r#"{{"result":{"allow":false,"allow":true,"reasons":{"a"}}}}"#,
        r#"{{"result":{"allow":false,"decision":true}}}"#,
        r#"{{"other":true}}"#,
        r#"{{"result":null}}"#,
        r#"{{"result":"true"}}"#,
        r#"{{"result":1}}"#,
        r#"{{"result":[true]}}"#,
        r#"{{"result":{true}}}"#,
        r#"{{"result":set()}}"#,
        "{{\"result\":{\"allow\":true,\"reasons\":[\"\\ff\"]}}}",
    ] {
        assert_eq!(result(text).unwrap_err().kind(), PolicyErrorKind::InvalidResult, "{text}");
    }
    let undefined = result("set()").unwrap();
    assert!(undefined.is_undefined() && undefined.effect() == Effect::Deny);
    assert_eq!(result(r#"{{"result":{"allow":true}}}"#).unwrap().effect(), Effect::Allow);
    let sorted = result(r#"{{"result":{"allow":true,"reasons":{"b","a"}}}}"#).unwrap();
    assert_eq!(sorted.reasons(), ["a", "b"]);
}

#[test]
fn an_evaluation_leaves_nothing_behind_and_one_that_grew_goes() {
    // A megabyte each time: without the reset the second one would not fit.
    let wasm =
        builder(faulty("(drop (call $malloc (i32.const 1000000)))", "")).with_instances(1).with_memory_limit(2 << 20);
    let wasm = wasm.build().unwrap();
    for _ in 0..20 {
        assert_eq!(ask_at_length(&wasm).unwrap().effect(), Effect::Allow);
    }
    // What is asked after the one that grew finds an instance that is small again.
    let grow = "(drop (memory.grow (i32.const 100))) (return (i32.const 512))";
    let large = "(func $large (result i32) (i32.gt_u (memory.size) (i32.const 90)))";
    let small = module(&[
        (
            "(local $end i32)",
            &format!(
                "(local $end i32) (if (call $large) (then (return (i32.const 640)))) (if (i32.gt_u (local.get $length) (i32.const 3000)) (then {grow}))"
            ),
        ),
        ("(func (export \"builtins\")", &format!("{large} (func (export \"builtins\")")),
    ]);
    let wasm = builder(small).with_instances(1).build().unwrap();
    for _ in 0..3 {
        assert_eq!(ask_at_length(&wasm).unwrap().effect(), Effect::Allow);
        assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
    }
}

#[test]
fn who_finds_no_free_instance_in_time_is_turned_away() {
    let ever = faulty("(loop $ever (br $ever))", "");
    let wasm = builder(ever).with_instances(1).with_time_limit(std::time::Duration::from_millis(100)).build().unwrap();
    let kinds = thread::scope(|scope| {
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(|| ask_at_length(&wasm).unwrap_err().kind())).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(kinds.contains(&PolicyErrorKind::Timeout) && kinds.contains(&PolicyErrorKind::Overloaded), "{kinds:?}");
    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
}

#[test]
fn many_threads_share_the_instances() {
    let wasm =
        builder(module(&[])).with_instances(2).with_time_limit(std::time::Duration::from_secs(1)).build().unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
                    assert_eq!(ask(&wasm, "POST").unwrap().effect(), Effect::Deny);
                }
            });
        }
    });
    assert_eq!(wasm.current.load().idle(), 2);
}

#[test]
fn a_policy_replaces_another_and_one_that_is_refused_does_not() {
    let wasm = builder(module(&[])).build().unwrap();
    let first = wasm.in_force().unwrap();
    let denies = || CompiledPolicy::new(module(&[("{{\\\"result\\\":true}}", "{{\\\"result\\\":false}}")]));
    assert_eq!(wasm.activate(denies().with_revision("2")).unwrap().as_str(), "2");
    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Deny);
    assert_ne!(wasm.in_force().unwrap().epoch, first.epoch);

    assert!(wasm.activate(CompiledPolicy::new(&b"\0asm"[..])).is_err());
    let health = wasm.health();
    assert!(matches!(health, Health::Degraded(_)) && health.to_string().contains("replace 2"), "{health}");
    assert_eq!(ask(&wasm, "GET").unwrap().revision().as_str(), "2");

    let same = wasm.in_force().unwrap();
    wasm.activate(denies().with_revision("2")).unwrap();
    assert_ne!(wasm.in_force().unwrap().epoch, same.epoch, "one name, another policy");
    assert_eq!(wasm.health(), Health::Ready);
}

#[test]
fn the_module_that_the_bundle_names_for_the_path_is_taken() {
    let named = |entry_point: &str, module: Vec<u8>| CompiledModule {
        name: format!("bundle/{entry_point}/policy.wasm"),
        entry_points: Some(vec![entry_point.to_owned()]),
        module: module.into(),
    };
    let wasm = vec![named("other/decision", b"never read".to_vec()), named("authz/decision", module(&[]))];
    let contents = Contents { wasm, revision: "7".to_owned(), ..Contents::default() };
    let policy = CompiledPolicy::from(contents);
    assert_eq!(policy.revision().as_str(), "7");
    let wasm = Wasm::new(policy.clone()).unwrap();
    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
    let error = refused(Wasm::builder().with_policy(policy).with_decision_path("data.authz.allow"));
    assert!(error.contains("`data.other.decision` `data.authz.decision`"), "{error}");
    assert!(refused(Wasm::builder()).contains("opa build -t wasm"));
}

#[test]
fn a_module_that_decides_otherwise_is_taken_when_that_is_accepted_by_name() {
    let differing = || builder(module(&[("$malloc (export", "$opa_strings_indexof (export")]));
    assert!(refused(differing()).contains("`indexof`"));
    let wasm = differing().dangerous_relax_parity().build().unwrap();
    assert_eq!(ask(&wasm, "GET").unwrap().effect(), Effect::Allow);
}

#[test]
fn settings_outside_of_their_bounds_are_refused() {
    use std::time::Duration;
    let builder = || builder(module(&[]));
    for (name, builder, field) in [
        ("no time", builder().with_time_limit(Duration::ZERO), "time_limit"),
        ("much time", builder().with_time_limit(Duration::from_millis(1001)), "time_limit"),
        ("no memory", builder().with_memory_limit(0), "memory_limit"),
        ("much memory", builder().with_memory_limit((2 << 30) + 1), "memory_limit"),
        ("no instance", builder().with_instances(0), "instances"),
        ("many instances", builder().with_instances(65), "instances"),
        ("a path without data", builder().with_decision_path("authz.decision"), "decision_path"),
        ("a path of one step", builder().with_decision_path("data.authz"), "data.authz.decision"),
        ("an empty step", builder().with_decision_path("data..decision"), "decision_path"),
    ] {
        let error = refused(builder);
        assert!(error.contains(field), "{name}: {error}");
    }
    let large = json!({"text": "x".repeat(2 << 20)});
    let policy = CompiledPolicy::new(module(&[])).add_data(&large);
    let error = refused(builder().with_policy(policy.clone()).with_memory_limit(1 << 20));
    assert!(error.contains("mend the module"), "{error}");
    assert!(Wasm::builder().with_policy(policy).build().is_ok());
    let twice = CompiledPolicy::new(module(&[])).add_data(&json!({"a": 1})).add_data(&json!({"a": 2}));
    assert!(refused(builder().with_policy(twice)).contains("`data.a`"));
}

#[test]
fn a_revision_depends_on_the_module_and_the_data() {
    let of = |policy: CompiledPolicy| policy.revision().as_str().to_owned();
    let policy = || CompiledPolicy::new(&b"one"[..]);
    assert_eq!(of(policy()), of(policy()));
    assert_ne!(of(policy()), of(CompiledPolicy::new(&b"two"[..])));
    assert_ne!(of(policy()), of(policy().add_data(&json!({"a": 1}))));
    assert_eq!(of(policy().with_revision("7")), "7");
    assert_eq!(of(policy()).len(), "sha256:".len() + 32);
}
