use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lru::LruCache;
use sha2::{Digest as _, Sha256};
use tokio::{runtime::Handle, sync::watch};

use super::{
    Issuer, ResolveError, ResolveIssuer, ResolveRequest, ResolvedIssuers, TokenError, resolve::Settings,
    verifier::Trusted,
};
use crate::{ConfigError, error, key::KeyErrorKind, principal::IssuerId, time::Clock};

/// The issuers that were looked up, and the look-ups under way: what [`ResolvedIssuers`] promises.
pub(super) struct Tenants {
    resolver: Arc<dyn ResolveIssuer>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    /// Unknown names are attacker text: kept as keyed hashes, they take eight bytes each and cannot be made to collide.
    hasher: RandomState,
    /// Never held while anything of the application runs.
    state: Mutex<State>,
}

/// An issuer that the resolver vouched for.
pub(super) struct Tenant {
    pub(super) id: IssuerId,
    pub(super) trusted: Arc<Trusted>,
    renew_at: Duration,
    until: Duration,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Unknown,
    Unavailable(KeyErrorKind),
}

pub(super) type Answer = Result<Arc<Tenant>, Refusal>;

struct State {
    /// Most recently verified first; those without a verified token stand at the other end.
    known: LruCache<IssuerId, Arc<Tenant>, RandomState>,
    refused: LruCache<u64, (Refusal, Duration), RandomState>,
    /// Holds attacker text, of at most the permitted number of look-ups and for their deadline.
    flights: HashMap<Arc<str>, watch::Receiver<Option<Answer>>>,
    /// How many of the flights are for names outside of `known`: those that any caller can start.
    strangers: usize,
    crowded: Complaint,
    failed: Complaint,
}

impl Tenants {
    pub(super) fn new(issuers: ResolvedIssuers, clock: Arc<dyn Clock>) -> Result<Arc<Self>, ConfigError> {
        let ResolvedIssuers { resolver, settings } = issuers;
        settings.check()?;
        let room = |entries| NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN);
        let state = State {
            known: LruCache::with_hasher(room(settings.max_issuers), RandomState::new()),
            refused: LruCache::with_hasher(room(MAX_REFUSED), RandomState::new()),
            flights: HashMap::new(),
            strangers: 0,
            crowded: Complaint::default(),
            failed: Complaint::default(),
        };
        Ok(Arc::new(Self {
            resolver,
            settings,
            clock,
            runtime: error::runtime("resolved_issuers")?,
            hasher: RandomState::new(),
            state: Mutex::new(state),
        }))
    }

    /// What is known of a name without waiting. Starts a look-up in the background when an issuer nears its end.
    pub(super) fn find(self: &Arc<Self>, name: &str) -> Option<Answer> {
        if !can_be_a_name(name) {
            return Some(Err(Refusal::Unknown));
        }
        let now = self.clock.elapsed();
        let mut state = self.lock();
        let found = self.look(&state, name, now);
        let renewal = match &found {
            Some(Ok(tenant)) if tenant.renew_at <= now && !state.flights.contains_key(name) => {
                // A renewal that just failed is not tried with every request, and one that finds no room is tried with the next.
                let is_due = self.remembered(&state, name, now).is_none();
                is_due.then(|| self.prepare(&mut state, name.into(), now)).flatten()
            }
            _ => None,
        };
        drop(state);
        if let Some((flight, _)) = renewal {
            self.runtime.spawn(flight.run());
        }
        found
    }

    /// Waits for the look-up of a name: the one that is under way, or one of its own. Dropping the future cancels nothing.
    pub(super) async fn resolve(self: &Arc<Self>, name: Arc<str>) -> Answer {
        let (flight, mut landed) = {
            let now = self.clock.elapsed();
            let mut state = self.lock();
            if let Some(answer) = self.look(&state, &name, now) {
                return answer;
            }
            match state.flights.get(&name) {
                Some(landed) => (None, landed.clone()),
                None => match self.prepare(&mut state, name, now) {
                    Some((flight, landed)) => (Some(flight), landed),
                    None => return Err(Refusal::Unavailable(KeyErrorKind::Unavailable)),
                },
            }
        };
        if let Some(flight) = flight {
            // Outside of the lock: a runtime that shuts down drops the flight here and now, and its end takes the lock.
            self.runtime.spawn(flight.run());
        }
        // The answer travels to those who wait: by now the issuer may have been pushed out again.
        let answer = landed.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or(Err(Refusal::Unavailable(KeyErrorKind::Unavailable)))
    }

    /// A token of this issuer was verified: it is in use.
    pub(super) fn confirm(&self, tenant: &Arc<Tenant>) {
        let now = self.clock.elapsed();
        let mut state = self.lock();
        if state.known.promote(tenant.id.as_str()) {
            return;
        }
        // Pushed out between look-up and verification, and not removed by its store since.
        let is_refused = self.remembered(&state, tenant.id.as_str(), now).is_some();
        if now < tenant.until && !is_refused {
            state.known.put(tenant.id.clone(), Arc::clone(tenant));
        }
    }

    fn look(&self, state: &State, name: &str, now: Duration) -> Option<Answer> {
        match state.known.peek(name) {
            Some(tenant) if now < tenant.until => Some(Ok(Arc::clone(tenant))),
            _ => self.remembered(state, name, now).map(Err),
        }
    }

    fn remembered(&self, state: &State, name: &str, now: Duration) -> Option<Refusal> {
        let (refusal, until) = state.refused.peek(&self.hasher.hash_one(name))?;
        (now < *until).then_some(*refusal)
    }

    /// Registers a look-up; `None` when there are too many. The caller spawns it once it has let go of the lock.
    fn prepare(
        self: &Arc<Self>,
        state: &mut State,
        name: Arc<str>,
        now: Duration,
    ) -> Option<(Flight, watch::Receiver<Option<Answer>>)> {
        let is_stranger = !state.known.contains(&*name);
        let (strangers, all) = (state.strangers, state.flights.len());
        let under_way = if is_stranger { strangers } else { all - strangers };
        if under_way >= self.settings.max_concurrent {
            if let Some(unsaid) = state.crowded.speak(now) {
                tracing::warn!(under_way, unsaid, "too many issuers are being looked up: answered as unavailable");
            }
            return None;
        }
        let (tell, landed) = watch::channel(None);
        state.strangers += usize::from(is_stranger);
        state.flights.insert(Arc::clone(&name), landed.clone());
        Some((Flight { tenants: Arc::clone(self), name, is_stranger, tell, answer: None }, landed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in there can be left half done: a panic elsewhere is no reason to stop serving.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Refusal> for TokenError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Self::UnknownIssuer,
            Refusal::Unavailable(kind) => Self::KeysUnavailable(kind),
        }
    }
}

/// One look-up. Whatever becomes of it, its end is recorded and told.
struct Flight {
    tenants: Arc<Tenants>,
    name: Arc<str>,
    is_stranger: bool,
    tell: watch::Sender<Option<Answer>>,
    answer: Option<Result<Option<Arc<Tenant>>, Failure>>,
}

/// Why a look-up brought no answer. No variant holds a text of the token's.
enum Failure {
    Store(ResolveError),
    Deadline,
    OtherName,
    Configuration(ConfigError),
    Panicked,
}

impl Flight {
    async fn run(mut self) {
        let resolver = Arc::clone(&self.tenants.resolver);
        let request = ResolveRequest::new(Arc::clone(&self.name));
        let resolved = tokio::time::timeout(self.tenants.settings.deadline, async { resolver.resolve(request).await });
        self.answer = Some(match resolved.await {
            Err(_elapsed) => Err(Failure::Deadline),
            Ok(Err(error)) => Err(Failure::Store(error)),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(issuer))) => self.admit(issuer).map(Some),
        });
    }

    /// Holds what the resolver returned to the rules that configured issuers are held to.
    fn admit(&self, issuer: Issuer) -> Result<Arc<Tenant>, Failure> {
        if issuer.url() != &*self.name {
            return Err(Failure::OtherName);
        }
        let Tenants { clock, settings, .. } = &*self.tenants;
        let earlier = self.tenants.lock().known.peek(&*self.name).cloned();
        let earlier = earlier.as_ref().map(|tenant| &*tenant.trusted);
        let trusted = Trusted::new(issuer, clock, earlier).map_err(Failure::Configuration)?;
        let now = clock.elapsed();
        Ok(Arc::new(Tenant {
            id: IssuerId::new(Arc::clone(&self.name)),
            trusted: Arc::new(trusted),
            renew_at: now.saturating_add(settings.lifetime.mul_f64(0.8)),
            until: now.saturating_add(settings.lifetime),
        }))
    }

    fn complain(&self, failure: &Failure, unsaid: u64) {
        let (issuer_bytes, issuer_sha256) = (self.name.len(), URL_SAFE_NO_PAD.encode(Sha256::digest(&*self.name)));
        let why = match failure {
            Failure::Store(_) => "the resolver failed",
            Failure::Deadline => "the resolver did not answer in time",
            Failure::OtherName => "the resolver answered with another issuer than it was asked for",
            Failure::Configuration(_) => "the resolver answered with a configuration that cannot be used",
            Failure::Panicked => "the resolver panicked or its runtime is gone",
        };
        // Of a configuration the field alone: its value may be the text that was asked for.
        let field = match failure {
            Failure::Configuration(error) => Some(error.field()),
            _ => None,
        };
        let cause = match failure {
            Failure::Store(error) => std::error::Error::source(error).map(|cause| line(&cause.to_string())),
            _ => None,
        };
        tracing::warn!(issuer_bytes, issuer_sha256, why, field, cause, unsaid, "an issuer could not be looked up");
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let outcome = self.answer.take().unwrap_or(Err(Failure::Panicked));
        let Tenants { clock, settings, hasher, .. } = &*self.tenants;
        let (now, hash) = (clock.elapsed(), hasher.hash_one(&*self.name));
        let mut state = self.tenants.lock();
        state.flights.remove(&self.name);
        state.strangers -= usize::from(self.is_stranger);
        let mut unsaid = None;
        let answer = match &outcome {
            Ok(Some(tenant)) => {
                state.refused.pop(&hash);
                state.admit(tenant);
                Ok(Arc::clone(tenant))
            }
            Ok(None) => {
                state.known.pop(&*self.name);
                state.refused.put(hash, (Refusal::Unknown, now.saturating_add(settings.unknown_lifetime)));
                Err(Refusal::Unknown)
            }
            Err(failure) => {
                // An issuer that is known stays so to the end of its life.
                let refusal = Refusal::Unavailable(match failure {
                    Failure::Deadline => KeyErrorKind::Timeout,
                    _ => KeyErrorKind::Unavailable,
                });
                state.refused.put(hash, (refusal, now.saturating_add(RETRY_AFTER)));
                unsaid = state.failed.speak(now);
                Err(refusal)
            }
        };
        drop(state);
        if let (Err(failure), Some(unsaid)) = (&outcome, unsaid) {
            self.complain(failure, unsaid);
        }
        self.tell.send_replace(Some(answer));
    }
}

impl State {
    fn admit(&mut self, tenant: &Arc<Tenant>) {
        if let Some(earlier) = self.known.peek_mut(tenant.id.as_str()) {
            *earlier = Arc::clone(tenant);
            return;
        }
        self.known.put(tenant.id.clone(), Arc::clone(tenant));
        // Nothing is proven by a name: until a token verifies, this one is the next to go.
        self.known.demote(tenant.id.as_str());
    }
}

/// A line of the log that callers can cause, at most once a second.
#[derive(Default)]
struct Complaint {
    quiet_until: Duration,
    unsaid: u64,
}

impl Complaint {
    /// How many went unsaid since the last one, when this one may be said.
    fn speak(&mut self, now: Duration) -> Option<u64> {
        if now < self.quiet_until {
            self.unsaid += 1;
            return None;
        }
        self.quiet_until = now.saturating_add(Duration::from_secs(1));
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// What no issuer is called need not be looked up.
fn can_be_a_name(name: &str) -> bool {
    name.len() <= MAX_NAME && !name.trim().is_empty() && !name.contains(char::is_control)
}

/// The application's text, as one that cannot forge another line.
fn line(text: &str) -> String {
    text.chars().flat_map(char::escape_debug).take(MAX_CAUSE).collect()
}

/// In bytes: longer than any address that is of use.
const MAX_NAME: usize = 2_048;
const MAX_CAUSE: usize = 512;
const MAX_REFUSED: usize = 10_000;
const RETRY_AFTER: Duration = Duration::from_secs(1);
