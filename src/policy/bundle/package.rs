//! Where a module puts its rules, as the engine itself reads it: a second opinion could be told another package.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;

use super::error::{Fault, shown};
use crate::policy::rego::form::{self, Odd};

/// The package of a module, without `data`.
pub(super) fn package_of(path: &str, text: &str) -> Result<Vec<String>, Fault> {
    form::check(text).map_err(|Odd { line, remedy }| Fault::new(remedy).at_line(line))?;
    // The parser is somebody else's, and the engine is thrown away.
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let mut engine = regorus::Engine::new();
        engine.add_policy(path.to_owned(), text.to_owned())?;
        engine.get_ast_as_json()
    }));
    let syntax = match parsed {
        Ok(Ok(syntax)) => syntax,
        Ok(Err(error)) => return Err(broken(&error.to_string())),
        Err(_) => return Err(Fault::new("the parser gave up: find out which rule it is by leaving some out")),
    };
    let parsed = serde_json::from_str::<[Policy; 1]>(&syntax).ok();
    parsed
        .and_then(|[policy]| policy.ast.package.refr.path())
        .ok_or_else(|| Fault::new("the package is not a path of names: write `package a.b` or `package a[\"b\"]`"))
}

/// The engine's message: `--> file:line:column`, the line in question, `error: cause`.
fn broken(message: &str) -> Fault {
    let place = message.lines().find_map(|line| line.trim().strip_prefix("--> "));
    let line = place.and_then(|place| place.rsplit(':').nth(1)).and_then(|line| line.parse().ok());
    let cause = message.rsplit("error: ").next().unwrap_or(message).trim();
    let fault = Fault::new(format!("the module does not parse: {}", shown(&cause.replace('\n', " "))));
    match line {
        Some(line) => fault.at_line(line),
        None => fault,
    }
}

#[derive(Deserialize)]
struct Policy {
    ast: Module,
}

#[derive(Deserialize)]
struct Module {
    package: Package,
}

#[derive(Deserialize)]
struct Package {
    refr: Expr,
}

/// What a package's path is made of.
#[derive(Deserialize)]
enum Expr {
    Var { value: String },
    String { value: String },
    RawString { value: String },
    RefDot { refr: Box<Expr>, field: (serde::de::IgnoredAny, String) },
    RefBrack { refr: Box<Expr>, index: Box<Expr> },
}

impl Expr {
    fn path(self) -> Option<Vec<String>> {
        let (mut path, mut here) = (Vec::new(), self);
        loop {
            let (step, above) = match here {
                Self::Var { value } => {
                    path.push(value);
                    path.reverse();
                    return Some(path);
                }
                Self::RefDot { refr, field: (_, name) } => (name, refr),
                Self::RefBrack { refr, index } => match *index {
                    Self::String { value } | Self::RawString { value } => (value, refr),
                    _ => return None,
                },
                Self::String { .. } | Self::RawString { .. } => return None,
            };
            path.push(step);
            here = *above;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_a_path_of_whole_names() {
        for (text, path) in [
            ("package a", &["a"][..]),
            ("# package x\n\npackage a.b.c\n\nallow := true", &["a", "b", "c"]),
            ("package a[\"b.c\"].d", &["a", "b.c", "d"]),
            ("package a[\"b/c\"]", &["a", "b/c"]),
            ("package system.log", &["system", "log"]),
        ] {
            assert_eq!(package_of("x.rego", text).unwrap(), path, "{text}");
        }
    }

    #[test]
    fn what_does_not_parse_is_refused_with_its_line() {
        let error = package_of("x.rego", "package a\n\nallow if {\n  1 ==\n}\n").unwrap_err();
        assert!(format!("{error:?}").contains("line: Some("), "{error:?}");
        for odd in [
            "",
            "allow := true",
            "package",
            "package 1",
            "package a[1]",
            "package a[b]",
            "package \"a\"",
            "package a\u{0}",
        ] {
            assert!(package_of("x.rego", odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn what_would_keep_the_parser_busy_or_end_the_process_does_not_reach_it() {
        for (open, close) in
            [("[", "]"), ("{", "}"), ("{\"a\":", "}"), ("(", ")"), ("f(", ")"), ("y[", "]"), ("-", ""), ("- \n", "")]
        {
            for depth in [17, 40, 100_000] {
                let text = format!("package a\n\nx := {}1{}\n", open.repeat(depth), close.repeat(depth));
                let error = package_of("x.rego", &text).unwrap_err();
                assert!(format!("{error:?}").contains("16 levels"), "{open}: {error:?}");
            }
        }
        let brackets = "[".repeat(40);
        for (name, rule) in [
            ("in a string", format!("x := \"{brackets}\\\"{brackets}\"")),
            ("in a raw string", format!("x := `{brackets}\n\\`")),
            ("in a comment", format!("# {brackets}\nx := 1")),
            ("side by side", format!("x := [{}1]", "[1], ".repeat(100))),
            ("signs apart", format!("x := 1{}", " - 1".repeat(40))),
        ] {
            assert_eq!(package_of("x.rego", &format!("package a\n\n{rule}\n")).unwrap(), ["a"], "{name}");
        }
        let deep = format!("package a\n\nx := {}1{}\n", "[".repeat(8), "]".repeat(8));
        assert!(package_of("x.rego", &deep).is_ok());
        let hidden = format!("package a\n\nx := \"\\\\\" # `\ny := {}\n", "[".repeat(17));
        assert!(format!("{:?}", package_of("x.rego", &hidden)).contains("line: Some(4)"));
    }
}
