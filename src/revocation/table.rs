use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::entry::{Entry, Key};
use crate::time::UnixTime;

/// Entries in many small maps, each behind a lock of its own: whoever looks something up waits at most for one entry that is being
/// written beside it, or for a sixty-fourth of the table that is being swept.
pub(super) struct Table {
    shards: [RwLock<Shard>; SHARDS],
}

type Shard = HashMap<Key, Entry>;

impl Table {
    pub(super) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()) }
    }

    pub(super) fn find(&self, key: Key) -> Option<Entry> {
        read(self.shard(key)).get(&key).copied()
    }

    pub(super) fn put(&self, key: Key, entry: Entry) {
        write(self.shard(key)).insert(key, entry);
    }

    pub(super) fn remove(&self, key: Key) -> bool {
        write(self.shard(key)).remove(&key).is_some()
    }

    /// Drops what has ended, one shard after the other. How many entries are left, and when the first of them ends.
    pub(super) fn sweep(&self, now: UnixTime) -> (usize, Option<UnixTime>) {
        let mut len = 0;
        let mut first_end = None;
        for shard in &self.shards {
            let mut shard = write(shard);
            shard.retain(|_, entry| entry.is_live(now));
            let left = shard.len();
            // What a wave of revocations took is given back once it is over.
            if shard.capacity() > 4 * left.max(ROOM) {
                shard.shrink_to(left);
            }
            len += left;
            first_end = first_end.into_iter().chain(shard.values().map(|entry| entry.end)).min();
        }
        (len, first_end)
    }

    #[expect(clippy::indexing_slicing, reason = "a remainder is below what was divided by")]
    fn shard(&self, Key([first, ..]): Key) -> &RwLock<Shard> {
        &self.shards[usize::from(first) % SHARDS]
    }
}

// Nothing panics while it holds a lock; should it, each change is one call to a map, which is whole before and after.

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 64;
const ROOM: usize = 16;
