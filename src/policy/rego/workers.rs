//! Threads that evaluate and do nothing else.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use tokio::sync::oneshot;

use super::generation::STACK_BYTES;
use crate::policy::{Decision, PolicyError, PolicyInput};

type Answer = Result<Decision, PolicyError>;

/// What a thread does with a question that was asked at an instant.
pub(super) type Decide = dyn Fn(&PolicyInput, Instant) -> Answer + Send + Sync;

/// A fixed number of threads and a queue before them. They end when this is dropped, each after what it is at.
pub(super) struct Workers(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bound: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Job {
    input: PolicyInput,
    asked: Instant,
    answer: oneshot::Sender<Answer>,
}

impl Workers {
    pub(super) fn start(threads: usize, decide: &Arc<Decide>) -> io::Result<Self> {
        let bound = threads.saturating_mul(QUEUED_PER_THREAD);
        // Dropped when a thread cannot be had, which ends those that could.
        let workers = Self(Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), bound }));
        for number in 0..threads {
            let (queue, decide) = (Arc::clone(&workers.0), Arc::clone(decide));
            thread::Builder::new()
                .name(format!("rego-{number}"))
                .stack_size(STACK_BYTES)
                .spawn(move || queue.work(&*decide))?;
        }
        Ok(workers)
    }

    /// Puts a question into the queue, or sheds it.
    pub(super) fn ask(&self, input: PolicyInput) -> Result<oneshot::Receiver<Answer>, PolicyError> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        if state.jobs.len() >= self.0.bound {
            // What nobody waits for any more takes no room from what somebody does.
            state.jobs.retain(|job| !job.answer.is_closed());
            if state.jobs.len() >= self.0.bound {
                return Err(PolicyError::overloaded(format!("{} evaluations are waiting", self.0.bound)));
            }
        }
        state.jobs.push_back(Job { input, asked: Instant::now(), answer });
        drop(state);
        self.0.changed.notify_one();
        Ok(receiver)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next question, or nothing when there will be none.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed { None } else { state.jobs.pop_front() }
    }

    fn work(&self, decide: &Decide) {
        while let Some(Job { input, asked, answer }) = self.next() {
            if answer.is_closed() {
                continue;
            }
            // A thread that ended would be missing until the process does.
            let decided = catch_unwind(AssertUnwindSafe(|| decide(&input, asked)));
            // The caller may have hung up meanwhile.
            drop(answer.send(decided.unwrap_or_else(|_| Err(PolicyError::panicked()))));
        }
    }
}

/// At some 70 µs each they are what a thread gets through within the default time limit: what came behind them would be late.
pub(super) const QUEUED_PER_THREAD: usize = 128;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{
        policy::{PolicyErrorKind, PolicyRevision},
        testing::policy_input,
    };

    /// One thread that tells what it was asked, and decides only when it is told to go on.
    struct Stage {
        workers: Workers,
        begun: mpsc::Receiver<String>,
        go_on: mpsc::Sender<()>,
    }

    impl Stage {
        fn new() -> Self {
            let (begin, begun) = mpsc::channel();
            let (go_on, told) = mpsc::channel();
            let told = Mutex::new(told);
            let decide: Arc<Decide> = Arc::new(move |input: &PolicyInput, _: Instant| {
                begin.send(input.subject.id.clone()).unwrap();
                told.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap();
                assert_ne!(input.subject.id, "panic");
                Ok(Decision::allow(PolicyRevision::new(&*input.subject.id)))
            });
            Self { workers: Workers::start(1, &decide).unwrap(), begun, go_on }
        }

        fn ask(&self, id: &str) -> Result<oneshot::Receiver<Answer>, PolicyError> {
            let mut input = policy_input("GET", "/jobs");
            input.subject.id = id.to_owned();
            self.workers.ask(input)
        }
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_shed_at_once() {
        let stage = Stage::new();
        let first = stage.ask("first").unwrap();
        assert_eq!(stage.begun.recv().unwrap(), "first");
        let waiting: Vec<_> = (0..QUEUED_PER_THREAD).map(|number| stage.ask(&number.to_string()).unwrap()).collect();
        assert_eq!(stage.ask("late").unwrap_err().kind(), PolicyErrorKind::Overloaded);
        (0..=QUEUED_PER_THREAD).for_each(|_| stage.go_on.send(()).unwrap());
        for (number, answer) in [first].into_iter().chain(waiting).enumerate().skip(1) {
            let decision = answer.blocking_recv().unwrap().unwrap();
            assert_eq!(decision.revision().as_str(), (number - 1).to_string());
        }
        assert!(stage.ask("again").is_ok());
    }

    #[test]
    fn what_nobody_waits_for_is_skipped_and_takes_no_room() {
        let stage = Stage::new();
        let first = stage.ask("first").unwrap();
        assert_eq!(stage.begun.recv().unwrap(), "first");
        for number in 0..3 * QUEUED_PER_THREAD {
            drop(stage.ask(&number.to_string()).unwrap());
        }
        let last = stage.ask("last").unwrap();
        (0..2).for_each(|_| stage.go_on.send(()).unwrap());
        assert!(first.blocking_recv().unwrap().is_ok());
        assert!(last.blocking_recv().unwrap().is_ok());
        assert_eq!(stage.begun.try_iter().collect::<Vec<_>>(), ["last"]);
    }

    #[test]
    fn a_panic_costs_one_answer_and_no_thread() {
        let stage = Stage::new();
        (0..2).for_each(|_| stage.go_on.send(()).unwrap());
        let answer = stage.ask("panic").unwrap().blocking_recv().unwrap();
        assert_eq!(answer.unwrap_err().kind(), PolicyErrorKind::Panicked);
        assert!(stage.ask("next").unwrap().blocking_recv().unwrap().is_ok());
    }

    #[test]
    fn the_threads_end_with_their_owner_and_what_waits_gets_no_answer() {
        let Stage { workers, begun, go_on } = Stage::new();
        let ask = |id: &str| {
            let mut input = policy_input("GET", "/jobs");
            input.subject.id = id.to_owned();
            workers.ask(input).unwrap()
        };
        let (first, second) = (ask("first"), ask("second"));
        assert_eq!(begun.recv().unwrap(), "first");
        drop(workers);
        assert!(second.blocking_recv().is_err());
        go_on.send(()).unwrap();
        assert!(first.blocking_recv().unwrap().is_ok());
        // The other end of the channel goes with the last thread.
        assert_eq!(begun.recv().unwrap_err(), mpsc::RecvError);
    }

    #[test]
    fn the_stack_is_deep_enough_for_what_the_engine_is_asked() {
        fn deep(levels: usize) -> usize {
            let frame = std::hint::black_box([1_u8; 1 << 10]);
            if levels == 0 { 0 } else { deep(levels - 1) + usize::from(frame[levels % frame.len()]) }
        }
        let decide: Arc<Decide> =
            Arc::new(|_: &PolicyInput, _: Instant| Ok(Decision::allow(PolicyRevision::new(deep(3 << 10).to_string()))));
        let workers = Workers::start(1, &decide).unwrap();
        let decision = workers.ask(policy_input("GET", "/jobs")).unwrap().blocking_recv().unwrap().unwrap();
        assert_eq!(decision.revision().as_str(), (3 << 10).to_string());
    }
}
