//! What was measured, laid out for a reader.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use crate::site::{BARE_TCP, BARE_UNIX, CACHED, REGO, TCP, UNIX, WASM};

/// The times of many calls.
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn quantile(&self, part: f64) -> f64 {
        let index = ((self.0.len() - 1) as f64 * part).round() as usize;
        self.0[index].as_secs_f64() * 1e6
    }

    fn p50(&self) -> f64 {
        self.quantile(0.5)
    }
}

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) times: Times,
    /// Decisions per second with so many threads.
    pub(crate) one: f64,
    pub(crate) two: f64,
}

pub(crate) struct Report(Vec<(usize, Vec<Row>)>);

/// How many times one is of the other, and what it has to be.
struct Target {
    what: String,
    ratio: f64,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.ratio >= bound,
            Bound::AtMost(bound) => self.ratio <= bound,
        }
    }
}

impl Report {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn progress(&self, what: &str) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[2K{what} …");
        } else {
            eprintln!("{what}");
        }
    }

    pub(crate) fn add(&mut self, subjects: usize, rows: Vec<Row>) {
        self.0.push((subjects, rows));
    }

    pub(crate) fn print(&self) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[2K");
        }
        for (subjects, rows) in &self.0 {
            println!(
                "\n{:<26}{:>11}{:>11}{:>11}{:>14}{:>14}{:>9}",
                format!("{subjects} subjects"),
                "p50 µs",
                "p90 µs",
                "p99 µs",
                "1 thread /s",
                "2 threads /s",
                "ratio"
            );
            for Row { name, times, one, two } in rows {
                println!(
                    "{name:<26}{:>11.2}{:>11.2}{:>11.2}{one:>14.0}{two:>14.0}{:>9.2}",
                    times.p50(),
                    times.quantile(0.9),
                    times.quantile(0.99),
                    two / one
                );
            }
        }
        println!();
        for Target { what, ratio, bound } in &self.targets() {
            let bound = match bound {
                Bound::AtLeast(bound) => format!("at least {bound:.2}"),
                Bound::AtMost(bound) => format!("at most {bound:.2}"),
            };
            println!("{what:<66}{ratio:>8.2}   {bound}");
        }
        for missed in self.targets().iter().filter(|target| !target.is_met()) {
            println!("missed: {}", missed.what);
        }
    }

    pub(crate) fn met_all(&self) -> bool {
        self.targets().iter().all(Target::is_met)
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (subjects, rows) in &self.0 {
            let row = |name| rows.iter().find(|row| row.name == name).expect("a row of each");
            let mut add = |what: &str, ratio, bound| {
                targets.push(Target { what: format!("{subjects:>6} subjects: {what}"), ratio, bound });
            };
            let [cached, wasm, rego, tcp, unix] = [CACHED, WASM, REGO, TCP, UNIX].map(row);
            add("Opa over TCP takes so many times Rego", tcp.times.p50() / rego.times.p50(), Bound::AtLeast(3.0));
            add("Rego takes so many times Wasm", rego.times.p50() / wasm.times.p50(), Bound::AtLeast(4.0));
            add(
                "Rego takes so many times a hit of Cached",
                rego.times.p50() / cached.times.p50(),
                Bound::AtLeast(25.0),
            );
            add("Rego with two threads does so many times one", rego.two / rego.one, Bound::AtLeast(1.5));
            for (name, rest, bare) in [("TCP", tcp, row(BARE_TCP)), ("a unix socket", unix, row(BARE_UNIX))] {
                let ratio = rest.times.p50() / bare.times.p50();
                add(&format!("Opa over {name} takes so many times the bare bytes"), ratio, Bound::AtMost(1.1));
            }
        }
        targets
    }
}
