use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::Cache;
use crate::key::{JwkSet, KeyError, KeyErrorKind, LoadRequest, LoadedKeys, Voice, snapshot::Snapshot};

/// One load. Whatever becomes of it, its end is recorded and announced.
pub(super) struct Flight {
    cache: Arc<Cache>,
    started: Duration,
    kid: Option<Arc<str>>,
    landed: bool,
}

impl Flight {
    /// Of whoever holds the right to load.
    pub(super) const fn new(cache: Arc<Cache>, started: Duration, kid: Option<Arc<str>>) -> Self {
        Self { cache, started, kid, landed: false }
    }

    pub(super) async fn run(self) {
        let deadline = self.cache.settings.load_deadline;
        let load = Arc::clone(&self.cache.source).load(LoadRequest { unknown_kid: self.kid.clone() });
        let outcome = match tokio::time::timeout(deadline, load).await {
            Ok(outcome) => outcome,
            Err(elapsed) => Err(KeyError::timeout(elapsed)),
        };
        self.land(outcome);
    }

    pub(super) fn land_at_once(self) {
        // This runs inside a request, and a broken source must not take that down.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.cache.source.load_now()));
        match outcome {
            Ok(Some(outcome)) => self.land(outcome),
            Ok(None) => self.land(Err(KeyError::unavailable("the source no longer answers at once"))),
            Err(_panic) => drop(self),
        }
    }

    fn land(mut self, outcome: Result<LoadedKeys, KeyError>) {
        let cache = &self.cache;
        let now = cache.clock.elapsed();
        let before = cache.snapshot.load_full();
        let outcome = outcome.and_then(usable);
        let after = match &outcome {
            Ok(loaded) => {
                let kid = self.kid.as_deref().map(|kid| cache.hash(kid));
                before.loaded(loaded.clone(), self.started, now, kid, &cache.settings)
            }
            Err(error) if !error.was_asked() => before.not_asked(error.kind(), now, &cache.settings),
            Err(error) => before.failed(error.kind(), now, &cache.settings),
        };
        cache.snapshot.store(Arc::new(after));
        self.landed = true;
        // Whoever subscribes to the log may panic: by now that can lose neither the keys nor the failure.
        match outcome {
            Ok(loaded) => self.tell_keys(&before, &loaded.set, now),
            Err(error) => self.tell_failure(&error, now),
        }
    }

    fn tell_keys(&self, before: &Snapshot, set: &JwkSet, now: Duration) {
        let cache = &self.cache;
        cache.told_stale.store(false, Ordering::Relaxed);
        if before.differs_from(set) {
            announce(&cache.name, set, &cache.settings.voice, now);
        }
        if before.failure().is_some() && cache.settings.voice.speak(|lines| &lines.recovered, now).is_some() {
            tracing::info!(keys = &*cache.name, "keys can be loaded again");
        }
        cache.keep(set);
    }

    fn tell_failure(&self, error: &KeyError, now: Duration) {
        let Cache { counters, settings, name, .. } = &*self.cache;
        counters.failures.add_one();
        if let Some(unsaid) = settings.voice.speak(|lines| &lines.failed, now) {
            tracing::warn!(
                keys = &**name,
                kind = error.kind().text(),
                cause = causes(error),
                unknown_kid_bytes = self.kid.as_ref().map(|kid| kid.len()),
                unsaid = (unsaid > 0).then_some(unsaid),
                "keys could not be loaded"
            );
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let cache = &self.cache;
        if self.landed {
            cache.release();
            return;
        }
        let now = cache.clock.elapsed();
        let failed = cache.snapshot.load().failed(KeyErrorKind::Unavailable, now, &cache.settings);
        cache.snapshot.store(Arc::new(failed));
        cache.release();
        cache.counters.failures.add_one();
        if cache.settings.voice.speak(|lines| &lines.failed, now).is_some() {
            tracing::warn!(keys = &*cache.name, "keys could not be loaded: the source panicked or its runtime is gone");
        }
    }
}

/// An error page with status 200, or a list of keys that are all of another kind, must never replace a working set.
pub(super) fn usable(loaded: LoadedKeys) -> Result<LoadedKeys, KeyError> {
    if loaded.set.is_empty() { Err(KeyError::invalid_document("no usable key")) } else { Ok(loaded) }
}

pub(super) fn announce(name: &str, set: &JwkSet, voice: &Voice, now: Duration) {
    if voice.is_shared() {
        let skipped = set.skipped();
        if let Some(first) = skipped.first()
            && let Some(unsaid) = voice.speak(|lines| &lines.skipped, now)
        {
            let (count, unsaid) = (skipped.len(), (unsaid > 0).then_some(unsaid));
            tracing::warn!(keys = name, count, first = first.why, unsaid, "keys of the document are not used");
        }
        return;
    }
    for skipped in set.skipped() {
        tracing::warn!(keys = name, index = skipped.index, why = skipped.why, "a key of the document is not used");
    }
    tracing::info!(keys = name, count = set.len(), "keys changed");
}

/// The causes in one line, as text that cannot forge another.
fn causes(error: &KeyError) -> String {
    let mut line = String::new();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.extend(error.to_string().chars().flat_map(char::escape_debug));
        cause = error.source();
    }
    line.chars().take(MAX_CAUSES).collect()
}

const MAX_CAUSES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_one_capped_line() {
        let line = causes(&KeyError::unavailable("forged\nline \u{1b}[31m".to_owned() + &"x".repeat(10_000)));
        assert!(line.starts_with("forged\\nline \\u{1b}[31mxxx"), "{line}");
        assert_eq!(line.chars().count(), MAX_CAUSES);
    }
}
