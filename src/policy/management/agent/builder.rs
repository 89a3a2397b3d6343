use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::sync::{OnceCell, watch};

use super::{
    BundleAgent, BundleEngine, BundleSource, WhenStale,
    core::{Activate, Core, Freshness, Member, Sleep},
    disk::Shelf,
};
use crate::{
    ConfigError,
    error::runtime,
    policy::{
        bundle::Contents,
        management::{Labels, Service, status::Reporter},
    },
    random,
    time::{Clock, SystemClock},
};

/// Gathers where a [`BundleAgent`] gets its bundles, and what it does with them.
#[derive(Clone)]
#[must_use = "nothing is asked for before `start`"]
pub struct BundleAgentBuilder {
    service: Service,
    sources: Vec<BundleSource>,
    directory: Option<PathBuf>,
    staleness: Option<(Duration, WhenStale)>,
    status: Option<Service>,
    partition: Option<String>,
    labels: Labels,
    clock: Arc<dyn Clock>,
    pub(super) jitter: fn() -> f64,
    pub(super) sleep: Arc<Sleep>,
}

impl BundleAgentBuilder {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            sources: Vec::new(),
            directory: None,
            staleness: None,
            status: None,
            partition: None,
            labels: Labels::new(),
            clock: Arc::new(SystemClock),
            jitter: random::fraction,
            sleep: Arc::new(|time| Box::pin(tokio::time::sleep(time))),
        }
    }

    /// Adds a bundle. All of them together are the policy.
    pub fn add_bundle(mut self, source: BundleSource) -> Self {
        self.sources.push(source);
        self
    }

    /// Keeps the bundles that are in force below this directory, as `bundles/<name>/bundle.tar.gz`, so that a restart while the server is
    /// away can decide. Default none.
    ///
    /// What is found there at the start is read and verified as if it had just come. Without a signature, therefore, **whoever can write
    /// there writes the policy**: so, on unix, a file is neither read nor written unless it is a regular file and no link, it and its folder belong to whoever
    /// runs this process, and nobody else may write to either. Folders are made with mode 0700, files with 0600, and a file takes the
    /// place of the one before in one step. What cannot be used is a warning and a [status](BundleAgent::statuses), never an error: it is the reserve.
    pub fn with_persistence(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How long the policy may serve without its server confirming that there is no newer one, and what is to happen then. Default for
    /// ever, as in Open Policy Agent. More than the longest delay between two requests, at most 365 days.
    ///
    /// It counts from the last answer to each bundle that was put in force or was unchanged; one that is refused confirms nothing. After a
    /// start from disk it counts from the time of the file, which says when its bundle was last confirmed. That nothing has changed is the
    /// server's word, which nothing signs: this is about a server that cannot be reached, and TLS about one that is not the server.
    pub const fn with_max_staleness(mut self, limit: Duration, when: WhenStale) -> Self {
        self.staleness = Some((limit, when));
        self
    }

    /// Tells this service after each request for a bundle how the bundles are: Open Policy Agent's
    /// [status API](https://www.openpolicyagent.org/docs/management-status). Default nobody.
    ///
    /// One message at a time: what changes meanwhile is in the next one. Nothing waits for it, and one that is not taken is counted
    /// ([`BundleAgent::status_metrics`]).
    pub fn with_status(mut self, service: Service) -> Self {
        self.status = Some(service);
        self
    }

    /// Tells it at `status/<partition>` instead of `status`.
    pub fn with_status_partition(mut self, partition: impl Into<String>) -> Self {
        self.partition = Some(partition.into());
        self
    }

    /// What status messages call this process. Default [`Labels::new`].
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// What the age of the policy is counted on. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts to get the bundles, for this engine. It returns at once: before every bundle has come once and been accepted there is no
    /// decision, and the health is unavailable ([`BundleAgent::ready`] waits for it).
    ///
    /// # Errors
    ///
    /// [`ConfigError`] without a bundle, for two of one name, for a name, a resource or a delay out of bounds, for settings of the engine
    /// that cannot be right, and outside a Tokio runtime.
    pub fn start<E: BundleEngine>(self, engine: E) -> Result<BundleAgent<E::Backend>, ConfigError> {
        if self.sources.is_empty() {
            return Err(ConfigError::missing("policy.bundles", "add at least one bundle with `add_bundle`"));
        }
        engine.check()?;
        let mut members = Vec::<Arc<Member>>::new();
        for source in self.sources {
            let feed = source.feed(&self.service)?;
            if members.iter().any(|member| member.feed.name == feed.name) {
                return Err(ConfigError::invalid(
                    "policy.bundles.name",
                    feed.name,
                    "give each bundle a name of its own",
                ));
            }
            if let Some((limit, _)) = self.staleness {
                let longest = feed.polling.longest();
                if limit <= longest || limit > MAX_STALENESS {
                    let remedy = format!(
                        "choose more than {longest:?}, which may pass between two requests, and at most 365 days"
                    );
                    return Err(ConfigError::invalid("policy.bundles.max_staleness", format!("{limit:?}"), remedy));
                }
            }
            members.push(Arc::new(Member::new(feed)));
        }
        let reporter = self.status.map(|service| Reporter::new(service, self.partition.as_deref(), self.labels));
        let reporter = reporter.transpose()?.map(Arc::new);
        let runtime = runtime("policy::BundleAgent")?;
        let backend = Arc::new(OnceLock::new());
        let core = Arc::new(Core {
            shelves: Mutex::new(members.iter().map(|member| (member.feed.name.clone(), Default::default())).collect()),
            members,
            activate: feeder(engine, &backend),
            shelf: self.directory.map(Shelf::new),
            restored: OnceCell::new(),
            freshness: self.staleness.map(|(limit, when)| Freshness::new(limit, when)),
            changed: watch::Sender::new(()),
            clock: self.clock,
            jitter: self.jitter,
            sleep: self.sleep,
        });
        let mut tasks = vec![runtime.spawn(Arc::clone(&core).run()).abort_handle()];
        if let Some(reporter) = &reporter {
            let changes = core.changed.subscribe();
            tasks.push(runtime.spawn(Arc::clone(&core).report(Arc::clone(reporter), changes)).abort_handle());
        }
        Ok(BundleAgent { backend, core, reporter, tasks })
    }
}

/// The first bundles make the backend, and all others are given to it.
fn feeder<E: BundleEngine>(engine: E, backend: &Arc<OnceLock<Arc<E::Backend>>>) -> Box<Activate> {
    let backend = Arc::clone(backend);
    Box::new(move |contents: Contents| {
        if let Some(backend) = backend.get() {
            return engine.activate(backend, contents);
        }
        let first = Arc::new(engine.build(contents)?);
        // Nobody else makes one: bundles are put in force one after the other.
        let _ = backend.set(first);
        Ok(())
    })
}

impl fmt::Debug for BundleAgentBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleAgentBuilder")
            .field("service", &self.service)
            .field("sources", &self.sources)
            .field("directory", &self.directory)
            .field("staleness", &self.staleness)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

const MAX_STALENESS: Duration = Duration::from_hours(24 * 365);
