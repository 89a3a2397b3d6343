use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::Authenticate;
use crate::{
    time::{Clock, SystemClock},
    token::Verifier,
};

/// Demands a bearer token that verifies. See the [module docs](super).
#[derive(Clone)]
pub struct AuthenticateLayer {
    verifier: Verifier,
    clock: Arc<dyn Clock>,
}

impl AuthenticateLayer {
    /// Verifies tokens with `verifier`.
    #[must_use]
    pub fn new(verifier: Verifier) -> Self {
        Self { verifier, clock: Arc::new(SystemClock) }
    }

    /// Sets the clock that `exp`, `nbf` and `iat` are compared with. Default [`SystemClock`].
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate::new(inner, self.verifier.clone(), Arc::clone(&self.clock))
    }
}

impl fmt::Debug for AuthenticateLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticateLayer").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}
