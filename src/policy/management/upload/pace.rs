use std::time::Duration;

/// When the next chunk is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) min_delay: Duration,
    pub(crate) max_delay: Duration,
    /// A fraction, from 0 to 1, drawn anew at each call.
    pub(crate) random: fn() -> f64,
}

impl Pace {
    /// How long after a success: anything between the two bounds, so that many processes do not come at once.
    pub(super) fn delay(&self) -> Duration {
        self.min_delay + self.max_delay.saturating_sub(self.min_delay).mul_f64(self.fraction())
    }

    /// How long after so many failures in a row: 100 ms, 1.6 times as long after each, up to the longest delay, and up to a fifth more or
    /// less.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        // Beyond, it is longer than any delay that can be configured.
        let growth = 1.6_f64.powi(i32::try_from(failures.saturating_sub(1).min(40)).unwrap_or_default());
        FIRST.mul_f64(growth).min(self.max_delay).mul_f64(0.8 + 0.4 * self.fraction())
    }

    fn fraction(&self) -> f64 {
        (self.random)().clamp(0.0, 1.0)
    }
}

const FIRST: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(random: fn() -> f64) -> Pace {
        Pace { min_delay: Duration::from_secs(300), max_delay: Duration::from_secs(600), random }
    }

    #[test]
    fn delays_are_spread_between_their_bounds() {
        let delays = [pace(|| 0.0), pace(|| 0.5), pace(|| 1.0), pace(|| 7.0)].map(|pace| pace.delay().as_secs());
        assert_eq!(delays, [300, 450, 600, 600]);
    }

    #[test]
    fn pauses_grow_up_to_the_longest_delay() {
        let pauses: Vec<_> = [1, 2, 3, 18, 19, 20, u32::MAX].map(|n| pace(|| 0.5).backoff(n).as_millis()).into();
        assert_eq!(pauses, [100, 160, 256, 295_147, 472_236, 600_000, 600_000]);
        assert_eq!([pace(|| 0.0), pace(|| 1.0)].map(|pace| pace.backoff(1).as_millis()), [80, 120]);
    }
}
