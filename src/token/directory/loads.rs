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
use crate::outbound::{Outbound, OutboundBuilder};
use crate::{
    ConfigError,
    key::{KeyError, KeySource, LoadRequest, LoadedKeys, Voice},
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

/// So many loads run at once, and so many more wait, which counts into the deadline of the cache around them.
struct Room {
    running: Semaphore,
    present: Semaphore,
}

/// A source of keys whose loads keep to their room.
struct Bounded {
    source: Arc<dyn KeySource>,
    loads: Arc<Loads>,
}

impl KeyLoads {
    pub(super) fn new(
        max_concurrent: usize,
        clock: Arc<dyn Clock>,
        #[cfg(feature = "remote-jwks")] client: Option<Outbound>,
    ) -> Self {
        Self {
            #[cfg(feature = "remote-jwks")]
            client: SharedClient(client.map(OnceLock::from).unwrap_or_default()),
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
        let issuer = issuer.with_key_cache(settings);
        #[cfg(feature = "remote-jwks")]
        let issuer = issuer.fetching_through(&self.client.get(|| builder().build())?)?;
        Ok(issuer.loading_through(|source| Arc::new(Bounded { source, loads: Arc::clone(loads) })))
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

    async fn enter(&self) -> Result<[SemaphorePermit<'_>; 2], KeyError> {
        let present = self.present.try_acquire().map_err(KeyError::unavailable)?;
        let running = self.running.acquire().await.map_err(KeyError::unavailable)?;
        Ok([present, running])
    }
}

#[async_trait]
impl KeySource for Bounded {
    async fn load(self: Arc<Self>, request: LoadRequest) -> Result<LoadedKeys, KeyError> {
        self.loads.begin();
        let is_confirmed = self.loads.is_confirmed.load(Ordering::Relaxed);
        let _permits = if is_confirmed { None } else { Some(self.loads.room.enter().await?) };
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
struct SharedClient(OnceLock<Outbound>);

#[cfg(feature = "remote-jwks")]
impl SharedClient {
    fn get(&self, build: impl FnOnce() -> Result<Outbound, ConfigError>) -> Result<Outbound, ConfigError> {
        if let Some(client) = self.0.get() {
            return Ok(client.clone());
        }
        match build() {
            Ok(client) => Ok(self.0.get_or_init(|| client).clone()),
            // Without a certificate store local issuers still work, and no other one is believed. The next look-up tries again.
            Err(_) => builder().without_tls().build(),
        }
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
        let shared = SharedClient(OnceLock::new());
        let broken = || Err(ConfigError::missing("outbound.roots", "scripted"));
        for _ in 0..2 {
            assert!(shared.get(broken).is_ok());
            assert!(shared.0.get().is_none());
        }
        // Whether this machine has a certificate store is nothing to this test.
        assert!(shared.get(|| builder().without_tls().build()).is_ok());
        assert!(shared.0.get().is_some());
        assert!(shared.get(|| panic!("built again")).is_ok());
    }

    #[tokio::test]
    async fn who_finds_neither_room_to_load_nor_to_wait_is_told_at_once() {
        let (room, mut context) = (Room::new(1), Context::from_waker(Waker::noop()));
        let first = room.enter().await.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(room.enter())).collect();
        for waiting in &mut waiting {
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        assert!(room.enter().await.is_err());
        drop(first);
        assert!(waiting[0].as_mut().poll(&mut context).is_ready());
    }
}
