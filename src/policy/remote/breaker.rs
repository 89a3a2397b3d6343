use std::time::Duration;

/// Stops asking a server that does not answer, and finds out with one call at a time whether it does again.
///
/// It knows no time and draws no lots: `now` and the jitter are handed in.
#[derive(Debug)]
pub(in crate::policy) struct Breaker {
    limit: u32,
    first: Duration,
    state: State,
    /// How often the state has changed. A call that began under another one says nothing about this one.
    era: u64,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, cool_down: Duration },
    Probing { cool_down: Duration },
}

/// The right to make one call. Whoever has it says how the call went, also when it was given up.
#[derive(Debug)]
pub(in crate::policy) struct Admission {
    era: u64,
}

/// What a call says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Told {
    /// It answers, whatever the answer is.
    Answers,
    /// It does not.
    Fails,
    /// The caller did not wait for it.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    /// Opens after so many failures in a row, first for this long.
    pub(in crate::policy) const fn new(limit: u32, first: Duration) -> Self {
        Self { limit, first, state: State::Closed { failures: 0 }, era: 0 }
    }

    /// The right to a call, or how long none is made.
    pub(in crate::policy) fn admit(&mut self, now: Duration) -> Result<Admission, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until, cool_down } if until <= now => self.turn(State::Probing { cool_down }),
            State::Open { until, .. } => return Err(until.saturating_sub(now)),
            State::Probing { .. } => return Err(Duration::ZERO),
        }
        Ok(Admission { era: self.era })
    }

    /// Takes a right back. `jitter`, from 0 to 1, spreads the probes of many processes over the upper half of the cool-down.
    pub(in crate::policy) fn settle(
        &mut self,
        admission: &Admission,
        told: Told,
        now: Duration,
        jitter: f64,
    ) -> Option<Change> {
        if admission.era != self.era {
            return None;
        }
        match (&mut self.state, told) {
            (State::Closed { failures }, Told::Answers) => *failures = 0,
            (State::Closed { failures }, Told::Fails) => {
                *failures += 1;
                if *failures >= self.limit {
                    return Some(self.open(self.first, now, jitter));
                }
            }
            (State::Probing { .. }, Told::Answers) => {
                self.turn(State::Closed { failures: 0 });
                return Some(Change::Closed);
            }
            (State::Probing { cool_down }, Told::Fails) => {
                let longer = cool_down.saturating_mul(2).min(LONGEST_COOL_DOWN);
                return Some(self.open(longer, now, jitter));
            }
            (State::Probing { cool_down }, Told::Nothing) => {
                let cool_down = *cool_down;
                self.turn(State::Open { until: now, cool_down });
            }
            (State::Closed { .. }, Told::Nothing) | (State::Open { .. }, _) => {}
        }
        None
    }

    /// Somebody else has seen the server alive: the next call is a probe.
    pub(in crate::policy) fn end_cool_down(&mut self, now: Duration) {
        if let State::Open { until, .. } = &mut self.state {
            *until = now.min(*until);
        }
    }

    /// Whether a call would be refused for a while yet.
    pub(in crate::policy) fn is_cooling(&self, now: Duration) -> bool {
        matches!(self.state, State::Open { until, .. } if now < until)
    }

    fn open(&mut self, cool_down: Duration, now: Duration, jitter: f64) -> Change {
        let pause = cool_down.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.turn(State::Open { until: now.saturating_add(pause), cool_down });
        Change::Opened
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.era += 1;
    }
}

/// What the cool-down doubles up to.
pub(in crate::policy) const LONGEST_COOL_DOWN: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::{Told::*, *};

    const SECOND: Duration = Duration::from_secs(1);

    /// Makes a call at this second, which goes like this, without jitter.
    fn call(breaker: &mut Breaker, at: u64, told: Told) -> Option<Change> {
        let now = SECOND * u32::try_from(at).unwrap();
        let admission = breaker.admit(now).expect("a call is made");
        breaker.settle(&admission, told, now, 1.0)
    }

    fn is_closed(breaker: &Breaker) -> bool {
        matches!(breaker.state, State::Closed { .. })
    }

    fn open() -> Breaker {
        let mut breaker = Breaker::new(3, SECOND);
        for change in [None, None, Some(Change::Opened)] {
            assert_eq!(call(&mut breaker, 0, Fails), change);
        }
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut breaker = Breaker::new(3, SECOND);
        for told in [Fails, Fails, Answers, Fails, Nothing, Fails, Answers] {
            assert_eq!(call(&mut breaker, 0, told), None);
        }
        assert!(is_closed(&breaker));
        let mut breaker = open();
        assert!(!is_closed(&breaker) && breaker.is_cooling(SECOND / 2));
        assert_eq!(breaker.admit(SECOND / 4).unwrap_err(), SECOND * 3 / 4);
    }

    #[test]
    fn after_the_cool_down_one_call_goes_through_and_its_success_closes_it() {
        let mut breaker = open();
        let probe = breaker.admit(SECOND).unwrap();
        assert!(!breaker.is_cooling(SECOND));
        assert_eq!(breaker.admit(SECOND * 9).unwrap_err(), Duration::ZERO, "one at a time, however long it takes");
        assert_eq!(breaker.settle(&probe, Answers, SECOND, 1.0), Some(Change::Closed));
        assert!(is_closed(&breaker));
        assert_eq!(call(&mut breaker, 1, Fails), None, "the count starts anew");
    }

    #[test]
    fn each_probe_that_fails_doubles_the_cool_down_up_to_its_limit() {
        let mut breaker = open();
        let mut now = SECOND;
        for seconds in [2, 4, 8, 16, 30, 30] {
            let probe = breaker.admit(now).unwrap();
            assert_eq!(breaker.settle(&probe, Fails, now, 1.0), Some(Change::Opened));
            assert_eq!(breaker.admit(now).unwrap_err(), SECOND * seconds);
            now += SECOND * seconds;
        }
        let probe = breaker.admit(now).unwrap();
        breaker.settle(&probe, Answers, now, 1.0);
        for _ in 0..3 {
            let admission = breaker.admit(now).unwrap();
            breaker.settle(&admission, Fails, now, 1.0);
        }
        assert_eq!(breaker.admit(now).unwrap_err(), SECOND, "the next time begins with the shortest");
    }

    #[test]
    fn jitter_takes_away_up_to_half() {
        for (jitter, pause) in [(0.0, SECOND / 2), (0.5, SECOND * 3 / 4), (1.0, SECOND), (7.0, SECOND)] {
            let mut breaker = Breaker::new(1, SECOND);
            let admission = breaker.admit(Duration::ZERO).unwrap();
            breaker.settle(&admission, Fails, Duration::ZERO, jitter);
            assert_eq!(breaker.admit(Duration::ZERO).unwrap_err(), pause, "{jitter}");
        }
    }

    #[test]
    fn a_probe_that_nobody_waited_for_gives_the_right_to_one_back() {
        let mut breaker = open();
        let probe = breaker.admit(SECOND).unwrap();
        assert_eq!(breaker.settle(&probe, Nothing, SECOND, 1.0), None);
        let second = breaker.admit(SECOND).expect("the right to a probe is free again");
        assert_eq!(breaker.settle(&probe, Answers, SECOND, 1.0), None, "the first one has no say any more");
        assert_eq!(breaker.settle(&second, Answers, SECOND, 1.0), Some(Change::Closed));
    }

    #[test]
    fn calls_of_another_era_have_no_say() {
        let mut breaker = Breaker::new(1, SECOND);
        let [one, two, three] = std::array::from_fn(|_| breaker.admit(Duration::ZERO).unwrap());
        assert_eq!(breaker.settle(&one, Fails, Duration::ZERO, 1.0), Some(Change::Opened));
        assert_eq!(breaker.settle(&two, Answers, Duration::ZERO, 1.0), None);
        assert!(breaker.is_cooling(Duration::ZERO));
        let probe = breaker.admit(SECOND).unwrap();
        assert_eq!(breaker.settle(&three, Fails, SECOND, 1.0), None);
        assert_eq!(breaker.settle(&probe, Answers, SECOND, 1.0), Some(Change::Closed));
    }

    #[test]
    fn a_server_that_was_seen_alive_is_probed_at_once() {
        let mut breaker = open();
        breaker.end_cool_down(SECOND / 10);
        assert!(!is_closed(&breaker));
        assert_eq!(breaker.admit(SECOND / 10).map(|_| ()), Ok(()));
        breaker.end_cool_down(SECOND);
        assert_eq!(breaker.admit(SECOND).unwrap_err(), Duration::ZERO, "a probe that runs is the one probe");
    }
}
