//! What one decision costs, and how the ways of having it made compare.
//!
//! `cargo bench --all-features --bench policy`. The same policy (`authz.rego`: a table of twelve routes, scope, tenant, role) about the same
//! callers, with 10, 1 000 and 100 000 subjects that have roles: decided by a fixed backend, by `Rego`, by `Wasm`, from the memory of
//! `Cached`, and by a real Open Policy Agent server over TCP and over a unix socket, once through `Opa` and once through a bare
//! connection that writes the same bytes. All of it in one run and in turns, so that the ratios do not depend on the machine; then the
//! rate with one thread and with two.
//!
//! A ratio that misses its target fails the run. It is no part of the checks that every change has to pass: it measures time.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a bench that cannot be set up stops"
)]

mod bare;
mod decider;
mod report;
mod site;
mod world;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use self::{
    decider::Decider,
    report::{Report, Row, Times},
    site::Site,
    world::World,
};

fn main() {
    let mut report = Report::new();
    for subjects in SUBJECTS {
        report.progress(&format!("{subjects} subjects: setting up"));
        let world = World::new(subjects);
        let site = Site::start(&world);
        let deciders = site.deciders(&world);
        for decider in &deciders {
            decider.check(&world);
        }
        report.progress(&format!("{subjects} subjects: one thread, in turns"));
        let latencies = in_turns(&deciders, &world);
        let mut rows = Vec::new();
        for (decider, times) in deciders.iter().zip(latencies) {
            report.progress(&format!("{subjects} subjects: {}, one thread and two", decider.name()));
            let (one, two) = rates(decider, &world);
            rows.push(Row { name: decider.name(), times, one, two });
        }
        report.add(subjects, rows);
    }
    report.print();
    assert!(report.met_all(), "a ratio misses its target");
}

/// The time of each call, some calls of one decider after some of the other, so that all of them meet the same weather.
fn in_turns(deciders: &[Decider], world: &World) -> Vec<Times> {
    let mut askers: Vec<_> = deciders.iter().map(Decider::asker).collect();
    let mut all = vec![Vec::new(); deciders.len()];
    for turn in 0..TURNS {
        for (asker, times) in askers.iter_mut().zip(&mut all) {
            let began = Instant::now();
            while began.elapsed() < TURN {
                for (number, input) in world.inputs().iter().enumerate() {
                    let took = asker.time(number, input);
                    if turn > 0 {
                        times.push(took);
                    }
                }
            }
        }
    }
    all.into_iter().map(Times::new).collect()
}

/// Decisions per second with one thread, and with two; each in several rounds, of which the best counts.
fn rates(decider: &Decider, world: &World) -> (f64, f64) {
    let mut best = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        best.0 = best.0.max(rate(decider, world, 1));
        best.1 = best.1.max(rate(decider, world, 2));
    }
    best
}

fn rate(decider: &Decider, world: &World, threads: usize) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let took = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut asker = decider.asker();
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    for (number, input) in world.inputs().iter().enumerate() {
                        asker.time(number, input);
                        count += 1;
                    }
                }
                done.fetch_add(count, Ordering::Relaxed);
            });
        }
        let began = Instant::now();
        thread::sleep(ROUND);
        stop.store(true, Ordering::Relaxed);
        began.elapsed()
    });
    done.load(Ordering::Relaxed) as f64 / took.as_secs_f64()
}

const SUBJECTS: [usize; 3] = [10, 1_000, 100_000];
/// The first one warms up.
const TURNS: usize = 13;
const TURN: Duration = Duration::from_millis(120);
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_millis(400);
