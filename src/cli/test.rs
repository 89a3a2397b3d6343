//! `portcullis policy test`.

use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use regex::Regex;
use serde::Serialize;

use super::{
    Failure, Verdict, lint,
    output::{Output, count},
};
use crate::{
    audit::visible,
    policy::{Case, FailedCondition, Outcome, Paint, PolicySet, Suite, Tone, Verdict as TestVerdict},
};

/// The tests in a directory of policies.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct Arguments {
    /// The directory: every `.rego` file in it, tests included, and every `data.json` under the names of its directories.
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Only tests whose name, with the package before it (`data.authz_test.test_reads`), matches this regular expression.
    #[arg(long, short, value_name = "REGEX")]
    run: Option<Regex>,

    /// Names the tests that pass, too.
    #[arg(long, short)]
    verbose: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    tests: Vec<Line<'a>>,
    passed: usize,
    failed: usize,
    errors: usize,
    skipped: usize,
    /// Nanoseconds.
    duration: u128,
}

#[derive(Serialize)]
struct Line<'a> {
    package: &'a str,
    name: &'a str,
    file: &'a str,
    line: u32,
    result: &'static str,
    detail: Option<String>,
    condition: Option<FailedCondition>,
    /// Nanoseconds.
    duration: u128,
}

pub(super) fn run(Arguments { directory, run, verbose }: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let set = PolicySet::new().add_dir_with_tests(directory)?;
    let suite = match Suite::load(&set) {
        Ok(suite) => suite,
        Err(faults) => return lint::report(&faults, &[], output).map(|_| Verdict::Found),
    };
    let wanted = |case: &&Case| run.as_ref().is_none_or(|run| run.is_match(&format!("{}.{}", case.package, case.name)));
    let cases: Vec<_> = suite.cases().iter().filter(wanted).collect();
    let started = Instant::now();
    let mut done = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        output.progress(&format!("test {} of {}: {}", number + 1, cases.len(), case.name));
        done.push((*case, suite.run(case)));
    }
    output.clear_progress();
    let report = Report::of(&done, started.elapsed());
    if output.is_text() {
        let text = text(&done, &report, *verbose, output.paint());
        output.text(&text)?;
    } else {
        output.json(&report)?;
    }
    // Tests that are not there hold nothing.
    if cases.is_empty() {
        return Err(Failure::Work("no test was found: write rules called `test_…`".to_owned()));
    }
    Ok(if report.failed + report.errors == 0 { Verdict::Fine } else { Verdict::Found })
}

impl<'a> Report<'a> {
    fn of(done: &[(&'a Case, Outcome)], took: Duration) -> Self {
        let of = |verdict| done.iter().filter(|(_, outcome)| outcome.verdict == verdict).count();
        let line = |(case, outcome): &(&'a Case, Outcome)| Line {
            package: &case.package,
            name: &case.name,
            file: &case.file,
            line: case.line,
            result: match outcome.verdict {
                TestVerdict::Pass => "pass",
                TestVerdict::Fail => "fail",
                TestVerdict::Error => "error",
                TestVerdict::Skip => "skip",
            },
            detail: outcome.detail.clone(),
            condition: outcome.failed.clone(),
            duration: outcome.took.as_nanos(),
        };
        Self {
            tests: done.iter().map(line).collect(),
            passed: of(TestVerdict::Pass),
            failed: of(TestVerdict::Fail),
            errors: of(TestVerdict::Error),
            skipped: of(TestVerdict::Skip),
            duration: took.as_nanos(),
        }
    }
}

fn text(done: &[(&Case, Outcome)], report: &Report<'_>, verbose: bool, paint: Paint) -> String {
    let mut out = String::new();
    let shown: Vec<_> = done.iter().filter(|(_, outcome)| verbose || outcome.verdict != TestVerdict::Pass).collect();
    let name = |case: &Case| visible(&format!("{}.{}", case.package.trim_start_matches("data."), case.name));
    let width = shown.iter().map(|(case, _)| name(case).chars().count()).max().unwrap_or_default();
    let mut file = "";
    for (case, outcome) in shown {
        if case.file != file {
            file = &case.file;
            let _ = writeln!(out, "{}", paint(Tone::Title, &visible(file)));
        }
        let verdict = match outcome.verdict {
            TestVerdict::Pass => paint(Tone::Good, "PASS "),
            TestVerdict::Fail => paint(Tone::Bad, "FAIL "),
            TestVerdict::Error => paint(Tone::Bad, "ERROR"),
            TestVerdict::Skip => paint(Tone::Warn, "SKIP "),
        };
        let took = match outcome.verdict {
            TestVerdict::Skip => String::new(),
            _ => paint(Tone::Quiet, &format!("{:>9}", duration(outcome.took))),
        };
        let place = paint(Tone::Quiet, &format!("line {:<4}", case.line));
        let _ = writeln!(out, "  {verdict}  {place}  {:<width$}  {took}", name(case));
        if let Some(detail) = &outcome.detail {
            let _ = writeln!(out, "                    {}", visible(detail));
        }
        if let Some(failed) = &outcome.failed {
            let how = if failed.error { "cannot be evaluated" } else { "does not hold" };
            let how = paint(Tone::Bad, &format!("{how}:"));
            let _ = writeln!(out, "         line {:<4}  {how} {}", failed.line, visible(&failed.text));
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    let tone = if report.failed + report.errors == 0 && report.passed > 0 { Tone::Good } else { Tone::Bad };
    let mut summary = vec![paint(tone, &format!("{} of {} passed", report.passed, count(done.len(), "test")))];
    for (number, what) in [(report.failed, "failed"), (report.errors, "in error"), (report.skipped, "skipped")] {
        if number > 0 {
            summary.push(format!("{number} {what}"));
        }
    }
    let _ = writeln!(
        out,
        "{}  {}",
        summary.join(", "),
        paint(Tone::Quiet, &duration(Duration::from_nanos(u64::try_from(report.duration).unwrap_or(u64::MAX))))
    );
    out
}

/// With three digits.
pub(super) fn duration(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    let (value, unit) = if micros < 1e3 {
        (micros, "µs")
    } else if micros < 1e6 {
        (micros / 1e3, "ms")
    } else {
        (micros / 1e6, "s")
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

const AFTER: &str = "A rule called `test_…` passes when it is true, `todo_test_…` is skipped, and each member of `test_…[name]` is to be true. \
                     Tests may use `with input as` and `with data.… as`, but not replace functions. Exit code 1 when a test fails, cannot be \
                     evaluated, or there is none.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        for (nanos, expected) in [
            (1_234, "1.23 µs"),
            (45_600, "45.6 µs"),
            (999_400, "999 µs"),
            (12_345_678, "12.3 ms"),
            (2_000_000_000, "2.00 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }
}
