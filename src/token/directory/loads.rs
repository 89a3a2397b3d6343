#[cfg(feature = "remote-jwks")]
use std::sync::OnceLock;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, SemaphorePermit};
#[cfg(feature = "remote-jwks")]
use tower::ServiceExt as _;

#[cfg(feature = "remote-jwks")]
use crate::outbound::{Outbound, OutboundBuilder, OutboundError};
use crate::{
    ConfigError,
    key::{KeyError, KeyErrorKind, KeySource, LoadRequest, LoadedKeys, Voice},
    time::Clock,
    token::Issuer,
};

/// How the keys of resolved issuers are loaded: whoever sends a token in the name of one has them loaded.
pub(super) struct KeyLoads {
    #[cfg(feature = "remote-jwks")]
    client: SharedClient,
    voice: Voice,
    strangers: Arc<Room>,
    /// As much again for those of whom a token verified before they were pushed out.
    returning: Arc<Room>,
    clock: Arc<dyn Clock>,
}

/// The loads of one issuer's keys, across all its renewals.
pub(super) struct Loads {
    room: Arc<Room>,
    /// Whose tokens verify has its keys loaded at once.
    is_confirmed: AtomicBool,
    began: Mutex<Option<Duration>>,
    clock: Arc<dyn Clock>,
}

/// So many loads run at once, and so many more wait for their turn.
struct Room {
    running: Semaphore,
    present: Semaphore,
}

/// A source of keys whose loads keep to their room.
struct Bounded {
    source: Arc<dyn KeySource>,
    loads: Arc<Loads>,
    /// How long a load waits for its turn: half of the deadline of the cache around it, so that the source has as much left. Whoever gets
    /// no turn is no worse off for it when it asks again.
    patience: Duration,
}

impl KeyLoads {
    pub(super) fn new(
        max_concurrent: usize,
        clock: Arc<dyn Clock>,
        #[cfg(feature = "remote-jwks")] client: Option<Outbound>,
    ) -> Self {
        Self {
            #[cfg(feature = "remote-jwks")]
            client: SharedClient(Arc::new(client.map(OnceLock::from).unwrap_or_default())),
            voice: Voice::shared(),
            strangers: Arc::new(Room::new(max_concurrent)),
            returning: Arc::new(Room::new(max_concurrent)),
            clock,
        }
    }

    /// Of an issuer that is new here.
    pub(super) fn of_new(&self, is_stranger: bool) -> Arc<Loads> {
        Arc::new(Loads {
            room: Arc::clone(if is_stranger { &self.strangers } else { &self.returning }),
            is_confirmed: AtomicBool::new(false),
            began: Mutex::new(None),
            clock: Arc::clone(&self.clock),
        })
    }

    #[cfg_attr(not(feature = "remote-jwks"), expect(clippy::unnecessary_wraps, reason = "as with the feature"))]
    pub(super) fn bind(&self, issuer: Issuer, loads: &Arc<Loads>) -> Result<Issuer, ConfigError> {
        let settings = issuer.key_cache().clone().speaking_with(self.voice.clone());
        let patience = settings.load_deadline() / 2;
        let issuer = issuer.with_key_cache(settings);
        #[cfg(feature = "remote-jwks")]
        let issuer = issuer.fetching_through(&self.client.outbound(|| builder().build()))?;
        Ok(issuer.loading_through(|source| Arc::new(Bounded { source, loads: Arc::clone(loads), patience })))
    }
}

impl Loads {
    pub(super) fn confirm(&self) {
        self.is_confirmed.store(true, Ordering::Relaxed);
    }

    /// When the last of them began; `None` where keys are there at once.
    pub(super) fn began(&self) -> Option<Duration> {
        *self.began.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        let now = self.clock.elapsed();
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

impl Room {
    fn new(running: usize) -> Self {
        Self { running: Semaphore::new(running), present: Semaphore::new(running + MAX_WAITING) }
    }

    async fn enter(&self, patience: Duration) -> Result<[SemaphorePermit<'_>; 2], KeyError> {
        let full = |error| KeyError::not_asked(KeyErrorKind::Unavailable, error);
        let present = self.present.try_acquire().map_err(full)?;
        let late = |elapsed| KeyError::not_asked(KeyErrorKind::Timeout, elapsed);
        let running = tokio::time::timeout(patience, self.running.acquire()).await.map_err(late)?;
        Ok([present, running.map_err(KeyError::unavailable)?])
    }
}

#[async_trait]
impl KeySource for Bounded {
    async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError> {
        self.loads.begin();
        let is_confirmed = self.loads.is_confirmed.load(Ordering::Relaxed);
        let _permits = if is_confirmed { None } else { Some(self.loads.room.enter(self.patience).await?) };
        Arc::clone(&self.source).load(request).await
    }

    fn load_now(&self) -> Option<Result<LoadedKeys, KeyError>> {
        let answer = self.source.load_now();
        if answer.is_none() {
            // The cache loads them now, and its task may have to wait for its turn.
            self.loads.begin();
        }
        answer
    }

    fn keeps_key_issuers(&self) -> bool {
        self.source.keeps_key_issuers()
    }
}

/// One for the keys of all: a client of its own for each issuer would cost each look-up a certificate store.
#[cfg(feature = "remote-jwks")]
struct SharedClient(Arc<OnceLock<Outbound>>);

#[cfg(feature = "remote-jwks")]
impl SharedClient {
    /// Sends each request through the client that there is then: an issuer keeps its source across all its renewals, and must not keep a
    /// client with it that was made while there was no certificate store.
    fn outbound(&self, build: impl Fn() -> Result<Outbound, ConfigError> + Clone + Send + Sync + 'static) -> Outbound {
        let shared = Arc::clone(&self.0);
        Outbound::new(tower::service_fn(move |request| {
            let client = client(&shared, &build);
            async move {
                match client {
                    Ok(client) => client.oneshot(request).await,
                    Err(error) => Err(OutboundError::Connect(error.into())),
                }
            }
        }))
    }
}

#[cfg(feature = "remote-jwks")]
fn client(
    shared: &OnceLock<Outbound>,
    build: impl FnOnce() -> Result<Outbound, ConfigError>,
) -> Result<Outbound, ConfigError> {
    if let Some(client) = shared.get() {
        return Ok(client.clone());
    }
    match build() {
        Ok(client) => Ok(shared.get_or_init(|| client).clone()),
        // Without a certificate store local issuers still work, and no other one is believed. The next request tries again.
        Err(_) => builder().without_tls().build(),
    }
}

#[cfg(feature = "remote-jwks")]
fn builder() -> OutboundBuilder {
    OutboundBuilder::new(FETCH_DEADLINE, MAX_DOCUMENT)
}

/// The bounds of `key::Remote`.
#[cfg(feature = "remote-jwks")]
const FETCH_DEADLINE: Duration = Duration::from_secs(3);
#[cfg(feature = "remote-jwks")]
const MAX_DOCUMENT: usize = 256 * 1024;
const MAX_WAITING: usize = 1_024;

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[cfg(feature = "remote-jwks")]
    #[test]
    fn a_client_without_tls_serves_one_issuer_and_is_not_kept() {
        let shared = OnceLock::new();
        let broken = || Err(ConfigError::missing("outbound.roots", "scripted"));
        for _ in 0..2 {
            assert!(client(&shared, broken).is_ok());
            assert!(shared.get().is_none());
        }
        // Whether this machine has a certificate store is nothing to this test.
        assert!(client(&shared, || builder().without_tls().build()).is_ok());
        assert!(shared.get().is_some());
        assert!(client(&shared, || panic!("built again")).is_ok());
    }

    #[cfg(feature = "remote-jwks")]
    #[tokio::test]
    async fn an_issuer_that_came_while_there_was_no_certificate_store_gets_a_client_later() {
        let has_store = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&has_store);
        let outbound = SharedClient(Arc::default()).outbound(move || {
            let answering = tower::service_fn(async |_| Ok(http::Response::new(bytes::Bytes::from_static(b"keys"))));
            let missing = || ConfigError::missing("outbound.roots", "scripted");
            flag.load(Ordering::Relaxed).then(|| Outbound::new(answering)).ok_or_else(missing)
        });
        let load = || {
            let request = http::Request::get("https://login.invalid/keys").body(bytes::Bytes::new()).unwrap();
            outbound.clone().oneshot(request)
        };
        assert!(load().await.is_err());
        has_store.store(true, Ordering::Relaxed);
        assert_eq!(load().await.unwrap().into_body(), "keys");
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_finds_neither_room_to_load_nor_to_wait_is_told_at_once() {
        let (room, mut context) = (Room::new(1), Context::from_waker(Waker::noop()));
        let first = room.enter(LONG).await.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(room.enter(LONG))).collect();
        for waiting in &mut waiting {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert!(!room.enter(LONG).await.unwrap_err().was_asked());
        drop(first);
        assert!(waiting[0].as_mut().poll(&mut context).is_ready());
    }
}
