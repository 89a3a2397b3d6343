use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{
    Presented, Revocation, RevocationError, RevocationFeed,
    entry::{Entry, Key},
    table::Table,
};
use crate::{ConfigError, time::UnixTime};

/// What is revoked, in the memory of this process. See the [module docs](super).
///
/// Cheap to clone; clones share what they hold. A look-up takes a microsecond or two, however many tenants there are, and next to no
/// time while nothing is revoked. It waits at most for one entry to be written, or for the ended ones among a sixty-fourth of all to be
/// dropped; replacing the entries of a feed is one atomic step for it. An entry takes 70 to 120 bytes, so a full list of the default capacity at most 12 MB; twice that while a feed
/// that fills it is being replaced.
#[derive(Clone)]
pub struct RevocationList(Arc<Shared>);

struct Shared {
    /// What the API revoked.
    own: Table,
    /// What each feed revokes.
    fed: ArcSwap<Vec<Fed>>,
    /// How many entries both hold, ended ones included.
    held: AtomicUsize,
    /// Whoever changes anything holds this; whoever looks up does not.
    changes: Mutex<Changes>,
    capacity: usize,
    max_lifetime: Duration,
}

/// The entries of one feed: made whole, and replaced whole.
#[derive(Clone)]
struct Fed {
    name: Arc<str>,
    entries: Arc<HashMap<Key, Entry>>,
}

struct Changes {
    /// No entry ends before.
    first_end: Option<UnixTime>,
    /// How many entries are held before it is worth looking for ended ones.
    sweep_at: usize,
}

/// Sets a [`RevocationList`] up.
#[derive(Clone, Debug)]
#[must_use = "nothing is revoked before `build`"]
pub struct RevocationListBuilder {
    capacity: usize,
    max_lifetime: Duration,
}

impl RevocationList {
    /// An empty list with the default bounds: 100 000 revocations, tokens that live for at most 24 h.
    #[must_use]
    pub fn new() -> Self {
        Self::of(DEFAULT_CAPACITY, DEFAULT_LIFETIME)
    }

    /// A list with other bounds.
    pub const fn builder() -> RevocationListBuilder {
        RevocationListBuilder { capacity: DEFAULT_CAPACITY, max_lifetime: DEFAULT_LIFETIME }
    }

    fn of(capacity: usize, max_lifetime: Duration) -> Self {
        Self(Arc::new(Shared {
            own: Table::new(),
            fed: ArcSwap::default(),
            held: AtomicUsize::new(0),
            changes: Mutex::new(Changes { first_end: None, sweep_at: FIRST_SWEEP.min(capacity) }),
            capacity,
            max_lifetime,
        }))
    }

    /// Revokes, from the next request on. `now` is the time by the clock that tokens are judged by.
    ///
    /// What is revoked already is extended: the later not-before time and the later end hold. What has ended already is not kept, because
    /// every token that it concerns has expired.
    ///
    /// # Errors
    ///
    /// [`RevocationError::Full`] when there is no room for one more that is live. Nothing is dropped to make room.
    pub fn revoke(&self, revocation: &Revocation, now: UnixTime) -> Result<(), RevocationError> {
        let entry = revocation.entry(self.0.max_lifetime, now);
        if !entry.is_live(now) {
            return Ok(());
        }
        let key = revocation.key();
        let mut changes = self.0.changes();
        if let Some(earlier) = self.0.own.find(key) {
            self.0.own.put(key, earlier.extended(entry, now));
            // One that had ended can be replaced by one that ends sooner than those that are left.
            changes.first_end = changes.first_end.into_iter().chain([entry.end]).min();
            return Ok(());
        }
        self.0.make_room(&mut changes, 1, None, now)?;
        changes.first_end = changes.first_end.into_iter().chain([entry.end]).min();
        // Counted first: whoever looks up skips a list that holds nothing.
        self.0.held.fetch_add(1, Ordering::SeqCst);
        self.0.own.put(key, entry);
        Ok(())
    }

    /// Takes back what [`revoke`](Self::revoke) did, whatever times it was given. True when there was something to take back. What a feed
    /// revokes stays revoked.
    pub fn forget(&self, revocation: &Revocation) -> bool {
        let _changes = self.0.changes();
        let was_there = self.0.own.remove(revocation.key());
        if was_there {
            self.0.held.fetch_sub(1, Ordering::SeqCst);
        }
        was_there
    }

    /// A source of revocations beside [`revoke`](Self::revoke), which replaces its own entries and no others. Two of one name are the
    /// same.
    #[must_use]
    pub fn feed(&self, name: impl Into<Arc<str>>) -> RevocationFeed {
        RevocationFeed::new(self.clone(), name.into())
    }

    /// How many revocations are held. Ended ones count until room is needed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.held.load(Ordering::SeqCst)
    }

    /// True when nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many revocations fit, those of all feeds included.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// The longest life of a token that the list is good for.
    #[must_use]
    pub fn max_lifetime(&self) -> Duration {
        self.0.max_lifetime
    }

    /// Whether anything that is revoked concerns this token.
    pub(crate) fn refuses(&self, token: &Presented<'_>, now: UnixTime) -> bool {
        if self.is_empty() {
            return false;
        }
        let fed = self.0.fed.load();
        token.keys().any(|key| {
            let own = self.0.own.find(key);
            let fed = fed.iter().filter_map(|fed| fed.entries.get(&key).copied());
            own.into_iter().chain(fed).any(|entry| entry.refuses(token.issued_at, now))
        })
    }

    /// Puts these in the place of the feed's entries, all or none. How many are live.
    pub(super) fn replace(
        &self,
        feed: &Arc<str>,
        revocations: &[Revocation],
        now: UnixTime,
    ) -> Result<usize, RevocationError> {
        // Gathered before anybody has to wait.
        let mut entries = HashMap::<Key, Entry>::with_capacity(revocations.len());
        for revocation in revocations {
            let entry = revocation.entry(self.0.max_lifetime, now);
            if entry.is_live(now) {
                let merged = entries.get(&revocation.key()).map_or(entry, |earlier| earlier.extended(entry, now));
                entries.insert(revocation.key(), merged);
            }
        }
        let added = entries.len();
        let ends = entries.values().map(|entry| entry.end).min();

        let mut changes = self.0.changes();
        self.0.make_room(&mut changes, added, Some(feed), now)?;
        let replaced = self.0.fed_by(feed);
        changes.first_end = changes.first_end.into_iter().chain(ends).min();
        let mut fed: Vec<_> = self.0.fed.load().iter().filter(|fed| fed.name != *feed).cloned().collect();
        if added > 0 {
            fed.push(Fed { name: Arc::clone(feed), entries: Arc::new(entries) });
        }
        self.0.held.store((self.len() + added).saturating_sub(replaced), Ordering::SeqCst);
        self.0.fed.store(Arc::new(fed));
        Ok(added)
    }
}

impl Shared {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        // Whoever panicked left at most a count behind that is too high: it is made anew by the next sweep.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fed_by(&self, feed: &Arc<str>) -> usize {
        self.fed.load().iter().filter(|fed| fed.name == *feed).map(|fed| fed.entries.len()).sum()
    }

    /// Makes sure that so many entries fit, once those of the feed have gone.
    fn make_room(
        &self,
        changes: &mut Changes,
        added: usize,
        feed: Option<&Arc<str>>,
        now: UnixTime,
    ) -> Result<(), RevocationError> {
        let fits = |limit| {
            let replaced = feed.map_or(0, |feed| self.fed_by(feed));
            self.held.load(Ordering::SeqCst).saturating_sub(replaced).saturating_add(added) <= limit
        };
        if !fits(changes.sweep_at) && changes.first_end.is_some_and(|end| end <= now) {
            self.sweep(changes, now);
        }
        if fits(self.capacity) { Ok(()) } else { Err(RevocationError::Full { capacity: self.capacity }) }
    }

    /// Forgets what has ended. Done again only when twice as much is held, so that each revocation pays for looking at two.
    fn sweep(&self, changes: &mut Changes, now: UnixTime) {
        let (own, first_end) = self.own.sweep(now);
        let ended = |fed: &Fed| fed.entries.values().any(|entry| !entry.is_live(now));
        let mut fed = Vec::clone(&self.fed.load());
        if fed.iter().any(ended) {
            for fed in fed.iter_mut().filter(|fed| ended(fed)) {
                let live = fed.entries.iter().filter(|(_, entry)| entry.is_live(now));
                fed.entries = Arc::new(live.map(|(key, entry)| (*key, *entry)).collect());
            }
            fed.retain(|fed| !fed.entries.is_empty());
            self.fed.store(Arc::new(fed.clone()));
        }
        let fed_ends = fed.iter().flat_map(|fed| fed.entries.values().map(|entry| entry.end));
        let held = own + fed.iter().map(|fed| fed.entries.len()).sum::<usize>();
        *changes = Changes {
            first_end: first_end.into_iter().chain(fed_ends).min(),
            sweep_at: (2 * held).max(FIRST_SWEEP).min(self.capacity),
        };
        self.held.store(held, Ordering::SeqCst);
    }
}

impl RevocationListBuilder {
    /// How many revocations fit. Default 100 000; from 1 to 1 000 000.
    pub const fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The longest life of a token that can be revoked, from which ends are derived. Default 24 h; zero is a `ConfigError`. An issuer whose
    /// tokens may live longer makes [`VerifierBuilder::build`](crate::token::VerifierBuilder::build) fail.
    pub const fn with_max_lifetime(mut self, lifetime: Duration) -> Self {
        self.max_lifetime = lifetime;
        self
    }

    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Invalid`] for a capacity or a lifetime out of bounds.
    pub fn build(self) -> Result<RevocationList, ConfigError> {
        if !(1..=MAX_CAPACITY).contains(&self.capacity) {
            let remedy = format!("choose from 1 to {MAX_CAPACITY}");
            return Err(ConfigError::invalid("revocations.capacity", self.capacity.to_string(), remedy));
        }
        if self.max_lifetime.is_zero() {
            let remedy = "choose how long a token may live, such as 24 h";
            return Err(ConfigError::invalid("revocations.max_lifetime", "0s", remedy));
        }
        Ok(RevocationList::of(self.capacity, self.max_lifetime))
    }
}

impl Default for RevocationList {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationList")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

const DEFAULT_CAPACITY: usize = 100_000;
const MAX_CAPACITY: usize = 1_000_000;
const DEFAULT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
const FIRST_SWEEP: usize = 1024;

#[cfg(test)]
mod tests;
