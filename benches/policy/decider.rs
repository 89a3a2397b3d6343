//! Who decides, so that all of them can be asked in the same way.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis::policy::{Decision, Effect, PolicyBackend, PolicyInput};
use tokio::runtime::Runtime;

use crate::world::{ALLOWED, World};

/// Asks one question, and says whether that was allowed and how long it took.
pub(crate) trait Ask {
    fn ask(&mut self, number: usize, input: &PolicyInput) -> (bool, Duration);
}

type Make = dyn Fn() -> Box<dyn Ask> + Send + Sync;

pub(crate) struct Decider {
    name: &'static str,
    /// Where the answer is not the policy's.
    is_constant: bool,
    make: Arc<Make>,
}

impl Decider {
    pub(crate) fn new(name: &'static str, make: impl Fn() -> Box<dyn Ask> + Send + Sync + 'static) -> Self {
        Self { name, is_constant: false, make: Arc::new(make) }
    }

    pub(crate) fn constant(name: &'static str, make: impl Fn() -> Box<dyn Ask> + Send + Sync + 'static) -> Self {
        Self { is_constant: true, ..Self::new(name, make) }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn asker(&self) -> Asker {
        Asker((self.make)())
    }

    /// A decider that is fast because it decides nothing would win.
    pub(crate) fn check(&self, world: &World) {
        let mut asker = self.asker();
        let questions = world.inputs().iter().enumerate();
        let allowed = questions.filter(|(number, input)| asker.0.ask(*number, input).0).count();
        let expected = if self.is_constant { world.inputs().len() } else { ALLOWED };
        assert_eq!(allowed, expected, "{}", self.name);
    }
}

/// Stays on one thread.
pub(crate) struct Asker(Box<dyn Ask>);

impl Asker {
    pub(crate) fn time(&mut self, number: usize, input: &PolicyInput) -> Duration {
        self.0.ask(number, input).1
    }
}

/// A backend that answers at once.
pub(crate) struct Inline(pub(crate) Arc<dyn PolicyBackend>);

impl Ask for Inline {
    fn ask(&mut self, _: usize, input: &PolicyInput) -> (bool, Duration) {
        let began = Instant::now();
        let decision = black_box(self.0.decide_now(black_box(input)));
        let took = began.elapsed();
        (allows(&decision.expect("it answers at once").expect("it decides")), took)
    }
}

/// A backend that has to be waited for, on a runtime of its own.
pub(crate) struct Awaited {
    pub(crate) runtime: Runtime,
    pub(crate) backend: Arc<dyn PolicyBackend>,
}

impl Ask for Awaited {
    fn ask(&mut self, _: usize, input: &PolicyInput) -> (bool, Duration) {
        let (backend, input) = (Arc::clone(&self.backend), input.clone());
        let began = Instant::now();
        let decision = self.runtime.block_on(backend.decide(input));
        let took = began.elapsed();
        (allows(&decision.expect("it decides")), took)
    }
}

fn allows(decision: &Decision) -> bool {
    decision.effect() == Effect::Allow
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
