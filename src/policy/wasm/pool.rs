//! The instances of one module: who evaluates takes one, and gives it back if it is still fit.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    machine::{Machine, Template},
    ticker::Ticker,
};
use crate::policy::PolicyError;

pub(super) struct Pool {
    template: Template,
    entry: i32,
    ticker: Arc<Ticker>,
    patience: Duration,
    state: Mutex<State>,
    returned: Condvar,
}

struct State {
    idle: Vec<Machine>,
    /// What is not to be used again. To unmap it costs more than an evaluation.
    spent: Vec<Machine>,
    /// How many there are to be made.
    missing: usize,
    is_refilling: bool,
}

impl Pool {
    /// As many instances as evaluate at once. `first` is the one that was tried while loading.
    pub(super) fn new(
        template: Template,
        first: Machine,
        entry: i32,
        ticker: Arc<Ticker>,
        patience: Duration,
        size: usize,
    ) -> Result<Self, super::fault::Fault> {
        let running = ticker.run();
        let others = (1..size).map(|_| template.machine(patience)).collect::<Result<Vec<_>, _>>()?;
        drop(running);
        let idle = others.into_iter().chain([first]).collect();
        let state = State { idle, spent: Vec::new(), missing: 0, is_refilling: false };
        Ok(Self { template, entry, ticker, patience, state: Mutex::new(state), returned: Condvar::new() })
    }

    /// Evaluates the entry point for an input document, within `limit` from `started` on. `None` is undefined.
    pub(super) fn evaluate(
        self: &Arc<Self>,
        input: &[u8],
        started: Instant,
        limit: Duration,
    ) -> Result<Option<Value>, PolicyError> {
        let mut machine = self.take(started, limit)?;
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            self.put_back(machine);
            return Err(PolicyError::timeout(format!("no result within {limit:?}")));
        }
        // The instance goes with whatever its panic left behind.
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let _running = self.ticker.run();
            machine.evaluate(self.entry, input, left)
        }));
        match evaluated {
            Ok(Ok(result)) => {
                if machine.has_grown() {
                    self.replace(machine);
                } else {
                    self.put_back(machine);
                }
                Ok(result)
            }
            Ok(Err(fault)) => {
                self.replace(machine);
                Err(fault.into())
            }
            Err(_) => {
                self.replace(machine);
                Err(PolicyError::panicked())
            }
        }
    }

    pub(super) fn idle(&self) -> usize {
        self.lock().idle.len()
    }

    /// The one that was used last, whose memory is the most likely to be in a cache. An evaluation takes microseconds, so waiting for one
    /// is shorter than making another.
    fn take(self: &Arc<Self>, started: Instant, limit: Duration) -> Result<Machine, PolicyError> {
        let mut state = self.lock();
        loop {
            if let Some(machine) = state.idle.pop() {
                return Ok(machine);
            }
            self.refill(&mut state);
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(PolicyError::overloaded(format!("no instance was free within {limit:?}")));
            }
            state = self.returned.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn put_back(&self, machine: Machine) {
        self.lock().idle.push(machine);
        self.returned.notify_one();
    }

    /// Another one in its place, made by a thread of its own.
    fn replace(self: &Arc<Self>, machine: Machine) {
        let mut state = self.lock();
        state.spent.push(machine);
        state.missing += 1;
        self.refill(&mut state);
    }

    fn refill(self: &Arc<Self>, state: &mut State) {
        if state.is_refilling || state.missing == 0 {
            return;
        }
        let pool = Arc::clone(self);
        let started = thread::Builder::new().name("wasm-refill".to_owned()).spawn(move || pool.make_missing());
        state.is_refilling = started.is_ok();
        if let Err(error) = started {
            tracing::warn!(%error, "no thread to make an instance of the policy: the next evaluation tries again");
        }
    }

    fn make_missing(&self) {
        loop {
            let mut state = self.lock();
            if state.missing == 0 {
                state.is_refilling = false;
                return;
            }
            state.missing -= 1;
            let spent = mem::take(&mut state.spent);
            drop(state);
            drop(spent);
            let running = self.ticker.run();
            let made = catch_unwind(AssertUnwindSafe(|| self.template.machine(self.patience)));
            drop(running);
            match made {
                Ok(Ok(machine)) => self.put_back(machine),
                failed => {
                    let cause = failed.map_or_else(
                        |_| "it panicked".to_owned(),
                        |made| made.err().map_or_else(String::new, |error| error.to_string()),
                    );
                    tracing::warn!(
                        cause,
                        "an instance of the policy could not be made: the next evaluation tries again"
                    );
                    let mut state = self.lock();
                    state.missing += 1;
                    state.is_refilling = false;
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
