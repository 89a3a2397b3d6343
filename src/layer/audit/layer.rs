use tower_layer::Layer;

use super::AuditService;
use crate::audit::Audit;

/// Writes one audit record per request. See the [module docs](super).
#[derive(Clone, Debug)]
pub struct AuditLayer {
    audit: Audit,
}

impl AuditLayer {
    /// Records into this trail.
    #[must_use]
    pub const fn new(audit: Audit) -> Self {
        Self { audit }
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = AuditService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuditService::new(inner, self.audit.clone())
    }
}
