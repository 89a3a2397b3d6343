use tokio::sync::Mutex;

use super::Polling;
use crate::{
    ConfigError,
    policy::{
        bundle::{Limits, RevisionRule, Verification},
        management::{Resource, Service, check_name},
    },
};

/// One bundle: where it comes from, and what it has to be. Open Policy Agent's
/// [`bundles.<name>`](https://www.openpolicyagent.org/docs/configuration#bundles).
///
/// ```
/// use portcullis::policy::{bundle::{RevisionRule, Verification}, management::BundleSource};
///
/// // Unsigned, from a server that is trusted as such.
/// let authz = BundleSource::new("authz", Verification::forbidden())
///     .with_resource("releases/authz.tar.gz")
///     .with_revision_rule(RevisionRule::growing_numbers());
/// # let _ = authz;
/// ```
#[derive(Clone, Debug)]
#[must_use = "a source is nothing before it is given to an agent"]
pub struct BundleSource {
    name: String,
    verification: Verification,
    resource: Option<String>,
    service: Option<Service>,
    limits: Limits,
    rule: RevisionRule,
    polling: Polling,
}

/// A source as it is asked.
pub(super) struct Feed {
    pub(super) name: String,
    pub(super) service: Service,
    pub(super) resource: Resource,
    pub(super) verification: Verification,
    pub(super) limits: Limits,
    pub(super) rule: RevisionRule,
    pub(super) polling: Polling,
    /// One request at a time.
    pub(super) turn: Mutex<()>,
}

impl BundleSource {
    /// A bundle of this name, which is in its status, in messages and in its path on disk, and whether it has to be signed. Letters, digits and `-._`, at most
    /// 128 bytes.
    pub fn new(name: impl Into<String>, verification: Verification) -> Self {
        Self {
            name: name.into(),
            verification,
            resource: None,
            service: None,
            limits: Limits::default(),
            rule: RevisionRule::default(),
            polling: Polling::default(),
        }
    }

    /// Where it is at the service: a path, with a query where the store wants one. Default `bundles/<name>`.
    pub fn with_resource(mut self, path: impl Into<String>) -> Self {
        self.resource = Some(path.into());
        self
    }

    /// Comes from this service instead of the agent's.
    pub fn with_service(mut self, service: Service) -> Self {
        self.service = Some(service);
        self
    }

    /// How much of it is read; what is larger is given up while it is being received. Default [`Limits::default`].
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Whether an older bundle may come back. Default [`RevisionRule::any`]. A bundle that was kept on disk counts, so that the rule
    /// outlives the process where there is [persistence](super::BundleAgentBuilder::with_persistence).
    pub fn with_revision_rule(mut self, rule: RevisionRule) -> Self {
        self.rule = rule;
        self
    }

    /// When it is asked for again. Default every 60 s to 120 s.
    pub fn with_polling(mut self, polling: Polling) -> Self {
        self.polling = polling;
        self
    }

    pub(super) fn feed(self, service: &Service) -> Result<Feed, ConfigError> {
        check_name("policy.bundles.name", &self.name)?;
        self.polling.check()?;
        let service = self.service.unwrap_or_else(|| service.clone());
        let resource = self.resource.unwrap_or_else(|| format!("bundles/{}", self.name));
        Ok(Feed {
            resource: service.resource("policy.bundles.resource", &resource)?,
            name: self.name,
            service,
            verification: self.verification,
            limits: self.limits,
            rule: self.rule,
            polling: self.polling,
            turn: Mutex::new(()),
        })
    }
}
