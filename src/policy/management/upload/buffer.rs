use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

/// What waits, oldest first. The oldest makes room where there is none.
pub(super) struct Buffer {
    state: Mutex<State>,
    max_bytes: usize,
    max_items: usize,
}

#[derive(Default)]
struct State {
    items: VecDeque<Bytes>,
    bytes: usize,
}

impl Buffer {
    pub(super) fn new(max_bytes: usize, max_items: usize) -> Self {
        Self { state: Mutex::default(), max_bytes, max_items }
    }

    /// Items and bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.items.len(), state.bytes)
    }

    /// Adds the newest. Gives the number of those that are lost for it, this one included when it alone is too large.
    pub(super) fn push(&self, item: Bytes) -> usize {
        let mut state = self.lock();
        state.bytes += item.len();
        state.items.push_back(item);
        self.make_room(&mut state)
    }

    /// The oldest, as many as make an array of at most `budget` bytes; one at least.
    pub(super) fn take(&self, budget: usize) -> Vec<Bytes> {
        let mut state = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = state.items.front() {
            bytes += next.len() + 1;
            if bytes > budget && !taken.is_empty() {
                break;
            }
            state.bytes -= next.len();
            taken.extend(state.items.pop_front());
        }
        taken
    }

    /// Puts what was taken back to its place. Gives the number of those that are lost because newer ones came meanwhile.
    pub(super) fn give_back(&self, taken: Vec<Bytes>) -> usize {
        let mut state = self.lock();
        for item in taken.into_iter().rev() {
            state.bytes += item.len();
            state.items.push_front(item);
        }
        self.make_room(&mut state)
    }

    fn make_room(&self, state: &mut State) -> usize {
        let mut lost = 0;
        while (state.bytes > self.max_bytes || state.items.len() > self.max_items)
            && let Some(oldest) = state.items.pop_front()
        {
            state.bytes -= oldest.len();
            lost += 1;
        }
        lost
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[Bytes]) -> Vec<&str> {
        items.iter().map(|item| std::str::from_utf8(item).unwrap()).collect()
    }

    #[test]
    fn the_oldest_makes_room_whichever_bound_is_reached() {
        for (bytes, items) in [(6, 100), (100, 3)] {
            let buffer = Buffer::new(bytes, items);
            let lost: Vec<_> = ["aa", "bb", "cc", "dd"].map(|item| buffer.push(item.into())).into();
            assert_eq!((lost, buffer.size()), (vec![0, 0, 0, 1], (3, 6)));
            assert_eq!(texts(&buffer.take(100)), ["bb", "cc", "dd"]);
            assert_eq!(buffer.size(), (0, 0));
        }
        let buffer = Buffer::new(6, 100);
        assert_eq!((buffer.push("aa".into()), buffer.push("sevenxx".into()), buffer.size()), (0, 2, (0, 0)));
    }

    #[test]
    fn what_is_given_back_stands_first_and_is_the_first_to_go() {
        let buffer = Buffer::new(6, 100);
        assert_eq!(["aa", "bb", "cc"].map(|item| buffer.push(item.into())), [0; 3]);
        let taken = buffer.take(6);
        assert_eq!((texts(&taken), buffer.size()), (vec!["aa", "bb"], (1, 2)));
        buffer.push("dd".into());
        assert_eq!(buffer.give_back(taken), 1);
        assert_eq!(texts(&buffer.take(1)), ["bb"], "one at least");
        assert_eq!(texts(&buffer.take(100)), ["cc", "dd"]);
    }
}
