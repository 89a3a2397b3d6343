use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::DenialService;
use crate::{
    ConfigError,
    denial::{RenderDenial, Renderer},
};

/// Renders refusals. See the [module docs](super).
#[derive(Clone)]
pub struct DenialLayer {
    renderer: Arc<dyn RenderDenial>,
}

impl DenialLayer {
    /// Renders with `renderer`: a [`Renderer`], or a closure.
    #[must_use]
    pub fn new(renderer: impl RenderDenial) -> Self {
        Self { renderer: Arc::new(renderer) }
    }

    /// Renders problem documents and gRPC statuses, with this realm in challenges.
    ///
    /// # Errors
    ///
    /// As for [`Renderer::api`].
    pub fn api(realm: &str) -> Result<Self, ConfigError> {
        Renderer::api(realm).map(Self::new)
    }
}

impl<S> Layer<S> for DenialLayer {
    type Service = DenialService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DenialService::new(inner, Arc::clone(&self.renderer))
    }
}

impl fmt::Debug for DenialLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenialLayer").finish_non_exhaustive()
    }
}
