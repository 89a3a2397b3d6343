//! Decisions told to a service, in Open Policy Agent's form.

mod builder;
mod event;
mod limit;
mod logged;
mod mask;
mod pointer;
mod tally;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

pub use self::{builder::DecisionLogBuilder, logged::Logged, tally::DecisionLogMetrics};
use self::{
    event::Made,
    limit::Limit,
    mask::Masker,
    tally::{Tally, add},
};
use super::{Service, upload::Uploader};
use crate::{
    policy::{Decision, InputFormat, PolicyError, PolicyInput},
    time::Clock,
};

/// Tells a service of every decision, as Open Policy Agent does: `POST <service>/logs`, with a gzipped JSON array of
/// [events](https://www.openpolicyagent.org/docs/management-decision-logs).
///
/// A backend in [`Logged`] writes to it. Cheap to clone: every clone is the same log. Its tasks end with the last clone, and with every
/// `Logged` of it; [`flush`](Self::flush) before that.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::{sync::Arc, time::Duration};
/// use portcullis::policy::{Rego, management::{DecisionLog, Labels, Logged, Service}};
///
/// let policy = r#"
///     package authz
///     default decision := false
/// "#;
/// let masks = r#"
///     package system.log
///     mask contains "/input/subject/properties/claims"
///     drop if input.input.resource.id == "/livez"
/// "#;
/// let rego = Rego::builder().add_source("authz.rego", policy).add_source("log.rego", masks).build()?;
/// # let rego = Arc::new(rego);
/// # let collector = portcullis::outbound::Outbound::new(tower::service_fn(|request: http::Request<bytes::Bytes>| async move {
/// #     assert_eq!((request.uri().path(), &request.headers()["content-encoding"]), ("/logs/orders", &"gzip".parse().unwrap()));
/// #     Ok(http::Response::new(bytes::Bytes::new()))
/// # }));
/// let collector = Service::builder("collector", "https://opa-control.acme.example")
/// #   .with_outbound(collector)
///     .with_bearer("t0ken")
///     .build()?;
/// let log = DecisionLog::builder(collector)
///     .with_resource("logs/orders")
///     .with_labels(Labels::new().add("app", "orders"))
///     .with_mask(Arc::clone(&rego))
///     .start()?;
/// let path = rego.decision_path().to_owned();
/// let backend = Arc::new(Logged::new(rego, &log, path));
/// // … `Stack::builder(issuer, rules, backend, sink)`, serve, and at the end:
/// # use portcullis::policy::PolicyBackend as _;
/// # let _ = backend.decide(portcullis::testing::policy_input("GET", "/jobs")).await?;
/// log.flush(Duration::from_secs(5)).await?;
/// assert_eq!((log.metrics().uploaded, log.metrics().lost()), (1, 0));
/// # Ok(())
/// # }
/// ```
///
/// # What an event holds
///
/// `labels`, `decision_id`, `path`, `input`, `result` (what the policy gave; absent when that is nothing) or `error`, `timestamp`, `metrics`
/// (`timer_portcullis_decision_ns`), `req_id`, `trace_id` and `requested_by` where they are known, and the request id in
/// `request_context.http.headers["x-request-id"]`, where the policy server's own log has it. A revision of the form `name=revision`, joined by
/// commas, is that of `bundles`; another one is `revision`. There is no token in it, as there is none in a [`PolicyInput`]; what else of the
/// input is nobody's business is for you to mask.
///
/// # What is masked, and when
///
/// Before it is kept. A decision waits, as it is, in a queue of 4 096 in memory, which is neither printed nor written anywhere, for a task
/// that masks it; only what is masked goes into the buffer. First the [fixed places](DecisionLogBuilder::add_erased) are erased. Then the
/// [policy](DecisionLogBuilder::with_mask) is asked, with the event as its input, in the version that serves by then: whether it is
/// left out (`data.system.log.drop`), and which places are to be erased or overwritten (`data.system.log.mask`, a set of JSON
/// pointers or of objects `{"op": "remove" | "upsert", "path", "value"}`). Rules that are not there mask nothing. What was done is in
/// `erased` and `masked`. An address that is masked in the input is left out of `requested_by` too.
///
/// Where this fails (a rule gives an error or something else, a path leads elsewhere) the event is kept **without input and result**. Open
/// Policy Agent loses such events. Also otherwise than there, several elements of one array can be erased, the places are those of the
/// original whatever the order, and a member whose name is not plain (`a b`) can be, however it is spelled.
///
/// # What is promised
///
/// No request waits for the log or fails because of it. So it can lose: it keeps what it can and counts the rest
/// ([`metrics`](Self::metrics)). Lost are the oldest events when the buffer is full, those beyond the rate, and all that were not sent when
/// the process ends. A chunk that the service does not take is sent again, with the pauses of Open Policy Agent (100 ms, 1.6 times as
/// long each time, up to the longest delay); one that arrived although its answer was lost therefore arrives twice, with the same
/// `decision_id`s. An event that alone is larger than a chunk is sent without input and result. For a trail that must not lose anything
/// there is [`audit`](crate::audit).
#[derive(Clone)]
pub struct DecisionLog(Arc<Inner>);

/// Events are left that could not be sent in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} events of the decision log were not sent in time")]
pub struct UnsentError {
    left: usize,
}

struct Inner {
    queue: mpsc::Sender<Handed>,
    uploader: Arc<Uploader>,
    masking: JoinHandle<()>,
    limit: Option<Limit>,
    clock: Arc<dyn Clock>,
    tally: Arc<Tally>,
    numbers: AtomicU64,
}

/// What goes through the queue.
enum Handed {
    Decision(Box<Made>),
    /// Everything before it is in the buffer when it is answered.
    Marker(oneshot::Sender<()>),
}

/// A decision that is to be logged.
pub(super) struct Asked {
    path: Arc<str>,
    started: Duration,
}

impl DecisionLog {
    /// Sets a log up that this service takes.
    pub fn builder(service: Service) -> DecisionLogBuilder {
        DecisionLogBuilder::new(service)
    }

    /// What became of the decisions so far.
    #[must_use]
    pub fn metrics(&self) -> DecisionLogMetrics {
        self.0.tally.metrics(self.0.uploader.metrics())
    }

    /// Sends every event of a decision that was made before the call, and gives up after `grace`. For the end of a process: stop serving
    /// first. What is left stays in the buffer.
    ///
    /// # Errors
    ///
    /// [`UnsentError`] when events are left.
    pub async fn flush(&self, grace: Duration) -> Result<(), UnsentError> {
        let deadline = Instant::now() + grace;
        let (marker, masked) = oneshot::channel();
        let settled = async {
            // Either fails when the task has ended: nothing is masked any more then.
            if self.0.queue.send(Handed::Marker(marker)).await.is_ok() {
                let _ = masked.await;
            }
        };
        let _ = timeout_at(deadline, settled).await;
        let unsent = self.0.uploader.flush(deadline.saturating_duration_since(Instant::now())).await;
        match unsent + self.0.tally.waiting.load(Ordering::Relaxed) {
            0 => Ok(()),
            left => Err(UnsentError { left }),
        }
    }

    fn run(
        masker: Masker,
        uploader: Uploader,
        tally: Arc<Tally>,
        max_per_second: Option<u32>,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Self {
        let (queue, handed) = mpsc::channel(QUEUE);
        let uploader = Arc::new(uploader);
        let masking = runtime.spawn(mask(handed, Arc::new(masker), Arc::clone(&uploader)));
        let limit = max_per_second.map(|per_second| Limit::new(per_second, clock.elapsed()));
        let numbers = AtomicU64::new(1);
        Self(Arc::new(Inner { queue, uploader, masking, limit, clock, tally, numbers }))
    }

    fn elapsed(&self) -> Duration {
        self.0.clock.elapsed()
    }

    /// `None` for a decision that is not to be logged.
    fn begin(&self, path: &Arc<str>) -> Option<Asked> {
        add(&self.0.tally.decisions, 1);
        let started = self.elapsed();
        if self.0.limit.as_ref().is_some_and(|limit| !limit.admits(started)) {
            add(&self.0.tally.rate_limited, 1);
            return None;
        }
        Some(Asked { path: Arc::clone(path), started })
    }

    /// Hands a decision over. Nothing here waits, and nothing fails.
    fn end(&self, asked: Asked, input: PolicyInput, format: InputFormat, outcome: &Result<Decision, PolicyError>) {
        let made = Made {
            input,
            format,
            path: asked.path,
            outcome: match outcome {
                Ok(decision) => Ok(decision.clone()),
                Err(error) => Err((error.kind(), error.to_string())),
            },
            at: self.0.clock.now(),
            took: self.elapsed().saturating_sub(asked.started),
            number: add(&self.0.numbers, 1),
        };
        self.0.tally.waiting.fetch_add(1, Ordering::Relaxed);
        if self.0.queue.try_send(Handed::Decision(Box::new(made))).is_err() {
            self.0.tally.waiting.fetch_sub(1, Ordering::Relaxed);
            add(&self.0.tally.left_out, 1);
        }
    }
}

impl UnsentError {
    /// How many.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.left
    }
}

impl Asked {
    fn since(self, started: Duration) -> Self {
        Self { started, ..self }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.masking.abort();
        let events = self.tally.waiting.load(Ordering::Relaxed);
        if events > 0 {
            tracing::warn!(
                events,
                "the decision log ends with events that were not masked yet: flush it before it is dropped"
            );
        }
    }
}

impl fmt::Debug for DecisionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionLog").field("metrics", &self.metrics()).finish_non_exhaustive()
    }
}

async fn mask(mut handed: mpsc::Receiver<Handed>, masker: Arc<Masker>, uploader: Arc<Uploader>) {
    let mut batch = Vec::new();
    while handed.recv_many(&mut batch, BATCH).await > 0 {
        let (mut decisions, mut markers) = (Vec::new(), Vec::new());
        for handed in batch.drain(..) {
            match handed {
                Handed::Decision(made) => decisions.push(made),
                Handed::Marker(marker) => markers.push(marker),
            }
        }
        let (masker_, uploader_, count) = (Arc::clone(&masker), Arc::clone(&uploader), decisions.len());
        let masked = tokio::task::spawn_blocking(move || {
            for made in decisions {
                masker_.event(&made).into_iter().for_each(|event| uploader_.offer(event));
            }
        });
        if masked.await.is_err() {
            add(&masker.tally.left_out, count as u64);
            tracing::error!(count, "the task that masks decisions panicked: their events are lost");
        }
        masker.tally.waiting.fetch_sub(count, Ordering::Relaxed);
        for marker in markers {
            let _ = marker.send(());
        }
    }
}

const QUEUE: usize = 4096;
/// Few enough that memory stays small while they are masked, many enough that changing threads costs nothing.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;
