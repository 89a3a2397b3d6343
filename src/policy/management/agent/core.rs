use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use tokio::{
    sync::{OnceCell, watch},
    task::{JoinSet, spawn_blocking},
};

use super::{
    activation::{Installed, Shelves},
    disk::Shelf,
    download::{Answer, DownloadError},
    polling::After,
    source::Feed,
    status::{BundleStatus, Record},
};
use crate::{ConfigError, policy::bundle::Contents, time::Clock};

/// What the tasks of an agent share with it.
pub(super) struct Core {
    pub(super) members: Vec<Arc<Member>>,
    /// Makes or feeds the backend.
    pub(super) activate: Box<Activate>,
    /// Held while bundles are put in force, which is done one after the other, and only where blocking is allowed.
    pub(super) shelves: Mutex<Shelves>,
    pub(super) shelf: Option<Shelf>,
    pub(super) restored: OnceCell<()>,
    pub(super) freshness: Option<Freshness>,
    pub(super) changed: watch::Sender<()>,
    pub(super) clock: Arc<dyn Clock>,
    /// Spreads the requests of many processes; between 0 and 1.
    pub(super) jitter: fn() -> f64,
    pub(super) sleep: Arc<Sleep>,
}

/// Lets time pass between two requests.
pub(super) type Sleep = dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

pub(super) type Activate = dyn Fn(Contents) -> Result<(), ConfigError> + Send + Sync;

pub(super) struct Member {
    pub(super) feed: Feed,
    record: Mutex<Record>,
}

/// How old a policy may become.
pub(super) struct Freshness {
    limit: Duration,
    pub(super) when: WhenStale,
    /// In milliseconds on the steady clock.
    until: AtomicI64,
}

/// What a policy that is too old means: for [`BundleAgentBuilder::with_max_staleness`](super::BundleAgentBuilder::with_max_staleness).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenStale {
    /// The health is degraded. Decisions are made as before.
    Degrade,
    /// The health is unavailable, so that an orchestrator sends requests elsewhere. Those that come are decided as before.
    NotReady,
    /// As [`NotReady`](Self::NotReady), and every request is refused as unavailable: whoever keeps new policies away gains nothing from
    /// the old ones.
    Deny,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    Answered(After),
    Failed,
}

impl Member {
    pub(super) fn new(feed: Feed) -> Self {
        let keeps_requests = feed.polling.long_polling.is_some() && !feed.polling.is_manual();
        let record = Mutex::new(Record::new(&feed.name, keeps_requests));
        Self { feed, record }
    }

    /// Held for no longer than it takes to read or write it.
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Freshness {
    pub(super) const fn new(limit: Duration, when: WhenStale) -> Self {
        Self { limit, when, until: AtomicI64::new(i64::MIN) }
    }
}

impl Core {
    /// Takes up what is on disk, and then asks for each bundle as often as it is to be asked for. Ends with whoever awaits it.
    pub(super) async fn run(self: Arc<Self>) {
        self.restored().await;
        let mut polls = JoinSet::new();
        for member in self.members.iter().filter(|member| !member.feed.polling.is_manual()) {
            polls.spawn(Arc::clone(&self).poll(Arc::clone(member)));
        }
        while polls.join_next().await.is_some() {}
    }

    /// Nothing is asked for before it is known what is on disk: a revision there is one that none may fall behind of.
    async fn restored(self: &Arc<Self>) {
        let restore = async {
            let core = Arc::clone(self);
            // A panic there has been told by its own hook, and leaves a start without a disk.
            let _ = spawn_blocking(move || core.restore()).await;
        };
        self.restored.get_or_init(|| restore).await;
    }

    async fn poll(self: Arc<Self>, member: Arc<Member>) {
        let mut failures: u32 = 0;
        loop {
            // In a task of its own, so that one panic is one failure. It ends with this one.
            let mut request = JoinSet::new();
            request.spawn(Arc::clone(&self).refresh(Arc::clone(&member)));
            let after = match request.join_next().await {
                Some(Ok(Exchange::Answered(after))) => {
                    failures = 0;
                    after
                }
                ended => {
                    // What a panic says is not ours to tell: its own hook has.
                    if let Some(Err(_)) = ended {
                        member.record().failed("request", "the request for it was given up: it panicked".to_owned());
                    }
                    failures = failures.saturating_add(1);
                    After::Failure { retry: failures - 1 }
                }
            };
            (self.sleep)(member.feed.polling.delay(after, (self.jitter)())).await;
        }
    }

    /// Asks for a bundle once, and puts what comes in force.
    pub(super) async fn refresh(self: Arc<Self>, member: Arc<Member>) -> Exchange {
        self.restored().await;
        let _turn = member.feed.turn.lock().await;
        let started = self.clock.elapsed();
        let (etag, wait) = {
            let mut record = member.record();
            record.status.last_request = Some(self.clock.now());
            record.status.requests += 1;
            (record.etag.clone(), member.feed.polling.long_polling.filter(|_| record.keeps_requests))
        };
        let exchange = match member.feed.download(etag.clone(), wait).await {
            Ok(Answer::NotModified) => {
                self.confirmed(&member, etag.as_ref()).await;
                Exchange::Answered(After::Answer)
            }
            Ok(Answer::Bundle { archive, etag, keeps_requests }) => {
                {
                    let mut record = member.record();
                    let polling = &member.feed.polling;
                    record.keeps_requests = keeps_requests && polling.long_polling.is_some() && !polling.is_manual();
                    record.status.last_successful_request = Some(self.clock.now());
                    record.status.http_code = Some(200);
                    record.status.size = Some(archive.len());
                }
                let (core, of) = (Arc::clone(&self), Arc::clone(&member));
                let installing = spawn_blocking(move || core.install(&of, archive, etag));
                match installing.await {
                    Ok(Ok(installed)) => {
                        self.installed(&member, installed);
                        Exchange::Answered(After::Answer)
                    }
                    Ok(Err(refused)) => {
                        let mut record = member.record();
                        record.status.refusals += 1;
                        record.failed(refused.code(), refused.to_string());
                        // It is not to come back at once, also where requests are kept.
                        drop(record);
                        self.announce();
                        return if refused.is_of_transfer() {
                            Exchange::Failed
                        } else {
                            Exchange::Answered(After::Answer)
                        };
                    }
                    Err(_) => {
                        member.record().failed("activation", "the work on it was given up: it panicked".to_owned());
                        Exchange::Failed
                    }
                }
            }
            Err(error) => {
                self.not_had(&member, &error);
                Exchange::Failed
            }
        };
        self.announce();
        if exchange == Exchange::Answered(After::Answer) && wait.is_some() && member.record().keeps_requests {
            return Exchange::Answered(After::LongPoll { took: self.clock.elapsed().saturating_sub(started) });
        }
        exchange
    }

    /// What was asked about is what the server has; meanwhile something else may have come into force.
    async fn confirmed(self: &Arc<Self>, member: &Arc<Member>, asked: Option<&HeaderValue>) {
        let now = self.clock.now();
        let is_active = {
            let mut record = member.record();
            record.status.last_successful_request = Some(now);
            record.status.http_code = Some(304);
            if record.etag.as_ref() != asked {
                return;
            }
            let is_active = record.status.active_revision.is_some();
            if is_active {
                record.confirmed = Some(self.steady_now());
                record.recovered();
            } else {
                record.failed("waiting", "it is not in force before the other bundles have come".to_owned());
            }
            is_active
        };
        // Before the disk, which may hang: it is the reserve.
        self.announce();
        if is_active {
            let (core, of) = (Arc::clone(self), Arc::clone(member));
            // Its panics have been told by their own hook, and change nothing.
            let _ = spawn_blocking(move || core.settle(&of.feed.name, now)).await;
        }
    }

    fn installed(&self, member: &Member, installed: Installed) {
        let mut record = member.record();
        match installed {
            Installed::Activated => {}
            Installed::Unchanged => record.recovered(),
            Installed::Waits(others) => {
                record.failed("waiting", format!("it is not in force before these bundles have come: {others}"));
            }
        }
    }

    fn not_had(&self, member: &Member, error: &DownloadError) {
        let mut record = member.record();
        record.status.failed_requests += 1;
        record.status.http_code = error.status().map(|status| status.as_u16());
        let code = if error.status().is_some() { "http" } else { "request" };
        let service = member.feed.service.name();
        record.failed(code, format!("{error} (service `{service}`)"));
    }

    pub(super) fn statuses(&self) -> Vec<BundleStatus> {
        self.members.iter().map(|member| member.record().status.clone()).collect()
    }

    /// What is wrong with the first bundle that something is wrong with.
    pub(super) fn trouble(&self) -> Option<String> {
        self.members.iter().find_map(|member| {
            let record = member.record();
            record.status.error.as_ref().map(|error| format!("bundle `{}`: {}", record.status.name, error.message))
        })
    }

    pub(super) fn is_active(&self) -> bool {
        self.members.iter().all(|member| member.record().status.active_revision.is_some())
    }

    /// `None` where nothing is too old.
    pub(super) fn stale(&self) -> Option<WhenStale> {
        let freshness = self.freshness.as_ref()?;
        (self.steady_now() > freshness.until.load(Ordering::Acquire)).then_some(freshness.when)
    }

    /// Tells whoever waits that something has changed.
    pub(super) fn announce(&self) {
        if let Some(Freshness { limit, until, .. }) = &self.freshness {
            let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
            let confirmed = self.members.iter().map(|member| member.record().confirmed.unwrap_or(i64::MIN)).min();
            until.store(confirmed.unwrap_or(i64::MIN).saturating_add(limit), Ordering::Release);
        }
        self.changed.send_replace(());
    }

    pub(super) fn steady_now(&self) -> i64 {
        i64::try_from(self.clock.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
