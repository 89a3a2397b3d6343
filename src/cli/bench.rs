//! `portcullis policy bench`.

use std::{
    fmt::Write as _,
    num::NonZeroUsize,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;

use super::{
    Failure, Policy, Verdict,
    explain::read_questions,
    output::{Output, count},
    question::{self, Question},
    test::duration,
};
use crate::policy::{Effect, Paint, Rego, Tone};

/// A policy, and what it is asked.
#[derive(Args, Debug)]
#[command(after_help = AFTER)]
pub(super) struct Arguments {
    #[command(flatten)]
    policy: Policy,

    /// The questions, asked in turn: input documents or events of a decision log, one or several; `-` reads standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = question::ARGUMENTS)]
    input: Option<PathBuf>,

    /// How long to measure, for each number of threads.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds, conflicts_with = "count")]
    seconds: f64,

    /// How many decisions to measure on each thread instead.
    #[arg(long, value_name = "N")]
    count: Option<NonZeroUsize>,

    /// How many threads to measure, beside one; as many as there are cores unless given.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,

    #[command(flatten)]
    question: Question,
}

#[derive(Serialize)]
struct Report {
    revision: String,
    questions: usize,
    allowed: usize,
    undecided: usize,
    optimized: bool,
    load_ns: u64,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Run {
    threads: usize,
    decisions: usize,
    per_second: f64,
    p50_ns: u64,
    p90_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Verdict, Failure> {
    let questions = match &arguments.input {
        Some(file) => read_questions(file)?,
        None => vec![arguments.question.recorded()?],
    };
    if questions.is_empty() {
        return Err(Failure::Usage("there is no question in the input".to_owned()));
    }
    let texts: Vec<String> = questions.iter().map(|question| question.input().to_string()).collect();
    let started = Instant::now();
    let rego = arguments.policy.load()?;
    let load = started.elapsed();
    if cfg!(debug_assertions) {
        output.note("not optimised: build with `--release` before these numbers mean anything");
    }

    let effects: Vec<_> = texts.iter().map(|text| rego.decide_text(text).map(|decision| decision.effect())).collect();
    let until = |started: Instant| match arguments.count {
        Some(count) => Until::Count(count.get()),
        None => Until::Time(started + Duration::from_secs_f64(arguments.seconds)),
    };
    output.progress("warming up");
    measure(&rego, &texts, 1, Until::Time(Instant::now() + WARM_UP), &AtomicUsize::new(0));
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let most = arguments.threads.map_or(cores, NonZeroUsize::get);
    let mut runs = Vec::new();
    for threads in [1, most] {
        if runs.iter().all(|run: &Run| run.threads != threads) {
            runs.push(watched(&rego, &texts, threads, until(Instant::now()), output));
        }
    }
    output.clear_progress();
    let report = Report {
        revision: rego.revision().as_str().to_owned(),
        questions: texts.len(),
        allowed: effects.iter().filter(|effect| matches!(effect, Ok(Effect::Allow))).count(),
        undecided: effects.iter().filter(|effect| effect.is_err()).count(),
        optimized: !cfg!(debug_assertions),
        load_ns: nanos(load),
        runs,
    };
    if output.is_text() {
        let text = text(&report, output.paint());
        output.text(&text)?;
    } else {
        output.json(&report)?;
    }
    Ok(Verdict::Fine)
}

#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Count(usize),
}

/// Measures, and says how far it has come.
fn watched(rego: &Rego, texts: &[String], threads: usize, until: Until, output: &mut Output) -> Run {
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let measuring = scope.spawn(|| measure(rego, texts, threads, until, &done));
        while !measuring.is_finished() {
            let decisions = grouped(u64::try_from(done.load(Ordering::Relaxed)).unwrap_or(u64::MAX));
            output.progress(&format!("{}: {decisions} decisions", count(threads, "thread")));
            thread::sleep(TICK);
        }
        measuring.join().unwrap_or_else(|_| Run::of(threads, Vec::new(), Duration::ZERO))
    })
}

fn measure(rego: &Rego, texts: &[String], threads: usize, until: Until, done: &AtomicUsize) -> Run {
    let started = Instant::now();
    let work = |offset: usize| {
        let mut times = Vec::new();
        for text in texts.iter().cycle().skip(offset) {
            let asked = Instant::now();
            if matches!(until, Until::Time(end) if end <= asked)
                || matches!(until, Until::Count(most) if most <= times.len())
            {
                break;
            }
            let _ = std::hint::black_box(rego.decide_text(text));
            times.push(nanos(asked.elapsed()));
            done.fetch_add(1, Ordering::Relaxed);
        }
        times
    };
    let times = thread::scope(|scope| {
        let working: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        working.into_iter().filter_map(|working| working.join().ok()).flatten().collect()
    });
    Run::of(threads, times, started.elapsed())
}

impl Run {
    fn of(threads: usize, mut times: Vec<u64>, took: Duration) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self {
            threads,
            decisions: times.len(),
            per_second: if took.is_zero() { 0.0 } else { precise(times.len()) / took.as_secs_f64() },
            p50_ns: at(50),
            p90_ns: at(90),
            p99_ns: at(99),
            max_ns: at(100),
        }
    }
}

fn text(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| writeln!(out, "{}  {text}", paint(Tone::Quiet, &format!("{name:<9}")));
    let _ = line("policy", &report.revision);
    let _ = line("load", &duration(Duration::from_nanos(report.load_ns)));
    let undecided = match report.undecided {
        0 => String::new(),
        number => paint(Tone::Bad, &format!(", {number} without a decision")),
    };
    let _ = line("questions", &format!("{}, {} allowed{undecided}", report.questions, report.allowed));
    let titles = ["threads", "decisions", "per second", "p50", "p90", "p99", "max"];
    let titles: String = titles.iter().map(|title| format!("{title:>12}")).collect();
    let _ = writeln!(out, "\n{}", paint(Tone::Strong, &titles));
    for run in &report.runs {
        let number = |number: usize| grouped(u64::try_from(number).unwrap_or(u64::MAX));
        let time = |time: u64| duration(Duration::from_nanos(time));
        let cells = [
            run.threads.to_string(),
            number(run.decisions),
            grouped(whole(run.per_second)),
            time(run.p50_ns),
            time(run.p90_ns),
            time(run.p99_ns),
            time(run.max_ns),
        ];
        let _ = writeln!(out, "{}", cells.iter().map(|cell| format!("{cell:>12}")).collect::<String>());
    }
    out
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("choose 0.1 to 3600".to_owned()),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a count of decisions, shown with three digits")]
fn precise(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, shown as a whole number")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

/// `12 345`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

const WARM_UP: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(50);

const AFTER: &str = "One decision is all that `policy::Rego` does for one: the question read from JSON, the evaluation, the result read. Without \
                     --input the question is that of the other arguments: an anonymous `GET /` unless they say more.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::plain;

    #[test]
    fn the_table_is_aligned_and_the_percentiles_are_those_of_the_times() {
        let run = Run::of(1, (1..=1000).rev().map(|micros| micros * 1000).collect(), Duration::from_secs(1));
        assert_eq!((run.p50_ns, run.p90_ns, run.p99_ns, run.max_ns), (501_000, 901_000, 991_000, 1_000_000));
        let report = Report {
            revision: "r1".to_owned(),
            questions: 1,
            allowed: 1,
            undecided: 0,
            optimized: true,
            load_ns: 1_500_000,
            runs: vec![run],
        };
        let text = text(&report, plain);
        let table: Vec<_> = text.lines().skip(4).collect();
        assert_eq!(table.len(), 2, "{text}");
        assert_eq!(table[0].chars().count(), table[1].chars().count(), "{text}");
        assert!(table[1].contains("1 000") && table[1].contains("501 µs"), "{text}");
    }

    #[test]
    fn nothing_measured_is_no_panic() {
        assert_eq!(Run::of(2, Vec::new(), Duration::ZERO).p99_ns, 0);
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_234_567)),
            ("0".to_owned(), "999".to_owned(), "1 234 567".to_owned())
        );
    }
}
