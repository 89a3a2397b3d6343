//! The clock of the evaluations: wasm asks for it at each call and each turn of a loop.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use wasmtime::Engine;

/// A thread that moves the epoch of an engine on while something runs in it, and sleeps while nothing does. It ends when this is
/// dropped.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    running: AtomicUsize,
    is_asleep: AtomicBool,
    is_over: AtomicBool,
}

/// As long as it is held, the clock goes.
pub(super) struct Running<'a>(&'a Shared);

impl Ticker {
    pub(super) fn start(engine: Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            is_asleep: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let ticking = Arc::clone(&shared);
        let thread = thread::Builder::new().name("wasm-clock".to_owned()).spawn(move || ticking.tick(&engine))?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    pub(super) fn run(&self) -> Running<'_> {
        self.shared.running.fetch_add(1, Ordering::SeqCst);
        // Sequentially consistent on both sides: either this sees that the thread is about to sleep, or the thread sees what runs.
        if self.shared.is_asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
        Running(&self.shared)
    }

    /// How many ticks are surely no shorter than this.
    pub(super) fn ticks(duration: Duration) -> u64 {
        let ticks = duration.as_nanos().div_ceil(TICK.as_nanos());
        // The first one may come at once.
        u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    fn tick(&self, engine: &Engine) {
        let mut idle = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) > 0 {
                idle = 0;
            }
            if idle < IDLE_TICKS {
                idle += 1;
                thread::sleep(TICK);
                engine.increment_epoch();
                continue;
            }
            self.is_asleep.store(true, Ordering::SeqCst);
            if self.running.load(Ordering::SeqCst) == 0 && !self.is_over.load(Ordering::SeqCst) {
                thread::park();
            }
            self.is_asleep.store(false, Ordering::SeqCst);
            // Whoever woke it may be done already, and is not to do so again for each request.
            idle = 0;
        }
    }
}

const TICK: Duration = Duration::from_millis(1);

/// Waking a thread costs a request some microseconds: not between the requests of one second.
const IDLE_TICKS: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_never_cut_short() {
        for (duration, ticks) in [
            (Duration::ZERO, 1),
            (Duration::from_nanos(1), 2),
            (Duration::from_millis(10), 11),
            (Duration::from_micros(10_001), 12),
        ] {
            assert_eq!(Ticker::ticks(duration), ticks, "{duration:?}");
        }
        assert!(Ticker::ticks(Duration::MAX) > 1 << 62);
    }

    #[test]
    fn the_thread_ends_with_its_owner_asleep_or_not() {
        let shared = {
            let ticker = Ticker::start(Engine::default()).unwrap();
            drop(ticker.run());
            Arc::clone(&ticker.shared)
        };
        // The thread has the other reference.
        while Arc::strong_count(&shared) > 1 {
            thread::yield_now();
        }
        assert_eq!(shared.running.load(Ordering::SeqCst), 0);
    }
}
