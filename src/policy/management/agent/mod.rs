mod activation;
mod builder;
mod core;
mod disk;
mod download;
mod engine;
mod polling;
mod source;
mod status;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use self::core::Core;
pub use self::{
    builder::BundleAgentBuilder,
    core::WhenStale,
    engine::BundleEngine,
    polling::Polling,
    source::BundleSource,
    status::{BundleFailure, BundleStatus},
};
use super::{
    Service, StatusMetrics,
    status::{PluginState, Reporter},
};
use crate::{
    ConfigError,
    health::Health,
    policy::{Decision, PolicyBackend, PolicyError, PolicyExplanation, PolicyInForce, PolicyInput, Rego},
};

/// Decides in the process by bundles that are made, signed and served elsewhere: what Open Policy Agent's
/// [bundle plugin](https://www.openpolicyagent.org/docs/management-bundles) does for a server, for [`Rego`] here.
///
/// ```
/// # use std::io::Write as _;
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use portcullis::outbound::{Outbound, OutboundError};
/// use std::{sync::Arc, time::Duration};
/// use portcullis::policy::{
///     BundleAgent, Effect, PolicyBackend, Rego,
///     bundle::{RevisionRule, Verification},
///     management::{BundleSource, Service},
/// };
///
/// # fn bundle() -> Vec<u8> {
/// #     let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
/// #     for (path, text) in [(".manifest", r#"{"revision":"7"}"#), ("authz.rego", "package authz\n\ndefault decision := false\n")] {
/// #         let mut header = tar::Header::new_ustar();
/// #         header.set_size(text.len() as u64);
/// #         tar.append_data(&mut header, path, text.as_bytes()).unwrap();
/// #     }
/// #     tar.into_inner().unwrap().finish().unwrap()
/// # }
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let archive = Bytes::from(bundle());
/// # let canned = Outbound::new(tower::service_fn(move |request: Request<Bytes>| {
/// #     assert_eq!(request.uri(), "https://bundles.acme.example/bundles/authz");
/// #     let archive = archive.clone();
/// #     async { Ok::<_, OutboundError>(Response::new(archive)) }
/// # }));
/// let service = Service::builder("control-plane", "https://bundles.acme.example")
/// #     .with_outbound(canned)
///     .with_bearer_file("/run/secrets/bundles/token");
/// # let service = service.with_bearer("t");
/// let authz = BundleSource::new("authz", Verification::forbidden())
///     .with_revision_rule(RevisionRule::growing_numbers());
/// let agent = Arc::new(BundleAgent::builder(service.build()?).add_bundle(authz).start(Rego::builder())?);
///
/// agent.ready(Duration::from_secs(10)).await?;
/// assert_eq!(agent.statuses()[0].active_revision.as_deref(), Some("7"));
/// # let input = portcullis::testing::policy_input("GET", "/jobs");
/// let decision = Arc::clone(&agent).decide(input).await?;
/// assert_eq!((decision.effect(), decision.revision().as_str()), (Effect::Deny, "7"));
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(run()).unwrap();
/// ```
///
/// # What decides
///
/// All bundles together are one policy. Nothing is decided before each of them has come once: until then requests are refused as
/// unavailable, and so they are when the engine refuses the first ones. From then on a bundle that is refused, for whatever reason, replaces nothing: the last good ones decide on, the
/// health is degraded, and [`statuses`](Self::statuses) and one line in the log say what is wrong, in which file and line. What is checked
/// is said at [`bundle`](crate::policy::bundle#what-is-checked) and at the engine ([`Rego`]).
///
/// A newcomer that is refused beside what is in force stays at hand: where another bundle comes that was changed with it, the two are
/// tried together.
///
/// # How bundles are asked for
///
/// `GET` of the resource, with the `ETag` of the bundle that is in force, every 60 s to 120 s at random ([`Polling`]). An answer is 200 with a
/// bundle, or 304; everything else, a redirect too, is a failure. After one it is asked for again at once, then after 100 ms that grow by 1.6,
/// up to a fifth shorter or longer, up to the longest delay. A bundle that is refused for what it says comes back after the
/// usual delay. Deltas are never asked for, and refused: nothing signs them.
///
/// # What it costs a request
///
/// Two atomic loads. Bundles are read, verified and compiled where blocking is allowed, and exchanged in one step.
///
/// The tasks in the background end when the agent is dropped: keep it in an [`Arc`] where a stack uses it too.
pub struct BundleAgent<B = Rego> {
    backend: Arc<OnceLock<Arc<B>>>,
    core: Arc<Core>,
    reporter: Option<Arc<Reporter>>,
    tasks: Vec<AbortHandle>,
}

impl BundleAgent {
    /// Starts with the service that has the bundles.
    pub fn builder(service: Service) -> BundleAgentBuilder {
        BundleAgentBuilder::new(service)
    }
}

impl<B: PolicyBackend> BundleAgent<B> {
    /// Waits until there are decisions: until every bundle was put in force and, where [`WhenStale::Deny`] was chosen, is not too old.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] after the deadline, with what is missing. The agent goes on trying.
    pub async fn ready(&self, deadline: Duration) -> Result<(), PolicyError> {
        // Subscribed before the first look: what happens in between is seen.
        let mut changes = self.core.changed.subscribe();
        let ready = async { while self.serving().is_err() && changes.changed().await.is_ok() {} };
        // Where nothing tells of changes any more, the last look counts.
        let _ = tokio::time::timeout(deadline, ready).await;
        match self.serving() {
            Ok(_) => Ok(()),
            Err(error) if self.backend.get().is_some() => Err(error),
            Err(_) => Err(PolicyError::unavailable(self.missing())),
        }
    }

    /// Asks for each bundle once, now, whatever its [`Polling`] says, and returns when all answers have come and were put in force or
    /// refused: [`statuses`](Self::statuses) says which. Where a request for a bundle is under way it waits for that first.
    pub async fn refresh(&self) {
        let mut requests = JoinSet::new();
        for member in &self.core.members {
            requests.spawn(Arc::clone(&self.core).refresh(Arc::clone(member)));
        }
        while requests.join_next().await.is_some() {}
    }

    /// How each bundle is, in the order in which they were added.
    #[must_use]
    pub fn statuses(&self) -> Vec<BundleStatus> {
        self.core.statuses()
    }

    /// What became of status messages; all zero where there is nobody to tell.
    #[must_use]
    pub fn status_metrics(&self) -> StatusMetrics {
        self.reporter.as_ref().map(|reporter| reporter.metrics()).unwrap_or_default()
    }

    /// What decides; `None` before the first bundles have come.
    #[must_use]
    pub fn backend(&self) -> Option<&Arc<B>> {
        self.backend.get()
    }

    fn serving(&self) -> Result<&Arc<B>, PolicyError> {
        let backend = self.backend.get().ok_or_else(|| PolicyError::unavailable(NO_BUNDLES))?;
        match self.core.stale() {
            Some(WhenStale::Deny) => Err(PolicyError::unavailable(TOO_OLD)),
            _ => Ok(backend),
        }
    }

    fn missing(&self) -> String {
        match self.core.trouble() {
            Some(trouble) => format!("{NO_BUNDLES}: {trouble}"),
            None => NO_BUNDLES.to_owned(),
        }
    }
}

#[async_trait]
impl<B: PolicyBackend> PolicyBackend for BundleAgent<B> {
    async fn decide(self: Arc<Self>, input: PolicyInput) -> Result<Decision, PolicyError> {
        Arc::clone(self.serving()?).decide(input).await
    }

    fn decide_now(&self, input: &PolicyInput) -> Option<Result<Decision, PolicyError>> {
        match self.serving() {
            Ok(backend) => backend.decide_now(input),
            Err(error) => Some(Err(error)),
        }
    }

    /// `None` also while the policy is too old to decide: what it has granted before counts no more.
    fn in_force(&self) -> Option<PolicyInForce> {
        self.serving().ok()?.in_force()
    }

    fn explanations(&self, input: &PolicyInput) -> Vec<PolicyExplanation> {
        self.backend.get().map_or_else(Vec::new, |backend| backend.explanations(input))
    }

    /// That of the backend. Before the first bundles have come nothing is known, which is no error.
    async fn preflight(self: Arc<Self>) -> Result<(), ConfigError> {
        match self.backend.get() {
            Some(backend) => Arc::clone(backend).preflight().await,
            None => Ok(()),
        }
    }

    /// Unavailable until the first bundles decide, and, where that was chosen, while the policy is too old. Degraded while a bundle cannot be had or is refused.
    fn health(&self) -> Health {
        let Some(backend) = self.backend.get() else { return Health::Unavailable(self.missing().into()) };
        // Of what it was given and has refused the agent knows more.
        if let unavailable @ Health::Unavailable(_) = backend.health() {
            return unavailable;
        }
        let trouble = self.core.trouble();
        match self.core.stale() {
            None => trouble.map_or(Health::Ready, |trouble| Health::Degraded(trouble.into())),
            Some(when) => {
                let text = trouble.map_or_else(|| TOO_OLD.to_owned(), |trouble| format!("{TOO_OLD}: {trouble}"));
                match when {
                    WhenStale::Degrade => Health::Degraded(text.into()),
                    WhenStale::NotReady | WhenStale::Deny => Health::Unavailable(text.into()),
                }
            }
        }
    }
}

impl<B> Drop for BundleAgent<B> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl<B> fmt::Debug for BundleAgent<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleAgent").field("bundles", &self.core.statuses()).finish_non_exhaustive()
    }
}

impl Core {
    /// Tells of each change, the latest one first.
    async fn report(self: Arc<Self>, reporter: Arc<Reporter>, mut changes: watch::Receiver<()>) {
        while changes.changed().await.is_ok() {
            let state = match (self.is_active(), self.stale()) {
                (false, _) => PluginState::NotReady,
                (true, Some(_)) => PluginState::Warn,
                (true, None) => PluginState::Ok,
            };
            reporter.tell(&self.statuses(), state).await;
        }
    }
}

const NO_BUNDLES: &str = "not every bundle has come and been accepted yet";
const TOO_OLD: &str = "the policy is older than it may become";
