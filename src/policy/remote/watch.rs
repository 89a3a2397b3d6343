use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::Condition;
use crate::ConfigError;

/// A server whose state can be found out by asking it.
pub(in crate::policy) trait Checked: Send + Sync + 'static {
    fn condition(&self) -> &Condition;

    /// Finds out whether the server is ready. An error is nothing that waiting mends.
    fn check(&self) -> impl Future<Output = Result<bool, ConfigError>> + Send;
}

/// Checks a server's health in the background, so that neither a request nor a probe of the orchestrator waits for it.
///
/// It starts when somebody first wants to know, which needs a Tokio runtime, and ends with its owner.
pub(in crate::policy) struct Watch {
    interval: Option<Duration>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Watch {
    /// Without an interval it never starts.
    pub(in crate::policy) const fn new(interval: Option<Duration>) -> Self {
        Self { interval, task: Mutex::new(None) }
    }

    pub(in crate::policy) fn ensure(&self, server: &Arc<impl Checked>) {
        let (Some(interval), Ok(runtime)) = (self.interval, Handle::try_current()) else { return };
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // Finished: the runtime that it ran on is gone.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let server = Arc::clone(server);
            *task = Some(runtime.spawn(async move { watch(&*server, interval).await }));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

async fn watch(server: &impl Checked, interval: Duration) {
    let soon = interval.min(SOON);
    loop {
        // A misconfiguration that turns up this late is in the health and in the log.
        let is_ready = server.check().await.unwrap_or(false);
        sleep(soon).await;
        if is_ready {
            let _ = timeout(interval.saturating_sub(soon), server.condition().in_doubt()).await;
        }
    }
}

/// Refuses an interval that would be a burden or no check at all.
pub(in crate::policy) fn check_interval(field: &'static str, interval: Duration) -> Result<(), ConfigError> {
    if (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval) {
        return Ok(());
    }
    let remedy = format!("choose between {MIN_INTERVAL:?} and {MAX_INTERVAL:?}");
    Err(ConfigError::invalid(field, format!("{interval:?}"), remedy))
}

/// The pause between two checks while something is wrong, and the shortest one.
const SOON: Duration = Duration::from_secs(1);
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(3600);
