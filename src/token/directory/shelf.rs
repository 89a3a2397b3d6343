use std::{
    hash::{BuildHasher as _, RandomState},
    mem,
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use lru::LruCache;

use super::{Answer, Refusal, Tenant};
use crate::{key::KeyErrorKind, principal::IssuerId, token::resolve::Settings};

/// What is in memory of issuers and of names, each kind in bounds of its own. Time is passed in.
///
/// An issuer that falls out is handed back: it owns what the application gave it, which has to be dropped where no lock is held.
pub(super) struct Shelf {
    /// Issuers of which a token verified, the most recent first. They push out each other, and nobody else pushes them out.
    confirmed: LruCache<IssuerId, Arc<Tenant>, RandomState>,
    /// The others. Nothing is proven by a name: the one that came first is the next to go.
    probation: LruCache<IssuerId, Arc<Tenant>, RandomState>,
    /// Who was pushed out of `confirmed`.
    proven: LruCache<u64, (), RandomState>,
    /// Who was pushed out of `probation`, and until when: else a few names more than there is room for would have keys loaded without end.
    resting: LruCache<u64, Duration, RandomState>,
    refused: LruCache<u64, (Refusal, Duration), RandomState>,
    /// Names outside of the first two are kept as keyed hashes: they take eight bytes each, and attackers cannot make them collide.
    hasher: RandomState,
}

impl Shelf {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            confirmed: table(settings.max_issuers),
            probation: table(settings.probation()),
            proven: table(MAX_NAMES),
            resting: table(MAX_NAMES),
            refused: table(MAX_NAMES),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn look(&self, name: &str, now: Duration) -> Option<Answer> {
        if let Some(tenant) = self.kept(name).filter(|tenant| now < tenant.until) {
            return Some(Ok(Arc::clone(tenant)));
        }
        let is_resting = || self.resting.peek(&self.hash(name)).is_some_and(|until| now < *until);
        let resting = || is_resting().then_some(Refusal::Unavailable(KeyErrorKind::Unavailable));
        self.refusal(name, now).or_else(resting).map(Err)
    }

    /// Also when its life is over.
    pub(super) fn kept(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.confirmed.peek(name).or_else(|| self.probation.peek(name))
    }

    /// Whether a token in this name verified, as far as memory goes.
    pub(super) fn is_proven(&self, name: &str) -> bool {
        self.confirmed.contains(name) || self.proven.contains(&self.hash(name))
    }

    /// What the last look-up said against this name, while that holds.
    pub(super) fn refusal(&self, name: &str, now: Duration) -> Option<Refusal> {
        let (refusal, until) = self.refused.peek(&self.hash(name))?;
        (now < *until).then_some(*refusal)
    }

    /// A token of this issuer verified.
    #[must_use]
    pub(super) fn confirm(&mut self, tenant: &Arc<Tenant>, now: Duration) -> Option<Arc<Tenant>> {
        let name = tenant.id.as_str();
        if self.confirmed.promote(name) {
            return None;
        }
        let tenant = Arc::clone(match self.probation.peek(name) {
            Some(renewed) => renewed,
            // Pushed out between look-up and verification, and not removed by its store since.
            None if self.refusal(name, now).is_none() => tenant,
            None => return None,
        });
        if now >= tenant.until {
            return None;
        }
        let hash = self.hash(name);
        self.probation.pop(name);
        self.proven.pop(&hash);
        self.resting.pop(&hash);
        tenant.loads.confirm();
        let (id, gone) = self.confirmed.push(tenant.id.clone(), tenant)?;
        self.proven.put(self.hash(id.as_str()), ());
        Some(gone)
    }

    /// The resolver vouched for this issuer.
    #[must_use]
    pub(super) fn admit(&mut self, tenant: &Arc<Tenant>) -> Option<Arc<Tenant>> {
        let name = tenant.id.as_str();
        self.refused.pop(&self.hash(name));
        if let Some(earlier) = self.confirmed.peek_mut(name) {
            tenant.loads.confirm();
            return Some(mem::replace(earlier, Arc::clone(tenant)));
        }
        if let Some(earlier) = self.probation.peek_mut(name) {
            return Some(mem::replace(earlier, Arc::clone(tenant)));
        }
        let (id, gone) = self.probation.push(tenant.id.clone(), Arc::clone(tenant))?;
        if let Some(began) = gone.loads.began()
            && !self.is_proven(id.as_str())
        {
            self.resting.put(self.hash(id.as_str()), began.saturating_add(gone.key_floor));
        }
        Some(gone)
    }

    /// The look-up brought no issuer. One that is known stays so to the end of its life, unless the resolver knows it no longer.
    #[must_use]
    pub(super) fn refuse(&mut self, name: &str, refusal: Refusal, until: Duration) -> Option<Arc<Tenant>> {
        let hash = self.hash(name);
        self.refused.put(hash, (refusal, until));
        match refusal {
            Refusal::Unknown => {
                self.proven.pop(&hash);
                self.confirmed.pop(name).or_else(|| self.probation.pop(name))
            }
            Refusal::Unavailable(_) => None,
        }
    }

    pub(super) fn issuers(&self) -> usize {
        self.confirmed.len() + self.probation.len()
    }

    pub(super) fn refused(&self) -> usize {
        self.refused.len() + self.resting.len()
    }

    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }
}

fn table<K: std::hash::Hash + Eq, V>(entries: usize) -> LruCache<K, V, RandomState> {
    LruCache::with_hasher(NonZeroUsize::new(entries).unwrap_or(NonZeroUsize::MIN), RandomState::new())
}

/// Of each kind.
pub(super) const MAX_NAMES: usize = 10_000;
