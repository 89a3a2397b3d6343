use std::{fmt, sync::Arc, time::Duration};

use super::{
    DecisionLog,
    mask::{MaskPolicy, Masker},
    pointer::{Change, Pointer},
    tally::Tally,
};
use crate::{
    ConfigError, error,
    policy::{
        Rego,
        management::{
            BundleAgent, Labels, Service,
            upload::{Pace, Remote, UploadSettings, Uploader},
        },
    },
    random,
    time::{Clock, SystemClock},
};

/// Sets a [`DecisionLog`] up.
#[derive(Clone)]
#[must_use = "nothing is logged before `start`"]
pub struct DecisionLogBuilder {
    service: Service,
    resource: String,
    labels: Labels,
    erased: Vec<String>,
    mask: Option<MaskPolicy>,
    upload_limit: usize,
    buffer_bytes: usize,
    buffer_events: usize,
    max_per_second: Option<u32>,
    delay: (Duration, Duration),
    clock: Arc<dyn Clock>,
    random: fn() -> f64,
}

impl DecisionLogBuilder {
    pub(super) fn new(service: Service) -> Self {
        Self {
            service,
            resource: "logs".to_owned(),
            labels: Labels::new(),
            erased: Vec::new(),
            mask: None,
            upload_limit: 32_768,
            buffer_bytes: 16 << 20,
            buffer_events: 10_000,
            max_per_second: None,
            delay: (Duration::from_secs(300), Duration::from_secs(600)),
            clock: Arc::new(SystemClock),
            random: random::fraction,
        }
    }

    /// Where the service takes the log: a path below its address. Default `logs`; with a partition, `logs/<partition>`.
    pub fn with_resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = resource.into();
        self
    }

    /// What the process calls itself in every event: give those that the [`BundleAgent`](crate::policy::management::BundleAgent) has.
    /// Default an `id` of its own and the `version` of this crate.
    pub fn with_labels(mut self, labels: Labels) -> Self {
        self.labels = labels;
        self
    }

    /// Erases this place of every event: a JSON pointer ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)) at or below `/input` or
    /// `/result`. Default nothing.
    pub fn add_erased(mut self, pointer: impl Into<String>) -> Self {
        self.erased.push(pointer.into());
        self
    }

    /// Masks by the policy that serves in this backend when the event is masked: `data.system.log.mask`, and `data.system.log.drop`. Give
    /// the backend that decides, so that the policy's authors say what of its input is secret; where another kind of backend decides, one
    /// that was made for this. See [`DecisionLog`]. Default nothing is masked.
    pub fn with_mask(mut self, policy: Arc<Rego>) -> Self {
        self.mask = Some(MaskPolicy::Rego(policy));
        self
    }

    /// As [`with_mask`](Self::with_mask), by the bundles of an agent. Before they have come masking fails: an event is then kept without
    /// input and result.
    pub fn with_mask_of(mut self, agent: Arc<BundleAgent>) -> Self {
        self.mask = Some(MaskPolicy::Bundles(agent));
        self
    }

    /// How large a chunk may be, compressed, in bytes. Default 32 768; 1 024 to 16 MiB.
    pub const fn with_upload_limit(mut self, bytes: usize) -> Self {
        self.upload_limit = bytes;
        self
    }

    /// How much may wait to be sent, uncompressed: bytes, and events. Where either is reached the oldest events are lost, and counted.
    /// Default 16 MiB and 10 000 events; 64 KiB to 1 GiB, and 1 to 10 000 000.
    pub const fn with_buffer(mut self, bytes: usize, events: usize) -> Self {
        self.buffer_bytes = bytes;
        self.buffer_events = events;
        self
    }

    /// How many decisions are logged in a second, and at once; those beyond are lost, and counted. Above zero. Default all.
    pub const fn with_max_decisions_per_second(mut self, decisions: u32) -> Self {
        self.max_per_second = Some(decisions);
        self
    }

    /// How long events wait for a chunk to become full: anything between the two, drawn anew each time. Default 300 s to 600 s; from 10 ms
    /// to 24 h. The longer one also bounds the pause after failures.
    pub const fn with_upload_delay(mut self, min: Duration, max: Duration) -> Self {
        self.delay = (min, max);
        self
    }

    /// Sets what decisions are dated and timed by. Default [`SystemClock`].
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts the log: two tasks on the Tokio runtime that it is called on.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] outside a runtime, for a resource that is no path, a pointer that leads to no place that may be masked, and a bound
    /// out of range.
    pub fn start(self) -> Result<DecisionLog, ConfigError> {
        let invalid =
            |field: &'static str, value: String, remedy: &'static str| Err(ConfigError::invalid(field, value, remedy));
        if !UPLOAD_LIMIT.contains(&self.upload_limit) {
            let remedy = "choose 1024 to 16777216 bytes (default 32768)";
            return invalid("policy.decision_log.upload_limit", self.upload_limit.to_string(), remedy);
        }
        if !BUFFER_BYTES.contains(&self.buffer_bytes) || self.buffer_bytes < self.upload_limit {
            let remedy = "choose 65536 to 1073741824 bytes (default 16777216), and no less than the upload limit";
            return invalid("policy.decision_log.buffer_bytes", self.buffer_bytes.to_string(), remedy);
        }
        if !BUFFER_EVENTS.contains(&self.buffer_events) {
            let remedy = "choose 1 to 10000000 events (default 10000)";
            return invalid("policy.decision_log.buffer_events", self.buffer_events.to_string(), remedy);
        }
        if self.max_per_second == Some(0) {
            let remedy = "choose more than zero, or leave it out";
            return invalid("policy.decision_log.max_decisions_per_second", "0".to_owned(), remedy);
        }
        let (min_delay, max_delay) = self.delay;
        if min_delay < MIN_DELAY || max_delay > MAX_DELAY || min_delay > max_delay {
            let remedy = "choose from 10 ms to 24 h, the shorter delay first (default 300 s and 600 s)";
            return invalid("policy.decision_log.upload_delay", format!("{min_delay:?}, {max_delay:?}"), remedy);
        }
        let erased = self.erased.iter().map(|text| {
            let refused = |remedy| ConfigError::invalid("policy.decision_log.erased", text.as_str(), remedy);
            Pointer::parse(text).map(Change::Remove).map_err(refused)
        });
        let erased = erased.collect::<Result<_, _>>()?;
        let resource = self.service.resource("policy.decision_log.resource", &self.resource)?;
        let runtime = error::runtime("policy.decision_log")?;
        let settings = UploadSettings {
            what: "decision log",
            chunk_bytes: self.upload_limit,
            buffer_bytes: self.buffer_bytes,
            buffer_items: self.buffer_events,
            pace: Pace { min_delay, max_delay, random: self.random },
        };
        let tally = Arc::new(Tally::default());
        let masker = Masker {
            labels: self.labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            erased,
            policy: self.mask,
            chunk_bytes: self.upload_limit,
            clock: Arc::clone(&self.clock),
            tally: Arc::clone(&tally),
            complaint: Default::default(),
        };
        let uploader = Uploader::start(settings, Remote { service: self.service, resource }, &runtime);
        Ok(DecisionLog::run(masker, uploader, tally, self.max_per_second, self.clock, &runtime))
    }

    #[cfg(test)]
    pub(super) fn with_random(mut self, random: fn() -> f64) -> Self {
        self.random = random;
        self
    }
}

impl fmt::Debug for DecisionLogBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLogBuilder")
            .field("service", &self.service)
            .field("erased", &self.erased)
            .field("upload_limit", &self.upload_limit)
            .finish_non_exhaustive()
    }
}

const UPLOAD_LIMIT: std::ops::RangeInclusive<usize> = 1024..=16 << 20;
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 30;
const BUFFER_EVENTS: std::ops::RangeInclusive<usize> = 1..=10_000_000;
const MIN_DELAY: Duration = Duration::from_millis(10);
const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);
