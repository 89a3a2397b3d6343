use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A lock that is given in the order in which it was asked for, so that the last of several activations is the one that stays.
#[derive(Default)]
pub(in crate::policy) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    taken: u64,
    ended: u64,
}

/// Ends when it is dropped.
pub(in crate::policy) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits until everybody who asked before is done.
    pub(in crate::policy) fn wait(&self) -> Turn<'_> {
        let mut state = self.lock();
        let number = state.taken;
        state.taken += 1;
        drop(self.changed.wait_while(state, |state| state.ended != number).unwrap_or_else(PoisonError::into_inner));
        Turn(self)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> u64 {
        let state = self.lock();
        state.taken - state.ended
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().ended += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn turns_come_in_the_order_in_which_they_were_asked_for() {
        let (turns, order) = (Turns::default(), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            let first = turns.wait();
            for number in 0..8_u64 {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.wait();
                    order.lock().unwrap().push(number);
                });
                // Until this one has asked, the next one does not.
                while turns.waiting() < number + 2 {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().unwrap(), (0..8).collect::<Vec<_>>());
    }
}
