//! `portcullis policy lint`.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::{
    Failure, Policy, Verdict,
    output::{Output, count},
};
use crate::{
    audit::visible,
    policy::{Fault, FaultKind, Paint, Tone, faults},
};

/// A directory of policies.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct Arguments {
    #[command(flatten)]
    policy: Policy,

    /// Findings that do not keep the policy from serving count, too.
    #[arg(long)]
    deny_warnings: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    findings: Vec<Line<'a>>,
    errors: usize,
    warnings: usize,
}

#[derive(Serialize)]
struct Line<'a> {
    severity: &'static str,
    #[serde(flatten)]
    fault: &'a Fault,
}

pub(super) fn run(Arguments { policy, deny_warnings }: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let faults = faults(&policy.set()?, &policy.decision_path);
    let (warnings, errors): (Vec<_>, Vec<_>) = faults
        .into_iter()
        .filter(|fault| !(fault.kind == FaultKind::Fickle && policy.clock_and_chance))
        .partition(|fault| (fault.kind == FaultKind::Parity && policy.relax_parity) || fault.is_undefined_canary());
    let found = report(&errors, &warnings, output)?;
    Ok(if found == Verdict::Found || (*deny_warnings && !warnings.is_empty()) { Verdict::Found } else { Verdict::Fine })
}

/// Writes what was found.
pub(super) fn report(errors: &[Fault], warnings: &[Fault], output: &mut Output) -> Result<Verdict, Failure> {
    if output.is_text() {
        let text = text(errors, warnings, output.paint());
        output.text(&text)?;
    } else {
        let line = |severity| move |fault| Line { severity, fault };
        let findings = errors.iter().map(line("error")).chain(warnings.iter().map(line("warning"))).collect();
        output.json(&Report { findings, errors: errors.len(), warnings: warnings.len() })?;
    }
    Ok(if errors.is_empty() { Verdict::Fine } else { Verdict::Found })
}

fn text(errors: &[Fault], warnings: &[Fault], paint: Paint) -> String {
    let mut out = String::new();
    for (tone, severity, faults) in [(Tone::Bad, "error", errors), (Tone::Warn, "warning", warnings)] {
        for fault in faults {
            let label = paint(tone, &format!("{severity}[{}]", fault.kind.as_str()));
            let numbers = [fault.line, fault.column].into_iter().flatten().map(|number| format!(":{number}"));
            let place = paint(Tone::Strong, &format!("{}{}", visible(&fault.file), numbers.collect::<String>()));
            let _ = writeln!(out, "{place}: {label}\n{}\n", wrapped(&visible(&fault.message)));
        }
    }
    let summary = match (errors.len(), warnings.len()) {
        (0, 0) => paint(Tone::Good, "nothing was found"),
        (0, warnings) => paint(Tone::Warn, &count(warnings, "warning")),
        (errors, 0) => paint(Tone::Bad, &count(errors, "error")),
        (errors, warnings) => format!("{}, {}", paint(Tone::Bad, &count(errors, "error")), count(warnings, "warning")),
    };
    let _ = writeln!(out, "{summary}");
    out
}

/// Lines of a readable length, indented.
fn wrapped(text: &str) -> String {
    let (mut out, mut length) = (String::new(), WIDTH);
    for word in text.split_whitespace() {
        let width = word.chars().count() + 1;
        if length + width > WIDTH {
            out.push_str(if out.is_empty() { "  " } else { "\n  " });
            length = 0;
        } else {
            out.push(' ');
        }
        out.push_str(word);
        length += width;
    }
    out
}

const WIDTH: usize = 96;

const AFTER: &str = "Findings:
  unreadable     no Rego, no JSON, or data that contradict each other
  unsound        would fail for every request, or end the process
  decision-path  no rule is there
  parity         decides otherwise than Open Policy Agent would; a warning with --relax-parity
  fickle         depends on the clock or on chance; none with --clock-and-chance
  canary         gives no decision about an anonymous caller
  undefined      (a warning) is undefined for an anonymous caller

Exit code 1 when there are errors, or warnings with --deny-warnings.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicySet, plain};

    #[test]
    fn every_finding_is_told_with_its_place_and_not_only_the_first() {
        let broken = PolicySet::new()
            .add_source("a.rego", "package a\n\nx := [")
            .add_source("b.rego", "package b\n\nx := := 1")
            .add_source("c.rego", "package c\n\nx := 1");
        let found = faults(&broken, "data.c.x");
        assert_eq!(found.iter().map(|fault| &*fault.file).collect::<Vec<_>>(), ["a.rego", "b.rego"], "{found:?}");
        assert!(found.iter().all(|fault| fault.kind == FaultKind::Unreadable && fault.line.is_some()));

        let text = "package authz\n\ndecision if not startswith(input.a, \"b\")\n\nloop if loop\n\nlater := time.now_ns()\n\nmissing := no.such(1)\n";
        let found = faults(&PolicySet::new().add_source("authz.rego", text), "data.authz.desicion");
        let found: Vec<_> = found.iter().map(|fault| (fault.kind.as_str(), fault.line)).collect();
        assert_eq!(
            found,
            [
                ("parity", Some(3)),
                ("unsound", Some(5)),
                ("fickle", Some(7)),
                ("unsound", Some(9)),
                ("decision-path", None)
            ]
        );
    }

    #[test]
    fn a_policy_that_is_sound_is_tried_out() {
        let of = |text: &str| {
            let found = faults(
                &PolicySet::new().add_source("authz.rego", format!("package authz\n{text}")),
                "data.authz.decision",
            );
            found.iter().map(|fault| (fault.kind.as_str(), fault.is_undefined_canary())).collect::<Vec<_>>()
        };
        assert_eq!(of("default decision := false"), []);
        assert_eq!(of("decision if input.subject.id == \"ada\""), [("undefined", true)]);
        assert_eq!(of("decision := \"yes\""), [("canary", false)]);
    }

    #[test]
    fn the_text_names_place_kind_and_remedy() {
        let fault = Fault {
            kind: FaultKind::Parity,
            file: "authz.rego".to_owned(),
            line: Some(3),
            column: Some(7),
            message: "here is what to do about it ".repeat(6),
        };
        let text = text(std::slice::from_ref(&fault), &[], plain);
        assert!(text.starts_with("authz.rego:3:7: error[parity]\n  here is what"), "{text}");
        assert!(text.ends_with("\n\n1 error\n") && text.lines().all(|line| line.len() < 100), "{text}");
    }
}
